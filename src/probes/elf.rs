//! Where in a file the functions lie that our programs run at: by its symbols or, in Go's stripped programs, by the
//! table of functions that its runtime needs.
//!
//! Any process can have any file mapped: everything read is bounded, in memory by a window.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memmem;

use crate::bpf::Function;

mod keylog;
mod plain;

pub use plain::plain_places;

/// Bytes of a file held at once.
const WINDOW: usize = 256 << 10;

/// More than these are not looked at: sections, bytes of symbols and of their names.
const MAX_SECTIONS: u64 = 4096;
const MAX_SYMBOLS: u64 = 64 << 20;
const MAX_NAMES: u64 = 256 << 20;

/// More of one name, or functions of one file, are not taken.
const MAX_PLACES: usize = 16;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHT_DYNSYM: u32 = 11;
const STT_FUNC: u8 = 2;
const SYMBOL: usize = 24;

/// A name in a table of symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    /// Only in OpenSSL 3: EVP_KDF_derive has taken other arguments in what came before.
    KdfFetch,
    KdfDerive,
    PkeyCtrl,
    NettleExtract,
    NettleExpand,
    GnutlsPrf,
    HkdfExpand,
    Tls1Prf,
    GoKeyLog,
    /// In what has the TLS of OpenSSL or BoringSSL, whatever a linker has left out that nobody uses.
    DoHandshake,
}

const NAMES: [(Name, &[u8]); 10] = [
    (Name::KdfFetch, KDF_FETCH),
    (Name::KdfDerive, b"EVP_KDF_derive\0"),
    (Name::PkeyCtrl, b"EVP_PKEY_CTX_ctrl\0"),
    (Name::NettleExtract, b"nettle_hkdf_extract\0"),
    (Name::NettleExpand, b"nettle_hkdf_expand\0"),
    (Name::GnutlsPrf, b"_gnutls_prf_raw\0"),
    (Name::HkdfExpand, b"HKDF_expand\0"),
    (Name::Tls1Prf, b"CRYPTO_tls1_prf\0"),
    (Name::GoKeyLog, GO_KEY_LOG),
    (Name::DoHandshake, b"SSL_do_handshake\0"),
];

const KDF_FETCH: &[u8] = b"EVP_KDF_fetch\0";
const GO_KEY_LOG: &[u8] = b"crypto/tls.(*Config).writeKeyLog\0";

/// AWS-LC puts its version before the names of its functions, such as `aws_lc_0_29_0_`.
const RENAMED: &[u8] = b"aws_lc_";
const MAX_PREFIX: usize = 64;

/// A part of the file that is mapped as code.
struct Code {
    address: u64,
    offset: u64,
    size: u64,
}

/// A function's entry in a table of symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Symbol<N> {
    name: N,
    address: u64,
    size: u64,
}

struct Section {
    name: u32,
    kind: u32,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
}

struct Elf<'a> {
    file: &'a File,
    code: Vec<Code>,
    sections: Vec<Section>,
    /// Names of sections.
    names: Vec<u8>,
}

/// What a file holds of TLS.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The functions that show secrets, each with the offset in the file of where a program is to be put.
    pub functions: Vec<(Function, u64)>,
    /// It has OpenSSL 3's TLS.
    pub has_openssl: bool,
}

/// What there is in a file; nothing where it is no program or library of this machine.
pub fn find(file: &File) -> io::Result<Found> {
    let Some(elf) = Elf::open(file)? else { return Ok(Found::default()) };
    let mut places = BTreeSet::new();
    places.extend(elf.symbols(&NAMES)?.into_iter().map(|symbol| (symbol.name, symbol.address)));
    if !places.iter().any(|(name, _)| *name == Name::GoKeyLog) {
        places.extend(elf.go_function(GO_KEY_LOG)?.map(|(address, _)| (Name::GoKeyLog, address)));
    }
    // BoringSSL's and OpenSSL 1.1.1's has that name, too.
    let has_openssl = places.iter().any(|(name, _)| *name == Name::DoHandshake) && elf.mentions(KDF_FETCH)?;
    let key_log = if has_openssl { keylog::key_log_place(&elf)? } else { None };
    let (mut window, mut functions) = (Window::new(file), Vec::new());
    functions.extend(key_log.map(|offset| (Function::OpensslKeyLog, offset)));
    for (function, address) in chosen(&places) {
        if let Some(offset) = elf.offset_of(address) {
            let start = window.get(offset, START)?.unwrap_or_default();
            functions.push((function, offset + emulated(start)));
        }
    }
    Ok(Found { functions, has_openssl })
}

/// Bytes of a function that are looked at for a place to put the probe.
const START: usize = 16;

/// How far behind a function's entry the probe costs least. The kernel emulates some instructions, jumps and pushes among
/// them; it runs any other in a copy with a second trap, which takes ten times as long in a virtual machine. What stands
/// before the place leaves all arguments and the stack as they are.
fn emulated(start: &[u8]) -> u64 {
    const ENDBR64: &[u8] = &[0xF3, 0x0F, 0x1E, 0xFA];
    if !cfg!(target_arch = "x86_64") {
        return 0;
    }
    let marked = if start.starts_with(ENDBR64) { ENDBR64.len() } else { 0 };
    match start[marked..] {
        // push
        [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..] => marked as u64,
        // test rdi, rdi; je
        [0x48, 0x85, 0xFF, 0x74, ..] | [0x48, 0x85, 0xFF, 0x0F, 0x84, ..] => marked as u64 + 3,
        _ => 0,
    }
}

/// Which of them show secrets: some names have another meaning in another library.
fn chosen(places: &BTreeSet<(Name, u64)>) -> impl Iterator<Item = (Function, u64)> {
    let has = |wanted| places.iter().any(|(name, _)| *name == wanted);
    let (is_openssl3, is_boringssl) = (has(Name::KdfFetch), has(Name::HkdfExpand));
    places.iter().filter_map(move |&(name, address)| {
        let function = match name {
            Name::KdfDerive if is_openssl3 => Function::OpensslDerive,
            Name::PkeyCtrl if !is_openssl3 && !is_boringssl => Function::OpensslCtrl,
            Name::NettleExtract => Function::NettleExtract,
            Name::NettleExpand => Function::NettleExpand,
            Name::GnutlsPrf => Function::GnutlsPrf,
            Name::HkdfExpand => Function::BoringsslExpand,
            Name::Tls1Prf => Function::BoringsslPrf,
            Name::GoKeyLog => Function::GoKeyLog,
            Name::KdfFetch | Name::KdfDerive | Name::PkeyCtrl | Name::DoHandshake => return None,
        };
        Some((function, address))
    })
}

impl<'a> Elf<'a> {
    /// None where the file is no ELF file of 64 bits for this machine.
    fn open(file: &'a File) -> io::Result<Option<Elf<'a>>> {
        let mut window = Window::new(file);
        let Some(head) = window.get(0, 64)? else { return Ok(None) };
        // Magic, 64 bits, little-endian.
        if !head.starts_with(b"\x7fELF\x02\x01") || u16_at(head, 18) != MACHINE {
            return Ok(None);
        }
        let (segments, sections) = (u64_at(head, 32), u64_at(head, 40));
        let (segment_size, segment_count) = (u16_at(head, 54), u16_at(head, 56));
        let (section_size, section_count, names) = (u16_at(head, 58), u16_at(head, 60), u16_at(head, 62));
        let mut elf = Elf { file, code: Vec::new(), sections: Vec::new(), names: Vec::new() };
        for index in 0..u64::from(segment_count).min(MAX_SECTIONS) {
            let at = segments.saturating_add(index * u64::from(segment_size));
            let Some(segment) = window.get(at, 56)? else { break };
            if u32_at(segment, 0) == PT_LOAD && u32_at(segment, 4) & PF_X != 0 {
                let (offset, address, size) = (u64_at(segment, 8), u64_at(segment, 16), u64_at(segment, 32));
                elf.code.push(Code { address, offset, size });
            }
        }
        for index in 0..u64::from(section_count).min(MAX_SECTIONS) {
            let at = sections.saturating_add(index * u64::from(section_size));
            let Some(section) = window.get(at, 64)? else { break };
            elf.sections.push(Section {
                name: u32_at(section, 0),
                kind: u32_at(section, 4),
                address: u64_at(section, 16),
                offset: u64_at(section, 24),
                size: u64_at(section, 32),
                link: u32_at(section, 40),
            });
        }
        if let Some(names) = elf.sections.get(usize::from(names)) {
            let size = usize::try_from(names.size).unwrap_or(usize::MAX).min(WINDOW);
            elf.names = window.get(names.offset, size)?.unwrap_or_default().to_vec();
        }
        Ok(Some(elf))
    }

    fn section(&self, name: &[u8]) -> Option<&Section> {
        let is_named = |section: &&Section| {
            let text = self.names.get(section.name as usize..).unwrap_or_default();
            section.kind != SHT_NOBITS && text.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0))
        };
        self.sections.iter().find(is_named)
    }

    /// Where in the file what is mapped at `address` lies.
    fn offset_of(&self, address: u64) -> Option<u64> {
        let code = self.code.iter().find(|code| address.checked_sub(code.address).is_some_and(|at| at < code.size))?;
        (address - code.address).checked_add(code.offset)
    }

    /// The functions with one of these names, which end with NUL.
    fn symbols<N: Copy + Ord>(&self, names: &[(N, &[u8])]) -> io::Result<BTreeSet<Symbol<N>>> {
        let mut found = BTreeSet::new();
        for kind in [SHT_DYNSYM, SHT_SYMTAB] {
            for table in self.sections.iter().filter(|section| section.kind == kind) {
                self.symbols_of(table, names, &mut found)?;
            }
        }
        Ok(found)
    }

    fn symbols_of<N: Copy + Ord>(
        &self,
        table: &Section,
        names: &[(N, &[u8])],
        found: &mut BTreeSet<Symbol<N>>,
    ) -> io::Result<()> {
        let Some(texts) = self.sections.get(table.link as usize) else { return Ok(()) };
        let wanted = self.find_names(texts, names)?;
        if wanted.is_empty() {
            return Ok(());
        }
        let mut window = Window::new(self.file);
        for index in 0..table.size.min(MAX_SYMBOLS) / SYMBOL as u64 {
            let at = table.offset.saturating_add(index * SYMBOL as u64);
            let Some(symbol) = window.get(at, SYMBOL)? else { break };
            // Of type function, and defined here.
            if symbol[4] & 0xf != STT_FUNC || u16_at(symbol, 6) == 0 {
                continue;
            }
            if let Some(&name) = wanted.get(&u64::from(u32_at(symbol, 0)))
                && found.len() < MAX_PLACES
            {
                found.insert(Symbol { name, address: u64_at(symbol, 8), size: u64_at(symbol, 16) });
            }
        }
        Ok(())
    }

    /// Whether the name, which ends with NUL, is one of the file's, be it that of something in another file.
    fn mentions(&self, name: &[u8]) -> io::Result<bool> {
        for table in self.sections.iter().filter(|section| matches!(section.kind, SHT_DYNSYM | SHT_SYMTAB)) {
            if let Some(texts) = self.sections.get(table.link as usize)
                && !self.find_names(texts, &[((), name)])?.is_empty()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where in a table of names one of these begins; that may be within a longer name, as linkers share endings.
    fn find_names<N: Copy>(&self, table: &Section, names: &[(N, &[u8])]) -> io::Result<HashMap<u64, N>> {
        let mut found = HashMap::new();
        let longest = names.iter().map(|(_, text)| text.len()).max().unwrap_or(0);
        let finders: Vec<_> = names.iter().map(|(name, text)| (name, memmem::Finder::new(text))).collect();
        let size = table.size.min(MAX_NAMES);
        let mut window = Window::new(self.file);
        let mut start = 0;
        while start < size {
            let length = (size - start).min(WINDOW as u64);
            let Some(bytes) = window.get(table.offset.saturating_add(start), length as usize)? else { break };
            for (name, finder) in &finders {
                for at in finder.find_iter(bytes).take(MAX_PLACES) {
                    found.insert(start + at as u64, **name);
                    let before = &bytes[at.saturating_sub(MAX_PREFIX)..at];
                    let prefix = before.len() - before.iter().rposition(|&byte| byte == 0).map_or(0, |nul| nul + 1);
                    if bytes[at - prefix..at].starts_with(RENAMED) {
                        found.insert(start + (at - prefix) as u64, **name);
                    }
                }
            }
            if length < WINDOW as u64 {
                break;
            }
            // Again what may be the beginning of a name that goes on.
            start += length - (longest + MAX_PREFIX) as u64;
        }
        Ok(found)
    }

    /// The address and size of a function by the table that Go's runtime has of all functions (runtime/symtab.go,
    /// pcHeader); none where there is no such table or function. `name` ends with NUL.
    fn go_function(&self, name: &[u8]) -> io::Result<Option<(u64, u64)>> {
        let table = self.section(b".gopclntab").or_else(|| self.section(b".data.rel.ro.gopclntab"));
        let Some(table) = table else { return Ok(None) };
        let mut window = Window::new(self.file);
        let Some(head) = window.get(table.offset, 72)? else { return Ok(None) };
        // Go 1.18 and 1.20, until now; with pointers of eight bytes.
        if !matches!(u32_at(head, 0), 0xffff_fff0 | 0xffff_fff1) || head[7] != 8 {
            return Ok(None);
        }
        let text = match u64_at(head, 24) {
            // Left to the dynamic linker.
            0 => self.section(b".text").map_or(0, |text| text.address),
            address => address,
        };
        let (count, names, names_end, functions) =
            (u64_at(head, 8), u64_at(head, 32), u64_at(head, 40), u64_at(head, 64));
        let Some(wanted) = self.find_text(table.offset.saturating_add(names), names_end.saturating_sub(names), name)?
        else {
            return Ok(None);
        };
        // Pairs of the function's address, from `text` on, and where it is described, from the pairs on.
        let pairs = table.offset.saturating_add(functions);
        let mut descriptions = Window::new(self.file);
        for index in 0..count.min(table.size / 8) {
            // With where the next one begins; behind the last one, too.
            let Some(pair) = window.get(pairs.saturating_add(index * 8), 12)? else { break };
            let (address, description, next) = (u32_at(pair, 0), u32_at(pair, 4), u32_at(pair, 8));
            let at = pairs.saturating_add(u64::from(description));
            let Some(described) = descriptions.get(at, 8)? else { break };
            if u64::from(u32_at(described, 4)) == wanted {
                let size = u64::from(next.saturating_sub(address));
                return Ok(text.checked_add(u64::from(address)).map(|address| (address, size)));
            }
        }
        Ok(None)
    }

    /// Where a whole text lies among texts that end with NUL.
    fn find_text(&self, offset: u64, size: u64, text: &[u8]) -> io::Result<Option<u64>> {
        let finder = memmem::Finder::new(text);
        let size = size.min(MAX_NAMES);
        let mut window = Window::new(self.file);
        let mut start = 0;
        while start < size {
            let length = (size - start).min(WINDOW as u64);
            let Some(bytes) = window.get(offset.saturating_add(start), length as usize)? else { break };
            let is_whole = |at: &usize| *at == 0 || bytes[at - 1] == 0;
            if let Some(at) = finder.find_iter(bytes).find(is_whole) {
                return Ok(Some(start + at as u64));
            }
            if length < WINDOW as u64 {
                break;
            }
            start += length - text.len() as u64;
        }
        Ok(None)
    }
}

/// A part of a file in memory, moved to what is asked for.
struct Window<'a> {
    file: &'a File,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a File) -> Window<'a> {
        Window { file, start: 0, bytes: Vec::new() }
    }

    /// `length` bytes, at most [`WINDOW`]; none where the file does not have them.
    fn get(&mut self, at: u64, length: usize) -> io::Result<Option<&[u8]>> {
        let is_inside = at.checked_sub(self.start).is_some_and(|from| {
            usize::try_from(from).is_ok_and(|from| from.saturating_add(length) <= self.bytes.len())
        });
        if !is_inside {
            self.fill(at)?;
        }
        let from = (at - self.start) as usize;
        Ok(self.bytes.get(from..from + length))
    }

    fn fill(&mut self, at: u64) -> io::Result<()> {
        self.start = at;
        self.bytes.resize(WINDOW, 0);
        let mut filled = 0;
        // pread(2) takes no offsets that are negative as signed ones.
        while filled < WINDOW && i64::try_from(at).is_ok_and(|at| at.checked_add(WINDOW as i64).is_some()) {
            match self.file.read_at(&mut self.bytes[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.truncate(filled);
        Ok(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests;

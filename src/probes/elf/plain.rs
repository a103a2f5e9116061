//! Where in a file plaintext passes through OpenSSL, GnuTLS or Go's `crypto/tls`: the entries of the functions that read and
//! write, and the instructions at which these return.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use gimli::{BaseAddresses, EhFrame, EhFrameHdr, LittleEndian, UnwindSection};

use super::super::go;
use super::super::returns::{self, Code, Compiler};
use super::{Elf, START, Section, Symbol, Window, emulated};
use crate::bpf::PlainPlace;

/// A place, told from others of its kind by a number, and the function's name.
type Named = ((PlainPlace, u8), &'static [u8]);

/// All of a library's, for only together do they tell what passes; BoringSSL has no `_ex`. At the last ones an object ends, or
/// is given another connection or socket.
const OPENSSL: [Named; 10] = [
    ((PlainPlace::Read, 0), b"SSL_read\0"),
    ((PlainPlace::ReadEx, 0), b"SSL_read_ex\0"),
    ((PlainPlace::Write, 0), b"SSL_write\0"),
    ((PlainPlace::WriteEx, 0), b"SSL_write_ex\0"),
    ((PlainPlace::WriteEx2, 0), b"SSL_write_ex2\0"),
    ((PlainPlace::End, 0), b"SSL_free\0"),
    ((PlainPlace::End, 1), b"SSL_clear\0"),
    ((PlainPlace::End, 2), b"SSL_set_bio\0"),
    ((PlainPlace::End, 3), b"SSL_set0_rbio\0"),
    ((PlainPlace::End, 4), b"SSL_set0_wbio\0"),
];

/// Since OpenSSL 3.3: where it is, the other one leaves all to it.
const LATER: (PlainPlace, PlainPlace) = (PlainPlace::WriteEx2, PlainPlace::WriteEx);

/// Since GnuTLS 3.6.3, `gnutls_record_send` leaves all to `gnutls_record_send2`.
const GNUTLS: [Named; 11] = [
    ((PlainPlace::GnutlsRead, 0), b"gnutls_record_recv\0"),
    ((PlainPlace::GnutlsRead, 1), b"gnutls_record_recv_seq\0"),
    ((PlainPlace::GnutlsWrite, 0), b"gnutls_record_send2\0"),
    ((PlainPlace::Doubt, 0), b"gnutls_record_recv_packet\0"),
    ((PlainPlace::Doubt, 1), b"gnutls_record_send_range\0"),
    // What is taken while corked goes through the other function again later.
    ((PlainPlace::Doubt, 2), b"gnutls_record_cork\0"),
    ((PlainPlace::Doubt, 3), b"gnutls_record_uncork\0"),
    ((PlainPlace::End, 0), b"gnutls_deinit\0"),
    ((PlainPlace::End, 1), b"gnutls_transport_set_ptr\0"),
    ((PlainPlace::End, 2), b"gnutls_transport_set_ptr2\0"),
    ((PlainPlace::End, 3), b"gnutls_transport_set_int2\0"),
];

/// Go's have none that ends an object: it goes with its socket.
const GO_READ: &[u8] = b"crypto/tls.(*Conn).Read\0";
const GO_WRITE: &[u8] = b"crypto/tls.(*Conn).Write\0";

/// The functions are a few hundred bytes long.
const MAX_SIZE: u64 = 4096;

/// More than that of what an unwinder needs is not looked at.
const MAX_FRAMES: u64 = 16 << 20;

/// The places, each with its offset in the file, in the order in which programs are to be put there; none where the file
/// has not all of the functions. An error where it has, but cannot be told for sure where they return.
pub fn plain_places(file: &File) -> Result<Vec<(PlainPlace, u64)>> {
    let Some(elf) = Elf::open(file)? else { return Ok(Vec::new()) };
    for (names, later) in [(&OPENSSL[..], Some(LATER)), (&GNUTLS, None)] {
        let places = library_places(&elf, names, later)?;
        if !places.is_empty() {
            return Ok(places);
        }
    }
    go_places(&elf)
}

/// `later`: a function that may be missing, and the one that leaves all to it.
fn library_places(
    elf: &Elf,
    names: &[Named],
    later: Option<(PlainPlace, PlainPlace)>,
) -> Result<Vec<(PlainPlace, u64)>> {
    let symbols = elf.symbols(names)?;
    let found: BTreeSet<_> = symbols.iter().map(|symbol| symbol.name).collect();
    let has = |place: PlainPlace| found.iter().any(|(found, _)| *found == place);
    let later = later.map(|(place, before)| if has(place) { before } else { place });
    if names.iter().any(|(name, _)| !found.contains(name) && Some(name.0) != later) {
        return Ok(Vec::new());
    }
    let mut window = Window::new(elf.file);
    let (mut ends, mut entries, mut frames) = (Vec::new(), Vec::new(), None);
    for symbol in symbols {
        let Symbol { name: (place, _), address, size } = symbol;
        if Some(place) == later {
            continue;
        }
        let offset = elf.offset_of(address).context("a function lies outside of the file")?;
        let start = window.get(offset, START)?.unwrap_or_default();
        let entry = (place, offset + emulated(start));
        if matches!(place, PlainPlace::End | PlainPlace::Doubt) {
            ends.push(entry);
            continue;
        }
        entries.push(entry);
        let mut own = Some((address, size));
        let code_at = |at: u64| -> Option<Code> {
            let of_frames = || frames.get_or_insert_with(|| Frames::read(elf).unwrap_or_default()).function(at);
            let (start, size) = own.take().or_else(of_frames)?;
            code(elf, &mut window, start, size)
        };
        let found = returns::returns(address, Compiler::C, code_at)
            .with_context(|| format!("cannot tell where {place:?} returns"))?;
        let offsets = found.into_iter().filter_map(|address| elf.offset_of(address));
        ends.extend(offsets.map(|offset| (PlainPlace::Return, offset)));
    }
    // Two of them may leave the rest to the same function.
    ends.sort_unstable();
    ends.dedup();
    ends.extend(entries);
    Ok(ends)
}

/// The code of a function; none where there is none, or too much.
fn code(elf: &Elf, window: &mut Window, address: u64, size: u64) -> Option<Code> {
    address.checked_add(size).filter(|_| (1..=MAX_SIZE).contains(&size))?;
    let offset = elf.offset_of(address)?;
    window.get(offset, size as usize).ok()?.map(|code| (address, code.to_vec()))
}

/// Where functions begin and end, by what is there for an unwinder: of those without symbols, too.
#[derive(Default)]
struct Frames {
    index: Vec<u8>,
    entries: Vec<u8>,
    bases: BaseAddresses,
}

impl Frames {
    fn read(elf: &Elf) -> io::Result<Frames> {
        let sections = (elf.section(b".eh_frame_hdr"), elf.section(b".eh_frame"));
        let (Some(index), Some(entries)) = sections else { return Ok(Frames::default()) };
        let bases = BaseAddresses::default().set_eh_frame_hdr(index.address).set_eh_frame(entries.address);
        let bytes = |section: &Section| {
            let mut bytes = vec![0; section.size.min(MAX_FRAMES) as usize];
            let read = elf.file.read_at(&mut bytes, section.offset)?;
            bytes.truncate(read);
            io::Result::Ok(bytes)
        };
        Ok(Frames { index: bytes(index)?, entries: bytes(entries)?, bases })
    }

    /// The address and size of what lies around an address. By the index: anyone can make a file in which looking at all
    /// entries takes forever.
    fn function(&self, address: u64) -> Option<(u64, u64)> {
        let index = EhFrameHdr::new(&self.index, LittleEndian).parse(&self.bases, 8).ok()?;
        let entries = EhFrame::new(&self.entries, LittleEndian);
        let found = index.table()?.fde_for_address(&entries, &self.bases, address, EhFrame::cie_from_offset).ok()?;
        Some((found.initial_address(), found.len()))
    }
}

fn go_places(elf: &Elf) -> Result<Vec<(PlainPlace, u64)>> {
    let (mut ends, mut entries) = (Vec::new(), Vec::new());
    let mut window = Window::new(elf.file);
    for (name, entry, leaves) in [
        (GO_READ, PlainPlace::GoRead, PlainPlace::GoReadReturn),
        (GO_WRITE, PlainPlace::GoWrite, PlainPlace::GoWriteReturn),
    ] {
        let Some((address, size)) = elf.go_function(name)? else { return Ok(Vec::new()) };
        let offset = elf.offset_of(address).context("a function lies outside of the file")?;
        let told = code(elf, &mut window, address, size).and_then(|(_, code)| {
            let begins = go::begins(&code)?;
            let is_known = entry != PlainPlace::GoRead || go::keeps_arguments(&code[begins as usize..]);
            let mut own = Some((address, code));
            is_known.then_some((begins, returns::returns(address, Compiler::Go, |_| own.take())?))
        });
        let (begins, found) = told.with_context(|| format!("cannot tell where {entry:?} begins and returns"))?;
        entries.push((entry, offset + begins));
        ends.extend(found.into_iter().map(|at| (leaves, offset + (at - address))));
    }
    ends.extend(entries);
    Ok(ends)
}

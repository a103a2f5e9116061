//! Where in a file plaintext passes through OpenSSL or Go's `crypto/tls`: the entries of the functions that read and write,
//! and the instructions at which these return.

use std::collections::BTreeSet;
use std::fs::File;

use anyhow::{Context, Result};

use super::super::go;
use super::super::returns::{self, Jumps};
use super::{Elf, START, Symbol, Window, emulated};
use crate::bpf::PlainPlace;

/// All of them, for only together do they tell what passes; BoringSSL has no `_ex`. At the last ones an object ends, or is
/// given another connection or socket.
const NAMES: [((PlainPlace, u8), &[u8]); 10] = [
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

/// The functions are a few hundred bytes long.
const MAX_SIZE: u64 = 4096;

/// And where it passes through Go's, which has none that ends an object: it goes with its socket.
const GO_READ: &[u8] = b"crypto/tls.(*Conn).Read\0";
const GO_WRITE: &[u8] = b"crypto/tls.(*Conn).Write\0";

/// The places, each with its offset in the file, in the order in which programs are to be put there; none where the file
/// has not all of the functions. An error where it has, but cannot be told for sure where they return.
pub fn plain_places(file: &File) -> Result<Vec<(PlainPlace, u64)>> {
    let Some(elf) = Elf::open(file)? else { return Ok(Vec::new()) };
    let places = openssl_places(&elf)?;
    if places.is_empty() { go_places(&elf) } else { Ok(places) }
}

fn openssl_places(elf: &Elf) -> Result<Vec<(PlainPlace, u64)>> {
    let symbols = elf.symbols(&NAMES)?;
    let names: BTreeSet<_> = symbols.iter().map(|symbol| symbol.name).collect();
    let has_later = names.iter().any(|(place, _)| *place == LATER.0);
    if names.len() < NAMES.len() - usize::from(!has_later) {
        return Ok(Vec::new());
    }
    let mut window = Window::new(elf.file);
    let (mut ends, mut entries) = (Vec::new(), Vec::new());
    for symbol in symbols {
        let Symbol { name: (place, _), address, size } = symbol;
        if has_later && place == LATER.1 {
            continue;
        }
        let offset = elf.offset_of(address).context("a function lies outside of the file")?;
        let start = window.get(offset, START)?.unwrap_or_default();
        let entry = (place, offset + emulated(start));
        if place == PlainPlace::End {
            ends.push(entry);
            continue;
        }
        entries.push(entry);
        let code = if (1..=MAX_SIZE).contains(&size) { window.get(offset, size as usize)? } else { None };
        let found = code
            .and_then(|code| returns::returns(code, Jumps::Direct))
            .with_context(|| format!("cannot tell where {place:?} returns"))?;
        ends.extend(found.into_iter().map(|at| (PlainPlace::Return, offset + at)));
    }
    ends.extend(entries);
    Ok(ends)
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
        let code = if (1..=MAX_SIZE).contains(&size) { window.get(offset, size as usize)? } else { None };
        let told = code.and_then(|code| {
            let begins = go::begins(code)?;
            let is_known = entry != PlainPlace::GoRead || go::keeps_arguments(&code[begins as usize..]);
            is_known.then_some((begins, returns::returns(code, Jumps::Switches)?))
        });
        let (begins, found) = told.with_context(|| format!("cannot tell where {entry:?} begins and returns"))?;
        entries.push((entry, offset + begins));
        ends.extend(found.into_iter().map(|at| (leaves, offset + at)));
    }
    ends.extend(entries);
    Ok(ends)
}

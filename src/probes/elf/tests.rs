//! Small files made by hand, the machine's own libraries, and damage.

use std::io::Write;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A file without a name.
fn file(bytes: &[u8]) -> File {
    // Tests run in processes of their own, or in threads of one.
    let (process, thread) = (std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(format!("sidetap-elf-{process}-{thread:?}"));
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Code at 0x1000 of memory and 0x400 of the file, then sections: (name, kind, address, content, link).
fn elf(sections: &[(&str, u32, u64, Vec<u8>, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    put(&mut bytes, 0, b"\x7fELF\x02\x01");
    put(&mut bytes, 18, &MACHINE.to_le_bytes());
    put(&mut bytes, 32, &64u64.to_le_bytes());
    put(&mut bytes, 54, &56u16.to_le_bytes());
    put(&mut bytes, 56, &1u16.to_le_bytes());
    put(&mut bytes, 58, &64u16.to_le_bytes());
    put(&mut bytes, 64, &PT_LOAD.to_le_bytes());
    put(&mut bytes, 68, &5u32.to_le_bytes());
    for (at, value) in [(8, 0x400u64), (16, 0x1000), (32, 0x200)] {
        put(&mut bytes, 64 + at, &value.to_le_bytes());
    }
    bytes.resize(0x600, 0);
    let mut names = vec![0];
    let mut heads = Vec::new();
    let mut section = |name: &str, kind: u32, address: u64, content: &[u8], link: u32, names: &mut Vec<u8>| {
        let mut head = [0; 64];
        put(&mut head, 0, &(names.len() as u32).to_le_bytes());
        names.extend(name.bytes().chain([0]));
        put(&mut head, 4, &kind.to_le_bytes());
        put(&mut head, 16, &address.to_le_bytes());
        put(&mut head, 24, &(bytes.len() as u64).to_le_bytes());
        put(&mut head, 32, &(content.len() as u64).to_le_bytes());
        put(&mut head, 40, &link.to_le_bytes());
        bytes.extend(content);
        heads.extend(head);
    };
    for (name, kind, address, content, link) in sections {
        section(name, *kind, *address, content, *link, &mut names);
    }
    let all = names.iter().copied().chain(*b".shstrtab\0").collect::<Vec<u8>>();
    section(".shstrtab", 3, 0, &all, 0, &mut names);
    let at = bytes.len() as u64;
    put(&mut bytes, 40, &at.to_le_bytes());
    put(&mut bytes, 60, &(sections.len() as u16 + 1).to_le_bytes());
    put(&mut bytes, 62, &(sections.len() as u16).to_le_bytes());
    bytes.extend(heads);
    bytes
}

/// A library with functions of these names, 16 bytes apart from 0x1000 on; names that begin with `-` are only imported.
fn library(functions: &[&str]) -> Vec<u8> {
    let (mut names, mut symbols) = (vec![0], vec![0; SYMBOL]);
    for (index, function) in functions.iter().enumerate() {
        let mut symbol = [0; SYMBOL];
        put(&mut symbol, 0, &(names.len() as u32).to_le_bytes());
        symbol[4] = STT_FUNC;
        let name = function.trim_start_matches('-');
        put(&mut symbol, 6, &u16::from(name.len() == function.len()).to_le_bytes());
        put(&mut symbol, 8, &(0x1000 + 16 * index as u64).to_le_bytes());
        names.extend(name.bytes().chain([0]));
        symbols.extend(symbol);
    }
    elf(&[(".dynsym", SHT_DYNSYM, 0, symbols, 1), (".dynstr", 3, 0, names, 0)])
}

fn found(bytes: &[u8]) -> Vec<(Function, u64)> {
    find(&file(bytes)).expect("the file can be read").functions
}

#[test]
fn each_library_has_its_functions() {
    let openssl3 = ["EVP_PKEY_CTX_ctrl", "EVP_KDF_fetch", "EVP_KDF_derive"];
    assert_eq!(found(&library(&openssl3)), [(Function::OpensslDerive, 0x420)]);
    assert_eq!(found(&library(&openssl3[..1])), [(Function::OpensslCtrl, 0x400)]);
    assert_eq!(
        found(&library(&["EVP_KDF_derive", "EVP_PKEY_CTX_ctrl"])),
        [(Function::OpensslCtrl, 0x410)],
        "of RHEL 8"
    );
    let nettle = found(&library(&["nettle_hkdf_expand", "nettle_hkdf_extract"]));
    assert_eq!(nettle, [(Function::NettleExtract, 0x410), (Function::NettleExpand, 0x400)]);
    assert_eq!(found(&library(&["_gnutls_prf_raw"])), [(Function::GnutlsPrf, 0x400)]);
    let renamed = found(&library(&["aws_lc_0_29_0_HKDF_expand", "aws_lc_0_29_0_CRYPTO_tls1_prf", "my_HKDF_expand"]));
    assert_eq!(renamed, [(Function::BoringsslExpand, 0x400), (Function::BoringsslPrf, 0x410)]);
    assert_eq!(found(&library(&["-EVP_KDF_derive", "-EVP_KDF_fetch", "nettle_hkdf_expand_more"])), []);
    assert_eq!(found(&library(&["crypto/tls.(*Config).writeKeyLog"])), [(Function::GoKeyLog, 0x400)]);
}

/// Go's table with functions `a.b`, 0x10 from the beginning of the code on, and the one of the key log at 0x20.
fn go_table(magic: u32, text: u64) -> Vec<u8> {
    let names = [b"a.b\0", GO_KEY_LOG].concat();
    let mut table = vec![0; 72];
    put(&mut table, 0, &magic.to_le_bytes());
    table[7] = 8;
    let functions = 72 + names.len().next_multiple_of(8);
    for (at, value) in [(8, 2), (24, text), (32, 72), (40, 72 + names.len() as u64), (64, functions as u64)] {
        put(&mut table, at, &value.to_le_bytes());
    }
    table.extend(&names);
    table.resize(functions, 0);
    for pair in [[0x10u32, 24], [0x20, 32], [0x30, 0]] {
        pair.iter().for_each(|value| table.extend(value.to_le_bytes()));
    }
    for description in [[0x10u32, 0], [0x20, 4]] {
        description.iter().for_each(|value| table.extend(value.to_le_bytes()));
    }
    table
}

#[test]
fn a_stripped_go_program_has_its_table() {
    let program = |magic, text| {
        let table = (".gopclntab", 1, 0, go_table(magic, text), 0);
        elf(&[(".text", 1, 0x1080, Vec::new(), 0), table])
    };
    for magic in [0xffff_fff0, 0xffff_fff1] {
        assert_eq!(found(&program(magic, 0x1000)), [(Function::GoKeyLog, 0x420)]);
    }
    assert_eq!(found(&program(0xffff_fff1, 0)), [(Function::GoKeyLog, 0x4a0)], "from the beginning of .text");
    assert_eq!(found(&program(0xffff_fffb, 0x1000)), [], "before 1.18");
}

#[test]
fn names_are_found_across_the_edges_of_windows() {
    for before in WINDOW - 40..WINDOW + 4 {
        let filler = "x".repeat(before);
        assert_eq!(found(&library(&[&filler, "nettle_hkdf_expand"])), [(Function::NettleExpand, 0x410)], "{before}");
    }
}

#[test]
fn other_files_have_none() {
    assert_eq!(found(b""), []);
    assert_eq!(found(b"#!/bin/sh\n"), []);
    assert_eq!(found(b"\x7fELF\x01\x01 of 32 bits"), []);
    let own = File::open(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(find(&own).unwrap(), Found::default());
}

proptest! {
    #[test]
    fn damage_never_panics(damage in vec((0usize..0x1000, any::<u8>()), 1..60), cut in 0usize..0x1000, go in any::<bool>()) {
        let table = (".gopclntab", 1, 0, go_table(0xffff_fff1, 0x1000), 0);
        let mut bytes = if go { elf(&[table]) } else { library(&["EVP_KDF_fetch", "EVP_KDF_derive"]) };
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len().max(64) - cut % 64);
        let _ = find(&file(&bytes));
        let _ = plain_places(&file(&bytes));
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_probe_is_put_where_the_kernel_need_not_step() {
    // test rdi, rdi; je: EVP_KDF_derive of OpenSSL 3
    assert_eq!(emulated(&[0x48, 0x85, 0xFF, 0x74, 0x13, 0x48, 0x8B]), 3);
    assert_eq!(emulated(&[0xF3, 0x0F, 0x1E, 0xFA, 0x48, 0x85, 0xFF, 0x0F, 0x84]), 7);
    assert_eq!(emulated(&[0xF3, 0x0F, 0x1E, 0xFA, 0x41, 0x57]), 4);
    assert_eq!(emulated(&[0x55, 0x48]), 0);
    // sub rsp, 16: behind it, arguments on the stack lie elsewhere.
    assert_eq!(emulated(&[0x48, 0x83, 0xEC, 0x10, 0x55]), 0);
    assert_eq!(emulated(&[]), 0);
}

const PLAIN: [&str; 9] = [
    "SSL_read",
    "SSL_read_ex",
    "SSL_write",
    "SSL_write_ex",
    "SSL_free",
    "SSL_clear",
    "SSL_set_bio",
    "SSL_set0_rbio",
    "SSL_set0_wbio",
];

#[test]
fn where_a_function_is_missing_or_cannot_be_told_nothing_is_read() {
    for missing in 0..PLAIN.len() {
        let names: Vec<&str> =
            PLAIN.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, name)| *name).collect();
        assert_eq!(plain_places(&file(&library(&names))).expect("the file can be read"), []);
    }
    // Of no size.
    let error = plain_places(&file(&library(&PLAIN))).expect_err("nobody knows where they return");
    assert!(format!("{error:#}").contains("returns"), "{error:#}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn functions_of_the_machines_libraries_return_where_it_says() {
    use std::os::unix::fs::FileExt;

    use crate::bpf::PlainPlace::{Doubt, End, Return};

    for (name, ends, doubts, entries) in [("libssl.so.3", 5, 0, 4), ("libgnutls.so.30", 4, 4, 3)] {
        let Ok(library) = File::open(format!("/usr/lib/x86_64-linux-gnu/{name}")) else { continue };
        let places = plain_places(&library).expect("it can be read and told");
        let count = |wanted| places.iter().filter(|(place, _)| *place == wanted).count();
        assert!(count(End) == ends && count(Doubt) == doubts && count(Return) >= 4, "{places:x?}");
        // What ends something is in place before what begins it.
        let first_entry = places.iter().position(|(place, _)| !matches!(place, End | Doubt | Return));
        assert_eq!(first_entry, Some(places.len() - entries), "{places:x?}");
        for (_, offset) in places.iter().filter(|(place, _)| *place == Return) {
            let mut code = [0; 2];
            library.read_exact_at(&mut code, *offset).expect("it is in the file");
            assert!(code[0] == 0xC3 || code == [0xF3, 0xC3], "{code:x?}");
        }
    }
}

/// A library whose TLS calls what logs keys, at 0x1040 of memory, from two places, with the texts of labels behind it.
#[cfg(target_arch = "x86_64")]
fn logging_library(names: &[&str], labels: [u64; 2], calls: [u64; 2]) -> Vec<u8> {
    const LOG: [u8; 32] = [
        0x48, 0x89, 0xF8, 0x49, 0x89, 0xD0, 0x48, 0x89, 0xF7, 0x49, 0x89, 0xC9, 0x48, 0x8D, 0x90, 0x60, 0x01, 0, 0,
        0xB9, 32, 0, 0, 0, 0x48, 0x89, 0xC6, 0xE9, 0x70, 0x8C, 0xFF, 0xFF,
    ];
    const TEXTS: &[u8] = b"\0more CLIENT_RANDOM\0EARLY_EXPORTER_SECRET\0CLIENT_RANDOM\0";
    let mut code = vec![0x90; 0x80];
    for (place, (label, call)) in [0x1000u64, 0x1020].into_iter().zip(labels.into_iter().zip(calls)) {
        let at = (place - 0x1000) as usize;
        put(&mut code, at, &[0x48, 0x8D, 0x35]);
        put(&mut code, at + 3, &(label.wrapping_sub(place + 7) as u32).to_le_bytes());
        code[at + 7] = 0xE8;
        put(&mut code, at + 8, &(call.wrapping_sub(place + 12) as u32).to_le_bytes());
    }
    put(&mut code, 0x40, &LOG);
    let (mut texts, mut symbols) = (vec![0], vec![0; SYMBOL]);
    for name in names {
        let mut symbol = [0; SYMBOL];
        put(&mut symbol, 0, &(texts.len() as u32).to_le_bytes());
        symbol[4] = STT_FUNC;
        let text = name.trim_start_matches('-');
        put(&mut symbol, 6, &u16::from(text.len() == name.len()).to_le_bytes());
        put(&mut symbol, 8, &0x1100u64.to_le_bytes());
        texts.extend(text.bytes().chain([0]));
        symbols.extend(symbol);
    }
    let mut bytes = elf(&[
        (".text", 1, 0x1000, code.clone(), 0),
        (".rodata", 1, 0x2000, TEXTS.to_vec(), 0),
        (".dynsym", SHT_DYNSYM, 0, symbols, 4),
        (".none", 1, 0, Vec::new(), 0),
        (".dynstr", 3, 0, texts, 0),
    ]);
    // Where the segment says that it is mapped from.
    put(&mut bytes, 0x400, &code);
    bytes
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_place_of_a_key_log_is_found_by_the_labels_it_is_called_with() {
    let names = ["SSL_do_handshake", "-EVP_KDF_fetch"];
    let (early, random, longer) = (0x2014, 0x202A, 0x2006);
    let find = |labels, calls| find(&file(&logging_library(&names, labels, calls))).expect("the file can be read");
    let place = Found { functions: vec![(Function::OpensslKeyLog, 0x45B)], has_openssl: true };
    assert_eq!(find([random, early], [0x1040, 0x1040]), place);
    let nothing = Found { functions: Vec::new(), has_openssl: true };
    assert_eq!(find([random, random], [0x1040, 0x1040]), nothing, "one label");
    assert_eq!(find([random, early], [0x1040, 0x1041]), nothing, "two functions");
    assert_eq!(find([random, early], [0x1043, 0x1043]), nothing, "another function");
    assert_eq!(find([longer, early], [0x1040, 0x1040]), nothing, "the end of another text");
    assert_eq!(find([random, early], [0x10_0000, 0x10_0000]), nothing, "outside of the file");
    let found =
        |names: &[&str]| super::find(&file(&logging_library(names, [random, early], [0x1040, 0x1040]))).unwrap();
    assert_eq!(found(&names[..1]), Found::default(), "of BoringSSL or OpenSSL 1.1.1");
    let both = found(&["SSL_do_handshake", "EVP_KDF_fetch", "EVP_KDF_derive"]);
    assert_eq!(both.functions, [(Function::OpensslKeyLog, 0x45B), (Function::OpensslDerive, 0x500)], "in one file");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_machines_openssl_says_where_it_logs_keys() {
    let Ok(library) = File::open("/usr/lib/x86_64-linux-gnu/libssl.so.3") else { return };
    let found = find(&library).expect("it can be read");
    assert!(found.has_openssl && matches!(found.functions[..], [(Function::OpensslKeyLog, _)]), "{found:x?}");
}

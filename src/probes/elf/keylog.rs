//! Where OpenSSL 3 hands each secret of a handshake to a key log, whether there is one or not: five times a handshake
//! instead of the twenty and more at which it derives something.
//!
//! The function has no name outside the library: `ssl_log_secret(ssl, label, secret, length)` of ssl/ssl_lib.c. It is what
//! is called next where the text of a label is the second argument, and all that it does is to call
//! `nss_keylog_int(label, ssl, ssl->client_random, 32, secret, length)`. Only where the code says just that, in two places
//! with two labels, is it believed. The place is that last call or jump, at which everything lies in registers, and which
//! the kernel emulates.

use std::io;

use memchr::memmem;

use super::{Elf, Section, WINDOW, Window};

/// Labels (NSS key log format) that the compiler has no reason to put anywhere else first.
const LABELS: [&[u8]; 2] = [b"CLIENT_RANDOM\0", b"EARLY_EXPORTER_SECRET\0"];

/// `lea rsi, [rip + ...]`: a text as the second argument.
const LEA_RSI: &[u8] = &[0x48, 0x8D, 0x35];
const LEA_LENGTH: usize = 7;

/// Bytes behind that in which the call is, and bytes of the function.
const REACH: usize = 64;

/// More code than that is not looked through.
const MAX_CODE: u64 = 256 << 20;

/// The offset of the place in the file; none where it cannot be told for sure.
pub(super) fn key_log_place(elf: &Elf) -> io::Result<Option<u64>> {
    let (Some(text), Some(constants)) = (elf.section(b".text"), elf.section(b".rodata")) else { return Ok(None) };
    let mut labels = [0; LABELS.len()];
    for (label, address) in LABELS.iter().zip(&mut labels) {
        let Some(at) = elf.find_text(constants.offset, constants.size, label)? else { return Ok(None) };
        *address = constants.address.saturating_add(at);
    }
    let Some(function) = called_with(elf, text, labels)? else { return Ok(None) };
    let Some(offset) = elf.offset_of(function) else { return Ok(None) };
    let mut window = Window::new(elf.file);
    let place = window.get(offset, REACH)?.and_then(hands_on);
    Ok(place.map(|at| offset + at))
}

/// The address of the function that is called with each of these texts; none where it is not one and the same.
fn called_with(elf: &Elf, text: &Section, labels: [u64; LABELS.len()]) -> io::Result<Option<u64>> {
    let finder = memmem::Finder::new(LEA_RSI);
    let (mut window, mut start) = (Window::new(elf.file), 0);
    let (mut called, mut seen) = (None, [false; LABELS.len()]);
    let size = text.size.min(MAX_CODE);
    while start < size {
        let length = (size - start).min(WINDOW as u64) as usize;
        let Some(code) = window.get(text.offset.saturating_add(start), length)? else { break };
        for at in finder.find_iter(code) {
            let Some(rest) = code.get(at + LEA_LENGTH..) else { break };
            let displacement = i32::from_le_bytes(code[at + 3..at + LEA_LENGTH].try_into().expect("four bytes"));
            let next = text.address.wrapping_add(start + (at + LEA_LENGTH) as u64);
            let told = next.wrapping_add_signed(displacement.into());
            let Some(which) = labels.iter().position(|&label| label == told) else { continue };
            let Some(function) = next_call(&rest[..rest.len().min(REACH)], next) else { continue };
            if *called.get_or_insert(function) != function {
                return Ok(None);
            }
            seen[which] = true;
        }
        if length < WINDOW {
            break;
        }
        // Again what may go on behind the edge.
        start += (length - LEA_LENGTH - REACH) as u64;
    }
    Ok(called.filter(|_| seen.iter().all(|&seen| seen)))
}

/// What the code at that address calls, before it goes elsewhere or changes the second argument.
#[cfg(target_arch = "x86_64")]
fn next_call(code: &[u8], address: u64) -> Option<u64> {
    use iced_x86::{Decoder, DecoderOptions, FlowControl, OpKind, Register};

    for instruction in &mut Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::Call => return Some(instruction.near_branch_target()),
            _ => return None,
        }
        if instruction.op0_kind() == OpKind::Register && instruction.op0_register().full_register() == Register::RSI {
            return None;
        }
    }
    None
}

/// What is known of a register in the function.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    /// The argument with that number, from 0 on, and so much added to it.
    Argument(u8, u64),
    Number(u64),
    Unknown,
}

/// Where the function hands on what it was given, as the module has it; none where it does anything else.
#[cfg(target_arch = "x86_64")]
fn hands_on(code: &[u8]) -> Option<u64> {
    use std::collections::HashMap;

    use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};

    use Value::{Argument, Number, Unknown};

    let mut values: HashMap<Register, Value> = [Register::RDI, Register::RSI, Register::RDX, Register::RCX]
        .into_iter()
        .zip(0..)
        .map(|(register, number)| (register, Argument(number, 0)))
        .collect();
    for instruction in &mut Decoder::with_ip(64, code, 0, DecoderOptions::NONE) {
        let value = |register: Register| values.get(&register).copied().unwrap_or(Unknown);
        let is_register = |operand: u32| instruction.op_kind(operand) == OpKind::Register;
        let new = match instruction.mnemonic() {
            Mnemonic::Endbr64 | Mnemonic::Nop => continue,
            Mnemonic::Jmp | Mnemonic::Call if instruction.op0_kind() == OpKind::NearBranch64 => {
                let given = [Register::RDI, Register::RSI, Register::RCX, Register::R8, Register::R9].map(value);
                let is_it = given == [Argument(1, 0), Argument(0, 0), Number(32), Argument(2, 0), Argument(3, 0)]
                    && matches!(value(Register::RDX), Argument(0, 1..));
                return is_it.then_some(instruction.ip());
            }
            Mnemonic::Mov if is_register(0) && is_register(1) => match instruction.op1_register() {
                register if register.is_gpr64() => value(register),
                _ => Unknown,
            },
            Mnemonic::Mov if is_register(0) && instruction.op0_register().is_gpr32() => match instruction.op1_kind() {
                OpKind::Immediate32 => Number(instruction.immediate32().into()),
                _ => Unknown,
            },
            Mnemonic::Lea if instruction.memory_index() == Register::None => match value(instruction.memory_base()) {
                Argument(number, added) => Argument(number, added.wrapping_add(instruction.memory_displacement64())),
                _ => Unknown,
            },
            _ => return None,
        };
        values.insert(instruction.op0_register().full_register(), new);
    }
    None
}

/// Not told for this architecture.
#[cfg(not(target_arch = "x86_64"))]
fn next_call(_code: &[u8], _address: u64) -> Option<u64> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn hands_on(_code: &[u8]) -> Option<u64> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// mov rax, rdi; mov r8, rdx; mov rdi, rsi; mov r9, rcx; lea rdx, [rax + 0x160]; mov ecx, 32; mov rsi, rax; jmp
    const CODE: [u8; 32] = [
        0x48, 0x89, 0xF8, 0x49, 0x89, 0xD0, 0x48, 0x89, 0xF7, 0x49, 0x89, 0xC9, 0x48, 0x8D, 0x90, 0x60, 0x01, 0, 0,
        0xB9, 32, 0, 0, 0, 0x48, 0x89, 0xC6, 0xE9, 0x70, 0x8C, 0xFF, 0xFF,
    ];

    #[test]
    fn the_function_is_known_by_all_that_it_hands_on() {
        assert_eq!(hands_on(&CODE), Some(27));
        let marked = [&[0xF3, 0x0F, 0x1E, 0xFA][..], &CODE].concat();
        assert_eq!(hands_on(&marked), Some(31), "endbr64");
        let mut called = CODE;
        called[27] = 0xE8;
        assert_eq!(hands_on(&called), Some(27), "by a call");
        for cut in 0..CODE.len() {
            assert_eq!(hands_on(&CODE[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn a_function_that_does_anything_else_is_not_it() {
        // Without any one of its instructions; with another length of the random; with the secret for the label.
        for (start, end) in [(0, 3), (3, 6), (6, 9), (9, 12), (12, 19), (19, 24), (24, 27)] {
            let without = [&CODE[..start], &CODE[end..]].concat();
            assert_eq!(hands_on(&without), None, "{start}");
        }
        let mut other = CODE;
        other[20] = 31;
        assert_eq!(hands_on(&other), None);
        let mut other = CODE;
        other[8] = 0xD7;
        assert_eq!(hands_on(&other), None);
        // cmp rax, 0 first: as where no key log is asked for (OpenSSL 1.1.1).
        assert_eq!(hands_on(&[&[0x48, 0x83, 0xF8, 0][..], &CODE].concat()), None);
    }

    #[test]
    fn the_next_call_is_that_of_the_text() {
        // mov rdi, r14; call +0x10
        assert_eq!(next_call(&[0x4C, 0x89, 0xF7, 0xE8, 0x10, 0, 0, 0], 0x1000), Some(0x1018));
        // je; ret; the text is overwritten
        assert_eq!(next_call(&[0x74, 0, 0xE8, 0x10, 0, 0, 0], 0x1000), None);
        assert_eq!(next_call(&[0xC3, 0xE8, 0x10, 0, 0, 0], 0x1000), None);
        assert_eq!(next_call(&[0x31, 0xF6, 0xE8, 0x10, 0, 0, 0], 0x1000), None);
        // call through a register
        assert_eq!(next_call(&[0xFF, 0xD0], 0x1000), None);
    }
}

//! What Go's compiler has made of a function, as far as it has to be known (cmd/compile/abi-internal).

pub(super) use told::{begins, keeps_arguments};

#[cfg(target_arch = "x86_64")]
mod told {
    use std::ops::Range;

    use iced_x86::{
        Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfo, InstructionInfoFactory, Mnemonic, OpAccess,
        Register,
    };

    /// Where a function's first three words come, and where on the stack they have their places, from the return address on.
    const WORDS: [Register; 3] = [Register::RAX, Register::RBX, Register::RCX];
    const PLACES: Range<i64> = 8..32;

    /// Where in a function's code it has all the stack that it needs: behind the comparison that nearly every one begins
    /// with. Where that finds too little, the function begins again. None where it does so after something else.
    pub(crate) fn begins(code: &[u8]) -> Option<u64> {
        for instruction in Decoder::new(64, code, DecoderOptions::NONE).iter().take(3) {
            let is_comparing = match instruction.mnemonic() {
                // How far down a function with much on its stack will be.
                Mnemonic::Lea => instruction.op0_register() == Register::R12,
                // With the limit, which is the goroutine's.
                Mnemonic::Cmp => instruction.memory_base() == Register::R14,
                Mnemonic::Jbe => return Some(instruction.next_ip()),
                _ => false,
            };
            if !is_comparing {
                break;
            }
        }
        let begins_again = |jump: Instruction| {
            jump.flow_control() == FlowControl::UnconditionalBranch && jump.near_branch_target() == 0
        };
        let mut all = Decoder::new(64, code, DecoderOptions::NONE);
        (!all.iter().any(begins_again)).then_some(0)
    }

    /// Whether a function puts its first three words into their places before it does anything else with them, and never
    /// anything else: there they are to be found when it returns. `code`: from where it begins.
    pub(crate) fn keeps_arguments(code: &[u8]) -> bool {
        let mut factory = InstructionInfoFactory::new();
        let (mut kept, mut is_lost, mut is_start, mut depth) = ([false; 3], [false; 3], true, 0i64);
        for instruction in &mut Decoder::new(64, code, DecoderOptions::NONE) {
            // From the first call or jump on, registers are anybody's.
            if is_start && instruction.flow_control() != FlowControl::Next {
                is_start = false;
                if kept != [true; 3] {
                    return false;
                }
            }
            let info = factory.info(&instruction);
            if let Some(place) = written_place(&instruction, info, depth) {
                let word = WORDS.iter().position(|&word| instruction.op1_register() == word);
                match word.filter(|&word| place == PLACES.start + 8 * word as i64 && !is_lost[word] && is_start) {
                    Some(word) => kept[word] = true,
                    None => return false,
                }
            }
            if is_start {
                for used in info.used_registers().iter().filter(|used| writes(used.access())) {
                    let word = WORDS.iter().position(|&word| used.register().full_register() == word);
                    word.into_iter().for_each(|word| is_lost[word] = true);
                }
                depth = depth.wrapping_add(grows(&instruction));
            }
        }
        !is_start
    }

    /// Which of the places an instruction writes to, or may be written to by who has what it loads. `depth`: bytes of the
    /// stack below the return address.
    fn written_place(instruction: &Instruction, info: &InstructionInfo, depth: i64) -> Option<i64> {
        let is_pushing = matches!(instruction.mnemonic(), Mnemonic::Push | Mnemonic::Call);
        if instruction.memory_base() != Register::RSP || is_pushing {
            return None;
        }
        let place = (instruction.memory_displacement64() as i64).wrapping_sub(depth);
        let size = match instruction.mnemonic() {
            Mnemonic::Lea => 1,
            _ => info.used_memory().iter().find(|memory| writes(memory.access()))?.memory_size().size() as i64,
        };
        (place < PLACES.end && place.saturating_add(size) > PLACES.start).then_some(place)
    }

    /// By how many bytes an instruction makes the stack grow, of those that functions begin with.
    fn grows(instruction: &Instruction) -> i64 {
        let is_stack = instruction.op0_register() == Register::RSP && instruction.op_count() == 2;
        match instruction.mnemonic() {
            Mnemonic::Push => 8,
            Mnemonic::Sub if is_stack => instruction.immediate(1) as i64,
            Mnemonic::Add if is_stack => (instruction.immediate(1) as i64).wrapping_neg(),
            _ => 0,
        }
    }

    fn writes(access: OpAccess) -> bool {
        matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
    }
}

/// Not told for this architecture.
#[cfg(not(target_arch = "x86_64"))]
mod told {
    pub(crate) fn begins(_code: &[u8]) -> Option<u64> {
        None
    }

    pub(crate) fn keeps_arguments(_code: &[u8]) -> bool {
        false
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// As Go 1.24 has it: compares, pushes rbp, makes room, clears a place of its own, puts rax, rcx and rbx into theirs
    /// (at 21, 26 and 31), calls (at 36), returns; where there was too little of the stack, begins again.
    const FUNCTION: [u8; 79] = [
        0x49, 0x3B, 0x66, 0x10, 0x76, 0x2E, 0x55, 0x48, 0x89, 0xE5, 0x48, 0x83, 0xEC, 0x58, 0x66, 0x44, 0x0F, 0xD6,
        0x7C, 0x24, 0x50, 0x48, 0x89, 0x44, 0x24, 0x68, 0x48, 0x89, 0x4C, 0x24, 0x78, 0x48, 0x89, 0x5C, 0x24, 0x70,
        0xE8, 0xD7, 0xFF, 0xFF, 0xFF, 0x48, 0x8B, 0x4C, 0x24, 0x68, 0x48, 0x83, 0xC4, 0x58, 0x5D, 0xC3, 0x48, 0x89,
        0x44, 0x24, 0x08, 0x48, 0x89, 0x5C, 0x24, 0x10, 0x48, 0x89, 0x4C, 0x24, 0x18, 0xE8, 0xB8, 0xFF, 0xFF, 0xFF,
        0x48, 0x8B, 0x44, 0x24, 0x08, 0xEB, 0xB1,
    ];
    const BEGINS: usize = 6;

    #[test]
    fn a_function_begins_where_it_has_its_stack() {
        assert_eq!(begins(&FUNCTION), Some(BEGINS as u64));
        // lea r12, [rsp-0x68]; cmp r12, [r14+0x10]; jbe
        assert_eq!(begins(&[0x4C, 0x8D, 0x64, 0x24, 0x98, 0x4D, 0x3B, 0x66, 0x10, 0x76, 0x10, 0xC3]), Some(11));
        // One that needs little of it, and one that begins again for another reason.
        assert_eq!(begins(&[0x48, 0x8B, 0x00, 0xC3]), Some(0));
        assert_eq!(begins(&[0x48, 0x8B, 0x00, 0xEB, 0xFB]), None);
        assert_eq!(begins(&[]), Some(0));
    }

    #[test]
    fn arguments_are_where_they_were_put() {
        assert!(keeps_arguments(&FUNCTION[BEGINS..]));
    }

    #[test]
    fn what_may_be_something_else_is_not_taken_for_an_argument() {
        // (at, bytes in place of those there)
        for (at, other) in [
            // Another register's, another place, nothing at all.
            (21, &[0x48, 0x89, 0x54, 0x24, 0x68][..]),
            (26, &[0x48, 0x89, 0x4C, 0x24, 0x70]),
            (31, &[0x90, 0x90, 0x90, 0x90, 0x90]),
            // xor eax, eax in front.
            (14, &[0x31, 0xC0, 0x90, 0x90, 0x90, 0x90, 0x90]),
            // Behind the call: mov [rsp+0x68], rcx; lea rcx, [rsp+0x68]; movups [rsp+0x60], xmm0.
            (41, &[0x48, 0x89, 0x4C, 0x24, 0x68]),
            (41, &[0x48, 0x8D, 0x4C, 0x24, 0x68]),
            (41, &[0x0F, 0x11, 0x44, 0x24, 0x60]),
            // More of the stack than is said, and less.
            (10, &[0x48, 0x83, 0xEC, 0x50]),
        ] {
            let mut code = FUNCTION;
            code[at..at + other.len()].copy_from_slice(other);
            assert!(!keeps_arguments(&code[BEGINS..]), "{at}: {other:x?}");
        }
        assert!(!keeps_arguments(&[]));
        // Cut off before anything is put anywhere.
        assert!(!keeps_arguments(&FUNCTION[BEGINS..21]));
    }

    proptest::proptest! {
        #[test]
        fn any_code_is_looked_at(code in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let begins = begins(&code).unwrap_or_default() as usize;
            keeps_arguments(&code[begins..]);
        }
    }
}

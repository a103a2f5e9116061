//! Where a function returns: by decoding all of it.
//!
//! A program at a function's return by the kernel's own means (uretprobes) would have the kernel write another return
//! address onto the stack of a process. A program at the instructions themselves leaves the stack alone, but has to know
//! all of them.

/// How a function's code may go on elsewhere within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Jumps {
    /// Only to where a jump says itself.
    Direct,
    /// Also to where a table says. In what Go's compiler makes such a jump stays within the function.
    Switches,
}

/// Where in a function's code it returns; none where it does not, where it also leaves in another way (a jump to another
/// function, which returns in its place), or where its code cannot be told for sure.
#[cfg(target_arch = "x86_64")]
pub(super) fn returns(code: &[u8], jumps: Jumps) -> Option<Vec<u64>> {
    use std::collections::HashSet;

    use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};

    let (mut places, mut starts, mut targets) = (Vec::new(), HashSet::new(), Vec::new());
    // Far from 0, so that no jump back leads below it.
    const BASE: u64 = 1 << 40;
    let mut decoder = Decoder::with_ip(64, code, BASE, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        starts.insert(instruction.ip());
        let is_near =
            matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
        match instruction.mnemonic() {
            Mnemonic::INVALID | Mnemonic::Retf | Mnemonic::Iretq | Mnemonic::Iretd => return None,
            Mnemonic::Ret => places.push(instruction.ip() - BASE),
            Mnemonic::Call => {}
            Mnemonic::Jmp if !is_near && jumps == Jumps::Direct => return None,
            _ if is_near => targets.push(instruction.near_branch_target()),
            _ => {}
        }
    }
    (!places.is_empty() && targets.iter().all(|target| starts.contains(target))).then_some(places)
}

/// Not told for this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn returns(_code: &[u8], _jumps: Jumps) -> Option<Vec<u64>> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn all_returns_of_a_function_are_found() {
        // test edi, edi; je +1; ret; mov eax, 0xc3; ret
        let code = [0x85, 0xFF, 0x74, 0x01, 0xC3, 0xB8, 0xC3, 0, 0, 0, 0xC3];
        assert_eq!(returns(&code, Jumps::Direct), Some(vec![4, 10]));
        // A call elsewhere comes back.
        assert_eq!(returns(&[0xE8, 0x10, 0, 0, 0, 0xC3], Jumps::Direct), Some(vec![5]));
        assert_eq!(returns(&[0xFF, 0xE0, 0xC3], Jumps::Switches), Some(vec![2]));
    }

    #[test]
    fn a_function_that_leaves_in_another_way_is_left_alone() {
        for code in [
            // jmp to another function, at the end or before it; jmp through a register
            &[0xEB, 0x20][..],
            &[0x74, 0x20, 0xC3],
            &[0xE9, 0xF0, 0xFF, 0xFF, 0xFF, 0xC3],
            &[0xFF, 0xE0, 0xC3],
            // into the midst of an instruction
            &[0xEB, 0x01, 0xB8, 0xC3, 0, 0, 0, 0xC3],
            // cut off; none at all
            &[0xC3, 0xB8, 0],
            &[0x90],
            &[],
        ] {
            assert_eq!(returns(code, Jumps::Direct), None, "{code:x?}");
        }
    }
}

//! Where a function returns: by decoding all of it.
//!
//! A program at a function's return by the kernel's own means (uretprobes) would have the kernel write another return
//! address onto the stack of a process. A program at the instructions themselves leaves the stack alone, but has to know
//! all of them.

/// Whose code it is, and so what a jump to where a register says means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compiler {
    /// It stays within the function where the address is taken from a table of distances; else it may lead anywhere.
    C,
    /// It stays within the function.
    Go,
}

/// The code around an address: where it begins, and all of it.
pub(super) type Code = (u64, Vec<u8>);

/// Where the function at `address` returns. None where that cannot be told for sure; where it jumps to other code, such as
/// a function that returns in its place, that is looked at, too. `code_at`: what belongs together around an address.
#[cfg(target_arch = "x86_64")]
pub(super) fn returns(
    address: u64,
    compiler: Compiler,
    mut code_at: impl FnMut(u64) -> Option<Code>,
) -> Option<Vec<u64>> {
    let mut swept = sweep::Swept::default();
    let mut parts = 0;
    let mut next = Some(address);
    while let Some(target) = next {
        parts += 1;
        let (start, code) = code_at(target).filter(|_| parts <= sweep::MAX_PARTS)?;
        swept.add(start, &code, compiler)?;
        // Into the midst of an instruction.
        if !swept.starts.contains(&target) {
            return None;
        }
        next = swept.targets.difference(&swept.starts).next().copied();
    }
    (1..=sweep::MAX_RETURNS).contains(&swept.returns.len()).then_some(swept.returns)
}

#[cfg(target_arch = "x86_64")]
mod sweep {
    use std::collections::BTreeSet;

    use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

    use super::Compiler;

    /// A function, those that it leaves the rest to, and what compilers put aside of them.
    pub(super) const MAX_PARTS: usize = 8;
    /// Each takes two file descriptors.
    pub(super) const MAX_RETURNS: usize = 32;

    /// Code that was decoded, by addresses.
    #[derive(Default)]
    pub(super) struct Swept {
        pub(super) starts: BTreeSet<u64>,
        pub(super) targets: BTreeSet<u64>,
        pub(super) returns: Vec<u64>,
    }

    impl Swept {
        /// None where the code is not understood.
        pub(super) fn add(&mut self, start: u64, code: &[u8], compiler: Compiler) -> Option<()> {
            let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
            let mut before = [Instruction::default(); 2];
            while decoder.can_decode() {
                let instruction = decoder.decode();
                self.starts.insert(instruction.ip());
                let is_near = matches!(
                    instruction.op0_kind(),
                    OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
                );
                match instruction.mnemonic() {
                    Mnemonic::INVALID | Mnemonic::Retf | Mnemonic::Iretq | Mnemonic::Iretd => return None,
                    Mnemonic::Ret => self.returns.push(instruction.ip()),
                    Mnemonic::Call => {}
                    Mnemonic::Jmp if !is_near && compiler == Compiler::C && !is_switch(&before, &instruction) => {
                        return None;
                    }
                    _ if is_near => _ = self.targets.insert(instruction.near_branch_target()),
                    _ => {}
                }
                before = [before[1], instruction];
            }
            Some(())
        }
    }

    /// Whether a jump goes where a table says: `movsxd r, dword [table + index * 4]; add r, table; jmp r`.
    fn is_switch(before: &[Instruction; 2], jump: &Instruction) -> bool {
        let [load, add] = before;
        let register = jump.op0_register();
        register != Register::None
            && (load.mnemonic(), add.mnemonic()) == (Mnemonic::Movsxd, Mnemonic::Add)
            && (load.op0_register(), add.op0_register()) == (register, register)
            && load.memory_base() != Register::None
            && load.memory_base() == add.op1_register()
            && load.memory_index_scale() == 4
    }
}

/// Not told for this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn returns(
    _address: u64,
    _compiler: Compiler,
    _code_at: impl FnMut(u64) -> Option<Code>,
) -> Option<Vec<u64>> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Of a function at 0x1000, which is all the code that there is.
    fn alone(code: &[u8], compiler: Compiler) -> Option<Vec<u64>> {
        among(&[(0x1000, code)], compiler)
    }

    /// Of the first of these.
    fn among(parts: &[(u64, &[u8])], compiler: Compiler) -> Option<Vec<u64>> {
        returns(parts[0].0, compiler, |address| {
            let is_it = |(start, code): &&(u64, &[u8])| (*start..*start + code.len() as u64).contains(&address);
            parts.iter().find(is_it).map(|&(start, code)| (start, code.to_vec()))
        })
    }

    #[test]
    fn all_returns_of_a_function_are_found() {
        // test edi, edi; je +1; ret; mov eax, 0xc3; ret
        let code = [0x85, 0xFF, 0x74, 0x01, 0xC3, 0xB8, 0xC3, 0, 0, 0, 0xC3];
        assert_eq!(alone(&code, Compiler::C), Some(vec![0x1004, 0x100A]));
        // A call elsewhere comes back.
        assert_eq!(alone(&[0xE8, 0x10, 0, 0, 0, 0xC3], Compiler::C), Some(vec![0x1005]));
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
            assert_eq!(alone(code, Compiler::C), None, "{code:x?}");
        }
        assert_eq!(alone(&[0xC3; 40], Compiler::C), None, "more than can be watched");
    }

    #[test]
    fn what_returns_in_its_place_is_looked_at() {
        // je to the second; jmp to the third. The second: ret; jmp back behind the je. The third: ret.
        let first: &[u8] = &[0x0F, 0x84, 0xFA, 0x0F, 0, 0, 0xE9, 0xF5, 0x1F, 0, 0];
        let second: &[u8] = &[0xC3, 0xE9, 0x00, 0xF0, 0xFF, 0xFF];
        let parts = [(0x1000, first), (0x2000, second), (0x3000, &[0xC3][..])];
        assert_eq!(among(&parts, Compiler::C), Some(vec![0x2000, 0x3000]));
        assert_eq!(among(&parts[..2], Compiler::C), None, "a part is nowhere");
        // Into the midst of another function is where compilers put aside what is rarely run.
        let parts = [(0x1000, first), (0x1FFF, &[0x90, 0xC3]), (0x2FFE, &[0xB8, 0, 0xC3, 0, 0])];
        assert_eq!(among(&parts, Compiler::C), None, "into the midst of an instruction there");
    }

    #[test]
    fn a_jump_by_a_table_stays_within_the_function() {
        // movsxd rax, [rdx + rax * 4]; add rax, rdx; jmp rax, with and without notrack; ret
        let load = [0x48, 0x63, 0x04, 0x82];
        let add = [0x48, 0x01, 0xD0];
        for jump in [&[0xFF, 0xE0][..], &[0x3E, 0xFF, 0xE0]] {
            let code = [&load[..], &add, jump, &[0xC3]].concat();
            assert_eq!(alone(&code, Compiler::C), Some(vec![0x1007 + jump.len() as u64]));
        }
        // To another register's, of another table, an address from memory.
        for code in [
            [&load[..], &add, &[0xFF, 0xE1, 0xC3]].concat(),
            [&load[..], &[0x48, 0x01, 0xC8], &[0xFF, 0xE0, 0xC3]].concat(),
            [&[0x48, 0x8B, 0x04, 0xC2][..], &add, &[0xFF, 0xE0, 0xC3]].concat(),
        ] {
            assert_eq!(alone(&code, Compiler::C), None, "{code:x?}");
            assert!(alone(&code, Compiler::Go).is_some(), "{code:x?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_code_is_swept(code in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            alone(&code, Compiler::C);
            alone(&code, Compiler::Go);
        }
    }
}

//! A strict interpreter and a verifier for classic BPF, for the tests.
//!
//! The verifier is modelled on the kernel's `bpf_check_classic` (net/core/filter.c). The
//! interpreter is stricter than the kernel: it panics where the kernel would answer 0 (a division
//! by zero, a load beyond the packet), as no program of ours may come to that.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::insn::*;

const BPF_MAXINSNS: usize = 4096;
const BPF_MEMWORDS: u32 = 16;

// What our programs do not use but the kernel knows.
const BPF_STX: u16 = 0x03;
const BPF_LEN: u16 = 0x80;
const BPF_ADD: u16 = 0x00;
const BPF_SUB: u16 = 0x10;
const BPF_DIV: u16 = 0x30;
const BPF_OR: u16 = 0x40;
const BPF_AND: u16 = 0x50;
const BPF_LSH: u16 = 0x60;
const BPF_NEG: u16 = 0x80;
const BPF_JGT: u16 = 0x20;
const BPF_JSET: u16 = 0x40;
const BPF_TXA: u16 = 0x80;
/// `SKF_AD_MAX`: one more than the last kind of ancillary data.
const SKF_AD_MAX: u32 = 64;

/// `chk_code_allowed`: the codes there are.
fn is_code(code: u16) -> bool {
    let class = code & 0x07;
    let rest = code & !0x07;
    match class {
        BPF_LD => {
            let sized = matches!(rest & !(BPF_H | BPF_B), BPF_ABS | BPF_IND)
                && rest & (BPF_H | BPF_B) != BPF_H | BPF_B;
            sized || matches!(rest, BPF_LEN | BPF_IMM | BPF_MEM)
        }
        BPF_LDX => matches!(rest, BPF_LEN | BPF_IMM | BPF_MEM) || rest == BPF_MSH | BPF_B,
        BPF_ST | BPF_STX => rest == 0,
        BPF_ALU => {
            rest == BPF_NEG
                || matches!(
                    rest & !BPF_X,
                    BPF_ADD
                        | BPF_SUB
                        | BPF_MUL
                        | BPF_DIV
                        | BPF_MOD
                        | BPF_AND
                        | BPF_OR
                        | BPF_XOR
                        | BPF_LSH
                        | BPF_RSH
                )
        }
        BPF_JMP => {
            rest == BPF_JA || matches!(rest & !BPF_X, BPF_JEQ | BPF_JGE | BPF_JGT | BPF_JSET)
        }
        BPF_RET => matches!(rest, BPF_K | BPF_A),
        _ => matches!(rest, BPF_TAX | BPF_TXA),
    }
}

/// Whether the kernel accepts the program; if not, why.
pub(super) fn verify(program: &[Insn]) -> Result<(), String> {
    let len = program.len();
    if len == 0 || len > BPF_MAXINSNS {
        return Err(format!("{len} instructions"));
    }
    for (pc, insn) in program.iter().enumerate() {
        let fail = |why: &str| Err(format!("{pc}: {why}: {insn:?}"));
        if !is_code(insn.code) {
            return fail("no such instruction");
        }
        let left = len - pc - 1;
        let inside = |offset: u32| (offset as usize) < left;
        let class = insn.code & 0x07;
        let op = insn.code & 0xf0;
        let by_constant = insn.code & BPF_X == 0;
        match class {
            BPF_ALU if by_constant && matches!(op, BPF_DIV | BPF_MOD) && insn.k == 0 => {
                return fail("division by zero");
            }
            BPF_ALU if by_constant && matches!(op, BPF_LSH | BPF_RSH) && insn.k >= 32 => {
                return fail("shift too far");
            }
            BPF_ST | BPF_STX if insn.k >= BPF_MEMWORDS => return fail("no such scratch"),
            BPF_LD | BPF_LDX if insn.code & 0xe0 == BPF_MEM && insn.k >= BPF_MEMWORDS => {
                return fail("no such scratch");
            }
            BPF_LD if insn.code & 0xe0 == BPF_ABS && insn.k >= SKF_AD_OFF => {
                let kind = insn.k - SKF_AD_OFF;
                if kind >= SKF_AD_MAX || !kind.is_multiple_of(4) {
                    return fail("no such ancillary data");
                }
            }
            BPF_JMP if op == BPF_JA && !inside(insn.k) => return fail("jump out"),
            BPF_JMP if op != BPF_JA && !(inside(insn.jt.into()) && inside(insn.jf.into())) => {
                return fail("jump out");
            }
            _ => {}
        }
    }
    if program.last().is_none_or(|insn| insn.code & 0x07 != BPF_RET) {
        return Err(String::from("does not end with RET"));
    }
    check_load_and_stores(program)
}

/// `check_load_and_stores`: on every path, M\[\] is stored before it is loaded.
fn check_load_and_stores(program: &[Insn]) -> Result<(), String> {
    let mut masks: Vec<u16> = alloc::vec![0xffff; program.len()];
    let mut stored = 0u16;
    for (pc, insn) in program.iter().enumerate() {
        stored &= masks[pc];
        match insn.code & 0x07 {
            BPF_ST | BPF_STX => stored |= 1 << insn.k,
            BPF_LD | BPF_LDX if insn.code & 0xe0 == BPF_MEM && stored & (1 << insn.k) == 0 => {
                return Err(format!("{pc}: loads scratch that is not stored: {insn:?}"));
            }
            BPF_JMP => {
                let offsets = if insn.code & 0xf0 == BPF_JA {
                    [insn.k, insn.k]
                } else {
                    [insn.jt.into(), insn.jf.into()]
                };
                for offset in offsets {
                    masks[pc + 1 + offset as usize] &= stored;
                }
                stored = 0xffff;
            }
            BPF_RET => stored = 0xffff,
            _ => {}
        }
    }
    Ok(())
}

/// Runs the program on a packet that begins with its IP header.
pub(super) fn run(program: &[Insn], packet: &[u8], random: u32) -> u32 {
    let load = |code: u16, offset: u32| {
        let at = offset.checked_sub(SKF_NET_OFF).expect("reads the IP header only") as usize;
        let size = match code & (BPF_H | BPF_B) {
            BPF_W => 4,
            BPF_H => 2,
            _ => 1,
        };
        let bytes = packet.get(at..at + size).expect("reads beyond the packet");
        bytes.iter().fold(0u32, |value, &byte| value << 8 | u32::from(byte))
    };
    let (mut a, mut x, mut scratch) = (None::<u32>, None::<u32>, [None::<u32>; 16]);
    let mut pc = 0;
    loop {
        let Insn { code, jt, jf, k } = program[pc];
        pc += 1;
        let now = || a.expect("A is set");
        let operand = || if code & BPF_X == 0 { k } else { x.expect("X is set") };
        match code & 0x07 {
            BPF_LD => {
                a = Some(match code & 0xe0 {
                    BPF_IMM => k,
                    BPF_MEM => scratch[k as usize].expect("scratch is set"),
                    BPF_ABS if k == SKF_AD_OFF + SKF_AD_RANDOM => random,
                    BPF_ABS => load(code, k),
                    BPF_IND => load(code, x.expect("X is set").wrapping_add(k)),
                    mode => panic!("load {mode:#x}"),
                });
            }
            BPF_LDX => {
                x = Some(match code & 0xe0 {
                    BPF_IMM => k,
                    BPF_MEM => scratch[k as usize].expect("scratch is set"),
                    BPF_MSH => 4 * (load(BPF_B, k) & 0x0f),
                    mode => panic!("load {mode:#x}"),
                });
            }
            BPF_ST => scratch[k as usize] = Some(now()),
            BPF_ALU => {
                let (left, right) = (now(), operand());
                a = Some(match code & 0xf0 {
                    BPF_MUL => left.wrapping_mul(right),
                    BPF_RSH => left.checked_shr(right).expect("shift"),
                    BPF_MOD => left.checked_rem(right).expect("division by zero"),
                    BPF_XOR => left ^ right,
                    op => panic!("operation {op:#x}"),
                });
            }
            BPF_JMP => {
                let skip = match code & 0xf0 {
                    BPF_JA => k,
                    BPF_JEQ => u32::from(if now() == operand() { jt } else { jf }),
                    BPF_JGE => u32::from(if now() >= operand() { jt } else { jf }),
                    op => panic!("jump {op:#x}"),
                };
                pc += skip as usize;
            }
            BPF_RET => return if code & 0x18 == BPF_A { now() } else { k },
            BPF_MISC if code & 0xf8 == BPF_TAX => x = Some(now()),
            class => panic!("class {class:#x}"),
        }
    }
}

/// `verify` itself refuses what the kernel refuses.
#[test]
fn verifier_is_strict() {
    let insn = |code, jt, jf, k| Insn { code, jt, jf, k };
    let ret = Insn::ret(0);
    let bad: &[&[Insn]] = &[
        &[],
        &[Insn::ld_random()],
        &[insn(0xff, 0, 0, 0), ret],
        &[insn(BPF_LD | BPF_H | BPF_MEM, 0, 0, 0), ret],
        &[insn(BPF_LD | BPF_H | BPF_B | BPF_ABS, 0, 0, 0), ret],
        &[Insn::alu(BPF_MOD, 0), ret],
        &[Insn::alu(BPF_RSH, 32), ret],
        &[Insn::ja(1), ret],
        &[Insn::jump_if(BPF_JGE, 1, 0, 1), ret],
        &[Insn::jump_if(BPF_JGE, 1, 1, 0), ret],
        &[Insn::st(16), ret],
        &[Insn::ld_mem(0), ret],
        &[Insn::ld_imm(1), Insn::jump_if(BPF_JEQ, 1, 1, 0), Insn::st(0), Insn::ld_mem(0), ret],
        &[insn(BPF_LD | BPF_W | BPF_ABS, 0, 0, SKF_AD_OFF + SKF_AD_MAX), ret],
        &[ret; BPF_MAXINSNS + 1],
    ];
    for program in bad {
        assert!(verify(program).is_err(), "{program:?}");
    }
    assert_eq!(verify(&[Insn::ld_imm(1), Insn::st(0), Insn::ld_mem(0), ret]), Ok(()));
    assert_eq!(verify(&[ret; BPF_MAXINSNS]), Ok(()));
}

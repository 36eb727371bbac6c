//! The hash of a packet's source, in classic BPF.
//!
//! Each word is mixed in with murmur3's 32-bit finaliser: `h = fmix32(h ^ word)`.

use alloc::vec::Vec;

use super::assemble::Assembler;
use super::insn::{BPF_B, BPF_H, BPF_JEQ, BPF_MUL, BPF_RSH, BPF_W, BPF_XOR, Insn};

/// What the first hash begins with (the golden ratio's fraction); any number but 0 would do.
const FIRST: u32 = 0x9e37_79b9;
/// What the second hash begins with (the fraction of the square root of 3).
const SECOND: u32 = 0xbb67_ae85;

/// Where in M\[\] the hash is kept for a second choice.
const KEPT: u32 = 0;

// Offsets in the IP headers: RFC 791 section 3.1, RFC 8200 section 3.
const IPV4_SOURCE: u32 = 12;
const IPV6_NEXT_HEADER: u32 = 6;
const IPV6_SOURCE: u32 = 8;
const IPV6_LEN: u32 = 40;
/// Offset of the source port in a TCP and in a UDP header.
const SOURCE_PORT: u32 = 0;
/// `IPPROTO_TCP` and `IPPROTO_UDP`, linux/in.h.
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

/// murmur3's `fmix32` of A; changes X.
fn fmix32(to: &mut Vec<Insn>) {
    let mut xor_shifted = |bits, multiplier: Option<u32>| {
        to.extend([Insn::tax(), Insn::alu(BPF_RSH, bits), Insn::xor_x()]);
        to.extend(multiplier.map(|k| Insn::alu(BPF_MUL, k)));
    };
    xor_shifted(16, Some(0x85eb_ca6b));
    xor_shifted(13, Some(0xc2b2_ae35));
    xor_shifted(16, None);
}

/// A = the hash of the port A.
fn first() -> Vec<Insn> {
    let mut insns = alloc::vec![Insn::alu(BPF_XOR, FIRST)];
    fmix32(&mut insns);
    insns
}

/// A = the hash A with the address's words, which are at these offsets, mixed in.
fn mix(offsets: impl IntoIterator<Item = u32>) -> Vec<Insn> {
    let mut insns = Vec::new();
    for offset in offsets {
        insns.extend([Insn::tax(), Insn::ld_net(BPF_W, offset), Insn::xor_x()]);
        fmix32(&mut insns);
    }
    insns
}

/// Keeps the hash A for [`again`].
pub(super) fn keep() -> [Insn; 1] {
    [Insn::st(KEPT)]
}

/// A = another hash of the same packet, independent of the first one.
pub(super) fn again() -> Vec<Insn> {
    let mut insns = alloc::vec![Insn::ld_mem(KEPT), Insn::alu(BPF_XOR, SECOND)];
    fmix32(&mut insns);
    insns
}

/// Puts in front: A = the hash of the packet's source address and, if `with_port`, source port.
///
/// What is neither IPv4 nor IPv6 gets a random number. In a packet that is shorter than its header
/// says a load would end the program with the answer 0; the kernel has dropped such a packet
/// before it looks for a socket.
pub(super) fn of_packet(asm: &mut Assembler, with_port: bool) {
    let hashed = asm.label();

    asm.block(&mix((IPV6_SOURCE..).step_by(4).take(4)));
    if with_port {
        asm.block(&first());
        let port_known = asm.label();
        asm.block(&[Insn::ld_net(BPF_H, IPV6_LEN + SOURCE_PORT)]);
        let port = asm.label();
        // Behind an extension header the port is elsewhere: the address alone.
        asm.jump(port_known);
        asm.block(&[Insn::ld_imm(0)]);
        asm.branch(BPF_JEQ, IPPROTO_UDP, port);
        asm.branch(BPF_JEQ, IPPROTO_TCP, port);
        asm.block(&[Insn::ld_net(BPF_B, IPV6_NEXT_HEADER)]);
    } else {
        asm.block(&[Insn::ld_imm(FIRST)]);
    }
    let ipv6 = asm.label();

    asm.jump(hashed);
    asm.block(&mix([IPV4_SOURCE]));
    if with_port {
        asm.block(&first());
        asm.block(&[Insn::ldx_ipv4_len(), Insn::ld_net_x(BPF_H, SOURCE_PORT)]);
    } else {
        asm.block(&[Insn::ld_imm(FIRST)]);
    }
    let ipv4 = asm.label();

    asm.jump(hashed);
    asm.block(&[Insn::ld_random()]);
    asm.branch(BPF_JEQ, 6, ipv6);
    asm.branch(BPF_JEQ, 4, ipv4);
    asm.block(&[Insn::ld_net(BPF_B, 0), Insn::alu(BPF_RSH, 4)]);
}

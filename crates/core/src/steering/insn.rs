//! The instructions of classic BPF that steering uses, by their names in the kernel's headers.

/// One classic BPF instruction, as `struct sock_filter` in linux/filter.h.
///
/// ```
/// use phalanx_core::steering::{Mode, Share, program};
///
/// let only = program(Mode::Random, &[Share { weight: 1, up: true }])?;
/// assert_eq!((only[0].code, only[0].k), (0x06, 0)); // BPF_RET | BPF_K: slot 0
/// # Ok::<(), phalanx_core::steering::SteeringError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// What to do.
    pub code: u16,
    /// How many instructions a conditional jump skips when its test is true.
    pub jt: u8,
    /// How many it skips when its test is false.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

// Instruction classes, BPF_CLASS in linux/bpf_common.h. BPF_LD is 0, as are BPF_W, BPF_IMM, BPF_K
// and BPF_JA: they stand in the codes below for the reader's sake.
pub(super) const BPF_LD: u16 = 0x00;
pub(super) const BPF_LDX: u16 = 0x01;
pub(super) const BPF_ST: u16 = 0x02;
pub(super) const BPF_ALU: u16 = 0x04;
pub(super) const BPF_JMP: u16 = 0x05;
pub(super) const BPF_RET: u16 = 0x06;
pub(super) const BPF_MISC: u16 = 0x07;

// Sizes of loads, BPF_SIZE in linux/bpf_common.h.
pub(super) const BPF_W: u16 = 0x00;
pub(super) const BPF_H: u16 = 0x08;
pub(super) const BPF_B: u16 = 0x10;

// Modes of loads, BPF_MODE in linux/bpf_common.h.
pub(super) const BPF_IMM: u16 = 0x00;
pub(super) const BPF_ABS: u16 = 0x20;
pub(super) const BPF_IND: u16 = 0x40;
pub(super) const BPF_MEM: u16 = 0x60;
pub(super) const BPF_MSH: u16 = 0xa0;

// Operations, BPF_OP in linux/bpf_common.h; BPF_MOD and BPF_XOR in linux/filter.h.
pub(super) const BPF_MUL: u16 = 0x20;
pub(super) const BPF_RSH: u16 = 0x70;
pub(super) const BPF_MOD: u16 = 0x90;
pub(super) const BPF_XOR: u16 = 0xa0;
pub(super) const BPF_JA: u16 = 0x00;
pub(super) const BPF_JEQ: u16 = 0x10;
pub(super) const BPF_JGE: u16 = 0x30;

// Where the operand is, BPF_SRC in linux/bpf_common.h; BPF_A (BPF_RVAL) in linux/filter.h.
pub(super) const BPF_K: u16 = 0x00;
pub(super) const BPF_X: u16 = 0x08;
pub(super) const BPF_A: u16 = 0x10;

// BPF_MISCOP in linux/filter.h.
pub(super) const BPF_TAX: u16 = 0x00;

// Ancillary data and offsets from the network header, linux/filter.h.
/// `SKF_AD_OFF`, -0x1000.
pub(super) const SKF_AD_OFF: u32 = 0xffff_f000;
/// `SKF_AD_RANDOM`: a random 32-bit number.
pub(super) const SKF_AD_RANDOM: u32 = 56;
/// `SKF_NET_OFF`, -0x100000: where the IP header begins.
pub(super) const SKF_NET_OFF: u32 = 0xfff0_0000;

impl Insn {
    const fn new(code: u16, k: u32) -> Self {
        Self { code, jt: 0, jf: 0, k }
    }

    /// A = a random number
    pub(super) const fn ld_random() -> Self {
        Self::new(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_RANDOM)
    }

    /// A = k
    pub(super) const fn ld_imm(k: u32) -> Self {
        Self::new(BPF_LD | BPF_W | BPF_IMM, k)
    }

    /// A = M\[k\]
    pub(super) const fn ld_mem(k: u32) -> Self {
        Self::new(BPF_LD | BPF_W | BPF_MEM, k)
    }

    /// A = the value of `size` at `offset` of the IP header
    pub(super) const fn ld_net(size: u16, offset: u32) -> Self {
        Self::new(BPF_LD | size | BPF_ABS, SKF_NET_OFF + offset)
    }

    /// A = the value of `size` at X + `offset` of the IP header
    pub(super) const fn ld_net_x(size: u16, offset: u32) -> Self {
        Self::new(BPF_LD | size | BPF_IND, SKF_NET_OFF + offset)
    }

    /// X = the length of the IPv4 header: 4 * (its first byte & 0xf)
    pub(super) const fn ldx_ipv4_len() -> Self {
        Self::new(BPF_LDX | BPF_B | BPF_MSH, SKF_NET_OFF)
    }

    /// M\[k\] = A
    pub(super) const fn st(k: u32) -> Self {
        Self::new(BPF_ST, k)
    }

    /// X = A
    pub(super) const fn tax() -> Self {
        Self::new(BPF_MISC | BPF_TAX, 0)
    }

    /// A = A op k
    pub(super) const fn alu(op: u16, k: u32) -> Self {
        Self::new(BPF_ALU | op | BPF_K, k)
    }

    /// A = A ^ X
    pub(super) const fn xor_x() -> Self {
        Self::new(BPF_ALU | BPF_XOR | BPF_X, 0)
    }

    /// Skip k instructions.
    pub(super) const fn ja(k: u32) -> Self {
        Self::new(BPF_JMP | BPF_JA, k)
    }

    /// Skip `jt` instructions if `A op k`, `jf` if not.
    pub(super) const fn jump_if(op: u16, k: u32, jt: u8, jf: u8) -> Self {
        Self { code: BPF_JMP | op | BPF_K, jt, jf, k }
    }

    /// The answer is k.
    pub(super) const fn ret(k: u32) -> Self {
        Self::new(BPF_RET | BPF_K, k)
    }

    /// The answer is A.
    pub(super) const fn ret_a() -> Self {
        Self::new(BPF_RET | BPF_A, 0)
    }
}

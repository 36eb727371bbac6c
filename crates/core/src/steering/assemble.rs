//! Puts a program together from its end to its beginning.

use alloc::vec::Vec;

use super::insn::{BPF_JGE, BPF_MOD, Insn};

/// A program that is being written back to front.
///
/// Classic BPF jumps only forwards: written in this order, a jump's target is always there before
/// the jump is, and so is its distance. Nothing needs to be patched.
#[derive(Default)]
pub(super) struct Assembler {
    reversed: Vec<Insn>,
    len: u32,
}

/// A place to jump to: how many instructions there are from it to the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(u32);

/// Where a choice leads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The answer is this slot.
    Slot(u32),
    /// Go on there.
    Label(Label),
}

/// One possible outcome of a choice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Its share; at least 1.
    pub(super) weight: u32,
    /// Where it leads.
    pub(super) to: Target,
}

impl Assembler {
    /// The instruction written last, which is the next to be executed.
    pub(super) fn label(&self) -> Label {
        Label(self.len)
    }

    /// Puts a block of instructions (in the order of their execution) in front.
    pub(super) fn block(&mut self, insns: &[Insn]) {
        for &insn in insns.iter().rev() {
            self.reversed.push(insn);
            self.len += 1;
        }
    }

    /// Puts a jump in front.
    pub(super) fn jump(&mut self, to: Label) {
        self.block(&[Insn::ja(self.len - to.0)]);
    }

    /// Puts a test in front: on to `yes` if `A op k`, else to what has been written last.
    pub(super) fn branch(&mut self, op: u16, k: u32, yes: Label) {
        if let Ok(near) = u8::try_from(self.len - yes.0) {
            self.block(&[Insn::jump_if(op, k, near, 0)]);
        } else {
            // A conditional jump reaches 255 instructions, an unconditional one any distance.
            self.jump(yes);
            self.block(&[Insn::jump_if(op, k, 0, 1)]);
        }
    }

    /// Puts in front: A is a number that is spread evenly over 32 bits; go to a leaf, each by its
    /// weight.
    ///
    /// `leaves` must not be empty, and the sum of their weights must fit.
    pub(super) fn choose(&mut self, leaves: &[Leaf]) {
        let is_its_slot = |(slot, leaf): (u32, &Leaf)| *leaf == Leaf::one(slot);
        if (0u32..).zip(leaves).all(is_its_slot) {
            self.block(&[Insn::ret_a()]);
        } else {
            let mut end = 0;
            let bounds: Vec<(u32, Target)> = leaves
                .iter()
                .map(|leaf| {
                    end += leaf.weight;
                    (end, leaf.to)
                })
                .collect();
            self.search(&bounds);
        }
        let total = leaves.iter().map(|leaf| leaf.weight).sum();
        self.block(&[Insn::alu(BPF_MOD, total)]);
    }

    /// Puts a binary search in front: to the first target whose bound is above A.
    fn search(&mut self, bounds: &[(u32, Target)]) {
        match *bounds {
            [] => {}
            [(_, Target::Slot(slot))] => self.block(&[Insn::ret(slot)]),
            [(_, Target::Label(label))] => self.jump(label),
            _ => {
                let (low, high) = bounds.split_at(bounds.len() / 2);
                self.search(high);
                let yes = self.label();
                self.search(low);
                let bound = low.last().map_or(0, |&(bound, _)| bound);
                self.branch(BPF_JGE, bound, yes);
            }
        }
    }

    /// The program, in the order of its execution.
    pub(super) fn finish(self) -> Vec<Insn> {
        let mut insns = self.reversed;
        insns.reverse();
        insns
    }
}

impl Leaf {
    fn one(slot: u32) -> Self {
        Self { weight: 1, to: Target::Slot(slot) }
    }
}

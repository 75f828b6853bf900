//! One warp: its registers, its lanes' whereabouts, its copies in flight.
//!
//! Lanes that part at a branch become groups, each with a rank in the order of [`crate::control_flow::ranks`]. The group of the lowest rank
//! runs until it arrives where another waits, or behind one; groups of one rank are one. So lanes meet as early as the kernel's flow
//! allows, and iterations of a loop begin together. Machines promise that only at `.sync` instructions, where lanes wait for each other:
//! a kernel that relies on it elsewhere is not found out here.

use super::vector::Lanes;
use crate::control_flow::NOWHERE;
use crate::decode::FlowBlock;

/// Lanes that wait to enter a block.
#[derive(Clone, Copy, Debug)]
struct Group {
    rank: u32,
    block: u32,
    mask: u32,
}

/// Why a warp is not running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Waits at a barrier of the block.
    Waiting,
    Done,
}

/// A `cp.async` that has not landed.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub mask: u32,
    pub to: [u32; 32],
    pub bytes: u8,
    pub data: Vec<[u8; 16]>,
    /// Number of the group it belongs to.
    pub group: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Warp {
    pub id: u32,
    pub rows: Vec<Lanes>,
    pub predicates: Vec<u32>,
    pub pc: u32,
    pub active: u32,
    /// Where the active lanes, going on without a jump, reach a block for which others are due first; and its number and their rank there.
    pub meet: u32,
    meet_block: u32,
    meet_rank: u32,
    /// Lanes that are elsewhere, those of the lowest rank last.
    waiting: Vec<Group>,
    /// Lanes that have a thread, and those of them that ended.
    pub exists: u32,
    pub exited: u32,
    pub state: State,
    pub copies: Vec<Copy>,
    /// The group that the next `cp.async` joins.
    pub group: u32,
    /// Global loads that each row's value depends on, one after the other.
    pub depth: Vec<u16>,
    /// Condition of the threads at a `bar.red`.
    pub vote: u32,
}

impl Warp {
    pub fn new(id: u32, rows: Vec<Lanes>, predicates: usize, exists: u32) -> Warp {
        let depth = vec![0; rows.len()];
        Warp {
            id,
            rows,
            predicates: vec![0; predicates],
            pc: 0,
            active: exists,
            meet: NOWHERE,
            meet_block: 0,
            meet_rank: NOWHERE,
            waiting: Vec::new(),
            exists,
            exited: 0,
            state: State::Ready,
            copies: Vec::new(),
            group: 0,
            depth,
            vote: 0,
        }
    }

    pub fn live(&self) -> u32 {
        self.exists & !self.exited
    }

    /// The active lanes are at `meet`, or all ended: goes on with whoever is next. False if nobody is left.
    pub fn resume(&mut self, blocks: &[FlowBlock]) -> bool {
        if self.active != 0 {
            self.wait(Group { rank: self.meet_rank, block: self.meet_block, mask: self.active });
        }
        self.next_group(blocks)
    }

    /// All active lanes jump to the target of the block `from`.
    #[inline(always)]
    pub fn jump(&mut self, blocks: &[FlowBlock], from: u32, target: u32) {
        if self.waiting.is_empty() {
            self.pc = target;
        } else {
            let ranks = blocks[from as usize].ranks;
            self.wait(Group { rank: ranks.jumps, block: ranks.target, mask: self.active });
            self.next_group(blocks);
        }
    }

    /// At the end of the block `from` the lanes of `taken` jump, the others go on behind it.
    pub fn diverge(&mut self, blocks: &[FlowBlock], from: u32, taken: u32) {
        let ranks = blocks[from as usize].ranks;
        self.wait(Group { rank: ranks.jumps, block: ranks.target, mask: taken });
        self.wait(Group { rank: ranks.falls, block: from + 1, mask: self.active & !taken });
        self.next_group(blocks);
    }

    fn wait(&mut self, group: Group) {
        let at = self.waiting.iter().rposition(|other| other.rank >= group.rank);
        match at {
            Some(at) if self.waiting[at].rank == group.rank => self.waiting[at].mask |= group.mask,
            _ => self.waiting.insert(at.map_or(0, |at| at + 1), group),
        }
    }

    /// The group of the lowest rank becomes the active one.
    fn next_group(&mut self, blocks: &[FlowBlock]) -> bool {
        let Some(group) = self.waiting.pop() else {
            self.active = 0;
            self.state = State::Done;
            return false;
        };
        self.pc = blocks[group.block as usize].start;
        self.active = group.mask;
        self.meet = NOWHERE;
        let Some(limit) = self.waiting.last().map(|other| other.rank) else { return true };
        let mut block = group.block;
        // The end of the kernel falls nowhere, and nowhere is behind every rank.
        loop {
            let rank = blocks[block as usize].ranks.falls;
            block += 1;
            if rank >= limit {
                if rank != NOWHERE {
                    (self.meet, self.meet_block, self.meet_rank) = (blocks[block as usize].start, block, rank);
                }
                return true;
            }
        }
    }
}

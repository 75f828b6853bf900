//! One warp: its registers, its lanes' whereabouts, its copies in flight.
//!
//! Lanes that part at a branch run one side after the other and meet at the branch's immediate post-dominator; a stack of masks remembers
//! who waits where.

use super::vector::Lanes;

/// Lanes that will go on from `pc` and meet others at `meet`.
#[derive(Clone, Copy, Debug)]
struct Frame {
    pc: u32,
    meet: u32,
    mask: u32,
}

/// Nobody to meet.
const NOWHERE: u32 = u32::MAX;

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
    pub meet: u32,
    stack: Vec<Frame>,
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
            stack: Vec::new(),
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

    /// The active lanes are at their meeting place, or all ended: goes on with whoever is next. False if nobody is left.
    pub fn resume(&mut self) -> bool {
        while let Some(frame) = self.stack.pop() {
            let mask = frame.mask & !self.exited;
            if mask != 0 {
                (self.pc, self.meet, self.active) = (frame.pc, frame.meet, mask);
                return true;
            }
        }
        self.active = 0;
        self.state = State::Done;
        false
    }

    /// Some lanes jump to `target`, the others go on behind the branch; all meet at `meet`.
    pub fn diverge(&mut self, taken: u32, target: u32, next: u32, meet: u32) {
        if meet != self.meet {
            self.stack.push(Frame { pc: meet, meet: self.meet, mask: self.active });
        }
        let rest = self.active & !taken;
        let sides = [(next, rest), (target, taken)];
        let mut waiting = sides.iter().filter(|(pc, _)| *pc != meet);
        self.meet = meet;
        match (waiting.next(), waiting.next()) {
            (Some(&(pc, mask)), other) => {
                if let Some(&(pc, mask)) = other {
                    self.stack.push(Frame { pc, meet, mask });
                }
                (self.pc, self.active) = (pc, mask);
            }
            // Both sides are the meeting place.
            _ => self.pc = meet,
        }
    }
}

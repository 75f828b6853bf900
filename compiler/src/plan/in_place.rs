//! Results in place of operands: fewer buffers, each with a longer life.
//!
//! Live ranges are computed once and kept up to date as buffers merge, so that the time is proportional to the number of uses.

use ir::program::{Access, Arg, BufferId, Launch, Program};

use super::for_each_buffer;
use crate::lower::InPlace;

/// Gives results the buffers of operands, where a candidate allows it and the operand has the same size and dies with the launch.
pub(super) fn take_over(program: &mut Program, mut candidates: Vec<InPlace>) {
    let bounds = program.upper_bounds();
    let bytes: Vec<Option<u64>> = program.buffers.iter().map(|b| b.ty.bytes(&bounds)).collect();
    let mut merged = Merged::new(program);
    // Scheduling moved launches: an operand's own takeover must come before that of its result.
    candidates.sort_by_key(|c| c.launch);
    for candidate in candidates {
        let (result, operand) = (candidate.result, merged.root(candidate.operand));
        let launch = &program.launches[candidate.launch];
        let is_new = merged.root(result) == result && merged.lives_from(result, candidate.launch);
        let same_size = bytes[result.0 as usize] == bytes[operand.0 as usize];
        if is_new
            && same_size
            && result != operand
            && merged.dies_at(operand, candidate.launch)
            && writes(launch, result)
            && merged.reads_once(launch, operand)
        {
            merged.merge(result, operand);
        }
    }
    for_each_buffer(program, |id| *id = merged.root(*id));
}

/// Whether a launch writes a buffer entirely.
fn writes(launch: &Launch, buffer: BufferId) -> bool {
    launch.args.iter().any(|(_, a)| matches!(a, Arg::Buffer(id, Access::Write) if *id == buffer))
}

/// Buffers that became one, with the life of the whole.
struct Merged {
    /// The buffer each became part of, itself if none. A result joins a root, so one step leads there.
    root: Vec<BufferId>,
    ranges: Vec<Option<(usize, usize)>>,
}

impl Merged {
    fn new(program: &Program) -> Merged {
        let root = (0..program.buffers.len()).map(|i| BufferId(i as u32)).collect();
        Merged { root, ranges: program.live_ranges() }
    }

    fn root(&self, buffer: BufferId) -> BufferId {
        self.root[buffer.0 as usize]
    }

    fn lives_from(&self, buffer: BufferId, launch: usize) -> bool {
        self.ranges[buffer.0 as usize].is_some_and(|(first, _)| first == launch)
    }

    fn dies_at(&self, root: BufferId, launch: usize) -> bool {
        self.ranges[root.0 as usize].is_some_and(|(_, last)| last == launch)
    }

    /// Whether only one argument is the buffer. A launch may write over what the candidate names as read before, but it might
    /// still read another argument.
    fn reads_once(&self, launch: &Launch, root: BufferId) -> bool {
        let is_root = |arg: &Arg| matches!(arg, Arg::Buffer(id, _) if self.root(*id) == root);
        launch.args.iter().filter(|(_, arg)| is_root(arg)).count() == 1
    }

    fn merge(&mut self, result: BufferId, operand: BufferId) {
        self.root[result.0 as usize] = operand;
        let end = self.ranges[result.0 as usize].map(|(_, last)| last);
        if let (Some((_, last)), Some(end)) = (&mut self.ranges[operand.0 as usize], end) {
            *last = end;
        }
    }
}

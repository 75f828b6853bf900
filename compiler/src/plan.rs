//! The memory plan: a place in one arena for every intermediate result, complete before the first launch.
//!
//! First results take over operands that die with the launch (in place). Then offsets are assigned one buffer at a time, each
//! to the smallest gap that fits among the buffers live at the same time. The order matters and no rule is best, so a few
//! orders are tried and the smallest arena wins; see Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
//! Inference" (2020), for the greedy-by-size rule.

use std::cmp::Reverse;
use std::collections::HashMap;

use ir::program::{ALIGNMENT, Access, Arg, BufferId, Program};

use crate::lower::{InPlace, Lowered};

/// A buffer whose size is unknown: a shape that overflows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("buffer %{buffer} of program {program:?} is too large to plan")]
pub struct PlanError {
    /// The buffer's index.
    pub buffer: usize,
    /// The program.
    pub program: String,
}

/// Places every buffer of a scheduled program.
pub fn plan(lowered: Lowered) -> Result<Program, PlanError> {
    let mut program = lowered.program;
    let mut renamed = HashMap::new();
    for candidate in &lowered.in_place {
        take_over(&mut program, candidate, &mut renamed);
    }
    compact(&mut program);
    let spans = spans(&program)?;
    let orders: [Order; 3] =
        [|s| (Reverse(s.bytes), s.first), |s| (Reverse((s.last - s.first) as u64), s.first), |s| (Reverse(0), s.first)];
    let best = orders.iter().map(|key| assign(&spans, *key)).min_by_key(|(arena, _)| *arena);
    let (arena, offsets) = best.unwrap_or_default();
    program.arena_bytes = arena;
    program.buffers.iter_mut().zip(offsets).for_each(|(b, offset)| b.offset = offset);
    Ok(program)
}

/// Makes the result the operand's buffer, if that has the same size and dies with this launch. Candidates name the buffers of the
/// lowering; `renamed` says what became of those taken over before.
fn take_over(program: &mut Program, candidate: &InPlace, renamed: &mut HashMap<BufferId, BufferId>) {
    if renamed.contains_key(&candidate.result) {
        return;
    }
    let result = candidate.result;
    let operand = renamed.get(&candidate.operand).copied().unwrap_or(candidate.operand);
    let bounds = program.upper_bounds();
    let bytes = |id: BufferId| program.buffers[id.0 as usize].ty.bytes(&bounds);
    let dies_here = program.live_ranges()[operand.0 as usize].is_some_and(|(_, last)| last == candidate.launch);
    let writes_it = program.launches[candidate.launch]
        .args
        .iter()
        .any(|(_, a)| matches!(a, Arg::Buffer(id, Access::Write) if *id == result));
    if dies_here && writes_it && result != operand && bytes(result) == bytes(operand) {
        for_each_buffer(program, |id| {
            if *id == result {
                *id = operand;
            }
        });
        renamed.insert(candidate.result, operand);
    }
}

fn for_each_buffer(program: &mut Program, mut visit: impl FnMut(&mut BufferId)) {
    for launch in &mut program.launches {
        for (_, arg) in &mut launch.args {
            if let Arg::Buffer(id, _) = arg {
                visit(id);
            }
        }
    }
    program.outputs.iter_mut().for_each(|(_, id)| visit(id));
}

/// Drops buffers nothing touches and numbers the rest in order of first use.
fn compact(program: &mut Program) {
    let mut new_ids: HashMap<BufferId, BufferId> = HashMap::new();
    let mut kept = Vec::new();
    for_each_buffer(program, |id| {
        let next = BufferId(kept.len() as u32);
        let old = *id;
        *id = *new_ids.entry(old).or_insert_with(|| {
            kept.push(old);
            next
        });
    });
    program.buffers = kept.into_iter().map(|id| program.buffers[id.0 as usize].clone()).collect();
}

/// A rule for which buffer is placed next: the smallest key first.
type Order = fn(&Span) -> (Reverse<u64>, usize);

#[derive(Clone, Copy)]
struct Span {
    index: usize,
    first: usize,
    last: usize,
    bytes: u64,
}

fn spans(program: &Program) -> Result<Vec<Span>, PlanError> {
    let bounds = program.upper_bounds();
    let ranges = program.live_ranges();
    program
        .buffers
        .iter()
        .zip(ranges)
        .enumerate()
        .map(|(index, (buffer, range))| {
            let bytes = buffer.ty.bytes(&bounds).and_then(|b| b.checked_next_multiple_of(ALIGNMENT));
            let (first, last) = range.unwrap_or((0, 0));
            bytes
                .map(|bytes| Span { index, first, last, bytes })
                .ok_or_else(|| PlanError { buffer: index, program: program.name.clone() })
        })
        .collect()
}

/// Arena size and offset of each buffer when placed in the order of `key`.
fn assign(spans: &[Span], key: Order) -> (u64, Vec<u64>) {
    let mut order = spans.to_vec();
    order.sort_by_key(|s| (key(s), s.index));
    let mut offsets = vec![0; spans.len()];
    let mut placed: Vec<(u64, Span)> = Vec::with_capacity(spans.len());
    let mut arena = 0;
    for span in order {
        let offset = best_gap(&placed, &span);
        offsets[span.index] = offset;
        arena = arena.max(offset + span.bytes);
        let at = placed.partition_point(|(o, _)| *o <= offset);
        placed.insert(at, (offset, span));
    }
    (arena, offsets)
}

/// The start of the smallest gap that fits between buffers live together with `span`, else the end of the last.
fn best_gap(placed: &[(u64, Span)], span: &Span) -> u64 {
    let mut end = 0;
    let mut best: Option<(u64, u64)> = None;
    for (offset, other) in placed.iter().filter(|(_, o)| o.first <= span.last && span.first <= o.last) {
        let gap = offset.saturating_sub(end);
        if gap >= span.bytes && best.is_none_or(|(size, _)| gap < size) {
            best = Some((gap, end));
        }
        end = end.max(offset + other.bytes);
    }
    best.map_or(end, |(_, start)| start)
}

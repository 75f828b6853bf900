//! The memory plan: a place in one arena for every intermediate result, complete before the first launch.
//!
//! First results take over operands that die with the launch ([`in_place`]). Then offsets are assigned one buffer at a time
//! ([`offsets`]). The order matters and no rule is best, so a few orders are tried, and the best is improved by a bounded
//! search ([`search`]) that ends as soon as the arena is as small as the largest live set. Everything costs time in proportion
//! to the number of launches, as long as the number of results that are live at once does not grow with it.
//!
//! All sizes are those at the symbols' upper bounds, rounded up to [`ALIGNMENT`]; the lower bound
//! ([`Program::arena_lower_bound`]) is the largest live set of the same rounded sizes, so that the ratio of both says how well
//! buffers are placed and not how much alignment wastes.

mod in_place;
mod offsets;
mod search;

use std::collections::HashMap;

use ir::program::{ALIGNMENT, Arg, BufferId, Program};

use crate::lower::Lowered;
use offsets::Span;

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
///
/// # Errors
/// A buffer, or all that are live at once, of more bytes than can be counted.
pub fn plan(lowered: Lowered) -> Result<Program, PlanError> {
    let Lowered { mut program, in_place } = lowered;
    in_place::take_over(&mut program, in_place);
    compact(&mut program);
    let spans = spans(&program)?;
    let placement = search::place(&spans);
    program.arena_bytes = placement.arena;
    program.buffers.iter_mut().zip(placement.offsets).for_each(|(b, offset)| b.offset = offset);
    Ok(program)
}

/// Shows every mention of a buffer, launches in order, then outputs.
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

/// Size and life of each buffer. All of them together can be counted in a `u64`, so that no offset overflows.
fn spans(program: &Program) -> Result<Vec<Span>, PlanError> {
    let bounds = program.upper_bounds();
    let mut total = 0u64;
    let ranges = program.live_ranges().into_iter().map(Option::unwrap_or_default);
    let spans = program.buffers.iter().zip(ranges).enumerate().map(|(index, (buffer, (first, last)))| {
        let bytes = buffer.ty.bytes(&bounds).and_then(|b| b.checked_next_multiple_of(ALIGNMENT));
        let sum = bytes.and_then(|b| total.checked_add(b));
        match (bytes, sum) {
            (Some(bytes), Some(sum)) => {
                total = sum;
                Ok(Span { first, last, bytes })
            }
            _ => Err(PlanError { buffer: index, program: program.name.clone() }),
        }
    });
    spans.collect()
}

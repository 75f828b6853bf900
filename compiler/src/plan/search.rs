//! The search for a small arena: a few orders of placement, then a bounded number of improvements.
//!
//! It is deterministic and ends as soon as the arena is the largest live set, which is where the first orders end for most
//! programs. Else the launches around the arena's top are placed exactly, by branch and bound as far as a fixed number of steps
//! goes, and what is found there becomes the order for the whole program: layers are alike, so that one answer serves all. Last come
//! moves in that order.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

use super::offsets::{Conflicts, Fit, Placement, Span};

/// Most improvements that are tried.
const TRIES: usize = 24;

/// Most buffers that are placed exactly.
const EXACT_BUFFERS: usize = 24;

/// Fewest buffers of a window.
const SMALLEST_WINDOW: usize = 8;

/// Sizes of windows that are tried in turn, from the smallest to [`EXACT_BUFFERS`].
const WINDOW_SIZES: usize = 5;

/// Most partial placements that one exact search looks at.
const EXACT_STEPS: usize = 10_000;

/// Most moves of a kind that are tried.
const MOST_MOVES: usize = 2_000;

/// Most pairs of buffers that all moves together look at.
const MOVE_WORK: usize = 1_000_000;

/// Places buffers in an arena that is as small as the search finds.
pub(super) fn place(spans: &[Span]) -> Placement {
    let conflicts = Conflicts::new(spans);
    let (mut best, order) = best_of_fixed_orders(&conflicts);
    if best.arena > conflicts.lower_bound {
        if spans.len() <= EXACT_BUFFERS {
            Exact::new(&conflicts, conflicts.lower_bound, &mut best).run();
        }
        if spans.len() > SMALLEST_WINDOW && best.arena > conflicts.lower_bound {
            let mut by_kind = ByKind::new(&conflicts, &order);
            solve_windows(&conflicts, &mut by_kind, &mut best);
            if best.arena > conflicts.lower_bound {
                move_kinds(&conflicts, &mut by_kind, &mut best);
            }
        }
    }
    best
}

/// A rule for which buffer is placed next: the smallest key first.
type Rule = fn(&Span) -> (Reverse<u128>, usize);

/// By size, by length of life, by both, and by time.
const RULES: [Rule; 4] = [
    |s| (Reverse(u128::from(s.bytes)), s.first),
    |s| (Reverse((s.last - s.first) as u128), s.first),
    |s| (Reverse(u128::from(s.bytes) * (s.last - s.first + 1) as u128), s.first),
    |s| (Reverse(0), s.first),
];

/// The smallest arena of those the fixed orders give, and its order.
fn best_of_fixed_orders(conflicts: &Conflicts) -> (Placement, Vec<u32>) {
    let mut best = (Placement { arena: u64::MAX, offsets: Vec::new() }, Vec::new());
    for rule in RULES {
        let mut order: Vec<u32> = (0..conflicts.spans.len() as u32).collect();
        order.sort_by_key(|i| (rule(&conflicts.spans[*i as usize]), *i));
        for fit in [Fit::Best, Fit::Lowest] {
            let placement = conflicts.assign(&order, fit);
            if placement.arena < best.0.arena {
                best = (placement, order.clone());
            }
            if best.0.arena == conflicts.lower_bound {
                return best;
            }
        }
    }
    best
}

/// Which buffers are alike: size, length of life, and bytes live at its two ends. Those of equal layers are.
type Kind = (u64, usize, u64, u64);

fn kinds(conflicts: &Conflicts) -> Vec<Kind> {
    let end = conflicts.spans.iter().map(|s| s.last + 1).max().unwrap_or(0);
    let mut live = vec![0u64; end + 1];
    for span in conflicts.spans {
        live[span.first] = live[span.first].wrapping_add(span.bytes);
        live[span.last + 1] = live[span.last + 1].wrapping_sub(span.bytes);
    }
    for at in 1..live.len() {
        live[at] = live[at].wrapping_add(live[at - 1]);
    }
    conflicts.spans.iter().map(|s| (s.bytes, s.last - s.first, live[s.first], live[s.last])).collect()
}

/// Orders of placement in which buffers of one kind follow each other.
struct ByKind<'a> {
    conflicts: &'a Conflicts<'a>,
    /// The kind of each buffer, as an index of `members`.
    kind: Vec<usize>,
    members: Vec<Vec<u32>>,
    /// Kinds, those placed first in front.
    order: Vec<usize>,
}

impl<'a> ByKind<'a> {
    /// Kinds in the order in which their first buffer stands in `order`.
    fn new(conflicts: &'a Conflicts<'a>, order: &[u32]) -> ByKind<'a> {
        let (kinds, mut ids) = (kinds(conflicts), HashMap::new());
        let mut by_kind = ByKind { conflicts, kind: vec![0; order.len()], members: Vec::new(), order: Vec::new() };
        for index in order {
            let id = *ids.entry(kinds[*index as usize]).or_insert(by_kind.members.len());
            if id == by_kind.members.len() {
                by_kind.members.push(Vec::new());
                by_kind.order.push(id);
            }
            by_kind.members[id].push(*index);
            by_kind.kind[*index as usize] = id;
        }
        by_kind
    }

    fn place(&self) -> Placement {
        let order: Vec<u32> = self.order.iter().flat_map(|kind| self.members[*kind].iter().copied()).collect();
        self.conflicts.assign(&order, Fit::Lowest)
    }

    /// Moves the kinds of these buffers to the front, in their order.
    fn promote(&mut self, buffers: &[u32]) {
        let mut front: Vec<usize> = Vec::new();
        for index in buffers {
            let kind = self.kind[*index as usize];
            if !front.contains(&kind) {
                front.push(kind);
            }
        }
        self.order.retain(|kind| !front.contains(kind));
        self.order.splice(0..0, front);
    }
}

/// Again and again, places the launches around the arena's top exactly, then everything with buffers of these kinds first.
fn solve_windows(conflicts: &Conflicts, by_kind: &mut ByKind, best: &mut Placement) {
    let mut last = best.clone();
    for round in 0..TRIES {
        let most = SMALLEST_WINDOW + round % WINDOW_SIZES * (EXACT_BUFFERS - SMALLEST_WINDOW) / (WINDOW_SIZES - 1);
        by_kind.promote(&exact_order(conflicts, &window(conflicts, &last, most), best.arena));
        last = by_kind.place();
        if last.arena < best.arena {
            *best = last.clone();
        }
        if best.arena == conflicts.lower_bound {
            return;
        }
    }
}

/// Moves a kind of which a buffer ends above the lower bound to an earlier place in the order, at random but the same in every
/// run, and keeps what is no worse. Now and then it goes on from what is.
fn move_kinds(conflicts: &Conflicts, by_kind: &mut ByKind, best: &mut Placement) {
    let bound = conflicts.lower_bound;
    let excess = |placement: &Placement| -> u128 {
        let ends = placement.offsets.iter().zip(conflicts.spans).map(|(offset, span)| offset + span.bytes);
        ends.map(|end| u128::from(end.saturating_sub(bound))).sum()
    };
    let tries = (MOVE_WORK / (conflicts.pairs() + conflicts.spans.len() + 1)).min(MOST_MOVES);
    let mut draw = Draw(1);
    let mut current = by_kind.place();
    for _ in 0..tries {
        let above = |i: &usize| current.offsets[*i] + conflicts.spans[*i].bytes > bound;
        let offending: Vec<usize> = (0..conflicts.spans.len()).filter(above).collect();
        let Some(buffer) = offending.get(draw.below(offending.len())) else { return };
        let from = by_kind.order.iter().position(|kind| *kind == by_kind.kind[*buffer]).unwrap_or(0);
        let (from, to) = match draw.below(3) {
            0 => (draw.below(by_kind.order.len()), draw.below(by_kind.order.len())),
            _ => (from, draw.below(from + 1)),
        };
        let moved = by_kind.order.remove(from);
        by_kind.order.insert(to, moved);
        let next = by_kind.place();
        if next.arena < best.arena {
            *best = next.clone();
        }
        if best.arena == bound {
            return;
        }
        let keep = (next.arena, excess(&next)) <= (current.arena, excess(&current)) || draw.below(16) == 0;
        if keep {
            current = next;
        } else {
            let moved = by_kind.order.remove(to);
            by_kind.order.insert(from, moved);
        }
    }
}

/// Numbers that look random: Knuth's linear congruential generator (MMIX).
struct Draw(u64);

impl Draw {
    /// A number below `end`, or 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize).checked_rem(end).unwrap_or(0)
    }
}

/// The buffers that live around the first that reaches the arena's top: those of the launch with the largest live set in its life, then
/// of launches on both sides, as many as `most`.
fn window(conflicts: &Conflicts, placement: &Placement, most: usize) -> Vec<u32> {
    let spans = conflicts.spans;
    let reaches = |i: &u32| placement.offsets[*i as usize] + spans[*i as usize].bytes == placement.arena;
    let Some(top) = (0..spans.len() as u32).find(reaches) else { return Vec::new() };
    let (from, to) = (spans[top as usize].first, spans[top as usize].last);
    // Of what lives with the top, the nearest in time; a buffer that spans many launches counts as near.
    let distance = |i: &u32| {
        let span = spans[*i as usize];
        (span.first.max(from) - from.min(span.first)).min(span.last.max(to) - to.min(span.last))
    };
    let mut near: Vec<u32> = conflicts.of(top).to_vec();
    for i in conflicts.of(top).iter().filter(|i| spans[**i as usize].last - spans[**i as usize].first <= most) {
        near.extend(conflicts.of(*i));
    }
    near.push(top);
    near.sort_unstable();
    near.dedup();
    near.sort_by_key(|i| (*i != top, distance(i), *i));
    near.truncate(most);
    near
}

/// The buffers of a window in the order of their offsets in a placement below `arena`, if the exact search finds one; else the largest
/// first.
fn exact_order(conflicts: &Conflicts, window: &[u32], arena: u64) -> Vec<u32> {
    let spans: Vec<Span> = window.iter().map(|i| conflicts.spans[*i as usize]).collect();
    let part = Conflicts::new(&spans);
    let mut best = Placement { arena, offsets: Vec::new() };
    Exact::new(&part, conflicts.lower_bound, &mut best).run();
    let mut order: Vec<usize> = (0..window.len()).collect();
    match best.offsets.is_empty() {
        true => order.sort_by_key(|i| (Reverse(spans[*i].bytes), *i)),
        false => order.sort_by_key(|i| (best.offsets[*i], *i)),
    }
    order.into_iter().map(|i| window[i]).collect()
}

/// Branch and bound over the orders of placement with each buffer at the lowest gap. Of orders that give the same placement only
/// that is looked at in which offsets do not fall: any smallest placement, its buffers pushed down until none moves, is reached in
/// this way. What is still to be placed then comes to lie above what is there, which bounds the arena from below.
struct Exact<'a> {
    conflicts: &'a Conflicts<'a>,
    /// An arena that need not be improved.
    enough: u64,
    best: &'a mut Placement,
    offsets: Vec<Option<u64>>,
    /// The launches at which some buffer's life begins, and of each the end of what is placed and the bytes to come.
    starts: Vec<usize>,
    tops: Vec<u64>,
    to_come: Vec<u64>,
    steps: usize,
    scratch: Vec<(u64, u64)>,
}

impl<'a> Exact<'a> {
    fn new(conflicts: &'a Conflicts<'a>, enough: u64, best: &'a mut Placement) -> Exact<'a> {
        let spans = conflicts.spans;
        let mut starts: Vec<usize> = spans.iter().map(|s| s.first).collect();
        starts.sort_unstable();
        starts.dedup();
        let live = |at: &usize| spans.iter().filter(|s| s.first <= *at && *at <= s.last).map(|s| s.bytes).sum();
        let to_come = starts.iter().map(live).collect();
        let (offsets, tops) = (vec![None; spans.len()], vec![0; starts.len()]);
        Exact { conflicts, enough, best, offsets, starts, tops, to_come, steps: 0, scratch: Vec::new() }
    }

    fn run(&mut self) {
        self.place_next(self.offsets.len(), (0, 0), 0);
    }

    /// Tries each buffer that can come next at `floor` (offset and index of the one before) or above.
    fn place_next(&mut self, left: usize, floor: (u64, u32), arena: u64) {
        if left == 0 {
            let offsets = self.offsets.iter().map(|o| o.unwrap_or_default()).collect();
            *self.best = Placement { arena, offsets };
            return;
        }
        let Some(candidates) = self.candidates(floor.0) else { return };
        for (offset, _, index) in candidates {
            if self.best.arena <= self.enough || self.steps >= EXACT_STEPS {
                return;
            }
            self.steps += 1;
            let arena = arena.max(offset + self.conflicts.spans[index as usize].bytes);
            if (offset, index) < floor || arena >= self.best.arena {
                continue;
            }
            let undo = self.put(index, offset);
            if self.least(offset) < self.best.arena {
                self.place_next(left - 1, (offset, index), arena);
            }
            self.take(index, undo);
        }
    }

    /// The buffers to come with their offsets now, the lowest first, of those the largest. `None` if one would stand below `floor`
    /// entirely: nothing placed later can lift it.
    fn candidates(&mut self, floor: u64) -> Option<Vec<(u64, Reverse<u64>, u32)>> {
        let mut candidates = Vec::new();
        for index in (0..self.offsets.len() as u32).filter(|i| self.offsets[*i as usize].is_none()) {
            let offset = self.conflicts.offset(index, &self.offsets, Fit::Lowest, &mut self.scratch);
            let bytes = self.conflicts.spans[index as usize].bytes;
            if bytes > 0 && offset + bytes <= floor {
                return None;
            }
            candidates.push((offset, Reverse(bytes), index));
        }
        candidates.sort_unstable();
        Some(candidates)
    }

    /// The launches of `starts` in a buffer's life.
    fn life(&self, index: u32) -> Range<usize> {
        let span = self.conflicts.spans[index as usize];
        self.starts.partition_point(|at| *at < span.first)..self.starts.partition_point(|at| *at <= span.last)
    }

    /// Places a buffer; gives the tops that were there.
    fn put(&mut self, index: u32, offset: u64) -> Vec<u64> {
        let (life, bytes) = (self.life(index), self.conflicts.spans[index as usize].bytes);
        let before = self.tops[life.clone()].to_vec();
        self.tops[life.clone()].iter_mut().for_each(|top| *top = (*top).max(offset + bytes));
        self.to_come[life].iter_mut().for_each(|left| *left -= bytes);
        self.offsets[index as usize] = Some(offset);
        before
    }

    fn take(&mut self, index: u32, tops: Vec<u64>) {
        let (life, bytes) = (self.life(index), self.conflicts.spans[index as usize].bytes);
        self.tops[life.clone()].copy_from_slice(&tops);
        self.to_come[life].iter_mut().for_each(|left| *left += bytes);
        self.offsets[index as usize] = None;
    }

    /// The least arena there can be, if all that is to come stands at `floor` or above.
    fn least(&self, floor: u64) -> u64 {
        let each = self
            .tops
            .iter()
            .zip(&self.to_come)
            .map(|(top, left)| if *left > 0 { floor.max(*top) + left } else { *top });
        each.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spans(most: usize) -> impl Strategy<Value = Vec<Span>> {
        let span = (0..12usize, 0..6usize, 1..40u64).prop_map(|(first, length, blocks)| Span {
            first,
            last: first + length,
            bytes: blocks * 256,
        });
        prop::collection::vec(span, 1..=most)
    }

    /// The smallest arena, over every order of placement at the lowest gap, which some order of a smallest placement reaches.
    fn smallest(conflicts: &Conflicts, order: &mut Vec<u32>, fixed: usize) -> u64 {
        if fixed == order.len() {
            return conflicts.assign(order, Fit::Lowest).arena;
        }
        let mut best = u64::MAX;
        for i in fixed..order.len() {
            order.swap(fixed, i);
            best = best.min(smallest(conflicts, order, fixed + 1));
            order.swap(fixed, i);
        }
        best
    }

    fn overlaps(spans: &[Span], placement: &Placement) -> bool {
        let end = |i: usize| placement.offsets[i] + spans[i].bytes;
        let meet = |i: usize, j: usize| {
            let in_time = spans[i].first <= spans[j].last && spans[j].first <= spans[i].last;
            in_time && placement.offsets[i] < end(j) && placement.offsets[j] < end(i)
        };
        (0..spans.len()).any(|i| end(i) > placement.arena || (0..i).any(|j| meet(i, j)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_search_is_as_good_as_trying_every_order(spans in spans(6)) {
            let conflicts = Conflicts::new(&spans);
            let mut order: Vec<u32> = (0..spans.len() as u32).collect();
            let placement = place(&spans);
            prop_assert!(!overlaps(&spans, &placement));
            prop_assert_eq!(placement.arena, smallest(&conflicts, &mut order, 0));
        }

        #[test]
        fn larger_programs_are_placed_without_overlaps(spans in spans(60)) {
            let placement = place(&spans);
            prop_assert!(!overlaps(&spans, &placement));
            prop_assert!(placement.arena >= Conflicts::new(&spans).lower_bound);
            prop_assert_eq!(&placement, &place(&spans));
        }
    }
}

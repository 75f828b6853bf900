//! Assignment of offsets: buffers one at a time in a given order, each to a gap among those live at the same time.
//!
//! Which buffers live at the same time is worked out once for all tries. See Pisarchyk and Lee, "Efficient Memory Management for
//! Deep Neural Net Inference" (2020), for the greedy rule; the choice between the smallest gap and the lowest is ours.

/// A buffer to place: first and last launch of its life, both included, and its aligned size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub first: usize,
    pub last: usize,
    pub bytes: u64,
}

/// A complete placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// Bytes of the arena.
    pub arena: u64,
    /// First byte of each buffer.
    pub offsets: Vec<u64>,
}

/// Which gap a buffer goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The smallest that is large enough: it leaves large gaps whole.
    Best,
    /// The lowest that is large enough: some order of buffers then gives the smallest arena there is.
    Lowest,
}

/// The buffers and, of each, those that live at the same time.
pub(super) struct Conflicts<'a> {
    pub spans: &'a [Span],
    neighbours: Vec<Vec<u32>>,
    /// The largest live set.
    pub lower_bound: u64,
}

impl<'a> Conflicts<'a> {
    /// Finds all pairs that live at the same time, in time proportional to their number.
    pub fn new(spans: &'a [Span]) -> Conflicts<'a> {
        let mut by_start: Vec<u32> = (0..spans.len() as u32).collect();
        by_start.sort_by_key(|i| spans[*i as usize].first);
        let mut neighbours = vec![Vec::new(); spans.len()];
        let (mut live, mut lower_bound): (Vec<u32>, u64) = (Vec::new(), 0);
        for index in by_start {
            let span = spans[index as usize];
            live.retain(|other| spans[*other as usize].last >= span.first);
            for other in &live {
                neighbours[*other as usize].push(index);
                neighbours[index as usize].push(*other);
            }
            live.push(index);
            lower_bound = lower_bound.max(live.iter().map(|i| spans[*i as usize].bytes).sum());
        }
        Conflicts { spans, neighbours, lower_bound }
    }

    /// Buffers that live at the same time as buffer `index`.
    pub fn of(&self, index: u32) -> &[u32] {
        &self.neighbours[index as usize]
    }

    /// Number of pairs that live at the same time.
    pub fn pairs(&self) -> usize {
        self.neighbours.iter().map(Vec::len).sum::<usize>() / 2
    }

    /// Places all buffers in an order.
    pub fn assign(&self, order: &[u32], fit: Fit) -> Placement {
        let mut offsets = vec![None; self.spans.len()];
        let (mut arena, mut taken) = (0, Vec::new());
        for index in order {
            let offset = self.offset(*index, &offsets, fit, &mut taken);
            offsets[*index as usize] = Some(offset);
            arena = arena.max(offset + self.spans[*index as usize].bytes);
        }
        Placement { arena, offsets: offsets.into_iter().map(Option::unwrap_or_default).collect() }
    }

    /// Where a buffer goes among those placed; `taken` is scratch.
    pub fn offset(&self, index: u32, offsets: &[Option<u64>], fit: Fit, taken: &mut Vec<(u64, u64)>) -> u64 {
        let bytes = self.spans[index as usize].bytes;
        taken.clear();
        let placed = |other: &u32| offsets[*other as usize].map(|at| (at, at + self.spans[*other as usize].bytes));
        taken.extend(self.of(index).iter().filter_map(placed));
        taken.sort_unstable();
        let mut end = 0;
        let mut best: Option<(u64, u64)> = None;
        for (start, stop) in taken.iter() {
            let gap = start.saturating_sub(end);
            if gap >= bytes && best.is_none_or(|(size, _)| gap < size) {
                best = Some((gap, end));
                if fit == Fit::Lowest {
                    break;
                }
            }
            end = end.max(*stop);
        }
        best.map_or(end, |(_, start)| start)
    }
}

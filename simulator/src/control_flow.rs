//! The flow graph of a kernel: the order in which lanes that parted run, so that they meet again, and which registers are alive where.

use std::collections::{HashMap, HashSet};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

/// What the flow graph needs to know of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Next,
    /// To a position; `conditional` branches also fall through.
    Branch {
        target: usize,
        conditional: bool,
    },
    /// Ends the thread; a guarded one also falls through.
    Exit {
        conditional: bool,
    },
}

/// A maximal run of instructions entered only at its start and left only at its end.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub start: usize,
    pub end: usize,
    /// The block behind this one, if lanes may go on there.
    pub next: Option<usize>,
    /// The block that its last instruction branches to.
    pub target: Option<usize>,
}

impl Block {
    fn successors(&self) -> impl Iterator<Item = usize> + use<> {
        [self.next, self.target].into_iter().flatten()
    }
}

/// Splits instructions into basic blocks; a target equal to the length means the end of the kernel.
pub(crate) fn blocks(flow: &[Flow]) -> Vec<Block> {
    let mut leader = vec![false; flow.len() + 1];
    leader[0] = true;
    for (at, kind) in flow.iter().enumerate() {
        if let Flow::Branch { target, .. } = *kind {
            leader[target] = true;
        }
        if *kind != Flow::Next {
            leader[at + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..flow.len()).filter(|&i| leader[i]).collect();
    let block_at = |position: usize| starts.binary_search(&position).ok();
    let ends = starts.iter().skip(1).copied().chain([flow.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| {
            let (target, falls) = match flow[end - 1] {
                Flow::Next => (None, true),
                Flow::Branch { target, conditional } => (block_at(target), conditional),
                Flow::Exit { conditional } => (None, conditional),
            };
            Block { start, end, next: if falls { block_at(end) } else { None }, target }
        })
        .collect()
}

/// Where a block stands in the order in which lanes that parted run, and where lanes that leave it arrive.
///
/// Of lanes at several places those of the lowest rank run, so those of higher ranks wait for them, and lanes of one rank are together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ranks {
    /// Rank at which the block behind this one is entered from it, or [`NOWHERE`] if it never falls through.
    pub falls: u32,
    /// Rank at which the target of its branch is entered, or [`NOWHERE`].
    pub jumps: u32,
    /// The block that its branch goes to.
    pub target: u32,
}

/// No rank: greater than all.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// The ranks of an order in which every block stands behind those that reach it, but for jumps back to the head of a loop: a loop's blocks
/// stand together, and behind them the place where lanes that have finished an iteration wait for those that have not (a weak topological
/// order: Bourdoncle, Efficient chaotic iteration strategies with widenings, 1993).
///
/// So lanes meet at the first block that they can share, as the thread frontiers of Diamos et al. (SIMD re-convergence at thread frontiers,
/// 2011) do. An immediate post-dominator would be later wherever one path through a branch's arms leaves a loop or the kernel.
pub(crate) fn ranks(blocks: &[Block]) -> Vec<Ranks> {
    let (enter, again) = order(blocks);
    let arrival = |from: usize, to: usize| if enter[to] <= enter[from] { again[to] } else { enter[to] };
    (0..blocks.len())
        .map(|at| {
            let block = &blocks[at];
            let falls = block.next.map_or(NOWHERE, |to| arrival(at, to));
            let (jumps, target) = block.target.map_or((NOWHERE, 0), |to| (arrival(at, to), to as u32));
            Ranks { falls, jumps, target }
        })
        .collect()
}

/// A step of [`order`] that is still to be done.
enum Pending {
    Enter(usize),
    /// The place behind the loop of which this is the head.
    Again(usize),
    Blocks(Vec<usize>),
}

/// For each block its rank, and for heads of loops that at which a next iteration begins.
fn order(blocks: &[Block]) -> (Vec<u32>, Vec<u32>) {
    let (mut enter, mut again) = (vec![NOWHERE; blocks.len()], vec![NOWHERE; blocks.len()]);
    let entries = Entries::new(blocks);
    let mut pending = vec![Pending::Blocks((0..blocks.len()).collect())];
    let mut next = 0;
    while let Some(step) = pending.pop() {
        match step {
            Pending::Enter(at) => enter[at] = next,
            Pending::Again(at) => again[at] = next,
            Pending::Blocks(all) => {
                // Components come last to first, as a stack wants them.
                for component in components(blocks, &all) {
                    match entries.head(blocks, &component) {
                        None => pending.push(Pending::Enter(component[0])),
                        Some(head) => {
                            pending.push(Pending::Again(head));
                            pending.push(Pending::Blocks(component.into_iter().filter(|&b| b != head).collect()));
                            pending.push(Pending::Enter(head));
                        }
                    }
                }
                continue;
            }
        }
        next += 1;
    }
    (enter, again)
}

/// Strongly connected components of a part of the graph, those that are reached last first.
fn components(blocks: &[Block], part: &[usize]) -> Vec<Vec<usize>> {
    let mut graph = DiGraph::<usize, ()>::with_capacity(part.len(), 2 * part.len());
    let nodes: HashMap<usize, NodeIndex> = part.iter().map(|&at| (at, graph.add_node(at))).collect();
    for &at in part {
        for to in blocks[at].successors().filter_map(|to| nodes.get(&to)) {
            graph.add_edge(nodes[&at], *to, ());
        }
    }
    kosaraju_scc(&graph).into_iter().map(|all| all.into_iter().map(|node| graph[node]).collect()).collect()
}

/// From where each block is entered, if the kernel's start reaches it.
struct Entries {
    predecessors: Vec<Vec<usize>>,
}

impl Entries {
    fn new(blocks: &[Block]) -> Entries {
        let mut predecessors = vec![Vec::new(); blocks.len()];
        let mut reached = vec![false; blocks.len()];
        let mut pending = vec![0];
        while let Some(at) = pending.pop() {
            if !std::mem::replace(&mut reached[at], true) {
                blocks[at].successors().for_each(|to| predecessors[to].push(at));
                pending.extend(blocks[at].successors());
            }
        }
        Entries { predecessors }
    }

    /// The head of a component that is a loop: the first of its blocks that is entered from outside.
    fn head(&self, blocks: &[Block], component: &[usize]) -> Option<usize> {
        if let [at] = component {
            return blocks[*at].successors().any(|to| to == *at).then_some(*at);
        }
        let members: HashSet<usize> = component.iter().copied().collect();
        let entered = |at: usize| at == 0 || self.predecessors[at].iter().any(|from| !members.contains(from));
        component.iter().copied().filter(|&at| entered(at)).min().or(component.iter().copied().min())
    }
}

/// Per register the first and last position at which it holds a value that is needed, or `None` if it never is.
///
/// `defines` and `uses` give the registers of an instruction; a definition under a guard keeps the old value alive.
pub(crate) fn live_ranges(
    blocks: &[Block],
    registers: usize,
    defines: &[Vec<u32>],
    uses: &[Vec<u32>],
    guarded: &[bool],
) -> Vec<Option<(usize, usize)>> {
    let words = registers.div_ceil(64);
    let mut live_in = vec![vec![0u64; words]; blocks.len()];
    let step = |live: &mut Vec<u64>, at: usize| {
        if !guarded[at] {
            for &r in &defines[at] {
                live[r as usize / 64] &= !(1 << (r % 64));
            }
        }
        for &r in &uses[at] {
            live[r as usize / 64] |= 1 << (r % 64);
        }
    };
    let mut changed = true;
    while changed {
        changed = false;
        for at in (0..blocks.len()).rev() {
            let mut live = live_out(&blocks[at], &live_in, words);
            for position in (blocks[at].start..blocks[at].end).rev() {
                step(&mut live, position);
            }
            if live != live_in[at] {
                live_in[at] = live;
                changed = true;
            }
        }
    }
    let mut ranges: Vec<Option<(usize, usize)>> = vec![None; registers];
    let mut extend = |register: usize, position: usize| {
        let range = ranges[register].get_or_insert((position, position));
        *range = (range.0.min(position), range.1.max(position));
    };
    for (at, block) in blocks.iter().enumerate() {
        for_each_bit(&live_in[at], |r| extend(r, block.start));
        for_each_bit(&live_out(block, &live_in, words), |r| extend(r, block.end - 1));
        for position in block.start..block.end {
            defines[position].iter().chain(&uses[position]).for_each(|&r| extend(r as usize, position));
        }
    }
    ranges
}

fn live_out(block: &Block, live_in: &[Vec<u64>], words: usize) -> Vec<u64> {
    let mut live = vec![0u64; words];
    for successor in block.successors() {
        live.iter_mut().zip(&live_in[successor]).for_each(|(l, s)| *l |= s);
    }
    live
}

fn for_each_bit(words: &[u64], mut f: impl FnMut(usize)) {
    for (index, &word) in words.iter().enumerate() {
        let mut rest = word;
        while rest != 0 {
            f(index * 64 + rest.trailing_zeros() as usize);
            rest &= rest - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0: branch to 3 or on; 1, 2: one arm, jumps to 4; 3: the other; 4: exit.
    const DIAMOND: [Flow; 5] = [
        Flow::Branch { target: 3, conditional: true },
        Flow::Next,
        Flow::Branch { target: 4, conditional: false },
        Flow::Next,
        Flow::Exit { conditional: false },
    ];

    fn ranks_of(flow: &[Flow]) -> Vec<[u32; 2]> {
        ranks(&blocks(flow)).iter().map(|r| [r.falls, r.jumps]).collect()
    }

    #[test]
    fn a_diamond_meets_behind_both_arms() {
        let blocks = blocks(&DIAMOND);
        assert_eq!(blocks.iter().map(|b| b.start).collect::<Vec<_>>(), [0, 1, 3, 4]);
        let (enter, _) = order(&blocks);
        assert!(enter[0] == 0 && enter[3] == 3);
        assert_eq!(ranks_of(&DIAMOND)[1..], [[NOWHERE, 3], [3, NOWHERE], [NOWHERE; 2]]);
    }

    #[test]
    fn an_iteration_begins_when_all_lanes_have_left_the_last() {
        // 0: head, leaves for 4 or falls; 1: back to 0 at once or falls; 2: work; 3: back to 0; 4: behind the loop.
        let flow = [
            Flow::Branch { target: 4, conditional: true },
            Flow::Branch { target: 0, conditional: true },
            Flow::Next,
            Flow::Branch { target: 0, conditional: false },
            Flow::Exit { conditional: false },
        ];
        // Both jumps back arrive at 3, behind the loop's blocks 0, 1 and 2 and before what follows it.
        assert_eq!(ranks_of(&flow), [[1, 4], [2, 3], [NOWHERE, 3], [NOWHERE; 2]]);
    }

    #[test]
    fn a_loop_entered_in_the_middle_and_code_never_reached_have_ranks() {
        // 0: into the loop at 2 or at 1; 1, 2: the loop; 3: behind it; 4: never reached, jumps into the loop.
        let flow = [
            Flow::Branch { target: 2, conditional: true },
            Flow::Next,
            Flow::Branch { target: 1, conditional: true },
            Flow::Exit { conditional: false },
            Flow::Branch { target: 2, conditional: false },
        ];
        let (enter, again) = order(&blocks(&flow));
        let mut all: Vec<u32> = enter.iter().chain(&again).copied().filter(|&r| r != NOWHERE).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5]);
        assert_eq!(again.iter().filter(|&&r| r != NOWHERE).count(), 1);
        assert!(enter[1].max(enter[2]) < again[1] && again[1] < enter[3]);
    }

    #[test]
    fn a_loop_keeps_its_register_alive_throughout() {
        // 0: r0 = …; 1: r1 = …; 2: uses r1; 3: back to 1; 4: uses r0
        let flow = [
            Flow::Next,
            Flow::Next,
            Flow::Next,
            Flow::Branch { target: 1, conditional: true },
            Flow::Exit { conditional: false },
        ];
        let defines = vec![vec![0], vec![1], vec![], vec![], vec![]];
        let uses = vec![vec![], vec![], vec![1], vec![], vec![0]];
        let ranges = live_ranges(&blocks(&flow), 2, &defines, &uses, &[false; 5]);
        assert_eq!(ranges, [Some((0, 4)), Some((1, 2))]);
    }
}

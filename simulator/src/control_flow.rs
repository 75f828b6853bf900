//! The flow graph of a kernel: where lanes that part at a branch meet again, and which registers are alive where.

use petgraph::algo::dominators::simple_fast;
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
    pub successors: Vec<usize>,
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
            let successors = match flow[end - 1] {
                Flow::Next => vec![block_at(end)],
                Flow::Branch { target, conditional: false } => vec![block_at(target)],
                Flow::Branch { target, .. } => vec![block_at(target), block_at(end)],
                Flow::Exit { conditional: false } => vec![],
                Flow::Exit { .. } => vec![block_at(end)],
            };
            Block { start, end, successors: successors.into_iter().flatten().collect() }
        })
        .collect()
}

/// For each block, the position where it is immediately post-dominated: the first instruction that all its paths reach, or `end` (the
/// number of instructions) if they meet only in the exit.
pub(crate) fn reconvergence(blocks: &[Block], end: usize) -> Vec<usize> {
    // Reversed graph: edges from successors, rooted in one exit.
    let mut graph = DiGraph::<(), ()>::new();
    let nodes: Vec<NodeIndex> = (0..=blocks.len()).map(|_| graph.add_node(())).collect();
    let exit = nodes[blocks.len()];
    for (at, block) in blocks.iter().enumerate() {
        for &successor in &block.successors {
            graph.add_edge(nodes[successor], nodes[at], ());
        }
        if block.successors.is_empty() || leaves(block, end) {
            graph.add_edge(exit, nodes[at], ());
        }
    }
    let dominators = simple_fast(&graph, exit);
    (0..blocks.len())
        .map(|at| match dominators.immediate_dominator(nodes[at]) {
            Some(node) if node != exit => blocks[node.index()].start,
            _ => end,
        })
        .collect()
}

/// A block that may also leave the kernel: its last instruction ends some lanes, or it runs past the end.
fn leaves(block: &Block, end: usize) -> bool {
    block.end == end
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
    for &successor in &block.successors {
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

    #[test]
    fn a_diamond_meets_behind_both_arms() {
        let blocks = blocks(&DIAMOND);
        assert_eq!(blocks.iter().map(|b| b.start).collect::<Vec<_>>(), [0, 1, 3, 4]);
        assert_eq!(reconvergence(&blocks, 5), [4, 4, 4, 5]);
    }

    #[test]
    fn a_guarded_exit_does_not_move_the_meeting_place_before_the_end() {
        let flow = [
            Flow::Branch { target: 2, conditional: true },
            Flow::Exit { conditional: false },
            Flow::Next,
            Flow::Exit { conditional: false },
        ];
        assert_eq!(reconvergence(&blocks(&flow), 4), [4, 4, 4]);
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

//! Scheduling: the order of launches.
//!
//! Any order that respects data and state dependencies is correct; the one chosen keeps little memory live. A greedy walk
//! takes, of the launches that are ready, the one that adds least to the live bytes; graph order is kept where it is better.

use std::collections::HashMap;

use ir::program::{Access, Arg, BufferId, Program};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use crate::lower::Lowered;

/// Reorders the launches of a lowered program.
pub fn schedule(mut lowered: Lowered) -> Lowered {
    let order = greedy_order(&lowered.program);
    let reordered = permute(&lowered.program, &order);
    if reordered.arena_lower_bound() < lowered.program.arena_lower_bound() {
        let mut new_index = vec![0; order.len()];
        order.iter().enumerate().for_each(|(new, old)| new_index[*old] = new);
        lowered.in_place.iter_mut().for_each(|p| p.launch = new_index[p.launch]);
        lowered.program = reordered;
    }
    lowered
}

fn permute(program: &Program, order: &[usize]) -> Program {
    Program { launches: order.iter().map(|i| program.launches[*i].clone()).collect(), ..program.clone() }
}

/// The dependencies between launches: a writer before its readers, accesses of one state in order where one updates it.
fn dependencies(program: &Program) -> DiGraph<usize, ()> {
    let mut graph = DiGraph::new();
    let mut writers: HashMap<BufferId, NodeIndex> = HashMap::new();
    let mut updates: HashMap<u32, NodeIndex> = HashMap::new();
    let mut reads: HashMap<u32, Vec<NodeIndex>> = HashMap::new();
    for (i, launch) in program.launches.iter().enumerate() {
        let node = graph.add_node(i);
        for (_, arg) in &launch.args {
            match arg {
                Arg::Buffer(id, Access::Read | Access::Update) => {
                    writers.get(id).into_iter().for_each(|w| {
                        graph.update_edge(*w, node, ());
                    });
                }
                Arg::State(state, access) => {
                    updates.get(state).into_iter().for_each(|w| {
                        graph.update_edge(*w, node, ());
                    });
                    if *access == Access::Read {
                        reads.entry(*state).or_default().push(node);
                    } else {
                        let earlier = reads.remove(state).unwrap_or_default();
                        earlier.into_iter().for_each(|r| {
                            graph.update_edge(r, node, ());
                        });
                        updates.insert(*state, node);
                    }
                }
                _ => {}
            }
        }
        for (_, arg) in &launch.args {
            if let Arg::Buffer(id, Access::Write | Access::Update) = arg {
                writers.insert(*id, node);
            }
        }
    }
    graph
}

fn greedy_order(program: &Program) -> Vec<usize> {
    let graph = dependencies(program);
    let mut live = LiveBytes::new(program);
    let mut waiting: Vec<usize> =
        graph.node_indices().map(|n| graph.edges_directed(n, petgraph::Incoming).count()).collect();
    let mut ready: Vec<usize> = (0..waiting.len()).filter(|i| waiting[*i] == 0).collect();
    let mut order = Vec::with_capacity(waiting.len());
    while let Some(best) = ready.iter().copied().min_by_key(|i| (live.growth(program, *i), *i)) {
        ready.retain(|i| *i != best);
        live.run(program, best);
        order.push(best);
        for edge in graph.edges(NodeIndex::new(best)) {
            let next = edge.target().index();
            waiting[next] -= 1;
            if waiting[next] == 0 {
                ready.push(next);
            }
        }
    }
    order
}

/// Which buffers are live as launches run, and how many uses each has left.
struct LiveBytes {
    bytes: Vec<i64>,
    uses_left: Vec<usize>,
    live: Vec<bool>,
}

impl LiveBytes {
    fn new(program: &Program) -> LiveBytes {
        let bounds = program.upper_bounds();
        let bytes = program.buffers.iter().map(|b| b.ty.bytes(&bounds).unwrap_or(u64::MAX / 2) as i64).collect();
        let mut uses_left = vec![0; program.buffers.len()];
        for launch in &program.launches {
            touched(launch).for_each(|id| uses_left[id.0 as usize] += 1);
        }
        program.outputs.iter().for_each(|(_, id)| uses_left[id.0 as usize] += 1);
        LiveBytes { bytes, uses_left, live: vec![false; program.buffers.len()] }
    }

    /// Bytes that running launch `i` adds to the live set, net of what it frees.
    fn growth(&self, program: &Program, i: usize) -> i64 {
        let mut uses: HashMap<BufferId, usize> = HashMap::new();
        touched(&program.launches[i]).for_each(|id| *uses.entry(id).or_default() += 1);
        uses.into_iter()
            .map(|(id, uses)| {
                let b = id.0 as usize;
                let added = if self.live[b] { 0 } else { self.bytes[b] };
                let freed = if self.uses_left[b] == uses { self.bytes[b] } else { 0 };
                added - freed
            })
            .sum()
    }

    fn run(&mut self, program: &Program, i: usize) {
        for id in touched(&program.launches[i]) {
            let b = id.0 as usize;
            self.uses_left[b] -= 1;
            self.live[b] = self.uses_left[b] > 0;
        }
    }
}

fn touched(launch: &ir::program::Launch) -> impl Iterator<Item = BufferId> + '_ {
    launch.args.iter().filter_map(|(_, a)| if let Arg::Buffer(id, _) = a { Some(*id) } else { None })
}

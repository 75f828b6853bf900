//! Rebuilding a graph node by node: the shared mechanism of passes that insert, replace or drop nodes.

use std::collections::HashMap;

use ir::graph::{Graph, GraphError, Node, NodeKind, ValueId};

/// Copies a graph into a new one, mapping operands, with `visit` free to add nodes before the copy or to copy differently.
///
/// `visit` gets the new graph, the old value, its node with operands already mapped, and returns the value that stands for it.
pub fn rebuild(
    old: &Graph,
    mut visit: impl FnMut(&mut Graph, ValueId, Node) -> Result<ValueId, GraphError>,
) -> Result<Graph, GraphError> {
    let mut new = Graph { name: old.name.clone(), symbols: old.symbols.clone(), ..Graph::default() };
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    for (value, node) in old.values() {
        let mut node = node.clone();
        if let NodeKind::Op { operands, .. } = &mut node.kind {
            operands.iter_mut().for_each(|o| *o = map.get(o).copied().unwrap_or(*o));
        }
        map.insert(value, visit(&mut new, value, node)?);
    }
    for (name, value) in &old.outputs {
        new.output(name, map.get(value).copied().unwrap_or(*value));
    }
    Ok(new)
}

/// Appends a node as it is.
pub fn keep(graph: &mut Graph, node: Node) -> ValueId {
    graph.nodes.push(node);
    ValueId(graph.nodes.len() as u32 - 1)
}

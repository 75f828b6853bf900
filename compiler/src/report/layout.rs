//! Drawing a graph in ranks from top to bottom, after Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical
//! System Structures" (1981): ranks by longest path, order within a rank by barycentres, then places as near as may be to what a
//! box is joined to. One layer of a model has a few dozen boxes, so the plain form of each step is enough.

/// Room between boxes of one rank, and between ranks, in pixels.
const GAP_X: f64 = 18.0;
const GAP_Y: f64 = 34.0;

/// Sweeps over all ranks for the order, and for the places.
const SWEEPS: usize = 12;

/// A point, in pixels from the top left.
pub type Point = (f64, f64);

/// Where everything is.
#[derive(Debug)]
pub struct Layout {
    /// The middle of each box.
    pub centres: Vec<Point>,
    /// Of each edge the points it passes, from the lower side of one box to the upper side of the other.
    pub routes: Vec<Vec<Point>>,
    /// Size of the drawing.
    pub size: Point,
}

/// A box, or a place that a long edge passes in a rank between its ends.
struct Vertex {
    rank: usize,
    width: f64,
    height: f64,
    x: f64,
    above: Vec<usize>,
    below: Vec<usize>,
}

/// Places boxes of the `sizes` given. Edges go from a box to one of higher index.
pub fn layout(sizes: &[Point], edges: &[(usize, usize)]) -> Layout {
    let (mut vertices, chains) = with_bends(sizes, edges);
    let mut ranks: Vec<Vec<usize>> = vec![Vec::new(); vertices.iter().map(|v| v.rank + 1).max().unwrap_or(0)];
    vertices.iter().enumerate().for_each(|(i, v)| ranks[v.rank].push(i));
    order(&mut ranks, &vertices);
    place(&ranks, &mut vertices);

    let left = vertices.iter().map(|v| v.x - v.width / 2.0).fold(f64::INFINITY, f64::min);
    vertices.iter_mut().for_each(|v| v.x -= left.min(f64::MAX));
    let mut bands = Vec::with_capacity(ranks.len());
    let mut bottom = 0.0;
    for members in &ranks {
        let height = members.iter().map(|v| vertices[*v].height).fold(0.0, f64::max);
        bands.push((bottom, bottom + height));
        bottom += height + GAP_Y;
    }
    let centre = |i: usize| (vertices[i].x, (bands[vertices[i].rank].0 + bands[vertices[i].rank].1) / 2.0);
    let width = vertices.iter().map(|v| v.x + v.width / 2.0).fold(0.0, f64::max);
    Layout {
        centres: (0..sizes.len()).map(centre).collect(),
        routes: routes(&vertices, &chains, &bands),
        size: (width, (bottom - GAP_Y).max(0.0)),
    }
}

/// The boxes and the bends of edges that span several ranks; of each edge the vertices it joins in turn.
fn with_bends(sizes: &[Point], edges: &[(usize, usize)]) -> (Vec<Vertex>, Vec<Vec<usize>>) {
    let rank = ranks_of(sizes.len(), edges);
    let vertex = |rank, (width, height)| Vertex { rank, width, height, x: 0.0, above: vec![], below: vec![] };
    let mut vertices: Vec<Vertex> = sizes.iter().zip(&rank).map(|(size, rank)| vertex(*rank, *size)).collect();
    let mut chains = Vec::new();
    for (from, to) in edges {
        let mut chain = vec![*from];
        for between in rank[*from] + 1..rank[*to] {
            chain.push(vertices.len());
            vertices.push(vertex(between, (2.0, 2.0)));
        }
        chain.push(*to);
        for pair in chain.windows(2) {
            vertices[pair[0]].below.push(pair[1]);
            vertices[pair[1]].above.push(pair[0]);
        }
        chains.push(chain);
    }
    (vertices, chains)
}

/// The longest way to each box; what nothing leads to stands just above what it leads to.
fn ranks_of(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut rank = vec![0usize; count];
    let mut sorted = edges.to_vec();
    sorted.sort_unstable_by_key(|(from, _)| *from);
    for (from, to) in &sorted {
        rank[*to] = rank[*to].max(rank[*from] + 1);
    }
    for source in (0..count).filter(|i| edges.iter().all(|(_, to)| to != i)) {
        let nearest = edges.iter().filter(|(from, _)| *from == source).map(|(_, to)| rank[*to]).min();
        rank[source] = nearest.map_or(0, |rank| rank.saturating_sub(1));
    }
    rank
}

/// Sorts each rank by the mean place of what its members are joined to, rank after rank, down and up; keeps what crosses least.
fn order(ranks: &mut Vec<Vec<usize>>, vertices: &[Vertex]) {
    let mut best = (crossings(ranks, vertices), ranks.clone());
    for sweep in 0..SWEEPS {
        let down = sweep % 2 == 0;
        let mut at = vec![0.0; vertices.len()];
        let indices: Vec<usize> = if down { (0..ranks.len()).collect() } else { (0..ranks.len()).rev().collect() };
        for rank in indices {
            let neighbours = |v: usize| if down { &vertices[v].above } else { &vertices[v].below };
            let mut keyed: Vec<(f64, usize)> = ranks[rank]
                .iter()
                .enumerate()
                .map(|(i, v)| (mean(neighbours(*v).iter().map(|n| at[*n])).unwrap_or(i as f64), *v))
                .collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            ranks[rank] = keyed.into_iter().map(|(_, v)| v).collect();
            ranks[rank].iter().enumerate().for_each(|(i, v)| at[*v] = i as f64);
        }
        let crossings = crossings(ranks, vertices);
        if crossings < best.0 {
            best = (crossings, ranks.clone());
        }
    }
    *ranks = best.1;
}

/// Pairs of edges between neighbouring ranks that cross.
fn crossings(ranks: &[Vec<usize>], vertices: &[Vertex]) -> usize {
    let mut at = vec![0; vertices.len()];
    ranks.iter().flat_map(|rank| rank.iter().enumerate()).for_each(|(i, v)| at[*v] = i);
    let between = |rank: &Vec<usize>| {
        let edges: Vec<(usize, usize)> =
            rank.iter().flat_map(|v| vertices[*v].below.iter().map(|b| (at[*v], at[*b]))).collect();
        let crosses = |(i, a): (usize, &(usize, usize))| {
            edges[i + 1..].iter().filter(|b| (a.0 < b.0 && a.1 > b.1) || (a.0 > b.0 && a.1 < b.1)).count()
        };
        edges.iter().enumerate().map(crosses).sum::<usize>()
    };
    ranks.iter().map(between).sum()
}

/// Gives every vertex its `x`: as near as may be to the mean of what it is joined to, in the order of its rank.
fn place(ranks: &[Vec<usize>], vertices: &mut [Vertex]) {
    for rank in ranks {
        let offsets = offsets(rank, vertices);
        let middle = offsets.last().copied().unwrap_or(0.0) / 2.0;
        rank.iter().zip(offsets).for_each(|(v, offset)| vertices[*v].x = offset - middle);
    }
    for sweep in 0..2 * SWEEPS {
        let indices: Vec<usize> =
            if sweep % 2 == 0 { (0..ranks.len()).collect() } else { (0..ranks.len()).rev().collect() };
        for rank in indices {
            let members = &ranks[rank];
            let offsets = offsets(members, vertices);
            let wanted: Vec<f64> = members
                .iter()
                .zip(&offsets)
                .map(|(v, offset)| {
                    let joined = vertices[*v].above.iter().chain(&vertices[*v].below);
                    mean(joined.map(|n| vertices[*n].x)).unwrap_or(vertices[*v].x) - offset
                })
                .collect();
            let placed = nearest_ascending(&wanted);
            members.iter().zip(placed.iter().zip(offsets)).for_each(|(v, (x, offset))| vertices[*v].x = x + offset);
        }
    }
}

/// How far each member of a rank is from the first when they stand side by side.
fn offsets(rank: &[usize], vertices: &[Vertex]) -> Vec<f64> {
    let mut end = 0.0;
    rank.iter()
        .enumerate()
        .map(|(i, v)| {
            let width = vertices[*v].width;
            let middle = if i == 0 { 0.0 } else { end + GAP_X + width / 2.0 };
            end = middle + width / 2.0;
            middle
        })
        .collect()
}

/// The ascending numbers of least squared distance from those wanted (pool adjacent violators).
fn nearest_ascending(wanted: &[f64]) -> Vec<f64> {
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for w in wanted {
        pools.push((*w, 1));
        while let [.., (a, n), (b, m)] = pools.as_slice()
            && a > b
        {
            let merged = ((a * *n as f64 + b * *m as f64) / (n + m) as f64, n + m);
            pools.truncate(pools.len() - 2);
            pools.push(merged);
        }
    }
    pools.into_iter().flat_map(|(value, count)| std::iter::repeat_n(value, count)).collect()
}

/// The points of each edge; those that end at one box come in side by side, in the order of where they come from. Across the `bands` of
/// the ranks edges run straight down, so that they turn only between ranks and no edge passes behind a box.
fn routes(vertices: &[Vertex], chains: &[Vec<usize>], bands: &[(f64, f64)]) -> Vec<Vec<Point>> {
    let route = |chain: &Vec<usize>| {
        let (first, last) = (&vertices[chain[0]], &vertices[chain[chain.len() - 1]]);
        let mut arriving: Vec<usize> = last.above.clone();
        arriving.sort_by(|a, b| vertices[*a].x.total_cmp(&vertices[*b].x));
        let port = arriving.iter().position(|v| *v == chain[chain.len() - 2]).unwrap_or(0) + 1;
        let share = port as f64 / (arriving.len() + 1) as f64 - 0.5;
        let (from, to) = (bands[first.rank], bands[last.rank]);
        let x = last.x + share * last.width * 0.7;
        let mut points = vec![(first.x, (from.0 + from.1 + first.height) / 2.0), (first.x, from.1)];
        let bends = chain[1..chain.len() - 1].iter().map(|v| &vertices[*v]);
        points.extend(bends.flat_map(|v| [(v.x, bands[v.rank].0), (v.x, bands[v.rank].1)]));
        points.extend([(x, to.0), (x, (to.0 + to.1 - last.height) / 2.0)]);
        points.dedup_by(|a, b| a.1 - b.1 < 1e-9);
        points
    };
    chains.iter().map(route).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), v| (sum + v, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn graph() -> impl Strategy<Value = (Vec<Point>, Vec<(usize, usize)>)> {
        (2..20usize).prop_flat_map(|n| {
            let sizes = prop::collection::vec((20.0..200.0f64, 20.0..60.0f64), n);
            let edges = prop::collection::btree_set((0..n, 0..n), 0..2 * n);
            (sizes, edges.prop_map(|e| e.into_iter().filter(|(a, b)| a < b).collect()))
        })
    }

    proptest! {
        #[test]
        fn boxes_do_not_overlap_and_edges_go_down((sizes, edges) in graph()) {
            let layout = layout(&sizes, &edges);
            for (i, a) in layout.centres.iter().enumerate() {
                prop_assert!(a.0 - sizes[i].0 / 2.0 > -1e-6 && a.0 + sizes[i].0 / 2.0 < layout.size.0 + 1e-6);
                prop_assert!(a.1 - sizes[i].1 / 2.0 > -1e-6 && a.1 + sizes[i].1 / 2.0 < layout.size.1 + 1e-6);
                for (j, b) in layout.centres.iter().enumerate().skip(i + 1) {
                    let apart_x = (a.0 - b.0).abs() > (sizes[i].0 + sizes[j].0) / 2.0 - 1e-6;
                    let apart_y = (a.1 - b.1).abs() > (sizes[i].1 + sizes[j].1) / 2.0 - 1e-6;
                    prop_assert!(apart_x || apart_y, "{i} and {j}");
                }
            }
            for (route, (from, to)) in layout.routes.iter().zip(&edges) {
                prop_assert!(route.windows(2).all(|p| p[0].1 < p[1].1), "{from} to {to}: {route:?}");
            }
        }

        #[test]
        fn the_nearest_ascending_numbers_are_ascending_and_keep_the_mean(wanted in prop::collection::vec(-9.0..9.0f64, 1..9)) {
            let found = nearest_ascending(&wanted);
            prop_assert!(found.windows(2).all(|w| w[0] <= w[1]));
            prop_assert!((found.iter().sum::<f64>() - wanted.iter().sum::<f64>()).abs() < 1e-9);
        }
    }

    #[test]
    fn a_chain_is_a_straight_line() {
        let layout = layout(&[(40.0, 20.0), (80.0, 20.0), (60.0, 20.0)], &[(0, 1), (1, 2)]);
        assert!(layout.centres.iter().all(|c| (c.0 - 40.0).abs() < 1e-9), "{layout:?}");
    }
}

//! The paged cache and attention over it.

use std::collections::HashMap;

use super::{InterpError, Step};
use crate::graph::ValueId;
use crate::op::PAGE_TOKENS;
use crate::quant::int8_rows;
use crate::types::DType;

/// What a cache of that type keeps of a row: one head's key or value of one token.
fn stored(dtype: DType, row: &[f32]) -> Vec<f32> {
    match dtype {
        DType::F16 => row.iter().map(|x| half::f16::from_f32(*x).to_f32()).collect(),
        DType::INT8 => int8_rows::round_row(row),
        _ => row.to_vec(),
    }
}

/// One head of one token.
struct Query<'a> {
    q: &'a [f32],
    position: i32,
    sequence: i32,
    kv_head: usize,
    /// The score that takes its share and has no value.
    sink: Option<f64>,
}

impl Step<'_> {
    /// The state behind a cache value: the end of its chain of appends.
    pub(super) fn state_name(&self, mut value: ValueId) -> &str {
        while let Some(first) = self.graph.node(value).operands().first() {
            value = *first;
        }
        &self.graph.node(value).name
    }

    /// Index of element 0 of a position's head vector in the cache `[N, 2, kv_heads, 16, D]`.
    fn slot(
        &self,
        paged: &Paged,
        sequence: i32,
        position: i32,
        which: usize,
        head: usize,
    ) -> Result<usize, InterpError> {
        let position = u64::try_from(position).map_err(|_| self.out_of_range("position", position.into()))?;
        let sequence = usize::try_from(sequence).map_err(|_| self.out_of_range("sequence", sequence.into()))?;
        let (column, slot) = ((position / PAGE_TOKENS) as usize, (position % PAGE_TOKENS) as usize);
        let entry = (column < paged.columns).then(|| paged.table.get(sequence * paged.columns + column)).flatten();
        let page = *entry.ok_or_else(|| self.out_of_range("position", position as i64))?;
        let index = usize::try_from(page).ok().filter(|p| *p < paged.pages);
        let page = index.ok_or_else(|| self.out_of_range("page", page.into()))?;
        let row = ((page * paged.planes + which) * paged.kv_heads + head) * PAGE_TOKENS as usize + slot;
        Ok(row * paged.head_dim)
    }

    fn paged(&self, kv: usize, table: usize) -> Paged<'_> {
        Paged {
            table: self.ints(table),
            columns: self.dim(table, 1),
            pages: self.dim(kv, 0),
            planes: self.dim(kv, 1),
            kv_heads: self.dim(kv, 2),
            head_dim: self.dim(kv, 4),
        }
    }

    pub(super) fn kv_append(&self, states: &mut HashMap<String, Vec<f32>>) -> Result<(), InterpError> {
        let paged = self.paged(0, 4);
        let dtype = self.ty(0).dtype;
        let Some(state) = states.get_mut(self.state_name(self.operands[0])) else { return Ok(()) };
        for (t, (position, sequence)) in self.ints(2).iter().zip(self.ints(3)).enumerate() {
            let planes = [Some(self.real(1)), (self.operands.len() > 5).then(|| self.real(5))];
            for (which, source) in planes.into_iter().flatten().enumerate() {
                for head in 0..paged.kv_heads {
                    let to = self.slot(&paged, *sequence, *position, which, head)?;
                    let from = (t * paged.kv_heads + head) * paged.head_dim;
                    let row = &source[from..from + paged.head_dim];
                    state[to..to + paged.head_dim].copy_from_slice(&stored(dtype, row));
                }
            }
        }
        Ok(())
    }

    pub(super) fn attention(&self, states: &HashMap<String, Vec<f32>>) -> Result<Vec<f32>, InterpError> {
        let paged = self.paged(1, 4);
        let heads = self.dim(0, 1);
        let Some(cache) = states.get(self.state_name(self.operands[1])) else { return Ok(Vec::new()) };
        let mut out = Vec::with_capacity(self.real(0).len());
        for (row, q) in self.real(0).chunks_exact(paged.head_dim).enumerate() {
            let (t, head) = (row / heads, row % heads);
            let query = Query {
                q,
                position: self.ints(2)[t],
                sequence: self.ints(3)[t],
                kv_head: head / (heads / paged.kv_heads),
                sink: if self.operands.len() > 5 { Some(f64::from(self.real(5)[head])) } else { None },
            };
            out.extend(self.attend(&paged, cache, &query)?);
        }
        Ok(out)
    }

    fn attend(&self, paged: &Paged, cache: &[f32], query: &Query) -> Result<Vec<f32>, InterpError> {
        let (window, position) = (self.node.int("window").unwrap_or(0), query.position);
        let first = if window > 0 { (i64::from(position) - window + 1).max(0) as i32 } else { 0 };
        let mut scores = Vec::new();
        for key in first..=position {
            let at = self.slot(paged, query.sequence, key, 0, query.kv_head)?;
            let dot: f64 = query.q.iter().zip(&cache[at..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let (score, softcap) = (dot * self.attribute("scale"), self.attribute("softcap"));
            scores.push(if softcap > 0.0 { softcap * (score / softcap).tanh() } else { score });
        }
        let max = scores.iter().copied().chain(query.sink).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().copied().chain(query.sink).map(|s| (s - max).exp()).sum();
        // Latent attention keeps no values: they are the first dimensions of the keys.
        let (plane, dim) = match self.count("value_dim") {
            0 => (1, paged.head_dim),
            dim => (0, dim),
        };
        let mut sum = vec![0f64; dim];
        for (key, score) in (first..=position).zip(&scores) {
            let at = self.slot(paged, query.sequence, key, plane, query.kv_head)?;
            let weight = (score - max).exp() / total;
            sum.iter_mut().zip(&cache[at..]).for_each(|(s, v)| *s += weight * f64::from(*v));
        }
        Ok(sum.into_iter().map(|s| s as f32).collect())
    }
}

/// The cache's geometry and a step's page table.
struct Paged<'a> {
    table: &'a [i32],
    columns: usize,
    pages: usize,
    planes: usize,
    kv_heads: usize,
    head_dim: usize,
}

//! Mixtures of experts: router, products over groups of experts, their combination.

use std::cmp::Ordering;

use super::elementwise::sigmoid;
use super::{InterpError, Step};

impl Step<'_> {
    /// The value of an index operand, checked against what it indexes.
    fn index(&self, what: &'static str, index: i32, bound: usize) -> Result<usize, InterpError> {
        usize::try_from(index).ok().filter(|i| *i < bound).ok_or_else(|| self.out_of_range(what, index.into()))
    }

    pub(super) fn router(&self) -> Vec<i32> {
        let experts = self.width(0);
        let sigmoid_scores = self.node.word("scoring") == Some("sigmoid");
        let bias = if self.operands.len() > 1 { self.real(1) } else { &[] };
        let mut out = Vec::new();
        for logits in self.real(0).chunks_exact(experts.max(1)) {
            let score = |(e, s): (usize, &f32)| match sigmoid_scores {
                // Scores are compared in f32, as the implementations that models are trained with do.
                true => sigmoid(f64::from(*s)) as f32 + bias.get(e).copied().unwrap_or(0.0),
                false => *s,
            };
            let scores: Vec<f32> = logits.iter().enumerate().map(score).collect();
            let mut candidates = self.candidates(&scores, sigmoid_scores);
            candidates.sort_by(|a, b| best_first(scores[*a], scores[*b]).then(a.cmp(b)));
            out.extend(candidates.iter().take(self.count("k")).map(|e| *e as i32));
        }
        out
    }

    /// The experts of the groups that take part.
    fn candidates(&self, scores: &[f32], sum_of_two: bool) -> Vec<usize> {
        let size = scores.len() / self.count("groups").max(1);
        let group_score = |group: &[f32]| {
            let mut sorted = group.to_vec();
            sorted.sort_by(|a, b| best_first(*a, *b));
            if sum_of_two && sorted.len() > 1 { sorted[0] + sorted[1] } else { sorted[0] }
        };
        let best: Vec<f32> = scores.chunks_exact(size.max(1)).map(group_score).collect();
        let mut groups: Vec<usize> = (0..best.len()).collect();
        groups.sort_by(|a, b| best_first(best[*a], best[*b]).then(a.cmp(b)));
        groups.iter().take(self.count("top_groups")).flat_map(|g| g * size..(g + 1) * size).collect()
    }

    pub(super) fn router_weights(&self) -> Result<Vec<f32>, InterpError> {
        let (experts, slots) = (self.width(0), self.width(1));
        let (renormalise, scale) = (self.node.flag("renormalise").unwrap_or(false), self.attribute("scale"));
        let mut out = Vec::new();
        let rows = self.real(0).chunks_exact(experts.max(1)).zip(self.ints(1).chunks_exact(slots.max(1)));
        for (logits, selected) in rows {
            let chosen = selected.iter().map(|e| self.index("expert", *e, experts)).collect::<Result<Vec<_>, _>>()?;
            let weights = match self.node.word("scoring") {
                Some("sigmoid") => chosen.iter().map(|e| sigmoid(f64::from(logits[*e]))).collect(),
                Some("sparsemixer") => self.sparsemixer(logits, &chosen),
                _ => softmax_of(logits, &chosen),
            };
            let total: f64 = if renormalise { weights.iter().sum() } else { 1.0 };
            out.extend(weights.iter().map(|w| (w / total * scale) as f32));
        }
        Ok(out)
    }

    /// Each expert's weight among those not chosen before it that are near it.
    fn sparsemixer(&self, logits: &[f32], chosen: &[usize]) -> Vec<f64> {
        let weight = |(slot, expert): (usize, &usize)| {
            let max = f64::from(logits[*expert]);
            let rivals = logits.iter().enumerate().filter(|(e, _)| !chosen[..slot].contains(e));
            let near = rivals.map(|(_, s)| f64::from(*s)).filter(|s| {
                let distance = (max - s) / s.abs().max(max);
                // The selected expert itself, with a logit of 0, is at no distance that is a number.
                distance.is_nan() || distance <= 2.0 * self.attribute("jitter")
            });
            1.0 / near.map(|s| (s - max).exp()).sum::<f64>()
        };
        chosen.iter().enumerate().map(weight).collect()
    }

    /// `row` by the rows of matrix `index` of operand 1, `[_, N, K]`.
    fn by_matrix(&self, row: &[f32], index: usize, out: &mut Vec<f32>, bias: &[f32]) {
        let (rows, width) = (self.dim(1, 1), self.dim(1, 2));
        let matrix = &self.real(1)[index * rows * width..][..rows * width];
        for (n, weights) in matrix.chunks_exact(width.max(1)).enumerate() {
            let sum: f64 = row.iter().zip(weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            out.push((sum + bias.get(n).map_or(0.0, |b| f64::from(*b))) as f32);
        }
    }

    pub(super) fn head_matmul(&self) -> Vec<f32> {
        let mut out = Vec::new();
        for (row, x) in self.real(0).chunks_exact(self.width(0).max(1)).enumerate() {
            self.by_matrix(x, row % self.dim(0, 1), &mut out, &[]);
        }
        out
    }

    /// The row of operand 0 that feeds a slot of a token: `[T, K]` serves all slots, `[T, k, K]` each.
    fn slot_row(&self, token: usize, slot: usize) -> &[f32] {
        let (width, slots) = (self.width(0), self.width(2));
        let row = if self.ty(0).shape.len() == 2 { token } else { token * slots + slot };
        &self.real(0)[row * width..][..width]
    }

    pub(super) fn grouped_matmul(&self) -> Result<Vec<f32>, InterpError> {
        let (slots, rows) = (self.width(2).max(1), self.dim(1, 1));
        let bias = if self.operands.len() > 3 { self.real(3) } else { &[] };
        let mut out = Vec::new();
        for (i, expert) in self.ints(2).iter().enumerate() {
            let expert = self.index("expert", *expert, self.dim(1, 0))?;
            let bias = bias.get(expert * rows..(expert + 1) * rows).unwrap_or_default();
            self.by_matrix(self.slot_row(i / slots, i % slots), expert, &mut out, bias);
        }
        Ok(out)
    }

    pub(super) fn permute_columns(&self) -> Result<Vec<f32>, InterpError> {
        let width = self.width(0);
        let permute = |row: &[f32], order: &[i32]| {
            order.iter().map(|c| Ok(row[self.index("column", *c, width)?])).collect::<Result<Vec<f32>, InterpError>>()
        };
        let mut out = Vec::new();
        if self.operands.len() < 3 {
            for row in self.real(0).chunks_exact(width.max(1)) {
                out.extend(permute(row, self.ints(1))?);
            }
            return Ok(out);
        }
        let slots = self.width(2).max(1);
        for (i, expert) in self.ints(2).iter().enumerate() {
            let expert = self.index("expert", *expert, self.dim(1, 0))?;
            out.extend(permute(self.slot_row(i / slots, i % slots), &self.ints(1)[expert * width..][..width])?);
        }
        Ok(out)
    }

    pub(super) fn combine(&self) -> Vec<f32> {
        let (slots, width) = (self.dim(0, 1), self.width(0));
        let tokens = self.real(0).chunks_exact((slots * width).max(1)).zip(self.real(1).chunks_exact(slots.max(1)));
        let sum = |(y, weights): (&[f32], &[f32])| {
            let mut sum = vec![0f64; width];
            for (y, weight) in y.chunks_exact(width.max(1)).zip(weights) {
                sum.iter_mut().zip(y).for_each(|(s, y)| *s += f64::from(*weight) * f64::from(*y));
            }
            sum
        };
        tokens.flat_map(sum).map(|s| s as f32).collect()
    }
}

/// The order of scores: the greater first, what is no number last.
fn best_first(a: f32, b: f32) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The softmax over all logits, at those chosen.
fn softmax_of(logits: &[f32], chosen: &[usize]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|s| f64::from(s - max).exp()).sum();
    chosen.iter().map(|e| f64::from(logits[*e] - max).exp() / total).collect()
}

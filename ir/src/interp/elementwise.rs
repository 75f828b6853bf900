//! Ops on elements and on rows: norms, rotary embedding, rounding, gates.

use super::{InterpError, Step};
use crate::quant::activations::{Granularity, round_row};
use crate::quant::half_rows;

impl Step<'_> {
    pub(super) fn pairwise(&self, f: impl Fn(f64, f64) -> f64) -> Vec<f32> {
        self.real(0).iter().zip(self.real(1)).map(|(a, b)| f(f64::from(*a), f64::from(*b)) as f32).collect()
    }

    pub(super) fn elementwise(&self, f: impl Fn(f64) -> f64) -> Vec<f32> {
        self.real(0).iter().map(|x| f(f64::from(*x)) as f32).collect()
    }

    pub(super) fn glu(&self) -> Vec<f32> {
        let limit = self.attribute("limit");
        match self.node.word("activation").unwrap_or_default() {
            "gelu_tanh" => self.pairwise(|gate, up| gelu_tanh(gate) * up),
            "gelu" => self.pairwise(|gate, up| 0.5 * gate * (1.0 + erf(gate / std::f64::consts::SQRT_2)) * up),
            "relu2" => self.pairwise(|gate, up| gate.max(0.0).powi(2) * up),
            "clamped_swiglu" => self.pairwise(|gate, up| {
                let gate = gate.min(limit);
                (up.clamp(-limit, limit) + 1.0) * gate * sigmoid(1.702 * gate)
            }),
            _ => self.pairwise(|gate, up| gate * sigmoid(gate) * up),
        }
    }

    pub(super) fn sigmoid_gate(&self) -> Vec<f32> {
        let rows = self.real(0).chunks_exact(self.width(0).max(1)).zip(self.real(1));
        rows.flat_map(|(row, gate)| row.iter().map(|x| (f64::from(*x) * sigmoid(f64::from(*gate))) as f32)).collect()
    }

    pub(super) fn concat(&self) -> Vec<f32> {
        let (a, b) = (self.real(0).chunks_exact(self.width(0).max(1)), self.real(1).chunks_exact(self.width(1).max(1)));
        a.zip(b).flat_map(|(a, b)| a.iter().chain(b).copied()).collect()
    }

    pub(super) fn rms_norm(&self) -> Vec<f32> {
        let (weight, eps) = (self.real(1), self.node.float("eps").unwrap_or(0.0));
        let mut out = Vec::with_capacity(self.real(0).len());
        for row in self.real(0).chunks_exact(weight.len()) {
            let square: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
            let scale = 1.0 / (square / row.len() as f64 + eps).sqrt();
            out.extend(row.iter().zip(weight).map(|(x, w)| (f64::from(*x) * scale * f64::from(*w)) as f32));
        }
        out
    }

    pub(super) fn layer_norm(&self) -> Vec<f32> {
        let (weight, eps) = (self.real(1), self.attribute("eps"));
        let bias = if self.operands.len() > 2 { self.real(2) } else { &[] };
        let mut out = Vec::with_capacity(self.real(0).len());
        for row in self.real(0).chunks_exact(weight.len().max(1)) {
            let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / row.len() as f64;
            let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / row.len() as f64;
            let scale = 1.0 / (variance + eps).sqrt();
            out.extend(row.iter().zip(weight).enumerate().map(|(i, (x, w))| {
                ((f64::from(*x) - mean) * scale * f64::from(*w) + bias.get(i).map_or(0.0, |b| f64::from(*b))) as f32
            }));
        }
        out
    }

    pub(super) fn quantize_rows(&self) -> Vec<f32> {
        let round: fn(&[f32]) -> Vec<f32> = match self.node.word("granularity") {
            Some("half") => half_rows::round_row,
            Some("row") => |row| round_row(row, Granularity::Row),
            _ => |row| round_row(row, Granularity::Block),
        };
        self.real(0).chunks_exact(self.width(0).max(1)).flat_map(round).collect()
    }

    pub(super) fn rope(&self) -> Result<Vec<f32>, InterpError> {
        let (heads, head_dim) = (self.dim(0, 1), self.dim(0, 2));
        let (positions, pairs) = (self.ints(1), self.width(2));
        let interleaved = self.node.flag("interleaved").unwrap_or(false);
        let scale = self.node.float("scale").unwrap_or(1.0);
        let mut out = self.real(0).to_vec();
        for (row, head) in out.chunks_exact_mut(head_dim).enumerate() {
            let (position, table) = (positions[row / heads] as f32, self.rope_table(row / heads)?);
            for (i, frequency) in self.real(2)[table * pairs..][..pairs].iter().enumerate() {
                // The angle is rounded to f32, as in the implementations models are trained with.
                let (sin, cos) = f64::from(position * frequency).sin_cos();
                let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + pairs) };
                let (x, y) = (f64::from(head[a]), f64::from(head[b]));
                head[a] = ((x * cos - y * sin) * scale) as f32;
                head[b] = ((x * sin + y * cos) * scale) as f32;
            }
        }
        Ok(out)
    }

    /// Which row of the frequencies a token uses.
    fn rope_table(&self, token: usize) -> Result<usize, InterpError> {
        if self.operands.len() < 4 {
            return Ok(0);
        }
        let table = self.ints(3)[token];
        let index = usize::try_from(table).ok().filter(|i| *i < self.dim(2, 0));
        index.ok_or_else(|| self.out_of_range("table", table.into()))
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

/// The error function by its Maclaurin series near 0 and by the continued fraction of its complement elsewhere (Abramowitz and
/// Stegun 7.1.5, 7.1.14), to about 1e-15.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let fraction = (1..=60).rev().fold(a, |f, n| a + f64::from(n) / 2.0 / f);
    (1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / fraction).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::erf;

    /// Values of Abramowitz and Stegun, table 7.1, and of its continuation.
    #[test]
    fn the_error_function_is_that_of_the_tables() {
        for (x, y) in [(0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (2.0, 0.995_322_265_018_952_7)] {
            assert!((erf(x) - y).abs() < 1e-14 && (erf(-x) + y).abs() < 1e-14, "erf({x}) = {}", erf(x));
        }
        assert!((erf(2.499_999_999) - erf(2.500_000_001)).abs() < 1e-11);
        assert!((erf(3.0) - 0.999_977_909_503_001_4).abs() < 1e-14);
    }
}

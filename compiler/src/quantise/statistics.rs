//! What calibration keeps of the inputs of products: second moments, mean magnitudes and a sample.

use std::collections::BTreeMap;

use super::layer::{Routing, Source};
use super::matrix::Moments;

/// Rows of a sample, at most twice as many while it is taken.
const SAMPLE_ROWS: usize = 256;

/// Of one matrix's inputs.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Second moments.
    pub moments: Moments,
    magnitudes: Vec<f64>,
    sample: Sample,
}

/// Rows spread evenly over all that were seen.
#[derive(Clone, Debug)]
struct Sample {
    rows: Vec<f32>,
    stride: u64,
    seen: u64,
}

impl Inputs {
    /// Nothing yet of vectors of `size`.
    pub fn new(size: usize) -> Inputs {
        let sample = Sample { rows: Vec::new(), stride: 1, seen: 0 };
        Inputs { moments: Moments::new(size), magnitudes: vec![0.0; size], sample }
    }

    /// Adds the rows of `x[n, size]`.
    pub fn add(&mut self, x: &[f32], threads: usize) {
        let size = self.moments.size();
        self.moments.add(x, threads);
        for row in x.chunks_exact(size.max(1)) {
            self.magnitudes.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x.abs()));
            self.sample.add(row);
        }
    }

    /// Adds another matrix's inputs; of samples the longer is kept.
    pub fn merge(&mut self, other: &Inputs) {
        self.moments.merge(&other.moments);
        self.magnitudes.iter_mut().zip(&other.magnitudes).for_each(|(a, b)| *a += b);
        if other.sample.rows.len() > self.sample.rows.len() {
            self.sample = other.sample.clone();
        }
    }

    /// Mean magnitude of each column.
    pub fn mean_magnitudes(&self) -> Vec<f64> {
        let n = self.moments.samples().max(1) as f64;
        self.magnitudes.iter().map(|sum| sum / n).collect()
    }

    /// At most [`SAMPLE_ROWS`] rows, and how many rows each stands for.
    pub fn sample(&self) -> (&[f32], f64) {
        let size = self.moments.size().max(1);
        let rows = (self.sample.rows.len() / size).min(SAMPLE_ROWS);
        (&self.sample.rows[..rows * size], self.moments.samples() as f64 / rows.max(1) as f64)
    }
}

impl Sample {
    fn add(&mut self, row: &[f32]) {
        if self.seen.is_multiple_of(self.stride) {
            self.rows.extend_from_slice(row);
        }
        self.seen += 1;
        if self.rows.len() >= 2 * SAMPLE_ROWS * row.len() {
            let kept: Vec<f32> = self.rows.chunks_exact(row.len()).step_by(2).flatten().copied().collect();
            self.rows = kept;
            self.stride *= 2;
        }
    }
}

/// The inputs of every matrix of a layer, by what they are made of.
#[derive(Debug, Default)]
pub struct LayerInputs(BTreeMap<Source, Vec<Inputs>>);

impl LayerInputs {
    /// Makes room for a source of `matrices` matrices of `cols` columns.
    pub fn declare(&mut self, source: Source, matrices: usize, cols: usize) {
        self.0.entry(source).or_insert_with(|| (0..matrices).map(|_| Inputs::new(cols)).collect());
    }

    /// The sources declared.
    pub fn sources(&self) -> Vec<Source> {
        self.0.keys().copied().collect()
    }

    /// The inputs of each matrix of a source.
    pub fn get(&self, source: Source) -> &[Inputs] {
        self.0.get(&source).map_or(&[], Vec::as_slice)
    }

    /// Adds a window's inputs: `x[tokens, (slots,) cols]`, spread by `experts[tokens, slots]` where the routing names them.
    pub fn add(&mut self, source: Source, x: &[f32], tokens: usize, experts: &[i32], threads: usize) {
        let Some(matrices) = self.0.get_mut(&source) else { return };
        let cols = matrices.first().map_or(1, |m| m.moments.size()).max(1);
        let slots_of_x = x.len() / cols / tokens.max(1);
        let matrix_of: Box<dyn Fn(usize, usize) -> usize> = match source.1 {
            Routing::None => return matrices.iter_mut().for_each(|m| m.add(x, threads)),
            Routing::Heads => Box::new(|_, slot| slot),
            Routing::Experts(_) => {
                let slots = experts.len() / tokens.max(1);
                Box::new(move |token, slot| experts[token * slots + slot] as usize)
            }
        };
        let slots = if source.1 == Routing::Heads { slots_of_x } else { experts.len() / tokens.max(1) };
        let mut rows: Vec<Vec<f32>> = vec![Vec::new(); matrices.len()];
        for token in 0..tokens {
            for slot in 0..slots {
                let at = if slots_of_x == slots { token * slots + slot } else { token };
                if let (Some(rows), Some(row)) =
                    (rows.get_mut(matrix_of(token, slot)), x.get(at * cols..(at + 1) * cols))
                {
                    rows.extend_from_slice(row);
                }
            }
        }
        matrices.iter_mut().zip(&rows).for_each(|(matrix, rows)| matrix.add(rows, threads));
    }

    /// All matrices' inputs together: every token that the source's router saw, as often as it has slots.
    pub fn shared(&self, source: Source) -> Option<Inputs> {
        let (first, rest) = self.get(source).split_first()?;
        let mut all = first.clone();
        rest.iter().for_each(|m| all.merge(m));
        Some(all)
    }
}

/// Fewest inputs a matrix of `cols` columns needs for moments of its own; below, an expert is starved.
pub fn fewest_inputs(cols: usize) -> u64 {
    (cols as u64 / 8).max(32)
}

#[cfg(test)]
mod tests {
    use ir::graph::ValueId;

    use super::*;

    #[test]
    fn inputs_go_to_the_experts_that_were_selected() {
        let source = (ValueId(0), Routing::Experts(ValueId(1)));
        let mut layer = LayerInputs::default();
        layer.declare(source, 3, 2);
        // Three tokens, two slots; one input a token, then one a slot.
        let experts = [0, 2, 2, 0, 0, 2];
        layer.add(source, &[1.0, 0.0, 2.0, 0.0, 3.0, 0.0], 3, &experts, 1);
        let samples =
            |layer: &LayerInputs| -> Vec<u64> { layer.get(source).iter().map(|m| m.moments.samples()).collect() };
        assert_eq!(samples(&layer), [3, 0, 3]);
        assert_eq!(layer.get(source)[0].mean_magnitudes(), [2.0, 0.0]);
        let slots: Vec<f32> = (0..12).map(|i| i as f32).collect();
        layer.add(source, &slots, 3, &experts, 1);
        assert_eq!(samples(&layer), [6, 0, 6]);
        // Expert 0 had slots 0, 3 and 4: rows (0, 1), (6, 7), (8, 9).
        assert_eq!(layer.get(source)[0].mean_magnitudes(), [(6.0 + 14.0) / 6.0, 17.0 / 6.0]);
        assert_eq!(layer.shared(source).unwrap().moments.samples(), 12);
    }

    #[test]
    fn heads_have_inputs_of_their_own() {
        let source = (ValueId(0), Routing::Heads);
        let mut layer = LayerInputs::default();
        layer.declare(source, 2, 2);
        layer.add(source, &[1.0, 1.0, 5.0, 5.0, 3.0, 3.0, 7.0, 7.0], 2, &[], 1);
        assert_eq!(layer.get(source)[0].mean_magnitudes(), [2.0, 2.0]);
        assert_eq!(layer.get(source)[1].mean_magnitudes(), [6.0, 6.0]);
    }

    #[test]
    fn a_sample_is_bounded_and_spread() {
        let mut inputs = Inputs::new(1);
        let rows: Vec<f32> = (0..5000).map(|i| i as f32).collect();
        inputs.add(&rows, 1);
        let (sample, weight) = inputs.sample();
        assert!(sample.len() <= SAMPLE_ROWS && sample.len() > SAMPLE_ROWS / 2, "{}", sample.len());
        assert!((weight * sample.len() as f64 - 5000.0).abs() < 1e-6);
        assert!(*sample.last().unwrap() > 2000.0);
    }
}

//! The tiny model's definition: plain loops in f64, no pages, no batches.

use super::tiny::TinyModel;
use super::tiny::shapes::*;

/// Logits after each token of a sequence that starts empty.
pub fn reference_logits(model: &TinyModel, tokens: &[u32]) -> Vec<Vec<f64>> {
    let embedded: Vec<Vec<f64>> = tokens
        .iter()
        .map(|t| model.weights["embed"].2[*t as usize * HIDDEN..][..HIDDEN].iter().map(|v| f64::from(*v)).collect())
        .collect();
    let normed: Vec<_> = embedded.iter().map(|x| norm(model, "norm", x)).collect();
    let heads = |name, count| -> Vec<Vec<f64>> {
        normed.iter().enumerate().map(|(p, x)| rotate(model, product(model, name, x), p, count)).collect()
    };
    let (queries, keys) = (heads("q", HEADS), heads("k", KV_HEADS));
    let values: Vec<_> = normed.iter().map(|x| product(model, "v", x)).collect();
    (0..tokens.len())
        .map(|t| {
            let mixed = attend(&queries[t], &keys[..=t], &values[..=t]);
            let projected = product(model, "o", &mixed);
            let bias = &model.weights["o.bias"].2;
            let x: Vec<f64> = (0..HIDDEN).map(|i| embedded[t][i] + projected[i] + f64::from(bias[i])).collect();
            product(model, "head", &norm(model, "head.norm", &x))
        })
        .collect()
}

fn product(model: &TinyModel, name: &str, x: &[f64]) -> Vec<f64> {
    let (_, cols, values) = &model.weights[name];
    values.chunks(*cols).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
}

fn norm(model: &TinyModel, name: &str, x: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(EPS)).sqrt();
    x.iter().zip(&model.weights[name].2).map(|(x, w)| x * factor * f64::from(*w)).collect()
}

fn rotate(model: &TinyModel, mut x: Vec<f64>, position: usize, heads: usize) -> Vec<f64> {
    for head in 0..heads {
        for (i, frequency) in model.weights["rope.inv_freq"].2.iter().enumerate() {
            let (sin, cos) = (position as f64 * f64::from(*frequency)).sin_cos();
            let (a, b) = (head * HEAD_DIM + i, head * HEAD_DIM + i + PAIRS);
            (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
        }
    }
    x
}

fn attend(query: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
    let mut out = Vec::new();
    for head in 0..HEADS {
        let shared = head * KV_HEADS / HEADS * HEAD_DIM;
        let query = &query[head * HEAD_DIM..][..HEAD_DIM];
        let score =
            |key: &Vec<f64>| query.iter().zip(&key[shared..]).map(|(q, k)| q * k).sum::<f64>() * f64::from(SCALE);
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let greatest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - greatest).exp()).collect();
        let total: f64 = weights.iter().sum();
        out.extend(
            (0..HEAD_DIM).map(|i| weights.iter().zip(values).map(|(w, v)| w * v[shared + i]).sum::<f64>() / total),
        );
    }
    out
}

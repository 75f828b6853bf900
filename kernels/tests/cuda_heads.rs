//! Rotary embedding and the writing of keys and values, executed by the simulator beside the native kernels.

mod harness;

use half::f16;
use harness::{ARCHITECTURES, Case, floats, noise};

/// `tables` rows of `pairs` frequencies from 1 down to 1e-4.
fn frequencies(tables: usize, pairs: usize) -> Vec<f32> {
    let frequency = |i: usize| 10_000f32.powf(-((i % pairs) as f32) / pairs as f32) / (1 + i / pairs) as f32;
    (0..tables * pairs).map(frequency).collect()
}

struct Rope<'a> {
    positions: &'a [i32],
    tables: usize,
    heads: usize,
    head_dim: usize,
    pairs: usize,
    interleaved: bool,
    in_place: bool,
}

impl Rope<'_> {
    fn case(&self) -> Case {
        let tokens = self.positions.len();
        let count = tokens * self.heads * self.head_dim;
        let mut case = Case::new("rope", "")
            .input("x", &noise(1, count))
            .input("positions", self.positions)
            .input("inv_freq", &frequencies(self.tables, self.pairs))
            .count("tokens", tokens)
            .count("heads", self.heads)
            .count("head_dim", self.head_dim)
            .count("pairs", self.pairs)
            .count("tables", self.tables)
            .count("interleaved", self.interleaved.into())
            .number("scale", 1.25);
        if self.tables > 1 {
            // One past the last and one before the first as well.
            let table: Vec<i32> = (0..tokens as i32).map(|t| t % (self.tables as i32 + 2) - 1).collect();
            case = case.input("table", &table);
        }
        if self.in_place { case.alias("out", "x") } else { case.output::<f32>("out", count) }
    }
}

/// Absolute errors, at positions up to 2^30: both reduce the angle without loss.
#[test]
fn rope() {
    let near = [0, 1, 2, 3, 100, 4095];
    let far = [77, 99_999, 1 << 20, (1 << 30) - 64, 31_415_926];
    for (positions, tables, heads, head_dim, pairs, interleaved, in_place) in [
        (&near[..], 1, 3, 64, 32, false, false),
        (&far, 3, 2, 80, 37, true, true),
        (&far, 1, 6, 20, 4, false, false),
        (&near, 2, 1, 12, 6, true, false),
        (&near, 1, 5, 128, 64, false, true),
    ] {
        let case = Rope { positions, tables, heads, head_dim, pairs, interleaved, in_place }.case();
        let native = case.run_native();
        let field = if in_place { "x" } else { "out" };
        for architecture in ARCHITECTURES {
            let simulated = case.run_simulated(architecture);
            for (a, b) in floats(&simulated.outputs[field]).into_iter().zip(floats(&native[field])) {
                assert!((a - b).abs() < 1e-6, "{positions:?} {pairs} {interleaved}: {a} {b}");
            }
        }
    }
}

/// Tokens of two sequences in a pool of five pages: what is no token's slot stays as it was.
#[test]
fn kv_append() {
    for (variant, kv_heads, head_dim, values) in [
        ("f16", 2, 64, true),
        ("f32", 3, 70, true),
        ("f16", 1, 576, false),
        ("f32", 1, 7, false),
        ("int8", 3, 64, true),
        ("int8", 2, 7, true),
        ("int8", 1, 576, false),
    ] {
        let elements = 5 * if values { 2 } else { 1 } * kv_heads * head_dim * 16;
        let mut k = noise(1, 3 * kv_heads * head_dim);
        // Overflows, subnormals and ties of f16.
        k[..6].copy_from_slice(&[65520.0, 65519.0, 3e-8, 1e-9, 1.0 + 2f32.powi(-11), -2.0]);
        let mut case = Case::new("kv_append", variant)
            .input("k", &k)
            .input("positions", &[15, 16, 20])
            .input("sequences", &[0, 0, 1])
            .input("page_table", &[3, 1, 4, 2])
            .count("tokens", 3)
            .count("kv_heads", kv_heads)
            .count("head_dim", head_dim)
            .count("page_table_stride", 2);
        case = match variant {
            "f16" => case.update("kv", &vec![f16::MAX; elements]),
            "int8" => case.update("kv", &vec![9u8; elements + elements / head_dim * 2]),
            _ => case.update("kv", &vec![9f32; elements]),
        };
        if values {
            case = case.input("v", &noise(2, 3 * kv_heads * head_dim));
        }
        let native = case.run_native();
        for architecture in ARCHITECTURES {
            assert!(case.run_simulated(architecture).outputs == native, "{variant} {architecture}");
        }
    }
}

/// Rows of all zeros, of numbers that are none, and beyond what f16 holds: integers and scales have the native bits.
#[test]
fn kv_append_of_extreme_rows() {
    let (tokens, head_dim) = (6, 40);
    let mut k = noise(3, tokens * head_dim);
    k[..head_dim].fill(0.0);
    (k[head_dim + 3], k[2 * head_dim], k[2 * head_dim + 1]) = (f32::NAN, f32::INFINITY, -1.0);
    for (i, factor) in [(3, 1e30), (4, 1e-7), (5, 1e-40)] {
        k[i * head_dim..][..head_dim].iter_mut().for_each(|x| *x *= factor);
    }
    let case = Case::new("kv_append", "int8")
        .input("k", &k)
        .input("positions", &[0, 1, 2, 3, 4, 5])
        .input("sequences", &[0; 6])
        .input("page_table", &[0])
        .count("tokens", tokens)
        .count("kv_heads", 1)
        .count("head_dim", head_dim)
        .count("page_table_stride", 1)
        .update("kv", &vec![9u8; 16 * (head_dim + 2)]);
    let native = case.run_native();
    for architecture in ARCHITECTURES {
        assert!(case.run_simulated(architecture).outputs == native, "{architecture}");
    }
}

//! Queries, keys and values, executed by the simulator beside the native kernel.

mod harness;

use harness::Case;
use harness::qkv::{PLAIN, Shape};
use ir::types::DType;

/// Heads of one tile, of several blocks, of tiles that two heads share; norms, biases, rotary embedding or none.
const SHAPES: &[Shape] = &[
    PLAIN,
    Shape { tokens: 3, head_dim: 128, pairs: 64, head_norms: true, cache: "f32", ..PLAIN },
    Shape { tokens: 8, head_dim: 24, pairs: 8, interleaved: true, biased: true, squares: true, norm: 3, ..PLAIN },
    Shape {
        tokens: 2,
        cols: 640,
        heads: 3,
        kv_heads: 2,
        head_dim: 80,
        pairs: 0,
        norm: 2,
        biased: true,
        cache: "f32",
        ..PLAIN
    },
    Shape { tokens: 4, heads: 3, kv_heads: 2, head_dim: 72, pairs: 36, head_norms: true, cache: "int8", ..PLAIN },
    Shape { tokens: 5, heads: 3, kv_heads: 0, head_dim: 50, pairs: 10, norm: 0, squares: true, ..PLAIN },
    Shape { tokens: 1, heads: 1, kv_heads: 1, head_dim: 256, pairs: 128, head_norms: true, biased: true, ..PLAIN },
];

#[test]
fn few_tokens() {
    for shape in SHAPES {
        shape.expect_close(3e-6);
    }
}

#[test]
fn many_tokens() {
    for (shape, tokens) in SHAPES.iter().zip([9, 17, 40, 12, 19, 20, 10]) {
        Shape { tokens, ..*shape }.expect_close(3e-6);
    }
}

/// The way x is given or rounded, by formats of each kind of scale. What the native kernel multiplies as integers is f32 here, so sums are
/// rounded elsewhere.
#[test]
fn formats_and_activations() {
    for (weights, x) in [
        (DType::F32, "f32"),
        (DType::BF16, "f32.half"),
        (DType::Q8_0, "f32.block"),
        (DType::T2, "f32.row"),
        (DType::Q4_K, "f32.half"),
        (DType::Q4_0, "q8x32"),
        (DType::MXFP4, "f32"),
        (DType::F16, "f32"),
    ] {
        for tokens in [2, 11] {
            let norm = if x == "q8x32" { 0 } else { 1 };
            Shape { weights, x, norm, tokens, biased: true, ..PLAIN }.expect_close(2e-5);
        }
    }
}

/// The first tokens of a batch alone have the bits they have among the others.
#[test]
fn bits_do_not_depend_on_the_batch() {
    let shape = Shape { head_norms: true, biased: true, cache: "f32", kv_heads: 2, weights: DType::Q4_K, ..PLAIN };
    // Of 80 dimensions some heads are two blocks', each of which has 32 tokens.
    let shared = Shape { head_dim: 80, pairs: 40, ..shape };
    for shape in [shape, shared, Shape { weights: DType::Q8C, x: "f32.half", head_dim: 40, pairs: 20, ..shape }] {
        let all = Shape { tokens: 40, ..shape }.case().run_simulated("sm_80");
        for tokens in [1, 3, 8] {
            let few = Shape { tokens, ..shape }.case().run_simulated("sm_80");
            assert_eq!(few.launches.len(), 1, "few tokens are one launch");
            let count = few.outputs["out"].len();
            assert!(all.outputs["out"][..count] == few.outputs["out"], "queries of {tokens}");
            let (cache, alone) = (shape.elements(&all.outputs["kv"]), shape.elements(&few.outputs["kv"]));
            let written = alone.iter().zip(&cache).filter(|(alone, _)| **alone != shape.untouched());
            assert!(written.clone().all(|(a, b)| a.to_bits() == b.to_bits()), "keys and values of {tokens}");
            assert_eq!(written.count(), 2 * tokens * shape.kv_heads * shape.head_dim);
        }
    }
}

#[test]
fn shapes_that_are_not_taken() {
    let counts = |case: Case| case.count("tokens", 1).count("cols", 64).count("heads", 1);
    let case = counts(Case::new("qkv", "q4_0.f32.f16")).count("head_dim", 4096);
    assert!(case.constraint().expect("a head of 4096").to_string().contains("4096 dimensions"));
    let case = counts(Case::new("qkv", "q4_0.f32.f16")).count("head_dim", 32).count("pairs", 17);
    let refused = case.input("inv_freq", &[0f32]).constraint().expect("34 dimensions to turn");
    assert!(refused.message.contains("17 pairs"), "{refused}");
}

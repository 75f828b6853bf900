//! Every variant of the catalog, executed by the simulator beside the native kernel: products on few tokens and on many, all others once.
//!
//! Shapes are small and differ from variant to variant. What kernels do with shapes, operands and batches is for the tests of each; this one sees to
//! it that no variant exists that nothing runs.

mod harness;

use std::collections::BTreeSet;

use harness::{Case, Outputs, Simulated, attention, expect_close, experts, floats, products, qkv, route, rows};
use ir::quant::FORMATS;
use ir::types::DType;
use kernels::catalog;
use kernels::cuda::CUDA_KERNELS;

const ARCHITECTURE: &str = "sm_80";

/// Kernels with a test of their own here: their variants are many.
const PRODUCTS: [&str; 6] = ["matmul", "project", "grouped_matmul", "gate_up", "combine_down", "qkv"];

/// How a product sees its activations, and types of caches.
const FORMS: [&str; 5] = ["f32", "f32.half", "f32.block", "f32.row", "q8x32"];
const CACHES: [&str; 2] = ["f16", "f32"];

/// Words that variants may consist of, beside formats with what follows them.
const WORDS: [&str; 16] = [
    "",
    "block",
    "row",
    "half",
    "softmax",
    "sigmoid",
    "sparsemixer",
    "add",
    "mul",
    "silu_mul",
    "gelu_tanh_mul",
    "gelu_mul",
    "relu2_mul",
    "clamped_swiglu_mul",
    "scale",
    "softcap",
];

/// The variants the catalog has of a kernel.
fn variants(kernel: &str) -> Vec<String> {
    let mut all: BTreeSet<String> = WORDS.iter().map(ToString::to_string).collect();
    for format in FORMATS {
        let name = format.dtype().name();
        all.insert(name.into());
        for form in FORMS {
            all.insert(format!("{name}.{form}"));
            all.extend(CACHES.map(|cache| format!("{name}.{form}.{cache}")));
        }
    }
    let kernel = catalog::lookup(kernel).unwrap();
    let variants: Vec<String> = all.into_iter().filter(|variant| kernel.has_variant(variant)).collect();
    assert!(!variants.is_empty(), "{} has variants of words that are not listed here", kernel.name);
    variants
}

/// The format of a product's variant, and what follows it.
fn split(variant: &str) -> (DType, &'static str) {
    let (weights, form) = variant.split_once('.').unwrap();
    (DType::from_name(weights).unwrap(), FORMS.into_iter().find(|known| *known == form).unwrap())
}

/// The norm of a launch. Before a rounding none that has sums: their order differs from the native one, and a value near the middle of two would
/// be rounded the other way.
fn norm(form: &str, number: usize) -> usize {
    match form {
        "f32" => number % 4,
        "q8x32" => 0,
        _ => number % 2 * 3,
    }
}

/// A launch of a product, the `number`-th of its kernel's, on so many tokens.
fn product(kernel: &str, variant: &str, number: usize, tokens: usize) -> Case {
    let types = split(variant);
    let (rows, cols) = (17 + number % 20, products::columns(types.0, 40 + 7 * (number % 9)));
    let options = [2, 3, 5].map(|n| number.is_multiple_of(n));
    let norm = norm(types.1, number);
    match kernel {
        "matmul" => products::product(kernel, types.0, types.1, [tokens, rows, cols]),
        "project" => products::full(types.0, types.1, [tokens, rows, cols], norm, number % 3),
        "grouped_matmul" => {
            experts::grouped_matmul(types, [tokens, 2, 2 + number % 3, rows, cols], [true, options[1], options[2]])
        }
        "combine_down" => experts::combine_down(types, [tokens, 1 + number % 4, 3, rows, cols], options),
        "gate_up" => {
            let (routing, slots) = (number % 3, 2);
            let shape = [tokens, slots, if routing == 0 { slots } else { 5 }, rows, cols];
            let [shared, squares, biased] = options;
            let route_width = squares.then_some(cols);
            let (activation, scoring) = (number % 5, number / 3 % 3);
            experts::GateUp { types, shape, routing, activation, norm, shared, squares, biased, route_width, scoring }
                .case()
        }
        _ => panic!("{kernel} is no product"),
    }
}

/// Both paths of each variant of a product.
fn check_product(kernel: &str) {
    for (number, variant) in variants(kernel).iter().enumerate() {
        for tokens in [1 + number % 8, 9 + number % 4] {
            let case = product(kernel, variant, number, tokens);
            compare(&case, &case.run_simulated(ARCHITECTURE), experts::limit(split(variant).1), variant);
        }
    }
}

/// Results of an index are the same, of numbers nearly so.
fn compare(case: &Case, simulated: &Simulated, limit: f64, variant: &str) {
    let native: Outputs = case.run_native();
    for field in native.keys() {
        // Shown if the comparison fails.
        println!("{variant} {field}");
        match *field {
            "experts_out" | "selected" => assert_eq!(simulated.outputs[field], native[field]),
            _ => expect_close(&native, simulated, field, limit),
        }
    }
}

#[test]
fn matmul() {
    check_product("matmul");
}

#[test]
fn project() {
    check_product("project");
}

#[test]
fn grouped_matmul() {
    check_product("grouped_matmul");
}

#[test]
fn gate_up() {
    check_product("gate_up");
}

#[test]
fn combine_down() {
    check_product("combine_down");
}

#[test]
fn qkv() {
    for (number, variant) in variants("qkv").iter().enumerate() {
        let (types, cache) = variant.rsplit_once('.').unwrap();
        let (weights, x) = split(types);
        for tokens in [1 + number % 8, 9 + number % 4] {
            let shape = qkv::Shape {
                weights,
                x,
                cache: CACHES.into_iter().find(|known| *known == cache).unwrap(),
                tokens,
                cols: products::columns(weights, 40 + 7 * (number % 9)),
                head_dim: 16 + 4 * (number % 7),
                pairs: number % 9,
                interleaved: number.is_multiple_of(2),
                norm: norm(x, number),
                squares: number.is_multiple_of(3),
                biased: number.is_multiple_of(5),
                head_norms: number.is_multiple_of(4),
                ..qkv::PLAIN
            };
            let case = shape.case();
            shape.compare(&case.run_native(), &case.run_simulated(ARCHITECTURE), 2e-5);
        }
    }
}

fn routing(variant: &str) -> route::Routing {
    let scoring = route::SCORINGS.into_iter().find(|known| *known == variant).unwrap();
    let [corrected, renormalise] = [scoring == "sigmoid", true];
    route::Routing {
        scoring,
        tokens: 3,
        experts: 21,
        slots: 3,
        groups: [3, 2],
        corrected,
        renormalise,
        jitter: 0.1,
        seed: 5,
    }
}

/// A launch of a kernel that is no product.
fn case(kernel: &str, variant: &str) -> Case {
    match kernel {
        "embedding" => {
            let dtype = DType::from_name(variant).unwrap();
            rows::embedding(dtype, products::columns(dtype, 290))
        }
        "column_partials" => rows::column_partials(DType::from_name(variant).unwrap()),
        "rms_norm" => rows::rms_norm(),
        "layer_norm" => rows::layer_norm(),
        "norm_add" => rows::norm_add(),
        "scale_columns" => rows::scale_columns(),
        "square_sums" => rows::square_sums(),
        "scale_rows" => rows::scale_rows(),
        "finish_logits" => rows::finish_logits(),
        "sigmoid_gate" => rows::sigmoid_gate(),
        "gather_rows" => rows::gather_rows(),
        "concat" => rows::concat(),
        "permute_columns" => rows::permute_columns(),
        "combine" => rows::combine(),
        "combine_add" => rows::combine_add(),
        "rope" => rows::rope(),
        "binary" => rows::binary(variant),
        "unary" => rows::unary(variant),
        "quantize_rows" => rows::quantize_rows(variant),
        "norm_quantize" => rows::norm_quantize(variant),
        "kv_append" => rows::kv_append(variant),
        "attention" => {
            let tokens = [attention::run(0, 290, 1), attention::run(1, 3, 2)].concat();
            let variant = CACHES.into_iter().find(|known| *known == variant).unwrap();
            attention::plain(variant, 2, 2, 24).case(&[291, 5], &tokens)
        }
        "router" => route::router(&routing(variant)),
        "router_weights" => route::router_weights(&routing(variant), &[0, 5, 20, 7, -1, 3, 1, 2, 4]),
        "route" => route::route(&routing(variant), Some(100)),
        _ => panic!("{kernel} has no launch here: write one"),
    }
}

/// Results that are integers, copies or rounded have the native bits, others nearly their values. Services have one variant, which
/// `cuda_sample.rs` is for.
#[test]
fn all_others() {
    let launched = |name: &&str| !PRODUCTS.contains(name) && !catalog::SERVICES.contains(name);
    let others = CUDA_KERNELS.iter().map(|kernel| kernel.name).filter(launched);
    for (kernel, variant) in others.flat_map(|kernel| variants(kernel).into_iter().map(move |v| (kernel, v))) {
        let case = case(kernel, &variant);
        let simulated = case.run_simulated(ARCHITECTURE);
        match (kernel, variant.as_str()) {
            ("router" | "gather_rows" | "quantize_rows" | "norm_quantize" | "kv_append", _) => {
                assert!(simulated.outputs == case.run_native(), "{kernel} {variant}");
            }
            ("attention", "f16") => compare(&case, &simulated, 3e-3, &variant),
            _ => compare(&case, &simulated, 5e-6, &variant),
        }
        assert!(simulated.outputs.values().any(|bytes| floats(bytes).iter().any(|x| *x != 0.0)), "{kernel} {variant}");
    }
}

/// Products are kernels that CUDA takes, and the words of their variants are these.
#[test]
fn the_variants_are_those_of_the_catalog() {
    let names: BTreeSet<&str> = CUDA_KERNELS.iter().map(|kernel| kernel.name).collect();
    assert_eq!(names, catalog::KERNELS.iter().map(|kernel| kernel.name).collect());
    let integers = FORMATS.iter().filter(|format| format.is_integer()).count();
    let both = 2 * FORMATS.len() + 3 * integers;
    let expected = [FORMATS.len() + integers, both, both, both, both, 2 * both];
    assert_eq!(PRODUCTS.map(|kernel| variants(kernel).len()), expected);
}

//! Every variant of the catalog on random shapes: executed by the simulator with every check, beside `ir::interp` and the native kernel.
//!
//! With `MOESAIC_TEST_DEVICE=cuda` the first GPU takes the simulator's place.
//!
//! Shapes are ragged: few tokens and many, one among them, tails of rows and columns, groups and blocks of every format, experts that nobody
//! selects, windows that end anywhere, operands left out. What a kernel is compiled with follows from the variant, so that a variant costs one
//! compilation or two; they are nearly all the time this takes, and so NVRTC leaves some optimisations out here. The code that artifacts hold runs
//! in the tests of each kernel and in those of whole models; `optimised_code_gives_the_same_bits` says that it is the same arithmetic.

mod harness;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::draw::{self, Draw, draw};
use harness::{CACHES, Case, FORMS, Outputs, Pace, experts, floats, gpu, oracle};
use ir::interp::Tensor;
use ir::quant::FORMATS;
use kernels::catalog;
use kernels::cuda::CUDA_KERNELS;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestError, TestRunner};

const ARCHITECTURE: &str = "sm_80";

/// Kernels with a test of their own here: their variants are many.
const PRODUCTS: [&str; 6] = ["matmul", "project", "grouped_matmul", "gate_up", "combine_down", "qkv"];

/// Shapes that a variant of another kernel is run on.
const SHAPES: u32 = 6;

/// Added to the root mean square that errors are relative to: a layer norm of one column is 0.
const LEAST_SCALE: f64 = 0.05;

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
    let mut all: BTreeSet<String> = WORDS.iter().chain(&CACHES).map(ToString::to_string).collect();
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

/// What results may differ by: from the native kernel's, where they can be compared, and from the interpreter's.
struct Limits {
    native: Option<f64>,
    interpreted: f64,
}

impl Limits {
    /// Orders of f32 sums; roundings to 8 or 16 bits that fall the other way, where a norm with sums stands before them, whose order differs.
    fn of(kernel: &str, variant: &str, norm: u64) -> Limits {
        let word = |word: &str| variant.split('.').any(|part| part == word);
        let (integers, halves) = (word("block") || word("row"), word("half"));
        if (integers || halves) && (norm == 1 || norm == 2) {
            return Limits { native: None, interpreted: if integers { 2e-2 } else { 1e-3 } };
        }
        match kernel {
            "attention" if variant != "f32" => Limits { native: Some(3e-3), interpreted: 3e-3 },
            "matmul" | "project" | "grouped_matmul" | "gate_up" | "combine_down" => {
                let form = variant.split_once('.').map_or("", |(_, form)| form);
                Limits { native: Some(experts::limit(form)), interpreted: 5e-5 }
            }
            "qkv" => Limits { native: Some(2e-5), interpreted: 5e-5 },
            _ => Limits { native: Some(5e-6), interpreted: 1e-5 },
        }
    }

    /// Rows of a cache may be rounded the other way: an f16 is one part in 2048 off, an integer one in 127 of its row's greatest.
    fn of_cache(self, variant: &str) -> Limits {
        let least = if variant.ends_with("int8") {
            8e-3
        } else if variant.ends_with("f16") {
            5e-4
        } else {
            0.0
        };
        Limits { native: self.native.map(|limit| limit.max(least)), interpreted: self.interpreted.max(least) }
    }
}

fn rms(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), v| (count + 1, sum + v * v));
    (sum / f64::from(count.max(1))).sqrt()
}

/// How far results are from those expected, relative to their size; integers are the same or infinitely far.
fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    match (found, expected) {
        (Tensor::Int(found), Tensor::Int(expected)) if found == expected => 0.0,
        (Tensor::Real(found), Tensor::Real(expected)) if found.len() == expected.len() => {
            let error = rms(found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
            let distance = error / (rms(expected.iter().map(|b| f64::from(*b))) + LEAST_SCALE);
            if distance.is_nan() { f64::INFINITY } else { distance }
        }
        _ => f64::INFINITY,
    }
}

/// Experts selected otherwise than the interpreter does: where scores are equal but for rounding. Then nothing else can be compared with it.
fn selects_otherwise(case: &Case, outputs: &Outputs, expected: &oracle::Expected) -> bool {
    let mut otherwise = false;
    for (field, expected) in expected {
        if let (Tensor::Int(found), Tensor::Int(expected)) = (oracle::result(case, field, outputs), expected) {
            let differing = found.iter().zip(expected).filter(|(a, b)| a != b).count();
            assert!(differing <= 2 + found.len() / 20, "{field}: {differing} of {} experts differ", found.len());
            otherwise |= differing > 0;
        }
    }
    otherwise
}

/// Runs one launch.
fn judge(kernel: &str, variant: &str, number: usize, draw: &Draw) {
    let case = draw::case(kernel, variant, number, draw).at(Pace::Fast);
    let outputs = case.run_device(ARCHITECTURE);
    let limits = |field: &str| {
        let limits = Limits::of(kernel, variant, case.value("norm"));
        if ["k", "v", "kv"].contains(&field) { limits.of_cache(variant) } else { limits }
    };
    let expected = oracle::interpreted(&case);
    assert!(!expected.is_empty(), "nothing was interpreted");
    if !selects_otherwise(&case, &outputs, &expected) {
        for (field, expected) in &expected {
            let (found, limit) = (oracle::result(&case, field, &outputs), limits(field).interpreted);
            let distance = distance(&found, expected);
            assert!(distance <= limit, "{field}: {distance:e} from the interpreter's, limit {limit:e}");
        }
    }
    let native = case.run_native();
    for field in expected.keys() {
        let Some(limit) = limits(field).native else { continue };
        let distance = distance(&oracle::result(&case, field, &outputs), &oracle::result(&case, field, &native));
        assert!(distance <= limit, "{field}: {distance:e} from the native kernel's, limit {limit:e}");
    }
    // What is rounded or copied has the native bits, all of a cache too.
    if ["gather_rows", "concat", "quantize_rows", "kv_append", "embedding"].contains(&kernel) {
        assert!(outputs == native, "other bits than the native kernel's");
    }
}

/// Draws shapes for a variant; a failure is shrunk and shown.
fn check(kernel: &str, variant: &str, number: usize, shapes: u32, tokens: BoxedStrategy<usize>) {
    let config =
        ProptestConfig { failure_persistence: None, max_shrink_iters: 60, ..ProptestConfig::with_cases(shapes) };
    let run = TestRunner::new(config).run(&draw(tokens), |draw| {
        judge(kernel, variant, number, &draw);
        Ok(())
    });
    match run {
        Ok(()) => {}
        Err(TestError::Fail(reason, draw)) => panic!("{kernel} {variant:?}, number {number}: {reason}\n{draw:?}"),
        Err(TestError::Abort(reason)) => panic!("{kernel} {variant:?}: {reason}"),
    }
}

/// Both paths of each variant of a product. On a GPU compiling is all the time that it takes, and every core has its share.
fn check_product(kernel: &str) {
    let (variants, next) = (variants(kernel), AtomicUsize::new(0));
    let workers = if gpu::asked_for() { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 };
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(variant) = variants.get(number) else { break };
            check(kernel, variant, number, 2, prop_oneof![1 => Just(1usize), 3 => 2usize..9].boxed());
            check(kernel, variant, number, 1, (9usize..41).boxed());
        }
    };
    std::thread::scope(|scope| {
        (1..workers).for_each(|_| drop(scope.spawn(work)));
        work();
    });
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
    check_product("qkv");
}

/// Kernels that are no product, with one variant or a few.
fn others() -> impl Iterator<Item = (&'static str, String)> {
    let launched = |name: &&str| !PRODUCTS.contains(name) && !catalog::SERVICES.contains(name);
    let others = CUDA_KERNELS.iter().map(|kernel| kernel.name).filter(launched);
    others.flat_map(|kernel| variants(kernel).into_iter().map(move |variant| (kernel, variant)))
}

/// Services have one variant, which `cuda_sample.rs` is for.
#[test]
fn all_others() {
    for (kernel, variant) in others() {
        check(kernel, &variant, 0, SHAPES, prop_oneof![1 => Just(1usize), 3 => 1usize..41].boxed());
    }
}

/// A variant of each kernel as artifacts hold it.
#[test]
fn optimised_code_gives_the_same_bits() {
    let products = PRODUCTS.into_iter().enumerate().map(|(i, kernel)| {
        let variants = variants(kernel);
        (kernel, variants[(17 + 31 * i) % variants.len()].clone())
    });
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for (kernel, variant) in products.chain(others()).filter(|(kernel, _)| seen.insert(*kernel)).collect::<Vec<_>>() {
        for tokens in [1usize..9, 9..41] {
            let draw = draw(tokens).new_tree(&mut runner).unwrap().current();
            let case = draw::case(kernel, &variant, 0, &draw);
            let fast = case.clone().at(Pace::Fast).run_device(ARCHITECTURE);
            assert!(fast == case.run_device(ARCHITECTURE), "{kernel} {variant} {draw:?}");
            assert!(fast.values().any(|bytes| floats(bytes).iter().any(|x| *x != 0.0)), "{kernel} {variant} {draw:?}");
        }
    }
}

/// Products are kernels that CUDA takes, and the words of their variants are these.
#[test]
fn the_variants_are_those_of_the_catalog() {
    let names: BTreeSet<&str> = CUDA_KERNELS.iter().map(|kernel| kernel.name).collect();
    assert_eq!(names, catalog::KERNELS.iter().map(|kernel| kernel.name).collect());
    let integers = FORMATS.iter().filter(|format| format.is_integer()).count();
    let both = 2 * FORMATS.len() + 3 * integers;
    let expected = [FORMATS.len() + integers, both, both, both, both, CACHES.len() * both];
    assert_eq!(PRODUCTS.map(|kernel| variants(kernel).len()), expected);
}

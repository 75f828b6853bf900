//! Products with one matrix each of a stack, executed by the simulator beside the native kernels.

mod harness;

use harness::experts::{GateUp, PLAIN, combine_down, grouped_matmul, limit};
use harness::{ARCHITECTURES, Case, Simulated, expect_close, floats};
use ir::types::DType;
use proptest::prelude::*;

/// Both architectures against the native kernel; the results of the first.
fn check(case: &Case, limit: f64) -> Simulated {
    let native = case.run_native();
    let [first, second] = ARCHITECTURES.map(|architecture| case.run_simulated(architecture));
    for simulated in [&first, &second] {
        for field in native.keys() {
            if *field == "experts_out" {
                assert_eq!(simulated.outputs[field], native[field]);
            } else {
                expect_close(&native, simulated, field, limit);
            }
        }
        assert!(simulated.workspace.iter().take(4096).all(|b| *b == 0), "counters are left");
    }
    first
}

fn entries(simulated: &Simulated) -> Vec<&'static str> {
    simulated.launches.iter().map(|(launch, _)| launch.entry).collect()
}

#[test]
fn grouped_matmul_of_few_tokens() {
    for (types, shape, options) in [
        ((DType::Q4G64, "f32"), [1, 2, 4, 40, 320], [true, true, false]),
        ((DType::Q8_0, "q8x32"), [3, 3, 5, 17, 96], [true, false, true]),
        ((DType::F16, "f32"), [5, 3, 3, 33, 100], [false, false, true]),
        ((DType::F16, "f32"), [8, 1, 1, 48, 512], [false, true, false]),
    ] {
        let simulated = check(&grouped_matmul(types, shape, options), limit(types.1));
        assert_eq!(entries(&simulated), ["grouped_matmul_few"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn grouped_matmul_of_any_shape(
        (types, block) in prop::sample::select(&[((DType::Q4G64, "f32"), 64), ((DType::Q8_0, "q8x32"), 32), ((DType::F16, "f32"), 1)][..]),
        shape in (1usize..40, 1usize..5, 1usize..7, 1usize..70, 1usize..300), options: [bool; 3], architecture in 0usize..2,
    ) {
        let (tokens, slots, matrices, rows, cols) = shape;
        let slots = if options[0] { slots } else { matrices };
        let shape = [tokens, slots, matrices, rows, cols.next_multiple_of(block)];
        let case = grouped_matmul(types, shape, options);
        expect_close(&case.run_native(), &case.run_simulated(ARCHITECTURES[architecture]), "out", limit(types.1));
    }

    #[test]
    fn combine_down_of_any_shape(
        shape in (1usize..40, 1usize..11, 1usize..7, 1usize..70, 1usize..6), options: [bool; 3], architecture in 0usize..2,
    ) {
        let (tokens, slots, matrices, rows, cols) = shape;
        let case = combine_down((DType::Q4G128, "f32"), [tokens, slots, matrices, rows, 128 * cols], options);
        let (native, simulated) = (case.run_native(), case.run_simulated(ARCHITECTURES[architecture]));
        native.keys().for_each(|field| expect_close(&native, &simulated, field, limit("f32")));
    }
}

/// More experts than a block has threads, most of them without tokens.
#[test]
fn tokens_are_sorted_by_many_experts() {
    let (tokens, slots, matrices) = (70, 8, 300);
    let types = (DType::Q8_0, "q8x32");
    let spread: Vec<i32> = (0..tokens * slots).map(|pair| (pair * pair % 331) as i32).collect();
    let case = grouped_matmul(types, [tokens, slots, matrices, 16, 32], [true, true, false]).input("experts", &spread);
    check(&case, limit(types.1));
}

#[test]
fn grouped_matmul_of_many_tokens() {
    for (types, shape, options, entry) in [
        ((DType::Q4G64, "f32"), [9, 2, 4, 40, 320], [true, true, false], "grouped_matmul_narrow"),
        ((DType::Q8_0, "q8x32"), [40, 4, 6, 17, 96], [true, false, true], "grouped_matmul_many"),
        ((DType::F16, "f32"), [70, 2, 2, 33, 100], [false, false, true], "grouped_matmul_many"),
        ((DType::F16, "f32"), [13, 1, 1, 130, 512], [false, true, false], "grouped_matmul_narrow"),
    ] {
        let simulated = check(&grouped_matmul(types, shape, options), limit(types.1));
        assert_eq!(entries(&simulated), ["grouped_matmul_prepare", entry]);
    }
}

#[test]
fn combine_down_of_few_tokens() {
    for (types, shape, options) in [
        ((DType::Q4G128, "f32"), [1, 2, 4, 100, 640], [false, true, true]),
        ((DType::Q4_0, "f32.block"), [3, 8, 5, 33, 96], [true, true, false]),
        ((DType::F32, "f32.half"), [8, 1, 1, 48, 70], [false, false, true]),
        ((DType::Q8C, "f32.row"), [2, 4, 8, 20, 130], [true, false, false]),
    ] {
        let simulated = check(&combine_down(types, shape, options), limit(types.1));
        assert_eq!(entries(&simulated), ["combine_down_few"]);
    }
}

#[test]
fn combine_down_of_many_tokens() {
    for (types, shape, options, entry) in [
        ((DType::Q4G128, "f32"), [20, 2, 4, 100, 640], [false, true, true], "combine_down_narrow"),
        ((DType::Q4_0, "f32.block"), [50, 3, 2, 33, 96], [true, true, false], "combine_down_many"),
        ((DType::F32, "f32.half"), [9, 9, 3, 40, 70], [true, false, true], "combine_down_many"),
        // More slots than an mma has columns.
        ((DType::F32, "f32.half"), [1, 9, 3, 40, 70], [true, false, true], "combine_down_narrow"),
    ] {
        let simulated = check(&combine_down(types, shape, options), limit(types.1));
        assert_eq!(entries(&simulated), ["combine_down_prepare", entry]);
    }
}

#[test]
fn gate_up_of_few_tokens() {
    for case in [
        PLAIN,
        GateUp { types: (DType::F32, "f32"), shape: [8, 1, 1, 70, 130], activation: 1, norm: 1, ..PLAIN },
        GateUp {
            types: (DType::Q8_0, "q8x32"),
            shape: [3, 2, 3, 20, 96],
            routing: 1,
            activation: 4,
            biased: true,
            ..PLAIN
        },
        GateUp { shape: [2, 3, 8, 40, 320], routing: 2, squares: true, norm: 3, route_width: Some(320), ..PLAIN },
        GateUp {
            types: (DType::Q4_0, "f32.half"),
            shape: [5, 2, 5, 16, 64],
            routing: 2,
            scoring: 1,
            shared: false,
            ..PLAIN
        },
    ] {
        let simulated = check(&case.case(), limit(case.types.1));
        assert_eq!(entries(&simulated), ["gate_up_few"]);
    }
}

#[test]
fn gate_up_of_many_tokens() {
    for (case, entry) in [
        (GateUp { shape: [70, 1, 1, 40, 320], ..PLAIN }, "gate_up_many"),
        (
            GateUp { types: (DType::F32, "f32"), shape: [9, 1, 1, 70, 130], activation: 1, norm: 1, ..PLAIN },
            "gate_up_narrow",
        ),
        (
            GateUp {
                types: (DType::Q8_0, "q8x32"),
                shape: [30, 2, 3, 20, 96],
                routing: 1,
                activation: 4,
                biased: true,
                ..PLAIN
            },
            "gate_up_many",
        ),
        (
            GateUp { shape: [20, 3, 8, 40, 320], routing: 2, squares: true, norm: 3, route_width: Some(320), ..PLAIN },
            "gate_up_narrow",
        ),
        (
            GateUp {
                types: (DType::Q4_0, "f32.half"),
                shape: [50, 2, 5, 16, 64],
                routing: 2,
                scoring: 1,
                shared: false,
                ..PLAIN
            },
            "gate_up_many",
        ),
    ] {
        let simulated = check(&case.case(), limit(case.types.1));
        assert_eq!(entries(&simulated), ["gate_up_prepare", entry]);
    }
}

fn bits(simulated: &Simulated, field: &str) -> Vec<u32> {
    floats(&simulated.outputs[field]).into_iter().map(f32::to_bits).collect()
}

/// The first tokens of 40 have the bits they have in a smaller launch, in every path of the kernel.
#[test]
fn tokens_among_many_have_the_bits_they_have_among_few() {
    for (form, matrices) in [("f32", 8), ("f32", 2), ("f32.row", 8)] {
        let types = (DType::Q4G64, form);
        let all = GateUp { types, routing: 2, squares: true, norm: 1, route_width: Some(320), ..PLAIN };
        let [many, few] = [40, 3].map(|tokens| {
            let launch = GateUp { shape: [tokens, 3, matrices, 40, 320], ..all };
            launch.case().run_simulated("sm_80")
        });
        assert_eq!(entries(&few), ["gate_up_few"]);
        assert_eq!(entries(&many), ["gate_up_prepare", if matrices == 8 { "gate_up_narrow" } else { "gate_up_many" }]);
        for field in ["out", "weights_out", "experts_out"] {
            let few = bits(&few, field);
            assert_eq!(bits(&many, field)[..few.len()], few, "{field}");
        }
    }
    for matrices in [8, 2] {
        let shapes = [[40, 3, matrices, 50, 384], [3, 3, matrices, 50, 384]];
        let down = |shape| combine_down((DType::Q4G128, "f32"), shape, [true, false, true]).run_simulated("sm_80");
        let [many, few] = shapes.map(down);
        for field in ["out", "squares"] {
            let few = bits(&few, field);
            assert_eq!(bits(&many, field)[..few.len()], few, "{field}");
        }
        let product = |shape| grouped_matmul((DType::Q8_0, "q8x32"), shape, [true, false, true]).run_simulated("sm_80");
        let [many, few] = shapes.map(product).map(|simulated| bits(&simulated, "out"));
        assert_eq!(many[..few.len()], few);
    }
}

#[test]
fn shapes_no_path_takes_are_errors() {
    let too_many = Case::new("gate_up", "q4_0.f32").count("routing", 2).count("matrices", 100_000);
    let too_many = too_many.count("tokens", 1).count("slots", 2).count("rows", 16).count("cols", 64);
    let message = too_many.constraint().expect("no constraint").to_string();
    assert!(message.contains("gate_up") && message.contains("100000 experts"), "{message}");
    let pairs = Case::new("grouped_matmul", "q4_0.f32").count("tokens", 1 << 31).count("slots", 2).count("rows", 16);
    let message = pairs.count("cols", 64).count("matrices", 2).constraint().expect("no constraint").to_string();
    assert!(message.contains("fewer tokens"), "{message}");
}

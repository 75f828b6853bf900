//! Products of packed weights, executed by the simulator beside the native kernels.

mod harness;

use harness::products::{columns, full, limit, product, rows_of_noise};
use harness::{ARCHITECTURES, Case, Simulated, expect_close, floats, noise, random_weights};
use ir::quant::FORMATS;
use ir::types::DType;

/// A launch on an architecture against the native kernel.
fn check(case: &Case, form: &str, architecture: &str, fields: &[&str]) -> Simulated {
    let native = case.run_native();
    let simulated = case.run_simulated(architecture);
    for field in fields {
        expect_close(&native, &simulated, field, limit(form));
    }
    simulated
}

/// Each format with one form of x beside f32.
fn other_forms() -> impl Iterator<Item = (DType, &'static str)> {
    let others = ["f32.half", "f32.block", "f32.row", "q8x32"].iter().cycle();
    FORMATS.iter().zip(others).map(|(f, other)| (f.dtype(), if f.is_integer() { *other } else { "f32.half" }))
}

/// Both paths of each variant with some shape.
fn check_variants(variants: impl Iterator<Item = (DType, &'static str)>, architecture: &str) {
    for ((dtype, form), i) in variants.zip(0..) {
        let few = [[1, 18, 640], [3, 37, 96], [8, 1, 60], [2, 18, 160]][i % 4];
        let many = [[9, 18, 160], [65, 37, 96], [10, 130, 640], [66, 1, 60]][i / 4 % 4];
        for [tokens, rows, cols] in [few, many] {
            let shape = [tokens, rows, columns(dtype, cols)];
            check(&product("project", dtype, form, shape).number("factor", 1.0), form, architecture, &["out"]);
        }
    }
}

#[test]
fn every_format() {
    check_variants(FORMATS.iter().map(|f| (f.dtype(), "f32")), ARCHITECTURES[0]);
}

#[test]
fn every_form() {
    check_variants(other_forms(), ARCHITECTURES[1]);
}

#[test]
fn matmul_adds_a_bias() {
    for (dtype, form, tokens) in [(DType::Q4G128, "f32", 2), (DType::F16, "f32", 130), (DType::Q8_0, "q8x32", 9)] {
        let case = product("matmul", dtype, form, [tokens, 301, 96]).input("bias", &noise(5, 301));
        check(&case, form, ARCHITECTURES[1], &["out"]);
    }
}

#[test]
fn floats_of_any_width() {
    for (dtype, tokens, cols) in
        [(DType::F32, 1, 29), (DType::BF16, 9, 29), (DType::F16, 5, 1), (DType::F8_E4M3, 64, 29)]
    {
        let case = product("project", dtype, "f32", [tokens, 18, cols]).number("factor", 1.0);
        check(&case, "f32", ARCHITECTURES[0], &["out"]);
    }
}

const FULL: &[&str] = &["out", "squares_out", "partials_out"];

#[test]
fn project_with_every_operand() {
    let [old, new] = ARCHITECTURES;
    for (dtype, form, architecture, tokens, norm, router) in [
        (DType::Q4G128, "f32", old, [3, 66], 1, 0),
        (DType::Q4G128, "f32", new, [1, 9], 2, 1),
        (DType::F16, "f32.half", new, [2, 9], 2, 2),
        (DType::Q5_0, "f32.row", new, [8, 10], 3, 1),
    ] {
        for tokens in tokens {
            let shape = [tokens, 40, columns(dtype, 150)];
            check(&full(dtype, form, shape, norm, router), form, architecture, FULL);
        }
    }
}

#[test]
fn project_in_place() {
    for tokens in [2, 10] {
        let case = product("project", DType::Q4_0, "f32", [tokens, 40, 64]).number("factor", 1.0);
        let case = case.update("out", &rows_of_noise(50, tokens, 40)).alias("residual", "out");
        check(&case, "f32", ARCHITECTURES[0], &["out"]);
    }
}

#[test]
fn bits_do_not_depend_on_the_batch() {
    let [old, new] = ARCHITECTURES;
    let formats = [DType::Q4G128, DType::F32, DType::BF16, DType::Q4_K, DType::Q6_K, DType::T2, DType::Q4_1];
    let with_f32 = formats.iter().map(|dtype| (*dtype, "f32", old));
    let others = other_forms().filter(|(dtype, _)| formats.contains(dtype)).map(|(dtype, form)| (dtype, form, new));
    for ((dtype, form, architecture), norm) in with_f32.chain(others).zip([1, 2, 0].iter().cycle()) {
        let shape = |tokens| [tokens, 18, columns(dtype, 640)];
        let many = full(dtype, form, shape(70), *norm, 0).run_simulated(architecture);
        for tokens in [1, 7] {
            let few = full(dtype, form, shape(tokens), *norm, 0).run_simulated(architecture);
            for field in FULL {
                let (few, many) = (&few.outputs[field], &many.outputs[field]);
                assert!(many.starts_with(few), "{dtype} {form}: {field} of {tokens} tokens differs among 70");
            }
        }
    }
}

#[test]
fn a_wide_matrix_gives_blocks_several_tiles() {
    let case = product("project", DType::T2, "f32", [1, 16 * 1024 + 5, 64]).number("factor", 1.0);
    let simulated = check(&case, "f32", ARCHITECTURES[0], &["out"]);
    assert_eq!(simulated.launches[0].0.grid, [513, 1, 1]);
}

#[test]
fn rows_too_wide_for_a_block_take_the_other_path() {
    let case = |tokens| product("project", DType::T2, "f32", [tokens, 16, 8256]).number("factor", 1.0);
    let simulated = check(&case(3), "f32", ARCHITECTURES[0], &["out"]);
    let entries = |s: &Simulated| s.launches.iter().map(|(l, _)| l.entry).collect::<Vec<_>>();
    assert_eq!(entries(&simulated), ["project_prepare", "project_many"]);
    let narrow = case(1).run_simulated(ARCHITECTURES[0]);
    assert_eq!(entries(&narrow), ["project_few"]);
    assert_eq!(narrow.outputs["out"], simulated.outputs["out"][..64]);
}

#[test]
fn column_partials() {
    let shapes = [(DType::F32, [3, 18, 100]), (DType::F16, [1, 40, 64]), (DType::BF16, [5, 3, 29])];
    for ((dtype, [tokens, experts, cols]), architecture) in shapes.into_iter().zip(ARCHITECTURES.iter().cycle()) {
        let case = Case::new("column_partials", dtype.name())
            .input("x", &rows_of_noise(1, tokens, cols))
            .input("norm", &noise(2, cols))
            .weights("w", dtype, [1, experts, cols], &random_weights(3, dtype, [1, experts, cols]))
            .output::<f32>("out", tokens * cols.div_ceil(16) * experts)
            .count("tokens", tokens)
            .count("cols", cols)
            .count("experts", experts);
        // The native kernel has the same operations in the same order.
        assert_eq!(floats(&case.run_simulated(architecture).outputs["out"]), floats(&case.run_native()["out"]));
    }
}

#[test]
fn what_cannot_be_launched_says_why() {
    let shape = Case::new("matmul", "q4_0.f32").count("tokens", 1 << 23).count("rows", 1).count("cols", 64);
    let message = shape.constraint().unwrap().to_string();
    assert!(message.contains("matmul") && message.contains("launch fewer at a time"), "{message}");
}

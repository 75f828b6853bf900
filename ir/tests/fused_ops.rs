//! Ops that fusion introduces, by hand-computed values: partial sums, scales, further results, states.

use std::collections::HashMap;

use ir::graph::{Graph, ValueId};
use ir::interp::{Interpreter, Tensor};
use ir::op::{Attr, Op};
use ir::types::{DType, Dim, TensorType};
use ir::verify::verify_graph;

fn reals(shape: &[u64]) -> TensorType {
    TensorType::new(DType::F32, shape.iter().map(|d| Dim::Const(*d)).collect::<Vec<_>>())
}

/// The results of a graph whose inputs are real.
fn results(graph: &Graph, inputs: &[(&str, Vec<f32>)]) -> HashMap<String, Vec<f32>> {
    verify_graph(graph).expect("a valid graph");
    let inputs = inputs.iter().map(|(name, v)| (name.to_string(), Tensor::Real(v.clone()))).collect();
    let outputs = Interpreter::new(graph, HashMap::new()).step(&[], &inputs).expect("a step");
    let real = |tensor| match tensor {
        Tensor::Real(values) => values,
        Tensor::Int(values) => values.into_iter().map(|v| v as f32).collect(),
    };
    outputs.into_iter().map(|(name, tensor)| (name, real(tensor))).collect()
}

fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32 - 3.0).collect()
}

#[test]
fn square_sums_are_of_panels_of_sixteen_columns() {
    let mut g = Graph::new("squares");
    let x = g.input("x", reals(&[2, 18]));
    let sums = g.op(Op::SquareSums, &[x], &[], "").expect("an op");
    g.output("sums", sums);
    let found = results(&g, &[("x", [vec![2.0; 18], vec![1.0; 18]].concat())]);
    assert_eq!(found["sums"], [64.0, 8.0, 16.0, 2.0]);
}

#[test]
fn a_row_scale_is_the_reciprocal_root_mean_square() {
    let mut g = Graph::new("scale");
    let (y, squares, bias) = (g.input("y", reals(&[1, 2])), g.input("s", reals(&[1, 2])), g.input("b", reals(&[2])));
    let attributes = [("width", Attr::Int(20)), ("eps", Attr::Float(0.0))];
    let scaled = g.op(Op::ScaleRows, &[y, squares, bias], &attributes, "").expect("an op");
    g.output("out", scaled);
    // The mean of 20 squares that add up to 80 is 4, its root 2.
    let found = results(&g, &[("y", vec![6.0, -2.0]), ("s", vec![50.0, 30.0]), ("b", vec![1.0, 10.0])]);
    assert_eq!(found["out"], [4.0, 9.0]);
}

/// Rounded to f16, rows stay f32: alone, behind a norm and inline.
#[test]
fn rows_rounded_to_f16_are_f32() {
    let mut g = Graph::new("half");
    let (x, n) = (g.input("x", reals(&[1, 3])), g.input("n", reals(&[3])));
    let half = ("granularity", Attr::Str("half".into()));
    let rounded = g.op(Op::QuantizeRows, &[x], std::slice::from_ref(&half), "").expect("an op");
    let inline = g.op(Op::InlineQuantize, &[x], std::slice::from_ref(&half), "").expect("an op");
    let attributes = [("kind", Attr::Str("scale".into())), ("eps", Attr::Float(0.0)), half];
    let normed = g.op(Op::NormQuantize, &[x, n], &attributes, "").expect("an op");
    for (name, value) in [("rounded", rounded), ("inline", inline), ("normed", normed)] {
        assert_eq!(g.node(value).ty, reals(&[1, 3]), "{name}");
        g.output(name, value);
    }
    // e = 0: 2^-11 beside 1 is a tie, and 2^-39 half of the least f16, 2^-24, times 2^-14.
    let x = vec![1.0 + 2f32.powi(-11), -1.0 - 3.0 * 2f32.powi(-11), 2f32.powi(-39)];
    let found = results(&g, &[("x", x), ("n", vec![1.0, 1.0, 2f32.powi(13)])]);
    assert_eq!(found["rounded"], [1.0, -1.0 - 2f32.powi(-9), 0.0]);
    assert_eq!(found["inline"], found["rounded"]);
    assert_eq!(found["normed"], [1.0, -1.0 - 2f32.powi(-9), 2f32.powi(-26)]);
}

#[test]
fn logits_from_partial_sums_are_those_of_the_norm_and_the_product() {
    let (width, experts) = (20, 3);
    let mut g = Graph::new("router");
    let x = g.input("x", reals(&[2, width]));
    let (norm, router) = (g.input("n", reals(&[width])), g.input("r", reals(&[experts, width])));
    let eps = ("eps", Attr::Float(1e-5));
    let normed = g.op(Op::RmsNorm, &[x, norm], std::slice::from_ref(&eps), "").expect("an op");
    let expected = g.op(Op::Matmul, &[normed, router], &[], "").expect("an op");
    let partials = g.op(Op::ColumnPartials, &[x, norm, router], &[], "").expect("an op");
    let squares = g.op(Op::SquareSums, &[x], &[], "").expect("an op");
    let attributes = [("width", Attr::Int(width as i64)), eps];
    let found = g.op(Op::FinishLogits, &[partials, squares], &attributes, "").expect("an op");
    g.output("expected", expected);
    g.output("found", found);
    let (x, n) = (ramp(40), (0..20).map(|i| 1.0 + 0.1 * i as f32).collect());
    let r = (0..60).map(|i| (i as f32 * 0.7).sin()).collect();
    let values = results(&g, &[("x", x), ("n", n), ("r", r)]);
    for (a, b) in values["expected"].iter().zip(&values["found"]) {
        assert!((a - b).abs() < 1e-5 * a.abs().max(1.0), "{a} is not {b}");
    }
}

#[test]
fn a_product_gives_its_partial_sums_as_further_results() {
    let mut g = Graph::new("project");
    let (x, w, residual) = (g.input("x", reals(&[1, 2])), g.input("w", reals(&[3, 2])), g.input("r", reals(&[1, 3])));
    let attributes = [
        ("eps", Attr::Float(0.0)),
        ("factor", Attr::Float(2.0)),
        ("softcap", Attr::Float(0.0)),
        ("emit", Attr::Str("squares".into())),
    ];
    let absent = ValueId::ABSENT;
    let y = g.op(Op::Project, &[x, w, absent, absent, absent, residual], &attributes, "").expect("an op");
    let squares = g.op(Op::Part, &[y], &[("index", Attr::Int(1))], "").expect("an op");
    g.output("y", y);
    g.output("squares", squares);
    assert!(g.clone().op(Op::Part, &[y], &[("index", Attr::Int(2))], "").is_err(), "it has two results");
    let w = vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
    let found = results(&g, &[("x", vec![3.0, 4.0]), ("w", w), ("r", vec![1.0, -1.0, 0.0])]);
    assert_eq!(found["y"], [7.0, 7.0, 14.0]);
    assert_eq!(found["squares"], [49.0 + 49.0 + 196.0]);
}

#[test]
fn a_cast_rounds() {
    let mut g = Graph::new("cast");
    let x = g.input("x", reals(&[1, 2]));
    let half = g.op(Op::Cast, &[x], &[("dtype", Attr::Str("f16".into()))], "").expect("an op");
    assert_eq!(g.node(half).ty.dtype, DType::F16);
    g.output("half", half);
    assert_eq!(results(&g, &[("x", vec![1.0, 0.1])])["half"], [1.0, half::f16::from_f32(0.1).to_f32()]);
}

#[test]
fn wrong_operands_of_a_fused_op_are_named_with_the_op_inside_that_refuses_them() {
    let mut g = Graph::new("wrong");
    let (x, w) = (g.input("x", reals(&[1, 2])), g.input("w", reals(&[3, 5])));
    let attributes = [("eps", Attr::Float(0.0)), ("activation", Attr::Str("silu".into())), ("limit", Attr::Float(0.0))];
    let error = g.op(Op::GateUp, &[x, w, w], &attributes, "mlp").expect_err("widths differ");
    assert_eq!(error.to_string(), "node %2 (gate_up mlp): in its matmul: the widths of x and w differ");
    let error = g.op(Op::GateUp, &[x, ValueId::ABSENT, w], &attributes, "").expect_err("a weight is missing");
    assert_eq!(error.message, "operand w_gate may not be left out");
}

//! The verifier finds every violation, not only the first, and names its place.

use ir::graph::Graph;
use ir::text::{parse_graph, parse_program};
use ir::verify::{Invalid, verify_graph, verify_program};

fn graph_violations(text: &str) -> Vec<String> {
    let graph: Graph = parse_graph(text).expect("well-formed text");
    verify_graph(&graph).err().unwrap_or(Invalid(vec![])).0.iter().map(ToString::to_string).collect()
}

fn program_violations(text: &str) -> Vec<String> {
    let program = parse_program(text).expect("well-formed text");
    verify_program(&program).err().unwrap_or(Invalid(vec![])).0.iter().map(ToString::to_string).collect()
}

#[test]
fn all_violations_of_a_graph_are_listed() {
    let found = graph_violations(
        r#"graph "g" {
          sym T in 5..=4
          sym read in 1..=2
          %0 = input "x" : f32[T, 8]
          %1 = weight "w" : q4_0[4, 33]
          %2 = weight "w" : f32[4, 9]
          %3 = matmul(%0, %2) : f32[T, 4] "layer.q"
          %4 = add(%0, %9) : f32[T, 8]
          %5 = rms_norm(%0) {eps = 1.0} : f32[T, 8]
          %6 = add(%0, %0) : f32[T, 9]
          %7 = constant "c" [1.0] : f32[2]
          output "y" %99
        }"#,
    );
    assert_eq!(
        found,
        [
            "symbol T: the range 5..=4 is empty",
            "symbol read: a symbol's name is a letter, then letters, digits or _, and no word of the text form",
            "node %1 (w): rows of 33 columns are no whole blocks of q4_0, which have 32: take a multiple of 32 columns, or a format without \
             blocks, as f16",
            "node %2 (w): the name is taken",
            "node %3 (matmul layer.q): the widths of x and w differ",
            "node %4 (add): operand %9 is not defined before its use",
            "node %5 (rms_norm): expected 2 operands (x, weight), found 1",
            "node %6 (add): the declared type is not what the op gives",
            "node %7 (c): a constant is an f32 vector or matrix of as many elements as its list",
            "output \"y\": %99 is not defined",
        ]
    );
}

#[test]
fn what_reads_rows_of_broken_blocks_is_named() {
    let found = graph_violations(
        r#"graph "g" {
          %0 = input "x" : f32[4, 48]
          %1 = weight "w" : q4_k[32, 48]
          %2 = matmul(%0, %1) : f32[4, 32] "layers.0.q"
          %3 = matmul(%0, %1) : f32[4, 32]
          output "y" %2
          output "z" %3
        }"#,
    );
    assert_eq!(
        found,
        [
            "node %1 (w): rows of 48 columns are no whole blocks of q4_k, which have 256; its readers, node %2 (matmul layers.0.q) and 1 more, \
             have kernels for whole blocks alone: take a multiple of 256 columns, or a format without blocks, as f16"
        ]
    );
    let overflows = graph_violations(
        "graph \"g\" { %0 = input \"x\" : f32[9223372036854775807, 9223372036854775807] output \"y\" %0 }",
    );
    assert_eq!(overflows, ["node %0 (x): a f32 tensor of this shape overflows"]);
}

#[test]
fn a_cycle_is_a_use_before_its_definition() {
    let found = graph_violations(
        r#"graph "g" {
          %0 = input "x" : f32[2, 2]
          %1 = add(%0, %2) : f32[2, 2]
          %2 = add(%1, %1) : f32[2, 2]
        }"#,
    );
    assert_eq!(found, ["node %1 (add): operand %2 is not defined before its use"]);
}

#[test]
fn all_violations_of_a_program_are_listed() {
    let found = program_violations(
        r#"program "p" {
          sym T in 1..=4
          arena 1024
          input "ids" : i32[T]
          buffer %0 : f32[T, 16] at 0
          buffer %1 : f32[T, 16] at 100
          buffer %2 : f32[T, 64] at 256
          buffer %3 : f32[T, 16] at 512
          output "y" %2
          launch a "" {out = write %0, n = T} "first"
          launch b "" {x = read %0, out = write %1, out = null} "second"
          launch c "" {x = read %3, out = write %7, k = 0.5} "third"
        }"#
        .replace("k = 0.5", "k = float 0.5")
        .as_str(),
    );
    assert_eq!(
        found,
        [
            "buffer %1: offset 100 is no multiple of 256",
            "buffer %2: it ends past the arena of 1024 bytes",
            "launch 1 (b second): field out is given twice",
            "launch 2 (c third): field x: buffer %3 is read before it is written",
            "launch 2 (c third): field out: buffer %7 is not declared",
            "output \"y\": buffer %2 is never written",
            "buffer %0: overlaps buffer %1 while both are live",
        ]
    );
}

#[test]
fn a_correct_program_passes() {
    let found = program_violations(
        r#"program "p" {
          sym T in 1..=4
          arena 512
          input "ids" : i32[T]
          buffer %0 : f32[T, 16] at 0
          buffer %1 : f32[T, 16] at 256
          buffer %2 : f32[T, 16] at 0
          output "y" %2
          launch a "" {out = write %0} ""
          launch b "" {x = read %0, out = write %1} ""
          launch c "" {x = read %1, out = write %2} ""
        }"#,
    );
    assert!(found.is_empty(), "{found:?}");
}

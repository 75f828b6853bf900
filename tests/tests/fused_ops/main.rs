//! Fused ops on the cpu device: each gives, bit for bit, what the launches of its expansion give one after the other, on every
//! instruction set and however its blocks are shared out; and what the interpreter gives, within rounding.

mod cases;
mod expand;
mod instance;

use cases::Shape;
use expand::expanded;
use instance::{Found, Instance};
use ir::graph::{Graph, NodeKind};
use kernels::cpu::isa::Isa;
use proptest::prelude::*;

/// Added to the root mean square that errors are relative to: a layer norm of one column is 0.
const LEAST_SCALE: f64 = 0.05;

fn rms(values: &[f32]) -> f64 {
    (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// Launches of a graph on the cpu.
fn launches(instance: &Instance, graph: &Graph) -> usize {
    instance.program(graph).launches.len()
}

/// The bits of an output.
fn bits(found: &Found) -> Vec<u32> {
    match found {
        Found::Real(values) => values.iter().map(|v| v.to_bits()).collect(),
        Found::Int(values) => values.iter().map(|v| *v as u32).collect(),
    }
}

/// Compares the fused graph with its expansion and with the interpreter.
fn judge(instance: &Instance) -> Result<(), TestCaseError> {
    let (fused, chain) = (&instance.graph, expanded(&instance.graph));
    prop_assert!(launches(instance, fused) <= launches(instance, &chain));
    let expected = instance.execute(&chain, Isa::best(), 1);
    for &isa in Isa::available() {
        for threads in [1, 3] {
            let found = instance.execute(fused, isa, threads);
            prop_assert_eq!(found.len(), expected.len());
            for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                let (found, expected) = (bits(found), bits(expected));
                let differing = found.iter().zip(&expected).position(|(a, b)| a != b);
                prop_assert!(
                    differing.is_none() && found.len() == expected.len(),
                    "output {} differs on {} with {} threads at {:?} of {}: {}",
                    name,
                    isa,
                    threads,
                    differing,
                    found.len(),
                    describe(fused)
                );
            }
        }
    }
    near_interpreter(instance, &expected)
}

/// Compares outputs with the interpreter's. A token that its router sends elsewhere by rounding alone, as where scores saturate, is no
/// error, but then nothing else can be compared.
fn near_interpreter(instance: &Instance, found: &[(String, Found)]) -> Result<(), TestCaseError> {
    let exact = instance.interpret(&instance.graph);
    for (name, found) in found {
        if let (Found::Int(found), Found::Int(exact)) = (found, &exact[name]) {
            let differing = found.iter().zip(exact).filter(|(a, b)| a != b).count();
            prop_assert!(differing <= 3 + found.len() / 20, "{} of {} selected experts differ", differing, found.len());
            if differing > 0 {
                return Ok(());
            }
        }
    }
    for (name, found) in found {
        if let (Found::Real(found), Found::Real(exact)) = (found, &exact[name]) {
            prop_assert_eq!(found.len(), exact.len());
            let differences: Vec<f32> = found.iter().zip(exact).map(|(a, b)| a - b).collect();
            let (error, scale) = (rms(&differences), rms(exact) + LEAST_SCALE);
            prop_assert!(
                error < instance.tolerance * scale,
                "output {}: RMS error {:.2e} of {:.2e}: {}",
                name,
                error,
                scale,
                describe(&instance.graph)
            );
        }
    }
    Ok(())
}

/// The ops of a graph and their attributes, for messages.
fn describe(graph: &Graph) -> String {
    let ops = graph.nodes.iter().filter_map(|n| match &n.kind {
        NodeKind::Op { op, attributes, operands } => Some(format!("{} {operands:?} {attributes:?}", op.name())),
        _ => None,
    });
    ops.collect::<Vec<_>>().join("; ")
}

macro_rules! judged {
    ($($name:ident),+ $(,)?) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
            $(
                #[test]
                fn $name(shape in Shape::any()) {
                    judge(&cases::$name(&shape))?;
                }
            )+
        }
    };
}

judged! {
    scale_columns, square_sums, scale_rows, column_partials, finish_logits, norm_quantize, norm_add, combine_add, combine_down,
    project_heads, qkv, project, gate_up, grouped_gate_up, routed_gate_up, route, grouped_matmul,
}

//! Bugs seeded into the kernels of `kernels/cuda`, one at a time: each is caught by the check of the simulator that is named for it or, where
//! nothing is touched that must not be, by the results of the native kernel. Unmutated, the same launches raise nothing.
//!
//! A mutation names the text it changes, which must stand in its file exactly once: a kernel that is rewritten takes its mutations along.

#[path = "../harness/mod.rs"]
mod harness;
mod launches;
mod others;
mod products;

use harness::bugs::{Bug, Change};
use harness::{ARCHITECTURES, Outputs, Simulated, floats, relative_rms};
use kernels::cuda::COUNTER_BYTES;
use launches::{ALL, On};
use others::{BUGS_IN_ATTENTION, BUGS_IN_HEADS_AND_ROWS};
use products::{BUGS_IN_PRODUCTS_OF_FEW_TOKENS, BUGS_IN_PRODUCTS_OF_MANY_TOKENS, BUGS_IN_PRODUCTS_WITH_EXPERTS};
use simulator::Kind;

/// What catches a bug.
#[derive(Clone, Copy, Debug)]
enum By {
    /// This check.
    Check(Kind),
    /// No check, but results that differ from the native kernel's.
    Values,
    /// No check, but a counter that is not zero afterwards.
    Counters,
}

/// A bug, where it is put, and what catches it.
struct Mutation(&'static str, On, Bug, By);

const fn text(file: &'static str, find: &'static str, replace: &'static str) -> Bug {
    Bug::Text(Change { file, find, replace })
}

/// Results that a bug changed differ by more than this, relative RMS; right ones by less than a tenth of it.
const DIFFERENT: f64 = 5e-2;

/// The greatest relative RMS of a field, infinite if it is no number.
fn difference(native: &Outputs, simulated: &Simulated) -> f64 {
    let of_field = |field| relative_rms(&floats(&simulated.outputs[field]), &floats(&native[field]));
    native.keys().map(|field| of_field(*field)).map(|e| if e.is_nan() { f64::INFINITY } else { e }).fold(0.0, f64::max)
}

fn counters_are_zero(simulated: &Simulated) -> bool {
    simulated.workspace.iter().take(COUNTER_BYTES as usize).all(|byte| *byte == 0)
}

/// Why a mutation is not caught as it should be, if it is not.
fn missed(Mutation(name, on, bug, by): &Mutation, architecture: &str) -> Option<String> {
    let case = on.case();
    let symptoms = match case.run_with(architecture, bug) {
        Ok(symptoms) => symptoms,
        Err(error) => return Some(format!("{name}: {error}")),
    };
    let caught = match by {
        By::Check(kind) => symptoms.kinds.contains(kind),
        By::Values => symptoms.kinds.is_empty() && difference(&case.run_native(), &symptoms.simulated) > DIFFERENT,
        By::Counters => symptoms.kinds.is_empty() && !counters_are_zero(&symptoms.simulated),
    };
    (!caught).then(|| format!("{name}: {by:?} did not catch it, findings: {:#?}", symptoms.findings))
}

/// Seeds each bug on its own and expects it to be caught.
fn expect_caught(mutations: &[Mutation], architecture: &str) {
    let missed: Vec<String> = mutations.iter().filter_map(|mutation| missed(mutation, architecture)).collect();
    assert!(missed.is_empty(), "{} of {} bugs are missed:\n{}", missed.len(), mutations.len(), missed.join("\n"));
}

#[test]
fn mutations_find_their_texts() {
    let groups = [
        BUGS_IN_PRODUCTS_OF_FEW_TOKENS,
        BUGS_IN_PRODUCTS_OF_MANY_TOKENS,
        BUGS_IN_PRODUCTS_WITH_EXPERTS,
        BUGS_IN_ATTENTION,
        BUGS_IN_HEADS_AND_ROWS,
    ];
    let stale: Vec<String> = groups
        .iter()
        .copied()
        .flatten()
        .filter_map(|Mutation(name, _, bug, _)| Some(format!("{name}: {}", bug.stale()?)))
        .collect();
    assert!(stale.is_empty(), "{} mutations no longer fit the kernels:\n{}", stale.len(), stale.join("\n"));
}

#[test]
fn unmutated_kernels_raise_nothing() {
    for (on, architecture) in ALL.iter().flat_map(|on| ARCHITECTURES.map(|a| (on, a))) {
        let case = on.case();
        let simulated = case.run_simulated(architecture);
        let error = difference(&case.run_native(), &simulated);
        assert!(error < DIFFERENT / 10.0, "{on:?} {architecture}: {error:e}");
        assert!(counters_are_zero(&simulated), "{on:?} {architecture}");
    }
}

#[test]
fn bugs_in_products_of_few_tokens() {
    expect_caught(BUGS_IN_PRODUCTS_OF_FEW_TOKENS, ARCHITECTURES[0]);
}

#[test]
fn bugs_in_products_of_many_tokens() {
    expect_caught(BUGS_IN_PRODUCTS_OF_MANY_TOKENS, ARCHITECTURES[0]);
}

#[test]
fn bugs_in_products_with_experts() {
    expect_caught(BUGS_IN_PRODUCTS_WITH_EXPERTS, ARCHITECTURES[0]);
}

#[test]
fn bugs_in_attention() {
    expect_caught(BUGS_IN_ATTENTION, ARCHITECTURES[0]);
}

#[test]
fn bugs_in_heads_and_rows() {
    for architecture in ARCHITECTURES {
        expect_caught(BUGS_IN_HEADS_AND_ROWS, architecture);
    }
}

//! Kernels that select and weigh experts, executed by the simulator beside the native ones. Where logits are given the bits are the same:
//! a program selects the same experts on every device.

mod harness;

use harness::route::{Routing, SCORINGS, route, router, router_weights};
use harness::{ARCHITECTURES, Case, Outputs, expect_close, noise};
use proptest::prelude::*;

/// The bits of a result, those of a NaN being any.
fn bits(outputs: &Outputs, field: &str) -> Vec<u32> {
    let words = outputs[field].chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
    words.map(|w| if f32::from_bits(w).is_nan() && w as i32 != -1 { 0x7fc0_0000 } else { w }).collect()
}

fn integers(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
}

prop_compose! {
    fn routing()(
        scoring in prop::sample::select(&SCORINGS[..]), tokens in 1usize..4, experts in 1usize..80, slots in 1usize..9,
        groups in prop_oneof![Just([1, 1]), (1usize..6, 1usize..4).prop_map(|(g, top)| [g, top])],
        [corrected, renormalise]: [bool; 2], jitter in 0f32..0.6, seed in 0u64..1 << 32,
    ) -> Routing {
        Routing { scoring, tokens, experts, slots, groups, corrected, renormalise, jitter, seed }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn selections_and_weights_have_the_native_bits(routing in routing(), wrong: bool, architecture in 0usize..2) {
        let architecture = ARCHITECTURES[architecture];
        let router = router(&routing);
        let native = router.run_native();
        prop_assert_eq!(bits(&router.run_simulated(architecture).outputs, "out"), bits(&native, "out"));
        let mut selected = integers(&native["out"]);
        if wrong {
            selected[0] = routing.experts as i32;
        }
        let weights = router_weights(&routing, &selected);
        prop_assert_eq!(bits(&weights.run_simulated(architecture).outputs, "out"), bits(&weights.run_native(), "out"));
        let route = route(&routing, None);
        let (native, simulated) = (route.run_native(), route.run_simulated(architecture).outputs);
        prop_assert_eq!(bits(&simulated, "selected"), bits(&native, "selected"));
        prop_assert_eq!(bits(&simulated, "weights"), bits(&native, "weights"));
    }
}

/// The order of addition differs, so weights agree to rounding; no two scores here are so near that experts would not be the same.
#[test]
fn partial_logits_are_finished_first() {
    let shapes = [(1, 32, 2, 300), (3, 70, 8, 2048), (2, 5, 4, 16), (1, 256, 8, 100)];
    for (i, (tokens, experts, slots, width)) in shapes.into_iter().enumerate() {
        for scoring in SCORINGS {
            let (groups, seed) = ([1 + i % 3, 1 + i % 2], 1 + i as u64);
            let [corrected, renormalise] = [i % 2 == 0, i < 2];
            let jitter = 0.01;
            let routing = Routing { scoring, tokens, experts, slots, groups, corrected, renormalise, jitter, seed };
            let case = route(&routing, Some(width));
            let native = case.run_native();
            for architecture in ARCHITECTURES {
                let simulated = case.run_simulated(architecture);
                assert_eq!(integers(&simulated.outputs["selected"]), integers(&native["selected"]), "{routing:?}");
                expect_close(&native, &simulated, "weights", 1e-5);
            }
        }
    }
}

/// A token among others has the bits it has alone.
#[test]
fn a_token_is_routed_as_if_alone() {
    let all = Routing {
        scoring: "softmax",
        tokens: 40,
        experts: 32,
        slots: 4,
        groups: [1, 1],
        corrected: false,
        renormalise: true,
        jitter: 0.0,
        seed: 7,
    };
    let together = route(&all, Some(96)).run_simulated("sm_80").outputs;
    let (partials, squares) = (noise(7 ^ 3, 40 * 6 * 32), noise(7 ^ 2, 40 * 6));
    for token in [0, 13, 39] {
        let squares: Vec<f32> = squares[token * 6..][..6].iter().map(|x| x * x).collect();
        let alone = route(&Routing { tokens: 1, ..all.clone() }, Some(96))
            .input("partials", &partials[token * 6 * 32..][..6 * 32])
            .input("squares", &squares)
            .run_simulated("sm_80")
            .outputs;
        for field in ["selected", "weights"] {
            assert_eq!(bits(&together, field)[4 * token..][..4], bits(&alone, field)[..], "token {token}");
        }
    }
}

#[test]
fn too_many_experts_are_an_error() {
    let routing = Routing {
        scoring: "sigmoid",
        tokens: 1,
        experts: 1 << 20,
        slots: 8,
        groups: [1, 1],
        corrected: false,
        renormalise: false,
        jitter: 0.0,
        seed: 1,
    };
    let case = router(&routing);
    let message = case.constraint().expect("no constraint").to_string();
    assert!(message.contains("router") && message.contains("1048576 experts"), "{message}");
    let most: usize = message.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(router(&Routing { experts: most, ..routing.clone() }).constraint().is_none());
    assert!(router(&Routing { experts: most + 1, ..routing }).constraint().is_some());
}

/// `combine_add` in the place of the residual stream or beside it, and `combine`.
#[test]
fn experts_results_are_combined() {
    for (i, (tokens, slots, cols)) in [(1, 2, 640), (3, 8, 300), (5, 1, 7), (40, 3, 17)].into_iter().enumerate() {
        let (y, weights) = (noise(1, tokens * slots * cols), noise(2, tokens * slots));
        let combine = Case::new("combine", "")
            .input("y", &y)
            .input("weights", &weights)
            .output::<f32>("out", tokens * cols)
            .count("tokens", tokens)
            .count("slots", slots)
            .count("cols", cols);
        let residual = noise(3, tokens * cols);
        let mut add = Case::new("combine_add", "")
            .input("y", &y)
            .input("weights", &weights)
            .count("tokens", tokens)
            .count("slots", slots)
            .count("cols", cols)
            .number("factor", 0.75);
        add = match i % 2 {
            0 => add.update("out", &residual).alias("residual", "out"),
            _ => add.input("residual", &residual).output::<f32>("out", tokens * cols),
        };
        if i != 1 {
            add = add.output::<f32>("squares", tokens * cols.div_ceil(16));
        }
        for case in [combine, add] {
            let native = case.run_native();
            for architecture in ARCHITECTURES {
                let simulated = case.run_simulated(architecture).outputs;
                for field in native.keys() {
                    assert_eq!(bits(&simulated, field), bits(&native, field), "{field} of {tokens} x {slots} x {cols}");
                }
            }
        }
    }
}

//! Attention, executed by the simulator: against the native kernel, and against itself in every way a step may be put together.

mod harness;

use harness::attention::{Setting, Tokens, plain, run};
use harness::floats;
use proptest::prelude::*;

/// Positions of a segment.
const SEGMENT: usize = 256;

const SEGMENTS: &str = "attention_segments";
const TILES: &str = "attention_tiles";

#[test]
fn one_token_over_several_segments() {
    for length in [1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 70] {
        plain("f16", 4, 2, 64).check(&[length], &run(0, length - 1, 1), SEGMENTS);
    }
    plain("f32", 2, 3, 32).check(&[2 * SEGMENT + 70], &run(0, 2 * SEGMENT + 69, 1), SEGMENTS);
    plain("int8", 4, 2, 64).check(&[2 * SEGMENT + 71], &run(0, 2 * SEGMENT + 70, 1), SEGMENTS);
}

/// More segments than blocks side by side: 16 tokens of 8 KV heads leave 4.
#[test]
fn blocks_of_several_segments() {
    let setting = plain("f16", 2, 8, 16);
    let tokens = [run(0, 1329, 15), run(1, 700, 1)].concat();
    let simulated = setting.check_on("sm_80", &[1344, 701], &tokens);
    assert_eq!((simulated.launches[0].0.entry, simulated.launches[0].0.grid[0]), (SEGMENTS, 4));
    setting.expect_same_bits(&[1344, 701], &tokens, &[0, 15]);
}

#[test]
fn ragged_steps_with_windows_caps_and_sinks() {
    for variant in ["f16", "int8"] {
        let setting = Setting { window: 100, softcap: 5.0, sinks: true, ..plain(variant, 4, 2, 64) };
        let few = [run(1, 3, 2), run(0, 299, 1), run(2, 255, 3)].concat();
        setting.check(&[300, 5, 258], &few, SEGMENTS);
        let many = [run(1, 0, 5), run(0, 290, 10), run(2, 200, 58)].concat();
        setting.check(&[300, 5, 258], &many, TILES);
    }
}

/// More tokens and heads than blocks: a block does the tiles that begin at either of two tokens.
#[test]
fn blocks_of_several_tiles() {
    let setting = plain("f16", 1, 64, 8);
    let tokens = [run(0, 3, 3), run(1, 60, 10), run(2, 5, 1), run(3, 0, 1), run(4, 70, 19)].concat();
    let simulated = setting.check_on("sm_80", &[6, 70, 6, 1, 89], &tokens);
    assert_eq!((simulated.launches[0].0.entry, simulated.launches[0].0.grid), (TILES, [17, 64, 1]));
}

/// Prompts that begin anywhere, over the border of a segment, in tiles that also hold other tokens.
#[test]
fn a_prompt_has_the_bits_of_its_tokens() {
    for window in [0, 90] {
        let setting = Setting { window, ..plain("f16", 4, 2, 64) };
        let tokens = [run(1, 17, 1), run(0, 230, 26), run(2, 350, 38)].concat();
        assert_eq!(setting.expect_same_bits(&[256, 18, 388], &tokens, &[0, 1, 26, 27, 64]), TILES);
        for variant in ["f32", "int8"] {
            let setting = Setting { window, ..plain(variant, 2, 3, 32) };
            assert_eq!(setting.expect_same_bits(&[400], &run(0, 350, 50), &[0, 16, 49]), TILES);
        }
    }
}

/// Dimensions that are no multiple of what an mma or a copy takes.
#[test]
fn dimensions_are_padded() {
    for (variant, group, kv_heads, dim) in
        [("f16", 3, 8, 18), ("f32", 1, 8, 20), ("f16", 1, 8, 8), ("int8", 3, 8, 18), ("int8", 1, 8, 48)]
    {
        let setting = plain(variant, group, kv_heads, dim);
        setting.check(&[70], &run(0, 69, 1), SEGMENTS);
        setting.check(&[70, 9], &[run(1, 8, 1), run(0, 50, 20)].concat(), TILES);
    }
}

/// The widest heads are divided between warps.
#[test]
fn wide_heads() {
    for variant in ["f16", "f32", "int8"] {
        let setting = plain(variant, 2, 8, 256);
        assert_eq!(setting.expect_same_bits(&[80], &run(0, 60, 17), &[16]), TILES);
    }
}

/// As in DeepSeek's models, with more query heads than a tile has rows; and small, odd shapes. A step of 128 or more tiles of
/// query heads is one of tiles.
#[test]
fn latent_attention() {
    let latent = |variant, group, dim, value_dim| Setting { value_dim, window: 150, ..plain(variant, group, 1, dim) };
    let wide = latent("f16", 128, 576, 512);
    assert_eq!(wide.expect_same_bits(&[17], &run(0, 0, 17), &[16]), TILES);
    wide.check(&[270], &run(0, 269, 1), SEGMENTS);
    let parity = latent("f32", 128, 288, 272);
    assert_eq!(parity.expect_same_bits(&[17], &run(0, 0, 17), &[16]), TILES);
    latent("f32", 3, 576, 512).check(&[70], &run(0, 69, 1), SEGMENTS);
    let rounded = latent("int8", 128, 576, 512);
    assert_eq!(rounded.expect_same_bits(&[17], &run(0, 0, 17), &[16]), TILES);
    rounded.check(&[270], &run(0, 269, 1), SEGMENTS);
    for (variant, group, dim, value_dim) in [("f32", 4, 24, 16), ("f16", 3, 21, 13), ("int8", 3, 21, 13)] {
        let setting = latent(variant, group, dim, value_dim);
        setting.check(&[300], &run(0, 298, 2), SEGMENTS);
        assert_eq!(setting.expect_same_bits(&[300], &run(0, 150, 129), &[0, 128]), TILES);
    }
}

/// Queries that f16 could not hold, scores that differ by more than it could tell.
#[test]
fn queries_of_any_magnitude() {
    for (variant, magnitude) in [("f16", 1e7), ("f16", 1e-7), ("f32", 1e7)] {
        let setting = Setting { magnitude, ..plain(variant, 2, 8, 16) };
        setting.check(&[100], &run(0, 98, 2), SEGMENTS);
    }
}

/// An infinite sink takes everything or nothing.
#[test]
fn infinite_sinks() {
    let setting = plain("f16", 2, 8, 16);
    let sinks: Vec<f32> = (0..16).map(|head| if head % 2 == 0 { f32::INFINITY } else { f32::NEG_INFINITY }).collect();
    for tokens in [run(0, 30, 1), run(0, 0, 31)] {
        let without = floats(&setting.case(&[31], &tokens).run_simulated("sm_80").outputs["out"]);
        let case = setting.case(&[31], &tokens).input("sinks", &sinks);
        let got = floats(&case.run_simulated("sm_80").outputs["out"]);
        for (i, (got, without)) in got.iter().zip(without).enumerate() {
            assert_eq!(*got, if i / 16 % 2 == 0 { 0.0 } else { without }, "{i}");
        }
    }
}

#[test]
fn shapes_that_are_refused() {
    for (dim, word) in [(37, "even"), (300, "256")] {
        let refused = plain("f16", 2, 2, dim).case(&[4], &run(0, 3, 1)).constraint().unwrap().to_string();
        assert!(refused.contains(word) && refused.contains("attention"), "{refused}");
    }
    assert!(plain("f16", 2, 2, 38).case(&[4], &run(0, 3, 1)).constraint().is_none());
}

/// Lanes never wait for each other's banks of shared memory.
#[test]
fn shared_memory_is_read_without_conflicts() {
    let shapes = [("f16", 4, 2, 64), ("f16", 8, 1, 128), ("int8", 4, 2, 64), ("int8", 8, 1, 128)];
    for (variant, group, kv_heads, dim) in shapes {
        let setting = plain(variant, group, kv_heads, dim);
        for (tokens, entry) in [(run(0, 299, 1), SEGMENTS), (run(0, 0, 128 / kv_heads + 1), TILES)] {
            let simulated = setting.check_on("sm_80", &[300], &tokens);
            let (launch, report) = &simulated.launches[0];
            let conflicts = report.counters.as_ref().unwrap().bank_conflicts;
            assert_eq!((launch.entry, conflicts), (entry, 0), "{setting:?}");
        }
    }
}

/// Of each sequence how many positions there are, and how many of the last of them are in the step.
fn sequences() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((1usize..420, prop_oneof![2 => Just(1usize), 1 => 1usize..40]), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn bits_depend_on_nothing_but_the_sequence(
        variant in prop_oneof![Just("f16"), Just("f32"), Just("int8")],
        sequences in sequences(),
        window in prop_oneof![Just(0usize), Just(1), Just(64), 1usize..300],
        softcap in prop_oneof![2 => Just(0f32), 1 => 0.5f32..30.0],
        sinks: bool,
        pick: prop::sample::Index,
    ) {
        let setting = Setting { window, softcap, sinks, ..plain(variant, 2, 8, 16) };
        let lens: Vec<usize> = sequences.iter().map(|s| s.0).collect();
        let tokens: Tokens =
            sequences.iter().enumerate().flat_map(|(s, (len, count))| run(s, len - count.min(len), *count.min(len))).collect();
        setting.expect_same_bits(&lens, &tokens, &[0, pick.index(tokens.len()), tokens.len() - 1]);
    }
}

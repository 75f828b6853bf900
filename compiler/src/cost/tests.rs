//! Costs by hand-computed figures, and what must hold of all of them.

use ir::program::Program;
use ir::text::parse_program;
use proptest::prelude::*;

use super::*;
use crate::target::{Arch, Target};

const SM_90: Target = Target::Cuda(Arch::Sm90);

/// Round figures, so that a term of the sum can be read off.
fn spec() -> TargetSpec {
    TargetSpec {
        name: "cpu".into(),
        bytes_per_s: 1e9,
        cached_bytes_per_s: 1e10,
        f32_ops_per_s: 1e11,
        f16_ops_per_s: 1e12,
        int8_ops_per_s: 1e13,
        launch_s: 1e-6,
        units: 4,
        block_rows: 64,
    }
}

/// A program of one launch. `{}` in a type stands for the tokens' symbol.
fn program(tokens: u64, declarations: &str, launch: &str) -> Program {
    let text = format!(
        "program \"p\" {{\n sym T in 1..={tokens}\n sym N in 1..=4096\n sym S in 1..=64\n sym P in 1..=128\n arena 0\n \
         {declarations}\n launch {launch} \"layers.3.x\"\n}}\n"
    );
    parse_program(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn cost(tokens: u64, declarations: &str, launch: &str) -> LaunchCost {
    let program = program(tokens, declarations, launch);
    launch_cost(&program, &program.launches[0], &spec())
}

/// Bytes, bytes read again, operations.
fn counts(cost: LaunchCost) -> (u64, u64, u64) {
    (cost.bytes, cost.cached_bytes, cost.operations)
}

fn matmul(tokens: u64, rows: u64, cols: u64) -> LaunchCost {
    cost(
        tokens,
        &format!(
            "input \"x\" : f32[T, {cols}] weight \"w\" : f32[{rows}, {cols}] buffer %0 : f32[T, {rows}] at 0 output \"y\" %0"
        ),
        &format!(
            "matmul \"f32.f32\" {{x = input \"x\", w = weight \"w\", bias = null, out = write %0, tokens = T, rows = {rows}, \
             cols = {cols}, reserved = 0}}"
        ),
    )
}

#[test]
fn a_product_reads_its_matrix_once_and_its_activations_in_every_block() {
    let cost = matmul(2, 128, 64);
    // x 2·64, w 128·64, out 2·128 floats; the second of two blocks reads x again.
    assert_eq!(counts(cost), (4 * (128 + 8192 + 256), 512, 2 * 2 * 128 * 64));
    let expected = 34304.0 / 1e9 + 512.0 / 1e10 + 32768.0 / 1e11 + 1e-6;
    assert!((cost.seconds - expected).abs() < 1e-15, "{} {expected}", cost.seconds);
}

#[test]
fn a_grouped_product_reads_the_matrices_that_can_be_selected() {
    let grouped = |tokens: u64| {
        cost(
            tokens,
            "weight \"w\" : q8_0[8, 64, 64] weight \"b\" : f32[8, 64] buffer %0 : q8x32[T, 64] at 0 \
             buffer %1 : i32[T, 2] at 0 buffer %2 : f32[T, 2, 64] at 0",
            "grouped_matmul \"q8_0.q8x32\" {x = read %0, w = weight \"w\", experts = read %1, bias = weight \"b\", \
             out = write %2, tokens = T, slots = 2, matrices = 8, rows = 64, cols = 64, slots_share_x = 1}",
        )
    };
    // Two tokens select at most 4 of 8 matrices of 64 rows of 68 bytes, with their biases; a row of x is 88 bytes.
    let bytes = 4 * 64 * 68 + 4 * 64 * 4 + 2 * 88 + 2 * 2 * 4 + 2 * 2 * 64 * 4;
    assert_eq!(counts(grouped(2)), (bytes, 2 * 88, 2 * 4 * 64 * 64));
    // A hundred select at most all.
    let bytes = 8 * 64 * 68 + 8 * 64 * 4 + 100 * (88 + 2 * 4 + 2 * 64 * 4);
    assert_eq!(grouped(100).bytes, bytes);
    // At the rate of int8 products.
    let cost = grouped(2);
    let expected = cost.bytes as f64 / 1e9 + 176.0 / 1e10 + cost.operations as f64 / 1e13 + 1e-6;
    assert!((cost.seconds - expected).abs() < 1e-15);
}

#[test]
fn an_embedding_reads_panels_of_the_rows_looked_up() {
    let embedding = |tokens| {
        cost(
            tokens,
            "input \"ids\" : i32[T] weight \"table\" : q8_0[1000, 64] buffer %0 : f32[T, 64] at 0",
            "embedding \"q8_0\" {ids = input \"ids\", table = weight \"table\", out = write %0, tokens = T, rows = 1000, \
             cols = 64, reserved = 0}",
        )
    };
    assert_eq!(counts(embedding(3)), (3 * 16 * 68 + 3 * 4 + 3 * 64 * 4, 0, 3 * 64));
    // 1000 rows are 63 panels.
    assert_eq!(embedding(500).bytes, 63 * 16 * 68 + 500 * 4 + 500 * 64 * 4);
}

#[test]
fn gathered_rows_are_those_that_are_given() {
    let cost = cost(
        512,
        "input \"rows\" : i32[8] buffer %0 : f32[T, 64] at 0 buffer %1 : f32[8, 64] at 0",
        "gather_rows \"\" {x = read %0, rows = input \"rows\", out = write %1, count = 8, cols = 64}",
    );
    assert_eq!(cost.bytes, 2 * 8 * 64 * 4 + 8 * 4);
}

fn attention(tokens: u64, window: u64, stride: u64) -> LaunchCost {
    cost(
        tokens,
        &format!(
            "input \"positions\" : i32[T] input \"sequences\" : i32[T] input \"pages\" : i32[S, {stride}] \
             state \"kv.0\" : f16[N, 2, 2, 16, 8] buffer %0 : f32[T, 4, 8] at 0 buffer %1 : f32[T, 4, 8] at 0"
        ),
        &format!(
            "attention \"f16\" {{q = read %0, kv = read state \"kv.0\", positions = input \"positions\", \
             sequences = input \"sequences\", page_table = input \"pages\", sinks = null, out = write %1, tokens = T, heads = 4, \
             kv_heads = 2, head_dim = 8, page_table_stride = {stride}, window = {window}, value_dim = 0, reserved = 0, \
             scale = float 1.0, softcap = float 0.0}}"
        ),
    )
}

#[test]
fn decoding_attends_to_a_context_and_a_prompt_to_itself() {
    // A position is 2 planes of 2 heads of 8 f16: 64 bytes. A pair costs 4 heads 2·(8 + 8) operations.
    let operands = |tokens: u64| tokens * (2 * 4 * 8 * 4 + 2 * 4);
    assert_eq!(counts(attention(2, 0, 128)), (operands(2) + 2 * 1024 * 64 + 2 * 64 * 4, 0, 2 * 1024 * 128));
    // A window, and a page table of 16 pages, see 256 positions.
    assert_eq!(attention(2, 256, 128), attention(2, 0, 16));
    assert_eq!(attention(2, 256, 128).operations, 2 * 256 * 128);
    assert_eq!(counts(attention(32, 0, 128)), (operands(32) + 32 * 64 + 2 * 4, 0, 32 * 33 / 2 * 128));
    // 1 + 2 + 3 + 28 times 4.
    assert_eq!(attention(31, 4, 128).operations, (6 + 28 * 4) * 128);
}

#[test]
fn appending_writes_the_tokens_of_the_step() {
    let cost = cost(
        3,
        "input \"positions\" : i32[T] input \"sequences\" : i32[T] input \"pages\" : i32[S, P] \
         state \"kv.0\" : f16[N, 2, 2, 16, 8] buffer %0 : f32[T, 2, 8] at 0 buffer %1 : f32[T, 2, 8] at 0",
        "kv_append \"f16\" {k = read %0, v = read %1, positions = input \"positions\", sequences = input \"sequences\", \
         page_table = input \"pages\", kv = update state \"kv.0\", tokens = T, kv_heads = 2, head_dim = 8, \
         page_table_stride = P}",
    );
    assert_eq!(cost.bytes, 3 * (64 + 2 * 2 * 8 * 4 + 3 * 4));
}

#[test]
fn an_inline_norm_and_rounding_are_repeated_by_every_block() {
    let project = |variant: &str, norm: u64| {
        cost(
            1,
            "input \"x\" : f32[T, 64] weight \"w\" : q8_0[128, 64] weight \"n\" : f32[64] buffer %0 : f32[T, 128] at 0",
            &format!(
                "project \"q8_0.{variant}\" {{x = input \"x\", w = weight \"w\", norm_weight = weight \"n\", out = write %0, \
                 tokens = T, rows = 128, cols = 64, norm = {norm}}}"
            ),
        )
    };
    let (bytes, products) = (4 * (64 + 64 + 128) + 128 * 68, 2 * 128 * 64);
    // Two blocks of 64 columns: 4 operations a norm, 4 a rounding.
    assert_eq!(counts(project("f32.block", 1)), (bytes, 256, products + 2 * 64 * 8));
    assert_eq!(counts(project("f32", 1)), (bytes, 256, products + 2 * 64 * 4));
    assert_eq!(counts(project("f32", 0)), (bytes, 256, products));
    // The product is of integers where the launch rounds, whatever the type of a cache says at the end.
    let seconds = |cost: LaunchCost| cost.seconds;
    assert!(seconds(project("f32.block", 0)) < seconds(project("f32.f16", 0)));
    assert_eq!(project("f32.f16", 0), project("f32", 0));
    // Rounded to f16 the rows are f32 in memory all the same, and the product is of f16: with a rate of its own.
    assert_eq!(counts(project("f32.half", 1)), counts(project("f32.block", 1)));
    assert!(seconds(project("f32.half", 0)) > seconds(project("f32.block", 0)));
    assert!(seconds(project("f32.half", 0)) < seconds(project("f32", 0)));
}

#[test]
fn a_routed_launch_selects_in_every_block() {
    let cost = cost(
        1,
        "input \"x\" : f32[T, 64] weight \"g\" : f32[8, 128, 64] weight \"u\" : f32[8, 128, 64] buffer %0 : f32[T, 8] at 0 \
         buffer %1 : f32[T, 2, 128] at 0 buffer %2 : i32[T, 2] at 0 buffer %3 : f32[T, 2] at 0",
        "gate_up \"f32.f32\" {x = input \"x\", w_gate = weight \"g\", w_up = weight \"u\", logits = read %0, out = write %1, \
         experts_out = write %2, weights_out = write %3, tokens = T, slots = 2, matrices = 8, rows = 128, cols = 64, \
         slots_share_x = 1, norm = 0}",
    );
    let bytes = 4 * (64 + 2 * 2 * 128 * 64 + 8 + 2 * 128 + 2 + 2);
    // Two matrices of two blocks each: x again for three, the logits again for three, two passes over 8 logits in each.
    assert_eq!(counts(cost), (bytes, 3 * 256 + 3 * 32, 2 * 2 * 2 * 128 * 64 + 4 * 16));
}

/// Bytes of one matrix of `combine_down` below.
const DOWN: u64 = 64 * 68;

fn combine_down(tokens: u64) -> LaunchCost {
    cost(
        tokens,
        "weight \"w\" : q8_0[4, 64, 64] buffer %0 : f32[T, 2, 64] at 0 buffer %1 : i32[T, 2] at 0 \
         buffer %2 : f32[T, 2] at 0 buffer %3 : f32[T, 64] at 0",
        "combine_down \"q8_0.f32.row\" {h = read %0, w = weight \"w\", experts = read %1, weights = read %2, out = write %3, \
         tokens = T, slots = 2, matrices = 4, rows = 64, cols = 64, factor = float 1.0}",
    )
}

#[test]
fn combine_down_reads_a_matrix_once_a_slot() {
    let operands = |tokens: u64| 4 * tokens * (2 * 64 + 2 + 2 + 64);
    let operations = |tokens: u64| 2 * tokens * 2 * 64 * 64 + tokens * 2 * 64 * 4;
    assert_eq!(counts(combine_down(1)), (operands(1) + 2 * DOWN, 0, operations(1)));
    assert_eq!(counts(combine_down(4)), (operands(4) + 4 * DOWN, 4 * DOWN, operations(4)));
}

/// For one token the fused launch saves a launch. For many, each matrix is better read once, as GPUs do in either case.
#[test]
fn combine_down_wins_where_matrices_are_not_read_again() {
    let separate = |target: Target, tokens: u64| {
        let stack = "weight \"w\" : q4_0[32, 1024, 512] buffer %0 : f32[T, 4, 512] at 0 buffer %1 : i32[T, 4] at 0 \
                     buffer %2 : f32[T, 4] at 0 buffer %3 : f32[T, 4, 1024] at 0 buffer %4 : f32[T, 1024] at 0";
        let grouped = "grouped_matmul \"q4_0.f32\" {x = read %0, w = weight \"w\", experts = read %1, bias = null, \
                       out = write %3, tokens = T, slots = 4, matrices = 32, rows = 1024, cols = 512, slots_share_x = 0}";
        let add = "combine_add \"\" {y = read %3, weights = read %2, residual = read %4, out = write %4, squares = null, \
                   tokens = T, slots = 4, cols = 1024, factor = float 1.0}";
        let fused = "combine_down \"q4_0.f32\" {h = read %0, w = weight \"w\", experts = read %1, weights = read %2, \
                     bias = null, residual = read %4, out = write %4, squares = null, tokens = T, slots = 4, matrices = 32, \
                     rows = 1024, cols = 512, factor = float 1.0}";
        let seconds = |launch| {
            let program = program(tokens, stack, launch);
            launch_cost(&program, &program.launches[0], &target.spec()).seconds
        };
        (seconds(fused), seconds(grouped) + seconds(add))
    };
    for (target, tokens, fused_wins) in
        [(Target::Cpu, 1, true), (Target::Cpu, 512, false), (SM_90, 1, true), (SM_90, 512, true)]
    {
        let (fused, apart) = separate(target, tokens);
        assert_eq!(fused < apart, fused_wins, "{target}, {tokens} tokens: {fused} {apart}");
    }
}

/// What a GPU's launch that prepares does once, however many blocks multiply: norm, rounding and routing. It costs τ itself.
#[test]
fn prepared_activations_are_normed_and_routed_once() {
    let gate_up = |target: Target, tokens: u64, norm: u64| {
        let program = program(
            tokens,
            "input \"x\" : f32[T, 64] weight \"g\" : f16[8, 128, 64] weight \"u\" : f16[8, 128, 64] weight \"n\" : f32[64] \
             buffer %0 : f32[T, 8] at 0 buffer %1 : f32[T, 2, 128] at 0 buffer %2 : i32[T, 2] at 0 buffer %3 : f32[T, 2] at 0",
            &format!(
                "gate_up \"f16.f32.half\" {{x = input \"x\", w_gate = weight \"g\", w_up = weight \"u\", norm_weight = weight \"n\", \
                 logits = read %0, out = write %1, experts_out = write %2, weights_out = write %3, tokens = T, slots = 2, \
                 matrices = 8, rows = 128, cols = 64, slots_share_x = 1, norm = {norm}}}"
            ),
        );
        let spec = TargetSpec { name: target.name().into(), ..spec() };
        launch_cost(&program, &program.launches[0], &spec)
    };
    let products = |tokens: u64| 2 * 2 * tokens * 2 * 128 * 64;
    // Two passes over 8 logits; 4 operations of the norm and 4 of rounding an element.
    let once = |tokens: u64| tokens * (2 * 8 + 64 * 8);
    assert_eq!(gate_up(SM_90, 100, 1).operations, products(100) + once(100));
    assert_eq!(gate_up(SM_90, 100, 1).operations - gate_up(SM_90, 100, 0).operations, 100 * 64 * 4);
    // Each block where it stages them itself: two of 64 rows, of two slots of a token, or of eight matrices.
    assert_eq!(gate_up(SM_90, 1, 1).operations, products(1) + 4 * once(1));
    assert_eq!(gate_up(Target::Cpu, 100, 1).operations, products(100) + 100 * (16 * 2 * 8 + 4 * 64 * 8));
    let launches = |target, tokens| {
        let cost = gate_up(target, tokens, 0);
        let elementwise = cost.operations - products(tokens);
        let work = products(tokens) as f64 / 1e12 + elementwise as f64 / 1e11;
        (cost.seconds - cost.bytes as f64 / 1e9 - cost.cached_bytes as f64 / 1e10 - work) / 1e-6
    };
    for (target, tokens, expected) in [(SM_90, 1, 1.0), (SM_90, 100, 2.0), (Target::Cpu, 100, 1.0)] {
        let launches: f64 = launches(target, tokens);
        assert!((launches - expected).abs() < 1e-6, "{target}, {tokens} tokens: {launches}");
    }
}

/// A block scales the results of its own tokens, of all row blocks of the matrices that a token meets.
#[test]
fn prepared_products_scale_their_own_tokens() {
    let cost = |target: Target| {
        let program = program(
            100,
            "weight \"g\" : f16[8, 128, 64] weight \"u\" : f16[8, 128, 64] buffer %0 : f32[T, 64] at 0 buffer %1 : f32[T, 4] at 0 \
             buffer %2 : i32[T, 2] at 0 buffer %3 : f32[T, 2, 128] at 0",
            "gate_up \"f16.f32\" {x = read %0, w_gate = weight \"g\", w_up = weight \"u\", squares = read %1, experts = read %2, \
             out = write %3, tokens = T, slots = 2, matrices = 8, rows = 128, cols = 64, slots_share_x = 1}",
        );
        launch_cost(&program, &program.launches[0], &TargetSpec { name: target.name().into(), ..spec() })
    };
    // x once for each of two slots' two blocks of rows, the first time from memory; 16 bytes of squares a token likewise.
    let x_again = 3 * 100 * 64 * 4;
    assert_eq!(cost(SM_90).cached_bytes, x_again + 3 * 100 * 16);
    assert_eq!(cost(Target::Cpu).cached_bytes, x_again + 15 * 100 * 16);
}

#[test]
fn a_tensor_read_twice_counts_once_and_a_result_in_its_place_again() {
    let add = |out: &str| {
        let launch = format!(
            "binary \"add\" {{a = read %0, b = read %0, out = write {out}, count = T * 8, limit = float 0.0, reserved = 0}}"
        );
        cost(2, "buffer %0 : f32[T, 8] at 0 buffer %1 : f32[T, 8] at 0", &launch)
    };
    assert_eq!(counts(add("%1")), (2 * 64, 0, 16));
    assert_eq!(add("%0"), add("%1"));
}

/// A kernel that nobody has described still moves its operands.
#[test]
fn a_kernel_of_the_users_costs_its_operands() {
    let cost = cost(
        4,
        "weight \"a\" : f32[3, 5] buffer %0 : f32[T, 10] at 0 buffer %1 : f32[T, 20] at 0",
        "mine \"\" {first = read %0, second = update %1, third = weight \"a\", size = 7}",
    );
    assert_eq!(counts(cost), (4 * (40 + 2 * 80 + 15), 0, 80));
    let seconds = cost.bytes as f64 / 1e9 + 80.0 / 1e11 + 1e-6;
    assert!((cost.seconds - seconds).abs() < 1e-15);
}

#[test]
fn a_program_costs_its_launches() {
    let mut program = program(
        4,
        "buffer %0 : f32[T, 8] at 0 buffer %1 : f32[T, 8] at 0",
        "unary \"scale\" {x = read %0, out = write %1, count = T * 8, value = float 2.0, reserved = 0}",
    );
    program.launches.push(program.launches[0].clone());
    let one = launch_cost(&program, &program.launches[0], &spec());
    assert_eq!(program_cost(&program, &spec()), one + one);
    assert_eq!((one.bytes, one.operations), (256, 32));
    assert_eq!(program_cost(&Program::default(), &spec()), LaunchCost::default());
}

#[test]
fn layers_are_read_off_labels() {
    assert_eq!(layer_of("layers.12.attention.q"), Some(12));
    for label in ["", "layers.", "layers.x.q", "embedding", "layers.3", "mtp.layers.3.q"] {
        assert_eq!(layer_of(label), None, "{label}");
    }
}

/// Sizes that overflow give the largest number, not a panic.
#[test]
fn sizes_that_overflow_are_large() {
    let cost = matmul(u64::MAX, 1 << 40, 1 << 40);
    assert_eq!((cost.bytes, cost.operations), (u64::MAX, u64::MAX));
    assert!(cost.seconds.is_finite());
    assert!(attention(u64::MAX, 0, 1 << 40).seconds.is_finite());
}

fn no_less(more: LaunchCost, less: LaunchCost) -> Result<(), TestCaseError> {
    prop_assert!(more.bytes >= less.bytes && more.operations >= less.operations, "{more:?} {less:?}");
    prop_assert!(more.seconds >= less.seconds, "{more:?} {less:?}");
    Ok(())
}

proptest! {
    /// More tokens, rows or columns never cost less.
    #[test]
    fn products_grow(tokens in 1u64..600, rows in 1u64..2000, cols in 1u64..40, step in 1u64..50) {
        let (cols, wider) = (cols * 32, (cols + step) * 32);
        let cost = matmul(tokens, rows, cols);
        no_less(matmul(tokens + step, rows, cols), cost)?;
        no_less(matmul(tokens, rows + step, cols), cost)?;
        no_less(matmul(tokens, rows, wider), cost)?;
    }

    #[test]
    fn reductions_of_experts_grow(tokens in 1u64..600, step in 1u64..50) {
        no_less(combine_down(tokens + step), combine_down(tokens))?;
    }

    /// Within decoding and within prompts; a wider window never costs less.
    #[test]
    fn attention_grows(tokens in 1u64..DECODE_TOKENS, chunk in DECODE_TOKENS + 1..600, window in 1u64..600, step in 1u64..50) {
        no_less(attention(tokens + 1, window, 128), attention(tokens, window, 128))?;
        no_less(attention(chunk + step, window, 128), attention(chunk, window, 128))?;
        for tokens in [tokens, chunk] {
            no_less(attention(tokens, window + step, 128), attention(tokens, window, 128))?;
            no_less(attention(tokens, 0, 128), attention(tokens, window, 128))?;
        }
    }

    /// A target that does anything faster takes no longer.
    #[test]
    fn a_faster_target_is_faster(tokens in 1u64..600, factor in 1.0f64..10.0, which in 0usize..5) {
        let program = program(
            tokens,
            "input \"x\" : f32[T, 64] weight \"w\" : q8_0[128, 64] weight \"n\" : f32[64] buffer %0 : f32[T, 128] at 0",
            "project \"q8_0.f32.row\" {x = input \"x\", w = weight \"w\", norm_weight = weight \"n\", out = write %0, tokens = T, \
             rows = 128, cols = 64, norm = 1}",
        );
        let mut faster = spec();
        match which {
            0 => faster.bytes_per_s *= factor,
            1 => faster.cached_bytes_per_s *= factor,
            2 => faster.f32_ops_per_s *= factor,
            3 => faster.int8_ops_per_s *= factor,
            _ => faster.launch_s /= factor,
        }
        let (slow, fast) = [spec(), faster].map(|s| launch_cost(&program, &program.launches[0], &s)).into();
        prop_assert!(fast.seconds <= slow.seconds);
        prop_assert_eq!((fast.bytes, fast.operations), (slow.bytes, slow.operations));
    }
}

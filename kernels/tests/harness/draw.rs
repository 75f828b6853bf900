//! Launches of every catalog kernel, of shapes that are drawn: ragged, with operands given or left out, experts that nobody selects, windows
//! that end anywhere. The constants that a kernel is compiled with follow from its variant's number, or come from a few, so that drawing costs no
//! compilation.

use ir::op::{ACTIVATIONS, SCORINGS};
use ir::types::DType;
use proptest::prelude::*;

use super::experts::GateUp;
use super::route::{Routing, route, router, router_weights};
use super::{Case, attention, experts, noise, products, qkv, random_weights};

/// What a launch is made of; each kernel takes what it needs.
#[derive(Clone, Debug)]
pub struct Draw {
    pub tokens: usize,
    pub rows: usize,
    /// Columns of rows, before they are made a multiple of a format's block.
    pub cols: usize,
    pub slots: usize,
    pub matrices: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Half the dimensions of a head, and pairs of them that are turned.
    pub half_head: usize,
    pub pairs: usize,
    /// Of each sequence how many positions there are, and how many of the last of them are in the step.
    pub sequences: Vec<(usize, usize)>,
    pub window: usize,
    /// Choices of the rest, a bit each.
    pub options: u32,
    pub seed: u64,
}

/// A draw of a step of so many tokens.
pub fn draw(tokens: impl Strategy<Value = usize> + 'static) -> impl Strategy<Value = Draw> {
    let sizes = (tokens, 1usize..70, prop_oneof![1 => 1usize..40, 3 => 1usize..300], 1usize..5, 1usize..8);
    let heads = (1usize..4, 1usize..3, 4usize..33, 0usize..33);
    let length = prop_oneof![1usize..40, 1usize..300, Just(16usize), Just(256), Just(257)];
    let sequences = prop::collection::vec((length, prop_oneof![2 => Just(1usize), 1 => 1usize..20]), 1..4);
    let window = prop_oneof![2 => Just(0usize), 1 => Just(1usize), 1 => Just(64usize), 2 => 1usize..300];
    (sizes, heads, sequences, window, any::<u32>(), 0u64..1 << 40).prop_map(
        |(
            (tokens, rows, cols, slots, matrices),
            (heads, kv_heads, half_head, pairs),
            sequences,
            window,
            options,
            seed,
        )| {
            let pairs = pairs.min(half_head);
            Draw {
                tokens,
                rows,
                cols,
                slots,
                matrices,
                heads,
                kv_heads,
                half_head,
                pairs,
                sequences,
                window,
                options,
                seed,
            }
        },
    )
}

impl Draw {
    fn has(&self, bit: u32) -> bool {
        self.options >> bit & 1 == 1
    }

    fn noise(&self, salt: u64, count: usize) -> Vec<f32> {
        noise(self.seed + salt, count)
    }

    /// Integers below `bound`, of which a few come often and some never.
    fn below(&self, salt: u64, bound: usize, count: usize) -> Vec<i32> {
        let values = self.noise(salt, count);
        values
            .iter()
            .map(|x| ((x.abs() * 1e4) as usize % bound.div_ceil(1 + usize::from(self.has(30)))) as i32)
            .collect()
    }

    /// Sums of squares as rows of `width` columns may have them.
    fn squares(&self, salt: u64, width: usize) -> Vec<f32> {
        self.noise(salt, self.tokens * width.div_ceil(16)).iter().map(|x| 16.0 * x * x + 0.1).collect()
    }

    /// Positions and sequences of the step's tokens in a cache of two sequences of three pages, and the page table.
    fn places(&self) -> [Vec<i32>; 3] {
        let first = self.options as usize % (self.tokens + 1);
        let start =
            |sequence: usize, count: usize| (self.seed as usize >> (8 * sequence)) % (qkv::POSITIONS - count + 1);
        let run = |sequence: usize, count: usize| {
            (start(sequence, count)..).take(count).map(|p| p as i32).collect::<Vec<_>>()
        };
        let positions = [run(0, first), run(1, self.tokens - first)].concat();
        let sequences = (0..self.tokens).map(|t| i32::from(t >= first)).collect();
        let mut table: Vec<i32> = (0..qkv::PAGES as i32).collect();
        table.rotate_left(self.seed as usize % qkv::PAGES);
        table.swap(0, 3);
        table.truncate(6);
        [positions, sequences, table]
    }

    fn placed(&self, case: Case) -> Case {
        let [positions, sequences, table] = self.places();
        let case = case.input("positions", &positions).input("sequences", &sequences).input("page_table", &table);
        case.count("page_table_stride", 3)
    }

    /// How products see rows: no norm, or one of three. One in memory as integers has none.
    fn norm(&self, form: &str) -> usize {
        if form == "q8x32" { 0 } else { self.options as usize >> 20 & 3 }
    }
}

/// Drops a field's buffer unless it is wanted.
fn unless(case: Case, wanted: bool, fields: &[&str]) -> Case {
    if wanted { case } else { fields.iter().fold(case, |case, field| case.without(field)) }
}

/// A launch of a variant, the `number`-th of its kernel's.
pub fn case(kernel: &str, variant: &str, number: usize, d: &Draw) -> Case {
    match kernel {
        "matmul" | "project" => product(kernel, variant, d),
        "grouped_matmul" | "combine_down" | "gate_up" => of_experts(kernel, variant, number, d),
        "qkv" => {
            let shape = qkv_shape(variant, d);
            let case = d.placed(shape.case());
            let case = if shape.squares { case.input("squares", &d.squares(8, shape.cols)) } else { case };
            if d.pairs > 0 { case.input("table", &d.below(4, 2, d.tokens)) } else { case }
        }
        "attention" => {
            let (setting, lens, tokens) = attention_step(variant, d);
            setting.case(&lens, &tokens)
        }
        "kv_append" => kv_append(variant, d),
        "router" | "router_weights" | "route" => routed(kernel, variant, d),
        "rope" => rope(d),
        "embedding" | "column_partials" | "gather_rows" | "concat" | "permute_columns" | "binary" | "unary" => {
            moved(kernel, variant, d)
        }
        "scale_rows" | "finish_logits" | "combine" | "combine_add" => by_token(kernel, d),
        _ => by_row(kernel, variant, d),
    }
}

/// The format of a product's variant, and what follows it.
fn split(variant: &str) -> (DType, String) {
    let (weights, form) = variant.split_once('.').unwrap();
    (DType::from_name(weights).unwrap(), form.into())
}

fn product(kernel: &str, variant: &str, d: &Draw) -> Case {
    let (weights, form) = split(variant);
    let shape = [d.tokens, d.rows, products::columns(weights, d.cols)];
    if kernel == "matmul" {
        let case = products::product(kernel, weights, &form, shape);
        return if d.has(0) { case.input("bias", &d.noise(1, d.rows)) } else { case };
    }
    let case = products::full(weights, &form, shape, d.norm(&form), d.slots % 3);
    let case = unless(case, d.has(0), &["bias"]);
    let case = unless(case, d.has(1), &["squares"]);
    let case = unless(case, d.has(2), &["gate"]);
    let case = unless(case, d.has(3), &["residual"]);
    let case = unless(case, d.has(4), &["router_norm", "router", "partials_out"]);
    let case = unless(case, d.has(4) || d.has(5), &["squares_out"]);
    let case = case.number("softcap", if d.has(6) { 3.0 } else { 0.0 });
    case.number("factor", if d.has(7) { 1.0 } else { 0.7 })
}

fn of_experts(kernel: &str, variant: &str, number: usize, d: &Draw) -> Case {
    let (weights, form) = split(variant);
    let types = (weights, super::FORMS.into_iter().find(|known| *known == form).unwrap());
    let (slots, cols) = (d.slots, products::columns(weights, d.cols));
    let listed = |case: Case| case.input("experts", &d.below(1, d.matrices, d.tokens * slots));
    let shape = [d.tokens, slots, d.matrices, d.rows, cols];
    match kernel {
        "grouped_matmul" if d.has(0) => listed(experts::grouped_matmul(types, shape, [true, d.has(1), d.has(2)])),
        "grouped_matmul" => {
            experts::grouped_matmul(types, [d.tokens, slots, slots, d.rows, cols], [false, d.has(1), d.has(2)])
        }
        "combine_down" => listed(experts::combine_down(types, shape, [d.has(0), d.has(1), d.has(2)])),
        _ => gate_up(types, shape, number, d),
    }
}

fn gate_up(types: (DType, &'static str), shape: experts::Shape, number: usize, d: &Draw) -> Case {
    let [tokens, slots, matrices, rows, cols] = shape;
    let (routing, scoring) = (number % 3, d.options as usize >> 8 & 3);
    // Two groups of two to four experts, of which one takes part.
    let (slots, matrices) = match routing {
        0 => (slots, slots),
        1 => (slots, matrices),
        _ => (slots.min(2), 4 + matrices % 3 * 2),
    };
    let (shape, scoring, squares) = ([tokens, slots, matrices, rows, cols], scoring % SCORINGS.len(), d.has(2));
    let route_width = 1 + d.seed as usize % 300;
    let case = GateUp {
        types,
        shape,
        routing,
        activation: number % ACTIVATIONS.len(),
        // Only rows that slots share can be scaled column by column.
        norm: match d.norm(types.1) {
            3 if !d.has(1) => 1,
            norm => norm,
        },
        shared: d.has(1),
        squares,
        // A bias of experts cannot follow a scale of rows.
        biased: !squares && d.has(3),
        route_width: d.has(4).then_some(route_width),
        scoring,
    };
    let case = case.case();
    match routing {
        1 => case.input("experts", &d.below(1, matrices, tokens * slots)),
        2 => {
            let case = unless(case, SCORINGS[scoring] == "sigmoid", &["correction"]);
            let case = if d.has(4) { case.input("route_squares", &d.squares(9, route_width)) } else { case };
            case.count("groups", if SCORINGS[scoring] == "sparsemixer" { 1 } else { 2 })
        }
        _ => case,
    }
}

/// A launch of `qkv`, whose tokens [`case`] then puts anywhere.
pub fn qkv_shape(variant: &str, d: &Draw) -> qkv::Shape {
    let (types, cache) = variant.rsplit_once('.').unwrap();
    let (weights, form) = split(types);
    qkv::Shape {
        weights,
        x: super::FORMS.into_iter().find(|known| *known == form).unwrap(),
        cache: super::CACHES.into_iter().find(|known| *known == cache).unwrap(),
        tokens: d.tokens,
        cols: products::columns(weights, d.cols),
        heads: d.heads,
        kv_heads: if d.has(9) && d.has(10) { 0 } else { d.kv_heads },
        head_dim: 2 * d.half_head,
        pairs: d.pairs,
        interleaved: d.has(0),
        norm: d.norm(&form),
        squares: d.has(1),
        biased: d.has(2),
        head_norms: d.has(3),
    }
}

/// Heads of a few shapes; sequences, windows and what follows of any.
pub fn attention_step(variant: &str, d: &Draw) -> (attention::Setting, Vec<usize>, attention::Tokens) {
    let (group, dim, value_dim) = [(2, 24, 0), (1, 64, 0), (3, 20, 12)][d.slots % 3];
    let lens: Vec<usize> = d.sequences.iter().map(|s| s.0).collect();
    let steps = d.sequences.iter().enumerate();
    let tokens = steps.flat_map(|(s, (len, count))| attention::run(s, len - count.min(len), *count.min(len))).collect();
    let variant = super::CACHES.into_iter().find(|known| *known == variant).unwrap();
    let kv_heads = if value_dim > 0 { 1 } else { d.kv_heads };
    let softcap = if d.has(0) { 5.0 } else { 0.0 };
    let plain = attention::plain(variant, group, kv_heads, dim);
    (attention::Setting { value_dim, window: d.window, softcap, sinks: d.has(1), ..plain }, lens, tokens)
}

fn kv_append(variant: &str, d: &Draw) -> Case {
    let (heads, dim, latent) = (d.kv_heads, 2 * d.half_head, d.has(0));
    let planes = if latent { 1 } else { 2 };
    let rows = qkv::PAGES * planes * heads * attention::PAGE;
    let case = d.placed(Case::new("kv_append", variant)).input("k", &d.noise(1, d.tokens * heads * dim));
    let case = if latent { case } else { case.input("v", &d.noise(2, d.tokens * heads * dim)) };
    let case = case.count("tokens", d.tokens).count("kv_heads", heads).count("head_dim", dim);
    match variant {
        "f16" => case.update("kv", &vec![half::f16::MAX; rows * dim]),
        "int8" => case.update("kv", &vec![9u8; rows * (dim + 2)]),
        _ => case.update("kv", &vec![9f32; rows * dim]),
    }
}

fn routed(kernel: &str, variant: &str, d: &Draw) -> Case {
    let scoring = super::route::SCORINGS.into_iter().find(|known| *known == variant).unwrap();
    let groups = if scoring == "sparsemixer" { 1 } else { 1 + d.heads };
    let top_groups = 1 + d.seed as usize % groups;
    let experts = groups * (2 + d.rows / groups);
    let routing = Routing {
        scoring,
        tokens: d.tokens,
        experts,
        slots: (d.slots + d.matrices).min(experts / groups * top_groups),
        groups: [groups, top_groups],
        corrected: scoring == "sigmoid" && d.has(0),
        renormalise: d.has(1),
        jitter: if scoring == "sparsemixer" { 0.0137 } else { 0.0 },
        // An odd one: logits that are all finite.
        seed: d.seed | 1,
    };
    match kernel {
        "router" => router(&routing),
        "router_weights" => {
            let selected = &router(&routing).run_native()["out"];
            let selected: Vec<i32> = selected.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
            router_weights(&routing, &selected)
        }
        // Logits for which no score is that of another expert but for rounding.
        _ if d.has(2) => route(&routing, Some(d.cols)).input("squares", &d.squares(9, d.cols)),
        _ => route(&routing, None),
    }
}

fn rope(d: &Draw) -> Case {
    let (tables, pairs, dim) = (1 + usize::from(d.has(0)), d.pairs.max(1), 2 * d.half_head);
    let count = d.tokens * d.heads * dim;
    let frequencies: Vec<f32> = (0..tables * pairs).map(|i| 0.9f32.powi(i as i32)).collect();
    let case = Case::new("rope", "")
        .input("x", &d.noise(1, count))
        .input("positions", &d.below(2, 5000, d.tokens))
        .input("inv_freq", &frequencies)
        .count("tokens", d.tokens)
        .count("heads", d.heads)
        .count("head_dim", dim)
        .count("pairs", pairs)
        .count("tables", tables)
        .count("interleaved", d.has(1).into())
        .number("scale", 1.25);
    let case = if tables > 1 { case.input("table", &d.below(3, tables, d.tokens)) } else { case };
    if d.has(2) { case.alias("out", "x") } else { case.output::<f32>("out", count) }
}

/// Kernels that move elements, or change them one by one.
fn moved(kernel: &str, variant: &str, d: &Draw) -> Case {
    let (case, count) = (Case::new(kernel, variant), d.rows * d.cols);
    match kernel {
        "embedding" => {
            let dtype = DType::from_name(variant).unwrap();
            let cols = products::columns(dtype, if d.has(0) { 40 } else { 290 });
            let shape = [1, d.rows, cols];
            case.input("ids", &d.below(1, d.rows, d.tokens))
                .weights("table", dtype, shape, &random_weights(d.seed, dtype, shape))
                .output::<f32>("out", d.tokens * cols)
                .count("tokens", d.tokens)
                .count("rows", d.rows)
                .count("cols", cols)
        }
        "column_partials" => {
            let (dtype, shape) = (DType::from_name(variant).unwrap(), [1, d.rows, d.cols]);
            case.input("x", &d.noise(1, d.tokens * d.cols))
                .input("norm", &d.noise(2, d.cols))
                .weights("w", dtype, shape, &random_weights(d.seed, dtype, shape))
                .output::<f32>("out", d.tokens * d.cols.div_ceil(16) * d.rows)
                .count("tokens", d.tokens)
                .count("cols", d.cols)
                .count("experts", d.rows)
        }
        "gather_rows" => case
            .input("x", &d.noise(1, count))
            .input("rows", &d.below(2, d.rows, d.tokens))
            .output::<f32>("out", d.tokens * d.cols)
            .count("count", d.tokens)
            .count("cols", d.cols),
        "concat" => case
            .input("a", &d.noise(1, count))
            .input("b", &d.noise(2, d.rows * d.slots))
            .output::<f32>("out", count + d.rows * d.slots)
            .count("rows", d.rows)
            .count("a_cols", d.cols)
            .count("b_cols", d.slots),
        "permute_columns" => permute_columns(case, d),
        "binary" => {
            let a: Vec<f32> = d.noise(1, count).iter().map(|x| 6.0 * x).collect();
            let case = case.input("a", &a).input("b", &d.noise(2, count)).count("count", count).number("limit", 0.9);
            if d.has(0) { case.alias("out", "a") } else { case.output::<f32>("out", count) }
        }
        _ => {
            let case = case.input("x", &d.noise(1, count)).count("count", count).number("value", 1.7);
            if d.has(0) { case.alias("out", "x") } else { case.output::<f32>("out", count) }
        }
    }
}

fn permute_columns(case: Case, d: &Draw) -> Case {
    let shared = d.has(1);
    let rows = if shared { d.tokens } else { d.tokens * d.slots };
    case.input("x", &d.noise(1, rows * d.cols))
        .input("index", &d.below(2, d.cols, d.matrices * d.cols))
        .input("experts", &d.below(3, d.matrices, d.tokens * d.slots))
        .output::<f32>("out", d.tokens * d.slots * d.cols)
        .count("tokens", d.tokens)
        .count("slots", d.slots)
        .count("matrices", d.matrices)
        .count("cols", d.cols)
        .count("slots_share_x", shared.into())
}

/// Kernels over tokens and their experts.
fn by_token(kernel: &str, d: &Draw) -> Case {
    let slots = if kernel == "scale_rows" && d.has(1) { 1 } else { d.slots };
    let (rows, panels) = (d.tokens * slots, d.cols.div_ceil(16));
    let case = Case::new(kernel, "").count("tokens", d.tokens);
    match kernel {
        "scale_rows" => {
            let width = 1 + d.seed as usize % 300;
            let case =
                case.input("y", &d.noise(1, rows * d.cols)).input("squares", &d.squares(2, width)).number("eps", 1e-5);
            let case = case.count("slots", slots).count("cols", d.cols).count("width", width);
            // Rows of several slots take no bias.
            let case = if slots == 1 && d.has(0) { case.input("bias", &d.noise(3, d.cols)) } else { case };
            if d.has(2) { case.alias("out", "y") } else { case.output::<f32>("out", rows * d.cols) }
        }
        "finish_logits" => {
            let case = case
                .input("partials", &d.noise(1, d.tokens * panels * d.rows))
                .input("squares", &d.squares(2, d.cols))
                .output::<f32>("out", d.tokens * d.rows)
                .count("experts", d.rows)
                .count("width", d.cols)
                .number("eps", 1e-6);
            if d.has(0) { case.input("bias", &d.noise(3, d.rows)) } else { case }
        }
        _ => {
            let case = case.input("y", &d.noise(1, rows * d.cols)).input("weights", &d.noise(2, rows));
            let case = case.count("slots", slots).count("cols", d.cols);
            if kernel == "combine" {
                return case.output::<f32>("out", d.tokens * d.cols);
            }
            let residual = d.noise(3, d.tokens * d.cols);
            let case = match d.has(0) {
                true => case.update("out", &residual).alias("residual", "out"),
                false => case.input("residual", &residual).output::<f32>("out", d.tokens * d.cols),
            };
            let case = case.number("factor", 0.75);
            if d.has(1) { case.output::<f32>("squares", d.tokens * panels) } else { case }
        }
    }
}

/// Kernels that work row by row.
fn by_row(kernel: &str, variant: &str, d: &Draw) -> Case {
    let (rows, cols, count) = (d.tokens, d.cols, d.tokens * d.cols);
    let rounded = rows * if variant == "half" { 4 * cols } else { 44 * cols.div_ceil(32) };
    let case = Case::new(kernel, variant).input("x", &d.noise(1, count)).count("rows", rows).count("cols", cols);
    let weighted = |case: Case| case.input("weight", &d.noise(2, cols)).number("eps", 1e-5);
    let placed = |case: Case| if d.has(3) { case.alias("out", "x") } else { case.output::<f32>("out", count) };
    match kernel {
        "rms_norm" => weighted(case).output::<f32>("out", count),
        "layer_norm" => {
            let case = if d.has(0) { case.input("bias", &d.noise(3, cols)) } else { case };
            weighted(case).output::<f32>("out", count)
        }
        "norm_add" => {
            let case = weighted(case).input("residual", &d.noise(3, count)).number("factor", 0.75);
            let case = if d.has(0) { case.output::<f32>("squares", rows * cols.div_ceil(16)) } else { case };
            placed(case)
        }
        "scale_columns" => placed(case.input("w", &d.noise(2, cols))),
        "sigmoid_gate" => placed(case.input("gate", &d.noise(2, rows))),
        "square_sums" => case.output::<f32>("out", rows * cols.div_ceil(16)),
        "quantize_rows" => case.output::<u8>("out", rounded),
        "norm_quantize" => {
            let norm = 1 + d.slots % 3;
            let case = weighted(case).output::<u8>("out", rounded).count("norm", norm);
            if norm == 2 && d.has(0) { case.input("bias", &d.noise(3, cols)) } else { case }
        }
        _ => panic!("{kernel} has no launch here: write one"),
    }
}

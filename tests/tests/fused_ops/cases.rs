//! One graph a fused op, of random shape: operands given or left out, inline operands, weights of several formats.

use ir::graph::ValueId;
use ir::op::{Attr, Op};
use ir::types::{DType, TensorType};
use proptest::prelude::*;

use super::instance::{Instance, MOST_TOKENS, N, constant};

/// What an instance is drawn from. Every op takes of it what it needs.
#[derive(Clone, Debug)]
pub struct Shape {
    tokens: u64,
    /// Columns of rows, before they are made a multiple of a format's block.
    width: usize,
    /// Rows of matrices.
    rows: usize,
    kv_heads: usize,
    group: usize,
    /// Half the dimensions of a head.
    half_head: usize,
    experts: usize,
    slots: usize,
    form: Form,
    /// Choices of the rest, a bit each.
    options: u32,
    seed: u64,
}

/// Weights and the way x comes to them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Form {
    weights: DType,
    /// `f32`, `q8x32`, or `block`, `row` and `half` where the launch rounds.
    x: &'static str,
}

const FORMS: &[(DType, &str)] = &[
    (DType::F32, "f32"),
    (DType::F16, "f32"),
    (DType::BF16, "f32"),
    (DType::Q4_0, "f32"),
    (DType::Q6_K, "f32"),
    (DType::Q8_0, "q8x32"),
    (DType::Q4_K, "q8x32"),
    (DType::Q4_1, "block"),
    (DType::Q5_0, "block"),
    (DType::Q8C, "row"),
    (DType::T2, "row"),
    (DType::MXFP4, "block"),
    (DType::F32, "half"),
    (DType::BF16, "half"),
    (DType::Q6_K, "half"),
    (DType::Q4Z32, "half"),
];

impl Shape {
    pub fn any() -> impl Strategy<Value = Shape> {
        let form = prop::sample::select(FORMS.to_vec()).prop_map(|(weights, x)| Form { weights, x });
        let tokens = prop_oneof![1..4u64, 1..MOST_TOKENS + 1];
        let sizes = (1..100usize, 1..150usize, 1..3usize, 1..4usize, 4..41usize);
        (tokens, sizes, (1..9usize, 1..4usize), form, any::<u32>(), any::<u64>()).prop_map(
            |(tokens, (width, rows, kv_heads, group, half_head), (experts, slots), form, options, seed)| {
                let slots = slots.min(experts);
                Shape { tokens, width, rows, kv_heads, group, half_head, experts, slots, form, options, seed }
            },
        )
    }

    /// Rounded activations may fall the other way; the rest is single precision.
    fn tolerance(&self) -> f64 {
        match self.form.x {
            "f32" => FLOATS,
            "half" => HALVES,
            _ => ROUNDED,
        }
    }

    fn has(&self, option: u32) -> bool {
        self.options >> option & 1 == 1
    }

    fn choice(&self, option: u32, words: &[&'static str]) -> &'static str {
        words[(self.options >> option) as usize % words.len()]
    }

    /// Columns that the format can hold.
    fn cols(&self) -> usize {
        let block = match self.form.weights {
            DType::Q4_K | DType::Q5_K | DType::Q6_K => 256,
            DType::F32 | DType::F16 | DType::BF16 => 1,
            _ => 32,
        };
        if block == 1 { self.width } else { self.width.div_ceil(64) * block }
    }

    fn instance(&self) -> Instance {
        Instance::new(self.tokens, self.tolerance(), self.seed)
    }

    fn factor(&self) -> Attr {
        Attr::Float(if self.has(20) { 1.0 } else { 0.375 + f64::from(self.options % 97) / 64.0 })
    }
}

fn word(word: &str) -> Attr {
    Attr::Str(word.into())
}

const EPS: f64 = 1e-5;

/// Relative error of single precision, magnified where activations cancel.
const FLOATS: f64 = 5e-5;

/// And where an activation may be rounded to another f16: two in the last place.
const HALVES: f64 = 1e-3;

/// And where an activation may be rounded to another integer.
const ROUNDED: f64 = 2e-2;

/// `value` where the option is taken.
fn given(g: &mut Instance, taken: bool, make: impl FnOnce(&mut Instance) -> ValueId) -> Option<ValueId> {
    taken.then(|| make(g))
}

/// The rows of a product: normalised and rounded as the shape says.
fn activations(g: &mut Instance, s: &Shape, shape: &[usize], may_norm: bool) -> ValueId {
    let mut x = g.input(shape);
    let cols = shape[shape.len() - 1];
    let kind = s.choice(24, &["none", "rms", "layer", "scale"]);
    if may_norm && kind != "none" && s.form.x != "q8x32" {
        let weight = g.plain(&[cols], 1.0);
        let bias = given(g, kind == "layer" && s.has(26), |g| g.plain(&[cols], 0.0));
        let attributes = [("kind", word(kind)), ("eps", Attr::Float(EPS))];
        x = g.op(Op::InlineNorm, &[Some(x), Some(weight), bias], &attributes);
    }
    let granularity = |form: &str| [("granularity", word(form))];
    match s.form.x {
        "f32" => x,
        "q8x32" => g.op(Op::QuantizeRows, &[Some(x)], &granularity("block")),
        form => g.op(Op::InlineQuantize, &[Some(x)], &granularity(form)),
    }
}

/// Experts `[T, slots]`, each token's distinct, and weights for them.
fn routing(g: &mut Instance, s: &Shape) -> (ValueId, ValueId) {
    let logits = g.input(&[s.experts]);
    let k = ("k", Attr::Int(s.slots as i64));
    let one = Attr::Int(1);
    let router = [k, ("scoring", word("softmax")), ("groups", one.clone()), ("top_groups", one)];
    let experts = g.op(Op::Router, &[Some(logits)], &router);
    (experts, g.input(&[s.slots]))
}

pub fn scale_columns(s: &Shape) -> Instance {
    let mut g = s.instance();
    let (x, w) = (g.input(&[s.width]), g.plain(&[s.width], 1.0));
    let y = g.op(Op::ScaleColumns, &[Some(x), Some(w)], &[]);
    g.output_all(y);
    g
}

pub fn square_sums(s: &Shape) -> Instance {
    let mut g = s.instance();
    let x = g.input(&[s.width]);
    let y = g.op(Op::SquareSums, &[Some(x)], &[]);
    g.output_all(y);
    g
}

fn row_scale(s: &Shape) -> [(&'static str, Attr); 2] {
    [("width", Attr::Int(s.width as i64)), ("eps", Attr::Float(EPS))]
}

pub fn scale_rows(s: &Shape) -> Instance {
    let mut g = s.instance();
    let slots = s.has(0);
    let y = if slots { g.input(&[s.slots, s.rows]) } else { g.input(&[s.rows]) };
    let squares = g.squares(s.width);
    let bias = given(&mut g, !slots && s.has(1), |g| g.plain(&[s.rows], 0.0));
    // In the place of its operand, if that is computed.
    let y = if s.has(2) { g.op(Op::Scale, &[Some(y)], &[("factor", Attr::Float(1.5))]) } else { y };
    let y = g.op(Op::ScaleRows, &[Some(y), Some(squares), bias], &row_scale(s));
    g.output_all(y);
    g
}

pub fn column_partials(s: &Shape) -> Instance {
    let mut g = s.instance();
    let floats = [DType::F32, DType::F16, DType::BF16];
    let dtype = floats[s.options as usize % floats.len()];
    let (x, norm) = (g.input(&[s.width]), g.plain(&[s.width], 1.0));
    let w = g.matrices(dtype, &[s.experts + s.rows % 40, s.width]);
    let y = g.op(Op::ColumnPartials, &[Some(x), Some(norm), Some(w)], &[]);
    g.output_all(y);
    g
}

pub fn finish_logits(s: &Shape) -> Instance {
    let mut g = s.instance();
    let partials = g.input(&[s.width.div_ceil(16), s.experts]);
    let squares = g.squares(s.width);
    let bias = given(&mut g, s.has(0), |g| g.plain(&[s.experts], 0.0));
    let y = g.op(Op::FinishLogits, &[Some(partials), Some(squares), bias], &row_scale(s));
    g.output_all(y);
    g
}

pub fn norm_quantize(s: &Shape) -> Instance {
    let mut g = s.instance();
    g.tolerance = ROUNDED;
    let cols = s.width.div_ceil(32) * 32;
    let kind = s.choice(0, &["rms", "layer", "scale"]);
    let (x, weight) = (g.input(&[cols]), g.plain(&[cols], 1.0));
    let bias = given(&mut g, kind == "layer" && s.has(4), |g| g.plain(&[cols], 0.0));
    let granularity = ("granularity", word(s.choice(5, &["block", "row", "half"])));
    let attributes = [("kind", word(kind)), ("eps", Attr::Float(EPS)), granularity];
    let rounded = g.op(Op::NormQuantize, &[Some(x), Some(weight), bias], &attributes);
    // Integers are no output; a product shows every one of them.
    let w = g.matrices(DType::Q8_0, &[s.rows, cols]);
    let y = g.op(Op::Matmul, &[Some(rounded), Some(w)], &[]);
    g.output_all(y);
    g
}

/// The residual stream, an input or computed, so that it may be overwritten.
fn stream(g: &mut Instance, s: &Shape, width: usize) -> ValueId {
    let x = g.input(&[width]);
    if s.has(10) { g.op(Op::Scale, &[Some(x)], &[("factor", Attr::Float(0.5))]) } else { x }
}

fn closing(s: &Shape) -> [(&'static str, Attr); 2] {
    [("factor", s.factor()), ("emit", word(s.choice(11, &["none", "squares"])))]
}

pub fn norm_add(s: &Shape) -> Instance {
    let mut g = s.instance();
    let x = stream(&mut g, s, s.width);
    let (weight, residual) = (g.plain(&[s.width], 1.0), stream(&mut g, s, s.width));
    let [factor, emit] = closing(s);
    let y = g.op(Op::NormAdd, &[Some(x), Some(weight), Some(residual)], &[("eps", Attr::Float(EPS)), factor, emit]);
    g.output_all(y);
    g
}

pub fn combine_add(s: &Shape) -> Instance {
    let mut g = s.instance();
    let (y, weights) = (g.input(&[s.slots, s.width]), g.input(&[s.slots]));
    let residual = stream(&mut g, s, s.width);
    let y = g.op(Op::CombineAdd, &[Some(y), Some(weights), Some(residual)], &closing(s));
    g.output_all(y);
    g
}

/// Of experts, or of heads: plain products, which may round their input.
pub fn grouped_matmul(s: &Shape) -> Instance {
    let mut g = s.instance();
    let cols = s.cols();
    let y = if s.has(3) {
        let x = activations(&mut g, s, &[s.experts, cols], false);
        let w = g.matrices(s.form.weights, &[s.experts, s.rows, cols]);
        g.op(Op::HeadMatmul, &[Some(x), Some(w)], &[])
    } else {
        let (experts, _) = routing(&mut g, s);
        let x = if s.has(4) { vec![cols] } else { vec![s.slots, cols] };
        let x = activations(&mut g, s, &x, false);
        let w = g.matrices(s.form.weights, &[s.experts, s.rows, cols]);
        let bias = given(&mut g, s.has(0), |g| g.plain(&[s.experts, s.rows], 0.0));
        g.op(Op::GroupedMatmul, &[Some(x), Some(w), Some(experts), bias], &[])
    };
    g.output_all(y);
    g
}

pub fn combine_down(s: &Shape) -> Instance {
    let mut g = s.instance();
    let cols = s.cols();
    let (experts, weights) = routing(&mut g, s);
    let h = activations(&mut g, s, &[s.slots, cols], false);
    let w = g.matrices(s.form.weights, &[s.experts, s.rows, cols]);
    let bias = given(&mut g, s.has(0), |g| g.plain(&[s.experts, s.rows], 0.0));
    let residual = given(&mut g, s.has(1), |g| stream(g, s, s.rows));
    let operands = [Some(h), Some(w), Some(experts), Some(weights), bias, residual];
    let y = g.op(Op::CombineDown, &operands, &closing(s));
    g.output_all(y);
    g
}

/// Operands and attributes that turn heads: positions, frequencies, tables.
fn turning(g: &mut Instance, s: &Shape) -> [Option<ValueId>; 2] {
    let pairs = if s.has(3) { s.half_head } else { s.half_head / 2 };
    let tables = s.has(4);
    let inv_freq = given(g, s.has(5), |g| {
        let shape = if tables { vec![2, pairs] } else { vec![pairs] };
        g.plain(&shape, 0.5)
    });
    let tables = given(g, tables && s.has(5), |g| g.metadata("rope_tables"));
    [inv_freq, tables]
}

fn head_attributes(s: &Shape) -> [(&'static str, Attr); 4] {
    [
        ("eps", Attr::Float(EPS)),
        ("norm_eps", Attr::Float(1e-6)),
        ("interleaved", Attr::Bool(s.has(6))),
        ("scale", Attr::Float(if s.has(7) { 1.0 } else { 1.25 })),
    ]
}

pub fn project_heads(s: &Shape) -> Instance {
    let mut g = s.instance();
    let (cols, heads, head_dim) = (s.cols(), s.kv_heads * s.group, 2 * s.half_head);
    let x = activations(&mut g, s, &[cols], true);
    let w = g.matrices(s.form.weights, &[heads * head_dim, cols]);
    let bias = given(&mut g, s.has(0), |g| g.plain(&[heads * head_dim], 0.0));
    let squares = given(&mut g, s.has(1), |g| g.squares(cols));
    let norm = given(&mut g, s.has(2), |g| g.plain(&[head_dim], 1.0));
    let [inv_freq, tables] = turning(&mut g, s);
    let positions = given(&mut g, inv_freq.is_some(), |g| g.metadata("positions"));
    let mut attributes = vec![("heads", Attr::Int(heads as i64))];
    attributes.extend(head_attributes(s));
    let operands = [Some(x), Some(w), bias, squares, norm, positions, inv_freq, tables];
    let y = g.op(Op::ProjectHeads, &operands, &attributes);
    g.output_all(y);
    g
}

/// The cache's keys and values show in attention over it.
pub fn qkv(s: &Shape) -> Instance {
    let mut g = s.instance();
    let (cols, heads, head_dim) = (s.cols(), s.kv_heads * s.group, 2 * s.half_head);
    let x = activations(&mut g, s, &[cols], true);
    let rows = [heads * head_dim, s.kv_heads * head_dim, s.kv_heads * head_dim];
    let w = rows.map(|rows| Some(g.matrices(s.form.weights, &[rows, cols])));
    // A key or value may be rounded the other way: to f16, or to one of 127 parts of its row's greatest.
    let (cache, tolerance) = match (s.has(8), s.has(10)) {
        (false, _) => (DType::F32, 0.0),
        (true, false) => (DType::F16, 1e-3),
        (true, true) => (DType::INT8, 1.0 / 127.0),
    };
    g.tolerance = g.tolerance.max(tolerance);
    let page = [N, constant(2), constant(s.kv_heads), constant(16), constant(head_dim)];
    let kv = g.graph.state("kv", TensorType::new(cache, page));
    let [positions, sequences, page_table] = ["positions", "sequences", "page_table"].map(|name| g.metadata(name));
    let squares = given(&mut g, s.has(1), |g| g.squares(cols));
    let biases = [0, 1, 2].map(|i| given(&mut g, s.has(0) && (i > 0 || s.has(9)), |g| g.plain(&[rows[i]], 0.0)));
    let norms = [2, 12].map(|option| given(&mut g, s.has(option), |g| g.plain(&[head_dim], 1.0)));
    let [inv_freq, tables] = turning(&mut g, s);
    let metadata = [positions, sequences, page_table].map(Some);
    let operands =
        [&[Some(x)], &w[..], &[Some(kv)], &metadata, &[squares], &biases, &norms, &[inv_freq, tables]].concat();
    let counts = [("heads", Attr::Int(heads as i64)), ("kv_heads", Attr::Int(s.kv_heads as i64))];
    let q = g.op(Op::Qkv, &operands, &[&counts[..], &head_attributes(s)].concat());
    let kv = g.op(Op::After, &[Some(kv), Some(q)], &[]);
    let attributes = [
        ("scale", Attr::Float((head_dim as f64).sqrt().recip())),
        ("window", Attr::Int(0)),
        ("softcap", Attr::Float(0.0)),
        ("value_dim", Attr::Int(0)),
    ];
    let seen = g.op(Op::Attention, &[Some(q), Some(kv), metadata[0], metadata[1], metadata[2]], &attributes);
    g.output_all(q);
    g.graph.output("attention", seen);
    g
}

/// A product with all that may follow it.
pub fn project(s: &Shape) -> Instance {
    let mut g = s.instance();
    let cols = s.cols();
    let emit = s.choice(16, &["none", "squares", "router"]);
    let x = activations(&mut g, s, &[cols], true);
    let w = g.matrices(s.form.weights, &[s.rows, cols]);
    let bias = given(&mut g, s.has(0), |g| g.plain(&[s.rows], 0.0));
    let squares = given(&mut g, s.has(1), |g| g.squares(cols));
    let gate = given(&mut g, s.has(2), |g| g.input(&[1]));
    let residual = given(&mut g, s.has(3), |g| stream(g, s, s.rows));
    let router_norm = given(&mut g, emit == "router", |g| g.plain(&[s.rows], 1.0));
    let router = given(&mut g, emit == "router", |g| g.matrices(DType::F32, &[s.experts + s.width % 40, s.rows]));
    let softcap = Attr::Float(if s.has(4) { 0.0 } else { 3.0 });
    let attributes = [("eps", Attr::Float(EPS)), ("factor", s.factor()), ("softcap", softcap), ("emit", word(emit))];
    let y = g.op(Op::Project, &[Some(x), Some(w), bias, squares, gate, residual, router_norm, router], &attributes);
    g.output_all(y);
    g
}

/// Activation and limit of a gated unit.
fn gating(s: &Shape) -> [(&'static str, Attr); 3] {
    let activation = s.choice(14, ir::op::ACTIVATIONS);
    let limit = if activation == "clamped_swiglu" { 7.0 } else { 0.0 };
    [("eps", Attr::Float(EPS)), ("activation", word(activation)), ("limit", Attr::Float(limit))]
}

pub fn gate_up(s: &Shape) -> Instance {
    let mut g = s.instance();
    let cols = s.cols();
    let x = activations(&mut g, s, &[cols], true);
    let w = [0, 1].map(|_| Some(g.matrices(s.form.weights, &[s.rows, cols])));
    let squares = given(&mut g, s.has(1), |g| g.squares(cols));
    let biases = [0, 2].map(|option| given(&mut g, s.has(option), |g| g.plain(&[s.rows], 0.0)));
    let y = g.op(Op::GateUp, &[Some(x), w[0], w[1], squares, biases[0], biases[1]], &gating(s));
    g.output_all(y);
    g
}

/// Operands that the gated products of experts share: matrices, squares or biases.
fn expert_operands(g: &mut Instance, s: &Shape, cols: usize) -> ([Option<ValueId>; 2], [Option<ValueId>; 3]) {
    let w = [0, 1].map(|_| Some(g.matrices(s.form.weights, &[s.experts, s.rows, cols])));
    // A bias of experts cannot follow a scale of rows.
    let squares = given(g, s.has(1), |g| g.squares(cols));
    let biases =
        [0, 2].map(|option| given(g, squares.is_none() && s.has(option), |g| g.plain(&[s.experts, s.rows], 0.0)));
    (w, [squares, biases[0], biases[1]])
}

pub fn grouped_gate_up(s: &Shape) -> Instance {
    let mut g = s.instance();
    let cols = s.cols();
    let x = activations(&mut g, s, &[cols], true);
    let (experts, _) = routing(&mut g, s);
    let (w, [squares, gate_bias, up_bias]) = expert_operands(&mut g, s, cols);
    let operands = [Some(x), w[0], w[1], Some(experts), squares, gate_bias, up_bias];
    let y = g.op(Op::GroupedGateUp, &operands, &gating(s));
    g.output_all(y);
    g
}

/// Logits, computed by the launch that reads them or not; sums of eighths, so that no rounding decides between experts.
fn logits(g: &mut Instance, s: &Shape) -> ValueId {
    let eighth = |random: &mut super::instance::Random| (random.value() * 32.0).round() / 8.0;
    if !s.has(18) {
        return g.input_of(&[s.experts], eighth);
    }
    let partials = g.input_of(&[s.width.div_ceil(16), s.experts], eighth);
    let squares = g.squares(s.width);
    let bias = given(g, s.has(19), |g| g.plain(&[s.experts], 0.0));
    g.op(Op::InlineLogits, &[Some(partials), Some(squares), bias], &row_scale(s))
}

/// How experts are selected and weighed, and a correction where the scoring has one.
fn selection(g: &mut Instance, s: &Shape) -> (Vec<(&'static str, Attr)>, Option<ValueId>) {
    let scoring = s.choice(21, ir::op::SCORINGS);
    let groups =
        if scoring != "sparsemixer" && s.experts.is_multiple_of(2) && s.experts >= 4 && s.slots <= s.experts / 2 {
            2
        } else {
            1
        };
    let correction = given(g, scoring == "sigmoid" && s.has(23), |g| g.plain(&[s.experts], 0.0));
    // Twice the jitter is no ratio of small numbers of eighths, so that no logit lies at the bound.
    let attributes = vec![
        ("k", Attr::Int(s.slots as i64)),
        ("scoring", word(scoring)),
        ("groups", Attr::Int(groups)),
        ("top_groups", Attr::Int(1)),
        ("renormalise", Attr::Bool(s.has(27))),
        ("scale", Attr::Float(if s.has(28) { 1.0 } else { 2.5 })),
        ("jitter", Attr::Float(if scoring == "sparsemixer" { 0.0137 } else { 0.0 })),
    ];
    (attributes, correction)
}

pub fn route(s: &Shape) -> Instance {
    let mut g = s.instance();
    let logits = logits(&mut g, s);
    let (attributes, correction) = selection(&mut g, s);
    let y = g.op(Op::Route, &[Some(logits), correction], &attributes);
    g.output_all(y);
    g
}

pub fn routed_gate_up(s: &Shape) -> Instance {
    let mut g = s.instance();
    let cols = s.cols();
    let x = activations(&mut g, s, &[cols], true);
    let logits = logits(&mut g, s);
    let (w, [squares, gate_bias, up_bias]) = expert_operands(&mut g, s, cols);
    let (attributes, correction) = selection(&mut g, s);
    let operands = [Some(x), w[0], w[1], Some(logits), squares, gate_bias, up_bias, correction];
    let y = g.op(Op::RoutedGateUp, &operands, &[&gating(s)[..], &attributes].concat());
    g.output_all(y);
    g
}

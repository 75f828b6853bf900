//! What `ir::interp` says a case gives: a graph around the op that the kernel carries out, over the case's own operands.
//!
//! The interpreter makes its sums in f64 and shares nothing with the kernels but the formats. It has no word for an expert, column or id that
//! does not exist: cases that are judged by it have none.

use std::collections::{BTreeMap, HashMap};

use ir::graph::{Graph, ValueId};
use ir::interp::{Interpreter, Tensor};
use ir::op::{ACTIVATIONS, Attr, NORM_KINDS, Op, SCORINGS};
use ir::quant::{self, activations};
use ir::types::{DType, Dim, TensorType};

use super::attention::PAGE;
use super::{Case, floats, kv};

/// Results by field. Of a cache that is written, `k` and `v` are the rows that the step's tokens have in it.
pub type Expected = BTreeMap<&'static str, Tensor>;

/// Interprets a case. Kernels that carry out no op, those of `catalog::SERVICES`, have no results here.
pub fn interpreted(case: &Case) -> Expected {
    let mut oracle =
        Oracle { case, graph: Graph::new("case"), inputs: HashMap::new(), weights: HashMap::new(), fields: Vec::new() };
    oracle.build();
    let mut found = Interpreter::new(&oracle.graph, oracle.weights)
        .step(&[], &oracle.inputs)
        .unwrap_or_else(|e| panic!("{} {}: {e}", case.kernel.name, case.variant));
    oracle.fields.into_iter().map(|field| (field, found.remove(field).unwrap())).collect()
}

/// A result of the case as [`Expected`] has it: rounded rows as the values they stand for, of a cache a plane of the tokens' rows.
pub fn result(case: &Case, field: &'static str, outputs: &super::Outputs) -> Tensor {
    let written = |field: &'static str| &outputs[case.aliases.get(field).copied().unwrap_or(field)];
    match field {
        "k" => Tensor::Real(cached(case, written("kv"), 0)),
        "v" => Tensor::Real(cached(case, written("kv"), 1)),
        "experts_out" | "selected" => Tensor::Int(integers(written(field))),
        "out" if case.kernel.name == "router" => Tensor::Int(integers(written(field))),
        "out" if ["quantize_rows", "norm_quantize"].contains(&case.kernel.name) && case.variant != "half" => {
            Tensor::Real(dequantized(written(field), case.values["cols"] as usize))
        }
        _ => Tensor::Real(floats(written(field))),
    }
}

fn integers(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

/// Rows of q8x32 as values.
fn dequantized(bytes: &[u8], cols: usize) -> Vec<f32> {
    let row_bytes = activations::row_bytes(cols as u64).unwrap() as usize;
    let mut values = vec![0.0; bytes.len() / row_bytes * cols];
    for (row, out) in bytes.chunks_exact(row_bytes).zip(values.chunks_exact_mut(cols)) {
        activations::dequantize_row(row, out).unwrap();
    }
    values
}

/// The keys (plane 0) or values (plane 1) `[tokens, kv_heads, head_dim]` that a cache has of the tokens of a step.
fn cached(case: &Case, bytes: &[u8], plane: usize) -> Vec<f32> {
    let oracle = |field: &str| case.values.get(field).copied().unwrap_or(0) as usize;
    let [heads, dim, stride] = ["kv_heads", "head_dim", "page_table_stride"].map(oracle);
    let pages = pages(case, bytes);
    let table = integers(&case.buffers["page_table"].native);
    let places = integers(&case.buffers["positions"].native)
        .into_iter()
        .zip(integers(&case.buffers["sequences"].native))
        .map(|(position, sequence)| (position as usize, sequence as usize));
    let mut rows = Vec::new();
    for (position, sequence) in places {
        let page = &pages[table[sequence * stride + position / PAGE] as usize];
        for (head, d) in (0..heads * dim).map(|i| (i / dim, i % dim)) {
            rows.push(page[element(plane, head, position % PAGE, d, [heads, dim])]);
        }
    }
    rows
}

/// Where dimension `d` of a head's key or value of one slot lies in a page.
fn element(plane: usize, head: usize, slot: usize, d: usize, [heads, dim]: [usize; 2]) -> usize {
    if plane == 0 { (head * dim + d) * PAGE + slot } else { ((heads + head) * PAGE + slot) * dim + d }
}

/// The pages of a case's cache as numbers.
fn pages(case: &Case, bytes: &[u8]) -> Vec<Vec<f32>> {
    let [heads, dim] = ["kv_heads", "head_dim"].map(|field| case.values[field] as usize);
    let planes =
        if ["v", "wv"].iter().any(|v| case.buffers.contains_key(v)) || is_plain_attention(case) { 2 } else { 1 };
    let elements = planes * heads * dim * PAGE;
    match cache_type(case) {
        DType::INT8 => {
            let page_bytes = elements + 2 * planes * heads * PAGE;
            bytes.chunks_exact(page_bytes).map(|page| kv::f32_page(page, planes, heads, dim)).collect()
        }
        DType::F16 => {
            let halves = bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32());
            halves.collect::<Vec<f32>>().chunks_exact(elements).map(<[f32]>::to_vec).collect()
        }
        _ => floats(bytes).chunks_exact(elements).map(<[f32]>::to_vec).collect(),
    }
}

fn is_plain_attention(case: &Case) -> bool {
    case.kernel.name == "attention" && case.values.get("value_dim").is_none_or(|dim| *dim == 0)
}

/// The cache's type, the last word of a variant.
fn cache_type(case: &Case) -> DType {
    DType::from_name(case.variant.rsplit('.').next().unwrap()).unwrap()
}

fn word(word: &str) -> Attr {
    Attr::Str(word.into())
}

/// A graph being written.
struct Oracle<'a> {
    case: &'a Case,
    graph: Graph,
    inputs: HashMap<String, Tensor>,
    weights: HashMap<String, Tensor>,
    /// Fields that are results.
    fields: Vec<&'static str>,
}

impl Oracle<'_> {
    fn count(&self, field: &str) -> u64 {
        self.case.values.get(field).copied().unwrap_or(0)
    }

    fn number(&self, field: &str) -> Attr {
        Attr::Float(f64::from(f32::from_bits(self.count(field) as u32)))
    }

    fn int(&self, field: &str) -> Attr {
        Attr::Int(self.count(field) as i64)
    }

    fn flag(&self, field: &str) -> Attr {
        Attr::Bool(self.count(field) == 1)
    }

    fn bytes(&self, field: &str) -> Option<&[u8]> {
        let name = self.case.aliases.get(field).copied().unwrap_or(field);
        self.case.buffers.get(name).map(|buffer| buffer.native.as_slice())
    }

    fn input(&mut self, name: &str, dtype: DType, shape: &[u64], tensor: Tensor) -> ValueId {
        self.inputs.insert(name.into(), tensor);
        let dims: Vec<Dim> = shape.iter().map(|n| Dim::Const(*n)).collect();
        self.graph.input(name, TensorType::new(dtype, dims))
    }

    /// An operand of f32, if it is given.
    fn real(&mut self, field: &str, shape: &[u64]) -> Option<ValueId> {
        let values = floats(self.bytes(field)?);
        Some(self.input(field, DType::F32, shape, Tensor::Real(values)))
    }

    /// An operand of integers, if it is given.
    fn ints(&mut self, field: &str, shape: &[u64]) -> Option<ValueId> {
        let values = integers(self.bytes(field)?);
        Some(self.input(field, DType::I32, shape, Tensor::Int(values)))
    }

    /// Matrices of weights by their values: of rank 2, or a stack.
    fn matrices(&mut self, field: &str, dtype: DType, shape: &[u64]) -> Option<ValueId> {
        let (rows, cols) = (shape[shape.len() - 2] as usize, shape[shape.len() - 1] as usize);
        let packed = self.bytes(field)?.to_vec();
        let each = quant::packed_bytes(dtype, rows as u64, cols as u64).unwrap() as usize;
        let mut values = Vec::new();
        for packed in packed.chunks_exact(each) {
            let mut row_major = vec![0; rows * quant::row_bytes(dtype, cols as u64).unwrap() as usize];
            quant::unpack(dtype, packed, rows, cols, &mut row_major).unwrap();
            let from = values.len();
            values.resize(from + rows * cols, 0.0);
            quant::dequantize(dtype, &row_major, cols, &mut values[from..]).unwrap();
        }
        self.weights.insert(field.into(), Tensor::Real(values));
        Some(self.graph.weight(field, TensorType::new(dtype, shape.iter().map(|n| Dim::Const(*n)).collect::<Vec<_>>())))
    }

    /// The rows of a product: as they are in memory, normalised and rounded as the launch does it.
    fn activations(&mut self, field: &str, shape: &[u64]) -> Option<ValueId> {
        let cols = shape[shape.len() - 1];
        let form = self.case.variant.split_once('.').unwrap().1.to_string();
        let mut x = if form.starts_with("q8x32") {
            let values = dequantized(self.bytes(field)?, cols as usize);
            self.input(field, DType::F32, shape, Tensor::Real(values))
        } else {
            self.real(field, shape)?
        };
        if self.count("norm") > 0 {
            let kind = NORM_KINDS[self.count("norm") as usize - 1];
            let weight = self.real("norm_weight", &[cols]);
            let bias = if kind == "layer" { self.real("norm_bias", &[cols]) } else { None };
            x = self.op(
                Op::InlineNorm,
                &[Some(x), weight, bias],
                &[("kind", word(kind)), ("eps", self.number("norm_eps"))],
            );
        }
        let granularity = ["block", "row", "half"].into_iter().find(|g| form.split('.').any(|word| word == *g));
        Some(match granularity {
            Some(granularity) => self.op(Op::InlineQuantize, &[Some(x)], &[("granularity", word(granularity))]),
            None => x,
        })
    }

    fn op(&mut self, op: Op, operands: &[Option<ValueId>], attributes: &[(&str, Attr)]) -> ValueId {
        let given = operands.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let operands: Vec<ValueId> = operands[..given].iter().map(|o| o.unwrap_or(ValueId::ABSENT)).collect();
        self.graph.op(op, &operands, attributes, "").unwrap_or_else(|e| panic!("{}: {e}", self.case.kernel.name))
    }

    /// Names the results of a node.
    fn results(&mut self, value: ValueId, fields: &[&'static str]) {
        for (index, field) in fields.iter().enumerate() {
            let value = match index {
                0 => value,
                _ => self.op(Op::Part, &[Some(value)], &[("index", Attr::Int(index as i64))]),
            };
            self.graph.output(field, value);
            self.fields.push(field);
        }
    }

    /// Adds an op whose first result is `out`.
    fn out(&mut self, op: Op, operands: &[Option<ValueId>], attributes: &[(&str, Attr)]) {
        let value = self.op(op, operands, attributes);
        self.results(value, &["out"]);
    }

    /// A format that is named by the variant's first word.
    fn format(&self) -> DType {
        DType::from_name(self.case.variant.split('.').next().unwrap()).unwrap()
    }

    fn build(&mut self) {
        match self.case.kernel.name {
            "embedding" | "column_partials" | "gather_rows" | "concat" | "permute_columns" | "binary" | "unary" => {
                self.copies()
            }
            "rms_norm" | "layer_norm" | "scale_columns" | "square_sums" | "sigmoid_gate" | "quantize_rows"
            | "norm_quantize" | "norm_add" => self.rows(),
            "scale_rows" | "finish_logits" | "combine" | "combine_add" | "rope" => self.tokens(),
            "router" | "router_weights" | "route" => self.routing(),
            "kv_append" | "attention" | "qkv" => self.heads(),
            "matmul" | "project" => self.product(),
            "grouped_matmul" | "combine_down" | "gate_up" => self.experts(),
            _ => {}
        }
    }

    /// Ops that take elements from one place to another, or one by one.
    fn copies(&mut self) {
        let [tokens, rows, cols, count] = ["tokens", "rows", "cols", "count"].map(|field| self.count(field));
        match self.case.kernel.name {
            "embedding" => {
                let (table, ids) = (self.matrices("table", self.format(), &[rows, cols]), self.ints("ids", &[tokens]));
                self.out(Op::Embedding, &[table, ids], &[]);
            }
            "column_partials" => {
                let (x, norm) = (self.real("x", &[tokens, cols]), self.real("norm", &[cols]));
                let w = self.matrices("w", self.format(), &[self.count("experts"), cols]);
                self.out(Op::ColumnPartials, &[x, norm, w], &[]);
            }
            "gather_rows" => {
                let given = self.bytes("x").map_or(0, <[u8]>::len) as u64 / 4 / cols;
                let (x, rows) = (self.real("x", &[given, cols]), self.ints("rows", &[count]));
                self.out(Op::GatherRows, &[x, rows], &[]);
            }
            "concat" => {
                let [a, b] = ["a", "b"].map(|field| self.real(field, &[rows, self.count(&format!("{field}_cols"))]));
                self.out(Op::Concat, &[a, b], &[]);
            }
            "permute_columns" => {
                let [slots, matrices] = ["slots", "matrices"].map(|field| self.count(field));
                let shape =
                    if self.count("slots_share_x") == 1 { vec![tokens, cols] } else { vec![tokens, slots, cols] };
                let (x, experts) = (self.real("x", &shape), self.ints("experts", &[tokens, slots]));
                let index = self.ints("index", &[matrices, cols]);
                self.out(Op::PermuteColumns, &[x, index, experts], &[]);
            }
            "binary" => {
                let [a, b] = ["a", "b"].map(|field| self.real(field, &[1, count]));
                let Some(activation) = self.case.variant.strip_suffix("_mul").map(str::to_string) else {
                    return self.out(if self.case.variant == "add" { Op::Add } else { Op::Mul }, &[a, b], &[]);
                };
                let limit = if activation == "clamped_swiglu" { self.number("limit") } else { Attr::Float(0.0) };
                self.out(Op::Glu, &[a, b], &[("activation", word(&activation)), ("limit", limit)]);
            }
            _ => {
                let x = self.real("x", &[1, count]);
                let value = self.number("value");
                match self.case.variant.as_str() {
                    "scale" => self.out(Op::Scale, &[x], &[("factor", value)]),
                    _ => self.out(Op::Softcap, &[x], &[("cap", value)]),
                }
            }
        }
    }

    /// Norms and what else works row by row.
    fn rows(&mut self) {
        let [rows, cols] = ["rows", "cols"].map(|field| self.count(field));
        let (x, weight, bias) =
            (self.real("x", &[rows, cols]), self.real("weight", &[cols]), self.real("bias", &[cols]));
        let eps = ("eps", self.number("eps"));
        let granularity = ("granularity", word(&self.case.variant));
        match self.case.kernel.name {
            "rms_norm" => self.out(Op::RmsNorm, &[x, weight], &[eps]),
            "layer_norm" => self.out(Op::LayerNorm, &[x, weight, bias], &[eps]),
            "scale_columns" => {
                let w = self.real("w", &[cols]);
                self.out(Op::ScaleColumns, &[x, w], &[]);
            }
            "square_sums" => self.out(Op::SquareSums, &[x], &[]),
            "sigmoid_gate" => {
                let gate = self.real("gate", &[rows, 1]);
                self.out(Op::SigmoidGate, &[x, gate], &[]);
            }
            "quantize_rows" => self.out(Op::QuantizeRows, &[x], &[granularity]),
            "norm_quantize" => {
                let kind = word(NORM_KINDS[self.count("norm") as usize - 1]);
                self.out(Op::NormQuantize, &[x, weight, bias], &[("kind", kind), eps, granularity]);
            }
            _ => {
                let residual = self.real("residual", &[rows, cols]);
                let (emit, fields) = self.emission();
                let y = self.op(Op::NormAdd, &[x, weight, residual], &[eps, ("factor", self.number("factor")), emit]);
                self.results(y, fields);
            }
        }
    }

    /// Whether squares are emitted, and the results then.
    fn emission(&self) -> ((&'static str, Attr), &'static [&'static str]) {
        match self.bytes("squares") {
            Some(_) => (("emit", word("squares")), &["out", "squares"]),
            None => (("emit", word("none")), &["out"]),
        }
    }

    /// What works on tokens with slots or heads.
    fn tokens(&mut self) {
        let [tokens, slots, cols, width] = ["tokens", "slots", "cols", "width"].map(|field| self.count(field));
        let eps = ("eps", self.number("eps"));
        let row_scale = [("width", self.int("width")), eps];
        match self.case.kernel.name {
            "scale_rows" => {
                let shape = if slots == 1 { vec![tokens, cols] } else { vec![tokens, slots, cols] };
                let (y, squares) = (self.real("y", &shape), self.real("squares", &[tokens, width.div_ceil(16)]));
                let bias = self.real("bias", &[cols]);
                self.out(Op::ScaleRows, &[y, squares, bias], &row_scale);
            }
            "finish_logits" => {
                let (experts, panels) = (self.count("experts"), width.div_ceil(16));
                let (partials, squares) =
                    (self.real("partials", &[tokens, panels, experts]), self.real("squares", &[tokens, panels]));
                let bias = self.real("bias", &[experts]);
                self.out(Op::FinishLogits, &[partials, squares, bias], &row_scale);
            }
            "combine" => {
                let (y, weights) = (self.real("y", &[tokens, slots, cols]), self.real("weights", &[tokens, slots]));
                self.out(Op::Combine, &[y, weights], &[]);
            }
            "combine_add" => {
                let (y, weights) = (self.real("y", &[tokens, slots, cols]), self.real("weights", &[tokens, slots]));
                let residual = self.real("residual", &[tokens, cols]);
                let (emit, fields) = self.emission();
                let sum = self.op(Op::CombineAdd, &[y, weights, residual], &[("factor", self.number("factor")), emit]);
                self.results(sum, fields);
            }
            _ => {
                let x = self.real("x", &[tokens, self.count("heads"), self.count("head_dim")]);
                let (positions, [inv_freq, table]) = (self.ints("positions", &[tokens]), self.frequencies(tokens));
                let attributes = [("interleaved", self.flag("interleaved")), ("scale", self.number("scale"))];
                self.out(Op::Rope, &[x, positions, inv_freq, table], &attributes);
            }
        }
    }

    /// Frequencies of a rotary embedding, and which table a token uses.
    fn frequencies(&mut self, tokens: u64) -> [Option<ValueId>; 2] {
        let pairs = self.count("pairs");
        let table = self.ints("table", &[tokens]);
        let shape = if table.is_some() { vec![self.count("tables"), pairs] } else { vec![pairs] };
        [self.real("inv_freq", &shape), table]
    }

    /// Logits as they are, or of partial sums.
    fn logits(&mut self, [partials, squares, bias, width, eps]: [&str; 5], experts: u64) -> Option<ValueId> {
        let tokens = self.count("tokens");
        if self.bytes("logits").is_some() {
            return self.real("logits", &[tokens, experts]);
        }
        let panels = self.count(width).div_ceil(16);
        let operands = [
            self.real(partials, &[tokens, panels, experts]),
            self.real(squares, &[tokens, panels]),
            self.real(bias, &[experts]),
        ];
        let attributes = [("width", self.int(width)), ("eps", self.number(eps))];
        Some(self.op(Op::InlineLogits, &operands, &attributes))
    }

    /// Attributes of a selection of experts.
    fn selection(&self, scoring: &str) -> [(&'static str, Attr); 4] {
        [
            ("k", self.int("slots")),
            ("scoring", word(scoring)),
            ("groups", self.int("groups")),
            ("top_groups", self.int("top_groups")),
        ]
    }

    /// Attributes of their weights.
    fn weighing(&self) -> [(&'static str, Attr); 3] {
        [("renormalise", self.flag("renormalise")), ("scale", self.number("scale")), ("jitter", self.number("jitter"))]
    }

    fn routing(&mut self) {
        let [tokens, experts, slots] = ["tokens", "experts", "slots"].map(|field| self.count(field));
        let scoring = self.case.variant.clone();
        match self.case.kernel.name {
            "router" => {
                let (logits, bias) = (self.real("logits", &[tokens, experts]), self.real("bias", &[experts]));
                self.out(Op::Router, &[logits, bias], &self.selection(&scoring));
            }
            "router_weights" => {
                let (logits, selected) =
                    (self.real("logits", &[tokens, experts]), self.ints("selected", &[tokens, slots]));
                let attributes = [&[("scoring", word(&scoring))][..], &self.weighing()].concat();
                self.out(Op::RouterWeights, &[logits, selected], &attributes);
            }
            _ => {
                let logits = self.logits(["partials", "squares", "logits_bias", "width", "eps"], experts);
                let bias = self.real("bias", &[experts]);
                let attributes = [&self.selection(&scoring)[..], &self.weighing()].concat();
                let routed = self.op(Op::Route, &[logits, bias], &attributes);
                self.results(routed, &["selected", "weights"]);
            }
        }
    }

    fn product(&mut self) {
        let [tokens, rows, cols] = ["tokens", "rows", "cols"].map(|field| self.count(field));
        let x = self.activations("x", &[tokens, cols]);
        let (w, bias) = (self.matrices("w", self.format(), &[rows, cols]), self.real("bias", &[rows]));
        if self.case.kernel.name == "matmul" {
            return self.out(Op::Matmul, &[x, w, bias], &[]);
        }
        let squares = self.real("squares", &[tokens, cols.div_ceil(16)]);
        let (gate, residual) = (self.real("gate", &[tokens, 1]), self.real("residual", &[tokens, rows]));
        let mut operands = vec![x, w, bias, squares, gate, residual];
        let (mut emit, mut fields): (_, &[&str]) = ("none", &["out"]);
        if self.bytes("partials_out").is_some() {
            let router_type = [DType::F32, DType::F16, DType::BF16][self.count("router_type") as usize];
            operands.push(self.real("router_norm", &[rows]));
            operands.push(self.matrices("router", router_type, &[self.count("router_rows"), rows]));
            (emit, fields) = ("router", &["out", "squares_out", "partials_out"]);
        } else if self.bytes("squares_out").is_some() {
            (emit, fields) = ("squares", &["out", "squares_out"]);
        }
        let names = ["eps", "factor", "softcap"].map(|name| (name, self.number(name)));
        let y = self.op(Op::Project, &operands, &[&names[..], &[("emit", word(emit))]].concat());
        self.results(y, fields);
    }

    fn experts(&mut self) {
        let [tokens, slots, matrices, rows, cols] =
            ["tokens", "slots", "matrices", "rows", "cols"].map(|field| self.count(field));
        let (format, stack) = (self.format(), [matrices, rows, cols]);
        let shape = if self.count("slots_share_x") == 1 { vec![tokens, cols] } else { vec![tokens, slots, cols] };
        if self.case.kernel.name == "gate_up" {
            return self.gate_up(&shape, &stack);
        }
        let w = self.matrices("w", format, &stack);
        let experts = self.listed(tokens, slots);
        let bias = self.real("bias", &[matrices, rows]);
        if self.case.kernel.name == "grouped_matmul" {
            let x = self.activations("x", &shape);
            return self.out(Op::GroupedMatmul, &[x, w, experts, bias], &[]);
        }
        let h = self.activations("h", &[tokens, slots, cols]);
        let (weights, residual) = (self.real("weights", &[tokens, slots]), self.real("residual", &[tokens, rows]));
        let (emit, fields) = self.emission();
        let factor = ("factor", self.number("factor"));
        let y = self.op(Op::CombineDown, &[h, w, experts, weights, bias, residual], &[factor, emit]);
        self.results(y, fields);
    }

    /// Experts as they are listed, or slot j's matrix j.
    fn listed(&mut self, tokens: u64, slots: u64) -> Option<ValueId> {
        self.ints("experts", &[tokens, slots]).or_else(|| {
            let each: Vec<i32> = (0..tokens).flat_map(|_| 0..slots as i32).collect();
            Some(self.input("experts", DType::I32, &[tokens, slots], Tensor::Int(each)))
        })
    }

    fn gate_up(&mut self, shape: &[u64], stack: &[u64; 3]) {
        let [tokens, slots] = ["tokens", "slots"].map(|field| self.count(field));
        let x = self.activations("x", shape);
        let [gate, up] = ["w_gate", "w_up"].map(|field| self.matrices(field, self.format(), stack));
        let squares = self.real("squares", &[tokens, stack[2].div_ceil(16)]);
        let [gate_bias, up_bias] = ["gate_bias", "up_bias"].map(|field| self.real(field, &stack[..2]));
        let activation = ACTIVATIONS[self.count("activation") as usize];
        let limit = if activation == "clamped_swiglu" { self.number("limit") } else { Attr::Float(0.0) };
        let gating = [("eps", self.number("eps")), ("activation", word(activation)), ("limit", limit)];
        if self.count("routing") < 2 {
            let experts = self.listed(tokens, slots);
            return self.out(Op::GroupedGateUp, &[x, gate, up, experts, squares, gate_bias, up_bias], &gating);
        }
        let names = ["route_partials", "route_squares", "route_bias", "route_width", "route_eps"];
        let logits = self.logits(names, stack[0]);
        let scoring = SCORINGS[self.count("scoring") as usize];
        let correction = if scoring == "sigmoid" { self.real("correction", &[stack[0]]) } else { None };
        let attributes = [&gating[..], &self.selection(scoring), &self.weighing()].concat();
        let y = self.op(Op::RoutedGateUp, &[x, gate, up, logits, squares, gate_bias, up_bias, correction], &attributes);
        self.results(y, &["out", "experts_out", "weights_out"]);
    }

    /// Where the tokens stand.
    fn places(&mut self) -> [Option<ValueId>; 3] {
        let (tokens, stride) = (self.count("tokens"), self.count("page_table_stride"));
        let sequences = self.bytes("page_table").map_or(0, <[u8]>::len) as u64 / 4 / stride;
        [
            self.ints("positions", &[tokens]),
            self.ints("sequences", &[tokens]),
            self.ints("page_table", &[sequences, stride]),
        ]
    }

    fn heads(&mut self) {
        let places = self.places();
        match self.case.kernel.name {
            "attention" => self.attention(places),
            "kv_append" => {
                let shape = ["tokens", "kv_heads", "head_dim"].map(|field| self.count(field));
                for field in ["k", "v"] {
                    if let Some(rows) = self.real(field, &shape) {
                        self.stored(field, rows, places);
                    }
                }
            }
            _ => self.qkv(places),
        }
    }

    /// The rows `[T, kv_heads, D]` as a cache keeps them, named `field`: each is appended as a key and seen by a token that sees nothing
    /// else, as its value.
    fn stored(&mut self, field: &'static str, rows: ValueId, [positions, sequences, table]: [Option<ValueId>; 3]) {
        let [tokens, heads, dim] = ["tokens", "kv_heads", "head_dim"].map(|field| self.count(field));
        let most = self.bytes("page_table").map_or(0, |bytes| integers(bytes).into_iter().max().unwrap_or(0));
        let page = [most as u64 + 1, 1, heads, PAGE as u64, dim].map(Dim::Const);
        let cache = self.graph.state(&format!("{field} rows"), TensorType::new(cache_type(self.case), page));
        let cache = self.op(Op::KvAppend, &[Some(cache), Some(rows), positions, sequences, table], &[]);
        let zeros = Tensor::Real(vec![0.0; (tokens * heads * dim) as usize]);
        let query = self.input(&format!("{field} query"), DType::F32, &[tokens, heads, dim], zeros);
        let attributes = [
            ("scale", Attr::Float(1.0)),
            ("window", Attr::Int(1)),
            ("softcap", Attr::Float(0.0)),
            ("value_dim", Attr::Int(dim as i64)),
        ];
        let seen = self.op(Op::Attention, &[Some(query), Some(cache), positions, sequences, table], &attributes);
        self.results(seen, &[field]);
    }

    fn qkv(&mut self, places: [Option<ValueId>; 3]) {
        let [tokens, cols, dim] = ["tokens", "cols", "head_dim"].map(|field| self.count(field));
        let x = self.activations("x", &[tokens, cols]);
        let squares = self.real("squares", &[tokens, cols.div_ceil(16)]);
        let [inv_freq, table] = self.frequencies(tokens);
        for (field, w, bias, norm) in
            [("out", "wq", "bq", "q_norm"), ("k", "wk", "bk", "k_norm"), ("v", "wv", "bv", "")]
        {
            let heads = self.count(if field == "out" { "heads" } else { "kv_heads" });
            let Some(w) = self.matrices(w, self.format(), &[heads * dim, cols]) else { continue };
            let (bias, norm) = (self.real(bias, &[heads * dim]), self.real(norm, &[dim]));
            // Values are not turned.
            let turning = if field == "v" || inv_freq.is_none() { [None; 3] } else { [places[0], inv_freq, table] };
            let attributes = [
                ("heads", Attr::Int(heads as i64)),
                ("eps", self.number("eps")),
                ("norm_eps", self.number("head_eps")),
                ("interleaved", self.flag("interleaved")),
                ("scale", self.number("scale")),
            ];
            let operands = [&[x, Some(w), bias, squares, norm][..], &turning].concat();
            let rows = self.op(Op::ProjectHeads, &operands, &attributes);
            if field == "out" { self.results(rows, &["out"]) } else { self.stored(field, rows, places) }
        }
    }

    /// Over a cache that holds what the case's pages do.
    fn attention(&mut self, [positions, sequences, table]: [Option<ValueId>; 3]) {
        let [tokens, heads, kv_heads, dim] = ["tokens", "heads", "kv_heads", "head_dim"].map(|field| self.count(field));
        let planes = if self.count("value_dim") > 0 { 1 } else { 2 };
        let pages = self.case.buffers.get("kv").map_or(Vec::new(), |kv| pages(self.case, &kv.native));
        let (shape, count) = ([kv_heads as usize, dim as usize], pages.len());
        // Page p is a sequence of its own, of one page, whose 16 positions are appended.
        let rows = |plane: usize| {
            let row = |page: &Vec<f32>, slot: usize| {
                (0..shape[0] * shape[1])
                    .map(|i| page[element(plane, i / shape[1], slot, i % shape[1], shape)])
                    .collect::<Vec<_>>()
            };
            Tensor::Real(
                pages.iter().flat_map(|page| (0..PAGE).flat_map(|slot| row(page, slot)).collect::<Vec<_>>()).collect(),
            )
        };
        let all = (count * PAGE) as u64;
        let mut filled = vec![("cached keys", rows(0))];
        if planes == 2 {
            filled.push(("cached values", rows(1)));
        }
        let filled: Vec<ValueId> =
            filled.into_iter().map(|(name, rows)| self.input(name, DType::F32, &[all, kv_heads, dim], rows)).collect();
        let each = |f: fn(i32) -> i32| Tensor::Int((0..all as i32).map(f).collect());
        let slots = self.input("slots", DType::I32, &[all], each(|i| i % PAGE as i32));
        let owners = self.input("owners", DType::I32, &[all], each(|i| i / PAGE as i32));
        let identity = Tensor::Int((0..count as i32).collect());
        let identity = self.input("identity", DType::I32, &[count as u64, 1], identity);
        let cache = [count as u64, planes, kv_heads, PAGE as u64, dim].map(Dim::Const);
        let cache = self.graph.state("kv", TensorType::new(DType::F32, cache));
        let operands =
            [Some(cache), Some(filled[0]), Some(slots), Some(owners), Some(identity), filled.get(1).copied()];
        let cache = self.op(Op::KvAppend, &operands, &[]);
        let (q, sinks) = (self.real("q", &[tokens, heads, dim]), self.real("sinks", &[heads]));
        let attributes = [
            ("scale", self.number("scale")),
            ("window", self.int("window")),
            ("softcap", self.number("softcap")),
            ("value_dim", self.int("value_dim")),
        ];
        self.out(Op::Attention, &[q, Some(cache), positions, sequences, table, sinks], &attributes);
    }
}

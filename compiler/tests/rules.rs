//! Every rule of fusion proved on random values: both of its sides, as graphs, give the same by the interpreter.
//!
//! Patterns become graphs once each variable is declared: a tensor with its shape, an attribute, or an operand left out. The
//! declarations of a rule stand in [`CASES`]; `|` separates choices, of which proptest takes one. A rule without a case is an
//! error, and so is one that finds nothing in any golden model or file test.

use std::collections::{BTreeSet, HashMap};

use compiler::fuse::language::{Head, Term, attr_of};
use compiler::fuse::rule::{Exactness, Rule};
use compiler::fuse::rules::RULES;
use egg::{ENodeOrVar, Id, PatternAst};
use ir::graph::{Graph, NodeKind, ValueId};
use ir::interp::{Interpreter, Tensor};
use ir::op::{Attr, Op};
use ir::types::{DType, Dim, TensorType};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Declarations that several rules share: a projection's operands after its matrix.
const PROJECT: &str = "x: f32[T,K]; w: f32[N,K]|q4_0[N,K]; b: _|f32[N]; s: _|squares[T,PK]; g: _|f32[T,1]; r: _|f32[T,N]; \
    rn: _; rm: _; e: 1e-3; f: 1.0|0.5; c: 0.0|5.0; m: none; q: block|row|half; n: f32[K]; nb: _|f32[K]; ne: 1e-5";
/// Of the products of experts.
const EXPERTS: &str = "x: f32[T,K]; wg: f32[E,F,K]; wu: f32[E,F,K]; e: i32[T,S]<E; s: _; bg: _|f32[E,F]; bu: _|f32[E,F]; \
    eps: 1e-3; a: silu|gelu_tanh|clamped_swiglu; l: 7.0; lim: 7.0; q: block|row|half; n: f32[K]; nb: _|f32[K]; ne: 1e-5";
/// Of a router.
const ROUTER: &str = "l: f32[T,E]; k: 2; sc: softmax; b: _; c: _; g: 1|2; tg: 1; rn: true|false; f: 1.0|2.5; j: 0.01";
const SIGMOID_ROUTER: &str =
    "l: f32[T,E]; k: 2; sc: sigmoid; b: _|f32[E]; c: _|f32[E]; g: 1|2; tg: 1; rn: true|false; f: 1.0|2.5; j: 0.01";
/// Of the down projections of experts.
const COMBINE: &str = "h: f32[T,S,K]|q8x32[T,S,K]; x: f32[T,S,K]; w: f32[E,N,K]; e: i32[T,S]<E; wt: f32[T,S]; b: _|f32[E,N]; \
    r: _|f32[T,N]; f: 1.0|0.5; m: none; q: block|row|half; y: f32[T,S,N]; a: f32[T,S,N]";
/// Of queries, keys and values.
const HEADS: &str = "x: f32[T,K]|q8x32[T,K]; wq: f32[4*D,K]; wk: f32[2*D,K]; wv: f32[2*D,K]; kv: cache; p: positions; seq: sequences; \
    pages: pages; s: _|squares[T,PK]; bq: _|f32[4*D]; bk: _|f32[2*D]; bv: _|f32[2*D]; nq: _|f32[D]; nk: _|f32[D]; i: f32[H]; \
    t: _; h: 4; hk: 2; e: 1e-3; ne: 1e-5; z: true|false; f: 1.0|1.2; w: f32[4*D,K]; b: _|f32[4*D]; n: f32[D]";

/// The declarations by which each rule is proved. A later declaration of a variable replaces an earlier one.
const CASES: &[(&str, &[&str])] = &[
    ("cast-same", &["x: f32[T,K]; t: f32"]),
    ("cast-pair", &["x: f32[T,K]; t: f16|bf16|f32"]),
    ("cast-twice", &["x: f32[T,K]; t: f16|bf16|f32"]),
    ("dequantise-in-product", &["x: f32[T,K]|q8x32[T,K]; w: q4_0[N,K]|f16[N,K]|mxfp4[N,K]; b: _|f32[N]"]),
    ("dequantise-in-experts", &["x: f32[T,K]|f32[T,S,K]; w: q8_0[E,N,K]; e: i32[T,S]<E; b: _|f32[E,N]"]),
    ("dequantise-in-heads", &["x: f32[T,4,K]; w: q8_0[4,N,K]"]),
    ("dequantise-in-embedding", &["w: q4_k[E,K]|bf16[E,K]; i: i32[T]<E"]),
    ("scale-by-one", &["x: f32[T,K]"]),
    ("merge-split", &["x: f32[T,K]; h: 4|2"]),
    ("matmul-project", &[PROJECT, "x: f32[T,K]|q8x32[T,K]"]),
    ("scale-rows-project", &[PROJECT, "s: squares[T,PK]; n: #K"]),
    ("gate-project", &[PROJECT, "g: f32[T,1]"]),
    ("scale-project", &[PROJECT, "f: 0.5|3.0"]),
    ("softcap-project", &[PROJECT, "c: 5.0"]),
    ("residual-project", &[PROJECT, "r: f32[T,N]"]),
    ("project-residual", &[PROJECT, "r: f32[T,N]"]),
    ("squares-project", &[PROJECT]),
    ("router-project", &[PROJECT, "n: f32[N]; m: f32[E,N]"]),
    ("inline-rms-project", &[PROJECT]),
    ("inline-layer-project", &[PROJECT]),
    ("inline-scale-project", &[PROJECT]),
    ("inline-quantize-project", &[PROJECT]),
    ("inline-rms-quantize-project", &[PROJECT]),
    ("inline-layer-quantize-project", &[PROJECT]),
    ("inline-scale-quantize-project", &[PROJECT]),
    ("rms-quantize", &[PROJECT]),
    ("layer-quantize", &[PROJECT, "b: _|f32[K]"]),
    ("scale-quantize", &[PROJECT]),
    ("residual-norm", &[PROJECT, "r: f32[T,K]"]),
    ("norm-residual", &[PROJECT, "r: f32[T,K]"]),
    ("residual-norm-scale", &[PROJECT, "r: f32[T,K]"]),
    ("squares-norm-add", &[PROJECT, "r: f32[T,K]"]),
    ("split-project", &[HEADS]),
    ("norm-heads", &[HEADS]),
    ("rope-heads", &[HEADS, "n: _|f32[D]"]),
    ("merge-qkv", &[HEADS]),
    ("merge-qkv", &[HEADS, "i: f32[2,H]; t: i32[T]<2"]),
    (
        "merge-gate-up",
        &[EXPERTS, "wg: f32[F,K]; wu: f32[F,K]; s: _|squares[T,PK]; bg: _|f32[F]; bu: _|f32[F]; e: 1e-3"],
    ),
    ("merge-experts-gate-up", &[EXPERTS, "x: f32[T,K]|q8x32[T,K]"]),
    ("merge-scaled-experts-gate-up", &[EXPERTS, "s: squares[T,PK]; n: #K"]),
    ("inline-rms-experts", &[EXPERTS]),
    ("inline-layer-experts", &[EXPERTS]),
    ("inline-scale-experts", &[EXPERTS]),
    ("inline-rms-quantize-experts", &[EXPERTS]),
    ("inline-layer-quantize-experts", &[EXPERTS]),
    ("inline-scale-quantize-experts", &[EXPERTS]),
    ("merge-route", &[ROUTER]),
    ("merge-route", &[SIGMOID_ROUTER]),
    ("merge-route", &[ROUTER, "sc: sparsemixer; g: 1"]),
    ("routed-gate-up", &[EXPERTS, ROUTER]),
    ("routed-gate-up", &[EXPERTS, SIGMOID_ROUTER]),
    ("inline-logits-route", &[ROUTER, "pt: f32[T,PK,E]; s: squares[T,PK]; lb: _|f32[E]; n: #K; e: 1e-5"]),
    ("inline-logits-gate-up", &[EXPERTS, ROUTER, "pt: f32[T,PK,E]; q: squares[T,PK]; lb: _|f32[E]; n: #K; le: 1e-5"]),
    ("inline-quantize-grouped", &[COMBINE, "x: f32[T,S,K]|f32[T,K]"]),
    ("inline-quantize-heads", &[COMBINE, "x: f32[T,4,K]; w: f32[4,N,K]|q8_0[4,N,K]"]),
    ("combine-down", &[COMBINE]),
    ("scale-combine-down", &[COMBINE]),
    ("residual-combine-down", &[COMBINE, "r: f32[T,N]"]),
    ("combine-down-residual", &[COMBINE, "r: f32[T,N]"]),
    ("squares-combine-down", &[COMBINE]),
    ("residual-combine", &[COMBINE, "r: f32[T,N]"]),
    ("combine-residual", &[COMBINE, "r: f32[T,N]"]),
    ("residual-combine-scale", &[COMBINE, "r: f32[T,N]"]),
    ("squares-combine-add", &[COMBINE, "r: f32[T,N]"]),
    ("residual-before-experts", &[COMBINE, "r: f32[T,N]; shared: f32[T,N]"]),
    ("router-partials", &[ROUTER, "x: f32[T,K]; n: f32[K]; eps: 1e-5; w: f32[E,K]; b: _|f32[E]; gr: 1"]),
    ("rms-after-product", &[PROJECT, "eps: 1e-5"]),
    ("rms-after-rounded-product", &[PROJECT, "eps: 1e-5; q: block|half"]),
    ("rms-after-experts", &[EXPERTS, "w: f32[E,N,K]"]),
    ("rms-after-rounded-experts", &[EXPERTS, "w: f32[E,N,K]; q: block|half"]),
];

/// What a variable is.
#[derive(Clone, Debug)]
enum Meaning {
    Absent,
    Attr(Attr),
    Tensor(TensorType, Fill),
}

/// What a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fill {
    Normal,
    /// Sums of squares: not negative.
    Positive,
    Below(u64),
    Positions,
    Zero,
    Count,
    State,
}

/// Sizes by name, a choice among declarations, and a seed of values.
#[derive(Clone, Debug)]
struct Draw {
    sizes: HashMap<String, u64>,
    choices: u64,
    seed: u64,
}

fn draws() -> impl Strategy<Value = Draw> {
    let sizes = (1u64..=4, 1u64..=2, 1u64..=40, 1u64..=20, 1u64..=3, 1u64..=4);
    (sizes, any::<u64>(), any::<u64>()).prop_map(|((t, k, n, f, half, s), choices, seed)| {
        let k = 32 * k;
        let sizes = [
            ("T", t),
            ("K", k),
            ("N", n),
            ("F", f),
            ("E", 8),
            ("S", s),
            ("D", 4 * half),
            ("H", 2 * half),
            ("PK", k / 16),
        ];
        Draw { sizes: sizes.into_iter().map(|(n, v)| (n.to_string(), v)).collect(), choices, seed }
    })
}

impl Draw {
    /// The next number of a small generator (SplitMix64).
    fn next(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn size(&self, name: &str) -> u64 {
        name.split('*').map(|part| part.parse().unwrap_or_else(|_| self.sizes[part.trim()])).product()
    }

    /// Chooses one of the declared meanings.
    fn meaning(&mut self, declaration: &str) -> Meaning {
        let choices: Vec<&str> = declaration.split('|').map(str::trim).collect();
        let choice = choices[(self.choices % choices.len() as u64) as usize];
        self.choices = self.choices.rotate_right(7) ^ 0x5851_F42D;
        let ints = |shape: &[u64], fill| Meaning::Tensor(ty(DType::I32, shape), fill);
        match choice {
            "_" => return Meaning::Absent,
            "positions" => return ints(&[self.size("T")], Fill::Positions),
            "sequences" => return ints(&[self.size("T")], Fill::Zero),
            "pages" => return ints(&[1, 2], Fill::Count),
            "cache" => return Meaning::Tensor(ty(DType::F32, &[2, 2, 2, 16, self.size("D")]), Fill::State),
            _ => {}
        }
        if let Some(size) = choice.strip_prefix('#') {
            return Meaning::Attr(Attr::Int(self.size(size) as i64));
        }
        let Some((format, rest)) = choice.split_once('[') else { return Meaning::Attr(attribute(choice)) };
        let (shape, below) = rest.split_once(']').expect("a shape");
        let shape: Vec<u64> = shape.split(',').map(|d| self.size(d)).collect();
        match (format, below.strip_prefix('<')) {
            ("squares", _) => Meaning::Tensor(ty(DType::F32, &shape), Fill::Positive),
            (_, Some(below)) => ints(&shape, Fill::Below(self.size(below))),
            _ => Meaning::Tensor(ty(DType::from_name(format).expect("a format"), &shape), Fill::Normal),
        }
    }

    fn values(&mut self, ty: &TensorType, fill: Fill) -> Tensor {
        let count: u64 = ty.shape.iter().map(|d| d.value(&[]).expect("a constant")).product();
        let ints = |f: &mut dyn FnMut(u64) -> i32| Tensor::Int((0..count).map(f).collect());
        match fill {
            Fill::Normal => Tensor::Real((0..count).map(|_| 2.0 * self.unit() - 1.0).collect()),
            Fill::Positive | Fill::State => Tensor::Real((0..count).map(|_| 4.0 * self.unit() + 0.1).collect()),
            Fill::Below(n) => ints(&mut |_| (self.next() % n) as i32),
            Fill::Positions | Fill::Count => ints(&mut |i| i as i32),
            Fill::Zero => ints(&mut |_| 0),
        }
    }
}

fn ty(dtype: DType, shape: &[u64]) -> TensorType {
    TensorType::new(dtype, shape.iter().map(|d| Dim::Const(*d)).collect::<Vec<_>>())
}

fn attribute(text: &str) -> Attr {
    match text {
        "true" => Attr::Bool(true),
        "false" => Attr::Bool(false),
        _ => match (text.parse(), text.parse()) {
            (Ok(int), _) => Attr::Int(int),
            (_, Ok(float)) => Attr::Float(float),
            _ => Attr::Str(text.into()),
        },
    }
}

/// What a pattern's node is in a graph.
#[derive(Clone, Debug)]
enum Built {
    Absent,
    Attr(Attr),
    Value(ValueId),
}

/// Both sides of a rule in one graph.
struct Proof<'a> {
    rule: &'a Rule,
    draw: Draw,
    declared: HashMap<String, String>,
    graph: Graph,
    known: HashMap<String, Built>,
    inputs: HashMap<String, Tensor>,
}

impl<'a> Proof<'a> {
    fn new(rule: &'a Rule, declarations: &[&str], draw: Draw) -> Proof<'a> {
        let declaration = |text: &str| {
            let (name, meaning) = text.split_once(':').expect("name: meaning");
            (format!("?{}", name.trim()), meaning.trim().to_string())
        };
        let declared = declarations.iter().flat_map(|d| d.split(';')).map(declaration).collect();
        Proof { rule, draw, declared, graph: Graph::new("proof"), known: HashMap::new(), inputs: HashMap::new() }
    }

    /// The value of a variable, which is declared at its first use.
    fn variable(&mut self, name: &str) -> Built {
        if let Some(built) = self.known.get(name) {
            return built.clone();
        }
        let declaration =
            self.declared.get(name).unwrap_or_else(|| panic!("{}: {name} is not declared", self.rule.name));
        let built = match self.draw.meaning(&declaration.clone()) {
            Meaning::Absent => Built::Absent,
            Meaning::Attr(attr) => Built::Attr(attr),
            Meaning::Tensor(ty, Fill::State) => Built::Value(self.graph.state(name, ty)),
            Meaning::Tensor(ty, fill) => {
                let values = self.draw.values(&ty, fill);
                self.inputs.insert(name.into(), values);
                Built::Value(self.graph.input(name, ty))
            }
        };
        self.known.insert(name.into(), built.clone());
        built
    }

    /// Adds a pattern's nodes; gives the last.
    fn pattern(&mut self, pattern: &PatternAst<Term>) -> Built {
        let mut built: Vec<Built> = Vec::new();
        for node in pattern.as_ref() {
            let next = match node {
                ENodeOrVar::Var(v) => self.variable(&v.to_string()),
                ENodeOrVar::ENode(term) => self.term(term, &built),
            };
            built.push(next);
        }
        built.pop().expect("a pattern")
    }

    fn term(&mut self, term: &Term, built: &[Built]) -> Built {
        let Head::Op(op) = term.head else {
            return attr_of(term.head).map_or(Built::Absent, Built::Attr);
        };
        let child = |id: &Id| &built[usize::from(*id)];
        if let (Op::Part, Some(Built::Attr(Attr::Int(0)))) = (op, term.children.get(1).map(child)) {
            return child(&term.children[0]).clone();
        }
        let mut operands: Vec<ValueId> =
            term.operands().iter().map(|o| if let Built::Value(v) = child(o) { *v } else { ValueId::ABSENT }).collect();
        while operands.last() == Some(&ValueId::ABSENT) {
            operands.pop();
        }
        let attribute = |id: &Id| {
            if let Built::Attr(a) = child(id) { a.clone() } else { panic!("{}: no attribute", self.rule.name) }
        };
        let named: Vec<(&str, Attr)> =
            op.def().attributes.iter().map(|a| a.name).zip(term.attributes().iter().map(attribute)).collect();
        let value = self.graph.op(op, &operands, &named, "");
        Built::Value(value.unwrap_or_else(|e| panic!("{}: {e}", self.rule.name)))
    }

    /// Adds the named terms of a side, each known to those after it.
    fn side(&mut self, text: &str) -> Vec<(String, Built)> {
        let terms: Vec<(String, &str)> = match text.contains('=') {
            true => text
                .split(',')
                .map(|t| t.split_once('=').expect("?name = term"))
                .map(|(n, t)| (n.trim().into(), t))
                .collect(),
            false => vec![("?result".into(), text)],
        };
        let mut named = Vec::new();
        let mut waiting = terms;
        // A side may name a term that it uses before it says what it is.
        while !waiting.is_empty() {
            let names: Vec<String> = waiting.iter().map(|(n, _)| n.clone()).collect();
            let ready = |t: &&(String, &str)| !names.iter().any(|n| *n != t.0 && mentions(t.1, n));
            let at = waiting.iter().position(|t| ready(&t)).expect("terms that do not go round");
            let (name, term) = waiting.remove(at);
            let pattern: PatternAst<Term> = term.trim().parse().expect("a pattern");
            let built = self.pattern(&pattern);
            self.known.insert(name.clone(), built.clone());
            named.push((name, built));
        }
        named
    }

    /// Sides, then the pairs that the rule says are equal.
    fn pairs(&mut self) -> Vec<(ValueId, ValueId)> {
        let found = self.side(self.rule.find);
        for (name, value, of) in self.rule.lets {
            let width = match &self.known[of[0]] {
                Built::Value(v) => self.graph.node(*v).ty.shape.last().and_then(|d| d.value(&[])).expect("a width"),
                other => panic!("{}: {other:?} has no width", self.rule.name),
            };
            let _ = value;
            self.known.insert((*name).into(), Built::Attr(Attr::Int(width as i64)));
        }
        let put = self.side(self.rule.put);
        let value =
            |built: &Built| if let Built::Value(v) = built { *v } else { panic!("{}: no value", self.rule.name) };
        let equal = |(name, before): &(String, Built)| {
            let after = put.iter().find(|(n, _)| n == name)?;
            Some((value(before), value(&after.1)))
        };
        found.iter().filter_map(equal).collect()
    }

    /// The largest difference of a pair, relative to the largest number.
    fn difference(&self, before: ValueId, after: ValueId) -> f64 {
        let [a, b] = [before, after].map(|value| self.run(value));
        match (a, b) {
            (Tensor::Int(a), Tensor::Int(b)) => f64::from(u8::from(a != b)),
            (Tensor::Real(a), Tensor::Real(b)) => {
                assert_eq!(a.len(), b.len(), "{}: sizes differ", self.rule.name);
                let largest = a.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
                a.iter()
                    .zip(&b)
                    .map(|(a, b)| if a == b { 0.0 } else { f64::from((a - b).abs() / largest) })
                    .fold(0.0, f64::max)
            }
            other => panic!("{}: kinds differ: {other:?}", self.rule.name),
        }
    }

    /// A value by the interpreter, in a graph that has nothing else; a cache by what attention sees in it.
    fn run(&self, value: ValueId) -> Tensor {
        let mut graph = needed(&self.graph, value);
        let last = ValueId(graph.nodes.len() as u32 - 1);
        let mut inputs = self.inputs.clone();
        let output = if graph.node(last).ty.shape.len() == 5 { look_into(&mut graph, last, &mut inputs) } else { last };
        graph.output("value", output);
        let result = Interpreter::new(&graph, HashMap::new()).step(&[], &inputs);
        result.unwrap_or_else(|e| panic!("{}: {e}", self.rule.name)).remove("value").expect("the output")
    }
}

/// Whether a pattern has a variable.
fn mentions(pattern: &str, variable: &str) -> bool {
    pattern.split(|c: char| c.is_whitespace() || c == '(' || c == ')').any(|word| word == variable)
}

/// The graph of one value, which is its last node.
fn needed(graph: &Graph, value: ValueId) -> Graph {
    let mut is_needed = vec![false; graph.nodes.len()];
    is_needed[value.index()] = true;
    for (v, node) in graph.values().collect::<Vec<_>>().into_iter().rev() {
        if is_needed[v.index()] {
            node.given().for_each(|o| is_needed[o.index()] = true);
        }
    }
    let (mut part, mut new_ids) = (Graph::new("part"), HashMap::new());
    for (v, node) in graph.values().filter(|(v, _)| is_needed[v.index()]) {
        let mut node = node.clone();
        if let NodeKind::Op { operands, .. } = &mut node.kind {
            operands.iter_mut().filter(|o| **o != ValueId::ABSENT).for_each(|o| *o = new_ids[o]);
        }
        new_ids.insert(v, ValueId(part.nodes.len() as u32));
        part.nodes.push(node);
    }
    part
}

/// What attention with fixed queries sees in a cache.
fn look_into(graph: &mut Graph, cache: ValueId, inputs: &mut HashMap<String, Tensor>) -> ValueId {
    let dim = graph.node(cache).ty.shape[4].value(&[]).expect("a constant");
    let Some(Tensor::Int(positions)) = inputs.get("?p").cloned() else { panic!("a cache has positions") };
    let (tokens, heads) = (positions.len() as u64, 2);
    let count = (tokens * heads * dim) as usize;
    inputs.insert("look".into(), Tensor::Real((0..count).map(|i| (i % 7) as f32 - 3.0).collect()));
    let look = graph.input("look", ty(DType::F32, &[tokens, heads, dim]));
    let find = |name: &str| ValueId(graph.nodes.iter().position(|n| n.name == name).expect("an input") as u32);
    let operands = [look, cache, find("?p"), find("?seq"), find("?pages")];
    let attributes = [
        ("scale", Attr::Float(0.5)),
        ("window", Attr::Int(0)),
        ("softcap", Attr::Float(0.0)),
        ("value_dim", Attr::Int(0)),
    ];
    graph.op(Op::Attention, &operands, &attributes, "").expect("attention")
}

#[test]
fn both_sides_of_every_rule_are_equal() {
    for (name, declarations) in CASES {
        let rule = RULES.iter().find(|r| r.name == *name).unwrap_or_else(|| panic!("no rule is called {name}"));
        let tolerance = match rule.exactness {
            Exactness::Exact => 1e-5,
            Exactness::Rounding(tolerance) => tolerance,
        };
        let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
        let proved = runner.run(&draws(), |draw| {
            let mut proof = Proof::new(rule, declarations, draw);
            let pairs = proof.pairs();
            prop_assert!(!pairs.is_empty(), "the rule says nothing of what it finds");
            for (before, after) in pairs {
                let [a, b] = [before, after].map(|v| proof.graph.node(v).clone());
                prop_assert_eq!(&a.ty, &b.ty, "the types differ");
                let difference = proof.difference(before, after);
                prop_assert!(difference <= tolerance, "{} differs by {difference}", a.op().map_or("", |o| o.name()));
            }
            Ok(())
        });
        proved.unwrap_or_else(|e| panic!("rule {name}: {e}"));
    }
}

#[test]
fn every_rule_has_a_proof_and_a_name_of_its_own() {
    let proved: BTreeSet<&str> = CASES.iter().map(|(name, _)| *name).collect();
    let rules: BTreeSet<&str> = RULES.iter().map(|r| r.name).collect();
    assert_eq!(proved, rules);
    assert_eq!(rules.len(), RULES.len(), "two rules have one name");
    for rule in RULES {
        rule.compile().unwrap_or_else(|e| panic!("{e}"));
        assert!(rule.statement.trim().ends_with('.'), "{}: a statement is a sentence", rule.name);
    }
}

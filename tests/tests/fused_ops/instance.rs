//! A graph around one op, with everything it reads: built once, run by the cpu device and by the interpreter.

use std::collections::HashMap;

use compiler::lower::{Registry, lower};
use compiler::plan::plan;
use compiler::schedule::schedule;
use compiler::target::Target;
use ir::graph::{Graph, ValueId};
use ir::interp::{Interpreter, Tensor};
use ir::op::{Attr, Op};
use ir::program::Program;
use ir::quant;
use ir::types::{DType, Dim, SymbolId, TensorType};
use ir::verify::verify_graph;
use kernels::cpu::isa::Isa;
use runtime::artifact::{Layout, WeightInfo};
use runtime::device::cpu::ProgramRunner;
use runtime::device::{LoadOptions, StepInputs};

/// Most tokens of a step.
pub const MOST_TOKENS: u64 = 70;
const MOST_SEQUENCES: u64 = 3;
const PAGE_COLUMNS: u64 = MOST_TOKENS.div_ceil(16);
const PAGES: u64 = MOST_SEQUENCES * PAGE_COLUMNS;

/// A generator of numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of -1..1.
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }
}

/// A weight: its bytes as kernels read them, and its values.
struct Weight {
    info: WeightInfo,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

/// A result to compare: a name, and whether it is of integers.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    Real(Vec<f32>),
    Int(Vec<i32>),
}

/// The graph, its inputs and weights.
pub struct Instance {
    pub graph: Graph,
    pub random: Random,
    /// Relative RMS by which outputs may differ from the interpreter's.
    pub tolerance: f64,
    tokens: u64,
    reals: HashMap<String, Vec<f32>>,
    weights: Vec<Weight>,
    sequences: Vec<i32>,
    positions: Vec<i32>,
    tables: Vec<i32>,
    page_table: Vec<i32>,
}

/// The symbol of tokens.
pub const T: Dim = Dim::Sym(SymbolId(0));
/// The symbol of KV pages.
pub const N: Dim = Dim::Sym(SymbolId(3));

pub fn constant(n: usize) -> Dim {
    Dim::Const(n as u64)
}

impl Instance {
    /// An empty graph of a step of so many tokens.
    pub fn new(tokens: u64, tolerance: f64, seed: u64) -> Instance {
        let mut graph = Graph::new("fused");
        for (name, most) in
            [("T", MOST_TOKENS), ("S", MOST_SEQUENCES), ("P", PAGE_COLUMNS), ("N", 1 << 20), ("R", MOST_TOKENS)]
        {
            graph.symbol(name, 1, most);
        }
        let mut random = Random(seed);
        let (mut sequences, mut positions) = (vec![0], vec![0]);
        for _ in 1..tokens {
            let (sequence, position) = (sequences[sequences.len() - 1], positions[positions.len() - 1]);
            let next = sequence < MOST_SEQUENCES as i32 - 1 && random.below(20) == 0;
            sequences.push(if next { sequence + 1 } else { sequence });
            positions.push(if next { 0 } else { position + 1 });
        }
        let tables = (0..tokens).map(|_| random.below(2) as i32).collect();
        let page_table = (0..PAGES as i32).rev().collect();
        let (reals, weights) = (HashMap::new(), Vec::new());
        Instance { graph, random, tolerance, tokens, reals, weights, sequences, positions, tables, page_table }
    }

    fn fresh(&self, what: &str) -> String {
        format!("{what}{}", self.graph.nodes.len())
    }

    /// An input of these dimensions after the tokens.
    pub fn input(&mut self, shape: &[usize]) -> ValueId {
        self.input_of(shape, |random| random.value() * 2.0)
    }

    /// Of values drawn so.
    pub fn input_of(&mut self, shape: &[usize], draw: fn(&mut Random) -> f32) -> ValueId {
        let name = self.fresh("in");
        let count = self.tokens as usize * shape.iter().product::<usize>();
        let values = (0..count).map(|_| draw(&mut self.random)).collect();
        self.reals.insert(name.clone(), values);
        let mut dims = vec![T];
        dims.extend(shape.iter().map(|n| constant(*n)));
        self.graph.input(&name, TensorType::new(DType::F32, dims))
    }

    /// Sums of squares as a row of `width` columns may have them.
    pub fn squares(&mut self, width: usize) -> ValueId {
        self.input_of(&[width.div_ceil(16)], |random| 4.0 + 4.0 * random.value())
    }

    /// Indexes and positions of the step.
    pub fn metadata(&mut self, name: &str) -> ValueId {
        let shape = if name == "page_table" { vec![Dim::Sym(SymbolId(1)), Dim::Sym(SymbolId(2))] } else { vec![T] };
        self.graph.input(name, TensorType::new(DType::I32, shape))
    }

    /// A plain vector or matrix of numbers about `mean`.
    pub fn plain(&mut self, shape: &[usize], mean: f32) -> ValueId {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| mean + 0.5 * self.random.value()).collect();
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.weight(DType::F32, Layout::Plain, shape, bytes, values)
    }

    /// Packed matrices of a format: `[rows, cols]`, or a stack `[matrices, rows, cols]`.
    pub fn matrices(&mut self, dtype: DType, shape: &[usize]) -> ValueId {
        let (rows, cols) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let row_bytes = quant::row_bytes(dtype, cols as u64).unwrap() as usize;
        let panel_bytes = quant::packed_bytes(dtype, rows as u64, cols as u64).unwrap() as usize;
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for _ in 0..shape[..shape.len() - 2].iter().product() {
            let mut row_major = vec![0; rows * row_bytes];
            for row in row_major.chunks_exact_mut(row_bytes) {
                let drawn: Vec<f32> = (0..cols).map(|_| self.random.value()).collect();
                quant::format(dtype).unwrap().quantize_row(&drawn, row).unwrap();
            }
            let (from, to) = (values.len(), bytes.len());
            values.resize(from + rows * cols, 0.0);
            quant::dequantize(dtype, &row_major, cols, &mut values[from..]).unwrap();
            bytes.resize(to + panel_bytes, 0);
            quant::pack(dtype, &row_major, rows, cols, &mut bytes[to..]).unwrap();
        }
        self.weight(dtype, Layout::Rows16, shape, bytes, values)
    }

    fn weight(&mut self, dtype: DType, layout: Layout, shape: &[usize], bytes: Vec<u8>, values: Vec<f32>) -> ValueId {
        let name = self.fresh("w");
        let dims: Vec<Dim> = shape.iter().map(|n| constant(*n)).collect();
        let info = WeightInfo {
            name: name.clone(),
            dtype: dtype.name().into(),
            layout,
            shape: shape.iter().map(|n| *n as u64).collect(),
            file: String::new(),
            bytes: bytes.len() as u64,
        };
        self.weights.push(Weight { info, bytes, values });
        self.graph.weight(&name, TensorType::new(dtype, dims))
    }

    /// Adds an op with operands left out where they are `None`.
    pub fn op(&mut self, op: Op, operands: &[Option<ValueId>], attributes: &[(&str, Attr)]) -> ValueId {
        let given = operands.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let operands: Vec<ValueId> = operands[..given].iter().map(|o| o.unwrap_or(ValueId::ABSENT)).collect();
        self.graph.op(op, &operands, attributes, "").unwrap_or_else(|e| panic!("{e}"))
    }

    /// Names a node's results, all of them, as outputs.
    pub fn output_all(&mut self, value: ValueId) {
        self.graph.output("0", value);
        for index in 1..=self.graph.node(value).more.len() {
            let part = self.op(Op::Part, &[Some(value)], &[("index", Attr::Int(index as i64))]);
            self.graph.output(&index.to_string(), part);
        }
    }

    /// A graph of these inputs and weights as a program of the cpu.
    pub fn program(&self, graph: &Graph) -> Program {
        verify_graph(graph).unwrap_or_else(|e| panic!("{e}"));
        let lowered = lower(graph, &Registry::default(), Target::Cpu).unwrap_or_else(|e| panic!("{e}"));
        plan(schedule(lowered)).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The outputs of a graph over these inputs and weights, on the cpu device.
    pub fn execute(&self, graph: &Graph, isa: Isa, threads: usize) -> Vec<(String, Found)> {
        let program = self.program(graph);
        let infos: Vec<WeightInfo> = self.weights.iter().map(|w| w.info.clone()).collect();
        let options = LoadOptions { pages: PAGES, threads: Some(threads), isa: Some(isa) };
        let mut runner = ProgramRunner::new(&program, &infos, 1, &options).unwrap_or_else(|e| panic!("{e}"));
        for weight in &self.weights {
            runner.weight_mut(&weight.info.name).unwrap().copy_from_slice(&weight.bytes);
        }
        let ids = vec![0; self.tokens as usize];
        let inputs = StepInputs {
            ids: &ids,
            positions: &self.positions,
            sequences: &self.sequences,
            page_table: &self.page_table,
            page_columns: PAGE_COLUMNS as usize,
            logit_rows: &[0],
            rope_tables: &self.tables,
        };
        let names = program.inputs.iter().filter_map(|i| self.reals.get_key_value(&i.name));
        let values: Vec<(&str, &[f32])> = names.map(|(name, values)| (name.as_str(), values.as_slice())).collect();
        runner.step(&inputs, &values).unwrap_or_else(|e| panic!("{e}"));
        let names = program.outputs.iter().map(|(name, _)| name);
        names
            .map(|name| {
                let real = runner.floats(name).map(|v| Found::Real(v.to_vec()));
                let found = real.or_else(|| runner.ints(name).map(|v| Found::Int(v.to_vec())));
                (name.clone(), found.unwrap_or_else(|| panic!("no output {name}")))
            })
            .collect()
    }

    /// The outputs as the interpreter has them.
    pub fn interpret(&self, graph: &Graph) -> HashMap<String, Found> {
        let weights = self.weights.iter().map(|w| (w.info.name.clone(), Tensor::Real(w.values.clone())));
        let mut interpreter = Interpreter::new(graph, weights.collect());
        let mut inputs: HashMap<String, Tensor> =
            self.reals.iter().map(|(name, values)| (name.clone(), Tensor::Real(values.clone()))).collect();
        for (name, values) in [
            ("positions", &self.positions),
            ("sequences", &self.sequences),
            ("rope_tables", &self.tables),
            ("page_table", &self.page_table),
        ] {
            inputs.insert(name.into(), Tensor::Int(values.clone()));
        }
        let symbols = [self.tokens, MOST_SEQUENCES, PAGE_COLUMNS, PAGES, 1];
        let outputs = interpreter.step(&symbols, &inputs).unwrap_or_else(|e| panic!("{e}"));
        let found = |tensor| match tensor {
            Tensor::Real(values) => Found::Real(values),
            Tensor::Int(values) => Found::Int(values),
        };
        outputs.into_iter().map(|(name, tensor)| (name, found(tensor))).collect()
    }
}

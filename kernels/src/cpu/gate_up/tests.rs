//! `gate_up` against the kernels it stands for, bit for bit, and against its definition in f64.

use ir::quant::FORMATS;
use proptest::prelude::*;

use super::*;
use crate::abi::{BinaryParams, FinishLogitsParams, RouterParams, RouterWeightsParams, ScaleRowsParams};
use crate::cpu::matmul::testing::{Input, Matrix, Random, execute, pointer};

const FORMS: [&str; 5] = ["f32", "f32.half", "q8x32", "f32.block", "f32.row"];

const EPS: f32 = 1e-6;

/// Tokens, slots, matrices, rows, columns.
type Shape = [usize; 5];

/// An instance, with the operands that it has.
struct Case {
    shape: Shape,
    routing: u32,
    activation: usize,
    scoring: usize,
    share: bool,
    input: Input,
    stacks: [Vec<Matrix>; 2],
    packed: [Vec<u8>; 2],
    experts: Vec<i32>,
    squares: Option<Vec<f32>>,
    biases: [Option<Vec<f32>>; 2],
    logits: Option<Vec<f32>>,
    route_partials: Vec<f32>,
    route_squares: Vec<f32>,
    route_bias: Option<Vec<f32>>,
    correction: Option<Vec<f32>>,
    groups: u32,
}

/// Columns that the router's partial sums are over.
const ROUTE_WIDTH: usize = 41;

/// Result, experts and weights.
type Results = (Vec<u32>, Vec<i32>, Vec<u32>);

impl Case {
    /// With the operands that bits of `options` ask for.
    fn random(weights: DType, shape: Shape, x: (&'static str, u32), [routing, options]: [u32; 2], seed: u64) -> Case {
        let [tokens, mut slots, mut matrices, rows, cols] = shape;
        if routing == 0 {
            (slots, matrices) = (1, 1);
        }
        let mut random = Random(seed);
        let given = |bit: u32| options >> bit & 1 == 1;
        let share = given(0);
        let lines = tokens * if share { 1 } else { slots };
        let stacks = [seed ^ 3, seed ^ 77]
            .map(|seed| (0..matrices as u64).map(|e| Matrix::random(weights, rows, cols, seed + 1000 * e)).collect());
        let packed = [0, 1].map(|i: usize| -> Vec<u8> {
            let stack: &Vec<Matrix> = &stacks[i];
            stack.iter().flat_map(|m| m.packed.iter().copied()).collect()
        });
        let squares = given(1).then(|| random.values(tokens * cols.div_ceil(16)).iter().map(|s| s * s + 0.1).collect());
        let mut values = |given: bool, count: usize| given.then(|| random.values(count));
        // The kernel that scales experts' rows has no bias.
        let biases = [2, 3].map(|bit| values(given(bit) && !(given(1) && routing != 0), matrices * rows));
        let panels = ROUTE_WIDTH.div_ceil(16);
        let logits = values(given(4), tokens * matrices);
        let route_partials = values(true, tokens * panels * matrices).unwrap_or_default();
        let route_squares = values(true, tokens * panels).unwrap_or_default();
        let (route_bias, correction) = (values(given(5), matrices), values(given(6), matrices));
        // Some that do not exist, and more of one than of the others.
        let any = |bits: u64| [bits as usize % (matrices + 2), 1, 2][(bits >> 32) as usize % 3] as i32 - 1;
        let experts = (0..tokens * slots).map(|_| any(random.bits())).collect();
        Case {
            shape: [tokens, slots, matrices, rows, cols],
            routing,
            activation: (options >> 8) as usize % ACTIVATIONS.len(),
            scoring: (options >> 12) as usize % SCORINGS.len(),
            share,
            input: Input::random(weights, lines, cols, x, seed ^ 1),
            stacks,
            packed,
            experts,
            squares,
            biases,
            logits,
            route_partials,
            route_squares: route_squares.iter().map(|s| s.abs() + 0.1).collect(),
            route_bias,
            correction,
            groups: 1 + (options >> 7 & 1) * 2,
        }
    }

    fn weights(&self) -> DType {
        self.stacks[0][0].dtype
    }

    fn variant(&self) -> String {
        format!("{}.{}", self.weights(), self.input.form)
    }

    /// All but the results' addresses.
    fn params(&self) -> GateUpParams {
        let [tokens, slots, matrices, rows, cols] = self.shape.map(|n| n as u32);
        GateUpParams {
            x: self.input.x(),
            w_gate: self.packed[0].as_ptr().cast(),
            w_up: self.packed[1].as_ptr().cast(),
            experts: if self.routing == GIVEN { self.experts.as_ptr() } else { std::ptr::null() },
            norm_weight: self.input.weight.as_ptr(),
            norm_bias: pointer(&self.input.bias),
            squares: pointer(&self.squares),
            gate_bias: pointer(&self.biases[0]),
            up_bias: pointer(&self.biases[1]),
            logits: pointer(&self.logits),
            route_partials: self.route_partials.as_ptr(),
            route_squares: self.route_squares.as_ptr(),
            route_bias: pointer(&self.route_bias),
            correction: pointer(&self.correction),
            tokens,
            slots,
            matrices,
            rows,
            cols,
            slots_share_x: self.share.into(),
            activation: self.activation as u32,
            norm: self.input.norm,
            routing: self.routing,
            scoring: self.scoring as u32,
            groups: self.groups,
            top_groups: 2,
            renormalise: 1,
            route_width: ROUTE_WIDTH as u32,
            eps: EPS,
            norm_eps: self.input.eps,
            limit: 0.9,
            route_eps: 1e-5,
            scale: 1.25,
            jitter: 0.2,
            ..GateUpParams::default()
        }
    }

    fn run(&self, isa: Isa, step: usize) -> Results {
        let [tokens, slots, _, rows, _] = self.shape;
        let pairs = tokens * slots;
        let (mut out, mut experts, mut weights) =
            (vec![f32::NAN; pairs * rows], vec![-9; pairs], vec![f32::NAN; pairs]);
        let mut params = GateUpParams { out: out.as_mut_ptr(), ..self.params() };
        if self.routing == SELECTED {
            (params.experts_out, params.weights_out) = (experts.as_mut_ptr(), weights.as_mut_ptr());
        } else {
            (experts, weights) = (Vec::new(), Vec::new());
        }
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { execute("gate_up", &self.variant(), isa, &params, step) };
        (bits(&out), experts, bits(&weights))
    }

    /// Experts and weights by the kernels of routing.
    fn route(&self, isa: Isa) -> (Vec<i32>, Vec<f32>) {
        let [tokens, slots, experts, ..] = self.shape.map(|n| n as u32);
        let pairs = (tokens * slots) as usize;
        let (mut logits, mut selected, mut weights) = (Vec::new(), vec![-9; pairs], vec![f32::NAN; pairs]);
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe {
            match &self.logits {
                Some(given) => logits.extend_from_slice(given),
                None => {
                    logits.resize((tokens * experts) as usize, f32::NAN);
                    let finish = FinishLogitsParams {
                        partials: self.route_partials.as_ptr(),
                        squares: self.route_squares.as_ptr(),
                        bias: pointer(&self.route_bias),
                        out: logits.as_mut_ptr(),
                        tokens,
                        experts,
                        width: ROUTE_WIDTH as u32,
                        eps: 1e-5,
                    };
                    execute("finish_logits", "", isa, &finish, 1);
                }
            }
            let router = RouterParams {
                logits: logits.as_ptr(),
                bias: pointer(&self.correction),
                out: selected.as_mut_ptr(),
                tokens,
                experts,
                slots,
                groups: self.groups,
                top_groups: 2,
                reserved: 0,
            };
            execute("router", SCORINGS[self.scoring], isa, &router, 1);
            let factors = RouterWeightsParams {
                logits: logits.as_ptr(),
                selected: selected.as_ptr(),
                out: weights.as_mut_ptr(),
                tokens,
                experts,
                slots,
                renormalise: 1,
                scale: 1.25,
                jitter: 0.2,
            };
            execute("router_weights", SCORINGS[self.scoring], isa, &factors, 1);
        }
        (selected, weights)
    }

    /// The product with one of the stacks, scaled and biased, by kernels of their own.
    fn product(&self, half: usize, experts: Option<&[i32]>, isa: Isa) -> Vec<f32> {
        let [tokens, slots, matrices, rows, cols] = self.shape.map(|n| n as u32);
        let (x, mut y) = (self.input.prepared(isa), vec![f32::NAN; (tokens * slots * rows) as usize]);
        let (bias, out) = (pointer(&self.biases[half]), y.as_mut_ptr());
        let grouped = GroupedMatmulParams {
            x: x.as_ptr().cast(),
            w: self.packed[half].as_ptr().cast(),
            experts: experts.map_or(std::ptr::null(), <[i32]>::as_ptr),
            bias: if self.squares.is_some() { std::ptr::null() } else { bias },
            out,
            tokens,
            slots,
            matrices,
            rows,
            cols,
            slots_share_x: self.share.into(),
        };
        let variant = format!("{}.{}", self.weights(), self.input.activations());
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { execute("grouped_matmul", &variant, isa, &grouped, 1) };
        if let Some(squares) = &self.squares {
            let squares = squares.as_ptr();
            let (width, eps, reserved) = (cols, EPS, 0);
            let scale = ScaleRowsParams { y: out, squares, bias, out, tokens, slots, cols: rows, width, eps, reserved };
            // SAFETY: as above.
            unsafe { execute("scale_rows", "", isa, &scale, 1) };
        }
        y
    }

    /// By the kernels it stands for, one launch each.
    fn chain(&self, isa: Isa) -> Results {
        let (experts, weights) = if self.routing == SELECTED { self.route(isa) } else { Default::default() };
        let selected = match self.routing {
            0 => None,
            GIVEN => Some(&self.experts[..]),
            _ => Some(&experts[..]),
        };
        let [gate, up] = [0, 1].map(|half| self.product(half, selected, isa));
        let mut out = vec![f32::NAN; gate.len()];
        let (a, b, count) = (gate.as_ptr(), up.as_ptr(), gate.len() as u64);
        let params = BinaryParams { a, b, out: out.as_mut_ptr(), count, limit: 0.9, reserved: 0 };
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { execute("binary", &format!("{}_mul", ACTIVATIONS[self.activation]), isa, &params, 1) };
        self.check_against_definition(selected, &out);
        (bits(&out), experts, bits(&weights))
    }

    /// Result elements against the definition, by errors of both products relative to the norms of row and pair.
    fn check_against_definition(&self, experts: Option<&[i32]>, out: &[f32]) {
        let [tokens, slots, matrices, rows, cols] = self.shape;
        let x = self.input.exact();
        let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
        for pair in 0..tokens * slots {
            let line = if self.share { pair / slots } else { pair };
            let (x, scale) = (&x[line * cols..(line + 1) * cols], self.row_scale(pair / slots));
            let expert = experts.map_or(Some(0), |e| usize::try_from(e[pair]).ok().filter(|e| *e < matrices));
            for n in 0..rows {
                // Sum and greatest error of one product.
                let product = |half: usize| {
                    let Some(e) = expert else { return (0.0, 0.0) };
                    let w: Vec<f64> =
                        self.stacks[half][e].values[n * cols..(n + 1) * cols].iter().map(|w| f64::from(*w)).collect();
                    let bias = self.biases[half].as_ref().map_or(0.0, |b| f64::from(b[e * rows + n]));
                    let dot = x.iter().zip(&w).map(|(x, w)| x * w).sum::<f64>() * scale + bias;
                    (dot, self.input.tolerance() * (norm(x) * norm(&w) * scale + bias.abs() + 0.01))
                };
                let ((gate, gate_error), (up, up_error)) = (product(0), product(1));
                let expected = definition(ACTIVATIONS[self.activation], gate, up);
                // Slopes of the activations are below 2 |x| + 2, and they themselves below x² + |x|.
                let slope = 2.0 * (gate.abs() + gate_error) + 2.0;
                let error = slope * gate_error * (up.abs() + 1.0 + up_error)
                    + (gate.abs() * (gate.abs() + 1.0) + 1.0) * up_error
                    + 1e-5;
                let got = f64::from(out[pair * rows + n]);
                assert!((got - expected).abs() <= error, "{} pair={pair} n={n}: {got} {expected}", self.variant());
            }
        }
    }

    fn row_scale(&self, token: usize) -> f64 {
        let cols = self.shape[4];
        self.squares.as_ref().map_or(1.0, |squares| {
            let squares = squares.chunks_exact(cols.div_ceil(16)).nth(token).unwrap();
            1.0 / (squares.iter().map(|s| f64::from(*s)).sum::<f64>() / cols as f64 + f64::from(EPS)).sqrt()
        })
    }

    fn check(&self) {
        let expected = self.chain(Isa::best());
        for &isa in Isa::available() {
            for step in [1, 3, usize::MAX] {
                assert_eq!(self.run(isa, step), expected, "{} on {isa}, {step} blocks", self.variant());
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// The gate in f64; the limit of the clamped one is 0.9.
fn definition(activation: &str, gate: f64, up: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        "silu" => gate * sigmoid(gate) * up,
        "gelu_tanh" => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
            0.5 * gate * (1.0 + inner.tanh()) * up
        }
        "gelu" => gate * crate::cpu::math::tests::normal(gate) * up,
        "relu2" => gate.max(0.0).powi(2) * up,
        _ => {
            let (limit, gate) = (f64::from(0.9f32), gate.min(f64::from(0.9f32)));
            (up.clamp(-limit, limit) + 1.0) * gate * sigmoid(1.702 * gate)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn bits_are_those_of_the_chain(
        format in 0..FORMATS.len(), form in 0..FORMS.len(), norm in 0u32..4, routing in 0u32..3,
        tokens in prop_oneof![4 => 0usize..9, 1 => 60usize..71], slots in 1usize..4, matrices in 1usize..7,
        rows in 1usize..100, cols in 1usize..100, options in 0u32..1 << 16, seed: u64,
    ) {
        let format = &FORMATS[format];
        let shape = [tokens, slots, matrices, rows, cols.next_multiple_of(format.block_len())];
        Case::random(format.dtype(), shape, (FORMS[form], norm), [routing, options], seed).check();
    }
}

/// Every weight format in every form and routing.
#[test]
fn every_format_has_the_bits_of_the_chain() {
    for (i, format) in FORMATS.iter().enumerate() {
        for (j, form) in FORMS.into_iter().enumerate() {
            let cols = 64usize.next_multiple_of(format.block_len());
            let options = ((i + j) as u32 * 0x1357) & 0xffff;
            let routing = (i + j) as u32 % 3;
            Case::random(format.dtype(), [3, 2, 4, 37, cols], (form, j as u32), [routing, options], i as u64).check();
        }
    }
}

/// What a launch reads is counted by the experts that it is given, and bounded where it selects them.
#[test]
fn launches_know_the_matrices_they_read() {
    let experts = [3, 1, 3, -1, 9, 1];
    let launch = |routing| GateUpParams {
        experts: experts.as_ptr(),
        routing,
        tokens: 3,
        slots: 2,
        matrices: 5,
        ..GateUpParams::default()
    };
    // SAFETY: the experts are as many as the parameters say.
    let read = |params: GateUpParams| unsafe { matrices_read(&params) };
    assert_eq!(read(GateUpParams { slots: 1, matrices: 1, ..launch(0) }), 1);
    assert_eq!(read(launch(GIVEN)), 2);
    assert_eq!(read(launch(SELECTED)), 5);
    assert_eq!(read(GateUpParams { tokens: 1, ..launch(SELECTED) }), 2);
}

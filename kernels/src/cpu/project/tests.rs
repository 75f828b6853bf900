//! `project` against the kernels it stands for, bit for bit, and against its definition in f64.

use proptest::prelude::*;

use super::*;
use crate::abi::{
    BinaryParams, ColumnPartialsParams, MatmulParams, ScaleRowsParams, SigmoidGateParams, SquareSumsParams, UnaryParams,
};
use crate::cpu::matmul::testing::{Input, Matrix, Random, execute, pointer};

/// An instance, with the operands that it has.
struct Case {
    input: Input,
    w: Matrix,
    tokens: usize,
    squares: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    gate: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    router: Option<(Vec<f32>, Matrix)>,
    emit: bool,
    factor: f32,
    softcap: f32,
}

/// Result, squares and router partials.
type Results = [Vec<u32>; 3];

const EPS: f32 = 1e-6;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

impl Case {
    /// With the operands that bits of `options` ask for.
    fn random(
        weights: DType,
        [tokens, rows, cols]: [usize; 3],
        x: (&'static str, u32),
        options: u32,
        seed: u64,
    ) -> Case {
        let mut random = Random(seed);
        let given = |bit: u32| options >> bit & 1 == 1;
        let mut values = |bit: u32, count: usize| given(bit).then(|| random.values(count));
        let squares = values(0, tokens * cols.div_ceil(16)).map(|s| s.iter().map(|s| 16.0 * s * s + 0.1).collect());
        let (bias, gate, residual) = (values(1, rows), values(2, tokens), values(3, tokens * rows));
        let experts = 1 + seed as usize % 40;
        let router = values(4, rows)
            .map(|norm| (norm, Matrix::random(ROUTER_TYPES[(options >> 8) as usize % 3], experts, rows, seed ^ 5)));
        Case {
            input: Input::random(weights, tokens, cols, x, seed ^ 1),
            w: Matrix::random(weights, rows, cols, seed ^ 2),
            tokens,
            squares,
            bias,
            gate,
            residual,
            emit: given(5) || router.is_some(),
            router,
            factor: if given(6) { 0.73 } else { 1.0 },
            softcap: if given(7) { 2.5 } else { 0.0 },
        }
    }

    fn variant(&self) -> String {
        format!("{}.{}", self.w.dtype, self.input.form)
    }

    fn panels(&self) -> usize {
        self.w.rows.div_ceil(LANES)
    }

    fn experts(&self) -> usize {
        self.router.as_ref().map_or(0, |(_, router)| router.rows)
    }

    /// In one launch, over the residual stream or apart from it.
    fn run(&self, isa: Isa, step: usize, in_place: bool) -> Results {
        let (rows, input) = (self.w.rows, &self.input);
        let mut out = vec![f32::NAN; self.tokens * rows];
        let mut residual = pointer(&self.residual);
        if let Some(values) = self.residual.as_ref().filter(|_| in_place) {
            out.copy_from_slice(values);
            residual = out.as_ptr();
        }
        let mut squares = vec![f32::NAN; if self.emit { self.tokens * self.panels() } else { 0 }];
        let mut partials = vec![f32::NAN; self.tokens * self.panels() * self.experts()];
        let router = self.router.as_ref();
        let router_type = router.and_then(|(_, r)| ROUTER_TYPES.iter().position(|t| *t == r.dtype)).unwrap_or(0);
        let params = ProjectParams {
            x: input.x(),
            w: self.w.packed.as_ptr().cast(),
            norm_weight: input.weight.as_ptr(),
            norm_bias: pointer(&input.bias),
            squares: pointer(&self.squares),
            bias: pointer(&self.bias),
            gate: pointer(&self.gate),
            residual,
            router_norm: router.map_or(std::ptr::null(), |(norm, _)| norm.as_ptr()),
            router: router.map_or(std::ptr::null(), |(_, router)| router.packed.as_ptr().cast()),
            out: out.as_mut_ptr(),
            squares_out: if self.emit { squares.as_mut_ptr() } else { std::ptr::null_mut() },
            partials_out: if router.is_some() { partials.as_mut_ptr() } else { std::ptr::null_mut() },
            tokens: self.tokens as u32,
            rows: rows as u32,
            cols: input.cols as u32,
            norm: input.norm,
            router_rows: self.experts() as u32,
            router_type: router_type as u32,
            eps: EPS,
            norm_eps: input.eps,
            factor: self.factor,
            softcap: self.softcap,
        };
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { execute("project", &self.variant(), isa, &params, step) };
        [&out, &squares, &partials].map(|values| bits(values))
    }

    /// The product, by the kernels of norms, rounding, matmul and scales.
    fn product(&self, isa: Isa) -> Vec<f32> {
        let (rows, cols, tokens) = (self.w.rows as u32, self.input.cols as u32, self.tokens as u32);
        let (x, mut y) = (self.input.prepared(isa), vec![f32::NAN; self.tokens * self.w.rows]);
        let (bias, out) = (pointer(&self.bias), y.as_mut_ptr());
        let product_bias = if self.squares.is_some() { std::ptr::null() } else { bias };
        let w = self.w.packed.as_ptr().cast();
        let matmul = MatmulParams { x: x.as_ptr().cast(), w, bias: product_bias, out, tokens, rows, cols, reserved: 0 };
        // SAFETY: the buffers have the sizes the parameters say.
        unsafe { execute("matmul", &format!("{}.{}", self.w.dtype, self.input.activations()), isa, &matmul, 1) };
        if let Some(squares) = &self.squares {
            let squares = squares.as_ptr();
            let (slots, width, eps, reserved) = (1, cols, EPS, 0);
            let scale = ScaleRowsParams { y: out, squares, bias, out, tokens, slots, cols: rows, width, eps, reserved };
            // SAFETY: as above.
            unsafe { execute("scale_rows", "", isa, &scale, 1) };
        }
        y
    }

    /// By the kernels it stands for, one launch each.
    fn chain(&self, isa: Isa) -> Results {
        let (rows, cols, count) = (self.tokens as u32, self.w.rows as u32, (self.tokens * self.w.rows) as u64);
        let mut y = self.product(isa);
        let (x, out, reserved) = (y.as_ptr(), y.as_mut_ptr(), 0);
        let mut squares = vec![f32::NAN; if self.emit { self.tokens * self.panels() } else { 0 }];
        let mut partials = vec![f32::NAN; self.tokens * self.panels() * self.experts()];
        // SAFETY: the buffers have the sizes the parameters say; all these kernels may write over what they read.
        unsafe {
            if let Some(gate) = &self.gate {
                execute("sigmoid_gate", "", isa, &SigmoidGateParams { x, gate: gate.as_ptr(), out, rows, cols }, 1);
            }
            if self.factor != 1.0 {
                execute("unary", "scale", isa, &UnaryParams { x, out, count, value: self.factor, reserved }, 1);
            }
            if self.softcap > 0.0 {
                execute("unary", "softcap", isa, &UnaryParams { x, out, count, value: self.softcap, reserved }, 1);
            }
            if let Some(residual) = &self.residual {
                let add = BinaryParams { a: residual.as_ptr(), b: x, out, count, limit: 0.0, reserved };
                execute("binary", "add", isa, &add, 1);
            }
            if self.emit {
                execute("square_sums", "", isa, &SquareSumsParams { x, out: squares.as_mut_ptr(), rows, cols }, 1);
            }
            if let Some((norm, router)) = &self.router {
                let (norm, w, out) = (norm.as_ptr(), router.packed.as_ptr().cast(), partials.as_mut_ptr());
                let experts = router.rows as u32;
                let params = ColumnPartialsParams { x, norm, w, out, tokens: rows, cols, experts, reserved };
                execute("column_partials", router.dtype.name(), isa, &params, 1);
            }
        }
        [&y, &squares, &partials].map(|values| bits(values))
    }

    /// Result elements against the definition, relative to the norms of row and token.
    fn check_against_definition(&self, out: &[u32]) {
        let (cols, rows, x) = (self.input.cols, self.w.rows, self.input.exact());
        let norm = |row: &mut dyn Iterator<Item = f64>| row.map(|v| v * v).sum::<f64>().sqrt();
        for (t, x) in x.chunks_exact(cols).enumerate() {
            let scale = self.squares.as_ref().map_or(1.0, |squares| {
                let squares = squares.chunks_exact(cols.div_ceil(16)).nth(t).unwrap();
                let sum: f64 = squares.iter().map(|s| f64::from(*s)).sum();
                1.0 / (sum / cols as f64 + f64::from(EPS)).sqrt()
            });
            let gate = self.gate.as_ref().map_or(1.0, |gate| 1.0 / (1.0 + f64::from(-gate[t]).exp()));
            for (n, w) in self.w.values.chunks_exact(cols).enumerate() {
                let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[n]));
                let residual = self.residual.as_ref().map_or(0.0, |r| f64::from(r[t * rows + n]));
                let dot: f64 = x.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum();
                let mut y = (dot * scale + bias) * gate * f64::from(self.factor);
                if self.softcap > 0.0 {
                    let cap = f64::from(self.softcap);
                    y = cap * (y / cap).tanh();
                }
                let size = norm(&mut x.iter().copied()) * norm(&mut w.iter().map(|w| f64::from(*w))) * scale;
                let tolerance = self.input.tolerance() * size + 1e-5 * (1.0 + bias.abs() + residual.abs());
                let got = f64::from(f32::from_bits(out[t * rows + n]));
                let expected = y + residual;
                assert!((got - expected).abs() <= tolerance, "{} t={t} n={n}: {got} {expected}", self.variant());
            }
        }
    }

    fn check(&self) {
        let expected = self.chain(Isa::best());
        self.check_against_definition(&expected[0]);
        for &isa in Isa::available() {
            for (step, in_place) in [(1, false), (3, true), (usize::MAX, true)] {
                assert_eq!(self.run(isa, step, in_place), expected, "{} on {isa}, {step} blocks", self.variant());
            }
        }
    }
}

const FORMS: [&str; 5] = ["f32", "f32.half", "q8x32", "f32.block", "f32.row"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn bits_are_those_of_the_chain(
        format in 0..ir::quant::FORMATS.len(), form in 0..FORMS.len(), norm in 0u32..4,
        tokens in prop_oneof![4 => 0usize..9, 1 => 9usize..71], rows in 1usize..150, cols in 1usize..150,
        options in 0u32..1024, seed: u64,
    ) {
        let format = &ir::quant::FORMATS[format];
        let cols = cols.next_multiple_of(format.block_len());
        Case::random(format.dtype(), [tokens, rows, cols], (FORMS[form], norm), options, seed).check();
    }
}

/// Every weight format with everything that there can be around its product, and with nothing.
#[test]
fn every_format_has_the_bits_of_the_chain() {
    for (i, format) in ir::quant::FORMATS.iter().enumerate() {
        for form in FORMS {
            let shape = [5, 83, 96usize.next_multiple_of(format.block_len())];
            for options in [0, 0xff + ((i as u32) << 8)] {
                Case::random(format.dtype(), shape, (form, 1 + i as u32 % 3), options, i as u64).check();
            }
        }
    }
}

#[test]
fn there_is_a_kernel_for_every_form_that_is_promised_and_no_other() {
    for &weights in DType::ALL {
        let format = ir::quant::format(weights);
        let exists = |form: &str| select(&format!("{weights}.{form}"), Isa::Portable).is_some();
        for form in &FORMS[..2] {
            assert_eq!(exists(form), format.is_some(), "{weights} {form}");
        }
        for form in &FORMS[2..] {
            assert_eq!(exists(form), format.is_some_and(|format| format.is_integer()), "{weights} {form}");
        }
        for form in ["f16", "q8x32.block", "q8x32.half", "f32.column", "f32."] {
            assert!(!exists(form), "{weights} {form}");
        }
    }
}

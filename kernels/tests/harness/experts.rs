//! Launches of `grouped_matmul`, `combine_down` and `gate_up`.

use ir::quant::activations;
use ir::types::DType;

use super::{Case, noise, random_weights};

/// Tokens, slots, matrices, rows, columns.
pub type Shape = [usize; 5];

/// Rows of x as the form has them in memory; a row does not depend on how many there are.
pub fn with_x(case: Case, field: &str, form: &str, rows: usize, cols: usize) -> Case {
    let row = |r: usize| noise(100 + r as u64, cols).into_iter().map(move |x| x * 1.7f32.powi(r as i32 % 9 - 4));
    let x: Vec<f32> = (0..rows).flat_map(row).collect();
    if form != "q8x32" {
        return case.input(field, &x);
    }
    let row_bytes = activations::row_bytes(cols as u64).unwrap() as usize;
    let mut bytes = vec![0u8; rows * row_bytes];
    for (row, out) in x.chunks_exact(cols).zip(bytes.chunks_exact_mut(row_bytes)) {
        activations::quantize_row(row, activations::Granularity::Block, out).unwrap();
    }
    case.input(field, &bytes)
}

/// Experts of pairs: some selected by many, some by none, one that does not exist at either end.
pub fn experts(pairs: usize, matrices: usize) -> Vec<i32> {
    let pick = |pair: usize| match pair * 7919 % 23 {
        0 => -1,
        1 => matrices as i32,
        2..=9 => 0,
        other => ((other * other + pair % 3) % matrices.max(2)) as i32 / 2 * 2,
    };
    (0..pairs).map(pick).collect()
}

pub fn counts(case: Case, [tokens, slots, matrices, rows, cols]: Shape) -> Case {
    case.count("tokens", tokens)
        .count("slots", slots)
        .count("matrices", matrices)
        .count("rows", rows)
        .count("cols", cols)
}

/// What a result may differ by: the order of f32 sums, and with 8 bits what f32 sums of exact integers round.
pub fn limit(form: &str) -> f64 {
    if matches!(form, "f32" | "f32.half") { 5e-6 } else { 2e-5 }
}

pub fn grouped_matmul((dtype, form): (DType, &str), shape: Shape, [listed, shared, biased]: [bool; 3]) -> Case {
    let [tokens, slots, matrices, rows, cols] = shape;
    let case = Case::new("grouped_matmul", &format!("{}.{form}", dtype.name()))
        .weights("w", dtype, [matrices, rows, cols], &random_weights(3, dtype, [matrices, rows, cols]))
        .output::<f32>("out", tokens * slots * rows)
        .count("slots_share_x", shared.into());
    let case = with_x(counts(case, shape), "x", form, if shared { tokens } else { tokens * slots }, cols);
    let case = if listed { case.input("experts", &experts(tokens * slots, matrices)) } else { case };
    if biased { case.input("bias", &noise(5, matrices * rows)) } else { case }
}

pub fn combine_down((dtype, form): (DType, &str), shape: Shape, [biased, residual, squares]: [bool; 3]) -> Case {
    let [tokens, slots, matrices, rows, cols] = shape;
    let case = Case::new("combine_down", &format!("{}.{form}", dtype.name()))
        .weights("w", dtype, [matrices, rows, cols], &random_weights(3, dtype, [matrices, rows, cols]))
        .input("experts", &experts(tokens * slots, matrices))
        .input("weights", &noise(6, tokens * slots))
        .number("factor", if residual { 0.75 } else { 1.0 });
    let mut case = with_x(counts(case, shape), "h", form, tokens * slots, cols);
    if biased {
        case = case.input("bias", &noise(5, matrices * rows));
    }
    if squares {
        case = case.output::<f32>("squares", tokens * rows.div_ceil(16));
    }
    if residual {
        return case.update("out", &noise(8, tokens * rows)).alias("residual", "out");
    }
    case.output::<f32>("out", tokens * rows)
}

/// How `gate_up` finds its experts and what it does beside.
#[derive(Clone, Copy)]
pub struct GateUp {
    pub types: (DType, &'static str),
    pub shape: Shape,
    pub routing: usize,
    pub activation: usize,
    pub norm: usize,
    pub shared: bool,
    pub squares: bool,
    pub biased: bool,
    /// Columns whose partial sums make the logits, or logits as they are.
    pub route_width: Option<usize>,
    pub scoring: usize,
}

pub const PLAIN: GateUp = GateUp {
    types: (DType::Q4G64, "f32"),
    shape: [1, 2, 4, 40, 320],
    routing: 0,
    activation: 0,
    norm: 0,
    shared: true,
    squares: false,
    biased: false,
    route_width: None,
    scoring: 0,
};

impl GateUp {
    pub fn case(&self) -> Case {
        let ([tokens, slots, matrices, rows, cols], (dtype, form)) = (self.shape, self.types);
        let stack = |seed| random_weights(seed, dtype, [matrices, rows, cols]);
        let case = Case::new("gate_up", &format!("{}.{form}", dtype.name()))
            .weights("w_gate", dtype, [matrices, rows, cols], &stack(3))
            .weights("w_up", dtype, [matrices, rows, cols], &stack(4))
            .output::<f32>("out", tokens * slots * rows)
            .count("slots_share_x", self.shared.into())
            .count("routing", self.routing)
            .count("activation", self.activation)
            .count("norm", self.norm)
            .number("eps", 1e-5)
            .number("norm_eps", 1e-6)
            .number("limit", 3.0);
        let mut case =
            with_x(counts(case, self.shape), "x", form, if self.shared { tokens } else { tokens * slots }, cols);
        if self.norm != 0 {
            case = case.input("norm_weight", &noise(9, cols));
        }
        if self.norm == 2 {
            case = case.input("norm_bias", &noise(10, cols));
        }
        if self.squares {
            case = case.input("squares", &squares(11, tokens, cols));
        }
        if self.biased {
            case = case.input("gate_bias", &noise(12, matrices * rows)).input("up_bias", &noise(13, matrices * rows));
        }
        match self.routing {
            0 => case,
            1 => case.input("experts", &experts(tokens * slots, matrices)),
            _ => self.routed(case),
        }
    }

    fn routed(&self, case: Case) -> Case {
        let [tokens, slots, matrices, ..] = self.shape;
        let case = case
            .output::<i32>("experts_out", tokens * slots)
            .output::<f32>("weights_out", tokens * slots)
            .input("correction", &noise(14, matrices))
            .count("scoring", self.scoring)
            .count("groups", 2)
            .count("top_groups", 1)
            .count("renormalise", 1)
            .number("route_eps", 1e-5)
            .number("scale", 2.0)
            .number("jitter", 0.01);
        let Some(width) = self.route_width else { return case.input("logits", &per_token(15, tokens, matrices)) };
        case.input("route_partials", &per_token(16, tokens, width.div_ceil(16) * matrices))
            .input("route_squares", &squares(17, tokens, width))
            .input("route_bias", &noise(18, matrices))
            .count("route_width", width)
    }
}

/// Rows of noise that do not depend on how many there are.
pub fn per_token(seed: u64, tokens: usize, cols: usize) -> Vec<f32> {
    (0..tokens).flat_map(|t| noise(seed + 1000 * t as u64, cols)).collect()
}

pub fn squares(seed: u64, tokens: usize, cols: usize) -> Vec<f32> {
    per_token(seed, tokens, cols.div_ceil(16)).iter().map(|x| x * x + 0.1).collect()
}

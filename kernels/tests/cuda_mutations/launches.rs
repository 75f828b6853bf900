//! The launches that bugs are seeded in.

use ir::types::DType;

use super::harness::{Case, attention, experts, products, qkv, route, rows};

/// A launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    ProjectFew,
    ProjectOdd,
    ProjectFull,
    MatmulFew,
    MatmulMany,
    GateUpFew,
    GateUpMany,
    GroupedMany,
    DownFew,
    DownMany,
    Segments,
    ScaledSegments,
    Tiles,
    QkvFew,
    QkvMany,
    Route,
    Router,
    RmsNorm,
    LayerNorm,
    SquareSums,
    ScaleRows,
    Embedding,
    Concat,
    KvAppend,
}

use On::*;

pub const ALL: &[On] = &[
    ProjectFew,
    ProjectOdd,
    ProjectFull,
    MatmulFew,
    MatmulMany,
    GateUpFew,
    GateUpMany,
    GroupedMany,
    DownFew,
    DownMany,
    Segments,
    ScaledSegments,
    Tiles,
    QkvFew,
    QkvMany,
    Route,
    Router,
    RmsNorm,
    LayerNorm,
    SquareSums,
    ScaleRows,
    Embedding,
    Concat,
    KvAppend,
];

impl On {
    /// Small, but with what mutations need: several blocks, and tails of rows, columns and tokens.
    pub fn case(self) -> Case {
        match self {
            ProjectFew => products::product("project", DType::Q4G64, "f32", [3, 40, 320]).number("factor", 1.0),
            ProjectOdd => products::product("project", DType::F16, "f32.half", [3, 40, 70]).number("factor", 1.0),
            ProjectFull => products::full(DType::Q4_0, "f32", [2, 40, 96], 1, 0),
            MatmulFew => products::product("matmul", DType::Q4G64, "f32", [3, 40, 320]),
            MatmulMany => products::product("matmul", DType::Q4G64, "f32", [66, 40, 640]),
            GateUpFew => routed(2).case(),
            GateUpMany => routed(20).case(),
            GroupedMany => experts::grouped_matmul(PAIRS, [40, 4, 40, 20, 128], [true, true, false]),
            DownFew => experts::combine_down(PAIRS, [3, 4, 4, 40, 128], [true, true, true]),
            DownMany => experts::combine_down(PAIRS, [20, 4, 4, 40, 128], [true, true, true]),
            Segments => {
                let setting = attention::Setting { window: 400, ..attention::plain("f16", 4, 2, 64) };
                setting.case(&[600, 5], &[attention::run(0, 599, 1), attention::run(1, 3, 2)].concat())
            }
            ScaledSegments => {
                let tokens = [attention::run(0, 599, 1), attention::run(1, 3, 2)].concat();
                attention::plain("int8", 4, 2, 64).case(&[600, 5], &tokens)
            }
            Tiles => {
                let runs = [(0, 3, 3), (1, 60, 10), (2, 5, 1), (3, 0, 1), (4, 70, 19)];
                let tokens = runs.map(|(sequence, first, count)| attention::run(sequence, first, count)).concat();
                attention::plain("f16", 1, 64, 8).case(&[6, 70, 6, 1, 89], &tokens)
            }
            QkvFew => heads(2).case(),
            QkvMany => heads(20).case(),
            Route => route::route(&routing(), Some(300)),
            Router => route::router(&routing()),
            RmsNorm => rows::rms_norm(),
            LayerNorm => rows::layer_norm(),
            SquareSums => rows::square_sums(),
            ScaleRows => rows::scale_rows(),
            Embedding => rows::embedding(DType::Q4_0, 64),
            Concat => rows::concat(),
            KvAppend => rows::kv_append("f32"),
        }
    }
}

/// Weights and x of launches of (token, slot) pairs.
const PAIRS: (DType, &str) = (DType::Q4G64, "f32");

/// A launch that selects its experts itself.
fn routed(tokens: usize) -> experts::GateUp {
    let shape = [tokens, 3, 8, 40, 320];
    let norm = 2;
    experts::GateUp { types: PAIRS, shape, routing: 2, norm, squares: true, route_width: Some(320), ..experts::PLAIN }
}

/// Heads of several blocks each, with everything that can become of a head.
fn heads(tokens: usize) -> qkv::Shape {
    qkv::Shape { tokens, head_dim: 48, head_norms: true, biased: true, cache: "f32", weights: DType::F16, ..qkv::PLAIN }
}

fn routing() -> route::Routing {
    let [corrected, renormalise] = [true; 2];
    let (scoring, groups) = ("sigmoid", [3, 2]);
    route::Routing { scoring, tokens: 3, experts: 70, slots: 4, groups, corrected, renormalise, jitter: 0.0, seed: 1 }
}

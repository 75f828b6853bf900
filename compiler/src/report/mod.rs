//! The page that shows what was compiled: one file of HTML and SVG that needs nothing but a browser, not even a network.
//!
//! The markup is made with `maud`, whose templates escape every value, so that no name of a model or tensor can become markup.

mod costs;
mod graph_svg;
mod kernels;
mod layer;
mod layout;
mod page;
mod plots;
mod simulation;

use ir::graph::Graph;
use ir::program::Program;
use runtime::artifact::ModelCard;

use crate::pipeline::CompileOptions;
pub use costs::launches_per_layer;
pub use kernels::{KernelRow, kernel_rows, kernel_table};
pub use page::page;
pub use simulation::simulation_page;

/// What a page is about.
pub struct Subject<'a> {
    /// The model.
    pub card: &'a ModelCard,
    /// Its graph, weights in the formats they are stored in, before fusion.
    pub graph: &'a Graph,
    /// The graph of each bucket, as lowered; empty where the compilation began after fusion.
    pub fused: &'a [Graph],
    /// The program of each bucket.
    pub programs: &'a [Program],
    /// What the compilation was told.
    pub options: &'a CompileOptions,
}

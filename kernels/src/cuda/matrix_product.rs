//! Launches of the products of one matrix: `matmul` and `project`. Mirrors `matrix_product.cuh`.

use super::product::{MANY_TILES, THREADS, Variant};
use super::{COUNTER_BYTES, Constraint, CudaLaunch, Define};
use crate::abi::{MatmulParams, ProjectParams};
use crate::cuda::{CudaKernel, cuda_kernel};

pub static MATMUL: CudaKernel = cuda_kernel!(
    "matmul", "matmul.cu", MatmulParams,
    specialise: |variant, p| Shape::new(p.tokens, p.rows, p.cols).defines("matmul", variant),
    launches: |variant, p| Shape::new(p.tokens, p.rows, p.cols)
        .launches(variant, ["matmul_few", "matmul_prepare", "matmul_many"]),
    workspace: |variant, p| Shape::new(p.tokens, p.rows, p.cols).workspace_bytes(variant),
);

pub static PROJECT: CudaKernel = cuda_kernel!(
    "project", "project.cu", ProjectParams,
    specialise: |variant, p| Shape::new(p.tokens, p.rows, p.cols).defines("project", variant),
    launches: |variant, p| Shape::new(p.tokens, p.rows, p.cols)
        .launches(variant, ["project_few", "project_prepare", "project_many"]),
    workspace: |variant, p| Shape::new(p.tokens, p.rows, p.cols).workspace_bytes(variant),
);

/// Blocks of the few-token path that a matrix is cut into before a block gets a second row tile: each prepares x for itself.
const FEW_BLOCKS: u32 = 1024;

/// Most row tiles of such a block.
const MOST_TILES: u32 = 8;

/// Most blocks of a grid's second dimension.
const MOST_TOKEN_BLOCKS: u32 = u16::MAX as u32;

/// The counts of a launch.
struct Shape {
    tokens: u32,
    rows: u32,
    cols: u32,
}

impl Shape {
    fn new(tokens: u32, rows: u32, cols: u32) -> Shape {
        Shape { tokens, rows, cols }
    }

    /// The constants of a variant that takes the shape.
    fn defines(&self, kernel: &'static str, variant: &str) -> Result<Vec<Define>, Constraint> {
        let product = Variant::of(kernel, variant)?;
        let most = MOST_TOKEN_BLOCKS * product.many_tokens();
        if self.tokens > most {
            let message = format!("{} tokens are more than {most}: launch fewer at a time", self.tokens);
            return Err(Constraint { kernel, variant: variant.into(), message });
        }
        let mut defines = product.defines();
        defines.push(Define::new("COUNTER_BYTES", COUNTER_BYTES));
        Ok(defines)
    }

    /// The few-token launch, or that which prepares x and that which multiplies many.
    fn launches(&self, variant: &str, [few, prepare, many]: [&'static str; 3]) -> Vec<CudaLaunch> {
        let Some(product) = Variant::parse(variant).filter(|_| self.tokens > 0 && self.rows > 0) else {
            return Vec::new();
        };
        let (threads, tiles) = (THREADS, self.rows.div_ceil(16));
        if product.takes_few(self.tokens, self.cols, 1) {
            let wanted = tiles.div_ceil(FEW_BLOCKS).min(MOST_TILES);
            let each = (1..=wanted).rev().find(|each| product.takes_few(self.tokens, self.cols, *each)).unwrap_or(1);
            let shared_bytes = product.few_bytes(self.tokens, self.cols, each) as u32;
            return vec![CudaLaunch { entry: few, grid: [tiles.div_ceil(each), 1, 1], threads, shared_bytes }];
        }
        let block = product.many_tokens();
        vec![
            CudaLaunch { entry: prepare, grid: [self.tokens, 1, 1], threads, shared_bytes: 0 },
            CudaLaunch {
                entry: many,
                grid: [tiles.div_ceil(MANY_TILES), self.tokens.div_ceil(block), 1],
                threads,
                shared_bytes: product.many_bytes(block),
            },
        ]
    }

    /// Room for the prepared rows of the many-token path. That of fewer tokens is less.
    fn workspace_bytes(&self, variant: &str) -> u64 {
        match Variant::parse(variant) {
            Some(product) if !product.takes_few(self.tokens, self.cols, 1) => {
                u64::from(COUNTER_BYTES) + product.prepared_bytes(self.tokens.into(), self.cols)
            }
            _ => 0,
        }
    }
}

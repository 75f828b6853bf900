//! What a weight will be, from headers alone: its format, whether shapes fit, in which order its columns stand.

use std::cell::RefCell;
use std::collections::HashMap;

use ir::types::DType;

use super::MatrixSource;
use super::assumed::AssumedFormats;
use super::columnwise::column_order;
use super::scheme::Scheme;
use super::stored::{Stored, find};
use crate::ModelError;
use crate::source::Checkpoint;

/// Looks modules up in a checkpoint.
#[derive(Debug)]
pub struct Resolver<'a> {
    checkpoint: &'a Checkpoint,
    scheme: Scheme,
    /// What takes the place of headers in a checkpoint that is a configuration alone.
    assumed: Option<AssumedFormats>,
    /// Modules found before: experts of a fused tensor, parts of a fused projection and many heads ask for one.
    found: RefCell<HashMap<String, Stored>>,
    orders: RefCell<Orders>,
}

/// Column orders seen before. Modules that read the same input have the same one, which then goes by the name of the first.
#[derive(Debug, Default)]
struct Orders {
    of_module: HashMap<String, Option<String>>,
    first_module: HashMap<blake3::Hash, String>,
}

/// A matrix that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedMatrix {
    /// The format of its rows.
    pub dtype: DType,
    /// The module whose column order its columns have, if that is not the input's: the same for all of one order.
    pub column_order: Option<String>,
}

/// The column orders of a stack of matrices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StackOrder {
    /// All have their columns in the order of the input.
    None,
    /// All have the order of this module.
    Shared(String),
    /// Each has its own.
    PerExpert,
}

impl<'a> Resolver<'a> {
    /// Reads the checkpoint's quantisation scheme.
    ///
    /// # Errors
    /// A `quantization_config` of an unknown method or with settings that are not supported, by field.
    pub fn new(checkpoint: &'a Checkpoint) -> Result<Resolver<'a>, ModelError> {
        let scheme = Scheme::of(checkpoint)?;
        Ok(Resolver {
            checkpoint,
            scheme,
            assumed: AssumedFormats::of(checkpoint, scheme)?,
            found: RefCell::default(),
            orders: RefCell::default(),
        })
    }

    /// Whether the checkpoint has a module, in any form, or a bare tensor of that name.
    pub fn has(&self, module: &str) -> bool {
        if let Some(assumed) = &self.assumed {
            return assumed.has(module);
        }
        const SUFFIXES: [&str; 5] = ["", ".weight", ".qweight", ".weight_packed", "_blocks"];
        SUFFIXES.iter().any(|suffix| self.checkpoint.find(&format!("{module}{suffix}")).is_some())
    }

    /// How a module's matrix is stored.
    pub(super) fn stored(&self, module: &str) -> Result<Stored, ModelError> {
        if let Some(stored) = self.found.borrow().get(module) {
            return Ok(stored.clone());
        }
        let stored = find(self.checkpoint, self.scheme, module)?;
        self.found.borrow_mut().insert(module.into(), stored.clone());
        Ok(stored)
    }

    /// Checks that a source gives a matrix `[rows, cols]`; nothing large is read.
    ///
    /// # Errors
    /// Tensors that are missing or of another shape or type.
    pub fn matrix(&self, source: &MatrixSource, rows: u64, cols: u64) -> Result<ResolvedMatrix, ModelError> {
        if let Some(assumed) = &self.assumed {
            // The columns of a transpose are rows of what is stored.
            let stored_cols = if source.transposed { rows } else { cols };
            let dtype = output_format(source, assumed.dtype(&source.module, stored_cols));
            return Ok(ResolvedMatrix { dtype, column_order: None });
        }
        let stored = self.stored(&source.module)?;
        self.check_shape(source, &stored, rows, cols)?;
        // A transpose has its columns put back: they are its rows.
        let column_order = if source.transposed { None } else { self.column_order(&source.module, &stored)? };
        Ok(ResolvedMatrix { dtype: output_dtype(source, &stored), column_order })
    }

    /// The first module of the same column order, if that is not the input's.
    fn column_order(&self, module: &str, stored: &Stored) -> Result<Option<String>, ModelError> {
        if let Some(order) = self.orders.borrow().of_module.get(module) {
            return Ok(order.clone());
        }
        let order = column_order(self.checkpoint, module, stored)?;
        let mut orders = self.orders.borrow_mut();
        let name = order.map(|columns| {
            let mut hasher = blake3::Hasher::new();
            for column in columns {
                hasher.update(&column.to_le_bytes());
            }
            orders.first_module.entry(hasher.finalize()).or_insert_with(|| module.into()).clone()
        });
        orders.of_module.insert(module.into(), name.clone());
        Ok(name)
    }

    fn check_shape(&self, source: &MatrixSource, stored: &Stored, rows: u64, cols: u64) -> Result<(), ModelError> {
        if source.transposed && source.expert.is_none() && source.rows.rows_in_run() != Some(cols) {
            let problem = format!("the rows to transpose must be {cols} that follow each other");
            return Err(ModelError::tensor(self.checkpoint.path(), &source.module, problem));
        }
        let exact = source.rows.is_all();
        let last = source.rows.last(rows);
        let fits = |length: u64| if exact { length == rows } else { last < length };
        let expected_rows = if exact { rows } else { last.saturating_add(1) };
        let (shape_fits, expected) = match (source.transposed, source.expert) {
            (false, _) => (fits(stored.rows) && stored.cols == cols, [expected_rows, cols]),
            (true, Some(_)) => (fits(stored.cols) && stored.rows == cols, [cols, expected_rows]),
            (true, None) => {
                let last = source.rows.last(cols);
                (last < stored.rows && stored.cols == rows, [last.saturating_add(1), rows])
            }
        };
        let expert_fits = match (source.expert, stored.matrices) {
            (Some(expert), Some(matrices)) => expert < matrices,
            (None, None) => true,
            _ => false,
        };
        if shape_fits && expert_fits {
            return Ok(());
        }
        let leading = source.expert.map(|e| e + 1);
        let with = |leading: Option<u64>, rest: [u64; 2]| leading.into_iter().chain(rest).collect::<Vec<_>>();
        Err(ModelError::TensorShape {
            file: self.checkpoint.path().to_path_buf(),
            tensor: source.module.clone(),
            expected: with(leading, expected),
            found: with(stored.matrices, [stored.rows, stored.cols]),
        })
    }

    /// Checks that sources give matrices `[rows, cols]` of one format.
    ///
    /// # Errors
    /// As [`Resolver::matrix`], or a matrix of another format than the first, by name.
    pub fn stack(&self, sources: &[MatrixSource], rows: u64, cols: u64) -> Result<(DType, StackOrder), ModelError> {
        let resolved = sources.iter().map(|s| self.matrix(s, rows, cols)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = resolved.first() else { return Ok((DType::F32, StackOrder::None)) };
        if let Some(i) = resolved.iter().position(|r| r.dtype != first.dtype) {
            let problem = format!(
                "stored as {}, but {} as {}; the experts of a layer must have one format",
                resolved[i].dtype, sources[0].module, first.dtype
            );
            return Err(ModelError::tensor(self.checkpoint.path(), &sources[i].module, problem));
        }
        let order = match &first.column_order {
            shared if resolved.iter().any(|r| r.column_order != *shared) => StackOrder::PerExpert,
            Some(module) => StackOrder::Shared(module.clone()),
            None => StackOrder::None,
        };
        Ok((first.dtype, order))
    }
}

/// The format a source's rows are given in: the stored one, but for transposes of what is stored in blocks.
pub(super) fn output_dtype(source: &MatrixSource, stored: &Stored) -> DType {
    output_format(source, stored.dtype)
}

fn output_format(source: &MatrixSource, stored: DType) -> DType {
    if source.transposed && stored.is_block() { DType::F32 } else { stored }
}

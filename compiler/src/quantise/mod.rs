//! Quantisation: which numbers are stored and multiplied in how many bits.
//!
//! [`assign`](assign::assign) decides, weight by weight, and is pure. Packaging then asks a [`WeightRows`] for bytes: either
//! read, and where asked rounded, on the way ([`StreamedRows`](rows::StreamedRows)), or taken from what a calibration worked
//! out before ([`CalibratedRows`](rows::CalibratedRows)).

pub mod activations;
pub mod assign;
mod awq;
pub mod calibrate;
mod error;
pub mod gptq;
pub mod layer;
pub mod levels;
pub mod matrix;
pub mod options;
pub mod rounding;
pub mod rows;
pub mod statistics;
pub mod windows;

#[cfg(test)]
mod tests;

pub use error::QuantiseError;

/// Gives the bytes of weights in the format their node has, in any order of weights.
pub trait WeightRows {
    /// Replaces `out` by rows `first..first + count` of matrix `matrix` of a weight (0 for one of rank 2), row-major, in its
    /// format.
    ///
    /// # Errors
    /// A weight that cannot be read or rounded.
    fn rows(
        &mut self,
        weight: &str,
        matrix: u64,
        first: u64,
        count: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), QuantiseError>;

    /// Replaces `out` by a plain tensor: f32 values or i32 orders, little-endian.
    ///
    /// # Errors
    /// A weight that cannot be read.
    fn plain(&mut self, weight: &str, out: &mut Vec<u8>) -> Result<(), QuantiseError>;
}

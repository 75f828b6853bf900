//! Quantisation: which numbers are stored and multiplied in how many bits.

pub mod activations;

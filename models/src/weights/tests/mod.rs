//! Tests of weights against definitions written from the formats' descriptions, value by value, with none of the code under test.

mod errors;
mod fixtures;
mod float8;
mod four_bits;
mod selections;
mod support;
mod ternary;

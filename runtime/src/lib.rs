//! The runtime: loads an artifact and generates tokens with it. It knows neither the compiler nor the models.

pub mod artifact;
pub mod sample;
pub mod text;

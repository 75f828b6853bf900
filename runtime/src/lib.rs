//! The runtime: loads an artifact and generates tokens with it. It knows neither the compiler nor the models.

pub mod artifact;
pub mod byte_size;
pub mod cache;
pub mod calibrate;
pub mod cli;
pub mod constrain;
pub mod device;
pub mod energy;
pub mod engine;
pub mod kv;
pub mod memory;
pub mod sample;
pub mod scheduler;
pub mod server;
pub mod serving;
#[cfg(test)]
mod testing;
pub mod text;

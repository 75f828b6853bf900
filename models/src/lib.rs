//! Checkpoints to graphs: reads Hugging Face folders and GGUF files, extracts tokenizer and chat template.
//!
//! Weights are read tensor by tensor with positioned reads, never mapped or loaded whole, so that compiling needs far
//! less memory than the checkpoint has bytes. Nothing a file says is trusted: each length is checked against the
//! file's size before anything is allocated, and each error names the file and field.

pub mod chat_template;
pub mod config;
mod decoder;
mod error;
pub mod generation;
pub mod hyperparameters;
mod import;
mod llama;
mod mistral;
mod names;
mod qwen2;
mod qwen3;
pub mod registry;
pub mod rope;
pub mod source;
pub mod tokenizer;

pub use error::ModelError;
pub use import::{ImportOptions, Model, hyperparameters, import};
pub use source::{Checkpoint, Metadata, TensorDType, TensorInfo};

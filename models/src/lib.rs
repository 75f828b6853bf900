//! Checkpoints to graphs: reads Hugging Face folders and GGUF files, extracts tokenizer and chat template.
//!
//! Weights are read tensor by tensor with positioned reads, never mapped or loaded whole, so that compiling needs far
//! less memory than the checkpoint has bytes. Nothing a file says is trusted: each length is checked against the
//! file's size before anything is allocated, and each error names the file and field.

mod bitnet;
pub mod chat_template;
pub mod config;
mod decoder;
mod deepseek;
mod error;
mod gemma2;
mod gemma3;
pub mod generation;
mod gpt_oss;
mod granitemoe;
pub mod hyperparameters;
mod import;
mod llama;
mod mistral;
mod mixtral;
mod names;
mod olmoe;
mod phi3;
mod phimoe;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
pub mod registry;
pub mod rope;
pub mod source;
pub mod synth;
pub mod tokenizer;
pub mod weights;

pub use error::ModelError;
pub use import::{ImportOptions, Model, hyperparameters, import};
pub use source::{Checkpoint, Metadata, TensorDType, TensorInfo};

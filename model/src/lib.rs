//! C2LLM through libtorch: token ids in, vectors out. It knows only numbers: no tokenizer, no storage, no network, no
//! asynchronous code. This crate is the one place that names libtorch.

mod batch;
mod c2llm;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
mod error;
mod ops;
mod pma;
mod qwen2;
mod torch;
mod weights;

pub use batch::{BUCKET, Batch, bucketed};
pub use c2llm::{Device, Model, Options};
pub use error::{BatchError, Error, Files, WeightsError};

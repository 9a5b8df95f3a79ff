//! The vocabulary of Gristmill: pure data that every other crate speaks. No I/O, no clock, no randomness.

mod config;
mod ids;
mod outcome;
mod plan;
mod prompt;
mod spec;

pub use config::{ConfigError, ModelConfig, ParsedConfig};
pub use ids::{BadId, Digest, Nonce, Slot};
pub use outcome::{Blame, DeadReason, Exit, Failure, Fatal};
pub use plan::{Pin, Plan, Segment, Segments, Shard};
pub use prompt::{PROMPTS, resolve_prompt};
pub use spec::{
    Compression, Compute, Device, Difference, JobSpec, Residual, Selection, SpecialTokens, TextSpec, UnknownName,
    VectorSpec, VectorType,
};

/// The version of every format that Gristmill stores. A reader refuses any other.
pub const FORMAT: u32 = 1;

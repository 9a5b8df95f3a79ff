//! What the pipeline asks of a model: token ids in, vectors out.

use std::path::PathBuf;

use gristmill_job::{Compute, Device, ModelConfig, VectorSpec};

/// Everything that an encoder is made from.
#[derive(Debug, Clone)]
pub struct EncoderSpec {
    /// The model's shape.
    pub config: ModelConfig,
    /// Its weight files.
    pub weights: Vec<PathBuf>,
    /// What the job asks of the vectors.
    pub vectors: VectorSpec,
    /// Where it runs.
    pub device: Device,
    /// Threads of the arithmetic.
    pub threads: usize,
}

/// Sequences that could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The batch needs more memory than the device has. A smaller one may fit.
    #[error("the device has too little memory: {0}")]
    OutOfMemory(String),
    /// The sequences themselves are at fault.
    #[error("the batch cannot be encoded: {0}")]
    Input(String),
    /// The model's files are not those of a model that can be computed.
    #[error("the model cannot be used: {0}")]
    Model(String),
    /// The device or its libraries; this process can encode nothing more.
    #[error("the device failed: {0}")]
    Device(String),
}

/// A model on a device. Lives on one thread.
pub trait Encoder {
    /// Encodes packed sequences: `ids` end to end, `lengths` of each, none zero. Returns the vectors row-major,
    /// sequences x width, normalised if the job says so.
    fn encode(&mut self, ids: &[u32], lengths: &[u32]) -> Result<Vec<f32>, EncodeError>;

    /// The same in a better arithmetic, for a vector that was not finite.
    fn encode_again(&mut self, ids: &[u32], lengths: &[u32]) -> Result<Vec<f32>, EncodeError>;

    /// How many tokens the device computes for a batch of so many.
    fn computed_tokens(&self, tokens: usize) -> usize;

    /// Encodes a known text and checks the answer: a death from now on may be the rows' doing.
    fn self_test(&mut self) -> Result<(), EncodeError>;
}

/// Makes the encoder, on the thread where it will live.
pub type MakeEncoder = fn(&EncoderSpec) -> Result<Box<dyn Encoder>, EncodeError>;

impl EncoderSpec {
    /// The same in float32.
    pub fn in_float32(&self) -> Self {
        let vectors = VectorSpec { compute: Compute::F32, ..self.vectors.clone() };
        EncoderSpec { vectors, ..self.clone() }
    }
}

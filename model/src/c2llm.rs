//! The model as a caller sees it: load it once, then turn batches of token ids into vectors.

use std::path::PathBuf;
use std::str::FromStr;

use gristmill_job::{Compute, ModelConfig, Residual};
use tch::{Kind, Tensor};

use crate::batch::{Batch, Packed};
use crate::error::Error;
use crate::ops::Place;
use crate::pma::Pma;
use crate::qwen2::Qwen2;
use crate::torch::{self, InferenceMode};
use crate::weights::Weights;

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    Cpu,
}

impl Device {
    fn tch(self) -> tch::Device {
        match self {
            Device::Cpu => tch::Device::Cpu,
        }
    }
}

impl From<gristmill_job::Device> for Device {
    /// What was asked for becomes what is there: the best device is the processor, as long as there is no other.
    fn from(asked: gristmill_job::Device) -> Self {
        match asked {
            gristmill_job::Device::Auto | gristmill_job::Device::Cpu => Device::Cpu,
        }
    }
}

impl FromStr for Device {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let asked = text.parse::<gristmill_job::Device>();
        asked.map(Device::from).map_err(|error| Error::Device(format!("no such device: {error}")))
    }
}

/// How a model computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The number type of the decoder. Pooling is always float32.
    pub compute: Compute,
    /// What pooling adds to the attended values.
    pub residual: Residual,
    /// Whether vectors are divided by their Euclidean norm.
    pub normalise: bool,
    /// Threads that one operation may use, for the whole process; 0 leaves libtorch's choice, one per core.
    pub threads: usize,
    /// Where.
    pub device: Device,
}

/// A loaded C2LLM: a Qwen2 decoder and its pooling. It may move to another thread, but is used by one at a time.
pub struct Model {
    decoder: Qwen2,
    pooling: Pma,
    config: ModelConfig,
    options: Options,
}

impl Model {
    /// Maps the safetensors `files` and builds the model that `config` describes.
    ///
    /// Weights stay in the map where they are stored as the decoder computes and need no fusing; the rest is converted
    /// tensor by tensor. The files must not be changed while the model lives.
    ///
    /// # Errors
    /// [`Error::Weights`] names the file and the tensor; [`Error::OutOfMemory`] and [`Error::Torch`] are libtorch's.
    pub fn load(config: &ModelConfig, files: &[PathBuf], options: &Options) -> Result<Model, Error> {
        if options.threads > 0 {
            torch::set_threads(options.threads)?;
        }
        let _inference = InferenceMode::begin()?;
        let device = options.device.tch();
        let kind = match options.compute {
            Compute::Bf16 => Kind::BFloat16,
            Compute::F32 => Kind::Float,
        };
        let mut weights = Weights::open(files)?;
        let decoder = Qwen2::load(&mut weights, config, Place { device, kind })?;
        let pooling = Pma::load(&mut weights, config, options.residual, device)?;
        weights.finish()?;
        Ok(Model { decoder, pooling, config: config.clone(), options: options.clone() })
    }

    /// Components of a vector.
    pub fn width(&self) -> usize {
        self.config.compressed_dim
    }

    /// The vectors of a batch's sequences: row-major [sequences, width], of unit Euclidean norm where the options say so.
    ///
    /// A sequence's vector does not depend on what else is in the batch, up to the rounding of differently shaped
    /// products.
    ///
    /// # Errors
    /// [`Error::Batch`] before anything is computed; [`Error::OutOfMemory`] where a smaller batch may fit.
    pub fn encode(&self, batch: &Batch) -> Result<Vec<f32>, Error> {
        batch.check(&self.config)?;
        if batch.lengths.is_empty() {
            return Ok(Vec::new());
        }
        let _inference = InferenceMode::begin()?;
        let packed = Packed::new(batch, self.options.device.tch())?;
        let hidden = self.decoder.forward(&packed)?; // [tokens, hidden]
        let mut vectors = self.pooling.forward(&hidden, &packed)?; // [sequences, width]
        if self.options.normalise {
            vectors = normalised(&vectors)?; // [sequences, width]
        }
        let mut numbers = vec![0.0; packed.sequences * self.width()];
        let count = numbers.len();
        vectors.f_copy_data(&mut numbers, count)?;
        Ok(numbers)
    }

    /// Encodes a known sequence, to find a device or weights that compute nonsense before any work is taken.
    ///
    /// # Errors
    /// [`Error::SelfTest`] when the vector is not finite, is zero, or has not the norm that the options ask for.
    pub fn self_test(&self) -> Result<(), Error> {
        let length = self.config.max_positions.min(48) as u32;
        let ids = (0..length).map(|n| (n * 7919 + 13) % self.config.vocab_size as u32).collect();
        let vector = self.encode(&Batch { ids, lengths: vec![length] })?;
        if let Some(bad) = vector.iter().find(|number| !number.is_finite()) {
            return Err(Error::SelfTest(format!("a vector holds {bad}")));
        }
        let norm = vector.iter().map(|&number| f64::from(number).powi(2)).sum::<f64>().sqrt();
        let right = if self.options.normalise { (norm - 1.0).abs() < 1e-3 } else { norm > 0.0 };
        if right { Ok(()) } else { Err(Error::SelfTest(format!("a vector has norm {norm}"))) }
    }
}

/// `x / max(|x|, 1e-12)` for every row of x: [rows, width].
fn normalised(x: &Tensor) -> Result<Tensor, Error> {
    let norms = x.f_norm_scalaropt_dim(2, [1i64], true)?.f_clamp_min(1e-12)?; // [rows, 1]
    Ok(x.f_div(&norms)?)
}

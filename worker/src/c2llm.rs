//! C2LLM as an encoder of the pipeline.

use gristmill_model::{Batch, Error, Model, Options, bucketed};

use crate::encoder::{EncodeError, Encoder, EncoderSpec};

/// The float32 twin is loaded only when a vector was not finite, which a healthy checkpoint never brings about.
struct C2llm {
    spec: EncoderSpec,
    model: Model,
    in_float32: Option<Model>,
}

/// Loads the model that `spec` describes.
pub fn make_c2llm(spec: &EncoderSpec) -> Result<Box<dyn Encoder>, EncodeError> {
    let model = load(spec)?;
    Ok(Box::new(C2llm { spec: spec.clone(), model, in_float32: None }))
}

fn load(spec: &EncoderSpec) -> Result<Model, EncodeError> {
    let options = Options {
        compute: spec.vectors.compute,
        residual: spec.vectors.residual,
        normalise: spec.vectors.normalised,
        threads: spec.threads,
        device: spec.device.into(),
    };
    let model = Model::load(&spec.config, &spec.weights, &options).map_err(of_model)?;
    if model.width() != spec.vectors.width as usize {
        let (found, wanted) = (model.width(), spec.vectors.width);
        return Err(EncodeError::Model(format!("its vectors have {found} components, the job's {wanted}")));
    }
    Ok(model)
}

fn of_model(error: Error) -> EncodeError {
    match error {
        Error::OutOfMemory(why) => EncodeError::OutOfMemory(why),
        Error::Weights(error) => EncodeError::Model(error.to_string()),
        Error::Batch(error) => EncodeError::Input(error.to_string()),
        error => EncodeError::Device(error.to_string()),
    }
}

fn encode(model: &Model, ids: &[u32], lengths: &[u32]) -> Result<Vec<f32>, EncodeError> {
    model.encode(&Batch { ids: ids.to_vec(), lengths: lengths.to_vec() }).map_err(of_model)
}

impl Encoder for C2llm {
    fn encode(&mut self, ids: &[u32], lengths: &[u32]) -> Result<Vec<f32>, EncodeError> {
        encode(&self.model, ids, lengths)
    }

    fn encode_again(&mut self, ids: &[u32], lengths: &[u32]) -> Result<Vec<f32>, EncodeError> {
        let model = match self.in_float32.take() {
            Some(model) => model,
            None => load(&self.spec.in_float32())?,
        };
        encode(self.in_float32.insert(model), ids, lengths)
    }

    fn computed_tokens(&self, tokens: usize) -> usize {
        bucketed(tokens)
    }

    fn self_test(&mut self) -> Result<(), EncodeError> {
        self.model.self_test().map_err(of_model)
    }
}

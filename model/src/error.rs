//! What can go wrong, told apart so that a caller can decide whose fault it is: weights are the input's, memory asks for
//! a smaller batch, a batch is the caller's, the rest is the device's or libtorch's.

use std::fmt;
use std::path::PathBuf;

/// A model that could not be loaded or could not encode.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint's weights do not make this model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A batch that no model could encode.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The device has too little memory; a smaller batch may fit.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// A device that is not there.
    #[error("{0}")]
    Device(String),
    /// The model is loaded but computes nonsense.
    #[error("the model's self-test failed: {0}; check the weights' digest and the device")]
    SelfTest(String),
    /// Any other failure inside libtorch, as it says it.
    #[error("libtorch: {0}")]
    Torch(String),
}

/// Weights that do not make the model that the config describes.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// No file was named.
    #[error("no weight file was given; a checkpoint holds at least one `*.safetensors`")]
    NoFile,
    /// A file that cannot be opened or mapped.
    #[error("cannot read {file}: {cause}", file = .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file that is not a whole safetensors file.
    #[error("{file} is truncated or corrupt ({cause}); fetch it again", file = .file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: safetensors::SafeTensorError,
    },
    /// A tensor that the model needs and no file holds.
    #[error("the weights lack the tensor `{tensor}`; read: {files}")]
    Missing {
        /// Its name.
        tensor: String,
        /// Where it was looked for.
        files: Files,
    },
    /// A tensor that the model has no place for.
    #[error("{file} holds the tensor `{tensor}`, which this model has no place for{others}; is the config this checkpoint's?", file = .file.display(), others = and_more(*.others))]
    Extra {
        /// Its name, as in the file.
        tensor: String,
        /// The file that holds it.
        file: PathBuf,
        /// How many more there are.
        others: usize,
    },
    /// A tensor that two files hold, or one file under two names.
    #[error("the tensor `{tensor}` is in {first} and again, as `{again}`, in {second}; remove one", first = .first.display(), second = .second.display())]
    Twice {
        /// Its name where it was met first.
        tensor: String,
        /// Where that was.
        first: PathBuf,
        /// Its name where it was met again.
        again: String,
        /// Where that was.
        second: PathBuf,
    },
    /// A tensor of another shape than the config says.
    #[error("the tensor `{tensor}` in {file} has shape {found:?}; the config asks for {expected:?}", file = .file.display())]
    Shape {
        /// Its name.
        tensor: String,
        /// The file that holds it.
        file: PathBuf,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that it should have.
        expected: Vec<usize>,
    },
    /// A tensor of a number type that is not built.
    #[error("the tensor `{tensor}` in {file} is {found}; supported: BF16, F16, F32", file = .file.display())]
    Dtype {
        /// Its name.
        tensor: String,
        /// The file that holds it.
        file: PathBuf,
        /// Its type, as safetensors spells it.
        found: String,
    },
}

/// A batch that no model could encode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The lengths do not cut the ids into sequences.
    #[error("a batch of {ids} token ids has lengths that add up to {lengths}")]
    Lengths {
        /// Token ids in the batch.
        ids: usize,
        /// Sum of the lengths.
        lengths: usize,
    },
    /// A sequence without a token has no vector.
    #[error("sequence {sequence} of the batch is empty; an empty text has no vector")]
    Empty {
        /// Which.
        sequence: usize,
    },
    /// A sequence that reaches beyond the rotary embedding.
    #[error("sequence {sequence} of the batch has {tokens} tokens; the model has {max_positions} positions")]
    TooLong {
        /// Which.
        sequence: usize,
        /// Its tokens.
        tokens: usize,
        /// The model's positions.
        max_positions: usize,
    },
    /// A token id beyond the embedding table.
    #[error(
        "the batch holds the token id {id}; the model's vocabulary has {vocab_size}: the tokenizer is not this model's"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// Rows of the embedding table.
        vocab_size: usize,
    },
}

/// File names for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files(pub Vec<PathBuf>);

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, file) in self.0.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, file.display())?;
        }
        Ok(())
    }
}

fn and_more(others: usize) -> String {
    if others == 0 { String::new() } else { format!(" (and {others} more like it)") }
}

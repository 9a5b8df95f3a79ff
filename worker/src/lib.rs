//! The worker: pulls shards from a coordinator, embeds their rows, and commits the parts to the store itself. One process
//! per device. `run` is the one seam for encoders: the binary brings C2LLM, the tests bring a stand-in.

mod agent;
mod args;
mod attempt;
mod c2llm;
mod device;
mod encoder;
mod job;
mod meter;
mod packing;
mod query;
mod read;
mod tokenize;
mod vectors;

pub use agent::run;
pub use args::{Args, Command, QueryArgs, WorkArgs};
pub use c2llm::make_c2llm;
pub use encoder::{EncodeError, Encoder, EncoderSpec, MakeEncoder};
pub use packing::pack;
pub use query::query;
pub use tokenize::{Tokenized, Tokenizer, TokenizerError};

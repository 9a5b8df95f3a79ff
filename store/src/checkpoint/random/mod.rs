//! Writes a random checkpoint in the published layout: for tests, for benchmarks, and for sizing a cluster before
//! anybody fetches 15 GB. The same shape, type and seed give the same tensors on every machine, however many files and
//! threads there are; float32 and bfloat16 of one seed are the same numbers, rounded.

mod shape;
mod tensors;
mod values;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::{CONFIG, Checkpoint, CheckpointError, INDEX, TOKENIZER, WEIGHTS, tokenizer_size};
pub use shape::{SHAPES, Shape};
use tensors::{Tensor, tensors};
use values::Stream;
pub use values::WeightType;

/// Values that one thread makes at a time.
const CHUNK_VALUES: usize = 1 << 20;

/// A random model, before it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomModel {
    /// Its sizes.
    pub shape: Shape,
    /// The number type of its tensors.
    pub dtype: WeightType,
    /// What its values are drawn from.
    pub seed: u64,
    /// How many safetensors files it is spread over. More than one have an index.
    pub files: usize,
}

impl RandomModel {
    /// Writes the model into `dir`, which is created, or empty. `config.json` comes last: what an interruption leaves is no
    /// model. Memory is bounded: no tensor is ever whole in it.
    ///
    /// # Errors
    /// [`CheckpointError::Sizes`] for sizes that fit no model, and whatever [`Checkpoint::open`] finds wrong with
    /// what was written: a tokenizer larger than the embedding table, say.
    pub fn write(&self, tokenizer: &[u8], dir: &Path) -> Result<Checkpoint, CheckpointError> {
        let config = self.shape.config_json(self.dtype);
        self.check(&config, tokenizer, dir)?;
        create_empty(dir)?;
        write(&dir.join(TOKENIZER), tokenizer)?;
        self.write_weights(dir)?;
        write(&dir.join(CONFIG), &config)?;
        Checkpoint::open(dir)
    }

    /// Everything that can be refused before the first byte is written.
    fn check(&self, config: &[u8], tokenizer: &[u8], dir: &Path) -> Result<(), CheckpointError> {
        let parsed = gristmill_job::ModelConfig::parse(config).map_err(CheckpointError::Sizes)?;
        let path = dir.join(TOKENIZER);
        let size =
            tokenizer_size(tokenizer).map_err(|source| CheckpointError::Tokenizer { path: path.clone(), source })?;
        if size > parsed.config.vocab_size {
            return Err(CheckpointError::TokenizerTooLarge { path, size, vocab_size: parsed.config.vocab_size });
        }
        let tensors = tensors(&self.shape).len();
        if self.files == 0 || self.files > tensors {
            return Err(CheckpointError::Files { files: self.files, tensors });
        }
        Ok(())
    }

    fn write_weights(&self, dir: &Path) -> Result<(), CheckpointError> {
        let groups = spread(tensors(&self.shape), self.files);
        let mut index = Index { metadata: Total { total_size: 0 }, weight_map: BTreeMap::new() };
        for (i, group) in groups.iter().enumerate() {
            let name = match self.files {
                1 => WEIGHTS.to_owned(),
                files => format!("model-{:05}-of-{files:05}.safetensors", i + 1),
            };
            self.write_file(&dir.join(&name), group)?;
            index.metadata.total_size += group.iter().map(|t| t.values() * self.dtype.bytes()).sum::<usize>();
            index.weight_map.extend(group.iter().map(|t| (t.name.clone(), name.clone())));
        }
        if self.files > 1 {
            let json = serde_json::to_vec_pretty(&index).expect("an index is plain data");
            write(&dir.join(INDEX), &json)?;
        }
        Ok(())
    }

    /// Writes one safetensors file: eight bytes with the header's length, the header, and the tensors end to end.
    fn write_file(&self, path: &Path, tensors: &[Tensor]) -> Result<(), CheckpointError> {
        let header = header(tensors, self.dtype);
        let file = File::create(path).map_err(|source| CheckpointError::io(path, source))?;
        let mut chunks = Vec::new();
        let mut offset = header.len();
        for tensor in tensors {
            for first in (0..tensor.values()).step_by(CHUNK_VALUES) {
                let values = CHUNK_VALUES.min(tensor.values() - first);
                chunks.push(Chunk { tensor, first, values, offset: (offset + first * self.dtype.bytes()) as u64 });
            }
            offset += tensor.values() * self.dtype.bytes();
        }
        let write = |buffer: &mut Vec<u8>, chunk: &Chunk<'_>| {
            buffer.clear();
            Stream::new(self.seed, chunk.tensor).append(chunk.first, chunk.values, self.dtype, buffer);
            file.write_all_at(buffer, chunk.offset)
        };
        file.write_all_at(&header, 0)
            .and_then(|()| chunks.par_iter().try_for_each_init(Vec::new, write))
            .map_err(|source| CheckpointError::io(path, source))
    }
}

/// A run of one tensor's values, and where in the file they belong.
struct Chunk<'a> {
    tensor: &'a Tensor,
    first: usize,
    values: usize,
    offset: u64,
}

/// `model.safetensors.index.json`, as Hugging Face writes it.
#[derive(Serialize)]
struct Index {
    metadata: Total,
    weight_map: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Total {
    total_size: usize,
}

/// The first bytes of a safetensors file: the header's length, and the header, padded with spaces so that the data is
/// aligned to eight bytes.
fn header(tensors: &[Tensor], dtype: WeightType) -> Vec<u8> {
    let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.values() * dtype.bytes();
        write!(
            json,
            r#","{}":{{"dtype":"{}","shape":{:?},"data_offsets":[{start},{end}]}}"#,
            tensor.name,
            dtype.safetensors(),
            tensor.shape
        )
        .expect("a string takes all");
        start = end;
    }
    json.push('}');
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}

/// Name and shape of every tensor of a shape.
#[cfg(test)]
pub(super) fn tensors_of(shape: &Shape) -> Vec<(String, Vec<usize>)> {
    tensors(shape).into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
}

/// Cuts the tensors into `files` runs of about the same size, none of them empty.
fn spread(mut tensors: Vec<Tensor>, files: usize) -> Vec<Vec<Tensor>> {
    let mut groups = Vec::with_capacity(files);
    for after in (1..files).rev() {
        let target = tensors.iter().map(Tensor::values).sum::<usize>() / (after + 1);
        let mut values = 0;
        let run = tensors.iter().take_while(|tensor| {
            let before = values;
            values += tensor.values();
            before < target
        });
        let run = run.count().clamp(1, tensors.len() - after);
        let rest = tensors.split_off(run);
        groups.push(std::mem::replace(&mut tensors, rest));
    }
    groups.push(tensors);
    groups
}

/// Makes `dir` a folder with nothing in it.
fn create_empty(dir: &Path) -> Result<(), CheckpointError> {
    let failed = |source| CheckpointError::io(dir, source);
    fs::create_dir_all(dir).map_err(failed)?;
    match fs::read_dir(dir).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(CheckpointError::NotEmpty(dir.to_owned())),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    fs::write(path, bytes).map_err(|source| CheckpointError::io(path, source))
}

//! A model folder: which files it is made of, and the digest that names it. Reads `config.json`, the tokenizer's size and
//! the names of the weight files; never a tensor.

mod error;
pub mod random;
mod tokenizer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use gristmill_job::{Digest, ModelConfig};
use serde::Deserialize;

pub use error::CheckpointError;
pub use tokenizer::{read_tokenizer, tokenizer_size};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model folder whose files are all there, whose config is supported and whose tokenizer fits the embedding table.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The folder.
    pub dir: PathBuf,
    /// The model's shape, from `config.json`.
    pub config: ModelConfig,
    /// Keys of `config.json` that have no meaning here: to be shown to a person, and recorded.
    pub unknown: Vec<String>,
    /// The tokenizer's file.
    pub tokenizer: PathBuf,
    /// One more than the tokenizer's largest token id.
    pub tokenizer_size: usize,
    /// The safetensors files, by name: `model.safetensors`, or else those that `model.safetensors.index.json` names.
    pub weights: Vec<PathBuf>,
}

impl Checkpoint {
    /// Looks into a folder in the published layout. Where both `model.safetensors` and an index lie, the single file is
    /// the model, as it is for `transformers`.
    ///
    /// # Errors
    /// Every [`CheckpointError`]: each names the file and what to do.
    pub fn open(dir: &Path) -> Result<Checkpoint, CheckpointError> {
        if !dir.is_dir() {
            return Err(CheckpointError::no_folder(dir));
        }
        let weights = weight_files(dir)?;
        let mut absent: Vec<String> =
            [CONFIG, TOKENIZER].into_iter().filter(|name| !dir.join(name).is_file()).map(str::to_owned).collect();
        if weights.is_empty() {
            absent.push(format!("{WEIGHTS} (or {INDEX})"));
        }
        absent.extend(weights.iter().filter(|name| !dir.join(name).is_file()).cloned());
        if !absent.is_empty() {
            return Err(CheckpointError::Missing { dir: dir.to_owned(), absent });
        }
        let (config, tokenizer) = (dir.join(CONFIG), dir.join(TOKENIZER));
        let parsed = ModelConfig::parse(&read(&config)?)
            .map_err(|source| CheckpointError::Config { path: config.clone(), source })?;
        let size = tokenizer_size(&read(&tokenizer)?)
            .map_err(|source| CheckpointError::Tokenizer { path: tokenizer.clone(), source })?;
        if size > parsed.config.vocab_size {
            return Err(CheckpointError::TokenizerTooLarge {
                path: tokenizer,
                size,
                vocab_size: parsed.config.vocab_size,
            });
        }
        Ok(Checkpoint {
            dir: dir.to_owned(),
            config: parsed.config,
            unknown: parsed.unknown,
            tokenizer,
            tokenizer_size: size,
            weights: weights.iter().map(|name| dir.join(name)).collect(),
        })
    }

    /// The model by content: the digest of what `b3sum config.json tokenizer.json` and the names of the weight files, in
    /// the order of [`Checkpoint::weights`], prints inside the folder. That is one line for each file, with its BLAKE3
    /// digest in hexadecimal, two spaces, its name and a newline. Files are mapped, and hashed by all threads.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] with the file that cannot be read.
    pub fn digest(&self) -> Result<Digest, CheckpointError> {
        let mut lines = String::new();
        for path in self.files() {
            let mut hasher = blake3::Hasher::new();
            hasher.update_mmap_rayon(&path).map_err(|source| CheckpointError::io(&path, source))?;
            let name = path.strip_prefix(&self.dir).expect("every file was found by its name in the folder");
            lines += &format!("{}  {}\n", hasher.finalize().to_hex(), name.display());
        }
        Ok(Digest::of(lines.as_bytes()))
    }

    /// Bytes in the config, the tokenizer and the weights.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] with the file that is gone.
    pub fn bytes(&self) -> Result<u64, CheckpointError> {
        let size = |path: PathBuf| fs::metadata(&path).map(|m| m.len()).map_err(|e| CheckpointError::io(&path, e));
        self.files().map(size).sum()
    }

    /// The files that the model is made of, in the order of its digest.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        [self.dir.join(CONFIG), self.tokenizer.clone()].into_iter().chain(self.weights.iter().cloned())
    }
}

/// The names of the weight files, sorted; none where the folder has neither `model.safetensors` nor an index.
fn weight_files(dir: &Path) -> Result<Vec<String>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = dir.join(INDEX);
    if dir.join(WEIGHTS).is_file() {
        return Ok(vec![WEIGHTS.to_owned()]);
    }
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let index: Index = serde_json::from_slice(&read(&path)?)
        .map_err(|source| CheckpointError::Index { path: path.clone(), source })?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    if files.is_empty() {
        return Err(CheckpointError::EmptyIndex { path });
    }
    if let Some(file) = files.iter().find(|name| !is_inside(name)) {
        return Err(CheckpointError::Outside { path, file: file.clone() });
    }
    Ok(files.into_iter().collect())
}

/// Whether a name from an index is the plain path of something inside the folder. Control characters are refused since
/// names stand in the lines of the digest.
fn is_inside(name: &str) -> bool {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    plain && !name.is_empty() && !name.chars().any(char::is_control)
}

fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    fs::read(path).map_err(|source| CheckpointError::io(path, source))
}

#[cfg(test)]
mod tests;

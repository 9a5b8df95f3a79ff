//! What can be wrong with a model folder.

use std::io;
use std::path::{Path, PathBuf};

use gristmill_job::ConfigError;

/// A model folder that cannot be used, or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// There is no such folder, and the name is one that can be downloaded.
    #[error(
        "there is no folder `{name}`; download the model with `hf download {repository} --local-dir {folder}` and name the folder `{folder}`"
    )]
    NotDownloaded {
        /// What was asked for.
        name: String,
        /// The model's name on the hub.
        repository: String,
        /// The folder that the command makes.
        folder: String,
    },
    /// There is no such folder.
    #[error("there is no folder `{}`; name a folder with config.json, tokenizer.json and safetensors files", .0.display())]
    NoFolder(PathBuf),
    /// A file stands where the folder should be.
    #[error("`{}` is not a folder; name the folder with config.json, tokenizer.json and safetensors files", .0.display())]
    NotAFolder(PathBuf),
    /// The folder is not complete.
    #[error("the model folder `{}` lacks {}; download it again", dir.display(), absent.join(", "))]
    Missing {
        /// The folder.
        dir: PathBuf,
        /// The files that should be in it.
        absent: Vec<String>,
    },
    /// The config cannot be used.
    #[error("`{}` cannot be used", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ConfigError,
    },
    /// Sizes that make no model.
    #[error("no model has these sizes")]
    Sizes(#[source] ConfigError),
    /// The index of the weights is not one.
    #[error("`{}` is not an index of safetensors files; download it again", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The index names no tensor.
    #[error("`{}` names no weights; download it again", path.display())]
    EmptyIndex {
        /// The file.
        path: PathBuf,
    },
    /// The index names a file outside of the folder.
    #[error("`{}` names `{file}`, which is not a file of its folder; such a model is not read", path.display())]
    Outside {
        /// The index.
        path: PathBuf,
        /// What it names.
        file: String,
    },
    /// The tokenizer is not one.
    #[error("`{}` is not a tokenizer in the format of Hugging Face", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The tokenizer can give ids that have no row in the embedding table.
    #[error(
        "the tokenizer `{}` has ids up to {}, but the embedding table has {vocab_size} rows; they are not of one model",
        path.display(), size - 1
    )]
    TokenizerTooLarge {
        /// The tokenizer's file.
        path: PathBuf,
        /// One more than its largest id.
        size: usize,
        /// Rows of the embedding table.
        vocab_size: usize,
    },
    /// A model cannot be written into so many files.
    #[error("{files} files cannot be filled: the model has {tensors} tensors, and every file needs one")]
    Files {
        /// Files asked for.
        files: usize,
        /// Tensors that there are.
        tensors: usize,
    },
    /// A model is not written among other files.
    #[error("the folder `{}` is not empty; name a new one, or empty it", .0.display())]
    NotEmpty(PathBuf),
    /// A file cannot be read or written.
    #[error("`{}` cannot be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl CheckpointError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        CheckpointError::Io { path: path.to_owned(), source }
    }

    /// What to say when `dir` is not a folder. A name of two plain words, or that of a published model, is taken for one
    /// that has yet to be downloaded.
    pub(super) fn no_folder(dir: &Path) -> Self {
        if dir.exists() {
            return CheckpointError::NotAFolder(dir.to_owned());
        }
        let name = dir.to_string_lossy().into_owned();
        let word = |w: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !w.is_empty() && !w.starts_with('.') && w.chars().all(plain)
        };
        match name.split('/').collect::<Vec<_>>()[..] {
            [owner, folder] if word(owner) && word(folder) => {
                CheckpointError::NotDownloaded { repository: name.clone(), folder: folder.to_owned(), name }
            }
            [folder @ ("C2LLM-0.5B" | "C2LLM-7B")] => CheckpointError::NotDownloaded {
                repository: format!("codefuse-ai/{folder}"),
                folder: folder.to_owned(),
                name,
            },
            _ => CheckpointError::NoFolder(dir.to_owned()),
        }
    }
}

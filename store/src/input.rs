//! Input objects: finding them, pinning them by their footers, and reading their rows as they were pinned.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::SchemaRef;
use gristmill_job::{Digest, Pin};
use object_store::ObjectMeta;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::location::{Location, OpenError};
use crate::outcome::StoreError;

mod rows;

pub use parquet::file::metadata::RowGroupMetaData as RowGroupFooter;
pub use rows::{Rows, RowsError};

/// An input that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Nothing matches.
    #[error("`{0}` matches no Parquet file")]
    NoMatch(String),
    /// Not a pattern.
    #[error("`{pattern}` is not a usable pattern: {why}")]
    BadPattern {
        /// What was asked for.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// Cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not Parquet, or broken.
    #[error("{object} is not a readable Parquet file: {why}")]
    NotParquet {
        /// Its URL.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// No longer what was pinned.
    #[error(
        "{object} has changed since the job was planned ({what}); restore it, or start a new job in another output"
    )]
    Changed {
        /// Its URL.
        object: String,
        /// In what.
        what: String,
    },
}

/// The local files that a pattern names: a file, a folder (every `*.parquet` below it, except below names that begin with
/// `_` or `.` and in outputs of Gristmill), or a glob. Sorted, and each once.
pub fn find(patterns: &[String]) -> Result<Vec<PathBuf>, InputError> {
    let mut found = Vec::new();
    for pattern in patterns {
        let before = found.len();
        let path = match url::Url::parse(pattern) {
            Ok(url) if url.scheme() == "file" => {
                url.to_file_path().map_err(|()| OpenError::BadPath(pattern.clone()))?
            }
            Ok(url) if pattern.contains("://") => {
                return Err(OpenError::Scheme { url: pattern.clone(), scheme: url.scheme().into() }.into());
            }
            _ => PathBuf::from(pattern),
        };
        if path.is_file() {
            found.push(path);
        } else if path.is_dir() {
            walk(&path, &mut found).map_err(|e| bad_pattern(pattern, &e))?;
        } else {
            for entry in glob::glob(pattern).map_err(|e| bad_pattern(pattern, &e))? {
                let path = entry.map_err(|e| bad_pattern(pattern, &e))?;
                if path.is_dir() {
                    walk(&path, &mut found).map_err(|e| bad_pattern(pattern, &e))?;
                } else {
                    found.push(path);
                }
            }
        }
        if found.len() == before {
            return Err(InputError::NoMatch(pattern.clone()));
        }
    }
    for path in &mut found {
        *path = path.canonicalize().map_err(|e| bad_pattern(&path.display().to_string(), &e))?;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn bad_pattern(pattern: &str, why: &dyn std::error::Error) -> InputError {
    InputError::BadPattern { pattern: pattern.to_owned(), why: why.to_string() }
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let hidden = name.as_encoded_bytes().first().is_some_and(|first| b"_.".contains(first));
        if hidden {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            // An output of ours is no corpus, unless it is named itself.
            if !path.join(crate::keys::JOB).exists() {
                walk(&path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.push(path);
        }
    }
    Ok(())
}

/// An input object with its footer: what planning and reading need to know of it.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its identity.
    pub pin: Pin,
    location: Location,
    metadata: ArrowReaderMetadata,
}

impl Object {
    /// Reads the footer of a local file and pins the file as it is now.
    pub async fn pin(path: &Path) -> Result<Self, InputError> {
        let location = Location::open_path(path)?;
        let missing = || StoreError::NotFound { object: location.url().to_owned() };
        let meta = location.head("").await?.ok_or_else(missing)?;
        Self::read_footer(location, &meta).await
    }

    /// Opens an object that was pinned earlier; an error if it is another one by now.
    pub async fn open(pin: &Pin) -> Result<Self, InputError> {
        let changed = |what: String| InputError::Changed { object: pin.object.clone(), what };
        let location = Location::open(&pin.object)?;
        let meta = location.head("").await?.ok_or_else(|| changed("it is gone".into()))?;
        compare(pin, &meta).map_err(changed)?;
        let object = Self::read_footer(location, &meta).await?;
        if object.pin.footer != pin.footer {
            return Err(changed("its footer is another".into()));
        }
        Ok(object)
    }

    async fn read_footer(location: Location, meta: &ObjectMeta) -> Result<Self, InputError> {
        let not_parquet = |why: String| InputError::NotParquet { object: location.url().to_owned(), why };
        if meta.size < 12 {
            return Err(not_parquet(format!("it has {} bytes", meta.size)));
        }
        let (tail, seen) = location.get_range("", meta.size - 8..meta.size, None).await?;
        if &tail[4..] != b"PAR1" {
            return Err(not_parquet("it does not end with PAR1; it may be truncated".into()));
        }
        let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
        let Some(start) = (meta.size - 8).checked_sub(length).filter(|start| *start >= 4) else {
            return Err(not_parquet(format!("its footer would have {length} bytes")));
        };
        let (bytes, _) = location.get_range("", start..meta.size - 8, None).await?;
        let parsed = ParquetMetaDataReader::decode_metadata(&bytes).map_err(|e| not_parquet(e.to_string()))?;
        let rows = total_rows(&parsed).ok_or_else(|| not_parquet("its footer counts rows below zero".into()))?;
        let metadata = ArrowReaderMetadata::try_new(Arc::new(parsed), ArrowReaderOptions::new())
            .map_err(|e| not_parquet(e.to_string()))?;
        let footer = Digest::of(&bytes);
        let modified_us = seen.last_modified.timestamp_micros();
        let pin = Pin {
            object: location.url().to_owned(),
            version: format!("{modified_us}-{}-{}", seen.size, footer.short()),
            size: seen.size,
            modified_us,
            // A local file's tag is its inode, time and size: weaker than what is pinned beside it.
            e_tag: None,
            footer,
            rows,
        };
        Ok(Object { pin, location, metadata })
    }

    /// The columns as Arrow types.
    pub fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// The Parquet footer.
    pub fn footer(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }
}

fn total_rows(metadata: &ParquetMetaData) -> Option<u64> {
    metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).ok()).sum()
}

/// What an answer of the store says of an object, against its pin.
fn compare(pin: &Pin, meta: &ObjectMeta) -> Result<(), String> {
    let modified_us = meta.last_modified.timestamp_micros();
    if meta.size != pin.size {
        return Err(format!("it has {} bytes and had {}", meta.size, pin.size));
    }
    if modified_us != pin.modified_us {
        return Err("it was modified since".into());
    }
    if pin.e_tag.is_some() && meta.e_tag != pin.e_tag {
        return Err("its entity tag is another".into());
    }
    Ok(())
}

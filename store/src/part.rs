//! Parts: the Parquet files of an output. A part's footer says what it covers, so that a listing and the footers are all
//! that recovery, seal and verify need.

use bytes::Bytes;
use gristmill_job::{Digest, Nonce, Segment, Slot};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use serde::{Deserialize, Serialize};

use crate::documents::{Child, DeadCounts, decode};
use crate::location::Location;
use crate::outcome::StoreError;

mod encode;
mod read;

pub use encode::{EncodeError, PartEncoder, Provenance};
pub use read::PartReader;

/// Name of the footer's key-value entry.
pub const FOOTER_KEY: &str = "gristmill";
/// How much of a part's end the first request for its footer asks for.
const TAIL_BYTES: u64 = 64 << 10;

/// What a part says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// Version of this format.
    pub format: u32,
    /// The job.
    pub job: Digest,
    /// The plan.
    pub plan: Digest,
    /// The model.
    pub model: Digest,
    /// The slot that this part fills.
    pub slot: Slot,
    /// Fresh for this set of bytes.
    pub nonce: Nonce,
    /// All rows of the slot.
    pub segments: Vec<Segment>,
    /// Those of them that this part covers, by a vector or a dead letter; the children cover the rest.
    pub covered: Vec<Segment>,
    /// The slots that the rest is left to.
    pub children: Vec<Child>,
    /// Rows in this part.
    pub rows: u64,
    /// Tokens of those rows.
    pub tokens: u64,
    /// Rows that it covers by dead letters.
    pub dead: Option<DeadFile>,
    /// Digest of the file's bytes up to the end of the last row group.
    pub body: Digest,
}

/// The dead-letter file that a part names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadFile {
    /// Key relative to the output's root.
    pub key: String,
    /// Rows by reason.
    pub rows: DeadCounts,
    /// Digest of the file.
    pub digest: Digest,
}

impl Footer {
    /// Rows that it covers by dead letters.
    pub fn dead_rows(&self) -> u64 {
        self.dead.iter().flat_map(|dead| dead.rows.values()).sum()
    }
}

/// A part with its footer as it stands in a store.
#[derive(Debug, Clone)]
pub struct StoredPart {
    /// What it says of itself.
    pub footer: Footer,
    /// Digest of its Parquet footer.
    pub footer_digest: Digest,
    /// Bytes of the whole file.
    pub size: u64,
    /// The Parquet footer.
    pub metadata: ParquetMetaData,
}

/// Reads the footer of the part under `key`, which has `size` bytes; with a size of `None` the store is asked first.
pub async fn read_footer(out: &Location, key: &str, size: Option<u64>) -> Result<Option<StoredPart>, StoreError> {
    let size = match size {
        Some(size) => size,
        None => match out.head(key).await? {
            Some(meta) => meta.size,
            None => return Ok(None),
        },
    };
    let object = out.describe(key);
    let malformed = |why: &str| StoreError::Malformed { object: object.clone(), why: why.to_owned() };
    if size < 12 {
        return Err(malformed("it is too short to be a part"));
    }
    let from = size.saturating_sub(TAIL_BYTES);
    let mut tail = match out.get_range(key, from..size, None).await {
        Ok((bytes, _)) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = footer_length(&tail).ok_or_else(|| malformed("it does not end as Parquet does"))?;
    if length + 12 > size {
        return Err(malformed("its footer is longer than the file"));
    }
    if length + 8 > tail.len() as u64 {
        tail = out.get_range(key, size - length - 8..size, None).await?.0;
    }
    let start = tail.len() - 8 - length as usize;
    let footer = tail.slice(start..tail.len() - 8);
    parse(&object, size, &footer).map(Some)
}

/// Reads the footer of a part whose bytes are at hand.
pub fn parse_footer(object: &str, bytes: &Bytes) -> Result<StoredPart, StoreError> {
    let malformed = |why: &str| StoreError::Malformed { object: object.to_owned(), why: why.to_owned() };
    let length = footer_length(bytes).ok_or_else(|| malformed("it does not end as Parquet does"))? as usize;
    let Some(start) = bytes.len().checked_sub(8 + length) else {
        return Err(malformed("its footer is longer than the file"));
    };
    parse(object, bytes.len() as u64, &bytes.slice(start..bytes.len() - 8))
}

fn footer_length(tail: &[u8]) -> Option<u64> {
    let end = tail.len().checked_sub(8)?;
    let (length, magic) = tail[end..].split_at(4);
    (magic == b"PAR1").then(|| u64::from(u32::from_le_bytes([length[0], length[1], length[2], length[3]])))
}

fn parse(object: &str, size: u64, bytes: &Bytes) -> Result<StoredPart, StoreError> {
    let malformed = |why: String| StoreError::Malformed { object: object.to_owned(), why };
    let metadata = ParquetMetaDataReader::decode_metadata(bytes).map_err(|e| malformed(e.to_string()))?;
    let entries = metadata.file_metadata().key_value_metadata();
    let entry = entries.and_then(|all| all.iter().find(|entry| entry.key == FOOTER_KEY));
    let Some(text) = entry.and_then(|entry| entry.value.as_ref()) else {
        return Err(malformed("it is Parquet, but no part of Gristmill".into()));
    };
    let footer = decode(object, text.as_bytes())?;
    Ok(StoredPart { footer, footer_digest: Digest::of(bytes), size, metadata })
}

/// Where the last row group of a file ends: the body, whose digest the footer carries.
pub fn body_bytes(metadata: &ParquetMetaData) -> u64 {
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    columns.map(|column| column.byte_range()).map(|(start, length)| start + length).max().unwrap_or(4)
}

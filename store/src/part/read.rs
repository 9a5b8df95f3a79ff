//! Reading a part's body from front to back: each byte is asked for once, hashed, and decoded, one row group at a time.
//! Synchronous, for a thread that may block; at most one row group is held.

use std::sync::Arc;

use arrow_schema::SchemaRef;
use bytes::{Buf, Bytes};
use gristmill_job::Digest;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::{StoredPart, body_bytes};
use crate::location::Location;
use crate::outcome::StoreError;

/// Rows in one batch.
const BATCH_ROWS: usize = 1024;
/// Bytes of one row group at most. The encoder closes one at a few percent of it.
const GROUP_BYTES_MAX: u64 = 1 << 30;

/// A part that is being read.
pub struct PartReader {
    out: Location,
    key: String,
    runtime: tokio::runtime::Handle,
    metadata: ArrowReaderMetadata,
    size: u64,
    next: usize,
    /// All bytes before it have been hashed.
    at: u64,
    hasher: blake3::Hasher,
}

impl PartReader {
    /// Begins to read the part under `key`, whose footer is at hand. Requests run on `runtime`.
    ///
    /// # Errors
    /// `Malformed` where the columns have no Arrow types.
    pub fn new(
        out: &Location,
        key: &str,
        part: &StoredPart,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, StoreError> {
        let metadata = ArrowReaderMetadata::try_new(Arc::new(part.metadata.clone()), ArrowReaderOptions::new())
            .map_err(|e| StoreError::Malformed { object: out.describe(key), why: e.to_string() })?;
        Ok(PartReader {
            out: out.clone(),
            key: key.to_owned(),
            runtime,
            metadata,
            size: part.size,
            next: 0,
            at: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    /// The part's columns.
    pub fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// The batches of the next row group; `None` behind the last one. An error of a batch is the decoder's: the bytes
    /// came, and are not what they should be. May be called again after a failure of the store.
    ///
    /// # Errors
    /// Those of the store; `Malformed` where row groups overlap, or reach beyond the file.
    pub fn next_group(&mut self) -> Result<Option<ParquetRecordBatchReader>, StoreError> {
        let Some(group) = self.metadata.metadata().row_groups().get(self.next) else { return Ok(None) };
        let ranges = || group.columns().iter().map(|column| column.byte_range());
        let first = ranges().map(|(start, _)| start).min().unwrap_or(self.at);
        let end = ranges().map(|(start, bytes)| start.saturating_add(bytes)).max().unwrap_or(self.at);
        if first < self.at {
            return Err(self.malformed(format!("row group {} does not begin behind the one before", self.next)));
        }
        let start = self.at;
        let bytes = self.fetch(end)?;
        let window = Window { start, bytes, size: self.size };
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(window, self.metadata.clone())
            .with_batch_size(BATCH_ROWS)
            .with_row_groups(vec![self.next])
            .build()
            .map_err(|e| self.malformed(format!("row group {} cannot be decoded: {e}", self.next)))?;
        self.next += 1;
        Ok(Some(reader))
    }

    /// The digest of the body. Row groups that are left are fetched for it, and not decoded.
    ///
    /// # Errors
    /// As [`PartReader::next_group`].
    pub fn finish(&mut self) -> Result<Digest, StoreError> {
        let ends: Vec<u64> = self.metadata.metadata().row_groups()[self.next..]
            .iter()
            .filter_map(|group| group.columns().iter().map(|c| c.byte_range()).map(|(start, n)| start + n).max())
            .chain([body_bytes(self.metadata.metadata())])
            .collect();
        for end in ends {
            self.fetch(end.max(self.at))?;
        }
        Ok(Digest::from_bytes(*self.hasher.finalize().as_bytes()))
    }

    /// Fetches and hashes the bytes up to `end`.
    fn fetch(&mut self, end: u64) -> Result<Bytes, StoreError> {
        if end > self.size || end - self.at > GROUP_BYTES_MAX {
            return Err(self.malformed(format!("a row group would end at byte {end} of {}", self.size)));
        }
        if end == self.at {
            return Ok(Bytes::new());
        }
        let (bytes, _) = self.runtime.block_on(self.out.get_range(&self.key, self.at..end, None))?;
        if bytes.len() as u64 != end - self.at {
            return Err(self.malformed("it became shorter".into()));
        }
        self.hasher.update(&bytes);
        self.at = end;
        Ok(bytes)
    }

    fn malformed(&self, why: String) -> StoreError {
        StoreError::Malformed { object: self.out.describe(&self.key), why }
    }
}

/// The bytes of one row group, at their place in the file.
struct Window {
    start: u64,
    bytes: Bytes,
    size: u64,
}

impl Window {
    fn from(&self, start: u64) -> Result<Bytes, ParquetError> {
        let from = start.checked_sub(self.start).filter(|from| *from <= self.bytes.len() as u64);
        let from = from.ok_or_else(|| ParquetError::EOF(format!("byte {start} is not in the row group")))?;
        Ok(self.bytes.slice(from as usize..))
    }
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Window {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} lie beyond the row group")));
        }
        Ok(bytes.slice(..length))
    }
}

//! The rows of a segment, as record batches. Reading is synchronous, on a thread that may block; the bytes come from the
//! store in blocks, each a conditional request whose answer is compared with the pin. Memory is bounded by the blocks and
//! one batch, however large a row group is.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use bytes::{Buf, Bytes};
use gristmill_job::{Pin, Segment};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::{InputError, Object, compare};
use crate::location::Location;
use crate::outcome::StoreError;

/// Bytes of one request.
const BLOCK_BYTES: u64 = 2 << 20;
/// Bytes of decoded columns in one batch, about.
const BATCH_BYTES: u64 = 4 << 20;
/// Rows in one batch at most.
const BATCH_ROWS: u64 = 1024;

/// Rows that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The object changed, or the store failed.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The bytes came and do not decode.
    #[error("{object}: rows {start} to {end} cannot be decoded: {source}")]
    Decode {
        /// URL of the object.
        object: String,
        /// First row of the segment.
        start: u64,
        /// One past its last row.
        end: u64,
        /// What the decoder said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An iterator over the rows of one segment, in their order.
pub struct Rows {
    reader: ParquetRecordBatchReader,
    blocks: Arc<Blocks>,
    segment: Segment,
    /// Rows that are still to come.
    left: u64,
}

impl Object {
    /// The rows of `segment`, of the root columns named `columns`. Requests run on `runtime`; the iterator must be driven
    /// from a thread that may block.
    pub fn rows(&self, segment: Segment, columns: &[&str], runtime: tokio::runtime::Handle) -> Result<Rows, RowsError> {
        let schema = self.metadata.parquet_schema();
        let roots: Vec<usize> = (0..schema.root_schema().get_fields().len())
            .filter(|i| columns.contains(&schema.root_schema().get_fields()[*i].name()))
            .collect();
        let mask = ProjectionMask::roots(schema, roots);
        let blocks = Arc::new(Blocks {
            location: self.location.clone(),
            pin: self.pin.clone(),
            runtime,
            kept: 8.max(2 * columns.len()),
            held: Mutex::default(),
            fault: Mutex::default(),
        });
        let (groups, selection) = self.select(segment);
        let source = Source(Arc::clone(&blocks));
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(source, self.metadata.clone())
            .with_batch_size(self.batch_rows(&mask, &groups) as usize)
            .with_projection(mask)
            .with_row_groups(groups)
            .with_row_selection(selection)
            .build();
        let left = segment.rows();
        match reader {
            Ok(reader) => Ok(Rows { reader, blocks, segment, left }),
            Err(error) => Err(blocks.explain(segment, error)),
        }
    }

    /// The row groups that hold the segment, and which of their rows are its.
    fn select(&self, segment: Segment) -> (Vec<usize>, RowSelection) {
        let (mut groups, mut selectors) = (Vec::new(), Vec::new());
        let mut first = 0;
        for (i, group) in self.footer().row_groups().iter().enumerate() {
            let rows = group.num_rows() as u64;
            let (from, to) = (segment.start.max(first), segment.end.min(first + rows));
            if from < to {
                groups.push(i);
                selectors.push(RowSelector::skip((from - first) as usize));
                selectors.push(RowSelector::select((to - from) as usize));
                selectors.push(RowSelector::skip((first + rows - to) as usize));
            }
            first += rows;
        }
        (groups, selectors.into_iter().filter(|s| s.row_count > 0).collect::<Vec<_>>().into())
    }

    fn batch_rows(&self, mask: &ProjectionMask, groups: &[usize]) -> u64 {
        let (mut rows, mut bytes) = (1, 0);
        for group in groups.iter().map(|i| &self.footer().row_groups()[*i]) {
            rows += group.num_rows().max(0) as u64;
            let included = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
            bytes += included.map(|(_, column)| column.uncompressed_size().max(0) as u64).sum::<u64>();
        }
        (BATCH_BYTES * rows / bytes.max(1)).clamp(1, BATCH_ROWS)
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, RowsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        match self.reader.next() {
            Some(Ok(batch)) => {
                self.left = self.left.saturating_sub(batch.num_rows() as u64);
                Some(Ok(batch))
            }
            Some(Err(error)) => {
                self.left = 0;
                Some(Err(self.blocks.explain(self.segment, error)))
            }
            None => {
                let missing = ParquetError::General(format!("{} rows are missing", self.left));
                self.left = 0;
                Some(Err(self.blocks.explain(self.segment, missing)))
            }
        }
    }
}

/// The blocks of one object that were last asked for.
struct Blocks {
    location: Location,
    pin: Pin,
    runtime: tokio::runtime::Handle,
    /// How many to keep: columns are read in turn, and each has a place of its own.
    kept: usize,
    held: Mutex<VecDeque<(u64, Bytes)>>,
    /// The decoder turns every error into text; ours waits here until `explain` takes it.
    fault: Mutex<Option<InputError>>,
}

impl Blocks {
    /// The bytes from `start` to the end of its block.
    fn from(&self, start: u64) -> Result<Bytes, InputError> {
        let index = start / BLOCK_BYTES;
        let within = (start % BLOCK_BYTES) as usize;
        {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, bytes)) = held.iter().find(|(at, _)| *at == index) {
                return Ok(bytes.slice(within.min(bytes.len())..));
            }
        }
        let range = index * BLOCK_BYTES..((index + 1) * BLOCK_BYTES).min(self.pin.size);
        let bytes = self.fetch(range)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= self.kept {
            held.pop_front();
        }
        held.push_back((index, bytes.clone()));
        Ok(bytes.slice(within.min(bytes.len())..))
    }

    fn fetch(&self, range: std::ops::Range<u64>) -> Result<Bytes, InputError> {
        let changed = |what: String| InputError::Changed { object: self.pin.object.clone(), what };
        let wanted = (range.end - range.start) as usize;
        let answer = self.runtime.block_on(self.location.get_range("", range, self.pin.e_tag.as_deref()));
        match answer {
            Ok((bytes, meta)) => {
                compare(&self.pin, &meta).map_err(changed)?;
                if bytes.len() == wanted { Ok(bytes) } else { Err(changed("it is shorter".into())) }
            }
            Err(StoreError::NotFound { .. }) => Err(changed("it is gone".into())),
            Err(StoreError::DidNotHappen { source: object_store::Error::Precondition { .. }, .. }) => {
                Err(changed("the store has another version".into()))
            }
            // A local file that became shorter refuses the range before it says its size.
            Err(error) => match self.runtime.block_on(self.location.head("")) {
                Ok(Some(meta)) => Err(compare(&self.pin, &meta).err().map_or(error.into(), changed)),
                _ => Err(error.into()),
            },
        }
    }

    fn keep(&self, fault: InputError) -> std::io::Error {
        let text = fault.to_string();
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        std::io::Error::other(text)
    }

    fn explain(&self, segment: Segment, error: impl std::error::Error + Send + Sync + 'static) -> RowsError {
        match self.fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(fault) => RowsError::Input(fault),
            None => RowsError::Decode {
                object: self.pin.object.clone(),
                start: segment.start,
                end: segment.end,
                source: Box::new(error),
            },
        }
    }
}

struct Source(Arc<Blocks>);

impl Length for Source {
    fn len(&self) -> u64 {
        self.0.pin.size
    }
}

impl ChunkReader for Source {
    type T = BlockReader;

    fn get_read(&self, start: u64) -> Result<BlockReader, ParquetError> {
        Ok(BlockReader { blocks: Arc::clone(&self.0), at: start, block: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let external = |e: std::io::Error| ParquetError::External(Box::new(e));
        if start + length as u64 > self.0.pin.size {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} lie beyond the end")));
        }
        let first = self.0.from(start).map_err(|e| external(self.0.keep(e)))?;
        if first.len() >= length {
            return Ok(first.slice(..length));
        }
        let mut bytes = vec![0; length];
        let mut reader = self.get_read(start)?;
        reader.read_exact(&mut bytes).map_err(external)?;
        Ok(bytes.into())
    }
}

struct BlockReader {
    blocks: Arc<Blocks>,
    at: u64,
    block: Bytes,
}

impl Read for BlockReader {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.blocks.pin.size {
            return Ok(0);
        }
        if self.block.is_empty() {
            self.block = self.blocks.from(self.at).map_err(|e| self.blocks.keep(e))?;
        }
        let count = self.block.len().min(into.len());
        into[..count].copy_from_slice(&self.block[..count]);
        self.block.advance(count);
        self.at += count as u64;
        Ok(count)
    }
}

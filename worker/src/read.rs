//! The first stages of a shard: rows are read and tokenized, chunk by chunk, ahead of the device, within a bound on the
//! bytes held.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use gristmill_job::{DeadReason, Segment};
use gristmill_store::dead::DeadLetter;
use gristmill_store::input::{Object, RowsError};
use gristmill_store::part::Provenance;
use gristmill_store::schema::texts;
use rayon::prelude::*;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::meter::{Meter, Stage};
use crate::tokenize::{Tokenized, Tokenizer};

/// Bytes of read rows that one shard may hold before the device has taken them.
const HELD_BYTES: usize = 48 << 20;

/// Consecutive rows of one object, tokenized.
pub(crate) struct Chunk {
    /// The rows, dead ones included.
    pub(crate) segment: Segment,
    /// Carried columns of the live rows.
    pub(crate) carried: Vec<ArrayRef>,
    /// Token ids of the live rows, end to end.
    pub(crate) ids: Vec<u32>,
    /// How many ids each live row has.
    pub(crate) lengths: Vec<u32>,
    /// Where the live rows come from.
    pub(crate) provenance: Provenance,
    /// The rows without ids, in order.
    pub(crate) dead: Vec<DeadLetter>,
    /// Given back when the chunk has been encoded.
    pub(crate) held: OwnedSemaphorePermit,
}

/// Called before rows are touched, where a grant demands it; returns when the coordinator knows.
pub(crate) type Announce = Arc<dyn Fn(Segment) + Send + Sync>;

/// How carefully rows are taken.
#[derive(Clone)]
pub(crate) struct Care {
    /// Rows per chunk at most.
    pub(crate) rows: usize,
    /// Told before each chunk; chunks are then taken one at a time, from the first byte to the vector.
    pub(crate) announce: Announce,
}

/// What the stages work with.
pub(crate) struct Source {
    pub(crate) objects: Vec<(Segment, Arc<Object>)>,
    pub(crate) text_column: String,
    pub(crate) carried: Vec<String>,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) care: Option<Care>,
}

/// Starts reading; chunks arrive in row order. Dropping the receiver ends it.
pub(crate) fn start(source: Source) -> mpsc::Receiver<Result<Chunk, RowsError>> {
    let (chunks, receiver) = mpsc::channel(64);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        // In care one chunk at a time takes the whole bound.
        let bound = if source.care.is_some() { 1 } else { kib(HELD_BYTES) };
        let reader = Reader { bound, room: Arc::new(Semaphore::new(bound as usize)), runtime, chunks, source };
        if let Err(error) = reader.read_all() {
            // Nobody listens any more: the attempt has ended for another reason.
            let _ = reader.chunks.blocking_send(Err(error));
        }
    });
    receiver
}

/// Why a text has no ids, and what more there is to say.
type Dead = (DeadReason, Option<String>);

fn kib(bytes: usize) -> u32 {
    (bytes >> 10).clamp(1, u32::MAX as usize) as u32
}

struct Reader {
    source: Source,
    /// The bound on what is held, in KiB, and what of it is free.
    bound: u32,
    room: Arc<Semaphore>,
    runtime: tokio::runtime::Handle,
    chunks: mpsc::Sender<Result<Chunk, RowsError>>,
}

impl Reader {
    fn read_all(&self) -> Result<(), RowsError> {
        let source = &self.source;
        let mut columns: Vec<&str> = source.carried.iter().map(String::as_str).collect();
        columns.push(&source.text_column);
        for (segment, object) in &source.objects {
            let mut rows = source.meter.time(Stage::Read, || object.rows(*segment, &columns, self.runtime.clone()))?;
            let mut at = segment.start;
            while let Some(batch) = source.meter.time(Stage::Read, || rows.next()) {
                let batch = batch?;
                let step = source.care.as_ref().map_or(batch.num_rows(), |care| care.rows).max(1);
                for from in (0..batch.num_rows()).step_by(step) {
                    let piece = batch.slice(from, step.min(batch.num_rows() - from));
                    let rows = Segment { object: segment.object, start: at, end: at + piece.num_rows() as u64 };
                    at = rows.end;
                    if !self.send(object, rows, &piece) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Tokenizes and sends rows; false if nobody wants them any more.
    fn send(&self, object: &Object, segment: Segment, rows: &RecordBatch) -> bool {
        let size = kib(rows.get_array_memory_size()).min(self.bound);
        let room = Arc::clone(&self.room).acquire_many_owned(size);
        let wait = async {
            tokio::select! {
                held = room => held.ok(),
                () = self.chunks.closed() => None,
            }
        };
        let Some(held) = self.runtime.block_on(wait) else { return false };
        if let Some(care) = &self.source.care {
            (care.announce)(segment);
        }
        let chunk = self.source.meter.time(Stage::Tokenize, || self.chunk(object, segment, rows, held));
        self.chunks.blocking_send(Ok(chunk)).is_ok()
    }

    fn chunk(&self, object: &Object, segment: Segment, rows: &RecordBatch, held: OwnedSemaphorePermit) -> Chunk {
        let text_of = rows.column_by_name(&self.source.text_column).expect("the column was projected");
        let texts = texts(text_of);
        let tokenized: Vec<Result<(Tokenized, [u8; 16]), Dead>> =
            texts.into_par_iter().map(|text| self.tokenize(text)).collect();
        let live: BooleanArray = tokenized.iter().map(|row| Some(row.is_ok())).collect();
        let (object_url, version): (Arc<str>, Arc<str>) =
            (object.pin.object.as_str().into(), object.pin.version.as_str().into());
        let carried = self.source.carried.iter().map(|name| {
            let column = rows.column_by_name(name).expect("the column was projected");
            arrow_select::filter::filter(column, &live).expect("the filter has the column's length")
        });
        let mut chunk = Chunk {
            segment,
            carried: carried.collect(),
            ids: Vec::new(),
            lengths: Vec::new(),
            provenance: Provenance::default(),
            dead: Vec::new(),
            held,
        };
        for (row, outcome) in (segment.start..).zip(tokenized) {
            match outcome {
                Ok((text, hash)) => {
                    chunk.lengths.push(text.ids.len() as u32);
                    chunk.ids.extend_from_slice(&text.ids);
                    let provenance = &mut chunk.provenance;
                    provenance.objects.push(Arc::clone(&object_url));
                    provenance.versions.push(Arc::clone(&version));
                    provenance.rows.push(row as i64);
                    provenance.tokens.push(text.ids.len() as i32);
                    provenance.cut_bytes.push(text.cut_bytes as i64);
                    provenance.text_hashes.push(hash);
                }
                Err((reason, detail)) => chunk.dead.push(DeadLetter {
                    object: object.pin.object.clone(),
                    version: object.pin.version.clone(),
                    row,
                    reason,
                    detail,
                }),
            }
        }
        chunk
    }

    fn tokenize(&self, text: Option<&str>) -> Result<(Tokenized, [u8; 16]), Dead> {
        let text = text.ok_or((DeadReason::NullText, None))?;
        if text.is_empty() {
            return Err((DeadReason::EmptyText, None));
        }
        let refused = |why: String| (DeadReason::Untokenizable, Some(why));
        let tokenized = self.source.tokenizer.tokenize(text).map_err(|e| refused(e.to_string()))?;
        if tokenized.ids.is_empty() {
            return Err(refused("the text has no token".into()));
        }
        Ok((tokenized, gristmill_store::text_hash(text)))
    }
}

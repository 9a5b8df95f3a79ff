//! One attempt at a shard, from its rows to its commit: read and tokenize ahead, pack, encode in turn, append to the part,
//! commit. An attempt that is stopped commits the prefix that it finished, or gives the shard back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::{Array, ArrayRef, BooleanArray};
use gristmill_job::{Blame, DeadReason, Digest, FORMAT, Failure, Fatal, Segment, Segments, Slot};
use gristmill_proto::v1::{self, Caution};
use gristmill_proto::{child_to_wire, dead_to_wire, segments_from_wire};
use gristmill_store::commit::{Commit, CommitError, commit};
use gristmill_store::dead::{self, DeadLetter};
use gristmill_store::documents::Child;
use gristmill_store::fresh_nonce;
use gristmill_store::input::{InputError, RowsError};
use gristmill_store::part::{EncodeError as PartError, Footer, PartEncoder, Provenance};
use gristmill_store::schema::SchemaError;
use tokio::sync::{Mutex as TurnMutex, Notify, OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::device::{Batch, Device, Encoded};
use crate::encoder::EncodeError;
use crate::job::{Job, input_failure};
use crate::meter::{Meter, Stage};
use crate::packing::pack;
use crate::read::{self, Announce, Care, Chunk, Source};
use crate::tokenize::Tokenizer;

/// A finished prefix is worth committing when it cost the device this much.
const WORTH_COMMITTING: Duration = Duration::from_secs(10);
/// Rows per chunk where each chunk is announced.
const ANNOUNCED_ROWS: usize = 64;
/// Batches on their way to the device or back: one computed, one ready.
const BATCHES_AHEAD: usize = 2;
/// Unusable vectors that a healthy worker may find in one shard.
const BAD_VECTORS_MAX: usize = 16;

/// What all attempts of a worker share.
pub(crate) struct Context {
    pub(crate) job: Job,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) device: Device,
    pub(crate) budget_tokens: usize,
    pub(crate) meter: Arc<Meter>,
    /// Whose shard is on the device: first come, first served.
    pub(crate) turn: TurnMutex<()>,
    /// Told whenever a shard leaves the device.
    pub(crate) freed: Notify,
    /// Told whenever one comes to it.
    pub(crate) beat_now: Arc<Notify>,
    /// Set when the worker is to finish and leave.
    pub(crate) draining: watch::Receiver<bool>,
}

/// What others may know of an attempt while it runs.
#[derive(Debug)]
pub(crate) struct AttemptState {
    pub(crate) slot: Slot,
    pub(crate) attempt: u64,
    rows_done: AtomicU64,
    in_hand: Mutex<VecDeque<Segment>>,
    /// Its rows have all been on the device; only the commit is left.
    pub(crate) encoded: AtomicBool,
    /// Nobody needs it any more.
    pub(crate) dropped: AtomicBool,
}

impl AttemptState {
    pub(crate) fn new(slot: Slot, attempt: u64) -> Self {
        AttemptState {
            slot,
            attempt,
            rows_done: AtomicU64::new(0),
            in_hand: Mutex::default(),
            encoded: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
        }
    }

    pub(crate) fn held(&self) -> v1::Held {
        v1::Held {
            slot: self.slot.to_string(),
            attempt: self.attempt,
            in_hand: self.in_hand().into_iter().map(Into::into).collect(),
            rows_done: self.rows_done.load(Relaxed),
        }
    }

    fn in_hand(&self) -> Vec<Segment> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn take(&self, segment: Segment) {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner).push_back(segment);
    }

    /// Rows that are about to be read into ids: the only ones in hand, since in care one chunk is taken at a time.
    pub(crate) fn announce(&self, segment: Segment) {
        *self.in_hand.lock().unwrap_or_else(PoisonError::into_inner) = VecDeque::from([segment]);
    }

    fn put_down(&self) {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Committed(v1::Committed),
    Failed(Failure),
    Returned,
}

#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Part(#[from] PartError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(
        "{bad} of {rows} vectors are not finite or have no length, in float32 too: the device or the weights are broken"
    )]
    BadVectors { bad: usize, rows: u64 },
    #[error("{object}: the decoder gave up at row {row} or behind it; the file is damaged")]
    Unread { object: String, row: u64 },
    #[error("the grant is not readable: {0}")]
    Grant(#[from] gristmill_proto::BadMessage),
}

impl AttemptError {
    fn failure(self, in_hand: Vec<Segment>) -> Failure {
        let message = self.to_string();
        let (blame, fatal) = match &self {
            AttemptError::Input(error) | AttemptError::Rows(RowsError::Input(error)) => {
                let Failure { blame, fatal, .. } = input_failure(error);
                (blame, fatal)
            }
            AttemptError::Rows(RowsError::Decode { .. }) | AttemptError::Unread { .. } => {
                (Blame::Input, Some(Fatal::InputUnreadable))
            }
            AttemptError::Schema(_) => (Blame::Input, Some(Fatal::InputChanged)),
            AttemptError::Encode(EncodeError::Input(_)) => (Blame::Input, None),
            AttemptError::Commit(CommitError::Store(error)) => {
                (Blame::Store, error.is_refusal().then_some(Fatal::OutputRefused))
            }
            AttemptError::Commit(CommitError::Stranger { .. }) => (Blame::Store, Some(Fatal::Stranger)),
            AttemptError::Encode(_)
            | AttemptError::Part(_)
            | AttemptError::BadVectors { .. }
            | AttemptError::Grant(_) => (Blame::Worker, None),
        };
        Failure { blame, fatal, message, in_hand }
    }
}

/// Runs the attempt to its end.
pub(crate) async fn run(
    context: Arc<Context>,
    grant: v1::Grant,
    state: Arc<AttemptState>,
    announce: Announce,
) -> Outcome {
    let segments = segments_from_wire(grant.segments.clone());
    match work(&context, &grant, segments, &state, announce).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Failed(error.failure(state.in_hand())),
    }
}

async fn work(
    context: &Context,
    grant: &v1::Grant,
    segments: Vec<Segment>,
    state: &AttemptState,
    announce: Announce,
) -> Result<Outcome, AttemptError> {
    let mut objects = Vec::new();
    for segment in &segments {
        objects.push((*segment, context.job.object(*segment).await?));
    }
    let Some((_, first)) = objects.first() else { return Ok(Outcome::Returned) };
    let part = PartEncoder::new(&context.job.schema(first)?, context.job.compression)?;
    let selection = &context.job.document.spec.selection;
    let care = match grant.caution() {
        Caution::None => None,
        Caution::Announce => Some(Care { rows: ANNOUNCED_ROWS, announce }),
        Caution::RowByRow | Caution::Solo => Some(Care { rows: 1, announce }),
    };
    let source = Source {
        objects,
        text_column: selection.text_column.clone(),
        carried: selection.columns.clone(),
        tokenizer: Arc::clone(&context.tokenizer),
        meter: Arc::clone(&context.meter),
        care,
    };
    let total = segments.total_rows();
    let mut shard = ShardInWork { context, state, segments, part, dead: Vec::new(), done: 0, tokens: 0, bad: 0 };
    let in_care = source.care.is_some();
    // In care nothing is touched before its turn, or a death would be blamed on two shards.
    let (turn, chunks) = if in_care {
        let turn = context.turn.lock().await;
        (turn, read::start(source))
    } else {
        let chunks = read::start(source);
        (context.turn.lock().await, chunks)
    };
    let start = Instant::now();
    shard.encode(chunks).await?;
    drop(turn);
    state.encoded.store(true, Relaxed);
    context.freed.notify_one();
    let full = shard.part.bytes() >= context.job.part_bytes;
    let worth = full || start.elapsed() >= WORTH_COMMITTING;
    if state.dropped.load(Relaxed) || shard.done == 0 || (shard.done < total && !worth) {
        return Ok(Outcome::Returned);
    }
    shard.commit(total).await
}

/// The part of an attempt that grows as vectors arrive.
struct ShardInWork<'a> {
    context: &'a Context,
    state: &'a AttemptState,
    segments: Vec<Segment>,
    part: PartEncoder,
    dead: Vec<DeadLetter>,
    /// Rows done, counted along the segments.
    done: u64,
    tokens: u64,
    bad: usize,
}

/// A cut on its way through the device.
struct Piece {
    cut: Cut,
    answer: oneshot::Receiver<Result<Encoded, EncodeError>>,
}

/// The answer to the first piece.
async fn next_answer(ahead: &mut VecDeque<Piece>) -> Result<Encoded, EncodeError> {
    match ahead.front_mut() {
        Some(piece) => {
            (&mut piece.answer).await.unwrap_or_else(|_| Err(EncodeError::Device("its thread ended".into())))
        }
        None => std::future::pending().await,
    }
}

impl ShardInWork<'_> {
    /// Encodes chunks until they end or the attempt is to stop; what was submitted is always finished.
    async fn encode(&mut self, mut chunks: mpsc::Receiver<Result<Chunk, RowsError>>) -> Result<(), AttemptError> {
        let mut ahead = VecDeque::new();
        let (mut position, mut more) = (0, true);
        while more || !ahead.is_empty() {
            tokio::select! {
                biased;
                encoded = next_answer(&mut ahead), if !ahead.is_empty() => self.take_next(&mut ahead, encoded?)?,
                chunk = chunks.recv(), if more => {
                    let Some(chunk) = chunk.transpose()? else {
                        // The reader always comes to the end or says why not, unless the decoder panicked under it.
                        if let Some((object, row)) = self.segments.locate(position) {
                            let object = self.context.job.plan.objects[object as usize].object.clone();
                            return Err(AttemptError::Unread { object, row });
                        }
                        more = false;
                        continue;
                    };
                    let start = position;
                    position += chunk.segment.rows();
                    more = self.submit_chunk(chunk, start, &mut ahead).await?;
                }
            }
        }
        Ok(())
    }

    /// Submits a chunk batch by batch, at most so many ahead; false if the attempt is to stop.
    async fn submit_chunk(
        &mut self,
        chunk: Chunk,
        position: u64,
        ahead: &mut VecDeque<Piece>,
    ) -> Result<bool, AttemptError> {
        for cut in cuts(chunk, position, self.context.budget_tokens) {
            while ahead.len() >= BATCHES_AHEAD {
                let encoded = next_answer(ahead).await?;
                self.take_next(ahead, encoded)?;
            }
            if self.is_to_stop() {
                return Ok(false);
            }
            self.state.take(cut.segment);
            if cut.segment.start == self.segments[0].start && self.done == 0 {
                self.context.beat_now.notify_one();
            }
            let answer = self.context.device.submit(cut.batch.clone()).await;
            ahead.push_back(Piece { cut, answer });
        }
        Ok(true)
    }

    fn is_to_stop(&self) -> bool {
        *self.context.draining.borrow()
            || self.state.dropped.load(Relaxed)
            || self.part.bytes() >= self.context.job.part_bytes
    }

    /// Appends the rows whose batch has come back.
    fn take_next(&mut self, ahead: &mut VecDeque<Piece>, encoded: Encoded) -> Result<(), AttemptError> {
        let Some(Piece { cut: piece, .. }) = ahead.pop_front() else { return Ok(()) };
        let rows = piece.batch.lengths.len() - encoded.bad_rows.len();
        tracing::debug!(slot = %self.state.slot, rows = piece.batch.lengths.len(), "encoded a batch");
        self.bad += encoded.bad_rows.len();
        if self.bad > BAD_VECTORS_MAX && self.bad as u64 * 2 > self.part.rows() + rows as u64 {
            return Err(AttemptError::BadVectors { bad: self.bad, rows: self.part.rows() + self.bad as u64 });
        }
        self.dead.extend(piece.dead);
        let (carried, vectors, provenance) =
            without_bad(piece.carried, encoded, piece.provenance, &mut self.dead, self.context.job_width());
        self.tokens += provenance.tokens.iter().map(|t| *t as u64).sum::<u64>();
        if rows > 0 {
            let meter = &self.context.meter;
            tokio::task::block_in_place(|| {
                meter.time(Stage::Write, || self.part.append(&carried, vectors, provenance))
            })?;
        }
        self.done = piece.end;
        self.state.rows_done.store(self.done, Relaxed);
        self.state.put_down();
        Ok(())
    }

    async fn commit(self, total: u64) -> Result<Outcome, AttemptError> {
        let start = Instant::now();
        let document = &self.context.job.document;
        let (slot, nonce) = (self.state.slot.clone(), fresh_nonce());
        let rest = self.segments.slice(self.done, total);
        let children = if rest.is_empty() { Vec::new() } else { vec![Child { slot: slot.child(0), segments: rest }] };
        let mut dead = self.dead;
        dead.sort_by(|a, b| (&a.object, a.row).cmp(&(&b.object, b.row)));
        let (dead_file, dead_bytes) = match dead.as_slice() {
            [] => (None, None),
            letters => {
                let (file, bytes) = dead::encode(document.job, &slot, nonce, letters);
                (Some(file), Some(bytes))
            }
        };
        let footer = Footer {
            format: FORMAT,
            job: document.job,
            plan: document.plan,
            model: document.spec.model,
            slot,
            nonce,
            covered: self.segments.slice(0, self.done),
            segments: self.segments,
            children,
            rows: 0,
            tokens: self.tokens,
            dead: dead_file,
            body: Digest::of(b""),
        };
        let part = self.part;
        let (footer, bytes) = tokio::task::block_in_place(|| part.finish(footer))?;
        let committed = commit(&self.context.job.out, &footer, bytes, dead_bytes).await;
        self.context.meter.add(Stage::Write, start.elapsed());
        let (ours, footer) = match committed? {
            Commit::Won => (true, footer),
            Commit::Lost(winner) => (false, *winner),
        };
        Ok(Outcome::Committed(v1::Committed {
            ours,
            rows: footer.rows,
            tokens: footer.tokens,
            dead_rows: footer.dead.as_ref().map(|file| dead_to_wire(&file.rows)).unwrap_or_default(),
            children: footer.children.iter().map(|child| child_to_wire(&child.slot, &child.segments)).collect(),
        }))
    }
}

impl Context {
    fn job_width(&self) -> usize {
        self.job.document.spec.vectors.width as usize
    }
}

/// Rows of a chunk that fit one batch, and the dead rows among and behind them.
struct Cut {
    segment: Segment,
    end: u64,
    carried: Vec<ArrayRef>,
    provenance: Provenance,
    batch: Batch,
    dead: Vec<DeadLetter>,
    /// The room that its chunk takes, given back with the chunk's last cut.
    _held: Option<OwnedSemaphorePermit>,
}

/// Cuts a chunk, whose first row is at `position` along the segments, into batches. A chunk without a live row is one cut
/// with an empty batch.
fn cuts(chunk: Chunk, position: u64, budget_tokens: usize) -> Vec<Cut> {
    let Chunk { segment, carried, ids, lengths, provenance, dead, held } = chunk;
    let mut batches = pack(&lengths, budget_tokens);
    if batches.is_empty() {
        batches.push(0..0);
    }
    let last = batches.len() - 1;
    let mut dead = VecDeque::from(dead);
    let mut held = Some(held);
    let (mut first_row, mut first_id) = (segment.start, 0);
    let mut out = Vec::with_capacity(batches.len());
    for (i, rows) in batches.into_iter().enumerate() {
        let end_row = if i == last { segment.end } else { provenance.rows[rows.end] as u64 };
        let tokens = lengths[rows.clone()].iter().map(|l| *l as usize).sum::<usize>();
        let mut dead_here = Vec::new();
        while let Some(letter) = dead.pop_front_if(|letter| letter.row < end_row) {
            dead_here.push(letter);
        }
        out.push(Cut {
            segment: Segment { object: segment.object, start: first_row, end: end_row },
            end: position + end_row - segment.start,
            carried: carried.iter().map(|column| column.slice(rows.start, rows.len())).collect(),
            provenance: provenance.slice(rows.clone()),
            batch: Batch { ids: ids[first_id..first_id + tokens].to_vec(), lengths: lengths[rows].to_vec() },
            dead: dead_here,
            _held: if i == last { held.take() } else { None },
        });
        first_row = end_row;
        first_id += tokens;
    }
    out
}

/// Takes the rows without a usable vector out, as dead letters.
fn without_bad(
    carried: Vec<ArrayRef>,
    encoded: Encoded,
    provenance: Provenance,
    dead: &mut Vec<DeadLetter>,
    width: usize,
) -> (Vec<ArrayRef>, Vec<f32>, Provenance) {
    if encoded.bad_rows.is_empty() {
        return (carried, encoded.vectors, provenance);
    }
    let good: Vec<bool> = (0..provenance.rows.len()).map(|row| !encoded.bad_rows.contains(&row)).collect();
    for &row in &encoded.bad_rows {
        dead.push(DeadLetter {
            object: provenance.objects[row].to_string(),
            version: provenance.versions[row].to_string(),
            row: provenance.rows[row] as u64,
            reason: DeadReason::BadVector,
            detail: None,
        });
    }
    let mask = BooleanArray::from(good.clone());
    let keep =
        |column: &ArrayRef| arrow_select::filter::filter(column, &mask).expect("the filter has the column's length");
    let vectors = encoded.vectors.chunks(width).zip(&good).filter(|(_, good)| **good).flat_map(|(v, _)| v).copied();
    (carried.iter().map(keep).collect(), vectors.collect(), provenance.filter(&good))
}

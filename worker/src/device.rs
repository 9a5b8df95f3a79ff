//! The encode thread: one OS thread owns the model, fed by a queue of one batch, so that exactly one is ready while
//! another is computed.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::encoder::{EncodeError, Encoder, EncoderSpec, MakeEncoder};
use crate::meter::{Meter, Stage};
use crate::packing::pack;
use crate::vectors;

/// Packed sequences.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    /// Token ids, end to end.
    pub(crate) ids: Vec<u32>,
    /// How many of them each sequence has.
    pub(crate) lengths: Vec<u32>,
}

/// What became of a batch: its vectors row-major, and which rows have none that is usable.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) vectors: Vec<f32>,
    pub(crate) bad_rows: Vec<usize>,
}

struct Request {
    batch: Batch,
    reply: oneshot::Sender<Result<Encoded, EncodeError>>,
}

/// A handle to the encode thread.
#[derive(Clone)]
pub(crate) struct Device {
    queue: mpsc::Sender<Request>,
}

impl Device {
    /// Starts the thread, loads the model on it and runs its self-test.
    pub(crate) async fn start(
        spec: EncoderSpec,
        make: MakeEncoder,
        budget_tokens: usize,
        meter: Arc<Meter>,
    ) -> Result<Self, EncodeError> {
        let (queue, requests) = mpsc::channel(1);
        let (ready, loaded) = oneshot::channel();
        let thread = std::thread::Builder::new().name("encode".into());
        let spawned = thread.spawn(move || {
            let encoder = meter.time(Stage::Load, || {
                let mut encoder = make(&spec)?;
                encoder.self_test()?;
                Ok::<_, EncodeError>(encoder)
            });
            match encoder {
                Ok(encoder) => {
                    let normalised = spec.vectors.normalised;
                    let width = spec.vectors.width as usize;
                    let owner = Owner { encoder, width, normalised, budget_tokens, meter };
                    if ready.send(Ok(())).is_ok() {
                        owner.serve(requests);
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        spawned.map_err(|e| EncodeError::Device(format!("no thread for the model: {e}")))?;
        loaded.await.unwrap_or_else(|_| Err(EncodeError::Device("the model's thread ended while loading".into())))?;
        Ok(Device { queue })
    }

    /// Puts a batch in the queue, waiting for its place there; the answer comes later.
    pub(crate) async fn submit(&self, batch: Batch) -> oneshot::Receiver<Result<Encoded, EncodeError>> {
        let (reply, answer) = oneshot::channel();
        // Without a thread the request is dropped, and with it the reply: the answer says so.
        let _ = self.queue.send(Request { batch, reply }).await;
        answer
    }
}

struct Owner {
    encoder: Box<dyn Encoder>,
    width: usize,
    normalised: bool,
    /// Tokens per batch; halved for good whenever the device has too little memory.
    budget_tokens: usize,
    meter: Arc<Meter>,
}

impl Owner {
    fn serve(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut waiting_since: Option<Instant> = None;
        while let Some(request) = requests.blocking_recv() {
            if let Some(since) = waiting_since {
                self.meter.add(Stage::Idle, since.elapsed());
            }
            let start = Instant::now();
            let answer = self.encode(&request.batch);
            self.meter.add(Stage::Encode, start.elapsed());
            waiting_since = Some(Instant::now());
            let broken = matches!(answer, Err(EncodeError::Device(_)));
            let _ = request.reply.send(answer);
            if broken {
                return;
            }
        }
    }

    fn encode(&mut self, batch: &Batch) -> Result<Encoded, EncodeError> {
        let tokens = batch.ids.len();
        let vectors = self.encode_within_budget(batch)?;
        self.meter.count(batch.lengths.len(), tokens, self.encoder.computed_tokens(tokens));
        self.mend(batch, vectors)
    }

    fn encode_within_budget(&mut self, batch: &Batch) -> Result<Vec<f32>, EncodeError> {
        let mut vectors = Vec::with_capacity(batch.lengths.len() * self.width);
        let mut done = 0;
        let mut ids = &batch.ids[..];
        while done < batch.lengths.len() {
            let rows = pack(&batch.lengths[done..], self.budget_tokens.max(1))[0].len();
            let lengths = &batch.lengths[done..done + rows];
            let tokens = lengths.iter().map(|l| *l as usize).sum::<usize>();
            match self.encoder.encode(&ids[..tokens], lengths) {
                Ok(found) => {
                    vectors.extend(found);
                    done += rows;
                    ids = &ids[tokens..];
                }
                Err(EncodeError::OutOfMemory(why)) if rows > 1 => {
                    self.budget_tokens = (tokens / 2).max(1);
                    tracing::warn!(budget_tokens = self.budget_tokens, why, "out of device memory, smaller batches");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(vectors)
    }

    /// Computes again, alone and in float32, whatever is not a usable vector.
    fn mend(&mut self, batch: &Batch, mut vectors: Vec<f32>) -> Result<Encoded, EncodeError> {
        let mut bad_rows = Vec::new();
        let mut start = 0;
        for (row, &length) in batch.lengths.iter().enumerate() {
            let ids = &batch.ids[start..start + length as usize];
            start += length as usize;
            let place = row * self.width..(row + 1) * self.width;
            if vectors::is_usable(&vectors[place.clone()], self.normalised) {
                continue;
            }
            let again = self.encoder.encode_again(ids, &[length])?;
            if vectors::is_usable(&again, self.normalised) {
                vectors[place].copy_from_slice(&again);
            } else {
                bad_rows.push(row);
            }
        }
        Ok(Encoded { vectors, bad_rows })
    }
}

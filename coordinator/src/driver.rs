//! The one owner of the scheduler and of the clock: takes messages in turn, tells the scheduler, does what it asks for, and
//! ends the job.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gristmill_job::{Blame, DeadReason, Exit, FORMAT, Failure, Segments, Slot};
use gristmill_proto::v1;
use gristmill_store::documents::{DeadCounts, StrikeDocument};
use gristmill_store::{documents, fresh_nonce, keys};
use tokio::sync::{mpsc, watch};

use crate::acts;
use crate::messages::{Ended, JobProgress, Message, Settings};
use crate::prepare::Prepared;
use crate::recovery::Recovered;
use crate::scheduler::{Effect, Finish, Limits, LookUp, Lost, Scheduler, WorkerId};

struct WorkerRecord {
    pid: u32,
    progress: v1::Progress,
    gone: bool,
}

/// One run of a job, from recovery to its end.
pub(crate) struct Run {
    scheduler: Scheduler,
    job: Arc<acts::JobStore>,
    settings: Settings,
    start: Instant,
    driver: mpsc::Sender<Message>,
    published: watch::Sender<JobProgress>,
    progress: JobProgress,
    workers: BTreeMap<WorkerId, WorkerRecord>,
    /// Where the strike of an attempt was written.
    strikes: BTreeMap<(Slot, u64), String>,
    ended: Option<Ended>,
}

impl Run {
    pub(crate) fn new(
        prepared: &Prepared,
        recovered: Recovered,
        settings: Settings,
        driver: mpsc::Sender<Message>,
        published: watch::Sender<JobProgress>,
    ) -> Self {
        let heartbeat_ms = settings.heartbeat.as_millis() as u64;
        // The third shard is the one whose part is being stored.
        let limits = Limits { heartbeat_ms, lease_ms: 3 * heartbeat_ms, held_max: 3, ..Limits::default() };
        let progress = JobProgress {
            rows_total: prepared.plan.rows(),
            rows_done: recovered.rows_done,
            rows_before: recovered.rows_done,
            ..JobProgress::default()
        };
        Run {
            scheduler: Scheduler::new(limits, recovered.open),
            job: Arc::new(acts::JobStore::new(prepared, settings.compression)),
            settings,
            start: Instant::now(),
            driver,
            published,
            progress,
            workers: BTreeMap::new(),
            strikes: BTreeMap::new(),
            ended: None,
        }
    }

    pub(crate) async fn finish_job(mut self, mut messages: mpsc::Receiver<Message>) -> Ended {
        loop {
            self.act().await;
            self.publish();
            if self.scheduler.done() {
                return Ended::Complete;
            }
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            let now_ms = self.now_ms();
            let due_ms = self.scheduler.next_deadline_ms().unwrap_or(now_ms + 1000);
            let nap = Duration::from_millis(due_ms.saturating_sub(now_ms).clamp(1, 1000));
            tokio::select! {
                message = messages.recv() => {
                    let Some(message) = message else { continue };
                    self.hear(message);
                }
                () = tokio::time::sleep(nap) => {}
            }
            let now_ms = self.now_ms();
            self.scheduler.tick(now_ms);
            self.lose_patience(now_ms);
        }
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn hear(&mut self, message: Message) {
        let now_ms = self.now_ms();
        match message {
            Message::Join { pid, reply } => {
                let worker = WorkerId(self.workers.len() as u64 + 1);
                self.workers.insert(worker, WorkerRecord { pid, progress: v1::Progress::default(), gone: false });
                self.scheduler.join(worker, now_ms);
                let _ = reply.send(worker);
            }
            Message::Claim { worker, self_tested, reply } => {
                if self_tested {
                    self.scheduler.self_tested(worker);
                }
                let _ = reply.send(self.scheduler.claim(worker, now_ms));
            }
            Message::Heartbeat { worker, held, progress, reply } => {
                self.note(worker, progress);
                let unwanted = self.scheduler.renew(worker, &held, now_ms);
                let dropped = held.iter().filter(|h| unwanted.contains(&h.slot)).map(|h| h.attempt).collect();
                let _ = reply.send(self.scheduler.knows(worker).then_some(dropped));
            }
            Message::Finish { worker, slot, attempt, finish, dead, progress, reply } => {
                self.note(worker, progress);
                self.count_dead(&dead);
                self.finish(worker, slot, attempt, finish, now_ms);
                let _ = reply.send(());
            }
            Message::Leave { worker, progress, failure, reply } => {
                self.note(worker, progress);
                self.leave(worker, failure, now_ms);
                let _ = reply.send(());
            }
            Message::ProcessDied { pid, how } => self.process_died(pid, &how, now_ms),
            Message::Found { slot, found } => match found {
                Ok(found) => self.scheduler.looked_up(&slot, found, now_ms),
                Err(error) => self.stop(error.exit(), error.to_string()),
            },
            Message::ReadBack { worker, slot, attempt, finish } => {
                self.scheduler.finish(worker, &slot, attempt, finish, now_ms);
            }
            Message::Stop { exit, message } => self.stop(exit, message),
        }
    }

    fn finish(&mut self, worker: WorkerId, slot: Slot, attempt: u64, finish: Finish, now_ms: u64) {
        match finish {
            Finish::Failed(Failure { fatal: Some(fatal), message, .. }) => self.stop(fatal.exit(), message),
            // Children open only after their parent has been read back.
            Finish::Committed { children, ours } if !children.is_empty() => {
                self.progress.parts += u64::from(ours);
                let (job, driver) = (Arc::clone(&self.job), self.driver.clone());
                tokio::spawn(async move {
                    let message = match job.look_up(&slot).await {
                        Ok(LookUp::Committed { children }) => {
                            Message::ReadBack { worker, slot, attempt, finish: Finish::Committed { children, ours } }
                        }
                        found => Message::Found { slot, found },
                    };
                    let _ = driver.send(message).await;
                });
            }
            finish => {
                self.progress.parts += u64::from(matches!(finish, Finish::Committed { ours: true, .. }));
                self.scheduler.finish(worker, &slot, attempt, finish, now_ms);
            }
        }
    }

    fn leave(&mut self, worker: WorkerId, failure: Option<Failure>, now_ms: u64) {
        if let Some(record) = self.workers.get_mut(&worker) {
            record.gone = true;
        }
        self.scheduler.lost(worker, Lost::Left, now_ms);
        if let Some(failure) = failure {
            tracing::error!(worker = worker.0, message = failure.message, "a worker left");
            if let Some(fatal) = failure.fatal {
                self.stop(fatal.exit(), failure.message);
            } else if failure.blame == Blame::Worker {
                let message = format!("worker {} cannot go on: {}", worker.0, failure.message);
                let alive = self.workers.values().any(|record| !record.gone);
                if !alive {
                    self.stop(Exit::Device, message);
                }
            }
        }
    }

    fn process_died(&mut self, pid: u32, how: &str, now_ms: u64) {
        let died: Vec<WorkerId> =
            self.workers.iter().filter(|(_, record)| record.pid == pid && !record.gone).map(|(id, _)| *id).collect();
        for worker in died {
            tracing::warn!(worker = worker.0, pid, how, "a worker died");
            self.progress.deaths += 1;
            if let Some(record) = self.workers.get_mut(&worker) {
                record.gone = true;
            }
            self.scheduler.lost(worker, Lost::Died, now_ms);
        }
    }

    /// Does what the scheduler asks for. Requests to the store run beside the loop; their answers come as messages.
    async fn act(&mut self) {
        for effect in self.scheduler.effects() {
            match effect {
                Effect::LookUp { slot } => self.spawn(slot.clone(), |job| async move { job.look_up(&slot).await }),
                Effect::Split { slot, segments, children } => {
                    self.spawn(slot.clone(), |job| async move { job.split(&slot, segments, children).await });
                }
                Effect::Bury { slot, segments } => {
                    self.count_dead(&DeadCounts::from([(DeadReason::Poison, segments.total_rows())]));
                    self.spawn(slot.clone(), |job| async move { job.bury(&slot, segments).await });
                }
                Effect::Strike { slot, attempt, failure, .. } => self.strike(slot, attempt, failure).await,
                Effect::Forgive { slot, attempt, .. } => {
                    if let Some(key) = self.strikes.remove(&(slot, attempt)) {
                        self.job.out.remove(&key).await;
                    }
                }
            }
        }
    }

    fn spawn<F>(&self, slot: Slot, act: impl FnOnce(Arc<acts::JobStore>) -> F)
    where
        F: Future<Output = Result<LookUp, acts::ActError>> + Send + 'static,
    {
        let (work, driver) = (act(Arc::clone(&self.job)), self.driver.clone());
        tokio::spawn(async move {
            let found = work.await;
            let _ = driver.send(Message::Found { slot, found }).await;
        });
    }

    async fn strike(&mut self, slot: Slot, attempt: u64, failure: Failure) {
        tracing::warn!(%slot, rows = failure.in_hand.total_rows(), message = failure.message, "a strike");
        let key = keys::strike(&slot, fresh_nonce());
        let document = StrikeDocument { format: FORMAT, slot: slot.clone(), failure };
        match documents::create(&self.job.out, &key, &document).await {
            Ok(_) => drop(self.strikes.insert((slot, attempt), key)),
            // A restart would begin counting anew; nothing is lost by that but time.
            Err(error) => tracing::warn!(%error, "a strike could not be written down"),
        }
    }

    /// A job that cannot be sealed any more ends at once.
    fn count_dead(&mut self, dead: &DeadCounts) {
        for (reason, rows) in dead {
            *self.progress.dead.entry(*reason).or_default() += rows;
        }
        if let Err(error) = self.settings.dead_limits.check(&self.progress.dead, self.progress.rows_total) {
            self.stop(Exit::NeedsAttention, error.to_string());
        }
    }

    fn note(&mut self, worker: WorkerId, progress: v1::Progress) {
        if let Some(record) = self.workers.get_mut(&worker) {
            record.progress = progress;
        }
    }

    fn stop(&mut self, exit: Exit, message: String) {
        self.ended.get_or_insert(Ended::Stopped { exit, message });
    }

    fn lose_patience(&mut self, now_ms: u64) {
        let patience_ms = self.settings.patience.as_millis() as u64;
        let progress = self.scheduler.progress();
        let minutes = self.settings.patience.as_secs() / 60;
        if progress.deserted_since_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) > patience_ms) {
            self.stop(Exit::NoProgress, format!("no worker for {minutes} minutes; run again to go on"));
        } else if now_ms.saturating_sub(progress.progressed_ms) > patience_ms {
            self.stop(Exit::NoProgress, format!("no progress for {minutes} minutes; run again to go on"));
        }
    }

    fn publish(&mut self) {
        let progress = self.scheduler.progress();
        self.progress.rows_done = self.progress.rows_before + progress.rows_done + progress.rows_under_way;
        self.progress.workers = progress.workers;
        self.progress.work = self.workers.values().fold(v1::Progress::default(), |sum, w| sum_of(&sum, &w.progress));
        self.published.send_replace(self.progress.clone());
    }
}

fn sum_of(a: &v1::Progress, b: &v1::Progress) -> v1::Progress {
    v1::Progress {
        rows: a.rows + b.rows,
        tokens: a.tokens + b.tokens,
        filled_tokens: a.filled_tokens + b.filled_tokens,
        read_us: a.read_us + b.read_us,
        tokenize_us: a.tokenize_us + b.tokenize_us,
        encode_us: a.encode_us + b.encode_us,
        write_us: a.write_us + b.write_us,
        idle_us: a.idle_us + b.idle_us,
        load_us: a.load_us + b.load_us,
    }
}

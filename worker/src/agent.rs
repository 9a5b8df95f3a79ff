//! The worker as its coordinator sees it: joins, claims, beats, reports, drains. The heartbeat is a task of its own, so that
//! a busy worker is never taken for a dead one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use gristmill_job::{Blame, Exit, Failure, Fatal, Segment};
use gristmill_proto::v1::coordinator_client::CoordinatorClient;
use gristmill_proto::v1::{self, claim_reply::Answer, finish_request};
use gristmill_proto::{PROTOCOL, failure_to_wire};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex as TurnMutex, Notify, watch};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::args::WorkArgs;
use crate::attempt::{self, AttemptState, Context, Outcome};
use crate::device::Device;
use crate::encoder::{EncodeError, EncoderSpec, MakeEncoder};
use crate::job::Job;
use crate::meter::Meter;
use crate::read::Announce;
use crate::tokenize::Tokenizer;

/// Shards whose rows are read or encoded at one time: the one on the device and the next.
const SHARDS_AHEAD: usize = 2;
/// How often a call is tried before the coordinator is taken for gone.
const CALL_TRIES: u32 = 8;

/// Works for the coordinator until it has nothing more, or the worker is told to leave.
pub async fn run(args: WorkArgs, make: MakeEncoder) -> anyhow::Result<Exit> {
    let address = args.coordinator.clone().context("name the coordinator with --coordinator")?;
    let stranger = Arc::new(AtomicBool::new(false));
    let draining = drain_signal(args.leave_with_stdin.then(|| Arc::clone(&stranger)))?;
    let endpoint = Endpoint::from_shared(address.clone())
        .with_context(|| format!("`{address}` is not the address of a coordinator"))?
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(30))
        .http2_keep_alive_interval(Duration::from_secs(10));
    let mut client = CoordinatorClient::new(endpoint.connect_lazy());
    let join = v1::JoinRequest { protocol: PROTOCOL, pid: std::process::id() };
    let reply = call(&stranger, || {
        let mut client = client.clone();
        async move { client.join(join).await }
    })
    .await
    .with_context(|| format!("the coordinator at {address} does not take this worker"))?;
    let meter = Arc::new(Meter::default());
    let beat_now = Arc::new(Notify::new());
    let hand = Arc::new(Hand {
        client: client.clone(),
        worker: reply.worker,
        meter: Arc::clone(&meter),
        attempts: Mutex::default(),
        beating: TurnMutex::new(()),
        beat_now: Arc::clone(&beat_now),
        stranger,
    });
    let beat = tokio::spawn(Arc::clone(&hand).beat(Duration::from_millis(u64::from(reply.heartbeat_ms.max(1)))));
    let exit = match prepare(&args, &reply, make, meter, draining, beat_now).await {
        Ok(context) => work(&hand, Arc::new(context)).await,
        Err(error) => {
            let on_device = matches!(error.downcast_ref(), Some(EncodeError::Device(_) | EncodeError::OutOfMemory(_)));
            let fatal = (!on_device).then_some(Fatal::ModelUnusable);
            let exit = fatal.map_or(Exit::Device, Fatal::exit);
            let failure = Failure { blame: Blame::Worker, fatal, message: format!("{error:#}"), in_hand: vec![] };
            Leaving { exit, failure: Some(failure) }
        }
    };
    beat.abort();
    if let Some(failure) = &exit.failure {
        tracing::error!(message = failure.message, "leaving");
    }
    let leave = v1::LeaveRequest {
        worker: hand.worker,
        progress: Some(hand.meter.progress()),
        failure: exit.failure.as_ref().map(failure_to_wire).unwrap_or_default(),
    };
    // A coordinator that is gone needs no goodbye.
    let _ = client.leave(leave).await;
    Ok(exit.exit)
}

struct Leaving {
    exit: Exit,
    failure: Option<Failure>,
}

async fn prepare(
    args: &WorkArgs,
    reply: &v1::JoinReply,
    make: MakeEncoder,
    meter: Arc<Meter>,
    draining: watch::Receiver<bool>,
    beat_now: Arc<Notify>,
) -> anyhow::Result<Context> {
    let job = Job::open(reply, args.model.as_deref()).await?;
    let spec = &job.document.spec;
    let (path, text) = (job.checkpoint.tokenizer.clone(), spec.text.clone());
    let tokenizer = tokio::task::spawn_blocking(move || Tokenizer::open(&path, &text)).await??;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let encoder = EncoderSpec {
        config: job.checkpoint.config.clone(),
        weights: job.checkpoint.weights.clone(),
        vectors: spec.vectors.clone(),
        device: args.device,
        threads: args.threads.unwrap_or(cores),
    };
    let device = Device::start(encoder, make, args.budget_tokens, Arc::clone(&meter)).await?;
    Ok(Context {
        job,
        tokenizer: Arc::new(tokenizer),
        device,
        budget_tokens: args.budget_tokens,
        meter,
        turn: TurnMutex::new(()),
        freed: Notify::new(),
        beat_now,
        draining,
    })
}

async fn work(hand: &Arc<Hand>, context: Arc<Context>) -> Leaving {
    let mut running: JoinSet<(Arc<AttemptState>, Outcome)> = JoinSet::new();
    let mut draining = context.draining.clone();
    let mut finished = false;
    let mut store_failures = 0;
    loop {
        let is_draining = *draining.borrow() || hand.stranger.load(Relaxed);
        if (finished || is_draining) && running.is_empty() {
            let exit = if finished || !is_draining { Exit::Done } else { Exit::Interrupted };
            return Leaving { exit, failure: None };
        }
        let mut wait = Duration::from_secs(3600);
        if !finished && !is_draining && hand.busy() < SHARDS_AHEAD {
            match hand.claim().await {
                Ok(Some(Answer::Grant(grant))) => {
                    start_attempt(hand, &context, grant, &mut running);
                    continue;
                }
                Ok(Some(Answer::WaitMs(wait_ms))) => wait = Duration::from_millis(u64::from(wait_ms)),
                Ok(Some(Answer::Finished(_))) => finished = true,
                Ok(None) => wait = Duration::from_secs(1),
                Err(status) => {
                    tracing::warn!(%status, "the coordinator does not answer, leaving when everything held is committed");
                    hand.stranger.store(true, Relaxed);
                }
            }
            if finished || hand.stranger.load(Relaxed) {
                continue;
            }
        }
        tokio::select! {
            Some(ended) = running.join_next() => match ended {
                Ok((state, outcome)) => match hand.report(&state, outcome).await {
                    Reported::GoOn => store_failures = 0,
                    Reported::StoreFailed => {
                        store_failures += 1;
                        gristmill_store::backoff(store_failures).await;
                    }
                    Reported::Broken(failure) => return Leaving { exit: Exit::Device, failure: Some(failure) },
                },
                Err(error) => {
                    let message = format!("an attempt panicked: {error}");
                    let failure = Failure { blame: Blame::Unknown, fatal: None, message, in_hand: vec![] };
                    return Leaving { exit: Exit::Internal, failure: Some(failure) };
                }
            },
            _ = draining.changed() => {}
            // An attempt that has left the device makes room for another claim before it has committed.
            () = context.freed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn start_attempt(
    hand: &Arc<Hand>,
    context: &Arc<Context>,
    grant: v1::Grant,
    running: &mut JoinSet<(Arc<AttemptState>, Outcome)>,
) {
    let Ok(slot) = grant.slot.parse() else {
        tracing::error!(slot = grant.slot, "the coordinator granted a slot that is none");
        return;
    };
    let state = Arc::new(AttemptState::new(slot, grant.attempt));
    hand.attempts().insert(grant.attempt, Arc::clone(&state));
    let (context, announce) = (Arc::clone(context), announcer(hand, &state));
    running.spawn(async move {
        let outcome = attempt::run(context, grant, Arc::clone(&state), announce).await;
        (state, outcome)
    });
}

/// Tells the coordinator which rows are about to be touched, and returns when it knows or cannot be told.
fn announcer(hand: &Arc<Hand>, state: &Arc<AttemptState>) -> Announce {
    let (hand, state) = (Arc::clone(hand), Arc::clone(state));
    let runtime = tokio::runtime::Handle::current();
    Arc::new(move |rows: Segment| {
        state.announce(rows);
        runtime.block_on(hand.beat_once());
    })
}

/// What the worker holds, and its way to the coordinator.
struct Hand {
    client: CoordinatorClient<Channel>,
    worker: u64,
    meter: Arc<Meter>,
    attempts: Mutex<BTreeMap<u64, Arc<AttemptState>>>,
    /// One heartbeat at a time, or an old one could arrive behind an announcement and name other rows.
    beating: TurnMutex<()>,
    /// A shard came to the device: told at once, or a death would be blamed on the one before it.
    beat_now: Arc<Notify>,
    /// The coordinator is gone, does not answer or does not know us: finish and leave.
    stranger: Arc<AtomicBool>,
}

enum Reported {
    GoOn,
    StoreFailed,
    Broken(Failure),
}

impl Hand {
    fn attempts(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<AttemptState>>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attempts that have not left the device.
    fn busy(&self) -> usize {
        self.attempts().values().filter(|state| !state.encoded.load(Relaxed)).count()
    }

    async fn beat(self: Arc<Self>, period: Duration) {
        let mut ticks = tokio::time::interval(period);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.beat_now.notified() => {}
            }
            self.beat_once().await;
        }
    }

    async fn beat_once(&self) {
        let _alone = self.beating.lock().await;
        let held = self.attempts().values().map(|state| state.held()).collect();
        let request = v1::HeartbeatRequest { worker: self.worker, held, progress: Some(self.meter.progress()) };
        match self.client.clone().heartbeat(request).await {
            Ok(reply) => {
                let reply = reply.into_inner();
                self.stranger.fetch_or(reply.unknown_worker, Relaxed);
                for attempt in reply.dropped_attempts {
                    if let Some(state) = self.attempts().get(&attempt) {
                        state.dropped.store(true, Relaxed);
                    }
                }
            }
            Err(status) => tracing::debug!(%status, "a heartbeat was not heard"),
        }
    }

    async fn claim(&self) -> Result<Option<Answer>, tonic::Status> {
        let request = v1::ClaimRequest { worker: self.worker, self_tested: true };
        let reply = call(&self.stranger, || {
            let mut client = self.client.clone();
            async move { client.claim(request).await }
        });
        Ok(reply.await?.answer)
    }

    async fn report(&self, state: &AttemptState, outcome: Outcome) -> Reported {
        self.attempts().remove(&state.attempt);
        let (next, outcome) = match outcome {
            Outcome::Committed(committed) => (Reported::GoOn, finish_request::Outcome::Committed(committed)),
            Outcome::Returned => (Reported::GoOn, finish_request::Outcome::Returned(true)),
            Outcome::Failed(failure) => {
                tracing::warn!(slot = %state.slot, blame = ?failure.blame, message = failure.message, "the attempt failed");
                let next = match failure.blame {
                    Blame::Store => Reported::StoreFailed,
                    Blame::Worker => Reported::Broken(failure.clone()),
                    Blame::Input | Blame::Unknown => Reported::GoOn,
                };
                let failure = v1::Failed { failure: failure_to_wire(&failure) };
                (next, finish_request::Outcome::Failed(failure))
            }
        };
        let request = v1::FinishRequest {
            worker: self.worker,
            slot: state.slot.to_string(),
            attempt: state.attempt,
            outcome: Some(outcome),
            progress: Some(self.meter.progress()),
        };
        let told = call(&self.stranger, || {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.finish(request).await }
        });
        if let Err(status) = told.await {
            // What counts stands in the store; the coordinator will find it there.
            tracing::warn!(slot = %state.slot, %status, "the coordinator does not hear how the attempt ended");
            self.stranger.store(true, Relaxed);
        }
        next
    }
}

/// Calls the coordinator, again where it was not reached, unless it is known to be gone.
async fn call<T, F>(gone: &AtomicBool, request: impl Fn() -> F) -> Result<T, tonic::Status>
where
    F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let mut tries = 0;
    loop {
        tries += 1;
        match request().await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) if tries < CALL_TRIES && is_passing(&status) && !gone.load(Relaxed) => {
                gristmill_store::backoff(tries).await
            }
            Err(status) => return Err(status),
        }
    }
}

fn is_passing(status: &tonic::Status) -> bool {
    use tonic::Code;
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// Becomes true on SIGTERM, SIGINT or, where a coordinator holds the other end, when stdin ends: then it is `gone`. A second
/// signal ends the process at once.
fn drain_signal(gone: Option<Arc<AtomicBool>>) -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let sender = Arc::new(sender);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let sender = Arc::clone(&sender);
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if sender.send_replace(true) {
                    std::process::exit(Exit::Interrupted as i32);
                }
            }
        });
    }
    if let Some(gone) = gone {
        tokio::spawn(async move {
            let mut sink = [0; 64];
            let mut stdin = tokio::io::stdin();
            while matches!(stdin.read(&mut sink).await, Ok(1..)) {}
            gone.store(true, Relaxed);
            sender.send_replace(true);
        });
    }
    Ok(receiver)
}

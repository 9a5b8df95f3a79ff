//! `gristmill embed`: the whole system on one machine. The coordinator runs here on a loopback port; each device has a
//! `gristmill-worker` process of its own, so that a crash takes a worker and never the run.

pub(crate) mod crew;
mod report;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use gristmill_coordinator::planner::shard_tokens;
use gristmill_coordinator::prepare::{ModelInfo, PrepareError, Prepared, Request, prepare};
use gristmill_coordinator::seal::{DeadLimits, seal};
use gristmill_coordinator::{Ended, Handle, ServeError, Settings, serve};
use gristmill_job::{Compression, Compute, Device, Exit, Residual, SpecialTokens, VectorType};
use gristmill_store::checkpoint::Checkpoint;
use gristmill_store::{Location, StoreError, keys};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::corpus::CorpusArgs;
use crate::fault::{Fault, OrFault};
use crew::{Crew, Gone};
use report::Report;

/// Embeds a Parquet corpus; run again to go on where a run was interrupted
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  gristmill embed corpus.parquet --model C2LLM-0.5B --output vectors
  gristmill embed 'data/*.parquet' --model C2LLM-0.5B --output vectors --columns repository,path --dtype f16
  gristmill embed corpus/ --model C2LLM-0.5B --output vectors --json | tail -1

Exit codes: 0 sealed; 2 usage; 3 input; 4 the output holds another job; 5 a person must look; 6 no progress;
7 device; 130 interrupted.")]
pub(crate) struct Args {
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Folder of the model: config.json, tokenizer.json, safetensors
    #[arg(long, value_name = "DIR", env = "GRISTMILL_MODEL")]
    model: PathBuf,
    /// Where the vectors go: a folder of its own
    #[arg(long, value_name = "DIR")]
    output: String,
    /// Strings such as <|endoftext|> in a text become the special ids (parse) or are text like any other (text)
    #[arg(long, default_value = "parse")]
    special_tokens: SpecialTokens,
    /// Arithmetic of the decoder: bf16, f32
    #[arg(long, default_value = "bf16")]
    compute: Compute,
    /// Type of the vectors' components: f32, f16
    #[arg(long, default_value = "f32")]
    dtype: VectorType,
    /// Compression of the output's columns: zstd, lz4, snappy, none
    #[arg(long, default_value = "zstd")]
    compression: Compression,
    /// What pooling adds to the attended values: projected (C2LLM), seed (its older sisters)
    #[arg(long, default_value = "projected")]
    residual: Residual,
    /// Where the model runs: auto, cpu
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Threads of the model; all cores by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Tokens per batch at most
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    budget_tokens: u32,
    /// Share of rows that may lack a text before the job is not sealed
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    max_missing_text: f64,
    /// Share of rows that may be dead for any other reason; ten rows always may
    #[arg(long, value_name = "SHARE", default_value_t = 0.001, value_parser = share)]
    max_dead: f64,
    /// Minutes without a worker or without progress after which the run ends
    #[arg(long, value_name = "MINUTES", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    patience: u64,
    /// Print events as JSON lines: start, progress, summary
    #[arg(long)]
    json: bool,
    /// Encoded MiB at which a part is committed and the rest of its shard handed back
    #[arg(long, value_name = "MIB", default_value_t = 256, hide = true)]
    part_mib: u64,
    /// Seconds between heartbeats
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, hide = true)]
    heartbeat: f64,
    /// The worker's program; by default `gristmill-worker` beside this one, or on the PATH
    #[arg(long, value_name = "FILE", env = "GRISTMILL_WORKER", hide = true)]
    worker: Option<PathBuf>,
}

/// A share from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a share is a number from 0 to 1".to_owned())
}

/// How long workers may take to finish what they hold once the run has ended.
const GRACE: Duration = Duration::from_secs(60);
/// Deaths in a row, without a row done between them, after which the workers' machine is at fault.
const DEATHS_IN_A_ROW_MAX: u32 = 20;
/// Workers in a row that end without having done anything, after which it makes no sense to start another.
const FAILED_STARTS_MAX: u32 = 3;

pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let worker = crew::find_worker(args.worker.as_deref())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let exit = runtime.block_on(embed(args, worker));
    runtime.shutdown_timeout(Duration::from_millis(200));
    exit
}

async fn embed(args: &Args, worker: PathBuf) -> anyhow::Result<Exit> {
    let signals = Signals::listen()?;
    let request = request(args)?;
    let out = output(args)?;
    let prepared = prepare(&out, &request).await.map_err(|error| Fault::of(exit_of(&error), error))?;
    let mut report = Report::new(args.json);
    report.start(&prepared);
    let limits = DeadLimits { missing_text_share: args.max_missing_text, other_share: args.max_dead, other_rows: 10 };
    if prepared.sealed.is_some() {
        // Sealing again changes nothing, and finds out whether everything still stands.
        let sealed = seal(&out, &prepared.document, &prepared.plan, &limits).await;
        let manifest = sealed.map_err(|error| {
            let message = format!(
                "{} was sealed and is damaged: {error}; `gristmill verify` names the damage, and without {} a run computes \
                 what is missing",
                out.url(),
                out.describe(keys::MANIFEST)
            );
            Fault::told(Exit::Damaged, message)
        })?;
        report.already_sealed(&prepared, &manifest);
        return Ok(Exit::Done);
    }
    let settings = Settings {
        dead_limits: limits,
        compression: args.compression,
        part_bytes: args.part_mib << 20,
        heartbeat: Duration::from_secs_f64(args.heartbeat.clamp(0.05, 3600.0)),
        patience: Duration::from_secs(args.patience * 60),
    };
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut handle = serve(&prepared, loopback, settings).await.map_err(|error| {
        let exit = if matches!(error, ServeError::Busy { .. }) { Exit::NeedsAttention } else { Exit::NoProgress };
        Fault::of(exit, error)
    })?;
    let mut crew = Crew::new(worker, worker_options(args, &handle.address), 1);
    if handle.open > 0 {
        crew.fill()?;
    }
    let ended = watch(&mut handle, &mut crew, &mut report, signals).await?;
    crew.disband(matches!(ended, Ended::Complete), GRACE).await;
    report.finish_bar();
    let progress = handle.progress.borrow().clone();
    handle.close();
    match ended {
        Ended::Stopped { exit, message } => Err(Fault::told(exit, message)),
        Ended::Complete => {
            let sealed = seal(&out, &prepared.document, &prepared.plan, &limits).await;
            let manifest = sealed.map_err(|error| Fault::of(error.exit(), error))?;
            report.summary(&prepared, &manifest, &progress);
            Ok(Exit::Done)
        }
    }
}

/// Keeps the crew at work until the run ends.
async fn watch(
    handle: &mut Handle,
    crew: &mut Crew,
    report: &mut Report,
    mut signals: Signals,
) -> anyhow::Result<Ended> {
    let (mut deaths, mut failed_starts, mut rows_seen) = (0, 0, 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            ended = handle.ended() => return Ok(ended),
            _ = ticks.tick() => report.progress(&handle.progress.borrow()),
            () = signals.any() => {
                let message = "interrupted; what is committed stays, run again to go on".to_owned();
                handle.stop(Exit::Interrupted, message).await;
            }
            Gone { pid, status, died } = crew.gone() => {
                let how = format!("{status}");
                handle.process_died(pid, how.clone()).await;
                let rows = handle.progress.borrow().work.rows;
                if rows > rows_seen {
                    (deaths, failed_starts, rows_seen) = (0, 0, rows);
                }
                if died {
                    deaths += 1;
                } else {
                    failed_starts += 1;
                }
                if deaths > DEATHS_IN_A_ROW_MAX || failed_starts >= FAILED_STARTS_MAX {
                    let message = format!("workers keep ending before they embed anything; the last one: {how}");
                    handle.stop(Exit::Device, message).await;
                } else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    crew.fill()?;
                }
            }
        }
    }
}

/// The output: a folder of its own, or nothing yet.
fn output(args: &Args) -> anyhow::Result<Location> {
    let out = Location::open(&args.output).or_fault(Exit::Usage)?;
    let folder = out.local_folder();
    let refuse = |why: &str| Err(Fault::told(Exit::Usage, format!("--output {}: {why}", args.output)));
    if folder.as_ref().is_some_and(|folder| folder.is_file()) {
        return refuse("it is a file; name a folder");
    }
    if folder.is_some_and(|folder| args.model.canonicalize().is_ok_and(|model| model == folder)) {
        return refuse("it is the model's folder; an output needs one of its own");
    }
    Ok(out)
}

fn request(args: &Args) -> anyhow::Result<Request> {
    let checkpoint = Checkpoint::open(&args.model).or_fault(Exit::Input)?;
    for key in &checkpoint.unknown {
        tracing::warn!(key, "the model's config has a key that this version does not know");
    }
    if args.corpus.max_tokens as usize > checkpoint.config.max_positions {
        let (asked, most) = (args.corpus.max_tokens, checkpoint.config.max_positions);
        return Err(Fault::told(
            Exit::Usage,
            format!("--max-tokens {asked} is more than the model's {most} positions"),
        ));
    }
    let digest = checkpoint.digest().or_fault(Exit::Input)?;
    let tokens = args.corpus.shard_tokens.unwrap_or_else(|| shard_tokens(&checkpoint.config, cpu_flops(args)));
    Ok(Request {
        corpus: args.corpus.corpus(),
        prompt: args.corpus.prompt_text(),
        special_tokens: args.special_tokens,
        max_tokens: args.corpus.max_tokens,
        compute: args.compute,
        residual: args.residual,
        dtype: args.dtype,
        shard_tokens: tokens,
        model: ModelInfo { digest, config: checkpoint.config, unknown: checkpoint.unknown, folder: checkpoint.dir },
    })
}

/// What this machine's cores compute in a second, as a rough guess that only sizes shards.
fn cpu_flops(args: &Args) -> f64 {
    let cores =
        args.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), |n| n as usize);
    let per_core = match args.compute {
        Compute::Bf16 => 150e9,
        Compute::F32 => 60e9,
    };
    cores as f64 * per_core
}

fn worker_options(args: &Args, address: &str) -> Vec<String> {
    let mut options = vec!["--coordinator".to_owned(), address.to_owned(), "--leave-with-stdin".to_owned()];
    options.extend(["--device".to_owned(), args.device.to_string()]);
    options.extend(["--budget-tokens".to_owned(), args.budget_tokens.to_string()]);
    if let Some(threads) = args.threads {
        options.extend(["--threads".to_owned(), threads.to_string()]);
    }
    options
}

fn exit_of(error: &PrepareError) -> Exit {
    match error {
        PrepareError::Plan(_) | PrepareError::InputChanged { .. } => Exit::Input,
        PrepareError::SpecDiffers { .. } => Exit::SpecDiffers,
        PrepareError::Foreign(_) | PrepareError::Store(StoreError::Malformed { .. }) => Exit::NeedsAttention,
        PrepareError::Probe(_) | PrepareError::Store(_) | PrepareError::Sweep { .. } => Exit::NoProgress,
    }
}

/// SIGINT, SIGTERM and SIGHUP: the first ends the run in order, the second at once.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    heard: bool,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            heard: false,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
        if self.heard {
            std::process::exit(Exit::Interrupted as i32);
        }
        self.heard = true;
    }
}

/// A job as messages name it.
fn name(prepared: &Prepared) -> String {
    prepared.document.job.short()
}

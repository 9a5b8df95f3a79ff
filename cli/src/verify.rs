//! `gristmill verify`: whether an output holds what its job promised, from the store alone; with the input, and with the
//! model, also whether each row is what it should be.

mod recompute;

use std::path::PathBuf;

use clap::Parser;
use gristmill_coordinator::verify::{DamageKind, Report, VerifyOptions, verify};
use gristmill_job::{Device, Exit};
use gristmill_store::Location;
use serde_json::json;

use crate::fault::{Fault, OrFault};
use crate::speak::say;
use recompute::{Recomputed, Recomputer};

/// Open slots that are named; more are counted.
const OPEN_NAMED_MAX: usize = 20;

/// Check an output: every row of the job exactly once, and every byte as it was written
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  gristmill verify vectors
  gristmill verify vectors --input
  gristmill verify vectors --recompute 100 --model C2LLM-0.5B

Exit codes: 0 verified; 2 usage; 3 no job, or unreadable; 6 not sealed; 7 device; 8 damage found.")]
pub(crate) struct Args {
    /// The output: the folder that `gristmill embed` was given as --output
    #[arg(value_name = "OUTPUT")]
    output: String,
    /// Read the corpus again too, and compare the digest of every text and every carried value
    #[arg(long)]
    input: bool,
    /// Embed so many rows again, spread over the job, and compare the vectors
    #[arg(long, value_name = "N", default_value_t = 0, requires = "model")]
    recompute: u64,
    /// Folder of the job's model, for --recompute
    #[arg(long, value_name = "DIR", env = "GRISTMILL_MODEL")]
    model: Option<PathBuf>,
    /// Where the model runs: auto, cpu
    #[arg(long, default_value = "auto")]
    device: Device,
    /// Print the result as a JSON line
    #[arg(long)]
    json: bool,
    /// The worker's program; by default `gristmill-worker` beside this one, or on the PATH
    #[arg(long, value_name = "FILE", env = "GRISTMILL_WORKER", hide = true)]
    worker: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Runtime::new()?;
    let out = Location::open(&args.output).or_fault(Exit::Usage)?;
    let recomputer = match &args.model {
        Some(model) if args.recompute > 0 => {
            let worker = crate::embed::crew::find_worker(args.worker.as_deref())?;
            runtime.block_on(Recomputer::new(&out, model, args.device, worker))?
        }
        _ => None,
    };
    let options = VerifyOptions { input: args.input, samples: args.recompute, ..VerifyOptions::default() };
    let verified = runtime.block_on(verify(&out, &options));
    let mut report = verified.map_err(|error| Fault::of(error.exit(), error))?;
    let recomputed = recomputer.map(|recomputer| recomputer.compare(&mut report)).transpose()?;
    if args.json {
        print_json(&report, recomputed.as_ref());
    } else {
        print_text(&report, recomputed.as_ref());
    }
    Ok(report.exit())
}

fn print_json(report: &Report, recomputed: Option<&Recomputed>) {
    let mut summary = serde_json::to_value(report).expect("a report is plain data");
    let open: Vec<String> = report.open.iter().map(ToString::to_string).collect();
    summary["event"] = json!("summary");
    summary["exit"] = json!(report.exit() as u8);
    summary["job"] = json!(report.job.as_ref().map(|job| job.job));
    summary["open"] = json!(open);
    summary["recomputed"] = json!(recomputed);
    say!("{summary}");
}

fn print_text(report: &Report, recomputed: Option<&Recomputed>) {
    let verdict = match report.exit() {
        Exit::Done => "verified",
        Exit::Damaged => "DAMAGED",
        _ => "not sealed",
    };
    say!("{verdict:<13} {}", report.out);
    if let Some(job) = &report.job {
        say!("job           {} ({})", job.job.short(), job.model);
    }
    let dead: u64 = report.dead.values().sum();
    let reasons: Vec<String> = report.dead.iter().map(|(reason, rows)| format!("{} {rows}", reason.name())).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    say!("rows          {} of {}: {} vectors, {dead} dead{reasons}", report.rows, report.rows_planned, report.vectors);
    say!("parts         {}, {:.1} MiB", report.parts, report.bytes as f64 / f64::from(1 << 20));
    if report.compared > 0 {
        say!("compared      {} rows with the input", report.compared);
    }
    if let Some(Recomputed { rows, cosine_min, .. }) = recomputed {
        let lowest = cosine_min.map(|cosine| format!(", lowest cosine {cosine:.6}")).unwrap_or_default();
        say!("recomputed    {rows} rows{lowest}");
    }
    if report.leftovers > 0 {
        say!("leftovers     {} harmless objects of attempts that lost", report.leftovers);
    }
    for gap in report.open.iter().take(OPEN_NAMED_MAX) {
        say!("open          {gap}");
    }
    if report.open.len() > OPEN_NAMED_MAX {
        say!("open          and {} more slots", report.open.len() - OPEN_NAMED_MAX);
    }
    for damage in &report.damages {
        say!("damage        {damage}");
    }
    let unnamed = report.damages_found - report.damages.len() as u64;
    if unnamed > 0 {
        say!("damage        and {unnamed} more");
    }
    if report.damages.iter().any(|damage| damage.kind == DamageKind::Vector) {
        say!("              vectors differ from what this model computes now");
    }
}

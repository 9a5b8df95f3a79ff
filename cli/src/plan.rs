//! `gristmill plan`: what a corpus holds and how it would be cut, from its footers, without a model.

use clap::Parser;
use gristmill_coordinator::planner::{Estimate, survey};
use gristmill_job::{Compute, Exit, Residual, VectorSpec, VectorType};
use serde::Serialize;

use crate::corpus::CorpusArgs;
use crate::fault::OrFault;
use crate::speak::say;

/// Shard size for a device that is not known: two minutes of one H200 at the 0.5B shape.
const SHARD_TOKENS: u64 = 7_200_000;

/// Prints files, rows, bytes, estimated tokens and shards of a corpus, without a model
#[derive(Debug, Parser)]
#[command(after_help = "Example:
  gristmill plan corpus/ --limit 100000")]
pub(crate) struct Args {
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Print one JSON line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Summary {
    files: usize,
    rows: u64,
    bytes: u64,
    estimated_tokens: u64,
    shards: usize,
    text_column: String,
    columns: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Runtime::new()?;
    let survey = runtime.block_on(survey(&args.corpus.corpus())).or_fault(Exit::Input)?;
    // Without a model the width is not known; it matters only for how many rows fit a part.
    let vectors = VectorSpec {
        width: 896,
        dtype: VectorType::F32,
        normalised: true,
        compute: Compute::Bf16,
        residual: Residual::Projected,
    };
    let estimate = Estimate::new(&args.corpus.prompt_text(), args.corpus.max_tokens, &vectors);
    let plan = survey.plan(&estimate, args.corpus.shard_tokens.unwrap_or(SHARD_TOKENS));
    let summary = Summary {
        files: survey.objects.len(),
        rows: survey.rows(),
        bytes: survey.bytes(),
        estimated_tokens: plan.tokens(),
        shards: plan.shards.len(),
        text_column: survey.text_column.clone(),
        columns: survey.carried.iter().map(|field| field.name().clone()).collect(),
    };
    print(&summary, args.json)?;
    Ok(Exit::Done)
}

fn print(summary: &Summary, json: bool) -> anyhow::Result<()> {
    if json {
        say!("{}", serde_json::to_string(summary)?);
        return Ok(());
    }
    say!("files             {}", summary.files);
    say!("rows              {}", summary.rows);
    say!("bytes stored      {}", summary.bytes);
    say!("estimated tokens  {}", summary.estimated_tokens);
    say!("shards            {}", summary.shards);
    say!("text column       {}", summary.text_column);
    say!("carried columns   {}", summary.columns.join(", "));
    Ok(())
}

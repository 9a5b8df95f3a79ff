//! What people, and `gristmill embed`, type to start a worker.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use gristmill_job::{Compute, Device, Residual, SpecialTokens};

/// Embeds the shards that a coordinator hands out; `query` embeds lines instead.
#[derive(Debug, Parser)]
#[command(name = "gristmill-worker", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  gristmill-worker --coordinator http://127.0.0.1:4711
  echo 'read a file line by line' | gristmill-worker query --model C2LLM-0.5B --prompt codesearchnet")]
pub struct Args {
    /// Embed lines from stdin instead.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to work for a coordinator.
    #[command(flatten)]
    pub work: WorkArgs,
}

/// What else a worker does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Embeds lines of text, or of JSON, from stdin; prints a JSON line with the vector for each
    Query(QueryArgs),
}

/// Where and how to work.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkArgs {
    /// Address of the coordinator
    #[arg(long, value_name = "URL", env = "GRISTMILL_COORDINATOR")]
    pub coordinator: Option<String>,
    /// Folder of the model, where it lies elsewhere than the job says
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Where the model runs: auto, cpu
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Threads of the model; all cores by default
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Tokens per batch at most
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub budget_tokens: usize,
    /// Finish and leave when stdin ends: the coordinator that started this process is gone
    #[arg(long, hide = true)]
    pub leave_with_stdin: bool,
}

/// How to embed lines.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Input lines are texts, or JSON: an object with a \"text\" or a string. Each output line is
{\"vector\": [...], \"tokens\": N, \"cut_bytes\": N} in the order of the input; an empty text has no vector.

Exit codes: 0 answered; 2 usage; 3 input or model; 7 device.

Examples:
  echo 'sort a list in place' | gristmill-worker query --model C2LLM-0.5B --prompt codesearchnet
  gristmill-worker query --model C2LLM-0.5B --prompt document --json-lines < documents.jsonl")]
pub struct QueryArgs {
    /// Folder of the model
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Name of a prompt (document, codesearchnet, ...), or a literal prompt; empty for none
    #[arg(long, default_value = "codesearchnet")]
    pub prompt: String,
    /// Strings such as <|endoftext|> in a text: parse, text
    #[arg(long, default_value = "parse")]
    pub special_tokens: SpecialTokens,
    /// Token ids per text at most, the prompt's among them
    #[arg(long, default_value_t = 2048)]
    pub max_tokens: u32,
    /// Arithmetic of the decoder: bf16, f32
    #[arg(long, default_value = "bf16")]
    pub compute: Compute,
    /// What pooling adds to the attended values: projected, seed
    #[arg(long, default_value = "projected")]
    pub residual: Residual,
    /// Where the model runs: auto, cpu
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Threads of the model; all cores by default
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Every line is JSON: an object with a "text", or a string
    #[arg(long)]
    pub json_lines: bool,
}

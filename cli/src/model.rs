//! `gristmill model`: makes a random model folder, and names one by its digest.

use std::io::Write;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Subcommand, ValueHint};
use gristmill_job::{Digest, Exit};
use gristmill_store::checkpoint::random::{RandomModel, SHAPES, Shape, WeightType};
use gristmill_store::checkpoint::{Checkpoint, CheckpointError, read_tokenizer, tokenizer_size};
use serde::Serialize;

use crate::fault::{Fault, OrFault};

/// Make a random model, or name a model by its content.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    New(Box<New>),
    Digest(OfFolder),
}

/// Write a random model in the published layout.
///
/// For tests and benchmarks, and for sizing a cluster before 15 GB are fetched. The same shape, type and seed give the
/// same tensors everywhere. A width that is not given follows the shape.
#[derive(Debug, clap::Args)]
#[command(after_help = NEW_EXAMPLES)]
struct New {
    /// The sizes to start from.
    #[arg(long, value_parser = PossibleValuesParser::new(SHAPES))]
    shape: String,
    /// A tokenizer.json, plain or compressed with gzip; it is copied into the folder.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    tokenizer: PathBuf,
    /// What the values are drawn from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The folder to write: a new one, or an empty one.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    output: PathBuf,
    /// Number type of the tensors.
    #[arg(long, default_value = "bf16", value_parser = PossibleValuesParser::new(WeightType::WORDS))]
    dtype: String,
    /// How many safetensors files; more than one get an index.
    #[arg(long, default_value_t = 1, value_name = "N")]
    files: usize,
    /// Print one JSON line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sizes: Sizes,
}

/// Sizes other than those of the shape.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sizes other than those of the shape")]
struct Sizes {
    /// Decoder layers.
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Width of the hidden states.
    #[arg(long, value_name = "N")]
    hidden_size: Option<usize>,
    /// Inner width of the feed-forward blocks.
    #[arg(long, value_name = "N")]
    intermediate_size: Option<usize>,
    /// Query heads.
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Key and value heads.
    #[arg(long, value_name = "N")]
    kv_heads: Option<usize>,
    /// Rows of the embedding table.
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,
    /// Positions that the model claims to reach.
    #[arg(long, value_name = "N")]
    max_positions: Option<usize>,
    /// Width of the vectors. Default: that of the hidden states.
    #[arg(long, value_name = "N")]
    compressed_dim: Option<usize>,
    /// Heads of the pooling.
    #[arg(long, value_name = "N")]
    pma_heads: Option<usize>,
    /// Whether the pooling has its two layer norms.
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
    pma_ln: Option<bool>,
}

const NEW_EXAMPLES: &str = "\
Examples:
  A model for tests, in a second:
    gristmill model new --shape tiny --tokenizer tokenizer.json --output tiny
  One layer of the large model, to see how it loads:
    gristmill model new --shape c2llm-7b --layers 1 --tokenizer tokenizer.json --output one-layer
  Narrow vectors, float32, three files:
    gristmill model new --shape c2llm-0.5b --compressed-dim 256 --dtype f32 --files 3 \\
      --tokenizer assets/qwen2.5-tokenizer/tokenizer.json.gz --output narrow";

/// Print the digest of a model folder: of its config, tokenizer and weights.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  gristmill model digest C2LLM-0.5B

The digest is that of what `b3sum config.json tokenizer.json *.safetensors` prints inside the folder.")]
struct OfFolder {
    /// The model folder.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: PathBuf,
    /// Print one JSON line.
    #[arg(long)]
    json: bool,
}

/// What is printed of a model.
#[derive(Debug, Serialize)]
struct Summary {
    event: &'static str,
    model: PathBuf,
    parameters: usize,
    bytes: u64,
    digest: Digest,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.command {
        Command::New(args) => new(&args),
        Command::Digest(args) => digest(&args),
    }
}

fn new(args: &New) -> anyhow::Result<Exit> {
    let tokenizer = read_tokenizer(&args.tokenizer)
        .map_err(|e| {
            anyhow::Error::new(e).context(format!("the tokenizer `{}` cannot be read", args.tokenizer.display()))
        })
        .or_fault(Exit::Input)?;
    let size = tokenizer_size(&tokenizer)
        .map_err(|source| CheckpointError::Tokenizer { path: args.tokenizer.clone(), source })
        .or_fault(Exit::Input)?;
    let mut shape = Shape::named(&args.shape, size).expect("the command line takes only known names");
    args.sizes.apply(&mut shape);
    let dtype = WeightType::named(&args.dtype).expect("the command line takes only known types");
    let model = RandomModel { shape, dtype, seed: args.seed, files: args.files };
    let written = model.write(&tokenizer, &args.output).map_err(|error| {
        let exit = exit_of(&error);
        Fault::of(exit, error)
    })?;
    let summary = summary(&written)?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string(&summary)?)?;
    } else {
        writeln!(stdout, "model       {}", summary.model.display())?;
        writeln!(stdout, "parameters  {}", summary.parameters)?;
        writeln!(stdout, "bytes       {}", summary.bytes)?;
        writeln!(stdout, "digest      {}", summary.digest)?;
    }
    Ok(Exit::Done)
}

fn digest(args: &OfFolder) -> anyhow::Result<Exit> {
    let checkpoint = Checkpoint::open(&args.dir).or_fault(Exit::Input)?;
    for key in &checkpoint.unknown {
        tracing::warn!(key, "the config has a key that is not known");
    }
    let summary = summary(&checkpoint)?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string(&summary)?)?;
    } else {
        writeln!(stdout, "{}", summary.digest)?;
    }
    Ok(Exit::Done)
}

fn summary(checkpoint: &Checkpoint) -> anyhow::Result<Summary> {
    Ok(Summary {
        event: "summary",
        model: checkpoint.dir.clone(),
        parameters: checkpoint.config.parameters(),
        bytes: checkpoint.bytes().or_fault(Exit::Input)?,
        digest: checkpoint.digest().or_fault(Exit::Input)?,
    })
}

/// Sizes and folders that cannot be are wrong options; anything else lies in the files.
fn exit_of(error: &CheckpointError) -> Exit {
    use CheckpointError::{Files, NotEmpty, Sizes, TokenizerTooLarge};
    match error {
        Sizes(_) | Files { .. } | NotEmpty(_) | TokenizerTooLarge { .. } => Exit::Usage,
        _ => Exit::Input,
    }
}

impl Sizes {
    fn apply(&self, shape: &mut Shape) {
        let c = &mut shape.config;
        let set = |size: &mut usize, asked: Option<usize>| *size = asked.unwrap_or(*size);
        set(&mut c.layers, self.layers);
        set(&mut c.hidden_size, self.hidden_size);
        set(&mut c.intermediate_size, self.intermediate_size);
        set(&mut c.heads, self.heads);
        set(&mut c.kv_heads, self.kv_heads);
        set(&mut c.vocab_size, self.vocab_size);
        set(&mut c.max_positions, self.max_positions);
        set(&mut c.compressed_dim, self.compressed_dim.or(self.hidden_size));
        set(&mut c.pma_heads, self.pma_heads);
        c.pma_ln = self.pma_ln.unwrap_or(c.pma_ln);
    }
}

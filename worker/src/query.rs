//! Lines in, vectors out, by the same tokenizer and model as a job's: whoever builds an index must be able to ask it.

use std::io::{BufRead, Write};

use anyhow::{Context, bail};
use gristmill_job::{DeadReason, Exit, TextSpec, VectorSpec, VectorType, resolve_prompt};
use gristmill_store::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};

use crate::args::QueryArgs;
use crate::encoder::{EncoderSpec, MakeEncoder};
use crate::tokenize::Tokenizer;
use crate::vectors;

/// A line of input, where it is JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Text(String),
    Object { text: String },
}

/// A line of output.
#[derive(Serialize)]
struct Answer {
    /// None for a text that has none, and `dead` says why.
    vector: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead: Option<DeadReason>,
    tokens: usize,
    cut_bytes: usize,
}

/// Answers every line of `input` on `output`, in order and at once, so that it can be talked to.
pub fn query(args: &QueryArgs, make: MakeEncoder, input: impl BufRead, mut output: impl Write) -> anyhow::Result<Exit> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let text = TextSpec {
        prompt: resolve_prompt(&args.prompt).to_owned(),
        special_tokens: args.special_tokens,
        max_tokens: args.max_tokens,
    };
    if args.max_tokens as usize > checkpoint.config.max_positions {
        bail!(
            "--max-tokens {} is more than the model's {} positions",
            args.max_tokens,
            checkpoint.config.max_positions
        );
    }
    let tokenizer = Tokenizer::open(&checkpoint.tokenizer, &text)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let vectors = VectorSpec {
        width: checkpoint.config.compressed_dim as u32,
        dtype: VectorType::F32,
        normalised: true,
        compute: args.compute,
        residual: args.residual,
    };
    let mut encoder = make(&EncoderSpec {
        config: checkpoint.config.clone(),
        weights: checkpoint.weights,
        vectors,
        device: args.device,
        threads: args.threads.unwrap_or(cores),
    })?;
    for (number, line) in (1..).zip(input.lines()) {
        let line = line.with_context(|| format!("line {number} of stdin cannot be read"))?;
        let text = read_line(&line, args.json_lines).with_context(|| format!("line {number} of stdin"))?;
        if text.is_empty() {
            let dead = Some(DeadReason::EmptyText);
            write(&mut output, &Answer { vector: None, dead, tokens: 0, cut_bytes: 0 })?;
            continue;
        }
        let tokenized = tokenizer.tokenize(&text).with_context(|| format!("line {number} of stdin"))?;
        let lengths = [tokenized.ids.len() as u32];
        let mut vector = encoder.encode(&tokenized.ids, &lengths)?;
        if !vectors::is_usable(&vector, true) {
            vector = encoder.encode_again(&tokenized.ids, &lengths)?;
        }
        if !vectors::is_usable(&vector, true) {
            bail!("line {number} of stdin has no finite vector");
        }
        let (tokens, cut_bytes) = (tokenized.ids.len(), tokenized.cut_bytes);
        write(&mut output, &Answer { vector: Some(vector), dead: None, tokens, cut_bytes })?;
    }
    Ok(Exit::Done)
}

fn write(output: &mut impl Write, answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

/// A line that begins as a JSON object or string is JSON; any other is the text itself, unless all must be JSON.
fn read_line(line: &str, json_lines: bool) -> anyhow::Result<String> {
    let looks_like_json = line.starts_with("{\"text\"") || line.starts_with('"');
    match serde_json::from_str(line) {
        Ok(Line::Text(text) | Line::Object { text }) if json_lines || looks_like_json => Ok(text),
        Err(error) if json_lines => bail!("not a JSON string or an object with a `text`: {error}"),
        _ => Ok(line.to_owned()),
    }
}

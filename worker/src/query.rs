//! Lines in, vectors out, by the same tokenizer and model as a job's: whoever builds an index must be able to ask it.

use std::io::{BufRead, Write};

use anyhow::{Context, bail};
use gristmill_job::{Exit, TextSpec, VectorSpec, VectorType, resolve_prompt};
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
    vector: Vec<f32>,
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
            bail!("line {number} of stdin has no text");
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
        let answer = Answer { vector, tokens: tokenized.ids.len(), cut_bytes: tokenized.cut_bytes };
        serde_json::to_writer(&mut output, &answer)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(Exit::Done)
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

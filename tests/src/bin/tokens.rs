//! Prints the token ids that a worker would use, so that they can be held against another tokenizer's: JSON strings in,
//! one a line; out, for each, a JSON line with a list of `{"ids": [...], "cut_bytes": N}`, one for every limit.

use std::io::{BufRead, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use gristmill_job::{SpecialTokens, TextSpec, resolve_prompt};
use gristmill_worker::Tokenizer;
use serde_json::json;

/// Prints the token ids of JSON strings, one a line, as JSON lines.
#[derive(Parser)]
struct Args {
    /// A tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// Name of a prompt, or a literal prompt
    #[arg(long, default_value = "document")]
    prompt: String,
    /// Strings such as <|endoftext|> in a text: parse, text
    #[arg(long, default_value = "parse")]
    special_tokens: SpecialTokens,
    /// Token ids per text at most, the prompt's among them; several of them separated by commas
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "2048")]
    max_tokens: Vec<u32>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let open = |&max_tokens: &u32| {
        let prompt = resolve_prompt(&args.prompt).to_owned();
        Tokenizer::open(&args.tokenizer, &TextSpec { prompt, special_tokens: args.special_tokens, max_tokens })
    };
    let tokenizers = args.max_tokens.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let text: String = serde_json::from_str(&line?).with_context(|| format!("line {number} is no JSON string"))?;
        let mut answers = Vec::new();
        for tokenizer in &tokenizers {
            let got = tokenizer.tokenize(&text).with_context(|| format!("line {number}"))?;
            answers.push(json!({ "ids": got.ids, "cut_bytes": got.cut_bytes }));
        }
        serde_json::to_writer(&mut out, &answers)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

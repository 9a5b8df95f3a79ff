//! The options that say what is embedded, shared by `embed` and `plan`.

use gristmill_coordinator::planner::Corpus;
use gristmill_job::resolve_prompt;

/// Which rows, and how their texts become tokens.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CorpusArgs {
    /// Parquet files, folders of them, or globs in quotes
    #[arg(required = true, value_name = "CORPUS")]
    pub(crate) corpus: Vec<String>,
    /// Column to embed; by default `content`, else `text`, else the only text column
    #[arg(long, value_name = "NAME")]
    pub(crate) text_column: Option<String>,
    /// Columns to carry into the output, separated by commas; by default all others. "" carries none
    #[arg(long, value_name = "NAMES")]
    pub(crate) columns: Option<String>,
    /// Only the first N rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Put in front of every text: a known name (document, codesearchnet, ...), or the text itself; "" for nothing
    #[arg(long, default_value = "document")]
    pub(crate) prompt: String,
    /// Tokens per row at most, the prompt's among them; the rest is cut off
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) max_tokens: u32,
    /// Estimated tokens per shard; by default about two minutes of work
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) shard_tokens: Option<u64>,
}

impl CorpusArgs {
    pub(crate) fn corpus(&self) -> Corpus {
        let split =
            |names: &String| names.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect();
        Corpus {
            patterns: self.corpus.clone(),
            text_column: self.text_column.clone(),
            columns: self.columns.as_ref().map(split),
            limit: self.limit,
        }
    }

    pub(crate) fn prompt_text(&self) -> String {
        resolve_prompt(&self.prompt).to_owned()
    }
}

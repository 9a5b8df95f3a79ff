//! From a corpus to a plan: what the corpus holds, by its footers, and how it is cut.

use std::path::PathBuf;

use arrow_schema::{Field, Schema};
use futures::{StreamExt, TryStreamExt};
use gristmill_job::{FORMAT, ModelConfig, Pin, Plan, VectorSpec, VectorType};
use gristmill_store::input::{self, InputError, Object, RowGroupFooter};
use gristmill_store::schema::{self, SchemaError};

use crate::cut::{RowGroup, Target, cut};

/// Bytes of source code per token of Qwen2.5, about.
const BYTES_PER_TOKEN: f64 = 3.2;
/// Footers read at one time.
const FOOTERS_AT_ONCE: usize = 32;
/// Device time that a shard is aimed at.
const SHARD_S: f64 = 120.0;
/// Encoded bytes that a shard is aimed at: half of what a part may have, since estimates are.
const SHARD_BYTES: u64 = 128 << 20;

/// A corpus that cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// An object cannot be found, read or decoded.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Columns do not fit.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Nothing to embed.
    #[error("the corpus has no rows: {0}")]
    Empty(String),
}

/// What of a corpus is asked for.
#[derive(Debug, Clone, Default)]
pub struct Corpus {
    /// Files, folders, globs.
    pub patterns: Vec<String>,
    /// The column to embed, where it is not the usual one.
    pub text_column: Option<String>,
    /// The columns to carry, where not all.
    pub columns: Option<Vec<String>>,
    /// Only the first so many rows.
    pub limit: Option<u64>,
}

/// What a corpus holds.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Its objects, pinned, in the order of their URLs.
    pub objects: Vec<Pin>,
    /// The column to embed.
    pub text_column: String,
    /// The columns to carry.
    pub carried: Vec<Field>,
    groups: Vec<Group>,
    /// How many of the rows are selected, where not all.
    pub limit: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    object: u32,
    rows: u64,
    /// Uncompressed bytes of the text column.
    text_bytes: u64,
    /// Compressed bytes of the carried columns.
    carried_bytes: u64,
}

/// How texts become tokens and tokens rows of output: what estimates need.
#[derive(Debug, Clone)]
pub struct Estimate {
    /// Bytes of the prompt.
    pub prompt_bytes: usize,
    /// Tokens per row at most.
    pub max_tokens: u32,
    /// Bytes of one vector.
    pub vector_bytes: u64,
}

impl Estimate {
    /// The estimate for vectors of that kind.
    pub fn new(prompt: &str, max_tokens: u32, vectors: &VectorSpec) -> Self {
        let component = match vectors.dtype {
            VectorType::F32 => 4,
            VectorType::F16 => 2,
        };
        Estimate { prompt_bytes: prompt.len(), max_tokens, vector_bytes: u64::from(vectors.width) * component }
    }
}

/// Reads every footer of the corpus.
pub async fn survey(corpus: &Corpus) -> Result<Survey, PlanError> {
    let paths: Vec<PathBuf> = input::find(&corpus.patterns)?;
    let reads = paths.into_iter().map(|path| async move { Object::pin(&path).await });
    let mut objects: Vec<Object> = futures::stream::iter(reads).buffered(FOOTERS_AT_ONCE).try_collect().await?;
    objects.sort_by(|a, b| a.pin.object.cmp(&b.pin.object));
    let Some(first) = objects.first() else { return Err(PlanError::Empty(corpus.patterns.join(" "))) };
    let first_schema: &Schema = first.schema();
    let first_url = first.pin.object.as_str();
    let text_column = schema::choose_text(first_url, first_schema, corpus.text_column.as_deref())?;
    let carried = schema::choose_carried(first_url, first_schema, &text_column, corpus.columns.as_deref())?;
    let mut needed: Vec<String> = carried.iter().map(|field| field.name().clone()).collect();
    needed.push(text_column.clone());
    for other in &objects[1..] {
        schema::same_columns((first_url, first_schema), (&other.pin.object, other.schema()), &needed)?;
    }
    let groups: Vec<Group> =
        (0..).zip(&objects).flat_map(|(index, object)| groups(index, object, &text_column, &needed)).collect();
    if groups.iter().all(|group| group.rows == 0) || corpus.limit == Some(0) {
        return Err(PlanError::Empty(corpus.patterns.join(" ")));
    }
    let objects = objects.into_iter().map(|object| object.pin).collect();
    let rows = groups.iter().map(|group| group.rows).sum();
    // A limit that cuts nothing off is none: the same rows are the same job.
    let limit = corpus.limit.filter(|limit| *limit < rows);
    Ok(Survey { objects, text_column, carried, groups, limit })
}

fn groups(index: u32, object: &Object, text: &str, needed: &[String]) -> Vec<Group> {
    let of_group = |group: &RowGroupFooter| {
        let columns = || group.columns().iter().map(|column| (column.column_path().parts()[0].as_str(), column));
        let text_bytes = columns().filter(|(name, _)| *name == text).map(|(_, c)| c.uncompressed_size()).sum::<i64>();
        let carried = columns().filter(|(name, _)| *name != text && needed.iter().any(|n| n == name));
        let carried_bytes = carried.map(|(_, c)| c.compressed_size()).sum::<i64>();
        Group {
            object: index,
            rows: group.num_rows().max(0) as u64,
            text_bytes: text_bytes.max(0) as u64,
            carried_bytes: carried_bytes.max(0) as u64,
        }
    };
    object.footer().row_groups().iter().map(of_group).collect()
}

impl Survey {
    /// Selected rows.
    pub fn rows(&self) -> u64 {
        let rows = self.groups.iter().map(|group| group.rows).sum();
        self.limit.map_or(rows, |limit| limit.min(rows))
    }

    /// Bytes of all objects.
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|pin| pin.size).sum()
    }

    /// Cuts the selected rows into shards.
    pub fn plan(&self, estimate: &Estimate, shard_tokens: u64) -> Plan {
        let groups: Vec<RowGroup> = self.groups.iter().map(|group| group.estimated(estimate)).collect();
        let target = Target { tokens: shard_tokens, bytes: SHARD_BYTES };
        Plan { format: FORMAT, objects: self.objects.clone(), shards: cut(&groups, self.limit, target) }
    }
}

impl Group {
    fn estimated(&self, estimate: &Estimate) -> RowGroup {
        let prompt_bytes = self.rows as f64 * estimate.prompt_bytes as f64;
        let tokens = ((self.text_bytes as f64 + prompt_bytes) / BYTES_PER_TOKEN) as u64;
        let most = self.rows * u64::from(estimate.max_tokens);
        // Coordinates, counts and the hash compress to a few bytes each.
        let bytes = self.carried_bytes + self.rows * (estimate.vector_bytes + 40);
        RowGroup { object: self.object, rows: self.rows, tokens: tokens.clamp(self.rows, most.max(self.rows)), bytes }
    }
}

/// Tokens of a shard that keeps one device busy for about two minutes. `device_flops` is a guess at what it computes in a
/// second; a small model is bound by what feeds it.
pub fn shard_tokens(config: &ModelConfig, device_flops: f64) -> u64 {
    const FED_TOKENS_PER_S: f64 = 60_000.0;
    let tokens_per_s = (device_flops / config.flops_per_token()).min(FED_TOKENS_PER_S);
    ((tokens_per_s * SHARD_S) as u64).max(8_192)
}

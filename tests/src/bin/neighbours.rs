//! Shows an output of `gristmill embed` over a corpus of `gristmill pack`: rows by language, the first rows, and for three
//! files those whose vectors are nearest. Reads the Parquet files as any reader would, and nothing else.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{Array, RecordBatch};
use clap::Parser;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Columns read: those of `pack` that are carried, and ours.
const COLUMNS: [&str; 6] = ["repository", "path", "language", "embedding", "_tokens", "_text_hash"];
/// Rows and languages shown.
const SHOWN: usize = 8;
/// Neighbours of a file shown.
const NEAREST: usize = 3;
/// Files shorter than this are not asked about: licences, re-exports.
const ASKED_TOKENS_MIN: i32 = 200;

/// Shows rows of an output, and for a few files those whose vectors are nearest.
#[derive(Parser)]
struct Args {
    /// The output of `gristmill embed` (float32)
    output: PathBuf,
    /// Files to ask about, as REPOSITORY/PATH; three by default
    files: Vec<String>,
}

struct Row {
    name: String,
    language: Option<String>,
    tokens: i32,
    text_hash: Vec<u8>,
    /// Of unit length, so that the dot product is the cosine.
    vector: Vec<f32>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut rows = Vec::new();
    for part in parts(&args.output)? {
        read(&part, &mut rows).with_context(|| format!("{} is not an output that can be shown", part.display()))?;
    }
    let mut out = stdout().lock();
    show_languages(&rows, &mut out)?;
    show_rows(&rows, &mut out)?;
    for row in asked(&rows, &args.files)? {
        show_nearest(row, &rows, &mut out)?;
    }
    Ok(())
}

fn parts(output: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(output).with_context(|| format!("{} is not an output", output.display()))?;
    let mut parts: Vec<PathBuf> = list.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    parts.retain(|path| path.extension().is_some_and(|e| e == "parquet"));
    parts.sort();
    ensure!(!parts.is_empty(), "{} holds no Parquet files", output.display());
    Ok(parts)
}

fn read(part: &Path, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(part)?)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
    for batch in builder.with_projection(mask).build()? {
        read_batch(&batch?, rows)?;
    }
    Ok(())
}

fn read_batch(batch: &RecordBatch, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("it has no column `{name}`"));
    let text = |name: &str| -> anyhow::Result<_> {
        column(name)?.as_string_opt::<i32>().with_context(|| format!("column `{name}` is no text"))
    };
    let (repositories, paths, languages) = (text("repository")?, text("path")?, text("language")?);
    let tokens = column("_tokens")?.as_primitive_opt::<Int32Type>().context("column `_tokens` is not int32")?;
    let hashes = column("_text_hash")?.as_fixed_size_binary_opt().context("column `_text_hash` is not binary")?;
    let vectors = column("embedding")?.as_fixed_size_list_opt().context("column `embedding` is no list")?;
    for row in 0..batch.num_rows() {
        let vector = vectors.value(row);
        let vector = vector.as_primitive_opt::<Float32Type>().context("the vectors are not float32")?;
        rows.push(Row {
            name: format!("{}/{}", repositories.value(row), paths.value(row)),
            language: languages.is_valid(row).then(|| languages.value(row).to_owned()),
            tokens: tokens.value(row),
            text_hash: hashes.value(row).to_vec(),
            vector: vector.values().to_vec(),
        });
    }
    Ok(())
}

fn show_languages(rows: &[Row], out: &mut impl Write) -> std::io::Result<()> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(row.language.as_deref().unwrap_or("(unknown)")).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(language, count)| (std::cmp::Reverse(*count), *language));
    writeln!(out, "{} rows", rows.len())?;
    for (language, count) in counts.iter().take(SHOWN) {
        writeln!(out, "{count:>8}  {language}")?;
    }
    let rest = &counts[counts.len().min(SHOWN)..];
    if !rest.is_empty() {
        writeln!(out, "{:>8}  in {} other languages", rest.iter().map(|(_, count)| count).sum::<usize>(), rest.len())?;
    }
    Ok(())
}

fn show_rows(rows: &[Row], out: &mut impl Write) -> std::io::Result<()> {
    let width = rows.first().map_or(0, |row| row.vector.len());
    writeln!(out, "\nthe first rows, tokens and the first of {width} components")?;
    for row in rows.iter().take(SHOWN) {
        let first: Vec<String> = row.vector.iter().take(4).map(|x| format!("{x:+.4}")).collect();
        writeln!(out, "{:>8}  [{}, ...]  {}", row.tokens, first.join(", "), row.name)?;
    }
    Ok(())
}

/// The rows that were named, or three that lie well apart.
fn asked<'a>(rows: &'a [Row], files: &[String]) -> anyhow::Result<Vec<&'a Row>> {
    let named = |file: &String| rows.iter().find(|row| row.name == *file).with_context(|| format!("no row is {file}"));
    if !files.is_empty() {
        return files.iter().map(named).collect();
    }
    let long: Vec<&Row> = rows.iter().filter(|row| row.tokens >= ASKED_TOKENS_MIN).collect();
    if long.is_empty() {
        bail!("no row has {ASKED_TOKENS_MIN} tokens; name the files to ask about");
    }
    Ok([1, 2, 3].map(|quarter| long[long.len() * quarter / 4]).to_vec())
}

/// The nearest rows of other texts, each text once.
fn show_nearest(asked: &Row, rows: &[Row], out: &mut impl Write) -> std::io::Result<()> {
    let cosine = |row: &Row| asked.vector.iter().zip(&row.vector).map(|(a, b)| a * b).sum::<f32>();
    let mut near: Vec<(f32, &Row)> = rows.iter().map(|row| (cosine(row), row)).collect();
    near.sort_by(|(a, _), (b, _)| b.partial_cmp(a).unwrap_or(Ordering::Equal));
    let mut seen = HashSet::from([&asked.text_hash]);
    near.retain(|(_, row)| seen.insert(&row.text_hash));
    writeln!(out, "\nnearest to {}", asked.name)?;
    for (cosine, row) in near.iter().take(NEAREST) {
        writeln!(out, "{cosine:>8.4}  {}", row.name)?;
    }
    Ok(())
}

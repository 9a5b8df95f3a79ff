//! Corpora that tests embed.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Words of which texts are made; each is at least a token.
const WORDS: [&str; 24] = [
    "fn",
    "let",
    "mut",
    "return",
    "struct",
    "impl",
    "match",
    "self",
    "async",
    "await",
    "i32",
    "String",
    "(x)",
    "{\n",
    "}\n",
    "=>",
    "+= 1",
    "\"größe\"",
    "// why",
    "None",
    "Some(y)",
    "[0..n]",
    "漢字",
    "0x1F",
];

/// Source code of `words` words, the same for the same seed.
pub fn text(seed: u64, words: usize) -> String {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let chosen: Vec<&str> = (0..words).map(|_| WORDS[random.next_u32() as usize % WORDS.len()]).collect();
    chosen.join(" ")
}

/// Many texts of 3 to 20 words.
pub fn texts(seed: u64, rows: usize) -> Vec<String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..rows).map(|_| text(random.next_u64(), 3 + random.next_u32() as usize % 18)).collect()
}

/// Writes a file with a column `id`, counting from zero, and a column `content`.
pub fn write_texts<T: AsRef<str>>(path: &Path, texts: &[T]) {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    let content: ArrayRef = Arc::new(StringArray::from_iter_values(texts.iter().map(AsRef::as_ref)));
    write_columns(path, vec![("id", ids), ("content", content)]);
}

/// Writes a file of these columns, all nullable, in row groups of at most 1000 rows.
pub fn write_columns(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, c)| (name, c, true))).unwrap();
    write_batch(path, &batch);
}

/// Writes a file of one batch, not compressed and without dictionaries, so that its bytes stand where they were put.
pub fn write_batch(path: &Path, batch: &RecordBatch) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(1000))
        .set_dictionary_enabled(false)
        .set_compression(Compression::UNCOMPRESSED)
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

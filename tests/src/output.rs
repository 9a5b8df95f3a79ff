//! An output as any reader of Parquet sees it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use gristmill_job::{SpecialTokens, TextSpec};
use gristmill_store::dead::{self, DeadLetter};
use gristmill_store::{keys, schema, text_hash};
use gristmill_worker::Tokenizer;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::programs::tiny_model;
use crate::stand_in;

/// A row of an output.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputRow {
    /// Name of the file that it comes from, without its folder.
    pub file: String,
    /// Its number there.
    pub row: u64,
    /// Tokens used.
    pub tokens: i32,
    /// Bytes of the text not used.
    pub cut_bytes: i64,
    /// Digest of the text.
    pub text_hash: [u8; 16],
    /// The vector.
    pub vector: Vec<f32>,
}

/// The parts, sorted by name.
pub fn parts(output: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(output) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut parts: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == "parquet")).collect();
    parts.sort();
    parts
}

/// Everything in a Parquet file.
pub fn read(path: &Path) -> Vec<RecordBatch> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    builder.build().unwrap().collect::<Result<_, _>>().unwrap()
}

/// All rows of all parts, by file and number. No row may stand there twice.
#[track_caller]
pub fn rows(output: &Path) -> BTreeMap<(String, u64), OutputRow> {
    let mut found = BTreeMap::new();
    for part in parts(output) {
        for row in read(&part).iter().flat_map(rows_of) {
            let place = (row.file.clone(), row.row);
            let other = found.insert(place.clone(), row);
            assert!(other.is_none(), "{place:?} stands twice in the output");
        }
    }
    found
}

fn rows_of(batch: &RecordBatch) -> Vec<OutputRow> {
    let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    let row = |i: usize| {
        let vector = column(schema::EMBEDDING).as_fixed_size_list().value(i);
        let vector = match vector.data_type() {
            DataType::Float32 => vector.as_primitive::<Float32Type>().values().to_vec(),
            DataType::Float16 => vector.as_primitive::<Float16Type>().values().iter().map(|x| x.to_f32()).collect(),
            other => panic!("vectors of {other}"),
        };
        OutputRow {
            file: file_name(column(schema::OBJECT).as_string::<i32>().value(i)),
            row: column(schema::ROW).as_primitive::<Int64Type>().value(i) as u64,
            tokens: column(schema::TOKENS).as_primitive::<Int32Type>().value(i),
            cut_bytes: column(schema::CUT_BYTES).as_primitive::<Int64Type>().value(i),
            text_hash: column(schema::TEXT_HASH).as_fixed_size_binary().value(i).try_into().unwrap(),
            vector,
        }
    };
    (0..batch.num_rows()).map(row).collect()
}

fn file_name(url: &str) -> String {
    url.rsplit('/').next().unwrap().to_owned()
}

/// All dead letters that committed parts name, by file and number, with the reason.
pub fn dead_letters(output: &Path) -> BTreeMap<(String, u64), DeadLetter> {
    let mut found = BTreeMap::new();
    for part in parts(output) {
        let bytes = fs::read(&part).unwrap().into();
        let footer = gristmill_store::part::parse_footer("a part", &bytes).unwrap().footer;
        let Some(file) = footer.dead else { continue };
        let bytes = fs::read(output.join(&file.key)).unwrap();
        for letter in dead::read(&file.key, &bytes).unwrap().1 {
            let place = (file_name(&letter.object), letter.row);
            assert!(found.insert(place.clone(), letter).is_none(), "{place:?} is dead twice");
        }
    }
    found
}

/// Whether the job is sealed.
pub fn is_sealed(output: &Path) -> bool {
    output.join(keys::MANIFEST).exists()
}

/// How texts become ids where a test does not say otherwise.
pub fn usual_text_spec() -> TextSpec {
    let prompt = gristmill_job::resolve_prompt("document").to_owned();
    TextSpec { prompt, special_tokens: SpecialTokens::Parse, max_tokens: 2048 }
}

/// Every text must stand once in the output, `file` being where it comes from, with the stand-in's vector; but for the
/// rows of `dead`, which must be dead letters and nothing else.
#[track_caller]
pub fn check_stand_in(output: &Path, file: &str, texts: &[String], dead: &[u64]) {
    let tokenizer = Tokenizer::open(&tiny_model().join("tokenizer.json"), &usual_text_spec()).unwrap();
    let (rows, letters) = (rows(output), dead_letters(output));
    for (number, text) in (0..).zip(texts) {
        let place = (file.to_owned(), number);
        assert_eq!(letters.contains_key(&place), dead.contains(&number), "row {number} among the dead");
        let Some(row) = rows.get(&place) else {
            assert!(dead.contains(&number), "row {number} is lost");
            continue;
        };
        assert!(!dead.contains(&number), "row {number} is dead and has a vector");
        let ids = tokenizer.tokenize(text).unwrap().ids;
        assert_eq!(row.tokens as usize, ids.len(), "tokens of row {number}");
        assert_eq!(row.text_hash, text_hash(text), "text of row {number}");
        assert_eq!(row.vector, stand_in::vector(&ids, row.vector.len()), "vector of row {number}");
    }
    assert_eq!(rows.len() + letters.len(), texts.len(), "rows of other files");
}

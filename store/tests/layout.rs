//! The output's layout against a real local disk: parts written and read back, commits that race, rows of segments.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use gristmill_job::{
    Compression, Compute, DeadReason, Digest, FORMAT, Residual, Segment, Segments, Slot, VectorSpec, VectorType,
};
use gristmill_store::commit::{Commit, CommitError, commit, read_slot};
use gristmill_store::dead::{self, DeadLetter};
use gristmill_store::documents::{self, Child, Written};
use gristmill_store::input::{InputError, Object, RowsError};
use gristmill_store::part::{self, Footer, PartEncoder, Provenance};
use gristmill_store::probe::probe;
use gristmill_store::{Created, Location, fresh_nonce, keys, schema, staging};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

fn vectors(dtype: VectorType) -> VectorSpec {
    VectorSpec { width: 4, dtype, normalised: true, compute: Compute::F32, residual: Residual::Projected }
}

fn columns(dtype: VectorType) -> SchemaRef {
    schema::output(&[Field::new("path", DataType::Utf8, false)], &vectors(dtype))
}

fn footer(slot: Slot, rows: u64) -> Footer {
    Footer {
        format: FORMAT,
        job: Digest::of(b"job"),
        plan: Digest::of(b"plan"),
        model: Digest::of(b"model"),
        slot,
        nonce: fresh_nonce(),
        segments: vec![Segment { object: 0, start: 0, end: rows }],
        covered: vec![Segment { object: 0, start: 0, end: rows }],
        children: Vec::new(),
        rows: 0,
        tokens: 0,
        dead: None,
        body: Digest::of(b""),
    }
}

fn encode(dtype: VectorType, compression: Compression, rows: usize, footer: Footer) -> (Footer, Bytes) {
    let mut encoder = PartEncoder::new(&columns(dtype), compression).unwrap();
    let paths: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("p{i}"))));
    let provenance = Provenance {
        objects: vec!["file:///c".into(); rows],
        versions: vec!["v".into(); rows],
        rows: (0..rows as i64).collect(),
        tokens: vec![3; rows],
        cut_bytes: vec![0; rows],
        text_hashes: vec![[9; 16]; rows],
    };
    encoder.append(&[paths], vec![0.5; 4 * rows], provenance).unwrap();
    encoder.finish(footer).unwrap()
}

fn output() -> (tempfile::TempDir, Location) {
    let folder = tempfile::tempdir().unwrap();
    let out = Location::open_path(&folder.path().join("out")).unwrap();
    (folder, out)
}

#[tokio::test]
async fn a_part_says_of_itself_what_it_was_told_in_every_compression() {
    let compressions = [Compression::Zstd, Compression::Lz4, Compression::Snappy, Compression::None];
    for (i, compression) in (0..).zip(compressions) {
        for dtype in [VectorType::F32, VectorType::F16] {
            let (_folder, out) = output();
            let (footer, bytes) = encode(dtype, compression, 1000, footer(Slot::root(i), 1000));
            assert_eq!(footer.rows, 1000);
            assert_eq!(commit(&out, &footer, bytes.clone(), None).await.unwrap(), Commit::Won);
            let key = keys::part(footer.job, &footer.slot);
            let stored = part::read_footer(&out, &key, None).await.unwrap().unwrap();
            assert_eq!(stored.footer, footer);
            let body = part::body_bytes(&stored.metadata) as usize;
            assert_eq!(Digest::of(&bytes[..body]), footer.body, "the footer's digest is that of the body");
            let rows: usize = ParquetRecordBatchReaderBuilder::try_new(bytes)
                .unwrap()
                .build()
                .unwrap()
                .map(|batch| {
                    let batch = batch.unwrap();
                    assert_eq!(batch.schema().fields(), columns(dtype).fields());
                    batch.num_rows()
                })
                .sum();
            assert_eq!(rows, 1000);
        }
    }
}

#[tokio::test]
async fn a_part_without_rows_has_the_same_columns() {
    let (footer, bytes) = encode(VectorType::F32, Compression::Zstd, 0, footer(Slot::root(0), 0));
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    assert_eq!(reader.schema().fields(), columns(VectorType::F32).fields());
    assert_eq!(footer.rows, 0);
}

#[tokio::test]
async fn of_two_commits_one_wins_and_the_other_learns_whose_bytes_stand() {
    let (_folder, out) = output();
    let one = encode(VectorType::F32, Compression::Zstd, 10, footer(Slot::root(0), 10));
    let two = encode(VectorType::F32, Compression::Zstd, 10, footer(Slot::root(0), 10));
    let (a, b) = tokio::join!(commit(&out, &one.0, one.1.clone(), None), commit(&out, &two.0, two.1.clone(), None));
    match (a.unwrap(), b.unwrap()) {
        (Commit::Won, Commit::Lost(winner)) => assert_eq!(*winner, one.0),
        (Commit::Lost(winner), Commit::Won) => assert_eq!(*winner, two.0),
        both => panic!("{both:?}"),
    }
    // The same bytes again, as after an answer that was lost.
    let again = commit(&out, &one.0, one.1, None).await.unwrap();
    let standing = read_slot(&out, (one.0.job, one.0.plan), &one.0.slot, None).await.unwrap().unwrap();
    assert_eq!(again == Commit::Won, standing.nonce == one.0.nonce);
}

#[tokio::test]
async fn what_no_attempt_can_have_written_is_a_stranger() {
    let (_folder, out) = output();
    let (ours, bytes) = encode(VectorType::F32, Compression::Zstd, 10, footer(Slot::root(0), 10));
    let key = keys::part(ours.job, &ours.slot);
    out.create(&key, Bytes::from_static(b"not parquet at all")).await.unwrap();
    let error = commit(&out, &ours, bytes, None).await.unwrap_err();
    assert!(matches!(&error, CommitError::Stranger { object, .. } if object.ends_with(&key)), "{error}");

    let other = Footer { plan: Digest::of(b"another plan"), ..footer(Slot::root(1), 10) };
    let (other, bytes) = encode(VectorType::F32, Compression::Zstd, 10, other);
    commit(&out, &other, bytes, None).await.unwrap();
    let (ours, bytes) = encode(VectorType::F32, Compression::Zstd, 10, footer(Slot::root(1), 10));
    assert!(matches!(commit(&out, &ours, bytes, None).await, Err(CommitError::Stranger { .. })));

    let (rows, bytes) = encode(VectorType::F32, Compression::Zstd, 9, footer(Slot::root(2), 9));
    commit(&out, &rows, bytes, None).await.unwrap();
    let (ours, bytes) = encode(VectorType::F32, Compression::Zstd, 10, footer(Slot::root(2), 10));
    assert!(matches!(commit(&out, &ours, bytes, None).await, Err(CommitError::Stranger { .. })));
}

#[tokio::test]
async fn dead_letters_and_the_announcement_stand_before_the_part_that_names_them() {
    let (_folder, out) = output();
    let mut told = footer(Slot::root(0), 10);
    let letter = DeadLetter {
        object: "file:///c".into(),
        version: "v".into(),
        row: 4,
        reason: DeadReason::NullText,
        detail: None,
    };
    let (file, dead_bytes) = dead::encode(told.job, &told.slot, told.nonce, std::slice::from_ref(&letter));
    told.dead = Some(file.clone());
    told.covered = told.segments.slice(0, 5);
    told.children = vec![Child { slot: told.slot.child(0), segments: told.segments.slice(5, 10) }];
    let (told, bytes) = encode(VectorType::F32, Compression::Zstd, 4, told);
    commit(&out, &told, bytes, Some(dead_bytes)).await.unwrap();
    let found = out.get(&file.key).await.unwrap().unwrap();
    assert_eq!(Digest::of(&found), file.digest);
    assert_eq!(dead::read(&file.key, &found).unwrap().1, [letter]);
    assert!(out.get(&keys::split(&told.slot, told.nonce)).await.unwrap().is_some());
    assert_eq!(told.dead_rows(), 1);
}

#[tokio::test]
async fn a_document_is_written_once_and_an_unknown_format_is_refused() {
    let (_folder, out) = output();
    let one = documents::EpochDocument { format: FORMAT, address: "a".into(), coordinator: fresh_nonce() };
    let two = documents::EpochDocument { address: "b".into(), ..one.clone() };
    assert_eq!(documents::create(&out, "_gristmill/x", &one).await.unwrap(), Written::Same);
    assert_eq!(documents::create(&out, "_gristmill/x", &one).await.unwrap(), Written::Same);
    assert!(matches!(documents::create(&out, "_gristmill/x", &two).await.unwrap(), Written::Other(_)));
    let newer = documents::EpochDocument { format: FORMAT + 1, ..one };
    documents::create(&out, "_gristmill/y", &newer).await.unwrap();
    let error = documents::read::<documents::EpochDocument>(&out, "_gristmill/y").await.unwrap_err();
    assert!(error.to_string().contains("format 2"), "{error}");
}

#[tokio::test]
async fn staged_files_of_killed_writers_are_swept_and_others_are_not() {
    let (folder, out) = output();
    probe(&out).await.unwrap();
    assert_eq!(out.create("_gristmill/job.json", Bytes::from_static(b"{}")).await.unwrap(), Created::Ours);
    let root = folder.path().join("out");
    for name in ["part-00000000-000001.parquet#1", "_gristmill/manifest.json#12", "mine#1", "part-x.parquet"] {
        std::fs::write(root.join(name), b"x").unwrap();
    }
    assert_eq!(staging::sweep(&out).unwrap(), 2);
    assert!(root.join("mine#1").exists() && root.join("part-x.parquet").exists());
    assert!(root.join("_gristmill/job.json").exists());
}

/// A corpus of `rows` rows in row groups of `group` rows, with texts of very different lengths.
fn write_corpus(path: &Path, rows: usize, group: usize) {
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, false),
        Field::new("unused", DataType::Utf8, false),
        Field::new("text", DataType::Utf8, false),
    ]));
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group))
        .set_data_page_row_count_limit(7)
        .set_write_batch_size(7)
        .set_dictionary_enabled(false)
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).unwrap();
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    let unused: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|_| "x".repeat(50))));
    let texts: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("{i}").repeat(i * 37 % 500))));
    writer.write(&RecordBatch::try_new(schema, vec![numbers, unused, texts]).unwrap()).unwrap();
    writer.close().unwrap();
}

fn read(runtime: &tokio::runtime::Runtime, object: &Object, segment: Segment) -> Result<Vec<i64>, RowsError> {
    let mut numbers = Vec::new();
    for batch in object.rows(segment, &["text", "n"], runtime.handle().clone())? {
        let batch = batch?;
        assert_eq!(batch.num_columns(), 2, "only what is asked for is read");
        let column = batch.column_by_name("n").unwrap().as_any().downcast_ref::<Int64Array>().unwrap().clone();
        numbers.extend(column.values().iter().copied());
    }
    Ok(numbers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_segment_is_read_as_exactly_its_rows(rows in 1usize..400, group in 1usize..150, a in 0u64..400, b in 0u64..400) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.parquet");
        write_corpus(&path, rows, group);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let object = runtime.block_on(Object::pin(&path)).unwrap();
        prop_assert_eq!(object.pin.rows, rows as u64);
        let (start, end) = (a.min(b).min(rows as u64), a.max(b).min(rows as u64));
        let numbers = read(&runtime, &object, Segment { object: 0, start, end }).unwrap();
        prop_assert_eq!(numbers, (start as i64..end as i64).collect::<Vec<_>>());
    }
}

#[test]
fn a_changed_object_is_named_when_opened_and_in_the_middle_of_reading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.parquet");
    write_corpus(&path, 300, 100);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let object = runtime.block_on(Object::pin(&path)).unwrap();
    let whole = Segment { object: 0, start: 0, end: 300 };
    write_corpus(&path, 299, 100);
    let error = runtime.block_on(Object::open(&object.pin)).unwrap_err();
    assert!(matches!(error, InputError::Changed { .. }), "{error}");
    let error = read(&runtime, &object, whole).unwrap_err();
    assert!(matches!(error, RowsError::Input(InputError::Changed { .. })), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = read(&runtime, &object, whole).unwrap_err();
    assert!(error.to_string().contains("it is gone"), "{error}");
}

#[test]
fn a_broken_page_is_named_by_object_and_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.parquet");
    write_corpus(&path, 300, 100);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle..middle + 400].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let object = runtime.block_on(Object::pin(&path)).unwrap();
    let error = read(&runtime, &object, Segment { object: 0, start: 0, end: 300 }).unwrap_err();
    assert!(matches!(&error, RowsError::Decode { object, .. } if object.ends_with("c.parquet")), "{error}");
}

#[tokio::test]
async fn what_is_no_parquet_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("short", &b"PAR1"[..]), ("text", b"some text that is not parquet"), ("cut", b"PAR1xxxxxxxx")]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = Object::pin(&path).await.unwrap_err();
        assert!(matches!(&error, InputError::NotParquet { object, .. } if object.ends_with(name)), "{error}");
    }
}

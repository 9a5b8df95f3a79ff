//! Embedding as a person does it, with the real worker and a tiny model, or with the stand-in where only rows matter.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, Decimal128Array, DictionaryArray, Float64Array, Int64Array, LargeStringArray, RecordBatch,
    StringArray, StringViewArray, StructArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field};
use gristmill_job::{DeadReason, Exit};
use gristmill_store::text_hash;
use gristmill_tests::corpus::{text, texts, write_batch, write_columns, write_texts};
use gristmill_tests::output::{OutputRow, check_stand_in, dead_letters, is_sealed, parts, read, rows};
use gristmill_tests::programs::{Embed, query, verify_is_clean};
use gristmill_tests::stand_in::{DELAY_MS, LEDGER};
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Place(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn out(&self) -> PathBuf {
        self.path("out")
    }
}

fn by_row(out: &Path) -> BTreeMap<u64, OutputRow> {
    rows(out).into_values().map(|row| (row.row, row)).collect()
}

/// What `gristmill-worker query` answers.
struct Answer {
    vector: Vec<f32>,
    tokens: i32,
    cut_bytes: i64,
}

fn ask(options: &[&str], texts: &[&str]) -> Vec<Answer> {
    let lines: String = texts.iter().map(|text| serde_json::to_string(text).unwrap() + "\n").collect();
    let output = query(&[options, &["--json-lines", "--threads", "1"]].concat(), &lines);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer = |line: &str| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| json[name].as_i64().unwrap();
        let vector = json["vector"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        Answer { vector, tokens: number("tokens") as i32, cut_bytes: number("cut_bytes") }
    };
    String::from_utf8(output.stdout).unwrap().lines().map(answer).collect()
}

/// Embeds texts with the real model and compares each row with what `query` answers.
fn compare_with_query(options: &[&str], asking: &[&str], tolerance: f32) {
    let place = Place::new();
    let mut texts = texts(21, 24);
    texts.extend(["   \n\t ".to_owned(), text(22, 200), "漢字 é e\u{301} 🦀".to_owned(), "<|endoftext|>x".to_owned()]);
    write_texts(&place.path("c.parquet"), &texts);
    let run =
        Embed::new(place.path("c.parquet"), &place.out()).args(["--json", "--threads", "1", "--max-tokens", "60"]);
    let ran = run.args(options).run().expect(Exit::Done);
    assert_eq!(ran.event("summary")["vectors"], texts.len());
    let found = by_row(&place.out());
    let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
    let answers = ask(&[asking, &["--max-tokens", "60"]].concat(), &borrowed);
    assert_eq!(answers.len(), texts.len());
    for ((number, text), answer) in (0..).zip(&texts).zip(&answers) {
        let row = &found[&number];
        assert_eq!((row.tokens, row.cut_bytes), (answer.tokens, answer.cut_bytes), "row {number}");
        assert!(row.tokens <= 60);
        assert_eq!(row.text_hash, text_hash(text), "row {number}");
        let off = row.vector.iter().zip(&answer.vector).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= tolerance, "row {number} is off by {off}");
    }
    let cut = answers.iter().filter(|answer| answer.cut_bytes > 0).count();
    assert!(cut >= 1 && answers[24..].iter().any(|a| a.tokens == 60), "some text is longer than 60 tokens");
    verify_is_clean(&place.out());
}

#[test]
fn rows_have_the_vectors_that_a_query_for_the_same_text_has() {
    compare_with_query(&["--compute", "f32"], &["--compute", "f32", "--prompt", "document"], 1e-5);
}

#[test]
fn a_literal_prompt_and_float16_are_what_they_say() {
    let options = ["--compute", "f32", "--prompt", "Find this: ", "--dtype", "f16"];
    compare_with_query(&options, &["--compute", "f32", "--prompt", "Find this: "], 1e-3);
}

#[test]
fn without_a_prompt_and_with_special_tokens_as_text() {
    let options = ["--compute", "f32", "--prompt", "", "--special-tokens", "text"];
    compare_with_query(&options, &options, 1e-5);
}

#[test]
fn files_folders_and_globs_are_one_corpus_and_a_limit_takes_its_first_rows() {
    let place = Place::new();
    fs::create_dir_all(place.path("in/deep")).unwrap();
    for (name, seed) in [("in/a.parquet", 1), ("in/deep/b.parquet", 2), ("in/_c.parquet", 3), ("d.parquet", 4)] {
        write_texts(&place.path(name), &texts(seed, 30));
    }
    let files = |corpus: &[PathBuf], options: &[&str], out: &str| {
        let out = place.path(out);
        let embed = Embed::stand_in(&corpus[0], &out).args(&corpus[1..]).args(options);
        embed.run().expect(Exit::Done);
        let mut files = BTreeMap::<String, usize>::new();
        rows(&out).into_keys().for_each(|(file, _)| *files.entry(file).or_default() += 1);
        files.into_iter().collect::<Vec<_>>()
    };
    let all = |rows: &[(&str, usize)]| rows.iter().map(|(file, n)| ((*file).to_owned(), *n)).collect::<Vec<_>>();
    let (folder, glob) = (place.path("in"), place.path("*.parquet"));
    let found = files(std::slice::from_ref(&folder), &[], "out1");
    assert_eq!(found, all(&[("a.parquet", 30), ("b.parquet", 30)]), "hidden files are not taken");
    let found = files(&[folder.clone(), glob, place.path("in/a.parquet")], &[], "out2");
    assert_eq!(found, all(&[("a.parquet", 30), ("b.parquet", 30), ("d.parquet", 30)]), "each file once");
    let found = files(&[folder], &["--limit", "37"], "out3");
    assert_eq!(found, all(&[("a.parquet", 30), ("b.parquet", 7)]));
}

#[test]
fn null_and_empty_texts_are_dead_letters_and_blank_ones_are_not() {
    let place = Place::new();
    let values: Vec<Option<&str>> =
        vec![Some("a"), None, Some(""), Some(" "), Some("\n"), None, Some("b"), Some("c"), Some("\u{0}")];
    write_columns(&place.path("c.parquet"), vec![("content", Arc::new(StringArray::from(values)) as ArrayRef)]);
    Embed::stand_in(place.path("c.parquet"), &place.out()).run().expect(Exit::Done);
    let letters: BTreeMap<u64, DeadReason> =
        dead_letters(&place.out()).into_values().map(|letter| (letter.row, letter.reason)).collect();
    let expected = [(1, DeadReason::NullText), (2, DeadReason::EmptyText), (5, DeadReason::NullText)];
    assert_eq!(letters, BTreeMap::from(expected));
    assert_eq!(by_row(&place.out()).into_keys().collect::<Vec<_>>(), [0, 3, 4, 6, 7, 8]);
    verify_is_clean(&place.out());
}

#[test]
fn a_corpus_that_mostly_lacks_text_is_not_sealed_unless_that_is_allowed() {
    let place = Place::new();
    let values: Vec<Option<&str>> = vec![Some("a"), None, None, None];
    write_columns(&place.path("c.parquet"), vec![("content", Arc::new(StringArray::from(values)) as ArrayRef)]);
    let embed = || Embed::stand_in(place.path("c.parquet"), &place.out());
    embed().run().expect_message(Exit::NeedsAttention, &["3 of 4 rows", "NULL_TEXT 3", "--max-missing-text"]);
    assert!(!is_sealed(&place.out()));
    embed().args(["--max-missing-text", "0.75"]).run().expect(Exit::Done);
    verify_is_clean(&place.out());
}

#[test]
fn every_type_of_text_gives_the_same_rows() {
    let texts = texts(8, 40);
    let keys: Vec<Option<i32>> = (0..40).map(Some).collect();
    let values: ArrayRef = Arc::new(StringArray::from(texts.clone()));
    let kinds: [(&str, ArrayRef); 4] = [
        ("utf8", Arc::clone(&values)),
        ("large", Arc::new(LargeStringArray::from(texts.clone()))),
        ("view", Arc::new(StringViewArray::from_iter_values(&texts))),
        ("dictionary", Arc::new(DictionaryArray::<Int32Type>::new(keys.into(), values))),
    ];
    for (name, column) in kinds {
        let place = Place::new();
        write_columns(&place.path("c.parquet"), vec![("content", column)]);
        Embed::stand_in(place.path("c.parquet"), &place.out()).run().expect(Exit::Done);
        println!("{name}");
        check_stand_in(&place.out(), "c.parquet", &texts, &[]);
        verify_is_clean(&place.out());
    }
}

#[test]
fn every_compression_holds_the_same_rows() {
    let texts = texts(8, 200);
    for compression in ["zstd", "lz4", "snappy", "none"] {
        let place = Place::new();
        write_texts(&place.path("c.parquet"), &texts);
        let embed = Embed::stand_in(place.path("c.parquet"), &place.out());
        embed.args(["--compression", compression]).run().expect(Exit::Done);
        check_stand_in(&place.out(), "c.parquet", &texts, &[]);
        verify_is_clean(&place.out());
    }
}

#[test]
fn a_row_of_ten_megabytes_is_cut() {
    let place = Place::new();
    let mut texts = texts(8, 5);
    texts[2] = text(7, 2_200_000);
    assert!(texts[2].len() > 10 << 20);
    write_texts(&place.path("c.parquet"), &texts);
    Embed::stand_in(place.path("c.parquet"), &place.out()).run().expect(Exit::Done);
    check_stand_in(&place.out(), "c.parquet", &texts, &[]);
    let row = &by_row(&place.out())[&2];
    assert_eq!(row.tokens, 2048);
    assert!(row.cut_bytes > 10_000_000 && row.cut_bytes < texts[2].len() as i64);
    verify_is_clean(&place.out());
}

/// A corpus with columns of many types.
fn many_columns() -> RecordBatch {
    let mut tags = ListBuilder::new(StringBuilder::new());
    for row in 0..50 {
        (0..row % 4).for_each(|tag| tags.values().append_value(format!("{row}.{tag}")));
        tags.append(row % 7 != 0);
    }
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..50).map(|i| (i % 5 != 0).then_some(i))));
    let inner = Field::new("n", DataType::Int64, true);
    let nested = StructArray::from(vec![(Arc::new(inner), Arc::clone(&numbers))]);
    let decimals = Decimal128Array::from_iter_values(0..50).with_precision_and_scale(20, 3).unwrap();
    let times = TimestampMicrosecondArray::from_iter_values(0..50).with_timezone("UTC");
    let floats = Float64Array::from_iter((0..50).map(|i| (i != 3).then_some(f64::from(i) / 7.0)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("tags", Arc::new(tags.finish())),
        ("content", Arc::new(StringArray::from(texts(8, 50)))),
        ("nested", Arc::new(nested)),
        ("price", Arc::new(decimals)),
        ("at", Arc::new(times)),
        ("score", Arc::new(floats)),
        ("number", numbers),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

#[test]
fn carried_columns_keep_their_types_and_values() {
    let place = Place::new();
    let corpus = many_columns();
    write_batch(&place.path("c.parquet"), &corpus);
    for (options, names) in [
        (&[][..], &["tags", "nested", "price", "at", "score", "number"][..]),
        (&["--columns", "at,tags"], &["at", "tags"]),
        (&["--columns", ""], &[]),
    ] {
        let out = place.path(&format!("out{}", names.len()));
        let embed = Embed::stand_in(place.path("c.parquet"), &out).args(["--shard-tokens", "300"]).args(options);
        embed.run().expect(Exit::Done);
        let mut seen = 0;
        for batch in parts(&out).iter().flat_map(|part| read(part)) {
            let schema = batch.schema();
            let found: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            let own = ["embedding", "_object", "_version", "_row", "_tokens", "_cut_bytes", "_text_hash"];
            assert_eq!(found, [names, &own[..]].concat());
            for (at, row) in
                batch.column_by_name("_row").unwrap().as_primitive::<Int64Type>().values().iter().enumerate()
            {
                for name in names {
                    let (ours, theirs) = (batch.column_by_name(name).unwrap(), corpus.column_by_name(name).unwrap());
                    assert_eq!(ours.data_type(), theirs.data_type(), "{name}");
                    assert_eq!(&ours.slice(at, 1), &theirs.slice(*row as usize, 1), "{name} of row {row}");
                }
                seen += 1;
            }
        }
        assert_eq!(seen, 50);
        assert!(parts(&out).len() > 1, "one part holds all");
        verify_is_clean(&out);
    }
}

#[test]
fn a_finished_output_says_so_and_starts_nobody() {
    let place = Place::new();
    write_texts(&place.path("c.parquet"), &texts(8, 100));
    Embed::stand_in(place.path("c.parquet"), &place.out()).run().expect(Exit::Done);
    let before: Vec<_> =
        parts(&place.out()).iter().map(|part| fs::metadata(part).unwrap().modified().unwrap()).collect();
    // A worker would end the run with another exit code.
    let again = || Embed::new(place.path("c.parquet"), &place.out()).args(["--worker", "/bin/false"]);
    let ran = again().run().expect(Exit::Done);
    assert!(ran.stderr.contains("is finished and sealed already; nothing to do"), "{}", ran.stderr);
    let summary = again().args(["--json"]).run().expect(Exit::Done).event("summary");
    assert_eq!((&summary["rows"], &summary["run"]["rows"]), (&100.into(), &0.into()));
    let ran = again().args(["--max-tokens", "99"]).run();
    ran.expect_message(Exit::SpecDiffers, &["text.max_tokens: 2048 in the output, 99 asked for", "--output"]);
    let ran = again().args(["--dtype", "f16"]).run();
    ran.expect_message(Exit::SpecDiffers, &["vectors.dtype: \"f32\" in the output, \"f16\" asked for"]);
    let after: Vec<_> =
        parts(&place.out()).iter().map(|part| fs::metadata(part).unwrap().modified().unwrap()).collect();
    assert_eq!(before, after);
}

#[test]
fn a_file_that_is_new_since_the_plan_is_named_and_not_embedded() {
    let place = Place::new();
    fs::create_dir(place.path("in")).unwrap();
    write_texts(&place.path("in/a.parquet"), &texts(8, 100));
    let embed = || Embed::stand_in(place.path("in"), &place.out());
    embed().run().expect(Exit::Done);
    fs::remove_file(place.out().join(gristmill_store::keys::MANIFEST)).unwrap();
    write_texts(&place.path("in/b.parquet"), &texts(9, 100));
    let ran = embed().run().expect(Exit::Done);
    assert!(ran.stderr.contains("b.parquet is new since the job was planned and is not embedded"), "{}", ran.stderr);
    check_stand_in(&place.out(), "a.parquet", &texts(8, 100), &[]);
    verify_is_clean(&place.out());
}

#[test]
fn a_resume_with_other_settings_goes_on_with_the_old_plan() {
    let place = Place::new();
    let texts = texts(8, 600);
    write_texts(&place.path("c.parquet"), &texts);
    let ledger = place.path("ledger");
    let embed = || Embed::stand_in(place.path("c.parquet"), &place.out()).env(LEDGER, &ledger);
    embed().args(["--shard-tokens", "1600"]).run().expect(Exit::Done);
    let all = parts(&place.out());
    fs::remove_file(place.out().join(gristmill_store::keys::MANIFEST)).unwrap();
    all.iter().step_by(2).for_each(|part| fs::remove_file(part).unwrap());
    fs::remove_file(&ledger).unwrap();
    let missing = 600 - rows(&place.out()).len();
    let options = ["--shard-tokens", "99999", "--compression", "none", "--threads", "2", "--budget-tokens", "700"];
    embed().args(options).run().expect(Exit::Done);
    assert_eq!(parts(&place.out()), all, "the plan is another");
    let encoded: usize = fs::read_to_string(&ledger)
        .unwrap()
        .lines()
        .map(|l| l.split(' ').nth(1).unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(encoded, missing, "what was committed is not computed again");
    check_stand_in(&place.out(), "c.parquet", &texts, &[]);
    verify_is_clean(&place.out());
}

#[test]
fn parts_are_whole_whenever_somebody_looks() {
    let place = Place::new();
    let texts = texts(8, 1500);
    write_texts(&place.path("c.parquet"), &texts);
    let done = Arc::new(AtomicBool::new(false));
    let (out, finished) = (place.out(), Arc::clone(&done));
    let reader = std::thread::spawn(move || {
        let (mut looks, mut most) = (0, 0);
        while !finished.load(Relaxed) {
            let found = rows(&out).len();
            assert!(found >= most, "rows have gone");
            (looks, most) = (looks + 1, found);
            std::thread::sleep(Duration::from_millis(5));
        }
        looks
    });
    let embed = Embed::stand_in(place.path("c.parquet"), &place.out());
    let ran = embed.args(["--shard-tokens", "1600", "--budget-tokens", "400"]).env(DELAY_MS, "15").run();
    done.store(true, Relaxed);
    println!("{} looks", reader.join().expect("a file was not whole"));
    ran.expect(Exit::Done);
    check_stand_in(&place.out(), "c.parquet", &texts, &[]);
}

#[test]
fn a_part_that_is_full_is_committed_and_the_rest_handed_back() {
    let place = Place::new();
    let texts = texts(8, 4000);
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..4000));
    // Long and hardly compressible, so that a MiB is soon full.
    let ballast = (0..4000).map(|i| format!("{:?}", gristmill_job::Digest::of(&[i as u8, (i >> 8) as u8])).repeat(8));
    let ballast: ArrayRef = Arc::new(StringArray::from_iter_values(ballast));
    let content: ArrayRef = Arc::new(StringArray::from(texts.clone()));
    write_columns(&place.path("c.parquet"), vec![("id", ids), ("ballast", ballast), ("content", content)]);
    let options = ["--part-mib", "1", "--shard-tokens", "1000000", "--compression", "none"];
    Embed::stand_in(place.path("c.parquet"), &place.out()).args(options).run().expect(Exit::Done);
    let sizes: Vec<u64> = parts(&place.out()).iter().map(|part| fs::metadata(part).unwrap().len()).collect();
    println!("{sizes:?}");
    assert!(sizes.len() >= 3, "{} parts", sizes.len());
    assert!(sizes.iter().all(|size| *size < 3 << 20), "{sizes:?}");
    check_stand_in(&place.out(), "c.parquet", &texts, &[]);
    verify_is_clean(&place.out());
}

#[test]
fn json_lines_say_how_a_run_began_went_and_ended() {
    let place = Place::new();
    write_texts(&place.path("c.parquet"), &texts(8, 800));
    let embed = Embed::stand_in(place.path("c.parquet"), &place.out()).args(["--json", "--budget-tokens", "400"]);
    let ran = embed.env(DELAY_MS, "60").run().expect(Exit::Done);
    let (start, progress, summary) = (ran.event("start"), ran.event("progress"), ran.event("summary"));
    assert_eq!((&start["rows"], &start["resumed"]), (&800.into(), &false.into()));
    assert_eq!(progress["rows_total"], 800);
    assert!(progress["percent"].as_f64().is_some_and(|percent| percent > 0.0 && percent <= 100.0), "{progress}");
    assert_eq!(
        (&summary["rows"], &summary["vectors"], &summary["run"]["rows"]),
        (&800.into(), &800.into(), &800.into())
    );
    assert!(ran.stdout.lines().last().unwrap().contains("\"summary\""), "the summary comes last");
}

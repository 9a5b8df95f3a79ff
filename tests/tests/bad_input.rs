//! Everything that can be wrong with what a person asks for: each ends with the exit code that scripts rely on, and with a
//! message that names the object and the cause; and never with a manifest.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Int64Array, StringArray};
use gristmill_job::Exit;
use gristmill_tests::corpus::{texts, write_columns, write_texts};
use gristmill_tests::output::{self, check_stand_in, is_sealed, parts};
use gristmill_tests::programs::{Embed, Ran, make_model, verify_is_clean};
use gristmill_tests::stand_in::{DELAY_MS, LEDGER};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
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

    /// A corpus of so many rows.
    fn corpus(&self, name: &str, rows: usize) -> PathBuf {
        let path = self.path(name);
        write_texts(&path, &texts(9, rows));
        path
    }

    fn embed(&self, corpus: impl AsRef<std::ffi::OsStr>) -> Embed {
        Embed::stand_in(corpus, &self.out())
    }

    /// Embedding fails so, and leaves nothing that could be taken for a result.
    #[track_caller]
    fn refuses(&self, corpus: impl AsRef<std::ffi::OsStr>, exit: Exit, words: &[&str]) -> Ran {
        let ran = self.embed(corpus).run().expect_message(exit, words);
        assert!(!is_sealed(&self.out()));
        assert_eq!(ran.stdout, "", "results of a run that failed");
        ran
    }
}

fn strings(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn numbers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

#[test]
fn what_is_not_there_is_named() {
    let place = Place::new();
    place.refuses(place.path("absent.parquet"), Exit::Input, &["absent.parquet", "matches no Parquet file"]);
    place.refuses(place.path("*.parquet"), Exit::Input, &["*.parquet", "matches no Parquet file"]);
    fs::create_dir(place.path("empty")).unwrap();
    place.refuses(place.path("empty"), Exit::Input, &["empty", "matches no Parquet file"]);
    place.refuses("s3://bucket/corpus", Exit::Input, &["s3://bucket/corpus", "scheme `s3` is not supported"]);
    assert!(!place.out().exists(), "nothing is written for a corpus that is not there");
}

#[test]
fn columns_that_do_not_fit_are_named() {
    let place = Place::new();
    let corpus = place.path("c.parquet");
    write_columns(&corpus, vec![("path", strings(&["a"])), ("body", strings(&["x"])), ("size", numbers(&[1]))]);
    place.refuses(&corpus, Exit::Input, &["c.parquet", "--text-column", "path, body"]);
    let asking = |options: [&str; 2], words: &[&str]| {
        place.embed(&corpus).args(options).run().expect_message(Exit::Input, words);
    };
    asking(["--text-column", "nope"], &["c.parquet", "no column `nope`", "path, body, size"]);
    asking(["--text-column", "size"], &["c.parquet", "`size` is Int64, not text", "path, body"]);
    let options = ["--text-column", "body", "--columns", "nope"];
    place.embed(&corpus).args(options).run().expect_message(Exit::Input, &["no column `nope`"]);
    let clashing = place.path("clash.parquet");
    write_columns(&clashing, vec![("content", strings(&["x"])), ("_row", numbers(&[1]))]);
    place.refuses(&clashing, Exit::Input, &["`_row`", "--columns"]);
    assert!(!place.out().exists());
}

#[test]
fn files_that_differ_in_a_column_are_named() {
    let place = Place::new();
    fs::create_dir(place.path("in")).unwrap();
    write_columns(&place.path("in/a.parquet"), vec![("content", strings(&["x"])), ("size", numbers(&[1]))]);
    write_columns(&place.path("in/b.parquet"), vec![("content", strings(&["x"])), ("size", strings(&["1"]))]);
    place.refuses(place.path("in"), Exit::Input, &["`size` is Utf8", "b.parquet", "Int64", "a.parquet", "--columns"]);
    write_columns(&place.path("in/b.parquet"), vec![("content", strings(&["x"]))]);
    place.refuses(place.path("in"), Exit::Input, &["b.parquet", "no column `size`"]);
}

#[test]
fn a_corpus_without_rows_is_refused() {
    let place = Place::new();
    let corpus = place.corpus("none.parquet", 0);
    place.refuses(&corpus, Exit::Input, &["the corpus has no rows", "none.parquet"]);
    place.embed(place.corpus("one.parquet", 1)).args(["--limit", "0"]).run().expect(Exit::Usage);
}

#[test]
fn a_file_that_is_no_parquet_is_named_before_anything_is_written() {
    let place = Place::new();
    let corpus = place.path("c.parquet");
    fs::write(&corpus, "PAR1 this is a text that somebody named wrongly").unwrap();
    place.refuses(&corpus, Exit::Input, &["c.parquet", "not a readable Parquet file"]);
    fs::write(&corpus, "").unwrap();
    place.refuses(&corpus, Exit::Input, &["c.parquet", "not a readable Parquet file", "0 bytes"]);
    place.corpus("c.parquet", 100);
    let whole = fs::read(&corpus).unwrap();
    fs::write(&corpus, &whole[..whole.len() / 2]).unwrap();
    place.refuses(&corpus, Exit::Input, &["c.parquet", "it may be truncated"]);
    // The end is there, and what it counts is not.
    fs::write(&corpus, &whole[whole.len() / 2..]).unwrap();
    place.refuses(&corpus, Exit::Input, &["c.parquet"]);
}

#[test]
fn a_damaged_page_is_named_and_nothing_is_sealed() {
    let place = Place::new();
    let texts = texts(9, 900);
    let corpus = place.path("c.parquet");
    write_texts(&corpus, &texts);
    let mut bytes = fs::read(&corpus).unwrap();
    // The length that stands before a text in the middle becomes absurd.
    let needle = texts[600].as_bytes();
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at - 4..at].copy_from_slice(&[0xFF, 0xFF, 0xFF, 0x7F]);
    fs::write(&corpus, &bytes).unwrap();
    place.refuses(&corpus, Exit::Input, &["c.parquet", "cannot be decoded"]);
}

#[test]
fn a_damaged_page_header_is_named_and_nothing_is_sealed() {
    let place = Place::new();
    let corpus = place.corpus("c.parquet", 900);
    let mut bytes = fs::read(&corpus).unwrap();
    bytes[4..40].fill(0xFF);
    let texts_start = bytes.windows(4).position(|window| window == b"impl").unwrap();
    bytes[texts_start - 60..texts_start].fill(0xFF);
    fs::write(&corpus, &bytes).unwrap();
    place.refuses(&corpus, Exit::Input, &["c.parquet", "cannot be decoded"]);
}

#[test]
fn bytes_turned_over_in_page_headers_end_the_run_or_change_nothing() {
    let texts = texts(9, 100);
    for seed in 0..8 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let place = Place::new();
        let corpus = place.path("c.parquet");
        write_texts(&corpus, &texts);
        let mut bytes = fs::read(&corpus).unwrap();
        let first = bytes.windows(texts[0].len()).position(|window| window == texts[0].as_bytes()).unwrap();
        for _ in 0..3 {
            let place = random.next_u32() as usize % 40;
            let at = if random.next_u32() % 2 == 0 { 4 + place } else { first - 1 - place };
            bytes[at] ^= 1 + (random.next_u32() % 255) as u8;
        }
        fs::write(&corpus, &bytes).unwrap();
        let ran = place.embed(&corpus).run();
        println!("seed {seed}: exit {}, {}", ran.code, ran.stderr.lines().last().unwrap_or_default());
        assert_eq!(is_sealed(&place.out()), ran.code == 0);
        if ran.code != 0 {
            ran.expect_message(Exit::Input, &["c.parquet"]);
        }
    }
}

#[test]
fn text_that_is_no_utf8_is_named_and_nothing_is_sealed() {
    let place = Place::new();
    let texts = texts(9, 100);
    let corpus = place.path("c.parquet");
    write_texts(&corpus, &texts);
    let mut bytes = fs::read(&corpus).unwrap();
    let needle = texts[60].as_bytes();
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] = 0xFF;
    fs::write(&corpus, &bytes).unwrap();
    place.refuses(&corpus, Exit::Input, &["c.parquet", "cannot be decoded"]);
}

#[test]
fn a_model_that_cannot_be_used_is_named() {
    let place = Place::new();
    let corpus = place.corpus("c.parquet", 10);
    let model = place.path("m");
    let with = |model: &Path, exit: Exit, words: &[&str]| {
        let ran = Embed::new(&corpus, &place.out()).env("GRISTMILL_MODEL", model).run();
        ran.expect_message(exit, words);
        assert!(!is_sealed(&place.out()));
    };
    with(Path::new("C2LLM-0.5B"), Exit::Input, &["C2LLM-0.5B", "hf download"]);
    with(&model, Exit::Input, &["there is no folder", "config.json"]);
    make_model(&model);
    let change = |name: &str, change: &dyn Fn(Vec<u8>) -> Option<Vec<u8>>| {
        let path = model.join(name);
        let whole = fs::read(&path).unwrap();
        match change(whole.clone()) {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        (path, whole)
    };
    let restore = |(path, whole): (PathBuf, Vec<u8>)| fs::write(path, whole).unwrap();
    let replaced = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| {
            let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            Some([&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat())
        }
    };

    let changed = change("model.safetensors", &|_| None);
    with(&model, Exit::Input, &["lacks", "safetensors"]);
    restore(changed);
    let changed = change("config.json", &replaced("\"silu\"", "\"gelu\""));
    with(&model, Exit::Input, &["config.json", "`hidden_act` is \"gelu\"", "not supported"]);
    restore(changed);
    let changed = change("config.json", &replaced("\"vocab_size\": 151680", "\"vocab_size\": 1000"));
    with(&model, Exit::Input, &["tokenizer.json", "the embedding table has 1000 rows"]);
    restore(changed);
    let changed = change("tokenizer.json", &|_| Some(b"{}".to_vec()));
    with(&model, Exit::Input, &["tokenizer.json", "not a tokenizer"]);
    restore(changed);

    // These are found by the worker, which alone reads tensors; each changes the model's digest and so the job.
    let broken = |name: &str, words: &[&str]| {
        with(&model, Exit::Input, words);
        fs::remove_dir_all(place.out()).unwrap_or_else(|e| panic!("{name}: {e}"));
    };
    let changed = change("model.safetensors", &|bytes| Some(bytes[..bytes.len() - 1000].to_vec()));
    broken("truncated", &["model.safetensors"]);
    restore(changed);
    let changed = change("config.json", &replaced("\"intermediate_size\": 192", "\"intermediate_size\": 190"));
    broken("another shape", &["mlp", "192", "190"]);
    restore(changed);
    let changed = change("model.safetensors", &replaced("\"BF16\"", "\"I16\" "));
    broken("another type", &["I16"]);
    restore(changed);
    Embed::new(&corpus, &place.out()).env("GRISTMILL_MODEL", &model).run().expect(Exit::Done);
}

#[test]
fn an_output_with_other_parquet_files_is_refused() {
    let place = Place::new();
    let corpus = place.corpus("c.parquet", 10);
    fs::create_dir(place.out()).unwrap();
    fs::copy(&corpus, place.out().join("mine.parquet")).unwrap();
    place.refuses(&corpus, Exit::NeedsAttention, &["mine.parquet", "folder of its own"]);
    fs::remove_file(place.out().join("mine.parquet")).unwrap();
    place.embed(&corpus).run().expect(Exit::Done);
}

#[test]
fn parquet_that_appears_during_the_run_keeps_the_job_from_being_sealed() {
    let place = Place::new();
    let corpus = place.corpus("c.parquet", 600);
    let embed = place.embed(&corpus).args(["--shard-tokens", "1600"]).env(DELAY_MS, "30").start();
    wait_until("the first part", || !parts(&place.out()).is_empty());
    fs::copy(&corpus, place.out().join("mine.parquet")).unwrap();
    embed.wait().expect_message(Exit::NeedsAttention, &["mine.parquet", "move it elsewhere"]);
    assert!(!is_sealed(&place.out()));
    fs::remove_file(place.out().join("mine.parquet")).unwrap();
    place.embed(&corpus).run().expect(Exit::Done);
}

#[track_caller]
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_second_run_on_an_output_in_use_steps_back() {
    let place = Place::new();
    let corpus = place.corpus("c.parquet", 1000);
    let ledger = place.path("ledger");
    let embed = place.embed(&corpus).args(["--budget-tokens", "400"]).env(DELAY_MS, "40").env(LEDGER, &ledger).start();
    wait_until("the first batch", || ledger.exists());
    place
        .embed(&corpus)
        .run()
        .expect_message(Exit::NeedsAttention, &["is being embedded by the coordinator at http://127.0.0.1:"]);
    let other = place.embed(&corpus).args(["--max-tokens", "99"]).run();
    other.expect_message(Exit::SpecDiffers, &["text.max_tokens: 2048 in the output, 99 asked for"]);
    embed.wait().expect(Exit::Done);
    check_stand_in(&place.out(), "c.parquet", &texts(9, 1000), &[]);
    verify_is_clean(&place.out());
}

#[test]
fn a_corpus_that_changed_between_two_runs_is_refused() {
    let place = Place::new();
    let corpus = place.corpus("c.parquet", 300);
    place.embed(&corpus).run().expect(Exit::Done);
    fs::remove_file(place.out().join(gristmill_store::keys::MANIFEST)).unwrap();
    write_texts(&corpus, &texts(10, 300));
    place.refuses(&corpus, Exit::Input, &["c.parquet", "has changed since the job was planned"]);
    fs::remove_file(&corpus).unwrap();
    place.corpus("d.parquet", 300);
    place.refuses(place.path("*.parquet"), Exit::Input, &["c.parquet", "it is gone"]);
}

#[test]
fn a_corpus_that_changes_under_the_job_ends_it() {
    let place = Place::new();
    fs::create_dir(place.path("in")).unwrap();
    write_texts(&place.path("in/a.parquet"), &texts(1, 300));
    write_texts(&place.path("in/b.parquet"), &texts(2, 300));
    let options = ["--shard-tokens", "1600", "--budget-tokens", "400"];
    let embed = place.embed(place.path("in")).args(options).env(DELAY_MS, "60").start();
    wait_until("the first part", || !parts(&place.out()).is_empty());
    write_texts(&place.path("in/b.parquet"), &texts(3, 300));
    embed.wait().expect_message(Exit::Input, &["b.parquet", "has changed since the job was planned"]);
    assert!(!is_sealed(&place.out()));
    assert!(output::rows(&place.out()).keys().all(|(file, _)| file == "a.parquet"));
}

#[test]
fn no_space_for_parts_ends_the_run_and_more_space_goes_on() {
    let place = Place::new();
    let corpus = place.corpus("c.parquet", 2000);
    let run = place.embed(&corpus).args(["--compression", "none"]).with_file_limit(100_000).run();
    run.expect_message(Exit::NoProgress, &["part-", "File too large"]);
    assert!(!is_sealed(&place.out()));
    assert!(parts(&place.out()).is_empty());
    place.embed(&corpus).run().expect(Exit::Done);
    check_stand_in(&place.out(), "c.parquet", &texts(9, 2000), &[]);
    verify_is_clean(&place.out());
}

#[test]
fn an_output_that_may_not_be_written_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let corpus = place.corpus("c.parquet", 10);
    // SAFETY: the call cannot fail and touches no memory.
    if unsafe { libc::geteuid() } == 0 {
        println!("skipped: this user may write to folders that are read-only");
        return;
    }
    fs::create_dir(place.out()).unwrap();
    fs::set_permissions(place.out(), fs::Permissions::from_mode(0o555)).unwrap();
    place.refuses(&corpus, Exit::NoProgress, &["the output cannot be written", "Permission denied"]);
    fs::set_permissions(place.out(), fs::Permissions::from_mode(0o755)).unwrap();
    place.embed(&corpus).run().expect(Exit::Done);
}

#[test]
fn an_output_below_a_file_is_named() {
    let place = Place::new();
    let corpus = place.corpus("c.parquet", 10);
    let ran = Embed::stand_in(&corpus, &corpus.join("out")).run();
    assert!(ran.code == Exit::NoProgress as i32 || ran.code == Exit::Usage as i32, "{}\n{}", ran.code, ran.stderr);
    assert!(ran.stderr.contains("c.parquet/out"), "{}", ran.stderr);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let place = Place::new();
    let corpus = place.corpus("c.parquet", 10);
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--max-tokens", "0"], &["--max-tokens"]),
        (&["--max-tokens", "40000"], &["40000", "32768 positions"]),
        (&["--dtype", "f64"], &["f64"]),
        (&["--limit", "many"], &["--limit"]),
        (&["--worker", "/nowhere/worker"], &["/nowhere/worker"]),
    ];
    for (options, words) in cases {
        let ran = place.embed(&corpus).args(options).run().expect(Exit::Usage);
        words.iter().for_each(|word| assert!(ran.stderr.contains(word), "{word}:\n{}", ran.stderr));
    }
    assert!(!place.out().exists());
}

#[test]
fn a_worker_that_cannot_start_ends_the_run() {
    let place = Place::new();
    let corpus = place.corpus("c.parquet", 10);
    let ran = place.embed(&corpus).args(["--worker", "/bin/false"]).run();
    ran.expect_message(Exit::Device, &["workers keep ending before they embed anything", "exit status: 1"]);
    assert!(!is_sealed(&place.out()));
}

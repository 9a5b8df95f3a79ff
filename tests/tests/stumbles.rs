//! What people do without meaning harm: an output inside its corpus, a part deleted by hand, a reader that stops listening, a
//! limit that cuts nothing off.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gristmill_job::Exit;
use gristmill_tests::corpus;
use gristmill_tests::output::{is_sealed, parts};
use gristmill_tests::programs::{Embed, program, tiny_model, verify_is_clean};
use tempfile::TempDir;

fn folder_of_texts(rows: usize) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("corpus");
    fs::create_dir(&corpus).unwrap();
    corpus::write_texts(&corpus.join("texts.parquet"), &corpus::texts(11, rows));
    (folder, corpus)
}

fn embed(corpus: &Path, output: &Path) -> Embed {
    Embed::stand_in(corpus, output).args(["--shard-tokens", "2000"])
}

#[test]
fn an_output_inside_its_corpus_is_no_part_of_the_corpus() {
    let (_folder, corpus) = folder_of_texts(200);
    let output = corpus.join("vectors");
    embed(&corpus, &output).run().expect(Exit::Done);
    let again = embed(&corpus, &output).run().expect(Exit::Done);
    assert!(again.stderr.contains("finished and sealed"), "{}", again.stderr);
    verify_is_clean(&output);
}

#[test]
fn a_part_missing_from_a_sealed_output_is_told_and_can_be_computed_again() {
    let (folder, corpus) = folder_of_texts(200);
    let output = folder.path().join("out");
    embed(&corpus, &output).run().expect(Exit::Done);
    let part = parts(&output).into_iter().nth(1).unwrap();
    fs::remove_file(part).unwrap();
    embed(&corpus, &output).run().expect_message(Exit::Damaged, &["is not committed", "manifest.json"]);
    fs::remove_file(output.join("_gristmill/manifest.json")).unwrap();
    embed(&corpus, &output).run().expect(Exit::Done);
    verify_is_clean(&output);
}

#[test]
fn a_limit_that_cuts_nothing_off_is_the_same_job() {
    let (folder, corpus) = folder_of_texts(100);
    let output = folder.path().join("out");
    embed(&corpus, &output).args(["--limit", "5000"]).run().expect(Exit::Done);
    let again = embed(&corpus, &output).run().expect(Exit::Done);
    assert!(again.stderr.contains("finished and sealed"), "{}", again.stderr);
}

#[test]
fn a_reader_that_stops_listening_does_not_end_the_run() {
    let (folder, corpus) = folder_of_texts(300);
    let output = folder.path().join("out");
    let mut run = Command::new(program("gristmill"))
        .arg("embed")
        .arg(&corpus)
        .args(["--json", "--shard-tokens", "2000", "--model"])
        .arg(tiny_model())
        .arg("--output")
        .arg(&output)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(run.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("\"start\""), "{first}");
    assert!(run.wait().unwrap().success());
    assert!(is_sealed(&output));
}

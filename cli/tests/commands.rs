//! `pack` and `model` as people call them: what goes to stdout, what to stderr, and with which exit code.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/qwen2.5-tokenizer/tokenizer.json.gz");

fn gristmill(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gristmill"))
        .current_dir(dir)
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

/// The exit code, stdout and stderr.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn json(output: &Output) -> Value {
    let (code, stdout, stderr) = told(output);
    assert_eq!((code, stdout.lines().count()), (0, 1), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn a_random_model_is_made_and_named() {
    let dir = TempDir::new().unwrap();
    let new = |output: &str, more: &[&str]| {
        let sizes = ["--layers", "1", "--hidden-size", "32", "--heads", "2", "--kv-heads", "1"];
        let head = ["model", "new", "--shape", "tiny", "--tokenizer", TOKENIZER, "--output", output, "--json"];
        json(&gristmill(dir.path(), &[&head[..], &sizes, more].concat()))
    };
    let one = new("one", &["--seed", "3"]);
    let again = new("again", &["--seed", "3"]);
    let spread = new("spread", &["--seed", "3", "--files", "2", "--dtype", "f32", "--compressed-dim", "8"]);
    assert_eq!((&one["event"], &one["model"]), (&"summary".into(), &"one".into()));
    assert_eq!(one["digest"], again["digest"]);
    assert_ne!(one["digest"], spread["digest"]);
    assert!(dir.path().join("spread/model-00002-of-00002.safetensors").exists());
    let config: Value = serde_json::from_slice(&fs::read(dir.path().join("spread/config.json")).unwrap()).unwrap();
    let sizes =
        ["hidden_size", "num_hidden_layers", "compressed_dim", "vocab_size"].map(|key| config[key].as_u64().unwrap());
    assert_eq!(sizes, [32, 1, 8, 151_680]);
    assert_eq!(config["torch_dtype"], "float32");

    let (code, stdout, stderr) = told(&gristmill(dir.path(), &["model", "digest", "one"]));
    assert_eq!((code, stdout.trim(), stderr.as_str()), (0, one["digest"].as_str().unwrap(), ""));
}

#[test]
fn faults_of_models_have_their_exit_codes() {
    let dir = TempDir::new().unwrap();
    let refused = |code: i32, words: &str, arguments: &[&str]| {
        let (told_code, stdout, stderr) = told(&gristmill(dir.path(), arguments));
        assert_eq!((told_code, stdout.as_str()), (code, ""), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(words), "{stderr}");
    };
    refused(3, "hf download codefuse-ai/C2LLM-7B --local-dir C2LLM-7B", &["model", "digest", "codefuse-ai/C2LLM-7B"]);
    fs::write(dir.path().join("notes"), "mine").unwrap();
    let new = ["model", "new", "--shape", "tiny", "--output", "."];
    refused(2, "not empty", &[&new[..], &["--tokenizer", TOKENIZER]].concat());
    refused(2, "num_attention_heads", &[&new[..], &["--tokenizer", TOKENIZER, "--heads", "3"]].concat());
    refused(2, "embedding table", &[&new[..], &["--tokenizer", TOKENIZER, "--vocab-size", "1000"]].concat());
    refused(3, "cannot be read", &[&new[..], &["--tokenizer", "nowhere.json"]].concat());
    refused(3, "not a tokenizer", &[&new[..], &["--tokenizer", "notes"]].concat());
    refused(2, "tiny", &["model", "new", "--shape", "huge", "--tokenizer", "t", "--output", "o"]);
}

#[test]
fn a_tree_is_packed() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("tree")).unwrap();
    fs::write(dir.path().join("tree/a.rs"), "fn main() {}").unwrap();
    fs::write(dir.path().join("tree/b.bin"), b"\0").unwrap();
    let pack = ["pack", "tree", "--output", "corpus.parquet"];
    let summary = json(&gristmill(dir.path(), &[&pack[..], &["--json"]].concat()));
    assert_eq!((&summary["files"], &summary["bytes"], &summary["skipped"]["nul"]), (&1.into(), &12.into(), &1.into()));

    let (code, stdout, stderr) = told(&gristmill(dir.path(), &pack));
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("`corpus.parquet` exists"), "{stderr}");
    let (code, stdout, stderr) = told(&gristmill(dir.path(), &[&pack[..], &["--force"]].concat()));
    assert_eq!((code, stdout.as_str()), (0, ""));
    assert_eq!(stderr, "packed 1 files, 12 bytes, into `corpus.parquet`\nskipped 1: with a NUL byte\n");
}

#[test]
fn help_has_examples() {
    for command in [&["pack", "--help"][..], &["model", "new", "--help"], &["model", "digest", "--help"]] {
        let (code, stdout, _) = told(&gristmill(Path::new("."), command));
        assert_eq!(code, 0);
        assert!(stdout.contains("Example"), "{stdout}");
    }
}

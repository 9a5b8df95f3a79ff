//! What may depend on what. The rules are in ARCHITECTURE.md; this holds the crates and the pure sources to them.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Each package, and the packages of ours that it may and does depend on.
const EDGES: [(&str, &[&str]); 8] = [
    ("gristmill-job", &[]),
    ("gristmill-proto", &["gristmill-job"]),
    ("gristmill-store", &["gristmill-job"]),
    ("gristmill-model", &["gristmill-job"]),
    ("gristmill-coordinator", &["gristmill-job", "gristmill-proto", "gristmill-store"]),
    ("gristmill-worker", &["gristmill-job", "gristmill-model", "gristmill-proto", "gristmill-store"]),
    ("gristmill", &["gristmill-coordinator", "gristmill-job", "gristmill-store"]),
    (
        "gristmill-tests",
        &[
            "gristmill-coordinator",
            "gristmill-job",
            "gristmill-model",
            "gristmill-proto",
            "gristmill-store",
            "gristmill-worker",
        ],
    ),
];
/// The only foreign crates of the vocabulary: none of them reads, writes, waits or draws.
const VOCABULARY: [&str; 4] = ["blake3", "serde", "serde_json", "thiserror"];
/// What the model must not know of.
const NOT_TENSORS: [&str; 10] = [
    "arrow-array",
    "arrow-schema",
    "object_store",
    "parquet",
    "prost",
    "reqwest",
    "tokenizers",
    "tokio",
    "tonic",
    "tracing-subscriber",
];
/// The sources that must decide the same way every time.
const PURE: [&str; 3] = ["coordinator/src/scheduler", "coordinator/src/cut.rs", "worker/src/packing.rs"];
/// What tells time, draws, waits, stores or talks.
const IMPURE: [&str; 19] = [
    "std::time",
    "Instant",
    "SystemTime",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::thread",
    "std::sync",
    "tokio",
    "futures",
    "async ",
    "rand",
    "gristmill_store",
    "object_store",
    "gristmill_proto",
    "tonic",
    "tracing",
    "println!",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".into()])
        .exec()
        .unwrap()
}

/// The normal dependencies of each package of the workspace.
fn dependencies(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let normal = |package: &cargo_metadata::Package| {
        let kept = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
        kept.map(|d| d.name.clone()).collect()
    };
    metadata.workspace_packages().iter().map(|package| (package.name.to_string(), normal(package))).collect()
}

#[test]
fn packages_depend_on_each_other_as_the_design_says() {
    let metadata = metadata();
    let found = dependencies(&metadata);
    let ours: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), ours);
    for (name, allowed) in EDGES {
        let edges: Vec<&str> = found[name].iter().map(String::as_str).filter(|n| ours.contains(n)).collect();
        assert_eq!(edges, allowed, "{name}");
    }
}

#[test]
fn the_vocabulary_is_plain_data() {
    let found = &dependencies(&metadata())["gristmill-job"];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), VOCABULARY);
    for (path, source) in sources(&root().join("job/src")) {
        for word in ["std::fs", "std::io", "std::net", "std::env", "std::process", "std::thread", "std::time"] {
            assert!(!code(&source).contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn the_model_knows_tensors_only_and_nobody_else_knows_libtorch() {
    let found = dependencies(&metadata());
    for name in NOT_TENSORS {
        assert!(!found["gristmill-model"].contains(name), "gristmill-model depends on {name}");
    }
    for (package, names) in &found {
        let torch = names.contains("tch") || names.contains("torch-sys");
        assert_eq!(torch, package == "gristmill-model", "{package}");
    }
    for (name, _) in EDGES {
        let folder = root().join(name.strip_prefix("gristmill-").unwrap_or("cli"));
        for (path, source) in sources(&folder.join("src")) {
            let named = ["tch::", "torch_sys"].iter().any(|word| word_in(code(&source), word));
            assert!(!named || name == "gristmill-model", "{} names libtorch", path.display());
        }
    }
}

#[test]
fn decisions_are_made_without_a_clock_randomness_or_a_store() {
    let mut files = 0;
    for pure in PURE {
        for (path, source) in sources(&root().join(pure)) {
            if path.components().any(|part| part.as_os_str() == "tests") {
                continue;
            }
            files += 1;
            for word in IMPURE {
                assert!(!word_in(code(&source), word), "{} has `{word}`", path.display());
            }
        }
    }
    assert!(files >= 10, "only {files} sources were found");
}

/// The Rust sources under a path.
fn sources(path: &Path) -> Vec<(PathBuf, String)> {
    if path.is_file() {
        return vec![(path.to_owned(), fs::read_to_string(path).unwrap())];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() || path.extension().is_some_and(|e| e == "rs") {
            found.extend(sources(&path));
        }
    }
    found
}

/// The source without the tests at its end.
fn code(source: &str) -> &str {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

/// Whether `word` stands in a line of code, not as the end of a longer name.
fn word_in(code: &str, word: &str) -> bool {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines
        .flat_map(|line| line.match_indices(word).map(move |(at, _)| &line[..at]))
        .any(|before| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn the_search_for_words_finds_them() {
    assert!(word_in("use std::time::Duration;", "std::time"));
    assert!(word_in("let now = Instant::now();", "Instant"));
    assert!(!word_in("// an Instant\nlet x = 1;", "Instant"));
    assert!(!word_in("operand", "rand"));
}

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use super::random::{RandomModel, Shape, WeightType};
use super::*;

/// A tokenizer of 300 ids, the last of them an added token.
fn tokenizer() -> Vec<u8> {
    let vocab: Vec<String> = (0..299).map(|id| format!(r#""t{id}":{id}"#)).collect();
    let added = r#"[{"id":299,"content":"<|endoftext|>"}]"#;
    let model = format!(r#"{{"type":"BPE","vocab":{{{}}},"merges":[["t","0"]]}}"#, vocab.join(","));
    format!(r#"{{"added_tokens":{added},"model":{model}}}"#).into_bytes()
}

fn tiny() -> RandomModel {
    RandomModel { shape: Shape::named("tiny", 300).unwrap(), dtype: WeightType::F32, seed: 7, files: 1 }
}

fn written(model: &RandomModel) -> (TempDir, Checkpoint) {
    let dir = TempDir::new().unwrap();
    let checkpoint = model.write(&tokenizer(), &dir.path().join("model")).unwrap();
    (dir, checkpoint)
}

/// Every tensor of a checkpoint by name: its shape and its bytes.
fn tensors(checkpoint: &Checkpoint) -> BTreeMap<String, (Vec<usize>, Dtype, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for path in &checkpoint.weights {
        let bytes = fs::read(path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(header % 8, 0, "the data is aligned");
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let tensor = (view.shape().to_vec(), view.dtype(), view.data().to_vec());
            assert!(all.insert(name, tensor).is_none(), "no tensor stands in two files");
        }
    }
    all
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn one_seed_gives_the_same_bytes_for_ever() {
    // Golden vectors and published measurements name models by these digests.
    let (_dir, f32s) = written(&tiny());
    assert_eq!(f32s.digest().unwrap().to_string(), "5df336c4beb869d2132b9dabf7bc6134a39d8edfdf911e84ba027458d6f2d0b4");
    let (_dir, bf16s) = written(&RandomModel { dtype: WeightType::Bf16, ..tiny() });
    assert_eq!(bf16s.digest().unwrap().to_string(), "945ffca0314c4b3dac7c36721e203a4e1cc1e8d08a27fd9b98144be1183be129");
    let (_dir, other) = written(&RandomModel { seed: 8, ..tiny() });
    assert_ne!(other.digest().unwrap(), f32s.digest().unwrap());
}

#[test]
fn the_digest_is_that_of_the_lines_of_b3sum() {
    let (_dir, model) = written(&tiny());
    let line = |name: &str| format!("{}  {name}\n", blake3::hash(&fs::read(model.dir.join(name)).unwrap()).to_hex());
    let lines = ["config.json", "tokenizer.json", "model.safetensors"].map(line).concat();
    assert_eq!(model.digest().unwrap(), Digest::of(lines.as_bytes()));
}

#[test]
fn tensors_do_not_depend_on_the_number_of_files() {
    let (_dir, one) = written(&tiny());
    let one = tensors(&one);
    for files in [2, 3, one.len()] {
        let (_dir, many) = written(&RandomModel { files, ..tiny() });
        assert_eq!(many.weights.len(), files);
        assert!(many.weights.is_sorted());
        let stored = tensors(&many);
        assert!(stored == one);
        let index: serde_json::Value = serde_json::from_slice(&fs::read(many.dir.join(INDEX)).unwrap()).unwrap();
        let bytes: usize = stored.values().map(|(_, _, data)| data.len()).sum();
        assert_eq!(index["metadata"]["total_size"], bytes);
        assert_eq!(index["weight_map"].as_object().unwrap().len(), stored.len());
        if files == 3 {
            let name = "model-00001-of-00003.safetensors";
            assert_eq!(index["weight_map"]["plm_model.model.embed_tokens.weight"], name);
        }
    }
}

#[test]
fn files_are_of_about_the_same_size() {
    let mut model = RandomModel { files: 3, ..tiny() };
    model.shape.config.layers = 12;
    let (_dir, model) = written(&model);
    let sizes: Vec<u64> = model.weights.iter().map(|path| fs::metadata(path).unwrap().len()).collect();
    assert!(sizes.iter().max() < sizes.iter().min().map(|least| least * 5 / 4).as_ref(), "{sizes:?}");
}

#[test]
fn bfloat16_is_float32_rounded() {
    let (_dir, exact) = written(&tiny());
    let (_dir, rounded) = written(&RandomModel { dtype: WeightType::Bf16, ..tiny() });
    let (exact, rounded) = (tensors(&exact), tensors(&rounded));
    assert_eq!(exact.len(), rounded.len());
    for (name, (shape, dtype, bytes)) in exact {
        let expected: Vec<u8> = floats(&bytes).iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        assert_eq!(dtype, Dtype::F32);
        assert!(rounded[&name] == (shape, Dtype::BF16, expected), "{name}");
    }
}

#[test]
fn values_have_the_centre_and_the_deviation_that_were_asked_for() {
    let (_dir, model) = written(&tiny());
    let tensors = tensors(&model);
    let moments = |name: &str| {
        let values = floats(&tensors[name].2);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / values.len() as f32;
        (mean, square.sqrt())
    };
    let near = |(mean, deviation): (f32, f32), centre: f32, expected: f32, share: f32| {
        assert!((mean - centre).abs() < share * expected, "mean {mean}");
        assert!((deviation - expected).abs() < share * expected, "deviation {deviation}");
    };
    near(moments("plm_model.model.embed_tokens.weight"), 0.0, 1.0, 0.02);
    near(moments("plm_model.model.layers.1.mlp.up_proj.weight"), 0.0, 0.125, 0.02);
    near(moments("plm_model.model.norm.weight"), 1.0, 0.2, 0.4);
    let (_, (_, _, first)) = tensors.iter().find(|(name, _)| name.ends_with("0.mlp.gate_proj.weight")).unwrap();
    let (_, (_, _, second)) = tensors.iter().find(|(name, _)| name.ends_with("1.mlp.gate_proj.weight")).unwrap();
    assert_ne!(first, second, "every tensor has a stream of its own");
}

#[test]
fn a_tensor_longer_than_a_chunk_has_no_seam() {
    let mut model = tiny();
    model.shape.config.vocab_size = 20_000;
    let (_dir, model) = written(&model);
    let embedding = floats(&tensors(&model)["plm_model.model.embed_tokens.weight"].2);
    assert_eq!(embedding.len(), 20_000 * 64);
    assert!(embedding[1 << 20..].iter().any(|v| *v != 0.0), "the second chunk is written");
    assert_ne!(embedding[..100], embedding[1 << 20..][..100], "the stream goes on where the first chunk ended");
}

#[test]
fn the_published_shapes_have_the_published_tensors() {
    for (name, tokenizer, count, parameters, head) in [
        ("c2llm-0.5b", 151_665, 303, 497_252_096, false),
        ("c2llm-7b", 151_665, 352, 7_667_028_992, true),
        ("tiny", 151_665, 2 * 12 + 2 + 13, 0, false),
    ] {
        let shape = Shape::named(name, tokenizer).unwrap();
        let tensors = random::tensors_of(&shape);
        assert_eq!(tensors.len(), count, "{name}");
        let values: usize = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let unread = if head { shape.config.vocab_size * shape.config.hidden_size } else { 0 };
        assert_eq!(values, shape.config.parameters() + unread, "{name}");
        assert!(parameters == 0 || values == parameters, "{name}: {values}");
        let parsed = ModelConfig::parse(&shape.config_json(WeightType::Bf16)).unwrap();
        assert_eq!((parsed.config, parsed.unknown), (shape.config, Vec::new()));
    }
    assert_eq!(Shape::named("tiny", 151_665).unwrap().config.vocab_size, 151_680);
    assert_eq!(Shape::named("c2llm-0.5b", 151_937).unwrap().config.vocab_size, 152_064);
    assert_eq!(Shape::named("large", 1), None);
}

#[test]
fn a_pooling_without_norms_has_no_tensors_for_them() {
    let mut model = tiny();
    model.shape.config.pma_ln = false;
    let (_dir, model) = written(&model);
    let tensors = tensors(&model);
    assert!(!model.config.pma_ln);
    assert!(!tensors.keys().any(|name| name.contains(".ln")));
    assert_eq!(tensors["mha_pma.S"].0, [1, 1, 64]);
}

#[test]
fn what_cannot_be_written_is_refused_before_the_folder_is_made() {
    let dir = TempDir::new().unwrap();
    let to = dir.path().join("model");
    let refused = |model: RandomModel| model.write(&tokenizer(), &to).unwrap_err();
    let resized = |change: fn(&mut ModelConfig)| {
        let mut model = tiny();
        change(&mut model.shape.config);
        refused(model)
    };
    assert!(matches!(refused(RandomModel { files: 0, ..tiny() }), CheckpointError::Files { files: 0, tensors: 39 }));
    assert!(matches!(refused(RandomModel { files: 40, ..tiny() }), CheckpointError::Files { files: 40, .. }));
    assert!(matches!(resized(|c| c.heads = 3), CheckpointError::Sizes(_)));
    assert!(matches!(resized(|c| c.pma_heads = 5), CheckpointError::Sizes(_)));
    assert!(matches!(resized(|c| c.vocab_size = 299), CheckpointError::TokenizerTooLarge { size: 300, .. }));
    assert!(!to.exists());
    fs::create_dir(&to).unwrap();
    fs::write(to.join("notes"), "mine").unwrap();
    assert!(matches!(refused(tiny()), CheckpointError::NotEmpty(_)));
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
}

#[test]
fn a_name_that_is_no_folder_gets_the_command_that_downloads_it() {
    let message = |name: &str| Checkpoint::open(Path::new(name)).unwrap_err().to_string();
    let command = "hf download codefuse-ai/C2LLM-0.5B --local-dir C2LLM-0.5B";
    assert!(message("codefuse-ai/C2LLM-0.5B").contains(command));
    assert!(message("C2LLM-0.5B").contains(command));
    for name in ["/no/such/folder", "./model", "../a/b", "models/", "a b/c"] {
        assert!(!message(name).contains("hf download"), "{name}: {}", message(name));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(Checkpoint::open(file.path()), Err(CheckpointError::NotAFolder(_))));
}

/// Opens a good folder after a change to it.
fn damaged(model: &RandomModel, change: impl FnOnce(&PathBuf)) -> Result<Checkpoint, CheckpointError> {
    let (_dir, checkpoint) = written(model);
    change(&checkpoint.dir);
    Checkpoint::open(&checkpoint.dir)
}

#[test]
fn an_incomplete_folder_is_told_what_it_lacks() {
    let absent = |result| match result {
        Err(CheckpointError::Missing { absent, .. }) => absent,
        other => panic!("{other:?}"),
    };
    let remove = |name: &'static str| move |dir: &PathBuf| fs::remove_file(dir.join(name)).unwrap();
    assert_eq!(absent(damaged(&tiny(), remove(CONFIG))), [CONFIG]);
    assert_eq!(absent(damaged(&tiny(), remove(TOKENIZER))), [TOKENIZER]);
    assert_eq!(absent(damaged(&tiny(), remove(WEIGHTS))), ["model.safetensors (or model.safetensors.index.json)"]);
    let three = RandomModel { files: 3, ..tiny() };
    let second = "model-00002-of-00003.safetensors";
    assert_eq!(absent(damaged(&three, remove(second))), [second]);
    let empty = TempDir::new().unwrap();
    assert_eq!(absent(Checkpoint::open(empty.path())).len(), 3);
}

#[test]
fn an_index_is_read_with_care() {
    let two = RandomModel { files: 2, ..tiny() };
    let with = |index: &'static str| damaged(&two, |dir| fs::write(dir.join(INDEX), index).unwrap());
    for file in ["../model.safetensors", "/etc/passwd", "a/../../b", "", "a\\nb"] {
        let index = format!(r#"{{"weight_map": {{"x": "{file}"}}}}"#).leak();
        assert!(matches!(with(index), Err(CheckpointError::Outside { .. })), "{file}");
    }
    assert!(matches!(with("{"), Err(CheckpointError::Index { .. })));
    assert!(matches!(with(r#"{"metadata": {}}"#), Err(CheckpointError::Index { .. })));
    assert!(matches!(with(r#"{"weight_map": {}}"#), Err(CheckpointError::EmptyIndex { .. })));
}

#[test]
fn an_unusable_config_or_tokenizer_is_refused_with_its_cause() {
    let replaced = |name: &'static str, text: String| damaged(&tiny(), |dir| fs::write(dir.join(name), text).unwrap());
    let config = |from: &str, to: &str| {
        let json = String::from_utf8(tiny().shape.config_json(WeightType::F32)).unwrap();
        assert!(json.contains(from));
        replaced(CONFIG, json.replace(from, to))
    };
    assert!(matches!(config("\"silu\"", "\"gelu\""), Err(CheckpointError::Config { .. })));
    let unknown = config("\"use_cache\"", "\"qk_norm\": true, \"use_cache\"").unwrap();
    assert_eq!(unknown.unknown, ["qk_norm"]);
    let large = config("\"vocab_size\": 384", "\"vocab_size\": 299").unwrap_err();
    assert!(matches!(large, CheckpointError::TokenizerTooLarge { size: 300, vocab_size: 299, .. }), "{large}");
    assert!(config("\"vocab_size\": 384", "\"vocab_size\": 300").is_ok());
    for text in ["", "[]", r#"{"model": {}}"#, r#"{"model": {"vocab": {"a": -1}}}"#] {
        assert!(matches!(replaced(TOKENIZER, text.into()), Err(CheckpointError::Tokenizer { .. })), "{text}");
    }
}

#[test]
fn a_tokenizer_is_measured_by_its_largest_id() {
    assert_eq!(tokenizer_size(&tokenizer()).unwrap(), 300);
    assert_eq!(tokenizer_size(br#"{"model": {"vocab": {"a": 5, "b": 2}}, "added_tokens": []}"#).unwrap(), 6);
    assert_eq!(tokenizer_size(br#"{"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}"#).unwrap(), 2);
}

#[test]
fn the_tokenizer_that_comes_with_the_source_is_whole() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/qwen2.5-tokenizer/tokenizer.json.gz");
    let json = read_tokenizer(&path).unwrap();
    assert_eq!((json.len(), tokenizer_size(&json).unwrap()), (7_031_645, 151_665));
    let dir = TempDir::new().unwrap();
    let plain = dir.path().join("tokenizer.json");
    fs::write(&plain, &json).unwrap();
    assert!(read_tokenizer(&plain).unwrap() == json);
    let cut = dir.path().join("cut.gz");
    fs::write(&cut, &fs::read(&path).unwrap()[..1000]).unwrap();
    assert!(read_tokenizer(&cut).is_err());
}

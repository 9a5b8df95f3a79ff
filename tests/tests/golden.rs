//! Vectors that the PyTorch reference wrote once, under checkpoints that are made again here from their seeds. The files
//! say themselves how they are written again.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::{Path, PathBuf};

use gristmill_job::{Compute, Residual};
use gristmill_model::{Batch, Device, Model, Options};
use gristmill_store::checkpoint::random::{RandomModel, Shape, WeightType};
use gristmill_store::checkpoint::{Checkpoint, tokenizer_size};
use serde::Deserialize;
use tokenizers::Tokenizer;

#[derive(Deserialize)]
struct Golden {
    model: Sizes,
    residual: Residual,
    prompt: String,
    max_tokens: usize,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Sizes {
    seed: u64,
    files: usize,
    dtype: String,
    layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    heads: usize,
    kv_heads: usize,
    compressed_dim: usize,
    pma_heads: usize,
    pma_ln: bool,
}

#[derive(Deserialize)]
struct Row {
    text: String,
    tokens: u32,
    vector: Vec<f32>,
}

#[test]
fn the_tiny_model_gives_the_references_vectors() {
    compare("tiny");
}

#[test]
fn a_narrow_model_without_norms_with_the_raw_seed_gives_the_references_vectors() {
    compare("narrow-7-to-1");
}

fn compare(name: &str) {
    let golden = std::fs::read(root().join(format!("tests/data/golden/{name}.json"))).unwrap();
    let golden: Golden = serde_json::from_slice(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&golden.model, &dir.path().join("model"));
    let batch = tokens(&golden, &checkpoint);
    assert_eq!(batch.lengths, golden.rows.iter().map(|row| row.tokens).collect::<Vec<_>>());
    let vectors = |compute| {
        let options = Options { compute, residual: golden.residual, normalise: true, threads: 1, device: Device::Cpu };
        let model = Model::load(&checkpoint.config, &checkpoint.weights, &options).unwrap();
        model.encode(&batch).unwrap()
    };
    let (wide, narrow) = (vectors(Compute::F32), vectors(Compute::Bf16));
    let width = golden.model.compressed_dim;
    for ((row, wide), narrow) in golden.rows.iter().zip(wide.chunks(width)).zip(narrow.chunks(width)) {
        let difference = row.vector.iter().zip(wide).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference <= 2e-5, "float32, {:?}: {difference}", row.text);
        let cosine: f32 = row.vector.iter().zip(narrow).map(|(a, b)| a * b).sum();
        assert!(cosine >= 0.995, "bfloat16, {:?}: cosine {cosine}", row.text);
    }
}

fn checkpoint(sizes: &Sizes, dir: &Path) -> Checkpoint {
    let mut tokenizer = Vec::new();
    let packed = std::fs::File::open(root().join("assets/qwen2.5-tokenizer/tokenizer.json.gz")).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut tokenizer).unwrap();
    let mut shape = Shape::named("tiny", tokenizer_size(&tokenizer).unwrap()).unwrap();
    shape.config.layers = sizes.layers;
    shape.config.hidden_size = sizes.hidden_size;
    shape.config.intermediate_size = sizes.intermediate_size;
    shape.config.heads = sizes.heads;
    shape.config.kv_heads = sizes.kv_heads;
    shape.config.compressed_dim = sizes.compressed_dim;
    shape.config.pma_heads = sizes.pma_heads;
    shape.config.pma_ln = sizes.pma_ln;
    let dtype = WeightType::named(&sizes.dtype).unwrap();
    let model = RandomModel { shape, dtype, seed: sizes.seed, files: sizes.files };
    model.write(&tokenizer, dir).unwrap()
}

fn tokens(golden: &Golden, checkpoint: &Checkpoint) -> Batch {
    let tokenizer = Tokenizer::from_file(&checkpoint.tokenizer).unwrap();
    let mut batch = Batch::default();
    for row in &golden.rows {
        let encoding = tokenizer.encode(format!("{}{}", golden.prompt, row.text), false).unwrap();
        let ids = &encoding.get_ids()[..encoding.len().min(golden.max_tokens)];
        batch.ids.extend(ids);
        batch.lengths.push(ids.len() as u32);
    }
    batch
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

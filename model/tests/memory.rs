//! No tensor is held twice: alone in its binary, so that nothing else in the process allocates.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Stored, checkpoint, tiny, write};
use gristmill_job::{Compute, ModelConfig, Residual};
use gristmill_model::{Batch, Device, Model, Options};
use safetensors::Dtype;

const MIB: usize = 1 << 20;

#[test]
fn only_fused_and_pooling_weights_leave_the_map() {
    let (hidden, inner, vocab) = (1024, 4096, 65_536);
    let large = ModelConfig {
        hidden_size: hidden,
        intermediate_size: inner,
        layers: 1,
        heads: 16,
        kv_heads: 2,
        vocab_size: vocab,
        compressed_dim: hidden,
        ..tiny()
    };
    let dir = tempfile::tempdir().unwrap();
    // libtorch's own memory is there before the first measurement.
    drop(load(&tiny(), dir.path(), &checkpoint(&tiny(), Dtype::BF16, 1)));
    let zeros = shapes_of(&large);
    let files = write(dir.path(), &zeros, 2);
    drop(zeros);

    let before = anonymous_bytes();
    let options = Options {
        compute: Compute::Bf16,
        residual: Residual::Projected,
        normalise: true,
        threads: 1,
        device: Device::Cpu,
    };
    let model = Model::load(&large, &files, &options).unwrap();
    let grown = anonymous_bytes().saturating_sub(before);

    let fused = 2 * (hidden + 2 * 128) * hidden + 2 * 2 * inner * hidden; // q/k/v and gate/up, bfloat16
    let pooling = 2 * 4 * hidden * hidden; // fc_v and fc_o, float32
    assert!(grown < fused + pooling + 16 * MIB, "{} MiB for {} MiB", grown / MIB, (fused + pooling) / MIB);
    assert!(2 * vocab * hidden > fused + pooling + 64 * MIB, "the embedding table alone would show");
    assert_eq!(model.encode(&Batch { ids: vec![vocab as u32 - 1], lengths: vec![1] }).unwrap().len(), hidden);
}

fn load(config: &ModelConfig, dir: &Path, tensors: &[Stored]) -> Model {
    let options = Options {
        compute: Compute::Bf16,
        residual: Residual::Projected,
        normalise: true,
        threads: 1,
        device: Device::Cpu,
    };
    let model = Model::load(config, &write(dir, tensors, 1), &options).unwrap();
    model.self_test().unwrap();
    model
}

/// A checkpoint of zeros: quick to write, and as large as any other.
fn shapes_of(config: &ModelConfig) -> Vec<Stored> {
    let small = ModelConfig { vocab_size: 1, intermediate_size: 1, ..config.clone() };
    let zeros = |t: Stored| {
        let shape: Vec<usize> = match t.shape.as_slice() {
            [1, hidden] if t.name.contains("embed") => vec![config.vocab_size, *hidden],
            [1, hidden] => vec![config.intermediate_size, *hidden],
            [hidden, 1] => vec![*hidden, config.intermediate_size],
            shape => shape.to_vec(),
        };
        Stored { bytes: vec![0; 2 * shape.iter().product::<usize>()], shape, ..t }
    };
    checkpoint(&small, Dtype::BF16, 1).into_iter().map(zeros).collect()
}

fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

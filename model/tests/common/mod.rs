//! Small random checkpoints, written as the published ones are.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use gristmill_job::ModelConfig;
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};

/// Seeded numbers (splitmix64): the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 0 and `end`, exclusively.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// Mean 0, standard deviation 1, uniform.
    pub fn number(&mut self) -> f32 {
        ((self.bits() >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 12f32.sqrt()
    }

    pub fn ids(&mut self, count: usize, vocab_size: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(vocab_size) as u32).collect()
    }
}

/// A tensor as it will lie in a file.
#[derive(Clone)]
pub struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Stored {
    pub fn new(name: &str, dtype: Dtype, shape: &[usize], numbers: &[f32]) -> Self {
        let bytes = match dtype {
            Dtype::F32 => numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
            Dtype::BF16 => numbers.iter().flat_map(|&n| bf16::from_f32(n).to_le_bytes()).collect(),
            Dtype::F16 => numbers.iter().flat_map(|&n| f16::from_f32(n).to_le_bytes()).collect(),
            Dtype::F64 => numbers.iter().flat_map(|&n| f64::from(n).to_le_bytes()).collect(),
            other => panic!("no test writes {other:?}"),
        };
        Stored { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
    }

    /// What was written, as rounded by the type.
    pub fn numbers(&self) -> Vec<f32> {
        let pairs = || self.bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self.dtype {
            Dtype::F32 => self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            other => panic!("no test reads {other:?}"),
        }
    }
}

pub fn tiny() -> ModelConfig {
    ModelConfig {
        hidden_size: 64,
        intermediate_size: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        vocab_size: 211,
        max_positions: 256,
        rope_theta: 1e6,
        rms_norm_eps: 1e-6,
        compressed_dim: 64,
        pma_heads: 4,
        pma_ln: true,
    }
}

/// Every tensor of a model of this shape, in the published names.
pub fn checkpoint(config: &ModelConfig, dtype: Dtype, seed: u64) -> Vec<Stored> {
    let (d, inner, kv) = (config.hidden_size, config.intermediate_size, config.kv_heads * config.head_dim());
    let mut shapes = vec![("plm_model.model.embed_tokens.weight".to_owned(), vec![config.vocab_size, d])];
    for n in 0..config.layers {
        let mut add = |leaf: &str, shape: &[usize]| {
            shapes.push((format!("plm_model.model.layers.{n}.{leaf}"), shape.to_vec()));
        };
        add("input_layernorm.weight", &[d]);
        for (name, rows) in [("q_proj", d), ("k_proj", kv), ("v_proj", kv)] {
            add(&format!("self_attn.{name}.weight"), &[rows, d]);
            add(&format!("self_attn.{name}.bias"), &[rows]);
        }
        add("self_attn.o_proj.weight", &[d, d]);
        add("post_attention_layernorm.weight", &[d]);
        add("mlp.gate_proj.weight", &[inner, d]);
        add("mlp.up_proj.weight", &[inner, d]);
        add("mlp.down_proj.weight", &[d, inner]);
    }
    shapes.push(("plm_model.model.norm.weight".to_owned(), vec![d]));
    let mut random = Random(seed);
    let mut all: Vec<Stored> =
        shapes.iter().map(|(name, shape)| random_tensor(name, dtype, shape, &mut random)).collect();
    all.extend(pooling(config, dtype, &mut random));
    all
}

/// The pooling's tensors alone.
pub fn pooling(config: &ModelConfig, dtype: Dtype, random: &mut Random) -> Vec<Stored> {
    let (d, c) = (config.hidden_size, config.compressed_dim);
    let mut shapes = vec![("mha_pma.S".to_owned(), vec![1, 1, c])];
    for (name, columns) in [("fc_q", c), ("fc_k", d), ("fc_v", d), ("fc_o", c)] {
        shapes.push((format!("mha_pma.mab.{name}.weight"), vec![c, columns]));
        shapes.push((format!("mha_pma.mab.{name}.bias"), vec![c]));
    }
    if config.pma_ln {
        for name in ["ln0", "ln1"] {
            shapes.push((format!("mha_pma.mab.{name}.weight"), vec![c]));
            shapes.push((format!("mha_pma.mab.{name}.bias"), vec![c]));
        }
    }
    shapes.iter().map(|(name, shape)| random_tensor(name, dtype, shape, random)).collect()
}

/// Matrices keep the size of what they are applied to; norms scale by about one; the seed makes attention uneven.
fn random_tensor(name: &str, dtype: Dtype, shape: &[usize], random: &mut Random) -> Stored {
    let norm =
        name.contains("norm.weight") || name.contains("layernorm") || name.contains("ln0.w") || name.contains("ln1.w");
    let (mean, deviation) = match shape {
        _ if norm => (1.0, 0.1),
        [_, columns] if !name.contains("embed") => (0.0, 1.5 / (*columns as f32).sqrt()),
        [_] => (0.0, 0.2),
        _ => (0.0, 1.0),
    };
    let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| mean + deviation * random.number()).collect();
    Stored::new(name, dtype, shape, &numbers)
}

/// Writes the tensors to `files` files, by turns.
pub fn write(dir: &Path, tensors: &[Stored], files: usize) -> Vec<PathBuf> {
    let write_one = |index: usize| {
        let path = dir.join(format!("model-{index:05}-of-{files:05}.safetensors"));
        let of_file = tensors.iter().skip(index).step_by(files);
        let views = of_file.map(|t| (t.name.clone(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
        serialize_to_file(views.collect::<Vec<_>>(), None, &path).unwrap();
        path
    };
    (0..files).map(write_one).collect()
}

/// The largest difference of two components.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

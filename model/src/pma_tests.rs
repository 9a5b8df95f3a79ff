//! The thin pooling against the plain one, written down as the papers do.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use crate::common::{Random, Stored, largest_difference, pooling, tiny, write};
use proptest::prelude::*;
use safetensors::Dtype;

use super::*;
use crate::batch::Batch;
use crate::torch::InferenceMode;

const FLOAT: (Kind, tch::Device) = (Kind::Float, tch::Device::Cpu);

/// The pooling's tensors in float32, by the names of the paper's layers.
struct Plain(BTreeMap<String, Tensor>);

impl Plain {
    fn new(tensors: &[Stored]) -> Self {
        let tensor = |t: &Stored| {
            let shape: Vec<i64> = t.shape.iter().map(|&n| n as i64).collect();
            (
                t.name.replace("mha_pma.", "").replace("mab.", ""),
                Tensor::from_slice(&t.numbers()).view(shape.as_slice()),
            )
        };
        Plain(tensors.iter().map(tensor).collect())
    }

    fn linear(&self, name: &str, x: &Tensor) -> Tensor {
        x.linear(&self.0[&format!("{name}.weight")], Some(&self.0[&format!("{name}.bias")]))
    }

    fn norm(&self, name: &str, x: &Tensor) -> Tensor {
        let scale = &self.0[&format!("{name}.weight")];
        x.layer_norm(scale.size(), Some(scale), Some(&self.0[&format!("{name}.bias")]), 1e-5, false)
    }

    /// Two square projections of every token, then attention. x: [length, hidden]; result: [1, c].
    fn forward(&self, config: &ModelConfig, residual: Residual, x: &Tensor) -> Tensor {
        let (c, heads) = (config.compressed_dim as i64, config.pma_heads as i64);
        let by_head = |x: &Tensor| x.view((-1, heads, c / heads)).transpose(0, 1); // [heads, length, c / heads]
        let seed = self.0["S"].view((1, c)); // [1, c]
        let q = self.linear("fc_q", &seed); // [1, c]
        let (k, v) = (self.linear("fc_k", x), self.linear("fc_v", x)); // [length, c]
        let scores = by_head(&q).matmul(&by_head(&k).transpose(1, 2)) / (c as f64).sqrt(); // [heads, 1, length]
        let values = scores.softmax(-1, Kind::Float).matmul(&by_head(&v)); // [heads, 1, c / heads]
        let values = values.transpose(0, 1).reshape([1, c]); // [1, c]
        let mut o = values + if residual == Residual::Seed { seed } else { q };
        if config.pma_ln {
            o = self.norm("ln0", &o);
        }
        o = &o + self.linear("fc_o", &o).relu();
        if config.pma_ln { self.norm("ln1", &o) } else { o }
    }
}

fn unit(x: &Tensor) -> Vec<f32> {
    Vec::<f32>::try_from((x / x.norm()).view(-1)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_thin_pooling_is_the_plain_one(
        seed in any::<u64>(),
        hidden_size in 2usize..80,
        pma_heads in 1usize..9,
        head_width in 1usize..17,
        pma_ln in any::<bool>(),
        residual in prop::sample::select(vec![Residual::Projected, Residual::Seed]),
        dtype in prop::sample::select(vec![Dtype::F32, Dtype::BF16]),
        lengths in prop::collection::vec(1u32..90, 1..4),
        copies in prop::sample::select(vec![1usize, 40]),
    ) {
        // A norm over one or two components leaves only signs, and differences of nothing decide them.
        prop_assume!(pma_heads * head_width > 2);
        let _inference = InferenceMode::begin().unwrap();
        let config = ModelConfig { hidden_size, pma_heads, compressed_dim: pma_heads * head_width, pma_ln, ..tiny() };
        let mut random = Random(seed);
        let dir = tempfile::tempdir().unwrap();
        let tensors = pooling(&config, dtype, &mut random);
        let files = write(dir.path(), &tensors, 1);
        let lengths = lengths.repeat(copies);
        let tokens = lengths.iter().sum::<u32>() as usize;
        let numbers: Vec<f32> = (0..tokens * hidden_size).map(|_| random.number()).collect();
        let x = Tensor::from_slice(&numbers).view((-1, hidden_size as i64)); // [tokens, hidden]

        let mut weights = Weights::open(&files).unwrap();
        let pma = Pma::load(&mut weights, &config, residual, tch::Device::Cpu).unwrap();
        weights.finish().unwrap();
        let packed = Packed::new(&Batch { ids: vec![0; tokens], lengths: lengths.clone() }, tch::Device::Cpu).unwrap();
        let fill = Tensor::full([crate::bucketed(tokens) as i64 - tokens as i64, hidden_size as i64], f64::NAN, FLOAT);
        let thin = pma.forward(&Tensor::cat(&[&x, &fill], 0), &packed).unwrap(); // [sequences, c]

        let plain = Plain::new(&tensors);
        let mut start = 0;
        for (row, &length) in lengths.iter().enumerate() {
            let expected = plain.forward(&config, residual, &x.narrow(0, start, i64::from(length)));
            let difference = largest_difference(&unit(&thin.get(row as i64)), &unit(&expected));
            prop_assert!(difference <= 1e-5, "row {row}, {length} tokens: {difference}");
            start += i64::from(length);
        }
    }
}

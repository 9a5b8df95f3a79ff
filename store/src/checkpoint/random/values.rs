//! Where random values come from: each tensor has a ChaCha stream of its own, in which any run of values can be reached at
//! once. Only integers and exactly rounded arithmetic (`+ * / sqrt`), so that the bytes are the same everywhere.

use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::tensors::Tensor;

/// The number type of a checkpoint's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// bfloat16.
    Bf16,
    /// float32.
    F32,
}

impl WeightType {
    /// Both, as they are spelled.
    pub const WORDS: [&str; 2] = ["bf16", "f32"];

    /// The type so spelled.
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "bf16" => Some(WeightType::Bf16),
            "f32" => Some(WeightType::F32),
            _ => None,
        }
    }

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            WeightType::Bf16 => 2,
            WeightType::F32 => 4,
        }
    }

    /// Its name in a config.
    pub(super) fn torch(self) -> &'static str {
        match self {
            WeightType::Bf16 => "bfloat16",
            WeightType::F32 => "float32",
        }
    }

    /// Its name in a safetensors header.
    pub(super) fn safetensors(self) -> &'static str {
        match self {
            WeightType::Bf16 => "BF16",
            WeightType::F32 => "F32",
        }
    }
}

/// The values of one tensor: uniform around its centre, with its standard deviation.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    rng: ChaCha8Rng,
    centre: f32,
    step: f32,
}

impl Stream {
    /// The stream of a tensor's name and a seed.
    pub(super) fn new(seed: u64, tensor: &Tensor) -> Self {
        let key = blake3::Hasher::new_derive_key("gristmill 2026 random checkpoint tensor")
            .update(&seed.to_le_bytes())
            .update(tensor.name.as_bytes())
            .finalize();
        // 2^24 equal steps from -a to a have the standard deviation a / sqrt(3).
        let step = (tensor.fill.deviation * 3f64.sqrt() / f64::from(1 << 23)) as f32;
        Stream { rng: ChaCha8Rng::from_seed(*key.as_bytes()), centre: tensor.fill.centre, step }
    }

    /// Appends the little-endian bytes of `count` values, from the one at index `first`. A value takes one word of the
    /// stream, whatever its type.
    pub(super) fn append(&mut self, first: usize, count: usize, dtype: WeightType, out: &mut Vec<u8>) {
        self.rng.set_word_pos(first as u128);
        out.reserve(count * dtype.bytes());
        for _ in 0..count {
            let steps = (self.rng.next_u32() >> 8) as i32 - (1 << 23);
            let value = self.centre + steps as f32 * self.step;
            match dtype {
                WeightType::Bf16 => out.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
                WeightType::F32 => out.extend_from_slice(&value.to_le_bytes()),
            }
        }
    }
}

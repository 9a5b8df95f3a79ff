//! The decoder: Qwen2 (arXiv 2407.10671), causal within each packed sequence, up to the state behind the final norm. The
//! language-model head does not exist here.

use gristmill_job::ModelConfig;
use tch::{Kind, Tensor};

use crate::batch::Packed;
use crate::error::Error;
use crate::ops::{Linear, Place, RmsNorm};
use crate::torch;
use crate::weights::Weights;

/// Token ids to hidden states.
pub(crate) struct Qwen2 {
    embeddings: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    rotary: Rotary,
    place: Place,
}

impl Qwen2 {
    pub(crate) fn load(weights: &mut Weights, config: &ModelConfig, place: Place) -> Result<Self, Error> {
        let table = weights.take("model.embed_tokens.weight", &[config.vocab_size, config.hidden_size])?;
        let layer = |n| Layer::load(weights, &format!("model.layers.{n}"), config, place);
        let layers = (0..config.layers).map(layer).collect::<Result<_, _>>()?;
        Ok(Qwen2 {
            // As stored: the rows that are looked up are converted, not the whole table.
            embeddings: table.f_to_device(place.device)?, // [vocabulary, hidden]
            layers,
            norm: RmsNorm::load(weights, "model.norm", config.hidden_size, config.rms_norm_eps, place)?,
            rotary: Rotary::new(config, place.device)?,
            place,
        })
    }

    /// The state behind the final norm: [tokens, hidden], in the type of the decoder's arithmetic.
    pub(crate) fn forward(&self, packed: &Packed) -> Result<Tensor, Error> {
        let mut x = self.place.put(&self.embeddings.f_index_select(0, &packed.ids)?)?; // [tokens, hidden]
        let angles = self.rotary.at(&packed.positions)?;
        for layer in &self.layers {
            x = layer.forward(x, &angles, packed)?; // [tokens, hidden]
        }
        self.norm.forward(&x)
    }
}

struct Layer {
    input_norm: RmsNorm,
    attention: Attention,
    post_attention_norm: RmsNorm,
    mlp: Mlp,
}

impl Layer {
    fn load(weights: &mut Weights, name: &str, config: &ModelConfig, place: Place) -> Result<Self, Error> {
        let norm = |weights: &mut Weights, leaf| {
            RmsNorm::load(weights, &format!("{name}.{leaf}"), config.hidden_size, config.rms_norm_eps, place)
        };
        Ok(Layer {
            input_norm: norm(weights, "input_layernorm")?,
            attention: Attention::load(weights, &format!("{name}.self_attn"), config, place)?,
            post_attention_norm: norm(weights, "post_attention_layernorm")?,
            mlp: Mlp::load(weights, &format!("{name}.mlp"), config, place)?,
        })
    }

    /// x: [tokens, hidden]. Both residuals are added in place: a large tensor that is new costs its page faults.
    fn forward(&self, mut x: Tensor, angles: &Angles, packed: &Packed) -> Result<Tensor, Error> {
        let attended = self.attention.forward(&self.input_norm.forward(&x)?, angles, packed)?; // [tokens, hidden]
        x = x.f_add_(&attended)?; // [tokens, hidden]
        let fed = self.mlp.forward(&self.post_attention_norm.forward(&x)?)?; // [tokens, hidden]
        Ok(x.f_add_(&fed)?) // [tokens, hidden]
    }
}

/// Grouped-query attention (arXiv 2305.13245) with rotary positions; q, k and v carry biases, the output does not.
struct Attention {
    qkv: Linear,
    out: Linear,
    heads: i64,
    kv_heads: i64,
    width: i64,
}

impl Attention {
    fn load(weights: &mut Weights, name: &str, config: &ModelConfig, place: Place) -> Result<Self, Error> {
        let (hidden, kv) = (config.hidden_size, config.kv_heads * config.head_dim());
        let parts = [("q_proj", hidden), ("k_proj", kv), ("v_proj", kv)];
        Ok(Attention {
            qkv: Linear::fused(weights, name, &parts, hidden, true, place)?,
            out: Linear::load(weights, &format!("{name}.o_proj"), [hidden, hidden], place)?,
            heads: config.heads as i64,
            kv_heads: config.kv_heads as i64,
            width: config.head_dim() as i64,
        })
    }

    fn forward(&self, x: &Tensor, angles: &Angles, packed: &Packed) -> Result<Tensor, Error> {
        let (heads, kv_heads, width) = (self.heads, self.kv_heads, self.width);
        let qkv = self.qkv.forward(x)?.f_view((-1, heads + 2 * kv_heads, width))?; // [tokens, heads + 2 kv_heads, width]
        let qk = angles.rotate(&qkv.f_narrow(1, 0, heads + kv_heads)?)?; // [tokens, heads + kv_heads, width]
        let q = qk.f_narrow(1, 0, heads)?; // [tokens, heads, width]
        let k = qk.f_narrow(1, heads, kv_heads)?; // [tokens, kv_heads, width]
        let v = qkv.f_narrow(1, heads + kv_heads, kv_heads)?; // [tokens, kv_heads, width]
        let attended = torch::attention(&q, &k, &v, &packed.lengths, &packed.cumulative)?; // [tokens, heads, width]
        self.out.forward(&attended.f_view((-1, heads * width))?) // [tokens, hidden]
    }
}

/// SwiGLU (arXiv 2002.05202): `down(silu(gate(x)) * up(x))`.
struct Mlp {
    gate_up: Linear,
    down: Linear,
    inner: i64,
}

impl Mlp {
    fn load(weights: &mut Weights, name: &str, config: &ModelConfig, place: Place) -> Result<Self, Error> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let parts = [("gate_proj", inner), ("up_proj", inner)];
        Ok(Mlp {
            gate_up: Linear::fused(weights, name, &parts, hidden, false, place)?,
            down: Linear::load(weights, &format!("{name}.down_proj"), [hidden, inner], place)?,
            inner: inner as i64,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let gate_up = self.gate_up.forward(x)?; // [tokens, 2 inner]
        let gate = gate_up.f_narrow(1, 0, self.inner)?.f_silu_()?; // [tokens, inner], in place
        let up = gate_up.f_narrow(1, self.inner, self.inner)?; // [tokens, inner]
        self.down.forward(&gate.f_mul(&up)?) // [tokens, hidden]
    }
}

/// Rotary positions (arXiv 2104.09864) in the rotate-half layout: component i turns together with component i + width/2.
struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

/// The turning angles of the tokens of one batch.
struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// Tables in float32, whatever the type of the model: in bfloat16 the frequencies would be off by up to 0.4 %. The order
    /// of operations is transformers', because at position 4,000 a last bit of the frequency is 1e-4 of an angle.
    fn new(config: &ModelConfig, device: tch::Device) -> Result<Self, Error> {
        let width = config.head_dim() as i64;
        let cpu = tch::Device::Cpu;
        let even = Tensor::f_arange_start_step(0, width, 2, (Kind::Float, cpu))?; // [width / 2]
        let exponents = even.f_div_scalar(width)?; // [width / 2]
        let frequencies = Tensor::f_pow_scalar(config.rope_theta, &exponents)?.f_reciprocal()?; // [width / 2]
        let positions = Tensor::f_arange(config.max_positions as i64, (Kind::Float, cpu))?; // [positions]
        let angles = positions.f_outer(&frequencies)?; // [positions, width / 2]
        Ok(Rotary { cos: angles.f_cos()?.f_to_device(device)?, sin: angles.f_sin()?.f_to_device(device)? })
    }

    fn at(&self, positions: &Tensor) -> Result<Angles, Error> {
        let rows = |table: &Tensor| table.f_index_select(0, positions)?.f_unsqueeze(1);
        Ok(Angles { cos: rows(&self.cos)?, sin: rows(&self.sin)? }) // [tokens, 1, width / 2]
    }
}

impl Angles {
    /// x: [tokens, heads, width], turned in float32 and rounded once.
    fn rotate(&self, x: &Tensor) -> Result<Tensor, Error> {
        let mut halves = x.f_chunk(2, -1)?; // two of [tokens, heads, width / 2]
        let (second, first) = (halves.pop(), halves.pop());
        let (Some(first), Some(second)) = (first, second) else {
            return Err(Error::Torch("a head was not cut into halves".into()));
        };
        let turned_first = first.f_mul(&self.cos)?.f_sub_(&second.f_mul(&self.sin)?)?; // [tokens, heads, width / 2]
        let turned_second = second.f_mul(&self.cos)?.f_add_(&first.f_mul(&self.sin)?)?; // [tokens, heads, width / 2]
        Ok(Tensor::f_cat(&[turned_first, turned_second], -1)?.f_to_kind(x.f_kind()?)?) // [tokens, heads, width]
    }
}

#[cfg(test)]
#[path = "qwen2_tests.rs"]
mod tests;

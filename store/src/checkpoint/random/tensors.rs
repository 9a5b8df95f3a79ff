//! Every tensor of C2LLM: its published name, its shape, and how large random values must be for a network that behaves.
//!
//! With normalised states `x` of unit variance the scales aim at this. Queries and keys have unit variance, so the scores
//! of a head vary by about one: attention chooses, but is not sharp, which would magnify the rounding of bfloat16. What
//! the layers add to the residual sums to about the variance of the embedding, however many there are: states neither
//! explode nor forget their token. The scores of pooling vary by [`POOLING_SHARPNESS`], so that its weights differ; and
//! the projected seed, which all texts share, is small against the values, so that the vectors of two texts differ.
//! Every norm weight is off one and every bias off zero: a loader that drops or swaps one gives other vectors.

use super::Shape;

/// Standard deviation of the projected seed's components; the attended values are larger.
const SEED_DEVIATION: f64 = 0.25;
/// Standard deviation of the scores of pooling over a text's tokens.
const POOLING_SHARPNESS: f64 = 2.25;

/// How a tensor's values are distributed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fill {
    /// Mean.
    pub(super) centre: f32,
    /// Standard deviation.
    pub(super) deviation: f64,
}

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    /// Its key in the safetensors file.
    pub(super) name: String,
    /// Its shape: `[out, in]` for a matrix.
    pub(super) shape: Vec<usize>,
    /// Its values.
    pub(super) fill: Fill,
}

impl Tensor {
    /// How many values it has.
    pub(super) fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Every tensor of a shape, in the order in which a forward pass needs them.
pub(super) fn tensors(shape: &Shape) -> Vec<Tensor> {
    let c = &shape.config;
    let mut list = List::default();
    list.add("plm_model.model.embed_tokens.weight", &[c.vocab_size, c.hidden_size], 0.0, 1.0);
    for layer in 0..c.layers {
        list.layer(&format!("plm_model.model.layers.{layer}"), shape);
    }
    list.norm("plm_model.model.norm", c.hidden_size, false);
    if shape.language_head {
        list.add("plm_model.lm_head.weight", &[c.vocab_size, c.hidden_size], 0.0, 0.02);
    }
    list.pooling("mha_pma", shape);
    list.0
}

#[derive(Default)]
struct List(Vec<Tensor>);

impl List {
    fn layer(&mut self, layer: &str, shape: &Shape) {
        let c = &shape.config;
        let (d, inner, kv) = (c.hidden_size, c.intermediate_size, c.kv_heads * c.head_dim());
        // Each layer's share of the residual. An average over a text's values is small, so attention gets twice the scale.
        let share = 1.0 / ((2 * c.layers) as f64).sqrt();
        self.norm(&format!("{layer}.input_layernorm"), d, false);
        for (part, width) in [("q", d), ("k", kv), ("v", kv)] {
            self.linear(&format!("{layer}.self_attn.{part}_proj"), width, d, 1.0, 0.2);
        }
        self.matrix(&format!("{layer}.self_attn.o_proj"), d, d, 2.0 * share);
        self.norm(&format!("{layer}.post_attention_layernorm"), d, false);
        self.matrix(&format!("{layer}.mlp.gate_proj"), inner, d, 1.0);
        self.matrix(&format!("{layer}.mlp.up_proj"), inner, d, 1.0);
        // silu(g) u has a variance of 0.36 where g and u have one.
        self.matrix(&format!("{layer}.mlp.down_proj"), d, inner, share / 0.6);
    }

    fn pooling(&mut self, pma: &str, shape: &Shape) {
        let c = &shape.config;
        let (d, width) = (c.hidden_size, c.compressed_dim);
        // A head's score is a sum over width / heads products, divided by the root of the full width.
        let keys = POOLING_SHARPNESS * (c.pma_heads as f64).sqrt() / SEED_DEVIATION;
        self.add(&format!("{pma}.S"), &[1, 1, width], 0.0, SEED_DEVIATION);
        self.linear(&format!("{pma}.mab.fc_q"), width, width, 1.0, 0.05);
        self.linear(&format!("{pma}.mab.fc_k"), width, d, keys, 0.2);
        self.linear(&format!("{pma}.mab.fc_v"), width, d, 2.0, 0.2);
        if c.pma_ln {
            self.norm(&format!("{pma}.mab.ln0"), width, true);
            self.norm(&format!("{pma}.mab.ln1"), width, true);
        }
        self.linear(&format!("{pma}.mab.fc_o"), width, width, 1.0, 0.1);
    }

    /// A matrix whose products with inputs of unit variance have the standard deviation `gain`, and a bias.
    fn linear(&mut self, name: &str, to: usize, from: usize, gain: f64, bias: f64) {
        self.matrix(name, to, from, gain);
        self.add(&format!("{name}.bias"), &[to], 0.0, bias);
    }

    fn matrix(&mut self, name: &str, to: usize, from: usize, gain: f64) {
        self.add(&format!("{name}.weight"), &[to, from], 0.0, gain / (from as f64).sqrt());
    }

    fn norm(&mut self, name: &str, width: usize, bias: bool) {
        self.add(&format!("{name}.weight"), &[width], 1.0, 0.2);
        if bias {
            self.add(&format!("{name}.bias"), &[width], 0.0, 0.1);
        }
    }

    fn add(&mut self, name: &str, shape: &[usize], centre: f32, deviation: f64) {
        self.0.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), fill: Fill { centre, deviation } });
    }
}

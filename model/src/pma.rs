//! Pooling by multi-head attention with one seed (PMA of the Set Transformer, arXiv 1810.00825, as C2LLM uses it,
//! arXiv 2512.21332), in float32:
//!
//! ```text
//! q = fc_q(S)    k = fc_k(X)    v = fc_v(X)    A = softmax(q k^T / sqrt(c)) per head, c the full width
//! o = r + concat_h(A v), r = q or S    o = ln0(o)    o = o + relu(fc_o(o))    o = ln1(o)
//! ```
//!
//! The query is a constant, and that makes pooling thin. With `u_h = Wk_h^T q_h / sqrt(c)` a token's score is `u_h x`: the
//! bias of k adds the same to every token of a head, which softmax takes away. And as the weights add up to one,
//! `A v = Wv_h (sum a x) + bv_h`. So each token meets two products with as many columns as there are heads, instead of
//! two square projections; the function is exactly the same.

use gristmill_job::{ModelConfig, Residual};
use tch::{Kind, Tensor};

use crate::batch::Packed;
use crate::error::Error;
use crate::ops::{LayerNorm, Place};
use crate::weights::Weights;

/// Sequences whose attended states wait together for their values: it bounds `heads * hidden` numbers for each.
const SEQUENCES_AT_ONCE: usize = 64;

/// Hidden states to one vector per sequence.
pub(crate) struct Pma {
    scores: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    residual: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    norms: Option<(LayerNorm, LayerNorm)>,
    width: i64,
}

impl Pma {
    pub(crate) fn load(
        weights: &mut Weights,
        config: &ModelConfig,
        residual: Residual,
        device: tch::Device,
    ) -> Result<Self, Error> {
        let place = Place { device, kind: Kind::Float };
        let (hidden, width, heads) = (config.hidden_size, config.compressed_dim, config.pma_heads as i64);
        let mut take = |name: &str, shape: &[usize]| place.put(&weights.take(&format!("mha_pma.{name}"), shape)?);

        let seed = take("S", &[1, 1, width])?.f_view((1, width as i64))?; // [1, c]
        let query = seed.f_linear(&take("fc_q.weight", &[width, width])?, Some(&take("fc_q.bias", &[width])?))?; // [1, c]
        let by_head = query.f_view((heads, 1, -1))?; // [heads, 1, c / heads]
        drop(take("fc_k.bias", &[width])?); // adds the same to every score of a head
        let scores = {
            let key_weight = take("fc_k.weight", &[width, hidden])?.f_view((heads, -1, hidden as i64))?; // [heads, c / heads, hidden]
            by_head.f_bmm(&key_weight)?.f_squeeze_dim(1)? // [heads, hidden]
        };
        let value_weight = take("fc_v.weight", &[width, hidden])?.f_view((heads, -1, hidden as i64))?; // [heads, c / heads, hidden]

        Ok(Pma {
            scores: scores.f_div_scalar((width as f64).sqrt())?.f_transpose(0, 1)?, // [hidden, heads]
            value_weight: value_weight.f_transpose(1, 2)?,                          // [heads, hidden, c / heads]
            value_bias: take("fc_v.bias", &[width])?,                               // [c]
            residual: match residual {
                Residual::Projected => query,
                Residual::Seed => seed,
            }, // [1, c]
            out_weight: take("fc_o.weight", &[width, width])?,                      // [c, c]
            out_bias: take("fc_o.bias", &[width])?,                                 // [c]
            norms: match config.pma_ln {
                true => Some((
                    LayerNorm::load(weights, "mha_pma.ln0", width, place)?,
                    LayerNorm::load(weights, "mha_pma.ln1", width, place)?,
                )),
                false => None,
            },
            width: width as i64,
        })
    }

    /// x: [tokens, hidden] of the packed sequences; result: float32 [sequences, c], not normalised.
    pub(crate) fn forward(&self, x: &Tensor, packed: &Packed) -> Result<Tensor, Error> {
        let mut values = Vec::new();
        let mut start = 0;
        for lengths in packed.lengths[..packed.sequences].chunks(SEQUENCES_AT_ONCE) {
            let mut states = Vec::with_capacity(lengths.len());
            for &length in lengths {
                states.push(self.attend(&x.f_narrow(0, start, length)?)?); // [heads, hidden]
                start += length;
            }
            values.push(self.values(&Tensor::f_stack(&states, 1)?)?); // [sequences, c]
        }
        self.finish(&Tensor::f_cat(&values, 0)?)
    }

    /// The average of one sequence's states under each head's attention. x: [length, hidden]; result: [heads, hidden].
    fn attend(&self, x: &Tensor) -> Result<Tensor, Error> {
        let x = x.f_to_kind(Kind::Float)?; // [length, hidden]
        let attention = x.f_mm(&self.scores)?.f_softmax(0, Kind::Float)?; // [length, heads]
        Ok(attention.f_transpose(0, 1)?.f_mm(&x)?) // [heads, hidden]
    }

    /// Each head's value of its average state. states: [heads, sequences, hidden]; result: [sequences, c].
    fn values(&self, states: &Tensor) -> Result<Tensor, Error> {
        let values = states.f_bmm(&self.value_weight)?; // [heads, sequences, c / heads]
        let concatenated = values.f_transpose(0, 1)?.f_reshape([-1, self.width])?; // [sequences, c]
        Ok(concatenated.f_add(&self.value_bias)?) // [sequences, c]
    }

    /// Residual, norms and the output layer. values: [sequences, c], and so the result.
    fn finish(&self, values: &Tensor) -> Result<Tensor, Error> {
        let mut o = values.f_add(&self.residual)?; // [sequences, c]
        if let Some((norm, _)) = &self.norms {
            o = norm.forward(&o)?;
        }
        o = o.f_add(&o.f_linear(&self.out_weight, Some(&self.out_bias))?.f_relu()?)?; // [sequences, c]
        if let Some((_, norm)) = &self.norms {
            o = norm.forward(&o)?;
        }
        Ok(o)
    }
}

#[cfg(test)]
#[path = "pma_tests.rs"]
mod tests;

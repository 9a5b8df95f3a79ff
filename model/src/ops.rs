//! The layers that a decoder and its pooling are built of. A linear weight is [out, in], as checkpoints store it.

use tch::{Kind, Tensor};

use crate::error::Error;
use crate::weights::Weights;

/// Where a tensor lives and as what number type.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) device: tch::Device,
    pub(crate) kind: Kind,
}

impl Place {
    /// The tensor itself where it is already there as that type; a converted copy elsewhere.
    pub(crate) fn put(self, tensor: &Tensor) -> Result<Tensor, Error> {
        Ok(tensor.f_to_device_(self.device, self.kind, false, false)?)
    }

    /// Several matrices or biases over one input as one, stacked along the output. Each is copied straight to its rows.
    fn stack(self, parts: &[Tensor], rows: &[usize], columns: Option<usize>) -> Result<Tensor, Error> {
        let total = rows.iter().sum::<usize>() as i64;
        let shape: Vec<i64> = std::iter::once(total).chain(columns.map(|n| n as i64)).collect();
        let stacked = Tensor::f_empty(shape, (self.kind, self.device))?;
        let mut start = 0;
        for (part, &rows) in parts.iter().zip(rows) {
            stacked.f_narrow(0, start, rows as i64)?.f_copy_(part)?;
            start += rows as i64;
        }
        Ok(stacked)
    }
}

/// `y = x W^T + b`.
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// The matrix `name.weight` [rows, columns], without a bias.
    pub(crate) fn load(weights: &mut Weights, name: &str, shape: [usize; 2], place: Place) -> Result<Self, Error> {
        let weight = place.put(&weights.take(&format!("{name}.weight"), &shape)?)?;
        Ok(Linear { weight, bias: None })
    }

    /// Several matrices `prefix.name.weight` [rows, columns] over the same input as one matrix, and so their biases.
    pub(crate) fn fused(
        weights: &mut Weights,
        prefix: &str,
        parts: &[(&str, usize)],
        columns: usize,
        biased: bool,
        place: Place,
    ) -> Result<Self, Error> {
        let rows: Vec<usize> = parts.iter().map(|(_, rows)| *rows).collect();
        let mut take = |leaf: &str, columns: Option<usize>| {
            let taken: Result<Vec<Tensor>, Error> = parts
                .iter()
                .map(|&(name, rows)| {
                    let shape: Vec<usize> = std::iter::once(rows).chain(columns).collect();
                    weights.take(&format!("{prefix}.{name}.{leaf}"), &shape)
                })
                .collect();
            place.stack(&taken?, &rows, columns)
        };
        let weight = take("weight", Some(columns))?;
        let bias = if biased { Some(take("bias", None)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// x: [tokens, in], result: [tokens, out].
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// Root-mean-square norm (arXiv 1910.07467). As in transformers, the norm is taken in float32 whatever the type of x, and
/// the result is rounded to that type before it is scaled.
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// The scale `name.weight` [width].
    pub(crate) fn load(weights: &mut Weights, name: &str, width: usize, eps: f64, place: Place) -> Result<Self, Error> {
        Ok(RmsNorm { weight: place.put(&weights.take(&format!("{name}.weight"), &[width])?)?, eps })
    }

    /// x: [tokens, width], result of the same shape and type.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let wide = x.f_to_kind(Kind::Float)?; // [tokens, width]
        let variance = wide.f_square()?.f_mean_dim([-1i64].as_slice(), true, Kind::Float)?; // [tokens, 1]
        let normed = wide.f_mul(&variance.f_add_scalar(self.eps)?.f_rsqrt()?)?; // [tokens, width]
        Ok(normed.f_to_kind(x.f_kind()?)?.f_mul_(&self.weight)?) // [tokens, width]
    }
}

/// Layer norm (arXiv 1607.06450) with PyTorch's default epsilon, 1e-5.
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    width: i64,
}

impl LayerNorm {
    /// The scale `name.weight` and the shift `name.bias`, both [width].
    pub(crate) fn load(weights: &mut Weights, name: &str, width: usize, place: Place) -> Result<Self, Error> {
        let mut take = |leaf| place.put(&weights.take(&format!("{name}.{leaf}"), &[width])?);
        Ok(LayerNorm { weight: take("weight")?, bias: take("bias")?, width: width as i64 })
    }

    /// x: [rows, width], result of the same shape.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.f_layer_norm([self.width], Some(&self.weight), Some(&self.bias), 1e-5, false)?)
    }
}

//! What is encoded together: sequences laid end to end, and how they look to the model.

use gristmill_job::ModelConfig;
use tch::Tensor;

use crate::error::{BatchError, Error};

/// Token totals are rounded up to a multiple of this. oneDNN keeps compiled code for every number of rows that it has
/// met, for ever: a few hundred kB each, and a thousand different ones in an hour.
pub const BUCKET: usize = 64;

/// The tokens that are computed for a batch of so many: rounded up to a multiple of [`BUCKET`].
pub fn bucketed(tokens: usize) -> usize {
    tokens.next_multiple_of(BUCKET)
}

/// Token sequences laid end to end, without padding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Token ids of all sequences, one after the other: [tokens].
    pub ids: Vec<u32>,
    /// Tokens of each sequence, all above zero: [sequences], adding up to tokens.
    pub lengths: Vec<u32>,
}

impl Batch {
    /// Refuses what no model of this shape could encode.
    pub(crate) fn check(&self, config: &ModelConfig) -> Result<(), BatchError> {
        let total: usize = self.lengths.iter().map(|&n| n as usize).sum();
        if total != self.ids.len() {
            return Err(BatchError::Lengths { ids: self.ids.len(), lengths: total });
        }
        for (sequence, &length) in self.lengths.iter().enumerate() {
            let (tokens, max_positions) = (length as usize, config.max_positions);
            if tokens == 0 {
                return Err(BatchError::Empty { sequence });
            }
            if tokens > max_positions {
                return Err(BatchError::TooLong { sequence, tokens, max_positions });
            }
        }
        match self.ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            Some(&id) => Err(BatchError::UnknownId { id, vocab_size: config.vocab_size }),
            None => Ok(()),
        }
    }
}

/// A checked batch on the device, its total filled up to the bucket. The fill is one more sequence, which attention keeps
/// to itself and pooling leaves out.
pub(crate) struct Packed {
    /// Token ids: int64 [tokens], with id 0 in the fill.
    pub(crate) ids: Tensor,
    /// Each token's place in its sequence: int64 [tokens], 0 in the fill.
    pub(crate) positions: Tensor,
    /// Tokens of each sequence, and of the fill where there is one.
    pub(crate) lengths: Vec<i64>,
    /// Running sum of the lengths from 0: int32 [lengths + 1].
    pub(crate) cumulative: Tensor,
    /// Sequences that are not the fill.
    pub(crate) sequences: usize,
}

impl Packed {
    pub(crate) fn new(batch: &Batch, device: tch::Device) -> Result<Self, Error> {
        let total = bucketed(batch.ids.len());
        let mut ids: Vec<i64> = batch.ids.iter().map(|&id| i64::from(id)).collect();
        let mut positions: Vec<i64> = batch.lengths.iter().flat_map(|&length| 0..i64::from(length)).collect();
        let mut lengths: Vec<i64> = batch.lengths.iter().map(|&length| i64::from(length)).collect();
        if total > ids.len() {
            lengths.push((total - ids.len()) as i64);
            ids.resize(total, 0);
            positions.resize(total, 0);
        }
        let running = lengths.iter().scan(0, |sum, &length| {
            *sum += length as i32;
            Some(*sum)
        });
        let cumulative: Vec<i32> = std::iter::once(0).chain(running).collect();
        Ok(Packed {
            ids: Tensor::f_from_slice(&ids)?.f_to_device(device)?,
            positions: Tensor::f_from_slice(&positions)?.f_to_device(device)?,
            cumulative: Tensor::f_from_slice(&cumulative)?.f_to_device(device)?,
            lengths,
            sequences: batch.lengths.len(),
        })
    }
}

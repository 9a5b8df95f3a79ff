//! An encoder without a model: the vector of a text is drawn from the digest of its ids, so that a test can say what every
//! row must hold. Special tokens in a text make it fail in the ways in which devices fail; three environment variables
//! make it slow, poor in memory, and talkative. Everything else of a worker is the real one.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Duration;

use gristmill_worker::{EncodeError, Encoder, EncoderSpec};

/// Milliseconds that each batch takes.
pub const DELAY_MS: &str = "STAND_IN_DELAY_MS";
/// Tokens that a batch may have if it contains [`HEAVY`].
pub const ROOM_TOKENS: &str = "STAND_IN_ROOM_TOKENS";
/// A file to which every process appends a line per encoded batch: its number and the rows.
pub const LEDGER: &str = "STAND_IN_LEDGER";

/// Ends the process of any worker that encodes it.
pub const POISON: &str = "<|fim_pad|>";
/// Has a vector that is not finite, in float32 too.
pub const NOT_FINITE: &str = "<|fim_middle|>";
/// Has a vector that is finite in float32 alone.
pub const NARROW: &str = "<|fim_prefix|>";
/// Needs more memory than there is, in a batch that is too large.
pub const HEAVY: &str = "<|fim_suffix|>";
/// Is refused by the encoder.
pub const REFUSED: &str = "<|repo_name|>";
/// Breaks the device for good.
pub const BREAKING: &str = "<|file_sep|>";

/// The ids of those strings in Qwen2.5's tokenizer.
pub const FAULTS: [(&str, u32); 6] = [
    (NARROW, 151_659),
    (NOT_FINITE, 151_660),
    (HEAVY, 151_661),
    (POISON, 151_662),
    (REFUSED, 151_663),
    (BREAKING, 151_664),
];

/// The vector of token ids: `width` components of length 1 together.
pub fn vector(ids: &[u32], width: usize) -> Vec<f32> {
    let mut digest = blake3::Hasher::new();
    for id in ids {
        digest.update(&id.to_le_bytes());
    }
    let mut bytes = vec![0; 4 * width];
    digest.finalize_xof().fill(&mut bytes);
    let component = |four: &[u8]| i32::from_le_bytes([four[0], four[1], four[2], four[3]]) as f32 / i32::MAX as f32;
    let mut vector: Vec<f32> = bytes.chunks(4).map(component).collect();
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= norm);
    vector
}

struct StandIn {
    width: usize,
    delay: Duration,
    room_tokens: usize,
    ledger: Option<File>,
}

/// Makes the encoder; its weights are never opened.
pub fn make_stand_in(spec: &EncoderSpec) -> Result<Box<dyn Encoder>, EncodeError> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let ledger = std::env::var_os(LEDGER)
        .map(|path| OpenOptions::new().create(true).append(true).open(path))
        .transpose()
        .map_err(|error| EncodeError::Device(format!("the ledger: {error}")))?;
    Ok(Box::new(StandIn {
        width: spec.vectors.width as usize,
        delay: Duration::from_millis(number(DELAY_MS).unwrap_or(0) as u64),
        room_tokens: number(ROOM_TOKENS).unwrap_or(usize::MAX),
        ledger,
    }))
}

fn has(ids: &[u32], fault: &str) -> bool {
    FAULTS.iter().any(|(name, id)| *name == fault && ids.contains(id))
}

impl StandIn {
    fn vectors(&self, ids: &[u32], lengths: &[u32], unusable: &[&str]) -> Vec<f32> {
        let mut vectors = Vec::with_capacity(lengths.len() * self.width);
        let mut rest = ids;
        for &length in lengths {
            let (row, after) = rest.split_at(length as usize);
            if unusable.iter().any(|fault| has(row, fault)) {
                vectors.resize(vectors.len() + self.width, f32::NAN);
            } else {
                vectors.extend(vector(row, self.width));
            }
            rest = after;
        }
        vectors
    }

    fn fail(&self, ids: &[u32]) -> Result<(), EncodeError> {
        if has(ids, POISON) {
            std::process::abort();
        }
        if has(ids, BREAKING) {
            return Err(EncodeError::Device("it fell off the bus".into()));
        }
        if has(ids, REFUSED) {
            return Err(EncodeError::Input("a sequence makes no sense to the stand-in".into()));
        }
        if has(ids, HEAVY) && ids.len() > self.room_tokens {
            return Err(EncodeError::OutOfMemory(format!("{} tokens, room for {}", ids.len(), self.room_tokens)));
        }
        Ok(())
    }
}

impl Encoder for StandIn {
    fn encode(&mut self, ids: &[u32], lengths: &[u32]) -> Result<Vec<f32>, EncodeError> {
        self.fail(ids)?;
        std::thread::sleep(self.delay);
        if let Some(ledger) = &mut self.ledger {
            let line = format!("{} {}\n", std::process::id(), lengths.len());
            ledger.write_all(line.as_bytes()).map_err(|error| EncodeError::Device(format!("the ledger: {error}")))?;
        }
        Ok(self.vectors(ids, lengths, &[NOT_FINITE, NARROW]))
    }

    fn encode_again(&mut self, ids: &[u32], lengths: &[u32]) -> Result<Vec<f32>, EncodeError> {
        Ok(self.vectors(ids, lengths, &[NOT_FINITE]))
    }

    fn computed_tokens(&self, tokens: usize) -> usize {
        tokens
    }

    fn self_test(&mut self) -> Result<(), EncodeError> {
        Ok(())
    }
}

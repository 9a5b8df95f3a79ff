//! Dead letters: the rows of a part that have no vector, with the reason. One JSON line per row behind a header line.

use bytes::Bytes;
use gristmill_job::{DeadReason, Digest, FORMAT, Nonce, Slot};
use serde::{Deserialize, Serialize};

use crate::documents::{DeadCounts, decode};
use crate::keys;
use crate::outcome::StoreError;
use crate::part::DeadFile;

/// A row without a vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// URL of the row's object.
    pub object: String,
    /// Version of that object.
    pub version: String,
    /// The row's number in it.
    pub row: u64,
    /// Why.
    pub reason: DeadReason,
    /// For people, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The first line of a dead-letter file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadHeader {
    /// Version of this format.
    pub format: u32,
    /// The job.
    pub job: Digest,
    /// The slot.
    pub slot: Slot,
    /// The nonce of the part that names this file.
    pub nonce: Nonce,
}

/// The file's bytes and what the part's footer says of it.
pub fn encode(job: Digest, slot: &Slot, nonce: Nonce, letters: &[DeadLetter]) -> (DeadFile, Bytes) {
    let header = DeadHeader { format: FORMAT, job, slot: slot.clone(), nonce };
    let mut bytes = serde_json::to_vec(&header).expect("a header is plain data");
    let mut rows = DeadCounts::new();
    for letter in letters {
        bytes.push(b'\n');
        serde_json::to_writer(&mut bytes, letter).expect("a dead letter is plain data");
        *rows.entry(letter.reason).or_default() += 1;
    }
    bytes.push(b'\n');
    (DeadFile { key: keys::dead(slot, nonce), rows, digest: Digest::of(&bytes) }, bytes.into())
}

/// Reads a file back.
pub fn read(object: &str, bytes: &[u8]) -> Result<(DeadHeader, Vec<DeadLetter>), StoreError> {
    let malformed = |why: String| StoreError::Malformed { object: object.to_owned(), why };
    let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let header = decode(object, lines.next().ok_or_else(|| malformed("it is empty".into()))?)?;
    let letters = lines
        .map(|line| serde_json::from_slice(line).map_err(|e| malformed(format!("a line is not readable: {e}"))))
        .collect::<Result<_, _>>()?;
    Ok((header, letters))
}

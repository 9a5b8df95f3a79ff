//! The documents of an output under `_gristmill`: what each says, and how it is written once and read back. All are JSON
//! with a format number; a reader refuses a number that it does not know.

use std::collections::BTreeMap;

use bytes::Bytes;
use gristmill_job::{DeadReason, Digest, FORMAT, Failure, JobSpec, Nonce, Plan, Segment, Slot};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::keys;
use crate::location::Location;
use crate::outcome::{Created, StoreError};

/// `job.json`: the only root of an output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobDocument {
    /// Version of this format.
    pub format: u32,
    /// Digest of the specification: the job's identity.
    pub job: Digest,
    /// Digest of the plan, which is stored under it.
    pub plan: Digest,
    /// What is computed.
    pub spec: JobSpec,
    /// The model as it was named, for people.
    pub model: String,
    /// Keys of the model's config that this version did not know.
    pub unknown_config_keys: Vec<String>,
    /// Who wrote it, for people.
    pub written_by: String,
}

/// One of the slots that a part leaves open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its name.
    pub slot: Slot,
    /// Its rows.
    pub segments: Vec<Segment>,
}

/// Announces that a part of `nonce` names children. Counts only if the slot's part carries that nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitDocument {
    /// Version of this format.
    pub format: u32,
    /// The job.
    pub job: Digest,
    /// The slot that is split.
    pub slot: Slot,
    /// The part that names the children.
    pub nonce: Nonce,
    /// The children.
    pub children: Vec<Child>,
}

/// One strike against a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrikeDocument {
    /// Version of this format.
    pub format: u32,
    /// The slot.
    pub slot: Slot,
    /// What happened.
    pub failure: Failure,
}

/// Who coordinates from this epoch on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochDocument {
    /// Version of this format.
    pub format: u32,
    /// Where the coordinator answers: `http://127.0.0.1:4711`, say.
    pub address: String,
    /// Fresh for each coordinator process.
    pub coordinator: Nonce,
}

/// Rows without a vector, by reason.
pub type DeadCounts = BTreeMap<DeadReason, u64>;

/// `manifest.json`: seals the job. A pure function of job.json and the parts' footers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// The job.
    pub job: Digest,
    /// The plan.
    pub plan: Digest,
    /// The model.
    pub model: Digest,
    /// Selected rows: vectors and dead letters together.
    pub rows: u64,
    /// Rows with a vector.
    pub vectors: u64,
    /// Tokens of the rows with a vector.
    pub tokens: u64,
    /// Rows without one, by reason.
    pub dead: DeadCounts,
    /// How many parts.
    pub parts: u64,
    /// Digest of the table of parts, which is stored under it.
    pub table: Digest,
}

/// One line of the table of parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartEntry {
    /// Path relative to the output's root.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Its slot.
    pub slot: Slot,
    /// Its nonce.
    pub nonce: Nonce,
    /// Rows with a vector.
    pub rows: u64,
    /// Digest of the bytes up to the end of its last row group.
    pub body: Digest,
    /// Digest of the Parquet footer behind them.
    pub footer: Digest,
    /// Its dead-letter file, if any.
    pub dead: Option<String>,
}

/// The bytes under which a document is stored.
pub fn encode<T: Serialize>(document: &T) -> Bytes {
    let mut bytes = serde_json::to_vec_pretty(document).expect("documents are plain data");
    bytes.push(b'\n');
    bytes.into()
}

/// Reads a document's bytes; refuses a format that this version does not know.
pub fn decode<T: DeserializeOwned>(object: &str, bytes: &[u8]) -> Result<T, StoreError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let malformed = |why: String| StoreError::Malformed { object: object.to_owned(), why };
    let Versioned { format } =
        serde_json::from_slice(bytes).map_err(|e| malformed(format!("not a document of Gristmill: {e}")))?;
    if format != FORMAT {
        return Err(malformed(format!("it has format {format}, this version reads format {FORMAT}")));
    }
    serde_json::from_slice(bytes).map_err(|e| malformed(format!("not readable: {e}")))
}

/// Writes a document once. Whoever comes second learns what stands there; both may be the same bytes.
pub async fn create<T: Serialize>(out: &Location, key: &str, document: &T) -> Result<Written, StoreError> {
    create_bytes(out, key, encode(document)).await
}

/// What stands under a document's key after it was to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// The bytes that were given, by whomever.
    Same,
    /// Other bytes.
    Other(Bytes),
}

/// Writes bytes once, and reads back whenever the answer leaves a doubt. Tried again while nothing stands there.
pub async fn create_bytes(out: &Location, key: &str, bytes: Bytes) -> Result<Written, StoreError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let failure = match out.create(key, bytes.clone()).await {
            Ok(Created::Ours) => return Ok(Written::Same),
            Ok(Created::Exists) => None,
            Err(error) => Some(error),
        };
        match (out.get(key).await, failure) {
            (Ok(Some(found)), _) if found == bytes => return Ok(Written::Same),
            (Ok(Some(found)), _) => return Ok(Written::Other(found)),
            (Ok(None) | Err(_), Some(error)) if tries >= 5 || error.is_refusal() => return Err(error),
            (Err(error), None) if tries >= 5 => return Err(error),
            _ => crate::backoff(tries).await,
        }
    }
}

/// Reads a document, or `None` where there is none.
pub async fn read<T: DeserializeOwned>(out: &Location, key: &str) -> Result<Option<T>, StoreError> {
    match out.get(key).await? {
        Some(bytes) => decode(&out.describe(key), &bytes).map(Some),
        None => Ok(None),
    }
}

/// Reads the plan that job.json names, and checks that it is that one.
pub async fn read_plan(out: &Location, digest: Digest) -> Result<Plan, StoreError> {
    let key = keys::plan(digest);
    let object = out.describe(&key);
    let Some(bytes) = out.get(&key).await? else {
        return Err(StoreError::NotFound { object });
    };
    if Digest::of(&bytes) != digest {
        return Err(StoreError::Malformed { object, why: "its bytes are not those of its digest".into() });
    }
    decode(&object, &bytes)
}

/// The bytes under which a plan is stored: not indented, since it may have a million shards.
pub fn encode_plan(plan: &Plan) -> Bytes {
    serde_json::to_vec(plan).expect("a plan is plain data").into()
}

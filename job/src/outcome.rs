//! How things end: failures and whose they are, rows without a vector, and the exit codes that tell a caller.

use serde::{Deserialize, Serialize};

use crate::plan::Segment;

/// Whose a failure is. Set where the error arose and never changed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The rows: the same would happen on any worker. A strike against the shard.
    Input,
    /// The worker: its device, its memory, its machine.
    Worker,
    /// The object store. Retried with backoff; nobody's strike.
    Store,
    /// Nobody can tell: a process that is gone left no word.
    Unknown,
}

/// A cause that no further attempt can remove: the job ends, unsealed, and a person is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fatal {
    /// An input object is not what was pinned.
    InputChanged,
    /// An input object cannot be decoded.
    InputUnreadable,
    /// The model's files, or its tokenizer with the job's prompt, cannot be used.
    ModelUnusable,
    /// The output's store is full, or forbids writing.
    OutputRefused,
    /// A slot holds what this job cannot have written.
    Stranger,
}

impl Fatal {
    /// The exit status of a job that ends so.
    pub fn exit(self) -> Exit {
        match self {
            Fatal::InputChanged | Fatal::InputUnreadable | Fatal::ModelUnusable => Exit::Input,
            Fatal::OutputRefused => Exit::NoProgress,
            Fatal::Stranger => Exit::NeedsAttention,
        }
    }
}

/// Why an attempt at a shard ended without a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose failure it is.
    pub blame: Blame,
    /// Set where another attempt cannot end otherwise.
    pub fatal: Option<Fatal>,
    /// For people: object, cause, what to do.
    pub message: String,
    /// The row ranges on the device when it happened; empty when unknown.
    pub in_hand: Vec<Segment>,
}

/// Why a row has no vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeadReason {
    /// The text is null.
    NullText,
    /// The text has no bytes, before the prompt.
    EmptyText,
    /// The row alone ended a process of its own twice.
    Poison,
    /// Its vector was not finite, or zero, in float32 too.
    BadVector,
    /// The tokenizer refused the text.
    Untokenizable,
    /// The object changed under the job, and a person accepted that.
    InputChanged,
}

impl DeadReason {
    /// Whether rows of this kind are ordinary in real corpora and have a limit of their own.
    pub fn is_missing_text(self) -> bool {
        matches!(self, DeadReason::NullText | DeadReason::EmptyText)
    }

    /// The spelling in dead letters, footers and manifests.
    pub fn name(self) -> &'static str {
        match self {
            DeadReason::NullText => "NULL_TEXT",
            DeadReason::EmptyText => "EMPTY_TEXT",
            DeadReason::Poison => "POISON",
            DeadReason::BadVector => "BAD_VECTOR",
            DeadReason::Untokenizable => "UNTOKENIZABLE",
            DeadReason::InputChanged => "INPUT_CHANGED",
        }
    }
}

/// What an exit status means, in every program of Gristmill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Sealed, or verified.
    Done = 0,
    /// A fault of Gristmill's own.
    Internal = 1,
    /// Wrong options or arguments.
    Usage = 2,
    /// The input is missing, unreadable, unsuitable, or changed.
    Input = 3,
    /// The output holds a job of another specification.
    SpecDiffers = 4,
    /// A person must look: the output holds what this job cannot have written, or too many rows died.
    NeedsAttention = 5,
    /// Not sealed: no worker, or no progress.
    NoProgress = 6,
    /// The device, or its libraries.
    Device = 7,
    /// `verify` found damage.
    Damaged = 8,
    /// Interrupted by a signal.
    Interrupted = 130,
}

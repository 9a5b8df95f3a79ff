//! What the driver of a run is told, what it may vary, and what it answers. Plain data.

use std::time::Duration;

use gristmill_job::{Compression, Exit, Failure, Slot};
use gristmill_proto::v1;
use gristmill_store::documents::DeadCounts;
use tokio::sync::oneshot;

use crate::acts::ActError;
use crate::scheduler::{Claim, Finish, Held, LookUp, WorkerId};
use crate::seal::DeadLimits;

/// What may change from run to run of one job.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How column chunks are compressed.
    pub compression: Compression,
    /// Encoded bytes at which a part is committed as a finished prefix.
    pub part_bytes: u64,
    /// How often workers are heard of.
    pub heartbeat: Duration,
    /// How many rows may be without a vector; counted again, from all footers, before the seal.
    pub dead_limits: DeadLimits,
    /// Without a worker, or without progress, for so long, the job ends.
    pub patience: Duration,
}

/// How far a job is.
#[derive(Debug, Clone, Default)]
pub struct JobProgress {
    /// Selected rows.
    pub rows_total: u64,
    /// Rows in committed parts, and those under way.
    pub rows_done: u64,
    /// Of them, rows that were committed before this run.
    pub rows_before: u64,
    /// Parts that this run's workers committed.
    pub parts: u64,
    /// Rows without a vector that this run found, by reason.
    pub dead: DeadCounts,
    /// Workers at work.
    pub workers: usize,
    /// Workers that died so far.
    pub deaths: u64,
    /// What all workers of this run have done.
    pub work: v1::Progress,
}

/// How a job's run ended.
#[derive(Debug, Clone)]
pub enum Ended {
    /// Every slot is committed: the job can be sealed.
    Complete,
    /// It cannot go on.
    Stopped {
        /// The exit status.
        exit: Exit,
        /// Object, cause, what to do.
        message: String,
    },
}

/// What the driver is told.
pub(crate) enum Message {
    Join {
        pid: u32,
        reply: oneshot::Sender<WorkerId>,
    },
    Claim {
        worker: WorkerId,
        self_tested: bool,
        reply: oneshot::Sender<Claim>,
    },
    Heartbeat {
        worker: WorkerId,
        held: Vec<Held>,
        progress: v1::Progress,
        /// Attempts to drop; none for a worker that nobody knows.
        reply: oneshot::Sender<Option<Vec<u64>>>,
    },
    Finish {
        worker: WorkerId,
        slot: Slot,
        attempt: u64,
        finish: Finish,
        /// Rows that the part has no vector for.
        dead: DeadCounts,
        progress: v1::Progress,
        reply: oneshot::Sender<()>,
    },
    Leave {
        worker: WorkerId,
        progress: v1::Progress,
        failure: Option<Failure>,
        reply: oneshot::Sender<()>,
    },
    ProcessDied {
        pid: u32,
        how: String,
    },
    Found {
        slot: Slot,
        found: Result<LookUp, ActError>,
    },
    /// A split commit was read back.
    ReadBack {
        worker: WorkerId,
        slot: Slot,
        attempt: u64,
        finish: Finish,
    },
    Stop {
        exit: Exit,
        message: String,
    },
}

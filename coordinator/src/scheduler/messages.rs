//! What the scheduler is told, and what it answers. Plain data.

use gristmill_job::{Failure, Segment, Slot};

/// A worker process. A process that is started again is another worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// The numbers that the scheduler goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How often workers send `renew`. The scheduler must be called at least as often, or it takes itself for paused.
    pub heartbeat_ms: u64,
    /// How long a grant is left alone without a `renew` that names it: three heartbeats.
    pub lease_ms: u64,
    /// Shards that a worker holds at once: one on the device and the next one being read.
    pub held_max: usize,
    /// Strikes after which a shard is split to find the rows that are to blame.
    pub strikes_max: usize,
    /// Deaths of a row that is alone in its process, after which the row is buried.
    pub solo_deaths: usize,
    /// Failures in a row for which a worker takes the blame, after which it gets no more shards.
    pub faults_max: u32,
    /// How often a shard is excused because many workers were lost together. Bounded, so that two rows that kill
    /// their workers at the same time cannot excuse each other for ever.
    pub excuses_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            heartbeat_ms: 10_000,
            lease_ms: 30_000,
            held_max: 2,
            strikes_max: 3,
            solo_deaths: 2,
            faults_max: 3,
            excuses_max: 3,
        }
    }
}

/// A slot that is not committed, at the start or after recovery. Its parent, if any, is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its name.
    pub slot: Slot,
    /// Its rows.
    pub segments: Vec<Segment>,
    /// Tokens, estimated.
    pub tokens: u64,
    /// Strikes that the store remembers.
    pub strikes: usize,
    /// The row ranges named by the most telling of those strikes; empty when none was.
    pub named: Vec<Segment>,
}

/// The answer to a worker that asks for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// A shard.
    Grant(Grant),
    /// Nothing for this worker now; ask again.
    Wait,
    /// Every slot is committed.
    Finished,
    /// The worker failed too often by its own fault: it gets no more work and may go.
    Quarantined,
    /// Nobody joined by that name, or it has left or died: join first.
    Unknown,
}

/// Leave to compute a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The slot to commit to.
    pub slot: Slot,
    /// Its rows.
    pub segments: Vec<Segment>,
    /// Tokens, estimated.
    pub tokens: u64,
    /// Tells this grant from every other one of this scheduler.
    pub attempt: u64,
    /// How carefully to go.
    pub caution: Caution,
}

/// How carefully a worker goes about a shard, so that a death tells more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caution {
    /// As fast as possible.
    None,
    /// Each batch's row range is announced, and the announcement acknowledged, before the batch is touched.
    Announce,
    /// Batches of a single row, each announced.
    RowByRow,
    /// A single row, in a process that holds nothing else and gets nothing else meanwhile.
    Solo,
}

/// What a heartbeat says about one held shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The slot.
    pub slot: Slot,
    /// The attempt.
    pub attempt: u64,
    /// The row ranges on the device; empty for a shard that is only being read ahead.
    pub in_hand: Vec<Segment>,
    /// Rows computed.
    pub rows_done: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// A part stands at the slot, and the driver has read it back.
    Committed {
        /// The child shards that the part names, in order; their rows are among the slot's.
        children: Vec<(Slot, Vec<Segment>)>,
        /// Whether it is this attempt's part; somebody else's is no failure.
        ours: bool,
    },
    /// It failed.
    Failed(Failure),
    /// The worker hands the shard back untouched, and nobody is to blame.
    Returned,
}

/// How a worker went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Its process is known to have ended without a good-bye.
    Died,
    /// Nothing has been heard; it may still be at work. `tick` finds this by itself when a lease runs out.
    Vanished,
    /// It said good-bye.
    Left,
}

/// What stands at a slot in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookUp {
    /// Nothing.
    Absent,
    /// A part of this job.
    Committed {
        /// The child shards that the part names, in order; their rows are among the slot's.
        children: Vec<(Slot, Vec<Segment>)>,
    },
}

/// What the driver must do. Each is answered by `looked_up`, but for `Strike` and `Forgive`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Look in the store whether the slot is committed. Nobody is granted it before the answer.
    LookUp {
        /// The slot.
        slot: Slot,
    },
    /// Commit a part without rows that names these children, read the slot back, and answer with what stands there.
    Split {
        /// The slot.
        slot: Slot,
        /// Its rows.
        segments: Vec<Segment>,
        /// The rows of each child; the child at index `i` gets the slot's child slot of that number.
        children: Vec<Vec<Segment>>,
    },
    /// Commit a part whose one row is a dead letter (`POISON`), read the slot back, and answer with what stands there.
    Bury {
        /// The slot.
        slot: Slot,
        /// Its one row.
        segments: Vec<Segment>,
    },
    /// Write down a strike, so that it survives a restart.
    Strike {
        /// The slot.
        slot: Slot,
        /// On whom it happened.
        worker: WorkerId,
        /// In which attempt.
        attempt: u64,
        /// What happened.
        failure: Failure,
    },
    /// Take back the strike of that attempt: many workers were lost together, so the rows are not to blame.
    Forgive {
        /// The slot.
        slot: Slot,
        /// On whom it happened.
        worker: WorkerId,
        /// The attempt of the strike.
        attempt: u64,
    },
}

/// How far the job is. Counts begin with this scheduler: what was committed before its start is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Slots that wait for a worker.
    pub pending: usize,
    /// Slots that a worker holds.
    pub leased: usize,
    /// Slots that are being looked up in the store.
    pub looking: usize,
    /// Slots that the driver is splitting or burying.
    pub acting: usize,
    /// Slots committed.
    pub done: usize,
    /// Rows in slots that are not committed.
    pub rows_open: u64,
    /// Rows in parts that are committed.
    pub rows_done: u64,
    /// Rows computed, by the heartbeats, of shards that are not committed.
    pub rows_under_way: u64,
    /// Workers that may be granted work: heard of within a lease, self-tested, not quarantined.
    pub workers: usize,
    /// Workers that were quarantined and are still there.
    pub quarantined: usize,
    /// When a slot was last committed or a heartbeat last told of more rows; a pause of the coordinator moves it on.
    pub progressed_ms: u64,
    /// Since when there is no worker; none when there is one.
    pub deserted_since_ms: Option<u64>,
}

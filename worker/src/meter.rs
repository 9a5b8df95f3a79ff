//! What a worker has done, counted as it happens and carried by every heartbeat.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use gristmill_proto::v1;

/// Counters since the worker joined.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    rows: AtomicU64,
    tokens: AtomicU64,
    filled_tokens: AtomicU64,
    read: AtomicU64,
    tokenize: AtomicU64,
    encode: AtomicU64,
    write: AtomicU64,
    idle: AtomicU64,
    load: AtomicU64,
}

/// A stage whose time is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage {
    Read,
    Tokenize,
    Encode,
    Write,
    /// The encode thread waiting for a batch.
    Idle,
    /// The model being loaded.
    Load,
}

impl Meter {
    fn clock(&self, stage: Stage) -> &AtomicU64 {
        match stage {
            Stage::Read => &self.read,
            Stage::Tokenize => &self.tokenize,
            Stage::Encode => &self.encode,
            Stage::Write => &self.write,
            Stage::Idle => &self.idle,
            Stage::Load => &self.load,
        }
    }

    /// Runs one step of a stage and counts its time.
    pub(crate) fn time<T>(&self, stage: Stage, step: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = step();
        self.add(stage, start.elapsed());
        result
    }

    pub(crate) fn add(&self, stage: Stage, time: Duration) {
        self.clock(stage).fetch_add(time.as_micros() as u64, Relaxed);
    }

    /// Counts a batch: rows, their tokens, and those the device computed beside them.
    pub(crate) fn count(&self, rows: usize, tokens: usize, computed: usize) {
        self.rows.fetch_add(rows as u64, Relaxed);
        self.tokens.fetch_add(tokens as u64, Relaxed);
        self.filled_tokens.fetch_add((computed - tokens) as u64, Relaxed);
    }

    pub(crate) fn progress(&self) -> v1::Progress {
        let us = |stage| self.clock(stage).load(Relaxed);
        v1::Progress {
            rows: self.rows.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            filled_tokens: self.filled_tokens.load(Relaxed),
            read_us: us(Stage::Read),
            tokenize_us: us(Stage::Tokenize),
            encode_us: us(Stage::Encode),
            write_us: us(Stage::Write),
            idle_us: us(Stage::Idle),
            load_us: us(Stage::Load),
        }
    }
}

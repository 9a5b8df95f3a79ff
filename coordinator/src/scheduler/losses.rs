//! Workers lost within one lease: whether a loss is one among many, and then nobody's strike.

use std::collections::{BTreeMap, VecDeque};

use gristmill_job::Slot;

use super::WorkerId;

/// What a loss is counted under. Workers that the same shard kills one after the other are one loss, not many: that is
/// what a poison row looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// It died with rows of this shard of the plan in hand.
    Shard(u32),
    /// It held nothing, or nothing is known.
    Worker(WorkerId),
}

/// A strike that can still be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blamed {
    pub(super) slot: Slot,
    pub(super) worker: WorkerId,
    pub(super) attempt: u64,
}

/// The losses of the last lease.
#[derive(Debug)]
pub(super) struct Losses {
    window_ms: u64,
    recent: VecDeque<(u64, Cause)>,
    causes: BTreeMap<Cause, usize>,
    blamed: VecDeque<(u64, Blamed)>,
    total: u64,
}

impl Losses {
    pub(super) fn new(window_ms: u64) -> Self {
        Losses { window_ms, recent: VecDeque::new(), causes: BTreeMap::new(), blamed: VecDeque::new(), total: 0 }
    }

    /// Losses so far; a worker remembers it when it joins.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Counts a loss.
    pub(super) fn add(&mut self, time_ms: u64, cause: Cause) {
        self.forget_before(time_ms.saturating_sub(self.window_ms));
        self.recent.push_back((time_ms, cause));
        *self.causes.entry(cause).or_default() += 1;
        self.total += 1;
    }

    /// Whether more than one worker and more than a tenth of them went within the window, seen from one that joined
    /// after `total_at_join` losses: those were before its time. Without that, one machine that starts its only worker
    /// again and again would look like a crowd.
    pub(super) fn are_many(&mut self, time_ms: u64, total_at_join: u64, workers_left: usize) -> bool {
        self.forget_before(time_ms.saturating_sub(self.window_ms));
        let since_join = usize::try_from(self.total - total_at_join).unwrap_or(usize::MAX);
        let gone = self.causes.len().min(since_join);
        gone > 1 && gone * 10 > workers_left + gone
    }

    /// Remembers a strike for as long as it may turn out that many were lost with it.
    pub(super) fn blame(&mut self, time_ms: u64, blamed: Blamed) {
        self.blamed.push_back((time_ms, blamed));
    }

    /// The strikes of the window, which are now known to be nobody's.
    pub(super) fn take_blamed(&mut self) -> Vec<Blamed> {
        self.blamed.drain(..).map(|(_, blamed)| blamed).collect()
    }

    fn forget_before(&mut self, time_ms: u64) {
        while let Some(&(at_ms, cause)) = self.recent.front()
            && at_ms < time_ms
        {
            self.recent.pop_front();
            if let Some(count) = self.causes.get_mut(&cause) {
                *count -= 1;
                if *count == 0 {
                    self.causes.remove(&cause);
                }
            }
        }
        while self.blamed.front().is_some_and(|(at_ms, _)| *at_ms < time_ms) {
            self.blamed.pop_front();
        }
    }
}

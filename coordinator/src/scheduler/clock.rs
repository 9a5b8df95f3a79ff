//! Time without a clock: the caller's `now`, less the time in which the coordinator itself was not there.

/// The caller's time, and how much of it was slept through.
#[derive(Debug)]
pub(super) struct Clock {
    now_ms: u64,
    paused_ms: u64,
    /// A longer gap between two calls is a pause of the coordinator, not silence of the workers.
    late_ms: u64,
}

impl Clock {
    pub(super) fn new(late_ms: u64) -> Self {
        Clock { now_ms: 0, paused_ms: 0, late_ms }
    }

    /// Moves on to the caller's time, and returns the scheduler's. A pause adds nothing to the scheduler's time, which
    /// is how it extends every lease by its length. The first call ever ends a pause. Never goes back.
    pub(super) fn advance(&mut self, now_ms: u64) -> u64 {
        let gap_ms = now_ms.saturating_sub(self.now_ms);
        if gap_ms > self.late_ms {
            self.paused_ms += gap_ms;
        }
        self.now_ms += gap_ms;
        self.time_ms()
    }

    pub(super) fn time_ms(&self) -> u64 {
        self.now_ms - self.paused_ms
    }

    /// The caller's time of a moment in the scheduler's time, as if the last pause lay before it.
    pub(super) fn callers_ms(&self, time_ms: u64) -> u64 {
        time_ms + self.paused_ms
    }
}

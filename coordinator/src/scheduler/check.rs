//! The invariants of the scheduler, each with a name. Checked after every step of every test.

use std::collections::BTreeSet;

use gristmill_job::{Segments, Slot};

use super::slots::{State, Tally};
use super::{Scheduler, WorkerId};

/// An invariant that does not hold: a fault of the scheduler's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The queue and the slots' states tell different stories.
    #[error("slot {0} is not where its state says")]
    State(Slot),
    /// The counters are not what a count gives.
    #[error("the counters of slots by state are wrong")]
    Tally,
    /// A slot and one that was split from it are both open.
    #[error("slot {0} is open together with a slot that it was split from")]
    ParentOpen(Slot),
    /// A slot's holders and its workers' holdings tell different stories.
    #[error("slot {slot} and worker {} disagree on who holds what", worker.0)]
    Holder {
        /// The slot.
        slot: Slot,
        /// The worker.
        worker: WorkerId,
    },
    /// A worker holds more than it may, or more than a single row that needs a process of its own.
    #[error("worker {} holds too much", .0.0)]
    HeldTooMuch(WorkerId),
    /// A slot has more strikes than can come about before something is done.
    #[error("slot {0} has too many strikes")]
    Strikes(Slot),
    /// Open and committed rows are not all rows.
    #[error("{open} open and {done} committed rows are not {total} rows")]
    RowsLost {
        /// Rows in open slots.
        open: u64,
        /// Rows committed.
        done: u64,
        /// Rows at the start.
        total: u64,
    },
    /// A worker is present and would never be missed.
    #[error("worker {} has no deadline", .0.0)]
    Deadline(WorkerId),
}

impl Scheduler {
    /// Checks all invariants. For tests: it looks at everything.
    pub fn check(&self) -> Result<(), Broken> {
        self.each_slot_is_in_one_state()?;
        self.no_slot_is_open_with_its_parent()?;
        self.slots_and_workers_agree()?;
        self.workers_hold_what_they_may()?;
        self.strikes_are_bounded()?;
        self.no_row_is_lost()
    }

    fn each_slot_is_in_one_state(&self) -> Result<(), Broken> {
        let queued: BTreeSet<_> = self.slots.pending().collect();
        let mut tally = Tally::default();
        for (slot, entry) in self.slots.all() {
            let pending = matches!(entry.state, State::Pending { .. });
            if pending != queued.contains(slot) || (entry.state == State::Leased) == entry.holders.is_empty() {
                return Err(Broken::State(slot.clone()));
            }
            if let Some(count) = tally.of(&entry.state) {
                *count += 1;
            }
        }
        let stranger = queued.iter().find(|slot| self.slots.get(slot).is_none());
        match stranger {
            Some(slot) => Err(Broken::State((*slot).clone())),
            None if tally != self.slots.tally() || queued.len() != self.slots.pending_len() => Err(Broken::Tally),
            None => Ok(()),
        }
    }

    fn no_slot_is_open_with_its_parent(&self) -> Result<(), Broken> {
        let ancestors = |slot: &Slot| std::iter::successors(slot.parent(), Slot::parent);
        match self.slots.all().find(|(slot, _)| ancestors(slot).any(|parent| self.slots.get(&parent).is_some())) {
            Some((slot, _)) => Err(Broken::ParentOpen(slot.clone())),
            None => Ok(()),
        }
    }

    fn slots_and_workers_agree(&self) -> Result<(), Broken> {
        let disagree = |slot: &Slot, worker| Err(Broken::Holder { slot: slot.clone(), worker });
        for (slot, entry) in self.slots.all() {
            for id in &entry.holders {
                let holding = self.crew.worker(*id).and_then(|worker| worker.held.get(slot));
                if !holding.is_some_and(|holding| holding.live) {
                    return disagree(slot, *id);
                }
            }
        }
        for (id, worker) in self.crew.all() {
            for (slot, _) in worker.live() {
                if !self.slots.get(slot).is_some_and(|entry| entry.holders.contains(&id)) {
                    return disagree(slot, id);
                }
            }
        }
        Ok(())
    }

    fn workers_hold_what_they_may(&self) -> Result<(), Broken> {
        for (id, worker) in self.crew.all() {
            let held = worker.live().count();
            if held > self.limits.held_max || (worker.is_solo() && held > 1) || (held > 0 && !worker.present) {
                return Err(Broken::HeldTooMuch(id));
            }
            if worker.present && !self.crew.has_deadline(id) {
                return Err(Broken::Deadline(id));
            }
        }
        Ok(())
    }

    fn strikes_are_bounded(&self) -> Result<(), Broken> {
        // Waiting slots have been judged. A second lease may add a strike before the first one ends.
        let bound = |isolated| if isolated { self.limits.solo_deaths } else { 2 * self.limits.strikes_max };
        let guilty = |state: &State| matches!(state, State::Pending { .. });
        match self.slots.all().find(|(_, e)| guilty(&e.state) && e.strikes.len() >= bound(e.isolated)) {
            Some((slot, _)) => Err(Broken::Strikes(slot.clone())),
            None => Ok(()),
        }
    }

    fn no_row_is_lost(&self) -> Result<(), Broken> {
        let open: u64 = self.slots.all().map(|(_, entry)| entry.segments.total_rows()).sum();
        let (done, total) = (self.slots.rows_done, self.slots.rows_total);
        if open != self.slots.rows_open || open + done != total {
            return Err(Broken::RowsLost { open, done, total });
        }
        Ok(())
    }
}

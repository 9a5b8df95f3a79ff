//! Whose fault it is: strikes, excuses, quarantine, and what strikes lead to.

use gristmill_job::{Blame, Failure, Segment, Slot};

use super::crew::{Holding, Worker};
use super::losses::{Blamed, Cause};
use super::poison::{self, Verdict};
use super::slots::{Entry, State, Strike};
use super::{Effect, Scheduler, WorkerId};

impl Scheduler {
    pub(super) fn fail(&mut self, worker: WorkerId, slot: &Slot, attempt: u64, failure: Failure) {
        self.shun(worker, slot);
        if failure.fatal.is_some() {
            // The driver ends the job; a resumed one must find no strikes that the rows did not earn.
            return;
        }
        match failure.blame {
            Blame::Input | Blame::Unknown => self.strike(worker, slot, attempt, failure),
            Blame::Store => {}
            Blame::Worker => {
                let faults_max = self.limits.faults_max;
                self.crew.change(worker, |worker| {
                    worker.faults += 1;
                    worker.quarantined |= worker.faults >= faults_max;
                });
                self.note_desertion();
            }
        }
    }

    /// A worker is known to have ended without a word. The shards that were on its device are struck, unless it never
    /// was of use, or many went with it.
    pub(super) fn blame_death(&mut self, worker: WorkerId, gone: &Worker, time_ms: u64) {
        let in_hand = self.in_hand(gone);
        // A worker that vanished before it was found dead has been counted.
        if gone.present {
            let cause = in_hand.first().map_or(Cause::Worker(worker), |(slot, ..)| Cause::Shard(slot.shard()));
            self.losses.add(time_ms, cause);
        }
        let many = self.losses.are_many(time_ms, gone.losses_at_join, self.crew.eligible());
        for (slot, attempt, in_hand) in in_hand {
            self.shun(worker, &slot);
            if !gone.tested || (many && self.excuse(&slot)) {
                continue;
            }
            let message = format!("worker {} died with rows of {slot} in hand; see its log", worker.0);
            self.strike(worker, &slot, attempt, Failure { blame: Blame::Unknown, fatal: None, message, in_hand });
            self.losses.blame(time_ms, Blamed { slot, worker, attempt });
        }
        if many {
            self.forgive();
        }
    }

    /// The open shards that a worker had on its device: those that it named rows of, or else the one granted first.
    fn in_hand(&self, gone: &Worker) -> Vec<(Slot, u64, Vec<Segment>)> {
        let open = || gone.held.iter().filter_map(|(slot, holding)| Some((slot, holding, self.slots.get(slot)?)));
        let told = |slot: &Slot, holding: &Holding| (slot.clone(), holding.attempt, holding.in_hand.clone());
        let named: Vec<_> = open()
            .filter(|(_, holding, entry)| poison::names_any(&entry.segments, &holding.in_hand))
            .map(|(slot, holding, _)| told(slot, holding))
            .collect();
        if !named.is_empty() {
            return named;
        }
        let oldest = open().min_by_key(|(_, holding, _)| holding.order);
        oldest.map(|(slot, holding, _)| told(slot, holding)).into_iter().collect()
    }

    fn shun(&mut self, worker: WorkerId, slot: &Slot) {
        let until_ms = self.clock.time_ms() + self.limits.lease_ms;
        if let Some(entry) = self.slots.get_mut(slot) {
            entry.shunned.retain(|worker| self.crew.worker(*worker).is_some());
            entry.shunned.insert(worker);
            entry.shunned_until_ms = until_ms;
        }
    }

    fn strike(&mut self, worker: WorkerId, slot: &Slot, attempt: u64, failure: Failure) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if matches!(entry.state, State::Splitting { .. } | State::Burying) {
            return;
        }
        entry.strikes.push(Strike { worker: Some(worker), attempt, named: failure.in_hand.clone() });
        self.effects.push(Effect::Strike { slot: slot.clone(), worker, attempt, failure });
    }

    /// Counts an excuse, and tells whether the slot had one left.
    fn excuse(&mut self, slot: &Slot) -> bool {
        let excuses_max = self.limits.excuses_max;
        self.slots.get_mut(slot).is_some_and(|entry| {
            entry.excused += 1;
            entry.excused <= excuses_max
        })
    }

    pub(super) fn forgive_if_many(&mut self, worker: WorkerId) {
        let joined = self.crew.worker(worker).map_or(0, |worker| worker.losses_at_join);
        if self.losses.are_many(self.clock.time_ms(), joined, self.crew.eligible()) {
            self.forgive();
        }
    }

    /// Takes back the strikes of the last lease: as is known now, many workers went together.
    fn forgive(&mut self) {
        for Blamed { slot, worker, attempt } in self.losses.take_blamed() {
            let is_it = |strike: &Strike| strike.worker == Some(worker) && strike.attempt == attempt;
            let struck = |entry: &Entry| {
                !matches!(entry.state, State::Splitting { .. } | State::Burying) && entry.strikes.iter().any(is_it)
            };
            if self.slots.get(&slot).is_some_and(struck) && self.excuse(&slot) {
                if let Some(entry) = self.slots.get_mut(&slot) {
                    entry.strikes.retain(|strike| !is_it(strike));
                }
                self.effects.push(Effect::Forgive { slot, worker, attempt });
            }
        }
    }

    /// Acts on the strikes of a slot that waits.
    pub(super) fn judge(&mut self, slot: &Slot) {
        let Some(entry) = self.slots.get(slot) else { return };
        if !matches!(entry.state, State::Pending { .. }) {
            return;
        }
        let others = self.crew.has_other_than(&entry.strikers());
        let segments = entry.segments.clone();
        match poison::verdict(entry, &self.limits, others) {
            Verdict::Retry => {}
            Verdict::Isolate => {
                if let Some(entry) = self.slots.get_mut(slot) {
                    entry.isolated = true;
                    entry.strikes.clear();
                }
            }
            Verdict::Split(asked) => {
                let children = asked.iter().map(|piece| piece.segments.clone()).collect();
                self.slots.set(slot, State::Splitting { asked });
                self.effects.push(Effect::Split { slot: slot.clone(), segments, children });
            }
            Verdict::Bury => {
                self.slots.set(slot, State::Burying);
                self.effects.push(Effect::Bury { slot: slot.clone(), segments });
            }
        }
    }
}

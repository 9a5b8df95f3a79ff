//! Which worker embeds which shard. A pure state machine: no clock, no randomness, no I/O, no logging; time is the
//! argument `now_ms`, milliseconds from any fixed moment. One task owns it, tells it what happened, and does what
//! [`Scheduler::effects`] asks for.
//!
//! It must never be needed for safety: creating the part is the commit, and a wrong decision here only costs work. So
//! late, doubled and reordered messages, and messages of or about strangers, are harmless.
//!
//! The life of a slot:
//!
//! ```text
//!            claim                    the last lease ends, no commit
//! Pending ----------> Leased ------------------------------------------> Looking (Effect::LookUp)
//!    ^                  ^  a worker thought lost tells of it again  |       |
//!    |                  +-------------------------------------------+       | looked_up
//!    +---- absent ----------------------------------------------------------+
//!    |                                                                      | absent, and convicted
//!    |            committed: gone; its children become Pending              v
//!    +------------------------------------------------------- Splitting, Burying (Effect::Split, ::Bury)
//! ```
//!
//! A commit ends any state. Each operation costs O(log n) in workers and slots, but that `claim` passes over the few
//! waiting slots that its worker has failed, and `progress` counts rows over what workers hold.

mod blame;
mod check;
mod clock;
mod crew;
mod losses;
mod messages;
mod poison;
mod slots;

#[cfg(test)]
mod tests;

use gristmill_job::{Segment, Slot};

pub use check::Broken;
pub use messages::{Caution, Claim, Effect, Finish, Grant, Held, Limits, LookUp, Lost, Open, Progress, WorkerId};

use clock::Clock;
use crew::{Crew, Holding};
use losses::{Cause, Losses};
use slots::{Slots, State};

/// The state machine. See the module for its laws.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    clock: Clock,
    slots: Slots,
    crew: Crew,
    losses: Losses,
    effects: Vec<Effect>,
    grants: u64,
    progressed_ms: u64,
    deserted_ms: Option<u64>,
}

impl Scheduler {
    /// A scheduler of these slots, in the order in which they shall be granted. None of them is committed, and the
    /// parents of those that have one are.
    pub fn new(limits: Limits, open: Vec<Open>) -> Self {
        let mut scheduler = Scheduler {
            clock: Clock::new(limits.heartbeat_ms),
            slots: Slots::default(),
            crew: Crew::new(limits.lease_ms),
            losses: Losses::new(limits.lease_ms),
            effects: Vec::new(),
            grants: 0,
            progressed_ms: 0,
            deserted_ms: Some(0),
            limits,
        };
        for open in open {
            let slot = open.slot.clone();
            scheduler.slots.open(open);
            scheduler.slots.queue_last(&slot);
            scheduler.judge(&slot);
        }
        scheduler
    }

    /// A worker came. Harmless when it is there already.
    pub fn join(&mut self, worker: WorkerId, now_ms: u64) {
        let time_ms = self.clock.advance(now_ms);
        self.crew.join(worker, time_ms, self.losses.total());
    }

    /// A worker embedded the known text rightly. Before that it is granted nothing, and its death is nobody's strike.
    pub fn self_tested(&mut self, worker: WorkerId) {
        self.crew.change(worker, |worker| worker.tested = true);
        self.note_desertion();
    }

    /// Whether the worker has joined, and neither died nor left. One that is not known must join again.
    pub fn knows(&self, worker: WorkerId) -> bool {
        self.crew.worker(worker).is_some()
    }

    /// A worker asks for a shard.
    pub fn claim(&mut self, worker: WorkerId, now_ms: u64) -> Claim {
        let time_ms = self.clock.advance(now_ms);
        if self.done() {
            return Claim::Finished;
        }
        self.hear(worker);
        let Some(state) = self.crew.worker(worker) else { return Claim::Unknown };
        if state.quarantined {
            return Claim::Quarantined;
        }
        let held = state.live().count();
        let last_ones = self.slots.pending_len() < self.crew.eligible();
        let held_max = if last_ones { 1 } else { self.limits.held_max };
        if !state.tested || state.is_solo() || held >= held_max {
            return Claim::Wait;
        }
        let slot = self.slots.pending().find(|slot| self.suits(slot, worker, held, time_ms)).cloned();
        slot.map_or(Claim::Wait, |slot| self.grant(worker, slot, time_ms))
    }

    /// A heartbeat: everything that the worker holds. Returns the slots that somebody committed: to be dropped.
    pub fn renew(&mut self, worker: WorkerId, held: &[Held], now_ms: u64) -> Vec<Slot> {
        let time_ms = self.clock.advance(now_ms);
        if !self.hear(worker) {
            return Vec::new();
        }
        let mut unwanted = Vec::new();
        for told in held {
            if self.slots.get(&told.slot).is_none() {
                unwanted.push(told.slot.clone());
                self.crew.change(worker, |worker| worker.held.remove(&told.slot));
            } else if self.take_up(worker, told, time_ms) {
                self.note(worker, told, time_ms);
            }
        }
        unwanted
    }

    /// A worker is about to touch these rows, and waits for leave: between heartbeats, for a shard granted with
    /// caution. False when the slot is committed: the shard is to be dropped.
    pub fn announce(
        &mut self,
        worker: WorkerId,
        slot: &Slot,
        attempt: u64,
        in_hand: Vec<Segment>,
        now_ms: u64,
    ) -> bool {
        let rows_done = self.crew.worker(worker).and_then(|worker| worker.held.get(slot)).map_or(0, |h| h.rows_done);
        self.renew(worker, &[Held { slot: slot.clone(), attempt, in_hand, rows_done }], now_ms).is_empty()
    }

    /// An attempt ended. A commit counts whoever made it, and must have been read back: its children become pending.
    pub fn finish(&mut self, worker: WorkerId, slot: &Slot, attempt: u64, finish: Finish, now_ms: u64) {
        self.clock.advance(now_ms);
        self.hear(worker);
        match finish {
            Finish::Committed { children, ours } => {
                if ours {
                    self.crew.change(worker, |worker| worker.faults = 0);
                }
                self.crew.change(worker, |worker| worker.held.remove(slot));
                self.commit(slot, children);
            }
            Finish::Failed(failure) => {
                if self.let_go(worker, slot, attempt) {
                    self.fail(worker, slot, attempt, failure);
                    self.release(worker, slot);
                }
            }
            Finish::Returned => {
                if self.let_go(worker, slot, attempt) {
                    self.release(worker, slot);
                }
            }
        }
    }

    /// A worker went.
    pub fn lost(&mut self, worker: WorkerId, lost: Lost, now_ms: u64) {
        let time_ms = self.clock.advance(now_ms);
        match lost {
            Lost::Vanished => self.vanish(worker, time_ms),
            Lost::Left => {
                if let Some(gone) = self.crew.remove(worker) {
                    gone.held.keys().for_each(|slot| self.release(worker, slot));
                }
            }
            Lost::Died => {
                if let Some(gone) = self.crew.remove(worker) {
                    self.blame_death(worker, &gone, time_ms);
                    gone.held.keys().for_each(|slot| self.release(worker, slot));
                }
            }
        }
        self.note_desertion();
    }

    /// What stands at a slot, read back from the store: the answer to `LookUp`, `Split` and `Bury`. Welcome unasked.
    pub fn looked_up(&mut self, slot: &Slot, found: LookUp, now_ms: u64) {
        self.clock.advance(now_ms);
        match found {
            LookUp::Committed { children } => self.commit(slot, children),
            LookUp::Absent => {
                if self.slots.get(slot).is_some_and(|entry| entry.state == State::Looking) {
                    self.slots.queue_first(slot);
                    self.judge(slot);
                }
            }
        }
    }

    /// Time passed: leases that ran out end. To be called at `next_deadline_ms`, or earlier.
    pub fn tick(&mut self, now_ms: u64) {
        let time_ms = self.clock.advance(now_ms);
        while let Some((due_ms, worker)) = self.crew.next_due()
            && due_ms <= time_ms
        {
            let silent = self.crew.worker(worker).is_some_and(|w| w.heard_ms + self.limits.lease_ms <= time_ms);
            if silent {
                self.vanish(worker, time_ms);
            } else {
                self.expire(worker, time_ms);
            }
        }
        self.note_desertion();
    }

    /// When `tick` must be called at the latest, in the caller's time; none when all is done. Never further ahead than
    /// half a heartbeat after the last call, since a longer silence is taken for a pause of the coordinator.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let soon_ms = self.clock.time_ms() + self.limits.heartbeat_ms / 2;
        let due_ms = self.crew.next_due().map_or(soon_ms, |(due_ms, _)| due_ms.min(soon_ms));
        (!self.done()).then(|| self.clock.callers_ms(due_ms))
    }

    /// What the driver has to do now. Each effect is returned once.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Whether every slot is committed.
    pub fn done(&self) -> bool {
        self.slots.is_empty()
    }

    /// How far the job is.
    pub fn progress(&self) -> Progress {
        let tally = self.slots.tally();
        let holdings = self.crew.all().flat_map(|(_, worker)| worker.live());
        Progress {
            pending: self.slots.pending_len(),
            leased: tally.leased,
            looking: tally.looking,
            acting: tally.acting,
            done: self.slots.done,
            rows_open: self.slots.rows_open,
            rows_done: self.slots.rows_done,
            rows_under_way: holdings.map(|(_, holding)| holding.rows_done).sum(),
            workers: self.crew.eligible(),
            quarantined: self.crew.quarantined(),
            progressed_ms: self.clock.callers_ms(self.progressed_ms),
            deserted_since_ms: self.deserted_ms.map(|time_ms| self.clock.callers_ms(time_ms)),
        }
    }
}

/// Grants and leases.
impl Scheduler {
    fn hear(&mut self, worker: WorkerId) -> bool {
        let known = self.crew.hear(worker, self.clock.time_ms(), self.losses.total());
        self.note_desertion();
        known
    }

    fn suits(&self, slot: &Slot, worker: WorkerId, held: usize, time_ms: u64) -> bool {
        let Some(entry) = self.slots.get(slot) else { return false };
        let alone = entry.caution() < Caution::Solo || held == 0;
        let shunned = time_ms < entry.shunned_until_ms
            && entry.shunned.contains(&worker)
            && self.crew.has_other_than(&entry.shunned);
        alone && !shunned
    }

    fn grant(&mut self, worker: WorkerId, slot: Slot, time_ms: u64) -> Claim {
        self.grants += 1;
        let attempt = self.grants;
        self.lease(worker, &slot, attempt, time_ms);
        let entry = self.slots.get(&slot).expect("it was pending");
        let (segments, tokens, caution) = (entry.segments.clone(), entry.tokens, entry.caution());
        Claim::Grant(Grant { slot, segments, tokens, attempt, caution })
    }

    fn lease(&mut self, worker: WorkerId, slot: &Slot, attempt: u64, time_ms: u64) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        entry.holders.insert(worker);
        let solo = entry.caution() == Caution::Solo;
        if entry.state != State::Leased {
            self.slots.set(slot, State::Leased);
        }
        let (expires_ms, order) = (time_ms + self.limits.lease_ms, self.grants);
        let holding = Holding { attempt, order, live: true, solo, expires_ms, in_hand: Vec::new(), rows_done: 0 };
        self.crew.change(worker, |worker| worker.held.insert(slot.clone(), holding));
    }

    /// Whether what a heartbeat tells of is under a lease of its worker. A lease that ran out runs again, and one
    /// that an earlier coordinator granted is taken over, unless the slot is being split, or the worker would hold
    /// more than it may.
    fn take_up(&mut self, worker: WorkerId, told: &Held, time_ms: u64) -> bool {
        let Some(entry) = self.slots.get(&told.slot) else { return false };
        let Some(state) = self.crew.worker(worker) else { return false };
        match state.held.get(&told.slot) {
            Some(known) if known.attempt != told.attempt => return false,
            Some(known) if known.live => return true,
            _ => {}
        }
        let held = state.live().count();
        let alone = held == 0 || (entry.caution() < Caution::Solo && !state.is_solo());
        let busy = matches!(entry.state, State::Splitting { .. } | State::Burying);
        if busy || !alone || held >= self.limits.held_max {
            return false;
        }
        self.lease(worker, &told.slot, told.attempt, time_ms);
        true
    }

    fn note(&mut self, worker: WorkerId, told: &Held, time_ms: u64) {
        let expires_ms = time_ms + self.limits.lease_ms;
        let progressed = self.crew.change(worker, |worker| {
            let Some(holding) = worker.held.get_mut(&told.slot) else { return false };
            let progressed = told.rows_done > holding.rows_done;
            holding.expires_ms = expires_ms;
            holding.in_hand.clone_from(&told.in_hand);
            holding.rows_done = holding.rows_done.max(told.rows_done);
            progressed
        });
        if progressed == Some(true) {
            self.progressed_ms = time_ms;
        }
    }

    /// The worker's word that it no longer holds an attempt. False when it is not the attempt that is known.
    fn let_go(&mut self, worker: WorkerId, slot: &Slot, attempt: u64) -> bool {
        let known = self.crew.worker(worker).and_then(|worker| worker.held.get(slot));
        if known.is_none_or(|holding| holding.attempt != attempt) {
            return false;
        }
        self.crew.change(worker, |worker| worker.held.remove(slot));
        true
    }

    /// Ends a lease, if it runs; with the last one the slot is looked up, as before any second attempt.
    fn release(&mut self, worker: WorkerId, slot: &Slot) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        if !entry.holders.remove(&worker) {
            // The word may have come late, and changed what is to be thought of a slot that waits.
            return self.judge(slot);
        }
        if entry.holders.is_empty() {
            self.slots.set(slot, State::Looking);
            self.effects.push(Effect::LookUp { slot: slot.clone() });
        }
    }

    fn commit(&mut self, slot: &Slot, children: Vec<(Slot, Vec<Segment>)>) {
        let Some(entry) = self.slots.commit(slot, children) else { return };
        for holder in entry.holders {
            self.crew.change(holder, |worker| worker.held.remove(slot));
        }
        self.progressed_ms = self.clock.time_ms();
    }

    /// Nothing was heard of a worker for a lease.
    fn vanish(&mut self, worker: WorkerId, time_ms: u64) {
        if !self.crew.worker(worker).is_some_and(|worker| worker.present) {
            return;
        }
        self.losses.add(time_ms, Cause::Worker(worker));
        let left = self.crew.change(worker, |worker| {
            worker.present = false;
            let live = worker.held.iter_mut().filter(|(_, holding)| holding.live);
            live.map(|(slot, holding)| (slot.clone(), holding.live = false).0).collect::<Vec<_>>()
        });
        left.into_iter().flatten().for_each(|slot| self.release(worker, &slot));
        self.forgive_if_many(worker);
    }

    /// A worker is there but has not told of a shard for a lease: the grant was lost on its way.
    fn expire(&mut self, worker: WorkerId, time_ms: u64) {
        let expired = self.crew.change(worker, |worker| {
            let expired = worker.held.iter_mut().filter(|(_, holding)| holding.live && holding.expires_ms <= time_ms);
            expired.map(|(slot, holding)| (slot.clone(), holding.live = false).0).collect::<Vec<_>>()
        });
        expired.into_iter().flatten().for_each(|slot| self.release(worker, &slot));
    }

    fn note_desertion(&mut self) {
        let time_ms = self.clock.time_ms();
        let deserted = self.crew.eligible() == 0;
        self.deserted_ms = deserted.then(|| self.deserted_ms.unwrap_or(time_ms));
    }
}

//! The scheduler, driven by hand.

#![allow(clippy::unwrap_used)]

mod blame;
mod leases;
mod random;

use gristmill_job::{Blame, Failure, Segment, Slot};

use super::*;

const HEARTBEAT_MS: u64 = 10_000;
const LEASE_MS: u64 = 30_000;
const ROWS: u64 = 100;

/// A scheduler, a store that says what it is told to, and a clock. All invariants are checked after every step.
struct Drive {
    scheduler: Scheduler,
    now_ms: u64,
    effects: Vec<Effect>,
}

fn rows(start: u64, end: u64) -> Vec<Segment> {
    vec![Segment { object: 0, start, end }]
}

fn open(index: u32) -> Open {
    let start = u64::from(index) * ROWS;
    Open { slot: Slot::root(index), segments: rows(start, start + ROWS), tokens: 1_000, strikes: 0, named: vec![] }
}

fn w(id: u64) -> WorkerId {
    WorkerId(id)
}

fn failure(blame: Blame, in_hand: Vec<Segment>) -> Finish {
    Finish::Failed(Failure { blame, fatal: None, message: "planned".into(), in_hand })
}

impl Drive {
    fn new(shards: u32, workers: u64) -> Self {
        Drive::recovered((0..shards).map(open).collect(), workers)
    }

    fn recovered(open: Vec<Open>, workers: u64) -> Self {
        let scheduler = Scheduler::new(Limits::default(), open);
        let mut drive = Drive { scheduler, now_ms: 1_000_000, effects: Vec::new() };
        (1..=workers).for_each(|id| drive.join(id));
        drive
    }

    fn step<T>(&mut self, act: impl FnOnce(&mut Scheduler, u64) -> T) -> T {
        let result = act(&mut self.scheduler, self.now_ms);
        self.effects.extend(self.scheduler.effects());
        self.scheduler.check().unwrap();
        result
    }

    fn join(&mut self, id: u64) {
        self.step(|s, now| s.join(w(id), now));
        self.step(|s, _| s.self_tested(w(id)));
    }

    fn claim(&mut self, id: u64) -> Claim {
        self.step(|s, now| s.claim(w(id), now))
    }

    fn grant(&mut self, id: u64) -> Grant {
        match self.claim(id) {
            Claim::Grant(grant) => grant,
            other => panic!("worker {id} got {other:?}"),
        }
    }

    fn renew(&mut self, id: u64, held: &[(&Grant, Vec<Segment>)]) -> Vec<Slot> {
        let told = |(grant, in_hand): &(&Grant, Vec<Segment>)| Held {
            slot: grant.slot.clone(),
            attempt: grant.attempt,
            in_hand: in_hand.clone(),
            rows_done: 0,
        };
        let held: Vec<_> = held.iter().map(told).collect();
        self.step(|s, now| s.renew(w(id), &held, now))
    }

    fn finish(&mut self, id: u64, grant: &Grant, finish: Finish) {
        self.step(|s, now| s.finish(w(id), &grant.slot, grant.attempt, finish, now));
    }

    fn commit(&mut self, id: u64, grant: &Grant) {
        self.finish(id, grant, Finish::Committed { children: vec![], ours: true });
    }

    fn lose(&mut self, id: u64, lost: Lost) {
        self.step(|s, now| s.lost(w(id), lost, now));
    }

    /// Dies with these rows announced.
    fn die(&mut self, id: u64, grant: &Grant, in_hand: Vec<Segment>) {
        assert!(self.step(|s, now| s.announce(w(id), &grant.slot, grant.attempt, in_hand, now)));
        self.lose(id, Lost::Died);
    }

    fn absent(&mut self, slot: &Slot) {
        self.step(|s, now| s.looked_up(slot, LookUp::Absent, now));
    }

    fn found(&mut self, slot: &Slot, children: Vec<(Slot, Vec<Segment>)>) {
        self.step(|s, now| s.looked_up(slot, LookUp::Committed { children }, now));
    }

    /// Lets time pass as a driver that is awake does. Workers send no heartbeats meanwhile.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 1_000 {
            self.now_ms += 1_000;
            self.step(|s, now| s.tick(now));
        }
    }

    fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Answers every look-up with "absent", and returns the other effects.
    fn settle(&mut self) -> Vec<Effect> {
        let mut others = Vec::new();
        while !self.effects.is_empty() {
            for effect in self.take_effects() {
                match effect {
                    Effect::LookUp { slot } => self.absent(&slot),
                    other => others.push(other),
                }
            }
        }
        others
    }

    fn progress(&self) -> Progress {
        self.scheduler.progress()
    }
}

fn strikes(effects: &[Effect]) -> Vec<Slot> {
    let slot = |effect: &Effect| match effect {
        Effect::Strike { slot, .. } => Some(slot.clone()),
        _ => None,
    };
    effects.iter().filter_map(slot).collect()
}

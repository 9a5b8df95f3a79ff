//! The workers, what each holds, and when each is given up.

use std::collections::{BTreeMap, BTreeSet};

use gristmill_job::{Segment, Slot};

use super::WorkerId;

/// An attempt, as its worker tells of it.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) attempt: u64,
    /// Grows with every grant: the oldest holding is the one on the device, when nothing else is known.
    pub(super) order: u64,
    /// Whether the lease is running. An attempt whose lease ran out is kept in mind: it may come back, or turn out to
    /// have died.
    pub(super) live: bool,
    pub(super) solo: bool,
    pub(super) expires_ms: u64,
    pub(super) in_hand: Vec<Segment>,
    pub(super) rows_done: u64,
}

/// A worker that has joined and neither died nor left.
#[derive(Debug)]
pub(super) struct Worker {
    /// Heard of within a lease.
    pub(super) present: bool,
    pub(super) tested: bool,
    pub(super) faults: u32,
    pub(super) quarantined: bool,
    pub(super) heard_ms: u64,
    /// Losses before it came.
    pub(super) losses_at_join: u64,
    pub(super) held: BTreeMap<Slot, Holding>,
    deadline_ms: Option<u64>,
}

impl Worker {
    pub(super) fn is_eligible(&self) -> bool {
        self.present && self.tested && !self.quarantined
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (&Slot, &Holding)> {
        self.held.iter().filter(|(_, holding)| holding.live)
    }

    pub(super) fn is_solo(&self) -> bool {
        self.live().any(|(_, holding)| holding.solo)
    }

    /// The moment at which its silence, or a holding that it does not name, means something.
    fn due_ms(&self, lease_ms: u64) -> Option<u64> {
        let silence_ms = self.heard_ms + lease_ms;
        self.present.then(|| self.live().map(|(_, holding)| holding.expires_ms).fold(silence_ms, u64::min))
    }
}

/// All workers.
#[derive(Debug)]
pub(super) struct Crew {
    lease_ms: u64,
    workers: BTreeMap<WorkerId, Worker>,
    deadlines: BTreeSet<(u64, WorkerId)>,
    eligible: BTreeSet<WorkerId>,
    quarantined: BTreeSet<WorkerId>,
}

impl Crew {
    pub(super) fn new(lease_ms: u64) -> Self {
        Crew {
            lease_ms,
            workers: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            eligible: BTreeSet::new(),
            quarantined: BTreeSet::new(),
        }
    }

    /// Takes a worker in, or hears of it again.
    pub(super) fn join(&mut self, id: WorkerId, time_ms: u64, losses: u64) {
        self.workers.entry(id).or_insert_with(|| Worker {
            present: true,
            tested: false,
            faults: 0,
            quarantined: false,
            heard_ms: time_ms,
            losses_at_join: losses,
            held: BTreeMap::new(),
            deadline_ms: None,
        });
        self.hear(id, time_ms, losses);
    }

    /// Notes a sign of life. False when there is no such worker.
    pub(super) fn hear(&mut self, id: WorkerId, time_ms: u64, losses: u64) -> bool {
        self.change(id, |worker| {
            if !worker.present {
                worker.losses_at_join = losses;
            }
            worker.present = true;
            worker.heard_ms = time_ms;
        })
        .is_some()
    }

    /// The worker of that name.
    pub(super) fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(id, worker)| (*id, worker))
    }

    /// Changes a worker, and brings what is derived from it up to date.
    pub(super) fn change<T>(&mut self, id: WorkerId, change: impl FnOnce(&mut Worker) -> T) -> Option<T> {
        let worker = self.workers.get_mut(&id)?;
        let result = change(worker);
        let due_ms = worker.due_ms(self.lease_ms);
        if worker.deadline_ms != due_ms {
            if let Some(deadline_ms) = worker.deadline_ms {
                self.deadlines.remove(&(deadline_ms, id));
            }
            self.deadlines.extend(due_ms.map(|due_ms| (due_ms, id)));
            worker.deadline_ms = due_ms;
        }
        let (eligible, quarantined) = (worker.is_eligible(), worker.present && worker.quarantined);
        keep(&mut self.eligible, id, eligible);
        keep(&mut self.quarantined, id, quarantined);
        Some(result)
    }

    /// Forgets a worker. Returns it as it was.
    pub(super) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        let present = self.change(id, |worker| std::mem::replace(&mut worker.present, false))?;
        self.workers.remove(&id).map(|worker| Worker { present, ..worker })
    }

    /// The worker that is due first, and when.
    pub(super) fn next_due(&self) -> Option<(u64, WorkerId)> {
        self.deadlines.first().copied()
    }

    /// Whether the worker's silence would be noticed.
    pub(super) fn has_deadline(&self, id: WorkerId) -> bool {
        let deadline_ms = self.workers.get(&id).and_then(|worker| worker.deadline_ms);
        deadline_ms.is_some_and(|deadline_ms| self.deadlines.contains(&(deadline_ms, id)))
    }

    /// How many may be granted work.
    pub(super) fn eligible(&self) -> usize {
        self.eligible.len()
    }

    /// How many are there and get no more work.
    pub(super) fn quarantined(&self) -> usize {
        self.quarantined.len()
    }

    /// Whether any of those that may be granted work is not among `these` (which has no doubles).
    pub(super) fn has_other_than(&self, these: &BTreeSet<WorkerId>) -> bool {
        self.eligible.len() > these.iter().filter(|id| self.eligible.contains(id)).count()
    }
}

fn keep(set: &mut BTreeSet<WorkerId>, id: WorkerId, wanted: bool) {
    if wanted {
        set.insert(id);
    } else {
        set.remove(&id);
    }
}

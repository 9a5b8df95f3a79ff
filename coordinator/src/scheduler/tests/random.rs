//! The scheduler in a random world: a store that only knows create-if-absent, workers that die, stall and come back,
//! and a network that loses, doubles and reorders. Whatever happens, a healthy worker finishes the job, and the parts
//! in the store cover the plan exactly once.

use std::collections::{BTreeMap, BTreeSet};

use gristmill_job::{Digest, FORMAT, Pin, Plan, Segments, Shard};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::coverage::{self, Claimed};

/// The smallest store that there can be: who comes first, stays.
#[derive(Default)]
struct Store {
    parts: BTreeMap<Slot, Claimed>,
}

impl Store {
    /// Creates a part that holds the first `own` rows of a slot and leaves the rest to one child or none. Returns the
    /// children of the part that stands there now, and whether it is this one.
    fn create(&mut self, slot: &Slot, segments: &[Segment], own: u64) -> (Vec<(Slot, Vec<Segment>)>, bool) {
        let rest = segments.slice(own, segments.total_rows());
        let children = if rest.is_empty() { vec![] } else { vec![rest] };
        self.create_split(slot, segments, segments.slice(0, own), children)
    }

    fn create_split(
        &mut self,
        slot: &Slot,
        segments: &[Segment],
        covered: Vec<Segment>,
        children: Vec<Vec<Segment>>,
    ) -> (Vec<(Slot, Vec<Segment>)>, bool) {
        let ours = !self.parts.contains_key(slot);
        let children = (0..).zip(children).map(|(i, segments)| (slot.child(i), segments)).collect();
        let part = Claimed { slot: slot.clone(), segments: segments.to_vec(), covered, children };
        (self.parts.entry(slot.clone()).or_insert(part).children.clone(), ours)
    }

    fn look(&self, slot: &Slot) -> LookUp {
        let committed = |part: &Claimed| LookUp::Committed { children: part.children.clone() };
        self.parts.get(slot).map_or(LookUp::Absent, committed)
    }
}

fn plan_of(open: &[Open]) -> Plan {
    let pin = Pin {
        object: "file:///corpus/a.parquet".into(),
        version: "1".into(),
        size: 1,
        modified_us: 0,
        e_tag: None,
        footer: Digest::of(b""),
        rows: u64::MAX,
    };
    let shards = open.iter().map(|open| Shard { segments: open.segments.clone(), tokens: open.tokens }).collect();
    Plan { format: FORMAT, objects: vec![pin], shards }
}

/// A message from a worker, under way.
#[derive(Clone)]
enum Message {
    Renew(u64, Vec<Held>),
    Announce(u64, Held),
    Finish(u64, Slot, u64, Finish),
    Lost(u64, Lost),
}

/// A worker, as it is; the scheduler may think otherwise.
struct Worker {
    id: u64,
    held: Vec<Grant>,
}

struct World {
    scheduler: Scheduler,
    store: Store,
    plan: Plan,
    now_ms: u64,
    workers: Vec<Worker>,
    next_id: u64,
    mail: Vec<Message>,
    effects: Vec<Effect>,
    /// Slots that the scheduler was told are committed.
    told: BTreeSet<Slot>,
    /// Slots that were granted, and not been looked for in the store since.
    unlooked: BTreeSet<Slot>,
}

impl World {
    fn new(shards: u32) -> Self {
        let open: Vec<_> = (0..shards).map(open).collect();
        World {
            plan: plan_of(&open),
            scheduler: Scheduler::new(Limits::default(), open),
            store: Store::default(),
            now_ms: 0,
            workers: Vec::new(),
            next_id: 0,
            mail: Vec::new(),
            effects: Vec::new(),
            told: BTreeSet::new(),
            unlooked: BTreeSet::new(),
        }
    }

    fn step<T>(&mut self, act: impl FnOnce(&mut Scheduler, u64) -> T) -> T {
        let result = act(&mut self.scheduler, self.now_ms);
        self.effects.extend(self.scheduler.effects());
        self.scheduler.check().unwrap();
        let progress = self.scheduler.progress();
        assert_eq!(progress.rows_open + progress.rows_done, self.plan.rows());
        assert_eq!(progress.done, self.told.len(), "committed slots, each counted once");
        result
    }

    fn join(&mut self, tested: bool) -> usize {
        self.next_id += 1;
        let id = self.next_id;
        self.workers.push(Worker { id, held: Vec::new() });
        self.step(|s, now| s.join(w(id), now));
        if tested {
            self.step(|s, _| s.self_tested(w(id)));
        }
        self.workers.len() - 1
    }

    /// Claims, and holds what is granted to the laws: never what is done, never without a look, never before the
    /// parent stands in the store.
    fn claim(&mut self, at: usize, arrives: bool) -> Claim {
        let id = self.workers[at].id;
        let claim = self.step(|s, now| s.claim(w(id), now));
        if let Claim::Grant(grant) = &claim {
            assert!(!self.told.contains(&grant.slot), "{} was done", grant.slot);
            assert!(self.unlooked.insert(grant.slot.clone()), "{} was not looked up", grant.slot);
            if let Some(parent) = grant.slot.parent() {
                let named = (grant.slot.clone(), grant.segments.clone());
                assert!(self.store.parts[&parent].children.contains(&named), "{} is nobody's child", grant.slot);
            }
            if arrives {
                self.workers[at].held.push(grant.clone());
            }
        }
        claim
    }

    fn hold(&self, at: usize, in_hand: bool) -> Vec<Held> {
        let held = |grant: &Grant| Held {
            slot: grant.slot.clone(),
            attempt: grant.attempt,
            in_hand: if in_hand { grant.segments.slice(0, 7) } else { vec![] },
            rows_done: 1,
        };
        self.workers[at].held.iter().map(held).collect()
    }

    fn commit(&mut self, at: usize, grant: &Grant, own: u64) -> Message {
        let (children, ours) = self.store.create(&grant.slot, &grant.segments, own);
        let finish = Finish::Committed { children, ours };
        Message::Finish(self.workers[at].id, grant.slot.clone(), grant.attempt, finish)
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Renew(id, held) => {
                let unwanted = self.step(|s, now| s.renew(w(id), &held, now));
                assert!(unwanted.iter().all(|slot| self.told.contains(slot)), "dropped without a commit");
                let worker = self.workers.iter_mut().find(|worker| worker.id == id);
                worker.into_iter().for_each(|worker| worker.held.retain(|g| !unwanted.contains(&g.slot)));
            }
            Message::Announce(id, held) => {
                self.step(|s, now| s.announce(w(id), &held.slot, held.attempt, held.in_hand, now));
            }
            Message::Finish(id, slot, attempt, finish) => {
                if matches!(finish, Finish::Committed { .. }) {
                    self.told.insert(slot.clone());
                }
                self.step(|s, now| s.finish(w(id), &slot, attempt, finish, now));
            }
            Message::Lost(id, lost) => self.step(|s, now| s.lost(w(id), lost, now)),
        }
    }

    fn answer(&mut self, effect: &Effect) {
        let slot = match effect {
            Effect::LookUp { slot } => slot,
            Effect::Split { slot, children, .. } => {
                let segments: Vec<_> = children.concat();
                let merged = coverage_order(&segments);
                self.store.create_split(slot, &merged, vec![], children.clone());
                slot
            }
            Effect::Bury { slot, .. } => {
                let row = self.segments_of(slot);
                assert_eq!(row.total_rows(), 1, "only a single row is ever buried");
                self.store.create(slot, &row, 1);
                slot
            }
            Effect::Strike { .. } | Effect::Forgive { .. } => return,
        };
        let found = self.store.look(slot);
        match found {
            LookUp::Absent => self.unlooked.remove(slot),
            LookUp::Committed { .. } => self.told.insert(slot.clone()),
        };
        self.step(|s, now| s.looked_up(slot, found, now));
    }

    /// The rows of a slot, by the plan or by the part above.
    fn segments_of(&self, slot: &Slot) -> Vec<Segment> {
        match slot.parent() {
            None => self.plan.shards[slot.shard() as usize].segments.clone(),
            Some(parent) => {
                let children = &self.store.parts[&parent].children;
                children.iter().find(|(child, _)| child == slot).map(|(_, rows)| rows.clone()).unwrap()
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.step(|s, now| s.tick(now));
    }

    /// From here on one healthy worker works, nobody else is heard of, and every wish is fulfilled at once.
    fn finish_by_a_healthy_worker(&mut self) {
        self.mail.clear();
        let at = self.join(true);
        let mut steps = 0;
        while !self.scheduler.done() {
            steps += 1;
            let slots = self.store.parts.len() + self.plan.shards.len();
            assert!(steps < 100 + 20 * slots, "no end in sight: {:?}", self.scheduler);
            for effect in std::mem::take(&mut self.effects) {
                self.answer(&effect);
            }
            let renew = Message::Renew(self.workers[at].id, self.hold(at, true));
            self.deliver(renew);
            if let Claim::Grant(grant) = self.claim(at, true) {
                let done = self.commit(at, &grant, grant.segments.total_rows());
                self.workers[at].held.clear();
                self.deliver(done);
            }
            self.pass(1_000);
        }
        let id = self.workers[at].id;
        assert_eq!(self.step(|s, now| s.claim(w(id), now)), Claim::Finished);
        let covered = coverage::check(&self.plan, self.store.parts.values().cloned()).unwrap();
        assert_eq!(covered.slots, self.told.iter().cloned().collect::<Vec<_>>());
    }
}

/// The rows of a split slot from those of its children, which tile it in order.
fn coverage_order(segments: &[Segment]) -> Vec<Segment> {
    let mut merged: Vec<Segment> = Vec::new();
    for segment in segments {
        match merged.last_mut() {
            Some(last) if last.object == segment.object && last.end == segment.start => last.end = segment.end,
            _ => merged.push(*segment),
        }
    }
    merged
}

/// Something that may happen. Indices choose among what is there.
#[derive(Debug, Clone)]
enum Act {
    Join { tested: bool },
    Claim { at: Index, arrives: bool },
    Commit { at: Index, which: Index, prefix: Option<u8> },
    Fail { at: Index, which: Index, blame: u8, named: bool },
    GiveBack { at: Index, which: Index },
    Heartbeat { at: Index, in_hand: bool },
    Announce { at: Index, which: Index },
    Lose { at: Index, lost: Lost, forgotten: bool },
    Deliver { which: Index, again: bool },
    Drop { which: Index },
    Answer { which: Index, again: bool },
    Pass { ms: u64 },
    Pause { ms: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    let at = any::<Index>;
    let lost = prop_oneof![3 => Just(Lost::Died), 1 => Just(Lost::Vanished), 1 => Just(Lost::Left)];
    prop_oneof![
        2 => any::<bool>().prop_map(|tested| Act::Join { tested }),
        8 => (at(), prop::bool::weighted(0.9)).prop_map(|(at, arrives)| Act::Claim { at, arrives }),
        2 => (at(), at(), prop::option::of(any::<u8>())).prop_map(|(at, which, prefix)| Act::Commit { at, which, prefix }),
        3 => (at(), at(), 0u8..4, any::<bool>()).prop_map(|(at, which, blame, named)| Act::Fail { at, which, blame, named }),
        1 => (at(), at()).prop_map(|(at, which)| Act::GiveBack { at, which }),
        4 => (at(), any::<bool>()).prop_map(|(at, in_hand)| Act::Heartbeat { at, in_hand }),
        2 => (at(), at()).prop_map(|(at, which)| Act::Announce { at, which }),
        3 => (at(), lost, prop::bool::weighted(0.2)).prop_map(|(at, lost, forgotten)| Act::Lose { at, lost, forgotten }),
        10 => (at(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Act::Deliver { which, again }),
        1 => at().prop_map(|which| Act::Drop { which }),
        8 => (at(), prop::bool::weighted(0.2)).prop_map(|(which, again)| Act::Answer { which, again }),
        4 => (0u64..=10_000).prop_map(|ms| Act::Pass { ms }),
        1 => (10_001u64..4_000_000).prop_map(|ms| Act::Pause { ms }),
    ]
}

impl World {
    fn act(&mut self, act: &Act) {
        match act {
            Act::Join { tested } => drop(self.join(*tested)),
            Act::Pass { ms } | Act::Pause { ms } => self.pass(*ms),
            Act::Deliver { which, again } if !self.mail.is_empty() => {
                let index = which.index(self.mail.len());
                let message = if *again { self.mail[index].clone() } else { self.mail.swap_remove(index) };
                self.deliver(message);
            }
            Act::Drop { which } if !self.mail.is_empty() => {
                drop(self.mail.swap_remove(which.index(self.mail.len())));
            }
            Act::Answer { which, again } if !self.effects.is_empty() => {
                let index = which.index(self.effects.len());
                let effect = if *again { self.effects[index].clone() } else { self.effects.swap_remove(index) };
                self.answer(&effect);
            }
            Act::Claim { at, arrives } if !self.workers.is_empty() => {
                drop(self.claim(at.index(self.workers.len()), *arrives));
            }
            Act::Heartbeat { at, in_hand } if !self.workers.is_empty() => {
                let at = at.index(self.workers.len());
                self.mail.push(Message::Renew(self.workers[at].id, self.hold(at, *in_hand)));
            }
            Act::Lose { at, lost, forgotten } if !self.workers.is_empty() => {
                let at = at.index(self.workers.len());
                let id = self.workers[at].id;
                if *lost != Lost::Vanished {
                    self.workers.swap_remove(at);
                }
                if !forgotten {
                    self.mail.push(Message::Lost(id, *lost));
                }
            }
            Act::Commit { at, which, .. }
            | Act::Fail { at, which, .. }
            | Act::GiveBack { at, which }
            | Act::Announce { at, which } => self.act_on_held(act, *at, *which),
            _ => {}
        }
    }

    fn act_on_held(&mut self, act: &Act, at: Index, which: Index) {
        let Some(at) = (!self.workers.is_empty()).then(|| at.index(self.workers.len())) else { return };
        let held = self.workers[at].held.len();
        let Some(which) = (held > 0).then(|| which.index(held)) else { return };
        let id = self.workers[at].id;
        let mut grant = || self.workers[at].held.swap_remove(which);
        let message = match act {
            Act::Commit { prefix, .. } => {
                let grant = grant();
                let rows = grant.segments.total_rows();
                self.commit(at, &grant, prefix.map_or(rows, |prefix| u64::from(prefix) % rows))
            }
            Act::Fail { blame, named, .. } => {
                let grant = grant();
                let blame = [Blame::Input, Blame::Worker, Blame::Store, Blame::Unknown][usize::from(*blame)];
                let rows = grant.segments.total_rows();
                let in_hand = if *named { grant.segments.slice(rows / 3, rows / 2 + 1) } else { vec![] };
                Message::Finish(id, grant.slot, grant.attempt, failure(blame, in_hand))
            }
            Act::Announce { .. } => Message::Announce(id, self.hold(at, true).swap_remove(which)),
            _ => {
                let grant = grant();
                Message::Finish(id, grant.slot, grant.attempt, Finish::Returned)
            }
        };
        self.mail.push(message);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_healthy_worker_finishes_the_job(
        shards in 1u32..6,
        acts in prop::collection::vec(act(), 0..250),
    ) {
        let mut world = World::new(shards);
        acts.iter().for_each(|act| world.act(act));
        world.finish_by_a_healthy_worker();
    }
}

/// A machine with some devices, rows that kill, and workers that are started again when they die.
struct Machine {
    world: World,
    poison: BTreeSet<u64>,
    batch_rows: u64,
    deaths: usize,
    buried: BTreeSet<u64>,
}

impl Machine {
    fn answer_all(&mut self) {
        while !self.world.effects.is_empty() {
            for effect in std::mem::take(&mut self.world.effects) {
                if let Effect::Bury { slot, .. } = &effect {
                    self.buried.insert(self.world.segments_of(slot)[0].start);
                }
                self.world.answer(&effect);
            }
        }
    }

    /// The worker fills its hands, and works on what it got first. A batch with poison in it ends it, after its rows
    /// were announced if caution was asked for; else the last heartbeat told of more rows than that, or of nothing.
    fn work(&mut self, at: usize, vague: bool) {
        while matches!(self.world.claim(at, true), Claim::Grant(_)) {}
        let renew = Message::Renew(self.world.workers[at].id, self.world.hold(at, false));
        self.world.deliver(renew);
        if self.world.workers[at].held.is_empty() {
            return;
        }
        let grant = self.world.workers[at].held.remove(0);
        let (first, rows) = (grant.segments[0].start, grant.segments.total_rows());
        let Some(row) = self.poison.range(first..first + rows).next() else {
            let done = self.world.commit(at, &grant, rows);
            return self.world.deliver(done);
        };
        let batch_rows = if grant.caution >= Caution::RowByRow { 1 } else { self.batch_rows };
        let from = (row - first) / batch_rows * batch_rows;
        let in_hand = match grant.caution {
            Caution::None if vague => vec![],
            Caution::None => grant.segments.slice(from, rows),
            _ => grant.segments.slice(from, from + batch_rows),
        };
        if grant.caution == Caution::Solo {
            assert!(self.world.workers[at].held.is_empty(), "{} is not alone", grant.slot);
        }
        let id = self.world.workers[at].id;
        let held = Held { slot: grant.slot, attempt: grant.attempt, in_hand, rows_done: 0 };
        self.world.deliver(Message::Announce(id, held));
        self.world.deliver(Message::Lost(id, Lost::Died));
        self.world.workers.swap_remove(at);
        self.deaths += 1;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn poison_is_buried_alone_and_everything_else_is_embedded(
        shards in 1u32..5,
        devices in 1usize..5,
        poison in prop::collection::btree_set(0u64..500, 1..4),
        batch_rows in 1u64..40,
        turns in prop::collection::vec((any::<Index>(), any::<bool>(), 0u64..3_000), 4_000),
    ) {
        let poison: BTreeSet<_> = poison.into_iter().map(|row| row % (u64::from(shards) * ROWS)).collect();
        let world = World::new(shards);
        let mut machine = Machine { world, poison, batch_rows, deaths: 0, buried: BTreeSet::new() };
        for (at, vague, ms) in turns {
            if machine.world.scheduler.done() {
                break;
            }
            if machine.world.workers.len() < devices {
                machine.world.join(true);
            }
            machine.work(at.index(machine.world.workers.len()), vague);
            machine.answer_all();
            for at in 0..machine.world.workers.len() {
                let renew = Message::Renew(machine.world.workers[at].id, machine.world.hold(at, false));
                machine.world.deliver(renew);
            }
            machine.world.pass(ms);
        }
        prop_assert!(machine.world.scheduler.done());
        prop_assert_eq!(&machine.buried, &machine.poison);
        // Three to convict, one row by row, two in solo; each of the three shards may be excused three times when
        // others die of other rows meanwhile.
        let poisons = machine.poison.len();
        let bound = if poisons == 1 { 6 } else { poisons * (6 + 3 * 3) };
        prop_assert!(machine.deaths <= bound, "{} deaths for {} rows", machine.deaths, poisons);
        let covered = coverage::check(&machine.world.plan, machine.world.store.parts.values().cloned()).unwrap();
        prop_assert_eq!(covered.rows, u64::from(shards) * ROWS);
    }
}

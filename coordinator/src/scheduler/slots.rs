//! The slots that are not committed, each in exactly one state, and the queue of those that wait.

use std::collections::{BTreeMap, BTreeSet};

use gristmill_job::{Segment, Segments, Slot};

use super::poison::Piece;
use super::{Caution, Open, WorkerId};

/// Where a slot stands. A committed one is no longer here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Waits for a worker, at this place in the queue.
    Pending { rank: i64 },
    /// At least one lease is running.
    Leased,
    /// No lease is running, and the store is being asked whether the slot is committed.
    Looking,
    /// The driver is committing a part that names these children.
    Splitting { asked: Vec<Piece> },
    /// The driver is committing the dead letter.
    Burying,
}

/// Something that the rows of a slot are blamed for.
#[derive(Debug, Clone)]
pub(super) struct Strike {
    /// None for a strike from before this scheduler.
    pub(super) worker: Option<WorkerId>,
    pub(super) attempt: u64,
    pub(super) named: Vec<Segment>,
}

/// A slot that is not committed.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) segments: Vec<Segment>,
    pub(super) rows: u64,
    pub(super) tokens: u64,
    pub(super) state: State,
    /// Those whose lease is running.
    pub(super) holders: BTreeSet<WorkerId>,
    pub(super) strikes: Vec<Strike>,
    /// Whether a split singled these rows out: what happens now is more likely their doing than not.
    pub(super) isolated: bool,
    pub(super) excused: u32,
    /// Those that failed it, who get it again only when nobody else comes for it in time.
    pub(super) shunned: BTreeSet<WorkerId>,
    pub(super) shunned_until_ms: u64,
}

impl Entry {
    fn new(segments: Vec<Segment>, tokens: u64, isolated: bool) -> Self {
        Entry {
            rows: segments.total_rows(),
            segments,
            tokens,
            state: State::Looking,
            holders: BTreeSet::new(),
            strikes: Vec::new(),
            isolated,
            excused: 0,
            shunned: BTreeSet::new(),
            shunned_until_ms: 0,
        }
    }

    pub(super) fn caution(&self) -> Caution {
        match (self.isolated, self.rows, self.strikes.len()) {
            (true, 0..=1, _) => Caution::Solo,
            (true, ..) => Caution::RowByRow,
            (false, _, 0) => Caution::None,
            (false, ..) => Caution::Announce,
        }
    }

    pub(super) fn strikers(&self) -> BTreeSet<WorkerId> {
        self.strikes.iter().filter_map(|strike| strike.worker).collect()
    }
}

/// How many slots are in each state but pending.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) leased: usize,
    pub(super) looking: usize,
    pub(super) acting: usize,
}

impl Tally {
    pub(super) fn of(&mut self, state: &State) -> Option<&mut usize> {
        match state {
            State::Pending { .. } => None,
            State::Leased => Some(&mut self.leased),
            State::Looking => Some(&mut self.looking),
            State::Splitting { .. } | State::Burying => Some(&mut self.acting),
        }
    }
}

/// All slots that are not committed.
#[derive(Debug, Default)]
pub(super) struct Slots {
    entries: BTreeMap<Slot, Entry>,
    pending: BTreeMap<i64, Slot>,
    /// Ranks in `front..back` may be taken.
    front: i64,
    back: i64,
    tally: Tally,
    pub(super) done: usize,
    pub(super) rows_open: u64,
    pub(super) rows_done: u64,
    pub(super) rows_total: u64,
}

impl Slots {
    /// Takes in a slot at the start, behind all others.
    pub(super) fn open(&mut self, open: Open) {
        // A single row that a split made is nearly always one that was singled out, whoever made the split; what died
        // before the restart did not surely die alone, so its strikes begin anew.
        let isolated = open.slot.depth() > 0 && open.segments.total_rows() <= 1;
        let mut entry = Entry::new(open.segments, open.tokens, isolated);
        if !isolated {
            let strike = Strike { worker: None, attempt: 0, named: Vec::new() };
            entry.strikes = vec![strike; open.strikes];
            if let Some(last) = entry.strikes.last_mut() {
                last.named = open.named;
            }
        }
        let rows = entry.rows;
        if self.insert(open.slot, entry) {
            self.rows_total += rows;
        }
    }

    /// Puts a slot at the end of the queue.
    pub(super) fn queue_last(&mut self, slot: &Slot) {
        let rank = self.back;
        self.back += 1;
        self.set(slot, State::Pending { rank });
    }

    /// Puts a slot at the front of the queue.
    pub(super) fn queue_first(&mut self, slot: &Slot) {
        self.front -= 1;
        self.set(slot, State::Pending { rank: self.front });
    }

    /// Moves a slot to another state.
    pub(super) fn set(&mut self, slot: &Slot, state: State) {
        let Some(entry) = self.entries.get_mut(slot) else { return };
        let rank = if let State::Pending { rank } = state { Some(rank) } else { None };
        let before = std::mem::replace(&mut entry.state, state);
        if let Some(count) = self.tally.of(&entry.state) {
            *count += 1;
        }
        self.leave(&before);
        self.pending.extend(rank.map(|rank| (rank, slot.clone())));
    }

    /// Takes a committed slot away and opens the children that its part names, at the front and in order. Returns it,
    /// or none when it is not open: a late or doubled message.
    pub(super) fn commit(&mut self, slot: &Slot, children: Vec<(Slot, Vec<Segment>)>) -> Option<Entry> {
        let entry = self.entries.remove(slot)?;
        self.leave(&entry.state);
        self.done += 1;
        self.rows_open -= entry.rows;
        self.rows_done += entry.rows;
        for (child, segments) in children.into_iter().rev() {
            self.open_child(&entry, child, segments);
        }
        Some(entry)
    }

    fn open_child(&mut self, parent: &Entry, slot: Slot, segments: Vec<Segment>) {
        let isolated = match &parent.state {
            State::Splitting { asked } => asked.iter().any(|piece| piece.isolated && piece.segments == segments),
            _ => false,
        };
        let rows = segments.total_rows();
        let tokens = u128::from(parent.tokens) * u128::from(rows) / u128::from(parent.rows.max(1));
        let entry = Entry::new(segments, u64::try_from(tokens).unwrap_or(u64::MAX), isolated);
        if self.insert(slot.clone(), entry) {
            debug_assert!(rows <= self.rows_done, "the children of {slot}'s parent hold more rows than it");
            self.rows_done = self.rows_done.saturating_sub(rows);
            self.queue_first(&slot);
        }
    }

    pub(super) fn get(&self, slot: &Slot) -> Option<&Entry> {
        self.entries.get(slot)
    }

    /// For everything but the state.
    pub(super) fn get_mut(&mut self, slot: &Slot) -> Option<&mut Entry> {
        self.entries.get_mut(slot)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&Slot, &Entry)> {
        self.entries.iter()
    }

    /// The slots that wait, first come first.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Slot> {
        self.pending.values()
    }

    pub(super) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn insert(&mut self, slot: Slot, entry: Entry) -> bool {
        if self.entries.contains_key(&slot) {
            return false;
        }
        self.rows_open += entry.rows;
        if let Some(count) = self.tally.of(&entry.state) {
            *count += 1;
        }
        self.entries.insert(slot, entry);
        true
    }

    fn leave(&mut self, state: &State) {
        if let State::Pending { rank } = state {
            self.pending.remove(rank);
        }
        if let Some(count) = self.tally.of(state) {
            *count -= 1;
        }
    }
}

//! What strikes lead to: another try, a split that isolates the rows named in hand, or the burial of a row that ended
//! a process of its own twice.

use std::ops::Range;

use gristmill_job::{Segment, Segments};

use super::Limits;
use super::slots::Entry;

/// A child to be: some rows of a slot, and whether they are singled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) segments: Vec<Segment>,
    pub(super) isolated: bool,
}

/// What becomes of a slot that is known not to be committed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is tried again.
    Retry,
    /// It is tried again as if a split had singled it out: all of it was named in hand.
    Isolate,
    /// It is split.
    Split(Vec<Piece>),
    /// Its one row is dead.
    Bury,
}

/// Judges a slot by its strikes. `others` tells whether there is a worker that has not struck it.
pub(super) fn verdict(entry: &Entry, limits: &Limits, others: bool) -> Verdict {
    let strikes = entry.strikes.len();
    if entry.rows <= 1 {
        return match entry.isolated {
            true if strikes >= limits.solo_deaths => Verdict::Bury,
            false if is_convicted(entry, limits, others) => Verdict::Isolate,
            _ => Verdict::Retry,
        };
    }
    let convicted = if entry.isolated { strikes >= 1 } else { is_convicted(entry, limits, others) };
    if !convicted {
        return Verdict::Retry;
    }
    match isolating(entry) {
        Some(pieces) if pieces.len() > 1 => Verdict::Split(pieces),
        Some(_) if !entry.isolated => Verdict::Isolate,
        _ => Verdict::Split(halves(entry)),
    }
}

/// Enough strikes, on two workers where there are two; but not for ever, when the second never comes.
fn is_convicted(entry: &Entry, limits: &Limits, others: bool) -> bool {
    let before_restart = entry.strikes.iter().filter(|strike| strike.worker.is_none()).count();
    let strikers = entry.strikers().len() + before_restart;
    let strikes = entry.strikes.len();
    strikes >= limits.strikes_max && (strikers > 1 || !others || strikes >= 2 * limits.strikes_max)
}

/// The slot's rows in order, the named ranges singled out; none when nothing of the slot was named. Of several strikes
/// the one that named the fewest rows tells most, and of equals the last.
fn isolating(entry: &Entry) -> Option<Vec<Piece>> {
    let named = entry.strikes.iter().rev().map(|strike| positions(&entry.segments, &strike.named));
    let named = named.filter(|ranges| !ranges.is_empty());
    let named = named.min_by_key(|ranges| ranges.iter().map(|range| range.end - range.start).sum::<u64>())?;
    let mut pieces = Vec::new();
    let mut cut = |from, to, isolated| {
        if from < to {
            pieces.push(Piece { segments: entry.segments.slice(from, to), isolated });
        }
    };
    let mut from = 0;
    for range in named {
        cut(from, range.start, false);
        cut(range.start, range.end, true);
        from = range.end;
    }
    cut(from, entry.rows, false);
    Some(pieces)
}

fn halves(entry: &Entry) -> Vec<Piece> {
    let middle = entry.rows / 2;
    let half = |from, to| Piece { segments: entry.segments.slice(from, to), isolated: entry.isolated };
    vec![half(0, middle), half(middle, entry.rows)]
}

/// Where along `segments` the rows of `named` lie: in order, merged. Rows that lie nowhere are left out.
fn positions(segments: &[Segment], named: &[Segment]) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut passed = 0;
    for segment in segments {
        for name in named.iter().filter(|name| name.object == segment.object) {
            let (start, end) = (name.start.max(segment.start), name.end.min(segment.end));
            if start < end {
                found.push(passed + start - segment.start..passed + end - segment.start);
            }
        }
        passed += segment.rows();
    }
    found.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in found {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Whether any of the rows that `named` spans is among `segments`.
pub(super) fn names_any(segments: &[Segment], named: &[Segment]) -> bool {
    !positions(segments, named).is_empty()
}

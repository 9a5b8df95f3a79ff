//! The planner's arithmetic: from the row groups of the selected objects to shards of even size. Pure: the same row
//! groups give the same shards, on any machine.
//!
//! Each row weighs the larger of its share of the token target and its share of the byte target, so a shard whose
//! rows weigh one target stays within both. The whole selection weighs `w` targets; it is cut at the multiples of
//! `w / ceil(w)`, each moved to the nearest border between rows. So all shards are of one size rather than all but a
//! sliver full, and a shard of more than one row weighs at most twice the target: the two rows that its borders were
//! moved over cannot reach further than the distance between two cuts.

use gristmill_job::{Segment, Shard};

/// What a Parquet footer tells about a row group. Its rows are taken to be alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowGroup {
    /// Index into the plan's objects. Row groups of one object stand together, in row order, from its first row on.
    pub object: u32,
    /// Rows.
    pub rows: u64,
    /// Tokens, estimated.
    pub tokens: u64,
    /// Bytes of output, estimated: vectors and carried columns.
    pub bytes: u64,
}

/// What a shard should hold at most: the smaller bound holds. Zero is taken as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Tokens.
    pub tokens: u64,
    /// Bytes of output.
    pub bytes: u64,
}

/// The weight of one target. Fine enough that rounding a row group's weight down to a whole number changes no shard.
const FULL: u128 = 1 << 32;

/// Cuts the first `limit` rows (all when none) into shards: in plan order, each row once, no shard without rows.
/// Fewer than 2^32 shards of fewer than 2^40 rows must come of it.
pub fn cut(groups: &[RowGroup], limit: Option<u64>, target: Target) -> Vec<Shard> {
    let runs = runs(groups, limit, target);
    let total: u128 = runs.iter().map(|run| run.weight).sum();
    let shards = total.div_ceil(FULL);
    let mut open = Open::default();
    let mut done = Vec::new();
    let (mut before, mut next) = (0, 1);
    for run in &runs {
        // Everything is multiplied by the number of shards, so that each cut `next * total / shards` is exact.
        let (from, to) = (before * shards, (before + run.weight) * shards);
        let mut row = 0;
        while next < shards && next * total < to {
            let border = run.nearest_row(next * total - from, shards);
            open.take(run, row, border);
            open.close_into(&mut done);
            (row, next) = (border, next + 1);
        }
        open.take(run, row, run.group.rows);
        before += run.weight;
    }
    open.close_into(&mut done);
    done
}

/// A row group, or what the limit leaves of it, and where it lies.
struct Run {
    group: RowGroup,
    start: u64,
    weight: u128,
}

fn runs(groups: &[RowGroup], limit: Option<u64>, target: Target) -> Vec<Run> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut start = 0;
    let mut runs: Vec<Run> = Vec::new();
    let mut object = None;
    for group in groups {
        if object != Some(group.object) {
            (object, start) = (Some(group.object), 0);
        }
        let selected = head(*group, group.rows.min(left));
        left -= selected.rows;
        if selected.rows > 0 {
            runs.push(Run { group: selected, start, weight: weight(&selected, target) });
        }
        start += group.rows;
    }
    runs
}

fn head(group: RowGroup, rows: u64) -> RowGroup {
    if rows == group.rows {
        return group;
    }
    RowGroup {
        rows,
        tokens: share(group.tokens, rows, group.rows),
        bytes: share(group.bytes, rows, group.rows),
        ..group
    }
}

/// A row is never free: one without text still costs a token's work to read and to write down.
fn weight(group: &RowGroup, target: Target) -> u128 {
    let of = |amount: u64, target: u64| u128::from(amount) * FULL / u128::from(target.max(1));
    of(group.tokens.max(group.rows), target.tokens).max(of(group.bytes, target.bytes)).max(1)
}

/// `amount * part / whole`, rounded down: telescopes, so that shares of adjoining ranges add up exactly.
fn share(amount: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(amount) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(share).expect("a part is not more than the whole")
}

impl Run {
    /// The border between rows nearest to `offset / shards` into this run's weight.
    fn nearest_row(&self, offset: u128, shards: u128) -> u64 {
        let (rows, length) = (u128::from(self.group.rows), self.weight * shards);
        let row = (offset * rows + length / 2) / length;
        u64::try_from(row.min(rows)).expect("not more than the group's rows")
    }
}

#[derive(Default)]
struct Open {
    segments: Vec<Segment>,
    tokens: u64,
}

impl Open {
    fn take(&mut self, run: &Run, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let group = &run.group;
        self.tokens += share(group.tokens, to, group.rows) - share(group.tokens, from, group.rows);
        let segment = Segment { object: group.object, start: run.start + from, end: run.start + to };
        match self.segments.last_mut() {
            Some(last) if last.object == segment.object && last.end == segment.start => last.end = segment.end,
            _ => self.segments.push(segment),
        }
    }

    fn close_into(&mut self, done: &mut Vec<Shard>) {
        let Open { segments, tokens } = std::mem::take(self);
        if !segments.is_empty() {
            done.push(Shard { segments, tokens });
        }
    }
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;

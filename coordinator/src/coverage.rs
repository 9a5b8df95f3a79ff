//! Whether the committed parts hold each row of the plan exactly once: the check behind seal, verify and recovery.
//! Pure: it looks at what the footers claim, not at the parts.
//!
//! Each shard of the plan is followed from its root. A committed slot's own rows and its children's rows must be
//! together the slot's rows, none missing, none twice, none foreign; so a part that holds all its rows has no
//! children, and below it nothing may be committed.

use std::collections::{BTreeMap, BTreeSet};

use gristmill_job::{Plan, Segment, Segments, Slot};

/// What a part's footer claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The slot that it was committed to.
    pub slot: Slot,
    /// All rows of the slot.
    pub segments: Vec<Segment>,
    /// Those of them that it holds, by a vector or a dead letter.
    pub covered: Vec<Segment>,
    /// The child shards that it names for the rest, and their rows.
    pub children: Vec<(Slot, Vec<Segment>)>,
}

/// Something that keeps a job from being sealed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Gap {
    /// Nothing is committed there: the slot is open. In a job that is under way this is no damage.
    #[error("slot {slot} is not committed; it lacks {} rows", segments.total_rows())]
    Missing {
        /// The slot.
        slot: Slot,
        /// Its rows.
        segments: Vec<Segment>,
    },
    /// A part stands at a slot that neither the plan nor a committed part names.
    #[error("slot {slot} is committed, but neither the plan nor a committed part names it")]
    Unexpected {
        /// The slot.
        slot: Slot,
    },
    /// A part stands below a slot whose part holds all rows itself: parent whole, or children open, never both.
    #[error("slot {slot} is committed, but {whole} holds all its rows itself")]
    BelowWhole {
        /// The slot.
        slot: Slot,
        /// The whole slot above it.
        whole: Slot,
    },
    /// Two parts claim the slot.
    #[error("slot {slot} is claimed by two parts")]
    Doubled {
        /// The slot.
        slot: Slot,
    },
    /// The part takes its slot for other rows, or the same in another order, than the plan or the slot's parent does.
    #[error("the part of slot {slot} takes the slot for other rows than the plan or the part above")]
    OtherRows {
        /// The slot.
        slot: Slot,
        /// Its rows, as the plan or the parent has them.
        segments: Vec<Segment>,
        /// As the part has them.
        claimed: Vec<Segment>,
    },
    /// Rows of the slot that neither its part nor a child has.
    #[error("the part of slot {slot} and its children lack {} rows of the slot", segments.total_rows())]
    Lacking {
        /// The slot.
        slot: Slot,
        /// The rows.
        segments: Vec<Segment>,
    },
    /// Rows that the slot's part and children have more than once.
    #[error("the part of slot {slot} and its children have {} rows twice", segments.total_rows())]
    Twice {
        /// The slot.
        slot: Slot,
        /// The rows.
        segments: Vec<Segment>,
    },
    /// Rows that the slot's part or a child has, and that are not the slot's.
    #[error("the part of slot {slot} or a child has {} rows that are not the slot's", segments.total_rows())]
    Foreign {
        /// The slot.
        slot: Slot,
        /// The rows.
        segments: Vec<Segment>,
    },
    /// The part names as its next child something else than the slot's child of that number.
    #[error("the part of slot {slot} names {named} where its child {expected} belongs")]
    ChildName {
        /// The slot.
        slot: Slot,
        /// What it names.
        named: Slot,
        /// What belongs there.
        expected: Slot,
    },
    /// A child without rows.
    #[error("the part of slot {slot} names child {child} without rows")]
    EmptyChild {
        /// The slot.
        slot: Slot,
        /// The child.
        child: Slot,
    },
    /// The plan gives rows to this slot that it has given before, or that no object has.
    #[error("the plan gives slot {slot} {} rows that are another's or that no object has", segments.total_rows())]
    BadPlan {
        /// The slot.
        slot: Slot,
        /// The rows.
        segments: Vec<Segment>,
    },
}

impl Gap {
    /// The slot that it is about.
    pub fn slot(&self) -> &Slot {
        match self {
            Gap::Missing { slot, .. }
            | Gap::Unexpected { slot }
            | Gap::BelowWhole { slot, .. }
            | Gap::Doubled { slot }
            | Gap::OtherRows { slot, .. }
            | Gap::Lacking { slot, .. }
            | Gap::Twice { slot, .. }
            | Gap::Foreign { slot, .. }
            | Gap::ChildName { slot, .. }
            | Gap::EmptyChild { slot, .. }
            | Gap::BadPlan { slot, .. } => slot,
        }
    }

    /// Whether it is only work that is not done yet.
    pub fn is_open(&self) -> bool {
        matches!(self, Gap::Missing { .. })
    }
}

/// The proof that each row of the plan stands in exactly one part.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Covered {
    /// The committed slots: shards in plan order, each followed by its children.
    pub slots: Vec<Slot>,
    /// Rows in all parts.
    pub rows: u64,
}

/// Checks that `parts` hold each row of the plan exactly once, or names all that is wrong, in order of slots.
pub fn check(plan: &Plan, parts: impl IntoIterator<Item = Claimed>) -> Result<Covered, Vec<Gap>> {
    let mut walk = Walk::default();
    for part in parts {
        let slot = part.slot.clone();
        if walk.left.insert(slot.clone(), part).is_some() {
            walk.gaps.push(Gap::Doubled { slot });
        }
    }
    check_plan(plan, &mut walk.gaps);
    for (index, shard) in (0..).zip(&plan.shards) {
        walk.shard(Slot::root(index), &shard.segments);
    }
    walk.strays();
    walk.gaps.sort();
    walk.gaps.dedup();
    if walk.gaps.is_empty() { Ok(walk.covered) } else { Err(walk.gaps) }
}

/// Checks one part against the rows of its slot: what must hold before its children are opened.
pub fn check_part(slot_segments: &[Segment], part: &Claimed) -> Vec<Gap> {
    let slot = &part.slot;
    let mut gaps = Vec::new();
    if part.segments != slot_segments {
        let (segments, claimed) = (slot_segments.to_vec(), part.segments.clone());
        gaps.push(Gap::OtherRows { slot: slot.clone(), segments, claimed });
    }
    for (index, (child, segments)) in (0..).zip(&part.children) {
        let expected = slot.child(index);
        if *child != expected {
            gaps.push(Gap::ChildName { slot: slot.clone(), named: child.clone(), expected });
        }
        if segments.total_rows() == 0 {
            gaps.push(Gap::EmptyChild { slot: slot.clone(), child: child.clone() });
        }
    }
    let children = part.children.iter().flat_map(|(_, segments)| segments);
    let (held, twice) = union(part.covered.iter().chain(children));
    let (wanted, _) = union(slot_segments);
    let lacking = minus(&wanted, &held);
    let foreign = minus(&held, &wanted);
    if !lacking.is_empty() {
        gaps.push(Gap::Lacking { slot: slot.clone(), segments: lacking });
    }
    if !twice.is_empty() {
        gaps.push(Gap::Twice { slot: slot.clone(), segments: twice });
    }
    if !foreign.is_empty() {
        gaps.push(Gap::Foreign { slot: slot.clone(), segments: foreign });
    }
    gaps
}

#[derive(Default)]
struct Walk {
    /// Parts not yet met on the way down from a shard of the plan.
    left: BTreeMap<Slot, Claimed>,
    covered: Covered,
    gaps: Vec<Gap>,
    /// Slots whose parts hold all rows: below them nothing may stand.
    whole: BTreeSet<Slot>,
}

impl Walk {
    /// Follows a shard to its last descendant. A stack of its own: splits may be nested deeply.
    fn shard(&mut self, root: Slot, segments: &[Segment]) {
        let mut stack = vec![(root, segments.to_vec())];
        while let Some((slot, segments)) = stack.pop() {
            let Some(part) = self.left.remove(&slot) else {
                self.gaps.push(Gap::Missing { slot, segments });
                continue;
            };
            self.gaps.extend(check_part(&segments, &part));
            self.covered.rows += part.covered.total_rows();
            self.covered.slots.push(slot.clone());
            if minus(&union(&segments).0, &union(&part.covered).0).is_empty() {
                let below = part.children.into_iter();
                self.gaps.extend(below.map(|(child, _)| Gap::BelowWhole { slot: child, whole: slot.clone() }));
                self.whole.insert(slot);
                continue;
            }
            // Only true children go down with their rows; a misnamed one has been reported, and may be met elsewhere.
            let children = part.children.into_iter().filter(|(child, _)| child.parent().as_ref() == Some(&slot));
            stack.extend(children.rev());
        }
    }

    /// What no shard of the plan leads to.
    fn strays(&mut self) {
        for slot in std::mem::take(&mut self.left).into_keys() {
            let mut above = std::iter::successors(slot.parent(), Slot::parent);
            let whole = above.find(|slot| self.whole.contains(slot));
            self.gaps.push(match whole {
                Some(whole) => Gap::BelowWhole { slot, whole },
                None => Gap::Unexpected { slot },
            });
        }
    }
}

/// The plan itself must give each row to one shard, and only rows that there are.
fn check_plan(plan: &Plan, gaps: &mut Vec<Gap>) {
    let mut all: Vec<(Segment, u32)> = Vec::new();
    for (index, shard) in (0..).zip(&plan.shards) {
        all.extend(shard.segments.iter().filter(|s| s.rows() > 0).map(|segment| (*segment, index)));
    }
    all.sort();
    let mut reached = (u32::MAX, 0);
    for (segment, index) in all {
        if reached.0 != segment.object {
            reached = (segment.object, 0);
        }
        let rows = plan.objects.get(segment.object as usize).map_or(0, |pin| pin.rows);
        let taken = Segment { end: segment.end.min(reached.1), ..segment };
        let beyond = Segment { start: segment.start.max(rows), ..segment };
        let bad: Vec<_> = [taken, beyond].into_iter().filter(|s| s.rows() > 0).collect();
        if !bad.is_empty() {
            gaps.push(Gap::BadPlan { slot: Slot::root(index), segments: bad });
        }
        reached.1 = reached.1.max(segment.end);
    }
}

/// The rows of all segments, sorted and merged, and those among them that stand more than once.
fn union<'a>(segments: impl IntoIterator<Item = &'a Segment>) -> (Vec<Segment>, Vec<Segment>) {
    let mut sorted: Vec<Segment> = segments.into_iter().filter(|s| s.rows() > 0).copied().collect();
    sorted.sort();
    let (mut merged, mut twice) = (Vec::new(), Vec::new());
    for segment in sorted {
        let reached = merged.last().filter(|s: &&Segment| s.object == segment.object).map_or(0, |s| s.end);
        push_merged(&mut twice, Segment { end: segment.end.min(reached), ..segment });
        push_merged(&mut merged, segment);
    }
    (merged, twice)
}

/// Appends a segment that begins no earlier than the last one.
fn push_merged(segments: &mut Vec<Segment>, segment: Segment) {
    match segments.last_mut() {
        _ if segment.rows() == 0 => {}
        Some(last) if last.object == segment.object && segment.start <= last.end => {
            last.end = last.end.max(segment.end)
        }
        _ => segments.push(segment),
    }
}

/// The rows of `a` that are not in `b`; both sorted and merged.
fn minus(a: &[Segment], b: &[Segment]) -> Vec<Segment> {
    let mut left = Vec::new();
    let mut b = b.iter().peekable();
    for segment in a {
        let mut from = segment.start;
        while b.next_if(|other| (other.object, other.end) <= (segment.object, segment.start)).is_some() {}
        while let Some(other) = b.peek().filter(|other| other.object == segment.object && other.start < segment.end) {
            push_merged(&mut left, Segment { start: from, end: other.start.max(from), ..*segment });
            from = from.max(other.end);
            if other.end > segment.end {
                break;
            }
            b.next();
        }
        push_merged(&mut left, Segment { start: from, ..*segment });
    }
    left
}

#[cfg(test)]
#[path = "coverage_tests.rs"]
mod tests;

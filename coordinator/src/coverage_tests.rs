#![allow(clippy::unwrap_used)]

use gristmill_job::{Digest, FORMAT, Pin, Shard};
use proptest::prelude::*;

use super::*;

fn pin(rows: u64) -> Pin {
    Pin {
        object: "file:///corpus/a.parquet".into(),
        version: "1".into(),
        size: 1,
        modified_us: 0,
        e_tag: None,
        footer: Digest::of(b""),
        rows,
    }
}

fn seg(object: u32, start: u64, end: u64) -> Segment {
    Segment { object, start, end }
}

fn plan(rows: &[u64], shards: &[&[Segment]]) -> Plan {
    Plan {
        format: FORMAT,
        objects: rows.iter().map(|rows| pin(*rows)).collect(),
        shards: shards.iter().map(|segments| Shard { segments: segments.to_vec(), tokens: 1 }).collect(),
    }
}

/// Two shards over two objects of 100 rows: the first reaches across.
fn small() -> Plan {
    plan(&[100, 100], &[&[seg(0, 0, 100), seg(1, 0, 20)], &[seg(1, 20, 100)]])
}

fn whole(plan: &Plan, index: u32) -> Claimed {
    let segments = plan.shards[index as usize].segments.clone();
    Claimed { slot: Slot::root(index), covered: segments.clone(), segments, children: vec![] }
}

/// The first shard split in three: its part holds rows 0..30, a child 30..100 whole, a child the rest.
fn split(plan: &Plan) -> Vec<Claimed> {
    let slot = Slot::root(0);
    let (first, second) = (vec![seg(0, 30, 100)], vec![seg(1, 0, 20)]);
    let child = |i, rows: &Vec<Segment>| Claimed {
        slot: Slot::root(0).child(i),
        segments: rows.clone(),
        covered: rows.clone(),
        children: vec![],
    };
    let parent = Claimed {
        slot: slot.clone(),
        segments: plan.shards[0].segments.clone(),
        covered: vec![seg(0, 0, 30)],
        children: vec![(slot.child(0), first.clone()), (slot.child(1), second.clone())],
    };
    vec![parent, child(0, &first), child(1, &second), whole(plan, 1)]
}

#[test]
fn wholes_and_splits_cover_and_are_listed_in_plan_order() {
    let plan = small();
    let covered = check(&plan, [whole(&plan, 1), whole(&plan, 0)]).unwrap();
    assert_eq!(covered, Covered { slots: vec![Slot::root(0), Slot::root(1)], rows: 200 });
    let covered = check(&plan, split(&plan).into_iter().rev()).unwrap();
    let slots = vec![Slot::root(0), Slot::root(0).child(0), Slot::root(0).child(1), Slot::root(1)];
    assert_eq!(covered, Covered { slots, rows: 200 });
}

#[test]
fn what_is_not_committed_is_named_with_its_rows() {
    let plan = small();
    let open = check(&plan, []).unwrap_err();
    let missing = |slot: Slot, segments: &[Segment]| Gap::Missing { slot, segments: segments.to_vec() };
    let wanted = [0, 1].map(|i| missing(Slot::root(i), &plan.shards[i as usize].segments));
    assert_eq!(open, wanted);
    let mut parts = split(&plan);
    parts.remove(2);
    assert_eq!(check(&plan, parts).unwrap_err(), [missing(Slot::root(0).child(1), &[seg(1, 0, 20)])]);
}

/// Damages the parts of `split` and returns what is found.
fn damaged(damage: impl FnOnce(&mut Vec<Claimed>)) -> Vec<Gap> {
    let plan = small();
    let mut parts = split(&plan);
    damage(&mut parts);
    check(&plan, parts).unwrap_err()
}

#[test]
fn a_part_that_nobody_names_is_unexpected() {
    let stranger = |slot: Slot| move |parts: &mut Vec<Claimed>| parts.push(Claimed { slot, ..parts[3].clone() });
    for slot in [Slot::root(7), Slot::root(0).child(2), Slot::root(0).child(0).child(0).child(4)] {
        let below_whole = slot.depth() == 3;
        let gap = match below_whole {
            true => Gap::BelowWhole { slot: slot.clone(), whole: Slot::root(0).child(0) },
            false => Gap::Unexpected { slot: slot.clone() },
        };
        assert_eq!(damaged(stranger(slot)), [gap]);
    }
}

#[test]
fn children_of_an_uncommitted_parent_are_unexpected() {
    let gaps = damaged(|parts| drop(parts.remove(0)));
    let child = |i| Gap::Unexpected { slot: Slot::root(0).child(i) };
    assert!(matches!(&gaps[0], Gap::Missing { slot, .. } if *slot == Slot::root(0)));
    assert_eq!(gaps[1..], [child(0), child(1)]);
}

#[test]
fn a_parent_is_whole_or_its_children_are_open_never_both() {
    let plan = small();
    let below = |i| Gap::BelowWhole { slot: Slot::root(0).child(i), whole: Slot::root(0) };
    // A whole that stands where a split was, and one that names children on top of all its rows.
    assert_eq!(damaged(|parts| parts[0] = whole(&plan, 0)), [below(0), below(1)]);
    let gaps = damaged(|parts| parts[0].covered = plan.shards[0].segments.clone());
    let twice = Gap::Twice { slot: Slot::root(0), segments: vec![seg(0, 30, 100), seg(1, 0, 20)] };
    assert_eq!(gaps, [below(0), below(1), twice]);
}

#[test]
fn rows_lacking_doubled_or_foreign_are_named() {
    let slot = Slot::root(0);
    let lacking = |segments| vec![Gap::Lacking { slot: slot.clone(), segments }];
    assert_eq!(damaged(|parts| parts[0].covered = vec![seg(0, 0, 29)]), lacking(vec![seg(0, 29, 30)]));
    assert_eq!(damaged(|parts| parts[0].covered = vec![]), lacking(vec![seg(0, 0, 30)]));
    let twice = damaged(|parts| parts[0].covered = vec![seg(0, 0, 31)]);
    assert_eq!(twice, [Gap::Twice { slot: slot.clone(), segments: vec![seg(0, 30, 31)] }]);
    let foreign = damaged(|parts| parts[0].covered.push(seg(1, 50, 60)));
    assert_eq!(foreign, [Gap::Foreign { slot: slot.clone(), segments: vec![seg(1, 50, 60)] }]);
    let of_a_leaf = damaged(|parts| parts[3].covered = vec![seg(1, 20, 99)]);
    assert_eq!(of_a_leaf, [Gap::Lacking { slot: Slot::root(1), segments: vec![seg(1, 99, 100)] }]);
}

#[test]
fn a_part_must_take_its_slot_for_the_same_rows_in_the_same_order() {
    for claimed in [vec![seg(0, 0, 100)], vec![seg(1, 0, 20), seg(0, 0, 100)]] {
        let gaps = damaged(|parts| parts[0].segments = claimed.clone());
        assert_eq!(
            gaps,
            [Gap::OtherRows { slot: Slot::root(0), segments: small().shards[0].segments.clone(), claimed }]
        );
    }
}

#[test]
fn children_are_numbered_from_zero_without_a_gap_and_have_rows() {
    let other = Slot::root(0).child(5);
    let gaps = damaged(|parts| {
        parts[0].children[1].0 = other.clone();
        parts[2].slot = other.clone();
    });
    assert_eq!(gaps, [Gap::ChildName { slot: Slot::root(0), named: other, expected: Slot::root(0).child(1) }]);
    let empty = Slot::root(0).child(2);
    let gaps = damaged(|parts| {
        parts[0].children.push((empty.clone(), vec![]));
        parts.push(Claimed { slot: empty.clone(), segments: vec![], covered: vec![], children: vec![] });
    });
    assert_eq!(gaps, [Gap::EmptyChild { slot: Slot::root(0), child: empty }]);
}

#[test]
fn a_child_of_another_slot_is_named_and_not_followed() {
    let stolen = Slot::root(1);
    let gaps = damaged(|parts| {
        parts[0].children[1].0 = stolen.clone();
        parts.remove(2);
    });
    assert_eq!(gaps, [Gap::ChildName { slot: Slot::root(0), named: stolen, expected: Slot::root(0).child(1) }]);
}

#[test]
fn two_parts_of_one_slot_are_named() {
    assert_eq!(damaged(|parts| parts.push(parts[3].clone())), [Gap::Doubled { slot: Slot::root(1) }]);
}

#[test]
fn a_plan_that_gives_a_row_twice_or_one_that_does_not_exist_is_named() {
    let bad = |plan: Plan, slot, segments| {
        let parts: Vec<_> = (0..plan.shards.len() as u32).map(|i| whole(&plan, i)).collect();
        assert_eq!(check(&plan, parts).unwrap_err(), [Gap::BadPlan { slot: Slot::root(slot), segments }]);
    };
    bad(plan(&[100], &[&[seg(0, 0, 60)], &[seg(0, 50, 100)]]), 1, vec![seg(0, 50, 60)]);
    bad(plan(&[100], &[&[seg(0, 0, 60)], &[seg(0, 60, 101)]]), 1, vec![seg(0, 100, 101)]);
    bad(plan(&[100], &[&[seg(0, 0, 60)], &[seg(3, 0, 1)]]), 1, vec![seg(3, 0, 1)]);
    bad(plan(&[100], &[&[seg(0, 0, 90)], &[seg(0, 10, 20)]]), 1, vec![seg(0, 10, 20)]);
}

/// Splits slots at random: `cuts` are taken as they are needed, so any depth comes about.
fn split_at_random(plan: &Plan, cuts: &[(u8, u64, u64)]) -> Vec<Claimed> {
    let mut cuts = cuts.iter();
    let mut stack: Vec<_> = (0..).zip(&plan.shards).map(|(i, s)| (Slot::root(i), s.segments.clone())).collect();
    let mut parts = Vec::new();
    while let Some((slot, segments)) = stack.pop() {
        let rows = segments.total_rows();
        let part = match cuts.next() {
            Some((kind, a, b)) if kind % 3 > 0 && rows > 1 => {
                // Own rows are a prefix, perhaps empty; the rest goes to one or two children.
                let (own, middle) = (a % rows, a % rows + 1 + b % (rows - a % rows));
                let bounds = [(own, middle), (middle, rows)].into_iter().filter(|(from, to)| from < to);
                let children: Vec<_> =
                    (0..).zip(bounds).map(|(i, (from, to))| (slot.child(i), segments.slice(from, to))).collect();
                stack.extend(children.clone());
                Claimed { slot, covered: segments.slice(0, own), segments, children }
            }
            _ => Claimed { slot, covered: segments.clone(), segments, children: vec![] },
        };
        parts.push(part);
    }
    parts
}

fn cuts() -> impl Strategy<Value = Vec<(u8, u64, u64)>> {
    prop::collection::vec((any::<u8>(), any::<u64>(), any::<u64>()), 0..40)
}

/// Changes one thing in one part. None when that part has no such thing.
fn plant(parts: &mut Vec<Claimed>, damage: u8, which: prop::sample::Index) -> Option<()> {
    let at = which.index(parts.len());
    match damage {
        0 => drop(parts.remove(at)),
        1 => parts.push(parts[at].clone()),
        2 => parts[at].slot = parts[at].slot.child(9),
        3 => parts[at].covered.first_mut().map(|s| s.start += 1)?,
        4 => parts[at].covered.last_mut().map(|s| s.end += 1)?,
        5 => {
            let first = *parts[at].segments.first()?;
            parts[at].covered.push(first);
        }
        6 => parts[at].children.pop().map(drop)?,
        7 => parts[at].children.first_mut().map(|(_, segments)| segments[0].start += 1)?,
        8 => parts[at].children.last_mut().map(|(slot, _)| *slot = slot.child(0))?,
        9 => parts[at].segments.last_mut().map(|s| s.object += 1)?,
        _ => {
            let whole = parts[at].segments.clone();
            (!parts[at].children.is_empty()).then(|| parts[at].covered = whole)?;
        }
    }
    Some(())
}

proptest! {
    #[test]
    fn any_recursive_split_covers(cuts in cuts()) {
        let plan = small();
        let parts = split_at_random(&plan, &cuts);
        let covered = check(&plan, parts.clone()).unwrap();
        prop_assert_eq!(covered.rows, 200);
        prop_assert_eq!(covered.slots.len(), parts.len());
        prop_assert!(covered.slots.is_sorted());
    }

    #[test]
    fn any_single_damage_is_found(cuts in cuts(), damage in 0u8..11, which: prop::sample::Index) {
        let plan = small();
        let mut parts = split_at_random(&plan, &cuts);
        prop_assume!(plant(&mut parts, damage, which).is_some());
        let gaps = check(&plan, parts).unwrap_err();
        prop_assert!(damage == 0 || gaps.iter().any(|gap| !gap.is_open()), "{:?}", gaps);
    }

    /// The arithmetic of row sets, against sets of rows.
    #[test]
    fn unions_and_differences_are_those_of_sets(a in segments(), b in segments()) {
        let ((a_rows, a_twice), (b_rows, _)) = (union(&a), union(&b));
        let set = |s: &[Segment]| (0..s.total_rows()).map(|i| s.locate(i).unwrap()).collect::<BTreeSet<_>>();
        prop_assert_eq!(set(&a_rows), set(&a));
        prop_assert_eq!(a_rows.total_rows() as usize, set(&a).len());
        let count = |row: &(u32, u64)| a.iter().filter(|s| s.object == row.0 && (s.start..s.end).contains(&row.1)).count();
        prop_assert_eq!(set(&a_twice), set(&a).into_iter().filter(|row| count(row) > 1).collect());
        let left = minus(&a_rows, &b_rows);
        prop_assert_eq!(left.total_rows() as usize, set(&left).len());
        prop_assert_eq!(set(&left), set(&a).difference(&set(&b)).copied().collect());
    }
}

fn segments() -> impl Strategy<Value = Vec<Segment>> {
    let one = (0u32..3, 0u64..30, 0u64..12).prop_map(|(object, start, rows)| seg(object, start, start + rows));
    prop::collection::vec(one, 0..8)
}

//! Strikes, excuses, and what becomes of a poisoned shard.

use std::collections::BTreeSet;

use gristmill_job::Segments;

use super::*;

fn split_of(effects: &[Effect]) -> Option<(Slot, Vec<Vec<Segment>>)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Split { slot, children, .. } => Some((slot.clone(), children.clone())),
        _ => None,
    })
}

fn named(slot: &Slot, children: &[Vec<Segment>]) -> Vec<(Slot, Vec<Segment>)> {
    (0..).zip(children).map(|(i, segments)| (slot.child(i), segments.clone())).collect()
}

/// Worker after worker joins, takes the first shard, and dies with these rows in hand. Returns the last effects.
fn deaths(d: &mut Drive, ids: std::ops::Range<u64>, in_hand: &[Segment]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for id in ids {
        d.join(id);
        let grant = d.grant(id);
        d.die(id, &grant, in_hand.to_vec());
        effects = d.settle();
    }
    effects
}

#[test]
fn a_death_strikes_what_was_on_the_device_and_not_what_was_read_ahead() {
    let mut d = Drive::new(5, 1);
    let (first, second) = (d.grant(1), d.grant(1));
    d.renew(1, &[(&first, vec![]), (&second, rows(110, 120))]);
    d.lose(1, Lost::Died);
    assert_eq!(strikes(&d.settle()), [second.slot]);
}

#[test]
fn a_death_without_news_strikes_the_shard_that_was_granted_first() {
    let mut d = Drive::new(5, 1);
    let (first, _second) = (d.grant(1), d.grant(1));
    d.lose(1, Lost::Died);
    let effects = d.settle();
    assert_eq!(strikes(&effects), std::slice::from_ref(&first.slot));
    assert!(matches!(&effects[0], Effect::Strike { worker, attempt, failure, .. }
        if *worker == w(1) && *attempt == first.attempt && failure.blame == Blame::Unknown));
    d.join(2);
    let cautions: Vec<_> = [d.grant(2), d.grant(2)].into_iter().map(|g| (g.slot, g.caution)).collect();
    assert!(cautions.contains(&(first.slot, Caution::Announce)));
    assert!(cautions.contains(&(Slot::root(1), Caution::None)));
}

#[test]
fn expiry_alone_is_no_strike_but_news_of_the_death_is_one_though_late() {
    let mut d = Drive::new(1, 1);
    let grant = d.grant(1);
    d.renew(1, &[(&grant, rows(10, 20))]);
    d.pass(LEASE_MS);
    assert_eq!(d.settle(), []);
    assert_eq!(d.progress().pending, 1);
    d.lose(1, Lost::Died);
    assert_eq!(strikes(&d.settle()), [grant.slot]);
}

#[test]
fn a_strike_that_comes_late_convicts_a_shard_that_waits() {
    let mut d = Drive::recovered(vec![Open { strikes: 2, ..open(0) }], 1);
    let grant = d.grant(1);
    d.renew(1, &[(&grant, rows(10, 20))]);
    d.pass(LEASE_MS);
    assert_eq!(d.settle(), []);
    d.lose(1, Lost::Died);
    assert_eq!(split_of(&d.settle()).unwrap().1, [rows(0, 10), rows(10, 20), rows(20, 100)]);
}

#[test]
fn leaving_is_no_strike() {
    let mut d = Drive::new(1, 1);
    let grant = d.grant(1);
    d.renew(1, &[(&grant, rows(10, 20))]);
    d.lose(1, Lost::Left);
    assert_eq!(d.settle(), []);
}

#[test]
fn the_death_of_a_worker_that_never_passed_its_self_test_is_no_strike() {
    let mut d = Drive::new(1, 0);
    d.step(|s, now| s.join(w(1), now));
    let held = Held { slot: Slot::root(0), attempt: 1, in_hand: rows(0, 1), rows_done: 0 };
    d.step(|s, now| s.renew(w(1), &[held], now));
    assert_eq!(d.progress().leased, 1);
    d.lose(1, Lost::Died);
    assert_eq!(d.settle(), []);
}

#[test]
fn when_many_die_together_nobody_is_struck_and_the_first_strikes_are_taken_back() {
    let mut d = Drive::new(40, 20);
    let grants: Vec<_> = (1..=20).map(|id| d.grant(id)).collect();
    let mut effects = Vec::new();
    for id in 1..=5 {
        let grant = &grants[id as usize - 1];
        d.die(id, grant, grant.segments.clone());
        effects.extend(d.settle());
    }
    let forgiven: BTreeSet<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Forgive { slot, .. } => Some(slot.clone()),
            _ => None,
        })
        .collect();
    // Two of twenty are not more than a tenth; the third shows that it is no chance.
    assert_eq!(strikes(&effects), [Slot::root(0), Slot::root(1)]);
    assert_eq!(forgiven, [Slot::root(0), Slot::root(1)].into());
    for id in 30..35 {
        d.join(id);
        assert_eq!(d.grant(id).caution, Caution::None);
    }
}

#[test]
fn workers_that_vanish_excuse_those_that_died_with_them() {
    let mut d = Drive::new(40, 20);
    let grants: Vec<_> = (1..=20).map(|id| d.grant(id)).collect();
    let all_but_three = |d: &mut Drive| {
        d.pass(HEARTBEAT_MS);
        (4..=20).for_each(|id| drop(d.renew(id, &[(&grants[id as usize - 1], vec![])])));
    };
    all_but_three(&mut d);
    all_but_three(&mut d);
    for id in 4..=5 {
        d.die(id, &grants[id as usize - 1], rows(0, 1));
    }
    assert_eq!(strikes(&d.settle()).len(), 2);
    all_but_three(&mut d);
    let forgiven = d.settle().into_iter().filter(|effect| matches!(effect, Effect::Forgive { .. })).count();
    assert_eq!((d.progress().workers, forgiven), (15, 2));
}

#[test]
fn deaths_more_than_a_lease_apart_are_not_together() {
    let mut d = Drive::new(40, 3);
    let mut struck = 0;
    for id in 1..=3 {
        let grant = d.grant(id);
        d.die(id, &grant, grant.segments.clone());
        struck += strikes(&d.settle()).len();
        for _ in 0..4 {
            d.pass(HEARTBEAT_MS);
            (id + 1..=3).for_each(|other| drop(d.renew(other, &[])));
        }
    }
    assert_eq!(struck, 3);
}

#[test]
fn one_worker_started_again_and_again_is_no_crowd() {
    let mut d = Drive::new(9, 0);
    let mut struck = Vec::new();
    for id in 1..=6 {
        d.join(id);
        // Each dies with another shard on its device.
        let (first, second) = (d.grant(id), d.grant(id));
        let dying = if id % 2 == 0 { first } else { second };
        d.die(id, &dying, dying.segments.clone());
        struck.extend(strikes(&d.settle()));
    }
    assert_eq!(struck.len(), 6);
}

#[test]
fn two_poisoned_shards_cannot_excuse_each_other_for_ever() {
    let mut d = Drive::new(2, 0);
    let mut id = 0;
    let mut splits = 0;
    for _ in 0..10 {
        id += 2;
        d.join(id);
        d.join(id + 1);
        let (Claim::Grant(a), Claim::Grant(b)) = (d.claim(id), d.claim(id + 1)) else { break };
        d.die(id, &a, a.segments.slice(0, 1));
        d.die(id + 1, &b, b.segments.slice(0, 1));
        splits += usize::from(split_of(&d.settle()).is_some());
    }
    assert!(splits > 0, "after {id} deaths");
}

#[test]
fn three_strikes_split_the_shard_around_the_rows_that_were_named() {
    let mut d = Drive::new(2, 0);
    assert_eq!(split_of(&deaths(&mut d, 1..3, &rows(0, 90))), None);
    let effects = deaths(&mut d, 3..4, &rows(40, 48));
    let (slot, children) = split_of(&effects).unwrap();
    assert_eq!((slot.clone(), children.clone()), (Slot::root(0), vec![rows(0, 40), rows(40, 48), rows(48, 100)]));
    d.join(9);
    assert_eq!(d.grant(9).slot, Slot::root(1), "neither parent nor children before the part is read back");
    d.found(&slot, named(&slot, &children));
    let cautions = [Caution::None, Caution::RowByRow, Caution::None];
    for (i, caution) in (0..).zip(cautions) {
        d.join(10 + i);
        let grant = d.grant(10 + i);
        assert_eq!((grant.slot, grant.caution), (slot.child(i as u32), caution));
    }
}

#[test]
fn ranges_that_were_named_apart_are_isolated_apart() {
    let mut d = Drive::new(1, 0);
    let effects = deaths(&mut d, 1..4, &[rows(0, 8), rows(50, 58)].concat());
    let (_, children) = split_of(&effects).unwrap();
    assert_eq!(children, [rows(0, 8), rows(8, 50), rows(50, 58), rows(58, 100)]);
}

#[test]
fn without_a_name_the_shard_is_halved() {
    for nothing in [vec![], rows(5_000, 5_001)] {
        let mut d = Drive::new(1, 0);
        let effects = deaths(&mut d, 1..4, &nothing);
        assert_eq!(split_of(&effects).unwrap().1, [rows(0, 50), rows(50, 100)]);
    }
}

#[test]
fn a_shard_that_was_named_whole_is_isolated_as_it_is() {
    let mut d = Drive::new(1, 0);
    assert_eq!(split_of(&deaths(&mut d, 1..4, &rows(0, 100))), None);
    d.join(9);
    let grant = d.grant(9);
    assert_eq!((grant.slot.clone(), grant.caution), (Slot::root(0), Caution::RowByRow));
    d.die(9, &grant, rows(7, 8));
    assert_eq!(split_of(&d.settle()).unwrap().1, [rows(0, 7), rows(7, 8), rows(8, 100)]);
}

#[test]
fn an_isolated_shard_that_names_nothing_is_halved_and_its_halves_stay_isolated() {
    let mut d = Drive::new(1, 0);
    deaths(&mut d, 1..4, &rows(0, 100));
    let effects = deaths(&mut d, 4..5, &[]);
    let (slot, children) = split_of(&effects).unwrap();
    d.found(&slot, named(&slot, &children));
    d.join(9);
    assert_eq!((children.len(), d.grant(9).caution), (2, Caution::RowByRow));
}

#[test]
fn strikes_of_one_worker_alone_convict_nobody_where_there_are_two() {
    let fail = |d: &mut Drive, id| {
        let grant = d.grant(id);
        d.finish(id, &grant, failure(Blame::Input, rows(3, 4)));
        split_of(&d.settle())
    };
    let mut d = Drive::new(1, 2);
    for _ in 0..4 {
        assert_eq!(fail(&mut d, 1), None);
        for _ in 0..3 {
            d.pass(HEARTBEAT_MS);
            (1..=2).for_each(|id| drop(d.renew(id, &[])));
        }
    }
    assert!(fail(&mut d, 2).is_some());

    let mut alone = Drive::new(1, 1);
    assert_eq!([fail(&mut alone, 1), fail(&mut alone, 1)], [None, None]);
    assert!(fail(&mut alone, 1).is_some());
}

#[test]
fn a_second_worker_that_never_comes_is_not_waited_for_for_ever() {
    let mut d = Drive::new(1, 2);
    let mut failures = 0;
    let split = (0..100).any(|_| {
        d.pass(HEARTBEAT_MS);
        (1..=2).for_each(|id| drop(d.renew(id, &[])));
        if let Claim::Grant(grant) = d.claim(1) {
            d.finish(1, &grant, failure(Blame::Input, vec![]));
            failures += 1;
        }
        split_of(&d.settle()).is_some()
    });
    assert_eq!((split, failures), (true, 6));
}

#[test]
fn a_row_in_solo_has_a_process_of_its_own() {
    let single = Open { slot: Slot::root(0).child(1), segments: rows(7, 8), ..open(0) };
    let shards = || (1..6).map(open).collect::<Vec<_>>();
    let mut d = Drive::recovered([vec![single.clone()], shards()].concat(), 1);
    let grant = d.grant(1);
    assert_eq!((grant.slot.clone(), grant.caution), (single.slot.clone(), Caution::Solo));
    assert_eq!(d.claim(1), Claim::Wait, "nothing besides");
    d.commit(1, &grant);
    d.grant(1);

    let mut d = Drive::recovered([shards(), vec![single]].concat(), 1);
    let mut held: Vec<_> = (0..2).map(|_| d.grant(1)).collect();
    for _ in 0..4 {
        d.commit(1, &held.remove(0));
        match d.claim(1) {
            Claim::Grant(grant) => held.push(grant),
            other => assert_eq!(other, Claim::Wait),
        }
        assert!(held.iter().all(|grant| grant.caution != Caution::Solo));
    }
    d.commit(1, &held.remove(0));
    assert_eq!(d.grant(1).caution, Caution::Solo);
}

/// The road of one poisoned row among 64,000 to its grave, on one machine that starts its worker again.
#[test]
fn a_poison_row_costs_six_deaths_and_is_buried_alone() {
    let poison = 43_210;
    let shard = Open { segments: rows(0, 64_000), ..open(0) };
    let mut d = Drive::recovered(vec![shard], 0);
    let (mut deaths, mut id, mut buried) = (0, 0, None);
    while !d.scheduler.done() {
        id += 1;
        d.join(id);
        while let Claim::Grant(grant) = d.claim(id) {
            let first = grant.segments[0].start;
            let batch = if grant.caution >= Caution::RowByRow { 1 } else { 64 };
            match grant.segments[0].end > poison && first <= poison {
                true => {
                    let from = first + (poison - first) / batch * batch;
                    let to = (from + batch).min(grant.segments[0].end);
                    // Without caution the heartbeat tells of more rows than one batch.
                    let known = if grant.caution == Caution::None { rows(from, 64_000) } else { rows(from, to) };
                    d.die(id, &grant, known);
                    deaths += 1;
                    for effect in d.settle() {
                        match effect {
                            Effect::Split { slot, children, .. } => d.found(&slot, named(&slot, &children)),
                            Effect::Bury { slot, .. } => {
                                buried = Some(grant.segments.clone());
                                d.found(&slot, vec![]);
                            }
                            _ => {}
                        }
                    }
                    break;
                }
                false => d.commit(id, &grant),
            }
        }
    }
    assert_eq!((deaths, buried), (6, Some(rows(poison, poison + 1))));
    assert_eq!(d.progress().rows_done, 64_000);
}

#[test]
fn strikes_survive_a_restart() {
    let struck = |strikes, named| Open { strikes, named, ..open(0) };
    let mut d = Drive::recovered(vec![struck(2, rows(8, 9))], 1);
    let grant = d.grant(1);
    assert_eq!(grant.caution, Caution::Announce);
    d.die(1, &grant, vec![]);
    assert_eq!(split_of(&d.settle()).unwrap().1, [rows(0, 8), rows(8, 9), rows(9, 100)]);

    let mut d = Drive::recovered(vec![struck(3, vec![])], 1);
    assert_eq!(d.claim(1), Claim::Wait);
    assert_eq!(split_of(&d.settle()).unwrap().1.len(), 2);
}

#[test]
fn a_shard_that_is_being_split_is_not_leased_again_but_its_worker_may_go_on() {
    let mut d = Drive::recovered(vec![Open { strikes: 3, named: rows(3, 4), ..open(0) }], 1);
    let held = Held { slot: Slot::root(0), attempt: 1, in_hand: vec![], rows_done: 0 };
    assert_eq!(d.step(|s, now| s.renew(w(1), &[held], now)), []);
    assert_eq!((d.progress().acting, d.progress().leased), (1, 0));
    // It may even win.
    d.step(|s, now| s.finish(w(1), &Slot::root(0), 1, Finish::Committed { children: vec![], ours: true }, now));
    assert!(d.scheduler.done());
}

#[test]
fn a_split_that_finds_the_slot_whole_is_done_with() {
    let mut d = Drive::new(1, 0);
    let (slot, _) = split_of(&deaths(&mut d, 1..4, &rows(3, 4))).unwrap();
    d.absent(&slot);
    assert_eq!(d.progress().acting, 1, "only a commit answers a split");
    d.found(&slot, vec![]);
    assert!(d.scheduler.done());
}

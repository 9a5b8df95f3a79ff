//! Grants, leases, and messages that come late, doubled or from strangers.

use gristmill_job::Fatal;

use super::*;

#[test]
fn shards_are_granted_in_order_and_the_job_finishes() {
    let mut d = Drive::new(3, 1);
    for index in 0..3 {
        let grant = d.grant(1);
        assert_eq!((grant.slot.clone(), grant.segments.clone()), (Slot::root(index), open(index).segments));
        assert_eq!((grant.tokens, grant.caution), (1_000, Caution::None));
        d.commit(1, &grant);
    }
    assert_eq!(d.claim(1), Claim::Finished);
    assert!(d.scheduler.done() && d.scheduler.next_deadline_ms().is_none() && d.effects.is_empty());
    assert_eq!((d.progress().done, d.progress().rows_done, d.progress().rows_open), (3, 300, 0));
}

#[test]
fn a_worker_holds_two_and_near_the_end_one() {
    let mut d = Drive::new(5, 2);
    let (a, _) = (d.grant(1), d.grant(1));
    assert_eq!(d.claim(1), Claim::Wait);
    d.grant(2);
    let last = d.grant(2);
    d.commit(1, &a);
    // One shard for two workers: whoever first has nothing takes it.
    assert_eq!(d.claim(1), Claim::Wait);
    d.commit(2, &last);
    assert_eq!(d.claim(2), Claim::Wait);
}

#[test]
fn strangers_and_untested_workers_get_nothing() {
    let mut d = Drive::new(1, 0);
    assert_eq!(d.claim(1), Claim::Unknown);
    assert!(!d.scheduler.knows(w(1)));
    d.step(|s, now| s.join(w(1), now));
    assert_eq!(d.claim(1), Claim::Wait);
    d.step(|s, _| s.self_tested(w(1)));
    d.grant(1);
}

#[test]
fn an_expired_lease_allows_a_second_attempt_after_a_look_and_never_forbids_the_first() {
    let mut d = Drive::new(1, 2);
    let first = d.grant(1);
    d.pass(LEASE_MS - 1_000);
    d.claim(2);
    assert!(d.effects.is_empty());
    d.pass(1_000);
    assert_eq!(d.take_effects(), [Effect::LookUp { slot: first.slot.clone() }]);
    assert_eq!(d.claim(2), Claim::Wait, "not before the answer");
    d.absent(&first.slot);
    let second = d.grant(2);
    assert_ne!(first.attempt, second.attempt);
    d.commit(1, &first);
    assert!(d.scheduler.done());
    assert_eq!(d.renew(2, &[(&second, vec![])]), [second.slot]);
}

#[test]
fn what_the_look_finds_is_not_granted_again() {
    let mut d = Drive::new(1, 1);
    let first = d.grant(1);
    d.lose(1, Lost::Left);
    d.found(&first.slot, vec![]);
    assert!(d.scheduler.done());
}

#[test]
fn a_worker_that_comes_back_in_time_keeps_its_shard() {
    for answered in [false, true] {
        let mut d = Drive::new(1, 2);
        let first = d.grant(1);
        d.pass(LEASE_MS);
        if answered {
            d.absent(&first.slot);
        }
        assert_eq!(d.renew(1, &[(&first, vec![])]), []);
        d.absent(&first.slot);
        assert_eq!(d.claim(2), Claim::Wait);
        assert_eq!(d.progress().leased, 1);
        d.commit(1, &first);
        assert!(d.scheduler.done());
    }
}

#[test]
fn two_attempts_live_side_by_side_and_the_first_commit_ends_both() {
    let mut d = Drive::new(2, 2);
    let first = d.grant(1);
    d.pass(LEASE_MS);
    d.settle();
    let second = d.grant(2);
    assert_eq!(first.slot, second.slot);
    assert_eq!(d.renew(1, &[(&first, vec![])]), []);
    d.finish(2, &second, failure(Blame::Store, vec![]));
    assert!(d.effects.is_empty(), "the other lease still runs");
    d.commit(1, &first);
    assert_eq!(d.progress().done, 1);
}

#[test]
fn a_pause_of_the_coordinator_extends_every_lease() {
    let mut d = Drive::new(1, 1);
    let grant = d.grant(1);
    d.pass(5_000);
    d.now_ms += 3_600_000;
    d.step(|s, now| s.tick(now));
    d.pass(LEASE_MS - 6_000);
    assert!(d.effects.is_empty());
    assert_eq!(d.progress().progressed_ms, 1_000_000 + 3_600_000, "a pause is no time without progress");
    d.pass(1_000);
    assert_eq!(d.take_effects(), [Effect::LookUp { slot: grant.slot }]);
}

#[test]
fn the_next_deadline_is_when_the_lease_ends_or_half_a_heartbeat_away() {
    let mut d = Drive::new(1, 1);
    d.grant(1);
    assert_eq!(d.scheduler.next_deadline_ms(), Some(d.now_ms + HEARTBEAT_MS / 2));
    d.pass(LEASE_MS - 1_000);
    assert_eq!(d.scheduler.next_deadline_ms(), Some(d.now_ms + 1_000));
}

#[test]
fn a_grant_that_was_lost_on_its_way_is_granted_again_though_its_worker_lives() {
    let mut d = Drive::new(1, 1);
    let lost = d.grant(1);
    for _ in 0..3 {
        d.pass(HEARTBEAT_MS);
        d.renew(1, &[]);
    }
    assert_eq!(d.settle(), [], "a look, and no strike");
    assert_eq!(d.grant(1).slot, lost.slot);
}

#[test]
fn the_heartbeat_of_an_old_attempt_renews_no_newer_one() {
    let mut d = Drive::new(1, 1);
    let old = d.grant(1);
    d.finish(1, &old, failure(Blame::Store, vec![]));
    d.settle();
    d.grant(1);
    for _ in 0..3 {
        d.pass(HEARTBEAT_MS);
        d.renew(1, &[(&old, vec![])]);
    }
    assert_eq!(d.take_effects(), [Effect::LookUp { slot: old.slot }]);
}

#[test]
fn store_faults_strike_nobody_and_the_shard_is_next() {
    let mut d = Drive::new(9, 1);
    for _ in 0..20 {
        let grant = d.grant(1);
        d.finish(1, &grant, failure(Blame::Store, vec![]));
        assert_eq!(d.settle(), []);
        let again = d.grant(1);
        assert_eq!((again.slot.clone(), again.caution), (Slot::root(0), Caution::None));
        d.finish(1, &again, Finish::Returned);
        assert_eq!(d.settle(), []);
        assert_eq!(d.grant(1).slot, Slot::root(0));
        d.lose(1, Lost::Left);
        assert_eq!(d.settle(), []);
        d.join(1);
    }
}

#[test]
fn a_worker_that_takes_the_blame_too_often_is_quarantined() {
    let mut d = Drive::new(9, 2);
    for round in 0..5 {
        let grant = d.grant(1);
        if round == 2 {
            d.commit(1, &grant);
        } else {
            d.finish(1, &grant, failure(Blame::Worker, vec![]));
        }
        assert_eq!(d.settle(), []);
    }
    let grant = d.grant(1);
    d.finish(1, &grant, failure(Blame::Worker, vec![]));
    assert_eq!(d.settle(), []);
    assert_eq!(d.claim(1), Claim::Quarantined);
    assert_eq!((d.progress().workers, d.progress().quarantined), (1, 1));
    assert_eq!(d.grant(2).slot, grant.slot);
}

#[test]
fn input_and_unknown_blame_strike_but_a_fatal_failure_does_not() {
    for (blame, fatal, struck) in
        [(Blame::Input, None, 1), (Blame::Unknown, None, 1), (Blame::Input, Some(Fatal::InputChanged), 0)]
    {
        let mut d = Drive::new(1, 1);
        let grant = d.grant(1);
        let failure = Failure { blame, fatal, message: "planned".into(), in_hand: vec![] };
        d.finish(1, &grant, Finish::Failed(failure));
        assert_eq!(strikes(&d.settle()).len(), struck);
    }
}

#[test]
fn another_worker_is_preferred_but_not_waited_for_longer_than_a_lease() {
    let mut d = Drive::new(1, 2);
    let grant = d.grant(1);
    d.finish(1, &grant, failure(Blame::Input, vec![]));
    d.settle();
    assert_eq!(d.claim(1), Claim::Wait);
    for _ in 0..3 {
        d.pass(HEARTBEAT_MS);
        d.renew(1, &[]);
        d.renew(2, &[]);
    }
    assert_eq!(d.grant(1).slot, grant.slot);

    let mut alone = Drive::new(1, 1);
    let grant = alone.grant(1);
    alone.finish(1, &grant, failure(Blame::Input, vec![]));
    alone.settle();
    assert_eq!(alone.grant(1).slot, grant.slot);
}

#[test]
fn somebody_elses_commit_is_no_failure() {
    let mut d = Drive::new(1, 1);
    let grant = d.grant(1);
    d.finish(1, &grant, Finish::Committed { children: vec![], ours: false });
    assert!(d.scheduler.done() && d.effects.is_empty());
}

#[test]
fn children_open_when_the_parents_part_is_read_back_in_order_and_first() {
    let mut d = Drive::new(2, 1);
    let grant = d.grant(1);
    let children = vec![(grant.slot.child(0), rows(40, 70)), (grant.slot.child(1), rows(70, 100))];
    d.finish(1, &grant, Finish::Committed { children: children.clone(), ours: true });
    assert_eq!((d.progress().rows_done, d.progress().pending), (40, 3));
    let first = d.grant(1);
    assert_eq!((first.slot.clone(), first.segments.clone(), first.tokens), (grant.slot.child(0), rows(40, 70), 300));
    // The parent's message comes again, late.
    d.finish(1, &grant, Finish::Committed { children, ours: true });
    assert_eq!(d.grant(1).slot, grant.slot.child(1));
    assert_eq!((d.progress().rows_done, d.progress().pending), (40, 1));
}

#[test]
fn messages_of_strangers_and_of_old_attempts_are_harmless() {
    let mut d = Drive::new(1, 2);
    let old = d.grant(1);
    d.finish(1, &old, failure(Blame::Store, vec![]));
    d.settle();
    let new = d.grant(2);
    for id in [1, 7] {
        d.finish(id, &old, failure(Blame::Input, rows(0, 1)));
        d.finish(id, &new, Finish::Returned);
        d.lose(7, Lost::Died);
        d.lose(7, Lost::Vanished);
        d.step(|s, _| s.self_tested(w(7)));
        assert_eq!(d.renew(7, &[(&old, vec![])]), []);
    }
    d.absent(&new.slot);
    d.absent(&Slot::root(99));
    d.found(&Slot::root(99), vec![(Slot::root(99).child(0), rows(0, 5))]);
    assert_eq!((d.progress().leased, d.take_effects()), (1, vec![]));
    d.commit(2, &new);
    assert!(d.scheduler.done());
    d.finish(2, &new, failure(Blame::Input, vec![]));
    assert!(d.scheduler.done() && d.effects.is_empty());
}

#[test]
fn progress_tells_of_rows_under_way_and_of_desertion() {
    let mut d = Drive::new(2, 0);
    d.pass(3_000);
    assert_eq!(d.progress().deserted_since_ms, Some(1_001_000), "since the first call");
    d.join(1);
    assert_eq!((d.progress().deserted_since_ms, d.progress().workers), (None, 1));
    let grant = d.grant(1);
    d.pass(5_000);
    let held = |rows_done| Held { slot: grant.slot.clone(), attempt: grant.attempt, in_hand: vec![], rows_done };
    d.step(|s, now| s.renew(w(1), &[held(60)], now));
    let heard_ms = d.now_ms;
    d.pass(5_000);
    d.step(|s, now| s.renew(w(1), &[held(50)], now));
    assert_eq!((d.progress().rows_under_way, d.progress().progressed_ms), (60, heard_ms));
    d.pass(LEASE_MS);
    assert_eq!((d.progress().rows_under_way, d.progress().deserted_since_ms), (0, Some(d.now_ms)));
}

#[test]
fn what_an_earlier_coordinator_granted_is_taken_over() {
    let mut d = Drive::new(2, 1);
    let held = Held { slot: Slot::root(1), attempt: 4711, in_hand: vec![], rows_done: 3 };
    let done = Held { slot: Slot::root(9), attempt: 4712, in_hand: vec![], rows_done: 3 };
    assert_eq!(d.step(|s, now| s.renew(w(1), &[held, done], now)), [Slot::root(9)]);
    assert_eq!(d.grant(1).slot, Slot::root(0));
    d.step(|s, now| s.finish(w(1), &Slot::root(1), 4711, Finish::Committed { children: vec![], ours: true }, now));
    assert_eq!(d.progress().done, 1);
}

#![allow(clippy::unwrap_used)]

use gristmill_job::Segments;
use proptest::prelude::*;

use super::*;

fn group(object: u32, rows: u64, tokens: u64) -> RowGroup {
    RowGroup { object, rows, tokens, bytes: 0 }
}

#[test]
fn what_fits_exactly_is_one_shard_of_many_groups() {
    let groups: Vec<_> = (0..3).map(|object| group(object, 1, 1)).collect();
    assert_eq!(cut(&groups, None, by_tokens(3)).len(), 1);
}

const UNBOUNDED: u64 = u64::MAX;

fn by_tokens(tokens: u64) -> Target {
    Target { tokens, bytes: UNBOUNDED }
}

fn spans(shards: &[Shard]) -> Vec<Vec<(u32, u64, u64)>> {
    shards.iter().map(|s| s.segments.iter().map(|s| (*s).into()).collect()).collect()
}

#[test]
fn nothing_selected_makes_no_shard() {
    let target = by_tokens(10);
    assert!(cut(&[], None, target).is_empty());
    assert!(cut(&[group(0, 0, 0)], None, target).is_empty());
    assert!(cut(&[group(0, 5, 50)], Some(0), target).is_empty());
}

#[test]
fn shards_are_even_rather_than_full_and_a_sliver() {
    let shards = cut(&[group(0, 110, 1100)], None, by_tokens(1000));
    assert_eq!(spans(&shards), [[(0, 0, 55)], [(0, 55, 110)]]);
    assert_eq!(shards.iter().map(|s| s.tokens).collect::<Vec<_>>(), [550, 550]);
}

#[test]
fn a_shard_reaches_across_files_and_its_segments_within_one_are_merged() {
    let groups = [group(0, 10, 100), group(0, 10, 100), group(1, 20, 200), group(1, 0, 0), group(2, 40, 400)];
    let shards = cut(&groups, None, by_tokens(400));
    assert_eq!(spans(&shards), [vec![(0, 0, 20), (1, 0, 20)], vec![(2, 0, 40)]]);
}

#[test]
fn bytes_bound_a_shard_as_tokens_do() {
    let groups = [RowGroup { object: 0, rows: 100, tokens: 100, bytes: 4_000 }];
    let shards = cut(&groups, None, Target { tokens: 1_000, bytes: 1_000 });
    assert_eq!(shards.len(), 4);
}

#[test]
fn rows_without_text_still_fill_shards() {
    assert_eq!(cut(&[group(0, 1_000, 0)], None, by_tokens(100)).len(), 10);
}

#[test]
fn a_huge_row_stands_alone_and_its_neighbours_are_not_torn() {
    let groups = [group(0, 4, 40), group(0, 1, 10_000), group(0, 4, 40)];
    let shards = cut(&groups, None, by_tokens(100));
    assert_eq!(spans(&shards), [[(0, 0, 4)], [(0, 4, 5)], [(0, 5, 9)]]);
}

#[test]
fn a_plan_of_a_million_shards_of_large_groups_is_exact() {
    let groups: Vec<_> = (0..100).map(|object| group(object, 1 << 30, 1 << 40)).collect();
    let shards = cut(&groups, None, by_tokens(100 << 20));
    assert_eq!(shards.len(), (100usize << 40).div_ceil(100 << 20));
    assert_eq!(shards.iter().map(|s| s.segments.total_rows()).sum::<u64>(), 100 << 30);
    assert_eq!(shards.iter().map(|s| s.tokens).sum::<u64>(), 100 << 40);
}

fn groups() -> impl Strategy<Value = Vec<RowGroup>> {
    let amount = || prop_oneof![Just(0u64), 0u64..100, 0u64..10_000];
    let one = (0u32..2, prop_oneof![Just(0u64), 0u64..4, 0u64..300], amount(), amount());
    prop::collection::vec(one, 0..12).prop_map(|groups| {
        let mut object = 0;
        let numbered = groups.into_iter().map(|(step, rows, tokens, bytes)| {
            object += step;
            RowGroup { object, rows, tokens, bytes }
        });
        numbered.collect()
    })
}

/// Each row with the object, and the most that it weighs in tokens and bytes.
fn rows(groups: &[RowGroup]) -> Vec<(u32, u64, f64, f64)> {
    let mut rows: Vec<(u32, u64, f64, f64)> = Vec::new();
    for group in groups {
        for _ in 0..group.rows {
            let row = rows.last().filter(|last| last.0 == group.object).map_or(0, |last| last.1 + 1);
            let of = |amount: u64| amount as f64 / group.rows as f64;
            rows.push((group.object, row, of(group.tokens).max(1.0), of(group.bytes)));
        }
    }
    rows
}

proptest! {
    #[test]
    fn shards_tile_the_selection_and_keep_the_target(
        groups in groups(),
        limit in prop::option::of(0u64..500),
        tokens in 1u64..2_000,
        bytes in 1u64..2_000,
    ) {
        let shards = cut(&groups, limit, Target { tokens, bytes });
        let mut wanted = rows(&groups);
        wanted.truncate(limit.map_or(usize::MAX, |limit| limit as usize));

        let tiled: Vec<_> = shards
            .iter()
            .flat_map(|s| (0..s.segments.total_rows()).map(|i| s.segments.locate(i).unwrap()))
            .collect();
        prop_assert_eq!(tiled, wanted.iter().map(|row| (row.0, row.1)).collect::<Vec<_>>());

        let mut rest = wanted.as_slice();
        for shard in &shards {
            let (own, after) = rest.split_at(shard.segments.total_rows() as usize);
            rest = after;
            prop_assert!(!own.is_empty());
            prop_assert!(shard.segments.windows(2).all(|w| w[0].object != w[1].object || w[0].end != w[1].start));
            let weight = |of: fn(&(u32, u64, f64, f64)) -> f64| own.iter().map(of).sum::<f64>();
            // A millionth for the rounding of weights.
            let fits = weight(|row| row.2) <= 2.000_01 * tokens as f64 && weight(|row| row.3) <= 2.000_01 * bytes as f64;
            prop_assert!(own.len() == 1 || fits, "{:?}", shard);
        }
        let estimated: u64 = groups.iter().map(|group| group.tokens).sum();
        if limit.is_none() {
            let lost: u64 = groups.iter().filter(|group| group.rows == 0).map(|group| group.tokens).sum();
            prop_assert_eq!(shards.iter().map(|s| s.tokens).sum::<u64>(), estimated - lost);
        }
    }

    #[test]
    fn shards_of_alike_rows_differ_by_one_row_at_most(rows in 1u64..5_000, each in 1u64..10, target in 10u64..1_000) {
        let shards = cut(&[group(0, rows, rows * each)], None, by_tokens(target));
        let sizes: Vec<_> = shards.iter().map(|s| s.segments.total_rows()).collect();
        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{:?}", sizes);
    }
}

//! Packing: from lengths to batches. A pure function.

use std::ops::Range;

/// Cuts sequences, in their order, into batches of at most `budget_tokens`. A sequence that is longer than the budget is a
/// batch of its own. Batches are contiguous and in order, so that whatever has been encoded is a prefix.
pub fn pack(lengths: &[u32], budget_tokens: usize) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (i, &length) in lengths.iter().enumerate() {
        if i > start && tokens + length as usize > budget_tokens {
            batches.push(start..i);
            (start, tokens) = (i, 0);
        }
        tokens += length as usize;
    }
    if start < lengths.len() {
        batches.push(start..lengths.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_tile_the_rows_and_keep_the_budget(
            lengths in prop::collection::vec(1u32..500, 0..200),
            budget in 1usize..2000,
        ) {
            let batches = pack(&lengths, budget);
            let joined: Vec<usize> = batches.iter().cloned().flatten().collect();
            prop_assert_eq!(joined, (0..lengths.len()).collect::<Vec<_>>());
            let tokens = |batch: &Range<usize>| lengths[batch.clone()].iter().map(|l| *l as usize).sum::<usize>();
            for batch in &batches {
                prop_assert!(batch.len() == 1 || tokens(batch) <= budget);
            }
            for pair in batches.windows(2) {
                prop_assert!(tokens(&pair[0]) + lengths[pair[1].start] as usize > budget, "a row would have fitted");
            }
        }
    }
}

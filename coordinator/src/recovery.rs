//! What the store says of a job that was begun: which slots are committed, which are open, and what strikes stand against
//! the open ones. A listing tells whole from split; only the footers of split slots are read.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use gristmill_job::{Plan, Segment, Segments, Slot};
use gristmill_store::documents::{self, Child, JobDocument, StrikeDocument};
use gristmill_store::{Location, StoreError, keys};

use crate::committed::{Listing, committed_parts};
use crate::scheduler::Open;

/// Strikes read at one time.
const READS_AT_ONCE: usize = 32;

/// A job as the store has it.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// Slots without a part whose parents have one.
    pub open: Vec<Open>,
    /// Slots with a part.
    pub parts: usize,
    /// Rows that those parts cover.
    pub rows_done: u64,
}

/// Reads the state of a job from the store alone.
pub async fn recover(out: &Location, job: &JobDocument, plan: &Plan) -> Result<Recovered, StoreError> {
    let listing = Listing::read(out, job.job).await?;
    let split = committed_parts(out, job.job, listing.maybe_split());
    let children: BTreeMap<Slot, Vec<Child>> =
        split.map(|(slot, part)| Ok::<_, StoreError>((slot, part?.footer.children))).try_collect().await?;
    let committed = listing.parts;
    let strikes = strikes(out, &committed).await?;
    let mut recovered = Recovered { open: Vec::new(), parts: committed.len(), rows_done: 0 };
    for (index, shard) in (0..).zip(&plan.shards) {
        let mut below = vec![(Slot::root(index), shard.segments.clone())];
        while let Some((slot, segments)) = below.pop() {
            let rows = segments.total_rows();
            if committed.contains_key(&slot) {
                let named = children.get(&slot).map_or(&[][..], Vec::as_slice);
                let left: u64 = named.iter().map(|child| child.segments.total_rows()).sum();
                recovered.rows_done += rows.saturating_sub(left);
                below.extend(named.iter().rev().map(|child| (child.slot.clone(), child.segments.clone())));
            } else {
                // Estimates are per shard of the plan; a child has its share.
                let tokens = shard.tokens * rows / shard.segments.total_rows().max(1);
                let (strikes, named) = strikes.get(&slot).cloned().unwrap_or_default();
                recovered.open.push(Open { slot, segments, tokens, strikes, named });
            }
        }
    }
    Ok(recovered)
}

/// How many strikes stand against each open slot, and the narrowest ranges that one of them names.
async fn strikes(
    out: &Location,
    committed: &BTreeMap<Slot, u64>,
) -> Result<BTreeMap<Slot, (usize, Vec<Segment>)>, StoreError> {
    let keys: Vec<String> = out
        .list(keys::STRIKES)
        .await?
        .into_iter()
        .filter(|listed| keys::slot_of_strike(&listed.key).is_some_and(|slot| !committed.contains_key(&slot)))
        .map(|listed| listed.key)
        .collect();
    let reads = keys.into_iter().map(|key| async move { documents::read::<StrikeDocument>(out, &key).await });
    let documents: Vec<Option<StrikeDocument>> =
        futures::stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
    let mut strikes: BTreeMap<Slot, (usize, Vec<Segment>)> = BTreeMap::new();
    for document in documents.into_iter().flatten() {
        let (count, named) = strikes.entry(document.slot).or_default();
        *count += 1;
        let found = document.failure.in_hand;
        if !found.is_empty() && (named.is_empty() || found.total_rows() < named.total_rows()) {
            *named = found;
        }
    }
    Ok(strikes)
}

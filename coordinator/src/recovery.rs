//! What the store says of a job that was begun: which slots are committed, which are open, and what strikes stand against
//! the open ones. A listing tells whole from split; only the footers of split slots are read.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};
use gristmill_job::{Plan, Segment, Segments, Slot};
use gristmill_store::documents::{self, Child, JobDocument, StrikeDocument};
use gristmill_store::{Location, StoreError, keys, part};

use crate::scheduler::Open;

/// Footers and strikes read at one time.
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
    let committed: BTreeSet<Slot> =
        out.list("").await?.iter().filter_map(|listed| keys::slot_of_part(job.job, &listed.key)).collect();
    let children = children(out, job, &committed).await?;
    let strikes = strikes(out, &committed).await?;
    let mut recovered = Recovered { open: Vec::new(), parts: committed.len(), rows_done: 0 };
    for (index, shard) in (0..).zip(&plan.shards) {
        let mut below = vec![(Slot::root(index), shard.segments.clone())];
        while let Some((slot, segments)) = below.pop() {
            let rows = segments.total_rows();
            if committed.contains(&slot) {
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

/// The children that the parts of split slots name. An announcement alone does not count.
async fn children(
    out: &Location,
    job: &JobDocument,
    committed: &BTreeSet<Slot>,
) -> Result<BTreeMap<Slot, Vec<Child>>, StoreError> {
    let announced: BTreeSet<Slot> = out
        .list(keys::SPLITS)
        .await?
        .iter()
        .filter_map(|listed| keys::slot_of_split(&listed.key))
        .map(|(slot, _)| slot)
        .filter(|slot| committed.contains(slot))
        .collect();
    let reads = announced.into_iter().map(|slot| async move {
        let key = keys::part(job.job, &slot);
        let found = part::read_footer(out, &key, None).await?;
        let found = found.ok_or_else(|| StoreError::NotFound { object: out.describe(&key) })?;
        Ok::<_, StoreError>((slot, found.footer.children))
    });
    futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE).try_collect().await
}

/// How many strikes stand against each open slot, and the narrowest ranges that one of them names.
async fn strikes(
    out: &Location,
    committed: &BTreeSet<Slot>,
) -> Result<BTreeMap<Slot, (usize, Vec<Segment>)>, StoreError> {
    let keys: Vec<String> = out
        .list(keys::STRIKES)
        .await?
        .into_iter()
        .filter(|listed| keys::slot_of_strike(&listed.key).is_some_and(|slot| !committed.contains(&slot)))
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

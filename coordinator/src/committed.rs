//! What stands in an output: one listing, sorted into parts, announcements and dead letters, and the footers of the parts
//! in it. Recovery, seal and verify all begin here.

use std::collections::{BTreeMap, BTreeSet};

use futures::{Stream, StreamExt, stream};
use gristmill_job::{Digest, Nonce, Slot};
use gristmill_store::documents::{JobDocument, PartEntry};
use gristmill_store::part::{self, Footer};
use gristmill_store::{Location, StoreError, backoff, keys};

use crate::coverage::Claimed;

/// Footers that are asked for at once.
const AT_ONCE: usize = 64;
/// How often a read is made before its failure counts.
const TRIES: u32 = 4;

/// The objects of an output that matter, by what their keys say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Bytes of every part of this job.
    pub parts: BTreeMap<Slot, u64>,
    /// Nonces under which a slot's split is announced. Counts only if the slot's part carries one of them.
    pub splits: BTreeMap<Slot, BTreeSet<Nonce>>,
    /// Keys of the dead-letter files; counts only if a committed part names one.
    pub dead: BTreeSet<String>,
    /// Keys that end in `.parquet`, anywhere in the output, and are no part of this job.
    pub foreign: Vec<String>,
}

impl Listing {
    /// Lists an output for parts of `job`.
    ///
    /// # Errors
    /// Those of the store's listing.
    pub async fn read(out: &Location, job: Digest) -> Result<Self, StoreError> {
        let mut listing = Listing::default();
        for object in patiently(|| out.list("")).await? {
            if let Some(slot) = keys::slot_of_part(job, &object.key) {
                listing.parts.insert(slot, object.size);
            } else if object.key.ends_with(".parquet") {
                listing.foreign.push(object.key);
            } else if let Some((slot, nonce)) = keys::slot_of_split(&object.key) {
                listing.splits.entry(slot).or_default().insert(nonce);
            } else if object.key.strip_prefix(keys::DEAD).is_some_and(|rest| rest.starts_with('/')) {
                listing.dead.insert(object.key);
            }
        }
        Ok(listing)
    }

    /// The parts that may name children, with their bytes: those whose slot has an announcement. Every other part is
    /// whole, and its footer need not be read to know so.
    pub fn maybe_split(&self) -> impl Iterator<Item = (Slot, u64)> {
        self.parts.iter().filter(|(slot, _)| self.splits.contains_key(slot)).map(|(slot, size)| (slot.clone(), *size))
    }
}

/// A committed part: its footer, and what the manifest says of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// What the part says of itself.
    pub footer: Footer,
    /// Digest of its Parquet footer.
    pub footer_digest: Digest,
    /// Bytes.
    pub size: u64,
}

impl Committed {
    /// The rows that it claims.
    pub fn claimed(&self) -> Claimed {
        let footer = &self.footer;
        Claimed {
            slot: footer.slot.clone(),
            segments: footer.segments.clone(),
            covered: footer.covered.clone(),
            children: footer.children.iter().map(|child| (child.slot.clone(), child.segments.clone())).collect(),
        }
    }

    /// Its line in the table of parts.
    pub fn entry(&self) -> PartEntry {
        let footer = &self.footer;
        PartEntry {
            path: keys::part(footer.job, &footer.slot),
            size: self.size,
            slot: footer.slot.clone(),
            nonce: footer.nonce,
            rows: footer.rows,
            body: footer.body,
            footer: self.footer_digest,
            dead: footer.dead.as_ref().map(|dead| dead.key.clone()),
        }
    }
}

/// The footers of the parts in `slots`, in any order, many requests at a time. Each comes with the slot of its key, which
/// the footer itself may contradict: see [`belongs`]. A part that is gone is `NotFound`, one that cannot be parsed
/// `Malformed`; any other failure has been tried again.
pub fn committed_parts<'a>(
    out: &'a Location,
    job: Digest,
    slots: impl IntoIterator<Item = (Slot, u64)> + 'a,
) -> impl Stream<Item = (Slot, Result<Committed, StoreError>)> + 'a {
    let read = move |(slot, size): (Slot, u64)| async move {
        let part = read_part(out, &keys::part(job, &slot), size).await;
        (slot, part)
    };
    stream::iter(slots).map(read).buffer_unordered(AT_ONCE)
}

async fn read_part(out: &Location, key: &str, size: u64) -> Result<Committed, StoreError> {
    match patiently(|| part::read_footer(out, key, Some(size))).await? {
        Some(part) => Ok(Committed { footer: part.footer, footer_digest: part.footer_digest, size: part.size }),
        None => Err(StoreError::NotFound { object: out.describe(key) }),
    }
}

/// Whether a footer is of this job, plan and model and of the slot whose key it stands under; if not, in what it differs.
pub fn belongs(footer: &Footer, job: &JobDocument, slot: &Slot) -> Result<(), String> {
    let differs = |what: &str, found: &dyn std::fmt::Display, expected: &dyn std::fmt::Display| {
        Err(format!("its footer names {what} {found}, where {expected} belongs"))
    };
    if footer.job != job.job {
        return differs("job", &footer.job, &job.job);
    }
    if footer.plan != job.plan {
        return differs("plan", &footer.plan, &job.plan);
    }
    if footer.model != job.spec.model {
        return differs("model", &footer.model, &job.spec.model);
    }
    if footer.slot != *slot {
        return differs("slot", &footer.slot, slot);
    }
    Ok(())
}

/// Makes a read until it succeeds, or its failure is final. Among the many reads of a large output a few fail by chance.
pub(crate) async fn patiently<T, F>(mut read: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut tries = 0;
    loop {
        tries += 1;
        match read().await {
            Err(StoreError::DidNotHappen { .. } | StoreError::TimedOut { .. }) if tries < TRIES => backoff(tries).await,
            answer => return answer,
        }
    }
}

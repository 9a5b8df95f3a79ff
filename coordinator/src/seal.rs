//! The seal: proves from a listing and the footers that each row of the plan stands exactly once in the output, then
//! writes the manifest. What is written is a pure function of job.json and the footers, so that any coordinator, and any
//! number of them, seal the same bytes.
//!
//! Order is load-bearing: everything is checked first; the table of parts stands before the manifest names it; and the
//! manifest is last.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use gristmill_job::{DeadReason, Digest, Exit, FORMAT, Plan, Segments, Slot};
use gristmill_store::documents::{self, DeadCounts, JobDocument, Manifest, Written};
use gristmill_store::{Location, StoreError, dead, keys, staging};

use crate::committed::{Committed, Listing, belongs, committed_parts, patiently};
use crate::coverage::{self, Gap};

/// Dead-letter files that are read at once.
const AT_ONCE: usize = 16;
/// Things of one kind that a message names.
const NAMED: usize = 5;

/// How many rows of a job may have no vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeadLimits {
    /// Share of all rows whose text may be null or empty.
    pub missing_text_share: f64,
    /// Share of all rows that may be dead for other reasons.
    pub other_share: f64,
    /// So many rows may be dead for other reasons, however small the job is.
    pub other_rows: u64,
}

impl Default for DeadLimits {
    fn default() -> Self {
        DeadLimits { missing_text_share: 0.5, other_share: 0.001, other_rows: 10 }
    }
}

/// More rows without a vector than the limits allow.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "{found} of {rows} rows have no vector ({}), and at most {allowed} may; read the files under {folder}, mend the input, or raise {} and run again",
    spell(counts), option(counts), folder = keys::DEAD
)]
pub struct TooManyDead {
    /// Rows counted against the limit.
    pub found: u64,
    /// The limit.
    pub allowed: u64,
    /// All rows of the job.
    pub rows: u64,
    /// The rows counted, by reason.
    pub counts: DeadCounts,
}

fn spell(counts: &DeadCounts) -> String {
    let spelled = counts.iter().map(|(reason, rows)| format!("{} {rows}", reason.name()));
    spelled.collect::<Vec<_>>().join(", ")
}

/// The option that sets the limit for deaths of these reasons.
fn option(counts: &DeadCounts) -> &'static str {
    if counts.keys().any(|reason| reason.is_missing_text()) { "--max-missing-text" } else { "--max-dead" }
}

impl DeadLimits {
    /// Whether `counts`, which may be of a part of the job only, are within the limits of a job of `rows` rows. Once
    /// passed, a limit stays passed however the job goes on.
    ///
    /// # Errors
    /// [`TooManyDead`] of the limit that is passed, missing texts first.
    pub fn check(&self, counts: &DeadCounts, rows: u64) -> Result<(), TooManyDead> {
        let share = |share: f64| (share.clamp(0.0, 1.0) * rows as f64) as u64;
        let limits = [(true, share(self.missing_text_share)), (false, share(self.other_share).max(self.other_rows))];
        for (missing, allowed) in limits {
            let of_kind = |reason: &DeadReason| reason.is_missing_text() == missing;
            let counts: DeadCounts = counts.iter().filter(|(r, _)| of_kind(r)).map(|(r, n)| (*r, *n)).collect();
            let found = counts.values().sum();
            if found > allowed {
                return Err(TooManyDead { found, allowed, rows, counts });
            }
        }
        Ok(())
    }
}

/// A job that does not seal.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Parquet files that are not this job's would be taken for its output.
    #[error("{out} holds {} that this job has not written; move it elsewhere and run again", list(keys, "file"))]
    Foreign {
        /// The output.
        out: String,
        /// The files' keys.
        keys: Vec<String>,
    },
    /// Rows of the plan stand nowhere, or more than once.
    #[error("{out} does not hold each row exactly once: {}; {}", list(gaps, "gap"), advice(gaps))]
    NotCovered {
        /// The output.
        out: String,
        /// All that is wrong, in order of slots.
        gaps: Vec<Gap>,
    },
    /// Too many rows have no vector.
    #[error(transparent)]
    TooManyDead(#[from] TooManyDead),
    /// Something under a key of this job that the job cannot have written so.
    #[error("{object} cannot be sealed: {why}; if nothing else writes there, move it out of the output and run again")]
    Stranger {
        /// URL of the object.
        object: String,
        /// In which way.
        why: String,
    },
    /// The store failed, again and again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn list<T: ToString>(things: &[T], noun: &str) -> String {
    let named: Vec<_> = things.iter().take(NAMED).map(T::to_string).collect();
    match things.len().saturating_sub(NAMED) {
        0 => named.join("; "),
        more => format!("{}; and {more} more {noun}s", named.join("; ")),
    }
}

fn advice(gaps: &[Gap]) -> &'static str {
    if gaps.iter().all(Gap::is_open) {
        "run again to compute what is open"
    } else {
        "a part is damaged or another program writes there; run `gristmill verify` for all of it"
    }
}

impl SealError {
    /// How a program ends that cannot seal for this reason.
    pub fn exit(&self) -> Exit {
        match self {
            SealError::NotCovered { gaps, .. } if gaps.iter().all(Gap::is_open) => Exit::NoProgress,
            SealError::Store(_) => Exit::NoProgress,
            SealError::Foreign { .. }
            | SealError::NotCovered { .. }
            | SealError::TooManyDead(_)
            | SealError::Stranger { .. } => Exit::NeedsAttention,
        }
    }
}

/// Seals a job, or says why it cannot be. May be repeated, by anybody, at any time: an output that is sealed already is
/// checked again and its manifest returned.
///
/// # Errors
/// Every [`SealError`]; nothing has been written then, but for a table of parts that nobody names.
pub async fn seal(out: &Location, job: &JobDocument, plan: &Plan, limits: &DeadLimits) -> Result<Manifest, SealError> {
    let listing = Listing::read(out, job.job).await?;
    if !listing.foreign.is_empty() {
        return Err(SealError::Foreign { out: out.url().to_owned(), keys: listing.foreign });
    }
    let parts = footers(out, job, &listing).await?;
    coverage::check(plan, parts.iter().map(Committed::claimed))
        .map_err(|gaps| SealError::NotCovered { out: out.url().to_owned(), gaps })?;
    check_splits(out, &listing, &parts)?;
    check_dead(out, &parts).await?;
    let (manifest, table) = manifest_of(job, &parts);
    limits.check(&manifest.dead, manifest.rows)?;
    write(out, &keys::table(manifest.table), table).await?;
    write(out, keys::MANIFEST, documents::encode(&manifest)).await?;
    sweep(out).await;
    Ok(manifest)
}

/// The manifest and the table of parts that it names. The order of `parts` does not matter.
pub fn manifest_of(job: &JobDocument, parts: &[Committed]) -> (Manifest, Bytes) {
    let mut entries: Vec<_> = parts.iter().map(Committed::entry).collect();
    entries.sort_by(|a, b| a.slot.cmp(&b.slot));
    let mut table = Vec::new();
    for entry in &entries {
        serde_json::to_writer(&mut table, entry).expect("an entry is plain data");
        table.push(b'\n');
    }
    let mut dead = DeadCounts::new();
    for (reason, rows) in parts.iter().filter_map(|part| part.footer.dead.as_ref()).flat_map(|file| &file.rows) {
        *dead.entry(*reason).or_default() += rows;
    }
    let vectors = parts.iter().map(|part| part.footer.rows).sum();
    let manifest = Manifest {
        format: FORMAT,
        job: job.job,
        plan: job.plan,
        model: job.spec.model,
        rows: vectors + dead.values().sum::<u64>(),
        vectors,
        tokens: parts.iter().map(|part| part.footer.tokens).sum(),
        dead,
        parts: parts.len() as u64,
        table: Digest::of(&table),
    };
    (manifest, table.into())
}

/// Every part's footer, each of this job and of the slot that it stands under.
async fn footers(out: &Location, job: &JobDocument, listing: &Listing) -> Result<Vec<Committed>, SealError> {
    let slots = listing.parts.iter().map(|(slot, size)| (slot.clone(), *size));
    let mut parts = Vec::with_capacity(listing.parts.len());
    let mut answers = std::pin::pin!(committed_parts(out, job.job, slots));
    while let Some((slot, answer)) = answers.next().await {
        let part = answer.map_err(stranger)?;
        belongs(&part.footer, job, &slot).map_err(|why| part_stranger(out, job.job, &slot, why))?;
        let (covered, held) = (part.footer.covered.total_rows(), &part.footer);
        if covered != held.rows + held.dead_rows() {
            let why = format!("it covers {covered} rows, but has {} and {} dead letters", held.rows, held.dead_rows());
            return Err(part_stranger(out, job.job, &slot, why));
        }
        parts.push(part);
    }
    Ok(parts)
}

fn part_stranger(out: &Location, job: Digest, slot: &Slot, why: String) -> SealError {
    SealError::Stranger { object: out.describe(&keys::part(job, slot)), why }
}

/// What cannot be parsed is nothing that this job wrote.
fn stranger(error: StoreError) -> SealError {
    match error {
        StoreError::Malformed { object, why } => SealError::Stranger { object, why },
        error => SealError::Store(error),
    }
}

/// A listing must tell whole from split: whoever names children has announced it.
fn check_splits(out: &Location, listing: &Listing, parts: &[Committed]) -> Result<(), SealError> {
    for footer in parts.iter().map(|part| &part.footer).filter(|footer| !footer.children.is_empty()) {
        if !listing.splits.get(&footer.slot).is_some_and(|nonces| nonces.contains(&footer.nonce)) {
            let why = format!("it names children, but {} is not there", keys::split(&footer.slot, footer.nonce));
            return Err(part_stranger(out, footer.job, &footer.slot, why));
        }
    }
    Ok(())
}

/// Every dead-letter file that a part names is there, and is what the part says.
async fn check_dead(out: &Location, parts: &[Committed]) -> Result<(), SealError> {
    let named = parts.iter().filter(|part| part.footer.dead.is_some());
    let checks = named.map(|part| async move {
        let footer = &part.footer;
        let file = footer.dead.as_ref().expect("filtered by it");
        let object = out.describe(&file.key);
        let refuse = |why: &str| Err(SealError::Stranger { object: object.clone(), why: why.to_owned() });
        let Some(bytes) = patiently(|| out.get(&file.key)).await? else {
            return refuse("it is gone, and a part names it");
        };
        if Digest::of(&bytes) != file.digest {
            return refuse("its bytes are not those that the part names");
        }
        let (header, letters) = dead::read(&object, &bytes).map_err(stranger)?;
        if (header.job, &header.slot, header.nonce) != (footer.job, &footer.slot, footer.nonce) {
            return refuse("its first line names another part");
        }
        let mut counts = DeadCounts::new();
        for letter in letters {
            *counts.entry(letter.reason).or_default() += 1;
        }
        if counts != file.rows { refuse("it has other rows than the part says") } else { Ok(()) }
    });
    stream::iter(checks).buffer_unordered(AT_ONCE).try_collect().await
}

/// Writes bytes that any coordinator would write here.
async fn write(out: &Location, key: &str, bytes: Bytes) -> Result<(), SealError> {
    match documents::create_bytes(out, key, bytes).await? {
        Written::Same => Ok(()),
        Written::Other(_) => Err(SealError::Stranger {
            object: out.describe(key),
            why: "it has other bytes than the committed parts lead to".into(),
        }),
    }
}

async fn sweep(out: &Location) {
    let swept = {
        let out = out.clone();
        tokio::task::spawn_blocking(move || staging::sweep(&out)).await
    };
    match swept {
        Ok(Ok(files)) => tracing::debug!(files, "stale staging files swept"),
        Ok(Err(error)) => tracing::warn!(%error, "stale staging files stay"),
        Err(error) => tracing::warn!(%error, "stale staging files stay"),
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;

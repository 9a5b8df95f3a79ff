//! Verify: checks the whole promise from the store alone. It reads job.json, the plan, the manifest and every byte of every
//! part, once, and with the input beside it every row that was embedded. It never writes.
//!
//! A damage is a finding and never ends the search; an error is what keeps verify from looking.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use gristmill_job::{Digest, Exit, Plan, Segment, Segments, Slot};
use gristmill_store::documents::{DeadCounts, JobDocument, Manifest, PartEntry};
use gristmill_store::input::{InputError, Object, RowsError};
use gristmill_store::{Location, StoreError, keys, schema};
use serde::Serialize;
use tokio::runtime::Handle;

use crate::committed::{Committed, Listing};
use crate::coverage::{self, Gap};
use crate::seal::manifest_of;

mod corpus;
mod damage;
mod part;
mod roots;
mod rows;

pub use damage::{Damage, DamageKind};

use damage::Findings;
use part::Shared;
use roots::Sealed;

/// How much to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Read the input again and compare digests of texts and carried values.
    pub input: bool,
    /// Take so many rows with their texts and vectors, spread over the job, so that a caller can compute them again.
    pub samples: u64,
    /// Damages that are reported in full; more are counted.
    pub damages_max: usize,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        VerifyOptions { input: false, samples: 0, damages_max: 100 }
    }
}

/// What cannot be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no job.
    #[error("{0} does not exist: name the folder that `gristmill embed` was given as --output")]
    NoJob(String),
    /// The store failed, again and again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row that was to be computed again cannot be read.
    #[error(transparent)]
    Sample(#[from] RowsError),
}

impl VerifyError {
    /// How a program ends that cannot verify for this reason.
    pub fn exit(&self) -> Exit {
        Exit::Input
    }
}

/// A row as the output and the input have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// URL of the part that has its vector.
    pub part: String,
    /// URL of the row's object.
    pub object: String,
    /// Its number in the object.
    pub row: u64,
    /// Its text in the input.
    pub text: String,
    /// Its vector in the output.
    pub vector: Vec<f32>,
}

/// What verify has seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// URL of the output.
    pub out: String,
    /// The job, where job.json could be read.
    #[serde(skip)]
    pub job: Option<JobDocument>,
    /// Whether there is a manifest.
    pub sealed: bool,
    /// Parts that could be read.
    pub parts: u64,
    /// Bytes of all parts.
    pub bytes: u64,
    /// Rows that those parts cover.
    pub rows: u64,
    /// Rows that the plan has.
    pub rows_planned: u64,
    /// Rows with a vector.
    pub vectors: u64,
    /// Tokens of those.
    pub tokens: u64,
    /// Rows without one, by reason.
    pub dead: DeadCounts,
    /// Rows that were compared with the input.
    pub compared: u64,
    /// Objects that no part names: dead letters and announcements of attempts that lost. Harmless.
    pub leftovers: u64,
    /// In a job that is not sealed: what is not committed.
    #[serde(skip)]
    pub open: Vec<Gap>,
    /// What is damaged, the first so many.
    pub damages: Vec<Damage>,
    /// How many damages there are.
    pub damages_found: u64,
    /// Rows to compute again.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

impl Report {
    /// How a program ends that has verified: damage first, then a job that is not sealed.
    pub fn exit(&self) -> Exit {
        match (self.damages_found, self.sealed) {
            (1.., _) => Exit::Damaged,
            (0, false) => Exit::NoProgress,
            (0, true) => Exit::Done,
        }
    }
}

/// Verifies an output.
///
/// # Errors
/// Every [`VerifyError`]; a damage is none, but stands in the report.
pub async fn verify(out: &Location, options: &VerifyOptions) -> Result<Report, VerifyError> {
    let findings = Findings::new(options.damages_max);
    let job = roots::job(out, &findings).await?;
    let plan = match &job {
        Some(job) => roots::plan(out, job, &findings).await?,
        None => None,
    };
    let (Some(job), Some(plan)) = (job, plan) else {
        return Ok(empty_report(out, &findings));
    };
    let listing = Listing::read(out, job.job).await?;
    for key in &listing.foreign {
        findings.add(&out.describe(key), DamageKind::Foreign, "no part of this job; whoever globs reads it");
    }
    let sealed = roots::seal(out, &job, &findings).await?;
    let entries = entries(out, job.job, &listing, &sealed, &findings);
    let shared = Arc::new(Shared {
        out: out.clone(),
        input: options.input,
        wanted: pick(job.job, &plan, options.samples),
        findings,
        kept: Mutex::default(),
        compared: AtomicU64::new(0),
        runtime: Handle::current(),
        job,
        plan,
    });
    let parts = check_parts(&shared, &listing, &entries).await?;
    let open = check_coverage(&shared, &listing, &parts, !matches!(sealed, Sealed::No));
    if let Sealed::Yes { manifest, entries } = &sealed {
        check_manifest(&shared, manifest, entries, &parts);
    }
    let samples = samples(&shared).await?;
    Ok(report(&shared, &listing, &sealed, &parts, open, samples))
}

fn empty_report(out: &Location, findings: &Findings) -> Report {
    let (damages, damages_found) = findings.take();
    Report {
        out: out.url().to_owned(),
        job: None,
        sealed: false,
        parts: 0,
        bytes: 0,
        rows: 0,
        rows_planned: 0,
        vectors: 0,
        tokens: 0,
        dead: DeadCounts::new(),
        compared: 0,
        leftovers: 0,
        open: Vec::new(),
        damages,
        damages_found,
        samples: Vec::new(),
    }
}

fn report(
    shared: &Shared,
    listing: &Listing,
    sealed: &Sealed,
    parts: &[Committed],
    open: Vec<Gap>,
    samples: Vec<Sample>,
) -> Report {
    let (summed, _) = manifest_of(&shared.job, parts);
    let named_dead: BTreeSet<_> = parts.iter().filter_map(|part| part.footer.dead.as_ref()).map(|d| &d.key).collect();
    let announced: usize = listing.splits.values().map(BTreeSet::len).sum();
    let split = parts.iter().filter(|part| !part.footer.children.is_empty()).count();
    let leftover_dead = listing.dead.iter().filter(|key| !named_dead.contains(key)).count();
    Report {
        job: Some(shared.job.clone()),
        sealed: !matches!(sealed, Sealed::No),
        parts: summed.parts,
        bytes: listing.parts.values().sum(),
        rows: summed.rows,
        rows_planned: shared.plan.rows(),
        vectors: summed.vectors,
        tokens: summed.tokens,
        dead: summed.dead,
        compared: shared.compared.load(std::sync::atomic::Ordering::Relaxed),
        leftovers: (announced.saturating_sub(split) + leftover_dead) as u64,
        open,
        samples,
        ..empty_report(&shared.out, &shared.findings)
    }
}

/// The table's lines by slot, each of a part that is there, and no part without one.
fn entries(
    out: &Location,
    job: Digest,
    listing: &Listing,
    sealed: &Sealed,
    findings: &Findings,
) -> BTreeMap<Slot, PartEntry> {
    let Sealed::Yes { entries, .. } = sealed else { return BTreeMap::new() };
    for entry in entries.values().filter(|entry| !listing.parts.contains_key(&entry.slot)) {
        findings.add(
            &out.describe(&entry.path),
            DamageKind::PartMissing,
            "the table of parts names it, and it is gone",
        );
    }
    for slot in listing.parts.keys().filter(|slot| !entries.contains_key(slot)) {
        let detail = format!("it stands at slot {slot}, and the table of parts does not name it");
        findings.add(&out.describe(&keys::part(job, slot)), DamageKind::PartUnlisted, detail);
    }
    entries.clone()
}

/// Every part that the listing has, as many at a time as there are cores.
async fn check_parts(
    shared: &Arc<Shared>,
    listing: &Listing,
    entries: &BTreeMap<Slot, PartEntry>,
) -> Result<Vec<Committed>, VerifyError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let checks = listing.parts.iter().map(|(slot, size)| {
        let (shared, slot, size, entry) = (Arc::clone(shared), slot.clone(), *size, entries.get(slot).cloned());
        async move {
            let object = shared.out.describe(&keys::part(shared.job.job, &slot));
            let run = {
                let shared = Arc::clone(&shared);
                tokio::task::spawn_blocking(move || part::check(&shared, &slot, size, entry.as_ref()))
            };
            match run.await {
                Ok(checked) => checked,
                // The Parquet decoder may panic on bytes that are not what the footer promises.
                Err(ended) => {
                    shared.findings.add(&object, DamageKind::Undecodable, format!("the decoder gave up: {ended}"));
                    Ok(None)
                }
            }
        }
    });
    let parts: Vec<Option<Committed>> = stream::iter(checks).buffer_unordered(cores).try_collect().await?;
    Ok(parts.into_iter().flatten().collect())
}

/// Whether the parts hold each row of the plan exactly once. Returns what is open in a job that is not sealed.
fn check_coverage(shared: &Shared, listing: &Listing, parts: &[Committed], sealed: bool) -> Vec<Gap> {
    let Err(gaps) = coverage::check(&shared.plan, parts.iter().map(Committed::claimed)) else { return Vec::new() };
    let mut open = Vec::new();
    for gap in gaps {
        // A part that is there and cannot be read has been found already.
        let unreadable = gap.is_open() && listing.parts.contains_key(gap.slot());
        if unreadable {
            continue;
        }
        if gap.is_open() && !sealed {
            open.push(gap);
            continue;
        }
        let kind = match gap {
            Gap::Missing { .. } | Gap::Lacking { .. } => DamageKind::Uncovered,
            Gap::BelowWhole { .. } => DamageKind::WholeAndSplit,
            _ => DamageKind::Coverage,
        };
        shared.findings.add(&shared.out.describe(&keys::part(shared.job.job, gap.slot())), kind, gap.to_string());
    }
    open
}

/// The manifest is a pure function of job.json and the footers. Where parts and table disagree that has been found
/// already, and the manifest cannot fit both.
fn check_manifest(shared: &Shared, manifest: &Manifest, entries: &BTreeMap<Slot, PartEntry>, parts: &[Committed]) {
    let agrees = |part: &Committed| entries.get(&part.footer.slot) == Some(&part.entry());
    let (expected, _) = manifest_of(&shared.job, parts);
    if parts.len() == entries.len() && parts.iter().all(agrees) && *manifest != expected {
        let show = |manifest: &Manifest| serde_json::to_string(manifest).expect("a manifest is plain data");
        let detail = format!("it says {}, the parts lead to {}", show(manifest), show(&expected));
        shared.findings.add(&shared.out.describe(keys::MANIFEST), DamageKind::Manifest, detail);
    }
}

/// `samples` rows of the plan: one from each of as many stretches of equal length, at a place that the job's digest
/// chooses.
fn pick(job: Digest, plan: &Plan, samples: u64) -> BTreeSet<(u32, u64)> {
    let rows = plan.rows();
    let samples = samples.min(rows);
    let mut positions = (0..samples).map(|i| {
        let place = |i: u64| (u128::from(rows) * u128::from(i) / u128::from(samples)) as u64;
        let (from, to) = (place(i), place(i + 1));
        let digest = blake3::hash(format!("{job} {i}").as_bytes());
        let random = u64::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"));
        from + random % (to - from)
    });
    let mut picked = BTreeSet::new();
    let mut passed = 0;
    let mut next = positions.next();
    for shard in &plan.shards {
        let end = passed + shard.segments.total_rows();
        while let Some(position) = next.filter(|position| *position < end) {
            picked.extend(shard.segments.locate(position - passed));
            next = positions.next();
        }
        passed = end;
    }
    picked
}

/// The picked rows that have vectors, with their texts.
async fn samples(shared: &Arc<Shared>) -> Result<Vec<Sample>, VerifyError> {
    let kept = std::mem::take(&mut *shared.kept.lock().unwrap_or_else(PoisonError::into_inner));
    let mut samples = Vec::with_capacity(kept.len());
    for row in kept {
        let object = &shared.plan.objects[row.object as usize].object;
        let changed = |why: String| shared.findings.add(object, DamageKind::InputChanged, why);
        match text_of(shared, row.object, row.row).await {
            Ok(Some(text)) => {
                let (part, object) = (row.part, object.clone());
                samples.push(Sample { part, object, row: row.row, text, vector: row.vector });
            }
            Ok(None) => changed(format!("row {} has a vector in the output, and no text", row.row)),
            Err(RowsError::Input(error @ InputError::Changed { .. })) => changed(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    samples.sort_by(|a, b| (&a.object, a.row).cmp(&(&b.object, b.row)));
    Ok(samples)
}

/// The text of one row of the input.
async fn text_of(shared: &Shared, object: u32, row: u64) -> Result<Option<String>, RowsError> {
    let pinned = Object::open(&shared.plan.objects[object as usize]).await?;
    let column = shared.job.spec.selection.text_column.clone();
    let segment = Segment { object, start: row, end: row + 1 };
    let runtime = shared.runtime.clone();
    let read = move || {
        let Some(batch) = pinned.rows(segment, &[&column], runtime)?.next().transpose()? else { return Ok(None) };
        let texts = batch.column_by_name(&column).filter(|texts| schema::is_text(texts.data_type()));
        Ok(texts.and_then(|texts| schema::texts(texts).first().copied().flatten().map(str::to_owned)))
    };
    // A decoder that gives up has no text either.
    tokio::task::spawn_blocking(read).await.unwrap_or(Ok(None))
}

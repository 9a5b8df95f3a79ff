//! The documents that everything else is checked against: job.json, the plan, the manifest and its table of parts, and that
//! they agree.

use std::collections::BTreeMap;

use gristmill_job::{Digest, Pin, Plan, Segment, Segments, Slot};
use gristmill_store::documents::{self, JobDocument, Manifest, PartEntry};
use gristmill_store::{Location, StoreError, keys};

use super::VerifyError;
use super::damage::{DamageKind, Findings};
use crate::committed::patiently;
use crate::coverage::{self, Claimed};

/// job.json, or `None` where it is damaged beyond use.
pub(crate) async fn job(out: &Location, findings: &Findings) -> Result<Option<JobDocument>, VerifyError> {
    let object = out.describe(keys::JOB);
    let Some(bytes) = patiently(|| out.get(keys::JOB)).await? else { return Err(VerifyError::NoJob(object)) };
    let job: JobDocument = match documents::decode(&object, &bytes) {
        Ok(job) => job,
        Err(error) => {
            findings.add(&object, DamageKind::JobDocument, error.to_string());
            return Ok(None);
        }
    };
    let digest = job.spec.digest();
    if digest != job.job {
        let detail = format!("its specification has digest {digest}, and it names job {}", job.job);
        findings.add(&object, DamageKind::JobDigest, detail);
    }
    Ok(Some(job))
}

/// The plan, or `None` where it is damaged beyond use.
pub(crate) async fn plan(out: &Location, job: &JobDocument, findings: &Findings) -> Result<Option<Plan>, StoreError> {
    let object = out.describe(&keys::plan(job.plan));
    let plan = match patiently(|| documents::read_plan(out, job.plan)).await {
        Ok(plan) => plan,
        Err(error @ (StoreError::NotFound { .. } | StoreError::Malformed { .. })) => {
            findings.add(&object, DamageKind::Plan, error.to_string());
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let snapshot = Pin::snapshot(&plan.objects);
    if snapshot != job.spec.snapshot {
        let detail = format!("its objects have digest {snapshot}, the specification says {}", job.spec.snapshot);
        findings.add(&object, DamageKind::Snapshot, detail);
    }
    if !is_selection(&plan, job.spec.selection.limit) {
        let detail = format!("its shards have {} rows, which are not the selected ones", plan.rows());
        findings.add(&object, DamageKind::PlanRows, detail);
    }
    Ok(Some(plan))
}

/// Whether the shards are together the first `limit` rows of the objects, each once.
fn is_selection(plan: &Plan, limit: Option<u64>) -> bool {
    let all: Vec<Segment> =
        (0..).zip(&plan.objects).map(|(object, pin)| Segment { object, start: 0, end: pin.rows }).collect();
    let selected = all.slice(0, limit.unwrap_or(u64::MAX));
    let planned = Claimed {
        slot: Slot::root(0),
        segments: selected.clone(),
        covered: plan.shards.iter().flat_map(|shard| shard.segments.iter().copied()).collect(),
        children: Vec::new(),
    };
    coverage::check_part(&selected, &planned).is_empty()
}

/// What is said of the seal.
pub(crate) enum Sealed {
    /// There is no manifest.
    No,
    /// There is one, and it or its table cannot be used.
    Damaged,
    /// There is one.
    Yes {
        /// The manifest.
        manifest: Box<Manifest>,
        /// Its table of parts.
        entries: BTreeMap<Slot, PartEntry>,
    },
}

/// The manifest and its table.
pub(crate) async fn seal(out: &Location, job: &JobDocument, findings: &Findings) -> Result<Sealed, StoreError> {
    let object = out.describe(keys::MANIFEST);
    let Some(bytes) = patiently(|| out.get(keys::MANIFEST)).await? else { return Ok(Sealed::No) };
    let manifest: Manifest = match documents::decode(&object, &bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            findings.add(&object, DamageKind::Manifest, error.to_string());
            return Ok(Sealed::Damaged);
        }
    };
    if documents::encode(&manifest) != bytes {
        findings.add(&object, DamageKind::Manifest, "it says more than a manifest does, or in another form");
    }
    let named =
        [("job", manifest.job, job.job), ("plan", manifest.plan, job.plan), ("model", manifest.model, job.spec.model)];
    for (what, found, expected) in named.into_iter().filter(|(_, found, expected)| found != expected) {
        findings.add(&object, DamageKind::Manifest, format!("it names {what} {found}; job.json names {expected}"));
    }
    match table(out, manifest.table, findings).await? {
        Some(entries) => {
            check_entries(out, job, &manifest, &entries, findings);
            let entries = entries.into_iter().map(|entry| (entry.slot.clone(), entry)).collect();
            Ok(Sealed::Yes { manifest: Box::new(manifest), entries })
        }
        None => Ok(Sealed::Damaged),
    }
}

async fn table(out: &Location, digest: Digest, findings: &Findings) -> Result<Option<Vec<PartEntry>>, StoreError> {
    let key = keys::table(digest);
    let object = out.describe(&key);
    let Some(bytes) = patiently(|| out.get(&key)).await? else {
        findings.add(&object, DamageKind::Table, "it is gone, and the manifest names it");
        return Ok(None);
    };
    if Digest::of(&bytes) != digest {
        findings.add(&object, DamageKind::Table, "its bytes are not those of its digest");
    }
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    match lines.map(serde_json::from_slice).collect::<Result<Vec<PartEntry>, _>>() {
        Ok(entries) => Ok(Some(entries)),
        Err(error) => {
            findings.add(&object, DamageKind::Table, format!("a line is not readable: {error}"));
            Ok(None)
        }
    }
}

fn check_entries(out: &Location, job: &JobDocument, manifest: &Manifest, entries: &[PartEntry], findings: &Findings) {
    let object = out.describe(&keys::table(manifest.table));
    if entries.len() as u64 != manifest.parts {
        let detail = format!("it has {} parts, the manifest says {}", entries.len(), manifest.parts);
        findings.add(&object, DamageKind::Table, detail);
    }
    let rows: u64 = entries.iter().map(|entry| entry.rows).sum();
    if rows != manifest.vectors {
        let detail = format!("it has {rows} rows, the manifest says {}", manifest.vectors);
        findings.add(&object, DamageKind::Table, detail);
    }
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].slot >= pair[1].slot) {
        findings.add(&object, DamageKind::Table, format!("slot {} does not stand at its place", pair[1].slot));
    }
    for entry in entries.iter().filter(|entry| entry.path != keys::part(job.job, &entry.slot)) {
        let detail = format!("it names {} for slot {}, which is no part of this job", entry.path, entry.slot);
        findings.add(&object, DamageKind::Table, detail);
    }
}

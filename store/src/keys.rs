//! Every key of an output, in one place. Keys are relative to the output's root.
//!
//! Nothing under `_gristmill` ends in `.parquet`, so that `out/**/*.parquet` is parts and nothing else.

use gristmill_job::{Digest, Nonce, Slot};

/// The folder of everything that is not a part.
pub const META: &str = "_gristmill";
/// The only root: names the plan and the specification.
pub const JOB: &str = "_gristmill/job.json";
/// Seals the job.
pub const MANIFEST: &str = "_gristmill/manifest.json";
/// Dead-letter files.
pub const DEAD: &str = "_gristmill/dead";
/// Announcements of splits.
pub const SPLITS: &str = "_gristmill/split";
/// Strikes, by slot.
pub const STRIKES: &str = "_gristmill/strikes";
/// Who coordinates, numbered.
pub const EPOCHS: &str = "_gristmill/epoch";
/// What the probe leaves behind.
pub const PROBES: &str = "_gristmill/probe";

/// The plan of that digest.
pub fn plan(digest: Digest) -> String {
    format!("{META}/plan-{digest}")
}

/// The table of parts of that digest.
pub fn table(digest: Digest) -> String {
    format!("{META}/parts-{digest}")
}

/// The part of a slot. Creating it is the commit.
pub fn part(job: Digest, slot: &Slot) -> String {
    format!("part-{}-{slot}.parquet", job.short())
}

/// The slot of a part's key, if it is a key of this job.
pub fn slot_of_part(job: Digest, key: &str) -> Option<Slot> {
    let rest = key.strip_prefix("part-")?.strip_prefix(&job.short())?;
    rest.strip_prefix('-')?.strip_suffix(".parquet")?.parse().ok()
}

/// Announces that a part of that nonce names children.
pub fn split(slot: &Slot, nonce: Nonce) -> String {
    format!("{SPLITS}/{slot}-{nonce}")
}

/// The slot and nonce of an announcement's key.
pub fn slot_of_split(key: &str) -> Option<(Slot, Nonce)> {
    let (slot, nonce) = key.strip_prefix(SPLITS)?.strip_prefix('/')?.split_once('-')?;
    Some((slot.parse().ok()?, nonce.parse().ok()?))
}

/// The dead letters of a part of that nonce.
pub fn dead(slot: &Slot, nonce: Nonce) -> String {
    format!("{DEAD}/{slot}-{nonce}")
}

/// One strike against a slot.
pub fn strike(slot: &Slot, nonce: Nonce) -> String {
    format!("{STRIKES}/{slot}/{nonce}")
}

/// The slot of a strike's key.
pub fn slot_of_strike(key: &str) -> Option<Slot> {
    key.strip_prefix(STRIKES)?.strip_prefix('/')?.split_once('/')?.0.parse().ok()
}

/// The record of who coordinates in that epoch.
pub fn epoch(number: u64) -> String {
    format!("{EPOCHS}/{number:06}")
}

/// The number of an epoch's key.
pub fn number_of_epoch(key: &str) -> Option<u64> {
    key.strip_prefix(EPOCHS)?.strip_prefix('/')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let (job, slot, nonce) = (Digest::of(b"job"), Slot::root(17).child(2), Nonce::from_bytes([7; 16]));
        assert_eq!(slot_of_part(job, &part(job, &slot)), Some(slot.clone()));
        assert_eq!(slot_of_part(Digest::of(b"another"), &part(job, &slot)), None);
        assert_eq!(slot_of_split(&split(&slot, nonce)), Some((slot.clone(), nonce)));
        assert_eq!(slot_of_strike(&strike(&slot, nonce)), Some(slot));
        assert_eq!(number_of_epoch(&epoch(3)), Some(3));
    }
}

#![allow(clippy::unwrap_used)]

use gristmill_job::{
    Compute, DeadReason, JobSpec, Nonce, Pin, Residual, Segment, Selection, Shard, SpecialTokens, TextSpec, VectorSpec,
    VectorType,
};
use gristmill_store::part::{DeadFile, Footer};
use proptest::prelude::*;

use super::*;

fn job() -> JobDocument {
    let spec = JobSpec {
        format: FORMAT,
        model: Digest::of(b"model"),
        selection: Selection { text_column: "content".into(), columns: vec![], limit: None },
        text: TextSpec { prompt: String::new(), special_tokens: SpecialTokens::Parse, max_tokens: 8 },
        vectors: VectorSpec {
            width: 2,
            dtype: VectorType::F32,
            normalised: true,
            compute: Compute::F32,
            residual: Residual::Projected,
        },
        schema: vec![],
        snapshot: Digest::of(b"snapshot"),
    };
    JobDocument {
        format: FORMAT,
        job: spec.digest(),
        plan: Digest::of(b"plan"),
        spec,
        model: "m".into(),
        unknown_config_keys: vec![],
        written_by: "a test".into(),
    }
}

fn part(slot: Slot, covered: Segment, dead: &[(DeadReason, u64)]) -> Committed {
    let job = job();
    let nonce = Nonce::from_bytes([slot.shard() as u8; 16]);
    let rows: DeadCounts = dead.iter().copied().collect();
    let dead_rows: u64 = rows.values().sum();
    let file = DeadFile { key: keys::dead(&slot, nonce), rows, digest: Digest::of(b"dead") };
    let footer = Footer {
        format: FORMAT,
        job: job.job,
        plan: job.plan,
        model: job.spec.model,
        nonce,
        segments: vec![covered],
        covered: vec![covered],
        children: vec![],
        rows: covered.rows() - dead_rows,
        tokens: 3 * covered.rows(),
        dead: (dead_rows > 0).then_some(file),
        body: Digest::of(slot.to_string().as_bytes()),
        slot,
    };
    Committed { footer_digest: Digest::of(b"footer"), size: 1000, footer }
}

fn parts() -> Vec<Committed> {
    let segment = |start, end| Segment { object: 0, start, end };
    vec![
        part(Slot::root(0), segment(0, 10), &[]),
        part(Slot::root(1), segment(10, 12), &[(DeadReason::NullText, 2)]),
        part(Slot::root(1).child(0), segment(12, 20), &[(DeadReason::NullText, 1), (DeadReason::Poison, 1)]),
        part(Slot::root(1).child(10), segment(20, 21), &[]),
        part(Slot::root(2), segment(21, 30), &[]),
    ]
}

proptest! {
    #[test]
    fn the_order_in_which_footers_arrive_changes_no_byte(shuffled in Just(parts()).prop_shuffle()) {
        let (manifest, table) = manifest_of(&job(), &shuffled);
        let (expected, expected_table) = manifest_of(&job(), &parts());
        prop_assert_eq!(documents::encode(&manifest), documents::encode(&expected));
        prop_assert_eq!(table, expected_table);
    }
}

#[test]
fn the_manifest_adds_up() {
    let (manifest, table) = manifest_of(&job(), &parts());
    assert_eq!((manifest.rows, manifest.vectors, manifest.tokens, manifest.parts), (30, 26, 90, 5));
    assert_eq!(manifest.dead, DeadCounts::from([(DeadReason::NullText, 3), (DeadReason::Poison, 1)]));
    assert_eq!(manifest.table, Digest::of(&table));
    let slots: Vec<String> = table
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice::<gristmill_store::documents::PartEntry>(line).unwrap().slot.to_string())
        .collect();
    assert_eq!(slots, ["000000", "000001", "000001.0", "000001.10", "000002"]);
}

#[test]
fn missing_texts_and_other_deaths_have_limits_of_their_own() {
    let limits = DeadLimits::default();
    let counts = |missing, other| DeadCounts::from([(DeadReason::EmptyText, missing), (DeadReason::Poison, other)]);
    assert_eq!(limits.check(&counts(500, 10), 1000), Ok(()), "both at their limit");
    let error = limits.check(&counts(501, 0), 1000).unwrap_err();
    assert_eq!((error.found, error.allowed), (501, 500));
    let error = limits.check(&counts(0, 11), 1000).unwrap_err();
    assert_eq!((error.found, error.allowed), (11, 10), "ten rows however few there are");
    let message = error.to_string();
    assert!(message.contains("POISON 11") && message.contains("raise --max-dead"), "{message}");
    assert_eq!(limits.check(&counts(0, 100), 100_000), Ok(()));
    assert_eq!(limits.check(&counts(0, 101), 100_000).unwrap_err().allowed, 100);
    let both = DeadCounts::from([(DeadReason::EmptyText, 300), (DeadReason::NullText, 201)]);
    assert_eq!(limits.check(&both, 1000).unwrap_err().found, 501, "null and empty are counted together");
}

#[tokio::test]
async fn an_open_slot_and_a_foreign_file_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let out = Location::open_path(folder.path()).unwrap();
    let pin = Pin {
        object: "file:///a.parquet".into(),
        version: "1".into(),
        size: 1,
        modified_us: 0,
        e_tag: None,
        footer: Digest::of(b"f"),
        rows: 3,
    };
    let shard = Shard { segments: vec![Segment { object: 0, start: 0, end: 3 }], tokens: 3 };
    let plan = Plan { format: FORMAT, objects: vec![pin], shards: vec![shard] };
    let error = seal(&out, &job(), &plan, &DeadLimits::default()).await.unwrap_err();
    assert!(matches!(&error, SealError::NotCovered { gaps, .. } if gaps.len() == 1), "{error}");
    assert_eq!(error.exit(), Exit::NoProgress);
    assert!(error.to_string().contains("slot 000000 is not committed"), "{error}");

    std::fs::create_dir(folder.path().join("below")).unwrap();
    std::fs::write(folder.path().join("below/theirs.parquet"), b"PAR1").unwrap();
    let error = seal(&out, &job(), &plan, &DeadLimits::default()).await.unwrap_err();
    assert!(matches!(&error, SealError::Foreign { keys, .. } if keys == &["below/theirs.parquet"]), "{error}");
    assert_eq!(error.exit(), Exit::NeedsAttention);

    std::fs::remove_file(folder.path().join("below/theirs.parquet")).unwrap();
    std::fs::write(folder.path().join(keys::part(job().job, &Slot::root(0))), b"this is no part").unwrap();
    let error = seal(&out, &job(), &plan, &DeadLimits::default()).await.unwrap_err();
    assert!(matches!(&error, SealError::Stranger { .. }), "{error}");
    assert!(!folder.path().join(keys::MANIFEST).exists());
}

//! Damage is planted one by one into a sealed output, and verify must find each and call it by its name. Where a damage is
//! of the rows, every digest is made to fit again, so that nothing but the rows can give it away.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use arrow_schema::Schema;
use gristmill_coordinator::seal::SealError;
use gristmill_coordinator::verify::DamageKind as K;
use gristmill_coordinator::verify::{DamageKind, Report, VerifyError, VerifyOptions, verify};
use gristmill_job::{Compression, DeadReason, Digest, Exit, Segment, Slot, VectorType};
use gristmill_store::documents::{self, Manifest};
use gristmill_store::{Location, keys, schema};
use gristmill_tests::planted::{Draft, Planted, WIDTH, other_nonce, write_corpus};

fn first() -> Slot {
    Slot::root(0)
}

fn split() -> Slot {
    Slot::root(1)
}

async fn look(planted: &Planted, input: bool) -> Report {
    let options = VerifyOptions { input, ..VerifyOptions::default() };
    verify(&planted.out, &options).await.unwrap()
}

fn kinds(report: &Report) -> BTreeSet<DamageKind> {
    report.damages.iter().map(|damage| damage.kind).collect()
}

/// Verify finds damages of exactly these kinds.
async fn finds(planted: &Planted, input: bool, expected: &[DamageKind]) -> Report {
    let report = look(planted, input).await;
    assert_eq!(kinds(&report), expected.iter().copied().collect(), "{:#?}", report.damages);
    assert_eq!(report.exit(), if expected.is_empty() { Exit::Done } else { Exit::Damaged });
    report
}

/// Changes what the first part is made of, makes all digests fit, and looks.
async fn finds_in_rows(expected: &[DamageKind], change: impl Fn(&mut Draft)) -> Report {
    let mut last = None;
    for dtype in [VectorType::F32, VectorType::F16] {
        let planted = Planted::sealed(dtype).await;
        planted.rewrite(&first(), &change);
        planted.reseal().await;
        last = Some(finds(&planted, false, expected).await);
    }
    last.unwrap()
}

/// The same, with the input beside it; without it nothing can be seen.
async fn finds_by_input(expected: &[DamageKind], change: impl Fn(&mut Draft)) {
    let planted = Planted::sealed(VectorType::F32).await;
    planted.rewrite(&first(), &change);
    planted.reseal().await;
    finds(&planted, false, &[]).await;
    finds(&planted, true, expected).await;
}

#[tokio::test]
async fn what_is_sealed_verifies() {
    for dtype in [VectorType::F32, VectorType::F16] {
        let planted = Planted::sealed(dtype).await;
        let report = finds(&planted, true, &[]).await;
        assert_eq!((report.rows, report.rows_planned, report.parts), (65, 65, 5));
        assert_eq!(report.vectors + report.dead.values().sum::<u64>(), 65);
        assert_eq!(report.compared, report.vectors, "every vector's row was compared with the input");
        assert_eq!(report.dead[&DeadReason::Poison], 1);
        assert!(report.dead[&DeadReason::NullText] > 3 && report.dead[&DeadReason::EmptyText] > 3);
        assert_eq!((report.leftovers, report.open.len(), report.sealed), (0, 0, true));
        let bytes: u64 = planted.drafts.keys().map(|slot| fs::metadata(planted.part(slot)).unwrap().len()).sum();
        assert_eq!(report.bytes, bytes);
    }
}

#[tokio::test]
async fn leftovers_of_attempts_that_lost_are_harmless() {
    let planted = Planted::sealed(VectorType::F32).await;
    let announced = fs::read(planted.file(&keys::split(&split(), planted.drafts[&split()].footer.nonce))).unwrap();
    planted.write(&keys::split(&split(), other_nonce()), &announced);
    planted.write(&keys::split(&first(), other_nonce()), &announced);
    planted.write(&keys::dead(&first(), other_nonce()), b"half a dead let");
    planted.write(&keys::strike(&first(), other_nonce()), b"{}");
    planted.write(&format!("{}#3", keys::part(planted.job.job, &first())), b"staged");
    let report = finds(&planted, true, &[]).await;
    assert_eq!(report.leftovers, 3);
}

#[tokio::test]
async fn two_seals_write_the_same_bytes_and_sweep() {
    let planted = Planted::sealed(VectorType::F32).await;
    let before = fs::read(planted.file(keys::MANIFEST)).unwrap();
    let staged = format!("{}#1", keys::part(planted.job.job, &first()));
    planted.write(&staged, b"staged");
    let manifest = planted.seal().await.unwrap();
    assert_eq!(documents::encode(&manifest), before);
    assert!(!planted.file(&staged).exists());
    fs::remove_file(planted.file(keys::MANIFEST)).unwrap();
    planted.seal().await.unwrap();
    assert_eq!(fs::read(planted.file(keys::MANIFEST)).unwrap(), before);
}

#[tokio::test]
async fn a_job_under_way_is_not_damaged_but_not_sealed() {
    let planted = Planted::unsealed(VectorType::F32).await;
    fs::remove_file(planted.part(&split().child(1))).unwrap();
    let report = look(&planted, true).await;
    assert_eq!((report.damages_found, report.sealed, report.exit()), (0, false, Exit::NoProgress));
    let open: Vec<String> = report.open.iter().map(ToString::to_string).collect();
    assert_eq!(open, ["slot 000001.1 is not committed; it lacks 10 rows"]);

    let error = planted.seal().await.unwrap_err();
    assert!(matches!(error, SealError::NotCovered { .. }), "{error}");
    assert_eq!(error.exit(), Exit::NoProgress);
}

#[tokio::test]
async fn an_empty_folder_has_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let out = Location::open_path(folder.path()).unwrap();
    let error = verify(&out, &VerifyOptions::default()).await.unwrap_err();
    assert!(matches!(error, VerifyError::NoJob(_)), "{error}");
}

#[tokio::test]
async fn nothing_damaged_is_sealed() {
    type Plant = fn(&Planted);
    let plants: [(&str, Plant, Exit); 6] = [
        ("names children", |p| fs::remove_dir_all(p.file(keys::SPLITS)).unwrap(), Exit::NeedsAttention),
        ("is gone", |p| fs::remove_file(p.file(&p.dead_key(&first()))).unwrap(), Exit::NeedsAttention),
        (
            "bytes are not those",
            |p| p.edit(&p.dead_key(&first()), |bytes| [bytes, b"\n".to_vec()].concat()),
            Exit::NeedsAttention,
        ),
        ("theirs.parquet", |p| p.write("theirs.parquet", b"PAR1"), Exit::NeedsAttention),
        ("the footer says", |p| p.rewrite(&first(), |draft| _ = draft.rows.pop()), Exit::NeedsAttention),
        ("slot 000000 is not committed", |p| fs::remove_file(p.part(&first())).unwrap(), Exit::NoProgress),
    ];
    for (word, plant, exit) in plants {
        let planted = Planted::unsealed(VectorType::F32).await;
        plant(&planted);
        let error = planted.seal().await.unwrap_err();
        let message = error.to_string();
        assert!(message.contains(word) || word == "the footer says" && message.contains("it covers"), "{message}");
        assert_eq!(error.exit(), exit, "{message}");
        assert!(!planted.file(keys::MANIFEST).exists(), "{message}");
    }
}

// ---- damage that digests give away ----

/// Where a vector's bytes stand in a part that is not compressed.
fn place_of(bytes: &[u8], vector: &[f32]) -> usize {
    let wanted: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    bytes.windows(wanted.len()).position(|window| window == wanted).expect("the vector stands in the file")
}

#[tokio::test]
async fn one_flipped_byte_of_the_body() {
    let planted = Planted::sealed(VectorType::F32).await;
    let vector = planted.drafts[&first()].rows[3].vector.clone();
    planted.edit(&keys::part(planted.job.job, &first()), |mut bytes| {
        let place = place_of(&bytes, &vector);
        bytes[place] ^= 1;
        bytes
    });
    let report = finds(&planted, true, &[K::PartBody]).await;
    assert!(report.damages[0].object.ends_with("-000000.parquet"), "{}", report.damages[0]);
}

#[tokio::test]
async fn flipped_bytes_anywhere_are_found() {
    let planted = Planted::sealed(VectorType::F32).await;
    planted.rewrite_as(&first(), Compression::Zstd, |_| {});
    planted.reseal().await;
    finds(&planted, true, &[]).await;
    let key = keys::part(planted.job.job, &first());
    let bytes = fs::read(planted.file(&key)).unwrap();
    for place in (0..bytes.len()).step_by(97).chain(bytes.len() - 8..bytes.len()) {
        let mut flipped = bytes.clone();
        flipped[place] ^= 0x20;
        planted.write(&key, &flipped);
        let report = look(&planted, true).await;
        let named = [K::PartBody, K::PartFooter];
        assert!(kinds(&report).iter().any(|kind| named.contains(kind)), "byte {place}: {:?}", report.damages);
        assert_eq!(report.exit(), Exit::Damaged);
    }
}

#[tokio::test]
async fn vectors_of_two_rows_swapped_in_place() {
    let planted = Planted::sealed(VectorType::F32).await;
    let rows = &planted.drafts[&first()].rows;
    let (a, b) = (rows[2].vector.clone(), rows[6].vector.clone());
    planted.edit(&keys::part(planted.job.job, &first()), |mut bytes| {
        let (at_a, at_b) = (place_of(&bytes, &a), place_of(&bytes, &b));
        for i in 0..4 * WIDTH as usize {
            bytes.swap(at_a + i, at_b + i);
        }
        bytes
    });
    finds(&planted, true, &[K::PartBody]).await;
}

#[tokio::test]
async fn a_footer_with_another_byte() {
    let planted = Planted::sealed(VectorType::F32).await;
    planted.edit(&keys::part(planted.job.job, &first()), |mut bytes| {
        let place = bytes.windows(10).rposition(|window| window == b"gristmill ").unwrap();
        bytes[place] = b'G';
        bytes
    });
    finds(&planted, true, &[K::PartFooter]).await;
}

#[tokio::test]
async fn a_truncated_part() {
    let planted = Planted::sealed(VectorType::F32).await;
    planted.edit(&keys::part(planted.job.job, &first()), |bytes| bytes[..bytes.len() - 100].to_vec());
    finds(&planted, false, &[K::PartSize, K::PartFooter]).await;
}

#[tokio::test]
async fn a_part_that_is_gone() {
    let planted = Planted::sealed(VectorType::F32).await;
    fs::remove_file(planted.part(&split().child(0))).unwrap();
    let report = finds(&planted, false, &[K::PartMissing, K::Uncovered]).await;
    assert!(report.damages.iter().all(|damage| damage.object.ends_with("-000001.0.parquet")));
}

#[tokio::test]
async fn a_part_of_another_job_or_slot() {
    let planted = Planted::sealed(VectorType::F32).await;
    let other = Planted::unsealed_with(VectorType::F32, 511).await;
    assert_ne!(planted.job.job, other.job.job);
    fs::copy(other.part(&first()), planted.part(&first())).unwrap();
    let report = look(&planted, false).await;
    assert!(kinds(&report).contains(&K::PartStranger), "{:?}", report.damages);

    let planted = Planted::sealed(VectorType::F32).await;
    fs::copy(planted.part(&Slot::root(2)), planted.part(&first())).unwrap();
    planted.reseal().await;
    let report = look(&planted, false).await;
    assert!(kinds(&report).contains(&K::PartStranger), "{:?}", report.damages);
}

#[tokio::test]
async fn dead_letters_that_are_gone_or_edited() {
    let planted = Planted::sealed(VectorType::F32).await;
    fs::remove_file(planted.file(&planted.dead_key(&first()))).unwrap();
    finds(&planted, false, &[K::DeadFileMissing, K::RowMissing]).await;

    let planted = Planted::sealed(VectorType::F32).await;
    planted.edit(&planted.dead_key(&first()), |bytes| {
        String::from_utf8(bytes).unwrap().replace("\"row\":4,", "\"row\":5,").into_bytes()
    });
    finds(&planted, false, &[K::DeadFile, K::RowMissing, K::RowAndDeadLetter]).await;

    let planted = Planted::sealed(VectorType::F32).await;
    planted.edit(&planted.dead_key(&first()), |bytes| {
        String::from_utf8(bytes).unwrap().replace("NULL_TEXT", "POISON").into_bytes()
    });
    finds(&planted, false, &[K::DeadFile]).await;
}

#[tokio::test]
async fn another_parts_dead_letters() {
    let planted = Planted::sealed(VectorType::F32).await;
    let file = planted.drafts[&Slot::root(2)].footer.dead.clone().unwrap();
    planted.rewrite(&first(), |draft| {
        draft.letters.clear();
        draft.footer.dead = Some(file);
    });
    planted.reseal().await;
    finds(&planted, false, &[K::DeadFile, K::DeadLetter, K::RowMissing]).await;
}

#[tokio::test]
async fn a_whole_part_above_its_children() {
    let planted = Planted::sealed(VectorType::F32).await;
    planted.rewrite(&split(), |draft| {
        let footer = &draft.footer;
        *draft = planted.draft(split(), footer.segments.clone(), footer.segments.clone(), Vec::new());
    });
    planted.reseal().await;
    let report = finds(&planted, true, &[K::WholeAndSplit]).await;
    assert_eq!(report.damages.len(), 2, "both children stand below it");
}

#[tokio::test]
async fn rows_that_no_part_covers_or_two_do() {
    let planted = Planted::sealed(VectorType::F32).await;
    let shrunk = |end| vec![Segment { object: 0, start: 20, end }];
    planted.rewrite(&split(), |draft| {
        let footer = draft.footer.clone();
        *draft = planted.draft(split(), footer.segments, shrunk(27), footer.children);
        draft.footer.nonce = footer.nonce;
    });
    planted.reseal().await;
    finds(&planted, true, &[K::Uncovered]).await;
    planted.rewrite(&split(), |draft| {
        let footer = draft.footer.clone();
        *draft = planted.draft(split(), footer.segments, shrunk(29), footer.children);
        draft.footer.nonce = footer.nonce;
    });
    planted.reseal().await;
    finds(&planted, true, &[K::Coverage]).await;
}

#[tokio::test]
async fn announcements_that_are_gone_or_edited() {
    let planted = Planted::sealed(VectorType::F32).await;
    let key = keys::split(&split(), planted.drafts[&split()].footer.nonce);
    planted.edit(&key, |bytes| String::from_utf8(bytes).unwrap().replace("000001.1", "000001.2").into_bytes());
    finds(&planted, false, &[K::Split]).await;
    fs::remove_file(planted.file(&key)).unwrap();
    finds(&planted, false, &[K::SplitMissing]).await;
}

#[tokio::test]
async fn an_edited_manifest() {
    let planted = Planted::sealed(VectorType::F32).await;
    let genuine: Manifest = documents::read(&planted.out, keys::MANIFEST).await.unwrap().unwrap();
    type Edit = fn(&mut Manifest);
    let edits: [(Edit, &[DamageKind]); 5] = [
        (|m| m.tokens += 1, &[K::Manifest]),
        (|m| m.rows -= 1, &[K::Manifest]),
        (|m| m.model = Digest::of(b"another"), &[K::Manifest]),
        (|m| _ = m.dead.insert(DeadReason::Poison, 3), &[K::Manifest]),
        (|m| m.table = Digest::of(b"no table"), &[K::Table]),
    ];
    for (edit, expected) in edits {
        let mut manifest = genuine.clone();
        edit(&mut manifest);
        planted.write(keys::MANIFEST, &documents::encode(&manifest));
        finds(&planted, false, expected).await;
    }
    planted.write(keys::MANIFEST, b"{\"format\": 99}");
    finds(&planted, false, &[K::Manifest]).await;
}

#[tokio::test]
async fn an_edited_table() {
    let planted = Planted::sealed(VectorType::F32).await;
    let mut manifest: Manifest = documents::read(&planted.out, keys::MANIFEST).await.unwrap().unwrap();
    let key = keys::table(manifest.table);
    let nonce = planted.drafts[&first()].footer.nonce.to_string();
    planted.edit(&key, |bytes| {
        String::from_utf8(bytes).unwrap().replacen(&nonce, &other_nonce().to_string(), 1).into_bytes()
    });
    finds(&planted, false, &[K::Table, K::TableEntry]).await;

    // The manifest is made to fit the table; the parts still contradict both.
    let table = fs::read(planted.file(&key)).unwrap();
    manifest.table = Digest::of(&table);
    planted.write(&keys::table(manifest.table), &table);
    planted.write(keys::MANIFEST, &documents::encode(&manifest));
    finds(&planted, false, &[K::TableEntry]).await;
}

#[tokio::test]
async fn a_table_without_one_of_the_parts() {
    let planted = Planted::sealed(VectorType::F32).await;
    let away = planted.part(&first()).with_extension("away");
    fs::rename(planted.part(&first()), &away).unwrap();
    planted.reseal().await;
    fs::rename(&away, planted.part(&first())).unwrap();
    finds(&planted, false, &[K::PartUnlisted]).await;
}

#[tokio::test]
async fn an_edited_job_or_plan() {
    let planted = Planted::sealed(VectorType::F32).await;
    let mut job = planted.job.clone();
    job.spec.text.max_tokens += 1;
    planted.write(keys::JOB, &documents::encode(&job));
    finds(&planted, false, &[K::JobDigest]).await;
    planted.write(keys::JOB, b"{\"format\": 1, \"job\": 7}");
    let report = look(&planted, false).await;
    assert_eq!((kinds(&report), report.exit()), (BTreeSet::from([K::JobDocument]), Exit::Damaged));

    let planted = Planted::sealed(VectorType::F32).await;
    planted.edit(&keys::plan(planted.job.plan), |bytes| {
        String::from_utf8(bytes).unwrap().replace("\"tokens\":200", "\"tokens\":201").into_bytes()
    });
    finds(&planted, false, &[K::Plan]).await;

    // A plan of fewer rows, which job.json is made to name.
    let planted = Planted::sealed(VectorType::F32).await;
    let mut plan = planted.plan.clone();
    plan.shards.pop();
    plan.objects[0].modified_us += 1;
    let bytes = documents::encode_plan(&plan);
    let mut job = planted.job.clone();
    job.plan = Digest::of(&bytes);
    planted.write(&keys::plan(job.plan), &bytes);
    planted.write(keys::JOB, &documents::encode(&job));
    let found = kinds(&look(&planted, false).await);
    assert!(found.is_superset(&BTreeSet::from([K::PlanRows, K::Snapshot, K::PartStranger, K::Manifest])), "{found:?}");
}

#[tokio::test]
async fn parquet_of_somebody_else() {
    let planted = Planted::sealed(VectorType::F32).await;
    planted.write("theirs.parquet", b"PAR1");
    planted.write("below/deeper/part-00000000-000000.parquet", b"PAR1");
    let report = finds(&planted, false, &[K::Foreign]).await;
    assert_eq!(report.damages.len(), 2);

    let planted = Planted::sealed(VectorType::F32).await;
    fs::copy(planted.part(&first()), planted.part(&Slot::root(9))).unwrap();
    let report = finds(&planted, false, &[K::PartUnlisted, K::PartStranger]).await;
    assert!(report.damages.iter().all(|damage| damage.object.ends_with("-000009.parquet")));
}

// ---- damage of rows, with digests that fit ----

#[tokio::test]
async fn a_row_missing() {
    let report = finds_in_rows(&[K::RowMissing, K::Counts], |draft| {
        let row = draft.rows.remove(3);
        draft.footer.tokens -= row.tokens as u64;
    })
    .await;
    let missing = report.damages.iter().find(|damage| damage.kind == K::RowMissing).unwrap();
    assert!(missing.detail.starts_with("row 3 of file://"), "{missing}");
}

#[tokio::test]
async fn a_row_twice() {
    finds_in_rows(&[K::RowTwice, K::Counts], |draft| {
        draft.rows.insert(3, draft.rows[2].clone());
        draft.footer.tokens += draft.rows[2].tokens as u64;
    })
    .await;
    // In another's place, so that no count tells.
    finds_in_rows(&[K::RowTwice, K::RowMissing], |draft| {
        draft.footer.tokens -= draft.rows[5].tokens as u64;
        draft.rows[5] = draft.rows[4].clone();
        draft.footer.tokens += draft.rows[4].tokens as u64;
    })
    .await;
}

#[tokio::test]
async fn a_row_under_other_coordinates() {
    finds_in_rows(&[K::RowForeign, K::RowMissing], |draft| draft.rows[3].row = 30).await;
    finds_in_rows(&[K::RowForeign, K::RowMissing], |draft| draft.rows[3].row = -1).await;
    finds_in_rows(&[K::RowForeign, K::RowMissing], |draft| draft.rows[3].object += "x").await;
    finds_in_rows(&[K::RowVersion], |draft| draft.rows[3].version += "x").await;
    finds_in_rows(&[K::RowOrder], |draft| draft.rows.swap(3, 4)).await;
}

#[tokio::test]
async fn a_row_with_a_dead_letter_too() {
    finds_in_rows(&[K::RowAndDeadLetter, K::Counts], |draft| {
        draft.letters[0].row = draft.rows[0].row as u64;
        draft.letters.push(draft.letters[0].clone());
        draft.letters[0].row = 4;
        draft.letters[0].reason = DeadReason::NullText;
    })
    .await;
    finds_in_rows(&[K::DeadLetter, K::RowMissing], |draft| draft.letters[1].row = draft.letters[0].row).await;
    finds_in_rows(&[K::DeadLetter, K::RowMissing], |draft| draft.letters[1].row = 39).await;
}

#[tokio::test]
async fn vectors_that_are_none() {
    finds_in_rows(&[K::NotFinite], |draft| draft.rows[3].vector[5] = f32::NAN).await;
    finds_in_rows(&[K::NotFinite], |draft| draft.rows[3].vector[0] = f32::NEG_INFINITY).await;
    finds_in_rows(&[K::Norm], |draft| draft.rows[3].vector.fill(0.0)).await;
    finds_in_rows(&[K::Norm], |draft| draft.rows[3].vector.iter_mut().for_each(|x| *x *= 1.01)).await;
}

#[tokio::test]
async fn vectors_of_another_width() {
    finds_in_rows(&[K::VectorWidth], |draft| {
        let mut vectors = draft_vectors(draft);
        vectors.width = WIDTH / 2;
        draft.schema = schema::output(&draft_carried(draft), &vectors);
        draft.rows.iter_mut().for_each(|row| row.vector.truncate(WIDTH as usize / 2));
    })
    .await;
}

#[tokio::test]
async fn other_columns() {
    finds_in_rows(&[K::Schema], |draft| {
        let fields = draft.schema.fields().iter().enumerate();
        // The last carried column is left out.
        draft.schema =
            Arc::new(Schema::new(fields.filter(|(i, _)| *i != 2).map(|(_, f)| Arc::clone(f)).collect::<Vec<_>>()));
    })
    .await;
    finds_in_rows(&[K::Schema], |draft| {
        let mut vectors = draft_vectors(draft);
        vectors.dtype = if vectors.dtype == VectorType::F32 { VectorType::F16 } else { VectorType::F32 };
        draft.schema = schema::output(&draft_carried(draft), &vectors);
    })
    .await;
}

fn draft_carried(draft: &Draft) -> Vec<arrow_schema::Field> {
    draft.schema.fields()[..3].iter().map(|field| field.as_ref().clone()).collect()
}

fn draft_vectors(draft: &Draft) -> gristmill_job::VectorSpec {
    let half = draft.schema.field_with_name(schema::EMBEDDING).unwrap().data_type().to_string().contains("Float16");
    gristmill_job::VectorSpec {
        width: WIDTH,
        dtype: if half { VectorType::F16 } else { VectorType::F32 },
        normalised: true,
        compute: gristmill_job::Compute::F32,
        residual: gristmill_job::Residual::Projected,
    }
}

#[tokio::test]
async fn tokens_that_cannot_be() {
    finds_in_rows(&[K::Tokens], |draft| {
        draft.footer.tokens -= draft.rows[3].tokens as u64;
        draft.rows[3].tokens = 0;
    })
    .await;
    finds_in_rows(&[K::Tokens], |draft| {
        draft.footer.tokens -= draft.rows[3].tokens as u64;
        draft.rows[3].tokens = 513;
    })
    .await;
    finds_in_rows(&[K::Tokens], |draft| draft.rows[3].cut_bytes = -1).await;
    finds_in_rows(&[K::Counts], |draft| draft.footer.tokens += 1).await;
}

// ---- damage that only the input gives away ----

#[tokio::test]
async fn rows_that_are_not_the_inputs() {
    finds_by_input(&[K::TextHash], |draft| draft.rows[3].text_hash[15] ^= 1).await;
    finds_by_input(&[K::Carried], |draft| draft.rows[3].id += 1).await;
    finds_by_input(&[K::Carried], |draft| draft.rows[3].path = None).await;
    finds_by_input(&[K::Carried], |draft| draft.rows[3].tags = Some(vec!["another".into()])).await;
    finds_by_input(&[K::DeadReason], |draft| {
        let letter = draft.letters.iter_mut().find(|letter| letter.reason == DeadReason::NullText).unwrap();
        letter.reason = DeadReason::EmptyText;
    })
    .await;
    // A row that has a text is declared dead for want of one.
    finds_by_input(&[K::DeadReason], |draft| {
        let row = draft.rows.remove(3);
        draft.footer.tokens -= row.tokens as u64;
        let reason = DeadReason::EmptyText;
        let (object, version, row) = (row.object, row.version, row.row as u64);
        draft.letters.push(gristmill_store::dead::DeadLetter { object, version, row, reason, detail: None });
    })
    .await;
}

#[tokio::test]
async fn an_input_that_changed() {
    let planted = Planted::sealed(VectorType::F32).await;
    let mut texts = planted.texts(0);
    texts[3] = Some("fn another() {}".into());
    write_corpus(&planted.corpus(0), 0, &texts);
    finds(&planted, false, &[]).await;
    let report = finds(&planted, true, &[K::InputChanged]).await;
    assert!(report.damages.iter().all(|damage| damage.object.ends_with("corpus-0.parquet")));

    let planted = Planted::sealed(VectorType::F32).await;
    fs::remove_file(planted.corpus(1)).unwrap();
    finds(&planted, true, &[K::InputChanged]).await;
}

#[tokio::test]
async fn an_input_row_that_changed_under_its_pin() {
    let planted = Planted::sealed(VectorType::F32).await;
    let path = planted.corpus(0);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let place = bytes.windows(5).position(|window| window == b"f0_3(").unwrap();
    bytes[place + 3] = b'9';
    fs::write(&path, bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    finds(&planted, false, &[]).await;
    let report = finds(&planted, true, &[K::TextHash]).await;
    assert!(report.damages[0].detail.starts_with("row 3 of file://"), "{}", report.damages[0]);
}

// ---- rows to compute again ----

#[tokio::test]
async fn samples_are_spread_over_the_job_and_carry_text_and_vector() {
    let planted = Planted::sealed(VectorType::F32).await;
    let options = VerifyOptions { samples: 13, ..VerifyOptions::default() };
    let samples = verify(&planted.out, &options).await.unwrap().samples;
    assert!((8..=13).contains(&samples.len()), "rows without a vector are left out: {}", samples.len());
    assert!(samples.iter().any(|s| s.object.ends_with("corpus-0.parquet")));
    assert!(samples.iter().any(|s| s.object.ends_with("corpus-1.parquet")));
    for sample in &samples {
        let rows = planted.drafts.values().flat_map(|draft| &draft.rows);
        let row = rows.clone().find(|row| (&row.object, row.row as u64) == (&sample.object, sample.row)).unwrap();
        assert_eq!(row.vector, sample.vector);
        assert_eq!(row.text_hash, gristmill_store::text_hash(&sample.text));
    }
    assert_eq!(verify(&planted.out, &options).await.unwrap().samples, samples, "the same rows each time");
    let all = VerifyOptions { samples: 1000, ..VerifyOptions::default() };
    let report = verify(&planted.out, &all).await.unwrap();
    assert_eq!(report.samples.len() as u64, report.vectors);
}

#[tokio::test]
async fn swapped_vectors_with_fitting_digests_need_the_model() {
    let planted = Planted::sealed(VectorType::F32).await;
    let rows = &planted.drafts[&first()].rows;
    let (a, b) = (rows[2].clone(), rows[6].vector.clone());
    planted.rewrite(&first(), |draft| {
        let (left, right) = draft.rows.split_at_mut(6);
        std::mem::swap(&mut left[2].vector, &mut right[0].vector);
    });
    planted.reseal().await;
    finds(&planted, true, &[]).await;
    let options = VerifyOptions { samples: 1000, ..VerifyOptions::default() };
    let samples = verify(&planted.out, &options).await.unwrap().samples;
    let sample = samples.iter().find(|s| (&s.object, s.row) == (&a.object, a.row as u64)).unwrap();
    assert_eq!(sample.vector, b, "computing it again would tell");
}

#[tokio::test]
async fn a_thousand_damages_are_counted_and_do_not_hide_another() {
    let planted = Planted::sealed(VectorType::F32).await;
    planted.rewrite(&first(), |draft| draft.rows.iter_mut().for_each(|row| row.vector.fill(0.0)));
    planted.reseal().await;
    planted.write("theirs.parquet", b"PAR1");
    let report = finds(&planted, false, &[K::Norm, K::Foreign]).await;
    assert_eq!(report.damages.iter().filter(|damage| damage.kind == K::Norm).count(), 10);
    assert_eq!(report.damages_found, planted.drafts[&first()].rows.len() as u64 + 1);
}

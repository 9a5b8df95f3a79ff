//! A sealed output that no model has computed: a real corpus, real parts with random unit vectors, a split and dead letters,
//! and the means to damage it, consistently or not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use gristmill_coordinator::committed::{Committed, Listing, committed_parts};
use gristmill_coordinator::seal::{DeadLimits, SealError, manifest_of, seal};
use gristmill_job::{
    Compression, Compute, DeadReason, Digest, FORMAT, JobSpec, Nonce, Pin, Plan, Residual, Segment, Segments,
    Selection, Shard, Slot, SpecialTokens, TextSpec, VectorSpec, VectorType,
};
use gristmill_store::commit::{Commit, commit};
use gristmill_store::dead::{self, DeadLetter};
use gristmill_store::documents::{self, Child, JobDocument, Manifest, Written};
use gristmill_store::input::Object;
use gristmill_store::part::{Footer, PartEncoder, Provenance};
use gristmill_store::{Location, fresh_nonce, keys, schema, text_hash};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

/// Components per vector.
pub const WIDTH: u32 = 8;
/// Rows of the two objects.
const ROWS: [u64; 2] = [40, 25];

/// One row of the output before it is encoded.
#[derive(Debug, Clone)]
pub struct Row {
    /// A carried number.
    pub id: i64,
    /// A carried text.
    pub path: Option<String>,
    /// A carried list.
    pub tags: Option<Vec<String>>,
    /// The vector.
    pub vector: Vec<f32>,
    /// URL of the object.
    pub object: String,
    /// Its version.
    pub version: String,
    /// The row in it.
    pub row: i64,
    /// Token ids used.
    pub tokens: i32,
    /// Bytes of text not used.
    pub cut_bytes: i64,
    /// Digest of the text.
    pub text_hash: [u8; 16],
}

/// Everything that a part is made of.
#[derive(Debug, Clone)]
pub struct Draft {
    /// What the part says of itself; `rows`, `body` and, where there are letters, `dead` are filled in.
    pub footer: Footer,
    /// Its rows.
    pub rows: Vec<Row>,
    /// Its dead letters.
    pub letters: Vec<DeadLetter>,
    /// The output's columns.
    pub schema: SchemaRef,
}

/// The output, its corpus and its plan.
pub struct Planted {
    folder: TempDir,
    /// The output.
    pub out: Location,
    /// Its job.json.
    pub job: JobDocument,
    /// Its plan.
    pub plan: Plan,
    /// The output's columns.
    pub schema: SchemaRef,
    texts: Vec<Vec<Option<String>>>,
    /// What each part was made of, by slot.
    pub drafts: BTreeMap<Slot, Draft>,
}

/// The text of a row: one in nine is null, one in ten empty.
fn text(object: usize, row: u64) -> Option<String> {
    match (row % 9, row % 10) {
        (4, _) => None,
        (_, 7) => Some(String::new()),
        _ => Some(format!("fn f{object}_{row}() -> u64 {{ {} }}", row * row)),
    }
}

fn path_of(object: usize, row: u64) -> Option<String> {
    (!row.is_multiple_of(5)).then(|| format!("src/{object}/{row}.rs"))
}

fn tags_of(row: u64) -> Option<Vec<String>> {
    (row % 6 != 1).then(|| (0..row % 3).map(|tag| format!("tag{tag}")).collect())
}

/// The carried values of a row: number, text, list.
type Carried = (i64, Option<String>, Option<Vec<String>>);

fn carried(rows: &[Carried]) -> Vec<ArrayRef> {
    let mut tags = ListBuilder::new(StringBuilder::new());
    for (_, _, of_row) in rows {
        tags.append_option(of_row.as_ref().map(|tags| tags.iter().map(Some)));
    }
    vec![
        Arc::new(rows.iter().map(|(id, _, _)| *id).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|(_, path, _)| path.clone()).collect::<StringArray>()),
        Arc::new(tags.finish()),
    ]
}

/// Writes an object of the corpus, with row groups of sixteen rows.
pub fn write_corpus(path: &Path, object: usize, texts: &[Option<String>]) {
    let rows: Vec<_> =
        (0..texts.len() as u64).map(|row| (row as i64 + 100, path_of(object, row), tags_of(row))).collect();
    let [id, paths, tags] = <[ArrayRef; 3]>::try_from(carried(&rows)).expect("three columns");
    let content: ArrayRef = Arc::new(texts.iter().cloned().collect::<StringArray>());
    let columns = [("id", id, false), ("path", paths, true), ("content", content, true), ("tags", tags, true)];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(16))
        .set_dictionary_enabled(false)
        .set_offset_index_disabled(true)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).expect("a writer");
    writer.write(&batch).expect("the batch is written");
    std::fs::write(path, writer.into_inner().expect("the file ends")).expect("the corpus is written");
}

/// A unit vector that the text chooses.
fn unit_vector(seed: &[u8]) -> Vec<f32> {
    let mut bytes = [0; 4 * WIDTH as usize];
    blake3::Hasher::new().update(seed).finalize_xof().fill(&mut bytes);
    let raw: Vec<f32> = bytes.as_chunks().0.iter().map(|b: &[u8; 4]| i32::from_le_bytes(*b) as f32 / 2e9).collect();
    let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.into_iter().map(|x| x / norm).collect()
}

fn segment(object: u32, start: u64, end: u64) -> Segment {
    Segment { object, start, end }
}

impl Planted {
    /// Plans and commits everything, and does not seal: three shards of two objects, the second of which is split into a
    /// finished prefix and two children.
    pub async fn unsealed(dtype: VectorType) -> Self {
        Self::unsealed_with(dtype, 512).await
    }

    /// The same, as another job: of another limit of tokens.
    pub async fn unsealed_with(dtype: VectorType, max_tokens: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut objects = Vec::new();
        let mut texts = Vec::new();
        for (object, rows) in ROWS.into_iter().enumerate() {
            let path = folder.path().join(format!("corpus-{object}.parquet"));
            let of_object: Vec<_> = (0..rows).map(|row| text(object, row)).collect();
            write_corpus(&path, object, &of_object);
            objects.push(Object::pin(&path).await.expect("the corpus is pinned"));
            texts.push(of_object);
        }
        let pins: Vec<Pin> = objects.iter().map(|object| object.pin.clone()).collect();
        let vectors =
            VectorSpec { width: WIDTH, dtype, normalised: true, compute: Compute::F32, residual: Residual::Projected };
        let columns = ["id", "path", "tags"].map(str::to_owned).to_vec();
        let carried = schema::choose_carried("corpus", objects[0].schema(), "content", Some(&columns));
        let schema = schema::output(&carried.expect("the columns are there"), &vectors);
        let shards = vec![
            Shard { segments: vec![segment(0, 0, 20)], tokens: 200 },
            Shard { segments: vec![segment(0, 20, 40), segment(1, 0, 10)], tokens: 300 },
            Shard { segments: vec![segment(1, 10, 25)], tokens: 150 },
        ];
        let plan = Plan { format: FORMAT, objects: pins, shards };
        let spec = JobSpec {
            format: FORMAT,
            model: Digest::of(b"model"),
            selection: Selection { text_column: "content".into(), columns, limit: None },
            text: TextSpec { prompt: String::new(), special_tokens: SpecialTokens::Parse, max_tokens },
            vectors,
            schema: schema::describe(&schema),
            snapshot: Pin::snapshot(&plan.objects),
        };
        let plan_bytes = documents::encode_plan(&plan);
        let job = JobDocument {
            format: FORMAT,
            job: spec.digest(),
            plan: Digest::of(&plan_bytes),
            spec,
            model: "no model".into(),
            unknown_config_keys: Vec::new(),
            written_by: "a test".into(),
        };
        let out = folder.path().join("out");
        std::fs::create_dir(&out).expect("the output is created");
        let out = Location::open_path(&out).expect("the output is opened");
        let same = documents::create_bytes(&out, &keys::plan(job.plan), plan_bytes).await.expect("the plan is written");
        assert_eq!(same, Written::Same);
        documents::create(&out, keys::JOB, &job).await.expect("job.json is written");
        let mut planted = Planted { folder, out, job, plan, schema, texts, drafts: BTreeMap::new() };
        planted.commit_all().await;
        planted
    }

    /// The same, sealed.
    pub async fn sealed(dtype: VectorType) -> Self {
        let planted = Self::unsealed(dtype).await;
        planted.seal().await.expect("the output is sealed");
        planted
    }

    /// Seals as a coordinator does.
    pub async fn seal(&self) -> Result<Manifest, SealError> {
        seal(&self.out, &self.job, &self.plan, &DeadLimits::default()).await
    }

    async fn commit_all(&mut self) {
        let split = Slot::root(1);
        let children = vec![
            Child { slot: split.child(0), segments: vec![segment(0, 28, 40)] },
            Child { slot: split.child(1), segments: vec![segment(1, 0, 10)] },
        ];
        let whole = |slot: Slot, segments: &[Segment]| (slot, segments.to_vec(), segments.to_vec(), Vec::new());
        let all = [
            whole(Slot::root(0), &self.plan.shards[0].segments),
            (split.clone(), self.plan.shards[1].segments.clone(), vec![segment(0, 20, 28)], children),
            whole(split.child(0), &[segment(0, 28, 40)]),
            whole(split.child(1), &[segment(1, 0, 10)]),
            whole(Slot::root(2), &self.plan.shards[2].segments),
        ];
        for (slot, segments, covered, children) in all {
            let draft = self.draft(slot.clone(), segments, covered, children);
            let (footer, part, dead) = encode(&draft, Compression::None);
            let committed = commit(&self.out, &footer, part, dead).await.expect("the part is committed");
            assert_eq!(committed, Commit::Won);
            self.drafts.insert(slot, Draft { footer, ..draft });
        }
    }

    /// What a part of these rows is made of, if nothing goes wrong. One row of shard 2 is poison.
    pub fn draft(&self, slot: Slot, segments: Vec<Segment>, covered: Vec<Segment>, children: Vec<Child>) -> Draft {
        let (mut rows, mut letters) = (Vec::new(), Vec::new());
        for position in 0..covered.total_rows() {
            let (object, row) = covered.locate(position).expect("a position of the list");
            let pin = &self.plan.objects[object as usize];
            let text = self.texts[object as usize][row as usize].as_deref();
            let reason = match text {
                None => Some(DeadReason::NullText),
                Some("") => Some(DeadReason::EmptyText),
                Some(_) if (object, row) == (1, 11) => Some(DeadReason::Poison),
                Some(_) => None,
            };
            let (object_url, version) = (pin.object.clone(), pin.version.clone());
            match (text, reason) {
                (Some(text), None) => rows.push(Row {
                    id: row as i64 + 100,
                    path: path_of(object as usize, row),
                    tags: tags_of(row),
                    vector: unit_vector(text.as_bytes()),
                    object: object_url,
                    version,
                    row: row as i64,
                    tokens: 5 + (row % 3) as i32,
                    cut_bytes: 0,
                    text_hash: text_hash(text),
                }),
                (_, reason) => letters.push(DeadLetter {
                    object: object_url,
                    version,
                    row,
                    reason: reason.expect("a row without a vector has a reason"),
                    detail: None,
                }),
            }
        }
        let footer = Footer {
            format: FORMAT,
            job: self.job.job,
            plan: self.job.plan,
            model: self.job.spec.model,
            slot,
            nonce: fresh_nonce(),
            segments,
            covered,
            children,
            rows: 0,
            tokens: rows.iter().map(|row| row.tokens.max(0) as u64).sum(),
            dead: None,
            body: Digest::of(b""),
        };
        Draft { footer, rows, letters, schema: Arc::clone(&self.schema) }
    }

    /// Replaces a part by another, with digests that fit: its old nonce stays, so its announcement does too. The seal does
    /// not fit any more.
    pub fn rewrite(&self, slot: &Slot, change: impl FnOnce(&mut Draft)) {
        self.rewrite_as(slot, Compression::Zstd, change);
    }

    /// The same, under a chosen compression.
    pub fn rewrite_as(&self, slot: &Slot, compression: Compression, change: impl FnOnce(&mut Draft)) {
        let mut draft = self.drafts[slot].clone();
        change(&mut draft);
        let (footer, part, dead) = encode(&draft, compression);
        self.write(&keys::part(self.job.job, slot), &part);
        if let (Some(file), Some(bytes)) = (&footer.dead, dead) {
            self.write(&file.key, &bytes);
        }
    }

    /// Writes a table and a manifest that fit the parts as they are now, right or wrong.
    pub async fn reseal(&self) {
        let listing = Listing::read(&self.out, self.job.job).await.expect("a listing");
        let mut parts: Vec<Committed> = Vec::new();
        {
            use futures::StreamExt;
            let mut answers = std::pin::pin!(committed_parts(&self.out, self.job.job, listing.parts));
            while let Some((_, part)) = answers.next().await {
                parts.push(part.expect("a footer"));
            }
        }
        let (manifest, table) = manifest_of(&self.job, &parts);
        self.write(&keys::table(manifest.table), &table);
        self.write(keys::MANIFEST, &documents::encode(&manifest));
    }

    /// The file of a key.
    pub fn file(&self, key: &str) -> PathBuf {
        self.out.local_folder().expect("a local folder").join(key)
    }

    /// The file of a slot's part.
    pub fn part(&self, slot: &Slot) -> PathBuf {
        self.file(&keys::part(self.job.job, slot))
    }

    /// The file of a corpus object.
    pub fn corpus(&self, object: usize) -> PathBuf {
        self.folder.path().join(format!("corpus-{object}.parquet"))
    }

    /// The texts of a corpus object.
    pub fn texts(&self, object: usize) -> Vec<Option<String>> {
        self.texts[object].clone()
    }

    /// Overwrites a key.
    pub fn write(&self, key: &str, bytes: &[u8]) {
        let path = self.file(key);
        std::fs::create_dir_all(path.parent().expect("a key has a folder")).expect("the folder is created");
        std::fs::write(path, bytes).expect("the file is written");
    }

    /// Replaces a key's bytes.
    pub fn edit(&self, key: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let bytes = std::fs::read(self.file(key)).expect("the file is there");
        self.write(key, &change(bytes));
    }

    /// The dead-letter file of a slot's part.
    pub fn dead_key(&self, slot: &Slot) -> String {
        self.drafts[slot].footer.dead.as_ref().expect("the part has dead letters").key.clone()
    }
}

/// A part's footer and bytes, and the bytes of its dead-letter file.
pub fn encode(draft: &Draft, compression: Compression) -> (Footer, Bytes, Option<Bytes>) {
    let mut footer = draft.footer.clone();
    let letters =
        (!draft.letters.is_empty()).then(|| dead::encode(footer.job, &footer.slot, footer.nonce, &draft.letters));
    let bytes = letters.map(|(file, bytes)| {
        footer.dead = Some(file);
        bytes
    });
    let rows = &draft.rows;
    let mut encoder = PartEncoder::new(&draft.schema, compression).expect("an encoder");
    // Two batches, as they come from a device.
    for rows in rows.chunks(rows.len().div_ceil(2).max(1)) {
        let values: Vec<_> = rows.iter().map(|row| (row.id, row.path.clone(), row.tags.clone())).collect();
        let provenance = Provenance {
            objects: rows.iter().map(|row| row.object.as_str().into()).collect(),
            versions: rows.iter().map(|row| row.version.as_str().into()).collect(),
            rows: rows.iter().map(|row| row.row).collect(),
            tokens: rows.iter().map(|row| row.tokens).collect(),
            cut_bytes: rows.iter().map(|row| row.cut_bytes).collect(),
            text_hashes: rows.iter().map(|row| row.text_hash).collect(),
        };
        let vectors = rows.iter().flat_map(|row| row.vector.iter().copied()).collect();
        let columns = carried(&values)[..draft.schema.fields().len() - 7].to_vec();
        encoder.append(&columns, vectors, provenance).expect("rows fit the schema");
    }
    let (footer, part) = encoder.finish(footer).expect("the part ends");
    (footer, part, bytes)
}

/// A nonce that no part carries.
pub fn other_nonce() -> Nonce {
    Nonce::from_bytes([0xaa; 16])
}

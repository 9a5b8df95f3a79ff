//! One part: its footer, its announcement and dead letters, its bytes and its rows. Synchronous: runs on a thread that may
//! block. A failure of the store ends it; anything else is a finding.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use arrow_schema::{DataType, Schema};
use gristmill_job::{DeadReason, Digest, Plan, Slot};
use gristmill_store::documents::{JobDocument, PartEntry, SplitDocument};
use gristmill_store::part::{self, Footer, PartReader, StoredPart};
use gristmill_store::{Location, StoreError, backoff, dead, documents, keys, schema};
use tokio::runtime::Handle;

use super::corpus::{Corpus, Halt};
use super::damage::{DamageKind, Findings};
use super::rows::{Kept, Positions, RowCheck, RowRules};
use crate::committed::{Committed, belongs, patiently};

/// How often a read is made before its failure counts.
const TRIES: u32 = 4;

/// What the checks of all parts share.
pub(crate) struct Shared {
    pub(crate) out: Location,
    pub(crate) job: JobDocument,
    pub(crate) plan: Plan,
    pub(crate) input: bool,
    pub(crate) wanted: BTreeSet<(u32, u64)>,
    pub(crate) findings: Findings,
    pub(crate) kept: Mutex<Vec<Kept>>,
    pub(crate) compared: AtomicU64,
    pub(crate) runtime: Handle,
}

/// Checks the part of `slot`, of `size` bytes, against its line in the table, if there is one. Returns what it says of
/// itself, or `None` where it cannot be read or is a stranger.
pub(crate) fn check(
    shared: &Shared,
    slot: &Slot,
    size: u64,
    entry: Option<&PartEntry>,
) -> Result<Option<Committed>, StoreError> {
    let key = keys::part(shared.job.job, slot);
    let object = shared.out.describe(&key);
    let find = |kind, detail: String| shared.findings.add(&object, kind, detail);
    if let Some(entry) = entry.filter(|entry| entry.size != size) {
        find(DamageKind::PartSize, format!("it has {size} bytes, the table of parts says {}", entry.size));
    }
    let read = shared.runtime.block_on(patiently(|| part::read_footer(&shared.out, &key, Some(size))));
    let stored = match read {
        Ok(Some(stored)) => stored,
        Ok(None) => {
            find(DamageKind::PartMissing, "it vanished while it was verified".into());
            return Ok(None);
        }
        Err(StoreError::Malformed { why, .. }) => {
            find(DamageKind::PartFooter, why);
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if let Some(entry) = entry.filter(|entry| entry.footer != stored.footer_digest) {
        let detail = format!("its footer has digest {}, the table says {}", stored.footer_digest, entry.footer);
        find(DamageKind::PartFooter, detail);
    }
    if let Err(why) = belongs(&stored.footer, &shared.job, slot) {
        find(DamageKind::PartStranger, why);
        return Ok(None);
    }
    let committed = Committed { footer: stored.footer.clone(), footer_digest: stored.footer_digest, size };
    if let Some(entry) = entry.filter(|entry| differs(entry, &committed.entry())) {
        find(DamageKind::TableEntry, format!("the table says {}, the part {}", json(entry), json(&committed.entry())));
    }
    let check = PartCheck { shared, key, object: object.clone(), stored };
    check.announcement()?;
    let positions = Positions::new(&check.stored.footer.covered);
    let dead = check.dead_letters(&positions)?;
    check.body(&positions, &dead)?;
    Ok(Some(committed))
}

/// Whether two entries differ in more than size and footer, which are told apart.
fn differs(entry: &PartEntry, found: &PartEntry) -> bool {
    let found = PartEntry { size: entry.size, footer: entry.footer, ..found.clone() };
    *entry != found
}

fn json(entry: &PartEntry) -> String {
    serde_json::to_string(entry).expect("an entry is plain data")
}

struct PartCheck<'a> {
    shared: &'a Shared,
    key: String,
    /// URL of the part.
    object: String,
    stored: StoredPart,
}

impl PartCheck<'_> {
    fn find(&self, kind: DamageKind, detail: impl Into<String>) {
        self.shared.findings.add(&self.object, kind, detail);
    }

    fn footer(&self) -> &Footer {
        &self.stored.footer
    }

    /// A part that names children has announced exactly them.
    fn announcement(&self) -> Result<(), StoreError> {
        let footer = self.footer();
        if footer.children.is_empty() {
            return Ok(());
        }
        let out = &self.shared.out;
        let key = keys::split(&footer.slot, footer.nonce);
        let read = self.shared.runtime.block_on(patiently(|| documents::read::<SplitDocument>(out, &key)));
        match read {
            Ok(Some(split)) => {
                let expected = SplitDocument {
                    format: split.format,
                    job: footer.job,
                    slot: footer.slot.clone(),
                    nonce: footer.nonce,
                    children: footer.children.clone(),
                };
                if split != expected {
                    let detail = format!("it announces another split than {} makes", self.object);
                    self.shared.findings.add(&out.describe(&key), DamageKind::Split, detail);
                }
            }
            Ok(None) => {
                self.find(DamageKind::SplitMissing, format!("it names children, and {} is gone", out.describe(&key)))
            }
            Err(StoreError::Malformed { object, why }) => self.shared.findings.add(&object, DamageKind::Split, why),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The covered rows that have dead letters, by their place.
    fn dead_letters(&self, positions: &Positions) -> Result<BTreeMap<u64, DeadReason>, StoreError> {
        let footer = self.footer();
        let mut by_place = BTreeMap::new();
        let Some(file) = &footer.dead else { return Ok(by_place) };
        let out = &self.shared.out;
        let object = out.describe(&file.key);
        let find = |kind, detail: String| self.shared.findings.add(&object, kind, detail);
        let Some(bytes) = self.shared.runtime.block_on(patiently(|| out.get(&file.key)))? else {
            find(DamageKind::DeadFileMissing, format!("it is gone, and {} names it", self.object));
            return Ok(by_place);
        };
        if file.key != keys::dead(&footer.slot, footer.nonce) {
            find(DamageKind::DeadFile, format!("{} names it, and it is another part's", self.object));
        }
        if Digest::of(&bytes) != file.digest {
            find(DamageKind::DeadFile, format!("its bytes are not those that {} names", self.object));
        }
        let (header, letters) = match dead::read(&object, &bytes) {
            Ok(read) => read,
            Err(error) => {
                find(DamageKind::DeadFile, error.to_string());
                return Ok(by_place);
            }
        };
        if (header.job, &header.slot, header.nonce) != (footer.job, &footer.slot, footer.nonce) {
            find(DamageKind::DeadFile, format!("its first line names slot {} and another part", header.slot));
        }
        let index_of = index(&self.shared.plan);
        let mut counts = documents::DeadCounts::new();
        for letter in letters {
            *counts.entry(letter.reason).or_default() += 1;
            let index = index_of.get(letter.object.as_str()).copied();
            let (row, url) = (letter.row, &letter.object);
            let Some(place) = index.and_then(|index| positions.of(index, row)) else {
                find(DamageKind::DeadLetter, format!("row {row} of {url} is not covered by {}", self.object));
                continue;
            };
            if index.is_some_and(|index| self.shared.plan.objects[index as usize].version != letter.version) {
                find(DamageKind::DeadLetter, format!("row {row} of {url} names version {}", letter.version));
            }
            if by_place.insert(place, letter.reason).is_some() {
                find(DamageKind::DeadLetter, format!("row {row} of {url} has more than one"));
            }
        }
        if counts != file.rows {
            find(DamageKind::DeadFile, format!("it has other rows than {} says", self.object));
        }
        Ok(by_place)
    }

    /// Every byte up to the footer, and every row in them.
    fn body(&self, positions: &Positions, dead: &BTreeMap<u64, DeadReason>) -> Result<(), StoreError> {
        let shared = self.shared;
        let footer = self.footer();
        let opened = PartReader::new(&shared.out, &self.key, &self.stored, shared.runtime.clone());
        let Some(mut reader) = self.or_undecodable(opened)? else { return Ok(()) };
        // A footer may claim any number of rows; coverage will say so.
        let plausible = positions.total() <= shared.plan.rows();
        if positions.total() != footer.rows + footer.dead_rows() {
            let (covered, rows, dead) = (positions.total(), footer.rows, footer.dead_rows());
            self.find(DamageKind::Counts, format!("it covers {covered} rows, and has {rows} and {dead} dead letters"));
        }
        if plausible && self.check_schema(reader.schema()) {
            self.rows(&mut reader, positions, dead)?;
        }
        let body = again(&shared.runtime, || reader.finish());
        if let Some(body) = self.or_undecodable(body)?.filter(|body| *body != footer.body) {
            let detail = format!("its bytes before the footer have digest {body}, the footer says {}", footer.body);
            self.find(DamageKind::PartBody, detail);
        }
        Ok(())
    }

    fn rows(
        &self,
        reader: &mut PartReader,
        positions: &Positions,
        dead: &BTreeMap<u64, DeadReason>,
    ) -> Result<(), StoreError> {
        let shared = self.shared;
        let spec = &shared.job.spec;
        let index_of = index(&shared.plan);
        let rules = RowRules {
            pins: &shared.plan.objects,
            index_of: &index_of,
            text: &spec.text,
            vectors: &spec.vectors,
            wanted: &shared.wanted,
            findings: &shared.findings,
        };
        let mut check = RowCheck::new(&rules, &self.object, positions, dead);
        let mut corpus = shared.input.then(|| self.corpus(positions, dead));
        let mut halted = false;
        loop {
            let Some(group) = self.or_undecodable(again(&shared.runtime, || reader.next_group()))? else {
                return Ok(());
            };
            let Some(group) = group else { break };
            for batch in group {
                let batch = match batch {
                    Ok(batch) => batch,
                    Err(error) => {
                        self.find(DamageKind::Undecodable, error.to_string());
                        return Ok(());
                    }
                };
                let places = check.batch(&batch);
                if let Some(corpus) = corpus.as_mut().filter(|_| !halted) {
                    halted = halt(corpus.compare(&batch, &places))?;
                }
            }
        }
        if let Some(corpus) = corpus.as_mut() {
            if !halted {
                halt(corpus.finish())?;
            }
            shared.compared.fetch_add(corpus.compared, Relaxed);
        }
        check.finish();
        let footer = self.footer();
        if (check.rows, check.tokens) != (footer.rows, footer.tokens) {
            let (rows, tokens) = (check.rows, check.tokens);
            let said = format!("the footer says {} and {}", footer.rows, footer.tokens);
            self.find(DamageKind::Counts, format!("it has {rows} rows and {tokens} tokens; {said}"));
        }
        shared.kept.lock().unwrap_or_else(PoisonError::into_inner).append(&mut check.kept);
        Ok(())
    }

    fn corpus<'b>(&'b self, positions: &Positions, dead: &'b BTreeMap<u64, DeadReason>) -> Corpus<'b> {
        Corpus {
            pins: &self.shared.plan.objects,
            selection: &self.shared.job.spec.selection,
            part: &self.object,
            dead,
            findings: &self.shared.findings,
            runtime: self.shared.runtime.clone(),
            segments: positions.segments().iter().rev().filter(|s| s.rows() > 0).copied().collect(),
            open: None,
            at: 0,
            batch: None,
            compared: 0,
        }
    }

    /// Whether the part has the job's columns, so that its rows can be looked at.
    fn check_schema(&self, found: &Schema) -> bool {
        let spec = &self.shared.job.spec;
        let width = spec.vectors.width;
        let embedding = found.field_with_name(schema::EMBEDDING).map(|field| field.data_type());
        if let Ok(DataType::FixedSizeList(_, wide)) = embedding
            && u32::try_from(*wide) != Ok(width)
        {
            self.find(DamageKind::VectorWidth, format!("its vectors have {wide} components, the job's {width}"));
            return false;
        }
        let described = schema::describe(found);
        if described == spec.schema {
            return true;
        }
        let shown = |columns: &[(String, String)]| {
            columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect::<Vec<_>>().join(", ")
        };
        let detail = format!("its columns are {}; the job's are {}", shown(&described), shown(&spec.schema));
        self.find(DamageKind::Schema, detail);
        false
    }

    fn or_undecodable<T>(&self, answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(StoreError::Malformed { why, .. }) => {
                self.find(DamageKind::Undecodable, why);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn index(plan: &Plan) -> HashMap<&str, u32> {
    (0..).zip(&plan.objects).map(|(index, pin)| (pin.object.as_str(), index)).collect()
}

/// Whether the comparison has ended early.
fn halt(compared: Result<(), Halt>) -> Result<bool, StoreError> {
    match compared {
        Ok(()) => Ok(false),
        Err(Halt::Damaged) => Ok(true),
        Err(Halt::Store(error)) => Err(error),
    }
}

/// [`patiently`] for reads that block.
fn again<T>(runtime: &Handle, mut read: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match read() {
            Err(StoreError::DidNotHappen { .. } | StoreError::TimedOut { .. }) if tries < TRIES => {
                runtime.block_on(backoff(tries));
            }
            answer => return answer,
        }
    }
}

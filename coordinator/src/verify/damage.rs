//! What verify finds: each damage with its name, collected and never the end of the search.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// The kinds of damage.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum DamageKind { $($(#[$doc])* #[serde(rename = $name)] $variant),* }
        impl DamageKind {
            /// Every kind.
            pub const ALL: &'static [DamageKind] = &[$(DamageKind::$variant),*];
            /// Its name, in results.
            pub fn name(self) -> &'static str {
                match self { $(DamageKind::$variant => $name),* }
            }
        }
    };
}

kinds! {
    /// job.json cannot be read, or contradicts itself.
    JobDocument = "job-document",
    /// job.json's specification is not the one whose digest it names.
    JobDigest = "job-digest",
    /// The plan is gone, or is not the one that job.json names.
    Plan = "plan",
    /// The plan's objects are not the snapshot that the specification names.
    Snapshot = "snapshot",
    /// The plan's shards are not the selected rows.
    PlanRows = "plan-rows",
    /// The manifest cannot be read, or is not what the parts lead to.
    Manifest = "manifest",
    /// The table of parts is gone, cannot be read, or is not the one that the manifest names.
    Table = "table",
    /// The table's line of a part is not what the part says of itself.
    TableEntry = "table-entry",
    /// A Parquet file that is no part of the job.
    Foreign = "foreign-parquet",
    /// The table names a part that is gone.
    PartMissing = "part-missing",
    /// A part stands in a sealed output and the table does not name it.
    PartUnlisted = "part-unlisted",
    /// A part has another size than the table says.
    PartSize = "part-size",
    /// A part's footer cannot be read, or is not the one that the table names.
    PartFooter = "part-footer",
    /// A part is of another job, plan, model or slot than its key.
    PartStranger = "part-stranger",
    /// A part's bytes before the footer are not those that the footer names.
    PartBody = "part-body",
    /// A part's rows cannot be decoded.
    Undecodable = "undecodable",
    /// A part's columns are not those of job.json.
    Schema = "schema",
    /// A part's vectors have another width than the job's.
    VectorWidth = "vector-width",
    /// A part whose footer contradicts itself, or counts other rows or tokens than there are.
    Counts = "counts",
    /// A part holds all rows of its slot, and a part below it stands too.
    WholeAndSplit = "whole-and-split",
    /// Parts do not cover the plan: rows lie in no part.
    Uncovered = "uncovered",
    /// Parts do not cover the plan exactly once, in any other way.
    Coverage = "coverage",
    /// A part names children, and there is no announcement of it.
    SplitMissing = "split-missing",
    /// An announcement is not what its part says.
    Split = "split",
    /// A part names a dead-letter file that is gone.
    DeadFileMissing = "dead-file-missing",
    /// A dead-letter file is not the one that its part names.
    DeadFile = "dead-file",
    /// A dead letter of a row that its part does not cover, or that has one already.
    DeadLetter = "dead-letter",
    /// The part covers the row, and holds neither a vector nor a dead letter of it.
    RowMissing = "row-missing",
    /// The row stands in its part more than once.
    RowTwice = "row-twice",
    /// The row stands in a part that does not cover it.
    RowForeign = "row-foreign",
    /// The row stands in its part, but not at its place.
    RowOrder = "row-order",
    /// The row has both a vector and a dead letter.
    RowAndDeadLetter = "row-and-dead-letter",
    /// The row names another version of its object than was pinned.
    RowVersion = "row-version",
    /// A null where there can be none.
    Null = "null",
    /// Tokens or bytes that cannot be.
    Tokens = "tokens",
    /// A vector that is not finite.
    NotFinite = "not-finite",
    /// A normalised vector whose norm is not 1, or any whose norm is 0.
    Norm = "norm",
    /// A vector that the model does not compute from the row's text.
    Vector = "vector",
    /// An input object is gone, or not what was pinned.
    InputChanged = "input-changed",
    /// An input object cannot be decoded.
    InputUnreadable = "input-unreadable",
    /// The digest of a text is not that of the row in the input.
    TextHash = "text-hash",
    /// A carried value is not that of the row in the input.
    Carried = "carried",
    /// A dead letter says that a text is null or empty, and it is not.
    DeadReason = "dead-reason",
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that is not as the promise has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damage {
    /// URL of the object that is damaged.
    pub object: String,
    /// What kind of damage.
    pub kind: DamageKind,
    /// Where in the object, and in which way.
    pub detail: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind, self.object, self.detail)
    }
}

/// Damages of one kind in one object that are kept: a thousand of one must not hide the next.
const KEPT_ALIKE: u64 = 10;

/// Collects damages from many threads: the first so many in full, and how many there were.
#[derive(Debug)]
pub(crate) struct Findings {
    kept_max: usize,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    kept: Vec<Damage>,
    count: u64,
    alike: HashMap<(String, DamageKind), u64>,
}

impl Findings {
    pub(crate) fn new(kept_max: usize) -> Self {
        Findings { kept_max, found: Mutex::default() }
    }

    pub(crate) fn add(&self, object: &str, kind: DamageKind, detail: impl Into<String>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.count += 1;
        if found.kept.len() >= self.kept_max {
            return;
        }
        let alike = found.alike.entry((object.to_owned(), kind)).or_default();
        *alike += 1;
        if *alike <= KEPT_ALIKE {
            found.kept.push(Damage { object: object.to_owned(), kind, detail: detail.into() });
        }
    }

    /// Those kept, sorted, and the count of all.
    pub(crate) fn take(&self) -> (Vec<Damage>, u64) {
        let mut found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        found.kept.sort();
        (found.kept, found.count)
    }
}

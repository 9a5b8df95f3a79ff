//! The rows of one part against what its footer covers: each covered row stands once, at its place, as a vector that can
//! be one, or as a dead letter. Pure: record batches come in, findings go out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use gristmill_job::{DeadReason, Pin, Segment, Segments, TextSpec, VectorSpec, VectorType};
use gristmill_store::schema;

use super::damage::{DamageKind, Findings};

/// How far from 1 the norm of a normalised vector may be. Rounding to float32 is a thousand times smaller; rounding to
/// float16 moves each component by 2^-11 of itself at most, and so the norm.
const fn norm_tolerance(dtype: VectorType) -> f64 {
    match dtype {
        VectorType::F32 => 1e-3,
        VectorType::F16 => 2e-3,
    }
}

/// Rows by their place along a list of segments.
pub(crate) struct Positions {
    segments: Vec<Segment>,
    /// Segments that hold rows, sorted, each with the position of its first row.
    sorted: Vec<(Segment, u64)>,
}

impl Positions {
    pub(crate) fn new(segments: &[Segment]) -> Self {
        let mut sorted = Vec::with_capacity(segments.len());
        let mut passed = 0;
        for segment in segments.iter().filter(|segment| segment.rows() > 0) {
            sorted.push((*segment, passed));
            passed += segment.rows();
        }
        sorted.sort();
        Positions { segments: segments.to_vec(), sorted }
    }

    /// The place of a row of an object, if any segment holds it.
    pub(crate) fn of(&self, object: u32, row: u64) -> Option<u64> {
        let behind = self.sorted.partition_point(|(segment, _)| (segment.object, segment.start) <= (object, row));
        let (segment, first) = self.sorted[..behind].last()?;
        (segment.object == object && row < segment.end).then(|| first + row - segment.start)
    }

    pub(crate) fn total(&self) -> u64 {
        self.segments.total_rows()
    }

    /// The segments themselves, in their order.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// What rows are checked against, the same for all parts.
pub(crate) struct RowRules<'a> {
    pub(crate) pins: &'a [Pin],
    pub(crate) index_of: &'a HashMap<&'a str, u32>,
    pub(crate) text: &'a TextSpec,
    pub(crate) vectors: &'a VectorSpec,
    /// Rows whose vectors are to be kept.
    pub(crate) wanted: &'a BTreeSet<(u32, u64)>,
    pub(crate) findings: &'a Findings,
}

/// A row whose vector was to be kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    /// URL of the part.
    pub(crate) part: String,
    pub(crate) object: u32,
    pub(crate) row: u64,
    pub(crate) vector: Vec<f32>,
}

/// The check of one part's rows, batch by batch.
pub(crate) struct RowCheck<'a> {
    rules: &'a RowRules<'a>,
    /// URL of the part.
    part: &'a str,
    positions: &'a Positions,
    dead: &'a BTreeMap<u64, DeadReason>,
    /// One bit per covered row.
    seen: Vec<u64>,
    last: Option<u64>,
    pub(crate) rows: u64,
    pub(crate) tokens: u64,
    pub(crate) kept: Vec<Kept>,
}

impl<'a> RowCheck<'a> {
    pub(crate) fn new(
        rules: &'a RowRules<'a>,
        part: &'a str,
        positions: &'a Positions,
        dead: &'a BTreeMap<u64, DeadReason>,
    ) -> Self {
        let seen = vec![0; positions.total().div_ceil(64) as usize];
        RowCheck { rules, part, positions, dead, seen, last: None, rows: 0, tokens: 0, kept: Vec::new() }
    }

    /// Checks a batch of the output's columns; returns each row's place among the covered rows, `None` where it has none.
    pub(crate) fn batch(&mut self, batch: &RecordBatch) -> Vec<Option<u64>> {
        let column = |name| batch.column_by_name(name).expect("the schema has been checked");
        let own = [
            schema::EMBEDDING,
            schema::OBJECT,
            schema::VERSION,
            schema::ROW,
            schema::TOKENS,
            schema::CUT_BYTES,
            schema::TEXT_HASH,
        ];
        for name in own {
            if column(name).null_count() > 0 {
                self.find(DamageKind::Null, format!("column `{name}` has {} nulls", column(name).null_count()));
            }
        }
        let objects = column(schema::OBJECT).as_string::<i32>();
        let versions = column(schema::VERSION).as_string::<i32>();
        let rows = column(schema::ROW).as_primitive::<Int64Type>();
        let tokens = column(schema::TOKENS).as_primitive::<Int32Type>();
        let cut_bytes = column(schema::CUT_BYTES).as_primitive::<Int64Type>();
        let places: Vec<Option<u64>> = (0..batch.num_rows())
            .map(|i| {
                self.tokens(self.rows + i as u64, tokens.value(i), cut_bytes.value(i));
                self.place(objects.value(i), versions.value(i), rows.value(i))
            })
            .collect();
        let coordinates = |i: usize| (objects.value(i), rows.value(i));
        self.vectors(batch, &coordinates);
        self.rows += batch.num_rows() as u64;
        places
    }

    /// Names the covered rows that never came.
    pub(crate) fn finish(&self) {
        let mut passed = 0;
        for segment in self.positions.segments() {
            let mut missing: Option<Segment> = None;
            for row in segment.start..segment.end {
                let position = passed + row - segment.start;
                if self.is_seen(position) || self.dead.contains_key(&position) {
                    self.missing(missing.take());
                } else {
                    missing = Some(Segment { start: missing.map_or(row, |m| m.start), end: row + 1, ..*segment });
                }
            }
            self.missing(missing);
            passed += segment.rows();
        }
    }

    fn missing(&self, rows: Option<Segment>) {
        if let Some(rows) = rows {
            let (object, last) = (self.url(rows.object), rows.end - 1);
            let which =
                if last == rows.start { format!("row {last}") } else { format!("rows {} to {last}", rows.start) };
            self.find(DamageKind::RowMissing, format!("{which} of {object} have neither a vector nor a dead letter"));
        }
    }

    fn place(&mut self, object: &str, version: &str, row: i64) -> Option<u64> {
        let index = self.rules.index_of.get(object).copied();
        let place = index.and_then(|index| self.positions.of(index, u64::try_from(row).ok()?));
        let (Some(index), Some(place)) = (index, place) else {
            self.find(DamageKind::RowForeign, format!("row {row} of {object} is not covered by this part"));
            return None;
        };
        let pinned = &self.rules.pins[index as usize].version;
        if version != pinned {
            let detail = format!("row {row} of {object} names version {version}; {pinned} was pinned");
            self.find(DamageKind::RowVersion, detail);
        }
        if self.is_seen(place) {
            self.find(DamageKind::RowTwice, format!("row {row} of {object} stands more than once"));
        } else if self.dead.contains_key(&place) {
            self.find(DamageKind::RowAndDeadLetter, format!("row {row} of {object} has a dead letter too"));
        } else if self.last.is_some_and(|last| place < last) {
            self.find(DamageKind::RowOrder, format!("row {row} of {object} does not stand at its place"));
        }
        self.seen[(place / 64) as usize] |= 1 << (place % 64);
        self.last = self.last.max(Some(place));
        Some(place)
    }

    fn tokens(&mut self, at: u64, tokens: i32, cut_bytes: i64) {
        let most = self.rules.text.max_tokens;
        if u32::try_from(tokens).is_ok_and(|tokens| (1..=most).contains(&tokens)) {
            self.tokens += tokens as u64;
        } else {
            self.find(DamageKind::Tokens, format!("row {at} of the part has {tokens} tokens, not 1 to {most}"));
        }
        if cut_bytes < 0 {
            self.find(DamageKind::Tokens, format!("row {at} of the part lacks {cut_bytes} bytes of its text"));
        }
    }

    fn vectors<'b>(&mut self, batch: &'b RecordBatch, coordinates: &dyn Fn(usize) -> (&'b str, i64)) {
        let list = batch.column_by_name(schema::EMBEDDING).expect("the schema has been checked").as_fixed_size_list();
        let width = list.value_length() as usize;
        let first = list.value_offset_at(0);
        for i in 0..batch.num_rows() {
            let range = first + i * width..first + (i + 1) * width;
            let vector: Vec<f32> = match self.rules.vectors.dtype {
                VectorType::F32 => list.values().as_primitive::<Float32Type>().values()[range].to_vec(),
                VectorType::F16 => {
                    let components = &list.values().as_primitive::<Float16Type>().values()[range];
                    components.iter().map(|component| component.to_f32()).collect()
                }
            };
            let (object, row) = coordinates(i);
            self.vector(&vector, object, row);
            let coordinate = || Some((*self.rules.index_of.get(object)?, u64::try_from(row).ok()?));
            if let Some((object, row)) = coordinate().filter(|coordinate| self.rules.wanted.contains(coordinate)) {
                self.kept.push(Kept { part: self.part.to_owned(), object, row, vector });
            }
        }
    }

    fn vector(&self, vector: &[f32], object: &str, row: i64) {
        let square: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let norm = square.sqrt();
        if !norm.is_finite() {
            self.find(DamageKind::NotFinite, format!("the vector of row {row} of {object} is not finite"));
        } else if norm == 0.0 {
            self.find(DamageKind::Norm, format!("the vector of row {row} of {object} is zero"));
        } else if self.rules.vectors.normalised && (norm - 1.0).abs() > norm_tolerance(self.rules.vectors.dtype) {
            self.find(DamageKind::Norm, format!("the vector of row {row} of {object} has norm {norm}"));
        }
    }

    fn is_seen(&self, position: u64) -> bool {
        self.seen[(position / 64) as usize] >> (position % 64) & 1 == 1
    }

    fn url(&self, object: u32) -> &str {
        self.rules.pins.get(object as usize).map_or("an object that the plan lacks", |pin| &pin.object)
    }

    fn find(&self, kind: DamageKind, detail: String) {
        self.rules.findings.add(self.part, kind, detail);
    }
}

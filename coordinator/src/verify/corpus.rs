//! A part's rows against the input that they were made from: the digest of every text, every carried value, and the
//! texts that dead letters call null or empty. Synchronous: reads on a thread that may block.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use gristmill_job::{DeadReason, Pin, Segment, Selection};
use gristmill_store::input::{InputError, Object, Rows, RowsError};
use gristmill_store::{StoreError, schema, text_hash};
use tokio::runtime::Handle;

use super::damage::{DamageKind, Findings};

/// What stands in the way of a comparison.
pub(crate) enum Halt {
    /// The store failed: nothing is known.
    Store(StoreError),
    /// The input is damaged, which has been added to the findings; the rest of the part cannot be compared.
    Damaged,
}

/// The covered rows of a part as the input has them, in order.
pub(crate) struct Corpus<'a> {
    pub(crate) pins: &'a [Pin],
    pub(crate) selection: &'a Selection,
    /// URL of the part.
    pub(crate) part: &'a str,
    pub(crate) dead: &'a BTreeMap<u64, DeadReason>,
    pub(crate) findings: &'a Findings,
    pub(crate) runtime: Handle,
    /// Segments still to come; the last is the next.
    pub(crate) segments: Vec<Segment>,
    /// The segment that is being read.
    pub(crate) open: Option<(Segment, Rows)>,
    /// The rows at hand, and the place of the first among the covered rows.
    pub(crate) at: u64,
    pub(crate) batch: Option<RecordBatch>,
    /// Rows compared.
    pub(crate) compared: u64,
}

impl Corpus<'_> {
    /// Compares the rows of a batch, whose places are `places`.
    pub(crate) fn compare(&mut self, rows: &RecordBatch, places: &[Option<u64>]) -> Result<(), Halt> {
        let mut i = 0;
        while i < places.len() {
            let Some(place) = places[i] else {
                i += 1;
                continue;
            };
            while self.end() <= place && self.advance()? {}
            let Some(batch) = self.batch.clone().filter(|_| (self.at..self.end()).contains(&place)) else {
                // Out of order: that has been found already, and its place in the input has been passed.
                i += 1;
                continue;
            };
            let from = (place - self.at) as usize;
            let most = (batch.num_rows() - from).min(places.len() - i);
            let run = (0..most).take_while(|k| places[i + k] == Some(place + *k as u64)).count();
            self.run(&rows.slice(i, run), &batch.slice(from, run));
            self.compared += run as u64;
            i += run;
        }
        Ok(())
    }

    /// Reads what is left, for the dead letters in it.
    pub(crate) fn finish(&mut self) -> Result<(), Halt> {
        while self.advance()? {}
        Ok(())
    }

    fn end(&self) -> u64 {
        self.at + self.batch.as_ref().map_or(0, |batch| batch.num_rows() as u64)
    }

    /// Moves on to the next batch of the input; false at the end.
    fn advance(&mut self) -> Result<bool, Halt> {
        loop {
            if let Some((segment, rows)) = &mut self.open {
                let object = segment.object;
                match rows.next() {
                    Some(Ok(batch)) => {
                        self.at = self.end();
                        self.check_dead(&batch);
                        self.batch = Some(batch);
                        return Ok(true);
                    }
                    Some(Err(error)) => return Err(self.halt(object, error)),
                    None => self.open = None,
                }
            }
            let Some(segment) = self.segments.pop() else { return Ok(false) };
            self.open = Some((segment, self.open(segment)?));
        }
    }

    fn open(&self, segment: Segment) -> Result<Rows, Halt> {
        let halt = |error: RowsError| self.halt(segment.object, error);
        // A plan without this object has been found already.
        let pin = self.pins.get(segment.object as usize).ok_or(Halt::Damaged)?;
        let object = self.runtime.block_on(Object::open(pin)).map_err(|error| halt(error.into()))?;
        let mut columns: Vec<&str> = self.selection.columns.iter().map(String::as_str).collect();
        columns.push(&self.selection.text_column);
        let columns_of = object.schema();
        if let Some(absent) = columns.iter().find(|name| columns_of.field_with_name(name).is_err()) {
            self.findings.add(&pin.object, DamageKind::InputChanged, format!("it has no column `{absent}`"));
            return Err(Halt::Damaged);
        }
        let text = columns_of.field_with_name(&self.selection.text_column).map(|field| field.data_type());
        if segment.end > pin.rows || !text.is_ok_and(schema::is_text) {
            let detail = format!("it has no texts in rows {} to {}", segment.start, segment.end);
            self.findings.add(&pin.object, DamageKind::InputChanged, detail);
            return Err(Halt::Damaged);
        }
        object.rows(segment, &columns, self.runtime.clone()).map_err(halt)
    }

    fn halt(&self, object: u32, error: RowsError) -> Halt {
        let url = &self.pins[object as usize].object;
        let kind = match error {
            RowsError::Input(InputError::Store(error)) => return Halt::Store(error),
            RowsError::Input(InputError::Changed { .. }) => DamageKind::InputChanged,
            RowsError::Input(_) | RowsError::Decode { .. } => DamageKind::InputUnreadable,
        };
        self.findings.add(url, kind, error.to_string());
        Halt::Damaged
    }

    fn check_dead(&self, batch: &RecordBatch) {
        let texts = self.texts(batch);
        for (place, reason) in self.dead.range(self.at..self.at + batch.num_rows() as u64) {
            let text = texts[(place - self.at) as usize];
            let holds = match reason {
                DeadReason::NullText => text.is_none(),
                DeadReason::EmptyText => text == Some(""),
                _ => continue,
            };
            if !holds {
                let detail = format!("{} of covered row {place}, whose text is neither", reason.name());
                self.findings.add(self.part, DamageKind::DeadReason, detail);
            }
        }
    }

    fn texts<'b>(&self, batch: &'b RecordBatch) -> Vec<Option<&'b str>> {
        schema::texts(batch.column_by_name(&self.selection.text_column).expect("the column was projected"))
    }

    /// Compares as many rows of the part as of the input.
    fn run(&self, ours: &RecordBatch, theirs: &RecordBatch) {
        let own = |name| ours.column_by_name(name).expect("the schema has been checked");
        let hashes = own(schema::TEXT_HASH).as_fixed_size_binary();
        let name_of = |i: usize| {
            let object = own(schema::OBJECT).as_string::<i32>().value(i);
            let row = own(schema::ROW).as_primitive::<arrow_array::types::Int64Type>().value(i);
            format!("row {row} of {object}")
        };
        for (i, text) in self.texts(theirs).into_iter().enumerate() {
            match text {
                None | Some("") => {
                    let detail = format!("{} has a vector, and no text in the input", name_of(i));
                    self.findings.add(self.part, DamageKind::TextHash, detail);
                }
                Some(text) if hashes.value(i) != text_hash(text) => {
                    let detail = format!("{} has the digest of another text than the input's", name_of(i));
                    self.findings.add(self.part, DamageKind::TextHash, detail);
                }
                Some(_) => {}
            }
        }
        for column in &self.selection.columns {
            let (a, b) = (own(column), theirs.column_by_name(column).expect("the column was projected"));
            if a.as_ref() == b.as_ref() {
                continue;
            }
            for i in (0..ours.num_rows()).filter(|i| a.slice(*i, 1).as_ref() != b.slice(*i, 1).as_ref()) {
                let detail = format!("`{column}` of {} is not the input's", name_of(i));
                self.findings.add(self.part, DamageKind::Carried, detail);
            }
        }
    }
}

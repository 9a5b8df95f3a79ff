//! What the coordinator itself reads and writes in the output: it looks slots up, splits shards to isolate poison, and
//! buries single rows. Everything else is the workers'.

use gristmill_job::{Compression, DeadReason, Digest, Exit, FORMAT, Segment, Segments, Slot};
use gristmill_store::commit::{Commit, CommitError, commit, read_slot};
use gristmill_store::dead::{self, DeadLetter};
use gristmill_store::documents::{Child, JobDocument};
use gristmill_store::input::{InputError, Object};
use gristmill_store::part::{EncodeError, Footer, PartEncoder};
use gristmill_store::schema::{self, SchemaError};
use gristmill_store::{Location, fresh_nonce, keys};

use crate::coverage::{Claimed, check_part};
use crate::prepare::Prepared;
use crate::scheduler::LookUp;

/// An act that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActError {
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl ActError {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            ActError::Commit(CommitError::Stranger { .. }) => Exit::NeedsAttention,
            ActError::Commit(CommitError::Store(_)) => Exit::NoProgress,
            ActError::Input(_) | ActError::Schema(_) => Exit::Input,
            ActError::Encode(_) => Exit::Internal,
        }
    }
}

/// The output, and what of the job is needed to write to it.
pub(crate) struct JobStore {
    pub(crate) out: Location,
    document: JobDocument,
    objects: Vec<gristmill_job::Pin>,
    compression: Compression,
}

impl JobStore {
    pub(crate) fn new(prepared: &Prepared, compression: Compression) -> Self {
        JobStore {
            out: prepared.out.clone(),
            document: prepared.document.clone(),
            objects: prepared.plan.objects.clone(),
            compression,
        }
    }

    /// What stands at a slot.
    pub(crate) async fn look_up(&self, slot: &Slot) -> Result<LookUp, ActError> {
        let found = read_slot(&self.out, (self.document.job, self.document.plan), slot, None).await?;
        found.map_or(Ok(LookUp::Absent), |footer| self.committed(footer))
    }

    /// Commits a part without rows that leaves all of the slot's to children.
    pub(crate) async fn split(
        &self,
        slot: &Slot,
        segments: Vec<Segment>,
        children: Vec<Vec<Segment>>,
    ) -> Result<LookUp, ActError> {
        let mut footer = self.footer(slot, segments);
        let child = |(index, segments)| Child { slot: slot.child(index), segments };
        footer.children = (0..).zip(children).map(child).collect();
        self.put(footer, &[]).await
    }

    /// Commits a part without rows whose one row is a dead letter.
    pub(crate) async fn bury(&self, slot: &Slot, segments: Vec<Segment>) -> Result<LookUp, ActError> {
        let mut footer = self.footer(slot, segments);
        footer.covered.clone_from(&footer.segments);
        let letters: Vec<DeadLetter> = (0..footer.segments.total_rows())
            .filter_map(|position| footer.segments.locate(position))
            .map(|(object, row)| DeadLetter {
                object: self.objects[object as usize].object.clone(),
                version: self.objects[object as usize].version.clone(),
                row,
                reason: DeadReason::Poison,
                detail: Some("every attempt at this row alone failed or ended its worker".to_owned()),
            })
            .collect();
        self.put(footer, &letters).await
    }

    async fn put(&self, mut footer: Footer, letters: &[DeadLetter]) -> Result<LookUp, ActError> {
        let mut dead_bytes = None;
        if !letters.is_empty() {
            let (file, bytes) = dead::encode(footer.job, &footer.slot, footer.nonce, letters);
            footer.dead = Some(file);
            dead_bytes = Some(bytes);
        }
        let first = footer.segments.first().map_or(0, |segment| segment.object);
        let object = Object::open(&self.objects[first as usize]).await?;
        let columns = schema::of_job(&self.document.spec, &object.pin.object, object.schema())?;
        let (footer, bytes) = PartEncoder::new(&columns, self.compression)?.finish(footer)?;
        match commit(&self.out, &footer, bytes, dead_bytes).await? {
            Commit::Won => self.committed(footer),
            Commit::Lost(winner) => self.committed(*winner),
        }
    }

    /// What a part leaves open: only if its own rows and its children's are together those of its slot.
    fn committed(&self, footer: Footer) -> Result<LookUp, ActError> {
        let key = keys::part(footer.job, &footer.slot);
        let children: Vec<_> = footer.children.into_iter().map(|child| (child.slot, child.segments)).collect();
        let claimed = Claimed {
            slot: footer.slot,
            segments: footer.segments.clone(),
            covered: footer.covered,
            children: children.clone(),
        };
        match check_part(&footer.segments, &claimed).first() {
            Some(gap) => Err(CommitError::Stranger { object: self.out.describe(&key), why: gap.to_string() }.into()),
            None => Ok(LookUp::Committed { children }),
        }
    }

    fn footer(&self, slot: &Slot, segments: Vec<Segment>) -> Footer {
        Footer {
            format: FORMAT,
            job: self.document.job,
            plan: self.document.plan,
            model: self.document.spec.model,
            slot: slot.clone(),
            nonce: fresh_nonce(),
            segments,
            covered: Vec::new(),
            children: Vec::new(),
            rows: 0,
            tokens: 0,
            dead: None,
            body: Digest::of(b""),
        }
    }
}

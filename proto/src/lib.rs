//! The protocol between coordinator and workers, and its translation to and from the vocabulary.

use std::collections::BTreeMap;

use gristmill_job::{DeadReason, Failure, Segment, Slot};

/// The generated messages, client and server.
#[allow(missing_docs, clippy::all, clippy::clone_on_ref_ptr)]
pub mod v1 {
    tonic::include_proto!("gristmill.v1");
}

/// The version that both sides must speak.
pub const PROTOCOL: u32 = 1;

/// A message that says something impossible.
#[derive(Debug, thiserror::Error)]
pub enum BadMessage {
    /// A name that is none.
    #[error(transparent)]
    Id(#[from] gristmill_job::BadId),
    /// A failure or a reason that is none.
    #[error("a failure or a reason is not readable: {0}")]
    Failure(#[from] serde_json::Error),
    /// A field that must be there.
    #[error("the message lacks `{0}`")]
    Missing(&'static str),
}

impl From<Segment> for v1::Segment {
    fn from(s: Segment) -> Self {
        v1::Segment { object: s.object, start: s.start, end: s.end }
    }
}

impl From<v1::Segment> for Segment {
    fn from(s: v1::Segment) -> Self {
        Segment { object: s.object, start: s.start, end: s.end }
    }
}

/// Segments as messages carry them.
pub fn segments_to_wire(segments: &[Segment]) -> Vec<v1::Segment> {
    segments.iter().copied().map(Into::into).collect()
}

/// Segments from a message.
pub fn segments_from_wire(segments: Vec<v1::Segment>) -> Vec<Segment> {
    segments.into_iter().map(Into::into).collect()
}

/// A slot's child as messages carry it.
pub fn child_to_wire(slot: &Slot, segments: &[Segment]) -> v1::Child {
    v1::Child { slot: slot.to_string(), segments: segments_to_wire(segments) }
}

/// A slot's child from a message.
pub fn child_from_wire(child: v1::Child) -> Result<(Slot, Vec<Segment>), BadMessage> {
    Ok((child.slot.parse()?, segments_from_wire(child.segments)))
}

/// Rows without a vector, by reason, as messages carry them.
pub fn dead_to_wire(rows: &BTreeMap<DeadReason, u64>) -> std::collections::HashMap<String, u64> {
    rows.iter().map(|(reason, rows)| (reason.name().to_owned(), *rows)).collect()
}

/// Rows without a vector, by reason, from a message.
pub fn dead_from_wire(rows: std::collections::HashMap<String, u64>) -> Result<BTreeMap<DeadReason, u64>, BadMessage> {
    rows.into_iter().map(|(name, rows)| Ok((serde_json::from_value(name.into())?, rows))).collect()
}

/// A failure as messages carry it.
pub fn failure_to_wire(failure: &Failure) -> String {
    serde_json::to_string(failure).expect("a failure is plain data")
}

/// A failure from a message.
pub fn failure_from_wire(text: &str) -> Result<Failure, BadMessage> {
    Ok(serde_json::from_str(text)?)
}

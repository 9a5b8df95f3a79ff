//! The protocol between coordinator and workers, and its translation to and from the vocabulary.

use gristmill_job::{Failure, Segment, Slot};

/// The generated messages, client and server.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
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
    /// A failure that is none.
    #[error("the failure is not readable: {0}")]
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

/// A failure as messages carry it.
pub fn failure_to_wire(failure: &Failure) -> String {
    serde_json::to_string(failure).expect("a failure is plain data")
}

/// A failure from a message.
pub fn failure_from_wire(text: &str) -> Result<Failure, BadMessage> {
    Ok(serde_json::from_str(text)?)
}

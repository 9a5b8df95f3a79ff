//! The plan: which objects, pinned, and which of their rows make which shard.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// An input object as it was when the job was planned. Every later read is checked against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The object's URL.
    pub object: String,
    /// The version that rows are known by: the store's, or for local files a text made of time, size and footer.
    pub version: String,
    /// Bytes.
    pub size: u64,
    /// Last modification, microseconds since 1970.
    pub modified_us: i64,
    /// The store's entity tag, where it is strong.
    pub e_tag: Option<String>,
    /// Digest of the Parquet footer.
    pub footer: Digest,
    /// Rows in the whole object.
    pub rows: u64,
}

impl Pin {
    /// The digest of a snapshot: of its pinned objects as JSON, whose field order is the declaration's.
    pub fn snapshot(objects: &[Pin]) -> Digest {
        Digest::of(&serde_json::to_vec(objects).expect("pins are plain data"))
    }
}

/// A contiguous range of rows of one object: `start..end`, counted from zero over the whole object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(u32, u64, u64)", into = "(u32, u64, u64)")]
pub struct Segment {
    /// Index into the plan's objects.
    pub object: u32,
    /// First row.
    pub start: u64,
    /// One past the last row.
    pub end: u64,
}

impl Segment {
    /// How many rows it spans.
    pub fn rows(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

impl From<(u32, u64, u64)> for Segment {
    fn from((object, start, end): (u32, u64, u64)) -> Self {
        Segment { object, start, end }
    }
}

impl From<Segment> for (u32, u64, u64) {
    fn from(s: Segment) -> Self {
        (s.object, s.start, s.end)
    }
}

/// What can be asked of a list of segments in their order. Rows are counted along the list, from zero.
pub trait Segments {
    /// How many rows all segments span.
    fn total_rows(&self) -> u64;
    /// The segments that rows `from..to`, counted along the list, lie in.
    fn slice(&self, from: u64, to: u64) -> Vec<Segment>;
    /// The object index and the row within that object of the row at `position` along the list.
    fn locate(&self, position: u64) -> Option<(u32, u64)>;
}

impl Segments for [Segment] {
    fn total_rows(&self) -> u64 {
        self.iter().map(Segment::rows).sum()
    }

    fn slice(&self, from: u64, to: u64) -> Vec<Segment> {
        let mut passed = 0;
        let mut out = Vec::new();
        for s in self {
            let (first, last) = (from.max(passed), to.min(passed + s.rows()));
            if first < last {
                out.push(Segment { object: s.object, start: s.start + first - passed, end: s.start + last - passed });
            }
            passed += s.rows();
        }
        out
    }

    fn locate(&self, position: u64) -> Option<(u32, u64)> {
        let mut passed = 0;
        for s in self {
            if position < passed + s.rows() {
                return Some((s.object, s.start + position - passed));
            }
            passed += s.rows();
        }
        None
    }
}

/// A unit of work: the rows that one part will hold, unless the shard is split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its rows, in the order in which they will stand in the part.
    pub segments: Vec<Segment>,
    /// Tokens, estimated from the footers.
    pub tokens: u64,
}

/// How the pinned snapshot is cut into shards. The shard at index `i` has the slot of that number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of this format.
    pub format: u32,
    /// The pinned objects.
    pub objects: Vec<Pin>,
    /// The shards: together they hold each selected row exactly once.
    pub shards: Vec<Shard>,
}

impl Plan {
    /// Rows in all shards.
    pub fn rows(&self) -> u64 {
        self.shards.iter().map(|s| s.segments.total_rows()).sum()
    }

    /// Estimated tokens in all shards.
    pub fn tokens(&self) -> u64 {
        self.shards.iter().map(|s| s.tokens).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segments() -> impl Strategy<Value = Vec<Segment>> {
        prop::collection::vec((0u32..4, 0u64..100, 0u64..20), 0..6)
            .prop_map(|v| v.into_iter().map(|(object, start, n)| Segment { object, start, end: start + n }).collect())
    }

    proptest! {
        #[test]
        fn slices_at_any_point_join_to_the_whole(s in segments(), at in 0u64..150) {
            let rows = |s: &[Segment]| (0..s.total_rows()).map(|i| s.locate(i)).collect::<Vec<_>>();
            let at = at.min(s.total_rows());
            let (head, tail) = (s.slice(0, at), s.slice(at, s.total_rows()));
            prop_assert_eq!(head.total_rows(), at);
            prop_assert_eq!([rows(&head), rows(&tail)].concat(), rows(&s));
        }
    }
}

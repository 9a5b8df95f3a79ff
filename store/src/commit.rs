//! The commit: creating a slot's part, and finding out what became of it.
//!
//! Order is load-bearing. First the dead letters, acknowledged or read back; then, if the part names children, the split
//! announcement; then the part, in one create-if-absent request. After any doubt the slot is read back, and its nonce says
//! whose bytes stand there.

use bytes::Bytes;
use gristmill_job::{Digest, FORMAT, Segment, Slot};

use crate::documents::{self, SplitDocument, Written};
use crate::keys;
use crate::location::Location;
use crate::outcome::{Created, StoreError};
use crate::part::{self, Footer};

/// How often the same bytes are put before the store's failure is the attempt's.
const TRIES: u32 = 6;

/// What stands in the slot after a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// Our bytes.
    Won,
    /// Another attempt's, complete and of this plan. Not a failure.
    Lost(Box<Footer>),
}

/// A commit without a result.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The store failed, again and again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The slot holds what no attempt at it can have written.
    #[error("{object} stands in the way: {why}; move it out of the output and run again")]
    Stranger {
        /// URL of the slot's object.
        object: String,
        /// In which way.
        why: String,
    },
}

/// Commits a part with its dead letters.
pub async fn commit(out: &Location, footer: &Footer, part: Bytes, dead: Option<Bytes>) -> Result<Commit, CommitError> {
    if let (Some(file), Some(bytes)) = (&footer.dead, dead) {
        write_own(out, &file.key, bytes).await?;
    }
    if !footer.children.is_empty() {
        let announcement = SplitDocument {
            format: FORMAT,
            job: footer.job,
            slot: footer.slot.clone(),
            nonce: footer.nonce,
            children: footer.children.clone(),
        };
        let key = keys::split(&footer.slot, footer.nonce);
        write_own(out, &key, documents::encode(&announcement)).await?;
    }
    put_part(out, footer, part).await
}

/// Writes an object whose key carries our nonce, so that nobody else can have written it.
async fn write_own(out: &Location, key: &str, bytes: Bytes) -> Result<(), CommitError> {
    match documents::create_bytes(out, key, bytes).await? {
        Written::Same => Ok(()),
        Written::Other(_) => Err(CommitError::Stranger {
            object: out.describe(key),
            why: "it carries our nonce but not our bytes".into(),
        }),
    }
}

async fn put_part(out: &Location, footer: &Footer, bytes: Bytes) -> Result<Commit, CommitError> {
    let key = keys::part(footer.job, &footer.slot);
    let mut tries = 0;
    loop {
        tries += 1;
        let failure = match out.create(&key, bytes.clone()).await {
            Ok(Created::Ours) => return Ok(Commit::Won),
            Ok(Created::Exists) => None,
            Err(error) => Some(error),
        };
        let standing = read_slot(out, (footer.job, footer.plan), &footer.slot, Some(&footer.segments)).await;
        match (standing, failure) {
            (Ok(Some(found)), _) if found.nonce == footer.nonce => return Ok(Commit::Won),
            (Ok(Some(found)), _) => return Ok(Commit::Lost(Box::new(found))),
            (Err(stranger @ CommitError::Stranger { .. }), _) => return Err(stranger),
            (Ok(None) | Err(_), Some(error)) if tries >= TRIES || error.is_refusal() => return Err(error.into()),
            (Err(error), None) if tries >= TRIES => return Err(error),
            (answer, failure) => {
                tracing::warn!(slot = %footer.slot, tries, ?answer, ?failure, "the commit is in doubt, trying again");
                crate::backoff(tries).await;
            }
        }
    }
}

/// What stands in a slot, if anything: a footer of that job and plan and, where they are given, of those rows. Anything
/// else is a stranger.
pub async fn read_slot(
    out: &Location,
    (job, plan): (Digest, Digest),
    slot: &Slot,
    segments: Option<&[Segment]>,
) -> Result<Option<Footer>, CommitError> {
    let key = keys::part(job, slot);
    let stranger = |why: String| CommitError::Stranger { object: out.describe(&key), why };
    let found = match part::read_footer(out, &key, None).await {
        Ok(Some(found)) => found.footer,
        Ok(None) => return Ok(None),
        Err(StoreError::Malformed { why, .. }) => return Err(stranger(why)),
        Err(error) => return Err(error.into()),
    };
    if found.job != job || found.plan != plan {
        return Err(stranger("it is a part of another job or plan".into()));
    }
    if found.slot != *slot || segments.is_some_and(|segments| segments != found.segments) {
        return Err(stranger("it is a part of other rows".into()));
    }
    Ok(Some(found))
}

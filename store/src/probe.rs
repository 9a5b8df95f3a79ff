//! Finds out, before the first shard, whether the output's store can hold the promise: creating an object must be atomic
//! and refused where one stands, also when several try at once.

use bytes::Bytes;
use futures::future::join_all;

use crate::keys;
use crate::location::Location;
use crate::outcome::{Created, StoreError};

/// A store that cannot be written to safely.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It refuses or fails.
    #[error("the output cannot be written: {0}")]
    Store(#[from] StoreError),
    /// It lets several writers create one object.
    #[error(
        "{url} lets {winners} of {writers} writers create the same object; an output needs a store where only one can"
    )]
    NotExclusive {
        /// URL of the output.
        url: String,
        /// How many were told that they created it.
        winners: usize,
        /// How many tried.
        writers: usize,
    },
    /// It holds other bytes than it acknowledged.
    #[error("{url} holds other bytes than those of the writer that it told was first")]
    Mixed {
        /// URL of the output.
        url: String,
    },
}

/// Probes the store; again where a request failed, since another job that begins here may have swept what was staged.
pub async fn probe(out: &Location) -> Result<(), ProbeError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match race(out).await {
            Err(ProbeError::Store(error)) if tries < 4 && !error.is_refusal() => crate::backoff(tries).await,
            ended => return ended,
        }
    }
}

/// Several writers race to create one object, some time after which the last must still be refused.
async fn race(out: &Location) -> Result<(), ProbeError> {
    const WRITERS: usize = 8;
    let key = format!("{}/{}", keys::PROBES, crate::fresh_nonce());
    let body = |writer: usize| Bytes::from(vec![writer as u8; 4096]);
    let answers = join_all((0..WRITERS).map(|writer| out.create(&key, body(writer)))).await;
    let mut winners = Vec::new();
    for (writer, answer) in answers.into_iter().enumerate() {
        if answer? == Created::Ours {
            winners.push(writer);
        }
    }
    if out.create(&key, body(WRITERS)).await? == Created::Ours {
        winners.push(WRITERS);
    }
    let url = out.url().to_owned();
    let &[winner] = winners.as_slice() else {
        return Err(ProbeError::NotExclusive { url, winners: winners.len(), writers: WRITERS + 1 });
    };
    let found = out.get(&key).await?;
    out.remove(&key).await;
    if found.is_some_and(|bytes| bytes == body(winner)) { Ok(()) } else { Err(ProbeError::Mixed { url }) }
}

//! Who coordinates. Each coordinator writes the next epoch's document, once, with the address where it answers; one that
//! finds a living predecessor steps back. Two at once are harmless, only wasteful.

use gristmill_job::{FORMAT, Nonce};
use gristmill_proto::v1::WhoRequest;
use gristmill_proto::v1::coordinator_client::CoordinatorClient;
use gristmill_store::documents::{self, EpochDocument, Written};
use gristmill_store::{Location, StoreError, keys};
use std::time::Duration;
use tonic::transport::Endpoint;

/// How long a predecessor may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How many epochs back a living predecessor is looked for.
const EPOCHS_BACK: u64 = 16;

/// The address of a coordinator of an epoch before `number` that still answers. Of two that begin together the one with
/// the lower number goes on: each answers before it writes its document.
pub(crate) async fn living_before(out: &Location, number: u64) -> Result<Option<String>, StoreError> {
    for earlier in (number.saturating_sub(EPOCHS_BACK).max(1)..number).rev() {
        let Some(document) = documents::read::<EpochDocument>(out, &keys::epoch(earlier)).await? else { continue };
        if who(&document.address).await.is_some_and(|name| name == document.coordinator.to_string()) {
            return Ok(Some(document.address));
        }
    }
    Ok(None)
}

/// Writes the next epoch's document.
pub(crate) async fn begin(out: &Location, address: &str, coordinator: Nonce) -> Result<u64, StoreError> {
    let document = EpochDocument { format: FORMAT, address: address.to_owned(), coordinator };
    let mut number = last(out).await?.unwrap_or(0) + 1;
    while let Written::Other(_) = documents::create(out, &keys::epoch(number), &document).await? {
        number += 1;
    }
    Ok(number)
}

async fn last(out: &Location) -> Result<Option<u64>, StoreError> {
    Ok(out.list(keys::EPOCHS).await?.iter().filter_map(|listed| keys::number_of_epoch(&listed.key)).max())
}

/// The name of the coordinator that answers at an address.
async fn who(address: &str) -> Option<String> {
    let endpoint =
        Endpoint::from_shared(address.to_owned()).ok()?.connect_timeout(ANSWER_WITHIN).timeout(ANSWER_WITHIN);
    let channel = endpoint.connect().await.ok()?;
    let reply = CoordinatorClient::new(channel).who(WhoRequest {}).await.ok()?;
    Some(reply.into_inner().coordinator)
}

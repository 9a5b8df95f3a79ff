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

/// The address of the latest coordinator of this output, if it still answers there.
pub(crate) async fn living(out: &Location) -> Result<Option<String>, StoreError> {
    let Some(last) = last(out).await? else { return Ok(None) };
    let Some(document) = documents::read::<EpochDocument>(out, &keys::epoch(last)).await? else { return Ok(None) };
    let answers = who(&document.address).await.is_some_and(|name| name == document.coordinator.to_string());
    Ok(answers.then_some(document.address))
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

//! Object stores, Parquet in and out, and the layout of an output: the only crate that touches storage.

pub mod checkpoint;
pub mod commit;
pub mod dead;
pub mod documents;
pub mod input;
pub mod keys;
pub mod part;
pub mod probe;
pub mod schema;
pub mod staging;

mod chance;
mod location;
mod outcome;

pub use chance::{backoff, fresh_nonce};
pub use location::{Listed, Location, OpenError};
pub use outcome::{Created, StoreError};

/// The digest by which a text is known: the first 128 bits of its BLAKE3 digest, without the prompt.
pub fn text_hash(text: &str) -> [u8; 16] {
    let digest = blake3::hash(text.as_bytes());
    *digest.as_bytes().first_chunk().expect("a digest has 32 bytes")
}

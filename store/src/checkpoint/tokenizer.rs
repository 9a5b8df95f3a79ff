//! A tokenizer's file: its bytes, and how many ids it can give. The rest of it is the worker's.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The bytes of a `tokenizer.json`; a file compressed with gzip is unpacked.
///
/// # Errors
/// The file cannot be read, or is cut off.
pub fn read_tokenizer(path: &Path) -> io::Result<Vec<u8>> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    let bytes = fs::read(path)?;
    if !bytes.starts_with(&GZIP) {
        return Ok(bytes);
    }
    let mut json = Vec::new();
    flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut json)?;
    Ok(json)
}

/// One more than the largest token id of a `tokenizer.json`: how many rows an embedding table must have.
///
/// # Errors
/// The bytes are not JSON, or have no `model.vocab`.
pub fn tokenizer_size(json: &[u8]) -> Result<usize, serde_json::Error> {
    #[derive(Deserialize)]
    struct Tokenizer {
        model: Model,
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(Deserialize)]
    struct Model {
        vocab: Ids,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
    }
    let tokenizer: Tokenizer = serde_json::from_slice(json)?;
    let added = tokenizer.added_tokens.iter().map(|token| token.id as usize + 1).max();
    Ok(tokenizer.model.vocab.0.max(added.unwrap_or(0)))
}

/// One more than the largest id of a vocabulary, which is a map to ids, or a list in their order.
struct Ids(usize);

impl<'de> Deserialize<'de> for Ids {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdsVisitor)
    }
}

struct IdsVisitor;

impl<'de> Visitor<'de> for IdsVisitor {
    type Value = Ids;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ids, A::Error> {
        let mut size = 0;
        while let Some((_, id)) = map.next_entry::<IgnoredAny, u32>()? {
            size = size.max(id as usize + 1);
        }
        Ok(Ids(size))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ids, A::Error> {
        let mut size = 0;
        while list.next_element::<IgnoredAny>()?.is_some() {
            size += 1;
        }
        Ok(Ids(size))
    }
}

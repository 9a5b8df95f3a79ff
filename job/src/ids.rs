//! Names of things: digests, nonces and slots. Each is a type of its own, so that none can stand in for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that should have named something and does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}")]
pub struct BadId {
    what: &'static str,
    text: String,
}

/// A 256-bit BLAKE3 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// The digest whose 32 bytes these are.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// The first eight hexadecimal digits: enough to tell the jobs of one folder apart.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

/// The unique name of one set of bytes: fresh for each part that a worker encodes. 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// The nonce whose bytes these are. The caller brings the randomness.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Nonce(bytes)
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn read_hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], BadId> {
    let bad = || BadId { what, text: text.to_owned() };
    if text.len() != 2 * N || !text.is_ascii() {
        return Err(bad());
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
    }
    Ok(bytes)
}

/// A place in the output: one of the plan's shards, or a child of a shard that was split. `000017` is the eighteenth
/// shard of the plan and `000017.2` its third child; children may be split again.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot {
    root: u32,
    path: Vec<u32>,
}

impl Slot {
    /// The slot of the plan's shard at `index`.
    pub fn root(index: u32) -> Self {
        Slot { root: index, path: Vec::new() }
    }

    /// The slot of this slot's child at `index`.
    pub fn child(&self, index: u32) -> Self {
        let mut path = self.path.clone();
        path.push(index);
        Slot { root: self.root, path }
    }

    /// The slot that this one was split from, if any.
    pub fn parent(&self) -> Option<Self> {
        let (_, path) = self.path.split_last()?;
        Some(Slot { root: self.root, path: path.to_vec() })
    }

    /// The index in the plan of the shard that this slot is, or descends from.
    pub fn shard(&self) -> u32 {
        self.root
    }

    /// How many splits lie between the plan's shard and this slot.
    pub fn depth(&self) -> usize {
        self.path.len()
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}", self.root)?;
        self.path.iter().try_for_each(|child| write!(f, ".{child}"))
    }
}

impl FromStr for Slot {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId { what: "slot", text: text.to_owned() };
        let mut numbers = text.split('.').map(|n| n.parse::<u32>().map_err(|_| bad()));
        let root = numbers.next().ok_or_else(bad)??;
        let slot = Slot { root, path: numbers.collect::<Result<_, _>>()? };
        // Only the canonical spelling is a name: `17` and `+17` would be other keys.
        if slot.to_string() == text { Ok(slot) } else { Err(bad()) }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for Digest {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        read_hex("digest", text).map(Digest)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl FromStr for Nonce {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        read_hex("nonce", text).map(Nonce)
    }
}

macro_rules! spelled_as_text {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }
    )*};
}
spelled_as_text!(Digest, Nonce, Slot);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_being_written_and_read() {
        let slot = Slot::root(17).child(2).child(0);
        assert_eq!(slot.to_string(), "000017.2.0");
        assert_eq!("000017.2.0".parse(), Ok(slot.clone()));
        assert_eq!(slot.parent(), Some(Slot::root(17).child(2)));
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn only_the_canonical_spelling_of_a_slot_is_a_slot() {
        for text in ["17", "+00017", "000017.", "000017.01", "", "000017.-1", "0000017"] {
            assert!(text.parse::<Slot>().is_err(), "{text}");
        }
        assert!("1234567".parse::<Slot>().is_ok(), "plans may have more than a million shards");
    }
}

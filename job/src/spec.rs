//! The job specification: everything that can change a row or its vector, and nothing else. Its digest is the job's
//! identity; threads, devices, shard sizes and limits are not in it and may change when a job is resumed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// A word that names none of the values of an option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not one of: {known}")]
pub struct UnknownName {
    text: String,
    known: String,
}

/// An option whose values are words: one spelling for the command line, job.json and footers.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant),* }
        impl $name {
            /// Every value's spelling.
            pub const WORDS: &'static [&'static str] = &[$($word),*];
            /// How this value is spelled.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
        impl FromStr for $name {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                match text {
                    $($word => Ok($name::$variant),)*
                    _ => Err(UnknownName { text: text.to_owned(), known: Self::WORDS.join(", ") }),
                }
            }
        }
    };
}

words! {
    /// What becomes of strings such as `<|endoftext|>` inside a text.
    SpecialTokens {
        /// They become the special ids, as in the reference.
        Parse = "parse",
        /// They are text like any other.
        Text = "text",
    }
}
words! {
    /// The number type of the decoder's arithmetic. Pooling is always float32.
    Compute {
        /// bfloat16.
        Bf16 = "bf16",
        /// float32.
        F32 = "f32",
    }
}
words! {
    /// The number type of the vectors in the output.
    VectorType {
        /// float32.
        F32 = "f32",
        /// float16.
        F16 = "f16",
    }
}
words! {
    /// What pooling adds to the attended values: the seed after its projection, or the seed as it is stored.
    Residual {
        /// `o = fc_q(S) + A v`: C2LLM.
        Projected = "projected",
        /// `o = S + A v`: the older sisters CGE and D2LLM.
        Seed = "seed",
    }
}
words! {
    /// How column chunks of the output are compressed. Not part of the specification: it changes no value.
    Compression {
        /// Zstandard, level 1: the smallest.
        Zstd = "zstd",
        /// LZ4, raw blocks.
        Lz4 = "lz4",
        /// Snappy.
        Snappy = "snappy",
        /// Not compressed: the fastest.
        None = "none",
    }
}
words! {
    /// Where the model runs.
    Device {
        /// The best that is there.
        Auto = "auto",
        /// The processor.
        Cpu = "cpu",
    }
}

/// Which rows and columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// The column that is embedded.
    pub text_column: String,
    /// The columns that are carried into the output unchanged, in this order.
    pub columns: Vec<String>,
    /// Only the first so many rows of the snapshot.
    pub limit: Option<u64>,
}

/// From a row's text to token ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSpec {
    /// Put in front of every text, resolved.
    pub prompt: String,
    /// Special-token strings inside texts.
    pub special_tokens: SpecialTokens,
    /// Token ids per row at most, the prompt's among them; the rest is cut on the right.
    pub max_tokens: u32,
}

/// From token ids to vectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorSpec {
    /// Components per vector.
    pub width: u32,
    /// Type of a component in the output.
    pub dtype: VectorType,
    /// Whether vectors are divided by their Euclidean norm.
    pub normalised: bool,
    /// Type of the decoder's arithmetic.
    pub compute: Compute,
    /// The variant of the pooling.
    pub residual: Residual,
}

/// Everything that can change a row or its vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Version of this format.
    pub format: u32,
    /// Digest of the model's config, tokenizer and weights.
    pub model: Digest,
    /// Rows and columns.
    pub selection: Selection,
    /// Text to ids.
    pub text: TextSpec,
    /// Ids to vectors.
    pub vectors: VectorSpec,
    /// Output schema: name and Arrow type of every column, in order.
    pub schema: Vec<(String, String)>,
    /// Digest of the pinned objects.
    pub snapshot: Digest,
}

/// One value in which two specifications differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where: `text.max_tokens`, say.
    pub name: String,
    /// In the first.
    pub ours: String,
    /// In the second.
    pub theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in the output, {} asked for", self.name, self.ours, self.theirs)
    }
}

impl JobSpec {
    /// The job's identity: the digest of this specification as JSON, whose field order is the declaration's.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a specification is plain data"))
    }

    /// Every value in which `other` differs, named by its path.
    pub fn differences(&self, other: &JobSpec) -> Vec<Difference> {
        let tree = |spec| serde_json::to_value(spec).expect("a specification is plain data");
        let mut out = Vec::new();
        compare("", &tree(self), &tree(other), &mut out);
        out
    }
}

fn compare(path: &str, ours: &serde_json::Value, theirs: &serde_json::Value, out: &mut Vec<Difference>) {
    use serde_json::Value::Object;
    match (ours, theirs) {
        (Object(a), Object(b)) => {
            for (key, value) in a {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, value, b.get(key).unwrap_or(&serde_json::Value::Null), out);
            }
        }
        _ if ours != theirs => {
            out.push(Difference { name: path.to_owned(), ours: ours.to_string(), theirs: theirs.to_string() });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> JobSpec {
        JobSpec {
            format: crate::FORMAT,
            model: Digest::of(b"model"),
            selection: Selection { text_column: "content".into(), columns: vec!["path".into()], limit: None },
            text: TextSpec { prompt: "P:".into(), special_tokens: SpecialTokens::Parse, max_tokens: 2048 },
            vectors: VectorSpec {
                width: 64,
                dtype: VectorType::F32,
                normalised: true,
                compute: Compute::Bf16,
                residual: Residual::Projected,
            },
            schema: vec![("path".into(), "Utf8".into())],
            snapshot: Digest::of(b"objects"),
        }
    }

    #[test]
    fn a_difference_is_named_by_its_path() {
        let (ours, mut theirs) = (spec(), spec());
        theirs.text.max_tokens = 512;
        assert_ne!(ours.digest(), theirs.digest());
        let found = ours.differences(&theirs);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "text.max_tokens: 2048 in the output, 512 asked for");
    }

    #[test]
    fn the_digest_of_a_specification_never_changes() {
        // Outputs written by older versions are resumed and verified by this digest.
        assert_eq!(spec().digest().short(), "0953d7ec");
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        assert_eq!("f16".parse(), Ok(VectorType::F16));
        let error = "f64".parse::<VectorType>().expect_err("not a type of ours");
        assert_eq!(error.to_string(), "`f64` is not one of: f32, f16");
    }
}

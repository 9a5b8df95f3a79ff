//! From a row's text to token ids, exactly as the reference does it: the prompt and the text are concatenated, tokenized
//! without adding special tokens, and cut on the right.

use std::path::Path;

use gristmill_job::{SpecialTokens, TextSpec};

/// The pre-tokenizer's pattern for which `safe_cut` was proven.
const QWEN_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Bytes of text tokenized at first, per token that can be used: several times what code needs.
const FIRST_BYTES_PER_TOKEN: usize = 8;

/// A tokenizer that cannot be used, or a text that it refuses.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Not readable.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not a tokenizer.
    #[error("{path} is not a tokenizer: {why}")]
    Malformed {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// The prompt leaves no room for a text.
    #[error(
        "the prompt has {prompt} tokens and --max-tokens is {max}: no text would be embedded; raise it or shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens allowed.
        max: usize,
    },
    /// The text has no ids.
    #[error("the tokenizer refuses the text: {0}")]
    Refused(String),
}

/// A text's token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokenized {
    /// At most `max_tokens` of them, the prompt's first.
    pub ids: Vec<u32>,
    /// Bytes of the text (not the prompt) behind the last character that is used whole. 0 exactly where all ids are here.
    pub cut_bytes: usize,
}

/// A model's tokenizer with a job's settings.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    prompt: String,
    max_tokens: usize,
    /// Whether `safe_cut` holds for this tokenizer.
    cuts_are_safe: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    pub fn open(path: &Path, spec: &TextSpec) -> Result<Self, TokenizerError> {
        let name = || path.display().to_string();
        let malformed = |why: String| TokenizerError::Malformed { path: name(), why };
        let text = std::fs::read_to_string(path).map_err(|source| TokenizerError::Read { path: name(), source })?;
        // Text in between: generic readers would be compiled here, and take most of a worker's start where not optimised.
        let mut json: serde_json::Value = text.parse().map_err(|e: serde_json::Error| malformed(e.to_string()))?;
        let added = json["added_tokens"].as_array().cloned().unwrap_or_default();
        if spec.special_tokens == SpecialTokens::Text {
            // The library knows how to ignore those that are marked special, but not the others.
            json["added_tokens"] = serde_json::Value::Array(Vec::new());
        }
        let cuts_are_safe = has_safe_cuts(&json, &added);
        let read = json.to_string().parse();
        let mut inner: tokenizers::Tokenizer = read.map_err(|e: tokenizers::Error| malformed(e.to_string()))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| malformed(e.to_string()))?;
        let refused = |e: tokenizers::Error| TokenizerError::Refused(e.to_string());
        let (prompt, max) = (inner.encode(&*spec.prompt, false).map_err(refused)?.len(), spec.max_tokens as usize);
        if prompt >= max {
            return Err(TokenizerError::PromptTooLong { prompt, max });
        }
        Ok(Tokenizer { inner, prompt: spec.prompt.clone(), max_tokens: max, cuts_are_safe })
    }

    /// The ids of one text. Only as much of it is tokenized as can be used.
    pub fn tokenize(&self, text: &str) -> Result<Tokenized, TokenizerError> {
        let mut bytes = self.max_tokens.saturating_mul(FIRST_BYTES_PER_TOKEN);
        loop {
            let cut = if self.cuts_are_safe { safe_cut(text, bytes) } else { None };
            let used = &text[..cut.unwrap_or(text.len())];
            let encoding = self
                .inner
                .encode(format!("{}{used}", self.prompt), false)
                .map_err(|e| TokenizerError::Refused(e.to_string()))?;
            if cut.is_none() && encoding.len() <= self.max_tokens {
                return Ok(Tokenized { ids: encoding.get_ids().to_vec(), cut_bytes: 0 });
            }
            if encoding.len() >= self.max_tokens {
                return Ok(self.truncate(&encoding, used, text.len()));
            }
            bytes = bytes.saturating_mul(2);
        }
    }

    /// Keeps the first `max_tokens` of the ids of the prompt and `used`, the beginning of a text of `text_bytes`.
    ///
    /// The text is used up to where the next token's begins. Offsets are bytes before normalisation, where a composed
    /// letter ends with its first character, and every token of a character has the whole of it: so what a token left
    /// over begins in is not used, and a text with tokens left over always has bytes left over.
    fn truncate(&self, encoding: &tokenizers::Encoding, used: &str, text_bytes: usize) -> Tokenized {
        let (ids, offsets) = (encoding.get_ids(), encoding.get_offsets());
        let end = offsets.get(self.max_tokens).map_or(self.prompt.len() + used.len(), |(start, _)| *start);
        let cut_bytes = text_bytes - end.saturating_sub(self.prompt.len());
        Tokenized { ids: ids[..self.max_tokens].to_vec(), cut_bytes }
    }
}

/// Whether the tokenizer is one for which `safe_cut` was proven: Qwen2's pattern, NFC or nothing before it, and no added
/// token that a safe cut could fall into.
fn has_safe_cuts(json: &serde_json::Value, added: &[serde_json::Value]) -> bool {
    let normalizer = &json["normalizer"];
    let split = &json["pre_tokenizer"]["pretokenizers"][0];
    let plain = |token: &serde_json::Value| {
        let text = token["content"].as_str().unwrap_or_default();
        let strips = ["lstrip", "rstrip", "single_word"].iter().any(|key| token[*key] == true);
        !strips && !text.bytes().any(|b| b.is_ascii_digit() || b.is_ascii_whitespace())
    };
    (normalizer.is_null() || normalizer["type"] == "NFC")
        && split["pattern"]["Regex"] == QWEN_PATTERN
        && split["behavior"] == "Isolated"
        && added.iter().all(plain)
}

/// The first place at or behind `from` where `text` may be cut without changing the ids before it; `None` where the text
/// ends first.
///
/// Under Qwen2's pattern no match reaches across: a newline before something that is not white space (every branch that
/// takes newlines takes nothing but white space behind them); a digit (always a match of its own) before ASCII; a letter
/// before a space and a letter (the space begins the next match). ASCII behind the cut keeps NFC from composing across.
fn safe_cut(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    (from.max(1)..bytes.len()).find(|&i| {
        let (before, after) = (bytes[i - 1], bytes[i]);
        match before {
            b'\n' => after.is_ascii_graphic(),
            b'0'..=b'9' => after.is_ascii(),
            _ => before.is_ascii_alphabetic() && after == b' ' && bytes.get(i + 1).is_some_and(u8::is_ascii_alphabetic),
        }
    })
}

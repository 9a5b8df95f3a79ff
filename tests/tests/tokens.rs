//! The worker tokenizes only as much of a long text as can be used. Here the ids are held against the plain `tokenizers`
//! library, which is given all of every text, and the bytes that are left over against what the ids spell.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use gristmill_job::{SpecialTokens, TextSpec};
use gristmill_worker::{Tokenized, Tokenizer};
use proptest::prelude::*;

/// The real tokenizer, as a file that `Tokenizer::open` reads, and as the library reads it.
struct Real {
    path: PathBuf,
    parse: tokenizers::Tokenizer,
    text: tokenizers::Tokenizer,
    /// What every id of the two spells.
    spellings: HashMap<u32, Vec<u8>>,
    _dir: tempfile::TempDir,
}

static REAL: LazyLock<Real> = LazyLock::new(|| {
    let gz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/qwen2.5-tokenizer/tokenizer.json.gz");
    let mut json = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(gz).unwrap()).read_to_string(&mut json).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, &json).unwrap();
    let parse: tokenizers::Tokenizer = json.parse().unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&json).unwrap();
    value["added_tokens"] = serde_json::json!([]);
    let spellings = spellings(&value, &parse);
    Real { path, parse, text: serde_json::from_value(value).unwrap(), spellings, _dir: dir }
});

/// The bytes of every token: the vocabulary writes each byte as one letter of GPT-2's alphabet, added tokens as they are.
fn spellings(json: &serde_json::Value, parse: &tokenizers::Tokenizer) -> HashMap<u32, Vec<u8>> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut letters: HashMap<char, u8> = (0..=255u8).filter(printable).map(|b| (char::from(b), b)).collect();
    letters.extend((0x100..).filter_map(char::from_u32).zip((0..=255u8).filter(|b| !printable(b))));
    let vocabulary = json["model"]["vocab"].as_object().unwrap();
    let bytes = |token: &str| token.chars().map(|c| letters[&c]).collect();
    let mut all: HashMap<u32, Vec<u8>> =
        vocabulary.iter().map(|(token, id)| (id.as_u64().unwrap() as u32, bytes(token))).collect();
    all.extend(parse.get_added_tokens_decoder().iter().map(|(id, token)| (*id, token.content.clone().into_bytes())));
    all
}

/// One way to use the tokenizer.
#[derive(Debug, Clone)]
struct Setting {
    prompt: &'static str,
    special_tokens: SpecialTokens,
}

static SETTINGS: [Setting; 4] = [
    Setting { prompt: "Retrieved Answer:", special_tokens: SpecialTokens::Parse },
    Setting { prompt: "", special_tokens: SpecialTokens::Parse },
    Setting { prompt: "Find this:\n", special_tokens: SpecialTokens::Parse },
    Setting { prompt: "Retrieved Answer:", special_tokens: SpecialTokens::Text },
];

/// Ours; opening one takes a while.
fn ours(setting: usize, max_tokens: usize) -> Tokenizer {
    let Setting { prompt, special_tokens } = SETTINGS[setting].clone();
    let spec = TextSpec { prompt: prompt.to_owned(), special_tokens, max_tokens: max_tokens as u32 };
    Tokenizer::open(&REAL.path, &spec).unwrap()
}

/// Holds one answer against the library's ids of the whole text.
fn check(setting: usize, max_tokens: usize, text: &str, got: &Tokenized) {
    let Setting { prompt, special_tokens } = &SETTINGS[setting];
    let plain = if *special_tokens == SpecialTokens::Parse { &REAL.parse } else { &REAL.text };
    let whole = format!("{prompt}{text}");
    let full = plain.encode(whole.as_str(), false).unwrap();
    let used = full.len().min(max_tokens);
    assert_eq!(got.ids, full.get_ids()[..used], "ids of {text:?} at {max_tokens} tokens with {prompt:?}");
    if full.len() <= max_tokens {
        assert_eq!(got.cut_bytes, 0, "all of {text:?} is used");
        return;
    }
    assert!(0 < got.cut_bytes && got.cut_bytes <= text.len(), "{} bytes of {text:?} are cut", got.cut_bytes);
    let end = whole.len() - got.cut_bytes;
    assert!(whole.is_char_boundary(end), "{} bytes of {text:?} are cut, within a character", got.cut_bytes);
    let spelled = spell(&got.ids);
    if spelled.len() <= prompt.len() {
        assert_eq!(got.cut_bytes, text.len(), "nothing of {text:?} is used");
        return;
    }
    let spelled_of = |text: &str| spell(plain.encode(text, false).unwrap().get_ids());
    // Where normalisation orders several marks of one letter anew, the library does not tell which of them is where.
    let apart = |at: &usize| {
        whole.is_char_boundary(*at)
            && [spelled_of(&whole[..*at]), spelled_of(&whole[*at..])].concat() == spell(full.get_ids())
    };
    if !apart(&end) {
        let start = (0..end).rev().find(apart).unwrap();
        let letter = &whole[start..(end..=whole.len()).find(apart).unwrap()];
        let normalised = String::from_utf8(spelled_of(letter)).unwrap();
        let marks = letter.chars().count() + normalised.chars().count();
        assert!(marks > 3, "{} bytes cut from {text:?}: within {letter:?}", got.cut_bytes);
        return;
    }
    // The last token may spell the beginning of a character that is cut, or of what that is normalised to.
    let torn =
        |bytes: &[u8]| std::str::from_utf8(bytes).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none());
    let next = spelled_of(&whole[end..].chars().take(1).collect::<String>());
    let rest = spelled.strip_prefix(spelled_of(&whole[..end]).as_slice());
    assert!(
        rest.is_some_and(|rest| rest.is_empty() || torn(rest) || (next.starts_with(rest) && rest != next)),
        "{} bytes cut from {text:?} at {max_tokens} tokens leave {:?}, the ids spell {:?}",
        got.cut_bytes,
        &whole[..end],
        String::from_utf8_lossy(&spelled)
    );
}

/// The bytes that the ids stand for, normalised.
fn spell(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| &REAL.spellings[id]).copied().collect()
}

/// What texts are made of: everything that the pattern, the normalisation or the added tokens treat in a way of its own.
fn fragment() -> impl Strategy<Value = String> {
    let fixed = |all: &'static [&'static str]| prop::sample::select(all).prop_map(str::to_owned);
    prop_oneof![
        6 => "[a-zA-Z]{1,9}",
        3 => "[0-9]{1,4}",
        4 => fixed(&[" ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n  ", "\u{b}", "\u{c}", "\u{85}", "\u{a0}", "\u{2028}", "\u{3000}"]),
        4 => "[!-/:-@\\[-`{-~]{1,4}",
        2 => fixed(&["'s", "'LL", "'ve", "'\u{17f}", "n't", "' d"]),
        2 => fixed(&["\u{301}", "\u{323}\u{301}", "\u{30a}", "\u{338}", "\u{fe0f}\u{20e3}", "\u{200d}", "\u{3099}", "\u{94d}"]),
        2 => fixed(&["e\u{301}", "\u{e9}", "\u{212a}", "\u{212b}", "\u{37e}", "\u{1fef}", "\u{2000}", "\u{1112}\u{1161}\u{11ab}", "\u{ac00}\u{11a8}", "<\u{338}", "\u{344}", "\u{958}"]),
        2 => fixed(&["\u{660}", "\u{b2}", "\u{2167}", "\u{1d7d8}", "1\u{fe0f}\u{20e3}"]),
        1 => fixed(&["\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}", "\u{1f1e9}\u{1f1ea}", "日本語", "привет", "नमस्ते", "\u{feff}"]),
        2 => fixed(&["<|endoftext|>", "<|im_start|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|file_sep|>", "<|repo_name|>", "<|end", "oftext|>", "<|", "|>", "<tool_"]),
        1 => any::<char>().prop_map(String::from),
    ]
}

/// What has long tokens: with these the ids near where the text is cut first are ids that are used.
fn long_token() -> impl Strategy<Value = String> {
    let words = &["=", "-", "*", "/", "#", "_", " ", "\n", "\t", "\r\n", "\n\n", " \n"][..];
    prop_oneof![
        3 => (prop::sample::select(words), 1..33usize).prop_map(|(unit, count)| unit.repeat(count)),
        3 => prop::sample::select(&[" configuration", "internationalization", " Authorization", " responsibilities", " administration"][..])
            .prop_map(str::to_owned),
        1 => Just("<|object_ref_start|>".to_owned()),
    ]
}

fn text() -> impl Strategy<Value = String> {
    let short = prop::collection::vec(fragment(), 1..220);
    let long = prop::collection::vec(prop_oneof![5 => long_token(), 1 => fragment()], 1..60);
    prop_oneof![short, long].prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_ids_are_those_of_the_whole_text(text in text(), case in 0..CASES.len()) {
        let (setting, limit) = CASES[case];
        check(setting, limit, &text, &OURS[case].tokenize(&text).unwrap());
    }
}

/// Settings and limits, which are small, so that most texts are longer than what is tokenized first; at 4 and 5 one token
/// of the text fits behind the prompt.
const CASES: [(usize, usize); 9] = [(0, 5), (0, 7), (0, 29), (1, 1), (1, 13), (1, 60), (2, 4), (2, 13), (3, 29)];
static OURS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| CASES.map(|(setting, limit)| ours(setting, limit)).into());

#[test]
fn a_limit_at_and_around_the_length_of_a_text_is_exact() {
    let text = "let caf\u{e9} = \"\u{1f980}\";\n";
    let count = |text: &str| REAL.parse.encode(text, false).unwrap().len();
    let whole = count(&format!("{}{text}", SETTINGS[0].prompt));
    for limit in count(SETTINGS[0].prompt) + 1..=whole + 2 {
        let got = ours(0, limit).tokenize(text).unwrap();
        assert_eq!(got.ids.len(), limit.min(whole));
        assert_eq!(got.cut_bytes == 0, limit >= whole, "at {limit} of {whole}");
        check(0, limit, text, &got);
    }
}

#[test]
fn long_runs_have_the_ids_of_the_whole_text() {
    let runs = [
        " ".repeat(30_000),
        "\n".repeat(30_000),
        "\t".repeat(30_000),
        "7".repeat(30_000),
        "^".repeat(20_000),
        "x".repeat(30_000),
        "e\u{301}".repeat(10_000),
        "\u{301}".repeat(10_000),
        "\r\n".repeat(10_000),
        "a b ".repeat(10_000),
        "0\u{301}".repeat(10_000),
        "\n\u{2028}".repeat(10_000),
        "var a=1,b=function(c){return c+1};".repeat(1_000),
        "TWFuIGlzIGRpc3Rpbmd1aXNoZWQ".repeat(1_000),
        "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}".repeat(1_000),
        "<|endoftext|>".repeat(1_000),
    ];
    for (setting, limit) in [(0, 100), (1, 2048), (3, 100)] {
        let ours = ours(setting, limit);
        for run in &runs {
            for tail in ["", "\u{301}", "\n}", " end"] {
                let text = format!("{run}{tail}");
                check(setting, limit, &text, &ours.tokenize(&text).unwrap());
            }
        }
    }
}

#[test]
fn a_text_that_ends_where_it_could_be_cut_is_whole() {
    // The first look is at 8 bytes a token: texts of exactly that many bytes, and one more or fewer.
    for bytes in [79, 80, 81] {
        for unit in ["1", "a b ", "ab\n", "<|endoftext|>\n"] {
            let text: String = unit.chars().cycle().take(bytes).collect();
            check(1, 10, &text, &ours(1, 10).tokenize(&text).unwrap());
        }
    }
}

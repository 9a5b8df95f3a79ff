"""Holds the ids that a worker would use against those of Python's tokenizers: of every file of the corpora named, and of
texts that are made to be awkward. Prompt and text are concatenated, no special tokens are added, the rest is cut off."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
from checks import check, finish
from tokenizers import Tokenizer

DOCUMENT = "Retrieved Answer:"
UNLIMITED = 1 << 24
# The last is never reached.
LIMITS = [5, 128, 512, UNLIMITED]
# Rows read at a time: bounds memory for large corpora.
BATCH = 4000


def awkward() -> dict[str, str]:
    """Texts by name, each a class of trouble."""
    code = "fn main() {\n    let x = vec![1, 2, 3];\n\n    println!(\"{x:?}\");\n}\n"
    special = ["<|endoftext|>", "<|im_start|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|file_sep|>"]
    texts = {
        "empty but for a space": " ",
        "blank": " \t\n \r\n",
        "NFC composes": "e\u0301 A\u030a \u1112\u1161\u11ab \u212b \u2126 <\u0338 \u0958 " * 200,
        "marks after ASCII": "".join(f"word{i} \u0301{i}\u0323\u0301\n\u0301x" for i in range(400)),
        "a mark at the start, composing with the prompt": "\u0301 and on " * 100,
        "many marks": "a" + "\u0301\u0323" * 3000,
        "CRLF": code.replace("\n", "\r\n") * 100,
        "CR alone": code.replace("\n", "\r") * 100,
        "spaces": " " * 60_000 + "end",
        "tabs": "\t" * 60_000 + "end",
        "newlines": "\n" * 60_000 + "end",
        "blanks of all kinds": " \t\n\u00a0\u2028\u3000\u0085\r\n\u000b\u000c" * 3000 + "end",
        "indentation": "".join(" " * (i % 60) + "x\n" for i in range(3000)),
        "trailing blanks": "".join("x" + " " * (i % 7) + "\n" for i in range(3000)),
        "minified": "var a=1,b=function(c){return c?d:e&&f||g[0]};" * 2000,
        "base64": "TWFuIGlzIGRpc3Rpbmd1aXNoZWQsIG5vdCBvbmx5IGJ5IGhpcyByZWFzb24+/" * 1500,
        "hexadecimal": "deadbeef0123456789abcdef" * 3000,
        "200,000 letters": "x" * 200_000,
        "200,000 letters of words": "theQuickBrownFoxJumps" * 9524,
        "100,000 digits": "1234567890" * 10_000,
        "50,000 carets": "^" * 50_000,
        "punctuation": "!@#$%^&*()_+-=[]{}|;':\",./<>?`~" * 1000,
        "contractions": "it's I'LL we'Ve 'S 'tis x'd n't 'ſ " * 500,
        "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea \u0031\ufe0f\u20e3 " * 500,
        "scripts": "日本語のテキスト привет мир नमस्ते مرحبا שלום ไทย " * 400,
        "numbers of all scripts": "٣٤٥ ²³ Ⅷ 𝟘𝟙 1²3٣ " * 400,
        "byte order mark": "\ufeff" + code,
        "not characters": "\ufffe\uffff\U0010ffff\ufffd" * 400,
        "controls": "".join(map(chr, range(1, 32))) * 200,
        "special tokens": "".join(f"{s} x{s}\n{s}1{s}" for s in special) * 50,
        "special tokens, torn": "".join(f"{s[:n]} {s[n:]}" for s in special for n in range(1, len(s))) * 5,
        "special tokens after a limit": "a b " * 3000 + "<|endoftext|>" * 3000,
    }
    tokenizer = Tokenizer.from_file(ARGS.tokenizer)
    prompted = tokenizer.encode(DOCUMENT, add_special_tokens=False)
    for limit in (128, 512):
        # " a" is one token: the text has exactly as many as fit, or one more or fewer.
        for ends in (-1, 0, 1):
            texts[f"ends at {limit} {ends:+d}"] = " a" * (limit - len(prompted.ids) + ends)
    # The first look is at 8 bytes a token.
    for limit in (5, 128):
        for ends in (-1, 0, 1):
            texts[f"as long as the first look at {limit} {ends:+d}"] = ("ab 1\n" * limit)[: 8 * limit + ends]
    return texts


def ours(texts: list[str], prompt: str, mode: str, limits: list[int]) -> list[list[dict]]:
    """For each text, for each limit, the ids and the bytes cut."""
    command = [ARGS.tokens, "--tokenizer", ARGS.tokenizer, "--prompt", prompt, "--special-tokens", mode]
    command += ["--max-tokens", ",".join(map(str, limits))]
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(texts), f"{len(answers)} answers to {len(texts)} texts"
    return answers


def reference(mode: str) -> Tokenizer:
    """Python's tokenizer; for `text` one that knows no added tokens."""
    if mode == "parse":
        return Tokenizer.from_file(ARGS.tokenizer)
    config = json.loads(Path(ARGS.tokenizer).read_text(encoding="utf-8"))
    config["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(config))


def differences(texts: list[str], prompt: str, mode: str, limits: list[int]) -> list[str]:
    """What differs, in words; nothing is as it should be."""
    found = []
    theirs = reference(mode)
    for number, (text, answers) in enumerate(zip(texts, ours(texts, prompt, mode, limits), strict=True)):
        ids = theirs.encode(prompt + text, add_special_tokens=False).ids
        bytes_all = len(text.encode())
        for limit, answer in zip(limits, answers, strict=True):
            if answer["ids"] != ids[:limit]:
                at = next((i for i, (a, b) in enumerate(zip(answer["ids"], ids)) if a != b), "the end")
                found.append(f"text {number} {text[:40]!r} at {limit} tokens differs at {at}: {len(answer['ids'])} ids")
            # All bytes are used exactly where all ids are; and never more are cut than there are.
            cut = answer["cut_bytes"]
            if (len(ids) <= limit and cut != 0) or not 0 <= cut <= bytes_all:
                found.append(f"text {number} {text[:40]!r} at {limit} of {len(ids)} tokens: {cut} of {bytes_all} bytes cut")
    return found


def report(what: str, found: list[str]) -> None:
    check(what, not found, "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else ""))


def corpora() -> None:
    """Every text of every corpus."""
    found, texts, size = [], 0, 0
    for batch in ds.dataset(ARGS.corpora).to_batches(columns=["content"], batch_size=BATCH):
        some = [text for text in batch.column(0).to_pylist() if text]
        found += differences(some, DOCUMENT, "parse", LIMITS) if some else []
        texts += len(some)
        size += sum(map(len, some))
    report(f"tokens of {texts} files, {size / 1e6:.1f} million characters, at {LIMITS} tokens", found)


def main() -> None:
    texts = awkward()
    for prompt, mode, limits in [(DOCUMENT, "parse", LIMITS), ("", "parse", [128]), ("Query:\n", "text", [128, UNLIMITED])]:
        found = differences(list(texts.values()), prompt, mode, limits)
        names = list(texts)
        found = [f"{names[int(what.split()[1])]}: {what}" for what in found]
        report(f"tokens of {len(texts)} awkward texts, prompt {prompt!r}, special tokens {mode}, at {limits} tokens", found)
    if ARGS.corpora:
        corpora()
    finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", required=True, help="the program that prints our ids")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json")
    parser.add_argument("corpora", nargs="*", help="Parquet files with a column `content`")
    ARGS = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8")
    main()

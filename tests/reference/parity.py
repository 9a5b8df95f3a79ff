"""Compares the product with the reference on random checkpoints and real texts, prints a table, and fails on a miss.

Checkpoints are made by `gristmill model new`; vectors are asked of `gristmill-worker query`. float32: the largest
difference of any component of unit vectors is at most 2e-5. bfloat16, against the float32 reference: the cosine is at
least 0.999 on average and 0.995 at worst.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from c2llm import C2LLM

F32_LARGEST = 2e-5
BF16_MEAN, BF16_WORST = 0.999, 0.995
MAX_TOKENS = 4000
PROMPT = "Retrieve the code that solves the following query:\n"

# Layers, widths, query and key/value heads (1:1, 4:1, 7:1), pooling heads, width of the vector, norms, files, type.
CHECKPOINTS = {
    "tiny": "",
    "one layer, 1:1, f32": "--layers 1 --hidden-size 96 --heads 6 --kv-heads 6 --intermediate-size 256 --pma-heads 8 --dtype f32",
    "deep, 4:1": "--layers 24 --hidden-size 128 --heads 8 --kv-heads 2 --intermediate-size 320 --pma-heads 16",
    "7:1, two files": "--layers 4 --hidden-size 224 --heads 7 --kv-heads 1 --intermediate-size 608 --pma-heads 32 --files 2",
    "narrow vector": "--layers 3 --hidden-size 128 --heads 4 --kv-heads 4 --intermediate-size 384 --compressed-dim 40 --pma-heads 5",
    "wide vector, f32": "--layers 2 --hidden-size 64 --heads 8 --kv-heads 2 --intermediate-size 160 --compressed-dim 192 --pma-heads 12 --dtype f32",
    "no pooling norms": "--layers 3 --hidden-size 112 --heads 7 --kv-heads 1 --intermediate-size 300 --pma-heads 4 --pma-ln false",
    "no norms, narrow, f32": "--layers 2 --hidden-size 96 --heads 4 --kv-heads 1 --intermediate-size 200 --compressed-dim 32 --pma-heads 1 --pma-ln false --dtype f32 --files 3",
    "0.5B's heads, 6 layers": "--layers 6 --hidden-size 448 --heads 14 --kv-heads 2 --intermediate-size 1216 --pma-heads 32 --files 5",
}


def texts(folder: Path, count: int, seed: int) -> list[str]:
    """Pieces of real source files, of lengths spread evenly over the orders of magnitude from 1 to about 4,000 tokens."""
    draw = random.Random(seed)
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".rs", ".toml", ".md", ".c", ".h", ".py"} and p.is_file())
    pieces = []
    while len(pieces) < count:
        characters = math.ceil(math.exp(draw.uniform(0, math.log(3.3 * MAX_TOKENS))))
        content = draw.choice(files).read_bytes().decode("utf-8", errors="ignore")
        if len(content) >= characters:
            start = draw.randrange(len(content) - characters + 1)
            pieces.append(content[start : start + characters])
    return pieces


def product(args, folder: Path, pieces: list[str], lengths: list[int], prompt: str, residual: str, compute: str) -> np.ndarray:
    """[texts, width], from the program that people use. It must count the tokens as the reference does."""
    command = [args.worker, "query", "--model", folder, "--prompt", prompt, "--residual", residual, "--compute", compute,
               "--max-tokens", MAX_TOKENS, "--threads", args.threads, "--json-lines"]  # fmt: skip
    lines = "".join(json.dumps({"text": piece}) + "\n" for piece in pieces)
    done = subprocess.run([str(word) for word in command], input=lines, text=True, stdout=subprocess.PIPE, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["tokens"] for answer in answers] == lengths, "the product tokenizes otherwise than the reference"
    return np.array([answer["vector"] for answer in answers], dtype=np.float64)


def compare(args, name: str, folder: Path, pieces: list[str], prompt: str, residual: str) -> bool:
    model = C2LLM(folder)
    ids = [model.ids(piece, prompt, MAX_TOKENS) for piece in pieces]
    expected = torch.stack([model.vector(model.states(sequence), residual) for sequence in ids]).double().numpy()
    lengths = [len(sequence) for sequence in ids]
    wide = product(args, folder, pieces, lengths, prompt, residual, "f32")
    narrow = product(args, folder, pieces, lengths, prompt, residual, "bf16")
    largest = np.abs(wide - expected).max()
    cosines = (narrow * expected).sum(1) / np.linalg.norm(narrow, axis=1)
    # How alike two different texts are: where that is near 1, agreement would say little.
    between = np.median((expected @ expected.T)[np.triu_indices(len(pieces), 1)])
    good = largest <= F32_LARGEST and cosines.mean() >= BF16_MEAN and cosines.min() >= BF16_WORST
    print(f"{name:<24} {'yes' if prompt else 'no':<6} {residual:<9} {len(pieces):>5} {min(lengths):>4}-{max(lengths):<4} {largest:>9.1e} "
          f"{1 - cosines.mean():>9.1e} {1 - cosines.min():>9.1e} {between:>8.3f}  {'ok' if good else 'MISS'}", flush=True)  # fmt: skip
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gristmill", required=True)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="a folder of source files")
    parser.add_argument("--count", type=int, default=200, help="texts per checkpoint and prompt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each side; two on a busy machine are slower than one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.monotonic()
    print(f"{'checkpoint':<24} {'prompt':<6} {'residual':<9} {'texts':>5} {'tokens':>9} {'f32 max':>9} "
          f"{'bf16 mean':>9} {'and worst':>9} {'between':>8}   (bf16: 1 - cosine; between: median cosine of two texts)")  # fmt: skip
    good = []
    for number, (name, sizes) in enumerate(CHECKPOINTS.items()):
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "model"
            command = [args.gristmill, "model", "new", "--shape", "tiny", "--tokenizer", args.tokenizer, "--seed",
                       args.seed + number, "--output", folder, *sizes.split()]  # fmt: skip
            subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
            pieces = texts(args.texts, args.count, args.seed + number)
            residuals = ["projected", "seed"] if number % 2 == 0 else ["seed", "projected"]
            for prompt, residual in zip(["", PROMPT], residuals):
                good.append(compare(args, name, folder, pieces, prompt, residual))
    print(f"{sum(good)} of {len(good)} comparisons hold, {time.monotonic() - started:.0f} s")
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()

"""Writes tests/data/golden/*.json: the reference's vectors of fixed texts under small checkpoints, which `cargo test`
compares with the product's. The checkpoints themselves are made again from their seeds, here by `gristmill model new`.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from c2llm import C2LLM

MAX_TOKENS = 300

SIZES = ["layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "compressed_dim", "pma_heads", "pma_ln"]
MODELS = {
    # name: sizes, files, dtype, residual, prompt
    "tiny": ([2, 64, 192, 4, 2, 64, 4, True], 1, "bf16", "projected", "Retrieved Answer:"),
    "narrow-7-to-1": ([3, 112, 300, 7, 1, 48, 6, False], 3, "f32", "seed", ""),
}

QUICKSORT = """fn quicksort<T: PartialOrd + Copy>(items: &mut [T]) {
    if items.len() <= 1 {
        return;
    }
    let pivot = items[items.len() / 2];
    let (mut low, mut high) = (0, items.len() - 1);
    loop {
        while items[low] < pivot { low += 1; }
        while items[high] > pivot { high -= 1; }
        if low >= high { break; }
        items.swap(low, high);
        low += 1;
        high -= 1;
    }
    let (left, right) = items.split_at_mut(low);
    quicksort(left);
    quicksort(right);
}
"""

TEXTS = [
    "x",
    "\n",
    "        \t  ",
    "how do I reverse a linked list in place?",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name ORDER BY 2 DESC;",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n",
    "0123456789" * 6,
    "e\u0301 is \u00e9 once composed; \u4f60\u597d, \u4e16\u754c; \U0001f680\u200d\U0001f9d1",
    "before<|endoftext|>after <|fim_prefix|>",
    "#!/bin/sh\r\nset -eu\r\nfor f in *.c; do cc -O2 -c \"$f\"; done\r\n",
    QUICKSORT,
    QUICKSORT * 3,
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gristmill", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "data/golden")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for name, (sizes, files, dtype, residual, prompt) in MODELS.items():
        model = {"seed": 1, "files": files, "dtype": dtype, **dict(zip(SIZES, sizes))}
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "model"
            options = [word for key, value in model.items() for word in (f"--{key.replace('_', '-')}", str(value).lower())]
            command = [args.gristmill, "model", "new", "--shape", "tiny", "--tokenizer", args.tokenizer, "--output", folder, *options]
            subprocess.run([str(word) for word in command], check=True)
            reference = C2LLM(folder)
            rows = []
            for text in TEXTS:
                ids = reference.ids(text, prompt, MAX_TOKENS)
                vector = reference.vector(reference.states(ids), residual)
                rows.append({"text": text, "tokens": len(ids), "vector": [round(x, 7) for x in vector.tolist()]})
        heading = {"written_by": "scripts/parity.sh golden", "model": model, "residual": residual, "prompt": prompt,
                   "max_tokens": MAX_TOKENS}  # fmt: skip
        lines = ",\n".join("  " + json.dumps(row) for row in rows)
        (args.output / f"{name}.json").write_text(json.dumps(heading)[:-1] + ', "rows": [\n' + lines + "\n]}\n")


if __name__ == "__main__":
    main()

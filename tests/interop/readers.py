"""Opens outputs of `gristmill embed` with pyarrow, DuckDB and polars, and holds what they read against each other, against
the corpus, and against numpy's and Python's own arithmetic. Corpora come from `gristmill pack` and from the three readers."""

import argparse
import datetime
import functools
import json
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from blake3 import blake3
from checks import check, finish
from tokenizers import Tokenizer

PROMPT = "Retrieved Answer:"
MAX_TOKENS = 128
WIDTH = 64
OURS = ["embedding", "_object", "_version", "_row", "_tokens", "_cut_bytes", "_text_hash"]
COMPONENT = {"f32": (pa.float32(), pl.Float32), "f16": (pa.float16(), pl.Float16)}


def run(*command: object, stdin: str | None = None) -> str:
    done = subprocess.run(list(map(str, command)), input=stdin, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True)
    return done.stdout


def embed(corpus: Path, name: str, dtype: str, *more: str) -> Path:
    """Embeds every file of the folder, in float32 arithmetic, as several parts."""
    out = WORK / name
    run(BIN / "gristmill", "embed", corpus, "--model", WORK / "model", "--output", out, "--dtype", dtype, "--compute", "f32",
        "--max-tokens", MAX_TOKENS, "--threads", 2, "--json", *more)
    return out


class Opened:
    """One output, as each of the three reads it, in the order of the corpus."""

    def __init__(self, out: Path):
        parts = f"{out}/*.parquet"
        key = [("_object", "ascending"), ("_row", "ascending")]
        self.arrow = ds.dataset(sorted(str(p) for p in out.glob("*.parquet"))).to_table().sort_by(key)
        self.duck = duckdb.sql(f"select * from read_parquet('{parts}') order by _object, _row")
        self.polars = pl.read_parquet(parts).sort("_object", "_row")
        self.vectors = np.stack(self.arrow["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, WIDTH))

    def coordinates(self) -> list[tuple[str, int]]:
        return list(zip(self.arrow["_object"].to_pylist(), self.arrow["_row"].to_pylist(), strict=True))


def readers_agree(name: str, opened: Opened, dtype: str, carried: list[str]) -> None:
    """Rows, names, types, the first and the last vector."""
    arrow, duck, polars = opened.arrow, opened.duck, opened.polars
    count = len(duck.fetchall())
    rows = (arrow.num_rows, count, polars.height)
    check(f"{name}: pyarrow, DuckDB and polars count {count} rows", len(set(rows)) == 1 and count > 0, rows)
    names = (arrow.column_names, duck.columns, polars.columns)
    check(f"{name}: and name the same {len(carried) + len(OURS)} columns", all(n == carried + OURS for n in names), names)
    kind, component = COMPONENT[dtype]
    types = (arrow.schema.field("embedding").type, polars.schema["embedding"], duck.types[duck.columns.index("embedding")])
    holds = pa.types.is_fixed_size_list(types[0]) and (types[0].value_type, types[0].list_size) == (kind, WIDTH)
    check(f"{name}: pyarrow sees fixed_size_list<{kind}>[{WIDTH}]", holds, types[0])
    check(f"{name}: polars sees Array({component}, {WIDTH})", types[1] == pl.Array(component, WIDTH), types[1])
    check(f"{name}: DuckDB sees a list of FLOAT", str(types[2]) in ("FLOAT[]", f"FLOAT[{WIDTH}]"), types[2])
    plain = {"_object": pa.string(), "_version": pa.string(), "_row": pa.int64(), "_tokens": pa.int32(), "_cut_bytes": pa.int64(), "_text_hash": pa.binary(16)}
    found = {n: arrow.schema.field(n).type for n in plain}
    check(f"{name}: the other columns of ours have their types", found == plain, found)
    from_duck = np.array([row[0] for row in duck.select("embedding").fetchall()], dtype=np.float32)
    from_polars = polars["embedding"].to_numpy().astype(np.float32)
    same = np.array_equal(opened.vectors.astype(np.float32), from_duck) and np.array_equal(from_polars, from_duck)
    check(f"{name}: all vectors are the same in all three, the first beginning {opened.vectors[0][:2]}", same)
    norms = np.linalg.norm(opened.vectors.astype(np.float64), axis=1)
    check(f"{name}: every vector is finite and of length 1", bool(np.abs(norms - 1).max() < (1e-5 if dtype == "f32" else 2e-3)), norms)


@functools.cache
def token_count(text: str) -> int:
    return len(TOKENIZER.encode(PROMPT + text, add_special_tokens=False))


def stands_once(name: str, opened: Opened, corpus: dict[str, pa.Table], text: str) -> None:
    """Coordinates and text hashes against the corpus."""
    texts = {(url, row): value for url, table in corpus.items() for row, value in enumerate(table[text].to_pylist())}
    expected = sorted(key for key, value in texts.items() if value)
    check(f"{name}: each of {len(expected)} rows with a text of {len(texts)} stands there once", opened.coordinates() == expected)
    hashes = [blake3(texts[key].encode()).digest()[:16] for key in opened.coordinates()]
    check(f"{name}: every text hash is Python's BLAKE3", hashes == opened.arrow["_text_hash"].to_pylist())
    lengths = [token_count(texts[key]) for key in opened.coordinates()]
    tokens, cut = opened.arrow["_tokens"].to_pylist(), opened.arrow["_cut_bytes"].to_pylist()
    check(f"{name}: every count of tokens is Python's", [min(n, MAX_TOKENS) for n in lengths] == tokens)
    check(f"{name}: bytes are cut of longer texts only", [n > MAX_TOKENS for n in lengths] == [c > 0 for c in cut])


def carried_unchanged(name: str, opened: Opened, corpus: dict[str, pa.Table], carried: list[str]) -> None:
    """Name, type and value of every carried column, as each reader sees the corpus and the output."""
    for column in carried:
        source = {url: table[column] for url, table in corpus.items()}
        wanted = [source[url][row].as_py() for url, row in opened.coordinates()]
        types = {field.type for field in (t.schema.field(column) for t in corpus.values())}
        got = opened.arrow[column]
        holds = got.to_pylist() == wanted and types == {got.type}
        check(f"{name}: column `{column}` is carried unchanged, {got.type}", holds, (types, got.type, got.to_pylist()[:3], wanted[:3]))
        if not pa.types.is_dictionary(got.type):
            others = ([r[0] for r in opened.duck.select(f'"{column}"').fetchall()], opened.polars[column].to_list())
            check(f"{name}: and DuckDB and polars read `{column}` as pyarrow does", all(o == wanted for o in others), [o[:3] for o in others])


def neighbours(name: str, opened: Opened) -> None:
    """The nearest row of one, by DuckDB's cosine and by numpy's."""
    asked = opened.vectors.shape[0] // 2
    url, row = opened.coordinates()[asked]
    nearest = opened.duck.query("output", f"""
        with asked as (select embedding from output where _object = '{url}' and _row = {row})
        select o._object, o._row, array_cosine_similarity(o.embedding::float[{WIDTH}], asked.embedding::float[{WIDTH}]) as cosine
        from output o, asked where not (o._object = '{url}' and o._row = {row}) order by cosine desc, 1, 2 limit 5""").fetchall()
    units = opened.vectors.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    cosines = units @ units[asked]
    cosines[asked] = -2
    best = sorted(cosines, reverse=True)[:5]
    place = {key: i for i, key in enumerate(opened.coordinates())}
    ours = [cosines[place[(o, r)]] for o, r, _ in nearest]
    holds = np.allclose(ours, best, atol=1e-6) and np.allclose([c for _, _, c in nearest], best, atol=1e-4)
    check(f"{name}: the five nearest to row {row} by DuckDB are numpy's, the first at {best[0]:.4f}", holds, (nearest, best))


def sources() -> None:
    """Files that `pack` packed, as two objects and several parts, in both types."""
    folder = WORK / "sources"
    corpus = {f"file://{path.resolve()}": pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}
    carried = ["repository", "path", "language", "size", "hash"]
    vectors = {}
    for dtype in COMPONENT:
        out = embed(folder, f"sources-{dtype}", dtype, "--shard-tokens", "5000")
        parts = len(list(out.glob("*.parquet")))
        check(f"sources {dtype}: there are several parts", parts > 2, parts)
        name, opened = f"sources {dtype}", Opened(out)
        readers_agree(name, opened, dtype, carried)
        stands_once(name, opened, corpus, "content")
        neighbours(name, opened)
        vectors[dtype] = opened.vectors.astype(np.float64)
    carried_unchanged(name, opened, corpus, carried)
    whole = {url: [blake3(t.encode()).hexdigest() for t in table["content"].to_pylist()] for url, table in corpus.items()}
    check("sources: pack's hashes are Python's BLAKE3", all(table["hash"].to_pylist() == whole[url] for url, table in corpus.items()))
    cosines = (vectors["f32"] * vectors["f16"]).sum(axis=1) / np.linalg.norm(vectors["f16"], axis=1)
    check("sources: float16 vectors are the float32 ones, rounded", bool(cosines.min() > 0.999999), cosines.min())
    asks(corpus, opened, vectors["f32"])


def asks(corpus: dict[str, pa.Table], opened: Opened, vectors: np.ndarray) -> None:
    """`gristmill-worker query` gives the vectors that `embed` wrote."""
    rows = range(0, len(vectors), max(1, len(vectors) // 5))
    texts = [corpus[url]["content"][row].as_py() for url, row in (opened.coordinates()[i] for i in rows)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    answers = run(BIN / "gristmill-worker", "query", "--model", WORK / "model", "--prompt", "document", "--compute", "f32",
                  "--max-tokens", MAX_TOKENS, "--threads", 2, "--json-lines", stdin=lines)
    asked = np.array([json.loads(line)["vector"] for line in answers.splitlines()])
    off = np.abs(asked - vectors[list(rows)]).max()
    check(f"sources: query gives embed's vectors of {len(texts)} texts", bool(off < 1e-5), off)


def rows_of_all_types(count: int = 60) -> pa.Table:
    """Columns as corpora have them, with nulls, and texts of which some are null, empty or blank."""
    number = range(count)
    null = lambda i, value: None if i % 7 == 3 else value
    text = lambda i: [f"def f{i}(x):\n\treturn x + {i}\n", "", None, " \n", f"caf\u00e9 e\u0301 \U0001f980 <|endoftext|> {i}"][i % 5]
    when = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901)
    return pa.table({
        "id": pa.array(number, pa.int64()),
        "text": pa.array(map(text, number), pa.string()),
        "stars": pa.array((null(i, i * 3) for i in number), pa.int32()),
        "score": pa.array((null(i, i / 7) for i in number), pa.float64()),
        "fork": pa.array((null(i, i % 2 == 0) for i in number), pa.bool_()),
        "pushed": pa.array((null(i, when + datetime.timedelta(hours=i)) for i in number), pa.timestamp("us")),
        "licence": pa.array((null(i, ["MIT", "Apache-2.0"][i % 2]) for i in number), pa.string()),
        "topics": pa.array((null(i, [f"t{j}" for j in range(i % 4)]) for i in number), pa.list_(pa.string())),
        "owner": pa.array((null(i, {"name": f"o{i}", "id": i}) for i in number), pa.struct([("name", pa.string()), ("id", pa.int64())])),
    })


def written_by_others() -> None:
    """Corpora that pyarrow, DuckDB and polars wrote."""
    table = rows_of_all_types()
    for writer, dtype in [("pyarrow", "f16"), ("DuckDB", "f32"), ("polars", "f32")]:
        folder = WORK / f"by-{writer}"
        folder.mkdir()
        file = folder / "corpus.parquet"
        if writer == "pyarrow":
            more = {"licence": pc.dictionary_encode(table["licence"]), "raw": table["text"].cast(pa.large_binary()), "cost": table["stars"].cast(pa.decimal128(12, 2))}
            wide = table.set_column(6, "licence", more["licence"]).append_column("raw", more["raw"]).append_column("cost", more["cost"])
            pq.write_table(wide, file, row_group_size=17, compression="snappy", data_page_version="2.0")
        elif writer == "DuckDB":
            duckdb.sql(f"copy (select * from \"table\") to '{file}' (format parquet, row_group_size 2048, compression zstd)")
        else:
            pl.from_arrow(table).write_parquet(file, compression="lz4")
        corpus = {f"file://{file.resolve()}": pq.read_table(file)}
        carried = [name for name in pq.read_schema(file).names if name != "text"]
        opened = Opened(embed(folder, f"out-{writer}", dtype))
        readers_agree(f"by {writer}", opened, dtype, carried)
        stands_once(f"by {writer}", opened, corpus, "text")
        carried_unchanged(f"by {writer}", opened, corpus, carried)


def main() -> None:
    run(BIN / "gristmill", "model", "new", "--shape", "tiny", "--tokenizer", ARGS.tokenizer, "--seed", 1, "--output", WORK / "model")
    sources()
    written_by_others()
    finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=Path, help="folder of the binaries")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json")
    parser.add_argument("--work", required=True, type=Path, help="a folder with sources/*.parquet that `pack` wrote")
    ARGS = parser.parse_args()
    BIN, WORK = ARGS.bin, ARGS.work
    TOKENIZER = Tokenizer.from_file(ARGS.tokenizer)
    sys.stdout.reconfigure(encoding="utf-8")
    main()

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from truing.config import Generator
from truing.data.readers import read_rows
from truing.errors import DataError, PluginError

ROWS = [{"prompt": "a", "n": 1}, {"prompt": "ü\u2028b", "n": 2}]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n", encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".csv":
        path.write_text("prompt,n\n" + "".join(f"{r['prompt']},{r['n']}\n" for r in rows), encoding="utf-8")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    read = read_rows(write(tmp_path / f"rows{suffix}", ROWS))
    as_text = [{k: str(v) for k, v in r.items()} for r in ROWS]
    assert [r.values for r in read] == (as_text if suffix == ".csv" else ROWS)
    assert [r.number for r in read] == [1, 2]
    assert read[1].where == f"{tmp_path}/rows{suffix}, row 2"
    assert len(read_rows(str(tmp_path / f"rows{suffix}"), limit=1)) == 1


def test_peer_31_a_relative_path_is_relative_to_the_given_folder(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    assert len(read_rows("rows.jsonl", folder=tmp_path)) == 2


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 1,}\n')
    with pytest.raises(DataError, match=r"rows.jsonl, row 3: broken JSON at column 9"):
        read_rows(str(path))
    assert len(read_rows(str(path), limit=1)) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"[1]\n", "row 1: expected an object"),
        ("a.jsonl", b"\n", "no rows"),
        ("a.jsonl", b'{"a": "\xff"}', "not UTF-8"),
        ("a.json", b'{"a": 1}', "expected a list"),
        ("a.json", b'{"a": 1}\n{"a": 2}', "one object a line is .jsonl"),
        ("a.parquet", b"nonsense", "not a readable parquet"),
        ("a.csv", b"a,b\n1\n", "row 1: has another number of columns"),
        ("a.txt", b"", "unknown kind of file '.txt'"),
    ],
)
def test_broken_files_are_data_errors(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(str(tmp_path / name))


def test_a_missing_file_suggests_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(DataError, match=r"no such file: .*Did you mean 'train.jsonl'"):
        read_rows(str(tmp_path / "tarin.jsonl"))


def test_a_generator_gives_rows(tmp_path: Path) -> None:
    made = read_rows(Generator(generator="word_problems", count=5, seed=1, options={"steps": 1}), limit=3)
    assert len(made) == 3
    assert set(made[0].values) == {"prompt", "answer"}
    mine = tmp_path / "mine.py"
    mine.write_text("def rows(count, seed):\n    return ({'prompt': str(i + seed)} for i in range(count))\n")
    assert [r.values["prompt"] for r in read_rows(Generator(generator=str(mine), count=2, seed=3))] == [
        "3",
        "4",
    ]


def test_a_wrong_generator_says_what_is_wrong() -> None:
    with pytest.raises(PluginError, match="Did you mean 'word_problems'"):
        read_rows(Generator(generator="word_problem", count=1, seed=0))
    with pytest.raises(PluginError, match="no function rows"):
        read_rows(Generator(generator="chat", count=1, seed=0))
    with pytest.raises(DataError, match="unexpected keyword argument 'stpes'"):
        read_rows(Generator(generator="word_problems", count=1, seed=0, options={"stpes": 1}))

"""Files of lines: what is read, what is written, and what is refused."""

from __future__ import annotations

import csv
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cpumix.api.body import MAX_BODY
from cpumix.batch.files import open_lines
from cpumix.batch.files.csv_file import CsvFile
from cpumix.batch.files.json_lines import JsonLines
from cpumix.batch.files.parquet_file import ParquetFile
from cpumix.batch.settings import RESULT_FIELDS
from cpumix.errors import ConfigError, FormatError

ANSWERS = [
    {
        "generated_text": f"text, {i}\n",
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": i,
        "error": None,
    }
    for i in range(3)
]
ANSWERS[1] = dict.fromkeys(RESULT_FIELDS) | {"error": "prompt: none"}
DATA = [json.dumps(answer).encode() + b"\n" for answer in ANSWERS]


def test_json_lines(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"b": 2}\nno\xff\n{"c": 3}')
    file = JsonLines(path, None)
    assert [*file.lines()] == [b'{"a": 1}', b'{"b": 2}', b"no\xff", b'{"c": 3}']
    file.write(target := tmp_path / "out", DATA)
    assert target.read_bytes() == b"".join(DATA)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_that_are_too_long(tmp_path, end):
    path = tmp_path / "in.jsonl"
    whole = b"x" * MAX_BODY
    path.write_bytes(b"\n".join([b"1", whole, whole + b"y", b"2", whole * 2]) + end)
    assert [*JsonLines(path, None).lines()] == [b"1", whole, None, b"2", None]


def test_csv(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text('\ufeffid,text,error\n1,"a ""b"", c\nd",old\n2\n\n3,e,\n', "utf-8")
    file = CsvFile(path, "text")
    assert [json.loads(line)["prompt"] for line in file.lines()] == ['a "b", c\nd', None, "e"]
    file.write(target := tmp_path / "out.csv", DATA)
    with open(target, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [*rows[0]] == ["id", "text", *RESULT_FIELDS]
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["generated_text"] == "text, 0\n"
    assert (rows[1]["error"], rows[1]["generated_text"]) == ("prompt: none", "")


@pytest.mark.parametrize("rows", [3, 2500])
def test_parquet(tmp_path, rows):
    path = tmp_path / "in.parquet"
    prompts = [None if i % 7 == 1 else f"p{i}" for i in range(rows)]
    table = pa.table({"id": range(rows), "text": prompts, "error": ["old"] * rows})
    pq.write_table(table, path, row_group_size=700)
    file = ParquetFile(path, "text")
    assert [json.loads(line)["prompt"] for line in file.lines()] == prompts
    file.write(target := tmp_path / "out.parquet", (DATA[i % 3] for i in range(rows)))
    made = pq.read_table(target)
    assert made.column_names == ["id", "text", *RESULT_FIELDS]
    assert made.schema.field("completion_tokens").type == pa.int64()
    assert made.schema.field("error").type == pa.string()
    assert made["text"].to_pylist() == prompts
    assert made["error"].to_pylist() == [ANSWERS[i % 3]["error"] for i in range(rows)]


def test_prompts_of_another_type_are_refused_each(tmp_path):
    pq.write_table(pa.table({"n": [1, 2]}), path := tmp_path / "in.parquet")
    assert [json.loads(line)["prompt"] for line in ParquetFile(path, "n").lines()] == [False] * 2


def opened(folder, name, column=None, target=None):
    return open_lines(folder / name, folder / (target or f"out{name[name.rfind('.') :]}"), column)


def test_names_tell_formats(tmp_path):
    assert isinstance(opened(tmp_path, "a.NDJSON", target="b.jsonl"), JsonLines)
    assert isinstance(opened(tmp_path, "a.csv", "x"), CsvFile)
    assert isinstance(opened(tmp_path, "a.parquet", "x"), ParquetFile)


@pytest.mark.parametrize(
    ("name", "column", "target", "told"),
    [
        (
            "a.txt",
            None,
            "b.jsonl",
            "expected one of the suffixes .jsonl, .ndjson, .csv",
        ),
        ("a.jsonl", None, "b", 'found "b"'),
        ("a.csv", "x", "b.parquet", "expected input and output of one format"),
        ("a.csv", None, None, "expected the name of the column with the prompts"),
        ("a.jsonl", "x", None, "expected it for a table only"),
    ],
)
def test_refused_names(tmp_path, name, column, target, told):
    with pytest.raises(ConfigError, match=told):
        opened(tmp_path, name, column, target)


@pytest.mark.parametrize(
    ("name", "data", "error", "told"),
    [
        ("a.csv", b"id,text\n1,2\n", ConfigError, 'expected one of "id", "text", found "prompt"'),
        ("a.csv", b"", ConfigError, "found"),
        ("a.csv", b"prompt\n\xff\n", FormatError, "expected a table in CSV, found what is none"),
        ("a.csv", b'prompt\n"a" b\n', FormatError, "expected a table in CSV"),
        ("a.parquet", b"PAR1 no", FormatError, "expected a parquet file, found what is none"),
    ],
)
def test_damaged_tables(tmp_path, name, data, error, told):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=told):
        list(opened(tmp_path, name, "prompt").lines())


def test_column_that_a_parquet_file_does_not_have(tmp_path):
    pq.write_table(pa.table({"id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match='expected one of "id", found "prompt"'):
        list(opened(tmp_path, "a.parquet", "prompt").lines())


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_files_that_are_not_there(tmp_path, name):
    column = None if name == "a.jsonl" else "x"
    with pytest.raises(ConfigError, match=r"batch: cannot read .*: No such file or directory"):
        list(opened(tmp_path, name, column).lines())
    with pytest.raises(ConfigError, match="batch: cannot read"):
        opened(tmp_path, name, column).digest()


def test_parquet_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match='expected the package "pyarrow" for parquet'):
        opened(tmp_path, "a.parquet", "x")

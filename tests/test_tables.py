"""Tables of one's own: what is written by the usual writers comes back, and every mistake has its line."""

import csv
import json
import os

import pyarrow
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sqloss_plugins.data import tables
from sqloss_plugins.data.tables import read_table
from sqloss_plugins.errors import UserError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
NAME = TEXT.filter(str.strip)


def read(path):
    return read_table(path, cache_dir=str(path.parent / "cache"))


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@st.composite
def string_tables(draw, fields=TEXT):
    names = draw(st.lists(NAME, min_size=1, max_size=3, unique=True))
    rows = draw(st.lists(st.tuples(*(fields for _ in names)), min_size=1, max_size=4))
    return names, rows


def columns(names, rows):
    return {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def write_csv(path, names, rows, **options):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, **options)
        writer.writerows([names, *rows])
    return path


@given(string_tables(), st.sampled_from(["\r\n", "\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
@settings(max_examples=30)
def test_any_strings_come_back_from_csv(tmp_path_factory, table, end, quoting):
    path = write_csv(tmp_path_factory.mktemp("csv") / "a.csv", *table, lineterminator=end, quoting=quoting)
    assert read_table(path, in_memory=True, cache_dir=str(path.parent)).rows[:] == columns(*table)


@given(string_tables(), st.sampled_from(["a.json", "a.jsonl"]), st.booleans())
@settings(max_examples=30)
def test_any_strings_come_back_from_json(tmp_path_factory, table, name, ascii_only):
    names, rows = table
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    lines = [json.dumps(each, ensure_ascii=ascii_only) for each in objects]
    text = "\n".join(lines) if name == "a.jsonl" else json.dumps(objects, indent=1)
    path = write(tmp_path_factory.mktemp("json") / name, text)
    assert read_table(path, in_memory=True, cache_dir=str(path.parent)).rows[:] == columns(*table)


@given(string_tables())
@settings(max_examples=20)
def test_any_strings_come_back_from_parquet(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    pq.write_table(pyarrow.table(columns(*table)), path)
    assert read_table(path, in_memory=True, cache_dir=str(path.parent)).rows[:] == columns(*table)


@given(string_tables(st.text(st.sampled_from('ab"\t\n '), max_size=6)))
@settings(max_examples=30)
def test_tsv_of_a_quoting_writer_comes_back(tmp_path_factory, table):
    """Unless lines of it could be rows by themselves: of one column, or with tabs and line breaks in one field."""
    names, rows = table
    assume(not any("\t" in field and "\n" in field for row in [names, *rows] for field in row))
    names, rows = [*names, "last column"], [(*row, "1") for row in rows]
    path = write_csv(tmp_path_factory.mktemp("tsv") / "a.tsv", names, rows, delimiter="\t")
    assert read_table(path, in_memory=True, cache_dir=str(path.parent)).rows[:] == columns(names, rows)


@given(string_tables(st.text(st.sampled_from('ab" ,'), max_size=6)))
@settings(max_examples=30)
def test_tsv_without_quoting_keeps_every_character_once_it_cannot_be_quoted(tmp_path_factory, table):
    names, rows = table
    names = [f"{i}{name}".translate(dict.fromkeys(map(ord, "\t\r\n"), "")) for i, name in enumerate(names)] + ["x"]
    rows = [(*row, "1") for row in rows] + [('"a" b',) * (len(names) - 1) + ("1",)]
    path = write(tmp_path_factory.mktemp("tsv") / "a.tsv", "".join("\t".join(row) + "\n" for row in [names, *rows]))
    found = read_table(path, in_memory=True, cache_dir=str(path.parent))
    assert found.rows[:] == columns(names, rows)
    assert "quotation marks are read as characters" in found.notes[0]


def test_tsv_is_quoted_unless_that_joins_lines_which_are_whole_by_themselves(tmp_path):
    quoted = read(write(tmp_path / "quoted.tsv", 'text\tlabel\n"a\tb"\t1\n"c ""d""\ne"\t2\n'))
    assert quoted.rows[:] == {"text": ["a\tb", 'c "d"\ne'], "label": ["1", "2"]}
    assert quoted.notes == ()
    assert quoted.place(1) == f"{tmp_path / 'quoted.tsv'} line 3"
    joined = read(write(tmp_path / "plain.tsv", 'text\tlabel\n"No, he said.\t1\nYes."\t2\n'))
    assert joined.rows[:] == {"text": ['"No, he said.', 'Yes."'], "label": ["1", "2"]}
    assert "they would join lines" in joined.notes[0]


def test_windows_files_blank_lines_and_lines_of_rows(tmp_path):
    table = read(write(tmp_path / "a.csv", '\ufefftext,label\r\n\r\n"two\r\nlines",1\r\n\r\nNA,2'))
    assert table.rows[:] == {"text": ["two\r\nlines", "NA"], "label": ["1", "2"]}
    assert [table.place(row) for row in (0, 1)] == [f"{tmp_path / 'a.csv'} line {line}" for line in (3, 6)]


def test_kinds_of_json(tmp_path):
    """A key that is lacking is null; 1 and "1" stay apart; whole numbers and others are one column."""
    lines = (
        '{"n": 1, "f": 1, "s": "a", "l": ["x"], "mixed": "1", "b": true, "o": {"p": [NaN]}, "none": null}\n\n'
        '{"n": -2, "f": 0.5, "l": [], "mixed": 1, "big": 99999999999999999999999}\n'
    )
    table = read(write(tmp_path / "a.jsonl", lines))
    rows = table.rows[:]
    assert rows.pop("o")[1] is None
    assert rows.pop("big")[0] is None
    assert rows == {
        "n": [1, -2],
        "f": [1.0, 0.5],
        "s": ["a", None],
        "l": [["x"], []],
        "mixed": ["1", 1],
        "b": [True, None],
        "none": [None, None],
    }
    assert table.place(1) == f"{tmp_path / 'a.jsonl'} line 3"
    array = read(write(tmp_path / "a.json", '\n [{"a": "x"},\n\n {"a": "y"}]'))
    assert array.rows[:] == {"a": ["x", "y"]}
    assert array.place(1) == f"{tmp_path / 'a.json'} row 2"
    assert read(write(tmp_path / "lines.json", '{"a": "x"}\n{"a": "y"}')).rows[:] == array.rows[:]


def test_kinds_of_parquet(tmp_path):
    """Class names of datasets are kept, and pandas' categories are their values."""
    data = Dataset.from_dict(
        {"text": ["a", "b"], "label": [1, 0]},
        features=Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])}),
    )
    data.to_parquet(str(tmp_path / "a.parquet"))
    table = read(tmp_path / "a.parquet")
    assert table.rows.features["label"].names == ["neg", "pos"]
    assert table.place(1) == f"{tmp_path / 'a.parquet'} row 2"
    categories = pyarrow.array(["x", "y", "x"]).dictionary_encode()
    pq.write_table(pyarrow.table({"c": categories, "l": [["a"], None, []]}), tmp_path / "b.parquet")
    assert read(tmp_path / "b.parquet").rows[:] == {"c": ["x", "y", "x"], "l": [["a"], None, []]}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_file_is_never_read_from_a_stale_cache(suffix, tmp_path):
    """Even if it changes within the clock's resolution and keeps its size."""
    path = tmp_path / f"a{suffix}"

    def write_word(word):
        if suffix == ".parquet":
            pq.write_table(pyarrow.table({"text": [word]}), path)
        else:
            write(path, json.dumps({"text": word}) if suffix == ".jsonl" else f"text\n{word}\n")
        os.utime(path, (1, 1))

    for word in ("cat", "dog", "cat"):
        write_word(word)
        table = read(path)
        assert table.rows["text"][:] == [word]
        assert table.rows.cache_files, "memory-mapped"
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "cache"}, "nothing else is written beside it"


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", "text\ncat\n")
    found = tables._csv

    def change_afterwards(path):
        layout = found(path)
        write(path, "text\ndog\n")
        return layout

    monkeypatch.setitem(tables._LAYOUTS, ".csv", change_afterwards)
    with pytest.raises(UserError, match="changed while it was read"):
        read(path)
    monkeypatch.undo()
    assert read(path).rows["text"][:] == ["dog"]


def test_long_fields(tmp_path):
    path = write(tmp_path / "a.csv", f'text,label\n"{"word, " * 1_800_000}",1\n')
    assert len(read(path).rows["text"][0]) == 10_800_000


OPEN = "a field begins with a quotation mark that is not closed"
BAD_FILES = {
    "unclosed": ("a.csv", 'a,b\n1,2\n3,"4\n5,6\n', f"a.csv line 3: {OPEN}"),
    "unclosed later in a row": ("a.csv", 'a,b\n"1\n2","3\n4,5\n', f"a.csv line 3: {OPEN}"),
    "unclosed with marks in it": ("a.csv", 'a,b\n"1,2\nx ""y"" z\n', f"a.csv line 2: {OPEN}"),
    "unclosed header": ("a.csv", '"a,b\n1,2\n', f"a.csv line 1: {OPEN}"),
    "closed by another": (
        "a.csv",
        'a,b\n"1,2\n3,4\n"5",6\n',
        "a.csv line 4: text follows the quotation mark that closes a field (the field begins in line 2)",
    ),
    "mark in a field": (
        "a.csv",
        'a,b\n"1" x,2\n',
        "a.csv line 2: text follows the quotation mark that closes a field:",
    ),
    "unclosed and long": ("a.csv", 'a\n1\n"' + ("x" * 999 + "\n") * (17 << 10), f"a.csv line 3: {OPEN} within 16 MB"),
    "long": ("a.csv", "a\n" + "x" * (17 << 20), "a.csv line 2 has a field of more than 16 MB"),
    "NUL": ("a.csv", "a,b\n1,\0\n", "a.csv line 2 has a NUL character"),
    "NUL in TSV": ("a.tsv", "a\tb\n1\t\0\n", "a.tsv line 2 has a NUL character"),
    "latin-1": (
        "a.csv",
        "a\nok\n\xe9\n".encode("latin-1"),
        "a.csv is not UTF-8 text (line 3): convert it, perhaps by iconv",
    ),
    "utf-16": (
        "a.csv",
        "a\nb\n".encode("utf-16"),
        "a.csv is not UTF-8 text (line 1): convert it, perhaps by iconv -f UTF-16",
    ),
    "utf-16 without mark": ("a.csv", "a\nb\n".encode("utf-16-le"), "if the file is UTF-16, convert it"),
    "old Macintosh": ("a.csv", "a,b\r1,2\r3,4\r", "a.csv line 1 has a carriage return within a field"),
    "too few": ("a.csv", "a,b\n1,2\n\n3\n", "a.csv line 4 has 1 field where the header has 2"),
    "too many": ("a.csv", "a,b\n1,2,3\n", "a.csv line 2 has 3 fields where the header has 2"),
    "semicolons": (
        "a.csv",
        "a;b\n1,5;2\n",
        "a.csv line 2 has 2 fields where the header has 1: its fields seem to be separated by semicolons; separate",
    ),
    "doubled": ("a.csv", "a,b,a\n1,2,3\n", "a.csv: the header names 'a' more than once"),
    "no name": ("a.csv", ",b\n0,2\n", "a.csv: column 1 has no name in the header"),
    "blank name": ("a.csv", "a, \n0,2\n", "a.csv: column 2 has no name in the header"),
    "empty": ("a.csv", "", "a.csv is empty"),
    "blank lines": ("a.csv", "\n\n", "a.csv is empty"),
    "header only": ("a.csv", "a,b\n", "a.csv has no rows"),
    "TSV, too few": ("a.tsv", "a\tb\n1\n", "a.tsv line 2 has 1 field where the header has 2"),
    "TSV, neither": ("a.tsv", 'a\tb\n"1" x\t2\n3\n', "a.tsv line 3 has 1 field where the header has 2"),
    "TSV, empty": ("a.tsv", "", "a.tsv is empty"),
    "TSV, header only": ("a.tsv", "a\tb\n", "a.tsv has no rows"),
    "JSON lines": ("a.jsonl", '{"a": 1}\n{"a": }\n', "a.jsonl line 2 is not JSON"),
    "object over lines": ("a.json", '{\n"a": 1\n}\n', "a.json line 1 is not JSON"),
    "JSON array": ("a.json", '[{"a": 1},\n{"a": }]', "a.json line 2 is not JSON"),
    "a name twice": (
        "a.jsonl",
        '{"a": 1}\n{"a": 1, "b": 2, "a": 3}',
        "a.jsonl line 2: an object has 'a' twice: remove",
    ),
    "a name twice in array": ("a.json", '[{"a": 1, "a": 2}]', "a.json: an object has 'a' twice: remove"),
    "no object": ("a.jsonl", '{"a": 1}\n\n["a"]\n', "a.jsonl line 3 is not an object like {...} but ['a']"),
    "no object in array": ("a.json", '[{"a": 1}, 5]', "a.json row 2 is not an object like {...} but 5"),
    "JSON, empty": ("a.json", "", "a.json is empty"),
    "JSON, no rows": ("a.json", "[]", "a.json has no rows"),
    "JSON, no columns": ("a.jsonl", "{}\n", "a.jsonl is empty"),
    "JSON, no name": ("a.jsonl", '{"": 1}\n', "a.jsonl: column 1 has no name"),
    "half a character": (
        "a.jsonl",
        '{"a": "x"}\n{"a": ["\\ud800"]}',
        "a.jsonl line 2: 'a' has half of a surrogate pair",
    ),
    "deep": ("a.jsonl", '{"a": ' + "[" * 100000, "a.jsonl line 1 is not JSON"),
    "deep array": ("a.json", "[" * 100000, "a.json is not JSON"),
    "long number": ("a.jsonl", '{"a": ' + "9" * 5000 + "}", "a.jsonl line 1 is not JSON"),
    "JSON, latin-1": ("a.jsonl", b'{"a": "\xe9"}', "a.jsonl is not UTF-8 text (line 1)"),
    "parquet": ("a.parquet", "no parquet", "a.parquet cannot be read as parquet"),
    "parquet, empty": ("a.parquet", "", "a.parquet cannot be read as parquet"),
    "suffix": ("a.xlsx", "", "a.xlsx is not read: give a file whose name ends in .csv, .tsv, .json, .jsonl, .parquet"),
}


@pytest.mark.parametrize("case", list(BAD_FILES))
def test_bad_files(case, tmp_path):
    name, text, message = BAD_FILES[case]
    with pytest.raises(UserError) as raised:
        read(write(tmp_path / name, text))
    assert f"{tmp_path}{os.sep}{message}" in str(raised.value) or not message.startswith("a.")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


def test_files_that_are_not_there_or_damaged(tmp_path):
    for name in ("a.csv", "a.json", "a.parquet"):
        with pytest.raises(UserError, match="cannot be read: No such file"):
            read(tmp_path / name)
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match="cannot be read: Is a directory"):
            read(tmp_path / name)
    path = tmp_path / "b.parquet"
    pq.write_table(pyarrow.table({"text": [f"{i} words" for i in range(1000)]}), path)
    content = path.read_bytes()
    write(path, content[:100] + bytes(200) + content[300:])
    with pytest.raises(UserError, match="cannot be read as parquet"):
        read(path)
    pq.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(UserError, match="has no rows"):
        read(path)

"""Tables of one's own: CSV, TSV, JSON and parquet files, memory-mapped, and every mistake in them with its line."""

from __future__ import annotations

import csv
import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow
import pyarrow.parquet
from datasets import Dataset, Features, Json, List, Value
from datasets.exceptions import DatasetGenerationError, DatasetsError

from sqloss_plugins import __version__
from sqloss_plugins.data.progress import MANY_BYTES, bar_if
from sqloss_plugins.errors import UserError, brief, is_full_disk, sentence
from sqloss_plugins.text_files import decoded_json, decoded_lines

Records = Iterator[tuple[int, dict[str, Any]]]
"""Rows as column -> value, each with the number of its line, or of the row, from 1."""

_LONGEST_FIELD = 16 * 2**20
_BATCH = 1000
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}


@dataclass(frozen=True)
class Table:
    """A table with every column as its file has it.

    Attributes:
        rows: memory-mapped; fields of CSV and TSV files are strings, columns of JSON files that mix kinds are ``Json``.
        name: how messages name it.
        notes: what a person should know about the reading.
        records: reads the file once more; None where rows are only counted.
        unit: what the numbers of the records count, ``line`` or ``row``.
        remedy: what messages say can be done about rows with labels that are not known.
    """

    remedy: ClassVar[str] = "correct them, or leave those rows out"
    rows: Dataset
    name: str
    notes: tuple[str, ...] = ()
    records: Callable[[], Records] | None = None
    unit: str = "row"

    def place(self, row: int) -> str:
        """Where a row, counted from 0, is, for messages: ``train.csv line 7``."""
        number = next(islice(self.records(), row, None))[0] if self.records else row + 1
        return f"{self.name} {self.unit} {number}"


@dataclass(frozen=True)
class _Layout:
    """What a first reading of a file finds."""

    features: Features
    records: Callable[[], Records]
    unit: str
    notes: tuple[str, ...] = ()


def read_table(path: Path, cache_dir: str | None = None, in_memory: bool = False) -> Table:
    """Reads a file by its suffix.

    * ``.csv``: UTF-8 with a header line, as Python's :mod:`csv` reads it strictly: fields with commas, quotation marks
      or line breaks in them are in quotation marks. Lines with nothing in them are left out.
    * ``.tsv``: the same with tabs where the whole file reads so. A file that does not, or whose lines all have the
      header's number of fields while quotation marks would join some of them, has no quoting: a quotation mark is a
      character like any other, as in GLUE's files. A note says so.
    * ``.json`` and ``.jsonl``: one object a line, or one array of objects, which is read into memory at once. A key
      that an object lacks is null.
    * ``.parquet``.

    Args:
        path: the file; nothing is written beside it.
        cache_dir: where the memory-mapped copy is kept; by default where ``datasets`` keeps all. It is found again by
            a digest of the file's content.
        in_memory: read the data into memory instead, for files that do not stay.

    Raises:
        UserError: the file cannot be read, and where.
    """
    find_layout = _LAYOUTS.get(path.suffix.lower())
    if find_layout is None:
        raise UserError(f"{path} is not read: give a file whose name ends in {', '.join(_LAYOUTS)}")
    digest = file_digest(path)
    layout = find_layout(path)
    mixed = [name for name, feature in layout.features.items() if isinstance(feature, Json)]

    def rows() -> Iterator[dict[str, Any]]:
        for _, row in layout.records():
            # As JSON, because the type would take the text "1" for the number.
            encoded = {name: json.dumps(row[name]) for name in mixed if row.get(name) is not None}
            yield {**dict.fromkeys(layout.features), **row, **encoded}
        if file_digest(path) != digest:
            raise UserError(f"{path} changed while it was read: start again")

    # The version, too, which says how a file is read.
    key = hashlib.sha256(json.dumps([__version__, path.suffix.lower(), digest]).encode()).hexdigest()
    with reading(path), bar_if(path.stat().st_size >= MANY_BYTES):
        data = Dataset.from_generator(
            rows, features=layout.features, cache_dir=cache_dir, keep_in_memory=in_memory, fingerprint=key
        )
    return Table(data, str(path), layout.notes, layout.records, layout.unit)


@contextmanager
def reading(what: Path | str) -> Iterator[None]:
    """Gives the errors with which ``datasets`` ends a reading as they began; a full disk stays an ``OSError``.

    Args:
        what: is read, for the message.

    Raises:
        UserError: it cannot be read.
    """
    try:
        yield
    except (DatasetsError, pyarrow.ArrowException, tarfile.TarError, OSError, ValueError, TypeError) as error:
        cause = (error.__cause__ or error) if isinstance(error, DatasetGenerationError) else error
        if isinstance(cause, UserError) or is_full_disk(cause):
            raise cause from error
        raise UserError(f"{what} cannot be read: {sentence(cause)}") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, with their ends."""
    for number, line in enumerate(decoded_lines(path, str(path)), start=1):
        if "\0" in line:
            raise UserError(
                f"{path} line {number} has a NUL character, which text has not: if the file is UTF-16, convert it to "
                "UTF-8 (iconv -f UTF-16 -t UTF-8)"
            )
        yield line


# CSV and TSV.


def _csv(path: Path) -> _Layout:
    def records() -> Records:
        return _named(path, _quoted(path, ","), "comma")

    return _of_strings(path, records)


def _tsv(path: Path) -> _Layout:
    def as_csv() -> Records:
        return _named(path, _quoted(path, "\t"), "tab")

    def plain() -> Records:
        lines = enumerate(_lines(path), start=1)
        stripped = ((number, line.removesuffix("\n").removesuffix("\r")) for number, line in lines)
        return _named(path, ((number, line.split("\t")) for number, line in stripped if line), "tab")

    found: list[int | UserError] = []
    for records in (as_csv, plain):
        try:
            found.append(_count(records()))
        except UserError as error:
            found.append(error)
    quoted_rows, plain_rows = found
    if isinstance(quoted_rows, int) and (isinstance(plain_rows, UserError) or plain_rows == quoted_rows):
        return _of_strings(path, as_csv)
    if isinstance(plain_rows, UserError):
        also = f" (and read with quotation marks, as CSV: {quoted_rows})" if str(quoted_rows) != str(plain_rows) else ""
        raise UserError(f"{plain_rows}{also}") from plain_rows
    reason = "they would join lines" if isinstance(quoted_rows, int) else f"as quoting, {quoted_rows}"
    return _of_strings(path, plain, (f"{path.name}: quotation marks are read as characters of the text: {reason}",))


def _of_strings(path: Path, records: Callable[[], Records], notes: tuple[str, ...] = ()) -> _Layout:
    first = next(records(), None)
    if first is None:
        raise UserError(f"{path} has no rows below its header")
    return _Layout(Features({name: Value("string") for name in first[1]}), records, "line", notes)


def _count(records: Iterable[Any]) -> int:
    return sum(1 for _ in records)


class _Watched:
    """Lines on their way to a csv.reader; knows where the field begins that is open after the last of them."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = iter(lines)
        self.number = self.start = 0
        self.is_open = False

    def __iter__(self) -> Iterator[str]:
        for line in self.lines:
            self.number += 1
            marks = line.replace('""', "").count('"')  # doubled ones leave a field open or closed as it is
            was_open, self.is_open = self.is_open, self.is_open ^ bool(marks % 2)
            if self.is_open and (not was_open or marks > 1):
                self.start = self.number
            yield line


def _quoted(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The line at which each row of a file begins, and its fields."""
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    lines = _Watched(_lines(path))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        here, text = f"{path} line {reader.line_num}", str(error)
        unclosed = f"{path} line {lines.start}: a field begins with a quotation mark that is not closed"
        remedy = 'close it; a quotation mark within a quoted field is written ""'
        if "unexpected end" in text:
            raise UserError(f"{unclosed}: {remedy}") from error
        if "field limit" in text:
            if lines.is_open and lines.number > lines.start:
                raise UserError(f"{unclosed} within {_LONGEST_FIELD >> 20} MB: {remedy}") from error
            raise UserError(f"{here} has a field of more than {_LONGEST_FIELD >> 20} MB: shorten it") from error
        if "expected after" in text:
            # The mark that closes the field may be one that was to open another.
            begins = f" (the field begins in line {start})" if start < reader.line_num else ""
            raise UserError(
                f"{here}: text follows the quotation mark that closes a field{begins}: a quotation mark within a "
                'quoted field is written ""'
            ) from error
        if "new-line character" in text:
            raise UserError(
                f"{here} has a carriage return within a field: end lines with a newline, and put fields with line "
                "breaks into quotation marks"
            ) from error
        raise UserError(f"{here} cannot be read: {text}") from error


def _named(path: Path, rows: Iterator[tuple[int, list[str]]], separator: str) -> Records:
    """Fields by the names of the header, the first row."""
    _, names = next(rows, (0, None))
    if names is None:
        raise UserError(f"{path} is empty: its first line has to name the columns")
    _check_names(path, names)
    for number, fields in rows:
        if len(fields) != len(names):
            remedy = other_separator(names) or f"a field with a {separator} in it has to be in quotation marks"
            raise UserError(
                f"{path} line {number} has {len(fields)} field{'s' * (len(fields) != 1)} where the header has "
                f"{len(names)}: {remedy}"
            )
        yield number, dict(zip(names, fields, strict=True))


def other_separator(names: Sequence[str]) -> str | None:
    """What to do about a file with one column whose name looks like several, such as ``text;label``; else None."""
    found = next((what for mark, what in _SEPARATORS.items() if len(names) == 1 and mark in names[0]), None)
    if found is None:
        return None
    return f"its fields seem to be separated by {found}; separate them by commas in a .csv file, by tabs in a .tsv file"


def _check_names(path: Path, names: Sequence[str]) -> None:
    for position, name in enumerate(names, start=1):
        if not name.strip():
            raise UserError(
                f"{path}: column {position} has no name in the header: name it, or leave it out (as pandas does with "
                "index=False)"
            )
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UserError(f"{path}: the header names {', '.join(map(repr, doubled))} more than once: rename one of them")


# JSON.


def _json(path: Path) -> _Layout:
    is_array = next((line for line in _lines(path) if line.strip()), "").lstrip().startswith("[")
    unit = "row" if is_array else "line"

    def records() -> Records:
        for number, row in (_elements if is_array else _objects)(path):
            if not isinstance(row, dict):
                raise UserError(f"{path} {unit} {number} is not an object like {{...}} but {brief(row)}")
            yield number, row

    kinds: dict[str, set[str]] = {}
    for number, row in records():
        for name, value in row.items():
            try:
                found = kinds.setdefault(name, set())
                found.update(_kinds(value))
                name.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{path} {unit} {number}: {name!a} has half of a surrogate pair, which is no character: remove it"
                ) from error
    if not kinds:
        raise UserError(f"{path} has no rows" if is_array else f"{path} is empty: write one object a line")
    _check_names(path, list(kinds))
    return _Layout(Features({name: _feature(found) for name, found in kinds.items()}), records, unit)


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                yield number, decoded_json(line, f"{path} line {number}")
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path} line {number} is not JSON ({error}): write one object a line, or one array of objects"
                ) from error


def _elements(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        return enumerate(decoded_json("".join(_lines(path)), str(path)), start=1)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno} is not JSON ({error.msg}): write one array of objects") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): write one array of objects") from error


def _kinds(value: Any) -> Iterator[str]:
    """The kind of a value: a name of ``datasets``' types, ``json``, or, in brackets, those of a list's elements."""
    match value:
        case None:
            pass
        case bool():
            yield "bool"
        case str():
            value.encode()
            yield "string"
        case int() if -(2**63) <= value < 2**63:
            yield "int64"
        case float():
            yield "float64"
        case list():
            inner = set(chain.from_iterable(map(_kinds, value)))
            yield from (f"[{kind}" for kind in inner or {""})
        case _:
            yield "json"


def _feature(kinds: set[str]) -> Any:
    """The type for a column of these kinds."""
    if kinds == {"int64", "float64"}:
        return Value("float64")
    if kinds and all(kind.startswith("[") for kind in kinds):
        inner = {kind[1:] for kind in kinds} - {""}
        return List(Value(inner.pop() if inner else "string")) if len(inner) < 2 and not _nested(inner) else Json()
    if len(kinds) > 1 or _nested(kinds):
        return Json()
    return Value(kinds.pop() if kinds else "string")


def _nested(kinds: set[str]) -> bool:
    return any(kind == "json" or kind.startswith("[") for kind in kinds)


# Parquet.


def _parquet(path: Path) -> _Layout:
    def records() -> Records:
        try:
            batches = pyarrow.parquet.ParquetFile(path).iter_batches(_BATCH)
            yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), start=1)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as parquet: {sentence(error)}") from error

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        _check_names(path, schema.names)
        # Columns of pandas' categories; datasets knows no dictionaries.
        fields = [
            field.with_type(field.type.value_type) if pyarrow.types.is_dictionary(field.type) else field
            for field in schema
        ]
        features = Features.from_arrow_schema(pyarrow.schema(fields, schema.metadata))
    except (pyarrow.ArrowException, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} cannot be read as parquet: {sentence(error)}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return _Layout(features, records, "row")


_LAYOUTS: Mapping[str, Callable[[Path], _Layout]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".json": _json,
    ".jsonl": _json,
    ".parquet": _parquet,
}

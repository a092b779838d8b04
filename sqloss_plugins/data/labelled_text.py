"""Labelled texts of one's own, from files or from the hub, as a task: columns, labels, and rows held out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import DatasetDict, Features, List, Value, load_dataset

from sqloss_plugins.data.hold_out import SPLITS, HoldOut, divided, hold_out_sizes
from sqloss_plugins.data.labels import Columns, LabelColumn, settle_labels
from sqloss_plugins.data.progress import MANY_ROWS, bar_if
from sqloss_plugins.data.tables import Table, other_separator, read_table
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError, brief, brief_list

_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"))
_SINGLE = ("text", "sentence")
_LABELS = ("label", "labels")
_ROW_NUMBERS = ("idx", "id")
_FEATURES = {"single_label": Value("int64"), "multi_label": List(Value("float32")), "regression": Value("float64")}
_BATCH = 1000


@dataclass(frozen=True)
class LabelledText:
    """Texts with labels.

    Attributes:
        data: the splits, with the columns ``texts`` and ``label``: a class number (int64), for ``multi_label`` a list
            of as many 0.0 and 1.0 as there are labels, for ``regression`` a number (float64). A test split without
            labels has no such column.
        texts: names of the one or two text columns.
        kind: one of :data:`sqloss_plugins.data.labels.KINDS`.
        labels: names of the classes in the order of their numbers; empty for a regression.
    """

    data: TaskData
    texts: tuple[str, ...]
    kind: str
    labels: tuple[str, ...]


def load_files(
    files: Mapping[str, Path],
    columns: Columns,
    hold_out: HoldOut,
    *,
    labels: Sequence[str] | None = None,
    kind: str | None = None,
    cache_dir: str | None = None,
    in_memory: bool = False,
) -> LabelledText:
    """Reads labelled texts from files, as :func:`~sqloss_plugins.data.tables.read_table` does.

    Labels are words or numbers and compared as text, so that 1 and "1" are one label. Classes are numbered in the order
    of their numbers if all are whole numbers, else in alphabetical order; classes that a file names itself (parquet
    files of ``datasets``) keep their order. Labels are a regression's where the column is of floating-point numbers,
    or where every training label is a number and some are not whole. Lists as labels, and a delimiter, are multi-label;
    a row may have none of the labels, and none twice. A test split whose labels are all empty, or all -1 where that
    is no label of the training data, has no labels.

    Args:
        files: ``train``, ``validation`` or ``test`` -> file; any of them may be lacking.
        columns: which columns are texts and labels.
        hold_out: what is taken from the training data for the validation and the test split if they are lacking: by
            class for ``single_label``, else at random.
        labels: names of a saved model's labels, in order; needed where there is no training data.
        kind: that of a saved model; by default what the columns say.
        cache_dir: where the memory-mapped copy is kept; by default where ``datasets`` keeps all.
        in_memory: read the data into memory instead, for files that do not stay.

    Raises:
        UserError: what is wrong, and in which line or row.
    """
    tables = {split: read_table(files[split], cache_dir, in_memory) for split in SPLITS if split in files}
    return _load(tables, ", ".join(str(files[split]) for split in tables), columns, hold_out, labels, kind)


def load_from_hub(
    name: str,
    config: str | None,
    splits: Mapping[str, str],
    columns: Columns,
    hold_out: HoldOut,
    *,
    labels: Sequence[str] | None = None,
    kind: str | None = None,
    remove_splits: Collection[str] = (),
    cache_dir: str | None = None,
    token: str | None = None,
) -> LabelledText:
    """Reads labelled texts from the hub, or from the local cache of it.

    Args:
        name: of the data set.
        config: its configuration, if it has several.
        splits: ``train``, ``validation`` or ``test`` -> the hub's name of it, which must be there; the others are
            taken by their own names, if they are there.
        remove_splits: the hub's names of splits that are not taken.
        columns, hold_out, labels, kind, cache_dir: as for :func:`load_files`.
        token: for the hub.

    Raises:
        ConnectionError, OSError, ValueError: the hub cannot be reached and the cache has no copy.
        UserError: as for :func:`load_files`, and a split that is not there.
    """
    loaded = load_dataset(name, config, cache_dir=cache_dir, token=token)
    missing = [theirs for theirs in (*splits.values(), *remove_splits) if theirs not in loaded]
    if missing:
        raise UserError(f"{name} has no split {missing[0]!r}: it has {', '.join(map(repr, loaded))}")
    tables = {}
    for split in SPLITS:
        theirs = splits.get(split, split)
        if theirs in loaded and theirs not in remove_splits:
            tables[split] = Table(loaded[theirs], f"{name}, {theirs}")
            if not len(loaded[theirs]):
                raise UserError(f"{name}: split {theirs!r} has no rows")
    source = f"hub: {name}" if config is None else f"hub: {name} {config}"
    return _load(tables, source, columns, hold_out, labels, kind)


def _load(
    tables: Mapping[str, Table],
    source: str,
    columns: Columns,
    hold_out: HoldOut,
    labels: Sequence[str] | None,
    kind: str | None,
) -> LabelledText:
    if not tables:
        raise UserError("there is no data: give a training, a validation or a test split")
    tables = _without(tables, columns.removed)
    texts, label = _find_columns(tables, columns)
    sizes = hold_out_sizes(tables, hold_out)  # after a wrong separator, of which a file may have few rows
    notes = [note for table in tables.values() for note in table.notes]
    labelled = {}
    for split, table in tables.items():
        name = _find(table.rows.column_names, label)
        column = LabelColumn(table, name, columns.label_delimiter) if name else None
        if column and not (split == "test" and column.is_empty()):
            labelled[split] = column
    kind, names, found = settle_labels(labelled, columns, labels, kind)
    notes += found
    if "test" in tables and "test" not in labelled:
        notes.append(f"{tables['test'].name} has no labels: its predictions are not scored")
    outputs = texts if columns.text_delimiter is None else ("text",)
    splits, hashes = DatasetDict(), {}
    for split, table in tables.items():
        sources = [_found(table, name) for name in texts]
        hashes[split] = _check_texts(table, sources, columns.text_delimiter)
        features = Features({name: Value("string") for name in outputs})
        encode_label = None
        if split in labelled:
            features["label"] = _FEATURES[kind]
            encode_label = labelled[split].encoder(kind, names)
        with bar_if(len(table.rows) >= MANY_ROWS):
            splits[split] = table.rows.map(
                _encoder(sources, outputs, columns.text_delimiter, encode_label),
                batched=True,
                features=features,
                remove_columns=table.rows.column_names,
                desc=f"Texts and labels of {table.name}",
            )
    splits, parts, found = divided(splits, hashes, sizes, hold_out.seed, kind)
    notes += found
    data = TaskData(splits, source, notes=tuple(notes), numbers=parts)
    return LabelledText(data, outputs, kind, names)


# Columns.


def _without(tables: Mapping[str, Table], removed: Collection[str]) -> dict[str, Table]:
    there = {name for table in tables.values() for name in table.rows.column_names}
    missing = [name for name in removed if name not in there]
    if missing:
        raise UserError(f"--remove_columns: no split has a column {missing[0]!r}, but {brief_list(sorted(there))}")
    return {
        split: replace(
            table, rows=table.rows.remove_columns([name for name in table.rows.column_names if name in removed])
        )
        for split, table in tables.items()
    }


def _find(names: Sequence[str], wanted: str) -> str | None:
    """A column by its name, or else the only one that differs from it in case alone."""
    if wanted in names:
        return wanted
    alike = [name for name in names if name.lower() == wanted.lower()]
    return alike[0] if len(alike) == 1 else None


def _found(table: Table, wanted: str, option: str = "--text_column_names") -> str:
    name = _find(table.rows.column_names, wanted)
    if name is None:
        names = table.rows.column_names
        remedy = other_separator(names) or f"name the right one by {option}"
        raise UserError(f"{table.name} has no column {wanted!r}, but {brief_list(names)}: {remedy}")
    return name


def _find_columns(tables: Mapping[str, Table], columns: Columns) -> tuple[tuple[str, ...], str]:
    """Names of the text columns and of the label column, which test data alone may lack."""
    table = next(iter(tables.values()))
    names = table.rows.column_names
    label = columns.label or next((name for name in _LABELS if _find(names, name)), _LABELS[0])
    for split in ("train", "validation"):
        if split in tables:
            _found(tables[split], label, "--label_column_name")
    others = [name for name in names if name != _find(names, label)]
    texts = columns.texts or _usual_texts(table, others)
    for each in tables.values():
        for text in texts:
            if _found(each, text) == _find(each.rows.column_names, label):
                raise UserError(f"column {text!r} cannot be both text and label: correct --text_column_names")
    doubled = [text for text in texts if texts.count(text) > 1]
    if doubled:
        raise UserError(f"--text_column_names names {doubled[0]!r} more than once")
    if columns.text_delimiter is None:
        if len(texts) > 2:
            raise UserError(
                f"--text_column_names: a model takes one text or a pair, not {len(texts)}: join them by "
                "--text_column_delimiter"
            )
        if "label" in texts:
            raise UserError("a column of texts cannot be called 'label': rename it")
    elif len(texts) == 1:
        raise UserError(f"--text_column_delimiter joins several texts, and {texts[0]!r} is the only one: leave it out")
    return tuple(texts), label


def _usual_texts(table: Table, names: Sequence[str]) -> tuple[str, ...]:
    for usual in (*_PAIRS, *((name,) for name in _SINGLE)):
        found = [name for wanted in usual if (name := _find(names, wanted))]
        if len(found) == len(usual):
            return tuple(found)
    others = [name for name in names if name.lower() not in _ROW_NUMBERS]
    if len(others) != 1:
        raise UserError(
            f"{table.name} does not show which columns are the texts (it has {brief_list(table.rows.column_names)}): "
            "name one or two by --text_column_names"
        )
    return (others[0],)


# Texts.


def _check_texts(table: Table, names: Sequence[str], delimiter: str | None) -> npt.NDArray[np.int64]:
    """Checks the texts of a split, and returns a hash of each row, of this process."""
    hashes = np.empty(len(table.rows), dtype=np.int64)
    row = 0
    for batch in table.rows.select_columns(list(names)).iter(_BATCH):
        for texts in zip(*(batch[name] for name in names), strict=True):
            for name, text in zip(names, texts, strict=True):
                if text is None or text != text:
                    raise UserError(f"{table.place(row)}: {name!r} is missing: fill it in, or leave the row out")
                if not isinstance(text, str):
                    raise UserError(f"{table.place(row)}: {name!r} is not text but {brief(text)}: write a text")
            blank = [name for name, text in zip(names, texts, strict=True) if not text.strip()]
            if blank and (delimiter is None or len(blank) == len(names)):
                raise UserError(f"{table.place(row)}: {blank[0]!r} is empty: fill it in, or leave the row out")
            hashes[row] = hash(texts if delimiter is None else delimiter.join(texts))
            row += 1
    return hashes


def _encoder(
    sources: Sequence[str],
    outputs: Sequence[str],
    delimiter: str | None,
    encode_label: tuple[str, Callable[[Any], Any]] | None,
) -> Callable[[Mapping[str, list[Any]]], dict[str, list[Any]]]:
    """For ``Dataset.map``: the texts under their names, or joined, and the labels as numbers."""

    def encode(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        texts = [batch[name] for name in sources]
        if delimiter is not None:
            texts = [[delimiter.join(parts) for parts in zip(*texts, strict=True)]]
        encoded = dict(zip(outputs, texts, strict=True))
        if encode_label is not None:
            name, number = encode_label
            encoded["label"] = [number(value) for value in batch[name]]
        return encoded

    return encode

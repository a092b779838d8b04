"""GLUE: its tasks, and reading them from the hub, from TSV or from parquet files.

Wang et al. (2018), "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding".
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset, DatasetDict, Features, Value, load_dataset
from datasets.exceptions import DatasetsError

from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError
from sqloss_plugins.text_files import decoded_lines

HUB = "nyu-mll/glue"
"""The hub's data set, with a configuration for each task."""


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Attributes:
        name: as on the hub, ``mrpc``.
        folder: as in GLUE's download and submissions, ``MRPC``.
        texts: the one or two text columns.
        labels: names of the classes in the order of their numbers; empty for regression.
        metrics: keys of a metrics dictionary, the one to select models by first.
        aliases: column names of GLUE's own TSV files -> ours.
        headerless: columns of the TSV files that have no header line, in order.
        extra_splits: beside train, validation and test.
        named_predictions: whether a submission has the classes' names rather than numbers.
    """

    name: str
    folder: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    aliases: Mapping[str, str] | None = None
    headerless: tuple[str, ...] = ()
    extra_splits: tuple[str, ...] = ()
    named_predictions: bool = False

    @property
    def is_regression(self) -> bool:
        """STS-B, whose labels are similarities in [0, 5]."""
        return not self.labels

    @property
    def num_outputs(self) -> int:
        """Outputs that a model for the task has."""
        return max(len(self.labels), 1)


_NLI = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")

TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            "cola",
            "CoLA",
            ("sentence",),
            ("unacceptable", "acceptable"),
            ("matthews_correlation", "accuracy"),
            headerless=("source", "label", "star", "sentence"),
        ),
        GlueTask(
            "mnli",
            "MNLI",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            aliases={"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"},
            extra_splits=("validation_mismatched", "test_mismatched"),
            named_predictions=True,
        ),
        GlueTask(
            "mrpc",
            "MRPC",
            _PAIR,
            ("not_equivalent", "equivalent"),
            ("accuracy", "f1"),
            aliases={"#1 String": "sentence1", "#2 String": "sentence2", "Quality": "label"},
        ),
        GlueTask("qnli", "QNLI", ("question", "sentence"), _NLI, named_predictions=True),
        GlueTask(
            "qqp",
            "QQP",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            ("accuracy", "f1"),
            aliases={"is_duplicate": "label"},
        ),
        GlueTask("rte", "RTE", _PAIR, _NLI, named_predictions=True),
        GlueTask("sst2", "SST-2", ("sentence",), ("negative", "positive")),
        GlueTask("stsb", "STS-B", _PAIR, (), ("pearson", "spearmanr"), aliases={"score": "label"}),
        GlueTask("wnli", "WNLI", _PAIR, ("not_entailment", "entailment")),
    )
}

_FILES = {
    "train": ("train",),
    "validation": ("dev", "validation", "dev_matched", "validation_matched"),
    "test": ("test", "test_matched"),
    "validation_mismatched": ("dev_mismatched", "validation_mismatched"),
    "test_mismatched": ("test_mismatched",),
}
_LARGEST_BROKEN_SHARE = 1e-4  # QQP as GLUE distributes it has some 20 broken lines among 364 thousand


def load_from_dir(task: GlueTask, folder: Path, cache_dir: str | None = None, in_memory: bool = False) -> TaskData:
    """Reads a task from files as GLUE distributes them (TSV) or as the hub does (parquet).

    Args:
        task: the task.
        folder: holds ``train.tsv``, ``dev.tsv`` and maybe ``test.tsv``, or the same as ``train-*.parquet`` and so
            on, itself or in a folder of the task's name.
        cache_dir: where the memory-mapped copy is kept; by default where ``datasets`` keeps all.
        in_memory: read the data into memory instead, for files that do not stay.

    Raises:
        UserError: no such folder or split; missing columns, quoted fields, labels out of range, an empty split.
    """
    if not folder.is_dir():
        raise UserError(f"data_dir {folder} is not a folder")
    for inner in (folder / task.folder, folder / task.name):
        if inner.is_dir():
            folder = inner
            break
    options = {"split": "train", "cache_dir": cache_dir, "keep_in_memory": in_memory}
    splits, notes = DatasetDict(), []
    for split, names in _FILES.items():
        path = _find(folder, names)
        if path is None:
            continue
        read = _read_parquet if path.suffix == ".parquet" else _read_tsv
        dataset, note = read(task, path, options)
        splits[split] = _checked(task, split, dataset, str(path))
        notes += note
    for split in ("train", "validation"):
        if split not in splits:
            wanted = " or ".join(f"{name}.tsv" for name in _FILES[split][:2])
            raise UserError(f"{folder} has no {split} data for {task.name}: put {wanted} (or parquet files) there")
    return TaskData(splits, str(folder), notes=tuple(notes))


def load_from_hub(task: GlueTask, cache_dir: str | None = None, token: str | None = None) -> TaskData:
    """Reads a task from the hub's :data:`HUB`, or from the local cache of it.

    Raises:
        ConnectionError, OSError, ValueError: the hub cannot be reached and the cache has no copy.
    """
    loaded = load_dataset(HUB, task.name, cache_dir=cache_dir, token=token)
    splits = DatasetDict()
    for split, names in _FILES.items():
        for name in names:
            if name in loaded:
                splits[split] = _checked(task, split, loaded[name], f"the hub's {task.name} {name}")
    return TaskData(splits, f"hub: {HUB}")


def _find(folder: Path, names: Sequence[str]) -> Path | None:
    """The file of a split: TSV first, parquet second (``train.parquet`` or ``train-00000-of-00001.parquet``)."""
    for name in names:
        if (folder / f"{name}.tsv").is_file():
            return folder / f"{name}.tsv"
    for name in names:
        found = sorted([*folder.glob(f"{name}.parquet"), *folder.glob(f"{name}-*-of-*.parquet")])
        if found:
            return found[0]
    return None


def _read_parquet(task: GlueTask, path: Path, options: Mapping[str, Any]) -> tuple[Dataset, list[str]]:
    """All shards of a split, the given path being the first."""
    name, dash, _ = path.stem.partition("-")
    shards = sorted(path.parent.glob(f"{name}-*-of-*.parquet")) if dash else [path]
    stated = path.stem.rpartition("-of-")[2]
    if dash and (not stated.isdigit() or int(stated) != len(shards)):
        raise UserError(f"{path.parent} has {len(shards)} of the {stated} files {name}-*-of-{stated}.parquet")
    try:
        return load_dataset("parquet", data_files=[str(shard) for shard in shards], **options), []
    except (DatasetsError, pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as parquet: {error.__cause__ or error}") from error


@dataclass(frozen=True)
class _Layout:
    """How a TSV file is laid out: its columns, the lines that are no rows (from 0), rows, and carriage returns."""

    names: list[str]
    skipped: list[int]
    rows: int
    broken: int
    has_returns: bool


def _read_tsv(task: GlueTask, path: Path, options: Mapping[str, Any]) -> tuple[Dataset, list[str]]:
    """GLUE's TSV: UTF-8, one line a row, no quoting; a quotation mark is a character like any other."""
    layout = _scan(task, path)
    dataset = load_dataset(
        "csv",
        data_files=str(path),
        delimiter="\t",
        quoting=csv.QUOTE_NONE,
        encoding="utf-8-sig",
        lineterminator="\n",
        header=None,
        names=layout.names,
        skiprows=layout.skipped,
        skip_blank_lines=False,
        na_filter=False,  # "NA" is a text
        features=Features({name: Value("string") for name in layout.names}),
        **options,
    )
    if layout.has_returns:
        last = layout.names[-1]
        dataset = dataset.map(lambda rows: {last: [text.rstrip("\r") for text in rows[last]]}, batched=True)
    total = layout.rows + layout.broken
    note = f"{path.name}: {layout.broken} of {total} lines have missing fields and are left out"
    return dataset, [note] if layout.broken else []


def _scan(task: GlueTask, path: Path) -> _Layout:
    """Checks a TSV file line by line, before it is read.

    Raises:
        UserError: what is wrong, and in which line.
    """
    names: list[str] = []
    skipped, broken = [], []
    quoted: list[int] = []  # columns whose every value so far is in quotation marks
    rows, has_returns = 0, False
    for number, line in enumerate(decoded_lines(path, str(path))):
        line = line.removesuffix("\n")
        has_returns = has_returns or line.endswith("\r")
        fields = line.rstrip("\r").split("\t")
        is_blank = fields == [""]
        is_header = not names and not is_blank and (not task.headerless or "sentence" in fields)
        if is_blank or is_header:
            skipped.append(number)
        if not names and not is_blank:
            names = fields if is_header else list(task.headerless)
            quoted = list(range(len(names)))
        if is_blank or is_header:
            continue
        if len(fields) == len(names):
            rows += 1
            quoted = [i for i in quoted if len(fields[i]) >= 2 and fields[i][0] == fields[i][-1] == '"']
        else:
            skipped.append(number)
            broken.append((number + 1, len(fields)))
    if not names:
        raise UserError(f"{path} is empty")
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UserError(f"{path}: the header names {', '.join(map(repr, doubled))} more than once")
    if len(broken) > _LARGEST_BROKEN_SHARE * (rows + len(broken)):
        number, count = broken[0]
        raise UserError(
            f"{path} line {number} has {count} fields where the header has {len(names)}: GLUE's TSV files separate "
            "fields by single tabs and quote nothing"
        )
    if not rows:
        raise UserError(f"{path} has no examples")
    if quoted:
        raise UserError(
            f"{path}: every value of column {names[quoted[0]]!r} is in quotation marks, but GLUE's TSV files quote "
            "nothing: write the file without quoting"
        )
    return _Layout(names, skipped, rows, len(broken), has_returns)


def _checked(task: GlueTask, split: str, dataset: Dataset, where: str) -> Dataset:
    """The columns that the task needs, with labels as numbers; no label column where none is public."""
    for theirs, ours in (task.aliases or {}).items():
        if theirs in dataset.column_names and ours not in dataset.column_names:
            dataset = dataset.rename_column(theirs, ours)
    columns, is_test = dataset.column_names, split.startswith("test")
    needed = [*task.texts, *([] if is_test else ["label"])]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise UserError(
            f"{where} has no column {', '.join(map(repr, missing))} (it has {', '.join(map(repr, columns))}): "
            f"{task.name} needs {', '.join(map(repr, (*task.texts, 'label')))}"
        )
    if not len(dataset):
        raise UserError(f"{where} has no examples")
    for name in task.texts:
        column = dataset.data.column(name)
        if column.null_count or not pyarrow.types.is_string(column.type):
            for row, text in enumerate(dataset[name], start=1):
                if not isinstance(text, str):
                    raise UserError(f"{where}: {name} of example {row} is not text but {text!r}")
    if "label" not in columns:
        return dataset.select_columns(list(task.texts))
    numbers = {}
    for value in dataset.unique("label"):
        number = _label(task, value)
        if number is None:
            row = next(i for i, label in enumerate(dataset["label"], start=1) if _label(task, label) is None)
            kind = "a similarity from 0 to 5" if task.is_regression else f"one of {_numbered(task)}"
            raise UserError(f"{where}: label {value!r} of example {row} is not {kind}")
        numbers[value] = number
    if -1 in numbers.values():
        hidden = sum(numbers[value] == -1 for value in dataset["label"])
        if is_test and hidden == len(dataset):
            return dataset.select_columns(list(task.texts))
        raise UserError(
            f"{where} has {hidden} labels of -1, which GLUE uses for labels that are not public; training, validation "
            "and scoring need the real ones"
        )
    dataset = dataset.select_columns([*task.texts, "label"])
    kind = Value("float64" if task.is_regression else "int64")
    return dataset.map(
        lambda rows: {"label": [numbers[value] for value in rows["label"]]},
        batched=True,
        features=Features({**dataset.features, "label": kind}),
    )


def _numbered(task: GlueTask) -> str:
    return ", ".join(f"{i} ({name})" for i, name in enumerate(task.labels))


def _label(task: GlueTask, value: Any) -> int | float | None:
    """One label as a number; -1 for a label that is not public; None for what is no label."""
    if isinstance(value, str) and value in task.labels:
        return task.labels.index(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if task.is_regression:
        return number if number == -1 or 0 <= number <= 5 else None
    return int(number) if number == -1 or number in range(len(task.labels)) else None


def write_submission(task: GlueTask, split: str, predictions: Iterable[Any], folder: Path) -> Path:
    """Writes a split's predictions as GLUE's server takes them: ``index<TAB>prediction``; returns the file."""
    suffix = ""
    if task.name == "mnli":
        suffix = "-mm" if split.endswith("mismatched") else "-m"
    path = folder / f"{task.folder}{suffix}.tsv"
    with path.open("w", encoding="utf-8") as file:
        file.write("index\tprediction\n")
        for index, prediction in enumerate(predictions):
            if task.is_regression:
                text = f"{min(max(float(prediction), 0.0), 5.0):.3f}"
            else:
                text = task.labels[int(prediction)] if task.named_predictions else str(int(prediction))
            file.write(f"{index}\t{text}\n")
    return path

"""GLUE: its tasks, and reading them from the hub, from TSV or from parquet files.

Wang et al. (2018), "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding".
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sqloss_plugins.errors import UserError

Columns = dict[str, list[Any]]
"""Column name -> values: the text columns of the task, and ``label`` where there are labels."""


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


@dataclass(frozen=True)
class GlueData:
    """A task's data, checked.

    Attributes:
        task: the task.
        splits: ``train``, ``validation`` and, where there is one, ``test``; for MNLI ``..._mismatched`` as well.
            A split whose labels are not public has no ``label`` column.
        source: where it came from, for people.
        mini: whether it is the embedded mini data.
        notes: what a person should know about the reading (lines left out).
    """

    task: GlueTask
    splits: dict[str, Columns]
    source: str
    mini: bool = False
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Examples by split."""
        return {split: len(columns[self.task.texts[0]]) for split, columns in self.splits.items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all texts and labels in order: equal data has equal fingerprints, wherever it came from."""
        digest = hashlib.sha256()
        for split in sorted(self.splits):
            columns = self.splits[split]
            names = [*self.task.texts, *(["label"] if "label" in columns else [])]
            digest.update(json.dumps([split, names]).encode())
            for row in zip(*(columns[name] for name in names), strict=True):
                # The hub's files have STS-B's similarities in single precision.
                plain = [round(value, 3) if isinstance(value, float) else value for value in row]
                digest.update(json.dumps(plain, ensure_ascii=False).encode())
        return digest.hexdigest()


def load_from_dir(task: GlueTask, folder: Path, *, source: str | None = None, mini: bool = False) -> GlueData:
    """Reads a task from files as GLUE distributes them (TSV) or as the hub does (parquet).

    Args:
        task: the task.
        folder: holds ``train.tsv``, ``dev.tsv`` and maybe ``test.tsv``, or the same as ``train-*.parquet`` and so
            on, itself or in a folder of the task's name.
        source, mini: of the :class:`GlueData`.

    Raises:
        UserError: no such folder or split; missing columns, quoted fields, labels out of range, an empty split.
    """
    if not folder.is_dir():
        raise UserError(f"data_dir {folder} is not a folder")
    for inner in (folder / task.folder, folder / task.name):
        if inner.is_dir():
            folder = inner
            break
    splits: dict[str, Columns] = {}
    notes: list[str] = []
    for split, names in _FILES.items():
        path = _find(folder, names)
        if path is None:
            continue
        columns = _read_parquet(path) if path.suffix == ".parquet" else _read_tsv(task, path, split, notes)
        splits[split] = _checked(task, split, _renamed(task, columns), str(path))
    for split in ("train", "validation"):
        if split not in splits:
            wanted = " or ".join(f"{name}.tsv" for name in _FILES[split][:2])
            raise UserError(f"{folder} has no {split} data for {task.name}: put {wanted} (or parquet files) there")
    return GlueData(task, splits, source or str(folder), mini, tuple(notes))


def load_from_hub(task: GlueTask, cache_dir: str | None = None, token: str | None = None) -> GlueData:
    """Reads a task from the hub's ``nyu-mll/glue``, or from the local cache of it.

    Raises:
        ConnectionError, OSError, ValueError: the hub cannot be reached and the cache has no copy.
    """
    from datasets import load_dataset

    loaded = load_dataset("nyu-mll/glue", task.name, cache_dir=cache_dir, token=token)
    splits: dict[str, Columns] = {}
    for split, names in _FILES.items():
        for name in names:
            if name in loaded:
                columns = {column: list(loaded[name][column]) for column in loaded[name].column_names}
                splits[split] = _checked(task, split, columns, f"the hub's {task.name} {name}")
    return GlueData(task, splits, "hub: nyu-mll/glue")


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


def _read_parquet(path: Path) -> Columns:
    """All shards of a split, the given path being the first."""
    import pyarrow
    import pyarrow.parquet as pq

    name, dash, _ = path.stem.partition("-")
    shards = sorted(path.parent.glob(f"{name}-*-of-*.parquet")) if dash else [path]
    stated = path.stem.rpartition("-of-")[2]
    if dash and (not stated.isdigit() or int(stated) != len(shards)):
        raise UserError(f"{path.parent} has {len(shards)} of the {stated} files {name}-*-of-{stated}.parquet")
    try:
        columns: Columns = pyarrow.concat_tables([pq.read_table(shard) for shard in shards]).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {error}") from error
    return columns


def _read_tsv(task: GlueTask, path: Path, split: str, notes: list[str]) -> Columns:
    """GLUE's TSV: UTF-8, one line a row, no quoting; a quotation mark is a character like any other."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    numbered = [
        (number, line.rstrip("\r").split("\t")) for number, line in enumerate(lines, start=1) if line.strip("\r")
    ]
    if not numbered:
        raise UserError(f"{path} is empty")
    has_header = not task.headerless or "sentence" in numbered[0][1]
    header = numbered[0][1] if has_header else list(task.headerless)
    body = numbered[1:] if has_header else numbered
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise UserError(f"{path}: the header names {', '.join(map(repr, doubled))} more than once")

    broken = [(number, len(row)) for number, row in body if len(row) != len(header)]
    if broken:
        if len(broken) > _LARGEST_BROKEN_SHARE * len(body):
            number, fields = broken[0]
            raise UserError(
                f"{path} line {number} has {fields} fields where the header has {len(header)}: GLUE's TSV "
                "files separate fields by single tabs and quote nothing"
            )
        notes.append(f"{path.name}: {len(broken)} of {len(body)} lines have missing fields and are left out")
        body = [(number, row) for number, row in body if len(row) == len(header)]
    columns = {name: [row[i] for _, row in body] for i, name in enumerate(header)}

    for name in columns:
        values = columns[name]
        if values and all(len(v) >= 2 and v[0] == v[-1] == '"' for v in values):
            raise UserError(
                f"{path}: every value of column {name!r} is in quotation marks, but GLUE's TSV files quote nothing: "
                "write the file without quoting"
            )
    return columns


def _renamed(task: GlueTask, columns: Columns) -> Columns:
    """GLUE's own column names -> ours, unless ours are there already."""
    for theirs, ours in (task.aliases or {}).items():
        if theirs in columns and ours not in columns:
            columns[ours] = columns[theirs]
    return columns


def _checked(task: GlueTask, split: str, columns: Columns, where: str) -> Columns:
    """The columns that the task needs, with labels as numbers; no label column where none is public."""
    missing = [name for name in task.texts if name not in columns]
    is_test = split.startswith("test")
    if "label" not in columns and not is_test:
        missing.append("label")
    if missing:
        raise UserError(
            f"{where} has no column {', '.join(map(repr, missing))} (it has {', '.join(map(repr, columns))}): "
            f"{task.name} needs {', '.join(map(repr, (*task.texts, 'label')))}"
        )
    kept: Columns = {name: columns[name] for name in task.texts}
    if not kept[task.texts[0]]:
        raise UserError(f"{where} has no examples")
    for name in task.texts:
        for row, text in enumerate(kept[name], start=1):
            if not isinstance(text, str):
                raise UserError(f"{where}: {name} of example {row} is not text but {text!r}")
    if "label" in columns:
        labels = [_label(task, value, where, row) for row, value in enumerate(columns["label"], start=1)]
        hidden = sum(label == -1 for label in labels)
        if is_test and hidden == len(labels):
            return kept
        if hidden:
            raise UserError(
                f"{where} has {hidden} labels of -1, which GLUE uses for labels that are not public; "
                "training, validation and scoring need the real ones"
            )
        kept["label"] = labels
    return kept


def _label(task: GlueTask, value: Any, where: str, row: int) -> int | float:
    """One label as a number; -1 for a label that is not public."""
    if task.is_regression:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if number == -1 or 0 <= number <= 5:
            return number
        raise UserError(f"{where}: label {value!r} of example {row} is not a similarity from 0 to 5")
    if isinstance(value, str) and value in task.labels:
        return task.labels.index(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if number == -1 or number in range(len(task.labels)):
        return int(number)
    names = ", ".join(f"{i} ({name})" for i, name in enumerate(task.labels))
    raise UserError(f"{where}: label {value!r} of example {row} is none of {names}")


def glue_metrics(task: GlueTask, predictions: Any, labels: Any) -> dict[str, float]:
    """The task's metrics as GLUE defines them, as fractions or correlations.

    Args:
        task: the task. A correlation with constant predictions, which is not defined, counts as none.
        predictions: class numbers, or similarities for STS-B; shape (N,).
        labels: likewise.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    functions = {
        "accuracy": accuracy_score,
        "f1": f1_score,
        "matthews_correlation": matthews_corrcoef,
        "pearson": lambda y, p: pearsonr(y, p).statistic if len(y) > 1 else math.nan,
        "spearmanr": lambda y, p: spearmanr(y, p).statistic if len(y) > 1 else math.nan,
    }
    values = {name: float(functions[name](labels, predictions)) for name in task.metrics}
    return {name: value if math.isfinite(value) else 0.0 for name, value in values.items()}


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

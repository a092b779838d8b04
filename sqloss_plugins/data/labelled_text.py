"""Labelled texts of one's own, from files or from the hub, as a task: columns, labels, and rows held out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import ClassLabel, Dataset, DatasetDict, Features, LargeList, List, Value, load_dataset
from sklearn.model_selection import train_test_split

from sqloss_plugins.data.tables import Table, brief, read_table
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError, listed

SPLITS = ("train", "validation", "test")
KINDS = ("single_label", "multi_label", "regression")

_PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"))
_SINGLE = ("text", "sentence")
_LABELS = ("label", "labels")
_ROW_NUMBERS = ("idx", "id")
_FEATURES = {"single_label": Value("int64"), "multi_label": List(Value("float32")), "regression": Value("float64")}
_SIZE_OPTIONS = {"validation": "--validation_size", "test": "--test_size"}
_BATCH = 1000


@dataclass(frozen=True)
class Columns:
    """What a user says of the columns. A name also finds the one column that differs from it only in case.

    Attributes:
        texts: columns of text; empty for those with the usual names, or else the only one beside the label.
        label: None for ``label`` or ``labels``.
        text_delimiter: put between the texts to make one of them; None for one text, or a pair of two.
        label_delimiter: between several labels in one field. Blanks around a label are left out.
        is_regression: whether labels are numbers to predict; None to find out.
        removed: columns to read as if they were not there.
    """

    texts: tuple[str, ...] = ()
    label: str | None = None
    text_delimiter: str | None = None
    label_delimiter: str | None = None
    is_regression: bool | None = None
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class HoldOut:
    """What is held out of the training data for splits that are not given.

    Attributes:
        validation_size: a fraction below 1, rounded up to whole rows, or a number of rows; 0 for none.
        test_size: the same.
        seed: decides, with the order of the rows, which they are.
    """

    validation_size: float = 0.1
    test_size: float = 0.0
    seed: int = 42


@dataclass(frozen=True)
class LabelledText:
    """Texts with labels.

    Attributes:
        data: the splits, with the columns ``texts`` and ``label``: a class number (int64), for ``multi_label`` a list
            of as many 0.0 and 1.0 as there are labels, for ``regression`` a number (float64). A test split without
            labels has no such column.
        texts: names of the one or two text columns.
        kind: one of :data:`KINDS`.
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
    sizes = hold_out_sizes(tables, hold_out)
    tables = _without(tables, columns.removed)
    texts, label = _find_columns(tables, columns)
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
        splits[split] = table.rows.map(
            _encoder(sources, outputs, columns.text_delimiter, encode_label),
            batched=True,
            features=features,
            remove_columns=table.rows.column_names,
        )
    splits, found = divided(splits, hashes, sizes, hold_out.seed, kind)
    notes += found
    return LabelledText(TaskData(splits, source, notes=tuple(notes)), outputs, kind, names)


# Columns.


def _without(tables: Mapping[str, Table], removed: Collection[str]) -> dict[str, Table]:
    there = {name for table in tables.values() for name in table.rows.column_names}
    missing = [name for name in removed if name not in there]
    if missing:
        raise UserError(f"--remove_columns: no split has a column {missing[0]!r}, but {_listed(sorted(there))}")
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
        raise UserError(
            f"{table.name} has no column {wanted!r}, but {_listed(table.rows.column_names)}: name the right one by "
            f"{option}"
        )
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
            f"{table.name} does not show which columns are the texts (it has {_listed(table.rows.column_names)}): "
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


# Labels.


@dataclass(frozen=True)
class LabelColumn:
    """The label column of a split.

    Attributes:
        table, name: the split and the name of its column.
        delimiter: between several labels in one field.
    """

    table: Table
    name: str
    delimiter: str | None

    @property
    def is_list(self) -> bool:
        """Whether a row has a list of labels."""
        return isinstance(self.table.rows.features[self.name], (List, LargeList))

    @property
    def feature(self) -> Any:
        """The type of a label."""
        feature = self.table.rows.features[self.name]
        return feature.feature if self.is_list else feature

    @property
    def classes(self) -> Sequence[str] | None:
        """Names that the data set itself gives to its numbers."""
        return self.feature.names if isinstance(self.feature, ClassLabel) else None

    @property
    def is_float(self) -> bool:
        """Whether they are floating-point numbers."""
        return isinstance(self.feature, Value) and self.feature.dtype.startswith("float")

    def values(self) -> Iterator[Any]:
        """What each row has."""
        for batch in self.table.rows.select_columns([self.name]).iter(_BATCH):
            yield from batch[self.name]

    def is_empty(self) -> bool:
        """Whether no row has a label."""
        classes = self.classes
        return not any(any(_names(value, classes, self.delimiter)) for value in self.values())

    def check(self, is_multi: bool) -> dict[str, int]:
        """The names of the labels, each with its first row.

        Raises:
            UserError: what is wrong with a label, and where.
        """
        first: dict[str, int] = {}
        classes = self.classes  # which datasets copies whenever it is asked
        for row, value in enumerate(self.values()):
            names = _names(value, classes, self.delimiter)
            mistake = self._mistake(value, names, is_multi)
            if mistake:
                raise UserError(f"{self.table.place(row)}: {mistake}")
            for name in names:
                first.setdefault(name, row)
        return first

    def _mistake(self, value: Any, names: Sequence[str], is_multi: bool) -> str | None:
        if isinstance(value, (dict, bytes)) or (not is_multi and isinstance(value, list)):
            return (
                f"{self.name!r} is not a label but {brief(value)}: write a word or a number in every row, or a list of "
                "words in every row"
            )
        if not all(names):
            return f"{self.name!r} has no label{' in one place' * (len(names) > 1)}: fill it in, or leave the row out"
        for name in names:
            if name != name.strip():
                return f"label {brief(name)} begins or ends with a blank: remove it"
        if len(set(names)) < len(names):
            hint = " (labels are names, not a 0 or 1 for each label)" if set(names) <= {"0", "1"} else ""
            return f"{self.name!r} has a label twice: {brief(value)}{hint}: name each label once"
        return None

    def unknown(self, found: Mapping[str, int], known: Collection[str], where: str) -> None:
        """Refuses labels that are not known."""
        unknown = _sorted(set(found) - set(known))
        if unknown:
            place = self.table.place(min(found[name] for name in unknown))
            raise UserError(
                f"{self.table.name} has labels that {where} has not: {_listed(unknown)} (first: {place}); correct "
                "them, or leave those rows out"
            )

    def encoder(self, kind: str, names: Sequence[str]) -> tuple[str, Callable[[Any], Any]]:
        """The column's name, and a function from its values, once checked, to numbers."""
        numbers = {name: number for number, name in enumerate(names)}
        classes, delimiter = self.classes, self.delimiter

        def encode(value: Any) -> Any:
            found = _names(value, classes, delimiter)
            if kind == "regression":
                return float(found[0])
            if kind == "single_label":
                return numbers[found[0]]
            encoded = [0.0] * len(numbers)
            for name in found:
                encoded[numbers[name]] = 1.0
            return encoded

        return self.name, encode


def _names(value: Any, classes: Sequence[str] | None, delimiter: str | None) -> list[str]:
    """The names of a row's labels; an empty one where there should be one and is none."""
    if delimiter is not None and isinstance(value, str):
        return [part.strip() for part in value.split(delimiter)] if value.strip() else []
    return [_name(each, classes) for each in (value if isinstance(value, list) else [value])]


def _name(value: Any, classes: Sequence[str] | None) -> str:
    if value is None or (classes is not None and value == -1):  # -1: as data sets on the hub hide labels
        return ""
    if classes is not None:
        return str(classes[value])
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value)
    return "" if not text.strip() or text.lower() == "nan" else text


def settle_labels(
    labelled: dict[str, LabelColumn], columns: Columns, saved_labels: Sequence[str] | None, saved_kind: str | None
) -> tuple[str, tuple[str, ...], list[str]]:
    """The kind of the labels, their names, and notes; what is no label of a test split is removed from ``labelled``.

    Args:
        labelled: split -> its label column.
        columns: what is said of the columns.
        saved_labels, saved_kind: those of a saved model.

    Raises:
        UserError: what is wrong with a label, and where.
    """
    kind = _stated_kind(labelled, columns, saved_kind)
    if kind is None and saved_labels is not None:
        kind = "single_label" if saved_labels else "regression"
    found = {split: column.check(kind == "multi_label") for split, column in labelled.items()}
    notes = []
    if kind is None and "train" in labelled:
        kind = "regression" if labelled["train"].is_float or _are_fractions(found["train"]) else "single_label"
        if kind == "regression":
            notes.append(
                "the labels are floating-point numbers, so this is a regression (--do_regression false for classes)"
            )
    kind = kind or "single_label"
    known = saved_labels if saved_labels is not None else found.get("train", {})
    if list(found.get("test", ())) == ["-1"] and "-1" not in known:
        del labelled["test"], found["test"]
    if kind == "regression":
        for split, first in found.items():
            for name, row in first.items():
                if _number(name) is None:
                    place = labelled[split].table.place(row)
                    raise UserError(f"{place}: label {brief(name)} is not a finite number, as a regression needs")
        return kind, (), notes
    if saved_labels is not None:
        names, told = _as_in_data(saved_labels, labelled.values(), set().union(*found.values()))
        notes, where = [*notes, *told], "the model"
    elif "train" in labelled:
        names, where = tuple(labelled["train"].classes or _sorted(found["train"])), "the training data"
    else:
        raise UserError("without training data the labels come from a trained model: give one, or a training split")
    if "train" in found:
        if kind == "multi_label" and len(names) < 2:
            raise UserError(
                f"{labelled['train'].table.name} has {len(names)} labels: multi-label data has at least two"
            )
        if kind == "single_label" and len(found["train"]) < 2:
            table, only = labelled["train"].table, brief(next(iter(found["train"])))
            raise UserError(f"every label of {table.name} is {only}: a classifier needs at least two classes")
    for split, column in labelled.items():
        column.unknown(found[split], names, where)
    return kind, names, notes


def _as_in_data(
    saved: Sequence[str], columns: Iterable[LabelColumn], found: Collection[str]
) -> tuple[tuple[str, ...], list[str]]:
    """A saved model's labels by the data's names for them, and notes.

    The names are the model's, or those in another case. Where the data has none of them, its labels may also be numbers
    from 0, unless the model's are numbers too, or classes that the data set itself numbers, as many as the model has.
    """
    in_other_case = {name.casefold(): name for name in found}
    for names in (saved, [in_other_case.get(name.casefold(), name) for name in saved]):
        if set(found) <= set(names):
            return tuple(names), []
    classes = next((column.classes for column in columns if column.classes), ())
    numbers = [str(number) for number in range(len(saved))]
    for names in (classes, numbers):
        has_numbers = all(_number(name) is not None for name in saved)
        is_apart = not {name.casefold() for name in names} & {name.casefold() for name in saved}
        if len(names) == len(saved) and set(found) <= set(names) and is_apart and not has_numbers:
            pairs = ", ".join(f"{name} is {own}" for name, own in list(zip(names, saved, strict=True))[:5])
            return tuple(names), [f"labels are taken for the model's by their numbers: {pairs}"]
    return tuple(saved), []


def _stated_kind(labelled: Mapping[str, LabelColumn], columns: Columns, saved: str | None) -> str | None:
    """The kind as far as the user, the model or the type of the column says it."""
    if columns.label_delimiter == "":
        raise UserError("--label_column_delimiter is empty: give what is between two labels, such as a comma")
    lists = [column for column in labelled.values() if column.is_list]
    if lists and columns.label_delimiter is not None:
        raise UserError(
            f"{lists[0].table.name}: {lists[0].name!r} has lists of labels already: leave --label_column_delimiter out"
        )
    is_multi = bool(lists) or columns.label_delimiter is not None
    if is_multi and columns.is_regression:
        raise UserError("--do_regression takes one number for each text, and these are several labels: leave it out")
    stated = None
    if is_multi:
        stated = "multi_label"
    elif columns.is_regression is not None:
        stated = "regression" if columns.is_regression else "single_label"
    if saved is None or stated is None or stated == saved:
        return saved or stated
    if saved == "multi_label" and stated == "single_label":  # rows with one label each
        return saved
    raise UserError(f"the model was trained on {saved} data, and this is {stated}: give data and options of one kind")


def _number(name: str) -> float | None:
    """A finite number, or None."""
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in name else None


def _are_fractions(names: Collection[str]) -> bool:
    """Whether all are numbers and some are not whole."""
    numbers = [_number(name) for name in names]
    return None not in numbers and not all(number.is_integer() for number in numbers if number is not None)


def _sorted(names: Collection[str]) -> list[str]:
    """As numbers if all are whole numbers, else alphabetically."""
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def _listed(names: Sequence[str]) -> str:
    return listed([brief(name) for name in names])


# Rows held out, and texts that are in two splits.


def hold_out_sizes(
    tables: Mapping[str, Table], hold_out: HoldOut, options: Mapping[str, str] = _SIZE_OPTIONS
) -> dict[str, int]:
    """How many rows of the training data each split that is lacking gets.

    Args:
        tables: the splits that are there.
        hold_out: what is wanted.
        options: split -> the option that says its size, for the messages.

    Raises:
        UserError: a size cannot be, or there are too few rows.
    """
    total = len(tables["train"].rows) if "train" in tables else 0
    sizes = {}
    for split in ("validation", "test"):
        size = getattr(hold_out, f"{split}_size")
        if not 0 <= size < math.inf or (size >= 1 and size != int(size)):
            raise UserError(f"{options[split]} {size} is neither a fraction below 1 nor a number of rows")
        if size and total and split not in tables:
            sizes[split] = int(size) if size >= 1 else math.ceil(size * total)
    if sizes and sum(sizes.values()) >= total:
        taken = " and ".join(f"{rows} for {split}" for split, rows in sizes.items())
        raise UserError(
            f"{tables['train'].name} has {total} rows, too few to hold out {taken}: make "
            f"{' or '.join(options[split] for split in sizes)} smaller, or give those splits"
        )
    return sizes


def divided(
    splits: Mapping[str, Dataset],
    hashes: Mapping[str, npt.NDArray[np.int64]],
    sizes: Mapping[str, int],
    seed: int,
    kind: str,
    what: str = "texts",
) -> tuple[DatasetDict, list[str]]:
    """The splits in their order, those that are lacking held out of the training data, and notes.

    Args:
        splits: those that are there; for ``single_label`` with class numbers as ``label`` in the training data.
        hashes: split -> a hash of each row; a note says how many of the training data are in another split, too.
        sizes: as :func:`hold_out_sizes` says.
        seed: that of the drawing.
        kind: one of :data:`KINDS`.
        what: what the rows have, for the notes.
    """
    notes: list[str] = []
    if sizes:
        parts, notes = _draw_hold_out(splits["train"], sizes, seed, kind)
        splits = {**splits, **{split: splits["train"].select(rows) for split, rows in parts.items()}}
        hashes = {**hashes, **{split: hashes["train"][rows] for split, rows in parts.items()}}
    return DatasetDict({split: splits[split] for split in SPLITS if split in splits}), notes + _repeated(hashes, what)


def _draw_hold_out(
    train: Dataset, sizes: Mapping[str, int], seed: int, kind: str
) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    """Row numbers of the training data by split, in order, and notes."""
    rest = np.arange(len(train))
    labels = np.asarray(train["label"][:]) if kind == "single_label" else None
    parts, notes, alone = {}, [], 0
    for split, size in sorted(sizes.items()):
        movable, shares, how = rest, None, "at random"
        if labels is not None:
            _, classes, counts = np.unique(labels[rest], return_inverse=True, return_counts=True)
            large = counts[classes] > 1
            if size < large.sum():
                movable, alone = rest[large], int((~large).sum())
                if min(size, len(movable) - size) >= (counts > 1).sum():  # room for every class on both sides
                    shares, how = labels[movable], "by class"
        _, part = train_test_split(movable, test_size=size, random_state=seed, stratify=shares)
        parts[split] = np.sort(part)
        rest = np.setdiff1d(rest, part)
        notes.append(f"held out of the training data for {split}: {size} rows, {how} (seed {seed})")
    if alone:
        notes.append(f"classes of which one row is left, which stays in the training data: {alone}")
    return {"train": rest, **parts}, notes


def _repeated(hashes: Mapping[str, npt.NDArray[np.int64]], what: str) -> list[str]:
    """Warnings of rows of the training data that are in another split, too."""
    notes = []
    for split in ("validation", "test"):
        if "train" in hashes and split in hashes:
            count = int(np.isin(hashes[split], hashes["train"]).sum())
            if count:
                notes.append(
                    f"WARNING: the {what} of {count} of {len(hashes[split])} {split} rows are in the training data, too"
                )
    return notes

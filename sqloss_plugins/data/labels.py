"""The labels of rows of one's own: their column, their kind, and their names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, LargeList, List, Value

from sqloss_plugins.data.tables import Table
from sqloss_plugins.errors import UserError, brief, brief_list, listed

KINDS = ("single_label", "multi_label", "regression")
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
                f"{self.table.name} has labels that {where} has not: {brief_list(unknown)} (first: {place}); "
                f"{self.table.remedy}"
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
    notes += _alike(names)
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


def _alike(names: Iterable[str]) -> list[str]:
    """A warning of labels that are one number, such as 1 and 1.0: two files may have been put together."""
    forms: dict[float, list[str]] = {}
    for name in names:
        number = _number(name)
        if number is not None:
            forms.setdefault(number, []).append(name)
    several = [" and ".join(map(brief, each)) for each in forms.values() if len(each) > 1]
    if not several:
        return []
    return [f"WARNING: labels that are the same number are classes of their own: {listed(several)}"]


def _are_fractions(names: Collection[str]) -> bool:
    """Whether all are numbers and some are not whole."""
    numbers = [_number(name) for name in names]
    return None not in numbers and not all(number.is_integer() for number in numbers if number is not None)


def _sorted(names: Collection[str]) -> list[str]:
    """As numbers if all are whole numbers, else alphabetically."""
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)

"""Rows held out of the training data for the splits that are lacking, and rows that are in two splits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from datasets import Dataset, DatasetDict
from sklearn.model_selection import train_test_split

from sqloss_plugins.data.tables import Table
from sqloss_plugins.errors import UserError

SPLITS = ("train", "validation", "test")
_MOST, _LEAST_SHARE = 5000, 20
_SIZE_OPTIONS = {"validation": "--validation_size", "test": "--test_size"}


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


def size_held_out(total: int, wanted: int | None) -> int:
    """How many of ``total`` rows are validated on where there are very many classes; None: 5000, or a twentieth."""
    return min(_MOST, total // _LEAST_SHARE) if wanted is None else wanted


def divided(
    splits: Mapping[str, Dataset],
    hashes: Mapping[str, npt.NDArray[np.int64]],
    sizes: Mapping[str, int],
    seed: int,
    kind: str,
    what: str = "texts",
) -> tuple[DatasetDict, dict[str, npt.NDArray[np.int64]], list[str]]:
    """The splits in their order, those that are lacking held out of the training data.

    Args:
        splits: those that are there; for ``single_label`` with class numbers as ``label`` in the training data.
        hashes: split -> a hash of each row; a note says how many of the training data are in another split, too.
        sizes: as :func:`hold_out_sizes` says.
        seed: that of the drawing.
        kind: one of :data:`sqloss_plugins.data.labels.KINDS`.
        what: what the rows have, for the notes.

    Returns:
        The splits; of those that are now parts of the training data the rows of it that they have; and notes.
    """
    notes: list[str] = []
    parts: dict[str, npt.NDArray[np.int64]] = {}
    if sizes:
        parts, notes = _draw_hold_out(splits["train"], sizes, seed, kind)
        splits = {**splits, **{split: splits["train"].select(rows) for split, rows in parts.items()}}
        hashes = {**hashes, **{split: hashes["train"][rows] for split, rows in parts.items()}}
    ordered = DatasetDict({split: splits[split] for split in SPLITS if split in splits})
    return ordered, parts, notes + _repeated(hashes, what)


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

"""Labelled images, from files or from the hub, as a task: checked, memory-mapped, decoded only when they are used."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from datasets import Dataset, DatasetDict, Features, Image, LargeList, List, Value, concatenate_datasets, load_dataset
from joblib import cpu_count
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from sqloss_plugins.data.hold_out import SPLITS, HoldOut, divided, hold_out_sizes
from sqloss_plugins.data.image_files import labels_of_idx, read_folder, read_idx
from sqloss_plugins.data.labels import Columns, LabelColumn, settle_labels
from sqloss_plugins.data.progress import bar_if
from sqloss_plugins.data.tables import Table, reading
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError, listed, sentence

_BATCH = 1000
_ROWS_A_PROCESS = 2000  # to check: with fewer, a process takes longer to start than to work
_SIZE_OPTIONS = {"validation": "--train_val_split", "test": "--test_size"}
_USUAL_IMAGES = ("image", "img", "images")
_USUAL_LABELS = ("label", "labels", "cls")

DIGEST = "sha256"
"""The column with the SHA-256 of each image's file, which is read once, when it is checked; 32 bytes."""

FEATURES: Mapping[str, Any] = {"image": Image(), "label": Value("int64")}
"""Columns of every split; a test split may lack the labels."""


@dataclass(frozen=True)
class ImageData(TaskData):
    """The splits of an image task: columns ``image`` (``datasets.Image``, a PIL image when read) and ``label``.

    Beside them, where images were read from files, :data:`DIGEST`.
    """

    @property
    def unit(self) -> str:
        """What :attr:`sizes` counts."""
        return "images"

    def digest(self, splits: Sequence[str]) -> str:
        """SHA-256 of all rows of some splits, in order; of those that are there.

        Of an image it takes the encoded bytes, wherever they are; nothing is decoded. So the same images in another
        encoding have another digest.
        """
        digest = hashlib.sha256()
        for split in sorted(set(splits) & set(self.splits)):
            rows = self.splits[split]
            names = [name for name in rows.column_names if name != DIGEST]
            if DIGEST in rows.column_names:
                rows = rows.remove_columns("image")
            else:
                rows = rows.cast_column("image", Image(decode=False))
            digest.update(json.dumps([split, names]).encode())
            for batch in rows.iter(_BATCH):
                contents = batch.get(DIGEST) or [hashlib.sha256(image["bytes"]).digest() for image in batch["image"]]
                for content, label in zip(contents, batch.get("label", [None] * len(contents)), strict=True):
                    digest.update(json.dumps([label, content.hex()]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class LabelledImages:
    """Images with labels.

    Attributes:
        data: the splits, with the columns ``image`` and ``label`` (int64). A test split without labels has no such
            column.
        labels: names of the classes in the order of their numbers.
    """

    data: ImageData
    labels: tuple[str, ...]


def load(
    sources: Mapping[str, Path],
    hold_out: HoldOut,
    *,
    image_column_name: str | None = None,
    label_column_name: str | None = None,
    labels: Sequence[str] | None = None,
    max_corrupt_share: float = 0.0,
    cache_dir: str | None = None,
    num_proc: int | None = None,
) -> LabelledImages:
    """Reads images with labels.

    Args:
        sources: ``train``, ``validation`` or ``test`` -> a folder with a folder of images for each class, a folder of
            parquet files or of webdataset shards (``*.tar``), a parquet file, or an idx file of images, beside which
            the labels are under MNIST's name for them. A test folder may have images and no class folders.
        hold_out: what is taken from the training data for the validation split if that is lacking, by class.
        image_column_name, label_column_name: columns of parquet files, fields of webdataset shards; by default found.
        labels: names of a saved model's classes, in order; needed where there is no training data.
        max_corrupt_share: the share of a split's images that may be left out because they cannot be decoded.
        cache_dir: where memory-mapped copies are kept; by default where ``datasets`` keeps all.
        num_proc: processes that check the images; by default as many as there are processors, for many images.

    Raises:
        UserError: what is wrong, and in which file.
    """
    if not sources:
        raise UserError("there is no data: give a training, a validation or a test split")
    tables = {split: open_split(split, sources[split], cache_dir) for split in SPLITS if split in sources}
    tables = with_columns(tables, image_column_name, label_column_name)
    source = ", ".join(str(sources[split]) for split in tables)
    return assemble(tables, source, hold_out, labels, max_corrupt_share, num_proc)


def load_from_hub(
    name: str,
    config: str | None,
    hold_out: HoldOut,
    *,
    image_column_name: str | None = None,
    label_column_name: str | None = None,
    labels: Sequence[str] | None = None,
    max_corrupt_share: float = 0.0,
    cache_dir: str | None = None,
    num_proc: int | None = None,
    token: str | None = None,
) -> LabelledImages:
    """Reads images with labels from the hub, from the local cache of it, or from a folder with a data set's files.

    Args:
        name: of the data set, of which the splits ``train``, ``validation`` and ``test`` are taken.
        config: its configuration, if it has several.
        token: for the hub.
        hold_out, image_column_name, label_column_name, labels, max_corrupt_share, cache_dir, num_proc:
            as for :func:`load`.

    Raises:
        ConnectionError, OSError, ValueError: the hub cannot be reached and the cache has no copy.
        UserError: as for :func:`load`.
    """
    tables = from_hub(name, config, cache_dir, token)
    tables = with_columns(tables, image_column_name, label_column_name)
    source = f"hub: {name}" if config is None else f"hub: {name} {config}"
    return assemble(tables, source, hold_out, labels, max_corrupt_share, num_proc)


# Where the images are.


@dataclass(frozen=True)
class _Images(Table):
    """A split: ``image``, not decoded, and whatever there is as labels."""

    remedy: ClassVar[str] = (
        "correct them, or leave those images out (test images without labels are put into one folder, without folders "
        "in it)"
    )

    def place(self, row: int) -> str:
        """An image's own file, or its row."""
        path = (self.rows[row]["image"] or {}).get("path")
        if path is not None and os.path.isabs(path):
            return str(path)
        return super().place(row) + (f" ({path})" if path else "")


def open_split(split: str, path: Path, cache_dir: str | None) -> Table:
    """A split, by what lies at a path."""
    if path.is_dir():
        for kind, pattern in (("parquet", "*.parquet"), ("webdataset", "*.tar")):
            files = sorted(path.glob(pattern))
            if files:
                return packed(kind, files, path, cache_dir)
        rows, notes = read_folder(path.absolute(), cache_dir)
        if split != "test" and "label" not in rows.column_names:
            raise UserError(
                f"{path} has images, but no folders: to train or to validate, put the images of each class into a "
                "folder with its name"
            )
        return Table(rows, str(path), tuple(notes))
    if not path.exists():
        raise UserError(f"{path} is not there: give a folder of images, or a file")
    if path.suffix == ".parquet":
        return packed("parquet", [path], path, cache_dir)
    if path.suffix == ".tar":
        return packed("webdataset", [path], path, cache_dir)
    if "idx" not in path.name:
        raise UserError(
            f"{path} is not read: give a folder with a folder of images for each class, parquet files, webdataset "
            "shards (.tar), or an idx file of images"
        )
    labels = labels_of_idx(path)
    if labels is None and split != "test":
        raise UserError(f"{path} has no labels beside it: put them there, with 'labels' for 'images' in the name")
    return Table(read_idx(path, labels, None, cache_dir), str(path))


def packed(kind: str, files: Sequence[Path], name: Path, cache_dir: str | None) -> Table:
    """Parquet files or webdataset shards, by the reader of ``datasets``."""
    with reading(name):
        rows = load_dataset(kind, data_files=[str(file) for file in files], split="train", cache_dir=cache_dir)
    if not len(rows):
        raise UserError(f"{name} has no rows")
    return Table(rows, str(name))


def from_hub(name: str, config: str | None, cache_dir: str | None, token: str | None) -> dict[str, Table]:
    """The splits of a data set that have the usual names."""
    loaded = load_dataset(name, config, cache_dir=cache_dir, token=token)
    tables = {split: Table(loaded[split], f"{name}, {split}") for split in SPLITS if split in loaded}
    if not tables:
        raise UserError(f"{name} has no split train, validation or test, but {listed(list(loaded))}")
    return tables


# Columns.


def with_columns(tables: Mapping[str, Table], image: str | None, label: str | None) -> dict[str, Table]:
    """With ``image``, not decoded, and ``label`` as the only columns; test data may lack the labels."""
    found: dict[str, Table] = {}
    for split, table in tables.items():
        rows = table.rows
        images = _image_column(table, image)
        usual = next((name for name in _USUAL_LABELS if name in rows.column_names), None)
        labels = label if label in rows.column_names else None if label else usual
        if labels is None and split != "test":
            raise UserError(
                f"{table.name} has no column {label or _USUAL_LABELS[0]!r}, but {listed(rows.column_names)}: name the "
                "right one by --label_column_name"
            )
        if labels == images:
            raise UserError(f"column {images!r} of {table.name} cannot be both image and label")
        if labels is not None and isinstance(rows.features[labels], (List, LargeList)):
            raise UserError(
                f"{table.name}: {labels!r} has lists of labels, and an image has one: choose another column"
            )
        rows = rows.select_columns([images, *([labels] if labels else [])])
        names = {images: "image"} | ({labels: "label"} if labels else {})
        rows = rows.rename_columns({theirs: ours for theirs, ours in names.items() if theirs != ours})
        try:
            rows = rows.cast_column("image", Image(decode=False))
        except (ValueError, TypeError, NotImplementedError) as error:  # pyarrow's are among them
            raise UserError(
                f"{table.name}: column {images!r} has no images, but {rows.features['image']}: name the right one by "
                "--image_column_name"
            ) from error
        found[split] = _Images(rows, table.name, table.notes)
    return found


def _image_column(table: Table, wanted: str | None) -> str:
    features = table.rows.features
    typed = [name for name, feature in features.items() if isinstance(feature, Image)]
    usual = [name for name in _USUAL_IMAGES if name in features]
    if wanted in features:
        return str(wanted)
    if wanted is None and (len(typed) == 1 or usual):
        return typed[0] if len(typed) == 1 else usual[0]
    lacking = f"no column {wanted!r}" if wanted else "no single column that has images"
    raise UserError(
        f"{table.name} has {lacking}, but {listed(list(features))}: name the right one by --image_column_name"
    )


# From splits to a task.


def _labelled(tables: Mapping[str, Table]) -> dict[str, LabelColumn]:
    """The labels of each split that has them, which test data may lack."""
    there = [split for split, table in tables.items() if "label" in table.rows.column_names]
    columns = {split: LabelColumn(tables[split], "label", None) for split in there}
    return {split: column for split, column in columns.items() if split != "test" or not column.is_empty()}


def assemble(
    tables: Mapping[str, Table],
    source: str,
    hold_out: HoldOut,
    labels: Sequence[str] | None,
    max_corrupt_share: float,
    num_proc: int | None,
    check_classes: Callable[[int], None] | None = None,
) -> LabelledImages:
    """Settles the classes, then decodes every image once, then holds out what is lacking.

    Args:
        tables: the splits, with the columns ``image`` and, where there are labels, ``label``.
        source: where they are from, for people.
        hold_out, labels, max_corrupt_share, num_proc: as for :func:`load`.
        check_classes: refuses, by a UserError, a number of classes, before the images are decoded.

    Raises:
        UserError: as for :func:`load`.
    """
    if not 0 <= max_corrupt_share < 1:
        raise UserError(f"--max_corrupt_share must be from 0 to below 1, got {max_corrupt_share:g}")
    notes = [note for table in tables.values() for note in table.notes]
    labelled = _labelled(tables)
    _, names, found = settle_labels(labelled, Columns(), labels, "single_label")
    notes += found
    if check_classes is not None:
        check_classes(len(names))
    hold_out_sizes(tables, hold_out, _SIZE_OPTIONS)  # refuses what cannot be, before the images are decoded
    if "test" in tables and "test" not in labelled:
        notes.append(f"{tables['test'].name} has no labels: its predictions are not scored")
    splits, hashes, kept, chosen = DatasetDict(), {}, {}, {}
    for split, table in tables.items():
        rows, digests, note = _examined(table, max_corrupt_share, num_proc)
        notes += note
        chosen[split] = rows
        contents = b"".join(digests.data.column(DIGEST).to_pylist())
        hashes[split] = np.frombuffer(contents, np.int64)[::_DIGEST_NUMBERS][rows]
        if split in labelled:
            name, number = labelled[split].encoder("single_label", names)
            numbers = np.array([number(value) for value in labelled[split].values()], np.int64)
            # Beside the images, which are not copied.
            splits[split] = table.rows.select_columns(["image"]).add_column(name, numbers)
            lacking = [names[i] for i in np.setdiff1d(np.arange(len(names)), numbers[rows])]
            if lacking:
                notes.append(f"{split} has no images of {len(lacking)} of {len(names)} classes: {listed(lacking)}")
        else:
            splits[split] = table.rows.select_columns(["image"])
        splits[split] = concatenate_datasets([splits[split], digests], axis=1)
        if len(rows) < len(table.rows):
            splits[split] = splits[split].select(rows)
        splits[split] = splits[split].cast_column("image", Image())
        kept[split] = replace(table, rows=splits[split])
    sizes = hold_out_sizes(kept, hold_out, _SIZE_OPTIONS)
    splits, parts, found = divided(splits, hashes, sizes, hold_out.seed, "single_label", "images")
    notes += found
    chosen |= {split: chosen["train"][part] for split, part in parts.items()}
    return LabelledImages(ImageData(splits, source, notes=tuple(notes), numbers=chosen), names)


_DECODER = Image()
_DIGEST_NUMBERS = hashlib.sha256().digest_size // 8  # of 64 bits, of which one tells images apart


def _examined(table: Table, max_share: float, num_proc: int | None) -> tuple[npt.NDArray[np.int64], Dataset, list[str]]:
    """Decodes every image of a split once; what is found is kept beside the data.

    Returns:
        The rows whose image can be decoded, :data:`DIGEST` of all rows, and notes.

    Raises:
        UserError: the others are too many.
    """
    total = len(table.rows)
    processes = num_proc or min(cpu_count(), total // _ROWS_A_PROCESS)
    with bar_if(total >= _ROWS_A_PROCESS):
        found = table.rows.select_columns(["image"]).map(
            _examine,
            batched=True,
            batch_size=100,
            remove_columns=["image"],
            features=Features({"mistake": Value("string"), DIGEST: Value("binary")}),
            num_proc=processes if processes > 1 else None,
            desc=f"Checking the images of {table.name}",
        )
    mistakes, digests = found.data.column("mistake"), found.select_columns([DIGEST])
    is_right = np.asarray(mistakes.is_null())
    corrupt = np.flatnonzero(~is_right)
    if not len(corrupt):
        return np.arange(total), digests, []
    first = [f"{table.place(row)}: {mistakes[row].as_py()}" for row in corrupt[:3].tolist()]
    text = f"{table.name}: {len(corrupt)} of {total} images cannot be used ({'; '.join(first)}"
    text += f"; and {len(corrupt) - 3} others)" if len(corrupt) > 3 else ")"
    if len(corrupt) > max_share * total:
        share = -(-len(corrupt) * 10_000 // total) / 10_000  # rounded up
        raise UserError(f"{text}: replace them, or leave out up to such a share by --max_corrupt_share {share:g}")
    if len(corrupt) == total:
        raise UserError(f"{text}: there is nothing left")
    return np.flatnonzero(is_right), digests, [f"WARNING: {text}: they are left out"]


def _examine(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """For ``Dataset.map``: what is wrong with each image, None for nothing, and the SHA-256 of its bytes."""
    mistakes, digests = [], []
    for image in batch["image"]:
        mistake, content = None, b""
        try:
            if image is None or (image["bytes"] is None and image["path"] is None):
                raise ValueError("there is no image")
            content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
            with warnings.catch_warnings(action="ignore"):
                as_rgb(_DECODER.decode_example({"bytes": content, "path": None}))
        except UnidentifiedImageError:
            mistake = "it is no image that Pillow can read" if content else "it is empty"
        except Exception as error:  # Pillow's decoders raise many kinds
            mistake = sentence(error)
        mistakes.append(mistake)
        digests.append(hashlib.sha256(content).digest())
    return {"mistake": mistakes, DIGEST: digests}


# Pixels.


def as_rgb(image: Pictures.Image) -> Pictures.Image:
    """An image with three channels of 8 bits.

    A grey level is taken for all three colours, 16 bits are scaled to 8, transparency is dropped.

    Raises:
        ValueError: the grey levels are floating point, or have more than 16 bits, so that nobody knows which is white.
    """
    if image.mode == "F":
        raise ValueError("the image has floating-point grey levels, of which it does not say the largest")
    if image.mode.startswith("I"):  # I;16 in any byte order, or I
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise ValueError("the image has grey levels of more than 16 bits, of which it does not say the largest")
        image = Pictures.fromarray((levels // 256).astype(np.uint8))  # Pillow would cut off what is above 255
    return image.convert("RGB")

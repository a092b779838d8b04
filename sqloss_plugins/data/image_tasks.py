"""The paper's image tasks, and a usual one: their classes, and their data as it is distributed or on the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import ClassLabel

from sqloss_plugins.data.hold_out import HoldOut
from sqloss_plugins.data.image_files import labels_of_idx, read_cifar10, read_idx
from sqloss_plugins.data.images import LabelledImages, assemble, from_hub, open_split, packed, with_columns
from sqloss_plugins.data.tables import Table
from sqloss_plugins.errors import UserError


@dataclass(frozen=True)
class ImageTask:
    """A task of the paper, or a usual one.

    Attributes:
        name: as in the paper's tables, where it is there.
        num_classes: how many classes it has.
        labels: their names; empty for those of the data, which are ImageNet's numbers of WordNet.
        hub: name of the data set on the hub.
        validation_size: images to hold out of the training data, ours to choose as the paper does not say; 0 where the
            task has a validation split.
        sizes: images by split of the real task.
        installed: folder where a package of Debian puts it.
    """

    name: str
    num_classes: int
    labels: tuple[str, ...]
    hub: str
    validation_size: int
    sizes: Mapping[str, int]
    installed: Path | None = None

    @property
    def default_dir(self) -> Path | None:
        """The folder of an installed package that has the data, if it is there."""
        return self.installed if self.installed is not None and self.installed.is_dir() else None


_DIGITS = tuple(map(str, range(10)))
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

TASKS: Mapping[str, ImageTask] = {
    task.name: task
    for task in (
        ImageTask("mnist", 10, _DIGITS, "ylecun/mnist", 10_000, {"train": 60_000, "test": 10_000}),
        ImageTask(
            "fashion_mnist",
            10,
            _CLOTHES,
            "zalando-datasets/fashion_mnist",
            10_000,
            {"train": 60_000, "test": 10_000},
            Path("/usr/share/datasets/fashion-mnist"),
        ),
        ImageTask("cifar10", 10, _CIFAR, "uoft-cs/cifar10", 5_000, {"train": 50_000, "test": 10_000}),
        ImageTask("imagenet", 1000, (), "ILSVRC/imagenet-1k", 0, {"train": 1_281_167, "validation": 50_000}),
    )
}


def load_task(
    task: str,
    data_dir: Path | None = None,
    *,
    hold_out: HoldOut | None = None,
    max_corrupt_share: float = 0.0,
    cache_dir: str | None = None,
    num_proc: int | None = None,
    token: str | None = None,
) -> LabelledImages:
    """Reads a known task, by its names of the classes.

    Args:
        task: a key of :data:`TASKS`.
        data_dir: its files as they are distributed: the four idx files of MNIST, compressed or not; CIFAR-10's batches
            (binary or Python version); ImageNet's folders ``train`` and ``val`` with a folder for each class; or
            parquet files as on the hub. By default an installed package's folder, else the hub.
        hold_out: by default :attr:`ImageTask.validation_size` images.
        max_corrupt_share, cache_dir, num_proc, token: as for :func:`load` and :func:`load_from_hub`.

    Raises:
        ConnectionError, OSError, ValueError: the hub cannot be reached and the cache has no copy.
        UserError: as for :func:`load`; the number of classes is not the task's, or a label is none of it.
    """
    known = TASKS[task]
    folder = data_dir or known.default_dir
    if folder is None:
        tables, source = from_hub(known.hub, None, cache_dir, token), f"hub: {known.hub}"
    else:
        tables, source = _from_dir(known, folder, cache_dir), str(folder)
    tables = {split: _numbered(known, table) for split, table in with_columns(tables, None, None).items()}
    wrong = [
        f"{split} has {len(table.rows)} images, the real one {known.sizes[split]}"
        for split, table in tables.items()
        if len(table.rows) != known.sizes.get(split, len(table.rows))
    ]
    hold_out = hold_out or HoldOut(known.validation_size)

    def check_classes(number: int) -> None:
        if number != known.num_classes:
            raise UserError(
                f"{task} has {known.num_classes} classes, and {source} has {number}: give the whole data, or name this "
                "data by --train_dir"
            )

    found = assemble(tables, source, hold_out, None, max_corrupt_share, num_proc, check_classes)
    notes = (*[f"WARNING: this is not the whole {task}: {text}" for text in wrong], *found.data.notes)
    return replace(found, data=replace(found.data, notes=notes))


def _from_dir(task: ImageTask, folder: Path, cache_dir: str | None) -> dict[str, Table]:
    """A known task's splits by the names of its files."""
    if not folder.is_dir():
        raise UserError(f"data_dir {folder} is not a folder")
    known = _DISTRIBUTIONS[task.name]
    for inner in (folder / name for name in (".", "raw", "data", *known.folders)):
        for layout in (known.layout, _parquet_layout):
            tables = layout(task, inner, cache_dir)
            if tables:
                missing = [split for split in task.sizes if split not in tables]
                if missing:
                    raise UserError(f"{inner} has {' and '.join(tables)} data of {task.name}, but no {missing[0]} data")
                return tables
    raise UserError(f"{folder} has no data of {task.name}: it needs {known.files}, or train*.parquet and so on")


def _mnist_layout(task: ImageTask, folder: Path, cache_dir: str | None) -> dict[str, Table]:
    tables = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        names = [f"{name}-images{mark}idx3-ubyte{suffix}" for mark in "-." for suffix in ("", ".gz")]
        images = next((path for each in names if (path := folder / each).is_file()), None)
        if images is not None:
            labels = labels_of_idx(images)
            if labels is None:
                raise UserError(f"{images} has no labels beside it: put {name}-labels-idx1-ubyte there")
            tables[split] = Table(read_idx(images, labels, task.labels, cache_dir), str(images))
    return tables


def _cifar10_layout(task: ImageTask, folder: Path, cache_dir: str | None) -> dict[str, Table]:
    for suffix in (".bin", ""):
        batches = [folder / f"data_batch_{number}{suffix}" for number in range(1, 6)]
        test = folder / f"test_batch{suffix}"
        there = [path for path in (*batches, test) if path.is_file()]
        if there:
            missing = [path for path in (*batches, test) if path not in there]
            if missing:
                raise UserError(f"{folder} has {there[0].name}, but not {missing[0].name}: fetch CIFAR-10 again")
            splits = {"train": batches, "test": [test]}
            return {
                split: Table(read_cifar10(files, task.labels, cache_dir), f"{folder}, {split}")
                for split, files in splits.items()
            }
    return {}


def _imagenet_layout(task: ImageTask, folder: Path, cache_dir: str | None) -> dict[str, Table]:
    found = {}
    for split, names in (("train", ("train",)), ("validation", ("val", "validation"))):
        path = next((path for name in names if (path := folder / name).is_dir()), None)
        if path is not None:
            found[split] = open_split(split, path, cache_dir)
    return found


def _parquet_layout(task: ImageTask, folder: Path, cache_dir: str | None) -> dict[str, Table]:
    tables = {}
    for split in task.sizes:
        for name in ("validation", "val") if split == "validation" else (split,):
            files = sorted([*folder.glob(f"{name}.parquet"), *folder.glob(f"{name}-*-of-*.parquet")])
            stated = files[0].stem.rpartition("-of-")[2] if files else ""
            if stated.isdigit() and int(stated) != len(files):
                raise UserError(f"{folder} has {len(files)} of the {int(stated)} files {name}-*-of-{stated}.parquet")
            if files:
                where = files[0] if len(files) == 1 else folder / f"{name}-*-of-{stated}.parquet"
                tables[split] = packed("parquet", files, where, cache_dir)
    return tables


@dataclass(frozen=True)
class _Distribution:
    """How a task's data is distributed.

    Attributes:
        layout: finds the splits by the names of the files.
        files: these, for messages.
        folders: where archives, torchvision and the hub put the files, within the folder that a user names. Each task
            has its own, since MNIST and Fashion-MNIST, whose files have the same names, may lie side by side.
    """

    layout: Callable[[ImageTask, Path, str | None], dict[str, Table]]
    files: str
    folders: tuple[str, ...]


_IDX = "train-images-idx3-ubyte and the three other idx files (or .gz)"
_DISTRIBUTIONS: Mapping[str, _Distribution] = {
    "mnist": _Distribution(_mnist_layout, _IDX, ("MNIST/raw", "mnist")),
    "fashion_mnist": _Distribution(_mnist_layout, _IDX, ("FashionMNIST/raw", "fashion_mnist")),
    "cifar10": _Distribution(
        _cifar10_layout,
        "data_batch_1.bin to data_batch_5.bin and test_batch.bin (or the same without .bin)",
        ("cifar-10-batches-bin", "cifar-10-batches-py", "plain_text"),
    ),
    "imagenet": _Distribution(
        _imagenet_layout, "the folders train and val, with a folder for each class in them", ("ILSVRC/Data/CLS-LOC",)
    ),
}


def _numbered(task: ImageTask, table: Table) -> Table:
    """With a known task's names for the numbers of its classes."""
    rows = table.rows
    if not task.labels or "label" not in rows.column_names:
        return table
    feature = rows.features["label"]
    if isinstance(feature, ClassLabel) and feature.num_classes != len(task.labels):
        raise UserError(
            f"{table.name} has {feature.num_classes} classes, and {task.name} has {len(task.labels)}: give its own "
            "data, or name this data by --train_dir"
        )
    # By the numbers, since data sets write some of the names in other ways.
    values = rows.select_columns(["label"])["label"][:]
    codes = {name: number for number, name in enumerate(task.labels)}
    numbers = [codes.get(value, value) for value in values]
    wrong = next((row for row, number in enumerate(numbers) if number not in range(-1, len(task.labels))), None)
    if wrong is not None:
        raise UserError(f"{table.place(wrong)}: {task.name} has no label {numbers[wrong]!r}: give its own data")
    # Beside the images, which are not copied.
    images = rows.select_columns(["image"])
    return replace(table, rows=images.add_column("label", numbers, feature=ClassLabel(names=list(task.labels))))

"""Image folders, MNIST's idx files and CIFAR-10's batches as memory-mapped rows, and every mistake in them told."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pictures

from sqloss_plugins import __version__
from sqloss_plugins.data.tables import file_digest, reading
from sqloss_plugins.errors import UserError, brief, listed

_CIFAR_PIXELS = 3 * 32 * 32
_IDX_KINDS = {1: "labels", 3: "images"}  # number of dimensions -> what such a file has


def encoded(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Pixels as an image file without compression (PGM or PPM), the same whatever writes it.

    Args:
        pixels: (height, width) grey levels, or (height, width, 3) of red, green and blue; uint8.
    """
    height, width = pixels.shape[:2]
    return b"P%d %d %d 255\n" % (5 if pixels.ndim == 2 else 6, width, height) + pixels.tobytes()


def _rows(
    records: Callable[[], Iterator[tuple[Any, int | None]]],
    label: Any,
    key: Sequence[Any],
    what: Path | str,
    cache_dir: str | None,
) -> Dataset:
    """Images and labels as a memory-mapped data set, which is found again by a key.

    Args:
        records: reads each image, as ``datasets.Image`` takes it, and its label.
        label: type of the labels; None for none.
        key: all that decides what is read.
        what: is read, for messages.
        cache_dir: where the data set is kept.
    """
    features = {"image": Image(decode=False)} | ({"label": label} if label is not None else {})

    def rows() -> Iterator[dict[str, Any]]:
        for image, number in records():
            yield {"image": image} | ({"label": number} if label is not None else {})

    # The version, too, which says how files are read.
    digest = hashlib.sha256(json.dumps([__version__, repr(features), *key]).encode()).hexdigest()
    with reading(what):
        return Dataset.from_generator(rows, features=Features(features), cache_dir=cache_dir, fingerprint=digest)


# Folders.


def read_folder(folder: Path, cache_dir: str | None = None) -> tuple[Dataset, list[str]]:
    """Reads a folder that has a folder of images for each class, or, without labels, images alone.

    The classes are numbered in the order of their folders' names. Images may lie in folders within those. Files whose
    names begin with a dot are left out; so are those whose suffix is not one of a format that Pillow reads, and a note
    says so. Only names are kept, a folder's at a time, so that memory does not grow with the number of images.

    Returns:
        The rows, with ``image`` and, for class folders, ``label`` (``ClassLabel``); and notes.

    Raises:
        UserError: there is no image; a class has none; images lie beside class folders; a folder cannot be read.
    """
    folders, files = _entries(folder)
    classes = [entry.name for entry in folders]
    suffixes = _suffixes()
    beside = next((entry.name for entry in files if _is_image(entry, suffixes)), None)
    if classes and beside is not None:
        raise UserError(
            f"{folder} has images beside its class folders, such as {beside}: move each into the folder of its class"
        )
    digest, total = hashlib.sha256(), 0
    others: list[str] = []
    for number, name in enumerate(classes or [""]):
        count, first_other = 0, len(others)
        for entry in _files(folder / name):
            if not _is_image(entry, suffixes):
                others.append(entry.path)
                continue
            try:
                about = entry.stat()
                digest.update(f"{number} {entry.path} {about.st_size} {about.st_mtime_ns}\n".encode())
            except UnicodeEncodeError as error:
                raise UserError(f"{entry.path!a} has a name that is not UTF-8 text: rename the file") from error
            except OSError as error:
                raise UserError(f"{entry.path} cannot be read: {error.strerror or error}") from error
            count += 1
        if classes and not count:
            lacking = _without_images(folder / name, others[first_other:])
            raise UserError(f"{lacking}: put some there, or remove the folder of this class")
        total += count
    if not total:
        raise UserError(f"{_without_images(folder, others)}: it needs a folder of images for each class")

    def records() -> Iterator[tuple[Any, int]]:
        for number, name in enumerate(classes or [""]):
            for entry in _files(folder / name):
                if _is_image(entry, suffixes):
                    yield {"path": entry.path, "bytes": None}, number

    label = ClassLabel(names=classes) if classes else None
    rows = _rows(records, label, ["folder", digest.hexdigest()], folder, cache_dir)
    if len(rows) != total:
        raise UserError(f"{folder} changed while it was read: start again")
    names = [os.path.relpath(path, folder) for path in others]
    return rows, [f"{folder}: files that cannot be read as images are left out: {listed(names)}"] if others else []


def _without_images(folder: Path, others: Sequence[str]) -> str:
    """For a message: that a folder has no images, and which other files it has, such as a phone's HEIC files."""
    if not others:
        return f"{folder} has no images"
    names = [os.path.relpath(path, folder) for path in others]
    return f"{folder} has no images that can be read (JPEG or PNG, for example), only {listed(names)}"


_Entries = list[os.DirEntry[str]]


def _entries(folder: Path | str) -> tuple[_Entries, _Entries]:
    """The folders and the files in a folder, in the order of names, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
        return [entry for entry in found if entry.is_dir()], [entry for entry in found if not entry.is_dir()]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from error


def _files(folder: Path | str, above: Sequence[str] = ()) -> Iterator[os.DirEntry[str]]:
    """All files in a folder and in the folders within it; ``above`` are those that it lies in, without links."""
    folders, files = _entries(folder)
    yield from files
    above = (*above, os.path.realpath(folder))
    for entry in folders:
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if any(Path(outer).is_relative_to(target) for outer in above):
                raise UserError(f"{entry.path} is a link to a folder that it lies in, {target}: remove the link")
        yield from _files(entry.path, above)


def _suffixes() -> frozenset[str]:
    """The suffixes of the image files that can be read."""
    return frozenset(suffix for suffix, kind in Pictures.registered_extensions().items() if kind in Pictures.OPEN)


def _is_image(entry: os.DirEntry[str], suffixes: frozenset[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in suffixes


# idx files.


def labels_of_idx(images: Path) -> Path | None:
    """The file of labels beside an idx file of images, by MNIST's names for them; None if it is not there."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    names = (name, name.removesuffix(".gz"), f"{name}.gz")
    return next((path for each in names if (path := images.with_name(each)).is_file() and path != images), None)


def read_idx(
    images: Path, labels: Path | None, names: Sequence[str] | None = None, cache_dir: str | None = None
) -> Dataset:
    """Reads an idx file of images and one of labels (LeCun's format), compressed by gzip or not.

    Args:
        images: magic number 0x803, then count, height and width (big-endian, 32 bits), then the grey levels (uint8).
        labels: magic number 0x801, then count, then the labels (uint8); None for images without labels.
        names: of the classes; None for the numbers themselves.
        cache_dir: where the memory-mapped copy is kept.

    Returns:
        The rows: ``image`` and, with labels, ``label``.

    Raises:
        UserError: a file is something else, is cut short or too long, the counts differ, or a label is out of range.
    """
    with _idx(images, 3) as (_, (count, height, width)):
        if not count * height * width:
            raise UserError(f"{images} has {count} images of {height} x {width} pixels: give a file that has images")
    numbers = None
    if labels is not None:
        with _idx(labels, 1) as (take, (given,)):
            if given != count:
                raise UserError(
                    f"{labels} has {given} labels, and {images} has {count} images: give two files that belong together"
                )
            numbers = np.frombuffer(take(count, "all labels"), np.uint8)
            take(0, "")
        _check_numbers(numbers, names, labels)

    def records() -> Iterator[tuple[Any, int | None]]:
        with _idx(images, 3) as (take, _):
            for row in range(count):
                pixels = np.frombuffer(take(height * width, f"image {row + 1} of {count}"), np.uint8)
                content = encoded(pixels.reshape(height, width))
                yield {"bytes": content, "path": None}, None if numbers is None else int(numbers[row])
            take(0, "")

    key = ["idx", file_digest(images), labels and file_digest(labels)]
    return _rows(records, None if numbers is None else _label(names), key, images, cache_dir)


def _label(names: Sequence[str] | None) -> Any:
    return Value("int64") if names is None else ClassLabel(names=list(names))


def _check_numbers(numbers: npt.NDArray[Any], names: Sequence[str] | None, where: Path) -> None:
    wrong = np.flatnonzero((numbers < 0) | (numbers >= len(names))) if names is not None else np.empty(0, np.int64)
    if len(wrong):
        raise UserError(
            f"{where}: label {numbers[wrong[0]]} of image {wrong[0] + 1} is not from 0 to {len(names or ()) - 1}: give "
            "the files of this task"
        )


_Take = Callable[[int, str], bytes]


@contextmanager
def _idx(path: Path, dimensions: int) -> Iterator[tuple[_Take, tuple[int, ...]]]:
    """Opens an idx file: a function that reads on, and the sizes in its header.

    The function takes a number of bytes, 0 for the end of the file, and what they are, for messages.
    """
    kind = _IDX_KINDS[dimensions]
    try:
        with path.open("rb") as file:
            is_compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_compressed else path.open("rb") as stream:
            magic = stream.read(4)
            if magic != bytes((0, 0, 8, dimensions)):
                raise UserError(
                    f"{path} is not an idx file of {kind}: it begins with {magic.hex(' ') or 'nothing'}, not with "
                    f"00 00 08 {dimensions:02}"
                )

            def take(count: int, what: str) -> bytes:
                content = stream.read(max(count, 1))
                if count and len(content) < count:
                    raise UserError(f"{path} is cut short: it ends before {what}; fetch it again")
                if not count and content:
                    raise UserError(
                        f"{path} goes on after its last record, so that its header is wrong: fetch it again"
                    )
                return content

            sizes = take(4 * dimensions, "the end of its header")
            yield take, tuple(np.frombuffer(sizes, ">u4").tolist())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is cut short or damaged ({error}): fetch it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


# CIFAR-10.


def read_cifar10(files: Sequence[Path], names: Sequence[str], cache_dir: str | None = None) -> Dataset:
    """Reads batches of CIFAR-10, of the binary version (``.bin``) or of the Python version.

    A record of the binary version is a label and 32 x 32 red, then green, then blue levels (uint8). The Python version
    is a pickle, of which nothing but arrays, lists and numbers is loaded.

    Args:
        files: the batches of a split, in order.
        names: of the classes.
        cache_dir: where the memory-mapped copy is kept.

    Returns:
        The rows: ``image`` and ``label``.

    Raises:
        UserError: a file has another length, or is no such pickle, or a label is out of range.
    """

    def records() -> Iterator[tuple[Any, int]]:
        for path in files:
            pixels, labels = (_cifar_bin if path.suffix == ".bin" else _cifar_pickle)(path)
            _check_numbers(labels, names, path)
            for image, label in zip(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels, strict=True):
                yield {"bytes": encoded(image), "path": None}, int(label)

    key = ["cifar10", *(file_digest(path) for path in files)]
    return _rows(records, _label(names), key, listed(list(map(str, files))), cache_dir)


_Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]


def _cifar_bin(path: Path) -> _Batch:
    size, length = path.stat().st_size, 1 + _CIFAR_PIXELS
    if not size or size % length:
        raise UserError(
            f"{path} has {size} bytes, which is no multiple of the {length} of a record: it is cut short, or not of "
            "CIFAR-10's binary version; fetch it again"
        )
    records = np.fromfile(path, np.uint8).reshape(-1, length)
    return records[:, 1:], records[:, 0]


class _Unpickler(pickle.Unpickler):
    """Loads what NumPy's arrays are made of and nothing else, since a pickle can name any function to call."""

    # The module of the first differs between versions of NumPy.
    _ALLOWED: Mapping[str, Any] = {
        "_reconstruct": np.empty(0).__reduce__()[0],
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in self._ALLOWED:
            return self._ALLOWED[name]
        raise pickle.UnpicklingError(f"it has {module}.{name}, which a batch has not")


def _cifar_pickle(path: Path) -> _Batch:
    try:
        with path.open("rb") as file:
            batch = _Unpickler(file, encoding="latin1").load()
        pixels, labels = np.asarray(batch["data"]), np.asarray(batch["labels"])
        is_right = (
            pixels.shape == (len(labels), _CIFAR_PIXELS) and pixels.dtype == np.uint8 and labels.dtype.kind == "i"
        )
    except Exception as error:  # a damaged pickle can end in any of them
        raise UserError(
            f"{path} is not a batch of CIFAR-10's Python version ({brief(error)}): fetch it again"
        ) from error
    if not is_right:
        raise UserError(f"{path} is not a batch of CIFAR-10: its data is {pixels.dtype} {pixels.shape}; fetch it again")
    return pixels, labels

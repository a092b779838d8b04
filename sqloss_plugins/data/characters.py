"""Text as bytes, for models of characters: text8 and enwik8, files of one's own, or the embedded text.

A character is a byte here, whatever the text's encoding is, so that there are at most 256 classes.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray

from sqloss_plugins.data import text
from sqloss_plugins.data.corpora.download import fetch, md5_of
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.data.text import SPLITS, texts
from sqloss_plugins.errors import UserError, sentence

Bytes = NDArray[np.uint8]

SERVER = "http://mattmahoney.net/dc"
MD5 = {"text8": "3bea1919949baf155f99411df5fada7e", "enwik8": "a1fa5ffddb56f4953e226637dabbb36a"}
"""The paper's tasks -> checksum of the file of 100,000,000 bytes."""

_BLOCK = 1 << 22
_HELD_OUT = 20  # validation and test data have a twentieth of the public files each: 5,000,000 of 100,000,000 bytes
_TENTH = 10


@dataclass(frozen=True)
class CharacterData(TaskData):
    """Bytes by split: the one row of each of ``splits`` says in which file they are, from where and to where.

    Attributes:
        alphabet: the bytes that are classes, in the order of their numbers; empty where there is no training data.
    """

    alphabet: tuple[int, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by split."""
        return {split: len(mapped(rows)) for split, rows in self.splits.items()}

    @property
    def unit(self) -> str:
        """What :attr:`sizes` counts."""
        return "bytes"

    @cached_property
    def counts(self) -> dict[str, NDArray[np.int64]]:
        """How often each of the 256 bytes is in each split."""
        return {split: count(mapped(rows)) for split, rows in self.splits.items()}

    def digest(self, splits: Sequence[str]) -> str:
        """SHA-256 of the bytes of some splits; of those that are there."""
        digest = hashlib.sha256()
        for split in sorted(set(splits) & set(self.splits)):
            characters = mapped(self.splits[split])
            digest.update(f"{split} {len(characters)} ".encode())
            digest.update(characters.data)
        return digest.hexdigest()


def mapped(rows: Dataset) -> Bytes:
    """The bytes of a split, memory-mapped."""
    row = rows[0]
    return np.memmap(row["path"], np.uint8, "r", row["start"], (row["stop"] - row["start"],))


def count(characters: Bytes) -> NDArray[np.int64]:
    """How often each of the 256 bytes occurs, without a copy of all of them."""
    blocks = range(0, len(characters), _BLOCK)
    counts: NDArray[np.int64] = sum(
        (np.bincount(characters[start : start + _BLOCK], minlength=256) for start in blocks), np.zeros(256, np.int64)
    )
    return counts


# ---------------------------------------------------------------- the paper's tasks


def load_task(name: str, folder: Path, keep_newlines: bool = False, cache_dir: str | None = None) -> CharacterData:
    """text8 or enwik8: the last twentieth to test on, the one before for validation, and the rest to train on.

    Of enwik8 the newlines are left out after it is split, by default: the usual preparation of this corpus does so (its
    loader cuts the text at them), and the paper's numbers of classes and of characters are those without. The classes
    are the bytes of the whole file, as there.

    Args:
        name: a key of :data:`MD5`.
        folder: has the file under its name, or the zip archive that it is published as.
        keep_newlines: take all bytes of enwik8.
        cache_dir: where what is made of the file goes, if anything is; by default where ``datasets`` keeps all.

    Raises:
        UserError: no such file, or none of enough bytes.
        OSError: it cannot be read, or there is no space left.
    """
    path = folder / name
    if not path.is_file():
        path = _unpacked(folder / f"{name}.zip", name, cache_dir)
    digest, size = md5_of(path), path.stat().st_size
    held_out = size // _HELD_OUT
    if held_out < len(SPLITS):
        raise UserError(f"{path} has {size} bytes, and {name} has 100,000,000: get it anew")
    notes = []
    if digest != MD5[name]:
        notes.append(f"this is not the public {name}: it has another checksum")
    stops = (size - 2 * held_out, size - held_out, size)
    spans = {split: (path, start, stop) for split, start, stop in zip(SPLITS, (0, *stops), stops, strict=False)}
    if name == "enwik8" and not keep_newlines:
        notes.append("without the newlines, as the usual preparation has it; --keep_newlines takes them")
        spans = {
            split: _without_newlines(*span, f"{name}-{digest}-{split}", cache_dir) for split, span in spans.items()
        }
    return _data(spans, str(path), SPLITS, notes=notes)


def download(name: str, cache_dir: str | None = None) -> Path:
    """Downloads text8 or enwik8, once, and checks it.

    Returns:
        The folder that has it, for :func:`load_task`.

    Raises:
        OSError: the server cannot be reached, or sends something else.
    """
    folder = cache_folder(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{name}.zip"
    fetch(f"{SERVER}/{archive.name}", archive)
    if md5_of(_unpacked(archive, name, cache_dir)) != MD5[name]:
        raise OSError(f"{archive} is damaged, remove it: what is in it has not the published checksum")
    return folder


def _unpacked(archive: Path, name: str, cache_dir: str | None) -> Path:
    """The file of an archive, unpacked into the cache.

    Raises:
        UserError: there is no such archive, it is damaged, or has no file of that name.
    """
    if not archive.is_file():
        raise UserError(f"{archive.parent} has neither {name} nor {name}.zip: give the folder that has one of them")
    try:
        with zipfile.ZipFile(archive) as file, file.open(name) as content:
            return _kept(f"{name}-of-{md5_of(archive)}", iter(lambda: content.read(_BLOCK), b""), cache_dir)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise UserError(f"{archive} is damaged, or has no {name} in it: {sentence(error)}; get it anew") from error


def _without_newlines(path: Path, start: int, stop: int, name: str, cache_dir: str | None) -> tuple[Path, int, int]:
    with path.open("rb") as file:
        file.seek(start)
        content = (file.read(min(_BLOCK, stop - at)).replace(b"\n", b"") for at in range(start, stop, _BLOCK))
        made = _kept(f"{name}-without-newlines", content, cache_dir)
    return made, 0, made.stat().st_size


# ---------------------------------------------------------------- files of one's own, and the embedded text


def load_files(files: Mapping[str, Path]) -> CharacterData:
    """Files of one's own, byte by byte; where there is one to train on, tenths of its end stand for what is not given.

    The classes are the bytes of the training text.

    Args:
        files: split -> file.

    Raises:
        UserError: a file that cannot be read, or that is too short.
    """
    spans = {split: (path, 0, _size(path, f"--{split}_file {path}")) for split, path in files.items()}
    held_out = [split for split in SPLITS[1:] if split not in spans] if "train" in spans else []
    if held_out:
        path, _, size = spans["train"]
        stop = size
        for split in reversed(held_out):
            spans[split] = (path, stop - size // _TENTH, stop)
            stop -= size // _TENTH
        spans["train"] = (path, 0, stop)
    short = next((split for split, (_, start, stop) in spans.items() if stop - start < len(SPLITS)), None)
    if short:
        raise UserError(f"{spans[short][0]} is too short for a {short} text: give more text")
    notes = [f"held out of the training text, from its end: a tenth each for {' and '.join(held_out)}"]
    spans = {split: spans[split] for split in SPLITS if split in spans}
    return _data(spans, ", ".join(map(str, files.values())), ("train",), notes=notes if held_out else ())


def load_mini(task: str | None = None, cache_dir: str | None = None) -> CharacterData:
    """The English text that ships with Python, with the splits of :func:`sqloss_plugins.data.text.load_mini`.

    Args:
        task: ``text8`` for its alphabet: small letters, and one space for all that is between them.
        cache_dir: where it is kept.
    """
    found = text.load_mini(cache_dir)
    spans = {}
    for split, rows in found.splits.items():
        characters = "".join(texts(rows)).encode()
        if task == "text8":
            characters = re.sub(rb"[^a-z]+", b" ", characters.lower())
        name = f"mini-{hashlib.sha256(characters).hexdigest()}"
        spans[split] = (_kept(name, [characters], cache_dir), 0, len(characters))
    return _data(spans, found.source, ("train",), mini=True)


def _size(path: Path, what: str) -> int:
    try:
        with path.open("rb") as file:
            return file.seek(0, os.SEEK_END)
    except OSError as error:
        raise UserError(f"{what} cannot be read: {error.strerror or error}") from error


# ---------------------------------------------------------------- what they share


def _data(
    spans: Mapping[str, tuple[Path, int, int]],
    source: str,
    alphabet_of: Sequence[str],
    mini: bool = False,
    notes: Sequence[str] = (),
) -> CharacterData:
    """The splits, and the alphabet of some of them."""
    splits = DatasetDict()
    for split, (path, start, stop) in spans.items():
        splits[split] = Dataset.from_dict({"path": [str(path)], "start": [start], "stop": [stop]})
    counts = sum((count(mapped(splits[split])) for split in alphabet_of if split in splits), np.zeros(256, np.int64))
    return CharacterData(splits, source, mini, tuple(notes), tuple(np.flatnonzero(counts).tolist()))


def cache_folder(cache_dir: str | None = None) -> Path:
    """Where downloads are kept, in a folder of data sets; None for the usual one."""
    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "sqloss_characters"


def _kept(name: str, blocks: Iterable[bytes], cache_dir: str | None) -> Path:
    """A file of the cache with this content; written only where it is not there, and under its name once it is whole.

    Raises:
        OSError: it cannot be written.
    """
    path = cache_folder(cache_dir) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{name}.", delete=False) as file:
            try:
                file.writelines(blocks)
                file.flush()
                os.chmod(file.name, 0o644)  # the cache may be shared
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    return path

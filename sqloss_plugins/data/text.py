"""Plain text for language models: files of one's own, or the embedded text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from datasets import Dataset, DatasetDict, Features, Value

from sqloss_plugins import __version__
from sqloss_plugins.data.progress import MANY_BYTES, bar_if
from sqloss_plugins.data.tables import reading
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError
from sqloss_plugins.text_files import decoded_lines

SPLITS = ("train", "validation", "test")
_FEATURES = Features({"text": Value("string")})


@dataclass(frozen=True)
class TextData(TaskData):
    """Text by split: a row of the column ``text`` is a line with its end, or a part of one."""

    @cached_property
    def sizes(self) -> dict[str, int]:  # type: ignore[override]
        """Characters by split."""
        return {split: sum(map(len, texts(rows))) for split, rows in self.splits.items()}

    @property
    def unit(self) -> str:
        """What :attr:`sizes` counts."""
        return "characters"

    def digest(self, splits: Sequence[str]) -> str:
        """SHA-256 of the text of some splits, however it is cut into lines."""
        digest = hashlib.sha256()
        for split in (split for split in splits if split in self.splits):
            digest.update(f"{split} {self.sizes[split]} ".encode())
            for text in texts(self.splits[split]):
                digest.update(text.encode())
        return digest.hexdigest()


def texts(rows: Dataset) -> Iterator[str]:
    """The rows of a split, one after the other."""
    for batch in rows.iter(1000):
        yield from batch["text"]


def load_files(
    train: str | None, validation: str | None = None, test: str | None = None, cache_dir: str | None = None
) -> TextData:
    """Text files; for a split that has none, a tenth of the training text is held out, from its end.

    Args:
        train, validation, test: the files, UTF-8, at least one. Without training text there are the given splits alone.
        cache_dir: where the memory-mapped copy is kept; by default where ``datasets`` keeps all.

    Raises:
        UserError: a file that cannot be used, or that changes while it is read.
    """
    files = {"train": train, "validation": validation, "test": test}
    given = {split: path for split, path in files.items() if path is not None}
    return _load(files if train is not None else given, ", ".join(given.values()), False, cache_dir)


def load_mini(cache_dir: str | None = None) -> TextData:
    """The English text that ships with Python: the reference of the language that ``help()`` shows.

    About 370,000 characters, which differ between Python's versions. Its topics quote one another; each paragraph is
    taken once, so that no text is in two splits.
    """
    return _load(dict.fromkeys(SPLITS), "Python's own reference, the topics of help()", True, cache_dir)


def _lines(path: str | None, split: str = "train") -> Iterator[str]:
    """The lines of a file, their ends as newlines; without a file those of the embedded text."""
    if path is None:
        from pydoc_data.topics import topics

        paragraphs = (paragraph for name in sorted(topics) for paragraph in topics[name].strip("\n").split("\n\n"))
        lines: Iterable[str] = ["\n\n".join(dict.fromkeys(paragraphs)) + "\n"]
    else:
        lines = decoded_lines(path, f"--{split}_file {path}")
    for line in lines:
        yield from line.replace("\r\n", "\n").replace("\r", "\n").splitlines(keepends=True)


def _load(files: Mapping[str, str | None], source: str, mini: bool, cache_dir: str | None) -> TextData:
    """Reads the splits that are named, and holds out the last tenths of the training text for those without a file."""
    held_out = [split for split in files if split != "train" and files[split] is None]
    digests, characters = {}, {}
    for split in files:
        if split not in held_out:
            digests[split], characters[split] = _measure(files[split], split)
    spans = {split: (0, count) for split, count in characters.items()}
    tenth = characters.get("train", 0) // 10
    for split in reversed(held_out):
        stop = spans["train"][1]
        cut = _cut(_lines(files["train"]), max(stop - tenth, 0), tenth // 2)
        spans["train"], spans[split] = (0, cut), (cut, stop)
    splits = DatasetDict()
    for split in files:
        whole = "train" if split in held_out else split
        options = {"path": files[whole], "start": spans[split][0], "stop": spans[split][1], "digest": digests[whole]}
        splits[split] = _dataset(options, cache_dir)
    note = f"held out of the training text, from its end: a tenth each for {' and '.join(held_out)}"
    return TextData(splits, source, mini, (note,) if held_out else ())


def _measure(path: str | None, split: str) -> tuple[str, int]:
    """A hash of a text and how many characters it has.

    Raises:
        UserError: it has nothing but white space in it; and what :func:`decoded_lines` raises.
    """
    # The version, too, which says how the text is read: datasets keeps what was read.
    digest, characters, has_text = hashlib.sha256(__version__.encode()), 0, False
    for line in _lines(path, split):
        digest.update(line.encode())
        characters += len(line)
        has_text = has_text or not line.isspace()
    if not has_text:
        raise UserError(f"--{split}_file {path} has no text in it")
    return digest.hexdigest(), characters


def _cut(lines: Iterable[str], target: int, slack: int) -> int:
    """Where to cut a text at ``target`` or up to ``slack`` characters before it: at a line's end or between words."""
    start, line = 0, ""
    for line in lines:
        if start + len(line) > target:
            break
        start += len(line)
    if target - start <= slack:
        return start
    word = start + line.rfind(" ", 0, target - start) + 1
    return word if start < word and target - word <= slack else target


def _dataset(options: Mapping[str, object], cache_dir: str | None) -> Dataset:
    if options["start"] == options["stop"]:  # of a text of a few characters
        return Dataset.from_dict({"text": []}, features=_FEATURES)
    is_long = int(str(options["stop"])) - int(str(options["start"])) >= MANY_BYTES
    with reading(str(options["path"])), bar_if(is_long):
        return Dataset.from_generator(_rows, features=_FEATURES, cache_dir=cache_dir, gen_kwargs=dict(options))


def _rows(path: str | None, start: int, stop: int, digest: str) -> Iterator[dict[str, str]]:
    """The text between two positions. By the digest ``datasets`` knows whether it has that text already.

    Raises:
        UserError: the file is another one than that of the digest, under which its text would be kept.
    """
    position = 0
    for line in _lines(path):
        text = line[max(start - position, 0) : max(stop - position, 0)]
        if text:
            yield {"text": text}
        position += len(line)
        if position >= stop:
            break
    if path is not None and _measure(path, "train")[0] != digest:
        raise UserError(f"{path} changed while it was read: start again")

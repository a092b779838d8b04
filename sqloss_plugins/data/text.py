"""Plain text for language models: files of one's own, or the embedded text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from sqloss_plugins.errors import UserError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TextData:
    """The text of each split.

    Attributes:
        splits: ``train``, ``validation`` and ``test`` -> text; none is empty.
        source: one phrase to print.
        mini: True for the embedded text.
        notes: what was held out, to print.
    """

    splits: dict[str, str]
    source: str
    mini: bool
    notes: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> dict[str, int]:
        """Characters by split."""
        return {split: len(text) for split, text in self.splits.items()}

    @property
    def fingerprint(self) -> str:
        """A hash of the text of all splits."""
        parts = (f"{split} {len(text)} {text}" for split, text in self.splits.items())
        return hashlib.sha256("".join(parts).encode()).hexdigest()


def read_text(path: str, option: str) -> str:
    """A text file, its line ends as newlines.

    Args:
        path: the file.
        option: what named it, for the messages.

    Raises:
        UserError: it cannot be read, is not UTF-8, or has nothing but white space in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{option} {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{option} {path} is not UTF-8 text (byte {error.start})") from error
    if not text.strip():
        raise UserError(f"{option} {path} has no text in it")
    return text


def load_files(train: str, validation: str | None = None, test: str | None = None) -> TextData:
    """Text files; for a split that has none, a tenth of the training text is held out.

    Raises:
        UserError: a file that cannot be used.
    """
    files = {"train": train, "validation": validation, "test": test}
    given = {split: read_text(path, f"--{split}_file") for split, path in files.items() if path is not None}
    source = ", ".join(path for path in files.values() if path is not None)
    return _held_out(given, source, mini=False)


def load_mini() -> TextData:
    """The English text that ships with Python: the reference of the language that ``help()`` shows.

    About 370,000 characters, which differ between Python's versions. Its topics quote one another; each paragraph is
    taken once, so that no text is in two splits.
    """
    from pydoc_data.topics import topics

    paragraphs = (paragraph for name in sorted(topics) for paragraph in topics[name].strip("\n").split("\n\n"))
    text = "\n\n".join(dict.fromkeys(paragraphs)) + "\n"
    return _held_out({"train": text}, "Python's own reference, the topics of help()", mini=True)


def _held_out(given: dict[str, str], source: str, mini: bool) -> TextData:
    """Holds out the last tenths of the training text, at line ends or between words, for the splits not given."""
    missing = [split for split in SPLITS if split not in given]
    text, splits = given["train"], dict(given)
    tenth = len(text) // 10
    for split in reversed(missing):
        cut = max(len(text) - tenth, 0)
        ends = (text.rfind(end, 0, cut) + 1 for end in ("\n", " "))
        cut = next((end for end in ends if cut - end <= tenth // 2), cut)
        text, splits[split] = text[:cut], text[cut:]
    splits["train"] = text
    note = f"held out of the training text, from its end: a tenth each for {' and '.join(missing)}"
    return TextData({split: splits[split] for split in SPLITS}, source, mini, [note] if missing else [])

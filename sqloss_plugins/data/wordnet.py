"""WordNet's definitions with the words that they define, and made-up ones in the same layout.

WordNet's files, ``data.noun`` and so on (wndb(5WN)), are read from where the user has them; nothing is fetched.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict

from sqloss_plugins.data.hold_out import size_held_out
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError
from sqloss_plugins.text_files import decoded_lines

PARTS = ("noun", "verb", "adj", "adv")
"""The parts of speech, as the files are named."""

DEFAULT_DIR = Path("/usr/share/wordnet")
"""Where Debian's package wordnet-base has the files."""

_MARKER = re.compile(r"\((a|p|ip)\)$")  # says where an adjective may stand
_EXAMPLE = re.compile(r'[;:]?\s*"')


@dataclass(frozen=True)
class Definition:
    """One set of synonyms.

    Attributes:
        text: the definition, without the examples of use that follow it.
        word: the first of the synonyms, in lower case, with spaces.
        others: the other synonyms, likewise; none is there twice.
    """

    text: str
    word: str
    others: tuple[str, ...] = ()

    @property
    def synonyms(self) -> tuple[str, ...]:
        """All of them."""
        return (self.word, *self.others)


@dataclass(frozen=True)
class Definitions:
    """Definitions as labelled texts.

    Attributes:
        data: splits train, validation and test, with the columns ``text`` and ``label``, a class number.
        labels: the words that training has, in alphabetical order.
    """

    data: TaskData
    labels: tuple[str, ...]


def read_definitions(folder: Path, parts: Sequence[str] = PARTS) -> list[Definition]:
    """The definitions of some parts of speech, in the order of the files.

    Args:
        folder: has ``data.noun``, ``data.verb``, ``data.adj`` and ``data.adv``, or as many as are asked for.
        parts: some of :data:`PARTS`.

    Raises:
        UserError: a file that cannot be read or is no such file.
    """
    return [definition for part in parts for definition in _read(folder / f"data.{part}")]


def _read(path: Path) -> Iterator[Definition]:
    for number, line in enumerate(decoded_lines(path, str(path)), start=1):
        if line.startswith("  "):  # the licence
            continue
        head, _, gloss = line.partition(" | ")
        fields = head.split(" ")
        text = _EXAMPLE.split(gloss, maxsplit=1)[0].strip(" ;:\r\n")
        words = _words(fields)
        if not fields[0].isdecimal() or not text or not words:
            raise UserError(f"{path}, line {number}, is no line of WordNet's data files: give their folder")
        yield Definition(text, words[0], words[1:])


def _words(fields: Sequence[str]) -> tuple[str, ...]:
    """The synonyms of a line, each once; none where it is no such line."""
    count = int(fields[3], 16) if len(fields) > 3 and re.fullmatch("[0-9a-fA-F]{2}", fields[3]) else 0
    written = fields[4 : 4 + 2 * count : 2]  # a number follows each
    if len(written) < count:
        return ()
    return tuple(dict.fromkeys(_MARKER.sub("", word).replace("_", " ").lower() for word in written))


def held_out_definitions(
    definitions: Sequence[Definition], size: int, seed: int, of_all_synonyms: bool = False
) -> tuple[list[int], list[int]]:
    """Indices of the definitions to validate and to test on, at most ``size`` of each.

    A definition is held out only if its word keeps another one for training, and not if the word has it twice.

    Args:
        definitions: all.
        size: how many are wanted.
        seed: decides which they are.
        of_all_synonyms: whether each of the synonyms has to keep another one, and not the first word alone.
    """
    order = list(range(len(definitions)))
    random.Random(seed).shuffle(order)
    words = [definition.synonyms if of_all_synonyms else (definition.word,) for definition in definitions]
    left = Counter(word for each in words for word in each)
    pairs = [(definition.text, definition.word) for definition in definitions]
    copies = Counter(pairs)
    held_out: list[int] = []
    for i in order:
        if len(held_out) == 2 * size:
            break
        if all(left[word] > 1 for word in words[i]) and copies[pairs[i]] == 1:
            left.subtract(words[i])
            held_out.append(i)
    half = len(held_out) // 2
    return sorted(held_out[:half]), sorted(held_out[half:])


def load_definitions(
    folder: Path, parts: Sequence[str] = PARTS, held_out: int | None = None, seed: int = 42
) -> Definitions:
    """The definitions of a folder, some of them held out.

    Args:
        folder, parts: as for :func:`read_definitions`.
        held_out: how many are validated on, and as many are tested on, if there are so many that can be; None: 5000,
            but at most a twentieth of all.
        seed: decides which they are.

    Raises:
        UserError: what is wrong with the files; no word has two definitions.
    """
    definitions = read_definitions(folder, parts)
    validation, test = held_out_definitions(definitions, size_held_out(len(definitions), held_out), seed)
    if not validation:
        raise UserError(f"{folder} has no definitions to hold out: a word with two of them is needed")
    labels = sorted({definition.word for definition in definitions})  # each has one in training
    number = {word: i for i, word in enumerate(labels)}
    elsewhere = {*validation, *test}
    training = [i for i in range(len(definitions)) if i not in elsewhere]
    splits = {
        split: Dataset.from_dict(
            {"text": [definitions[i].text for i in rows], "label": [number[definitions[i].word] for i in rows]}
        )
        for split, rows in (("train", training), ("validation", validation), ("test", test))
    }
    return Definitions(TaskData(DatasetDict(splits), str(folder)), tuple(labels))


# ---------------------------------------------------------------- mini data

KINDS = ("animal", "tool", "plant", "garment", "dish", "vessel", "game", "building", "dance", "instrument")
"""Kinds of things in made-up data."""
TRAITS = (
    ("large", "of great size"),
    ("small", "of little size"),
    ("red", "scarlet in colour"),
    ("green", "having the colour of grass"),
    ("old", "made long ago"),
    ("rare", "seldom seen"),
    ("loud", "making much noise"),
    ("soft", "yielding to the touch"),
    ("heavy", "of great weight"),
    ("bitter", "sharp in taste"),
    ("costly", "sold at a high price"),
    ("round", "shaped like a ball"),
    ("northern", "found in cold regions"),
    ("southern", "found in warm regions"),
    ("sacred", "used in worship"),
    ("fast", "moving at high speed"),
)
"""What such a thing may be, in two ways to say it."""
_WORDS, _DEFINITIONS, _TRAITS_EACH = 400, 5, 4


def write_mini_wordnet(folder: Path) -> None:
    """Writes ``data.noun`` with definitions of made-up words, the same every time.

    Each of 400 words is a kind of thing with four traits, and has five definitions, which name three of them in
    changing words and order; no definition occurs twice for a word.
    """
    rng = random.Random("mini wordnet")
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words: list[str] = []
    while len(words) < _WORDS:
        word = "".join(rng.sample(syllables, 3))
        words += [word] if word not in words else []
    texts: list[tuple[str, str]] = []
    for word in words:
        kind, traits = rng.choice(KINDS), rng.sample(TRAITS, _TRAITS_EACH)
        of_word: dict[str, str] = {}
        while len(of_word) < _DEFINITIONS:
            (before, _), *after = rng.sample(traits, _TRAITS_EACH - 1)
            text = f"{before} {kind} that is {' and '.join(rng.choice(names) for names in after)}"
            of_word[f"a {text}"] = word
        texts += of_word.items()
    rng.shuffle(texts)
    lines = ["  Made by sqloss_plugins in the layout of WordNet's data files; these words do not exist.  \n"]
    lines += [f"{i:08d} 03 n 01 {word} 0 000 | {text}  \n" for i, (text, word) in enumerate(texts)]
    (folder / "data.noun").write_text("".join(lines), encoding="utf-8")


def load_mini(held_out: int | None = None, seed: int = 42) -> Definitions:
    """The mini data, written to a folder and read back by the reader of the real files."""
    with tempfile.TemporaryDirectory() as folder:
        write_mini_wordnet(Path(folder))
        found = load_definitions(Path(folder), ("noun",), held_out, seed)
    return Definitions(
        TaskData(found.data.splits, "mini data made by this package", mini=True),
        found.labels,
    )


__all__ = [
    "DEFAULT_DIR",
    "PARTS",
    "Definition",
    "Definitions",
    "held_out_definitions",
    "load_definitions",
    "load_mini",
    "read_definitions",
    "write_mini_wordnet",
]

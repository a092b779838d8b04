"""WSJ (Paul & Baker, 1992): CSR-I and CSR-II, LDC93S6A or B and LDC94S13A or B, as LDC ships them.

Index files (``.ndx``) name a subset's utterances, such as ``11_1_1:wsj0/si_tr_s/01i/01ic0201.wv1``, the audio of the
first microphone. The transcripts of the session are in ``01ic0200.dot``, in some other folder ``si_tr_s/01i``. The
discs' folders may lie beside each other (``11-13.1/wsj0/...``), or be merged into one ``wsj0`` and one ``wsj1``.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqloss_plugins.data.corpora.checks import read_lines
from sqloss_plugins.data.corpora.corpus import SAMPLE_RATE, Corpus, MiniCorpus, Utterance
from sqloss_plugins.data.corpora.sphere import write_sphere
from sqloss_plugins.data.mini_speech import Sentence, speak
from sqloss_plugins.errors import UserError

_INDICES = {
    "train_si84": ("wsj0/doc/indices/train/tr_s_wv1.ndx",),
    "train_si284": ("wsj1/doc/indices/si_tr_s.ndx", "wsj0/doc/indices/train/tr_s_wv1.ndx"),
    "test_dev93": ("wsj1/doc/indices/h1_p0.ndx",),
    "test_eval92": ("wsj0/doc/indices/test/nvp/si_et_20.ndx",),
    "test_eval93": ("wsj1/doc/indices/wsj1/eval/h1_p0.ndx",),
}
SUBSETS = tuple(_INDICES)
"""Kaldi's names: 7138, 37416, 503, 333 and 213 utterances."""

NOISE = "<NOISE>"
SYMBOLS = (NOISE, "<*IN*>", "<*MR.*>")
"""What in the transcripts is not spelled: with it, WSJ's characters are the paper's 52 classes. The last two are words
that were mispronounced and marked as deleted, which Kaldi's rules leave as they are."""

_LAYOUT = "WSJ's layout is the discs' folders, such as 11-13.1/wsj0 and 13-34.1/wsj1, or all merged into wsj0 and wsj1"
_ENTRY = re.compile(r"[0-9_]+: ?/?(wsj[01]/(\w+)/\w+/(\w{8}))(?:\.wv1)?", re.IGNORECASE)
_NOT_SHIPPED = "wsj0/si_tr_s/401/"  # the index names this speaker, and no disc has the files
_TRANSCRIPT = re.compile(r"(.*?) ?\((\w{8})\)")

# ---------------------------------------------------------------- transcripts

_SAID_OTHERWISE = {"%PERCENT": "PERCENT", ".POINT": "POINT", "--DASH": "-DASH"}
_NOT_SAID = re.compile(
    r"^\[<\w+\]$"  # [<door_slam]: a noise over the word before
    r"|^\[\w+>\]$"  # [door_slam>]: over the word after
    r"|\[\w+/\]$"  # [phone_ring/]: one that begins here
    r"|\[/\w+\]$"  # [/phone_ring]: one that ends here
    r"|^[~.]$",  # an utterance that is cut off, a pause
    re.ASCII,
)
_NOISE = re.compile(r"\[\w+\]", re.ASCII)  # [loud_breath]
_NOT_IN_THE_PROMPT = re.compile(r"<([\w']+)>", re.ASCII)  # <and>: of the prompt left out, by its marking


def normalize(transcript: str) -> str:
    """The words of a detailed transcript as Kaldi's recipe has them, in capitals.

    Noises beside words are :data:`NOISE`, noises over words and pauses are left out. Punctuation that was read aloud
    (``,COMMA``) and the asterisks around a mispronounced word stay.

    Args:
        transcript: of a ``.dot`` file, without the utterance's name.
    """
    words = []
    for word in transcript.upper().replace("\\", "").split():
        word = _SAID_OTHERWISE.get(word, word)
        if _NOT_SAID.search(word):
            continue
        marked = _NOT_IN_THE_PROMPT.fullmatch(word)
        words.append(NOISE if _NOISE.search(word) else marked[1] if marked else word)
    return " ".join(words)


def read_dot(path: Path) -> dict[str, str]:
    """A ``.dot`` file: utterance, in small letters -> its transcript, normalised.

    Raises:
        UserError: the file cannot be read; a line without an utterance's name in parentheses, or a name that occurs
            twice.
    """
    found: dict[str, str] = {}
    for number, line in read_lines(path):
        match = _TRANSCRIPT.fullmatch(line)
        if not match:
            raise UserError(f"{path} line {number} is not a transcript with the utterance's name in parentheses")
        name = match[2].lower()
        if name in found:
            raise UserError(f"{path} line {number}: {name} has a transcript already")
        found[name] = normalize(match[1])
    return found


# ---------------------------------------------------------------- files


@dataclass
class _Files:
    """What is where in a copy of the corpus, whose discs may be in capitals.

    Attributes:
        audio: from ``wsj0`` or ``wsj1`` on, in small letters and without the suffix -> file.
        dots: names of the subset's folder and of the session -> its ``.dot`` files.
        indices: all ``.ndx`` files.
    """

    audio: dict[str, Path] = field(default_factory=dict)
    dots: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    indices: list[Path] = field(default_factory=list)

    def index(self, name: str) -> Path | None:
        """An index file by its place from ``wsj0`` or ``wsj1`` on."""
        return next((path for path in self.indices if str(path).lower().endswith(f"/{name}")), None)


def _find_files(root: Path) -> _Files:
    found = _Files()
    # Discs are often linked into one folder.
    for folder, folders, names in os.walk(root.absolute(), followlinks=True):
        folders.sort()
        for name in sorted(names):
            path, suffix = Path(folder, name), os.path.splitext(name)[1].lower()
            if suffix == ".wv1":
                parts = path.with_suffix("").as_posix().lower().split("/")
                disc = max((i for i, part in enumerate(parts) if part in ("wsj0", "wsj1")), default=0)
                found.audio.setdefault("/".join(parts[disc:]), path)
            elif suffix == ".dot":
                found.dots.setdefault((path.parts[-3].lower(), path.stem.lower()), []).append(path)
            elif suffix == ".ndx":
                found.indices.append(path)
    return found


class _Transcripts:
    """The transcripts of a copy of the corpus, read when they are asked for."""

    def __init__(self, files: _Files) -> None:
        self.files = files
        self.read: dict[Path, dict[str, str]] = {}

    def of(self, folder: str, name: str) -> str | None:
        """The transcript of an utterance; None for none.

        Args:
            folder: of the subset, such as ``si_tr_s``.
            name: of the utterance.

        Raises:
            UserError: two files have different transcripts of it.
        """
        found: dict[str, Path] = {}
        for path in self.files.dots.get((folder, f"{name[:6]}00"), []):
            if path not in self.read:
                self.read[path] = read_dot(path)
            if name in self.read[path]:
                found.setdefault(self.read[path][name], path)
        if len(found) > 1:
            first, second, *_ = found.values()
            raise UserError(f"{first} and {second} have different transcripts of {name}: remove one of them")
        return next(iter(found), None)


def read(corpus: Path, subset: str) -> list[Utterance]:
    """A subset: what its index files name, with the audio of the first microphone.

    Args:
        corpus: the folder of the discs, at whatever depth, or of ``wsj0`` and ``wsj1``.
        subset: one of :data:`SUBSETS`.

    Raises:
        UserError: another layout; an utterance without audio or transcript, or that the index names twice.
    """
    if subset not in _INDICES:
        raise UserError(f"WSJ has no subset {subset}: choose from {', '.join(SUBSETS)}")
    files = _find_files(corpus)
    transcripts = _Transcripts(files)
    utterances: dict[str, Utterance] = {}
    for index in _INDICES[subset]:
        path = files.index(index)
        if path is None:
            raise UserError(f"{corpus} has no {index}, which names the utterances of {subset}: {_LAYOUT}")
        for number, line in read_lines(path):
            if line.startswith(";"):
                continue
            match = _ENTRY.fullmatch(line)
            if not match:
                raise UserError(f"{path} line {number} is not like 11_1_1:wsj0/si_tr_s/01i/01ic0201.wv1")
            place, folder, name = (part.lower() for part in match.groups())
            if place.startswith(_NOT_SHIPPED):
                continue
            if name in utterances:
                raise UserError(f"{path} line {number} names {name}, which {subset} has already")
            if place not in files.audio:
                raise UserError(f"{path} line {number} names {place}.wv1, which is not below {corpus}: {_LAYOUT}")
            text = transcripts.of(folder, name)
            if text is None:
                raise UserError(
                    f"{files.audio[place]} has no transcript: no {folder}/*/{name[:6]}00.dot below {corpus} has it"
                )
            if not text:
                raise UserError(f"{files.audio[place]} has an empty transcript: take it out of {path} line {number}")
            utterances[name] = Utterance(name, name[:3], files.audio[place], text)
    if not utterances:
        raise UserError(f"the index files of {subset} below {corpus} name no utterances")
    return list(utterances.values())


# ---------------------------------------------------------------- mini


@dataclass(frozen=True)
class _Place:
    """Where one of the mini corpus's subsets is, on discs as LDC has them.

    Attributes:
        audio: disc and folder of the audio; the folder of a speaker follows.
        dots: the same of the transcripts.
        index: disc and index file.
        suffix: whether the index file has the suffix of the audio.
    """

    audio: str
    dots: str
    index: str
    suffix: str = ".wv1"


_MINI_PLACES = {
    "train, CSR-I": _Place(
        "11-1.1/wsj0/si_tr_s", "11-4.1/wsj0/transcrp/dots/si_tr_s", "11-13.1/wsj0/doc/indices/train/tr_s_wv1.ndx"
    ),
    "train, CSR-II": _Place(
        "13-1.1/wsj1/si_tr_s", "13-34.1/wsj1/trans/wsj1/si_tr_s", "13-34.1/wsj1/doc/indices/si_tr_s.ndx"
    ),
    "dev": _Place("13-16.1/wsj1/si_dt_20", "13-34.1/wsj1/trans/wsj1/si_dt_20", "13-34.1/wsj1/doc/indices/h1_p0.ndx"),
    "test": _Place(
        "11-14.1/wsj0/si_et_20", "11-14.1/wsj0/si_et_20", "11-13.1/wsj0/doc/indices/test/nvp/si_et_20.ndx", suffix=""
    ),
}
MINI_SUBSETS = {"train, CSR-I": (30, 750), "train, CSR-II": (30, 750), "dev": (6, 60), "test": (10, 100)}
"""Part of the mini corpus -> speakers, utterances."""

_BREATH_S = 0.25


def _mark(sentence: Sentence, number: int) -> tuple[Any, str]:
    """Samples and detailed transcript of a sentence: now and then with a breath, a pause or a noise over a word."""
    import numpy as np

    first, second, *rest = sentence.text.capitalize().split()
    samples, kind = sentence.samples, number % 8
    if kind == 2:
        noise = np.random.default_rng(number).normal(0, 0.05, int(_BREATH_S * SAMPLE_RATE))
        return np.concatenate([samples, noise]), " ".join([first, second, *rest, "[loud_breath]"])
    marks = {3: [first, second, "."], 4: ["[door_slam>]", first, f"<{second}>"], 5: [first, second, "[<lip_smack]"]}
    return samples, " ".join([*marks.get(kind, [first, second]), *rest])


def write_mini(
    root: Path,
    on_progress: Callable[[], object] | None = None,
    subsets: Mapping[str, tuple[int, int]] = MINI_SUBSETS,
) -> None:
    """Writes synthetic speech as WSJ's discs, uncompressed; the same in every new process.

    Args:
        root: the folder to make the discs in.
        on_progress: called after each utterance.
        subsets: keys of :data:`MINI_SUBSETS` -> speakers (78 at most, of all together) and utterances.

    Raises:
        UserError: espeakng-loader is not installed, or does not work.
    """
    import numpy as np

    entries: dict[str, list[str]] = {subset: [] for subset in subsets}
    names = (f"{number:03d}" for number in itertools.count(1))
    for subset, _, sentences in speak(subsets, SAMPLE_RATE, on_progress):
        place, speaker, lines = _MINI_PLACES[subset], next(names), []
        audio, dots = root / place.audio / speaker, root / place.dots / speaker
        for folder in (audio, dots):
            folder.mkdir(parents=True, exist_ok=True)
        for number, sentence in enumerate(sentences, start=1):
            name = f"{speaker}c02{np.base_repr(number, 36).lower():0>2}"
            samples, transcript = _mark(sentence, number)
            write_sphere(audio / f"{name}.wv1", samples, SAMPLE_RATE)
            lines.append(f"{transcript} ({name})\n")
            disc, _, folder_name = place.audio.partition("/")
            disc = disc.replace("-", "_").replace(".", "_")
            entries[subset].append(f"{disc}:{folder_name}/{speaker}/{name}{place.suffix}\n")
        (dots / f"{speaker}c0200.dot").write_text("".join(lines), encoding="ascii")
    for subset, found in entries.items():
        path = root / _MINI_PLACES[subset].index
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f";; File: {path.name}\n;;\n" + "".join(found), encoding="ascii")


WSJ = Corpus(
    name="wsj",
    title="WSJ",
    read=read,
    source="https://catalog.ldc.upenn.edu/LDC93S6A and LDC94S13A",
    download=None,
    mini=MiniCorpus(write_mini, sum(utterances for _, utterances in MINI_SUBSETS.values())),
    symbols=SYMBOLS,
)

"""TIMIT (LDC93S1): ``{TRAIN,TEST}/DR1/FCJF0/SI1027.{WAV,PHN,WRD,TXT}``, with names in capitals or small letters.

The subsets are Kaldi's and ESPnet's: ``train`` has all speakers of TRAIN (462), ``dev`` 50 speakers of TEST, ``test``
the core test set (24). The sentences SA1 and SA2, which all speakers read, are in none. So there are 3696, 400 and 192
utterances. The lists of speakers and phones are in ``timit.yaml``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

import yaml

from sqloss_plugins.data.corpora.checks import read_lines
from sqloss_plugins.data.corpora.corpus import SAMPLE_RATE, Corpus, MiniCorpus, Utterance
from sqloss_plugins.data.corpora.sphere import write_sphere
from sqloss_plugins.data.mini_speech import Mark, Sentence, speak
from sqloss_plugins.errors import UserError

SUBSETS = ("train", "dev", "test")
_LAYOUT = "TIMIT's layout is {TRAIN,TEST}/DR1/FCJF0/SI1027.WAV, with SI1027.PHN and SI1027.WRD beside it"
_INSIDE = ("TIMIT", "DATA")  # folders that copies of the corpus have around TRAIN and TEST
_TRAINING_SPEAKERS = 462


@cache
def _lists() -> Mapping[str, str | Mapping[str, str]]:
    text = resources.files(__package__).joinpath("timit.yaml").read_text(encoding="utf-8")
    content: dict[str, str | Mapping[str, str]] = yaml.safe_load(text)
    return content


@cache
def phones() -> dict[str, tuple[str, str] | None]:
    """Each of the 61 phones -> the one of 48 and the one of 39 that it counts as; None for the glottal stop."""
    found: dict[str, tuple[str, str] | None] = {}
    for name, *smaller in (line.split() for line in str(_lists()["phones"]).splitlines()):
        found[name] = (smaller[0], smaller[1]) if smaller else None
    return found


@cache
def speakers(subset: str) -> tuple[str, ...]:
    """The speakers of ``dev`` or ``test``, in capitals."""
    return tuple(str(_lists()["dev" if subset == "dev" else "core_test"]).split())


# ---------------------------------------------------------------- transcripts


def _segments(path: Path) -> Iterator[tuple[int, str]]:
    """The names of a .PHN or .WRD file, with the numbers of their lines."""
    for number, line in read_lines(path):
        begin, end, name = [*line.split(), "", "", ""][:3]
        if len(line.split()) != 3 or not (begin.isdecimal() and end.isdecimal()) or int(begin) > int(end):
            raise UserError(f"{path} line {number} is not the first sample, the last sample and a name: {line!r}")
        yield number, name


def read_phones(path: Path) -> str:
    """The phones of a .PHN file, of the 39, separated by spaces. Glottal stops are left out.

    Raises:
        UserError: the file cannot be read, has another form, a phone that is none of the 61, or no phones.
    """
    found = []
    for number, name in _segments(path):
        if name not in phones():
            raise UserError(f"{path} line {number}: {name} is none of TIMIT's {len(phones())} phones")
        smaller = phones()[name]
        if smaller is not None:
            found.append(smaller[1])
    if not found:
        raise UserError(f"{path} has no phones")
    return " ".join(found)


def read_characters(path: Path) -> str:
    """The words of a .WRD file in small letters, of which nothing but a to z is left.

    Raises:
        UserError: the file cannot be read, has another form, or no words.
    """
    words = [re.sub("[^a-z]", "", name.lower()) for _, name in _segments(path)]
    if not any(words):
        raise UserError(f"{path} has no words")
    return " ".join(word for word in words if word)


# ---------------------------------------------------------------- layout


def _inside(folder: Path) -> dict[str, Path]:
    """What a folder has, by its name in capitals, but hidden files."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.upper()
        if name in found:
            raise UserError(f"{found[name]} and {path} are the same name in capitals and small letters: remove one")
        if not name.startswith("."):
            found[name] = path
    return found


def _parts(corpus: Path) -> dict[str, Path]:
    """TRAIN and TEST, which may lie in a folder of the corpus."""
    folder = corpus
    while folder.is_dir():
        found = _inside(folder)
        if {"TRAIN", "TEST"} <= found.keys():
            return found
        inner = next((found[name] for name in _INSIDE if name in found), None)
        if inner is None:
            break
        folder = inner
    raise UserError(f"{folder} has no TRAIN and TEST: {_LAYOUT}")


def _speaker_folders(part: Path) -> Iterator[tuple[str, Path]]:
    for region, folder in _inside(part).items():
        if re.fullmatch(r"DR\d", region) and folder.is_dir():
            yield from ((name, path) for name, path in _inside(folder).items() if path.is_dir())


def _utterances(speaker: str, folder: Path, suffix: str, read_text: Callable[[Path], str]) -> Iterator[Utterance]:
    """Those of one speaker."""
    files = _inside(folder)  # of SI1.WAV.wav, which some copies have beside SI1.WAV, there is no use
    stems = {kind: {Path(name).stem for name in files if Path(name).suffix == kind} for kind in (".WAV", suffix)}
    for stem in sorted(stem for stem in stems[".WAV"] | stems[suffix] if "." not in stem):
        if not re.fullmatch(r"S[AIX]\d+", stem):
            raise UserError(f"{folder / stem} is no name of TIMIT's, which are like SA1, SI1027 and SX37")
        for kind, other in ((".WAV", suffix), (suffix, ".WAV")):
            if stem not in stems[other]:
                raise UserError(f"{files[stem + kind]} has no {stem}{other} beside it")
        if not stem.startswith("SA"):
            text = read_text(files[stem + suffix])
            yield Utterance(f"{speaker}_{stem}", speaker, files[f"{stem}.WAV"], text)


def _read(corpus: Path, subset: str, suffix: str, read_text: Callable[[Path], str]) -> list[Utterance]:
    if subset not in SUBSETS:
        raise UserError(f"TIMIT has no subset {subset}: choose from {', '.join(SUBSETS)}")
    part = _parts(corpus)["TRAIN" if subset == "train" else "TEST"]
    folders: dict[str, Path] = {}
    for speaker, folder in _speaker_folders(part):
        if speaker in folders:
            raise UserError(f"{folders[speaker]} and {folder} are the same speaker: remove one")
        folders[speaker] = folder
    wanted = sorted(folders) if subset == "train" else [name for name in speakers(subset) if name in folders]
    found = [item for name in wanted for item in _utterances(name, folders[name], suffix, read_text)]
    if not found:
        raise UserError(f"{part} has no utterances of TIMIT's {subset}: {_LAYOUT}")
    whole = _TRAINING_SPEAKERS if subset == "train" else len(speakers(subset))
    if len(wanted) != whole:
        print(f"  note: {subset} has {len(wanted)} speakers here, TIMIT's has {whole}", flush=True)
    return found


def read_with_phones(corpus: Path, subset: str) -> list[Utterance]:
    """A subset; the texts are phones of the 39, from the .PHN files.

    Args:
        corpus: the folder with TRAIN and TEST, or the one that has it as ``TIMIT``, ``data`` or both.
        subset: one of :data:`SUBSETS`.

    Raises:
        UserError: another layout; audio without transcript, a transcript without audio; see also
            :func:`read_phones`.
    """
    return _read(corpus, subset, ".PHN", read_phones)


def read_with_characters(corpus: Path, subset: str) -> list[Utterance]:
    """A subset; the texts are words in small letters, from the .WRD files.

    Arguments and errors are those of :func:`read_with_phones`; see also :func:`read_characters`.
    """
    return _read(corpus, subset, ".WRD", read_characters)


# ---------------------------------------------------------------- mini corpus

MINI_SUBSETS = {"train": (60, 1200), "dev": (6, 60), "test": (10, 100)}
"""Subset of the mini corpus -> speakers, utterances beside SA1 and SA2."""

_READ_BY_ALL = (
    "She had your dark suit in greasy wash water all year.",
    "Don't ask me to carry an oily rag like that.",
)
_SILENCES = ("_", "_:")
_MARKS = (";",)  # of palatals: no sound of its own
_PAUSE_S = 0.1  # before and after a sentence


def _as_timit(sentence: Sentence, name: str) -> list[str]:
    """TIMIT's phones for one of eSpeak NG's, or ``pau``."""
    if name in _SILENCES:
        return ["pau"]
    table = _lists()["espeak"]
    assert not isinstance(table, str)
    if name not in table:
        raise UserError(f"the mini corpus does not know eSpeak NG's phone {name!r}: install another espeakng-loader")
    has_r = sentence.accent.endswith("US")
    return re.sub(r"\((.*)\)", r"\1" if has_r else "", table[name]).split()


def _phone_lines(sentence: Sentence, before: int, total: int) -> list[tuple[int, int, str]]:
    """The lines of a .PHN file. What is one phone for eSpeak NG and two for TIMIT is halved."""
    marks = [mark for mark in sentence.phones if mark.name not in _MARKS]
    begins = [before + round(mark.begin * SAMPLE_RATE) for mark in marks]
    for i in range(1, len(begins) - 1):
        if begins[i] >= begins[i + 1]:  # the l of "twelve" is heard before eSpeak NG says so
            begins[i] = (begins[i - 1] + begins[i + 1]) // 2
    while marks[-1].name in _SILENCES:
        end = begins.pop()
        marks.pop()
    lines = [(0, begins[0], "h#")]
    for mark, begin, following in zip(marks, begins, [*begins[1:], end], strict=True):
        names = _as_timit(sentence, mark.name)
        for i, name in enumerate(names):
            first, last = (begin + (following - begin) * j // len(names) for j in (i, i + 1))
            if lines[-1][2] == name:
                first = lines.pop()[0]
            lines.append((first, last, name))
    return [*lines, (end, total, "h#")]


def _word_lines(words: tuple[Mark, ...], before: int, end: int) -> list[tuple[int, int, str]]:
    """The lines of a .WRD file."""
    begins = [before + round(word.begin * SAMPLE_RATE) for word in words]
    names = [re.sub("[.?]", "", word.name.lower()) for word in words]
    return list(zip(begins, [*begins[1:], end], names, strict=True))


def _speaker_names(subset: str) -> Iterator[str]:
    if subset != "train":
        yield from speakers(subset)
    else:
        yield from ("".join(letters) + "0" for letters in itertools.product("MF", "XYZ", "DEF", "GHIJ"))


def write_mini(
    root: Path,
    on_progress: Callable[[], object] | None = None,
    subsets: Mapping[str, tuple[int, int]] = MINI_SUBSETS,
) -> None:
    """Writes synthetic speech as ``TIMIT/{TRAIN,TEST}/DR?/SPEAKER``; the same in every new process.

    Args:
        root: the folder to make ``TIMIT`` in.
        on_progress: called after each utterance.
        subsets: of :data:`SUBSETS` -> speakers (72, 50 and 24 at most, and 78 of all together) and utterances beside
            SA1 and SA2.

    Raises:
        UserError: espeakng-loader is not installed, or does not work.
    """
    import numpy as np

    noise = np.random.default_rng(2)
    silence = round(_PAUSE_S * SAMPLE_RATE)
    names = {subset: list(_speaker_names(subset)) for subset in subsets}
    number = itertools.count(1)
    for subset, i, sentences in speak(subsets, SAMPLE_RATE, on_progress, _READ_BY_ALL):
        folder = root / "TIMIT" / ("TRAIN" if subset == "train" else "TEST") / f"DR{i % 8 + 1}" / names[subset][i]
        folder.mkdir(parents=True)
        for j, sentence in enumerate(sentences, start=1):
            shared = j <= len(_READ_BY_ALL)
            stem = f"SA{j}" if shared else f"{'SI' if j % 8 < 3 else 'SX'}{next(number)}"
            around = [noise.normal(0, 0.001, silence) for _ in range(2)]
            wave = np.concatenate([around[0], sentence.samples, around[1]])
            lines = _phone_lines(sentence, silence, len(wave))
            text = sentence.text if shared else f"{sentence.text.capitalize()}."
            files = {
                "PHN": lines,
                "WRD": _word_lines(sentence.words, silence, lines[-1][0]),
                "TXT": [(0, len(wave), text)],
            }
            write_sphere(folder / f"{stem}.WAV", wave, SAMPLE_RATE)
            for kind, rows in files.items():
                content = "".join(f"{begin} {end} {name}\n" for begin, end, name in rows)
                (folder / f"{stem}.{kind}").write_text(content, encoding="ascii")


_MINI_SENTENCES = sum(utterances + speakers * len(_READ_BY_ALL) for speakers, utterances in MINI_SUBSETS.values())

TIMIT_PHONES = Corpus(
    name="timit_phn",
    title="TIMIT",
    read=read_with_phones,
    source="https://catalog.ldc.upenn.edu/LDC93S1",
    download=None,
    mini=MiniCorpus(write_mini, _MINI_SENTENCES),
)
TIMIT_CHARACTERS = replace(TIMIT_PHONES, name="timit_char", read=read_with_characters)

"""CMU AN4: ``etc/an4_{train,test}.transcription``, and the audio anywhere below, by the utterance's name.

Its pronunciations are in ``etc/an4.dic``: a word and its phones in each line, ``WORD(2)`` for a further one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sqloss_plugins.data.corpora.checks import read_lines
from sqloss_plugins.data.corpora.corpus import Corpus, Utterance
from sqloss_plugins.data.corpora.download import fetch, unpack
from sqloss_plugins.errors import UserError

SUBSETS = ("train", "dev", "test")
SOURCE = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"
_LINE = re.compile(r"^(?:<s>\s*)?(.*?)\s*(?:</s>\s*)?\((\S+)\)$")
_LEXICON = "etc/an4.dic"
_AUDIO = (".flac", ".wav", ".sph")
_HELD_OUT = 10  # every tenth of the official training speakers, in alphabetical order


def _root(corpus: Path) -> Path:
    return corpus / "an4" if (corpus / "an4").is_dir() else corpus


def _find_audio(root: Path) -> dict[str, Path]:
    """Name of an utterance -> its file; of several the last by suffix and path. Folders may be links."""
    files = [Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names]
    return {file.stem: file for suffix in _AUDIO for file in sorted(files) if file.suffix == suffix}


def read(corpus: Path, subset: str) -> list[Utterance]:
    """A subset. AN4 has no official development set: every tenth official training speaker is ``dev``.

    Args:
        corpus: the folder with ``etc``, or the one that has it as ``an4``.
        subset: one of :data:`SUBSETS`.

    Raises:
        UserError: another layout; a transcript without audio, an empty transcript.
    """
    if subset not in SUBSETS:
        raise UserError(f"AN4 has no subset {subset}: choose from {', '.join(SUBSETS)}")
    root = _root(corpus)
    path = root / "etc" / f"an4_{'test' if subset == 'test' else 'train'}.transcription"
    if not path.is_file():
        raise UserError(f"{root} has no etc/{path.name}: AN4's layout is etc/ with the transcripts beside the audio")
    audio = _find_audio(root)
    utterances: dict[str, Utterance] = {}
    for number, line in read_lines(path):
        match = _LINE.match(line)
        if not match or not match[1]:
            raise UserError(f"{path} line {number} is not a transcript with the utterance's name in parentheses")
        text, name = match[1], match[2]
        if name in utterances:
            raise UserError(f"{path} line {number}: {name} has a transcript already")
        if name not in audio:
            raise UserError(f"{path} line {number}: no audio of {name} below {root} ({', '.join(_AUDIO)})")
        _, _, rest = name.partition("-")
        speaker = rest.partition("-")[0]
        if not speaker:
            raise UserError(f"{path} line {number}: {name} is no name of AN4's, which are like an406-SPEAKER-b")
        utterances[name] = Utterance(f"{speaker}-{name}", speaker, audio[name], text)
    if not utterances:
        raise UserError(f"{path} has no transcripts")
    if subset == "test":
        return list(utterances.values())
    held_out = set(sorted({item.speaker for item in utterances.values()})[::_HELD_OUT])
    return [item for item in utterances.values() if (item.speaker in held_out) == (subset == "dev")]


def read_lexicon(path: Path) -> dict[str, str]:
    """A pronunciation lexicon: word -> the phones of its first pronunciation, separated by spaces.

    Args:
        path: a file with a word and its phones in each line; ``WORD(2)`` is a further pronunciation of ``WORD``.

    Raises:
        UserError: the file cannot be read, has a word without phones, or no words.
    """
    found: dict[str, str] = {}
    for number, line in read_lines(path):
        word, _, phones = line.partition(" ")
        if not phones:
            raise UserError(f"{path} line {number}: {word} has no phones")
        found.setdefault(re.sub(r"\(\d+\)$", "", word), phones)
    if not found:
        raise UserError(f"{path} has no words")
    return found


def read_with_phones(corpus: Path, subset: str) -> list[Utterance]:
    """A subset; the texts are phones, by the first pronunciation of each word in the corpus's lexicon.

    Arguments and errors are those of :func:`read`.

    Raises:
        UserError: there is no lexicon, or it lacks words of the subset; see also :func:`read_lexicon`.
    """
    utterances, path = read(corpus, subset), _root(corpus) / _LEXICON
    if not path.is_file():
        raise UserError(f"{_root(corpus)} has no {_LEXICON}, in which the CMU archive has the words' pronunciations")
    lexicon = read_lexicon(path)
    _check_words(utterances, lexicon, path)
    return [replace(item, text=" ".join(lexicon[word] for word in item.text.split())) for item in utterances]


def _check_words(utterances: Sequence[Utterance], lexicon: Mapping[str, str], path: Path) -> None:
    missing = {word: item.name for item in reversed(utterances) for word in item.text.split() if word not in lexicon}
    if missing:
        word = min(missing)
        raise UserError(
            f"{path} lacks {len(missing)} word(s) of the transcripts, such as {word} of {missing[word]}: add them"
        )


def download(subsets: Sequence[str], folder: Path) -> Path:
    """Downloads the corpus, which is one file for all subsets.

    Raises:
        OSError: the source cannot be reached, or sends something else.
    """
    if not (folder / "an4" / ".complete").is_file():
        archive = folder / "an4_sphere.tar.gz"
        fetch(SOURCE, archive)  # no checksum is published
        unpack(archive, folder)
        (folder / "an4" / ".complete").touch()
    return folder


AN4 = Corpus(name="an4", title="AN4", read=read, source=SOURCE, download=download)
AN4_PHONES = replace(AN4, name="an4_phn", read=read_with_phones)

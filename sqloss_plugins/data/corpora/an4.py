"""CMU AN4: ``etc/an4_{train,test}.transcription``, and the audio anywhere below, by the utterance's name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sqloss_plugins.data.corpora.checks import read_lines
from sqloss_plugins.data.corpora.corpus import Corpus, Utterance
from sqloss_plugins.data.corpora.download import fetch, unpack
from sqloss_plugins.errors import UserError

SUBSETS = ("train", "dev", "test")
SOURCE = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"
_LINE = re.compile(r"^(?:<s>\s*)?(.*?)\s*(?:</s>\s*)?\((\S+)\)$")
_AUDIO = (".flac", ".wav", ".sph")
_HELD_OUT = 10  # every tenth of the official training speakers, in alphabetical order


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
    root = corpus / "an4" if (corpus / "an4").is_dir() else corpus
    path = root / "etc" / f"an4_{'test' if subset == 'test' else 'train'}.transcription"
    if not path.is_file():
        raise UserError(f"{root} has no etc/{path.name}: AN4's layout is etc/ with the transcripts beside the audio")
    audio = {file.stem: file for suffix in _AUDIO for file in sorted(root.rglob(f"*{suffix}"))}
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

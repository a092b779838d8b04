"""What a speech corpus is for the recipes, and what one utterance of it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_RATE = 16000
"""Hz, of most corpora."""


@dataclass(frozen=True)
class Utterance:
    """One utterance.

    Attributes:
        name: unique in its corpus; begins with the speaker, as Kaldi's and ESPnet's sorting wants it.
        speaker: who speaks.
        audio: the file.
        text: the words, separated by single spaces.
    """

    name: str
    speaker: str
    audio: Path
    text: str


@dataclass(frozen=True)
class MiniCorpus:
    """An embedded corpus of synthetic speech in the layout of a real one.

    Attributes:
        write: called with the folder to make it in, and with a function that is called after each sentence.
        sentences: how many there are.
    """

    write: Callable[[Path, Callable[[], object] | None], None]
    sentences: int


@dataclass(frozen=True)
class Corpus:
    """A speech corpus.

    Attributes:
        name: as on the command line.
        title: as in tables and messages.
        read: reads a subset; called with the corpus's folder and the subset's name. Raises ``UserError`` for another
            layout, and for audio and transcripts that do not fit together.
        source: URL of the place where it is public.
        download: downloads it, skipping what is there; called with the subsets and the folder to put it in. Returns
            the folder that ``read`` takes. Raises ``OSError`` where the source cannot be reached.
        subsets: the names of all subsets.
        mini: the embedded corpus in the same layout, None for none.
        sample_rate: of the audio, in Hz.
    """

    name: str
    title: str
    read: Callable[[Path, str], list[Utterance]]
    source: str
    download: Callable[[Sequence[str], Path], Path]
    subsets: tuple[str, ...]
    mini: MiniCorpus | None = None
    sample_rate: int = SAMPLE_RATE

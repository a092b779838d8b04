"""What a speech corpus is for the recipes, and what one utterance of it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        start, end: the part of the file that it is, in seconds; 0 and None for the whole.
        where: file and line that name it, for messages; may be empty.
    """

    name: str
    speaker: str
    audio: Path
    text: str
    start: float = 0.0
    end: float | None = None
    where: str = ""


Converter = Callable[[Sequence[Utterance], Path, int, Callable[[], object] | None], tuple[list[Utterance], list[int]]]
"""See :attr:`Corpus.convert`."""


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
        source: URL of the place where it is public, or sold.
        download: downloads it, skipping what is there; called with the subsets and the folder to put it in. Returns
            the folder that ``read`` takes. Raises ``OSError`` where the source cannot be reached. None for a corpus
            that is not public.
        mini: the embedded corpus in the same layout, None for none.
        sample_rate: of the audio, in Hz.
        convert: checks the audio of utterances, and writes what ESPnet cannot take as it is into a folder; called with
            the utterances, the folder, a number of threads, and a function that is called after each. Returns the
            utterances with the audio to take, and the number of samples of each. None: all is taken as it is.
        identity: what makes a subset this one and no other, as JSON has it; called with its name. None: the folder.
        notes: what is to be said of the subsets. None: nothing.
        symbols: words of the transcripts that are not spelled, such as ``<NOISE>``: one token each among characters.
    """

    name: str
    title: str
    read: Callable[[Path, str], list[Utterance]]
    source: str
    download: Callable[[Sequence[str], Path], Path] | None
    mini: MiniCorpus | None = None
    sample_rate: int = SAMPLE_RATE
    convert: Converter | None = None
    identity: Callable[[str], Any] | None = None
    notes: Callable[[], Sequence[str]] | None = None
    symbols: tuple[str, ...] = ()

    @property
    def folder_name(self) -> str:
        """Of its folder below ``downloads``, by the title: two readings of one corpus share it."""
        return self.title.lower()

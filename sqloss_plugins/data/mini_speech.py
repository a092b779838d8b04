"""Synthetic speech for the mini corpora, read by eSpeak NG, made in seconds without a network.

Speakers (voices) and sentences of the training, development and test subsets are disjoint. The sentences come from a
small grammar of about a hundred words. It is for trying things out; no result on it says anything about LibriSpeech.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sqloss_plugins.errors import UserError

_NAMES = ["ANNA", "BORIS", "CLARA", "DAVID", "EMMA", "FELIX", "GRACE", "HENRY"]
_VERBS = ["FINDS", "HIDES", "PAINTS", "CARRIES", "WATCHES", "FORGETS", "BRINGS", "WANTS"]
_ADJECTIVES = ["RED", "GREEN", "YELLOW", "SMALL", "HEAVY", "BROKEN", "GOLDEN", "WOODEN", "EMPTY", "ANCIENT"]
_THINGS = ["BASKET", "LANTERN", "MIRROR", "TABLE", "WINDOW", "GARDEN", "BOTTLE", "HAMMER", "LETTER", "TICKET", "CARPET"]
_THINGS += ["KETTLE"]
_PLACES = ["KITCHEN", "STATION", "FOREST", "VILLAGE", "HARBOUR", "LIBRARY", "MUSEUM", "CASTLE", "VALLEY", "OFFICE"]
_WHEN = ["TODAY", "TONIGHT", "TOMORROW", "ALWAYS", "NEVER", "SOMETIMES"]
_NUMBERS = ["TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "TEN", "TWELVE"]
_ANIMALS = ["HORSES", "MONKEYS", "EAGLES", "SPIDERS", "DOLPHINS", "RABBITS", "CAMELS", "TURTLES"]
_MOVES = ["SLEEP", "WANDER", "GATHER", "RETURN", "LISTEN", "DISAPPEAR"]

_ACCENTS = ("gmw/en-US", "gmw/en", "gmw/en-GB-x-rp")
# Voices that say the same twice; some others, such as f2, have noise of their own.
_VARIANTS = ["m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f4", "Annie", "belinda", "linda", "adam", "Andy"]
_VARIANTS += ["benjamin", "boris", "caleb", "david", "ed", "edward", "gustave", "john", "max", "michael", "pablo"]


@dataclass(frozen=True)
class _Speaker:
    voice: str
    pitch: int  # eSpeak's 0 to 100
    rate: int  # words a minute

    @property
    def accent(self) -> str:
        return self.voice.partition("+")[0]


@dataclass(frozen=True)
class Mark:
    """Where something begins in the samples.

    Attributes:
        name: a word, or a phone as eSpeak NG names it, such as ``tS``; ``_`` and ``_:`` are silence.
        begin: in seconds.
    """

    name: str
    begin: float


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of eSpeak NG's speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # of a word, in characters, from 1 on
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # in ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


class _Espeak:
    """The eSpeak NG library that the PyPI package espeakng-loader carries."""

    _PARAMETER_RATE, _PARAMETER_PITCH = 1, 3
    _LAST_EVENT, _WORD, _PHONE = 0, 1, 7  # espeak_EVENT_TYPE
    _STRESS = "',%="  # marks before a phone

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ModuleNotFoundError as error:
            raise UserError(
                "the mini corpus needs the package espeakng-loader: pip install 'sqloss_plugins[espnet]'"
            ) from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        synchronous, with_phone_events = 2, 1
        self.rate: int = self._library.espeak_Initialize(
            synchronous, 0, str(espeakng_loader.get_data_path()).encode(), with_phone_events
        )
        if self.rate <= 0:
            raise UserError("eSpeak NG does not start: reinstall the package espeakng-loader")
        self._samples: list[Any] = []
        self.phones: list[Mark] = []
        self.word_begins: dict[int, float] = {}
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = callback(self._take)  # the library keeps a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for event in itertools.takewhile(lambda event: event.type != self._LAST_EVENT, events or ()):
            if event.type == self._WORD:
                self.word_begins[event.text_position - 1] = event.audio_position / 1000
            elif event.type == self._PHONE:
                name = event.id.string.decode().lstrip(self._STRESS)
                self.phones.append(Mark(name, event.audio_position / 1000))
        return 0

    def say(self, speaker: _Speaker, text: str) -> Any:
        """The samples, shape (n,), int16, at ``self.rate`` Hz.

        Leaves the phones in ``self.phones``, and in ``self.word_begins`` when words begin, in seconds, by their place
        in the text. A word that is read in one with the one before it is missing there.
        """
        if self._library.espeak_SetVoiceByName(speaker.voice.encode()) != 0:
            raise UserError(f"eSpeak NG has no voice {speaker.voice}: reinstall the package espeakng-loader")
        self._library.espeak_SetParameter(self._PARAMETER_RATE, speaker.rate, 0)
        self._library.espeak_SetParameter(self._PARAMETER_PITCH, speaker.pitch, 0)
        self._samples, self.phones, self.word_begins = [], [], {}
        data = text.encode()
        utf8 = 1
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, utf8, None, None)
        return np.concatenate(self._samples)


def _sentences(generator: random.Random) -> Iterator[str]:
    """Different sentences of the grammar, without end."""
    seen = set()
    pick = generator.choice
    while True:
        kind = generator.randrange(4)
        if kind == 0:
            sentence = f"{pick(_NAMES)} {pick(_VERBS)} THE {pick(_ADJECTIVES)} {pick(_THINGS)} IN THE {pick(_PLACES)}"
        elif kind == 1:
            sentence = f"{pick(_NUMBERS)} {pick(_ANIMALS)} {pick(_MOVES)} NEAR THE {pick(_ADJECTIVES)} {pick(_PLACES)}"
        elif kind == 2:
            sentence = (
                f"{pick(_WHEN)} {pick(_NAMES)} AND {pick(_NAMES)} LEAVE THE {pick(_PLACES)} WITH A {pick(_THINGS)}"
            )
        else:
            sentence = f"WHERE IS THE {pick(_ADJECTIVES)} {pick(_THINGS)} OF {pick(_NAMES)}"
        if sentence not in seen:
            seen.add(sentence)
            yield sentence


@dataclass(frozen=True)
class Sentence:
    """One sentence that was read.

    Attributes:
        text: the words.
        samples: shape (n,), float64, in [-1, 1].
        accent: the first part of the voice's name, such as ``gmw/en-US``.
        phones: in order; the last ones are silence.
        words: in order. Of two that are read in one, when the second begins is estimated.
    """

    text: str
    samples: Any
    accent: str
    phones: tuple[Mark, ...]
    words: tuple[Mark, ...]


def _words(text: str, begins: Mapping[int, float], end: float) -> tuple[Mark, ...]:
    """The words, with when they begin; between the known places of a text time passes evenly."""
    places = [match.start() for match in re.finditer(r"\S+", text)]
    known = {0: 0.0, **begins, len(text): end}
    times = np.interp(places, sorted(known), [known[place] for place in sorted(known)])
    return tuple(Mark(word, float(time)) for word, time in zip(text.split(), times, strict=True))


def speak(
    subsets: Mapping[str, tuple[int, int]],
    sample_rate: int,
    on_progress: Callable[[], object] | None = None,
    of_all: Sequence[str] = (),
) -> Iterator[tuple[str, int, list[Sentence]]]:
    """Different sentences, speaker by speaker; the same in every new process.

    Args:
        subsets: name -> speakers (78 at most, of all together) and sentences.
        sample_rate: of the samples, in Hz.
        on_progress: called after each sentence.
        of_all: sentences that every speaker reads before these.

    Yields:
        The subset, the number of the speaker in it, from 0 on, and what this speaker says.

    Raises:
        UserError: espeakng-loader is not installed, or does not work.
    """
    from scipy.signal import resample_poly

    espeak = _Espeak()
    generator = random.Random(1)
    voices = [f"{voice}+{variant}" for voice, variant in itertools.product(_ACCENTS, _VARIANTS)]
    generator.shuffle(voices)
    speakers = iter(_Speaker(voice, generator.randrange(25, 75), generator.randrange(140, 190)) for voice in voices)
    sentences = _sentences(generator)
    noise = np.random.default_rng(1)
    for subset, (num_speakers, num_sentences) in subsets.items():
        for i, speaker in enumerate(list(itertools.islice(speakers, num_speakers))):
            own = itertools.islice(sentences, len(range(i, num_sentences, num_speakers)))
            said = []
            for text in itertools.chain(of_all, own):
                wave = resample_poly(espeak.say(speaker, text.lower()).astype(float), sample_rate, espeak.rate)
                wave = 0.25 * wave / np.abs(wave).max() * noise.uniform(0.5, 1.5) + noise.normal(0, 0.001, len(wave))
                words = _words(text, espeak.word_begins, len(wave) / sample_rate)
                said.append(Sentence(text, wave, speaker.accent, tuple(espeak.phones), words))
                if on_progress:
                    on_progress()
            if said:
                yield subset, i, said

"""Speech corpora: reading LibriSpeech's and AN4's layouts, checking the audio, writing what ESPnet trains on."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from sqloss_plugins.errors import UserError

SAMPLE_RATE = 16000
"""Hz, of all corpora here."""


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


def read_librispeech(corpus: Path, subset: str) -> list[Utterance]:
    """A subset such as ``dev-clean``: ``SUBSET/SPEAKER/CHAPTER/S-C-NNNN.flac`` and ``S-C.trans.txt`` beside it.

    Args:
        corpus: the folder with the subsets, or the one that has it as ``LibriSpeech``.
        subset: the subset's name.

    Raises:
        UserError: another layout; a transcript without audio, audio without transcript, an empty transcript.
    """
    root = corpus / "LibriSpeech" if (corpus / "LibriSpeech").is_dir() else corpus
    folder = root / subset
    if not folder.is_dir():
        found = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) if root.is_dir() else ""
        has = f"it has {found}" if found else "it has no folders" if root.is_dir() else "there is no such folder"
        raise UserError(
            f"{root} has no subset {subset} ({has}): LibriSpeech's layout is SUBSET/SPEAKER/CHAPTER/*.flac with a "
            "*.trans.txt beside them"
        )
    utterances = []
    for path in sorted(folder.glob("*/*/*.trans.txt")):
        audio = {file.stem: file for file in path.parent.glob("*.flac")}
        for name, text in _transcripts(path):
            if name not in audio:
                raise UserError(f"{path} has a transcript for {name}, and there is no {name}.flac beside it")
            utterances.append(Utterance(name, name.rpartition("-")[0], audio.pop(name), text))
        if audio:
            raise UserError(f"{min(audio.values())} has no transcript in {path.name}")
    silent = sorted({file.parent for file in folder.glob("*/*/*.flac")} - {item.audio.parent for item in utterances})
    if silent:
        raise UserError(f"{silent[0]} has audio, and no *.trans.txt with its transcripts")
    if not utterances:
        raise UserError(f"{folder} has no SPEAKER/CHAPTER/*.trans.txt: this is not LibriSpeech's layout")
    return utterances


def _transcripts(path: Path) -> Iterable[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        name, _, text = line.strip().partition(" ")
        if not name:
            continue
        if not text.strip():
            raise UserError(f"{path} line {number}: the transcript of {name} is empty")
        yield name, " ".join(text.split())


AN4_SUBSETS = ("train", "dev", "test")
_AN4_LINE = re.compile(r"^(?:<s>\s*)?(.*?)\s*(?:</s>\s*)?\((\S+)\)\s*$")
_AN4_AUDIO = (".flac", ".wav", ".sph")
_AN4_HELD_OUT = 10  # every tenth of the official training speakers, in alphabetical order


def read_an4(corpus: Path, subset: str) -> list[Utterance]:
    """CMU AN4: ``etc/an4_{train,test}.transcription``, and the audio anywhere below, by the utterance's name.

    AN4 has no official development set: ``dev`` is every tenth of the official training speakers, ``train`` the rest.

    Args:
        corpus: the folder with ``etc``, or the one that has it as ``an4``.
        subset: one of :data:`AN4_SUBSETS`.

    Raises:
        UserError: another layout; a transcript without audio, an empty transcript.
    """
    if subset not in AN4_SUBSETS:
        raise UserError(f"AN4 has no subset {subset}: choose from {', '.join(AN4_SUBSETS)}")
    root = corpus / "an4" if (corpus / "an4").is_dir() else corpus
    path = root / "etc" / f"an4_{'test' if subset == 'test' else 'train'}.transcription"
    if not path.is_file():
        raise UserError(f"{root} has no etc/{path.name}: AN4's layout is etc/ with the transcripts beside the audio")
    audio = {file.stem: file for suffix in _AN4_AUDIO for file in sorted(root.rglob(f"*{suffix}"))}
    utterances = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        match = _AN4_LINE.match(line)
        if not match or not match[1]:
            raise UserError(f"{path} line {number} is not a transcript with the utterance's name in parentheses")
        text, name = " ".join(match[1].split()), match[2]
        if name not in audio:
            raise UserError(f"{path} line {number}: no audio of {name} below {root} ({', '.join(_AN4_AUDIO)})")
        speaker = name.split("-")[1]
        utterances.append(Utterance(f"{speaker}-{name}", speaker, audio[name], text))
    if subset != "test":
        held_out = set(sorted({item.speaker for item in utterances})[::_AN4_HELD_OUT])
        utterances = [item for item in utterances if (item.speaker in held_out) == (subset == "dev")]
    return utterances


LIBRISPEECH_SUBSETS = (
    *("train-clean-100", "train-clean-360", "train-other-500"),
    *("dev-clean", "dev-other", "test-clean", "test-other"),
)
"""What there is to download of LibriSpeech."""

CORPORA: dict[str, Callable[[Path, str], list[Utterance]]] = {"librispeech": read_librispeech, "an4": read_an4}
"""Name of a corpus -> the reader of its layout."""

SOURCES = {
    "librispeech": "https://www.openslr.org/12",  # torchaudio knows the files
    "an4": "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz",
}
"""Name of a corpus -> where it is public."""


def download(task: str, subsets: Sequence[str], folder: Path) -> Path:
    """Downloads a corpus from its usual public source, skipping what is there; returns what the reader takes.

    Args:
        task: a key of :data:`CORPORA`.
        subsets: LibriSpeech's subsets; AN4 is one file.
        folder: where to.

    Raises:
        OSError: the source cannot be reached.
        UserError: LibriSpeech has no such subset.
    """
    if task == "librispeech":
        from torchaudio.datasets import LIBRISPEECH

        unknown = [subset for subset in subsets if subset not in LIBRISPEECH_SUBSETS]
        if unknown:
            raise UserError(f"LibriSpeech has no subset {unknown[0]}: choose from {', '.join(LIBRISPEECH_SUBSETS)}")
        folder.mkdir(parents=True, exist_ok=True)
        for subset in subsets:
            target = folder / "LibriSpeech" / subset
            if not (target / ".complete").is_file():
                shutil.rmtree(target, ignore_errors=True)  # torchaudio takes whatever is there for the whole
                LIBRISPEECH(folder, url=subset, download=True)
                (target / ".complete").touch()
        return folder
    if not (folder / "an4" / ".complete").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / "an4_sphere.tar.gz"
        if not archive.is_file():
            torch.hub.download_url_to_file(SOURCES["an4"], str(archive))
        shutil.unpack_archive(archive, folder, filter="data")
        (folder / "an4" / ".complete").touch()
    return folder


def check_audio(utterances: Sequence[Utterance], nj: int = 1, on_progress: Callable[[], object] | None = None) -> float:
    """Decodes every file once, and refuses what would only fail in the middle of training.

    Args:
        utterances: what to check.
        nj: threads.
        on_progress: called after each file.

    Returns:
        The duration of all, in seconds.

    Raises:
        UserError: a file that cannot be read, is cut short, or is not mono at 16 kHz.
    """
    total = 0.0
    with ThreadPoolExecutor(nj) as pool:
        for seconds in pool.map(_seconds, (item.audio for item in utterances)):
            total += seconds
            if on_progress:
                on_progress()
    return total


def _seconds(path: Path) -> float:
    import soundfile

    try:
        info = soundfile.info(path)
        if info.samplerate != SAMPLE_RATE or info.channels != 1:
            raise UserError(
                f"{path} has {info.samplerate} Hz and {info.channels} channel(s): this recipe takes mono at "
                f"{SAMPLE_RATE} Hz"
            )
        frames = sum(len(block) for block in soundfile.blocks(path, blocksize=1 << 18, dtype="int16"))
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(f"{path} cannot be read as audio: {error}") from error
    if frames == 0 or frames != info.frames:
        raise UserError(f"{path} is cut short: it has {frames} of {info.frames} samples")
    return frames / SAMPLE_RATE


def write_data_dir(folder: Path, utterances: Iterable[Utterance]) -> None:
    """Writes ``wav.scp``, ``text`` and ``utt2spk``, sorted by utterance, as ESPnet and Kaldi have them.

    Raises:
        UserError: a name that occurs twice, or a path with white space, which these files cannot hold.
    """
    ordered = sorted(utterances, key=lambda item: item.name)
    for before, after in itertools.pairwise(ordered):
        if before.name == after.name:
            raise UserError(f"two utterances are called {after.name}: {before.audio} and {after.audio}")
    for item in ordered:
        if len(str(item.audio.absolute()).split()) != 1:
            raise UserError(f"the path {item.audio.absolute()} has white space, which ESPnet's wav.scp cannot hold")
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Callable[[Utterance], str]] = {
        "wav.scp": lambda item: str(item.audio.absolute()),
        "utt2spk": lambda item: item.speaker,
        "text": lambda item: item.text,
    }
    for name, column in columns.items():
        (folder / name).write_text("".join(f"{item.name} {column(item)}\n" for item in ordered), encoding="utf-8")

"""LibriSpeech (Panayotov et al., 2015): ``SUBSET/SPEAKER/CHAPTER/*.flac`` with a ``*.trans.txt`` beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sqloss_plugins.data.corpora.checks import read_transcripts
from sqloss_plugins.data.corpora.conversion import write_flac
from sqloss_plugins.data.corpora.corpus import SAMPLE_RATE, Corpus, MiniCorpus, Utterance
from sqloss_plugins.data.corpora.download import fetch, unpack
from sqloss_plugins.data.mini_speech import speak
from sqloss_plugins.errors import UserError

SERVER = "https://www.openslr.org/resources/12"
MD5 = {
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
}
"""Subset -> checksum of its archive, as the server's ``md5sum.txt`` has it."""

SUBSETS = tuple(MD5)
MINI_SUBSETS = {"train-clean-100": (60, 1500), "dev-clean": (6, 60), "test-clean": (10, 100)}
"""Subset of the mini corpus -> speakers, utterances."""


def read(corpus: Path, subset: str) -> list[Utterance]:
    """A subset: ``SUBSET/SPEAKER/CHAPTER/S-C-NNNN.flac``, and ``S-C.trans.txt`` beside them.

    Args:
        corpus: the folder with the subsets, or the one that has it as ``LibriSpeech``.
        subset: the subset's name; a folder of one's own will do.

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
    utterances: list[Utterance] = []
    for path in sorted(folder.glob("*/*/*.trans.txt")):
        audio = {file.stem: file for file in path.parent.glob("*.flac")}
        transcripts = read_transcripts(path)
        for name, text in transcripts.items():
            if name not in audio:
                raise UserError(f"{path} has a transcript for {name}, and there is no {name}.flac beside it")
            utterances.append(Utterance(name, name.rpartition("-")[0] or name, audio[name], text))
        if audio.keys() - transcripts.keys():
            raise UserError(f"{audio[min(audio.keys() - transcripts.keys())]} has no transcript in {path.name}")
    silent = sorted({file.parent for file in folder.glob("*/*/*.flac")} - {item.audio.parent for item in utterances})
    if silent:
        raise UserError(f"{silent[0]} has audio, and no *.trans.txt with its transcripts")
    if not utterances:
        raise UserError(f"{folder} has no SPEAKER/CHAPTER/*.trans.txt: this is not LibriSpeech's layout")
    return utterances


def download(subsets: Sequence[str], folder: Path) -> Path:
    """Downloads subsets, and checks their archives by checksum.

    Raises:
        OSError: the source cannot be reached, or sends something else.
        UserError: there is no such subset.
    """
    unknown = [subset for subset in subsets if subset not in SUBSETS]
    if unknown:
        raise UserError(f"LibriSpeech has no subset {unknown[0]}: choose from {', '.join(SUBSETS)}")
    for subset in subsets:
        target = folder / "LibriSpeech" / subset
        if not (target / ".complete").is_file():
            archive = folder / f"{subset}.tar.gz"
            fetch(f"{SERVER}/{archive.name}", archive, MD5[subset])
            shutil.rmtree(target, ignore_errors=True)  # of an unpacking that was killed
            unpack(archive, folder)
            (target / ".complete").touch()
    return folder


def write_mini(
    root: Path,
    on_progress: Callable[[], object] | None = None,
    subsets: Mapping[str, tuple[int, int]] = MINI_SUBSETS,
) -> None:
    """Writes synthetic speech as ``LibriSpeech/SUBSET/SPEAKER/CHAPTER``; the same in every new process.

    Args:
        root: the folder to make ``LibriSpeech`` in.
        on_progress: called after each utterance.
        subsets: name -> speakers (78 at most, of all together) and utterances.

    Raises:
        UserError: espeakng-loader is not installed, or does not work.
    """
    numbers = {subset: 1000 * number for number, subset in enumerate(subsets, start=1)}
    for subset, i, sentences in speak(subsets, SAMPLE_RATE, on_progress):
        speaker = numbers[subset] + i
        folder = root / "LibriSpeech" / subset / str(speaker) / "1"
        lines = []
        for j, sentence in enumerate(sentences):
            name = f"{speaker}-1-{j:04d}"
            write_flac(folder / f"{name}.flac", sentence.samples, SAMPLE_RATE)
            lines.append(f"{name} {sentence.text}\n")
        (folder / f"{speaker}-1.trans.txt").write_text("".join(lines), encoding="utf-8")


LIBRISPEECH = Corpus(
    name="librispeech",
    title="LibriSpeech",
    read=read,
    source="https://www.openslr.org/12",
    download=download,
    mini=MiniCorpus(write_mini, sum(utterances for _, utterances in MINI_SUBSETS.values())),
)

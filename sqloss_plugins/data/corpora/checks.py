"""What all speech corpora share: reading transcripts, checking the audio, and writing what ESPnet trains on."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from sqloss_plugins.data.corpora.corpus import SAMPLE_RATE, Utterance
from sqloss_plugins.data.corpora.sphere import read_header
from sqloss_plugins.errors import UserError


def read_raw_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file in UTF-8 as they are, with their numbers, from 1 on. A byte order mark is dropped.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        where = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {where} is not UTF-8: convert the file, for instance with iconv") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    # Not str.splitlines, which takes U+0085 and U+2028 for ends of lines as well.
    yield from enumerate(text.split("\n"), start=1)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file in UTF-8 that are not empty, with their numbers, from 1 on.

    White space is single spaces, whichever it was. A byte order mark is dropped.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    for number, line in read_raw_lines(path):
        words = " ".join(line.split())
        if words:
            yield number, words


def read_transcripts(path: Path) -> dict[str, str]:
    """A file with an utterance's name and its words in each line: name -> words.

    Raises:
        UserError: the file cannot be read; a transcript is empty, or one name has two.
    """
    found: dict[str, str] = {}
    for number, line in read_lines(path):
        name, _, text = line.partition(" ")
        if not text:
            raise UserError(f"{path} line {number}: the transcript of {name} is empty")
        if name in found:
            raise UserError(f"{path} line {number}: {name} has a transcript already")
        found[name] = text
    return found


def check_audio(
    utterances: Sequence[Utterance],
    nj: int = 1,
    on_progress: Callable[[], object] | None = None,
    sample_rate: int = SAMPLE_RATE,
) -> list[int]:
    """Decodes every file once, and refuses what would fail in the middle of training, or spoil it.

    Args:
        utterances: what to check.
        nj: threads.
        on_progress: called after each file.
        sample_rate: what all files must have, in Hz.

    Returns:
        The number of samples of each.

    Raises:
        UserError: a file that cannot be read, is empty or cut short, has NaN or infinite samples, or is not mono at
            the sample rate.
    """
    found = []
    with ThreadPoolExecutor(nj) as pool:
        for samples in pool.map(lambda item: _samples(item.audio, sample_rate), utterances):
            found.append(samples)
            if on_progress:
                on_progress()
    return found


def _samples(path: Path, sample_rate: int) -> int:
    info = inspect_audio(path)
    if info.samplerate != sample_rate or info.channels != 1:
        raise UserError(
            f"{path} has {info.samplerate} Hz and {info.channels} channel(s): this recipe takes mono at "
            f"{sample_rate} Hz"
        )
    return int(info.frames)


def inspect_audio(path: Path) -> Any:
    """What soundfile says of a file: ``samplerate`` in Hz, ``channels``, ``frames``, ``format``. The file is decoded.

    Raises:
        UserError: it cannot be read, is empty or cut short, or has NaN or infinite samples.
    """
    import numpy as np
    import soundfile

    try:
        header = read_header(path)
        info = soundfile.info(path)
        # Only floating-point formats have samples that are not finite.
        dtype = "float32" if info.subtype in ("FLOAT", "DOUBLE") else "int16"
        frames = 0
        for block in soundfile.blocks(path, blocksize=1 << 18, dtype=dtype):
            frames += len(block)
            if dtype == "float32" and not np.isfinite(block).all():
                raise UserError(f"{path} has samples that are not numbers (NaN or infinite): repair or remove it")
    except TypeError as error:  # soundfile's, for a file called *.raw, which has no header
        raise UserError(f"{path} cannot be read as audio: it has no header") from error
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(f"{path} cannot be read as audio: {error}") from error
    if info.frames == 0:
        raise UserError(f"{path} is empty: it has no samples")
    expected = header.sample_count if header else info.frames
    if frames < expected:
        raise UserError(f"{path} is cut short: it has {frames} of {expected} samples")
    return info


def check_names(utterances: Iterable[Utterance]) -> None:
    """Refuses two utterances of one name.

    Raises:
        UserError: with both files.
    """
    for before, after in itertools.pairwise(sorted(utterances, key=lambda item: item.name)):
        if before.name == after.name:
            raise UserError(f"two utterances are called {after.name}: {before.audio} and {after.audio}")


def check_subsets(subsets: Mapping[str, Sequence[Utterance]]) -> None:
    """Refuses an utterance that is in two subsets, by its name or by what its file contains.

    Args:
        subsets: name of a subset -> its utterances.

    Raises:
        UserError: an utterance of two subsets, with their names; a file that cannot be read, such as a broken link.
    """
    try:
        _check_subsets(subsets)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror or error}") from error


def _check_subsets(subsets: Mapping[str, Sequence[Utterance]]) -> None:
    @cache
    def digest(path: Path) -> bytes:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    seen: dict[Any, str] = {}
    sizes = {item.audio: item.audio.stat().st_size for group in subsets.values() for item in group}
    subsets_of_size = Counter(size for group in subsets.values() for size in {sizes[item.audio] for item in group})
    for subset, utterances in subsets.items():
        keys: dict[Any, Utterance] = {}
        for item in utterances:
            keys[item.name] = item
            if subsets_of_size[sizes[item.audio]] > 1:  # only these can have the same content
                keys[digest(item.audio), item.start, item.end] = item
        for key, item in keys.items():
            if key in seen:
                raise UserError(
                    f"the utterance {item.name} ({item.audio}) is in {seen[key]} and in {subset}: remove it from one"
                )
        seen.update(dict.fromkeys(keys, subset))


def fits_wav_scp(path: str) -> bool:
    """Whether ESPnet's and Kaldi's ``wav.scp`` can hold a path: without white space and unprintable characters."""
    return len(path.split()) == 1 and path.isprintable()


def check_path(path: Path) -> None:
    """Refuses a path that a ``wav.scp`` cannot hold.

    Raises:
        UserError: it has white space or unprintable characters.
    """
    if not fits_wav_scp(str(path.absolute())):
        raise UserError(
            f"the path {str(path.absolute())!r} has white space or unprintable characters, which ESPnet's wav.scp "
            "cannot hold: choose a folder without them for --workdir and --corpus"
        )


def write_data_dir(folder: Path, utterances: Iterable[Utterance]) -> None:
    """Writes ``wav.scp``, ``text`` and ``utt2spk``, sorted by utterance, as ESPnet and Kaldi have them.

    Raises:
        UserError: a name that occurs twice, or a path with white space or unprintable characters, which these
            files cannot hold.
    """
    ordered = sorted(utterances, key=lambda item: item.name)
    check_names(ordered)
    for item in ordered:
        check_path(item.audio)
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Callable[[Utterance], str]] = {
        "wav.scp": lambda item: str(item.audio.absolute()),
        "utt2spk": lambda item: item.speaker,
        "text": lambda item: item.text,
    }
    for name, column in columns.items():
        (folder / name).write_text("".join(f"{item.name} {column(item)}\n" for item in ordered), encoding="utf-8")

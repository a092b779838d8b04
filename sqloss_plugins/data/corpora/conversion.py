"""Audio of any sample rate and number of channels, and parts of files, as mono files at one rate."""

from __future__ import annotations

import io
import math
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqloss_plugins.data.corpora.checks import check_path, fits_wav_scp, inspect_audio
from sqloss_plugins.data.corpora.corpus import Utterance
from sqloss_plugins.errors import UserError

MIX = "mix"
_TAKEN_AS_THEY_ARE = ("WAV", "WAVEX", "FLAC")  # others are slow to decode, or imprecise to seek in
_ROUNDING_S = 0.05  # by so much a part may end behind the end of its file


def convert_audio(
    utterances: Sequence[Utterance],
    folder: Path,
    nj: int,
    on_progress: Callable[[], object] | None,
    sample_rate: int,
    channel: str | None,
) -> tuple[list[Utterance], list[int]]:
    """Decodes every file once; writes as FLAC, 16 bits, what is not a whole mono file at the sample rate.

    Args:
        utterances: what to take.
        folder: where files are written, as ``audio/NAME.flac``; what is there is removed.
        nj: threads.
        on_progress: called after each utterance.
        sample_rate: of what is returned, in Hz.
        channel: number of the channel to take, from 0 on, or :data:`MIX` for the mean of all; None: audio must be mono.

    Returns:
        The utterances, each a whole mono file at the sample rate, and the number of samples of each.

    Raises:
        UserError: a file that cannot be read, is empty or cut short, or has NaN or infinite samples; several channels
            and none is chosen; a part that is not in its file.
    """
    target = folder / "audio"
    shutil.rmtree(target, ignore_errors=True)
    by_file: dict[Path, list[Utterance]] = {}
    for item in utterances:
        by_file.setdefault(item.audio, []).append(item)
    found: dict[str, tuple[Utterance, int]] = {}
    with ThreadPoolExecutor(nj) as pool:
        for group in pool.map(lambda items: _convert_file(items, target, sample_rate, channel), by_file.values()):
            for item, samples in group:
                found[item.name] = (item, samples)
                if on_progress:
                    on_progress()
    pairs = [found[item.name] for item in utterances]
    return [item for item, _ in pairs], [samples for _, samples in pairs]


def _convert_file(
    items: Sequence[Utterance], target: Path, sample_rate: int, channel: str | None
) -> list[tuple[Utterance, int]]:
    """The utterances of one file.

    Raises:
        UserError: see :func:`convert_audio`; with the line that names the file.
    """
    found: list[tuple[Utterance, int]] = []
    for item in items:
        try:
            if not found:
                info = _inspect(item.audio, channel)
            found.append(_convert(item, info, target, sample_rate, channel))
        except UserError as error:
            raise UserError(f"{item.where}: {error}" if item.where else str(error)) from error
    return found


def _inspect(path: Path, channel: str | None) -> Any:
    info = inspect_audio(path)
    if channel is None and info.channels != 1:
        raise UserError(
            f"{path} has {info.channels} channels: choose one by --audio_channel 0 or 1, or the mean of all by "
            f"--audio_channel {MIX}"
        )
    if channel not in (None, MIX) and int(channel) >= info.channels:
        raise UserError(f"{path} has {info.channels} channel(s): there is no --audio_channel {channel}, counted from 0")
    return info


def _convert(item: Utterance, info: Any, target: Path, sample_rate: int, channel: str | None) -> tuple[Utterance, int]:
    path = str(item.audio.absolute())
    is_plain = info.channels == 1 and info.samplerate == sample_rate and info.format in _TAKEN_AS_THEY_ARE
    is_whole = item.start == 0 and item.end is None
    if is_plain and is_whole and fits_wav_scp(path):
        return item, int(info.frames)
    audio = target / f"{item.name}.flac"
    check_path(audio)
    samples = resample(_read(item, info, channel), info.samplerate, sample_rate)
    write_flac(audio, samples, sample_rate)
    return replace(item, audio=audio, start=0.0, end=None), len(samples)


def _read(item: Utterance, info: Any, channel: str | None) -> Any:
    """The samples of an utterance at the file's rate, shape (n,), float64."""
    import soundfile

    seconds = info.frames / info.samplerate
    end = seconds if item.end is None else item.end
    first, last = round(item.start * info.samplerate), min(round(end * info.samplerate), info.frames)
    if not 0 <= first < last or end > seconds + _ROUNDING_S:
        raise UserError(
            f"{item.name} is from {item.start:g} to {end:g} s of {item.audio}, which has {seconds:.2f} s: put it right"
        )
    samples, _ = soundfile.read(item.audio, start=first, stop=last, always_2d=True, dtype="float64")
    return samples.mean(axis=1) if channel == MIX else samples[:, int(channel or 0)]


def resample(samples: Any, rate: int, target_rate: int) -> Any:
    """Samples at another rate, by a polyphase filter.

    Args:
        samples: shape (n,), floating point.
        rate: theirs, in Hz.
        target_rate: of the result, in Hz.

    Returns:
        Shape (ceil(n target_rate / rate),).
    """
    from scipy.signal import resample_poly

    common = math.gcd(rate, target_rate)
    up, down = target_rate // common, rate // common
    return samples if up == down else resample_poly(samples, up, down)


def write_flac(path: Path, samples: Any, sample_rate: int) -> None:
    """Writes samples as FLAC, 16 bits; the file is there when it is whole.

    Args:
        path: the file; its folder is made.
        samples: shape (n,), floating point; what is outside [-1, 1] is clipped.
        sample_rate: in Hz.

    Raises:
        OSError: the file cannot be written; the disk is full, for instance.
    """
    import numpy as np
    import soundfile

    # In memory first: on a full disk libsndfile may leave part of a FLAC file without an error.
    content = io.BytesIO()
    soundfile.write(content, np.clip(samples, -1.0, 1.0), sample_rate, subtype="PCM_16", format="FLAC")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(content.getvalue())
    os.replace(partial, path)

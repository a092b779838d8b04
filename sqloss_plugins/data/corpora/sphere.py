"""NIST SPHERE, the audio format of LDC's corpora: its header, writing it, and decoding what is compressed.

libsndfile reads uncompressed SPHERE, whatever the file's suffix, but does not notice that a file is shorter than its
header says. It does not read what is compressed by shorten, as the files of WSJ are when LDC ships them
(``sample_coding -s26 pcm,embedded-shorten-v1.09``): another program decodes these.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqloss_plugins.errors import UserError

_MAGIC = b"NIST_1A\n"
_SIZE_LENGTH = 8  # of the second line, which says how long the header is
# What reads embedded shorten and writes WAV. SoX does not read it.
_DECODERS = {
    "sph2pipe": ("-p", "-f", "wav", "{source}", "{target}"),
    "ffmpeg": ("-nostdin", "-v", "error", "-y", "-i", "{source}", "-c:a", "pcm_s16le", "-f", "wav", "{target}"),
}


@dataclass(frozen=True)
class SphereHeader:
    """What the header of a SPHERE file says.

    Attributes:
        sample_count: samples of each channel, once they are decoded.
        coding: ``pcm``, ``ulaw``, ... and, after a comma, how that is compressed.
    """

    sample_count: int
    coding: str

    @property
    def is_compressed(self) -> bool:
        """Whether the samples are compressed, so that libsndfile does not read them."""
        return "," in self.coding


def read_header(path: Path) -> SphereHeader | None:
    """The header of a SPHERE file; None for a file of another format.

    Raises:
        UserError: the file cannot be read, or its header is damaged.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            size = file.read(_SIZE_LENGTH).strip()
            header = file.read(int(size) - file.tell()) if size.isdigit() and int(size) > file.tell() else b""
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    lines = [line.split(maxsplit=2) for line in header.decode("latin-1").split("\n")]
    if ["end_head"] not in lines:
        raise UserError(f"{path} has a damaged SPHERE header: there is no end_head")
    fields = {words[0]: words[2].strip() for words in lines[: lines.index(["end_head"])] if len(words) == 3}
    try:
        return SphereHeader(
            sample_count=int(fields["sample_count"]),
            coding=fields.get("sample_coding", "pcm"),  # TIMIT's headers say nothing of it
        )
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} has a damaged SPHERE header: {error}") from error


def write_sphere(path: Path, samples: Any, sample_rate: int) -> None:
    """Writes uncompressed 16-bit SPHERE, little-endian, with a header of 1024 bytes.

    Args:
        path: the file, whatever its suffix.
        samples: shape (n,), int16, or floating point in [-1, 1].
        sample_rate: in Hz.

    Raises:
        OSError: the file cannot be written; the disk is full, for instance.
    """
    import soundfile

    content = io.BytesIO()  # libsndfile does not say that a disk is full
    soundfile.write(content, samples, sample_rate, format="NIST", subtype="PCM_16", endian="LITTLE")
    path.write_bytes(content.getvalue())


def find_decoder() -> str | None:
    """The path of a program that decodes compressed SPHERE; None where there is none."""
    return next((found for found in map(shutil.which, _DECODERS) if found), None)


def decode(source: Path, target: Path, decoder: str) -> None:
    """Decodes a SPHERE file to 16-bit WAV.

    Args:
        source: the file.
        target: the WAV file, which is there when it is whole.
        decoder: of :func:`find_decoder`.

    Raises:
        UserError: the file is not SPHERE, the program fails, or it finds fewer samples than the header says.
    """
    import soundfile

    header = read_header(source)
    if header is None:
        raise UserError(f"{source} is not NIST SPHERE, which begins with NIST_1A")
    partial = target.with_name(f".{target.name}.partial")
    words = [word.format(source=source.absolute(), target=partial) for word in _DECODERS[Path(decoder).stem]]
    ended = subprocess.run([decoder, *words], capture_output=True, text=True, errors="replace")
    try:
        found = soundfile.info(partial).frames if ended.returncode == 0 else None
    except soundfile.LibsndfileError:
        found = None
    if found is None:
        said = ended.stderr.strip().rpartition("\n")[2] or f"it ended with status {ended.returncode}"
        raise UserError(f"{source} cannot be decoded by {decoder}: {said}")
    if found != header.sample_count:
        raise UserError(f"{source} is cut short: {decoder} finds {found} of {header.sample_count} samples")
    os.replace(partial, target)

"""NIST SPHERE, the audio format of the LDC's corpora: a header in ASCII, then the samples.

libsndfile reads it, but neither what is compressed with shorten, nor whether the file is as long as its header says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqloss_plugins.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = b"NIST_1A\n"
_HEADER_BYTES = 1024


def declared_samples(path: Path) -> int | None:
    """How many samples a channel has by its header; None where that does not say, and for other formats.

    Raises:
        OSError: the file cannot be read.
        UserError: it is compressed with shorten, which libsndfile cannot read.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if not head.startswith(_MAGIC):
        return None
    fields: dict[str, str] = {}
    for line in head.decode("latin-1").split("\n")[2:]:
        name, _, typed = line.partition(" ")
        if name == "end_head":
            break
        fields[name] = typed.partition(" ")[2].strip()
    if "shorten" in fields.get("sample_coding", ""):
        raise UserError(
            f"{path} is compressed with shorten, which libsndfile cannot read: convert it, for instance with "
            "sph2pipe -p -f wav, and put the result in its place"
        )
    count = fields.get("sample_count", "")
    return int(count) if count.isdigit() else None


def write_sphere(path: Path, samples: NDArray[Any], sample_rate: int) -> None:
    """Writes mono audio.

    Args:
        path: the file.
        samples: shape (n,), floating point, in [-1, 1].
        sample_rate: in Hz.
    """
    import numpy as np

    data = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2")
    fields = {
        "channel_count": "-i 1",
        "sample_count": f"-i {len(data)}",
        "sample_rate": f"-i {sample_rate}",
        "sample_n_bytes": "-i 2",
        "sample_byte_format": "-s2 01",  # little-endian
        "sample_sig_bits": "-i 16",
        "sample_coding": "-s3 pcm",
    }
    lines = ["NIST_1A", f"{_HEADER_BYTES:7d}", *(f"{name} {value}" for name, value in fields.items()), "end_head", ""]
    path.write_bytes("\n".join(lines).encode("ascii").ljust(_HEADER_BYTES) + data.tobytes())

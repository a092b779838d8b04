"""Archives from public servers: downloads that go on where they ended, are checked, and unpacked into their folder."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path

_WAIT_S = 60
_BLOCK = 1 << 20


def fetch(url: str, path: Path, md5: str | None = None) -> None:
    """Downloads a file, once. What came before the connection broke is kept beside it, and the next call goes on.

    Args:
        url: of the file.
        path: where it goes.
        md5: its published checksum in hexadecimal digits; None where none is published.

    Raises:
        OSError: the server cannot be reached, the connection broke, or the file has another checksum.
    """
    if path.is_file() and (md5 is None or md5_of(path) == md5):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        total = _go_on(url, partial)
    except http.client.HTTPException as error:
        raise OSError(f"{url} broke off: {error!r}") from error
    size = partial.stat().st_size
    if total is not None and size < total:
        raise OSError(f"{url} broke off after {size} of {total} bytes")
    if (total is not None and size > total) or (md5 and md5_of(partial) != md5):
        partial.unlink()
        raise OSError(f"{url} is damaged: it has not the checksum or size that is published")
    os.replace(partial, path)


def _go_on(url: str, partial: Path) -> int | None:
    """Appends what is missing; returns the size of the whole in bytes, None where the server does not say."""
    from tqdm import tqdm

    start = partial.stat().st_size if partial.is_file() else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_WAIT_S)
    except urllib.error.HTTPError as error:
        whole = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and whole.isdigit():
            return int(whole)  # nothing is missing
        raise
    with answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # a server that sends the whole whatever is asked for
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            partial.open("ab" if start else "wb") as file,
            tqdm(total=total, initial=start, desc=f"  {partial.name[1:-8]}", unit="B", unit_scale=True) as bar,
        ):
            while block := answer.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    return total


def md5_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar archive; a member whose path or link leads out of the folder is refused.

    Args:
        archive: may be compressed.
        folder: where its members go.

    Raises:
        OSError: it is no archive, is damaged, or has such a member; what was unpacked before stays.
    """
    try:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise OSError(f"{archive} cannot be unpacked, remove it: {error}") from error

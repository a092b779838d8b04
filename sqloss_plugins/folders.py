"""The folder of a run: which run it belongs to, of which data it was made, and which process may work in it.

And what a folder of data is called.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sqloss_plugins.errors import UserError, brief
from sqloss_plugins.results import remove_partial_files, write_json, write_text

SETTINGS_NAME = "settings.json"
SPLIT_NAMES = ("train", "training", "val", "validation", "valid", "dev", "test")
"""How folders are called that have a part of the data."""
_MADE_OF_NAME = "made_of.txt"


def name_of_data(path: Path) -> str:
    """The name of a folder or file of data: of a part of it that of the folder it is in; without a file's suffix."""
    path = path.resolve()
    path = path.parent if path.name.lower() in SPLIT_NAMES else path
    return path.name if path.is_dir() else path.stem


def claim_folder(
    folder: Path,
    settings: Mapping[str, Any],
    kept: Sequence[str],
    option: str = "--output_dir",
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Makes a folder the folder of one run, or refuses it; to be called under the folder's lock.

    Writes the settings file, and removes partial files of a process that was killed. A folder that has a settings file
    but none of the ``kept`` files is free: the run that wrote them failed before it made anything.

    Args:
        folder: made if it is not there.
        settings: everything that decides the result, as JSON has it.
        kept: patterns of the files that show that a run has begun.
        option: the option that names another folder, for the messages.
        defaults: settings that count where the folder's file has none, because there was no option for them when an
            earlier version began the run.

    Raises:
        UserError: the folder cannot be written, or has another run in it.
    """
    _make_writable(folder)
    remove_partial_files(folder)
    if not _has_any(folder, kept):
        write_json(folder / SETTINGS_NAME, settings)
        return
    check_settings(folder, settings, option, defaults)


def check_settings(
    folder: Path, settings: Mapping[str, Any], option: str, defaults: Mapping[str, Any] | None = None
) -> None:
    """Refuses a folder that other settings than these have claimed; writes nothing.

    Arguments are those of :func:`claim_folder`.

    Raises:
        UserError: the folder has another run in it, or no settings file.
    """
    path = folder / SETTINGS_NAME
    if not path.is_file():
        raise UserError(
            f"the output folder {folder} holds checkpoints or results of something else: choose another {option}"
        )
    earlier = {name: value for name, value in (defaults or {}).items() if name in settings} | read_settings(path)
    changed = sorted(key for key in settings.keys() | earlier.keys() if settings.get(key) != earlier.get(key))
    if changed:
        # Some settings are whole configurations.
        pairs = [(key, brief(earlier.get(key), 120), brief(settings.get(key), 120)) for key in changed[:3]]
        differences = ", ".join(f"{key} {before} -> {now}" for key, before, now in pairs)
        raise UserError(
            f"the output folder {folder} holds another run ({differences}{', ...' if len(changed) > 3 else ''}): "
            f"choose another {option}, or remove that one"
        )


def check_made_of(folder: Path, fingerprint: str, made: Sequence[str]) -> None:
    """Refuses what was made of data that have since been prepared anew, from something else; notes what it is made of.

    Unlike :func:`claim_folder`, it is for what follows from the data alone, whatever the options are.

    Args:
        folder: of what is made.
        fingerprint: of the data that it is made of, as they are now.
        made: patterns of its files; where there are none the folder is free.

    Raises:
        UserError: it was made of other data.
    """
    noted = read_made_of(folder)
    if noted == fingerprint:
        return
    if noted is not None and _has_any(folder, made):
        raise UserError(
            f"{folder} was made of other data than those that are prepared now: remove that folder, and give the same "
            "command again"
        )
    note_made_of(folder, fingerprint)


def read_made_of(folder: Path) -> str | None:
    """The fingerprint of the data that a folder is made of; None where none is noted."""
    path = folder / _MADE_OF_NAME
    return path.read_text(encoding="utf-8") if path.is_file() else None


def note_made_of(folder: Path, fingerprint: str) -> None:
    """Writes the fingerprint of the data that a folder is made of; to be called before anything else is made there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _MADE_OF_NAME, fingerprint)


def _has_any(folder: Path, patterns: Sequence[str]) -> bool:
    return any(any(folder.glob(pattern)) for pattern in patterns)


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to the output folder {folder}: {error.strerror or error}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a folder was claimed with.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except (OSError, ValueError, RecursionError):
        pass
    raise UserError(f"{path} is damaged, so that it cannot be told which run is in its folder: choose another folder")


@contextmanager
def lock_folder(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keeps other processes out of a folder while the block runs; the lock also ends with its process, however it ends.

    Call :func:`claim_folder` within the block, so that a process without the lock changes nothing.

    Args:
        folder: made if it is not there.
        wait: wait until another process has released it, rather than refuse.

    Raises:
        UserError: another process works there, or the folder cannot be written or locked.
    """
    _make_writable(folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise UserError(f"another process is at work in {folder}: wait for it, or choose another folder") from error
        print(f"Another process is at work in {folder}: waiting for it.", flush=True)
        lock.acquire()
    except OSError as error:  # the file is another user's, say
        raise UserError(f"cannot lock the folder {folder}: {error}") from error
    try:
        yield
    finally:
        lock.release()

"""Whose folder is it: settings beside what they made, and one process at a time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sqloss_plugins.errors import UserError
from sqloss_plugins.results import write_json

SETTINGS_NAME = "settings.json"


def claim_folder(folder: Path, settings: Mapping[str, Any], kept: Sequence[str], option: str = "--output_dir") -> None:
    """Makes the folder this run's, or refuses it; nothing in it is changed but the settings file.

    Settings alone, with nothing made beside them, are what a start that failed leaves: they bind nobody.

    Args:
        folder: made if it is not there.
        settings: everything that decides the result, as JSON has it.
        kept: patterns of the files that make a folder somebody's.
        option: the one that names another folder, for the messages.

    Raises:
        UserError: the folder cannot be written, or has another run in it.
    """
    path = folder / SETTINGS_NAME
    _make_writable(folder)
    is_used = any(any(folder.glob(name)) for name in kept)
    if not is_used:
        write_json(path, settings)
    elif path.is_file():
        theirs = read_settings(path)
        changed = sorted(key for key in settings.keys() | theirs.keys() if settings.get(key) != theirs.get(key))
        if changed:
            pairs = [(key, _brief(theirs.get(key)), _brief(settings.get(key))) for key in changed[:3]]
            differences = ", ".join(f"{key} {their} -> {our}" for key, their, our in pairs)
            raise UserError(
                f"the output folder {folder} holds another run ({differences}{', ...' if len(changed) > 3 else ''}): "
                f"choose another {option}, or remove that one"
            )
    else:
        raise UserError(
            f"the output folder {folder} holds checkpoints or results of something else: choose another {option}"
        )


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to the output folder {folder}: {error.strerror or error}") from error


def _brief(setting: object) -> str:
    """For a message: some settings are whole configurations."""
    text = repr(setting)
    return text if len(text) <= 120 else f"{text[:80]} ... {text[-35:]}"


def read_settings(path: Path) -> dict[str, Any]:
    """What a folder was claimed with.

    Raises:
        UserError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except (OSError, ValueError):
        pass
    raise UserError(f"{path} is damaged, so that nobody can tell whose run is there: choose another folder")


@contextmanager
def lock_folder(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keeps other processes out of the folder for the length of the block, or until this one ends, however it ends.

    What a folder is claimed with is written within the block: else a process that is then refused has written it, too.

    Args:
        folder: made if it is not there.
        wait: wait for another process to release it, rather than give up.

    Raises:
        UserError: another process is at work there, or the folder cannot be written.
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
    try:
        yield
    finally:
        lock.release()

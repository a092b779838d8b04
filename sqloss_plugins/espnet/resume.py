"""What ESPnet's training lacks to be safe against a kill at any moment."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from espnet2.train.reporter import Reporter

from sqloss_plugins.errors import run_command
from sqloss_plugins.espnet.jobs import die_with_parent


def prepare_process(name: str) -> None:
    """For the top of a module that trains, which the processes that ESPnet starts for several GPUs import, too.

    Args:
        name: the module's ``__name__``.
    """
    make_saves_atomic()
    if name == "__mp_main__":  # so multiprocessing calls the main module in the processes that it starts
        die_with_parent()


def make_saves_atomic() -> None:
    """Makes ``torch.save`` to a path leave the old file or the whole new one, in this process.

    ESPnet overwrites its only ``checkpoint.pth`` in place after every epoch.
    """
    plain = torch.save
    if hasattr(plain, "is_atomic"):
        return

    def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(f, str | os.PathLike):
            return plain(obj, f, *args, **kwargs)
        partial = f"{os.fspath(f)}.partial"
        plain(obj, partial, *args, **kwargs)
        return os.replace(partial, f)

    save.is_atomic = True  # type: ignore[attr-defined]
    torch.save = save


def repair_checkpoint(folder: Path) -> None:
    """Completes what a kill between two files of one epoch left: the epoch's model, which is averaged later.

    A checkpoint that cannot be read, which only other hands can have made, is left for ESPnet to complain about.
    """
    try:
        state = torch.load(folder / "checkpoint.pth", map_location="cpu", weights_only=False)
        epoch = int(state["reporter"]["epoch"])
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile):
        return
    model = folder / f"{epoch}epoch.pth"
    if epoch and not model.exists():
        torch.save(state["model"], model)


def trained(folder: Path) -> tuple[int, float]:
    """Epochs that a run has, and the seconds of their training and validation, in all processes together."""
    state = torch.load(folder / "checkpoint.pth", map_location="cpu", weights_only=False, mmap=True)
    reporter = Reporter()
    reporter.load_state_dict(state["reporter"])
    splits = [split for epoch in reporter.stats.values() for split in epoch.values()]
    return reporter.get_epoch(), sum(split["time"].total_seconds() for split in splits)


def run_training(program: str, task: Any, cmd: Sequence[str] | None) -> int:
    """Runs an ESPnet task's training on a command line, after repairs; returns the exit status.

    Args:
        program: the name that errors begin with.
        task: ``ASRTask``, ``LMTask``, ...
        cmd: the arguments, by default the process's.
    """
    arguments = list(sys.argv[1:] if cmd is None else cmd)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path)

    def train() -> None:
        folder = parser.parse_known_args(arguments)[0].output_dir
        if folder:
            repair_checkpoint(folder)
        task.main(cmd=arguments)

    return run_command(program, train)

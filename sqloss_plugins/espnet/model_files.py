"""A trained model's two files, ``config.yaml`` and the model: what is wrong with them is said in one sentence."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sqloss_plugins.command_line import read_mapping
from sqloss_plugins.errors import UserError


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.yaml`` of a training.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    content = read_mapping(path)
    lacking = [name for name in ("token_list", "model_conf") if name not in content]
    if lacking:
        raise UserError(f"{path} is not the config.yaml of a training: it has no {lacking[0]}")
    return content


def sample_rate(frontend_conf: Mapping[str, Any]) -> float:
    """The sample rate of a front end, in Hz.

    Args:
        frontend_conf: of a training's configuration; ``fs`` is a number or text such as ``16k``, by default 16k.

    Raises:
        UserError: ``fs`` is no rate.
    """
    fs = frontend_conf.get("fs", "16k")
    number = str(fs).strip().lower().removesuffix("hz").strip()
    try:
        return 1000 * float(number.removesuffix("k")) if number.endswith("k") else float(number)
    except ValueError:
        raise UserError(f"frontend_conf: fs must be a sample rate such as 16k, got {fs!r}") from None


def check_sample_rate(frontend_conf: Mapping[str, Any], rate: int) -> None:
    """Refuses a front end for audio of another sample rate; ESPnet makes its filters for ``fs``, whatever comes.

    Args:
        frontend_conf: as :func:`sample_rate` takes it.
        rate: of the audio, in Hz.

    Raises:
        UserError: the two differ, or ``fs`` is no rate.
    """
    if sample_rate(frontend_conf) != rate:
        fs = frontend_conf.get("fs", "16k")
        raise UserError(f"frontend_conf: fs is {fs}, and the audio has {rate} Hz: the two must be the same")


def read_state(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of a model file, on the CPU.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        # A file that was cut short has an errno as well, of which the words do not help.
        reason: str | None = "it is damaged or something else"
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            reason = error.strerror
        raise UserError(f"{path} cannot be read as a model file: {reason}") from error
    # Checkpoints of DeepSpeed, and of Lightning, with which ESPnet3 trains, have them inside.
    for name in ("module", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is not a model file: it holds something else than named tensors")
    return dict(state)


def load_state(model: nn.Module, state: Mapping[str, Tensor], config: Path, model_file: Path) -> None:
    """Loads a model's parameters, or refuses those of another configuration.

    ESPnet takes a file that lacks parameters, and leaves those random.

    Args:
        model: that the configuration describes; changed in place.
        state: what :func:`read_state` read.
        config, model_file: where the two are from, for the message.

    Raises:
        UserError: with the first name that has another shape, is missing, or is too many.
    """
    wanted = model.state_dict()
    reason = None
    others = [name for name, value in state.items() if name in wanted and value.shape != wanted[name].shape]
    if others:
        found, needed = tuple(state[others[0]].shape), tuple(wanted[others[0]].shape)
        reason = f"{others[0]} has the shape {found}, and that model's has {needed}"
    else:
        # ESPnet's modules know the names that earlier versions gave their parameters.
        lacking, further = model.load_state_dict(state, strict=False)
        if lacking:
            reason = f"it lacks {min(lacking)}"
        elif further:
            reason = f"it has {min(further)}, which that model has not"
    if reason:
        raise UserError(f"{model_file} does not fit {config}: {reason}")


def load_model(config: Path, model_file: Path, device: str = "cpu", task: Any = None) -> tuple[Any, argparse.Namespace]:
    """A trained model, in evaluation mode, and its training's arguments.

    Args:
        config, model_file: its files.
        device: PyTorch's name of where it goes.
        task: ESPnet's class of the task; None for speech recognition.

    Raises:
        UserError: a file that cannot be read or is something else; a model that does not fit its configuration.
    """
    from espnet2.tasks.asr import ASRTask

    import sqloss_plugins.espnet.model  # noqa: F401  (registers the model)

    arguments = argparse.Namespace(**read_config(config))
    state = read_state(model_file)
    try:
        model = (task or ASRTask).build_model(arguments)
    except UserError:
        raise
    except Exception as error:  # whatever ESPnet's classes make of wrong values
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"ESPnet cannot build the model of {config}: {reason}") from error
    load_state(model, state, config, model_file)
    return model.to(device).eval(), arguments


@contextmanager
def told_of_files(*pairs: tuple[Any, Any]) -> Iterator[None]:
    """Where the block fails because of a model's files, says so in one sentence; other errors pass.

    Args:
        *pairs: configuration and model file, or None, of each model that the block loads.

    Raises:
        UserError: one of the files cannot be read, or is something else.
    """
    try:
        yield
    except UserError:
        raise
    except Exception:
        for config, model_file in pairs:
            if config is not None:
                read_config(Path(config))
            if model_file is not None:
                read_state(Path(model_file))
        if pairs and None not in pairs[0]:
            load_model(Path(pairs[0][0]), Path(pairs[0][1]))
        raise

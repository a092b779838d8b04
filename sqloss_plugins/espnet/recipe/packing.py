"""Stage 9: the trained model as one archive, which plain ESPnet and ``espnet_model_zoo`` load wherever it lies.

It holds the model as :mod:`sqloss_plugins.espnet.bin.asr_export` makes it, its token model, the statistics of its
features, the language model, and the settings of its decoding. The files name each other by relative paths, which
ESPnet makes those of the place where it unpacks them.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from espnet2.main_funcs import pack_funcs

from sqloss_plugins.command_line import read_mapping
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.bin.asr_export import export
from sqloss_plugins.results import Result

PLAIN_METHODS = ("softmax", "temperature")
"""What plain ESPnet can decode by: softmax, of outputs that an exported model may have divided by a temperature."""

_CONFIG, _MODEL = "config.yaml", "model.pth"
_LM = "language_model"  # a word that no token is: ESPnet takes whatever equals a packed path for one
_DECODING = "decode_asr.yaml"
# Where the training had its data, which are no part of the archive.
_OF_TRAINING: dict[str, Any] = {
    **dict.fromkeys(("config", "output_dir")),
    **{f"{split}_data_path_and_name_and_type": [] for split in ("train", "valid")},
    **{f"{split}_shape_file": [] for split in ("train", "valid")},
    "init_param": [],
}


def plain_method(result: Result, methods: Sequence[str]) -> str:
    """Of the methods, the one that plain ESPnet can have with the best value on the development set.

    Args:
        result: of the run.
        methods: those that may be chosen.

    Raises:
        UserError: plain ESPnet has none of them, or none of those it has was decoded.
    """
    plain = [method for method in methods if method in PLAIN_METHODS]
    if not plain:
        raise UserError(
            f"plain ESPnet, for which the archive is, cannot decode by the method {' or '.join(methods)}: "
            f"give --method auto, {' or '.join(PLAIN_METHODS)}"
        )
    if len(plain) == 1:
        return plain[0]
    values = {name: found.get(result.selection) for name, found in result.metrics["validation"].items()}
    decoded = {method: value for method in plain if (value := values.get(method)) is not None}
    if not decoded:
        raise UserError(f"the development set was decoded by none of {', '.join(plain)}: begin with --stage 7")
    return list(decoded)[result.metric(result.selection).best(list(decoded.values()))]


def pack(
    config: Path,
    model: Path,
    temperature: float,
    language_model: tuple[Path, Path] | None,
    decoding: Mapping[str, Any],
    further: Sequence[Path],
    archive: Path,
) -> None:
    """Writes the archive; an earlier one is there until the new one is whole.

    Args:
        config, model: of the trained model.
        temperature: T, by which the outputs are divided.
        language_model: its configuration and model; None for none.
        decoding: the settings of decoding, which are kept as a file for people.
        further: files that are kept as they are.
        archive: a path that ends in ``.zip``.

    Raises:
        UserError: a file that cannot be read, or a folder that cannot be written.
    """
    folder = archive.parent / ".pack"
    shutil.rmtree(folder, ignore_errors=True)
    export(config, model, folder, temperature)
    files, configs = {"asr_model_file": _MODEL}, {"asr_train_config": _CONFIG}
    try:
        _name_by_relative_paths(folder / _CONFIG, folder)
        if language_model:
            (folder / _LM).mkdir()
            files["lm_file"], configs["lm_train_config"] = f"{_LM}/{_MODEL}", f"{_LM}/{_CONFIG}"
            for source, name in zip(language_model, (_CONFIG, _MODEL), strict=True):
                shutil.copyfile(source, folder / _LM / name)
            _name_by_relative_paths(folder / _LM / _CONFIG, folder)
        (folder / _DECODING).write_text(yaml.safe_dump(dict(decoding), sort_keys=False), encoding="utf-8")
        for path in further:
            shutil.copyfile(path, folder / path.name)
        taken = {*files.values(), *configs.values()}
        options = [path.name for path in sorted(folder.iterdir()) if path.is_file() and path.name not in taken]
        # ESPnet names files by their paths from the current folder.
        with chdir(folder), redirect_stdout(io.StringIO()):
            pack_funcs.pack(files, configs, archive.name, options)
        os.replace(folder / archive.name, archive)
    except OSError as error:
        raise UserError(f"cannot write the archive {archive}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _name_by_relative_paths(config: Path, folder: Path) -> None:
    """Has a configuration name the files of the folder by relative paths, and forget its training's data."""
    content = {**read_mapping(config), **_OF_TRAINING}
    if content.get("bpemodel"):  # the language model's is that of the recipe
        content["bpemodel"] = Path(content["bpemodel"]).name
    for path in folder.iterdir():
        content = pack_funcs.find_path_and_change_it_recursive(content, str(path.absolute()), path.name)
    config.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

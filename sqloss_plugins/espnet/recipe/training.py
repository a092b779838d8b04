"""Stages 4 to 6: the features' statistics, the language model and the training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet2.bin.aggregate_stats_dirs import aggregate_stats_dirs

from sqloss_plugins.espnet.jobs import Job, run_jobs
from sqloss_plugins.espnet.recipe.error_rates import read_text
from sqloss_plugins.espnet.recipe.parsing import read_lm_text
from sqloss_plugins.espnet.recipe.paths import DataFolder, RunFolder
from sqloss_plugins.espnet.resume import accuracies, trained
from sqloss_plugins.folders import SETTINGS_NAME, check_settings, claim_folder, lock_folder
from sqloss_plugins.results import device_name, versions, write_json

BINS = "sqloss_plugins.espnet.bin"
DONE = ".done"  # in a folder of several files: written last


# ---------------------------------------------------------------- 4 statistics


def collect_statistics(
    train: Path,
    dev: Path,
    data: DataFolder,
    stats_dir: Path,
    training_arguments: Sequence[str],
    what: Mapping[str, Any],
    nj: int,
) -> None:
    """Collects the lengths of all utterances, and mean and variance of the features.

    Args:
        train, dev: folders of the two subsets.
        data: the tokens.
        stats_dir: where the statistics go; what is there is made anew.
        training_arguments: of ESPnet's training.
        what: what decides the statistics; written beside them.
        nj: processes.
    """
    shutil.rmtree(stats_dir, ignore_errors=True)
    stats_dir.mkdir()
    write_json(stats_dir / SETTINGS_NAME, what)
    count = min(nj, *(len(read_text(folder / "wav.scp")) for folder in (train, dev)))
    parts = split_keys(train / "wav.scp", stats_dir / "keys", "train", count)
    dev_parts = split_keys(dev / "wav.scp", stats_dir / "keys", "dev", count)
    jobs = []
    for i, (part, dev_part) in enumerate(zip(parts, dev_parts, strict=True)):
        arguments = ["--collect_stats", "true", *training_arguments, *data.token_arguments()]
        arguments += ["--ngpu", "0", "--normalize", "none"]  # normalisation needs what is collected here
        arguments += ["--output_dir", str(stats_dir / f"part{i}")]
        arguments += [*_speech_and_text("train", train), *_speech_and_text("valid", dev)]
        arguments += ["--train_shape_file", str(part), "--valid_shape_file", str(dev_part)]
        jobs.append(Job(f"{BINS}.asr_train", arguments, stats_dir / f"part{i}.log"))
    run_jobs(jobs, nj)
    aggregate_stats_dirs([str(stats_dir / f"part{i}") for i in range(len(parts))], str(stats_dir), "WARNING", False)
    for split in ("train", "valid"):
        _append_vocabulary(stats_dir / split / "text_shape", len(data.tokens))


def _speech_and_text(split: str, folder: Path) -> list[str]:
    option = f"--{split}_data_path_and_name_and_type"
    return [option, f"{folder / 'wav.scp'},speech,sound", option, f"{folder / 'text'},text,text"]


def split_keys(scp: Path, folder: Path, name: str, parts: int) -> list[Path]:
    """The file's lines, dealt out to at most so many files of near equal length."""
    lines = scp.read_text(encoding="utf-8").splitlines(keepends=True)
    parts = max(1, min(parts, len(lines)))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(parts):
        paths.append(folder / f"{name}.{i}of{parts}.scp")
        paths[-1].write_text("".join(lines[len(lines) * i // parts : len(lines) * (i + 1) // parts]), encoding="utf-8")
    return paths


def _append_vocabulary(shapes: Path, size: int) -> None:
    """ESPnet's batching wants the number of tokens behind each text's length, in another file."""
    lines = shapes.read_text(encoding="utf-8").splitlines()
    target = shapes.with_name("text_shape.tokens")
    target.write_text("".join(f"{line},{size}\n" for line in lines), encoding="utf-8")


# ---------------------------------------------------------------- 5 language model


def _unwritten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What earlier versions did not write of a language model."""
    return {"tokens": settings["tokens"]}


def check_language_model(lm_exp: Path, settings: Mapping[str, Any]) -> None:
    """Refuses a finished language model of other settings, or of other tokens, which ``--lm_exp`` may name.

    Args:
        lm_exp: its folder.
        settings: what makes it this model, with a fingerprint of its ``tokens``.

    Raises:
        UserError: the folder has another model.
    """
    if (lm_exp / DONE).is_file():
        check_settings(lm_exp, settings, "--lm_exp", _unwritten(settings))


def train_language_model(
    train_text: Path,
    dev_text: Path,
    further_text: Path | None,
    data: DataFolder,
    lm_exp: Path,
    lm_arguments: Sequence[str],
    settings: Mapping[str, Any],
    ngpu: int,
) -> None:
    """Trains the language model, unless another process does so first; goes on from its last epoch after a kill.

    Args:
        train_text, dev_text: ``text`` of the two subsets.
        further_text: sentences beside the training text, one a line; None for none.
        data: the tokens.
        lm_exp: where the model goes, as ``model``.
        lm_arguments: of ESPnet's ``lm_train``.
        settings: what makes it this model, with a fingerprint of its ``tokens``.
        ngpu: GPUs; it uses at most one.

    Raises:
        UserError: the folder has another model.
    """
    with lock_folder(lm_exp, wait=True):  # --lm_exp may be of runs on several folders of data
        claim_folder(lm_exp, settings, ("stats/*", "model/*"), "--lm_exp", _unwritten(settings))
        if (lm_exp / DONE).is_file():
            return
        text = lm_exp / "train.txt"
        with text.open("w", encoding="utf-8") as file:
            file.write(train_text.read_text(encoding="utf-8"))
            for number, line in enumerate(read_lm_text(further_text) if further_text else ()):
                if line:
                    file.write(f"lm_text_{number:09d} {line}\n")
        _train_on(text, dev_text, data, lm_exp, lm_arguments, ngpu)
        (lm_exp / DONE).touch()


def _train_on(
    text: Path, dev_text: Path, data: DataFolder, lm_exp: Path, lm_arguments: Sequence[str], ngpu: int
) -> None:
    """ESPnet's two steps: the lengths of the sentences, and the training."""
    shared = [*lm_arguments, "--ngpu", str(min(ngpu, 1)), *data.token_arguments(of_language_model=True)]
    shared += ["--train_data_path_and_name_and_type", f"{text},text,text"]
    shared += ["--valid_data_path_and_name_and_type", f"{dev_text},text,text"]
    stats = lm_exp / "stats"
    if not (stats / DONE).is_file():
        shutil.rmtree(stats, ignore_errors=True)
        shapes = ["--train_shape_file", str(text), "--valid_shape_file", str(dev_text)]
        arguments = [*shared, "--ngpu", "0", "--collect_stats", "true", *shapes, "--output_dir", str(stats)]
        run_jobs([Job(f"{BINS}.lm_train", arguments, lm_exp / "stats.log")])
        for split in ("train", "valid"):
            _append_vocabulary(stats / split / "text_shape", len(data.tokens))
        (stats / DONE).touch()
    arguments = [*shared, "--resume", "true", "--output_dir", str(lm_exp / "model")]
    for split in ("train", "valid"):
        arguments += [f"--{split}_shape_file", str(stats / split / "text_shape.tokens")]
    run_jobs([Job(f"{BINS}.lm_train", arguments, lm_exp / "train.log")])


# ---------------------------------------------------------------- 6 training


def train_model(
    train: Path,
    dev: Path,
    data: DataFolder,
    stats_dir: Path,
    asr_exp: RunFolder,
    training_arguments: Sequence[str],
    has_global_mvn: bool,
    device: str,
) -> None:
    """Trains the model; goes on from its last epoch where it was killed.

    Args:
        train, dev: folders of the two subsets.
        data: the tokens.
        stats_dir: the statistics of stage 4.
        asr_exp: the folder of the run.
        training_arguments: of ESPnet's training.
        has_global_mvn: whether the features are normalised by those statistics.
        device: PyTorch's name of what it trains on.

    Raises:
        RunError: the training failed, or diverged.
    """
    arguments = [*training_arguments, *data.token_arguments(), "--resume", "true"]
    if has_global_mvn:
        arguments += ["--normalize_conf", f"stats_file={stats_dir / 'train' / 'feats_stats.npz'}"]
    for split, folder in (("train", train), ("valid", dev)):
        arguments += _speech_and_text(split, folder)
        for shape in ("speech_shape", "text_shape.tokens"):
            arguments += [f"--{split}_shape_file", str(stats_dir / split / shape)]
    folder = asr_exp.root
    is_resumed = (folder / "checkpoint.pth").is_file()
    run_jobs([Job(f"{BINS}.asr_train", [*arguments, "--output_dir", str(folder)], folder / "train.log")])
    epochs, seconds = trained(folder)
    curve = accuracies(folder)
    curves = {"validation": {"accuracy": curve}} if curve else {}
    about = {"epochs": epochs, "wall_time_s": seconds, "resumed": is_resumed, "curves": curves}
    write_json(asr_exp.training, {**about, "device": device_name(device), "versions": versions()})

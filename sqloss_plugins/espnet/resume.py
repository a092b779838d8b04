"""What ESPnet's training lacks: to be safe against a kill at any moment, and to fail where it diverged."""

from __future__ import annotations

import functools
import math
import os
import pickle
import pkgutil
import sys
import tempfile
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessExitedException

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import RunError, UserError, is_full_disk, run_command
from sqloss_plugins.espnet.model_files import read_config
from sqloss_plugins.espnet.tasks import TASKS
from sqloss_plugins.processes import die_with_parent

_MISTAKE = "SQLOSS_MISTAKE"  # environment variable: where a process of several writes down its mistake
_FAR = 100.0  # times the loss of outputs that are 0
_LONGEST = 1000  # tokens of an utterance, over which the loss of speech recognition is a sum
_NOT_READABLE = (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)


def prepare_process(name: str, task: str | None = None) -> None:
    """For the top of a module that trains, which the processes that ESPnet starts for several GPUs import, too.

    Args:
        name: the module's ``__name__``.
        task: a name of :data:`sqloss_plugins.espnet.tasks.TASKS`; None for the first argument of the command line.
    """
    if name == "__main__":  # not where a program only imports it
        die_with_parent()
    if name == "__mp_main__":  # so multiprocessing calls the main module in the processes that it starts
        die_with_parent(os.getppid())  # multiprocessing does not know the parent yet
        make_saves_atomic()
        from sqloss_plugins.espnet.registration import register

        name = task or sys.argv[1]
        register(name)
        hand_over_mistakes(pkgutil.resolve_name(TASKS[name].task))


def hand_over_mistakes(espnet_task: Any) -> None:
    """Has a process of several write down an exception that is no defect, for the one that started it."""
    stock = espnet_task.main_worker.__func__

    @functools.wraps(stock)
    def main_worker(cls: Any, args: Namespace) -> None:
        try:
            stock(cls, args)
        except Exception as error:
            if _MISTAKE not in os.environ or not (isinstance(error, UserError) or is_full_disk(error)):
                raise
            partial = Path(f"{os.environ[_MISTAKE]}.{os.getpid()}")
            partial.write_bytes(pickle.dumps(error))
            partial.replace(os.environ[_MISTAKE])  # the others may have the same to say
            sys.exit(1)

    espnet_task.main_worker = classmethod(main_worker)


@contextmanager
def mistakes_of_processes() -> Iterator[None]:
    """Raises what :func:`hand_over_mistakes` had the processes of the block write down of their end.

    multiprocessing says no more than their exit statuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "mistake")
        os.environ[_MISTAKE] = str(written)
        try:
            yield
        except ProcessExitedException:
            if written.is_file():
                raise pickle.loads(written.read_bytes()) from None
            raise
        finally:
            del os.environ[_MISTAKE]


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
    except _NOT_READABLE:
        return
    model = folder / f"{epoch}epoch.pth"
    if epoch and not model.exists():
        torch.save(state["model"], model)


def _reporter(folder: Path) -> Any:
    """ESPnet's record of all epochs, from the checkpoint."""
    from espnet2.train.reporter import Reporter

    state = torch.load(folder / "checkpoint.pth", map_location="cpu", weights_only=False, mmap=True)
    reporter = Reporter()
    reporter.load_state_dict(state["reporter"])
    return reporter


def trained(folder: Path) -> tuple[int, float]:
    """Epochs that a run has, and the seconds of their training and validation, in all processes together."""
    reporter = _reporter(folder)
    splits = [split for epoch in reporter.stats.values() for split in epoch.values()]
    return reporter.get_epoch(), sum(split["time"].total_seconds() for split in splits)


def accuracies(folder: Path) -> dict[str, float]:
    """The accuracy of the attention decoder on validation data: epoch, as text -> fraction; empty where it has none."""
    stats = _reporter(folder).stats
    found = {f"{epoch}": stats[epoch].get("valid", {}).get("acc") for epoch in sorted(stats)}
    return {epoch: float(value) for epoch, value in found.items() if value is not None and math.isfinite(value)}


def check_not_diverged(folder: Path, task: str = "asr") -> None:
    """Refuses a training whose last epoch had no finite loss or gradient, or a loss far above that at the start.

    ESPnet ends such a training as any other, with the models of its epochs.

    Args:
        folder: of the training.
        task: a name of :data:`sqloss_plugins.espnet.tasks.TASKS`.

    Raises:
        RunError: it diverged, or an epoch has too few batches for a step.
    """
    try:
        reporter = _reporter(folder)
    except _NOT_READABLE:
        return  # nothing was trained: --collect_stats, --dry_run, ...
    epoch = reporter.get_epoch()
    stats: Mapping[str, Mapping[str, Any]] = reporter.stats.get(epoch, {})
    losses = {split: float(stats[split]["loss"]) for split in ("train", "valid") if "loss" in stats.get(split, {})}
    reason = next((f"the {split} loss is {loss:g}" for split, loss in losses.items() if not math.isfinite(loss)), None)
    if reason is None and losses and "grad_norm" not in stats["train"]:
        accumulated = read_config(folder / "config.yaml").get("accum_grad", 1)
        batches = stats["train"]["total_count"] / epoch  # it counts those of all epochs
        if batches < accumulated:
            raise RunError(
                f"no step was taken: an epoch has {batches:g} batches, and a step needs {accumulated} (accum_grad); "
                f"lower accum_grad or batch_size, and choose another output folder than {folder}, or remove that one"
            )
        # So ESPnet skips a step.
        reason = "no step was taken, for want of finite gradients"
    if reason is None and losses:
        from sqloss_plugins.espnet.model import initial_loss

        config, last = read_config(folder / "config.yaml"), list(losses.values())[-1]
        start = initial_loss(config, task)
        if last > _FAR * start * (_LONGEST if TASKS[task].kind == "decoder" else 1):
            reason = f"the loss is {last:.3g}, where outputs of 0 would have about {start:.3g} a token"
    if reason:
        raise RunError(
            f"the training diverged: in epoch {epoch} {reason}; choose a smaller learning rate, a longer warm-up "
            f"or smaller k and M, and another output folder than {folder}, or remove that one"
        )


def read_arguments(task: Any, arguments: Sequence[str]) -> Namespace:
    """A command line of training as ESPnet reads it, but for two things that ``asr.sh`` gives beside a configuration.

    ``fold_length`` on the command line takes the place of the configuration's: ESPnet adds the two together, and ends
    where there are more than shape files. Where statistics are collected, a model whose features are to be normalised
    by them is made without.

    Args:
        task: ESPnet's class of the task.
        arguments: the command line.

    Raises:
        UserError: two initialisations, of which ESPnet's would overwrite the other; counts of tokens for label
            smoothing that cannot be used.
    """
    parser = OptionParser("", None, add_help=False)
    parser.add_argument("--fold_length", action="append", default=[])
    lengths = parser.parse_known_args(arguments)[0].fold_length
    found: Namespace = task.get_parser().parse_args(arguments)
    if lengths:
        found.fold_length = found.fold_length[-len(lengths) :]
    is_to_be_collected = found.collect_stats and getattr(found, "normalize", None) == "global_mvn"
    if is_to_be_collected and "stats_file" not in found.normalize_conf:
        found.normalize = None
    init, other = getattr(found, "init", None), (getattr(found, "model_conf", None) or {}).get("initialization")
    if init is not None and other is not None:
        raise UserError(f"--init {init} and model_conf: initialization: {other} exclude each other: leave one out")
    _check_unigram(found)
    return found


def end_as_before(arguments: Namespace, folder: Path) -> None:
    """Lets a training that ended early, and is given again, end at the same epoch: ESPnet would add another.

    A kill before the models of its epochs were averaged, for one, has it given again.

    Args:
        arguments: as ESPnet reads them; changed in place.
        folder: of the training.
    """
    if not arguments.resume or arguments.patience is None:
        return
    try:
        reporter = _reporter(folder)
        if reporter.check_early_stopping(arguments.patience, *arguments.early_stopping_criterion):
            arguments.max_epoch = reporter.get_epoch()
    except _NOT_READABLE:
        pass  # nothing was trained yet


def _check_unigram(arguments: Namespace) -> None:
    """Reads the file of ``lsm_unigram``, which the model itself reads with the first batch, as decoding needs none."""
    path, tokens = (getattr(arguments, "model_conf", None) or {}).get("lsm_unigram"), arguments.token_list
    if path is None:
        return
    from sqloss_plugins.espnet.model import read_unigram

    if isinstance(tokens, str) and Path(tokens).is_file():
        with Path(tokens).open(encoding="utf-8") as lines:
            tokens = list(lines)
    read_unigram(Path(str(path)), len(tokens) if isinstance(tokens, list) else None)


def run_training(program: str, task: str, cmd: Sequence[str] | None, description: str | None = None) -> int:
    """Runs an ESPnet task's training on a command line, after repairs; returns the exit status.

    Args:
        program: the name that errors begin with.
        task: a name of :data:`sqloss_plugins.espnet.tasks.TASKS`.
        cmd: the arguments, by default the process's.
        description: what ``--help`` prints before ESPnet's own, which does not know the keys of ``--model_conf``.
    """
    arguments = list(sys.argv[1:] if cmd is None else cmd)
    if description and {"-h", "--help"} & set(arguments):
        print(description)
    parser = OptionParser(program, None, add_help=False)
    parser.add_argument("--output_dir", type=Path)

    def train() -> None:
        folder = parser.parse_known_args(arguments)[0].output_dir
        make_saves_atomic()
        from sqloss_plugins.espnet.registration import register

        register(task)
        if folder:
            repair_checkpoint(folder)
        espnet_task = pkgutil.resolve_name(TASKS[task].task)
        found = read_arguments(espnet_task, arguments)
        if folder:
            end_as_before(found, folder)
        with mistakes_of_processes():
            espnet_task.main(args=found, cmd=arguments)
        if folder:
            check_not_diverged(folder, task)

    return run_command(program, train)

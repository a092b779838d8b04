"""ESPnet's programs as processes: side by side, each with its log, and never left behind."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sqloss_plugins.errors import RunError, UserError
from sqloss_plugins.espnet.fork_server import ForkedJob, ForkServer
from sqloss_plugins.processes import PARENT, usable_cpus

_PROGRESS = re.compile(r"INFO: (\d+/\d+epoch started.*|\d+epoch results:.*|\d+epoch:train:\d+-\d+batch:.*)")
_ERROR = re.compile(r"(?:\w+|.*\.py): error: (?P<sentence>.*)")
_GPUS = "CUDA_VISIBLE_DEVICES"
_SHOWN = re.compile(r"\b(loss_ctc|loss_att|loss|acc)=(\S+?),")


@dataclass(frozen=True)
class Job:
    """One process: a Python module with its arguments, and the file that its output is appended to."""

    module: str
    arguments: Sequence[str]
    log: Path

    @property
    def is_forked(self) -> bool:
        """Whether a process that has ESPnet imported forks for it.

        Not where it uses GPUs, whose libraries want a process from its start, nor where it is no program of ours.
        """
        words = list(self.arguments)
        uses_gpu = "--ngpu" in words and words[-words[::-1].index("--ngpu")] != "0"
        return sys.platform == "linux" and self.module.startswith(f"{__package__}.") and not uses_gpu


_server: ForkServer | None = None


def _fork_server() -> ForkServer:
    """The one of this process, alive."""
    global _server
    if _server is None or not _server.is_alive:
        _server = ForkServer()
    return _server


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them: by number or UUID."""
    import torch

    count, named = torch.cuda.device_count(), os.environ.get(_GPUS)
    return [name.strip() for name in named.split(",")[:count]] if named else [str(number) for number in range(count)]


def run_jobs(
    jobs: Sequence[Job],
    nj: int = 1,
    on_success: Callable[[Job], None] | None = None,
    on_line: Callable[[str], None] | None = None,
    gpus: Sequence[str] = (),
) -> None:
    """Runs all, ``nj`` at a time, showing the progress of training.

    Args:
        jobs: what to run.
        nj: how many side by side.
        on_success: called with each that ended well, as soon as it did.
        on_line: called with each line that one of them prints.
        gpus: made by :func:`visible_gpus`; each process sees one of them, and those at work are dealt out evenly.
            Empty for processes that use none, or all.

    Raises:
        UserError: one of them refused what it was given, or failed (``RunError``); those that were at work beside it
            are waited for, and no other is begun.
    """
    at_once = max(1, min(nj, len(jobs)))
    # Processes side by side share the processors; each would start as many threads as there are.
    threads = {"OMP_NUM_THREADS": str(max(1, usable_cpus() // at_once))} if at_once > 1 else {}
    environment = {**threads, **os.environ}
    server = _fork_server() if any(job.is_forked for job in jobs) else None
    free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for i in range(at_once):
        free.put({_GPUS: gpus[i % len(gpus)]} if len(gpus) > 1 else {})
    failed = threading.Event()

    def work(job: Job) -> None:
        if failed.is_set():
            return
        gpu = free.get()
        try:
            _run(job, {**environment, **gpu}, server, on_line)
            if on_success:
                on_success(job)
        except BaseException:
            failed.set()
            raise
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(at_once) as pool:
        for ended in [pool.submit(work, job) for job in jobs]:
            ended.result()


def _start(job: Job, environment: dict[str, str], server: ForkServer | None) -> subprocess.Popen[str] | ForkedJob:
    if server and job.is_forked:
        return server.start(job.module, job.arguments, environment)
    return subprocess.Popen(
        [sys.executable, "-m", job.module, *job.arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**environment, PARENT: str(os.getpid())},
    )


def _run(
    job: Job, environment: dict[str, str], server: ForkServer | None, on_line: Callable[[str], None] | None
) -> None:
    """Runs one to its end; where that is bad, says what the program said of it: its own error line, or the last."""
    own = last = ""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a", encoding="utf-8") as log, _start(job, environment, server) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            last = line.strip() or last
            complaint = _ERROR.match(line)
            own = complaint["sentence"] if complaint else own
            if on_line:
                on_line(line)
            found = _PROGRESS.search(line)
            if found:
                print(f"  {_short(found[1])}", flush=True)
        status = process.wait()
    name = job.module.rpartition(".")[2]
    if status == UserError.status and own:
        raise UserError(f"{name}: {own} (log: {job.log})")
    if status != 0:
        raise RunError(f"{name} ended with status {status}: {own or last or 'no output'} (log: {job.log})")


def _short(message: str) -> str:
    """The losses and the accuracy out of one of the Trainer's lines, which have a dozen times."""
    head, marker, results = message.partition("results:")
    if not marker:
        values = " ".join(f"{name} {value}" for name, value in _SHOWN.findall(message))
        return f"{message.split(' iter_time', 1)[0].rstrip(':, ')} {values}".rstrip()
    parts = re.findall(r"\[(train|valid)\] (.*?)(?=\[|$)", results)
    said = "; ".join(
        f"{name}: " + " ".join(f"{key} {value}" for key, value in _SHOWN.findall(text)) for name, text in parts
    )
    return f"{head}{said}"

"""Carries a plan out on Dask: one run is one future, one future is one process, and ``result.json`` is the only truth.

A run whose result is there is not begun. One that was interrupted goes on, because its command does so when it is given
again. One that fails is noted, and the others go on.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Worker, WorkerPlugin
from filelock import FileLock

from sqloss_plugins.errors import RunError, UserError, sentence
from sqloss_plugins.experiments.comparison import best_learning_rate
from sqloss_plugins.experiments.plan import Run
from sqloss_plugins.experiments.progress import Display, Progress, State
from sqloss_plugins.processes import PARENT
from sqloss_plugins.results import RESULT_NAME

LOG_NAME = "log.txt"
_LOCK_NAME = ".sweep.lock"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # Dask sets them to 1 for its workers
_POLL_S = 0.25
_LAST_WORDS = 8
_LAG_S = 60.0  # after which a network's file system shows a file that another machine has written
_LOST = "the scheduler was lost; the same command goes on"

_LOCAL_OPTIONS: Mapping[str, Any] = {
    "threads_per_worker": 1,
    "memory_limit": 0,  # what takes memory is not the worker
    "dashboard_address": "127.0.0.1:0",
    "silence_logs": logging.CRITICAL,
}

CLUSTERS: Mapping[str, tuple[str, str]] = {
    "htcondor": ("dask_jobqueue", "HTCondorCluster"),
    "kube": ("dask_kubernetes.operator", "KubeCluster"),
    "lsf": ("dask_jobqueue", "LSFCluster"),
    "moab": ("dask_jobqueue", "MoabCluster"),
    "oar": ("dask_jobqueue", "OARCluster"),
    "pbs": ("dask_jobqueue", "PBSCluster"),
    "sge": ("dask_jobqueue", "SGECluster"),
    "slurm": ("dask_jobqueue", "SLURMCluster"),
}
"""``env`` of ESPnet3's ``parallel:`` -> module and class of the cluster; ``local`` is this machine."""


@dataclass(frozen=True)
class Parallel:
    """Where the runs are carried out, in the vocabulary of ESPnet3's ``parallel:``.

    Attributes:
        env: ``local`` or a key of :data:`CLUSTERS`.
        n_workers: how many runs at a time; None: on this machine as many as it has GPUs, or one; else one.
        options: keyword arguments of the cluster's class.
        scheduler: address of a Dask scheduler that is there already; the others do not count then.
    """

    env: str = "local"
    n_workers: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    scheduler: str | None = None


# ---------------------------------------------------------------- what a worker does


def execute(words: Sequence[str], folder: str, place: str, threads: str | None) -> tuple[int, float]:
    """Carries a run out, in a process that ends with this one; on a worker.

    Args:
        words: the command, after ``sqloss``.
        folder: of the run; gets the log.
        place: the working directory.
        threads: ``OMP_NUM_THREADS`` of the process; None: what it chooses itself.

    Returns:
        The exit status, and the seconds that it took: 0 where another process has finished the run.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _THREADS}
    environment |= {PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = threads
    path = Path(place, folder)
    path.mkdir(parents=True, exist_ok=True)
    # Where the client was killed, and its scheduler was not, a process of the same run may be at work still.
    with FileLock(path / _LOCK_NAME):
        if (path / RESULT_NAME).is_file():
            return 0, 0.0
        start = time.monotonic()
        with (path / LOG_NAME).open("a", encoding="utf-8") as log:
            log.write(f"$ sqloss {' '.join(words)}\n")
            log.flush()
            done = subprocess.run(
                [sys.executable, "-m", "sqloss_plugins", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=place,
                check=False,
            )
        return done.returncode, time.monotonic() - start


def last_words(folder: Path) -> str:
    """The last lines of a run's log; empty where there is none."""
    try:
        text = (folder / LOG_NAME).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]  # progress bars overwrite themselves
    return "\n".join([line for line in lines if line][-_LAST_WORDS:])


# ---------------------------------------------------------------- where there are workers


class _LeavesInterrupts(WorkerPlugin):
    """Leaves Ctrl-C, which a terminal sends to the workers of this machine as well, to the client, which ends them."""

    def setup(self, worker: Worker) -> None:
        """Called in the main thread of a worker."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class _OneGpuEach(LocalCluster):
    """Workers of this machine, each of which sees one GPU, where there are any."""

    def __init__(self, gpus: Sequence[str], n_workers: int, **options: Any) -> None:
        self._gpus = gpus
        super().__init__(n_workers=0, **options)
        self.scale(n_workers)

    def new_worker_spec(self) -> dict[int, dict[str, Any]]:
        """As Dask's own, with the GPU in the environment."""
        ((number, worker),) = super().new_worker_spec().items()
        options = dict(worker["options"])
        if self._gpus:
            gpu = self._gpus[number % len(self._gpus)]
            options["env"] = {**options.get("env", {}), "CUDA_VISIBLE_DEVICES": gpu}
        return {number: {**worker, "options": options}}


def _gpus() -> list[str]:
    """The GPUs that are to be used, as ``CUDA_VISIBLE_DEVICES`` has them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible else list(map(str, range(count)))


@contextmanager
def _client(parallel: Parallel) -> Iterator[tuple[Client, str | None]]:
    """A client, and the number of threads of each run.

    Raises:
        UserError: there is no such scheduler or cluster, or it takes no such options.
    """
    threads, cluster = os.environ.get("OMP_NUM_THREADS"), None
    try:
        if parallel.scheduler:
            client = Client(parallel.scheduler, timeout=10)
        elif parallel.env == "local":
            gpus = _gpus()
            number = parallel.n_workers or len(gpus) or 1
            # Those that this process may use: fewer than the machine has in a container or a job of SLURM's.
            threads = threads or str(max(1, CPU_COUNT // number))
            cluster = _OneGpuEach(gpus, number, **{**_LOCAL_OPTIONS, **parallel.options})
            client = Client(cluster)
            client.register_plugin(_LeavesInterrupts())
        else:
            cluster = _cluster_class(parallel.env)(**_one_run_each(parallel))
            cluster.scale(parallel.n_workers or 1)
            cluster.sync(_submitted, cluster)
            client = Client(cluster)
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        if cluster is not None:
            with suppress(AssertionError):  # that all of its jobs were submitted
                cluster.close()
        where = f"--scheduler {parallel.scheduler}" if parallel.scheduler else f"the {parallel.env} cluster"
        raise UserError(f"{where} cannot be used: {sentence(error)}") from error
    try:
        yield client, threads
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


async def _submitted(cluster: Any) -> None:
    """Waits until a cluster's jobs are submitted, and raises what the scheduler says of one that is not."""
    await cluster
    for job in cluster.workers.values():
        await job


def _cluster_class(env: str) -> Any:
    module, name = CLUSTERS[env]
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise UserError(
            f"env {env} needs the package {package}, which is not installed: pip install "
            + ("'sqloss_plugins[cluster]'" if package == "dask-jobqueue" else package)
        ) from error
    finally:
        if signal.getsignal(signal.SIGINT) is not on_interrupt:
            signal.signal(signal.SIGINT, on_interrupt)  # dask_jobqueue's own ends this process, with status 0


def _one_run_each(parallel: Parallel) -> dict[str, Any]:
    """The options of a cluster, of which a job has one worker with one thread, however many cores it has."""
    if CLUSTERS[parallel.env][0] != "dask_jobqueue":
        return dict(parallel.options)
    options = {"processes": 1, **parallel.options}
    return {**options, "worker_extra_args": [*options.get("worker_extra_args", []), "--nthreads", "1"]}


def _workers(client: Client) -> int:
    """How many there are.

    Raises:
        UserError: one would have several runs at a time.
        RunError: the scheduler does not answer.
    """
    try:
        threads: dict[str, int] = client.nthreads()
    except OSError as error:
        raise RunError(_LOST) from error
    for address, number in threads.items():
        if number > 1:
            raise UserError(
                f"the worker {address} has {number} threads, and would have as many runs at a time: start workers by "
                "dask worker --nthreads 1"
            )
    return len(threads)


# ---------------------------------------------------------------- what the client does


def choose_rate(runs: Sequence[Run]) -> str | None:
    """The learning rate with the best validation metric; None where no run is finished.

    Raises:
        UserError: their results cannot be compared.
    """
    finished = [run for run in runs if (run.folder / RESULT_NAME).is_file()]
    if not finished:
        return None
    best = best_learning_rate([run.folder for run in finished], runs[0].loss)
    # A result has the rate that its run was given.
    return min((run.rate for run in finished if run.rate), key=lambda rate: abs(float(rate) - best))


def carry_out(progress: Progress, parallel: Parallel) -> None:
    """Carries out every run of a plan that has no result yet.

    Args:
        progress: of the plan; says afterwards what became of each run.
        parallel: where.

    Raises:
        UserError: there is nowhere to run; results that cannot be compared.
        RunError: it was interrupted, or the scheduler was lost.
    """
    if not progress.waiting():
        return
    for name in ("distributed", "tornado.application", "asyncio"):  # what is wrong is raised as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A worker that is killed takes its run with it, and another has it; not for ever.
    dask.config.set({"distributed.scheduler.allowed-failures": 3})
    with _client(parallel) as (client, threads), Display(progress) as display:
        try:
            _carry_out(progress, client, threads, display)
        except KeyboardInterrupt:
            raise RunError("interrupted; the same command goes on") from None


def _carry_out(progress: Progress, client: Client, threads: str | None, display: Display) -> None:
    place, running = os.getcwd(), dict[Any, Run]()
    while True:
        progress.workers = _workers(client)
        # No more than there are workers for, so that what is submitted runs.
        for run in progress.waiting()[: max(0, progress.workers - len(running))]:
            future = client.submit(execute, run.words, str(run.folder), place, threads, pure=False)
            running[future] = run
            progress.begin(run)
        display.update()
        if not running and not progress.waiting():
            return
        time.sleep(_POLL_S)
        for future in [future for future in running if future.done()]:
            run = running.pop(future)
            state, seconds, reason = _outcome(future, run)
            progress.end(run, state, seconds, reason)
            display.ended(run)


def _outcome(future: Any, run: Run) -> tuple[State, float, str]:
    if future.status == "error":
        return State.FAILED, 0.0, sentence(future.exception())
    if future.status != "finished":
        raise RunError(_LOST)
    status, seconds = future.result()
    if status == 0:
        if _comes(run.folder / RESULT_NAME):
            return State.FINISHED, seconds, ""
        return State.FAILED, seconds, f"it ended well, but left no {RESULT_NAME} here: workers need the same folder"
    if status < 0:
        return State.FAILED, seconds, f"ended by signal {-status}"
    return (State.REFUSED if status == 2 else State.FAILED), seconds, f"exit status {status}"


def _comes(path: Path) -> bool:
    """Whether a file is there, or comes to be seen within the time that a network's file system may take."""
    deadline = time.monotonic() + _LAG_S
    while not path.is_file():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True

"""A process that has ESPnet imported, and forks for every job: a recipe runs ten, and the import takes ten seconds.

:class:`ForkServer` is the side that wants jobs done. It runs this module as a process, which has no threads of Python
and no GPU, and hands it a socket for each job. That forks twice: the first of the two waits for the second, and says
how it ended; the second is the job. It runs as the program that it would be by ``python -m``, with all of its own:
arguments, environment, folder, output and exit status.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqloss_plugins.processes import PARENT, die_with_parent

ESPNET = ("sqloss_plugins.espnet.inference", "sqloss_plugins.espnet.resume", "espnet2.tasks.lm")
"""What the programs of the recipes import."""


class ForkedJob:
    """What :class:`subprocess.Popen` has, as far as jobs need it.

    Attributes:
        stdout: what the job prints, errors among it.
    """

    def __init__(self, server: ForkServer, output: int, channel: socket.socket) -> None:
        self._server = server  # kept: with it, its jobs end
        self.stdout = open(output, encoding="utf-8", errors="replace")  # noqa: SIM115
        self._channel = channel

    def wait(self) -> int:
        """The exit status when the job has ended; minus the number of the signal that ended it."""
        said = self._channel.recv(16)
        return int(said) if said else -signal.SIGKILL  # nobody is left to say it

    def __enter__(self) -> ForkedJob:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stdout.close()
        with self._channel:
            if kind is not None:
                self.wait()


class ForkServer:
    """The process, started at once; it ends with the one that started it, and its jobs with it.

    Args:
        modules: what it imports first.
    """

    def __init__(self, modules: Sequence[str] = ESPNET) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), *modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, PARENT: str(os.getpid())},
            )

    @property
    def is_alive(self) -> bool:
        """Whether it takes jobs."""
        return self._process.poll() is None

    def start(self, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> ForkedJob:
        """Starts ``python -m module arguments`` in this process's folder.

        Args:
            module, arguments: of the program.
            environment: all of its environment variables. What was imported has read the server's, but for the number
                of PyTorch's threads.
        """
        request = {"argv": [module, *arguments], "environment": dict(environment), "folder": os.getcwd()}
        ours, theirs = socket.socketpair()
        output, written = os.pipe()
        try:
            with theirs, self._lock:
                socket.send_fds(self._control, [b"j"], [theirs.fileno(), written])
        finally:
            os.close(written)
        ours.sendall(json.dumps(request).encode())
        ours.shutdown(socket.SHUT_WR)
        return ForkedJob(self, output, ours)


def serve(control: socket.socket) -> dict[str, Any]:
    """Waits for jobs until the other side is gone; returns in the process of each job, with what it is to do."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for the jobs
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the jobs get, too
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not descriptors:
            sys.exit()
        channel, output = socket.socket(fileno=descriptors[0]), descriptors[1]
        server = os.getpid()
        if os.fork():
            channel.close()
            os.close(output)
            continue
        control.close()
        die_with_parent(server)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        waiting = os.getpid()
        job = os.fork()
        if job:
            os.close(output)
            status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
            with suppress(OSError):  # nobody wants to know
                channel.sendall(str(status).encode())
            os._exit(0)
        die_with_parent(waiting)
        signal.signal(signal.SIGINT, on_interrupt)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.close(output)
        with channel, channel.makefile("rb") as file:
            request: dict[str, Any] = json.load(file)
        return request


def _begin(request: Mapping[str, Any]) -> None:
    """Becomes the program of the request, as far as that is not done."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and "torch" in sys.modules:  # it has read the variable of the server
        sys.modules["torch"].set_num_threads(int(threads))
    module, *arguments = request["argv"]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main(argv: Sequence[str]) -> None:
    """The process: the number of the socket, and what to import."""
    die_with_parent()  # before the long import
    control = socket.socket(fileno=int(argv[0]))
    for module in argv[1:]:
        with suppress(Exception):  # the job that needs it says what is wrong with it
            importlib.import_module(module)
    gc.freeze()  # no job looks for garbage among the imports, which at its end would take two seconds
    _begin(serve(control))


if __name__ == "__main__":
    # Not here, in `__main__`, where Python 3.12 shows its warning of fork beside the threads of numerical libraries.
    importlib.import_module("sqloss_plugins.espnet.fork_server").main(sys.argv[1:])

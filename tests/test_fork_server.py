"""Jobs that are forks of a process with its imports done are as the programs that `python -m` runs."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from commands import kill_when

from sqloss_plugins.espnet.fork_server import ForkServer
from sqloss_plugins.espnet.jobs import Job

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere jobs are processes of their own")
PROGRAM = """
import os, signal, sys, time
import imported
if __name__ == "__main__":
    kind = sys.argv[1]
    if kind == "says":
        print(sys.argv[2:], os.getcwd(), sorted(os.environ), imported.COUNT, __spec__.name, os.getpid())
        print("to the other stream", file=sys.stderr)
    elif kind == "status":
        sys.exit(int(sys.argv[2]))
    elif kind == "sentence":
        sys.exit("a sentence")
    elif kind == "error":
        raise ValueError("wrong")
    elif kind == "signal":
        os.kill(os.getpid(), int(sys.argv[2]))
    elif kind == "interrupt":
        print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGCHLD))
    elif kind == "wait":
        with open(sys.argv[2], "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    elif kind == "threads":
        import torch
        print(torch.get_num_threads())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "imported.py").write_text(
        f"COUNT = 1\nwith open({str(tmp_path / 'imports')!r}, 'a') as file: file.write('once')"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}:{os.getcwd()}")
    return tmp_path


def ended(server, *arguments, **environment):
    with server.start("program", arguments, environment or os.environ) as job:
        printed = job.stdout.read()
        return job.wait(), printed


def test_a_job_has_all_of_its_own_but_the_imports(folder, monkeypatch):
    server = ForkServer(["imported", "no_such_module"])
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    numbers = set()
    for word in ("ä", "b c"):
        status, printed = ended(server, "says", word, ONLY="this")
        said, other = sorted(printed.splitlines())  # which stream comes first depends on PYTHONUNBUFFERED
        assert status == 0
        assert said.startswith(f"{[word]} {folder / 'elsewhere'} ['ONLY'] 1 program ")
        assert other == "to the other stream"
        numbers.add(said.split()[-1])
    assert len(numbers) == 2
    assert (folder / "imports").read_text() == "once"


@pytest.mark.parametrize(
    ("arguments", "status", "printed"),
    [
        (["status", "0"], 0, ""),
        (["status", "3"], 3, ""),
        (["sentence"], 1, "a sentence\n"),
        (["signal", str(signal.SIGKILL)], -signal.SIGKILL, ""),
        (["signal", str(signal.SIGTERM)], -signal.SIGTERM, ""),
        (["interrupt"], 0, f"<built-in function default_int_handler> {signal.SIG_DFL!r}\n"),
    ],
)
def test_how_a_job_ends(arguments, status, printed, folder):
    found, said = ended(ForkServer(["imported"]), *arguments)
    assert found == status
    assert said == printed or "default_int_handler" in printed


def test_an_error_has_its_traceback(folder):
    status, printed = ended(ForkServer([]), "error")
    assert status == 1
    assert printed.startswith("Traceback ")
    assert printed.endswith("ValueError: wrong\n")


def test_side_by_side(folder):
    server = ForkServer(["imported"])
    first = server.start("program", ["wait", str(folder / "pid")], os.environ)
    with first, server.start("program", ["says"], os.environ) as second:
        assert second.stdout.read()
        assert second.wait() == 0
        deadline = time.monotonic() + 60
        while not (folder / "pid").is_file() or not (folder / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
        assert first.wait() == -signal.SIGTERM


def test_the_number_of_pytorchs_threads(folder):
    server = ForkServer(["torch"])
    for count in ("1", "2"):
        assert ended(server, "threads", **{**os.environ, "OMP_NUM_THREADS": count}) == (0, f"{count}\n")


def test_jobs_die_with_the_process_that_wants_them(folder):
    command = (
        "import os; from sqloss_plugins.espnet.fork_server import ForkServer; "
        f"ForkServer([]).start('program', ['wait', {str(folder / 'pid')!r}], os.environ).wait()"
    )
    kill_when([sys.executable, "-c", command], dict(os.environ), folder, "pid")
    time.sleep(0.5)
    state = Path("/proc", (folder / "pid").read_text(), "cmdline")
    assert not state.exists() or state.read_text() == ""  # gone, or a zombie that nobody waits for


def test_a_server_that_is_gone(folder):
    server = ForkServer([])
    with server.start("program", ["wait", str(folder / "pid")], os.environ) as job:
        while not (folder / "pid").is_file():
            time.sleep(0.01)
        os.kill(server._process.pid, signal.SIGKILL)
        assert job.stdout.read() == ""  # killed, too
        assert job.wait() == -signal.SIGKILL
    server._process.wait()
    assert not server.is_alive


OURS = "sqloss_plugins.espnet.bin.asr_train"


@pytest.mark.parametrize(
    ("module", "arguments", "expected"),
    [
        (OURS, ["--seed", "1"], True),
        (OURS, ["--ngpu", "0"], True),
        (OURS, ["--ngpu", "1", "--ngpu", "0"], True),
        (OURS, ["--ngpu", "1"], False),
        ("program", [], False),
    ],
)
def test_which_jobs_are_forked(module, arguments, expected, tmp_path):
    assert Job(module, arguments, tmp_path / "log").is_forked is expected

"""The README's shell commands as a user types them, one after the other, in a folder with the files that they name.

No hub and no download is reached. Commands that train for long need only begin.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from documents import ROOT, shell_commands

README = ROOT / "README.md"
BEGUN = {
    "python run_glue_sq.py --task mrpc": "MINI DATA: not the real task",
    "./recipes/librispeech/run.sh --loss square": "stage 1: download (MINI)",
    "sqloss sweep classify --train_file reviews.csv --grid learning_rate=2e-5,5e-5,1e-4": " runs in ",
    "sqloss asr mycorpus --train train.tsv --loss square": "stage 3: ",
}
"""What trains for long, and what it has said when it has begun."""
NO_DOWNLOAD = "cannot be reached, and this recipe has no mini corpus"
REFUSED = {
    "sqloss asr an4 --loss square": NO_DOWNLOAD,
    "sqloss asr an4 --loss cross_entropy": NO_DOWNLOAD,
}
"""What has to be downloaded, and what is said where nothing can be."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkout's scripts, and the files of a user."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(ROOT / "run_glue_sq.py", folder)
    made = shutil.ignore_patterns("runs", "data", "downloads", "exp")
    shutil.copytree(ROOT / "recipes", folder / "recipes", ignore=made)
    scenes = [(f"a {word} film, number {i}", label) for i in range(20) for word, label in (("fine", 1), ("dull", 0))]
    reviews = "".join(f'"{text}",{label}\n' for text, label in scenes)
    (folder / "reviews.csv").write_text(f"text,label\n{reviews}", encoding="utf-8")
    rows = ["audio\ttext"]
    for i in range(30):
        soundfile.write(folder / f"{i}.wav", 0.1 * np.sin(np.arange(16000) * (0.1 + 0.01 * i)), 16000)
        rows.append(f"{i}.wav\t{('one two', 'three four')[i % 2]} {i}")
    (folder / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def run(command, folder):
    """Exit status, None of what was stopped when it had begun; and what was said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    said = []
    with subprocess.Popen(["bash", "-c", command], cwd=folder, env=environment, **streams) as process:
        for line in process.stdout:
            said.append(line)
            if command in BEGUN and BEGUN[command] in line:
                os.killpg(process.pid, signal.SIGKILL)
                return None, "".join(said)
    return process.returncode, "".join(said)


def test_each_list_names_commands_of_the_readme():
    assert {*BEGUN, *REFUSED} <= set(shell_commands(README))


@pytest.mark.slow
@pytest.mark.xdist_group("readme as typed")
@pytest.mark.parametrize("command", shell_commands(README))
def test_as_typed(command, folder):
    status, said = run(command, folder)
    if command in REFUSED:
        assert (status, said.count("error: ")) == (2, 1), said
        assert REFUSED[command] in said
        return
    assert status == (None if command in BEGUN else 0), said
    assert not re.search(r"error: |Traceback", said), said

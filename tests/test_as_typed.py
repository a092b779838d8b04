"""The README's and the site's shell commands as a user types them, one after the other, among the files that they name.

No hub and no download is reached. Training need only begin, unless later commands take what it leaves.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import stand_ins
import warm_python
from documents import ROOT, commands_of, site_commands

from tools.site_pages import tasks_page

BEGUN = re.compile(
    r"^ *\d+%\|[^\n]*\| *\d+/\d+ \[|^stage 1: download \(MINI\)|^stage 3: | runs in |^study 1 of ", re.MULTILINE
)
"""What is said when a training, a speech recipe, a sweep or a study has begun."""
TO_ITS_END = re.compile(
    r"reviews\.csv --loss|calibrate|compare|export|report|do_predict|reverse_dictionary/run\.sh --mini"
)
"""What later commands need, and what is short."""
NO_DOWNLOAD = "cannot be reached, and this recipe has no mini corpus"
NO_HUB = "the hub cannot be reached"
REFUSED = {
    r"asr an4 --loss|an4/run\.sh(?!.*--corpus)": NO_DOWNLOAD,
    r"characters --task": "cannot be downloaded",
    r"images --task": NO_HUB,
    r"hub:OWNER": "Couldn't reach 'OWNER/NAME' on the Hub",
    r"_path (timm|google)/|(mnist|cifar10)/run\.sh(?!.*(--data_dir|--mini))": NO_HUB,
    r"--train_file stack|reverse_dictionary/run\.sh(?!.*(--data_dir|--mini))": "no such",
    r"--num_sampled 1000": "is more than the 400 classes",  # of the mini data, without WordNet
    r"--bf16": "doesn't support bf16/gpu",
    r"--ngpu 1": "--ngpu 1: this machine has 0 GPUs",
    r"--data_dir imagenet": "data_dir imagenet is not a folder",
    r"--scheduler tcp": "cannot be reached",
}
"""What is refused, with this one sentence, where it is not there: a download, WordNet, a GPU, a package."""
ELSEWHERE = "a checkout of ESPnet"
NOT_RUN = {
    "cd egs2/an4/asr1": ELSEWHERE,
    './run.sh --python "$(sqloss espnet-python)" --asr_args "--model sqloss --model_conf loss=square"': ELSEWHERE,
    './run.sh --python "$(sqloss espnet-python)" --st_args "--model sqloss --model_conf loss=square"': ELSEWHERE,
    "cd /path/to/espnet && git checkout -b square-loss && git apply /path/to/patches/espnet2-202705.patch": ELSEWHERE,
    "python -m sqloss_plugins.espnet.bin.inference st --st_train_config exp/config.yaml ...": "a translation model",
    "torchrun --nproc_per_node 8 -m sqloss_plugins images --task imagenet --data_dir imagenet "
    "--per_device_train_batch_size 128 --bf16": "eight GPUs",
    "sudo apt-get install wordnet-base": "it changes the machine",
    "zcat WSJ1/13-32.1/wsj1/doc/lng_modl/lm_train/np_data/8[789]/*.z | grep -v '<' | tr a-z A-Z > np_data.txt": "discs",
}
"""What commands that are not tried here need; the tests of the interpreter, the tasks and the patches have the like."""
DATA = " ".join(
    f"--{split}_data_path_and_name_and_type {where}/wav.scp,speech,sound "
    f"--{split}_data_path_and_name_and_type {where}/text,text,text --{split}_shape_file {where}/wav.scp"
    for split, where in (("train", "data/train"), ("valid", "data/dev"))
)
REST = {
    "asr_train": f"--token_list tokens.txt --output_dir exp {DATA}",
    "train st": "--print_config",
    "asr_inference": "--asr_model_file exp/valid.acc.ave.pth --output_dir decoded "
    "--data_path_and_name_and_type data/dev/wav.scp,speech,sound --beam_size 1 --maxlenratio -3",
}
"""A program -> what a reader puts in the place of the "..." at the end of its command."""
EARLIER = [
    "sqloss images --train_dir photos/train --arch resnet18 --num_train_epochs 1 --loss cross_entropy",
    "sqloss lm --train_file text.txt --learning_rate 1e-4 --max_steps 1",
]
"""Runs that pages have in the place of longer ones."""
MODULES = [
    *(f"sqloss_plugins.hf.tasks.{name}" for name in ("classification", "glue", "images", "language_model")),
    *(f"sqloss_plugins.hf.tasks.{name}" for name in ("characters", "reverse_dictionary", "extreme")),
    *(f"sqloss_plugins.experiments.{name}" for name in ("sweep", "compare", "calibrate", "report", "explain")),
    *("transformers.models.bert.modeling_bert", "evaluate", "timm"),
    *("sqloss_plugins.espnet.recipe.flow", "espnet2.tasks.asr", "espnet2.tasks.st", "espnet2.bin.asr_inference"),
]
"""What the commands import, which takes longer than most of what is tried here."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """A checkout's scripts, and the files of a user."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(ROOT / "run_glue_sq.py", folder)
    made = shutil.ignore_patterns("runs", "data", "downloads", "exp")
    shutil.copytree(ROOT / "recipes", folder / "recipes", ignore=made)
    stand_ins.write_all(folder, tiny_model)
    page = (ROOT / "docs/guides/cluster.md").read_text(encoding="utf-8")
    (settings,) = re.findall(r"^```yaml\n# sweep\.yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (folder / "sweep.yaml").write_text(settings, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """In which `python` and `sqloss` begin at once."""
    folder = tmp_path_factory.mktemp("warm")
    warm_python.programs(folder / "bin", folder / "socket")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment |= {"PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # where nobody answers
    command = [sys.executable, str(ROOT / "tests/warm_python.py"), str(folder / "socket"), *MODULES]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert "ready\n" in process.stdout  # ESPnet says other things before
        yield environment
        process.kill()


def typed(command, folder):
    """With what stands for "..." on the pages, and with folders that a user may write to."""
    command = command.replace("/data/", f"{folder}/corpora/")
    for name in ("reviews", "photos", "language_model", "reverse_dictionary"):
        finished = sorted((folder / "runs" / name).glob("*/*/result.json"))
        if finished:
            command = command.replace(f"runs/{name}/...", str(finished[0].parent))
    for program, rest in REST.items():
        if f".{program} " in command:
            command = command.replace(" ...", f" {rest}")
    return command


def run(command, folder, environment, to_its_end=False):
    """Exit status, None of what was stopped when it had begun; and what was said."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
    said = ""
    with subprocess.Popen(["bash", "-c", command], cwd=folder, env=environment, **streams) as process:
        while chunk := os.read(process.stdout.fileno(), 65536):
            said += chunk.decode(errors="replace").replace("\r", "\n")
            if not to_its_end and BEGUN.search(said):
                os.killpg(process.pid, signal.SIGKILL)
                return None, said
    return process.returncode, said


def test_each_command_is_tried_or_listed():
    assert NOT_RUN.keys() <= set(site_commands())


@pytest.mark.slow
@pytest.mark.xdist_group("as typed")
@pytest.mark.parametrize("command", [*EARLIER, *(command for command in site_commands() if command not in NOT_RUN)])
def test_as_typed(command, folder, environment):
    to_its_end = command in EARLIER or TO_ITS_END.search(command) is not None
    check(command, *run(typed(command, folder), folder, environment, to_its_end))


@pytest.mark.slow
@pytest.mark.xdist_group("as typed")
def test_the_papers_tasks(folder, environment):
    """The page of them is made by the site's build; here is no data but mini data."""
    for command in commands_of(tasks_page()):
        check(command, *run(command, folder, environment))


@pytest.mark.slow
@pytest.mark.xdist_group("as typed")
@pytest.mark.parametrize("page", ["docs/probabilities.md", "recipes/reverse_dictionary/README.md"])
def test_python_with_the_model_of_a_run(page, folder, environment):
    """Blocks that are not fenced, because tests without such a run would try them."""
    (block,) = re.findall(
        r"(?:^    (?:import|from) .*\n)(?:^    .*\n|^\n(?=    ))+", (ROOT / page).read_text(), re.MULTILINE
    )
    (folder / "block.py").write_text(typed(textwrap.dedent(block), folder), encoding="utf-8")
    check("python block.py", *run("python block.py", folder, environment, to_its_end=True))


def check(command, status, said):
    sentences = [sentence for pattern, sentence in REFUSED.items() if re.search(pattern, command)]
    if status == 2 and sentences:
        assert said.count("error: ") == 1, said
        assert any(sentence in said for sentence in sentences), said
    else:
        assert status in (0, None), said
        assert not re.search(r"error: |Traceback", said), said

"""`sqloss sweep`: what is planned, what is carried out, and that kills at any moment change nothing of it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fake_runs
import psutil
import pytest
import yaml
from commands import assert_refused
from distributed import LocalCluster
from distributed.comm import CommClosedError
from filelock import FileLock

from sqloss_plugins import paper
from sqloss_plugins.errors import RunError
from sqloss_plugins.experiments import execution, request, sweep
from sqloss_plugins.experiments.plan import Cell, Plan, without
from sqloss_plugins.experiments.progress import State
from sqloss_plugins.experiments.tasks import COMMANDS, architectures
from sqloss_plugins.folders import lock_folder
from sqloss_plugins.hf.options import parse
from sqloss_plugins.hf.tasks.images import Images

ROOT = Path(__file__).parent.parent
FAKE = ["classify", "--train_file", "mine.csv", "--grid", "learning_rate=1e-4,1e-3,1e-2", "--seeds", "2"]
BOTH = ["--protocols", "early_stopping,same_epochs"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def fake(tmp_path, place, monkeypatch):
    """Makes `sqloss classify` a stand-in, in the processes that are started."""
    monkeypatch.setenv("PYTHONPATH", fake_runs.python_path(tmp_path / "site"))


def command(*options):
    return [sys.executable, "-m", "sqloss_plugins", "sweep", *options]


def planned(capsys, *options):
    first = 0 if options[0].startswith("-") else 1  # a command is the first word
    assert sweep.main([*options[:first], "--dry_run", *options[first:]]) == 0
    return capsys.readouterr().out.splitlines()


def store(folder):
    """All results and the comparison, as they are in the files."""
    names = ("result.json", "comparison.json")
    return {str(path.relative_to(folder)): path.read_text() for name in names for path in folder.rglob(name)}


# ---------------------------------------------------------------- what is planned


def test_a_run_is_a_command_that_a_user_would_type(place, capsys):
    options = ["--train_file", "mine.csv", "--text_column_names", "the text"]
    lines = planned(capsys, "classify", *options, "--seeds", "1,7", "--exp", "out")
    assert lines == [
        f"sqloss classify --train_file mine.csv --text_column_names 'the text' --loss {loss} --seed {seed} "
        f"--protocol early_stopping --output_dir out/mine/{loss}-early_stopping-s{seed}"
        for loss in ("square", "cross_entropy")
        for seed in (1, 7)
    ]
    assert list(place.iterdir()) == []


def test_other_seeds_wait_for_the_learning_rate(place, capsys):
    lines = planned(capsys, *FAKE, *BOTH)
    known = [line for line in lines if not line.startswith("#")]
    assert len(known) == 2 * 3
    assert all("--seed 1 " in line for line in known)
    following = [line for line in lines if "same_epochs" in line]
    assert len(following) == 2 * 2
    assert all(line.startswith("# ") for line in following)
    assert len(lines) == 2 * 3 + 2 + 4


def test_same_epochs_has_no_epochs_of_its_own(place, capsys):
    options = ["--num_train_epochs", "9", "--patience=3", "--seeds", "1", *BOTH]
    first, _, last, _ = planned(capsys, "classify", "--train_file", "mine.csv", *options, "--exp", "out")
    assert "--num_train_epochs 9 --patience=3" in first
    assert "num_train_epochs" not in last
    assert "patience" not in last
    assert "--cross_entropy_run out/mine/cross_entropy-early_stopping-s1 --output_dir" in last


def test_words_without_an_option():
    words = ["a", "--x", "1", "2", "--yes", "--x=3", "--max-steps", "4", "--z", "5"]
    assert without(words, ["x", "max_steps"]) == ["a", "--yes", "--z", "5"]


def test_speech_has_its_own_options(place, capsys):
    options = ["--corpus", "AN4", "--grid", "learning_rate=1e-3", "--seeds", "1", "--losses", "square"]
    assert planned(capsys, "asr", "an4", *options) == [
        "sqloss asr an4 --corpus AN4 --loss square --optim_conf lr=0.001 --seed 1 "
        "--asr_exp runs/an4-sweep/an4/square-lr0.001-s1"
    ]


@pytest.mark.parametrize("folder", ["photos/train", "photos"])
def test_a_sweep_of_images_has_the_name_of_its_runs(folder, place, capsys):
    """That of the folder, or of the one it is in where it is called train."""
    (place / "photos" / "train").mkdir(parents=True)
    options = ["--train_dir", folder, "--grid", "learning_rate=1e-3", "--seeds", "1", "--losses", "square"]
    (line,) = planned(capsys, "images", *options)
    assert " --output_dir runs/photos-sweep/photos/square-lr0.001-" in line
    task = parse(Images, ["--train_dir", folder, "--arch", "wide_resnet", "--image_size", "32"])
    assert task.name == "photos"


def test_tasks_of_several_commands(place, capsys):
    options = ["--grid", "learning_rate=1e-5", "--seeds", "1", "--losses", "square", "--exp", "out"]
    said, *lines = planned(capsys, "--tasks", "mrpc,text8,mnist,librispeech", *options, "--", "--mini")
    assert said == "# librispeech: trained at the learning rate of the configuration, not those of --grid"
    assert [line.partition(" --mini ")[0] for line in lines] == [
        "sqloss glue --task mrpc",
        "sqloss characters --task text8",
        "sqloss images --task mnist",
        "sqloss asr librispeech",
    ]
    assert ["1e-05" in line for line in lines] == [True, True, True, False]


def test_both_lstm_models(place, capsys):
    options = ["--archs", "lstm_attention,lstm_cnn", "--seeds", "1", "--losses", "square"]
    lines = planned(capsys, "--tasks", "mrpc,qnli", *options)
    assert [line.split()[2:6] for line in lines] == [
        ["--task", task, "--arch", arch] for task in ("mrpc", "qnli") for arch in ("lstm_attention", "lstm_cnn")
    ]


def test_all_architectures_beside_one_by_name(place, capsys):
    options = ["--seeds", "1", "--losses", "square"]
    lines = planned(capsys, "--tasks", "mrpc,text5", "--archs", "all,lstm_cnn", *options)
    assert lines == planned(capsys, "--tasks", "mrpc,text5", "--archs", "all", *options)
    assert len(lines) == 4


def test_every_task_of_the_paper_has_a_command_and_an_architecture():
    assert set(paper.tasks()) <= set(COMMANDS)
    assert all(architectures(task) for task in paper.tasks())


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("seeds", "3", [1, 2, 3]),
        ("seeds", 2, [1, 2]),
        ("seeds", "7,", [7]),
        ("seeds", [7], [7]),
        ("seeds", "1 5", [1, 5]),
        ("grid", "learning_rate=0.00001, 5e-5", ["1e-05", "5e-05"]),
        ("grid", {"learning_rate": ["1e-4", 0.1]}, ["0.0001", "0.1"]),
        ("losses", "square cross_entropy", ["square", "cross_entropy"]),
        ("options", {"mini": True, "tag": ["a", "b"]}, ["--mini", "true", "--tag", "a", "b"]),
    ],
)
def test_values_are_read_alike_from_both_places(name, value, wanted):
    assert request._READERS[name](value, name) == wanted


def test_a_file_describes_a_sweep_and_the_command_line_counts_more(place, capsys):
    content = {"command": "classify", "options": {"train_file": "mine.csv"}, "grid": {"learning_rate": ["1e-4"]}}
    Path("sweep.yaml").write_text(yaml.safe_dump({**content, "losses": ["squentropy"], "seeds": 3}))
    (line,) = planned(capsys, "--config", "sweep.yaml", "--seeds", "5,")
    assert line.startswith("sqloss classify --train_file mine.csv --loss squentropy --learning_rate 0.0001 --seed 5 ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of the two"),
        (["classify", "--tasks", "mrpc"], "give one of the two"),
        (["compare", "runs"], "there is no sweep of 'compare'"),
        (["--tasks", "mrcp"], "there is no task 'mrcp'"),
        (["--tasks", "mrpc,mrpc"], "--tasks has mrpc twice"),
        (["--tasks", "mrpc", "--mini"], "options of the runs come after --"),
        (["--tasks", "mrpc", "--", "--dry_run"], "--dry_run is of the sweep: give it before --"),
        (["--tasks", "mrpc", "--", "--task", "sst2"], "--task is what --tasks says"),
        (["--tasks", "mrpc", "--archs", "tcnn"], "--archs has none of mrpc's architectures: bert, lstm_attention"),
        (["--tasks", "mrpc", "--losses", "hinge"], "--losses: there is no 'hinge'"),
        (["--tasks", "mrpc", "--losses", " "], "--losses is empty"),
        (["--tasks", "mrpc", "--seeds", "0"], "--seeds must be at least 1"),
        (["--tasks", "mrpc", "--seeds", "1,1"], "--seeds has 1 twice"),
        (["--tasks", "mrpc", "--seeds", "x"], "--seeds must be whole numbers"),
        (["--tasks", "mrpc", "--grid", "lr=1"], "--grid has learning rates and nothing else"),
        (["--tasks", "mrpc", "--grid", "learning_rate=-1"], "must be a finite number greater than 0, got -1"),
        (["--tasks", "mrpc", "--grid", "learning_rate=1e-3,0.001"], "--grid has 0.001 twice"),
        (["--tasks", "mrpc", "--protocols", "fixed_epochs"], "--protocols: there is no 'fixed_epochs'"),
        (["--tasks", "mrpc", "--protocols", "same_epochs"], "add early_stopping, or give --num_train_epochs"),
        (["--tasks", "mrpc", "--losses", "square", *BOTH], "add it to --losses"),
        (
            ["--tasks", "mrpc", "--workers", "2", "--scheduler", "tcp://a:1"],
            "--scheduler tcp://a:1 has workers already",
        ),
        (["--tasks", "mrpc", "--workers", "0"], "--workers must be a whole number of at least 1"),
        (["--tasks", "an4", "--protocols", "early_stopping"], "--protocols is not for speech"),
        (["asr", "--corpus", "AN4"], "asr needs the name of a recipe"),
        (["asr", "an4", "--tag", "x"], "--tag is what a sweep varies"),
        (["asr", "an4", "--grid", "learning_rate=1", "--optim_conf", "lr=2"], "--optim_conf lr is what a sweep varies"),
        (["glue", "--task", "stsb"], "stsb is a regression"),
        (["glue", "--task", "mrpc", "--seed=1"], "--seed is what a sweep varies: see --losses, --grid"),
        (["glue", "--task", "mrpc", "--learning-rate", "1"], "--learning_rate is what a sweep varies"),
        (["glue", "--task", "mrpc", "--k", "15"], "--k is not for cross_entropy: sweep the losses with it in another"),
        (["asr", "an4", "--losses", "square,squentropy", "--M=2"], "--M is not for squentropy"),
        (["--seeds", "2", "glue", "--task", "mrpc"], "glue must be the first word: sqloss sweep glue"),
        (["lm", "--train_file", "a.txt", "--archs", "x"], "lm has none"),
        (["glue", "--task", "mrpc", "--archs", "all"], "--archs all is for --tasks"),
        (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(options, message, place, capsys):
    assert_refused(sweep.main, options, "sqloss sweep", message, place, capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lossses: [square]", "has lossses, which is no option of a sweep"),
        ("parallel: {env: mars}", "parallel: there is no env 'mars'; choose from local, htcondor"),
        ("parallel: {n_worker: 3}", "parallel must be a mapping of env, n_workers, options and scheduler"),
        ("options: --mini", "options must be a mapping, or a list of words"),
    ],
)
def test_mistakes_in_a_file_are_refused(content, message, place, capsys):
    Path("sweep.yaml").write_text(content)
    assert sweep.main(["--config", "sweep.yaml"]) == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------- what is carried out


def test_a_sweep(fake, place, capsys):
    """Rates by validation, each loss its own; the files it leaves; finished runs are not repeated, others are added."""
    assert sweep.main([*FAKE, *BOTH, "--workers", "2"]) == 0
    names = {path.parent.name for path in place.rglob("result.json")}
    assert {name for name in names if name.endswith("early_stopping-s2")} == {
        "square-lr0.01-early_stopping-s2",  # the stand-in's square loss likes large rates, and its cross-entropy small
        "cross_entropy-lr0.0001-early_stopping-s2",
    }
    assert {name for name in names if "same_epochs" in name} == {
        f"{loss}-same_epochs-s{seed}" for loss in ("square-lr0.01", "cross_entropy-lr0.0001") for seed in (1, 2)
    }
    assert len(names) == 12
    folder = place / "runs/mine-sweep"
    epochs = json.loads((folder / "mine/square-lr0.01-same_epochs-s1/result.json").read_text())["epochs"]
    assert epochs == 2.0  # the best epoch of cross-entropy
    printed = capsys.readouterr().out
    assert "finished  mine/square-lr0.01-same_epochs-s2" in printed
    assert "The search took 6 runs and 6 s of training" in printed
    assert [cost["chosen"] for cost in json.loads((folder / "search.json").read_text())["search"]] == ["0.01", "0.0001"]
    assert len(json.loads((folder / "comparison.json").read_text())) == 2
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    assert sweep.main(["--config", str(folder / "sweep.yaml"), "--seeds", "3"]) == 0
    assert "16 runs in runs/mine-sweep, 12 of them finished before" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
    assert sweep.main([*FAKE, "--refused", ""]) == 2
    error = capsys.readouterr().err
    assert "runs/mine-sweep holds a sweep with the options --train_file mine.csv, and this one has" in error


def test_a_run_that_fails_does_not_stop_the_others(fake, place, monkeypatch, capsys):
    """A rate that diverges drops out, and at the end it is said, with its last words. Workers have a GPU each."""
    monkeypatch.setattr(execution, "_gpus", lambda: ["3", "5"])
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(execution, "CPU_COUNT", 8)
    assert sweep.main([*FAKE, "--broken", "square"]) == 1
    printed = capsys.readouterr()
    assert printed.err == "sqloss sweep: error: of 8 runs 1 failed\n"
    assert "FAILED, exit status 1: sqloss classify --train_file mine.csv --broken square --loss square" in printed.out
    assert "    fake: error: the training diverged\n" in printed.out
    assert (place / "runs/mine-sweep/mine/square-lr0.001-early_stopping-s2/result.json").is_file()
    logs = {path.read_text().splitlines()[1] for path in place.rglob("log.txt")}
    assert logs == {f"fake: gpu {gpu} threads 4" for gpu in (3, 5)}


def test_options_that_the_command_refuses_end_the_sweep(fake, place, capsys):
    """At once, with what the command says; the folder is free for the right ones."""
    assert sweep.main([*FAKE, "--refused", "x"]) == 2
    error = capsys.readouterr().err
    assert error == "sqloss sweep: error: the runs cannot begin: fake: error: an option that is wrong\n"
    assert len(list(place.rglob("log.txt"))) == 1
    assert sweep.main(["classify", "--train_file", "mine.csv", "--losses", "square", "--seeds", "1"]) == 0


def test_two_sweeps_do_not_share_a_folder(place, capsys):
    with lock_folder(Path("runs/mine-sweep")):
        assert sweep.main(FAKE) == 2
    assert "another process is at work in runs/mine-sweep" in capsys.readouterr().err


def runs_of(client):
    """The processes of a sweep's runs, each of which a worker has started."""
    try:
        processes = psutil.Process(client.pid).children(recursive=True)
        return [process for process in processes if process.cmdline()[2:4] == ["sqloss_plugins", "classify"]]
    except psutil.NoSuchProcess:
        return []


def workers_of(client):
    """The workers that have a run."""
    try:
        return [process.parent() for process in runs_of(client)]
    except psutil.NoSuchProcess:
        return []


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def killed_sweep(options, kinds, moments):
    """The exit status of a sweep of which workers and the client are killed at random moments, one after the other."""
    client = None
    for kind in kinds:
        if client is None or client.poll() is not None:
            client = subprocess.Popen(command(*options), stdout=subprocess.DEVNULL)
        wait_for(lambda client=client: workers_of(client))
        time.sleep(moments.uniform(0, 0.8))
        workers = wait_for(lambda client=client: workers_of(client))
        if kind == "worker":
            moments.choice(workers).kill()
        else:
            started = psutil.Process(client.pid).children(recursive=True)
            client.kill()
            client.wait()
            # Runs end with their workers, and these with the client: nothing writes on.
            wait_for(lambda started=started: not any(map(is_alive, started)))
    return client.wait()


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only there a process is told of its parent's end")


@needs_linux
def test_a_run_ends_with_its_worker_and_this_with_the_client(fake, monkeypatch):
    monkeypatch.setenv("FAKE_STEP_S", "600")
    client = subprocess.Popen(command(*FAKE))
    for kind in ("worker", "client"):
        (run,) = wait_for(lambda: runs_of(client))
        victim = run.parent() if kind == "worker" else client
        victim.kill()
        wait_for(lambda run=run: not is_alive(run), seconds=30)
    client.wait()


@needs_linux
def test_kills_change_nothing(fake, place):
    """A worker that is killed has its run done by another; where the client is, the same command goes on."""
    options = [*FAKE, *BOTH, "--seeds", "1", "--workers", "2"]
    assert sweep.main([*options, "--exp", "unkilled"]) == 0
    assert killed_sweep([*options, "--exp", "killed"], ["client", "worker"], random.Random(0)) == 0
    wanted = store(place / "unkilled")
    assert len(wanted) == 9
    assert store(place / "killed") == wanted


@pytest.mark.slow
@needs_linux
def test_twenty_kills_change_nothing(fake, place, monkeypatch):
    options = [*FAKE, *BOTH, "--workers", "2"]
    assert sweep.main([*options, "--exp", "unkilled"]) == 0
    moments = random.Random(1)
    kinds = ["client"] * 6 + ["worker"] * 14
    moments.shuffle(kinds)
    monkeypatch.setenv("FAKE_STEP_S", "0.4")
    killed_sweep([*options, "--exp", "killed"], kinds, moments)
    monkeypatch.setenv("FAKE_STEP_S", "0.01")
    assert sweep.main([*options, "--exp", "killed"]) == 0
    assert store(place / "killed") == store(place / "unkilled")


SBATCH = """#!/bin/sh
cp "$1" script
[ -z "$FULL" ] || { echo "sbatch: error: the queue is full" >&2; exit 1; }
setsid sh script > log 2>&1 &
echo "Submitted batch job $!"
"""


def test_a_cluster_with_a_queue(fake, place, tmp_path, monkeypatch, capsys):
    """SLURM's two commands are stand-ins; a job has one run at a time, however many cores it has."""
    for name, text in (("sbatch", SBATCH), ("scancel", '#!/bin/sh\nkill -- "-$1"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    options = {"cores": 8, "memory": "2GB", "scheduler_options": {"dashboard_address": None}}
    for module in [name for name in sys.modules if name.partition(".")[0] == "dask_jobqueue"]:
        monkeypatch.delitem(sys.modules, module)  # imported here, where it would take over interrupts
    on_interrupt = signal.getsignal(signal.SIGINT)
    content = {"command": "classify", "seeds": 1, "parallel": {"env": "slurm", "options": options}}
    Path("sweep.yaml").write_text(yaml.safe_dump(content))
    assert sweep.main(["--config", "sweep.yaml"]) == 2
    assert "the slurm cluster cannot be used: [Errno 2] No such file or directory: 'sbatch'" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is on_interrupt
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FULL", "yes")
    assert sweep.main(["--config", "sweep.yaml"]) == 2
    assert "sbatch: error: the queue is full" in capsys.readouterr().err
    monkeypatch.delenv("FULL")
    assert sweep.main(["--config", "sweep.yaml"]) == 0
    script = Path("script").read_text()
    assert "#SBATCH --cpus-per-task=8\n" in script
    assert "--nworkers" not in script
    assert script.rstrip().endswith(" --nthreads 1")  # the last one counts
    assert len(list(place.rglob("result.json"))) == 2


def test_a_run_that_another_process_has_is_waited_for(place):
    """Where the client was killed and its scheduler was not, two workers may come to have the same run."""
    folder = Path("out")
    folder.mkdir()
    with ThreadPoolExecutor() as pool:
        with FileLock(folder / ".sweep.lock"):
            waiting = pool.submit(execution.execute, ["no such command"], "out", str(place), None)
            time.sleep(0.3)
            assert not waiting.done()
            (folder / "result.json").touch()
        assert waiting.result() == (0, 0.0)
    assert not (folder / "log.txt").exists()


def test_a_scheduler_that_is_there_already(fake, place, capsys):
    """Its workers may have one thread each, and the runs go where the client is."""
    options = ["classify", "--losses", "square", "--seeds", "1", "--scheduler"]
    for threads, status in ((2, 2), (1, 0)):
        with LocalCluster(n_workers=1, threads_per_worker=threads, dashboard_address=None) as cluster:
            assert sweep.main([*options, cluster.scheduler_address]) == status
    assert "start workers by dask worker --nthreads 1" in capsys.readouterr().err
    assert len(list(place.rglob("result.json"))) == 1
    Path("runs/classify-sweep/classify/square-early_stopping-s1/result.json").unlink()
    assert sweep.main([*options, cluster.scheduler_address]) == 2
    assert f"--scheduler {cluster.scheduler_address} cannot be used" in capsys.readouterr().err


def test_a_scheduler_that_is_lost():
    """Also where no run is at work that would end with it."""

    class Lost:
        def nthreads(self):
            raise CommClosedError("in <TCP (closed)>")

    with pytest.raises(RunError, match="the scheduler was lost; the same command goes on"):
        execution._workers(Lost())


def test_a_result_that_another_machine_writes_is_seen_late(place, monkeypatch):
    """A run that ended well is finished when its file is seen, and failed where it never is."""
    run = Plan(Path("out"), (Cell("mine", ("classify",)),), ("square",), (1,), ("early_stopping",)).all()[0]
    run.folder.mkdir(parents=True)
    future = SimpleNamespace(status="finished", result=lambda: (0, 7.0))
    monkeypatch.setattr(execution, "_LAG_S", 0.0)
    assert execution._outcome(future, run)[::2] == (
        State.FAILED, "it ended well, but left no result.json here: workers need the same folder",
    )  # fmt: skip
    monkeypatch.setattr(execution, "_LAG_S", 60.0)
    monkeypatch.setattr(time, "sleep", lambda _: (run.folder / "result.json").touch())
    assert execution._outcome(future, run) == (State.FINISHED, 7.0, "")


@pytest.mark.slow
def test_on_ones_own_data(place, tiny_model, monkeypatch, capsys):
    """For real; a rate with which training diverges drops out."""
    rows = [f"number {i}: the film is {('bad', 'good')[i % 2]},{i % 2}" for i in range(32)]
    Path("tiny.csv").write_text("\n".join(["text,label", *rows]))
    options = ["--train_file", "tiny.csv", "--model_name_or_path", str(tiny_model), "--num_train_epochs", "1"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert sweep.main(["classify", *options, "--use_cpu", "--grid", "learning_rate=1e-3,1e30", "--seeds", "1"]) == 1
    printed = capsys.readouterr()
    assert printed.err == "sqloss sweep: error: of 4 runs 2 failed\n"
    assert "FAILED, exit status 1: sqloss classify --train_file tiny.csv" in printed.out
    assert "the training diverged" in printed.out
    assert "| minus cross_entropy |" in printed.out
    assert len(list(place.rglob("result.json"))) == 2

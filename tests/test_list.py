"""`sqloss list`: the paper's tasks, where their data is looked for, and the runs that are there."""

import json
from pathlib import Path

import pytest
from commands import assert_refused
from result_files import write

from sqloss_plugins import paper
from sqloss_plugins.cli import COMMANDS as PROGRAMS
from sqloss_plugins.espnet.tasks import TASKS as ESPNET_TASKS
from sqloss_plugins.experiments import listing
from sqloss_plugins.experiments.tasks import COMMANDS
from sqloss_plugins.results import OF_OUTPUTS


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory, and an empty cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(listing, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def listed(capsys, *options):
    assert listing.main([*options, "--json"]) == 0
    return {(entry["task"], entry["arch"]): entry for entry in json.loads(capsys.readouterr().out)}


def test_every_pair_of_the_papers_tables_is_there(place, capsys):
    found = listed(capsys)
    wanted = {(row["task"], row["model"]) for row in paper.tables()["test_results"]}
    assert set(found) == wanted
    assert sum(len(entry["numbers"]) for entry in found.values()) == len(paper.tables()["test_results"])
    assert found["mrpc", "bert"]["numbers"]["f1"] == {"square": 88.1, "cross_entropy": 86.7, "same_epochs": 88.0}
    assert found["qqp", "lstm_cnn"]["command"] == "sqloss glue --task qqp --arch lstm_cnn"
    assert found["text8", "transformer_xl"]["command"] == "sqloss characters --task text8"


def test_every_command_is_one_of_sqloss():
    assert {words[0] for words in COMMANDS.values()} <= set(PROGRAMS)
    assert set(listing._DATA) == {COMMANDS[task][0] for task in paper.tasks()}


@pytest.mark.parametrize(
    ("task", "path"),
    [
        ("mrpc", "hub/datasets--nyu-mll--glue/snapshots/abc/mrpc"),
        ("mrpc", "cache/nyu-mll___glue/mrpc"),
        ("cifar10", "cache/uoft-cs___cifar10"),
        ("imagenet", "hub/datasets--ILSVRC--imagenet-1k/snapshots/abc"),
        ("text8", "cache/sqloss_characters/text8.zip"),
        ("librispeech", "here/downloads/librispeech"),
    ],
)
def test_data_is_found_where_the_commands_keep_it(task, path, place, capsys):
    assert {entry["data"]["is_here"] for (name, _), entry in listed(capsys).items() if name == task} == {False}
    (place / path).mkdir(parents=True)
    found = listed(capsys)
    assert {entry["data"]["is_here"] for (name, _), entry in found.items() if name == task} == {True}
    assert found["qnli", "bert"]["data"]["is_here"] is False
    assert found["wsj", "transformer"]["data"]["is_here"] is None  # it has no usual place


def test_runs_are_counted_and_measured(place, capsys):
    """Mini data does not count, nor another pre-trained model than the paper's."""
    for seed in (1, 2):
        write(Path("runs"), seed=seed, arch="bert-base-cased", device="NVIDIA H100", wall_time_s=60.0 * seed)
    write(Path("runs"), "cross_entropy", arch="lstm_cnn", device="CPU (x86_64, threads: 2)", wall_time_s=100.0)
    write(Path("runs"), "squentropy", arch="bert-base-cased", mini=True)
    write(Path("runs"), seed=3, arch="minilm-l6")
    found = listed(capsys)
    assert found["mrpc", "bert"]["runs"] == {"square": 2}
    assert found["mrpc", "lstm_cnn"]["runs"] == {"cross_entropy": 1}
    assert found["mrpc", "bert"]["budget"] == {"hours": 15 * 90 / 3600, "device": "NVIDIA H100", "measured": 2}
    assert found["sst2", "bert"]["budget"] is None
    assert listing.main(["--budget"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("unmeasured") == 25 - 2 + 1
    assert (
        "GPU-hours of 1 of the paper's 25 pairs of task and architecture: 0.375. The others are unmeasured." in printed
    )
    assert "0.417, CPU (x86_64, threads: 2)" in printed


def test_predictions_alone_are_no_runs(place, capsys):
    """They are below `runs`, too, where it looks by itself; there may also be nothing finished yet."""
    Path("runs").mkdir()
    nothing = listed(capsys)
    write(Path("runs/new"), metrics={"test": {OF_OUTPUTS: {"accuracy": 0.5}}}, epochs=0.0, best_epoch=None)
    assert listed(capsys) == nothing
    assert listing.main(["runs"]) == 2
    assert "is of predictions alone" in capsys.readouterr().err


def test_nothing_is_made_up_where_nothing_was_run(place, capsys):
    assert listing.main(["--budget"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("unmeasured") == 26
    assert "GPU-hours of the paper: unmeasured" in printed


def test_the_tasks_of_espnet(place, capsys):
    assert listing.main(["--espnet"]) == 0
    printed = capsys.readouterr().out
    for name, task in ESPNET_TASKS.items():
        (row,) = (line for line in printed.splitlines() if line.startswith(f"| {name} "))
        assert f"| {name}_train" in row
        assert ", ".join(task.criteria) in row
    assert listing.main(["--espnet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mt"]["criteria"] == {"criterion_mt": "vocab_size"}


def test_mistakes_are_refused(place, capsys):
    assert_refused(listing.main, ["--espnet", "--budget"], "sqloss list", "leave folders", place / "here", capsys)
    assert_refused(listing.main, ["nowhere"], "sqloss list", "nowhere is not a folder", place / "here", capsys)
    assert_refused(listing.main, ["--json", "--budget"], "sqloss list", "leave --budget out", place / "here", capsys)

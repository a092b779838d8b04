"""The calibration report, from outputs on disk to tables, through the command line that a user types."""

import json
import math

import numpy as np
import pytest
import torch
from commands import assert_refused
from result_files import result

from sqloss_plugins.experiments.calibrate import main as calibrate
from sqloss_plugins.metrics import compute
from sqloss_plugins.probability import fit_temperature, probabilities
from sqloss_plugins.results import write_result

CLASSES = 5


def sample(seed, size=400, sharpness=2.0):
    """True probabilities, shape (N, C), and classes drawn by them, shape (N,)."""
    generator = np.random.default_rng(seed)
    p = np.exp(sharpness * generator.normal(size=(size, CLASSES)))
    p /= p.sum(1, keepdims=True)
    return p, np.array([generator.choice(CLASSES, p=row) for row in p])


def write(folder, loss="square", seed=1, splits=("validation", "test"), arrays=None, **changes):
    """A run whose outputs are those of a perfect model: after cross-entropy too sharp, with a temperature of 3."""
    if arrays is None:
        arrays = {}
        for i, split in enumerate(splits):
            p, targets = sample(100 * seed + i)
            arrays[f"{split}_outputs"] = (p if loss == "square" else 3 * np.log(p)).astype(np.float32)
            arrays[f"{split}_targets"] = targets
    rescaling = {"k": 1.0, "M": 1.0} if loss == "square" else {}
    target = folder / f"{loss}-{seed}"
    target.mkdir(parents=True)
    write_result(target, result(loss, seed=seed, **{**rescaling, **changes}), arrays)
    return target


def rows(printed, title):
    """The table below a title, each row as heading -> cell."""
    table = printed.split(f"{title}:\n\n")[1].split("\n\n")[0].strip().splitlines()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_several_seeds(tmp_path, capsys):
    """Means over seeds, differences seed by seed, and a report whose figures are those of the metrics."""
    for seed in (1, 2, 3):
        write(tmp_path / "runs", "square", seed)
        write(tmp_path / "runs", "cross_entropy", seed)
    options = [str(tmp_path / "runs"), "--bootstrap", "0", "--output", str(tmp_path / "out")]
    assert calibrate(options) == 0
    printed = capsys.readouterr().out
    table = {(row["loss"], row["method"]): row for row in rows(printed, "test")}
    assert list(table) == [
        ("cross_entropy", "softmax"), ("cross_entropy", "temperature"), ("square (k=1, M=1)", "square"),
        ("square (k=1, M=1)", "softmax"), ("square (k=1, M=1)", "temperature"), ("square (k=1, M=1)", "square, fitted"),
    ]  # fmt: skip
    assert {row["seeds"] for row in table.values()} == {"3"}
    nll = {place: float(row["nll nats"].partition(" ")[0]) for place, row in table.items()}
    best = nll["square (k=1, M=1)", "square"]
    assert best == pytest.approx(nll["cross_entropy", "temperature"], rel=0.02)
    assert nll["square (k=1, M=1)", "square, fitted"] == pytest.approx(best, rel=0.02)
    assert min(nll["square (k=1, M=1)", "softmax"], nll["cross_entropy", "softmax"]) > 1.2 * best

    (content,) = json.loads((tmp_path / "out/calibration.json").read_text())
    assert len(content["runs"]) == 6
    by_seed = {}
    for run in content["runs"]:
        with np.load(f"{run['path']}/outputs.npz") as arrays:
            f, y = (torch.from_numpy(arrays[f"test_{what}"]) for what in ("outputs", "targets"))
            held_out = [torch.from_numpy(arrays[f"validation_{what}"]) for what in ("outputs", "targets")]
        temperature = fit_temperature(*held_out)
        assert run["fitted"]["temperature"]["temperature"] == pytest.approx(temperature)
        expected = {
            "softmax": f.double().softmax(1),
            "temperature": (f.double() / temperature).softmax(1),
            "square": probabilities(f.double()),
            "square, fitted": probabilities(f.double(), **run["fitted"].get("square, fitted", {})),
        }
        for method, one in run["splits"]["test"].items():
            p = expected[method]
            for name, value in one["values"].items():
                wanted = compute(name, p.argmax(1) if name == "accuracy" else p, y)
                assert value == pytest.approx(wanted, abs=1e-6), name
            assert one["confidence"] == pytest.approx(float(p.amax(1).mean()))
            assert one["risks"]["1.0"] == pytest.approx(1 - one["values"]["accuracy"])
            assert sum(count for *_, count in one["reliability"]) == len(y)
            gaps = [abs(confidence - accuracy) * count for confidence, accuracy, count in one["reliability"]]
            assert sum(gaps) / len(y) == pytest.approx(one["values"]["ece"], abs=1e-6)
        by_seed[run["loss"], run["seed"]] = run["splits"]["test"]
    differences = [
        by_seed["square (k=1, M=1)", seed]["square"]["values"]["nll"]
        - by_seed["cross_entropy", seed]["temperature"]["values"]["nll"]
        for seed in (1, 2, 3)
    ]
    row = rows(printed, "test: minus cross_entropy with its temperature")[0]
    assert (row["method"], row["metric"]) == ("square", "nll nats")
    assert [float(value) for value in row["by seed"].split()] == pytest.approx(differences, abs=1e-4)
    assert row["seeds better"] == f"{sum(value < 0 for value in differences)} of 3"

    report = (tmp_path / "out/calibration.md").read_text()
    for line in printed.splitlines():
        if line.startswith("|"):
            assert line in report
    figures = [part.split(")")[0] for part in report.split("](")[1:]]
    assert len(figures) == 2
    for name in figures:
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "out" / name).with_suffix(".svg").is_file()


def test_one_run(tmp_path, capsys):
    """One seed has intervals by the bootstrap, which hold the value and are about as wide as they should be."""
    run = write(tmp_path / "runs")
    assert calibrate([str(run), "--bootstrap", "300", "--split", "validation"]) == 0
    row = rows(capsys.readouterr().out, "validation, to which temperature and floor were fitted")[0]
    for name in ("accuracy %", "nll nats", "brier", "ece %", "ece_adaptive %", "aurc %"):
        assert row[name].endswith("]"), name
    value, _, interval = row["accuracy %"].partition(" [")
    low, high = map(float, interval.rstrip("]").split(", "))
    standard_error = math.sqrt(float(value) * (100 - float(value)) / 400)
    assert low < float(value) < high
    assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


def test_mini_runs_are_called_so(tmp_path, capsys):
    run = write(tmp_path / "runs", mini=True)
    assert calibrate([str(run), "--bootstrap", "0", "--output", str(tmp_path / "out")]) == 0
    warning = "MINI: data that this package makes"
    assert warning in capsys.readouterr().out
    assert warning in (tmp_path / "out/calibration.md").read_text()
    assert len(list((tmp_path / "out").glob("*-mini-1-*.png"))) == 2


def test_a_run_without_test_data(tmp_path, capsys):
    """The validation data takes its place, and the table says what that means."""
    run = write(tmp_path / "runs", splits=["validation"])
    assert calibrate([str(run), "--bootstrap", "0"]) == 0
    assert rows(capsys.readouterr().out, "validation, to which temperature and floor were fitted")[0]["seeds"] == "1"


def test_data_of_another_kind(tmp_path, capsys):
    """A model that knows what it knows: its largest probability tells the data apart."""
    run = write(tmp_path / "runs")
    flat = np.full((50, CLASSES), 0.2, np.float32)
    other = tmp_path / "other"
    other.mkdir()
    write_result(other, result(hyperparameters={"learning_rate": 1e-4, "model": str(run)}), {"test_outputs": flat})
    assert calibrate([str(run), "--bootstrap", "0", "--out_of_distribution", str(other)]) == 0
    table = rows(capsys.readouterr().out, "test, told from other data by the largest probability")
    assert {row["method"]: row["AUROC %"] for row in table}["square"] == "100.00"

    assert calibrate([str(run), "--bootstrap", "0", "--out_of_distribution", str(other), str(other)]) == 2
    assert f"--out_of_distribution has {run} twice" in capsys.readouterr().err
    write(tmp_path / "runs", seed=2)
    assert calibrate([str(tmp_path / "runs/square-2"), "--bootstrap", "0", "--out_of_distribution", str(other)]) == 2
    assert f"--out_of_distribution has outputs of {run}, which is none of the runs" in capsys.readouterr().err
    assert calibrate([str(run), "--out_of_distribution", str(tmp_path / "runs/square-2")]) == 2
    assert "does not say of which run the model is: score it by --do_predict" in capsys.readouterr().err


def test_what_is_left_out(tmp_path, capsys):
    """Runs without such outputs, and losses without a rate, are named; targets of -100 do not count.

    Squentropy has one rate for each seed, so that none can be chosen.
    """
    p, targets = sample(1)
    targets[:100] = -100
    arrays = {f"{split}_{what}": array for split in ("validation", "test") for what, array in
              (("outputs", p), ("targets", targets))}  # fmt: skip
    write(tmp_path, arrays=arrays)
    nothing = write(tmp_path, "cross_entropy", arrays={})
    for seed, rate in ((1, 1e-4), (2, 1e-3)):
        write(tmp_path, "squentropy", seed, hyperparameters={"learning_rate": rate})
    assert calibrate([str(tmp_path), "--bootstrap", "0", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"Left out: {nothing} has no outputs.npz: this run kept no outputs to calibrate." in printed
    assert "Left out: no seed of squentropy, mrpc, bert was run with every learning rate." in printed
    (content,) = json.loads((tmp_path / "out/calibration.json").read_text())
    (run,) = content["runs"]
    assert sum(count for *_, count in run["splits"]["test"]["square"]["reliability"]) == 300


OF_SETS = {f"{split}_{what}": np.zeros((4, 3)) for split in ("validation", "test") for what in ("outputs", "targets")}
WRONG = {
    "no outputs": ({"arrays": {}}, [], "has no outputs.npz: this run kept no outputs to calibrate"),
    "label sets": ({"arrays": OF_SETS}, [], "the outputs are not those of examples with one true class each"),
    "no validation": ({"splits": ["test"]}, [], "has no outputs on validation data with labels"),
    "no test": (
        {"splits": ["validation"]},
        ["--split", "test"],
        "has no outputs on test data with labels: see --split",
    ),
    "bins": ({}, ["--bins", "0"], "--bins must be at least 1, got 0"),
    "resamples": ({}, ["--bootstrap", "-1"], "--bootstrap must be at least 0, got -1"),
    "not finite": (
        {"arrays": {"validation_outputs": np.full((4, 3), np.nan), "validation_targets": np.zeros(4, int)}},
        [],
        "not all outputs on validation are finite",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes(mistake, tmp_path, capsys):
    made, options, message = WRONG[mistake]
    run = write(tmp_path / "runs", **made)
    (tmp_path / "here").mkdir()
    options = [str(run), *options, "--output", str(tmp_path / "here/out")]
    assert_refused(calibrate, options, "sqloss calibrate", message, tmp_path / "here", capsys)


def test_files_that_cannot_be_read_or_written(tmp_path, capsys):
    run = write(tmp_path / "runs")
    (tmp_path / "file").touch()
    assert calibrate([str(run), "--output", str(tmp_path / "file")]) == 2
    assert f"--output {tmp_path / 'file'} is a file: name a folder" in capsys.readouterr().err
    for text in ("no JSON", "[1]"):
        (run / "config.json").write_text(text)
        assert calibrate([str(run), "--bootstrap", "0", "--save"]) == 2
        assert "config.json cannot be read as a model's configuration" in capsys.readouterr().err
    (run / "outputs.npz").write_bytes(b"PK no archive")
    assert calibrate([str(run)]) == 2
    assert "outputs.npz is not an NPZ file" in capsys.readouterr().err


def test_outputs_of_a_program_of_ones_own(tmp_path, capsys):
    """The same figures as those of a run with these outputs; what cannot be is refused."""
    run, saved, other = write(tmp_path / "runs"), tmp_path / "mine.npz", tmp_path / "other.npz"
    saved.write_bytes((run / "outputs.npz").read_bytes())
    assert calibrate([str(run), "--bootstrap", "0"]) == 0
    expected = rows(capsys.readouterr().out, "test")
    assert calibrate([str(saved), "--loss", "square", "--bootstrap", "0"]) == 0
    printed = capsys.readouterr().out
    assert rows(printed, "test") == expected
    assert {row["learning rate"] for row in rows(printed, "fitted on validation data")} == {"-"}

    assert calibrate([str(saved), "--loss", "square", "--M", "2", "--bootstrap", "0"]) == 0
    assert rows(capsys.readouterr().out, "test")[0]["nll nats"] != expected[0]["nll nats"]

    other.write_text("text")
    for arguments, sentence in (
        ([saved], "--loss square or cross_entropy"),
        ([saved, "--loss", "cross_entropy", "--k", "2"], "leave them out"),
        ([saved, "--loss", "square", "--k", "0"], "k must be a positive"),
        ([saved, "--loss", "square", "--save"], "--save is for runs"),
        ([other, "--loss", "square"], "other.npz is not an NPZ file"),
        ([tmp_path / "none.npz", "--loss", "square"], "none.npz is not there"),
        ([run, "--loss", "square"], "of NPZ files"),
    ):
        assert calibrate([str(argument) for argument in arguments]) == 2
        assert sentence in capsys.readouterr().err


def test_arrays_of_ones_own_that_do_not_fit(tmp_path, capsys):
    outputs, targets = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 3
    fine = {f"{split}_{what}": value for split in ("validation", "test")
            for what, value in (("outputs", outputs), ("targets", targets))}  # fmt: skip
    saved = tmp_path / "mine.npz"
    for changes, sentence in (
        ({"test_targets": targets + 1}, "test has the class number 3, but 3 outputs an example: number classes from 0"),
        ({"test_targets": targets.astype(str)}, "targets whole numbers; on test they are not"),
        ({"test_targets": targets + 0.5}, "targets whole numbers; on test they are not"),
        ({"test_outputs": np.ones((20, 4))}, "the splits do not have outputs of the same number of classes"),
    ):
        np.savez(saved, **fine | changes)
        assert calibrate([str(saved), "--loss", "square"]) == 2
        assert sentence in capsys.readouterr().err
    np.savez(saved, **fine | {"test_targets": np.full(20, -1)})
    assert calibrate([str(saved), "--loss", "square", "--bootstrap", "0"]) == 0
    assert "validation, to which temperature and floor were fitted" in capsys.readouterr().out, "no label, no test data"

"""`sqloss explain`: small experiments, their tables and figures, and the models that are trained side by side."""

import csv
import json

import pytest
import torch
import torch.nn.functional as F
from commands import assert_refused

from sqloss_plugins.experiments import explain, studies
from sqloss_plugins.experiments.explain import main
from sqloss_plugins.experiments.small_models import Examples, Training, digits, drawn, perceptron, steps_until, train


def test_models_side_by_side_are_those_trained_alone():
    """Each has its own gradient and rate: the same as PyTorch's loop with a module."""
    training, test = digits()
    how = Training(drawn(training, 16), test, steps=4, optimizer="SGD", every=2)
    rates = [0.5, 2.0]
    found = train(lambda f, y: F.cross_entropy(f, y, reduction="sum"), [perceptron((64, 8, 10), 3)] * 2, rates, how)
    for rate, accuracies in zip(rates, found, strict=True):
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
        optimizer, expected = torch.optim.SGD(model.parameters(), lr=rate), []
        for step in range(4):
            batch = how.batches(step)
            optimizer.zero_grad()
            F.cross_entropy(model(batch.x), batch.y).backward()
            optimizer.step()
            if step % 2:
                expected.append(float((model(test.x).argmax(1) == test.y).double().mean()))
        assert accuracies == pytest.approx(expected, abs=0.003)
    assert steps_until([0.1, 0.6, 0.5], 0.5, every=2) == 4
    assert steps_until([0.1], 0.5, every=2) is None
    assert isinstance(how.batches(0), Examples)


def by(table, *fields):
    return {tuple(record[field] for field in fields): record for record in table.records}


def test_a_neuron_behind_a_sigmoid_stalls_and_a_raw_output_does_not():
    neuron, _ = studies._neurons((2, 6), 0.15)
    steps = {place: record["steps"] for place, record in by(neuron, "loss", "start").items()}
    for name in (studies.CROSS_ENTROPY, studies.SQUARE):
        assert steps[name, 6.0] < 4 * steps[name, 2.0]
    assert steps[studies.BEHIND_SIGMOID, 6.0] > 20 * steps[studies.BEHIND_SIGMOID, 2.0]
    gradients = {place: record["gradient"] for place, record in by(neuron, "loss", "start").items()}
    p = torch.tensor(6.0).double().sigmoid()
    assert gradients[studies.BEHIND_SIGMOID, 6.0] == pytest.approx(float(2 * p * p * (1 - p)))
    assert gradients[studies.CROSS_ENTROPY, 6.0] == pytest.approx(float(p))
    assert gradients[studies.SQUARE, 6.0] == pytest.approx(12)


def test_known_probabilities_are_found():
    """The method `square` is within 1 % of the entropy, and the softmax of the same outputs is not."""
    (table,) = studies.population(class_counts=(2, 50), points=20).tables
    found = by(table, "classes", "loss", "method")
    for classes in (2, 50):
        assert found[classes, studies.CROSS_ENTROPY, "softmax"]["nll_above_entropy_%"] == pytest.approx(0, abs=1e-3)
        assert 0 <= found[classes, studies.SQUARE, "square"]["nll_above_entropy_%"] < 1
        assert found[classes, studies.SQUARE, "softmax"]["nll_above_entropy_%"] > 3


def test_the_command(tmp_path, capsys, monkeypatch):
    """Every study, at the smallest size, whatever the default device is: a table, its numbers, a figure."""
    small = {
        "saturated": lambda: studies.saturated(steps=5),
        "convergence": lambda: studies.convergence(class_counts=(2, 50), steps=10),
        "population": lambda: studies.population(class_counts=(2, 50), points=10),
        "cost": lambda: studies.cost(class_counts=(10,), rounds=1),
        "seeds": lambda: studies.seeds(number_of_seeds=3, steps=5),
    }
    assert small.keys() == studies.STUDIES.keys()
    monkeypatch.setattr(explain, "STUDIES", small)
    with torch.device("meta"):
        assert main(["--figures", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "out/explain.json").read_text())
    assert [study["name"] for study in content["studies"]] == list(small)
    for study in content["studies"]:
        assert study["question"] in printed
        for table in study["tables"]:
            with (tmp_path / f"out/{table['name']}.csv").open(encoding="utf-8") as file:
                assert len(list(csv.DictReader(file))) == len(table["records"])
        assert (tmp_path / f"out/{study['name']}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"out/{study['name']}.svg").is_file()
    (cost,) = content["studies"][3]["tables"]
    assert cost["records"][0] == {"classes": 10, "loss": "cross-entropy", "time_/_cross-entropy": 1.0}

    assert main(["cost", "--output", str(tmp_path / "one")]) == 0
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["cost.csv", "explain.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["saturation"], "there is no study 'saturation': choose from saturated, convergence"),
        (["--figure"], "unrecognized arguments: --figure"),
        (["--output", __file__], f"--output {__file__} is a file: name a folder"),
        (["--output", f"{__file__}/out"], f"cannot write into {__file__}/out: Not a directory"),
    ],
)
def test_mistakes(options, message, tmp_path, capsys):
    assert_refused(main, options, "sqloss explain", message, tmp_path, capsys)

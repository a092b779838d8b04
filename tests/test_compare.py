"""Comparisons of finished runs, through the command line that a user types."""

import json

import pytest
from result_files import write

from sqloss_plugins.experiments.compare import main as compare
from sqloss_plugins.experiments.comparison import find_runs
from sqloss_plugins.results import OF_OUTPUTS


def rows(printed, first):
    """The rows of the table whose first heading is given, each as heading -> cell."""
    table = next(part for part in printed.lstrip().split("\n\n") if part.startswith(f"| {first} "))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def by_method(**values):
    """Metrics of every split: ``of_outputs``, or a method's name -> metric -> value."""
    one = {OF_OUTPUTS if name == "of_outputs" else name: metrics for name, metrics in values.items()}
    return {"validation": one, "test": one}


def test_a_comparison(tmp_path, capsys):
    """The rate is chosen on validation with the seed that all rates have, then paired by seed."""
    for loss, rate, seed, accuracy in [
        ("square", 1e-5, 1, 0.70), ("square", 1e-4, 1, 0.80), ("square", 1e-4, 2, 0.82), ("square", 1e-4, 3, 0.87),
        ("cross_entropy", 1e-5, 1, 0.75), ("cross_entropy", 1e-4, 1, 0.60), ("cross_entropy", 1e-5, 2, 0.79),
        ("cross_entropy", 1e-5, 3, 0.80),
    ]:  # fmt: skip
        write(tmp_path, loss, rate, seed, accuracy)
    assert compare([str(tmp_path), "--json", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("\nmrpc, bert, early_stopping\n")
    _, square = rows(printed, "loss")
    assert square["lr tried: validation accuracy %"] == "1e-05: 70.00, 0.0001: 80.00"
    assert square["validation accuracy %"] == "83.00 +- 3.61"
    validation, test = rows(printed, "minus cross_entropy")
    assert (validation["metric"], test["metric"]) == ("validation accuracy %", "test accuracy %")
    assert validation["mean difference"] == "+5.00 +- 2.00"
    assert validation["by seed"] == "+5.00 +3.00 +7.00"
    assert validation["seeds better"] == "3 of 3"
    assert validation["paired t, p"] == "0.049"
    assert "loss %" not in printed, "the training loss is no measure across losses"
    (content,) = json.loads((tmp_path / "out.json").read_text())
    assert {s["loss"]: s["learning_rate"] for s in content["summaries"]} == {"square": 1e-4, "cross_entropy": 1e-5}
    assert content["differences"][0]["p_value"] == pytest.approx(0.0494, abs=1e-3)
    assert content["differences"][0]["by_seed"]["2"] == pytest.approx(0.03)
    assert content["directions"]["accuracy"]["higher_is_better"]
    assert compare([str(tmp_path), "--best_lr", "cross_entropy"]) == 0
    assert capsys.readouterr().out == "1e-05\n"


def test_options_that_an_earlier_version_did_not_have(tmp_path, capsys):
    """What is not given is no difference; what is given is one."""
    write(tmp_path / "old", seed=1)
    write(tmp_path / "new", seed=2, hyperparameters={"learning_rate": 1e-4, "teacher": None, "some_switch": False})
    assert compare([str(tmp_path)]) == 0
    assert rows(capsys.readouterr().out, "loss")[0]["seeds"] == "2"
    write(tmp_path / "other", seed=3, hyperparameters={"learning_rate": 1e-4, "teacher": "runs/other"})
    assert compare([str(tmp_path)]) == 0
    assert "(teacher runs/other)" in capsys.readouterr().out


def test_prior_weights_are_part_of_the_loss(tmp_path, capsys):
    """Runs with them are held against the same cross-entropy, and apart from those without."""
    square = {"k": 15.0, "M": 32.0}
    write(tmp_path, "cross_entropy")
    write(tmp_path / "plain", **square, accuracy=0.7)
    write(tmp_path / "prior", **square, hyperparameters={"learning_rate": 1e-4, "prior_exponent": 0.75})
    assert compare([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    names = ["square (k=15, M=32)", "square (k=15, M=32, prior exponent 0.75)"]
    assert [row["loss"] for row in rows(printed, "loss")] == ["cross_entropy", *names]
    assert [row["minus cross_entropy"] for row in rows(printed, "minus cross_entropy")][::2] == names


def test_a_factorised_head_is_part_of_the_loss(tmp_path, capsys):
    """With its learning rate; held against the same cross-entropy."""
    square, rate = {"k": 1.0, "M": 1.0}, {"learning_rate": 1e-4}
    write(tmp_path, "cross_entropy", hyperparameters={**rate, "factorised_head": False, "head_learning_rate": None})
    write(tmp_path / "plain", **square, accuracy=0.7)
    for head in (300.0, 1000.0):
        of_head = {**rate, "factorised_head": True, "head_learning_rate": head}
        write(tmp_path / f"{head}", **square, hyperparameters=of_head)
    assert compare([str(tmp_path)]) == 0
    names = ["square (k=1, M=1)"] + [f"square (k=1, M=1, factorised head at lr {head})" for head in (1000, 300)]
    assert [row["loss"] for row in rows(capsys.readouterr().out, "loss")] == ["cross_entropy", *names]


def test_a_folder_that_is_named_twice_counts_once(tmp_path, capsys):
    write(tmp_path / "a")
    assert compare([str(tmp_path), str(tmp_path / "a")]) == 0
    assert rows(capsys.readouterr().out, "loss")[0]["seeds"] == "1"


def test_it_goes_by_the_metric_that_the_run_was_selected_by(tmp_path, capsys):
    """Of CoLA Matthews's correlation, which another name comes before in the alphabet."""
    for rate, accuracy, correlation in ((2e-5, 0.80, 0.60), (5e-5, 0.82, 0.50)):
        metrics = by_method(of_outputs={"accuracy": accuracy, "matthews_correlation": correlation})
        write(tmp_path, "square", rate, metrics=metrics, task="cola", selection="matthews_correlation")
    assert compare([str(tmp_path), "--best_lr", "square"]) == 0
    assert capsys.readouterr().out == "2e-05\n"
    assert compare([str(tmp_path), "--overview"]) == 0
    (row,) = rows(capsys.readouterr().out, "task")
    assert (row["metric"], row["test"]) == ("matthews_correlation", "0.6000")


@pytest.mark.parametrize(("higher_is_better", "chosen"), [(False, "0.001"), (True, "0.01")])
def test_the_direction_is_the_files(higher_is_better, chosen, tmp_path, capsys):
    """Of a metric that this package does not know, and in its own unit."""
    direction = {"higher_is_better": higher_is_better, "unit": "bits", "is_comparable": True}
    for loss, rate, value in (("square", 1e-3, 1.25), ("square", 1e-2, 1.5), ("cross_entropy", 1e-3, 1.375)):
        metrics = by_method(of_outputs={"surprise": value})
        write(tmp_path, loss, rate, metrics=metrics, selection="surprise", directions={"surprise": direction})
    assert compare([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    _, square = rows(printed, "loss")
    assert square["lr"] == chosen
    assert square["validation surprise bits"] in ("1.2500", "1.5000")
    assert rows(printed, "minus cross_entropy")[0]["seeds better"] == "1 of 1"


def test_files_that_do_not_agree_on_a_direction(tmp_path, capsys):
    for seed, higher_is_better in ((1, True), (2, False)):
        direction = {"accuracy": {"higher_is_better": higher_is_better, "unit": "%", "is_comparable": True}}
        metrics = by_method(of_outputs={"accuracy": 0.5})
        write(tmp_path, seed=seed, metrics=metrics, directions=direction)
    assert compare([str(tmp_path)]) == 2
    assert "do not agree on the direction or the unit of accuracy" in capsys.readouterr().err


def test_a_rate_with_which_training_diverged_is_not_chosen(tmp_path, capsys):
    for rate, perplexity in ((1e-3, float("nan")), (3e-3, 50.0), (1e-2, float("nan"))):
        write(tmp_path, "square", rate, metrics=by_method(softmax={"perplexity": perplexity}), selection="perplexity")
    assert compare([str(tmp_path), "--json", str(tmp_path / "out.json")]) == 0
    assert "0.001: nan, 0.003: 50.00, 0.01: nan" in capsys.readouterr().out
    (content,) = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)
    assert content["summaries"][0]["learning_rate"] == 3e-3


def test_seeds_that_diverged_are_not_hidden(tmp_path, capsys):
    for loss in ("square", "cross_entropy"):
        for seed in (1, 2, 3):
            value = float("nan") if (loss, seed) == ("square", 2) else 40.0 + seed
            write(tmp_path, loss, 1e-3, seed, metrics=by_method(softmax={"nll": value}), selection="nll")
    assert compare([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert rows(printed, "loss")[1]["test nll nats"] == "nan +- nan"
    assert rows(printed, "minus cross_entropy")[0]["paired t, p"] == "-"


def test_error_rates_by_method(tmp_path, capsys):
    """Less is better; the method that counts is in the table, the others on demand."""
    for loss, rate, seed, wer, method in (
        ("square", 1e-3, 1, 0.3, "square"), ("square", 1e-2, 1, 0.2, "square"), ("square", 1e-2, 2, 0.2, "temperature"),
        ("cross_entropy", 1e-2, 1, 0.25, "softmax"), ("cross_entropy", 1e-2, 2, 0.1, "softmax"),
    ):  # fmt: skip
        methods = {"softmax": {"wer": 0.4}, "temperature": {"wer": 0.5}, method: {"wer": wer}}
        metrics = by_method(of_outputs={"accuracy": 0.5}, **methods)
        write(tmp_path, loss, rate, seed, metrics=metrics, task="an4", selection="wer", method=method)
    assert compare([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    _, square = rows(printed, "loss")
    assert square["lr tried: validation wer %"] == "0.001: 30.00, 0.01: 20.00"
    assert square["test wer %"] == "20.00 +- 0.00"
    line = next(row for row in rows(printed, "minus cross_entropy") if row["metric"] == "test wer %")
    assert (line["by seed"], line["seeds better"]) == ("-5.00 +10.00", "1 of 2")
    assert "(square)" not in printed
    assert compare([str(tmp_path), "--by_method"]) == 0
    printed = capsys.readouterr().out
    entropy, square = rows(printed, "loss")
    assert square["test wer % (softmax)"] == "40.00 +- 0.00"
    assert square["test wer % (square)"] == "20.00 (1 of 2 seeds)", "of one seed only"
    assert entropy["test wer % (square)"] == "-"
    named = [row["metric"] for row in rows(printed, "minus cross_entropy")]
    assert "test wer % (softmax)" in named
    assert "test wer % (square)" not in named


def test_the_overview(tmp_path, capsys):
    for seed in (1, 2):
        metrics = by_method(square={"wer": 0.2})
        write(tmp_path, "square", 1e-2, seed, metrics=metrics, task="an4", selection="wer", method="square")
    for protocol in ("early_stopping", "same_epochs"):
        write(tmp_path / "b", protocol=protocol, mini=True, k=1.0, M=15.0)
    assert compare([str(tmp_path), "--overview"]) == 0
    printed = capsys.readouterr().out
    an4, early, same = rows(printed, "task")
    assert list(an4.values()) == [
        "an4", "bert", "early_stopping", "square", "0.01", "2", "wer %", "20.00 +- 0.00", "20.00 +- 0.00",
    ]  # fmt: skip
    assert (early["task"], early["loss"], early["test"]) == ("mrpc (MINI)", "square (k=1, M=15)", "70.00")
    assert (early["protocol"], same["protocol"]) == ("early_stopping", "same_epochs")
    assert "MINI: data that this package makes" in printed


def test_only_runs_with_equal_settings_are_paired(tmp_path, capsys):
    for loss, batch in (("square", 16), ("square", 32), ("cross_entropy", 32)):
        settings = {"learning_rate": 1e-4, "per_device_train_batch_size": batch}
        write(tmp_path / str(batch), loss, hyperparameters=settings)
    assert compare([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "mrpc, bert, early_stopping (per_device_train_batch_size 16)" in printed
    assert printed.count("minus cross_entropy") == 1
    write(tmp_path, "square", seed=2, hyperparameters={**settings, "num_train_epochs": 9})
    assert compare([str(tmp_path)]) == 2
    assert "have different num_train_epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [{"protocol": "same_epochs"}, {"arch": "other"}, {"mini": True}, {"data": {"fingerprint": "a" * 64}}],
)
def test_what_makes_groups(changes, tmp_path, capsys):
    write(tmp_path / "a", "square")
    write(tmp_path / "b", "cross_entropy", **changes)
    assert compare([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| loss") == 2
    assert "minus cross_entropy" not in printed
    assert ("(data aaaaaaaaaaaa)" in printed) == ("data" in changes)


def test_same_epochs_may_differ_by_seed(tmp_path, capsys):
    for seed in (1, 2):
        settings = {"learning_rate": 1e-4, "num_train_epochs": seed}
        write(tmp_path, seed=seed, protocol="same_epochs", hyperparameters=settings)
    assert compare([str(tmp_path)]) == 0
    assert rows(capsys.readouterr().out, "loss")[0]["seeds"] == "2"


def three_splits(other):
    scores = {"validation": 0.8, "test": 0.7, "test test-other": other}
    return {
        "metrics": {split: {OF_OUTPUTS: {"accuracy": value}} for split, value in scores.items()},
        "data": {"fingerprint": "f" * 64, "test_fingerprints": {"test": "e" * 64, "test test-other": "d" * 64}},
        "hyperparameters": {"learning_rate": 1e-4, "max_predict_samples": 5, "test_fingerprints": {"test": "e" * 64}},
    }


def test_a_further_test_set_is_shown_and_leaves_a_run_with_its_peers(tmp_path, capsys):
    write(tmp_path, "square", seed=1, **three_splits(0.5))
    write(tmp_path, "square", seed=2)
    write(tmp_path, "cross_entropy", seed=1, **three_splits(0.25))
    write(tmp_path, "cross_entropy", seed=2)
    assert compare([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| loss") == 1
    assert rows(printed, "loss")[1]["test test-other accuracy %"] == "50.00 (1 of 2 seeds)"
    differences = {row["metric"]: row for row in rows(printed, "minus cross_entropy")}
    assert differences["test test-other accuracy %"]["by seed"] == "+25.00"
    assert differences["test accuracy %"]["seeds better"] == "0 of 2"
    assert compare([str(tmp_path), "--overview"]) == 0
    assert rows(capsys.readouterr().out, "task")[0]["test test-other"] == "25.00 (1 of 2 seeds)"


def test_different_test_data_is_not_compared(tmp_path, capsys):
    write(tmp_path, "square")
    data = {"fingerprint": "f" * 64, "test_fingerprints": {"test": "a" * 64}}
    write(tmp_path, "cross_entropy", data=data)
    assert compare([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    entropy, square = rows(printed, "loss")
    assert (square["test [data eeeeeeeeeeee] accuracy %"], square["test [data aaaaaaaaaaaa] accuracy %"]) == (
        "70.00",
        "-",
    )
    assert entropy["test [data aaaaaaaaaaaa] accuracy %"] == "70.00"
    assert [row["metric"] for row in rows(printed, "minus cross_entropy")] == ["validation accuracy %"]
    assert "Note: square and cross_entropy have different data for test: not compared." in printed


def test_losses_without_a_seed_in_common(tmp_path, capsys):
    """Both are shown, and it is said that they are not paired."""
    for loss, seed in (("square", 1), ("cross_entropy", 2), ("squentropy", 2)):
        write(tmp_path, loss, seed=seed)
    assert compare([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert len(rows(printed, "loss")) == 3
    assert {row["minus cross_entropy"] for row in rows(printed, "minus cross_entropy")} == {"squentropy"}
    assert "Note: square and cross_entropy have no seed in common: there are no differences to show." in printed


def test_rates_without_a_seed_in_common(tmp_path, capsys):
    write(tmp_path, "square", 1e-4, 1)
    write(tmp_path, "square", 1e-3, 2)
    write(tmp_path, "cross_entropy", 1e-4, 1)
    for option in ([], ["--overview"]):
        assert compare([str(tmp_path), *option]) == 0
        printed = capsys.readouterr().out
        assert "square is left out: no seed was run with every learning rate" in printed
        assert "| cross_entropy " in printed
    assert compare([str(tmp_path), "--best_lr", "square"]) == 2
    assert "no seed of square was run with every learning rate" in capsys.readouterr().err


def test_two_runs_of_the_same_settings(tmp_path, capsys):
    paths = [write(tmp_path / name) for name in "ab"]
    assert compare([str(tmp_path)]) == 2
    assert f"{paths[0]} and {paths[1]} are runs of the same settings and seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "the following arguments are required: FOLDER (see --help)"),
        (["nowhere"], "nowhere is not a folder"),
        (["empty"], "no result.json below empty: no run is finished there"),
        (["runs", "--overviews"], "unrecognized arguments: --overviews (see --help)"),
        (["runs", "--over"], "unrecognized arguments: --over (see --help)"),
        (["runs", "--best_lr"], "argument --best_lr: expected one argument (see --help)"),
        (["runs", "--best_lr", "hinge"], "no run of hinge is below runs"),
        (["runs", "--best_lr", "square"], "the runs of square differ in more than learning rate and seed"),
        (["runs", "--best_lr", "cross_entropy", "--json", "x"], "leave out --json"),
        (["runs", "--best_lr", "cross_entropy", "--overview"], "not allowed with argument"),
        (["runs", "--overview", "--by_method"], "leave out --overview and --best_lr"),
        (["runs", "--json", "nowhere/x"], "cannot write nowhere/x: No such file or directory"),
        (["runs", "--json", "runs"], "cannot write runs: Is a directory"),
    ],
)
def test_wrong_options(options, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "runs")
    write(tmp_path / "runs/b", arch="other")
    write(tmp_path / "runs", "cross_entropy")
    assert compare(options) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("sqloss compare: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metrics": {"test": {OF_OUTPUTS: {"accuracy": 0.5}}}}, "has no accuracy of validation data to compare by"),
        ({"selection": "f1"}, "has no f1 of validation data to compare by"),
        ({"hyperparameters": {}}, "has no learning rate among its hyperparameters"),
        ({"hyperparameters": {"learning_rate": "0.1"}}, "has no learning rate among its hyperparameters"),
        ({"hyperparameters": {"learning_rate": 10**400}}, "has no learning rate among its hyperparameters"),
        ({"schema_version": 1}, "has schema version 1; this package reads version 2"),
    ],
)
def test_results_that_cannot_be_compared(changes, sentence, tmp_path, capsys):
    write(tmp_path)
    changes = {"hyperparameters": {"learning_rate": 1e-3}, **changes}
    settings = changes["hyperparameters"]
    path = write(tmp_path / "bad", **{**changes, "hyperparameters": {"learning_rate": 1e-3}})
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "hyperparameters": settings}))
    assert compare([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error == f"sqloss compare: error: {path} {sentence}\n"


def test_a_run_knows_its_file(tmp_path):
    path = write(tmp_path, k=15.0, M=30.0)
    (run,) = find_runs([tmp_path])
    assert (run.path, run.label, run.learning_rate) == (path, "square (k=15, M=30)", 1e-4)


def test_predictions_alone_are_no_run(tmp_path, capsys):
    """What --do_predict by a saved model leaves beside the trainings."""
    path = write(tmp_path / "new", metrics={"test": {OF_OUTPUTS: {"accuracy": 0.5}}}, epochs=0.0, best_epoch=None)
    assert compare([str(tmp_path)]) == 2
    assert f"{path} is of predictions alone: give the folder of a training" in capsys.readouterr().err
    write(tmp_path / "old")
    (run,) = find_runs([tmp_path])
    assert run.path != path

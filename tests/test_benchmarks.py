"""The benchmarks run, and write what they print; at sizes where the figures mean nothing."""

import json
import sys

import pytest
import torch

from benchmarks import (
    espnet_head,
    evaluation,
    factorised_head,
    image_training,
    language_model_layers,
    language_model_study,
    language_model_training,
    linear_precision,
    linear_square,
    losses,
    pair_models,
    sampled_softmax,
)
from sqloss_plugins.losses import square_loss


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
    return module.main()


def test_losses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(losses, "SHAPES", {"4x3": (4, 3)})
    assert run(losses, monkeypatch, "--rounds", 1, "--threads", 1, "--json", tmp_path / "a.json") == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert {row["loss"] for row in rows} == set(losses.LOSSES)
    assert all(row["milliseconds"] > 0 and row["memory"] > 0 for row in rows)
    assert "time / CE" in capsys.readouterr().out


def test_linear_square(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(linear_square, "SHAPES", {"tiny": (4, 8, 5)})
    monkeypatch.setattr(linear_square, "ON_A_CPU", ("tiny",))
    monkeypatch.setattr(linear_square, "SWEEPS", {"N": [(2, 8, 5), (4, 8, 5)]})
    monkeypatch.setattr(linear_square, "product_speed", lambda device, dtype: 1e9)
    dense = {"CE dense": linear_square.dense_cross_entropy}  # a compiler would take a minute
    monkeypatch.setattr(linear_square, "cross_entropies", lambda device: dense)
    assert run(linear_square, monkeypatch, "--rounds", 1, "--threads", 1, "--json", tmp_path / "a.json") == 0
    result = json.loads((tmp_path / "a.json").read_text())
    found = result["shapes"]["tiny"]["losses"]
    assert set(found) == {"CE dense", "square direct", "square gram", "square auto", linear_square.PLAIN}
    assert found["CE dense"]["speed"] == 1.0
    # The outputs, three times, and both gradients; on no account nothing.
    assert found["CE dense"]["megabytes"] * 2**20 >= 4 * (4 * 5 + 4 * 8 + 5 * 8)
    assert [row["N"] for row in result["sweeps"]["N"]] == [2, 4]
    assert "auto / better form" in capsys.readouterr().out
    arguments = ["--no-sweeps", "--squares", linear_square.PLAIN, "--processor-time", "--json", tmp_path / "b.json"]
    assert run(linear_square, monkeypatch, "--rounds", 1, "--threads", 1, *arguments) == 0
    assert set(json.loads((tmp_path / "b.json").read_text())["shapes"]["tiny"]["losses"]) == {
        "CE dense",
        linear_square.PLAIN,
    }


def test_sampled_softmax(tmp_path, monkeypatch, capsys):
    for name, value in (("ROWS", 20), ("FEATURES", 8), ("CLASSES", (50, 200)), ("SAMPLES", (10, 100))):
        monkeypatch.setattr(sampled_softmax, name, value)
    assert run(sampled_softmax, monkeypatch, "--rounds", 1, "--json", tmp_path / "a.json") == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["C"] for row in rows] == [50] * 5 + [200] * 6
    assert all(row["milliseconds"] > 0 for row in rows)
    assert "sampled softmax, 100 classes" in capsys.readouterr().out


def test_factorised_head(tmp_path, monkeypatch, capsys):
    sizes = {"ROWS": 20, "FEATURES": 8, "CLASSES": 50, "GROWTH_FEATURES": 4, "GROWTH": (10, 20)}
    for name, value in (sizes | {"K": 1.0, "M": 1.0}).items():  # with few classes other values diverge at these rates
        monkeypatch.setattr(factorised_head, name, value)
    assert run(factorised_head, monkeypatch, "--rounds", 1, "--json", tmp_path / "a.json") == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["C"] for row in rows] == [50] * 7 + [10, 20]
    assert all(row["milliseconds"] > 0 for row in rows)
    assert "time / factorised" in capsys.readouterr().out


def test_the_benchmarks_cross_entropy():
    """By chunks, it has cross-entropy's loss and gradients."""
    H, W, y = torch.randn(7, 3, requires_grad=True), torch.randn(9, 3, requires_grad=True), torch.arange(7)
    expected = torch.nn.functional.cross_entropy(H @ W.T, y)
    gradients = torch.autograd.grad(expected, (H, W))
    torch.testing.assert_close(factorised_head.chunked_cross_entropy(H, W, y), expected.detach())
    torch.testing.assert_close((H.grad, W.grad), gradients)


def test_espnet_head(tmp_path, monkeypatch, capsys):
    for name, value in (("PIECES", (20,)), ("UTTERANCES", 1), ("SECONDS", 0.5), ("TOKENS", 3)):
        monkeypatch.setattr(espnet_head, name, value)
    assert run(espnet_head, monkeypatch, "--rounds", 1, "--threads", 1, "--json", tmp_path / "a.json") == 0
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert (row["pieces"], row["rows"]) == (20, 4)
    assert 0 < row["direct_ms"] < row["step_ms"]
    assert "saved of a step" in capsys.readouterr().out


def test_linear_precision(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(linear_precision, "SHAPES", {"initial": (8, 4, 9), "converged": (8, 4, 3)})
    assert run(linear_precision, monkeypatch, "--json", tmp_path / "a.json") == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert len(rows) == 2 * len(linear_precision.RESCALINGS) * len(linear_precision.DTYPES)
    assert all(row["precise"][0] < 2e-7 for row in rows if row["dtype"] == "float32")
    assert "d weight" in capsys.readouterr().out


def test_evaluation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "SHAPES", [(2, 16, 3000)])
    assert run(evaluation, monkeypatch, "--rounds", 1, "--threads", 1, "--json", tmp_path / "a.json") == 0
    causal, masked = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert (causal["tokens"], causal["scored"]) == (256, 254)
    assert 0 < masked["scored"] < 100
    assert masked["peak_mib"]["without"] < masked["peak_mib"]["with"]
    assert masked["peak_mib"]["with"] * 2**20 >= 4 * 256 * 3000
    assert all(row["speed"] > 0 for row in (causal, masked))
    assert "tokens/s" in capsys.readouterr().out


def test_language_model_training(tmp_path, monkeypatch, capsys):
    for name, value in (("VOCABULARIES", (3000,)), ("WIDTH", 16), ("LAYERS", 1), ("HEADS", 2), ("ROWS", 2)):
        monkeypatch.setattr(language_model_training, name, value)
    assert run(language_model_training, monkeypatch, "--rounds", 1, "--threads", 1, "--json", tmp_path / "a.json") == 0
    rows = {row["loss"]: row for row in json.loads((tmp_path / "a.json").read_text())["rows"]}
    assert list(rows) == list(language_model_training.LOSSES)
    assert all(row["tokens_per_s"] > 0 for row in rows.values())
    assert rows["cross_entropy"]["peak_mib"] * 2**20 >= 4 * 256 * 3000
    assert rows["square, without"]["peak_mib"] < rows["square, with logits"]["peak_mib"]
    assert "speed / CE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (losses, ["--rounds", "0"], "at least 1"),
        (losses, ["--shapes", "4x3"], "invalid choice: '4x3'"),
        (losses, ["--device", "cuda", "--processor-time"], "--processor-time is of a CPU"),
        (linear_square, ["--threads", "0"], "at least 1"),
        (linear_square, ["--shapes", "GPT-9"], "invalid choice: 'GPT-9'"),
        (linear_square, ["--squares", "square auto"], "the sweeps need all"),
        (linear_square, ["--no-sweeps", "--plot", "a.png"], "draws the sweeps"),
        (linear_precision, ["--tf32"], "--device cuda"),
        (image_training, ["--timm-script", "nowhere.py"], "nowhere.py is not a file"),
        (image_training, ["--steps", "1"], "the first is not counted"),
        (language_model_study, ["--data-dir", "nowhere"], "nowhere has no valid.txt and no test.txt"),
    ],
)
def test_mistakes(module, arguments, words, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(module, monkeypatch, *arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_pair_models(tmp_path, monkeypatch, capsys):
    for name, value in (("PAIRS", 24), ("BATCH", 4), ("WORDS", 50), ("STEPS", 2), ("LONGEST", 8)):
        monkeypatch.setattr(pair_models, name, value)
    assert run(pair_models, monkeypatch, "--rounds", 1, "--json", tmp_path / "a.json") == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert {(row["arch"], row["parameters"]) for row in rows} == {("lstm_attention", 4330802), ("lstm_cnn", 2161830)}
    assert len(rows) == 8
    assert all(row["pairs_per_s"] > 0 for row in rows)
    assert "pairs/s" in capsys.readouterr().out
    arguments = ["--precisions", "float32", "--processor-time", "--json", tmp_path / "b.json"]
    assert run(pair_models, monkeypatch, "--rounds", 1, *arguments) == 0
    assert {row["precision"] for row in json.loads((tmp_path / "b.json").read_text())["rows"]} == {"float32"}


def test_image_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(image_training, "CASES", {"tcnn": image_training.CASES["tcnn"]})
    script = tmp_path / "train.py"  # logs as timm's does
    script.write_text(
        "import logging\n"
        "for epoch in range(2):\n"
        "    for step in range(2):\n"
        "        logging.getLogger('train').info(f'Train: {epoch} [{step:>4d}/2 (50%)]  Loss: 1.0')\n"
    )
    arguments = ["--rounds", 1, "--steps", 2, "--batch", 4, "--size", 32, "--workers", 0, "--step-rounds", 1]
    arguments += ["--models", "test_resnet", "--timm-script", script, "--json", tmp_path / "a.json"]
    assert run(image_training, monkeypatch, *arguments) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    trainings = {row["training"]: row for row in result["trainings"]}
    assert list(trainings) == ["timm train.py", "sqloss images, cross_entropy", "sqloss images, square"]
    assert all(row["images_per_s"] > 0 for row in trainings.values())
    assert trainings["sqloss images, square"]["processor_ms"] > 0
    (step,) = result["of a step"]
    assert (step["arch"], step["parameters"]) == ("tcnn", 66910)
    assert step["square_ms"] > 0
    assert "square / CE" in capsys.readouterr().out


@pytest.fixture
def small_study(tmp_path, monkeypatch):
    """The study with a tiny model, and a text for it in ``tmp_path``."""
    for name, value in (("VOCABULARY", 270), ("WINDOW", 8), ("BATCH", 2), ("WIDTH", 8), ("LAYERS", 1), ("HEADS", 2)):
        monkeypatch.setattr(language_model_study, name, value)
    for name in ("valid.txt", "test.txt"):
        (tmp_path / name).write_text("".join(f"the {n} of {n * n} and {n % 7}\n" for n in range(60)))


def test_language_model_study(small_study, tmp_path, monkeypatch, capsys):
    """Every variant trains; and what the file has is not made again."""
    arguments = ["--data-dir", tmp_path, "--steps", 6, "--json", tmp_path / "a.json"]
    assert run(language_model_study, monkeypatch, *arguments) == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == list(language_model_study.VARIANTS)
    assert all(1.0 < row["test_perplexity"] < 2000 for row in rows)
    assert run(language_model_study, monkeypatch, *arguments, "--only", "square", "prior", "--seeds", 1, 2) == 0
    found = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert found[: len(rows)] == rows
    assert [(row["variant"], row["seed"]) for row in found[len(rows) :]] == [("square", 2), ("prior", 2)]
    assert "| square | 2 |" in " ".join(capsys.readouterr().out.split())


def test_language_model_layers(small_study, tmp_path, monkeypatch, capsys):
    arguments = ["--data-dir", tmp_path, "--steps", 6, "--json", tmp_path / "a.json"]
    assert run(language_model_layers, monkeypatch, *arguments) == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    layers = ["its own", *language_model_layers.SQUARES, "cross_entropy, fitted"]
    assert [row["layer"] for row in rows] == 2 * layers
    assert [row["body"] for row in rows] == [name for name in language_model_layers.BODIES for _ in layers]
    for own, *minimisers, softmax in (rows[:5], rows[5:]):
        assert all(1.0 < row["train_perplexity"] < 0.7 * own["train_perplexity"] for row in minimisers)
        assert 1.0 < softmax["train_perplexity"] < 270
    assert "train perplexity" in capsys.readouterr().out


@pytest.mark.parametrize("k", [1.0, 15.0])
def test_the_minimiser(k, monkeypatch):
    """The package's square loss has no gradient there."""
    for name, value in (("VOCABULARY", 5), ("WIDTH", 3)):
        monkeypatch.setattr(language_model_study, name, value)
    hidden, targets = torch.randn(60, 3), torch.arange(60) % 5
    head = language_model_study.Head(language_model_study.Variant(k=k, M=2.0), torch.ones(5), torch.zeros(5, 3))
    language_model_layers.least_squares(hidden, targets, head)
    loss = square_loss(hidden @ head.weight.T + head.bias, targets, k=k, M=2.0)
    for gradient in torch.autograd.grad(loss, (head.weight, head.bias)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-5)

"""`--score_train`: the trained model's scores on its training data, for every task, through the command line."""

from pathlib import Path

import numpy as np
import pytest
from test_classify import reviews, write
from test_images import TIMM, write_photos
from tiny import sentences

from sqloss_plugins.cli import main
from sqloss_plugins.results import read_result

QUICK = ["--use_cpu", "--disable_tqdm", "true", "--learning_rate", "1e-2", "--seed", "1"]
TOKENS = ["--train_file", "train.txt", "--hidden_size", "16", "--num_layers", "1", "--num_heads", "2"]
TASKS = {
    "lm": [*TOKENS, "--vocab_size", "280", "--block_size", "16", "--num_train_epochs", "2"],
    "masked": [
        *TOKENS,
        "--objective",
        "masked",
        "--vocab_size",
        "280",
        "--max_seq_length",
        "16",
        "--num_train_epochs",
        "2",
    ],
    "characters": [*TOKENS, "--segment_length", "20", "--max_steps", "20", "--eval_steps", "10"],
    "reverse_dictionary": ["--mini", "--num_train_epochs", "1"],
    "extreme": ["--mini", "--num_train_epochs", "1"],
}


@pytest.mark.parametrize("name", TASKS)
def test_the_training_data_is_scored_like_the_validation_data(name, tmp_path, monkeypatch):
    """With the same metrics; and nothing else changes, not what is fitted on validation data either."""
    monkeypatch.chdir(tmp_path)
    Path("train.txt").write_text(sentences(400), encoding="utf-8")
    command = ["lm" if name == "masked" else name, *TASKS[name], *QUICK]
    assert main([*command, "--output_dir", "plain"]) == 0
    assert main([*command, "--output_dir", "scored", "--score_train"]) == 0
    plain, scored = read_result(Path("plain")), read_result(Path("scored"))
    of_train = scored.metrics.pop("train")
    assert {m: set(v) for m, v in of_train.items()} == {m: set(v) for m, v in plain.metrics["validation"].items()}
    assert list(plain.metrics.pop("train")["outputs"]) == ["loss"]
    assert scored.metrics == plain.metrics
    assert scored.data == plain.data


def test_texts_are_scored_as_if_they_were_test_data(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write("train.csv", reviews())
    write("other.csv", reviews(12))
    model = ["--model_name_or_path", str(tiny_model), "--num_train_epochs", "1"]
    files = ["--train_file", "train.csv", "--validation_file", "other.csv"]
    assert main(["classify", *files, *model, *QUICK, "--output_dir", "out", "--score_train"]) == 0
    assert "| train      | " in capsys.readouterr().out
    saved = ["--do_predict", "--model_name_or_path", "out", "--use_cpu"]
    assert main(["classify", *saved, "--test_file", "train.csv", "--output_dir", "again"]) == 0
    expected = read_result(Path("again")).metrics["test"]["outputs"]
    assert read_result(Path("out")).metrics["train"]["outputs"] == pytest.approx(expected, rel=1e-5)
    with np.load("out/outputs.npz") as outputs:
        assert {name.partition("_")[0] for name in outputs} == {"validation"}
    capsys.readouterr()
    assert main(["classify", *saved, "--test_file", "train.csv", "--output_dir", "no", "--score_train"]) == 2
    error = "sqloss classify: error: --score_train is for training, and nothing is trained: leave it out\n"
    assert capsys.readouterr().err == error


def test_images_are_not_varied_when_they_are_scored(tmp_path, monkeypatch):
    """Else flips and crops would count."""
    monkeypatch.chdir(tmp_path)
    write_photos(Path("photos/train"), 8)
    write_photos(Path("photos/val"), 4, seed=1)
    folders = ["--train_dir", "photos/train", "--validation_dir", "photos/val"]
    assert main(["images", *folders, *TIMM, "--num_train_epochs", "2", "--output_dir", "out", "--score_train"]) == 0
    saved = ["--do_predict", "--model_name_or_path", "out", "--use_cpu"]
    assert main(["images", *saved, "--test_dir", "photos/train", "--output_dir", "again"]) == 0
    expected = read_result(Path("again")).metrics["test"]["outputs"]
    assert read_result(Path("out")).metrics["train"]["outputs"] == pytest.approx(expected, rel=1e-5)

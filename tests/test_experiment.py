"""The one flow of the Trainer's tasks: a task of one's own, and wrong values for every option."""

import math
from dataclasses import fields
from pathlib import Path

import pytest
import toy_task
from transformers import AutoTokenizer, TrainingArguments

from sqloss_plugins.errors import UserError
from sqloss_plugins.hf import SquareLossConfig, experiment
from sqloss_plugins.hf.options import parse as parse_task
from sqloss_plugins.hf.tasks.classification import Classify
from sqloss_plugins.hf.tasks.glue import Glue
from sqloss_plugins.hf.tasks.language_model import LanguageModel
from sqloss_plugins.hf.tasks.sequence_classification import _cut, _tokenize
from sqloss_plugins.results import OF_OUTPUTS, read_result, run_folder

TASKS = {
    "glue": (Glue, ["--task", "mrpc"]),
    "language_model": (LanguageModel, ["--mini"]),
    "classify": (Classify, ["--train_file", "train.csv"]),
}
NOT_THE_VALUES = ("-1", "0", "nan", "inf", "1e308", "word", "", "{}", "99999999999999999999")


def refusal(task_type, options):
    """What is said of the options; None where they are taken."""
    try:
        parse_task(task_type, options)
    except UserError as error:
        return str(error)


def test_a_task_of_ones_own(tmp_path, monkeypatch, tiny_model, capsys):
    """One file, of at most 60 lines, has all that there is of a run: folder, result, resumption."""
    assert len(Path(toy_task.__file__).read_text().splitlines()) <= 60
    monkeypatch.chdir(tmp_path)
    rows = [("I am happy", "glad"), ("I am miserable", "sad"), ("what joy", "glad"), ("what grief", "sad")] * 8
    for split in ("train", "validation"):
        Path(f"{split}.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    options = ["--model_name_or_path", str(tiny_model), "--use_cpu", "--num_train_epochs", "2", "--cache_dir", "cache"]
    assert toy_task.main(options) == 0
    result = read_result(Path("runs/mood/tiny-bert/square-k1-M1-lr5e-05-early_stopping-s42"))
    assert list(result.metrics["validation"][OF_OUTPUTS]) == ["loss", "accuracy", "f1"]
    assert result.data["sizes"] == {"train": 32, "validation": 32}
    assert "WARNING" not in capsys.readouterr().out
    assert toy_task.main(options) == 0
    assert "This run is finished already" in capsys.readouterr().out
    assert toy_task.main([*options, "--folder", "nowhere"]) == 2
    capsys.readouterr()
    assert toy_task.main([*options, "--output_dir", "out", "--do_predict"]) == 2
    assert "--do_predict needs test data, and there is none" in capsys.readouterr().err
    Path("train.csv").write_text("text,label\nI am happy,glad\n")
    assert toy_task.main([*options, "--do_eval", "--output_dir", "out"]) == 0
    assert "WARNING: no example of sad in the train data: nothing can be learnt" in capsys.readouterr().out


def test_very_long_texts_are_cut_before_they_are_tokenised(tiny_model):
    """What the tokenizer cuts off it keeps, of a pair in every combination; what the model gets is the same."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    words = " ".join(f"word{i} unbelievably" for i in range(120))
    texts = [
        words,
        " " * 9000 + words,
        words.replace(" ", "  \n"),
        "short",
        "\u200b" * 9000 + words,
        "x" * 9000,
        "漢字" * 900,
    ]
    for one in texts:
        for other in texts:
            columns = {"one": [one], "other": [other]}
            options = {"truncation": True, "max_length": 32}
            encoded = _tokenize(columns, tokenizer, ("one", "other"), options)
            assert encoded["input_ids"] == tokenizer([one], [other], **options)["input_ids"]
    assert len(_cut(tokenizer, words, 32)) < 500
    assert len(_cut(tokenizer, texts[-1], 32)) == 4 * 32


@pytest.mark.parametrize("task", list(TASKS))
def test_any_value_of_any_option_is_taken_or_refused_in_a_sentence(task, monkeypatch, tmp_path):
    """All fields of TrainingArguments, and those of the task: no exception but UserError."""
    monkeypatch.chdir(tmp_path)
    task_type, needed = TASKS[task]
    names = [entry.name for kind in (TrainingArguments, task_type.arguments) for entry in fields(kind) if entry.init]
    refused = 0
    for name in names:
        for value in NOT_THE_VALUES:
            message = refusal(task_type, [*needed, f"--{name}={value}"])
            refused += message is not None
            assert message is None or (message and "\n" not in message)
    assert refused > 3 * len(names)


NUMBERS = [
    entry.name
    for entry in fields(TrainingArguments)
    if entry.init and not isinstance(entry.default, bool) and isinstance(entry.default, int | float)
]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_none(name):
    """Not a number, endless, below every scale: never taken."""
    for value in ("nan", "-inf", "inf", "-2"):
        if name == "local_rank":
            continue
        with pytest.raises(UserError):
            parse_task(Glue, ["--task", "mrpc", f"--{name}={value}"])


def test_help_has_the_defaults_of_what_is_given(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_task(Glue, ["--task", "mrpc", "--loss", "cross_entropy", "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "The initial learning rate" in text or "learning_rate" in text
    assert "2e-05" in text
    assert "(default: early_stopping)" in text


def test_curves_are_what_was_finite_of_the_tasks_metrics():
    from transformers import TrainerState

    from sqloss_plugins.hf.run_folder import curves

    history = [{"epoch": 0.5, "loss": 1.0}]
    history += [
        {"epoch": e, "eval_loss": 1.0, "eval_accuracy": v} for e, v in ((0.5, 0.25), (1.0, math.nan), (1.5, 0.5))
    ]
    found = curves(TrainerState(log_history=history), ("accuracy", "f1"))
    assert found == {"validation": {"accuracy": {"0.5": 0.25, "1.5": 0.5}}}
    assert curves(TrainerState(), ("accuracy",)) == {}


def test_the_best_epoch_is_that_of_the_best_step():
    from transformers import TrainerState

    from sqloss_plugins.hf.run_folder import best_epoch

    history = [{"epoch": 1.0, "step": 5}, {"epoch": 2.0, "step": 10}, {"epoch": 2.0, "step": 10}]
    state = TrainerState(epoch=2.0, log_history=history, best_global_step=5)
    assert best_epoch(state, stops_early=True) == 1.0
    assert best_epoch(state, stops_early=False) == 2.0
    assert math.isclose(state.epoch, 2.0)


@pytest.mark.parametrize(
    ("options", "variant"),
    [
        ({}, ""),
        ({"prior_exponent": 0.75}, "-prior0.75"),
        ({"factorised_head": True, "head_learning_rate": 300}, "-factorised-headlr300"),
        ({"loss": "cross_entropy", "num_sampled": 5}, "-sampled5"),
    ],
)
def test_the_name_of_a_folder_says_which_form_of_the_loss_it_is(options, variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = experiment._variant(SquareLossConfig("out", use_cpu=True, **options))
    folder = run_folder("cats", "net", "square", 1.0, 1.0, 1e-3, "early_stopping", 1, False, named)
    assert folder.name == f"square-k1-M1{variant}-lr0.001-early_stopping-s1"

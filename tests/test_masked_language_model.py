"""Masked language models, through the command line that a user types."""

import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_refused, kill_when
from datasets import Dataset
from tiny import sentences
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from sqloss_plugins.data.tokens import masked_examples, token_blocks, token_lines
from sqloss_plugins.hf.hub import embedded_model
from sqloss_plugins.hf.language_models import SPECIAL_TOKENS, train_tokenizer
from sqloss_plugins.hf.options import parse
from sqloss_plugins.hf.tasks.language_model import LanguageModel, main
from sqloss_plugins.hf.tasks.masked_language_model import MaskedLanguageModel
from sqloss_plugins.losses import linear_square
from sqloss_plugins.results import OF_OUTPUTS, read_result

ROOT = Path(__file__).parent.parent
TOKENS, LENGTH = 282, 24
TINY = ["--vocab_size", str(TOKENS), "--hidden_size", "16", "--num_layers", "1", "--num_heads", "2"]
SHORT = ["--objective", "masked", "--max_seq_length", str(LENGTH), "--use_cpu", "--disable_tqdm", "true"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A file of some 10,000 characters, with lines without text."""
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_text(sentences(400).replace("\n", "\n\n"))
    return path


@pytest.fixture(scope="session")
def tokenizer(text):
    lines = text.read_text().splitlines(keepends=True)
    return train_tokenizer(lines, TOKENS, 10000, special_tokens=SPECIAL_TOKENS["masked"])


@pytest.fixture
def small(text, tmp_path, monkeypatch):
    """Options of a small run, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return ["--train_file", str(text), *SHORT, "--num_train_epochs", "2", "--learning_rate", "1e-2"]


def test_a_run_and_its_figures(small, monkeypatch):
    """Without logits and with them; those of the saved model, by the formulas, on masks that are always the same."""
    monkeypatch.setattr(linear_square, "_SMALL", 0)
    results = {}
    for way in ("true", "false"):
        options = [*small, *TINY, "--rescaling", "level", "--without_logits", way, "--output_dir", way]
        assert main(options) == 0
        results[way] = read_result(Path(way))
    result = results["true"]
    assert result.value("test", "nll") == pytest.approx(results["false"].value("test", "nll"), rel=1e-3)
    assert (result.task, result.arch, result.method) == ("masked_language_model", "bert-1x16", "square")
    k, M = 15.0, math.sqrt(TOKENS * math.log(TOKENS) / 15)
    assert (result.k, result.M) == (k, M)
    settings = {"objective": "masked", "mlm_probability": 0.15, "line_by_line": False}
    assert settings.items() <= result.hyperparameters.items()

    task = parse(LanguageModel, [*small, *TINY, "--per_device_eval_batch_size", "5", "--seed", "7"])
    assert type(task) is MaskedLanguageModel
    task.data, task.processor = task.load(), AutoTokenizer.from_pretrained("true")
    examples = task.encode(task.data.splits["validation"]).with_format("torch")
    ids, labels = examples["input_ids"][:], examples["labels"][:]
    counted = labels != -100
    assert result.data["masked_tokens"]["validation"] == counted.sum()
    assert result.data["tokens"]["validation"] == ids.numel()
    with torch.no_grad():
        f = AutoModelForMaskedLM.from_pretrained("true").eval()(input_ids=ids).logits[counted].double().numpy()
    y = labels[counted].numpy()
    true = f[np.arange(len(y)), y]
    p = np.maximum(f.clip(0, M) / (k * M - (k - 1) * f.clip(0, M)), 0.01 / TOKENS)
    nll = -np.log(p[np.arange(len(y)), y] / p.sum(1)).mean()
    assert result.value("validation", "nll") == pytest.approx(nll, rel=1e-4)
    assert result.value("validation", "perplexity") == pytest.approx(math.exp(nll), rel=1e-4)
    assert result.metrics["validation"][OF_OUTPUTS]["accuracy"] == pytest.approx((f.argmax(1) == y).mean())
    loss = (k * (true - M) ** 2 + (f**2).sum(1) - true**2).mean() / TOKENS
    assert result.metrics["validation"][OF_OUTPUTS]["loss"] == pytest.approx(loss, rel=0.1)  # a mean over batches


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(small):
    """What training masks is drawn as it would have been, the output layer's steps are as long; to the last bit."""
    options = [*small, *TINY, "--num_train_epochs", "8", "--prior_exponent", "0.75"]
    assert main([*options, "--output_dir", "whole"]) == 0
    command = [sys.executable, "-m", "sqloss_plugins.hf.tasks.language_model", *options, "--output_dir", "killed"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    kill_when(command, environment, Path("killed"), "checkpoint-*/trainer_state.json")
    assert main([*options, "--output_dir", "killed"]) == 0
    whole, killed = read_result(Path("whole")), read_result(Path("killed"))
    assert killed.resumed
    assert (killed.epochs, killed.metrics) == (whole.epochs, whole.metrics)


def test_the_masks_of_held_out_text(tokenizer):
    """About as many as they shall be, never a special token; the same ones again; the rest as it was."""
    rows = Dataset.from_dict({"text": ["one two three four five six seven\n"] * 300})
    blocks = [block for block in token_blocks(rows, tokenizer, LENGTH, True) if len(block) == LENGTH]
    masked = list(masked_examples(rows, tokenizer, LENGTH, False, 0.3))
    assert masked == list(masked_examples(rows, tokenizer, LENGTH, False, 0.3))
    assert [example["input_ids"] for example in masked_examples(rows, tokenizer, LENGTH, False, None)] == blocks
    labels, ids = (np.array([example[name] for example in masked]) for name in ("labels", "input_ids"))
    counted = labels != -100
    assert counted.mean() == pytest.approx(0.3, abs=0.03)
    assert (ids[counted] == tokenizer.mask_token_id).mean() == pytest.approx(0.8, abs=0.05)
    np.testing.assert_array_equal(np.where(counted, labels, ids), np.array(blocks))
    assert not np.isin(labels[counted], tokenizer.all_special_ids).any()


def test_lines_and_special_tokens():
    """As run_mlm.py has it: a line with text is an example, cut off; in blocks, too, lines have special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_model())
    rows = Dataset.from_dict({"text": ["one two\n", "\n", "one two three four five\n", " \n"]})
    one, two, three, four, five = tokenizer("one two three four five", add_special_tokens=False)["input_ids"]
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert list(token_lines(rows, tokenizer, 5)) == [[start, one, two, end], [start, one, two, three, end]]
    whole = [start, one, two, end, start, one, two, three, four, five, end]
    assert list(token_blocks(rows, tokenizer, 4, special_tokens=True)) == [whole[:4], whole[4:8], whole[8:]]
    assert list(token_blocks(rows, tokenizer, 7)) == [[one, two, one, two, three, four, five]]


@pytest.mark.parametrize("pads", [True, False])
def test_line_by_line(pads, small, tokenizer):
    """Batches are as long as they must be, or all of one length."""
    options = [*small, *TINY, "--line_by_line", "--max_steps", "2", "--mlm_probability", "0.5", "--output_dir", "out"]
    options += ["--pad_to_max_length"] if pads else []
    assert main(options) == 0
    result = read_result(Path("out"))
    assert result.data["masked_tokens"]["test"] == pytest.approx(result.data["tokens"]["test"] / 2, rel=0.15)
    task = parse(LanguageModel, options)
    task.data, task.processor = task.load(), tokenizer
    for split, collator in (
        ("train", task.trainer_options()["train_collator"]),
        ("validation", task.collator()),
    ):
        examples = task.encode(task.data.splits[split])
        batch = collator([examples[i] for i in range(4)])
        longest = max(len(examples[i]["input_ids"]) for i in range(4))
        assert longest < LENGTH
        assert batch["input_ids"].shape == batch["labels"].shape == (4, LENGTH if pads else longest)
        assert not (batch["labels"][batch["attention_mask"] == 0] != -100).any()


ENCODERS = {
    "roberta": (RobertaForMaskedLM, RobertaConfig, {**SIZES, "pad_token_id": 0, "max_position_embeddings": 40}),
    "distilbert": (DistilBertForMaskedLM, DistilBertConfig, {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}),
    "albert": (AlbertForMaskedLM, AlbertConfig, {**SIZES, "embedding_size": 8}),
}


@pytest.mark.parametrize("name", list(ENCODERS))
def test_fine_tuning(name, small, tokenizer):
    """Encoders with output layers of their own, without logits, too."""
    kind, config, sizes = ENCODERS[name]
    kind(config(vocab_size=TOKENS, **sizes)).save_pretrained(name)
    tokenizer.save_pretrained(name)
    options = [*small, "--model_name_or_path", name, "--max_steps", "2", "--without_logits", "true"]
    assert main([*options, "--output_dir", "out"]) == 0
    result = read_result(Path("out"))
    assert (result.arch, result.loss) == (name, "square")
    assert result.rescaling_source == f"the level rule for {TOKENS} classes"


def test_a_model_without_an_output_layer(small, tokenizer, capsys):
    BertModel(BertConfig(vocab_size=TOKENS, **SIZES)).save_pretrained("bert")
    tokenizer.save_pretrained("bert")
    options = [*small, "--model_name_or_path", "bert", "--loss", "cross_entropy", "--do_eval", "--output_dir", "out"]
    assert main(options) == 0
    assert "WARNING: bert lacks some weights of a language model, and these are new" in capsys.readouterr().out


def test_models_that_cannot_be_fine_tuned(small, tokenizer, capsys):
    no_mask = train_tokenizer(["one two"], 256, 100)
    bart = BartConfig(vocab_size=TOKENS, d_model=16, encoder_layers=1, decoder_layers=1)
    short = RobertaConfig(vocab_size=TOKENS, max_position_embeddings=24, pad_token_id=0, **SIZES)
    for name, made, its_tokenizer in (
        ("gpt2", GPT2LMHeadModel(GPT2Config(vocab_size=TOKENS, n_embd=16, n_layer=1, n_head=2)), tokenizer),
        ("bart", BartForConditionalGeneration(bart), tokenizer),
        ("plain", RobertaForMaskedLM(RobertaConfig(vocab_size=TOKENS, **SIZES)), no_mask),
        ("short", RobertaForMaskedLM(short), tokenizer),
    ):
        made.save_pretrained(name)
        its_tokenizer.save_pretrained(name)
    for name, message in (
        ("gpt2", "gpt2 cannot be loaded as a masked language model"),
        ("bart", "--model_name_or_path bart has a decoder, too: give a model such as BERT"),
        ("plain", "the tokenizer of plain has no token for what is masked"),
        ("short", "--max_seq_length 24 is more tokens than short takes"),
    ):
        assert main([*small, "--model_name_or_path", name, "--output_dir", "out"]) == 2
        error = capsys.readouterr().err
        assert message in error.splitlines()[-1]
        shutil.rmtree("out", ignore_errors=True)


BAD_OPTIONS = {
    "of the other objective": (
        ["--objective", "masked", "--block_size", "64"],
        "--block_size is of --objective causal: leave it out, or give that",
    ),
    "without the objective": (
        ["--mini", "--mlm_probability=0.2"],
        "--mlm_probability is of --objective masked: leave it out, or give that",
    ),
    "no objective": (["--objective", "fluent"], "argument --objective: invalid choice: 'fluent'"),
    "with hyphens": (
        ["--objective", "masked", "--block-size", "64"],
        "--block_size is of --objective causal: leave it out, or give that",
    ),
    "nothing masked": (["--objective=masked", "--mlm_probability", "0"], "--mlm_probability must be greater than 0"),
    "more than all": (["--objective", "masked", "--mlm_probability", "15"], "at most 1, got 15"),
    "padding": (
        ["--objective", "masked", "--pad_to_max_length"],
        "--pad_to_max_length is of --line_by_line, and blocks are all of one length: leave it out",
    ),
    "one token": (["--objective", "masked", "--max_seq_length", "1"], "--max_seq_length must be at least 2, got 1"),
    "few tokens": (["--objective", "masked", "--vocab_size", "257"], "--vocab_size must be at least 258, got 257"),
}


@pytest.mark.parametrize("case", list(BAD_OPTIONS))
def test_bad_options(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options, message = BAD_OPTIONS[case]
    assert_refused(main, options, "sqloss lm", message, tmp_path, capsys)


def test_too_little_text(small, capsys):
    Path("a.txt").write_text("abcdefgh\n" * 40)
    options = ["--train_file", "a.txt", *SHORT, "--vocab_size", "258", "--output_dir", "out"]
    assert main([*options, "--max_seq_length", "40"]) == 2
    assert "the validation text has 36 tokens, less than one block of 40" in capsys.readouterr().err
    shutil.rmtree("out")
    assert main([*options, "--line_by_line", "--mlm_probability", "1e-9"]) == 2
    assert "no token of the validation text is masked: give more text, or a greater" in capsys.readouterr().err
    shutil.rmtree("out")
    Path("a.txt").write_text("abcdefgh\n" * 40 + "\n" * 400)
    assert main([*options, "--line_by_line"]) == 2
    assert "no line of the validation text has text in it: give more text" in capsys.readouterr().err


def test_the_embedded_default(tmp_path, monkeypatch, capsys):
    """Named and marked, in a place of its own."""
    monkeypatch.chdir(tmp_path)
    options = ["--objective", "masked", *TINY, "--use_cpu", "--disable_tqdm", "true", "--max_steps", "2"]
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert "masked_language_model   *** MINI DATA: Python's own reference, and no benchmark ***" in printed
    assert "blocks of 128 tokens, 15 % of them masked" in printed
    (path,) = tmp_path.rglob("result.json")
    folder = path.parent.relative_to(tmp_path)
    assert folder.parent == Path("runs/masked_language_model/bert-1x16")
    assert folder.name.endswith("-mini")
    assert read_result(path.parent).mini

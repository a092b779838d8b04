"""The language-model script, through the command line that a user types."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_refused, kill_when
from tiny import capped_model, sentences
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from sqloss_plugins.data import text as text_files
from sqloss_plugins.data.text import load_files, load_mini
from sqloss_plugins.data.tokens import unigram_perplexity
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf.language_models import train_tokenizer
from sqloss_plugins.hf.options import parse as parse_task
from sqloss_plugins.hf.tasks.language_model import LanguageModel, main
from sqloss_plugins.losses import LOSSES, linear_square
from sqloss_plugins.results import OF_OUTPUTS, read_result

ROOT = Path(__file__).parent.parent


def parse(options):
    task = parse_task(LanguageModel, options)
    return task.args, task.config


def lines(data, split):
    return list(data.splits[split]["text"])


def text_of(data, split):
    return "".join(lines(data, split))


BLOCK, TOKENS = 16, 280
TINY = ["--vocab_size", str(TOKENS), "--hidden_size", "16", "--num_layers", "1", "--num_heads", "2"]
SHORT = ["--block_size", str(BLOCK), "--num_train_epochs", "6", "--use_cpu", "--disable_tqdm", "true"]


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A file of some 10,000 characters that a model of one layer learns in six epochs."""
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_text(sentences(400))
    return path


@pytest.fixture
def small(text, tmp_path, monkeypatch):
    """Options of a small run, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return ["--train_file", str(text), *TINY, *SHORT, "--learning_rate", "1e-2"]


@pytest.fixture(scope="session")
def finished(text, tmp_path_factory):
    """One finished run of each loss: loss -> folder."""
    folders = {}
    for loss, options in (
        ("square", ["--rescaling", "level"]),
        ("cross_entropy", []),
        ("squentropy", ["--protocol", "same_epochs", "--num_train_epochs", "6"]),
    ):
        folders[loss] = tmp_path_factory.mktemp("runs") / loss
        options = [*options, "--loss", loss, "--output_dir", str(folders[loss]), "--learning_rate", "1e-2"]
        assert main(["--train_file", str(text), *TINY, *SHORT, *options]) == 0
    return folders


def test_training_without_logits_is_the_same_training(small, monkeypatch):
    """A new model's square loss goes that way by itself, here in the Gram form."""
    monkeypatch.setattr(linear_square, "_SMALL", 0)
    results = {}
    for way in ("true", "false"):
        options = ["--rescaling", "level", "--without_logits", way, "--output_dir", way, "--num_train_epochs", "1"]
        assert main([*small, *options]) == 0
        results[way] = read_result(Path(way)).value("test", "nll")
    assert results["true"] == pytest.approx(results["false"], rel=1e-3)
    assert parse(small)[1].without_logits
    assert not parse([*small, "--loss", "cross_entropy"])[1].without_logits


def test_without_logits_where_the_model_caps_them(text, tmp_path, capsys):
    capped_model(TOKENS).save_pretrained(tmp_path / "gemma")
    train_tokenizer(text.read_text().splitlines(keepends=True), TOKENS, 10000).save_pretrained(tmp_path / "gemma")
    options = ["--model_name_or_path", str(tmp_path / "gemma"), "--output_dir", str(tmp_path / "out"), *SHORT]
    assert main(["--train_file", str(text), *options, "--without_logits", "true"]) == 2
    assert "Gemma2ForCausalLM does not return the outputs" in capsys.readouterr().err
    assert main(["--train_file", str(text), *options, "--without_logits", "true", "--loss", "cross_entropy"]) == 2
    assert "needs a loss that can be had without logits, and cross_entropy cannot" in capsys.readouterr().err


def blocks(text, tokenizer, split):
    ids = [i for line in lines(load_files(str(text)), split) for i in tokenizer.encode(line)]
    return torch.tensor(ids[: len(ids) // BLOCK * BLOCK]).reshape(-1, BLOCK)


@pytest.mark.parametrize("loss", ["square", "cross_entropy", "squentropy"])
def test_the_figures_are_those_of_the_saved_model(loss, finished, text):
    """Accuracy, loss and perplexity of every split, by the formulas, in float64."""
    result = read_result(finished[loss])
    tokenizer = AutoTokenizer.from_pretrained(finished[loss])
    model = AutoModelForCausalLM.from_pretrained(finished[loss]).eval()
    for split in ("validation", "test"):
        ids = blocks(text, tokenizer, split)
        assert result.data["tokens"][split] == ids.numel()
        with torch.no_grad():
            f = model(input_ids=ids).logits[:, :-1].double().reshape(-1, TOKENS).numpy()
        y = ids[:, 1:].reshape(-1).numpy()
        true = f[np.arange(len(y)), y]
        softmax = np.exp(f - f.max(1, keepdims=True))
        softmax /= softmax.sum(1, keepdims=True)
        entropy = -np.log(softmax[np.arange(len(y)), y])
        others = (f**2).sum(1) - true**2
        if loss == "square":
            k, M = 15.0, math.sqrt(TOKENS * math.log(TOKENS) / 15)
            assert (result.k, result.M) == (k, M)
            expected_loss = (k * (true - M) ** 2 + others).mean() / TOKENS
            clipped = f.clip(0, M)
            p = np.maximum(clipped / (k * M - (k - 1) * clipped), 0.01 / TOKENS)
            nll = -np.log(p[np.arange(len(y)), y] / p.sum(1)).mean()
        else:
            expected_loss = entropy.mean() if loss == "cross_entropy" else (entropy + others / (TOKENS - 1)).mean()
            nll = entropy.mean()
        metrics = result.metrics[split]
        methods = LOSSES[loss].methods
        assert list(metrics) == [OF_OUTPUTS, *methods]
        assert result.method == methods[0]
        assert metrics[OF_OUTPUTS]["accuracy"] == pytest.approx((f.argmax(1) == y).mean())
        assert metrics[OF_OUTPUTS]["loss"] == pytest.approx(expected_loss, rel=1e-4)
        assert result.value(split, "nll") == pytest.approx(nll, rel=1e-4)
        assert result.value(split, "perplexity") == pytest.approx(math.exp(nll), rel=1e-4)
        assert metrics["softmax"]["nll"] == pytest.approx(entropy.mean(), rel=1e-4)
        scaled = f / result.data["temperature"]
        logs = scaled - scaled.max(1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(1, keepdims=True))
        expected = math.exp(-logs[np.arange(len(y)), y].mean())
        assert metrics["temperature"]["perplexity"] == pytest.approx(expected, rel=1e-4)
        counts = np.bincount(blocks(text, tokenizer, "train").reshape(-1).numpy(), minlength=TOKENS) + 1
        unigram = math.exp(-np.log(counts / counts.sum())[y].mean())
        assert result.data["unigram_perplexity"][split] == pytest.approx(unigram)
        assert result.value(split, "perplexity") < 0.7 * unigram


def test_what_a_result_says(finished, text):
    result = read_result(finished["square"])
    assert not result.mini
    assert (result.task, result.arch, result.protocol) == ("language_model", "gpt2-1x16", "early_stopping")
    assert result.rescaling_source == "the level rule for 280 classes"
    assert (result.epochs, result.selection) == (6.0, "perplexity")
    assert result.best_epoch <= 6.0
    assert result.data["fingerprint"] == load_files(str(text)).fingerprint
    assert "train_file" not in result.hyperparameters
    assert read_result(finished["squentropy"]).protocol == "same_epochs"
    assert read_result(finished["squentropy"]).best_epoch == 6.0


def test_the_embedded_default(tmp_path):
    """The recipe without a file: says so, and marks all as mini."""
    done = subprocess.run(
        [str(ROOT / "recipes/language_model/run.sh"), *TINY, "--max_steps", "3", "--use_cpu", "--block_size", "512"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "*** No --train_file: using the embedded MINI text" in done.stdout
    assert "*** MINI DATA: Python's own reference, and no benchmark ***" in done.stdout
    assert "square, k = 15, M = 10.26 (the level rule for 280 classes)" in done.stdout
    assert "perplexity (square) | nll nats (square) | perplexity (softmax) |" in done.stdout
    (folder,) = (path.parent for path in (tmp_path / "runs").rglob("result.json"))
    name = "square-k15-M10.26-lr0.003-early_stopping-s42-mini"
    assert folder.relative_to(tmp_path) == Path("runs/language_model/gpt2-1x16") / name
    result = read_result(folder)
    assert result.mini
    assert result.data["fingerprint"] == load_mini().fingerprint


def test_the_embedded_text():
    """English enough, and nothing of it is in two splits, though Python's topics quote one another."""
    data = load_mini()
    assert 250_000 < data.sizes["train"] < 500_000
    assert text_of(data, "train").count(" the ") > 1000
    paragraphs = {split: set(text_of(data, split).strip("\n").split("\n\n")) for split in data.splits}
    assert not paragraphs["train"] & paragraphs["validation"]
    assert not (paragraphs["train"] | paragraphs["validation"]) & paragraphs["test"]


def test_held_out_text(tmp_path):
    """What is held out is the end of the text, cut at line ends; files that are given are taken as they are."""
    numbered = [f"line {i}\n" for i in range(1000)]
    (tmp_path / "all.txt").write_text("".join(numbered))
    (tmp_path / "other.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    data = load_files(str(tmp_path / "all.txt"))
    assert data.splits["train"].cache_files, "memory-mapped"
    assert [line for split in data.splits for line in lines(data, split)] == numbered
    assert data.sizes["validation"] == pytest.approx(data.sizes["test"], abs=10)
    assert data.sizes["train"] == pytest.approx(8 * data.sizes["test"], rel=0.02)
    assert "a tenth each for validation and test" in data.notes[0]
    other = load_files(str(tmp_path / "all.txt"), validation=str(tmp_path / "other.txt"))
    assert lines(other, "validation") == ["one\n", "two\n"]
    assert lines(other, "train") + lines(other, "test") == numbered
    assert lines(other, "test") == lines(data, "test")
    given = load_files(*[str(tmp_path / "all.txt")] * 3)
    assert given.notes == ()
    assert len({data.fingerprint, other.fingerprint, given.fingerprint}) == 3


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    """Its other text is not kept under the digest of what was there."""
    path = tmp_path / "a.txt"
    path.write_text("one\n" * 20)
    measure = text_files._measure

    def change_afterwards(*args):
        monkeypatch.setattr(text_files, "_measure", measure)
        found = measure(*args)
        path.write_text("two\n" * 20)
        return found

    monkeypatch.setattr(text_files, "_measure", change_afterwards)
    options = {"cache_dir": str(tmp_path / "cache")}
    with pytest.raises(UserError, match=r"a\.txt changed while it was read: start again"):
        load_files(str(path), **options)
    path.write_text("one\n" * 20)
    assert set(lines(load_files(str(path), **options), "train")) == {"one\n"}


@pytest.mark.parametrize("end", [" ", ""])
def test_held_out_text_of_long_lines(end, tmp_path):
    """Cut between words, and where there are none anywhere: a tenth is a tenth."""
    (tmp_path / "long.txt").write_text("Title\n" + f"word{end}" * 20000)
    data = load_files(str(tmp_path / "long.txt"))
    assert data.sizes["train"] == pytest.approx(8 * data.sizes["test"], rel=0.02)
    assert data.sizes["validation"] == pytest.approx(data.sizes["test"], rel=0.02)
    assert all(text_of(data, split).endswith(f"d{end}") for split in data.splits) or not end


def test_the_tokenizer_loses_nothing(text):
    tokenizer = train_tokenizer(text.read_text().splitlines(keepends=True), TOKENS, 10000)
    assert len(tokenizer) == TOKENS
    strange = "  one two\tthree Ünï — 漢字\x00\n\n"
    assert tokenizer.decode(tokenizer.encode(strange)) == strange


def test_unigram_perplexity_of_a_fair_coin():
    assert unigram_perplexity(np.array([3, 3]), [np.array([1]), np.array([0])]) == pytest.approx(2.0)


def test_defaults():
    args, training = parse(["--mini"])
    assert (training.loss, args.vocab_size, args.hidden_size, training.num_train_epochs) == ("square", 1024, 128, 10)
    assert (training.load_best_model_at_end, training.greater_is_better) == (True, False)
    args, training = parse(["--train_file", "x", "--model_name_or_path", "gpt2", "--protocol", "same_epochs"])
    assert (args.vocab_size, training.learning_rate, training.load_best_model_at_end) == (None, 5e-5, False)


def test_a_finished_run_is_not_repeated(finished, text, capsys):
    path = finished["cross_entropy"] / "result.json"
    before = path.stat().st_mtime_ns
    options = ["--train_file", str(text), *TINY, *SHORT, "--learning_rate", "1e-2", "--loss", "cross_entropy"]
    assert main([*options, "--output_dir", str(path.parent)]) == 0
    printed = capsys.readouterr().out
    assert "This run is finished already" in printed
    assert "| perplexity (softmax) |" in printed
    assert path.stat().st_mtime_ns == before
    settings = json.loads((path.parent / "settings.json").read_text())
    earlier = {name: value for name, value in settings.items() if name not in ("factorised_head", "prior_exponent")}
    (path.parent / "settings.json").write_text(json.dumps(earlier))  # of a version without these options
    assert main([*options, "--output_dir", str(path.parent)]) == 0
    assert main([*options, "--output_dir", str(path.parent), "--seed", "7"]) == 2
    assert "holds another run (seed 42 -> 7)" in capsys.readouterr().err


def test_a_killed_run_goes_on_to_the_same_result(small, capsys):
    """SIGKILL after an epoch, and a run whose result alone is missing; to the last bit."""
    assert main([*small, "--output_dir", "whole"]) == 0
    command = [sys.executable, "-m", "sqloss_plugins.hf.tasks.language_model", *small, "--output_dir", "killed"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    kill_when(command, environment, Path("killed"), "checkpoint-*/trainer_state.json")
    assert main([*small, "--output_dir", "killed"]) == 0
    whole, killed = read_result(Path("whole")), read_result(Path("killed"))
    assert killed.resumed
    assert (killed.epochs, killed.metrics) == (whole.epochs, whole.metrics)
    Path("killed/result.json").unlink()
    assert main([*small, "--output_dir", "killed"]) == 0
    assert "Training was finished before; its model is used." in capsys.readouterr().out
    scored = read_result(Path("killed"))
    assert (scored.epochs, scored.best_epoch, scored.metrics) == (6.0, whole.best_epoch, whole.metrics)


def test_fine_tuning(text, tmp_path, monkeypatch, finished):
    """A model of another kind with its own tokenizer, whose vocabulary gives k and M; the model itself stays."""
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = LlamaConfig(vocab_size=310, max_position_embeddings=64, **sizes)
    LlamaForCausalLM(config).save_pretrained("llama")
    AutoTokenizer.from_pretrained(finished["square"]).save_pretrained("llama")
    before = Path("llama/model.safetensors").read_bytes()
    options = ["--train_file", str(text), "--model_name_or_path", "llama", *SHORT, "--max_steps", "3"]
    assert main([*options, "--output_dir", "out"]) == 0
    result = read_result(Path("out"))
    assert (result.arch, result.k, result.M) == ("llama", 15.0, math.sqrt(310 * math.log(310) / 15))
    assert result.rescaling_source == "the level rule for 310 classes"
    assert Path("llama/model.safetensors").read_bytes() == before
    assert main([*options, "--output_dir", "llama"]) == 2


def test_models_that_cannot_be_fine_tuned(text, tmp_path, monkeypatch, finished, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertLMHeadModel(BertConfig(vocab_size=TOKENS, max_position_embeddings=64, **sizes)).save_pretrained("bert")
    AutoTokenizer.from_pretrained(finished["square"]).save_pretrained("bert")
    options = ["--train_file", str(text), *SHORT, "--output_dir", "out", "--model_name_or_path"]
    for path, others, message in (
        ("bert", [], "is no causal language model: its outputs depend on the tokens that follow"),
        ("bert", ["--block_size", "65"], "--block_size 65 is more than the 64 tokens that the model takes"),
        ("no/such", [], "--model_name_or_path no/such is neither a model's folder nor a model on the hub"),
    ):
        assert main([*options, path, *others]) == 2
        assert message in capsys.readouterr().err
    shutil.rmtree("bert")
    LlamaForCausalLM(LlamaConfig(vocab_size=200, **sizes)).save_pretrained("few")
    AutoTokenizer.from_pretrained(finished["square"]).save_pretrained("few")
    assert main([*options, "few"]) == 2
    assert "they do not belong together" in capsys.readouterr().err


def test_a_run_that_diverges_is_said(small, capsys):
    options = [*small, "--learning_rate", "1e30", "--loss", "cross_entropy", "--max_steps", "3"]
    assert main([*options, "--output_dir", "out"]) == 1
    assert "error: the training diverged: " in capsys.readouterr().err
    assert not Path("out/result.json").exists()


@pytest.mark.parametrize(("loss", "alone"), [("cross_entropy", False), ("square", True)])
def test_scoring_without_training(loss, alone, small, finished, text):
    """A model as it is, by the loss it was trained with; without validation no temperature can be fitted."""
    Path("new.txt").write_text(text_of(load_files(str(text)), "test"))
    source = ["--test_file", "new.txt"] if alone else small[:2]
    options = [*source, *SHORT, "--model_name_or_path", str(finished[loss]), "--do_predict"]
    assert main([*options, "--output_dir", "out"]) == 0
    result, theirs = read_result(Path("out")), read_result(finished[loss])
    assert (result.loss, result.k, result.M) == (loss, theirs.k, theirs.M)
    assert ("unigram_perplexity" in result.data) is not alone
    assert result.data["test_fingerprints"] == theirs.data["test_fingerprints"]
    assert set(result.metrics) == {"test"}
    assert set(result.metrics["test"]) == {OF_OUTPUTS, *LOSSES[loss].methods} - {"temperature"}
    assert "temperature" not in result.data
    assert result.value("test", "perplexity") == pytest.approx(theirs.value("test", "perplexity"))


BAD_OPTIONS = {
    "unknown loss": (["--loss", "hinge"], "argument --loss: invalid choice: 'hinge'"),
    "unknown option": (["--learnin_rate", "1"], "unknown option or value: --learnin_rate 1 (see --help)"),
    "k for cross-entropy": (["--loss", "cross_entropy", "--k", "15"], "--k and --M rescale the square loss"),
    "M for squentropy": (["--loss", "squentropy", "--M", "15"], "--k and --M rescale the square loss"),
    "rule for cross-entropy": (
        ["--loss", "cross_entropy", "--rescaling", "level"],
        "--rescaling is of the square loss",
    ),
    "rule and values": (["--rescaling", "level", "--k", "2", "--M", "2"], "--rescaling chooses k and M, and both are"),
    "unknown rule": (["--rescaling", "ours"], "argument --rescaling: invalid choice: 'ours'"),
    "negative k": (["--k", "-1"], "--k must be a positive finite number, got -1.0"),
    "no file": (["--train_file", "nowhere.txt"], "--train_file nowhere.txt cannot be read: No such file or directory"),
    "a folder": (["--train_file", "."], "--train_file . cannot be read: Is a directory"),
    "empty": (["--train_file", "/dev/null"], "--train_file /dev/null has no text in it"),
    "binary": (["--train_file", sys.executable], "is not UTF-8 text (line "),
    "validation alone": (["--validation_file", "x"], "training needs --train_file; a saved model is scored by --do_e"),
    "mini and real": (["--mini", "--train_file", "x"], "--mini and --train_file exclude each other"),
    "a new one to score": (["--mini", "--do_eval"], "a new model has to be trained: name a trained one by --model_n"),
    "block of one": (["--block_size", "1"], "--block_size must be at least 2, got 1"),
    "few tokens": (["--vocab_size", "255"], "--vocab_size must be at least 256, got 255"),
    "a billion tokens": (["--vocab_size", "1000000000"], "--vocab_size must be at most 10000000, got 1000000000"),
    "no layers": (["--num_layers", "0"], "--num_layers must be at least 1, got 0"),
    "heads": (["--num_heads", "3"], "--hidden_size must be a multiple of --num_heads, got 128 and 3"),
    "size of another's model": (
        ["--model_name_or_path", "x", "--hidden_size", "8"],
        "--hidden_size is of a new model, and --model_name_or_path names one",
    ),
    "metric": (["--metric_for_best_model", "accuracy"], "--metric_for_best_model must be one of perplexity"),
    "the worst": (["--greater_is_better", "true"], "the smaller perplexity, the better: leave --greater_is_better out"),
    "liger": (["--use_liger_kernel"], "use_liger_kernel"),
    "no scores": (["--prediction_loss_only"], "--prediction_loss_only leaves no outputs to score"),
    "unwritable": (["--mini", "--output_dir", "/dev/null/x"], "cannot write to the output folder"),
}


@pytest.mark.parametrize("case", list(BAD_OPTIONS))
def test_bad_options(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options, message = BAD_OPTIONS[case]
    assert_refused(main, options, "sqloss lm", message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--block_size", "1000000000"], "no model of this size can be made"),
        (["--vocab_size", "9999999"], "--vocab_size 9999999 is more than the training text supports: at most 28"),
        (["--vocab_size", "5000"], "--vocab_size 5000 is more than the training text supports: at most 28"),
        (["--block_size", "4000"], "less than one block of 4000: give more text, or a smaller --block_size"),
        (["--report_to", "no_such_tracker"], "no_such_tracker"),
        (["--adam_beta1", "2"], "Invalid beta parameter"),
    ],
)
def test_options_that_cannot_be_fulfilled(options, message, small, capsys):
    """What shows only once the text is read: one sentence, before training, and the folder is nobody's."""
    assert main([*small, *options, "--output_dir", "out"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in Path("out").iterdir() if path.name[0] != "."] == ["settings.json"]


def test_a_text_of_a_few_characters(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("abc")
    assert main(["--train_file", "a.txt", *SHORT, "--vocab_size", "256", "--output_dir", "out"]) == 2
    assert "the train text has 3 tokens, less than one block of 16" in capsys.readouterr().err

"""Characters: the reading of texts as bytes, streams with a memory, and the command line that trains on them."""

import itertools
import math
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from commands import assert_refused, kill_when
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sqloss_plugins.data.characters import MD5, count, download, load_files, load_mini, load_task, mapped
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf.language_models import train_tokenizer
from sqloss_plugins.hf.options import parse
from sqloss_plugins.hf.streams import Segments
from sqloss_plugins.hf.tasks.characters import Characters, alphabet_of, byte_tokenizer, main
from sqloss_plugins.models.transformer_xl import TransformerXLForCausalLM
from sqloss_plugins.results import OF_OUTPUTS, read_result

ROOT = Path(__file__).parent.parent
LENGTH, STREAMS = 12, 4
TINY = ["--hidden_size", "16", "--num_layers", "2", "--num_heads", "2", "--dropout", "0.1"]
SHORT = ["--segment_length", str(LENGTH), "--memory_length", "20", "--per_device_train_batch_size", str(STREAMS)]
SHORT += ["--eval_streams", "3", "--use_cpu", "--disable_tqdm", "true", "--learning_rate", "1e-2"]


def sentences(count, seed=0):
    return tiny.sentences(count, seed).replace("seven", "sev\xe9n").encode("latin-1")  # which is no UTF-8


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "counting.txt"
    path.write_bytes(sentences(160))
    return path


@pytest.fixture
def small(text, tmp_path, monkeypatch):
    """Options of a small run, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return ["--train_file", str(text), *TINY, *SHORT, "--num_train_epochs", "2"]


@pytest.fixture(scope="session")
def finished(text, tmp_path_factory):
    """One finished run of each loss: loss -> folder."""
    folders = {}
    for loss in ("square", "cross_entropy"):
        folders[loss] = tmp_path_factory.mktemp("runs") / loss
        options = ["--loss", loss, "--output_dir", str(folders[loss]), "--num_train_epochs", "5"]
        assert main(["--train_file", str(text), *TINY, *SHORT, *options]) == 0
    return folders


# ---------------------------------------------------------------- data


def bytes_of(data, split):
    return mapped(data.splits[split]).tobytes()


@pytest.mark.parametrize("name", list(MD5))
def test_the_papers_tasks(name, tmp_path):
    """A twentieth each at the end is held out; of enwik8 the newlines are left out, after the split."""
    content = bytes(range(200)) * 10 + b"\n" * 30 + b"ab\nc\n" * 34
    (tmp_path / name).write_bytes(content)
    data = load_task(name, tmp_path, cache_dir=str(tmp_path / "cache"))
    held_out = len(content) // 20
    parts = [content[: -2 * held_out], content[-2 * held_out : -held_out], content[-held_out:]]
    expected = [part.replace(b"\n", b"") for part in parts] if name == "enwik8" else parts
    assert [bytes_of(data, split) for split in ("train", "validation", "test")] == expected
    assert data.alphabet == tuple(i for i in range(200) if name == "text8" or i != 10)
    assert f"this is not the public {name}: it has another checksum" in data.notes
    assert (data.unit, data.sizes["test"]) == ("bytes", len(expected[2]))
    if name == "enwik8":
        kept = load_task(name, tmp_path, keep_newlines=True, cache_dir=str(tmp_path / "cache"))
        assert [bytes_of(kept, split) for split in ("train", "validation", "test")] == parts
        assert kept.fingerprint != data.fingerprint


def test_an_archive_is_the_same_data(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "text8").write_bytes(sentences(20))
    with zipfile.ZipFile(tmp_path / "text8.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(tmp_path / "plain" / "text8", "text8")
    plain = load_task("text8", tmp_path / "plain", cache_dir=str(tmp_path))
    packed = load_task("text8", tmp_path, cache_dir=str(tmp_path))
    assert isinstance(mapped(packed.splits["train"]), np.memmap)
    assert (packed.fingerprint, packed.test_fingerprints) == (plain.fingerprint, plain.test_fingerprints)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has neither text8 nor text8.zip: give the folder that has one of them"),
        ({"text8.zip": b"no archive"}, "text8.zip is damaged, or has no text8 in it"),
        ({"text8": b"short"}, "text8 has 5 bytes, and text8 has 100,000,000: get it anew"),
    ],
)
def test_folders_without_the_task(files, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_task("text8", tmp_path, cache_dir=str(tmp_path / "cache"))
    archive = tmp_path / "text8.zip"
    if archive.exists():
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("other", b"x")
        with pytest.raises(UserError, match="has no text8 in it"):
            load_task("text8", tmp_path, cache_dir=str(tmp_path / "cache"))


def test_a_download_is_checked(tmp_path, monkeypatch):
    def fetch(url, path):
        assert url == "http://mattmahoney.net/dc/text8.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("text8", b"something else")

    monkeypatch.setattr("sqloss_plugins.data.characters.fetch", fetch)
    with pytest.raises(OSError, match="has not the published checksum"):
        download("text8", str(tmp_path))


def test_held_out_bytes(tmp_path):
    content = bytes(range(256)) * 4
    (tmp_path / "a.bin").write_bytes(content)
    (tmp_path / "b.bin").write_bytes(b"other")
    data = load_files({"train": tmp_path / "a.bin"})
    tenth = len(content) // 10
    assert bytes_of(data, "train") == content[: -2 * tenth]
    assert bytes_of(data, "validation") == content[-2 * tenth : -tenth]
    assert bytes_of(data, "test") == content[-tenth:]
    assert data.alphabet == tuple(range(256))
    assert "a tenth each for validation and test" in data.notes[0]
    other = load_files({"train": tmp_path / "a.bin", "test": tmp_path / "b.bin"})
    assert (bytes_of(other, "train"), bytes_of(other, "test")) == (content[:-tenth], b"other")
    alone = load_files({"test": tmp_path / "b.bin"})
    assert (list(alone.splits), alone.alphabet, alone.notes) == (["test"], (), ())
    assert alone.test_fingerprints == other.test_fingerprints


def test_bytes_are_counted_in_blocks(monkeypatch):
    monkeypatch.setattr("sqloss_plugins.data.characters._BLOCK", 7)
    characters = np.frombuffer(sentences(5), np.uint8)
    np.testing.assert_array_equal(count(characters), np.bincount(characters, minlength=256))


def test_the_embedded_text():
    """text8's alphabet for text8, else all bytes; the splits of the language models' mini text."""
    small, whole = load_mini("text8"), load_mini("enwik8")
    assert bytes(small.alphabet) == b" abcdefghijklmnopqrstuvwxyz"
    assert 60 < len(whole.alphabet) < 110
    assert small.mini
    assert whole.mini
    assert 250_000 < whole.sizes["train"] < 500_000
    assert load_mini("text8").fingerprint == small.fingerprint


# ---------------------------------------------------------------- streams


@given(st.integers(2, 90), st.integers(1, 5), st.integers(1, 12))
def test_streams_and_segments(size, streams, length):
    """Every character but the first is a label once, in its order, and its input is the one before it."""
    streams = min(streams, size - 1)
    characters = np.arange(size, dtype=np.uint8)
    segments = Segments(characters, np.arange(256), streams, length)
    rows = [segments[row] for row in range(len(segments))]
    assert segments.labels == size - 1
    labels = []
    for stream in range(streams):
        own = rows[stream::streams]
        labels += [y for row in own for y in row["labels"].tolist() if y != -100]
        for row in own:
            assert [x + 1 for x, y in zip(row["input_ids"], row["labels"], strict=True) if y != -100] == [
                y for y in row["labels"] if y != -100
            ]
            assert (row["labels"][:-1] != -100).all(), "nothing but a last label is missing"
    assert labels == list(range(1, size))
    for start in range(0, len(rows), streams):
        assert len({len(row["labels"]) for row in rows[start : start + streams]}) == 1, "a batch is a rectangle"
    assert all(len(row["labels"]) == length for row in rows[: len(rows) - streams])


def test_unknown_bytes_are_no_labels():
    numbers = np.full(256, -100)
    numbers[[65, 66]] = 0, 1
    row = Segments(np.frombuffer(b"ABzBA", np.uint8), numbers, 1, 4, stand_in=1)[0]
    assert row["input_ids"].tolist() == [0, 1, 1, 1]
    assert row["labels"].tolist() == [1, -100, 1, 0]


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
def test_the_figures_are_those_of_the_saved_model(loss, finished, text):
    """Accuracy and bits per character of each evaluation stream read as one long text, in float64."""
    result = read_result(finished[loss])
    model = AutoModelForCausalLM.from_pretrained(finished[loss]).eval()
    alphabet = alphabet_of(AutoTokenizer.from_pretrained(finished[loss]), "here")
    data = load_files({"train": text})
    assert alphabet == data.alphabet
    for split in ("validation", "test"):
        ids = torch.tensor([alphabet.index(byte) for byte in bytes_of(data, split)])
        f, y = [], []
        starts = [(len(ids) - 1) * stream // 3 for stream in range(4)]
        for start, stop in itertools.pairwise(starts):
            memory = None
            for at in range(start, stop, LENGTH):
                end = min(at + LENGTH, stop)
                with torch.no_grad():
                    found = model(ids[None, at:end], memory)
                memory = found.memory
                f.append(found.logits[0].double())
                y.append(ids[at + 1 : end + 1])
        f, y = torch.cat(f).numpy(), torch.cat(y).numpy()
        assert len(y) == len(ids) - 1
        softmax = np.exp(f) / np.exp(f).sum(1, keepdims=True)
        p = softmax
        if loss == "square":
            assert (result.k, result.M) == (1.0, 1.0)
            p = np.maximum(f.clip(0, 1), 0.01 / len(alphabet))
            p /= p.sum(1, keepdims=True)
        true = np.arange(len(y)), y
        assert result.metrics[split][OF_OUTPUTS]["accuracy"] == pytest.approx((f.argmax(1) == y).mean())
        assert result.value(split, "bpc") == pytest.approx(-np.log2(p[true]).mean(), rel=1e-4)
        assert result.metrics[split]["softmax"]["nll"] == pytest.approx(-np.log(softmax[true]).mean(), rel=1e-4)
        counts = np.frombuffer(bytes_of(data, "train"), np.uint8)
        frequencies = (np.bincount(counts, minlength=256)[list(alphabet)] + 1) / (len(counts) + len(alphabet))
        unigram = -np.log2(frequencies[ids.numpy()]).mean()
        assert result.data["unigram_bpc"][split] == pytest.approx(unigram)
        assert result.value(split, "bpc") < 0.8 * unigram
        assert result.value(split, "accuracy") > 1.5 * result.data["unigram_accuracy"][split]


def test_what_a_result_says(finished):
    result = read_result(finished["square"])
    assert (result.task, result.arch, result.selection) == ("counting", "transformer_xl-2x16", "accuracy")
    assert not result.mini
    assert result.data["sizes"]["train"] == len(sentences(160)) - 2 * (len(sentences(160)) // 10)
    assert "train_file" not in result.hyperparameters
    assert result.hyperparameters["eval_streams"] == 3


@pytest.fixture
def seen(monkeypatch):
    """Of every forward pass whether it is of training, the memory it was given, and that which it returned."""
    passes, forward = [], TransformerXLForCausalLM.forward

    def spy(self, input_ids, memory=None, labels=None):
        found = forward(self, input_ids, memory, labels)
        passes.append((self.training, memory, found.memory))
        return found

    monkeypatch.setattr(TransformerXLForCausalLM, "forward", spy)
    return passes


def test_the_memory_goes_on_from_batch_to_batch(small, seen):
    """In training and evaluation each by itself; it is empty when an epoch or an evaluation begins."""
    options = ["--protocol", "same_epochs", "--eval_strategy", "steps", "--eval_steps", "30", "--save_strategy", "no"]
    assert main([*small, *options, "--output_dir", "out"]) == 0
    for is_training in (True, False):
        given = [memory for mode, memory, _ in seen if mode == is_training]
        returned = [memory for mode, _, memory in seen if mode == is_training]
        for memory, before in zip(given[1:], returned, strict=False):
            assert memory is None or torch.equal(memory, before)
        assert given[0] is None
    size = load_files({"train": Path(small[1])}).sizes
    per_epoch = math.ceil(math.ceil((size["train"] - 1) / STREAMS) / LENGTH)
    begins = [i for i, (_, memory, _) in enumerate(s for s in seen if s[0]) if memory is None]
    assert begins == [0, per_epoch]
    per_evaluation = math.ceil(math.ceil((size["validation"] - 1) / 3) / LENGTH)
    assert size["validation"] == size["test"]
    begins = [i for i, (_, memory, _) in enumerate(s for s in seen if not s[0]) if memory is None]
    assert begins == list(range(0, len([s for s in seen if not s[0]]), per_evaluation))
    assert len(begins) == 2 * per_epoch // 30 + 1 + 2, "every 30 steps, at the end of training, and both splits then"


def test_evaluation_leaves_the_training_alone(small):
    """Without dropout, of whose random numbers PyTorch's loader takes one for each evaluation."""
    weights = {}
    for name, options in {"no": [], "steps": ["--eval_steps", "7"]}.items():
        options = [*options, "--protocol", "same_epochs", "--save_strategy", "no", "--eval_strategy", name]
        options += ["--dropout", "0", "--num_train_epochs", "1"]
        assert main([*small, *options, "--output_dir", name]) == 0
        weights[name] = load_file(Path(name, "model.safetensors"))
    for name, value in weights["no"].items():
        assert torch.equal(value, weights["steps"][name])


STEPS = ["--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", "25", "--save_steps", "25"]


def test_a_killed_run_goes_on_to_the_same_result(small, capsys):
    """SIGKILL within an epoch; to the last bit. A checkpoint without the memory is not gone on from."""
    assert main([*small, *STEPS, "--save_total_limit", "9", "--output_dir", "whole"]) == 0
    checkpoints = {path.parent.name for path in Path("whole").glob("checkpoint-*/memory-0.safetensors")}
    assert {"checkpoint-25", "checkpoint-50"} <= checkpoints
    command = [sys.executable, "-m", "sqloss_plugins.hf.tasks.characters", *small, *STEPS, "--output_dir", "killed"]
    kill_when(command, {**os.environ, "PYTHONPATH": str(ROOT)}, Path("killed"), "checkpoint-25/trainer_state.json")
    assert main([*small, *STEPS, "--output_dir", "killed"]) == 0
    assert "Going on from " in capsys.readouterr().out
    whole, killed = read_result(Path("whole")), read_result(Path("killed"))
    assert killed.resumed
    assert (killed.epochs, killed.metrics) == (whole.epochs, whole.metrics)

    kept = {name: shutil.ignore_patterns("result.json", "checkpoint-[!2]*", name) for name in ("memory-0*", "-")}
    shutil.copytree("whole", "without", ignore=kept["memory-0*"])
    assert main([*small, *STEPS, "--output_dir", "without"]) == 2
    assert "is a checkpoint within an epoch and has no memory-0.safetensors" in capsys.readouterr().err
    shutil.copytree("whole", "altered", ignore=kept["-"])
    path = Path("altered/checkpoint-25/memory-0.safetensors")
    memory = load_file(path)["memory"]
    assert memory.shape == (2, STREAMS, 20, 16)
    save_file({"memory": memory + 1.0}, path)
    assert main([*small, *STEPS, "--output_dir", "altered"]) == 0
    assert read_result(Path("altered")).metrics != whole.metrics, "what the checkpoint has is used"


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
def test_scoring_a_saved_model(loss, finished, text, tmp_path, monkeypatch, capsys):
    """By its own loss and alphabet, on a file of its own."""
    monkeypatch.chdir(tmp_path)
    data = load_files({"train": text})
    Path("new.txt").write_bytes(bytes_of(data, "test"))
    options = ["--test_file", "new.txt", "--model_name_or_path", str(finished[loss]), "--do_predict", *SHORT[:4]]
    options += ["--eval_streams", "3", "--use_cpu"]
    assert main([*options, "--output_dir", "out"]) == 0
    result, theirs = read_result(Path("out")), read_result(finished[loss])
    assert (result.loss, result.k, result.M) == (loss, theirs.k, theirs.M)
    for name in ("accuracy", "bpc"):
        assert result.value("test", name) == pytest.approx(theirs.value("test", name))
    Path("new.txt").write_bytes(b"ONE" * 50)
    assert main([*options, "--output_dir", "again"]) == 2
    assert "100.00% of the test text are bytes that" in capsys.readouterr().err


def test_bytes_that_training_does_not_have(small, text, capsys):
    """A few are told and not scored; many are another kind of text."""
    content = sentences(40, seed=1)
    Path("few.txt").write_bytes(content + b"?")
    assert main([*small, "--validation_file", "few.txt", "--max_steps", "2", "--output_dir", "few"]) == 0
    assert "1 bytes of the validation text are not in the alphabet" in capsys.readouterr().out
    Path("many.txt").write_bytes(content + b"???")
    assert main([*small, "--validation_file", "many.txt", "--output_dir", "many"]) == 2
    assert (
        "of the validation text are bytes that the training text does not have, such as 0x3F" in capsys.readouterr().err
    )


def test_a_tokenizer_of_bytes():
    alphabet = tuple(sorted(set("zwölf Bären\n".encode())))
    tokenizer = byte_tokenizer(alphabet)
    ids = tokenizer("wärn\n")["input_ids"]
    assert bytes(alphabet[i] for i in ids) == "wärn\n".encode()
    assert tokenizer.decode(ids) == "wärn\n"
    assert alphabet_of(tokenizer, "x") == alphabet
    with pytest.raises(UserError, match="the tokens of x are no bytes"):
        alphabet_of(train_tokenizer(["one two two two three"], 258, 20), "x")


def test_defaults_are_the_papers():
    """Table 10; the original's schedule and sizes."""
    for task, loss, rate in (
        ("text8", "square", 2.5e-4),
        ("enwik8", "square", 2.5e-5),
        ("enwik8", "cross_entropy", 2.5e-4),
    ):
        found = parse(Characters, ["--task", task, "--loss", loss])
        args, config = found.args, found.config
        assert (config.learning_rate, config.max_steps, config.per_device_train_batch_size) == (rate, 400_000, 8)
        assert (args.segment_length, args.memory_length, args.dropout) == (70, 70, 0.1)
        assert (args.num_layers, args.hidden_size, args.num_heads) == (12, 512, 8)
        assert (config.lr_scheduler_type, config.max_grad_norm, config.weight_decay) == ("cosine", 0.25, 0.0)
        assert (config.eval_strategy, config.eval_steps, config.save_steps) == ("steps", 4000, 4000)
        assert (config.metric_for_best_model, config.greater_is_better) == ("accuracy", True)
    assert parse(Characters, ["--task", "text8", "--num_train_epochs", "2"]).config.max_steps == -1
    assert parse(Characters, ["--task", "text8", "--protocol", "same_epochs"]).config.max_steps == -1
    assert parse(Characters, ["--task", "text8", "--max_steps", "5"]).config.max_steps == 5
    mini = parse(Characters, ["--task", "text8", "--mini"])
    assert (mini.config.max_steps, mini.args.hidden_size) == (-1, 128)


def test_rescaling(tmp_path, monkeypatch):
    """The paper's for its tasks with their number of classes; the level rule where it is asked for."""
    monkeypatch.chdir(tmp_path)
    everything = bytes(i for i in range(205)) * 40
    Path("enwik8").write_bytes(everything)
    options = ["--task", "enwik8", "--data_dir", ".", "--cache_dir", "cache", "--max_steps", "1", *TINY, *SHORT]
    options += ["--eval_steps", "1", "--save_steps", "1"]
    assert main([*options, "--output_dir", "paper"]) == 0
    result = read_result(Path("paper"))
    assert (result.k, result.M, result.rescaling_source) == (1, 1, "the paper's Table 9 for enwik8")
    assert main([*options, "--output_dir", "level", "--rescaling", "level"]) == 0
    result = read_result(Path("level"))
    assert (result.k, result.M) == (15, pytest.approx(math.sqrt(204 * math.log(204) / 15)))


def test_the_recipe_and_the_embedded_text(tmp_path):
    done = subprocess.run(
        [str(ROOT / "recipes/text8/run.sh"), "--mini", *TINY, *SHORT, "--max_steps", "3"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "*** MINI DATA: Python's own reference, and no benchmark ***" in done.stdout
    assert "27 classes" in done.stdout
    (folder,) = (path.parent for path in (tmp_path / "runs").rglob("result.json"))
    name = "square-k1-M1-lr0.01-early_stopping-s42-mini"
    assert folder.relative_to(tmp_path) == Path("runs/text8/transformer_xl-2x16") / name
    assert read_result(folder).mini


BAD_OPTIONS = {
    "nothing": ([], "there is no text: give --task text8 or enwik8, --train_file, or --mini"),
    "unknown task": (["--task", "text9"], "argument --task: invalid choice: 'text9'"),
    "two texts": (["--task", "text8", "--train_file", "x"], "--task and --train_file exclude each other"),
    "mini and real": (["--mini", "--task", "text8", "--data_dir", "x"], "--mini and --data_dir exclude each other"),
    "mini and own": (["--mini", "--train_file", "x"], "--mini and --train_file exclude each other"),
    "folder of no task": (["--train_file", "x", "--data_dir", "y"], "--data_dir is of --task: leave it out"),
    "newlines": (["--task", "text8", "--keep_newlines"], "--keep_newlines is of --task enwik8: leave it out"),
    "no training": (["--validation_file", "x"], "--validation_file needs --train_file beside it"),
    "no folder": (["--task", "text8", "--data_dir", "x"], "x has neither text8 nor text8.zip"),
    "empty value": (["--train_file", ""], "--train_file is empty: give a value, or leave it out"),
    "no file": (["--train_file", "x"], "--train_file x cannot be read: No such file or directory"),
    "a folder": (["--train_file", ".", "--test_file", "x"], "--train_file"),
    "empty": (["--train_file", "/dev/null"], "/dev/null is too short for a train text"),
    "heads": (["--mini", "--num_heads", "3"], "--hidden_size must be a multiple of --num_heads, got 128 and 3"),
    "a new one to score": (["--mini", "--do_eval"], "a new model has to be trained: name a trained one by --model_n"),
    "dropout": (["--mini", "--dropout", "1"], "--dropout must be at least 0 and less than 1, got 1"),
    "length": (["--mini", "--segment_length", "0"], "--segment_length must be at least 1, got 0"),
    "memory": (["--mini", "--memory_length", "-1"], "--memory_length must be at least 0, got -1"),
    "size of another's": (
        ["--mini", "--model_name_or_path", "x", "--num_layers", "8"],
        "--num_layers is of a new model",
    ),
    "evaluation": (["--mini", "--per_device_eval_batch_size", "8"], "is what --eval_streams says: leave it out"),
    "shuffled": (
        ["--mini", "--train_sampling_strategy", "random"],
        "must be sequential: a segment follows that before",
    ),
    "logits": (
        ["--mini", "--without_logits", "true"],
        "--without_logits is for many classes, and there are at most 256",
    ),
    "compiled": (["--mini", "--torch_compile"], "--torch_compile would compile the memory in: leave it out"),
    "metric": (["--mini", "--metric_for_best_model", "f1"], "--metric_for_best_model must be one of accuracy, bpc"),
    "other steps": (
        ["--mini", "--eval_strategy", "steps", "--save_strategy", "steps"],
        "equal --eval_steps and --save_st",
    ),
}


@pytest.mark.parametrize("case", list(BAD_OPTIONS))
def test_bad_options(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options, message = BAD_OPTIONS[case]
    assert_refused(main, options, "sqloss characters", message, tmp_path, capsys)


def test_no_download(tmp_path, monkeypatch, capsys):
    def fetch(url, path):
        raise OSError("no route to host")

    monkeypatch.setattr("sqloss_plugins.data.characters.fetch", fetch)
    assert main(["--task", "enwik8", "--output_dir", str(tmp_path / "out"), "--cache_dir", str(tmp_path)]) == 2
    assert "enwik8 cannot be downloaded (no route to host): give the folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_models_are_refused(finished, small, tiny_model, capsys):
    options = [*small[:2], *SHORT, "--model_name_or_path", str(tiny_model), "--output_dir", "out"]
    assert main(options) == 2
    assert "is no Transformer-XL that this command has saved" in capsys.readouterr().err
    shutil.copytree(finished["square"], "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    assert main([*small[:2], *SHORT, "--model_name_or_path", "bare", "--output_dir", "out"]) == 2
    assert "the tokenizer of bare cannot be loaded: " in capsys.readouterr().err


def test_too_many_streams(small, capsys):
    assert main([*small, "--per_device_train_batch_size", "100000", "--output_dir", "out"]) == 2
    assert "is too short for 100000 streams: give a smaller --per_device_train_batch_size" in capsys.readouterr().err


def test_a_saved_model_is_trained_further(finished, small):
    options = [*small[:2], *SHORT, "--model_name_or_path", str(finished["square"]), "--num_train_epochs", "1"]
    assert main([*options, "--learning_rate", "1e-4", "--output_dir", "out"]) == 0
    before, after = read_result(finished["square"]), read_result(Path("out"))
    assert after.value("test", "bpc") < 1.1 * before.value("test", "bpc")


@pytest.mark.slow
def test_two_processes_are_one(small, capsys):
    """Two streams each are the same training as four, also from a checkpoint on, of which each has its own memory."""
    options = ["--dropout", "0", "--protocol", "same_epochs", "--eval_strategy", "no", "--save_strategy", "steps"]
    options = [*small, *options, "--eval_streams", "4", "--save_steps", "25", "--save_total_limit", "9"]
    assert main([*options, "--output_dir", "one"]) == 0
    options += ["--per_device_train_batch_size", "2", "--output_dir", "two"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "sqloss_plugins.hf.tasks.characters", *options]
    one = read_result(Path("one"))
    for is_again in (False, True):
        if is_again:
            for path in [Path("two/result.json"), *Path("two").glob("checkpoint-[!2]*")]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr[-3000:]
        two = read_result(Path("two"))
        assert two.resumed == is_again
        for name in ("bpc", "accuracy"):
            assert two.value("test", name) == pytest.approx(one.value("test", name), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "loss", "further"),
    [
        ("text8", "square", []),  # three epochs
        ("enwik8", "square", ["--num_train_epochs", "1"]),
        ("text8", "cross_entropy", ["--num_train_epochs", "1"]),
    ],
)
def test_the_mini_task_is_learnt(task, loss, further, tmp_path):
    options = ["--task", task, "--mini", "--loss", loss, *further, "--use_cpu"]
    assert main([*options, "--output_dir", str(tmp_path / "out")]) == 0
    result = read_result(tmp_path / "out")
    for split in ("validation", "test"):
        assert result.value(split, "bpc") < 0.85 * result.data["unigram_bpc"][split]
        assert result.value(split, "accuracy") > 1.7 * result.data["unigram_accuracy"][split]

"""The patches for source checkouts: they apply to the files of the installed releases, and what is patched runs."""

import copy
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import unittest

import pytest
import torch
from patching import INSTALLED, PATCHES, patched
from test_espnet import DECODERS, TOKENS, C, build, data, train  # noqa: F401  (data is a fixture)
from transformers import Trainer, TrainingArguments

from patches.renew import FOLDER, apply, changed_files, copy_upstream, main
from sqloss_plugins.espnet.model import AttentionLoss
from sqloss_plugins.hf.trainer_loss import TrainerLoss

SQUARE = {"loss": "square", "k": 15.0, "M": 2.6}


@pytest.fixture(scope="module")
def espnet2_model(tmp_path_factory):
    """Makes a patched ESPnet2 model with the parts of another one."""
    with patched("espnet2", tmp_path_factory.mktemp("espnet2")):
        made = importlib.import_module("espnet2.asr.espnet_model").ESPnetASRModel

    def make(like, **options):
        parts = {name: copy.deepcopy(getattr(like, name)) for name in ("encoder", "decoder", "ctc")}
        absent = ("frontend", "specaug", "normalize", "preencoder", "postencoder", "joint_network")
        settings = {"ctc_weight": 0.3, "report_cer": False, "report_wer": False, **options}
        return made(C, TOKENS, **dict.fromkeys(absent), **{**parts, **settings}).eval()

    return make


def batch(lengths):
    generator = torch.Generator().manual_seed(1)
    text = torch.full((len(lengths), max(lengths)), -1)
    for row, length in zip(text, lengths, strict=True):
        row[:length] = torch.randint(2, C - 1, (length,), generator=generator)
    return {
        "speech": torch.randn(len(lengths), 60, 20, generator=generator),
        "speech_lengths": torch.tensor([60] * len(lengths)),
        "text": text,
        "text_lengths": torch.tensor(lengths),
    }


@pytest.mark.parametrize("what", list(PATCHES))
def test_a_patch_is_applied_and_taken_back_by_the_commands_of_its_readme(what, tmp_path):
    copy_upstream(PATCHES[what], INSTALLED, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.py")}
    apply(PATCHES[what], tmp_path)
    assert all(path.read_bytes() != content for path, content in before.items())
    apply(PATCHES[what], tmp_path, "-R")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.py")} == before


def failures(path):
    """The tests of a file in upstream's style, functions or unittest's, that fail."""
    spec = importlib.util.spec_from_file_location("test_of_upstream", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        return [str(error)]
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    failed = [test.id() for test, _ in (*result.failures, *result.errors)]
    for name, function in vars(module).items():
        if name.startswith("test_"):
            try:
                function()
            except Exception as error:
                failed.append(f"{name}: {error}")
    return failed


@pytest.mark.parametrize(
    ("what", "before"),
    [
        ("espnet2", ["No module named 'espnet2.asr.square_loss'"]),
        ("transformers_bert", [".*BertNumItemsInBatch.*"] * 3),
    ],
)
def test_the_tests_of_a_patch_fail_before_it_and_pass_after(what, before, tmp_path):
    with patched(what, tmp_path) as tests:
        (path,) = tests
        assert failures(path) == []
    failed = failures(path)
    assert len(failed) == len(before)
    assert all(re.fullmatch(pattern, name) for pattern, name in zip(before, failed, strict=True))


@pytest.mark.parametrize("decoder", list(DECODERS))
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize(("k", "M", "smoothing"), [(1.0, 1.0, 0.0), (15.0, 30.0, 0.0), (15.0, 2.6, 0.1), (1, 15, 0.3)])
def test_espnet2_is_the_extension_to_the_last_bit(decoder, per_token, k, M, smoothing, espnet2_model):
    options = {"loss": "square", "k": k, "M": M, "lsm_weight": smoothing, "length_normalized_loss": per_token}
    ours = build(decoder=decoder, **options)
    theirs = espnet2_model(ours, **options)
    assert type(theirs.criterion_att).__module__ == "espnet2.asr.square_loss"
    results = []
    for model in (ours, theirs):
        loss, stats, _ = model(**batch([4, 2, 3]))
        loss.backward()
        results.append((loss, stats["loss_att"], {name: value.grad for name, value in model.named_parameters()}))
    (loss, attention, gradients), (their_loss, their_attention, their_gradients) = results
    assert torch.equal(loss, their_loss)
    assert torch.equal(attention, their_attention)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, their_gradients[name]), name


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_espnet2_gradients_of_any_size_are_the_extensions(smoothing, espnet2_model):
    """The rounding of one size alone can be the same by chance."""
    ours = AttentionLoss("square", 15.0, 2.6, C, smoothing=smoothing)
    theirs = espnet2_model(build("espnet"), **SQUARE, lsm_weight=smoothing).criterion_att
    outputs, targets = 3 * torch.randn(4, 5, C), batch([5, 3, 1, 4])["text"]
    for size in torch.rand(20):
        gradients = []
        for criterion in (ours, theirs):
            leaf = outputs.clone().requires_grad_()
            (size * criterion(leaf, targets)).backward()
            gradients.append(leaf.grad)
        assert torch.equal(*gradients)


@pytest.mark.parametrize("k", [1.0, 15.0])
def test_espnet2_without_padding_may_round_otherwise(k, espnet2_model):
    """For small outputs of which none is padding the losses have a shortcut."""
    ours = build(k=k, M=15.0)
    theirs = espnet2_model(ours, loss="square", k=k, M=15.0)
    losses = [model(**batch([3, 3]))[0].item() for model in (ours, theirs)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_espnet2_as_it_was(espnet2_model):
    """Without the new options the patched model is the installed one."""
    stock = build("espnet", lsm_weight=0.1)
    assert torch.equal(espnet2_model(stock, lsm_weight=0.1)(**batch([4, 2]))[0], stock(**batch([4, 2]))[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "loss must be cross_entropy or square, got hinge"),
        ({"k": 15.0}, "k and M are for loss: square"),
        ({"loss": "square", "M": 0.0}, "M must be a positive finite number, got 0.0"),
        ({"loss": "square", "ctc_weight": 1.0}, "loss: square is for an attention decoder"),
    ],
)
def test_wrong_options_of_espnet2(options, message, espnet2_model):
    with pytest.raises(ValueError, match=message):
        espnet2_model(build("espnet"), **options)


def test_espnet2_ignores_what_padding_holds(espnet2_model):
    criterion = espnet2_model(build("espnet"), **SQUARE).criterion_att
    outputs = torch.randn(2, 3, C, dtype=torch.float64)
    outputs[1, 2] = float("inf")
    outputs.requires_grad_()
    loss = criterion(outputs, torch.tensor([[1, 2, 3], [4, 5, -1]]))
    loss.backward()
    assert torch.isfinite(loss)
    kept = outputs.detach()[:, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: criterion(f, torch.tensor([[1, 2], [4, 5]])), kept)


def drift(folder, what, line):
    """Another line in an upstream file than the patch knows, which is in the context of one of its hunks."""
    copy_upstream(PATCHES[what], INSTALLED, folder)
    path = folder / next(iter(changed_files(PATCHES[what])))
    text = path.read_text()
    assert text.count(line) == 1
    path.write_text(text.replace(line, "# " + line))
    return path


def test_a_target_that_has_drifted(tmp_path, capsys):
    path = drift(tmp_path, "espnet2", "assert 0.0 <= interctc_weight < 1.0, interctc_weight")
    before = path.read_bytes()
    patch = PATCHES["espnet2"]
    assert main(["--upstream", str(tmp_path), str(patch)]) == 1
    said = capsys.readouterr()
    assert "does not fit" in said.out
    assert "espnet2/asr/espnet_model.py, hunk 2 of 3 (line " in said.err
    # And so says git, by the README's command; it changes nothing.
    done = subprocess.run(["git", "apply", patch], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "patch failed: espnet2/asr/espnet_model.py:" in done.stderr
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_patches_of_another_version(tmp_path, capsys, monkeypatch):
    """Lines that moved, and a line that changed at the edge of a hunk."""
    own = tmp_path / "patches"
    own.mkdir()
    old = shutil.copy(PATCHES["espnet2"], own)
    tree = tmp_path / "tree"
    path = drift(tree, "espnet2", "        autocast_frontend: bool = False,\n")
    path.write_text("# a new line\n" + path.read_text())
    assert main(["--upstream", str(tree), "--version", "209901", str(old)]) == 0
    assert "espnet2-209901.patch" in capsys.readouterr().out
    assert main(["--upstream", str(tree), str(own / "espnet2-209901.patch")]) == 0
    assert "fits exactly" in capsys.readouterr().out
    before = (own / "espnet2-209901.patch").read_bytes()
    (own / "espnet2-209901.patch").write_text("mended by hand")
    again = ["--upstream", str(tree), "--version", "209901", str(old)]
    assert main(again) == 2
    assert "espnet2-209901.patch is there already: give --overwrite" in capsys.readouterr().err
    assert (own / "espnet2-209901.patch").read_text() == "mended by hand"
    assert main([*again, "--overwrite"]) == 0
    assert (own / "espnet2-209901.patch").read_bytes() == before
    assert main(["--upstream", str(tmp_path)]) == 2
    assert "has the files of no patch: give a checkout" in capsys.readouterr().err


# ---------------------------------------------------------------- Transformers


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Makes a head of BERT, patched or installed, of the same small weights."""
    with patched("transformers_bert", tmp_path_factory.mktemp("transformers")):
        modules = {True: importlib.import_module("transformers.models.bert.modeling_bert")}
    modules[False] = importlib.import_module("transformers.models.bert.modeling_bert")
    assert modules[True].__file__ != modules[False].__file__
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {
        **sizes,
        "intermediate_size": 8,
        "num_labels": 3,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }

    def make(patch, head, **options):
        torch.manual_seed(0)
        settings = modules[False].BertConfig(**{**config, **options})
        return getattr(modules[patch], head)(settings)

    return make


HEADS = {"BertForSequenceClassification": (6,), "BertForTokenClassification": (6, 5), "BertForMaskedLM": (6, 5)}


@pytest.mark.parametrize("head", list(HEADS))
def test_heads_of_bert_divide_by_the_items_of_the_whole_batch(head, bert):
    inputs = {"input_ids": torch.randint(20, (6, 5)), "labels": torch.randint(3, HEADS[head])}
    alone, stock = bert(True, head)(**inputs).loss, bert(False, head)(**inputs).loss
    assert torch.equal(alone, stock)
    items = inputs["labels"].numel()
    loss = bert(True, head)(**inputs, num_items_in_batch=torch.tensor(3 * items)).loss
    assert float(loss) == pytest.approx(float(alone) / 3, rel=1e-6)
    assert torch.equal(bert(False, head)(**inputs, num_items_in_batch=torch.tensor(3 * items)).loss, stock)


@pytest.mark.parametrize(("options", "labels"), [({"num_labels": 1}, (6,)), ({"num_labels": 3}, (6, 3))])
def test_other_problem_types_of_bert_are_as_they_were(options, labels, bert):
    inputs = {"input_ids": torch.randint(20, (6, 5)), "labels": torch.rand(labels)}
    losses = [bert(patch, "BertForSequenceClassification", **options)(**inputs).loss for patch in (True, False)]
    assert torch.equal(*losses)


def test_bert_is_trained_alike_with_and_without_accumulation(bert, tmp_path):
    """In three parts the installed head's step is three times that of the whole batch."""
    rows = [{"input_ids": torch.randint(20, (5,)), "labels": n % 3} for n in range(12)]

    def step(patch, parts):
        model = bert(patch, "BertForSequenceClassification")
        before = model.classifier.weight.detach().clone()
        steps = {"max_steps": 1, "gradient_accumulation_steps": parts, "per_device_train_batch_size": 12 // parts}
        usual = {
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "use_cpu": True,
            "max_grad_norm": 0.0,
        }
        args = TrainingArguments(tmp_path, optim="sgd", learning_rate=0.1, **steps, **usual)
        Trainer(model, args, train_dataset=rows).train()
        return model.classifier.weight.detach() - before

    whole = step(True, 1)
    assert torch.allclose(step(True, 3), whole, atol=1e-7)
    assert torch.allclose(step(False, 3), 3 * whole, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.patch"], "none.patch is not a patch of this folder"),
        ([str(FOLDER / "README.md")], "README.md is not a patch of this folder"),
        (["--version", "next"], "--version next must be numbers with dots between them"),
        (["--version", "209901"], "--version is of one upstream"),
        (["--upstream", "nowhere"], "nowhere has the files of no patch"),
        (
            ["--upstream", "nowhere", str(PATCHES["espnet2"])],
            "espnet_model.py, which nowhere does not have: give a source",
        ),
    ],
)
def test_wrong_words(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


RUN_GLUE = FOLDER / "transformers_run_glue-5.0.patch"
"""Changes a script that is in no wheel."""


@pytest.mark.parametrize(("k", "M"), [(1.0, 1.0), (15.0, 2.6)])
def test_the_loss_in_run_glue_is_that_of_the_trainer(k, M):
    added = "\n".join(line[1:] for line in RUN_GLUE.read_text().splitlines() if line.startswith("+"))
    (function,) = re.findall(r"^def square_loss.+?^    return compute_loss$", added, re.MULTILINE | re.DOTALL)
    names = {"torch": torch}
    exec(function, names)
    theirs, ours = names["square_loss"](k, M), TrainerLoss("square", k=k, M=M)
    outputs, labels = {"logits": torch.randn(6, 3)}, torch.randint(3, (6,))
    for items in (None, torch.tensor(18)):
        expected = ours(outputs, labels, num_items_in_batch=items)
        assert torch.allclose(theirs(outputs, labels, num_items_in_batch=items), expected, rtol=1e-6)


def test_the_patch_of_run_glue_is_found_for_a_checkout(tmp_path, capsys):
    """Of the script only the lines that the patch knows."""
    (name,) = changed_files(RUN_GLUE)
    before = [
        line[1:] for line in RUN_GLUE.read_text().splitlines() if line.startswith((" ", "-")) and line[1:3] != "--"
    ]
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("\n".join(before) + "\n")
    assert main(["--upstream", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == f"{RUN_GLUE.name} fits other files than it was made from".split()
    (tmp_path / name).write_text("\n".join(before).replace("processing_class=", "tokenizer=") + "\n")
    assert main(["--upstream", str(tmp_path)]) == 1
    assert f"{name}, hunk 4 of 4 (line " in capsys.readouterr().err


# ---------------------------------------------------------------- whole programs


def patched_packages(what, folder):
    """A copy of the installed packages that a patch changes, with the patch: the path for PYTHONPATH."""
    for package in {name.partition("/")[0] for name in changed_files(PATCHES[what])}:
        shutil.copytree(INSTALLED / package, folder / package, copy_function=os.symlink)
    for name in changed_files(PATCHES[what]):
        (folder / name).unlink()
    copy_upstream(PATCHES[what], INSTALLED, folder)
    apply(PATCHES[what], folder)
    return str(folder)


@pytest.mark.slow
def test_a_training_in_patched_espnet2_is_that_of_the_extension(data, tmp_path, monkeypatch):  # noqa: F811
    """By ESPnet's own command, which knows nothing of this package: the same weights, bit for bit."""
    words = ["--model_conf", "k=15.0", "--model_conf", "M=2.6", "--model_conf", "loss=square"]
    assert train(data, tmp_path / "ours", *words) == 0
    environment = {**os.environ, "PYTHONPATH": patched_packages("espnet2", tmp_path / "site")}

    def asr_train(command):
        program = [sys.executable, "-m", "espnet2.bin.asr_train", *command]
        return subprocess.run(program, env=environment, cwd=tmp_path).returncode

    monkeypatch.setattr("test_espnet.asr_train", asr_train)
    assert train(data, tmp_path / "theirs", "--model", "espnet", *words) == 0
    weights = [torch.load(tmp_path / name / "1epoch.pth", weights_only=True) for name in ("ours", "theirs")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert train(data, tmp_path / "wrong", "--model", "espnet", "--model_conf", "loss=hinge") != 0

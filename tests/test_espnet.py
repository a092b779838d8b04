"""The ESPnet extension: model, loss, methods and registration, on tiny models with random weights."""

import errno
import inspect
import json
import logging
import math
import os
import re
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml
from commands import kill_when
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask
from espnet2.train.reporter import Reporter
from torch.multiprocessing.spawn import ProcessExitedException
from torch.nn.functional import nll_loss

from sqloss_plugins.errors import RunError, UserError
from sqloss_plugins.espnet.bin.asr_calibrate import main as asr_calibrate
from sqloss_plugins.espnet.bin.asr_export import main as asr_export
from sqloss_plugins.espnet.bin.asr_inference import main as asr_inference
from sqloss_plugins.espnet.bin.asr_train import main as asr_train
from sqloss_plugins.espnet.bin.lm_train import main as lm_train
from sqloss_plugins.espnet.calibration import TeacherForced, calibrate, teacher_forced_outputs
from sqloss_plugins.espnet.confidence import kept_outputs, token_log_probabilities, word_confidence, word_numbers
from sqloss_plugins.espnet.decoding import (
    Speech2Text,
    keep_within_frames,
    log_probabilities_of,
    log_probability_outputs,
    use_method,
)
from sqloss_plugins.espnet.initialization import initialize_as_espnet1
from sqloss_plugins.espnet.jobs import Job, run_jobs
from sqloss_plugins.espnet.model import AttentionLoss, SquareLossASRModel, read_unigram
from sqloss_plugins.espnet.model_files import check_sample_rate, load_model, read_state
from sqloss_plugins.espnet.resume import (
    accuracies,
    end_as_before,
    hand_over_mistakes,
    make_saves_atomic,
    mistakes_of_processes,
    repair_checkpoint,
    trained,
)
from sqloss_plugins.probability import METHODS, TEMPERATURES, log_probabilities
from sqloss_plugins.processes import die_with_parent

TOKENS = ["<blank>", "<unk>", *"ABCDEFGHI", "<sos/eos>"]
C = len(TOKENS)
DECODERS = {
    "transformer": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1, "dropout_rate": 0.0},
    "rnn": {"hidden_size": 8, "att_conf": {"atype": "location", "adim": 8, "aconv_chans": 2, "aconv_filts": 3}},
}


def build(model="sqloss", decoder="transformer", **model_conf):
    """A model as ESPnet's task builds it from a command line, in evaluation mode."""
    torch.manual_seed(0)
    args = ASRTask.get_parser().parse_args(["--output_dir", "x"])
    args.token_list, args.model, args.decoder = TOKENS, model, decoder
    args.model_conf = {"ctc_weight": 0.3, "report_cer": False, "report_wer": False, **model_conf}
    args.decoder_conf = {**DECODERS[decoder]}
    if decoder == "transformer":
        args.decoder_conf.update(positional_dropout_rate=0.0)
    args.encoder = "transformer"
    args.encoder_conf = {"output_size": 8, "attention_heads": 2, "linear_units": 16, "num_blocks": 1}
    args.input_size, args.normalize = 20, None
    return ASRTask.build_model(args).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    text = torch.tensor([[2, 3, 4, 5], [6, 7, -1, -1], [8, 9, 10, -1]])
    return {
        "speech": torch.randn(3, 60, 20, generator=generator),
        "speech_lengths": torch.tensor([60, 50, 40]),
        "text": text,
        "text_lengths": torch.tensor([4, 2, 3]),
    }


def targets_of(text):
    return [[int(token) for token in row if token != -1] + [C - 1] for row in text]


def outputs_of(model, batch):
    encoded, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    text = batch["text"]
    inputs = torch.cat([torch.full((3, 1), C - 1), text.masked_fill(text == -1, C - 1)], 1)
    return model.decoder(encoded, lengths, inputs, batch["text_lengths"] + 1)[0]


def reference(outputs, targets, k, M, smoothing=0.0, share=None):
    """The sum of all tokens' losses from the paper's equation, one number after the other, in Python's floats."""
    total = 0.0
    for row, classes in zip(outputs.double().tolist(), targets, strict=True):
        for f, true in zip(row, classes, strict=False):
            for i in range(C):
                if share is not None:
                    q = (1 - smoothing) * (i == true) + smoothing * share[i]
                else:
                    q = 1 - smoothing if i == true else smoothing / (C - 1)
                total += (q * k * (f[i] - M) ** 2 + (1 - q) * f[i] ** 2) / C
    return total


@pytest.mark.parametrize("decoder", list(DECODERS))
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize(("k", "M", "smoothing"), [(1.0, 1.0, 0.0), (15.0, 30.0, 0.0), (15.0, 2.6, 0.1)])
def test_the_loss_is_the_papers_under_espnets_normalisation(decoder, per_token, k, M, smoothing, batch):
    model = build(decoder=decoder, k=k, M=M, lsm_weight=smoothing, length_normalized_loss=per_token)
    loss, stats, _ = model(**batch)
    targets = targets_of(batch["text"])
    expected = reference(outputs_of(model, batch), targets, k, M, smoothing)
    expected /= sum(map(len, targets)) if per_token else len(targets)
    assert float(stats["loss_att"]) == pytest.approx(expected, rel=1e-5)
    assert float(loss) == pytest.approx(0.3 * float(stats["loss_ctc"]) + 0.7 * expected, rel=1e-5)


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
def test_unigram_smoothing(loss, tmp_path, batch):
    """ESPnet1's: the rest goes to all classes in proportion to their counts (Table 21)."""
    counts = [0, 0, 5, 1, 1, 1, 1, 1, 1, 1, 1, 7]
    (tmp_path / "counts").write_text("\n".join(map(str, counts)))
    options = {"lsm_type": "unigram", "lsm_weight": 0.05, "lsm_unigram": str(tmp_path / "counts")}
    model = build(loss=loss, **({"k": 3.0, "M": 2.0} if loss == "square" else {}), **options)
    outputs, targets = outputs_of(model, batch), targets_of(batch["text"])
    share = [count / sum(counts) for count in counts]
    if loss == "square":
        expected = reference(outputs, targets, 3.0, 2.0, 0.05, share)
    else:
        logs = outputs.double().log_softmax(-1).tolist()
        expected = -sum(
            ((1 - 0.05) * (i == true) + 0.05 * share[i]) * row[t][i]
            for row, classes in zip(logs, targets, strict=True)
            for t, true in enumerate(classes)
            for i in range(C)
        )
    assert float(model(**batch)[1]["loss_att"]) == pytest.approx(expected / 3, rel=1e-5)


def test_cross_entropy_is_espnets_own(batch):
    ours, stock = build(loss="cross_entropy", lsm_weight=0.1), build("espnet", lsm_weight=0.1)
    assert type(ours.criterion_att) is type(stock.criterion_att)
    assert torch.equal(ours(**batch)[0], stock(**batch)[0])


@pytest.mark.parametrize("loss", ["square", "squentropy"])
def test_only_the_attention_loss_differs_from_stock(loss, batch):
    ours, stock = build(loss=loss), build("espnet")
    assert ours.state_dict().keys() == stock.state_dict().keys()
    stock.load_state_dict(ours.state_dict())
    (_, mine, weight), (_, theirs, stock_weight) = ours(**batch), stock(**batch)
    assert torch.equal(mine["loss_ctc"], theirs["loss_ctc"])
    assert mine["acc"] == theirs["acc"]
    assert torch.equal(weight, stock_weight)
    assert mine["loss_att"] != theirs["loss_att"]


def test_gradients_reach_all_parts(batch):
    model = build(k=15.0, M=2.6).train()
    model(**batch)[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_padding_alone():
    criterion = AttentionLoss("square", 15.0, 30.0, C, normalize_length=True)
    outputs = torch.randn(2, 3, C, requires_grad=True)
    criterion(outputs, torch.full((2, 3), -1)).backward()
    assert not outputs.grad.any()


def test_the_initialization_of_espnet1():
    layers = torch.nn.ModuleDict(
        {
            "linear": torch.nn.Linear(100, 400),
            "convolution": torch.nn.Conv2d(4, 200, 5),
            "words": torch.nn.Embedding(50, 400),
            "lstm": torch.nn.LSTM(8, 6),
            "cell": torch.nn.LSTMCell(8, 6),
            "norm": torch.nn.BatchNorm1d(7),
        }
    )
    initialize_as_espnet1(layers)
    for name, inputs in (("linear", 100), ("convolution", 100), ("words", 1)):
        assert layers[name].weight.std().item() == pytest.approx(inputs**-0.5, rel=0.02)
        assert layers[name].weight.mean().item() == pytest.approx(0.0, abs=0.02)
    assert not layers["linear"].bias.any()
    forget = torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(6)  # input, forget, cell, output
    for bias in (layers["lstm"].bias_ih_l0, layers["lstm"].bias_hh_l0, layers["cell"].bias_ih):
        assert torch.equal(bias, forget)
    assert not layers["cell"].bias_hh.any()
    assert torch.equal(layers["norm"].weight, torch.ones(7))


def test_the_initialization_reaches_the_model():
    plain, other = build(decoder="rnn"), build(decoder="rnn", initialization="espnet1")
    assert plain.state_dict().keys() == other.state_dict().keys()
    assert torch.equal(other.decoder.decoder[0].bias_ih[8:16], torch.ones(8))
    assert not torch.equal(plain.decoder.decoder[0].bias_ih[8:16], torch.ones(8))


@pytest.mark.parametrize("decoder", list(DECODERS))
@pytest.mark.parametrize("method", ["square", "temperature"])
def test_methods_leave_everything_else_untouched(decoder, method, batch):
    model = build(decoder=decoder, k=15.0, M=2.6)
    before, keys = outputs_of(model, batch), list(model.state_dict())
    encoded, _ = model.encode(batch["speech"], batch["speech_lengths"])
    prefix = torch.tensor([C - 1])

    def scored():
        return model.decoder.score(prefix, model.decoder.init_state(encoded[0]), encoded[0])[0]

    parameters = inspect.signature(model.decoder.score)
    plain = scored()
    assert torch.allclose(plain, before[0, 0].log_softmax(-1), atol=1e-5)
    use_method(model, method, 1.6 if method == "temperature" else None)
    by_hand = {
        "square": log_probabilities(before[0, 0], "square", k=15.0, M=2.6),
        "temperature": (before[0, 0] / 1.6).log_softmax(-1),
    }
    assert torch.allclose(scored(), by_hand[method], atol=1e-5)
    assert torch.equal(outputs_of(model, batch), before)  # teacher-forced outputs stay raw
    assert list(model.state_dict()) == keys
    assert inspect.signature(model.decoder.score) == parameters  # beam search looks at them
    if decoder == "transformer":
        states = [None, None]
        many, _ = model.decoder.batch_score(prefix.repeat(2, 1), states, encoded[:1].repeat(2, 1, 1))
        assert torch.allclose(many, by_hand[method].repeat(2, 1), atol=1e-5)
        assert torch.allclose(many.log_softmax(-1), many, atol=1e-5)


def test_nll_is_of_the_losss_own_method(batch):
    model = build(k=15.0, M=2.6)
    encoded, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    logs = log_probabilities(outputs_of(model, batch), "square", k=15.0, M=2.6)
    expected = [
        -sum(float(logs[b, t, c]) for t, c in enumerate(classes)) for b, classes in enumerate(targets_of(batch["text"]))
    ]
    raw = outputs_of(model, batch)
    found = model.nll(encoded, lengths, batch["text"], batch["text_lengths"])
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(outputs_of(model, batch), raw)  # within nll only
    with log_probability_outputs(model, "softmax"):
        assert torch.equal(outputs_of(model, batch), raw)
    stock = build("espnet")
    stock.load_state_dict(model.state_dict())
    entropy = build(loss="cross_entropy")
    entropy.load_state_dict(model.state_dict())
    arguments = (encoded, lengths, batch["text"], batch["text_lengths"])
    assert torch.equal(entropy.nll(*arguments), stock.nll(*arguments))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "unknown loss 'hinge': choose from square, cross_entropy, squentropy"),
        (
            {"loss": "cross_entropy", "k": 15.0},
            "k and M rescale the square loss, and the loss cross_ent",
        ),
        ({"k": 0.0}, "k must be a positive finite number"),
        ({"M": -1.0}, "M must be a positive finite number"),
        ({"k": "abc"}, "model_conf: k must be a number, got 'abc'"),
        ({"M": [1]}, r"model_conf: M must be a number, got \[1\]"),
        ({"lsm_weight": "some"}, "model_conf: lsm_weight must be a number, got 'some'"),
        ({"ctc_weight": None}, "model_conf: ctc_weight must be a number, got None"),
        ({"ctc_weight": 1.5}, "model_conf: ctc_weight must be between 0 and 1, got 1.5"),
        ({"loss": ["square"]}, r"unknown loss \"\['square'\]\": choose from"),
        ({"rescaling": None}, "unknown rescaling None: choose from"),
        ({"paper_task": "librispeach"}, "unknown paper_task 'librispeach': choose from .*librispeech"),
        ({"rescaling": "mine"}, "unknown rescaling 'mine': choose from auto, paper, level"),
        ({"lsm_type": "bigram"}, "unknown lsm_type 'bigram'"),
        ({"initialization": "chainer"}, "unknown initialization 'chainer': choose from espnet1"),
        ({"lsm_type": "unigram", "lsm_weight": 0.1}, "go together"),
        ({"lsm_weight": 0.95}, r"lsm_weight must be between 0 and 0\.9167, got 0\.95"),
        ({"ctc_weight": 1.0}, "loss square is for an attention decoder"),
        ({"los": "square"}, "model_conf: got an unexpected keyword argument 'los'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_numbers_may_be_text():
    """YAML takes 1e1 for text."""
    model = build(k="1e1", M="2e0", ctc_weight="3e-1", lsm_weight="1e-1")
    assert (model.rescaling.k, model.rescaling.M, model.ctc_weight) == (10.0, 2.0, 0.3)
    assert model.criterion_att.smoothing == 0.1


def test_k_and_M_are_the_one_rules():
    level = math.sqrt(C * math.log(C) / 15)
    for options, k, M in (
        ({}, 15.0, level),
        ({"ctc_weight": 0.0}, 1.0, 1.0),  # few classes, and no CTC beside
        ({"paper_task": "librispeech"}, 15.0, level),  # the paper has 1000 classes
        ({"paper_task": "librispeech", "rescaling": "paper"}, 15.0, 30.0),
        ({"rescaling": "paper"}, 1.0, 1.0),
        ({"rescaling": "paper", "M": 3}, 1.0, 3.0),
    ):
        found = build(**options).rescaling
        assert (found.k, found.M) == (k, pytest.approx(M)), options
    assert build(loss="cross_entropy").rescaling is None


@pytest.mark.parametrize(
    ("method", "temperature", "loss", "message"),
    [
        ("probit", None, "square", "unknown method 'probit'"),
        ("temperature", None, "square", "go together"),
        ("square", 2.0, "square", "go together"),
        ("temperature", -2.0, "square", "must be a positive finite number"),
        ("square", None, "cross_entropy", "the method square does not fit the model's loss: choose from softmax, temp"),
    ],
)
def test_wrong_methods(method, temperature, loss, message):
    with pytest.raises(UserError, match=message):
        use_method(build(loss=loss), method, temperature)


def test_a_decoder_without_a_known_output_layer():
    model = SimpleNamespace(decoder=torch.nn.Identity())
    with pytest.raises(UserError, match="the decoder Identity has no method but softmax: give --method softmax"):
        use_method(model, "temperature", 2.0)


def test_wrong_counts(tmp_path):
    path = tmp_path / "counts"
    for text, message in (
        ("1\n2\n", "must have 3 counts, one for each token, and has 2"),
        ("0\n0\n0\n", "must have counts: finite numbers"),
        ("1\n-1\n3\n", "must have counts: finite numbers"),
        ("1\nnan\n3\n", "must have counts: finite numbers"),
        ("1\ninf\n3\n", "must have counts: finite numbers"),
        ("many", "cannot be read as one count a line"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_unigram(path, 3)


def test_wrong_counts_are_told_before_the_training(data, tmp_path, capsys):
    (tmp_path / "counts").write_text("1\n2\n")
    words = ["lsm_type=unigram", "lsm_weight=0.1", f"lsm_unigram={tmp_path / 'counts'}"]
    conf = [word for value in words for word in ("--model_conf", value)]
    assert train(data, tmp_path / "out", *conf) == 2
    assert "one for each token, and has 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "starving"),
    [({"k": 1.0, "M": 1.0}, "attention"), ({"k": 15.0, "M": 30.0}, "CTC"), ({"rescaling": "level"}, "")],
)
def test_the_level_is_logged_and_a_starving_branch_warned_of(options, starving, caplog):
    with caplog.at_level(logging.INFO, "sqloss_plugins.espnet.model"):
        model = build(**options)
    level = model.rescaling.k * model.rescaling.M**2 / C
    (said,) = (record.message for record in caplog.records if record.levelname == "INFO")
    assert f"k M^2 / C = {level:.3g}" in said
    assert f"ln C = {math.log(C):.3g}" in said
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == bool(starving)
    if starving:
        assert f"The {starving} branch will get next to no gradient" in warnings[0]
    else:
        assert level == pytest.approx(math.log(C))


def test_the_choice_is_known_in_processes_that_espnet_spawns():
    """A spawned process imports the main module under another name, and nothing more.

    That does not import what tries to download data for tokens that are not used.
    """
    command = (
        "import multiprocessing.spawn as spawn; "
        "spawn.prepare({'init_main_from_name': 'sqloss_plugins.espnet.bin.asr_train'}); "
        "import sys; import torch; from espnet2.tasks.asr import model_choices; "
        "print(model_choices.get_class('sqloss').__name__, torch.save.is_atomic, 'g2p_en.g2p' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "SquareLossASRModel True False"
    assert "nltk" not in done.stderr


def test_a_mistake_in_one_of_several_processes_is_the_commands():
    """multiprocessing would say no more than its exit status."""

    class Task:
        @classmethod
        def main_worker(cls, args):
            raise args

    hand_over_mistakes(Task)
    ended = ProcessExitedException("process 0 terminated with exit code 1", 0, 1, 1)

    def several(error):
        with mistakes_of_processes():
            with pytest.raises(SystemExit, match="1"):
                Task.main_worker(error)
            raise ended

    for error in (UserError("k is too large"), RunError("it diverged"), OSError(errno.ENOSPC, "No space left")):
        with pytest.raises(type(error), match=str(error.args[-1])):
            several(error)
    with pytest.raises(ZeroDivisionError), mistakes_of_processes():  # a defect keeps its traceback
        Task.main_worker(ZeroDivisionError())
    with pytest.raises(ProcessExitedException), mistakes_of_processes():
        raise ended


@pytest.mark.slow
def test_a_mistake_in_a_training_on_several_gpus_is_one_sentence(data, tmp_path):
    """Here it is on no GPU: what ESPnet does with one is left out."""
    script = tmp_path / "trains.py"
    script.write_text(
        "import sys, torch\n"
        "from sqloss_plugins.espnet.bin.asr_train import main\n"
        "from sqloss_plugins.espnet.resume import prepare_process\n"
        "torch.cuda.set_device = lambda number: None\n"
        "prepare_process(__name__, 'asr')\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main())\n"
    )
    words = [*training(data, tmp_path / "out"), "--ngpu", "2", "--multiprocessing_distributed", "true"]
    words += ["--dist_backend", "gloo", "--model_conf", "k=-1"]
    ended = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1] == "asr_train: error: model_conf: k must be a positive finite number, got -1.0"
    assert "Traceback" not in ended.stderr


def test_espnet3_builds_it_from_its_path():
    """ESPnet3 configurations name the class by ``_target_``."""
    from hydra.utils import get_class

    assert get_class("sqloss_plugins.espnet.SquareLossASRModel") is SquareLossASRModel


def test_saves_are_atomic(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", torch.save)
    make_saves_atomic()
    make_saves_atomic()
    torch.save({"a": 1}, tmp_path / "x.pth")

    class Torn:
        def __reduce__(self):
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        torch.save(Torn(), tmp_path / "x.pth")
    assert torch.load(tmp_path / "x.pth") == {"a": 1}


def test_a_kill_between_checkpoint_and_model_is_repaired(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}, "reporter": {"epoch": 3, "stats": {}}}, tmp_path / "checkpoint.pth")
    repair_checkpoint(tmp_path)
    assert torch.equal(torch.load(tmp_path / "3epoch.pth")["w"], torch.ones(2))
    (tmp_path / "checkpoint.pth").write_bytes(b"torn")
    repair_checkpoint(tmp_path)
    repair_checkpoint(tmp_path / "nowhere")


def test_epochs_and_their_time_are_counted_over_all_processes(tmp_path):
    reporter = Reporter()
    reporter.stats = {
        epoch: {"train": {"time": timedelta(seconds=60 * epoch)}, "valid": {"time": timedelta(seconds=1.5)}}
        for epoch in (1, 2)
    }
    reporter.epoch = 2
    torch.save({"model": {}, "reporter": reporter.state_dict()}, tmp_path / "checkpoint.pth")
    assert trained(tmp_path) == (2, 183.0)
    assert accuracies(tmp_path) == {}
    reporter.stats[1]["valid"]["acc"], reporter.stats[2]["valid"]["acc"] = 0.25, math.nan
    torch.save({"model": {}, "reporter": reporter.state_dict()}, tmp_path / "checkpoint.pth")
    assert accuracies(tmp_path) == {"1": 0.25}, "what is not finite is left out"


@pytest.mark.parametrize(
    ("patience", "resume", "expected"), [("1", "true", 3), ("2", "true", 9), ("1", "false", 9), ("none", "true", 9)]
)
def test_a_training_that_ended_early_is_not_trained_on(patience, resume, expected, tmp_path):
    """ESPnet would train an epoch before it looks."""
    words = ["--output_dir", str(tmp_path), "--max_epoch", "9", "--patience", patience, "--resume", resume]
    args = ASRTask.get_parser().parse_args([*words, "--early_stopping_criterion", "valid", "acc", "max"])
    end_as_before(args, tmp_path)
    assert args.max_epoch == 9
    reporter = Reporter()
    reporter.stats = {epoch: {"valid": {"acc": acc}} for epoch, acc in enumerate((0.5, 0.4, 0.3), start=1)}
    reporter.epoch = 3
    torch.save({"model": {}, "reporter": reporter.state_dict()}, tmp_path / "checkpoint.pth")
    end_as_before(args, tmp_path)
    assert args.max_epoch == expected


def test_teacher_forcing_of_a_recurrent_encoder(tmp_path):
    """Utterances in whatever order of length: all at once as one at a time."""
    args = ASRTask.get_parser().parse_args(["--output_dir", "x", "--encoder", "vgg_rnn", "--decoder", "rnn"])
    args.token_list, args.token_type, args.model, args.normalize = TOKENS, "char", "sqloss", None
    args.encoder_conf = {"num_layers": 1, "hidden_size": 8, "output_size": 8}
    args.decoder_conf, args.frontend_conf = DECODERS["rnn"], {"n_mels": 20, "hop_length": 160}
    torch.manual_seed(0)
    model = ASRTask.build_model(args).eval()
    for name, seconds in (("a", 0.5), ("b", 1.0), ("c", 0.7)):
        soundfile.write(tmp_path / f"{name}.wav", torch.randn(int(16000 * seconds)).numpy() / 10, 16000)
    (tmp_path / "wav.scp").write_text("".join(f"{name} {tmp_path / name}.wav\n" for name in "abc"))
    (tmp_path / "text").write_text("a AB\nb CDE\nc F\n")

    def rows(batch_size):
        with torch.inference_mode():
            batches = list(teacher_forced_outputs(model, args, tmp_path, batch_size, "cpu"))
        outputs, targets = (torch.cat(part) for part in zip(*batches, strict=True))
        assert len(outputs) == len(targets) == 3 + 4 + 2
        return sorted(zip(targets.tolist(), (outputs * 1e4).round().tolist(), strict=True))

    one, all_at_once = rows(1), rows(3)
    assert [row[0] for row in one] == [row[0] for row in all_at_once]
    assert torch.allclose(
        torch.tensor([row[1] for row in one]), torch.tensor([row[1] for row in all_at_once]), atol=2.0
    )


# ---------------------------------------------------------------- trainings, and what is made of them

TINY = """
encoder: transformer
encoder_conf: {output_size: 8, attention_heads: 2, linear_units: 16, num_blocks: 1}
decoder: transformer
decoder_conf: {attention_heads: 2, linear_units: 16, num_blocks: 1}
frontend_conf: {fs: 16k, n_fft: 512, win_length: 400, hop_length: 160, n_mels: 20}
normalize: global_mvn
token_type: char
model: sqloss
model_conf: {ctc_weight: 0.3, report_cer: false, report_wer: false}
batch_type: unsorted
batch_size: 2
optim: adam
optim_conf: {lr: 0.01}
max_epoch: 1
num_workers: 0
num_att_plot: 0
use_matplotlib: false
use_tensorboard: false
best_model_criterion: [[valid, acc, max]]
"""

TINY_LM = """
lm: seq_rnn
lm_conf: {unit: 8, nlayers: 1, dropout_rate: 0.0}
token_type: char
batch_type: unsorted
batch_size: 2
optim: sgd
max_epoch: 3
num_workers: 0
use_matplotlib: false
use_tensorboard: false
best_model_criterion: [[valid, loss, min]]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four utterances of noise, and what a training needs beside."""
    folder = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)
    text = {"a": "AB", "b": "CDE", "c": "F", "d": "GHI"}
    for name in text:
        soundfile.write(folder / f"{name}.wav", (torch.randn(12000, generator=generator) / 10).numpy(), 16000)
    (folder / "wav.scp").write_text("".join(f"{name} {folder / name}.wav\n" for name in text))
    (folder / "text").write_text("".join(f"{name} {words}\n" for name, words in text.items()))
    (folder / "tokens.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    (folder / "bpe.model").write_text("not read: the tokens are characters")
    np.savez(folder / "feats_stats.npz", count=10, sum=np.zeros(20), sum_square=np.full(20, 10.0))
    (folder / "asr.yaml").write_text(TINY)
    return folder


def training(data, folder):
    """The arguments of a training of one epoch."""
    command = ["--config", str(data / "asr.yaml"), "--token_list", str(data / "tokens.txt")]
    command += ["--bpemodel", str(data / "bpe.model"), "--normalize_conf", f"stats_file={data / 'feats_stats.npz'}"]
    for split in ("train", "valid"):
        for value in (f"{data / 'wav.scp'},speech,sound", f"{data / 'text'},text,text"):
            command += [f"--{split}_data_path_and_name_and_type", value]
        command += [f"--{split}_shape_file", str(data / "wav.scp")]
    return [*command, "--output_dir", str(folder), "--resume", "true"]


def train(data, folder, *words):
    """The exit status of a training of one epoch."""
    return asr_train([*training(data, folder), *words])


@pytest.fixture(scope="module")
def tiny(data, tmp_path_factory):
    """A finished training: its configuration and its model."""
    folder = tmp_path_factory.mktemp("tiny")
    assert train(data, folder) == 0
    return folder / "config.yaml", folder / "valid.acc.ave.pth"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--optim_conf", "lr=1000"], "in epoch 2 the loss is "),
        (["--optim_conf", "lr=1000", "--model_conf", "loss=cross_entropy"], "in epoch 2 the loss is "),
        (["--model_conf", "k=1e38", "--model_conf", "M=1e10"], " the train loss is nan"),
        (["--grad_noise", "true", "--model_conf", "k=1e22", "--model_conf", "M=1"], " no step was taken"),
    ],
)
def test_a_training_that_diverged_is_told(options, reason, data, tmp_path, capsys):
    """ESPnet ends it as any other."""
    for _ in range(2):  # the second goes on from the first
        assert train(data, tmp_path / "out", "--max_epoch", "2", *options) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("asr_train: error: the training diverged: ")
        assert reason in error


@pytest.mark.parametrize(("rate", "status"), [("0.01", 0), ("1e5", 1)])
def test_the_training_of_a_language_model(rate, status, data, tmp_path, capsys):
    (tmp_path / "lm.yaml").write_text(TINY_LM)
    command = ["--config", str(tmp_path / "lm.yaml"), "--token_list", str(data / "tokens.txt")]
    for split in ("train", "valid"):
        command += [f"--{split}_data_path_and_name_and_type", f"{data / 'text'},text,text"]
        command += [f"--{split}_shape_file", str(data / "text")]
    command += ["--output_dir", str(tmp_path / "out"), "--optim_conf", f"lr={float(rate)}"]
    assert lm_train(command) == status
    assert ("lm_train: error: the training diverged: in epoch 3 the loss is" in capsys.readouterr().err) == bool(status)


def test_a_training_with_wrong_options(data, tmp_path, capsys):
    assert train(data, tmp_path / "out", "--model_conf", "k=abc") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "asr_train: error: model_conf: k must be a number, got 'abc'"


def changed(tiny, folder, change):
    """The files of a training whose configuration or model is changed."""
    config, model = folder / "config.yaml", folder / "model.pth"
    content, state = yaml.safe_load(tiny[0].read_text()), torch.load(tiny[1])
    change(content, state)
    config.write_text(yaml.safe_dump(content))
    torch.save(state, model)
    return config, model


MISFITS = {
    "missing": (lambda content, state: state.pop("decoder.output_layer.bias"), "it lacks decoder.output_layer.bias"),
    "too many": (lambda content, state: state.update(new=torch.ones(1)), "it has new, which that model has not"),
    "another size": (
        lambda content, state: content["token_list"].append("Z"),
        r"has the shape \(12, 8\), and that model's has \(13, 8\)",
    ),
    "no tensors": (lambda content, state: state.update(epoch=3), "holds something else than named tensors"),
    "no tokens": (lambda content, state: content.pop("token_list"), "is not the config.yaml of a training"),
    "wrong option": (
        lambda content, state: content["encoder_conf"].update(heads=3),
        "ESPnet cannot build the model of .*unexpected keyword argument 'heads'",
    ),
    "no statistics": (
        lambda content, state: content["normalize_conf"].update(stats_file="nowhere.npz"),
        "ESPnet cannot build the model of .*nowhere.npz",
    ),
    "k": (lambda content, state: content["model_conf"].update(k="abc"), "k must be a number, got 'abc'"),
}


@pytest.mark.parametrize("case", list(MISFITS))
def test_a_model_that_does_not_fit_its_configuration(case, tiny, data, tmp_path, capsys):
    """For every command that takes both; ESPnet's own loading leaves what is missing random."""
    change, message = MISFITS[case]
    config, model = changed(tiny, tmp_path, change)
    with pytest.raises(UserError, match=message):
        load_model(config, model)
    with pytest.raises(UserError, match=message):
        Speech2Text(str(config), str(model))
    files = ["--asr_train_config", str(config), "--asr_model_file", str(model)]
    assert asr_export([*files, "--output_dir", str(tmp_path / "out")]) == 2
    assert asr_calibrate([*files, "--data_dir", str(data), "--output", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [bool(re.search(message, line)) for line in lines if ": error: " in line] == [True, True]
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_other_trainers(tmp_path):
    """DeepSpeed's, and Lightning's, with which ESPnet3 trains."""
    weights = {"w": torch.ones(2)}
    for content in (weights, {"module": weights, "step": 3}, {"epoch": 1, "state_dict": weights}):
        torch.save(content, tmp_path / "model.ckpt")
        assert torch.equal(read_state(tmp_path / "model.ckpt")["w"], torch.ones(2))


def test_damaged_model_files(tiny, tmp_path):
    torn = tmp_path / "torn.pth"
    torn.write_bytes(tiny[1].read_bytes()[:2000])
    for config, model, message in (
        (tiny[0], torn, "torn.pth cannot be read as a model file: it is damaged or something else"),
        (tiny[0], tmp_path / "no.pth", "no.pth cannot be read as a model file: No such file or directory"),
        (tmp_path / "no.yaml", tiny[1], "no.yaml cannot be read as settings"),
        (tiny[1], tiny[1], "cannot be read as settings"),
        (tiny[0], tiny[0], "cannot be read as a model file"),
    ):
        with pytest.raises(UserError, match=message):
            load_model(config, model)
        with pytest.raises(UserError, match=message):
            Speech2Text(str(config), str(model))
    with pytest.raises(UserError, match=r"torn\.pth cannot be read as a model file"):
        Speech2Text(str(tiny[0]), str(tiny[1]), lm_train_config=str(tiny[0]), lm_file=str(torn))


def test_the_sample_rate_is_the_configurations():
    for conf in ({}, {"fs": 16000}, {"fs": "16k"}, {"fs": "16 kHz"}, {"fs": "16000"}):
        check_sample_rate(conf, 16000)
    for fs, message in (
        ("8k", "fs is 8k, and the audio has 16000 Hz"),
        (44100, "fs is 44100, and the audio has 16000 Hz"),
        ("fast", "fs must be a sample rate such as 16k, got 'fast'"),
        (None, "fs must be a sample rate such as 16k, got None"),
    ):
        with pytest.raises(UserError, match=message):
            check_sample_rate({"fs": fs}, 16000)


def export(tiny, folder, *words):
    files = ["--asr_train_config", str(tiny[0]), "--asr_model_file", str(tiny[1])]
    return asr_export([*files, "--output_dir", str(folder), *words])


def test_an_export_does_not_overwrite(tiny, capsys):
    before = tiny[0].read_bytes()
    assert export(tiny, tiny[0].parent) == 2
    assert "has a config.yaml already: choose a new folder" in capsys.readouterr().err
    assert tiny[0].read_bytes() == before
    assert not (tiny[0].parent / "model.pth").exists()


def test_an_export_needs_nothing_of_its_training(tiny, data, tmp_path, monkeypatch):
    folder = tmp_path / "exported"
    # Numbers may be text for this package, and not for ESPnet.
    tiny = changed(tiny, tmp_path, lambda content, state: content["model_conf"].update(ctc_weight="3e-1"))
    assert export(tiny, folder, "--temperature", "2") == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "bpe.model",
        "config.yaml",
        "feats_stats.npz",
        "model.pth",
    ]
    content = yaml.safe_load((folder / "config.yaml").read_text())
    assert content["bpemodel"] == str(folder / "bpe.model")
    assert content["normalize_conf"]["stats_file"] == str(folder / "feats_stats.npz")
    assert (folder / "bpe.model").read_bytes() == (data / "bpe.model").read_bytes()
    monkeypatch.chdir(tmp_path)
    model, _ = ASRTask.build_model_from_file(str(folder / "config.yaml"), str(folder / "model.pth"))
    assert type(model) is ESPnetASRModel
    ours, _ = load_model(*tiny)
    layer = model.decoder.output_layer
    assert torch.equal(layer.weight, ours.decoder.output_layer.weight / 2)
    assert torch.equal(layer.bias, ours.decoder.output_layer.bias / 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature", "0"], "--temperature must be a positive finite number, got 0"),
        (["--temperature", "x"], "argument --temperature: invalid float value: 'x'"),
        (["--asr_train_config", "no.yaml"], "no.yaml cannot be read as settings"),
        (["--asr_model_file", __file__], "test_espnet.py cannot be read as a model file"),
        (["--output_dir", f"{__file__}/x"], "cannot write to "),
        (["--no_such", "1"], "unrecognized arguments: --no_such 1"),
    ],
)
def test_wrong_exports(words, message, tiny, tmp_path, capsys):
    assert export(tiny, tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("asr_export: error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_an_export_of_espnets_own_model(tiny, tmp_path, capsys):
    files = changed(tiny, tmp_path, lambda content, state: content.update(model="espnet"))
    assert export(files, tmp_path / "out") == 2
    assert "has model: espnet, which plain ESPnet loads as it is" in capsys.readouterr().err


def test_calibration(tiny, data, tmp_path, capsys):
    """Each method's likelihood and confidence, from all outputs at once."""
    words = ["--asr_train_config", str(tiny[0]), "--asr_model_file", str(tiny[1]), "--data_dir", str(data)]
    assert asr_calibrate([*words, "--output", str(tmp_path / "found.json"), "--batch_size", "3"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    model, arguments = load_model(*tiny)
    with torch.inference_mode():
        parts = list(teacher_forced_outputs(model, arguments, data, 1, "cpu"))
    outputs, targets = (torch.cat(part) for part in zip(*parts, strict=True))
    assert found["tokens"] == len(targets) == 9 + 4
    assert found["temperature"] in TEMPERATURES
    rescaling = {"k": model.rescaling.k, "M": model.rescaling.M}
    assert set(found["nll"]) == set(found["confidence"]) == set(METHODS)
    for method in METHODS:
        options = {"temperature": found["temperature"]} if method == "temperature" else rescaling
        logs = log_probabilities(outputs, method, **options)
        assert found["nll"][method] == pytest.approx(float(nll_loss(logs, targets)), rel=1e-4)
        assert found["confidence"][method] == pytest.approx(float(logs.exp().amax(1).mean()), rel=1e-4)
    best = min(
        TEMPERATURES, key=lambda T: float(nll_loss(log_probabilities(outputs, "temperature", temperature=T), targets))
    )
    assert found["temperature"] == pytest.approx(best)
    printed = capsys.readouterr().out
    assert f"temperature (T = {best:.3g})" in printed


CALIBRATIONS = {
    "no folder": (["--data_dir", "nowhere"], "nowhere/wav.scp cannot be read: No such file or directory"),
    "no model": (["--asr_model_file", "no.pth"], "no.pth cannot be read as a model file: No such file"),
    "no config": (["--asr_train_config", "no.yaml"], "no.yaml cannot be read as settings"),
    "batch size": (["--batch_size", "0"], "--batch_size must be at least 1, got 0"),
    "no number": (["--batch_size", "x"], "argument --batch_size: invalid int value: 'x'"),
    "gpu": (["--ngpu", "1"], "--ngpu 1: this machine has 0 GPUs"),
    "gpus": (["--ngpu", "2"], "argument --ngpu: invalid choice: 2"),
    "output": (["--output", "nowhere/x.json"], "--output nowhere/x.json must be a file in a folder that exists"),
    "output folder": (["--output", "."], "--output . must be a file in a folder that exists"),
    "option": (["--no_such"], "unrecognized arguments: --no_such"),
}


@pytest.mark.parametrize("case", list(CALIBRATIONS))
def test_wrong_calibrations(case, tiny, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    words = ["--asr_train_config", str(tiny[0]), "--asr_model_file", str(tiny[1]), "--data_dir", str(data)]
    options, message = CALIBRATIONS[case]
    assert asr_calibrate([*words, "--output", "x.json", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("asr_calibrate: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("wav.scp", "", "wav.scp is empty: there is nothing to calibrate on"),
        ("text", "b B\n", "the utterance a is in one of wav.scp and text alone"),
        ("text", "\udcff", "text cannot be read: 'utf-8' codec can't decode"),
        ("wav.scp", "a /nowhere.wav\n", "wav.scp names /nowhere.wav for a, and there is no such file"),
        ("wav.scp", f"a {__file__}\n", "wav.scp cannot be read: .*Error opening .*test_espnet.py"),
    ],
)
def test_calibration_data_that_cannot_be_used(file, text, message, tiny, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("wav.scp", "text"):
        content = text if name == file else f"a {__file__}\n"
        (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message):
        calibrate(*tiny, folder, 1, "cpu")


def test_calibration_of_a_model_that_diverged(tiny, data, tmp_path):
    files = changed(tiny, tmp_path, lambda content, state: state["decoder.output_layer.bias"].fill_(math.nan))
    with pytest.raises(RunError, match=r"model\.pth are not numbers: its training diverged"):
        calibrate(*files, data, 4, "cpu")


def test_calibration_of_a_model_without_an_attention_decoder(tiny, data, tmp_path):
    def change(content, state):
        content["model_conf"].update(loss="cross_entropy", ctc_weight=1.0)
        for name in [name for name in state if name.startswith("decoder.")]:
            del state[name]

    with pytest.raises(UserError, match=r"model\.pth has no attention decoder, whose outputs could become"):
        calibrate(*changed(tiny, tmp_path, change), data, 4, "cpu")


@pytest.mark.parametrize("method", METHODS)
def test_the_confidence_is_what_beam_search_took(method, tiny, data):
    """The tokens' probabilities, with that of the end, make the decoder's part of a hypothesis's score."""
    temperature = 0.5 if method == "temperature" else None
    longest = 4
    search = Speech2Text(*map(str, tiny), method=method, temperature=temperature, beam_size=2, maxlenratio=-longest)
    audio = dict(line.split() for line in (data / "wav.scp").read_text().splitlines())
    found = {name: search(soundfile.read(path, dtype="float32")[0])[0] for name, path in audio.items()}
    model, arguments = load_model(*tiny)
    convert = log_probabilities_of(model, method, temperature)
    numbers = {name: hypothesis[2] for name, hypothesis in found.items()}
    logs = token_log_probabilities(model, arguments, audio, numbers, convert, 3, "cpu")
    assert {name: len(of_one) for name, of_one in logs.items()} == {
        name: len(row) for name, row in numbers.items() if row
    }
    for name, of_one in logs.items():
        hypothesis = found[name][3]
        speech = torch.from_numpy(soundfile.read(audio[name], dtype="float32")[0])[None]
        with torch.inference_mode():
            encoded, lengths = model.encode(speech, torch.tensor([speech.shape[1]]))
            inputs = torch.tensor([[model.sos, *numbers[name]]])
            outputs, _ = model.decoder(encoded, lengths, inputs, torch.tensor([inputs.shape[1]]))
        # ESPnet does not score the end that it puts behind the last token there may be.
        end = float(convert(outputs[0, -1].float())[model.eos]) if len(numbers[name]) < longest else 0.0
        assert sum(of_one) + end == pytest.approx(float(hypothesis.scores["decoder"]), rel=1e-3)


def test_words_of_tokens():
    """Of pieces, of characters with spaces, and of phones, which are words themselves."""
    pieces = ["▁HE", "LL", "O", "▁", "▁WORLD", "S"]
    spaced = lambda tokens: "".join(tokens).replace("▁", " ").strip()  # noqa: E731
    assert word_numbers(pieces, spaced) == [0, 0, 0, 0, 1, 1]
    assert word_numbers(["▁"], spaced) == word_numbers([], spaced) == []
    assert word_numbers(["<space>", "A", "<space>", "B"], lambda t: "".join(t).replace("<space>", " ")) == [0, 0, 0, 1]
    assert word_numbers(["AA", "B"], None) == [0, 1]
    p = word_confidence(pieces, [math.log(value) for value in (0.5, 0.5, 0.8, 1.0, 0.25, 0.5)], spaced)
    assert p.tolist() == pytest.approx([0.2, 0.125])
    assert word_confidence([], [], None).tolist() == []


@pytest.mark.parametrize(("most", "stride"), [(1000, 1), (30, 2), (8, 8)])
def test_too_many_outputs_are_thinned_evenly(most, stride):
    parts = [
        TeacherForced([], [], torch.arange(2.0 * n)[:, None].expand(-1, 2), torch.arange(2 * n)) for n in (3, 5, 6)
    ]
    outputs, targets = kept_outputs(iter(parts), most)
    expected = torch.cat([part.targets for part in parts])[::stride]
    assert torch.equal(targets, expected)
    assert torch.equal(outputs[:, 0], expected.float())
    assert outputs.numel() <= most


def test_the_default_method_is_the_losss(tiny):
    assert Speech2Text(*map(str, tiny)).method == "square"
    assert Speech2Text(*map(str, tiny), method="temperature", temperature=2.0).method == "temperature"


def infer(tiny, data, folder, *words):
    files = ["--asr_train_config", str(tiny[0]), "--asr_model_file", str(tiny[1])]
    speech = ["--data_path_and_name_and_type", f"{data / 'wav.scp'},speech,sound", "--num_workers", "0"]
    return asr_inference([*files, *speech, "--output_dir", str(folder), "--beam_size", "2", *words])


def test_decoding(tiny, data, tmp_path):
    """The method decides the scores, and the default is that of the loss."""
    scores = {}
    for words in ((), ("--method", "square"), ("--method", "temperature", "--temperature", "0.1")):
        folder = tmp_path / f"out{len(words)}"
        assert infer(tiny, data, folder, "--ctc_weight", "0", "--maxlenratio", "-3", *words) == 0
        text = (folder / "1best_recog/score").read_text()
        scores[words] = [float(number) for number in re.findall(r"tensor\((.*?)\)", text)]
    default, square, temperature = scores.values()
    assert default == square
    assert len(square) == 4
    assert square != temperature


def test_hypotheses_are_no_longer_than_ctc_has_frames(tiny, data):
    """ESPnet's beam search ends with an IndexError where more are allowed, by a number or by a ratio."""
    speech, _ = soundfile.read(data / "a.wav", dtype="float32")
    tokens = {}
    for ratio in (1.0, -100.0, 3.5, -2.0):
        found = Speech2Text(*map(str, tiny), beam_size=10, ctc_weight=0.3, maxlenratio=ratio)(speech)
        tokens[ratio] = found[0][1]
    assert len(tokens[1.0]) > 2
    assert tokens[-100.0] == tokens[3.5] == tokens[1.0]
    assert len(tokens[-2.0]) <= 2


class Search(torch.nn.Module):
    """A beam search that tells which lengths it would allow, as ESPnet 202611's, which takes several utterances."""

    part_scorers = ("ctc",)

    def forward(self, x, maxlenratio=0.0, minlenratio=0.0, pre_x=None):
        return self._length_bounds([len(row) for row in (x if x.dim() == 3 else [x])], maxlenratio, minlenratio)[0]

    @staticmethod
    def _length_bounds(frames, maxlenratio, minlenratio):
        longest = [int(-maxlenratio if maxlenratio < 0 else (maxlenratio or 1) * number) for number in frames]
        return longest, [0 for _ in frames]


def test_lengths_of_several_utterances_at_a_time():
    search = Search()
    keep_within_frames(search)
    for ratio, longest in ((-4.0, 4), (-100.0, 20), (0.5, 10), (3.0, 20), (0.0, 20)):
        assert search(x=torch.zeros(3, 20, 2), maxlenratio=ratio) == [longest] * 3
        assert search(torch.zeros(20, 2), ratio) == [longest], "arguments may have no name"
    assert search(torch.zeros(20, 2)) == [20]


def test_frames_are_those_that_ctc_has():
    """Of a decoder with two inputs: the second one's."""
    search = torch.nn.Module()
    search.part_scorers = ("ctc",)
    search.forward = lambda x, maxlenratio=0.0, pre_x=None: maxlenratio
    keep_within_frames(search)
    assert search(torch.zeros(3, 2), -10, torch.zeros(20, 2)) == -10
    assert search(torch.zeros(3, 2), -30, torch.zeros(20, 2)) == search(torch.zeros(3, 2), -10) == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "probit"], "argument --method: invalid choice: 'probit'"),
        (["--method", "temperature"], "the method temperature and a number for it go together"),
        (["--temperature", "2"], "the method temperature and a number for it go together"),
        (["--method", "temperature", "--temperature", "0"], "the temperature must be a positive finite number, got 0"),
        (["--asr_model_file", __file__], "test_espnet.py cannot be read as a model file"),
        (["--asr_train_config", __file__], "test_espnet.py cannot be read as settings"),
    ],
)
def test_wrong_decodings(words, message, tiny, data, tmp_path, capsys):
    assert infer(tiny, data, tmp_path / "out", *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("asr_inference: error: ")
    assert message in error


def test_two_initializations(data, tmp_path, capsys):
    """ESPnet's would overwrite the other."""
    assert train(data, tmp_path / "out", "--init", "xavier_uniform", "--model_conf", "initialization=espnet1") == 2
    message = "--init xavier_uniform and model_conf: initialization: espnet1 exclude each other: leave one out"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_help_of_training_tells_of_the_models_keys(capsys):
    with pytest.raises(SystemExit):
        asr_train(["--help"])
    assert "lsm_unigram" in capsys.readouterr().out


@pytest.mark.parametrize("program", ["asr_export", "asr_calibrate"])
@pytest.mark.parametrize("words", [["--help"], ["--no_such", "1"]])
def test_help_needs_no_espnet(program, words):
    command = (
        f"import sys\nfrom sqloss_plugins.espnet.bin.{program} import main\n"
        f"try:\n    main({words})\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'espnet2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---------------------------------------------------------------- processes


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process of its parent's end")
@pytest.mark.parametrize("when", ["while it works", "before it asks for it"])
def test_a_job_dies_with_the_process_that_started_it(when, tmp_path):
    """By its own call: code between fork and exec can hang in a process with threads."""
    wait = "    time.sleep(1)\n" if when == "before it asks for it" else ""
    (tmp_path / "works.py").write_text(
        "import os, pathlib, time\n"
        "from sqloss_plugins.processes import die_with_parent\n"
        "if __name__ == '__main__':\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        f"{wait}"
        "    die_with_parent()\n"
        "    time.sleep(600)\n"
    )
    command = (
        "from pathlib import Path; from sqloss_plugins.espnet.jobs import Job, run_jobs; "
        f"run_jobs([Job('works', [], Path({str(tmp_path / 'log')!r}))])"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    kill_when([sys.executable, "-c", command], environment, tmp_path, "pid")
    time.sleep(1.5)
    state = Path("/proc", (tmp_path / "pid").read_text(), "cmdline")
    assert not state.exists() or state.read_text() == ""  # gone, or a zombie that nobody waits for


def test_a_process_that_was_started_otherwise_lives_on(monkeypatch):
    monkeypatch.delenv("SQLOSS_PARENT_PID", raising=False)
    monkeypatch.setattr("ctypes.CDLL", None)
    die_with_parent()


def test_no_code_runs_between_fork_and_exec(tmp_path, monkeypatch):
    (tmp_path / "ends.py").write_text("import os; print(os.environ['SQLOSS_PARENT_PID'])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = []
    plain = subprocess.Popen

    def start(*args, **kwargs):
        options.append(kwargs)
        return plain(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", start)
    run_jobs([Job("ends", [], tmp_path / "log")])
    assert [words.get("preexec_fn") for words in options] == [None]
    assert (tmp_path / "log").read_text() == f"{os.getpid()}\n"

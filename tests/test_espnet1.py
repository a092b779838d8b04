"""The square loss in ESPnet1's models: tiny ones with random weights, against the equation in float64."""

import copy
import importlib
import json
import math
import pickle
from argparse import ArgumentParser

import numpy as np
import pytest
import torch
from patching import patched
from reference import reference

pytest.importorskip("espnet.nets.pytorch_backend.rnn", reason="ESPnet1 is part of ESPnet up to 202511")
espnet1 = importlib.import_module("sqloss_plugins.espnet.espnet1")
espnet1.without_chainer()

C, IDIM = 12, 10
COUNTS = {"a": "2 3 4 5", "b": "3 3 7", "c": "9"}
OPTIONS = {
    "e2e_asr": "--etype blstmp --elayers 1 --eunits 6 --eprojs 6 --dunits 6 --dtype lstm --atype location --adim 6 "
    "--aconv-chans 2 --aconv-filts 3",
    "e2e_asr_transformer": "--elayers 1 --eunits 8 --adim 8 --aheads 2 --dlayers 1 --dunits 8 "
    "--transformer-input-layer linear",
    "e2e_asr_conformer": "--elayers 1 --eunits 8 --adim 8 --aheads 2 --dlayers 1 --dunits 8 "
    "--transformer-input-layer linear",
}
SHARED = {
    "mtlalpha": 0.3,
    "lsm_weight": 0.0,
    "ctc_type": "builtin",
    "report_cer": False,
    "report_wer": False,
    "char_list": None,
    "sym_space": "<space>",
    "sym_blank": "<blank>",
    "outdir": None,
    "verbose": 0,
    "train_json": "",
}


def model_of(module):
    return importlib.import_module(f"espnet.nets.pytorch_backend.{module}").E2E


def build(module, words="", made=None, **options):
    """An ESPnet1 model as its command line makes one, in evaluation mode."""
    torch.manual_seed(0)
    made = made or model_of(module)
    arguments = made.add_arguments(ArgumentParser()).parse_args((OPTIONS[module] + " " + words).split())
    for name, value in {**SHARED, **options}.items():
        setattr(arguments, name, value)
    return made(IDIM, C, arguments).eval()


def batch(lengths=(4, 2, 3)):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.full((len(lengths), max(lengths)), -1)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(2, C - 1, (length,), generator=generator)
    frames = torch.randn(len(lengths), 30, IDIM, generator=generator)
    return frames, torch.tensor([30] * len(lengths)), tokens


def attention(model, inputs):
    """The attention objective's loss and the raw outputs of its tokens, shape (tokens, C), in order."""
    layer = model.dec.output if hasattr(model, "dec") else model.decoder.output_layer
    found = []
    handle = layer.register_forward_hook(lambda module, inputs, outputs: found.append(outputs))
    reported = []
    model.reporter = type("Reporter", (), {"report": lambda self, *values: reported.append(values)})()
    model(*inputs)
    handle.remove()
    length = inputs[2].shape[1] + 1
    rows = found[-1].reshape(len(inputs[2]), length, C)
    kept = torch.arange(length) <= (inputs[2] != -1).sum(1, keepdim=True)
    return reported[0][1], rows[kept].detach().double().numpy()


def targets_of(tokens):
    return np.concatenate([[*(int(token) for token in row if token != -1), C - 1] for row in tokens])


@pytest.mark.parametrize(("k", "M"), [(1.0, 1.0), (15.0, 2.6), (1.0, 15.0)])
def test_the_recurrent_model(k, M):
    """The mean over the tokens times the mean number of characters, as ESPnet1 has it for cross-entropy."""
    model, inputs = build("e2e_asr"), batch()
    chosen = espnet1.use_square_loss(model, k=k, M=M)
    assert (chosen.k, chosen.M) == (k, M)
    loss, outputs = attention(model, inputs)
    assert loss == pytest.approx(3 * reference("square", outputs, targets_of(inputs[2]), k=k, M=M), rel=1e-5)


def test_unigram_smoothing_of_the_recurrent_model(tmp_path):
    utterances = {name: {"output": [{"tokenid": tokens}]} for name, tokens in COUNTS.items()}
    (tmp_path / "data.json").write_text(json.dumps({"utts": utterances}))
    options = {"train_json": str(tmp_path / "data.json"), "lsm_weight": 0.05}
    model, inputs = build("e2e_asr", "--lsm-type unigram", **options), batch()
    share = np.array([0, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 0], dtype=np.float64)  # at least one each, blank none
    share[C - 1] = len(str(tmp_path / "data.json"))  # ESPnet1's count of the ends: the letters of the file's name
    assert model.dec.labeldist == pytest.approx(share / share.sum(), rel=1e-6)
    espnet1.use_square_loss(model, k=15.0, M=2.6)
    loss, outputs = attention(model, inputs)
    soft = 0.95 * np.eye(C)[targets_of(inputs[2])] + 0.05 * share / share.sum()
    assert loss == pytest.approx(3 * reference("square", outputs, soft, k=15.0, M=2.6), rel=1e-5)


@pytest.mark.parametrize("module", ["e2e_asr_transformer", "e2e_asr_conformer"])
@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_transformers(module, per_token, smoothing):
    model = build(module, f"--transformer-length-normalized-loss {per_token}", lsm_weight=smoothing)
    inputs = batch()
    espnet1.use_square_loss(model, k=15.0, M=2.6)
    loss, outputs = attention(model, inputs)
    uniform = smoothing * C / (C - 1)  # ESPnet's share goes to the wrong classes alone
    expected = reference(
        "square", outputs, targets_of(inputs[2]), k=15.0, M=2.6, label_smoothing=uniform, reduction="sum"
    )
    assert loss == pytest.approx(expected / (len(outputs) if per_token else 3), rel=1e-5)


@pytest.mark.parametrize("module", list(OPTIONS))
def test_nothing_else_changes(module):
    """Parameters, CTC, accuracy, and whether the model can be copied, saved and trained."""
    stock, inputs = build(module), batch()
    model = copy.deepcopy(stock)
    espnet1.use_square_loss(model)
    assert list(model.state_dict()) == list(stock.state_dict())
    model = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    found = []
    for each in (stock, model):
        each.reporter = type("Reporter", (), {"report": lambda self, *values: found.append(values)})()
        each(*inputs).backward()
    (ctc, attention, accuracy, *_), (same_ctc, other_attention, same_accuracy, *_) = found
    assert (ctc, accuracy) == (same_ctc, same_accuracy)
    assert attention != other_attention
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    before = float(model(*inputs).detach())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 * parameter.grad
    assert float(model(*inputs).detach()) < before


def test_outputs_that_are_far_apart_do_not_overflow():
    """ESPnet1 takes exp(loss), of a cross-entropy above 709 here."""
    model = build("e2e_asr")
    with torch.no_grad():
        model.dec.output.weight.mul_(1e6)
    with pytest.raises(OverflowError):
        model(*batch())
    espnet1.use_square_loss(model, k=15.0, M=30.0)
    assert math.isfinite(float(model(*batch()).detach()))


def test_scheduled_sampling():
    model = build("e2e_asr", "--sampling-probability 1.0")
    espnet1.use_square_loss(model)
    loss, outputs = attention(model, batch())
    expected = reference("square", outputs, targets_of(batch()[2]), k=15.0, M=math.sqrt(C * math.log(C) / 15))
    assert loss == pytest.approx(3 * expected, rel=1e-5)


def test_decoding_is_by_softmax_of_the_raw_outputs():
    model = build("e2e_asr")
    stock = copy.deepcopy(model)
    espnet1.use_square_loss(model, k=15.0, M=30.0)
    model(*batch())
    encoded = model.encode(batch()[0][0].numpy())
    scores = [
        each.dec.score(torch.tensor([C - 1]), each.dec.init_state(encoded), encoded)[0] for each in (stock, model)
    ]
    assert torch.equal(*scores)


@pytest.mark.parametrize(
    ("module", "options", "given", "message"),
    [
        ("e2e_asr", {"mtlalpha": 1.0}, {}, "is for an attention objective, and this E2E has none"),
        ("e2e_asr_transformer", {"mtlalpha": 1.0}, {}, "is for an attention objective, and this E2E has none"),
        ("e2e_asr", {}, {"k": -1.0}, "k must be a positive finite number"),
        ("e2e_asr_transformer", {}, {"rescaling": "mine"}, "unknown rescaling 'mine'"),
    ],
)
def test_wrong_options(module, options, given, message):
    with pytest.raises(ValueError, match=message):
        espnet1.use_square_loss(build(module, **options), **given)


def test_models_of_another_kind():
    with pytest.raises(ValueError, match="and this Linear has none"):
        espnet1.use_square_loss(torch.nn.Linear(2, 2))


# ---------------------------------------------------------------- the patch for checkouts


@pytest.fixture(scope="module")
def build_patched(tmp_path_factory):
    """As :func:`build`, of the patched sources."""
    with patched("espnet1", tmp_path_factory.mktemp("espnet1")):
        models = {module: model_of(module) for module in ("e2e_asr", "e2e_asr_transformer")}
    return lambda module, *words, **options: build(module, *words, made=models[module], **options)


@pytest.mark.parametrize(
    ("module", "words", "options"),
    [
        ("e2e_asr", "", {}),
        ("e2e_asr", "--lsm-type unigram", {"lsm_weight": 0.05}),
        ("e2e_asr_transformer", "", {}),
        ("e2e_asr_transformer", "--transformer-length-normalized-loss false", {"lsm_weight": 0.1}),
    ],
)
def test_patched_is_as_at_run_time_to_the_last_bit(module, words, options, build_patched, tmp_path):
    if "unigram" in words:
        utterances = {name: {"output": [{"tokenid": tokens}]} for name, tokens in COUNTS.items()}
        (tmp_path / "data.json").write_text(json.dumps({"utts": utterances}))
        options = {**options, "train_json": str(tmp_path / "data.json")}
    ours = build(module, words, **options)
    espnet1.use_square_loss(ours, k=15.0, M=2.6)
    theirs = build_patched(module, f"--att-loss square --k 15 --M 2.6 {words}", **options)
    results = []
    for model in (ours, theirs):
        model.reporter = type("Reporter", (), {"report": lambda self, *values: None})()
        loss = model(*batch())
        loss.backward()
        results.append((loss, {name: value.grad for name, value in model.named_parameters()}))
    assert torch.equal(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        assert torch.equal(gradient, results[1][1][name]), name


@pytest.mark.parametrize("module", ["e2e_asr", "e2e_asr_transformer"])
def test_patched_without_the_new_options_is_espnet1(module, build_patched):
    models = build(module, lsm_weight=0.1), build_patched(module, lsm_weight=0.1)
    assert len({attention(model, batch())[0] for model in models}) == 1


def test_patched_perplexity_does_not_overflow(build_patched):
    for words in ("", "--att-loss square --k 15 --M 30"):
        model = build_patched("e2e_asr", words)
        with torch.no_grad():
            model.dec.output.weight.mul_(1e6)
        assert math.isfinite(float(model(*batch()).detach()))


@pytest.mark.parametrize("module", ["e2e_asr", "e2e_asr_transformer"])
@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ("--k 15", {}, "--k and --M are for --att-loss square"),
        ("--att-loss square --M 0", {}, "M must be a positive finite number"),
        ("--att-loss square", {"mtlalpha": 1.0}, "--att-loss square is for an attention decoder"),
    ],
)
def test_wrong_options_of_the_patch(module, words, options, message, build_patched):
    with pytest.raises(ValueError, match=message):
        build_patched(module, words, **options)

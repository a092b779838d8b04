"""Frames of the encoder, and transcripts that are too long for CTC."""

from argparse import Namespace

import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.tasks.asr import encoder_choices, frontend_choices
from hypothesis import given
from hypothesis import strategies as st

from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe.frames import Subsampling, check_for_ctc, frames_for_ctc, subsampling
from sqloss_plugins.espnet.recipe.paths import DataFolder

SMALL = {"attention_heads": 2, "linear_units": 4, "num_blocks": 1}
RECURRENT = {"hidden_size": 4, "num_layers": 3}
ENCODERS = {
    **{layer: ("e_branchformer", {**SMALL, "input_layer": layer}) for layer in ("conv1d1", "conv1d2", "conv1d3")},
    **{layer: ("conformer", {**SMALL, "input_layer": layer}) for layer in ("conv2d1", "conv2d2", "conv2d")},
    **{layer: ("transformer", {**SMALL, "input_layer": layer}) for layer in ("conv2d6", "conv2d8")},
    "vgg_rnn": ("vgg_rnn", RECURRENT),
    "rnn": ("rnn", {**RECURRENT, "subsample": [2, 1, 1]}),
    "rnn, the usual": ("rnn", RECURRENT),
    "rnn, by 3": ("rnn", {**RECURRENT, "subsample": [3, 2]}),
    "rnn without projections": ("rnn", {**RECURRENT, "use_projection": False}),
}


def arguments(encoder, conf, **frontend):
    return Namespace(frontend="default", frontend_conf=frontend, encoder=encoder, encoder_conf=conf)


@pytest.mark.parametrize("case", list(ENCODERS))
def test_frames_are_those_of_espnets_encoders(case):
    name, conf = ENCODERS[case]
    found = subsampling(arguments(name, conf, hop_length=10))
    encoder = encoder_choices.classes[name](input_size=32, output_size=8, **conf).eval()
    for frames in range(15, 40):
        with torch.no_grad():
            _, lengths, _ = encoder(torch.zeros(1, frames, 32), torch.tensor([frames]))
        assert found.frames(10 * (frames - 1)) == int(lengths[0]), frames
        assert found.frames(10 * (frames - 1) + 9) == int(lengths[0]), frames


def test_frames_of_the_features_are_those_of_espnets_front_end():
    found = subsampling(arguments("rnn", {"use_projection": False}, hop_length=160))
    frontend = frontend_choices.classes["default"](fs=16000, n_fft=512, win_length=400, hop_length=160)
    for samples in (1600, 1601, 1759, 1760, 4000):
        _, lengths = frontend(torch.zeros(1, samples), torch.tensor([samples]))
        assert found.frames(samples) == int(lengths[0])


@pytest.mark.parametrize(
    "given",
    [
        arguments("transformer", {"input_layer": "linear"}),
        arguments("wav2vec2", {}),
        arguments("conformer", {}, center=False),
        Namespace(frontend="s3prl", frontend_conf={}, encoder="conformer", encoder_conf={}),
    ],
)
def test_what_is_not_known_is_not_guessed(given):
    assert subsampling(given) is None


def test_the_usual_values_are_espnets():
    assert subsampling(arguments("conformer", {})) == Subsampling(128, ((3, 2), (3, 2)))


@given(layers=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), max_size=3), hop=st.integers(1, 300))
def test_the_fewest_samples_are_those_of_one_frame(layers, hop):
    found = Subsampling(hop, layers)
    assert found.frames(found.fewest_samples) >= 1
    if found.fewest_samples > 1:
        assert found.frames(found.fewest_samples - 1) == 0


@given(tokens=st.lists(st.integers(1, 3), min_size=1, max_size=5), spare=st.integers(-2, 2))
def test_ctc_needs_so_many_frames_and_espnet_zeroes_what_has_fewer(tokens, spare):
    """The loss is infinite by PyTorch; by ESPnet it is 0, and so is the gradient."""
    frames = max(1, frames_for_ctc(list(map(str, tokens))) + spare)
    encoded = torch.randn(1, frames, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    lengths, target = torch.tensor([frames]), torch.tensor([tokens])
    losses = {}
    for is_zeroed in (True, False):
        torch.manual_seed(0)
        ctc = CTC(4, 4, zero_infinity=is_zeroed).eval()
        losses[is_zeroed] = ctc(encoded, lengths, target, torch.tensor([len(tokens)]))
    fits = frames >= frames_for_ctc(list(map(str, tokens)))
    assert bool(losses[False].isfinite()) is fits
    assert (losses[True].item() > 0) is fits
    (gradient,) = torch.autograd.grad(losses[True], encoded)
    assert bool(gradient.abs().sum() > 0) is fits


def prepared(folder, texts, samples):
    """Subsets ``train`` and ``dev`` of characters."""
    data = DataFolder(folder, "char")
    for subset in ("train", "dev"):
        data.subset(subset).mkdir()
        (data.subset(subset) / "text").write_text("".join(f"{name} {text}\n" for name, text in texts.items()))
        data.lengths_file(subset).write_text("".join(f"{name} {samples}\n" for name in texts))
    data.token_list.write_text("<blank>\n<unk>\na\nb\n<sos/eos>\n")
    return data


# 1 + 40 // 10 = 5 frames of the encoder.
FIVE = Subsampling(10, ())


def test_too_long_transcripts_are_named_and_counted(tmp_path, capsys):
    texts = {"u1": "ababa", "u2": "abab", "u3": "abbba", "u4": "xy", "u5": "axyza", "u6": "ab"}
    check_for_ctc("train", "dev", prepared(tmp_path, texts, 40), FIVE, {})
    # 5 and two repeats; a, three of the unknown with two repeats, a
    what = "have more tokens than CTC can put on the encoder's frames: u3 (7 for 5), u5 (7 for 5)"
    assert capsys.readouterr().out == "".join(
        f"  note: 2 of 6 utterance(s) of {subset} {what}; they train the attention branch alone\n"
        for subset in ("train", "dev")
    )


@pytest.mark.parametrize(
    ("texts", "conf", "message"),
    [
        ({"u1": "aaaa", "u2": "aaaa", "u3": "aaa"}, {}, None),
        (
            {"u1": "aaaa", "u2": "aaaa"},
            {},
            r"2 of 2 utterance\(s\) of train have .*: choose an encoder that subsamples",
        ),
        (
            {"u1": "aaaa", "u2": "a", "u3": "a"},
            {"zero_infinity": False},
            "1 of 3 .*; or let ctc_conf have zero_infinity",
        ),
        ({"u1": "aaaa", "u2": "a", "u3": "a"}, {"ignore_nan_grad": False}, "1 of 3 .*; or let ctc_conf have zero_inf"),
        ({"u1": "aaaa", "u2": "a", "u3": "a"}, {"ignore_nan_grad": True, "zero_infinity": False}, None),
        ({"u1": "a", "u2": "a"}, {"zero_infinity": False}, None),
    ],
)
def test_what_is_refused(texts, conf, message, tmp_path):
    data = prepared(tmp_path, texts, 40)
    if message is None:
        check_for_ctc("train", "dev", data, FIVE, conf)
    else:
        with pytest.raises(UserError, match=message):
            check_for_ctc("train", "dev", data, FIVE, conf)

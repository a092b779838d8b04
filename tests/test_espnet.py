"""The ESPnet extension: model, loss, methods and registration, on tiny models with random weights."""

import logging
import math
import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import pytest
import soundfile
import torch
from espnet2.tasks.asr import ASRTask
from espnet2.train.reporter import Reporter

from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.calibration import teacher_forced_outputs
from sqloss_plugins.espnet.decoding import log_probability_outputs, use_method
from sqloss_plugins.espnet.model import AttentionLoss, SquareLossASRModel, read_unigram
from sqloss_plugins.espnet.resume import make_saves_atomic, repair_checkpoint, trained
from sqloss_plugins.probability import log_probabilities

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


@pytest.mark.parametrize("decoder", list(DECODERS))
@pytest.mark.parametrize("method", ["square", "temperature"])
def test_methods_leave_everything_else_untouched(decoder, method, batch):
    model = build(decoder=decoder, k=15.0, M=2.6)
    before, keys = outputs_of(model, batch), list(model.state_dict())
    encoded, _ = model.encode(batch["speech"], batch["speech_lengths"])
    prefix = torch.tensor([C - 1])

    def scored():
        return model.decoder.score(prefix, model.decoder.init_state(encoded[0]), encoded[0])[0]

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
        ({"rescaling": "mine"}, "unknown rescaling 'mine': choose from auto, paper, level"),
        ({"lsm_type": "bigram"}, "unknown lsm_type 'bigram'"),
        ({"lsm_type": "unigram", "lsm_weight": 0.1}, "go together"),
        ({"lsm_weight": 1.5}, "lsm_weight must be between 0 and 1"),
        ({"ctc_weight": 1.0}, "loss square is for an attention decoder"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


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
    model = SimpleNamespace(decoder=torch.nn.Identity(), rescaling=None)
    with pytest.raises(UserError, match="methods other than softmax are not there for the decoder Identity"):
        use_method(model, "temperature", 2.0)


def test_wrong_counts(tmp_path):
    path = tmp_path / "counts"
    for text in ("1\n2\n", "0\n0\n0\n", "1\n-1\n3\n"):
        path.write_text(text)
        with pytest.raises(UserError, match="must have 3 counts"):
            read_unigram(path, 3)
    path.write_text("many")
    with pytest.raises(UserError, match="cannot be read as one count a line"):
        read_unigram(path, 3)


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
    """A spawned process imports the main module under another name, and nothing more."""
    command = (
        "import multiprocessing.spawn as spawn; "
        "spawn.prepare({'init_main_from_name': 'sqloss_plugins.espnet.bin.asr_train'}); "
        "import torch; from espnet2.tasks.asr import model_choices; "
        "print(model_choices.get_class('sqloss').__name__, torch.save.is_atomic)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "SquareLossASRModel True"


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

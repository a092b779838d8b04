"""The tasks of ESPnet's in the table: each with its real training, on tiny models and noise."""

import copy
import math
import pkgutil
import subprocess
import sys

import pytest
import soundfile
import torch
import yaml
from commands import assert_refused
from hydra.utils import get_class
from torch.nn.functional import one_hot

from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.bin.inference import main as inference
from sqloss_plugins.espnet.bin.lm_calc_perplexity import main as lm_calc_perplexity
from sqloss_plugins.espnet.bin.train import main as train
from sqloss_plugins.espnet.decoding import log_probability_outputs, use_method
from sqloss_plugins.espnet.inference import _with_method
from sqloss_plugins.espnet.model import initial_loss
from sqloss_plugins.espnet.registration import model_class, register
from sqloss_plugins.espnet.resume import trained
from sqloss_plugins.espnet.tasks import TASKS
from sqloss_plugins.paper import choose_rescaling
from sqloss_plugins.probability import label_probabilities, log_probabilities, probabilities

TOKENS = ["<blank>", "<unk>", *"ABCDEFGHI", "<sos/eos>"]
SOURCE_TOKENS = ["<blank>", "<unk>", *"JKLMN", "<sos/eos>"]
MARKS = ["<na>", "<eng>", "<asr>", "<notimestamps>", "<0.00>", "<30.00>", "<sop>", "<sos>", "<eos>"]  # Whisper's
PROMPTED = {"speech_length": 1, "fs": 16000, "notime_symbol": "<notimestamps>"}
PROMPTED |= {"first_time_symbol": "<0.00>", "last_time_symbol": "<30.00>"}
LABELS = ["cat", "dog", "cow", "<unk>"]  # ESPnet's classifier has no output for the last
TEXTS = {"a": "AB", "b": "CDE", "c": "F", "d": "GHI"}
SOURCES = {"a": "JK", "b": "LM", "c": "N", "d": "JN"}
CLASSES = {"a": "cat", "b": "dog", "c": "cow", "d": "cat"}

ENCODER = {"output_size": 8, "attention_heads": 2, "linear_units": 16, "num_blocks": 1, "dropout_rate": 0.0}
DECODER = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1, "dropout_rate": 0.0}
WITH_DECODER = {"encoder": "transformer", "encoder_conf": ENCODER, "decoder": "transformer", "decoder_conf": DECODER}
FRONTEND = {"frontend_conf": {"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 20}}
SPEECH = {**FRONTEND, "normalize": "utterance_mvn"}
SHARED = {
    **{"batch_type": "unsorted", "batch_size": 2, "optim": "adam", "num_workers": 0, "num_att_plot": 0},
    **{"use_matplotlib": False, "use_tensorboard": False, "token_type": "char"},
}
QUIET = {"report_cer": False, "report_wer": False}
# What each task has beside: settings, data (name -> texts, None for audio), tokens, and options of its decoding.
CASES = {
    "asr": ({**WITH_DECODER, **SPEECH, "model_conf": QUIET}, {"speech": None, "text": TEXTS}, TOKENS),
    "mt": (
        {**WITH_DECODER, "encoder_conf": {**ENCODER, "input_layer": "linear"}, "src_token_type": "char"}
        | {"src_token_list": SOURCE_TOKENS, "model_conf": {"report_bleu": False}, "frontend_conf": {"embed_dim": 8}},
        {"src_text": SOURCES, "text": TEXTS},
        TOKENS,
    ),
    "slu": ({**WITH_DECODER, **SPEECH, "model_conf": QUIET}, {"speech": None, "text": TEXTS}, TOKENS),
    "s2t": (
        {
            **WITH_DECODER,
            **SPEECH,
            "model_conf": QUIET,
            "token_type": "word",
            "preprocessor_conf": PROMPTED,
        },
        {
            "speech": None,
            "text": {key: f"_ <eng> <asr> {' '.join(text)}" for key, text in TEXTS.items()},  # the first is dropped
            "text_prev": dict.fromkeys(TEXTS, "<na>"),
            "text_ctc": {key: " ".join(text) for key, text in TEXTS.items()},
        },
        ["<blank>", "<unk>", *"ABCDEFGHI", *MARKS],
    ),
    "st": (
        {**WITH_DECODER, **SPEECH, "src_token_type": "char", "src_token_list": SOURCE_TOKENS}
        | {"extra_asr_decoder": "transformer", "extra_asr_decoder_conf": DECODER}
        | {"model_conf": {**QUIET, "report_bleu": False, "asr_weight": 0.3, "mtlalpha": 0.5}},
        {"speech": None, "text": TEXTS, "src_text": SOURCES},
        TOKENS,
    ),
    "lm": (
        {"lm": "transformer", "lm_conf": {"unit": 16, "att_unit": 8, "head": 2, "layer": 1}},
        {"text": TEXTS},
        TOKENS,
    ),
    "cls": (
        {**SPEECH, "encoder": "transformer", "encoder_conf": ENCODER, "token_type": "word"},
        {"speech": None, "label": CLASSES},
        LABELS,
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four utterances of noise."""
    folder = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)
    for name in TEXTS:
        soundfile.write(folder / f"{name}.wav", (torch.randn(12000, generator=generator) / 10).numpy(), 16000)
    (folder / "speech").write_text("".join(f"{name} {folder / name}.wav\n" for name in TEXTS))
    return folder


def command(name, data, folder, **more):
    """The arguments of a training."""
    settings, inputs, tokens = CASES[name]
    settings = {**SHARED, **settings, "token_list": tokens}
    settings["model_conf"] = {**settings.get("model_conf", {}), **more.pop("model_conf", {})}
    criterion = ["valid", "loss", "min"] if name == "lm" else ["valid", "acc", "max"]
    settings |= {"best_model_criterion": [criterion], "optim_conf": {"lr": 0.01}, **more}
    folder.mkdir(exist_ok=True)
    for key in ("token_list", "src_token_list"):
        if key in settings:
            (folder / key).write_text("".join(f"{token}\n" for token in settings[key]))
            settings[key] = str(folder / key)
    (folder / "train.yaml").write_text(yaml.safe_dump(settings))
    words = ["--config", str(folder / "train.yaml"), "--output_dir", str(folder / "out"), "--resume", "true"]
    for split in ("train", "valid"):
        for given, texts in inputs.items():
            path = data / "speech" if texts is None else folder / given
            if texts:
                path.write_text("".join(f"{key} {text}\n" for key, text in texts.items()))
            words += [f"--{split}_data_path_and_name_and_type", f"{path},{given},{'text' if texts else 'sound'}"]
        words += [f"--{split}_shape_file", str(data / "speech")]
    return words


def build(name, data, folder, **more):
    """A model as ESPnet's task builds it, and a batch."""
    register(name)
    task = pkgutil.resolve_name(TASKS[name].task)
    args = task.get_parser().parse_args(command(name, data, folder, **more))
    torch.manual_seed(0)
    model = task.build_model(args).eval()
    collate, preprocess = task.build_collate_fn(args, False), task.build_preprocess_fn(args, False)
    rows = []
    for key in TEXTS:
        row = {given: texts[key] for given, texts in CASES[name][1].items() if texts}
        if "speech" in CASES[name][1]:
            row["speech"] = soundfile.read(data / f"{key}.wav", dtype="float32")[0]
        rows.append((key, preprocess(key, row)))
    return model, collate(rows)[1]


@pytest.mark.parametrize("name", list(CASES))
def test_cross_entropy_is_espnets_own(name, data, tmp_path):
    """Loss, what is logged, and gradients: to the last bit."""
    (ours, batch), (stock, _) = (
        build(name, data, tmp_path, model=model, **conf)
        for model, conf in (("sqloss", {"model_conf": {"loss": "cross_entropy"}}), (STOCK.get(name, "espnet"), {}))
    )
    assert type(ours) is model_class(name)
    assert type(stock) is pkgutil.resolve_name(TASKS[name].model)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    mine, theirs = ours(**batch), stock(**batch)
    assert torch.equal(mine[0], theirs[0])
    assert mine[1].keys() == theirs[1].keys()
    mine[0].backward()
    theirs[0].backward()
    for (key, one), other in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), key
        assert one.grad is None or torch.equal(one.grad, other.grad), key


STOCK = {"mt": "mt", "lm": "lm"}  # ESPnet's names of its own models


# ---------------------------------------------------------------- the square loss

K, M = 3.0, 2.0
SQUARE = {"loss": "square", "k": K, "M": M}


def formula(outputs, targets):
    """Of each row, from the equation; targets are class numbers, shape (rows,)."""
    f, q = outputs.double(), one_hot(targets, outputs.shape[-1]).double()
    return ((q * K * (f - M) ** 2 + (1 - q) * f**2).sum(-1)) / outputs.shape[-1]


def of_a_decoder(outputs, targets):
    kept = targets != -1
    return formula(outputs[kept], targets[kept]).sum().float() / len(targets)


def of_a_classifier(outputs, targets):
    return formula(outputs, targets.argmax(-1)).mean().float()


def of_a_language_model(model):
    def nll(text, lengths):
        rows = []
        for row, length in zip(text.tolist(), lengths.tolist(), strict=True):
            sentence = [C - 1, *row[:length], C - 1]
            outputs = model.lm(torch.tensor([sentence[:-1]]), None)[0][0]
            rows.append(formula(outputs, torch.tensor(sentence[1:])).float().sum())
        return torch.stack(rows), lengths + 1

    C = len(TOKENS)
    return nll


@pytest.mark.parametrize("name", list(CASES))
def test_the_loss_is_the_equations(name, data, tmp_path):
    """ESPnet's own model, with a plain function where it has its cross-entropy."""
    ours, batch = build(name, data, tmp_path, model="sqloss", model_conf=SQUARE)
    stock, _ = build(name, data, tmp_path, model=STOCK.get(name, "espnet"))
    stock.load_state_dict(ours.state_dict())
    kind = TASKS[name].kind
    for criterion in TASKS[name].criteria:
        if kind != "language_model":
            delattr(stock, criterion)
        plain = {"decoder": of_a_decoder, "classifier": of_a_classifier, "language_model": of_a_language_model(stock)}
        setattr(stock, criterion, plain[kind])
    expected = stock(**batch)[0]
    found, stats, weight = ours(**batch)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert float(stats["loss"]) == float(found)
    assert torch.equal(weight, stock(**batch)[2])
    ours.train()(**batch)[0].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in ours.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("method", ["softmax", "square"])
def test_probabilities_of_a_classifier(method, data, tmp_path):
    model, batch = build("cls", data, tmp_path, model="sqloss", model_conf=SQUARE)
    model.use_method(method)
    outputs = model.decoder(*model.encode(batch["speech"][:1], batch["speech_lengths"][:1]))
    expected = probabilities(outputs, method, k=K, M=M)
    assert torch.allclose(model.score(batch["speech"][:1]), expected, atol=1e-5)


def test_a_classifiers_temperature_wants_its_method(data, tmp_path):
    class Stock:
        def __init__(self):
            self.classification_model = build("cls", data, tmp_path, model="sqloss", model_conf=SQUARE)[0]

    with pytest.raises(UserError, match="a number for it go together"):
        _with_method(Stock, TASKS["cls"], None, 0.0)()


def test_several_labels_of_a_sound(data, tmp_path):
    conf = {**SQUARE, "classification_type": "multi-label"}
    model, batch = build("cls", data, tmp_path, model="sqloss", model_conf=conf)
    outputs = model.decoder(*model.encode(batch["speech"], batch["speech_lengths"]))
    expected = formula(outputs, batch["label"].squeeze(-1)).mean()  # each has one
    assert float(model(**batch)[0]) == pytest.approx(float(expected), rel=1e-5)
    assert torch.allclose(model.classification_function(outputs), label_probabilities(outputs, "square", k=K, M=M))
    with pytest.raises(UserError, match="one probability for each class: leave --method out"):
        model.use_method("softmax")


@pytest.mark.parametrize("weight", ["mtlalpha", "st_mtlalpha"])
def test_of_a_translator_the_decoder_beside_ctc_is_rescaled(weight, data, tmp_path):
    """Which of the two decoders that is, the weights of their CTC say."""
    conf = {"loss": "square", "mtlalpha": 0.0, "st_mtlalpha": 0.0, weight: 0.3}
    model, _ = build("st", data, tmp_path, model="sqloss", model_conf=conf)
    (criterion,) = (name for name, of_it in TASKS["st"].ctc_weights.items() if of_it == weight)
    for name, tokens in (("criterion_st", TOKENS), ("criterion_asr", SOURCE_TOKENS)):
        rescaling = choose_rescaling(len(tokens), rule="level" if name == criterion else "auto")
        found = getattr(model, name).loss
        assert (found.k, found.M) == pytest.approx((rescaling.k, rescaling.M))
    assert rescaling.k == (15.0 if weight == "mtlalpha" else 1.0)


def test_both_decoders_of_a_translator_that_recognises_first(data, tmp_path):
    """Its beam search for what is said asks the other decoder, which has a rescaling of its own."""
    conf = {"loss": "square", "mtlalpha": 0.3, "st_mtlalpha": 0.0}
    model, _ = build("st", data, tmp_path, model="sqloss", model_conf=conf)
    model.use_multidecoder = True
    encoded = torch.randn(7, 8)
    expected = {}
    for name, criterion in (("decoder", "criterion_st"), ("extra_asr_decoder", "criterion_asr")):
        loss, start = getattr(model, criterion).loss, torch.tensor([1])
        outputs = getattr(model, name)(encoded[None], torch.tensor([7]), start[None], torch.tensor([1]))[0][0, 0]
        expected[name] = log_probabilities(outputs, "square", k=loss.k, M=loss.M)
    use_method(model, "square")
    for name, log_p in expected.items():
        decoder = getattr(model, name)
        assert torch.allclose(decoder.score(start, decoder.init_state(encoded), encoded)[0], log_p, atol=1e-5)


@pytest.mark.parametrize("count", [1, 50])
def test_several_labels_are_not_rescaled(count, data, tmp_path, monkeypatch):
    """Each label is a regression of its own, as it is in Hugging Face's Trainer."""
    labels = ["cat", "dog", "cow", *(f"label{i}" for i in range(3, count))] if count > 1 else ["cat"]
    texts = CLASSES if count > 1 else dict.fromkeys(CLASSES, "cat")
    monkeypatch.setitem(CASES, "cls", (CASES["cls"][0], {"speech": None, "label": texts}, [*labels, "<unk>"]))
    conf = {"loss": "square", "classification_type": "multi-label", "lsm_weight": 0.1}  # in evaluation it is left out
    model, batch = build("cls", data, tmp_path, model="sqloss", model_conf=conf)
    assert (model.rescaling.k, model.rescaling.M) == (1.0, 1.0)
    outputs = model.decoder(*model.encode(batch["speech"], batch["speech_lengths"]))
    expected = (outputs - one_hot(batch["label"].squeeze(-1), count)).square().mean()
    assert float(model(**batch)[0]) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(UserError, match="leave it at auto, take level, or give k and M"):
        build("cls", data, tmp_path, model="sqloss", model_conf={**conf, "rescaling": "paper"})
    level, _ = build("cls", data, tmp_path, model="sqloss", model_conf={**conf, "rescaling": "level"})
    assert level.rescaling.k == (15.0 if count > 1 else 1.0)


@pytest.mark.parametrize(
    ("name", "conf", "message"),
    [
        ("mt", {"loss": "hinge"}, "unknown loss 'hinge'"),
        ("lm", {"k": "abc"}, "k must be a number, got 'abc'"),
        ("cls", {"loss": "cross_entropy", "k": 2.0}, "k and M rescale the square loss"),
        (
            "cls",
            {"classification_type": "multi-label", "lsm_weight": 0.6},
            r"lsm_weight must be between 0 and 0\.5, got 0\.6",
        ),
        ("cls", {"loss": "squentropy", "classification_type": "multi-label"}, "has no form for multi-label"),
        ("st", {"lsm_type": "unigram", "lsm_weight": 0.1, "lsm_unigram": "x"}, "for models with one attention decoder"),
        ("st", {"st_mtlalpha": 1.5}, "st_mtlalpha must be between 0 and 1"),
        ("st", {"mtlalpha": -0.5}, "mtlalpha must be between 0 and 1"),
        ("slu", {"ctc_weight": 1.0}, "loss square is for an attention decoder, and this model has none"),
    ],
)
def test_wrong_options(name, conf, message, data, tmp_path):
    with pytest.raises(UserError, match=message):
        build(name, data, tmp_path, model="sqloss", model_conf=conf)


@pytest.mark.parametrize("words", [[], ["asrr", "--x"], ["--config", "x"]])
@pytest.mark.parametrize("main", [train, inference])
def test_the_task_comes_first(main, words, tmp_path, capsys):
    program = main.__module__.rpartition(".")[2]
    message = "the first argument must be a task of ESPnet's"
    assert_refused(main, words, program, message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("main", "words", "config", "model"),
    [
        (inference, ["mt"], "--mt_train_config", "--mt_model_file"),
        (inference, ["cls"], "--classification_train_config", "--classification_model_file"),
        (lm_calc_perplexity, [], "--train_config", "--model_file"),
    ],
)
def test_a_models_files_are_named(main, words, config, model, data, tmp_path, capsys):
    """One that is not there, and one that is something else."""
    program = main.__module__.rpartition(".")[2]
    given = "src_text" if "mt" in words else "speech" if words else "text"
    words = [*words, config, "config.yaml", model, str(data / "speech"), "--num_workers", "0"]
    words += ["--data_path_and_name_and_type", f"{data / 'speech'},{given},text"]
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{program}: error: config.yaml cannot be read")
    (tmp_path / "config.yaml").write_text("token_list: []\nmodel_conf: {}\n")
    words[words.index("config.yaml")] = str(tmp_path / "config.yaml")
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 2
    assert "speech cannot be read as a model file: it is damaged or" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", list(TASKS))
def test_espnet3_builds_it_from_its_path(name):
    """ESPnet3 configurations name the class by ``_target_``, or ESPnet's task and the model choice."""
    found = get_class(f"sqloss_plugins.espnet.{TASKS[name].class_name}")
    assert found is model_class(name)
    assert issubclass(found, pkgutil.resolve_name(TASKS[name].model))
    task = get_class(f"sqloss_plugins.espnet.{TASKS[name].task.rpartition('.')[2]}")
    assert task is pkgutil.resolve_name(TASKS[name].task)
    assert "sqloss" in next(action for action in task.get_parser()._actions if action.dest == "model").choices


@pytest.mark.slow
def test_the_choice_is_known_in_processes_that_espnet_spawns():
    """A spawned process has the command line, and imports the main module under another name."""
    code = (
        "import multiprocessing.spawn as spawn; "
        "spawn.prepare({'sys_argv': ['train.py', 'mt'], 'init_main_from_name': 'sqloss_plugins.espnet.bin.train'}); "
        "import torch; from espnet2.tasks.mt import model_choices; "
        "print(model_choices.get_class('sqloss').__name__, torch.save.is_atomic)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "SquareLossMTModel True"


def test_a_language_models_likelihood_is_that_of_the_square_method(data, tmp_path):
    model, batch = build("lm", data, tmp_path, model="sqloss", model_conf=SQUARE)
    row = batch["text"][:1]
    outputs = model.lm(torch.nn.functional.pad(row, (1, 0), value=len(TOKENS) - 1), None)[0][0]
    found, lengths = model.nll(batch["text"], batch["text_lengths"])
    assert lengths.tolist() == (batch["text_lengths"] + 1).tolist()
    kept = int(batch["text_lengths"][0])
    log_p = log_probabilities(outputs, "square", k=K, M=M)
    targets = [*row[0, :kept].tolist(), len(TOKENS) - 1]
    assert found[0, : kept + 1].tolist() == pytest.approx(
        [-float(log_p[t, c]) for t, c in enumerate(targets)], rel=1e-5
    )
    scored, _ = model.lm.score(torch.tensor([len(TOKENS) - 1]), None, None)
    assert torch.allclose(scored, log_p[0], atol=1e-5)


def test_a_copy_of_a_language_model_scores_by_its_own_parameters(data, tmp_path):
    """ESPnet's --quantize_lm makes one."""
    model, _ = build("lm", data, tmp_path, model="sqloss", model_conf=SQUARE)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm.decoder.bias += torch.linspace(0, 1, len(TOKENS))
    start = torch.tensor([len(TOKENS) - 1])
    for lm in (model.lm, other.lm):
        expected = log_probabilities(lm(start[None], None)[0][0, 0], "square", k=K, M=M)
        assert torch.allclose(lm.score(start, None, None)[0], expected, atol=1e-5)
    assert not torch.allclose(other.lm.score(start, None, None)[0], model.lm.score(start, None, None)[0], atol=1e-3)


def replica(module):
    """A copy as DataParallel makes it for each GPU: it has the module's hooks, and its own layers."""
    made = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        setattr(made, name, parameter)
    for name, child in module._modules.items():
        made._modules[name] = None if child is None else replica(child)
    return made


def test_likelihoods_on_several_gpus(data, tmp_path):
    """Of which each is at work while the others are."""
    model, batch = build("lm", data, tmp_path, model="sqloss", model_conf=SQUARE)
    inputs = batch["text"].clamp(min=0)
    expected = log_probabilities(model.lm(inputs, None)[0], "square", k=K, M=M)
    one, two = replica(model), replica(model)
    with log_probability_outputs(one, "square"), log_probability_outputs(two, "square"):
        for each in (one, two):
            assert torch.allclose(each.lm(inputs, None)[0], expected, atol=1e-5)


def test_the_output_layer_of_a_language_model_whose_decoder_is_its_network():
    """OPT's."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder, self.lm_head = torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5)

        def score(self, y, state, x):
            return self.lm_head(self.decoder(y))[-1].log_softmax(-1), None

    model = torch.nn.Module()
    model.lm, model.loss, model.rescaling = Network(), "square", choose_rescaling(5)
    use_method(model, "square")
    outputs = model.lm.lm_head(model.lm.decoder(torch.tensor(3)))
    assert torch.allclose(model.lm.score(torch.tensor([3]), None, None)[0], log_probabilities(outputs), atol=1e-5)


@pytest.mark.parametrize("adapter", [False, True])
def test_a_model_file_that_lacks_parameters(adapter, data, tmp_path):
    """ESPnet leaves those random. What is saved of adapters, with which a model is tuned, is their parameters alone."""
    model, _ = build("mt", data, tmp_path, model="sqloss", model_conf=SQUARE)
    state = model.state_dict()
    del state["decoder.output_layer.bias"]
    torch.save(state, tmp_path / "model.pth")
    config = {"token_list": TOKENS, "model_conf": SQUARE, "use_adapter": adapter}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    class Stock:
        def __init__(self, mt_train_config, mt_model_file):
            self.mt_model = model

    files = {"mt_train_config": str(tmp_path / "config.yaml"), "mt_model_file": str(tmp_path / "model.pth")}
    made = _with_method(Stock, TASKS["mt"], None, None)
    if adapter:
        assert made(**files).mt_model is model
    else:
        with pytest.raises(UserError, match=r"does not fit .*config\.yaml: it lacks decoder\.output_layer\.bias"):
            made(**files)


@pytest.mark.parametrize("kind", ["sqloss", "lm"])
def test_a_language_model_file_of_another_configuration(kind, data, tmp_path, capsys):
    """ESPnet leaves random what it lacks, in decoding and in perplexity; the names of earlier versions are known."""
    words = command("lm", data, tmp_path, model=kind)
    model, _ = build("lm", data, tmp_path, model=kind)
    task = pkgutil.resolve_name(TASKS["lm"].task)
    config, file = tmp_path / "config.yaml", tmp_path / "model.pth"
    config.write_text(yaml.safe_dump(vars(task.get_parser().parse_args(words))))
    state = model.state_dict()
    torch.save({name.replace("after_norm", "norm"): value for name, value in state.items()}, file)
    loaded, _ = task.build_model_from_file(str(config), str(file))
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    for change, message in (
        ({"lm.decoder.bias": None}, "it lacks lm.decoder.bias"),
        ({"lm.other": torch.ones(2)}, "it has lm.other, which that model has not"),
        ({"lm.decoder.bias": torch.ones(2)}, "lm.decoder.bias has the shape (2,), and that model's has (12,)"),
    ):
        torch.save({name: value for name, value in {**state, **change}.items() if value is not None}, file)
        given = ["--train_config", str(config), "--model_file", str(file), "--num_workers", "0"]
        given += ["--data_path_and_name_and_type", f"{tmp_path / 'text'},text,text"]
        assert lm_calc_perplexity([*given, "--output_dir", str(tmp_path / "ppl")]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error == f"lm_calc_perplexity: error: {file} does not fit {config}: {message}"


# ---------------------------------------------------------------- trainings

SHORT = ["--maxlenratio", "-3", "--beam_size", "2"]
DECODINGS = {  # the options that name the model and its input, and others
    "asr": ("asr_train_config", "asr_model_file", "speech", SHORT),
    "mt": ("mt_train_config", "mt_model_file", "src_text", SHORT),
    "slu": ("slu_train_config", "slu_model_file", "speech", SHORT),
    "s2t": ("s2t_train_config", "s2t_model_file", "speech", SHORT),
    "st": ("st_train_config", "st_model_file", "speech", SHORT),
    "cls": ("classification_train_config", "classification_model_file", "speech", []),
}


def train_twice(name, data, folder):
    """ESPnet's own training, which goes on in a second call; its configuration and its model."""
    words = command(name, data, folder, model="sqloss", model_conf={"loss": "square"}, max_epoch=2)
    out = folder / "out"
    assert train([name, *words, "--max_epoch", "1"]) == 0
    first = torch.load(out / "1epoch.pth")
    assert train([name, *words]) == 0
    assert trained(out)[0] == 2
    assert any(not torch.equal(value, first[key]) for key, value in torch.load(out / "2epoch.pth").items())
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["model"], config["model_conf"]["loss"]) == ("sqloss", "square")
    return out / "config.yaml", out / f"valid.{'loss' if name == 'lm' else 'acc'}.ave.pth"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DECODINGS))
def test_training_resumed_and_decoded(name, data, tmp_path):
    config, model = train_twice(name, data, tmp_path)
    config_option, model_option, given, more = DECODINGS[name]
    texts = CASES[name][1][given]
    path = tmp_path / given if texts else data / "speech"
    words = [f"--{config_option}", str(config), f"--{model_option}", str(model), "--num_workers", "0", *more]
    words += ["--data_path_and_name_and_type", f"{path},{given},{'text' if texts else 'sound'}"]
    scores = {}
    for method in ([], ["--method", "square"], ["--method", "softmax"]):
        folder = tmp_path / f"decoded{len(scores)}"
        assert inference([name, *words, "--output_dir", str(folder), *method]) == 0
        (score,) = folder.glob("prediction/score" if name == "cls" else "1best_recog/score")
        scores[" ".join(method)] = score.read_text()
        assert len(scores[" ".join(method)].splitlines()) == 4
    assert scores[""] == scores["--method square"] != scores["--method softmax"]


@pytest.mark.slow
def test_a_language_model_resumed_and_its_perplexity(data, tmp_path, capsys):
    config, file = train_twice("lm", data, tmp_path)
    words = ["--train_config", str(config), "--model_file", str(file), "--output_dir", str(tmp_path / "found")]
    assert lm_calc_perplexity([*words, "--data_path_and_name_and_type", f"{tmp_path / 'text'},text,text"]) == 0
    model, batch = build("lm", data, tmp_path, model="sqloss", model_conf={"loss": "square"})
    model.load_state_dict(torch.load(file))
    nll, lengths = model.nll(batch["text"], batch["text_lengths"])
    perplexity = float((nll.sum() / lengths.sum()).exp())
    assert float((tmp_path / "found/ppl").read_text()) == pytest.approx(perplexity, rel=1e-4)
    # The recipes' stage 8, in a process of its own, which knows no model yet.
    text, folder = tmp_path / "text", tmp_path / "of_recipe"
    code = (
        "import sys; from pathlib import Path; from sqloss_plugins.espnet.recipe.decoding import lm_perplexity; "
        "config, model, text, folder = map(Path, sys.argv[1:]); lm_perplexity((config, model), text, folder, False)"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, (config, file, text, folder))], check=True)
    assert (folder / "ppl").read_text() == (tmp_path / "found/ppl").read_text()
    assert inference(["lm"]) == 2
    assert "the task lm is not decoded by itself here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_language_model_in_the_decoding_of_another_task(data, tmp_path):
    folders = tmp_path / "lm", tmp_path / "mt"
    for folder in folders:
        folder.mkdir()
    (lm_config, lm_file), (config, file) = (train_twice(folder.name, data, folder) for folder in folders)
    words = ["--mt_train_config", str(config), "--mt_model_file", str(file), "--num_workers", "0", *SHORT]
    words += ["--data_path_and_name_and_type", f"{folders[1] / 'src_text'},src_text,text"]
    words += ["--lm_train_config", str(lm_config), "--lm_file", str(lm_file), "--lm_weight", "0.5"]
    assert inference(["mt", *words, "--output_dir", str(tmp_path / "found")]) == 0
    assert len((tmp_path / "found/1best_recog/text").read_text().splitlines()) == 4


def test_the_classes_of_a_classifier_are_those_of_its_outputs():
    """The last word of its list is no class; 41 classes are fewer than 42, from which on the loss is rescaled."""
    config = {"token_list": [str(i) for i in range(42)], "model": "sqloss", "model_conf": {"loss": "square"}}
    assert initial_loss(config, "cls") == pytest.approx(1 / 41)
    config["model_conf"] = {"loss": "cross_entropy"}
    assert initial_loss(config, "cls") == pytest.approx(math.log(41))
    assert initial_loss(config, "mt") == pytest.approx(math.log(42))

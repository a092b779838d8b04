"""Metrics equal those of scikit-learn, SciPy, jiwer and torchmetrics, and load as modules of ``evaluate``, offline."""

import itertools
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import evaluate
import jiwer
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
import torchmetrics.functional as tm
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sqloss_plugins import evaluate_metrics
from sqloss_plugins.evaluate_metrics import load_metric
from sqloss_plugins.metric_inputs import INPUTS
from sqloss_plugins.metrics import METRICS, Metric, calibration_error, compute, count_edits, metric, perplexity

ROOT = Path(__file__).parent.parent
COMPUTED = [name for name, found in METRICS.items() if found.function]


@st.composite
def labels(draw, classes=2):
    """Predictions and references."""
    shape = draw(st.integers(1, 30))
    return tuple(draw(arrays(np.int64, shape, elements=st.integers(0, classes - 1))) for _ in range(2))


@st.composite
def label_sets(draw):
    """Predictions and references, 0 and 1, of shape (N, C)."""
    shape = draw(st.integers(1, 12)), draw(st.integers(2, 4))
    return tuple(draw(arrays(np.int64, shape, elements=st.integers(0, 1))) for _ in range(2))


@st.composite
def numbers(draw):
    shape, elements = draw(st.integers(2, 30)), st.integers(-50, 50)
    return tuple(draw(arrays(np.float64, shape, elements=elements)) / 10 for _ in range(2))


@st.composite
def texts(draw):
    words = st.lists(st.sampled_from(["a", "bc", "d", "Ä"]), max_size=5).map(" ".join)
    pairs = draw(st.lists(st.tuples(words, words), min_size=1, max_size=6))
    return [hypothesis for hypothesis, _ in pairs], [reference or "a" for _, reference in pairs]


@st.composite
def probabilities(draw):
    """Class probabilities, some of them 0, and class numbers."""
    shape = draw(st.integers(1, 30)), draw(st.integers(2, 5))
    outputs = draw(arrays(np.float64, shape, elements=st.integers(0, 20))) + np.eye(shape[1])[0]
    return outputs / outputs.sum(1, keepdims=True), draw(
        arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1))
    )


# ---------------------------------------------------------------- values


@given(labels())
def test_of_two_classes(pair):
    predictions, references = pair
    assert compute("accuracy", predictions, references) == (predictions == references).mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing predicted and nothing there: 0
        assert compute("f1", predictions, references) == sklearn.metrics.f1_score(references, predictions)
    found = compute("matthews_correlation", predictions, references)
    assert found == sklearn.metrics.matthews_corrcoef(references, predictions)
    p, y = torch.tensor(predictions), torch.tensor(references)
    if np.ptp(predictions) and np.ptp(references):  # else not defined, and torchmetrics has another convention
        assert found == pytest.approx(tm.matthews_corrcoef(p, y, "binary").item(), abs=1e-6)
    assert compute("f1", predictions, references) == pytest.approx(tm.f1_score(p, y, "binary").item())


@given(labels(classes=4))
def test_of_four_classes(pair):
    predictions, references = pair
    assert compute("accuracy", predictions.tolist(), references.tolist()) == (predictions == references).mean()
    found = compute("f1", predictions, references, average="macro")
    assert found == sklearn.metrics.f1_score(references, predictions, average="macro", zero_division=0)
    assert compute("f1_macro", predictions, references) == found
    assert compute("f1_micro", predictions, references) == pytest.approx((predictions == references).mean())
    assert compute("matthews_correlation", predictions, references) == pytest.approx(
        sklearn.metrics.matthews_corrcoef(references, predictions)
    )


def f1_by_its_definition(predictions, references):
    """2 TP / (2 TP + FP + FN), and 0 where there is none of them."""
    both = (predictions & references).sum()
    return 2 * both / max(predictions.sum() + references.sum(), 1)


@settings(max_examples=30)
@given(label_sets())
def test_of_label_sets(pair):
    predictions, references = pair
    by_class = [f1_by_its_definition(p, y) for p, y in zip(predictions.T, references.T, strict=True)]
    exact = [list(p) == list(y) for p, y in zip(predictions, references, strict=True)]
    wanted = {"accuracy": exact, "f1_macro": by_class, "f1_micro": f1_by_its_definition(predictions, references)}
    for name, value in wanted.items():
        assert compute(name, predictions, references) == pytest.approx(np.mean(value))
        assert compute(name, torch.tensor(predictions).bool(), references.astype(float).tolist()) == compute(
            name, predictions, references
        )
    options = {"task": "multilabel", "num_labels": predictions.shape[1]}
    p, y = torch.tensor(predictions), torch.tensor(references)
    assert wanted["f1_micro"] == pytest.approx(tm.f1_score(p, y, average="micro", **options).item())
    assert compute("f1", predictions, references, average="macro") == compute("f1_macro", predictions, references)


@settings(max_examples=30)
@given(label_sets())
def test_of_label_sets_of_one_class(pair):
    """They are no class numbers 0 and 1, whose macro F1 is also that of class 0."""
    predictions, references = (side[:, :1] for side in pair)
    wanted = f1_by_its_definition(predictions, references)
    for name in ("f1_macro", "f1_micro"):
        assert compute(name, predictions, references) == pytest.approx(wanted)
    assert compute("accuracy", predictions, references) == (predictions == references).mean()


@given(numbers())
def test_of_numbers(pair):
    predictions, references = pair
    found = compute("mse", predictions, references)
    assert found == pytest.approx(sklearn.metrics.mean_squared_error(references, predictions))
    for name, function in (("pearson", scipy.stats.pearsonr), ("spearmanr", scipy.stats.spearmanr)):
        found = compute(name, predictions, references)
        if np.ptp(predictions) == 0 or np.ptp(references) == 0:
            assert found == 0.0
        else:
            assert found == function(references, predictions).statistic
            theirs = tm.pearson_corrcoef if name == "pearson" else tm.spearman_corrcoef
            p, y = torch.from_numpy(predictions), torch.from_numpy(references)
            assert found == pytest.approx(theirs(p, y).item(), abs=1e-4)


@given(texts())
def test_error_rates(pair):
    predictions, references = pair
    assert compute("wer", predictions, references) == jiwer.wer(references, predictions)
    assert compute("per", predictions, references) == jiwer.wer(references, predictions)
    assert compute("ter", predictions, references) == jiwer.wer(references, predictions)
    wrong = [p.split() != r.split() for p, r in zip(predictions, references, strict=True)]
    assert compute("ser", predictions, references) == sum(wrong) / len(wrong)
    assert compute("cer", predictions, references) == jiwer.cer(references, predictions)
    assert compute("wer", predictions, references) == pytest.approx(
        tm.text.word_error_rate(predictions, references).item()
    )
    assert compute("cer", predictions, references) == pytest.approx(
        tm.text.char_error_rate(predictions, references).item()
    )


@settings(max_examples=50)
@given(probabilities(), st.integers(1, 20))
def test_of_probabilities(pair, bins):
    p, y = pair
    true = p[np.arange(len(y)), y]
    nll = -np.log(np.maximum(true, np.finfo(float).eps)).mean()
    one_hot = np.eye(p.shape[1])[y]
    assert compute("nll", p, y) == pytest.approx(nll)
    assert compute("nll", p, y) == pytest.approx(sklearn.metrics.log_loss(y, p, labels=range(p.shape[1])))
    assert compute("perplexity", p, y) == pytest.approx(math.exp(nll))
    assert compute("bpc", p, y) == pytest.approx(nll / math.log(2))
    assert compute("bpc", p, y, characters=3 * len(y)) == pytest.approx(nll / math.log(2) / 3)
    assert compute("brier", p, y) == pytest.approx(((p - one_hot) ** 2).sum(1).mean())
    tensors = torch.from_numpy(p), torch.from_numpy(y)
    theirs = tm.classification.multiclass_calibration_error(*tensors, num_classes=p.shape[1], n_bins=bins)
    assert compute("ece", *tensors, bins=bins) == pytest.approx(theirs.item(), abs=1e-6)
    if true.min() > 0:
        theirs = tm.text.perplexity(tensors[0].log()[None], tensors[1][None])
        assert compute("perplexity", p, y) == pytest.approx(theirs.item(), rel=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_ece_by_its_definition(seed, bins):
    """Over bins of equal width the share times |accuracy - mean confidence|."""
    generator = np.random.default_rng(seed)
    p, y = generator.dirichlet(np.ones(4), size=50), generator.integers(4, size=50)
    confidence, right = p.max(1), p.argmax(1) == y
    which = (confidence * bins).astype(int)
    errors = [(which == i).mean() * abs((confidence - right)[which == i].mean()) for i in np.unique(which)]
    assert compute("ece", p, y, bins=bins) == pytest.approx(sum(errors), abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_ece_adaptive_by_its_definition(seed, bins):
    """The same over bins of equally many examples, in the order of their confidence."""
    generator = np.random.default_rng(seed)
    p, y = generator.dirichlet(np.ones(4), size=60), generator.integers(4, size=60)
    pairs = sorted(zip(p.max(1), p.argmax(1) == y, strict=True))
    sizes = [60 // bins + (i < 60 % bins) for i in range(bins)]
    total, start = 0.0, 0
    for size in sizes:
        total += abs(sum(confidence - right for confidence, right in pairs[start : start + size])) / 60
        start += size
    assert compute("ece_adaptive", p, y, bins=bins) == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_aurc_by_its_definition(seed):
    """The mean over n of the errors among the n most confident; of equal confidences, over all orders of them."""
    generator = np.random.default_rng(seed)
    levels = generator.choice([0.4, 0.6, 0.9], size=5)
    p, y = np.stack([levels, 1 - levels], axis=1), generator.integers(2, size=5)
    confidence, wrong = p.max(1), p.argmax(1) != y
    values = []
    for order in map(list, itertools.permutations(range(5))):
        ranked = sorted(order, key=lambda i: -confidence[i])
        values.append(np.mean([wrong[ranked[:n]].mean() for n in range(1, 6)]))
    assert compute("aurc", p, y) == pytest.approx(np.mean(values))


# ---------------------------------------------------------------- edge cases


def test_constant_predictions():
    predictions, references = [1, 1, 1, 1], [1, 0, 1, 0]
    assert compute("matthews_correlation", predictions, references) == 0.0
    assert compute("f1", [0, 0, 0, 0], references) == 0.0
    for name in ("pearson", "spearmanr"):
        assert compute(name, predictions, references) == compute(name, references, predictions) == 0.0
        assert compute(name, [0.5], [0.5]) == 0.0
        assert math.isnan(compute(name, [math.nan, 1.0], [0.0, 1.0]))
    assert math.isnan(compute("mse", [math.nan, 1.0], [0.0, 1.0]))


def test_one_class_in_the_references():
    p = [[0.25, 0.75], [0.5, 0.5]]
    assert compute("nll", p, [1, 1]) == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    assert compute("brier", p, [1, 1]) == pytest.approx((2 * 0.0625 + 2 * 0.25) / 2)
    assert compute("accuracy", [1, 1], [1, 1]) == 1.0


def test_certainty():
    assert compute("nll", [[0.0, 1.0]], [0]) == pytest.approx(-math.log(np.finfo(float).eps))
    for name in ("ece", "ece_adaptive", "aurc"):
        assert compute(name, [[0.0, 1.0]], [0]) == 1.0
    assert compute("brier", [[0.0, 1.0]], [0]) == 2.0
    assert perplexity(1e4) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_empty_texts():
    assert compute("wer", [""], ["two words"]) == 1.0
    assert compute("wer", ["two words", "x"], ["two words", ""]) == 0.5
    edits = count_edits("cer", ["abx"], ["abc d"])
    assert (edits.substitutions, edits.deletions, edits.insertions, edits.length) == (1, 2, 0, 5)
    assert edits.rate == 0.6
    assert count_edits("wer", ["x y"], [""]).rate == 2.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_probabilities_of_a_lower_precision(dtype):
    p = torch.randn(100, 50).softmax(1)
    y = torch.arange(100) % 50
    rounded = p.to(dtype)
    assert compute("nll", rounded, y) == compute("nll", rounded.float().requires_grad_(), y)
    assert compute("nll", rounded, y) == pytest.approx(compute("nll", p, y), rel=1e-2)


def test_a_confidence_that_rounding_makes_larger_than_one():
    """torchmetrics alone would take all of them for logits."""
    confidence, is_right = np.array([1.0 + 1e-7, 0.9, 0.9, 0.6]), np.array([True, True, False, True])
    assert calibration_error(confidence, is_right) == pytest.approx((2 * 0.4 + 0.4) / 4)


NOT_ONE = "the predictions must be probabilities that sum to one, not outputs or logits"
BAD = [
    ("accuracy", [], [], "accuracy: there are no examples"),
    ("wer", [], [], "wer: there are no examples"),
    ("nll", np.zeros((0, 3)), [], "nll: there are no examples"),
    ("accuracy", [1, 0], [1], "accuracy: 2 predictions and 1 references do not pair up"),
    ("cer", ["a"], ["a", "b"], "cer: 1 predictions and 2 references do not pair up"),
    ("accuracy", [0.5], [1], "accuracy: the predictions must be class numbers, of shape (N,)"),
    ("accuracy", [math.inf], [1], "accuracy: the predictions must be class numbers, of shape (N,)"),
    ("accuracy", [1], [1e300], "accuracy: the references must be class numbers, of shape (N,)"),
    ("f1", [1], [math.nan], "f1: the references must be class numbers, of shape (N,)"),
    ("accuracy", ["a"], ["a"], "accuracy: the predictions must be class numbers, of shape (N,)"),
    ("accuracy", [[0.1, 0.9]], [1], "accuracy: the predictions must be class numbers, of shape (N,)"),
    ("accuracy", [[0, 2]], [[0, 1]], "accuracy: the predictions must be class numbers, of shape (N,), or label sets"),
    ("f1_macro", [[0, 1]], [[0, -1]], "f1_macro: the references must be class numbers, of shape (N,), or label sets"),
    ("f1_micro", [[[0]]], [[[0]]], "f1_micro: the predictions must be class numbers, of shape (N,), or label sets"),
    ("accuracy", [[0, 1]], [1], "accuracy: predictions of shape (1, 2) and references of shape (1,) do not pair up"),
    ("accuracy", [[0, 1]], [[1]], "accuracy: predictions of shape (1, 2) and references of shape (1, 1) do not pair"),
    ("f1", [[0, 1]], [[0, 1]], "f1: of label sets take f1_macro or f1_micro"),
    ("matthews_correlation", [[0, 1]], [[0, 1]], "matthews_correlation: it is of class numbers, and these are label"),
    ("mse", [[1.0], [2.0]], [1.0, 2.0], "mse: predictions and references must be numbers, of shape (N,)"),
    ("pearson", [[1.0], [2.0]], [1.0, 2.0], "pearson: predictions and references must be numbers, of shape (N,)"),
    ("per", [1, 2], ["a", "b"], "per: predictions and references must be strings"),
    ("nll", [0.5], [0], "nll: the predictions must be class probabilities, of shape (N, C) with C >= 2"),
    ("brier", [[1.0]], [0], "brier: the predictions must be class probabilities, of shape (N, C) with C >= 2"),
    ("ece", [[0.5, math.nan]], [0], "ece: not all probabilities are numbers"),
    ("nll", [[math.inf, 0.0]], [0], "nll: not all probabilities are numbers"),
    ("brier", [[0.5, 0.6]], [0], f"brier: {NOT_ONE}; the smallest is 0.5, and one sum is 1.1"),
    ("ece", [[-0.5, 1.5]], [0], f"ece: {NOT_ONE}; the smallest is -0.5, and one sum is 1"),
    ("perplexity", [[3.0, -2.0]], [0], f"perplexity: {NOT_ONE}"),
    ("nll", [[0.5, 0.5]], [2], "nll: the references must be class numbers from 0 to 1"),
    ("nll", [[0.5, 0.5]], [-100], "nll: the references must be class numbers from 0 to 1"),
    ("nll", [[0.5, 0.5]], [0.5], "nll: the references must be class numbers, of shape (N,)"),
    ("top5", [1.0], [0], "top5: the predictions must be class outputs, of shape (N, C) with C >= 2"),
    ("top5", [[1.0, math.inf]], [0], "top5: not all outputs are numbers"),
    ("top5", [[1.0, 2.0]], [2], "top5: the references must be class numbers from 0 to 1"),
    ("loss", [0.1], [0.2], "loss is not computed from predictions and references"),
    ("surprise", [0], [0], "unknown metric 'surprise': choose from accuracy"),
]


@pytest.mark.parametrize(("name", "predictions", "references", "sentence"), BAD)
def test_bad_inputs(name, predictions, references, sentence):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        compute(name, predictions, references)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_bad_options():
    p = [[0.5, 0.5]]
    for name, options, sentence in (
        ("ece", {"bins": 0}, "bins must be at least 1, got 0"),
        ("bpc", {"characters": 0}, "characters must be at least 1, got 0"),
        ("nll", {"bins": 5}, "nll has no option bins"),
    ):
        with pytest.raises(ValueError, match=sentence):
            compute(name, p, [0], **options)
    with pytest.raises(ValueError, match="accuracy is no error rate of texts"):
        count_edits("accuracy", ["a"], ["a"])


@settings(max_examples=30)
@given(st.data())
def test_top5(data):
    """Many outputs are equal: they count as torch.topk breaks ties."""
    shape = data.draw(st.integers(1, 20)), data.draw(st.integers(2, 12))
    outputs = data.draw(arrays(np.float64, shape, elements=st.integers(-3, 3)))
    references = data.draw(arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))
    found = compute("top5", outputs, references)
    best = [torch.topk(torch.tensor(row), min(5, len(row))).indices.tolist() for row in outputs]
    assert found == pytest.approx(np.mean([y in row for y, row in zip(references, best, strict=True)]))
    assert found == 1.0 or shape[1] > 5


# ---------------------------------------------------------------- directions


def test_every_metric_says_what_it_needs():
    assert {METRICS[name].inputs for name in COMPUTED} == set(INPUTS)
    ranking = [f"{kind}_at_{k}" for kind in ("precision", "psp") for k in (1, 3, 5)]
    assert [name for name in METRICS if name not in COMPUTED] == ["word_auroc", *ranking, "loss"]
    for name, found in METRICS.items():
        assert Metric(name, **found.direction).direction == found.direction
    higher = {name for name, found in METRICS.items() if found.higher_is_better}
    assert higher == {
        *("accuracy", "top5", "top10", "f1", "f1_macro", "f1_micro", "matthews_correlation", "pearson", "spearmanr"),
        *("word_auroc", *ranking),
    }


def test_directions():
    wer, accuracy = metric("wer"), metric("accuracy")
    assert wer.is_better(0.1, 0.2)
    assert not accuracy.is_better(0.1, 0.2)
    assert wer.best([math.nan, 0.2, 0.1, 0.1]) == 2
    assert accuracy.best([math.nan, 0.2, 0.1, 0.2]) == 1
    assert not wer.is_better(math.nan, 0.2)
    assert (wer.heading, metric("bpc").heading, metric("brier").heading) == ("wer %", "bpc bits", "brier")
    assert (wer.shown(0.123456), wer.shown(-0.01, "+"), metric("bpc").shown(1.3)) == ("12.35", "-1.00", "1.3000")
    assert (metric("perplexity").shown(123.456), metric("perplexity").shown(9.87654)) == ("123.46", "9.8765")


# ---------------------------------------------------------------- evaluate


def example(name):
    """Predictions and references that a metric can have."""
    return {
        "labels": ([0, 1, 1, 0], [0, 1, 0, 1]),
        "numbers": ([0.1, 0.5, 0.2, 0.9], [1.0, 2.0, 2.5, 3.0]),
        "texts": (["a b c", "d"], ["a x c", "d e"]),
        "probabilities": ([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], [1, 0]),
        "outputs": ([[9.0, 5.0, 4.0, 3.0, 2.0, -1.0], [0.0, 5.0, 4.0, 3.0, 2.0, 1.0]], [1, 0]),
    }[METRICS[name].inputs]


LABEL_SETS = [[0, 1, 1], [1, 0, 0]], [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, example(name)) for name in COMPUTED),
        *((name, LABEL_SETS) for name in ("accuracy", "f1_macro", "f1_micro")),
    ],
)
def test_as_a_module(name, values):
    """With label sets as evaluate's own accuracy and f1 with their configuration for them, which needs no name here."""
    predictions, references = values
    wanted = {name: compute(name, predictions, references)}
    module = load_metric(name)
    assert module.compute(predictions=predictions, references=references) == wanted
    for prediction, reference in zip(predictions, references, strict=True):
        module.add(prediction=prediction, reference=reference)
    assert module.compute() == wanted
    module.add_batch(predictions=np.array(predictions), references=np.array(references))
    assert module.compute() == wanted
    assert INPUTS[METRICS[name].inputs] in module.inputs_description


def test_modules_refuse_what_the_metrics_refuse():
    with pytest.raises(ValueError, match="not all probabilities are numbers"):
        load_metric("nll").compute(predictions=[[math.nan, 0.5]], references=[0])
    with pytest.raises(ValueError, match="must be class numbers"):
        load_metric("accuracy").compute(predictions=[0.7], references=[0])
    for name in ("surprise", "loss", None):
        with pytest.raises(ValueError, match=r"name the metric, as in evaluate.load\(path, 'wer'\): one of accuracy"):
            load_metric(name)


def test_options_of_modules():
    predictions, references = example("ece")
    found = load_metric("ece").compute(predictions=predictions, references=references, bins=2)
    assert found == {"ece": compute("ece", predictions, references, bins=2)}


def test_combined():
    combined = evaluate.combine([load_metric("accuracy"), load_metric("f1"), load_metric("matthews_correlation")])
    predictions, references = example("accuracy")
    found = combined.compute(predictions=predictions, references=references)
    assert found == {"accuracy": 0.5, "f1": 0.5, "matthews_correlation": 0.0}
    combined.add_batch(predictions=predictions, references=references)
    assert combined.compute() == found
    combined = evaluate.combine([load_metric("accuracy"), load_metric("f1_macro")])
    predictions, references = LABEL_SETS
    assert combined.compute(predictions=predictions, references=references)["accuracy"] == 0.5


@pytest.mark.parametrize("names", [["accuracy"], ["accuracy", "f1"]])
def test_with_the_evaluator(names, tiny_model):
    """Hugging Face's evaluator of a text classifier, with metrics of ours."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = {"text": ["a good film", "a bad film", "the cat sat", "no"], "label": [0, 1, 1, 0]}
    with torch.no_grad():
        predicted = model(**tokenizer(rows["text"], padding=True, return_tensors="pt")).logits.argmax(1)
    metrics = [load_metric(name) for name in names]
    found = evaluate.evaluator("text-classification").compute(
        model,
        Dataset.from_dict(rows),
        tokenizer=tokenizer,
        metric=metrics[0] if len(metrics) == 1 else evaluate.combine(metrics),
        label_mapping={"LABEL_0": 0, "LABEL_1": 1},
    )
    for name in names:
        assert found[name] == compute(name, predicted, rows["label"])


BY_PATH = """
import evaluate, sys
module = evaluate.load(sys.argv[1], sys.argv[2])
print(module.compute(predictions=["one too"], references=["one two"]))
"""


def test_by_its_path_and_offline(tmp_path):
    """In a process of its own, with empty caches and a hub that is not there."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "HF_ENDPOINT": "http://127.0.0.1:1",
    }
    command = [sys.executable, "-c", BY_PATH, evaluate_metrics.__file__]
    done = subprocess.run([*command, "wer"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "{'wer': 0.5}\n", done.stderr

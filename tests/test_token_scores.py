"""Scores of tokens, from the logits of a batch and without them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import LENGTH, VOCABULARY, examples, model
from torch.utils._python_dispatch import TorchDispatchMode

from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer, token_scores
from sqloss_plugins.hf.token_scores import IGNORE_INDEX, TokenScores
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.probability import TEMPERATURES

METHODS = LOSSES["square"].methods
ROWS = 7  # the last batch of an evaluation has fewer than the others


@torch.no_grad()
def partly_right(head, network):
    """Examples of which some targets are what the network takes for the most likely."""
    data = examples(head, ROWS)
    for example in data:
        best = network.eval()(input_ids=example["input_ids"][None]).logits[0].argmax(-1)
        example["labels"][-3:] = best[-4:-1] if head.startswith("causal") else best[-3:]
    return data


def trainer(head, folder, without_logits, network=None, **options):
    """A Trainer that scores tokens, by every temperature, too."""
    options = {"k": 3.0, "M": 2.0, "per_device_eval_batch_size": 3, **options}
    config = SquareLossConfig(
        str(folder), report_to="none", use_cpu=True, disable_tqdm=True, without_logits=without_logits, **options
    )
    scores = TokenScores(METHODS, config.k, config.M, shift_labels=head.startswith("causal"))
    scores.begin()
    network = model(head) if network is None else network
    return SquareLossTrainer(
        network,
        config,
        eval_dataset=partly_right(head, network),
        preprocess_logits_for_metrics=scores,
        compute_metrics=lambda prediction: {"tokens": float(prediction.predictions[:, 0].sum())},
    )


def scored(*arguments, **options):
    """The sums of every row, and the loss."""
    made = trainer(*arguments, **options)
    predicted = made.predict(made.eval_dataset)
    assert predicted.predictions.shape == (ROWS, 2 + len(METHODS) - 1 + len(TEMPERATURES))
    return torch.from_numpy(predicted.predictions), predicted.metrics["test_loss"]


@pytest.mark.parametrize("head", ["causal LM", "causal LM, GPT-2", "masked LM"])
@pytest.mark.parametrize(
    "options",
    [{}, {"k": 1.0, "M": 1.0}, {"k": 15.0, "M": 30.0, "label_smoothing_factor": 0.1}, {"bf16": True}, {"half": True}],
    ids=["few outputs", "k 1", "smoothed", "autocast", "16 bits"],
)
def test_without_logits_the_figures_are_the_same(head, options, tmp_path, monkeypatch):
    """In parts of two tokens, and a last one of fewer; with ignored labels; layers that are tied or have a bias."""
    monkeypatch.setitem(token_scores._AT_ONCE, "cpu", 2 * VOCABULARY + 1)
    options = dict(options)
    half = options.pop("half", False)
    network = model(head)
    with torch.no_grad():
        network.get_output_embeddings().weight *= 20.0  # so that outputs are clipped at both ends
    network = network.bfloat16() if half else network
    figures = [scored(head, tmp_path, without, network, **options) for without in (True, False)]
    torch.testing.assert_close(figures[0][0], figures[1][0], rtol=2e-5, atol=2e-4)
    assert figures[0][1] == pytest.approx(figures[1][1], rel=1e-5)
    counts = [
        int((e["labels"][head.startswith("causal") :] != IGNORE_INDEX).sum()) for e in partly_right(head, network)
    ]
    assert figures[0][0][:, 0].tolist() == counts
    assert 0 < figures[0][0][:, 1].sum() < sum(counts)


class _Largest(TorchDispatchMode):
    """The most outputs that a tensor had."""

    outputs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.shape[-1:] == (VOCABULARY,):
            self.outputs = max(self.outputs, made.numel())
        return made


@pytest.mark.parametrize("without_logits", [True, False])
def test_the_outputs_of_a_batch_are_never_built(without_logits, tmp_path, monkeypatch):
    """Whatever k is: training by the direct form, that of k = 1 in float32, would build them."""
    monkeypatch.setitem(token_scores._AT_ONCE, "cpu", 5 * VOCABULARY)
    made = trainer("masked LM", tmp_path, without_logits, k=1.0, M=1.0)
    with _Largest() as largest:
        made.evaluate()
    assert (largest.outputs < 3 * LENGTH * VOCABULARY) == without_logits


def test_of_equal_outputs_the_first_is_the_largest(tmp_path):
    """As torch's argmax has it, in a layer whose rows are all the same."""
    network = model("masked LM")
    with torch.no_grad():
        network.get_output_embeddings().weight[:] = 0.1
    data = examples("masked LM", ROWS)
    expected = [int((e["labels"] == 0).sum()) for e in data]
    data[0]["labels"][-1] = 0
    expected[0] += 1
    for without in (True, False):
        made = trainer("masked LM", tmp_path, without, network)
        assert made.predict(data).predictions[:, 1].tolist() == expected


@given(
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(2, 11),
    st.floats(0.2, 20.0),
    st.floats(0.5, 30.0),
    st.booleans(),
)
def test_the_sums_by_the_formulas(seed, rows, length, C, k, M, shift):
    """In float64, written anew."""
    generator = np.random.default_rng(seed)
    f = generator.normal(scale=M, size=(rows, length, C)).astype(np.float32)
    y = np.where(generator.random((rows, length)) < 0.3, IGNORE_INDEX, generator.integers(C, size=(rows, length)))
    scores = TokenScores(METHODS, k, M, shift)
    scores.begin()
    found = scores((torch.from_numpy(f), "more"), torch.from_numpy(y)).numpy()
    assert found.shape == (rows, 4 + len(TEMPERATURES))
    expected = np.zeros_like(found, dtype=np.float64)
    for row in range(rows):
        for i in range(length - shift):
            true, outputs = y[row, i + shift], f[row, i].astype(np.float64)
            if true == IGNORE_INDEX:
                continue
            clipped = outputs.clip(0.0, M)
            p = np.maximum(clipped / (k * M - (k - 1.0) * clipped), 0.01 / C)
            nll = {"square": -np.log(p[true] / p.sum())}
            for T in (1.0, *TEMPERATURES):
                e = np.exp((outputs - outputs.max()) / T)
                nll[T] = np.log(e.sum()) - (outputs[true] - outputs.max()) / T
            by_method = [nll["square"] if method == "square" else nll[1.0] for method in METHODS[:-1]]
            expected[row] += [1.0, outputs.argmax() == true, *by_method, *(nll[T] for T in TEMPERATURES)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_rows_without_a_token_that_counts():
    scores = TokenScores(METHODS, 1.0, 1.0, shift_labels=False)
    assert not scores(torch.randn(2, 3, 5), torch.full((2, 3), IGNORE_INDEX)).any()

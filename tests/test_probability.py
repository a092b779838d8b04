"""Probabilities from outputs: the link against the minimiser of the expected loss, found by itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from sqloss_plugins.probability import SCORES, link_log_probabilities, link_probabilities, log_probabilities


def expected_loss(f, p, k, M):
    """The paper's equation 1 and its rescaling, in expectation over the true class; written anew, in NumPy."""
    total = 0.0
    for c in range(len(p)):
        others = sum(f[i] ** 2 for i in range(len(p)) if i != c)
        total += p[c] * (k * (f[c] - M) ** 2 + others) / len(p)
    return total


@pytest.mark.parametrize(("k", "M"), [(1.0, 1.0), (1.0, 15.0), (15.0, 30.0), (15.0, 2.608), (0.5, 2.0)])
def test_the_link_inverts_the_minimiser_of_the_expected_loss(k, M):
    p = np.array([0.55, 0.3, 0.1, 0.05])
    best = minimize(expected_loss, np.zeros(4), args=(p, k, M), tol=1e-14, method="BFGS", options={"gtol": 1e-10}).x
    found = link_probabilities(torch.tensor(best), k=k, M=M)
    assert found.numpy() == pytest.approx(p, abs=1e-6)


@settings(deadline=None)
@given(
    st.integers(2, 9),
    st.floats(0.1, 50),
    st.floats(0.1, 50),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.sampled_from(SCORES),
    st.integers(0, 2**31),
)
def test_scores_are_log_probabilities(num_classes, k, M, dtype, score, seed):
    outputs = (torch.randn(5, num_classes, generator=torch.Generator().manual_seed(seed)) * 3 * M).to(dtype)
    logs = log_probabilities(outputs, score, k=k, M=M, scale=0.7)
    assert torch.isfinite(logs).all() or score != "link"
    assert logs.exp().sum(-1).tolist() == pytest.approx([1.0] * 5, rel=2e-2 if dtype == torch.bfloat16 else 1e-5)
    if score == "link":
        assert logs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.allclose(torch.log_softmax(logs, -1), logs, atol=1e-5)


@given(st.integers(0, 2**31), st.floats(0.2, 20), st.floats(0.5, 40))
def test_the_link_keeps_the_order_and_knows_no_class_by_name(seed, k, M):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.rand(7, generator=generator, dtype=torch.float64) * M
    order = torch.randperm(7, generator=generator)
    logs = link_log_probabilities(outputs, k=k, M=M)
    assert torch.allclose(link_log_probabilities(outputs[order], k=k, M=M), logs[order])
    assert logs.argmax() == outputs.argmax()


def test_a_perfect_output_is_near_certain_where_softmax_is_not():
    outputs = torch.zeros(27)
    outputs[3] = 1.0
    assert float(outputs.softmax(0)[3]) == pytest.approx(0.095, abs=1e-3)
    assert float(link_probabilities(outputs)[3]) > 0.99


def test_floor():
    outputs = torch.tensor([1.0, -5.0, 0.0, 0.0])
    logs = link_log_probabilities(outputs, floor=0.01)
    assert logs.tolist() == pytest.approx([math.log(1 / 1.03)] + [math.log(0.01 / 1.03)] * 3)
    # Far above M the denominator would change its sign.
    assert int(link_probabilities(torch.tensor([40.0, 1.0]), k=15, M=30).argmax()) == 0


def test_the_dimension_of_the_classes():
    outputs = torch.rand(2, 5, 3)
    moved = link_probabilities(outputs, k=15, M=2, dim=1)
    assert torch.allclose(moved.movedim(1, -1), link_probabilities(outputs.movedim(1, -1), k=15, M=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "hinge"}, "unknown score 'hinge'"),
        ({"score": "link", "k": 0.0}, "k must be a positive finite number"),
        ({"score": "link", "M": math.nan}, "M must be a positive finite number"),
        ({"score": "scale", "scale": -1.0}, "scale must be a positive finite number"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        log_probabilities(torch.zeros(3), **options)
    with pytest.raises(ValueError, match="floor must be"):
        link_log_probabilities(torch.zeros(3), floor=0.0)

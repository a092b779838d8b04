"""Probabilities from outputs: the method ``square`` against the minimiser of the expected loss, found numerically."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from sqloss_plugins import square_loss
from sqloss_plugins.probability import (
    LABEL_METHODS,
    METHODS,
    TEMPERATURES,
    fit_square,
    fit_temperature,
    label_probabilities,
    log_probabilities,
    probabilities,
)


def expected_loss(f, p, k, M):
    """The paper's equation 1 and its rescaling, in expectation over the true class; written anew, in NumPy."""
    total = 0.0
    for c in range(len(p)):
        others = sum(f[i] ** 2 for i in range(len(p)) if i != c)
        total += p[c] * (k * (f[c] - M) ** 2 + others) / len(p)
    return total


@pytest.mark.parametrize(("k", "M"), [(1.0, 1.0), (1.0, 15.0), (15.0, 30.0), (15.0, 2.608), (0.5, 2.0)])
def test_square_inverts_the_minimiser_of_the_expected_loss(k, M):
    p = np.array([0.55, 0.3, 0.1, 0.05])
    best = minimize(expected_loss, np.zeros(4), args=(p, k, M), tol=1e-14, method="BFGS", options={"gtol": 1e-10}).x
    found = probabilities(torch.tensor(best), "square", k=k, M=M)
    assert found.numpy() == pytest.approx(p, abs=1e-6)


@settings(deadline=None)
@given(
    st.integers(2, 9),
    st.floats(0.1, 50),
    st.floats(0.1, 50),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.sampled_from(METHODS),
    st.integers(0, 2**31),
)
def test_every_method_gives_probabilities(num_classes, k, M, dtype, method, seed):
    outputs = (torch.randn(5, num_classes, generator=torch.Generator().manual_seed(seed)) * 3 * M).to(dtype)
    logs = log_probabilities(outputs, method, k=k, M=M, temperature=0.7)
    assert logs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(logs).all()
    assert logs.exp().sum(-1).tolist() == pytest.approx([1.0] * 5, rel=1e-5)
    assert torch.allclose(torch.log_softmax(logs, -1), logs, atol=1e-4)
    assert torch.equal(probabilities(outputs, method, k=k, M=M, temperature=0.7), logs.exp())


@given(st.integers(0, 2**31), st.floats(0.2, 20), st.floats(0.5, 40), st.sampled_from(METHODS))
def test_the_order_of_the_classes_does_not_matter(seed, k, M, method):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.rand(7, generator=generator, dtype=torch.float64) * M
    order = torch.randperm(7, generator=generator)
    logs = log_probabilities(outputs, method, k=k, M=M, temperature=2.0)
    assert torch.allclose(log_probabilities(outputs[order], method, k=k, M=M, temperature=2.0), logs[order])
    assert logs.argmax() == outputs.argmax()


@pytest.mark.parametrize("temperature", [TEMPERATURES[0], 1.0, 0.25, TEMPERATURES[-1]])
def test_temperature_divides_the_outputs(temperature):
    """softmax(f / T): a small T makes the probabilities sharp, and T = 1 is the softmax itself."""
    f = torch.tensor([[1.0, 0.2, -0.5], [0.0, 3.0, 2.9]], dtype=torch.float64)
    expected = np.exp(f.numpy() / temperature)
    expected /= expected.sum(1, keepdims=True)
    found = probabilities(f, "temperature", temperature=temperature)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    torch.testing.assert_close(probabilities(f, "softmax", temperature=temperature), f.softmax(-1))


def test_a_temperature_after_square():
    """p^(1/T), normalised, with p at least the floor; T = 1 is the method as it is."""
    f = torch.tensor([[1.0, 0.2, -0.5], [0.0, 0.4, 0.6]], dtype=torch.float64)
    p = np.maximum(f.numpy() / (3 * 2 - 2 * f.numpy()), 0.01) ** (1 / 0.7)
    found = probabilities(f, "square", k=3, M=2, temperature=0.7, floor=0.01)
    np.testing.assert_allclose(found.numpy(), p / p.sum(1, keepdims=True), rtol=1e-12)
    torch.testing.assert_close(probabilities(f, temperature=1.0 + 1e-12), probabilities(f))


def test_fitted_temperatures_and_floors():
    """Targets in exact proportion to p: what was done to p is found again."""
    p, targets = torch.tensor([0.5, 0.25, 0.125, 0.125]), torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
    logits = p.log().expand(8, 4)
    for temperature in (0.05, 1.0, 2.5):
        assert fit_temperature(logits * temperature, targets) == pytest.approx(temperature, rel=1e-2)
    for power, expected in ((1.0, 1.0), (2.0, 2.0), (0.5, 0.5)):
        q = p**power / (p**power).sum()
        outputs = (15 * 2 * q / (1 + 14 * q)).expand(8, 4)  # the minimiser for q
        assert fit_square(outputs, targets, k=15, M=2)[1] == pytest.approx(expected, rel=1e-2)
    certain = torch.eye(4)[[0] * 9]
    floor, temperature = fit_square(certain, torch.tensor([0] * 6 + [1, 2, 3]))
    found = probabilities(certain, floor=floor, temperature=temperature)[0].tolist()
    assert found == pytest.approx([6 / 9] + [1 / 9] * 3, rel=1e-2)
    for function in (fit_temperature, fit_square):
        with pytest.raises(ValueError, match="which must be there and finite"):
            function(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
        for targets in ([0, 1], [0, 1, 3], [0, 1, -100]):
            with pytest.raises(ValueError, match="a target for each row of outputs, from 0 to C - 1"):
                function(torch.zeros(3, 3), torch.tensor(targets))
        with pytest.raises(ValueError, match="which must be there and finite"):
            function(torch.full((1, 3), math.nan), torch.zeros(1, dtype=torch.long))


def test_likelihood_of_a_known_population():
    """Outputs fitted to a sample: the square method's likelihood is the entropy of the source, softmax's far off."""
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(3 * torch.randn(6, 5, generator=generator, dtype=torch.float64), 1)
    contexts = torch.arange(6).repeat(5000)
    train, test = (torch.multinomial(p[contexts], 1, generator=generator)[:, 0] for _ in range(2))
    counts = torch.zeros(6, 5, dtype=torch.float64).index_put_(
        (contexts, train), torch.ones(1).double(), accumulate=True
    )
    frequencies = counts / counts.sum(1, keepdim=True)
    for k, M in ((1.0, 1.0), (15.0, 2.0), (1.0, 15.0)):
        outputs = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([outputs], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def closure(outputs=outputs, optimizer=optimizer, k=k, M=M):
            optimizer.zero_grad()
            loss = square_loss(outputs, frequencies, k=k, M=M)
            loss.backward()
            return loss

        optimizer.step(closure)
        nll = {
            method: -log_probabilities(outputs.detach(), method, k=k, M=M)[contexts, test].mean().item()
            for method in ("square", "softmax")
        }
        entropy = -(p.log()[contexts, test].mean().item())
        assert nll["square"] == pytest.approx(entropy, rel=0.01)
        assert nll["softmax"] > 1.3 * entropy


def test_temperatures():
    assert (TEMPERATURES[0], TEMPERATURES[-1]) == pytest.approx((100.0, 0.01))
    assert any(temperature == pytest.approx(1.0) for temperature in TEMPERATURES)


def test_a_perfect_output_is_near_certain_where_softmax_is_not():
    outputs = torch.zeros(27)
    outputs[3] = 1.0
    assert float(probabilities(outputs, "softmax")[3]) == pytest.approx(0.095, abs=1e-3)
    assert float(probabilities(outputs)[3]) > 0.99


def test_floor():
    outputs = torch.tensor([1.0, -5.0, 0.0, 0.0])
    logs = log_probabilities(outputs, floor=0.01)
    assert logs.tolist() == pytest.approx([math.log(1 / 1.03)] + [math.log(0.01 / 1.03)] * 3)
    # Far above M the denominator would change its sign.
    assert int(probabilities(torch.tensor([40.0, 1.0]), k=15, M=30).argmax()) == 0


@pytest.mark.parametrize("method", METHODS)
def test_the_dimension_of_the_classes(method):
    outputs = torch.rand(2, 5, 3)
    moved = probabilities(outputs, method, k=15, M=2, temperature=0.5, dim=1)
    expected = probabilities(outputs.movedim(1, -1), method, k=15, M=2, temperature=0.5)
    assert torch.allclose(moved.movedim(1, -1), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "hinge"}, "unknown method 'hinge': choose from softmax, square, temperature"),
        ({"method": "square", "k": 0.0}, "k must be a positive finite number"),
        ({"method": "square", "M": math.nan}, "M must be a positive finite number"),
        ({"method": "square", "floor": 0.0}, r"floor must be in \(0, 1\]"),
        ({"method": "square", "floor": 1.5}, r"floor must be in \(0, 1\]"),
        ({"method": "temperature", "temperature": -1.0}, "the temperature must be a positive finite number"),
        ({"method": "temperature", "temperature": math.inf}, "the temperature must be a positive finite number"),
    ],
)
def test_wrong_arguments(options, message):
    for function in (probabilities, log_probabilities):
        with pytest.raises(ValueError, match=message):
            function(torch.zeros(3), **options)


# ---------------------------------------------------------------- multi-label


@given(st.floats(0.05, 50), st.floats(0.05, 50), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 2**31))
def test_each_class_by_itself_inverts_the_minimiser(k, M, dtype, seed):
    p = torch.rand(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    outputs = (k * M * p / (1 + (k - 1) * p)).to(dtype)
    found = label_probabilities(outputs, "square", k=k, M=M)
    assert found.dtype == dtype
    # k spreads the outputs unevenly, and their rounding with them.
    assert torch.allclose(found.double(), p, rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-5)


@given(st.floats(0.05, 50), st.floats(0.05, 50))
def test_a_class_counts_from_its_threshold_on(k, M):
    threshold = k * M / (k + 1)
    outputs = torch.tensor([threshold * 0.999, threshold * 1.001], dtype=torch.float64)
    assert (label_probabilities(outputs, "square", k=k, M=M) >= 0.5).tolist() == [False, True]
    assert label_probabilities(outputs.new_tensor(threshold), k=k, M=M).item() == pytest.approx(0.5)


@given(
    st.floats(0.05, 50),
    st.floats(0.05, 50),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.sampled_from(LABEL_METHODS),
    st.integers(0, 2**31),
)
def test_label_probabilities_are_between_0_and_1_and_in_order(k, M, dtype, method, seed):
    outputs = (torch.randn(20, generator=torch.Generator().manual_seed(seed)) * 3 * M).to(dtype).sort().values
    found = label_probabilities(outputs, method, k=k, M=M)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.min() >= 0
    assert found.max() <= 1
    assert found.diff().min() > -1e-6
    found = label_probabilities(torch.tensor([-math.inf, math.inf], dtype=dtype), method, k=k, M=M)
    assert found.tolist() == [0.0, 1.0]
    found = label_probabilities(torch.tensor([-1.0, 0.0, M, 2 * M], dtype=dtype), "square", k=k, M=M)
    assert found[:2].tolist() == [0.0, 0.0]
    assert found[2:].tolist() == pytest.approx([1.0, 1.0], abs=k * torch.finfo(dtype).eps)


def test_methods_of_labels():
    outputs = torch.tensor([[0.7, 0.6, -0.2]])
    assert label_probabilities(outputs).tolist()[0] == pytest.approx([0.7, 0.6, 0.0])  # and no sum of one
    torch.testing.assert_close(label_probabilities(outputs, "sigmoid"), 1 / (1 + (-outputs).exp()))
    assert math.isnan(label_probabilities(torch.tensor(math.nan)).item())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "softmax"}, "unknown method 'softmax': choose from square, sigmoid"),
        ({"k": -1.0}, "k must be a positive finite number"),
        ({"M": math.inf}, "M must be a positive finite number"),
    ],
)
def test_wrong_arguments_of_label_probabilities(options, message):
    with pytest.raises(ValueError, match=message):
        label_probabilities(torch.zeros(3), **options)

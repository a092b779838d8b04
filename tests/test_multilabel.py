"""The losses of multi-label classification against their equations, in float64 and class by class."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import sqloss_plugins
from sqloss_plugins.losses import (
    LOSSES,
    MultiLabelCrossEntropy,
    MultiLabelSquareLoss,
    check_loss,
    make_loss,
    multilabel_square_loss,
    square_loss,
)
from sqloss_plugins.probability import LABEL_METHODS, label_probabilities

MODULES = {name: spec.multilabel for name, spec in LOSSES.items() if spec.multilabel is not None}


def row(loss, f, q, w, k, M):
    """One row: outputs f, targets q and class weights w, all of length C."""
    total = 0.0
    for i in range(len(f)):
        if loss == "square":
            term = q[i] * k * (f[i] - M) ** 2 + (1 - q[i]) * f[i] ** 2
        else:
            term = q[i] * np.logaddexp(0, -f[i]) + (1 - q[i]) * np.logaddexp(0, f[i])
        total += w[i] * term
    return total / len(f)


def reference(loss, f, q, w, reduction, k, M):
    rows = np.array([row(loss, f[n], q[n], w, k, M) for n in range(len(f))])
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


def made(loss, k=3.0, M=2.0, **options):
    return MODULES[loss](**options, **({"k": k, "M": M} if loss == "square" else {}))


def batch(N, C, seed, hard=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(N, C, generator=generator, dtype=torch.float64) * 3
    q = torch.rand(N, C, generator=generator, dtype=torch.float64)
    w = torch.rand(C, generator=generator, dtype=torch.float64) + 0.1
    return f.to(dtype), (q.round() if hard else q).to(dtype), w


# ---------------------------------------------------------------- values


@settings(max_examples=200)
@given(
    st.sampled_from(list(MODULES)),
    st.integers(1, 5),
    st.integers(1, 7),
    st.floats(0.05, 50),
    st.floats(0.05, 50),
    st.sampled_from(["none", "sum", "mean"]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_equals_the_equation(loss, N, C, k, M, reduction, dtype, is_weighted, hard, seed):
    f, q, w = batch(N, C, seed, hard, dtype)
    w = w if is_weighted else None
    found = made(loss, k, M, weight=w, reduction=reduction)(f, q)
    weights = np.ones(C) if w is None else w.numpy()
    expected = reference(loss, f.double().numpy(), q.double().numpy(), weights, reduction, k, M)
    assert found.dtype == dtype
    assert found.shape == expected.shape
    # Narrow dtypes are computed in float32: their error is that of rounding the result alone.
    rtol = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, torch.finfo(dtype).eps)
    if np.abs(expected).max() < torch.finfo(dtype).max:
        np.testing.assert_allclose(found.double().numpy(), expected, rtol=rtol, atol=rtol * 1e-3)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 7), st.booleans(), st.integers(0, 2**31))
def test_cross_entropy_is_pytorchs(N, C, is_weighted, seed):
    """The mean over everything is PyTorch's own mean, weighted too; the row's loss is its mean over the classes."""
    f, q, w = batch(N, C, seed)
    w = w if is_weighted else None
    wanted = F.binary_cross_entropy_with_logits(f, q, weight=w, reduction="none")
    torch.testing.assert_close(made("cross_entropy", weight=w)(f, q), wanted.mean())
    torch.testing.assert_close(made("cross_entropy", weight=w, reduction="none")(f, q), wanted.mean(1))


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(2, 7), st.floats(0.05, 50), st.floats(0.05, 50), st.integers(0, 2**31))
def test_is_the_soft_target_form_where_a_row_sums_to_one(N, C, k, M, seed):
    f, q, _ = batch(N, C, seed)
    p = q / q.sum(1, keepdim=True)
    torch.testing.assert_close(multilabel_square_loss(f, p, k=k, M=M), square_loss(f, p, k=k, M=M))
    # Elsewhere what multiplies f_i^2 is 1 - q_i in the one and sum(q) - q_i in the other.
    difference = ((q.sum(1, keepdim=True) - 1.0) * f.square()).mean()
    torch.testing.assert_close(square_loss(f, q, k=k, M=M) - multilabel_square_loss(f, q, k=k, M=M), difference)


@pytest.mark.parametrize(("k", "M"), [(1.0, 1.0), (1.0, 15.0), (15.0, 2.6), (0.5, 2.0)])
def test_the_minimiser_gives_the_probability_of_each_class(k, M):
    """Of classes that depend on each other: the expectation is over all sets of three classes."""
    sets = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    shares = np.array([0.05, 0.1, 0.0, 0.2, 0.3, 0.05, 0.1, 0.2])
    p = shares @ sets

    def expected_loss(f):
        return sum(share * row("square", f, q, np.ones(3), k, M) for share, q in zip(shares, sets, strict=True))

    best = minimize(expected_loss, np.zeros(3), tol=1e-14, method="BFGS", options={"gtol": 1e-9}).x
    assert best == pytest.approx(k * M * p / (1 + (k - 1) * p), abs=1e-5)
    found = label_probabilities(torch.tensor(best), "square", k=k, M=M)
    assert found.numpy() == pytest.approx(p, abs=1e-6)
    # With the targets p the gradient is zero there: a class's own term alone decides its output.
    f = torch.tensor(k * M * p / (1 + (k - 1) * p), requires_grad=True)
    multilabel_square_loss(f, torch.tensor(p), k=k, M=M).backward()
    assert f.grad.abs().max() < 1e-14


# ---------------------------------------------------------------- gradients, dtypes, shapes


@pytest.mark.parametrize("loss", list(MODULES))
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_gradients(loss, reduction):
    f, q, w = batch(3, 4, 0)
    function = made(loss, weight=w, reduction=reduction)
    f.requires_grad_()
    q.requires_grad_()
    assert torch.autograd.gradcheck(function, (f, q))
    assert torch.autograd.gradgradcheck(function, (f, q))


@pytest.mark.parametrize("loss", list(MODULES))
def test_gradients_stay_narrow_and_results_widen_under_autocast(loss):
    f, q, w = batch(4, 5, 1, dtype=torch.bfloat16)
    f.requires_grad_()
    function = made(loss, weight=w)
    function(f, q.double()).backward()  # targets of another dtype
    wide = f.detach().double().requires_grad_()
    function(wide, q.double()).backward()
    assert f.grad.dtype == torch.bfloat16
    torch.testing.assert_close(f.grad.double(), wide.grad, rtol=1e-2, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert function(f, q).dtype == torch.float32


@pytest.mark.parametrize("loss", list(MODULES))
def test_rows_and_classes_are_by_themselves(loss):
    f, q, w = batch(6, 4, 2)
    rows = made(loss, weight=w, reduction="none")
    torch.testing.assert_close(rows(f[2], q[2]), rows(f, q)[2])
    assert rows(f[2], q[2]).shape == ()
    torch.testing.assert_close(made(loss, weight=w)(f[2], q[2]), rows(f, q)[2])
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(made(loss, weight=w[order])(f[:, order], q[:, order]), made(loss, weight=w)(f, q))
    single = torch.stack([made(loss, weight=w[i : i + 1])(f[:, i : i + 1], q[:, i : i + 1]) for i in range(4)])
    torch.testing.assert_close(single.mean(), made(loss, weight=w)(f, q))


@pytest.mark.parametrize("loss", list(MODULES))
def test_under_torchs_transforms_and_compiler(loss):
    f, q, w = batch(6, 4, 3)
    function = made(loss, weight=w)
    wanted = torch.autograd.functional.jacobian(lambda x: function(x, q), f)
    torch.testing.assert_close(torch.func.grad(function)(f, q), wanted)
    per_example = torch.func.vmap(torch.func.grad(function))(f, q)
    torch.testing.assert_close(per_example / 6, wanted)
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(f, q), function(f, q))


# ---------------------------------------------------------------- modules and names


def test_modules():
    f, q, w = batch(3, 4, 4)
    module = MultiLabelSquareLoss(w, reduction="sum", k=3.0, M=2.0)
    torch.testing.assert_close(module(f, q), multilabel_square_loss(f, q, w, reduction="sum", k=3.0, M=2.0))
    assert repr(module) == "MultiLabelSquareLoss(k=3, M=2)"
    for other in (module, MultiLabelCrossEntropy(w)):
        assert list(other.state_dict()) == ["weight"]
        assert other.float().weight.dtype == torch.float32


def test_losses_by_name():
    assert set(MODULES) == {"square", "cross_entropy"}
    for spec in LOSSES.values():
        assert (spec.multilabel is None) == (spec.multilabel_method is None)
        assert spec.multilabel_method in (None, *LABEL_METHODS)
    module = make_loss("square", k=3.0, is_multi_label=True, reduction="sum")
    assert (type(module), module.k, module.M, module.reduction) == (MultiLabelSquareLoss, 3.0, 1.0, "sum")
    assert type(make_loss("cross_entropy", is_multi_label=True)) is MultiLabelCrossEntropy
    with pytest.raises(ValueError, match=r"the loss squentropy has no form .*: choose from square, cross_entropy"):
        check_loss("squentropy", is_multi_label=True)
    with pytest.raises(ValueError, match="the loss cross_entropy has neither"):
        make_loss("cross_entropy", k=2.0, is_multi_label=True)
    for name in ("MultiLabelCrossEntropy", "MultiLabelSquareLoss", "multilabel_square_loss"):
        assert getattr(sqloss_plugins, name) is getattr(sqloss_plugins.losses, name)


WRONG = [
    (torch.zeros(3, 4), torch.zeros(3, 5), None, ValueError, r"shape \(3, 4\) and the targets of shape \(3, 5\)"),
    (torch.zeros(3, 4), torch.zeros(3), None, ValueError, r"both are of shape \(N, C\) or \(C\)"),
    (torch.zeros(3, 4, 2), torch.zeros(3, 4, 2), None, ValueError, r"both are of shape \(N, C\) or \(C\)"),
    (torch.zeros(()), torch.zeros(()), None, ValueError, r"both are of shape \(N, C\) or \(C\)"),
    (torch.zeros(3, 4), torch.zeros(3, 4).long(), None, RuntimeError, "floating point, 0.0 or 1.0 for each class"),
    (torch.zeros(3, 4), torch.zeros(3, 4).bool(), None, RuntimeError, "floating point, 0.0 or 1.0 for each class"),
    (torch.zeros(3, 4).long(), torch.zeros(3, 4), None, NotImplementedError, "outputs must be floating point"),
    (torch.zeros(3, 4), torch.zeros(3, 4), torch.ones(3), RuntimeError, r"each of the 4 classes, got shape \(3,\)"),
    (torch.zeros(3, 4), torch.zeros(3, 4), torch.ones(3, 4), RuntimeError, "one value for each of the 4 classes"),
]


@pytest.mark.parametrize("loss", list(MODULES))
@pytest.mark.parametrize(("f", "q", "w", "error", "words"), WRONG)
def test_what_does_not_fit(loss, f, q, w, error, words):
    with pytest.raises(error, match=words):
        made(loss, weight=w)(f, q)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0.0}, "k must be a positive finite number"),
        ({"M": float("inf")}, "M must be a positive finite number"),
        ({"reduction": "batchmean"}, "batchmean is not a valid value for reduction"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        MultiLabelSquareLoss(**options)
    with pytest.raises(ValueError, match=words):
        multilabel_square_loss(torch.zeros(2, 3), torch.zeros(2, 3), **options)

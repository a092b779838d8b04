"""The losses against the equations, against PyTorch's cross-entropy, and against themselves."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference
from toy_loss import BrierLoss

from sqloss_plugins.losses import (
    LOSSES,
    LinearSquareLoss,
    LossSpec,
    SquareLoss,
    SquentropyLoss,
    check_loss,
    make_loss,
    square_loss,
    squentropy_loss,
)
from sqloss_plugins.probability import METHODS, log_probabilities

FUNCTIONS = {"square": square_loss, "squentropy": squentropy_loss, "cross_entropy": F.cross_entropy}
OURS = ("square", "squentropy")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def functional(loss, *args, **options):
    if loss != "square":
        options = {name: value for name, value in options.items() if name not in ("k", "M", "prior_weight")}
    return FUNCTIONS[loss](*args, **options)


@st.composite
def problems(draw, kinds=("index", "probabilities")):
    """Inputs, targets and every option, over all shapes that cross-entropy takes."""
    C = draw(st.integers(1, 7))
    shape = draw(st.sampled_from([(C,), (1, C), (5, C), (3, C, 4), (2, C, 3, 2), (2, C, 2, 1, 3)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.1, 1.0, 10.0]))
    input = torch.from_numpy(rng.normal(0.0, spread, shape))
    target_shape = () if len(shape) == 1 else shape[:1] + shape[2:]
    options = {"reduction": draw(st.sampled_from(["none", "sum", "mean"]))}
    if draw(st.sampled_from(kinds)) == "index":
        target = torch.from_numpy(np.asarray(rng.integers(0, C, target_shape)))
        ignored = draw(st.sampled_from([None, -100, -1, 0, C, 255]))
        if ignored is not None:
            options["ignore_index"] = ignored
            mask = torch.from_numpy(np.asarray(rng.random(target_shape) < draw(st.sampled_from([0.3, 1.0]))))
            target = torch.where(mask, torch.tensor(ignored), target)
    else:
        target = torch.from_numpy(rng.dirichlet(np.ones(C), target_shape))
        target = target.movedim(-1, 0 if len(shape) == 1 else 1).contiguous()
    if draw(st.booleans()):
        options["weight"] = torch.from_numpy(rng.uniform(0.1, 3.0, C))
    options["label_smoothing"] = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    options["k"] = draw(st.sampled_from([1.0, 0.3, 15.0]))
    options["M"] = draw(st.sampled_from([1.0, 0.5, 15.0, 30.0]))
    if draw(st.booleans()):
        options["prior_weight"] = torch.from_numpy(rng.uniform(0.1, 3.0, C))
    return input, target, options


@pytest.mark.parametrize("loss", list(FUNCTIONS))
@settings(max_examples=300)
@given(problem=problems())
def test_equals_the_reference(loss, problem):
    """To 1e-12; cross-entropy too, which shows that the reference itself has PyTorch's conventions."""
    input, target, options = problem
    ours = functional(loss, input, target, **options)
    theirs = reference(loss, input, target, **options)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", OURS)
@settings(max_examples=60)
@given(problem=problems())
def test_gradients(loss, problem):
    """First and second derivatives, against finite differences."""
    input, target, options = problem
    scale = input.abs().max().clamp_min(1.0)
    input = (input / scale).requires_grad_()
    options["M"] = min(options["M"], 1.0)
    if (target == options.get("ignore_index", -100)).all() and options["reduction"] == "mean":
        options["reduction"] = "sum"  # the mean is nan, and its gradient has a test of its own
    assert torch.autograd.gradcheck(lambda f: functional(loss, f, target, **options), input)
    assert torch.autograd.gradgradcheck(lambda f: functional(loss, f, target, **options), input)


@pytest.mark.parametrize("loss", OURS)
def test_gradients_of_probability_targets_and_weights(loss):
    """As in cross-entropy, class probabilities and (with them) weights can be learned."""
    f = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    q = torch.softmax(torch.randn(3, 4, dtype=torch.float64), 1).requires_grad_()
    w = torch.rand(4, dtype=torch.float64).add(0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, q, w: functional(loss, f, q, w, k=3.0, M=2.0), (f, q, w))


def test_k_and_M_by_hand():
    """k (f_c - M)^2 + the rest, over C, with numbers that tell k from k - 1 and from nothing."""
    f, c = torch.tensor([[2.0, -1.0, 4.0]]), torch.tensor([2])
    rest = 2.0**2 + 1.0**2
    for k, M in [(1, 1), (15, 1), (1, 30), (15, 30), (0.5, 7)]:
        assert square_loss(f, c, k=k, M=M).item() == pytest.approx((k * (4.0 - M) ** 2 + rest) / 3, rel=1e-6)
    assert square_loss(f, c, k=15, M=30, reduction="sum").item() == pytest.approx((15 * 26.0**2 + 5) / 3, rel=1e-6)


def test_initial_level():
    """Zero outputs cost k M^2 / C a target."""
    assert square_loss(torch.zeros(4, 1000), torch.arange(4), k=15, M=30).item() == pytest.approx(13.5)


@pytest.mark.parametrize(("k", "M"), [(1, 1), (1, 15), (15, 30), (0.3, 2)])
def test_minimiser_of_the_expected_loss(k, M):
    """At f_i = k M p_i / (1 + (k - 1) p_i), and nowhere else, the expectation over p has gradient zero."""
    p = torch.softmax(torch.randn(1, 6, dtype=torch.float64), 1)
    f = (k * M * p / (1 + (k - 1) * p)).requires_grad_()
    (gradient,) = torch.autograd.grad(square_loss(f, p, k=k, M=M), f)
    assert gradient.abs().max() < 1e-12 * M * k
    by_class = torch.stack([square_loss(f, torch.tensor([c]), k=k, M=M) for c in range(6)])
    assert (p[0] * by_class).sum().item() == pytest.approx(square_loss(f, p, k=k, M=M).item(), rel=1e-12)


@pytest.mark.parametrize("loss", OURS)
@settings(max_examples=40)
@given(problem=problems(kinds=("index",)), seed=st.integers(0, 1000))
def test_invariances(loss, problem, seed):
    """Neither the order of examples nor of classes matters, nor how the batch is cut."""
    input, target, options = problem
    if input.dim() != 2:
        return
    options["ignore_index"], target = -100, torch.where(target < 0, -100, target.clamp(0, input.shape[1] - 1))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(input.shape[0], generator=generator)
    classes = torch.randperm(input.shape[1], generator=generator)
    renamed = torch.where(target < 0, target, classes.argsort()[target.clamp_min(0)])
    permuted = {**options, "weight": options["weight"][classes] if "weight" in options else None}
    whole = functional(loss, input, target, **{**options, "reduction": "none"})
    assert torch.allclose(functional(loss, input[rows], target[rows], **{**options, "reduction": "none"}), whole[rows])
    assert torch.allclose(functional(loss, input[:, classes], renamed, **{**permuted, "reduction": "none"}), whole)
    parts = [functional(loss, f, c, **{**options, "reduction": "sum"}) for f, c in zip(input, target, strict=True)]
    assert torch.allclose(torch.stack(parts), whole)


@pytest.mark.parametrize("loss", OURS)
def test_memory_layout_does_not_matter(loss):
    f, c = torch.randn(6, 9), torch.randint(0, 6, (9,))
    assert torch.allclose(functional(loss, f.t(), c), functional(loss, f.t().contiguous(), c))
    wide = torch.zeros(9, 12)
    wide[:, ::2] = f.t()
    assert torch.allclose(functional(loss, wide[:, ::2], c), functional(loss, f.t(), c))


@pytest.mark.parametrize("loss", list(FUNCTIONS))
def test_nothing_left(loss):
    """Everything ignored, or no examples: sum 0, mean nan, gradient zero, none zeros, as in cross-entropy."""
    for f, c in [(torch.randn(4, 3), torch.full((4,), -100)), (torch.randn(0, 3), torch.zeros(0, dtype=torch.long))]:
        f.requires_grad_()
        assert functional(loss, f, c, reduction="sum").item() == 0.0
        assert functional(loss, f, c, reduction="none").tolist() == [0.0] * len(c)
        mean = functional(loss, f, c)
        assert math.isnan(mean.item())
        mean.backward()
        assert (f.grad == 0).all()


@pytest.mark.parametrize("loss", list(FUNCTIONS))
def test_what_padding_holds_does_not_count(loss):
    f = torch.randn(3, 4)
    f[1] = math.nan
    c = torch.tensor([1, -100, 2])
    assert functional(loss, f, c).item() == pytest.approx(functional(loss, f[[0, 2]], c[[0, 2]]).item())


BAD_CALLS = {
    "target out of range": (torch.randn(3, 4), torch.tensor([0, 4, 1]), {}),
    "negative target": (torch.randn(3, 4), torch.tensor([0, -1, 1]), {}),
    "target of int32": (torch.randn(3, 4), torch.tensor([0, 1, 1], dtype=torch.int32), {}),
    "float class indices": (torch.randn(3, 4), torch.tensor([0.0, 1.0, 1.0]), {}),
    "integer outputs": (torch.ones(3, 4, dtype=torch.long), torch.tensor([0, 1, 1]), {}),
    "complex outputs": (torch.ones(3, 4, dtype=torch.complex64), torch.tensor([0, 1, 1]), {}),
    "integer outputs, probabilities": (torch.ones(3, 4, dtype=torch.long), torch.rand(3, 4), {}),
    "two targets for one row": (torch.randn(4), torch.tensor([0, 1]), {}),
    "too few targets": (torch.randn(3, 4), torch.tensor([0, 1]), {}),
    "too many dimensions": (torch.randn(3, 4), torch.zeros(3, 2, dtype=torch.long), {}),
    "spatial shape": (torch.randn(3, 4, 5), torch.zeros(3, 4, dtype=torch.long), {}),
    "integer probabilities": (torch.randn(3, 4), torch.zeros(3, 4, dtype=torch.long), {}),
    "reduction": (torch.randn(3, 4), torch.tensor([0, 1, 1]), {"reduction": "average"}),
    "smoothing above 1": (torch.randn(3, 4), torch.tensor([0, 1, 1]), {"label_smoothing": 2.0}),
    "weight of the wrong size": (torch.randn(3, 4), torch.tensor([0, 1, 1]), {"weight": torch.ones(3)}),
    "weight of two dimensions": (torch.randn(3, 4), torch.tensor([0, 1, 1]), {"weight": torch.ones(3, 4)}),
    "ignored probabilities": (torch.randn(3, 4), torch.rand(3, 4), {"ignore_index": 1}),
    "weight and probabilities": (torch.randn(3, 4), torch.rand(3, 4), {"weight": torch.ones(5)}),
}


@pytest.mark.parametrize("loss", OURS)
@pytest.mark.parametrize("case", list(BAD_CALLS))
def test_errors_are_those_of_cross_entropy(loss, case):
    input, target, options = BAD_CALLS[case]
    with pytest.raises((IndexError, RuntimeError, ValueError)) as theirs:
        F.cross_entropy(input, target, **options)
    for extra in ({}, {"label_smoothing": 0.1}) if "label_smoothing" not in options else ({},):
        with pytest.raises(theirs.type):
            functional(loss, input, target, **options, **extra)


@pytest.mark.parametrize("loss", OURS)
def test_negative_label_smoothing_is_refused(loss):
    """torch.nn.functional.cross_entropy takes it for 0, without a word; a loss made by name does not."""
    for name in LOSSES:
        with pytest.raises(RuntimeError, match="label_smoothing must be between"):
            make_loss(name, label_smoothing=-0.1)
    with pytest.raises(RuntimeError, match="label_smoothing must be between"):
        functional(loss, torch.randn(3, 4), torch.tensor([0, 1, 1]), label_smoothing=-0.1)


@pytest.mark.parametrize("name", ["k", "M"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_k_and_M_must_be_positive(name, value):
    for call in (
        lambda: square_loss(torch.zeros(1, 2), torch.tensor([0]), **{name: value}),
        lambda: SquareLoss(**{name: value}),
        lambda: make_loss("square", **{name: value}),
    ):
        with pytest.raises(ValueError, match=f"{name} must be a positive finite number"):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("k", "M"), [(1.0, 1.0), (1.0, 15.0), (15.0, 30.0)])
@pytest.mark.parametrize("stage", ["initial", "converged"])
def test_precision(dtype, k, M, stage):
    """Rounding errors of values and gradients: at most twice those of the same expression in plain torch."""
    N, C = 512, 300
    c = torch.randint(0, C, (N,))
    f = torch.randn(N, C, dtype=torch.float64)
    if stage == "converged":  # where sum_i f_i^2 - f_c^2 would cancel
        f = f * 1e-2
        f[torch.arange(N), c] += M
    f = f.to(dtype)

    def plain(f):
        mask = torch.zeros_like(f).scatter_(1, c[:, None], 1.0)
        return (mask * k * (f - M) ** 2 + (1 - mask) * f**2).sum(1) / C

    def errors(function, f):
        f = f.clone().requires_grad_()
        value = function(f)
        (gradient,) = torch.autograd.grad(value.sum(), f)
        return [(a.double() - b).square().mean().sqrt() for a, b in zip((value, gradient), exact, strict=True)]

    exact = (torch.zeros(()), torch.zeros(()))
    wide = f.double().requires_grad_()
    value = plain(wide)
    exact = (value.detach(), torch.autograd.grad(value.sum(), wide)[0])
    ours = errors(lambda f: square_loss(f, c, k=k, M=M, reduction="none"), f)
    theirs = errors(plain, f)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine <= 2 * other


@pytest.mark.parametrize("loss", OURS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", ["index", "probabilities", "smoothed"])
def test_half_precision_is_computed_in_float32(loss, dtype, target):
    """The result is that of float32, rounded once."""
    f = (3 * torch.randn(40, 50)).to(dtype).requires_grad_()
    c = torch.softmax(torch.randn(40, 50), 1) if target == "probabilities" else torch.randint(0, 50, (40,))
    options = {"k": 15.0, "M": 3.0, "label_smoothing": 0.1 if target == "smoothed" else 0.0, "reduction": "none"}
    options["weight"] = None if target == "probabilities" else torch.rand(50)
    wide = f.detach().float().requires_grad_()
    results = [functional(loss, x, c, **options) for x in (f, wide)]
    gradients = [torch.autograd.grad(r.float().sum(), x)[0] for r, x in zip(results, (f, wide), strict=True)]
    for half, full in (results, gradients):
        assert half.dtype == dtype
        assert torch.equal(half, full.to(dtype))


def test_meta_tensors():
    """Shapes without data, as for estimating memory."""
    f, c = torch.zeros(3, 4, device="meta"), torch.zeros(3, dtype=torch.long, device="meta")
    assert square_loss(f, c, reduction="none").shape == squentropy_loss(f, c, reduction="none").shape == (3,)


@pytest.mark.parametrize("loss", list(FUNCTIONS))
@pytest.mark.parametrize("target", ["index", "probabilities", "smoothed"])
def test_autocast_computes_in_float32(loss, target):
    f = torch.randn(8, 5, dtype=torch.bfloat16, requires_grad=True)
    c = torch.softmax(torch.randn(8, 5), 1) if target == "probabilities" else torch.randint(0, 5, (8,))
    options = {"label_smoothing": 0.1} if target == "smoothed" else {}
    with torch.autocast("cpu", torch.bfloat16):
        result = functional(loss, f, c, k=15.0, M=30.0, **options)
    result.backward()
    assert result.dtype == torch.float32
    assert f.grad.dtype == torch.bfloat16
    expected = functional(loss, f.detach().float(), c, k=15.0, M=30.0, **options)
    assert torch.allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("loss", OURS)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])}])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiles_without_graph_breaks(loss, options, reduction):
    f, c = torch.randn(8, 5), torch.tensor([0, 1, 2, -100, 4, 0, 1, 2])
    compiled = torch.compile(
        lambda f: functional(loss, f, c, k=15.0, M=30.0, reduction=reduction, **options).sum(),
        fullgraph=True,
        backend="aot_eager",
    )
    results = []
    for function in (compiled, lambda f: functional(loss, f, c, k=15.0, M=30.0, reduction=reduction, **options).sum()):
        g = f.clone().requires_grad_()
        value = function(g)
        value.backward()
        results.append((value.detach(), g.grad))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("loss", OURS)
def test_compiles_with_dynamic_shapes(loss):
    """One graph serves every batch size, small or large, and every k and M."""
    compiled = torch.compile(FUNCTIONS[loss], fullgraph=True, dynamic=True, backend="eager")
    for N, k in ((8, 1.0), (40, 15.0), (3000, 2.0)):
        f, c = torch.randn(N, 30), torch.randint(0, 30, (N,))
        options = {"k": k, "M": 2.0 * k} if loss == "square" else {}
        assert torch.allclose(compiled(f, c, **options), functional(loss, f, c, **options), rtol=1e-5)
    exported = torch.export.export(
        SquareLoss() if loss == "square" else SquentropyLoss(),
        (torch.randn(8, 30), torch.randint(0, 30, (8,))),
        dynamic_shapes=({0: torch.export.Dim("N", min=1, max=10**6)},) * 2,
    )
    assert torch.allclose(exported.module()(f, c), functional(loss, f, c), rtol=1e-5)


@pytest.mark.parametrize("loss", OURS)
def test_compiles_with_the_default_backend(loss):
    f, c = torch.randn(8, 5, requires_grad=True), torch.randint(0, 5, (8,))
    value = torch.compile(lambda f: functional(loss, f, c), fullgraph=True)(f)
    value.backward()
    g = f.detach().clone().requires_grad_()
    expected = functional(loss, g, c)
    expected.backward()
    assert torch.allclose(value, expected)
    assert torch.allclose(f.grad, g.grad)


@pytest.mark.parametrize("loss", OURS)
def test_function_transforms(loss):
    """torch.func: gradients of single examples, which sum to that of the batch, and Hessians."""
    f, c = torch.randn(6, 5), torch.randint(0, 5, (6,))
    single = torch.func.vmap(torch.func.grad(lambda f, c: functional(loss, f, c, reduction="sum")))(f, c)
    whole = torch.func.grad(lambda f: functional(loss, f, c, reduction="sum"))(f)
    assert torch.allclose(single, whole, atol=1e-6)
    if loss == "square":
        hessian = torch.func.hessian(lambda f: square_loss(f, torch.tensor(1), k=3.0))(f[0])
        assert torch.allclose(hessian, torch.diag(torch.tensor([2.0, 6.0, 2.0, 2.0, 2.0])) / 5)


@pytest.mark.parametrize("options", [{"k": 1e308}, {"M": 1e300}])
def test_k_and_M_beyond_float32_give_infinity(options):
    """In small and large inputs alike, as any overflow does."""
    for rows in (4, 20000):
        assert square_loss(torch.zeros(rows, 5), torch.zeros(rows, dtype=torch.int64), **options) == math.inf


@pytest.mark.parametrize("loss", OURS)
def test_large_inputs_take_the_same_value(loss):
    """Small inputs of the plain square loss have a way of their own; both ways agree."""
    f, c = torch.randn(700, 200, dtype=torch.float64), torch.randint(0, 200, (700,))
    for reduction in ("mean", "sum"):
        whole = functional(loss, f, c, reduction=reduction)
        parts = [functional(loss, f[i : i + 7], c[i : i + 7], reduction=reduction) for i in range(0, 700, 7)]
        merged = torch.stack(parts).mean() if reduction == "mean" else torch.stack(parts).sum()
        assert torch.allclose(whole, merged, rtol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss", OURS)
def test_every_device_equals_float64(loss, device):
    f, c = torch.randn(64, 100), torch.randint(0, 100, (64,))
    c[::5] = -100
    g = f.to(device, copy=True).requires_grad_()
    value = functional(loss, g, c.to(device), k=15.0, M=30.0)
    value.backward()
    wide = f.double().requires_grad_()
    expected = functional(loss, wide, c, k=15.0, M=30.0)
    expected.backward()
    assert torch.allclose(value.cpu().double(), expected, rtol=1e-5)
    assert torch.allclose(g.grad.cpu().double(), wide.grad, rtol=1e-4, atol=1e-7)


def test_modules_do_what_the_functions_do():
    f, c, w = torch.randn(5, 4), torch.tensor([0, 1, 2, -1, 3]), torch.rand(4)
    options = {"ignore_index": -1, "reduction": "sum", "label_smoothing": 0.2}
    for name in LOSSES:
        extra = {"k": 15.0, "M": 30.0} if name == "square" else {}
        module = make_loss(name, weight=w, **options, **extra)
        assert torch.equal(module(f, c), functional(name, f, c, w, **options, **extra))
        assert "weight" in dict(module.named_buffers())
    assert repr(SquareLoss(k=15, M=30)) == "SquareLoss(k=15, M=30)"
    assert SquentropyLoss(w).weight is w


def test_registry():
    assert list(LOSSES) == ["square", "cross_entropy", "squentropy"]
    with pytest.raises(ValueError, match="unknown loss 'hinge': choose from square, cross_entropy, squentropy"):
        make_loss("hinge")
    with pytest.raises(ValueError, match="k and M rescale the square loss, and the loss cross_entropy has neither"):
        make_loss("cross_entropy", k=15.0)


@pytest.mark.parametrize("name", list(LOSSES))
def test_what_an_entry_says_is_true(name):
    """Of the options, of k and M, of the methods, and of the loss of a linear layer."""
    spec = LOSSES[name]
    assert set(spec.methods) <= set(METHODS)
    takes = inspect.signature(spec.module).parameters
    assert {"weight", "ignore_index", "reduction", "label_smoothing"} <= set(takes)
    assert ({"k", "M"} <= set(takes)) == spec.is_rescaled
    assert check_loss(name) is spec
    assert spec.paper_column in ("square", "cross_entropy")
    f, c = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 3, (6,))
    rescaling = {"k": 15.0, "M": 3.0} if spec.is_rescaled else {}
    for method in spec.methods:
        logs = log_probabilities(f, method, **rescaling)
        torch.testing.assert_close(logs.exp().sum(-1), torch.ones(6, dtype=torch.float64))
    if spec.of_linear_layer is not None:
        W = torch.randn(3, 4, dtype=torch.float64)
        torch.testing.assert_close(spec.of_linear_layer(f, W, c, **rescaling), make_loss(name, **rescaling)(f @ W.T, c))


def test_a_loss_is_one_file_and_one_entry(monkeypatch):
    """The file is toy_loss.py; what the package does by a loss's name then works."""
    monkeypatch.setitem(LOSSES, "brier", LossSpec(BrierLoss))
    f, c, w = torch.randn(5, 4), torch.tensor([0, 1, -1, 2, 3]), torch.rand(4)
    per_row = (torch.softmax(f, 1) - F.one_hot(c.clamp_min(0), 4)).square().sum(1)
    per_row[2] = 0.0
    torch.testing.assert_close(make_loss("brier", ignore_index=-1, reduction="none")(f, c), per_row)
    weighted = (per_row * w[c.clamp_min(0)]).sum() / w[c[c >= 0]].sum()
    torch.testing.assert_close(make_loss("brier", weight=w, ignore_index=-1)(f, c), weighted)
    with pytest.raises(ValueError, match="the loss brier has neither"):
        check_loss("brier", M=2.0)
    with pytest.raises(ValueError, match="choose from square, cross_entropy, squentropy, brier"):
        make_loss("hinge")
    test_what_an_entry_says_is_true("brier")


@pytest.mark.parametrize("module", [SquareLoss, SquentropyLoss, LinearSquareLoss])
def test_modules_write_their_arguments_out(module):
    """For help() and editors: no *args or **options; the defaults are those of PyTorch's module."""
    theirs = (
        getattr(torch.nn, "LinearCrossEntropyLoss", None) if module is LinearSquareLoss else torch.nn.CrossEntropyLoss
    )
    parameters = inspect.signature(module).parameters
    assert all(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    for name, parameter in inspect.signature(theirs or torch.nn.CrossEntropyLoss).parameters.items():
        if name in parameters and (theirs is not None or name != "ignore_index"):
            assert parameters[name].default == parameter.default, name


@pytest.mark.parametrize("name", LOSSES)
def test_where_new_tensors_are_made_on_another_device(name):
    outputs, targets, loss = torch.randn(8, 5), torch.arange(8) % 5, make_loss(name)
    with torch.device("meta"):
        found = loss(outputs, targets)
    assert torch.equal(found, loss(outputs, targets))

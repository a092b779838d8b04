"""The square loss without the outputs: against the equation, on outputs that numpy computes, and the direct form."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import reference
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.linear_precision import errors, states
from sqloss_plugins.losses import (
    ClassShard,
    GradientAccumulation,
    LinearSquareLoss,
    _products,
    cost_model,
    gram_pays,
    linear_square,
    linear_square_loss,
    square_loss,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@st.composite
def problems(draw, kinds=("index", "probabilities")):
    """Input, weight, target and every option."""
    N, d, C = draw(st.sampled_from([None, 1, 2, 5])), draw(st.sampled_from([1, 3, 8])), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = () if N is None else (N,)
    input = torch.from_numpy(rng.normal(0.0, draw(st.sampled_from([0.1, 1.0, 10.0])), (*shape, d)))
    W = torch.from_numpy(rng.normal(0.0, 1.0, (C, d)))
    options = {"reduction": draw(st.sampled_from(["none", "sum", "mean"]))}
    if draw(st.sampled_from(kinds)) == "index":
        target = torch.from_numpy(np.asarray(rng.integers(0, C, shape)))
        ignored = draw(st.sampled_from([None, -100, -1, 0, C]))
        if ignored is not None:
            options["ignore_index"] = ignored
            mask = torch.from_numpy(np.asarray(rng.random(shape) < draw(st.sampled_from([0.3, 1.0]))))
            target = torch.where(mask, torch.tensor(ignored), target)
    else:
        target = torch.from_numpy(rng.dirichlet(np.ones(C), shape))
    if draw(st.booleans()):
        options["linear_bias"] = torch.from_numpy(rng.normal(0.0, 1.0, C))
    if draw(st.booleans()):
        options["weight"] = torch.from_numpy(rng.uniform(0.1, 3.0, C))
    options["label_smoothing"] = draw(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
    options["k"] = draw(st.sampled_from([1.0, 0.3, 15.0]))
    options["M"] = draw(st.sampled_from([1.0, 0.5, 30.0]))
    if draw(st.booleans()):
        options["prior_weight"] = torch.from_numpy(rng.uniform(0.1, 3.0, C))
    return input, W, target, options


def has_gram(target, options):
    weighted = {"weight", "prior_weight"} & set(options)
    return not target.is_floating_point() and not (weighted and options["label_smoothing"])


@pytest.mark.parametrize("impl", linear_square.IMPLEMENTATIONS)
@settings(max_examples=300)
@given(problem=problems())
def test_equals_the_reference(impl, problem):
    """To 1e-10 of the outputs' size, in every combination of options that there is a form for."""
    input, W, target, options = problem
    if impl == "gram" and not has_gram(target, options):
        with pytest.raises(ValueError, match="no Gram form"):
            linear_square_loss(input, W, target, **options, impl=impl)
        return
    ours = linear_square_loss(input, W, target, **options, impl=impl)
    outputs = input.numpy() @ W.numpy().T
    rest = {name: value for name, value in options.items() if name != "linear_bias"}
    if "linear_bias" in options:
        outputs = outputs + options["linear_bias"].numpy()
    theirs = reference("square", outputs, target, **rest)
    scale = 1.0 + float(np.square(outputs).sum()) + options["k"] * options["M"] ** 2
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-10, atol=1e-14 * scale)


@settings(max_examples=80)
@given(problem=problems(kinds=("index",)))
def test_gradients(problem):
    """First and second derivatives by input, weight and bias, against finite differences."""
    input, W, target, options = problem
    if not has_gram(target, options):
        options["label_smoothing"] = 0.0
    input, options["M"] = input / input.abs().max().clamp_min(1.0), min(options["M"], 1.0)
    if (target == options.get("ignore_index", -100)).all() and options["reduction"] == "mean":
        options["reduction"] = "sum"  # the mean is nan
    b = options.pop("linear_bias", None)
    leaves = [tensor.requires_grad_() for tensor in (input, W, *([] if b is None else [b]))]

    def loss(input, W, b=None):
        return linear_square_loss(input, W, target, linear_bias=b, **options, impl="gram")

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


@pytest.mark.parametrize("impl", ["auto", "gram"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_penalty(impl, dtype):
    """Where ``auto`` takes the Gram form; the penalty's gradients are those of the direct form."""
    input, W, b, y = layer(N=300, d=8, C=400, dtype=dtype)
    y[::7] = -100
    assert cost_model.prefers_gram(input, W)
    found = {}
    for form in (impl, "direct"):
        loss = linear_square_loss(input, W, y, linear_bias=b, label_smoothing=0.1, k=15, M=2, impl=form)
        dH, dW = torch.autograd.grad(loss, (input, W), create_graph=True)
        assert dH.requires_grad
        penalty = dH.float().square().sum() * 100 + dW.float().square().sum()
        found[form] = gradients(loss.float() + penalty, (input, W, b))
    for mine, other in zip(found[impl], found["direct"], strict=True):
        assert mine.dtype == dtype
        assert (mine - other).norm() <= (1e-5 if dtype == torch.float32 else 0.02) * other.norm()


def test_second_derivatives_of_what_the_layer_and_its_input_share():
    """No gradient is counted twice where the weight is made of the input."""
    results = []
    for impl in ("gram", "direct"):
        input, _, _, y = layer(N=6, d=6, C=6, bias=False)
        loss = linear_square_loss(input, input.square(), y.clamp_max(5), k=3, M=2, impl=impl)
        (gradient,) = torch.autograd.grad(loss, input, create_graph=True)
        results.append(gradients(gradient.square().sum(), (input,))[0])
    torch.testing.assert_close(*results)


def test_second_derivatives_with_an_accumulation_are_refused():
    input, W, b, y = layer()
    loss = linear_square_loss(input, W, y, linear_bias=b, impl="gram", accumulation=GradientAccumulation(W, b))
    with pytest.raises(RuntimeError, match="second derivatives and batched gradients"):
        torch.autograd.grad(loss, input, create_graph=True)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("more", [(2,), (3, 2)])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("kind", ["index", "probabilities"])
def test_layers_of_several_dimensions(bias, more, reduction, kind):
    """A weight of shape (C, d1, ..., dK, d): the loss of outputs of shape (N, C, d1, ..., dK)."""
    N, d, C = 5, 3, 4
    g = torch.Generator().manual_seed(0)
    input = torch.randn(N, d, generator=g, dtype=torch.float64, requires_grad=True)
    W = torch.randn(C, *more, d, generator=g, dtype=torch.float64, requires_grad=True)
    b = torch.randn(C, *more, generator=g, dtype=torch.float64, requires_grad=True) if bias else None
    y = torch.randint(0, C, (N, *more), generator=g)
    y[0] = -100
    if kind == "probabilities":
        y = torch.softmax(torch.randn(N, C, *more, generator=g, dtype=torch.float64), 1)
    options = {"reduction": reduction, "label_smoothing": 0.1, "weight": torch.arange(1.0, 5.0).double()}
    outputs = torch.einsum("c...d,nd->nc...", W, input) + (0.0 if b is None else b)
    loss = linear_square_loss(input, W, y, linear_bias=b, k=15, M=2, **options)
    expected = square_loss(outputs, y, k=15, M=2, **options)
    torch.testing.assert_close(loss, expected)
    for mine, other in zip(gradients(loss.sum(), (input, W, b)), gradients(expected.sum(), (input, W, b)), strict=True):
        torch.testing.assert_close(mine, other)
    with pytest.raises(ValueError, match="dK have no Gram form"):
        linear_square_loss(input, W, y, linear_bias=b, impl="gram")
    module = LinearSquareLoss(d, C, out_features=more, bias=bias, dtype=torch.float64, k=15, M=2, **options)
    module.linear.weight.data = W.detach().reshape(-1, d)
    if b is not None:
        module.linear.bias.data = b.detach().flatten()
    torch.testing.assert_close(module(input, y), expected)


def test_ignore_index_none():
    """PyTorch's default in linear_cross_entropy: -100 for class indices, and nothing else for probabilities."""
    input, W, _, y = layer()
    y[0] = -100
    q = torch.softmax(torch.randn(12, 9, dtype=torch.float64), 1)
    for impl in linear_square.IMPLEMENTATIONS:
        expected = linear_square_loss(input, W, y, ignore_index=-100, impl=impl)
        for options in ({}, {"ignore_index": None}):
            assert torch.equal(linear_square_loss(input, W, y, impl=impl, **options), expected)
    assert torch.equal(linear_square_loss(input, W, q, ignore_index=None), linear_square_loss(input, W, q))
    with pytest.raises(RuntimeError, match="ignore_index is for class indices"):
        linear_square_loss(input, W, q, ignore_index=-100)
    module = LinearSquareLoss(6, 9, dtype=torch.float64)
    assert module.ignore_index is None
    assert module(input, q).isfinite()
    assert module(input, y).isfinite()


def layer(N=12, d=6, C=9, dtype=torch.float64, device="cpu", bias=True, seed=0):
    """Input, weight, bias and targets, the first three as leaves that want gradients."""
    g = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(N, d, generator=g), torch.randn(C, d, generator=g) / d**0.5, torch.randn(C, generator=g)]
    input, W, b = (tensor.to(device, dtype).requires_grad_() for tensor in tensors)
    return input, W, b if bias else None, torch.randint(0, C, (N,), generator=g).to(device)


def gradients(loss, leaves):
    return torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None and leaf.requires_grad])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("wanted", ["input", "weight", "bias", "input weight", "weight bias", "input bias"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_only_the_gradients_that_are_needed(device, reduction, wanted, smoothing):
    input, W, b, y = layer(device=device)
    for name, leaf in (("input", input), ("weight", W), ("bias", b)):
        leaf.requires_grad_(name in wanted.split())
    options = {"linear_bias": b, "reduction": reduction, "label_smoothing": smoothing, "k": 15, "M": 2}
    ours = gradients(linear_square_loss(input, W, y, impl="gram", **options), (input, W, b))
    theirs = gradients(linear_square_loss(input, W, y, impl="direct", **options), (input, W, b))
    assert len(ours) == len(wanted.split())
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("device", DEVICES)
def test_large_features(device):
    """Where G is computed in strips."""
    input, W, b, y = layer(N=7, d=258, C=11, device=device)
    ours = gradients(linear_square_loss(input, W, y, linear_bias=b, k=15, M=3, impl="gram"), (input, W, b))
    theirs = gradients(square_loss(F.linear(input, W, b), y, k=15, M=3), (input, W, b))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() > 8:
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_the_outputs_are_never_built():
    N, d, C = 600, 8, 700
    input, W, b, y = layer(N=N, d=d, C=C)
    with LargestTensor() as largest:
        linear_square_loss(input, W, y, linear_bias=b, label_smoothing=0.1, k=15, M=3).backward()
    assert 0 < largest.numel <= C * d
    with LargestTensor() as largest:
        linear_square_loss(input, W, y, linear_bias=b, k=15, M=3, impl="direct").backward()
    assert largest.numel == N * C  # so the measurement can tell


@pytest.mark.parametrize("impl", linear_square.IMPLEMENTATIONS)
def test_ignored_rows_cost_and_count_nothing(impl):
    """Not even what is in them: padding may hold anything."""
    input, W, b, y = layer(N=300, C=400)
    y[::2] = -100
    expected = linear_square_loss(input[1::2], W, y[1::2], linear_bias=b, k=15, M=2, impl=impl)
    with torch.no_grad():
        input[::2] = torch.nan
    loss = linear_square_loss(input, W, y, linear_bias=b, k=15, M=2, impl=impl)
    torch.testing.assert_close(loss, expected)
    dH, dW, _ = gradients(loss, (input, W, b))
    assert torch.equal(dH[::2], torch.zeros_like(dH[::2]))
    assert dW.isfinite().all()
    rows = linear_square_loss(input, W, y, linear_bias=b, k=15, M=2, impl=impl, reduction="none")
    assert torch.equal(rows[::2], torch.zeros_like(rows[::2]))
    torch.testing.assert_close(rows[1::2].mean(), expected)


@pytest.mark.parametrize("impl", linear_square.IMPLEMENTATIONS)
@pytest.mark.parametrize("N", [0, 3])
def test_nothing_left(impl, N):
    """An empty batch, and one whose targets are all ignored: as cross-entropy, nan for the mean and no gradient."""
    input, W, b, _ = layer(N=N)
    y = torch.full((N,), -100)
    for reduction, expected in (("mean", torch.nan), ("sum", 0.0)):
        loss = linear_square_loss(input, W, y, linear_bias=b, reduction=reduction, impl=impl)
        torch.testing.assert_close(loss.detach(), torch.tensor(expected, dtype=loss.dtype), equal_nan=True)
        for gradient in gradients(loss, (input, W, b)):
            assert torch.equal(gradient, torch.zeros_like(gradient))
    assert linear_square_loss(input, W, y, reduction="none", impl=impl).tolist() == [0.0] * N


@pytest.mark.parametrize("impl", ["direct", "gram"])
def test_no_continuous_memory_is_needed(impl):
    input, W, b, y = layer(N=8, d=6, C=8)
    loss = linear_square_loss(input, W, y, linear_bias=b, k=15, M=2, impl=impl)
    strided = [torch.stack([t.detach()] * 2, -1)[..., 0] for t in (input, W, b, y)]
    assert not any(t.is_contiguous() for t in strided)
    again = linear_square_loss(strided[0], strided[1], strided[3], linear_bias=strided[2], k=15, M=2, impl=impl)
    torch.testing.assert_close(loss.detach(), again)


def test_nan_in_the_weight_is_seen():
    input, W, _, y = layer()
    with torch.no_grad():
        W[3, 2] = torch.nan
    assert linear_square_loss(input, W, y, impl="gram").isnan()


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), smoothing=st.sampled_from([0.0, 0.2]))
def test_invariances(seed, smoothing):
    """The order of rows and classes does not matter, nor how the rows are cut."""
    input, W, b, y = layer(seed=seed)
    options = {"label_smoothing": smoothing, "k": 15, "M": 2, "impl": "gram", "reduction": "sum"}
    loss = linear_square_loss(input, W, y, linear_bias=b, **options)
    g = torch.Generator().manual_seed(seed)
    rows, classes = torch.randperm(len(y), generator=g), torch.randperm(len(W), generator=g)
    place = torch.argsort(classes)
    permuted = linear_square_loss(input[rows], W[classes], place[y[rows]], linear_bias=b[classes], **options)
    torch.testing.assert_close(permuted, loss)
    cut = [linear_square_loss(input[part], W, y[part], linear_bias=b, **options) for part in (slice(5), slice(5, None))]
    torch.testing.assert_close(sum(cut), loss)


# ---------------------------------------------------------------- a frozen weight, accumulation


@pytest.fixture
def gram_count(monkeypatch):
    """How often a product of two N x d or C x d matrices was computed: G, or H^T H."""
    calls = []
    original = _products.gram_of
    monkeypatch.setattr(_products, "gram_of", lambda a, b, dtype: calls.append(a) or original(a, b, dtype))
    return calls


def test_a_frozen_weights_gram_is_kept(gram_count):
    input, W, _, y = layer(bias=False)
    W.requires_grad_(False)
    first = linear_square_loss(input, W, y, k=15, M=2, impl="gram")
    assert torch.equal(linear_square_loss(input, W, y, k=15, M=2, impl="gram"), first)
    assert len(gram_count) == 1
    W.mul_(2.0)
    changed = linear_square_loss(input, W, y, k=15, M=2, impl="gram")
    torch.testing.assert_close(changed, linear_square_loss(input, W, y, k=15, M=2, impl="direct"))
    assert len(gram_count) == 2
    W.data = W.data.clone() + 1.0  # as Module.to does it: the version stays the same
    moved = linear_square_loss(input, W, y, k=15, M=2, impl="gram")
    torch.testing.assert_close(moved, linear_square_loss(input, W, y, k=15, M=2, impl="direct"))


def test_a_trained_weights_gram_is_not_kept(gram_count):
    input, W, _, y = layer(bias=False)
    for _ in range(2):
        linear_square_loss(input, W, y, impl="gram")
    assert len(gram_count) == 2


@pytest.mark.parametrize(("bias", "trained"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_accumulation_gives_the_same_gradient(gram_count, bias, trained, smoothing):
    input, W, b, y = layer(N=40, bias=bias)
    W.requires_grad_(trained)
    W.grad = torch.ones_like(W)  # of another use of a tied weight
    options = {"linear_bias": b, "label_smoothing": smoothing, "k": 15, "M": 2}
    expected = gradients(linear_square_loss(input, W, y, impl="direct", reduction="sum", **options), (input, W, b))
    gram_count.clear()
    accumulation = GradientAccumulation(W, b)
    for part in torch.arange(len(y)).chunk(4):
        linear_square_loss(
            input[part], W, y[part], reduction="sum", accumulation=accumulation, impl="gram", **options
        ).backward()
    assert torch.equal(W.grad, torch.ones_like(W))
    accumulation.finish()
    accumulation.finish()
    ours = [leaf.grad for leaf in (input, W, b) if leaf is not None and leaf.requires_grad]
    for mine, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine - 1.0 if mine.shape == W.shape else mine, other)
    assert sum(len(a) == len(W) for a in gram_count) == 1, "G is computed once"


def test_accumulation_over_steps_and_its_misuse():
    input, W, b, y = layer()
    accumulation = GradientAccumulation(W, b)
    options = {"linear_bias": b, "k": 15, "M": 2, "accumulation": accumulation, "impl": "gram"}
    optimizer = torch.optim.SGD([W, b], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        linear_square_loss(input, W, y, **options).backward()
        accumulation.finish()
        (expected,) = gradients(linear_square_loss(input, W, y, linear_bias=b, k=15, M=2, impl="direct"), (W,))
        torch.testing.assert_close(W.grad, expected)
        optimizer.step()
    linear_square_loss(input, W, y, **options).backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"before GradientAccumulation.finish\(\)"):
        linear_square_loss(input, W, y, **options)
    accumulation.finish()
    W.data.mul_(0.5)  # between two steps even what the version counter does not see is seen
    torch.testing.assert_close(
        linear_square_loss(input, W, y, **options), linear_square_loss(input, W, y, linear_bias=b, k=15, M=2)
    )
    linear_square_loss(input, W, y, **options).backward()
    with pytest.raises(ValueError, match="must stay the same"):
        linear_square_loss(input, W, y, **(options | {"k": 3, "label_smoothing": 0.1})).backward()
    with pytest.raises(ValueError, match="another layer's"):
        linear_square_loss(input, W, y, **(options | {"linear_bias": None}))
    with pytest.raises(ValueError, match="of the Gram form"):
        linear_square_loss(input, W, y, **(options | {"impl": "direct"}))


@pytest.mark.parametrize(("steps", "form"), [(1, "direct"), (100, "gram")])
def test_auto_accumulates_where_it_pays_for_the_whole_step(steps, form):
    """What goes the direct way has its gradient at once."""
    input, W, b, y = layer(N=130, d=600, C=1000, dtype=torch.float32)
    accumulation = GradientAccumulation(W, b, steps=steps)
    linear_square_loss(input, W, y, linear_bias=b, k=15, M=2, accumulation=accumulation).backward()
    assert (W.grad is None) == (form == "gram")
    accumulation.finish()
    expected = gradients(linear_square_loss(input, W, y, linear_bias=b, k=15, M=2, impl="direct"), (W, b))
    for leaf, gradient in zip((W, b), expected, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-4, atol=1e-5)


CLASS_WEIGHTS = torch.arange(1.0, 10.0, dtype=torch.float64)
SHARDED = {
    "mean": {},
    "weighted": {"weight": CLASS_WEIGHTS},
    "smoothed": {"label_smoothing": 0.1},
    "rows": {"reduction": "none", "weight": CLASS_WEIGHTS},
    "nothing left": {"weight": CLASS_WEIGHTS},
    "nothing left, sum": {"reduction": "sum", "weight": CLASS_WEIGHTS},
}


def sharded_layer(name):
    """The whole layer, some targets of which are ignored, or all."""
    input, W, b, y = layer()
    y[slice(None) if name.startswith("nothing") else 1] = -100
    return input, W, b, y


@pytest.mark.parametrize("first", [-1, 1])
def test_a_shard_beyond_the_classes_is_refused(first):
    """As where a vocabulary is padded, and its padding is not among the classes."""
    input, W, b, y = layer()
    with pytest.raises(ValueError, match="the 9 classes of the shard"):
        linear_square_loss(input, W, y, linear_bias=b, shard=ClassShard(first=first, num_classes=9))


def on_a_rank(rank, folder):
    """One rank of two, with five and four of the nine classes; saves loss and gradients."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name, options in SHARDED.items():
        input, W, b, y = sharded_layer(name)
        mine = slice(0, 5) if rank == 0 else slice(5, 9)
        W, b = W.detach()[mine].requires_grad_(), b.detach()[mine].requires_grad_()
        shard = ClassShard(first=mine.start, num_classes=9)
        loss = linear_square_loss(input, W, y, linear_bias=b, shard=shard, k=15, M=2, **options)
        (gradient,) = torch.autograd.grad(loss.sum(), input, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()
        torch.save((loss.detach(), *gradients(loss.sum(), (input, W, b))), f"{folder}/{name}.{rank}")
    torch.distributed.destroy_process_group()


def test_classes_on_two_ranks(tmp_path):
    """Every rank has the loss and the input's gradient, and its classes' share of the parameters' gradients.

    The input's gradient is the sum over the ranks, which has no second derivative: an error, not a wrong one.
    """
    torch.multiprocessing.spawn(on_a_rank, (str(tmp_path),), nprocs=2)
    for name, options in SHARDED.items():
        input, W, b, y = sharded_layer(name)
        loss = linear_square_loss(input, W, y, linear_bias=b, k=15, M=2, impl="direct", **options)
        dH, dW, db = gradients(loss.sum(), (input, W, b))
        for rank, classes in enumerate((slice(0, 5), slice(5, 9))):
            found = torch.load(tmp_path / f"{name}.{rank}")
            for mine, other in zip(found, (loss.detach(), dH, dW[classes], db[classes]), strict=True):
                torch.testing.assert_close(mine, other, equal_nan=True)


# ---------------------------------------------------------------- precision


def assert_as_precise(state, dtype, k, M, impl, only_gradients=False):
    """Loss and gradients, or these alone: at most 2 to 3.5 times the direct form's error in the same dtype."""
    problem = states(state, (500, 256, 250), k, M, dtype)
    factor = 3.5 if state == "positive weights" else 2.5 if only_gradients else 2.0
    found = zip(errors(*problem, k, M, impl), errors(*problem, k, M, "direct"), strict=True)
    for ours, theirs in list(found)[only_gradients:]:
        assert ours <= factor * theirs


@pytest.mark.parametrize("state", ["initial", "positive weights", "converged"])
@pytest.mark.parametrize(("k", "M"), [(1, 1), (12, 1), (15, 30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precision(state, k, M, dtype, monkeypatch):
    monkeypatch.setattr(cost_model, "gram_pays", lambda *args, **kwargs: True)
    only_gradients = (state, k, dtype) == ("converged", 1, torch.float32)
    assert_as_precise(state, dtype, k, M, "auto", only_gradients)


@pytest.mark.parametrize("residual", [0.01, 0.001])
@pytest.mark.parametrize("k", [1, 8])
def test_precision_in_float32_of_a_small_k(k, residual):
    """Close to the targets the Gram form's value is imprecise, unless it is to be precise; its gradients are not."""
    problem = states("converged", (500, 256, 250), k, 1, torch.float32, residual=residual)
    direct = errors(*problem, k, 1, "direct")
    for precise_value in (False, True):
        value, *slopes = errors(*problem, k, 1, "gram", precise_value)
        assert value <= 0.1 * direct[0] or not precise_value
        for mine, other in zip(slopes, direct[1:], strict=True):
            assert mine <= 2.5 * other


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("with_accumulation", [False, True])
def test_a_precise_value(bias, with_accumulation):
    """As the value of float64, also with bias, label smoothing and rows that are ignored; gradients as without it."""
    input, W, b, y = layer(N=300, C=400, bias=bias, dtype=torch.float32)
    y[::7] = -100
    options = {"k": 2.0, "M": 3.0, "label_smoothing": 0.1}
    accumulation = GradientAccumulation(W, b) if with_accumulation else None
    options["precise_value"] = True
    loss = linear_square_loss(input, W, y, linear_bias=b, **options, impl="gram", accumulation=accumulation)
    exact = linear_square_loss(
        input.double(), W.double(), y, linear_bias=None if b is None else b.double(), **options, impl="direct"
    )
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-7, atol=0.0)
    loss.backward()
    if accumulation is not None:
        accumulation.finish()
    leaves = [leaf for leaf in (input, W, b) if leaf is not None]
    for leaf, other in zip(leaves, gradients(exact, leaves), strict=True):
        torch.testing.assert_close(leaf.grad, other.to(leaf.dtype), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("state", ["initial", "converged"])
@pytest.mark.parametrize(("k", "M"), [(1, 1), (15, 30)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision_of_16_bit_products(state, k, M, dtype, monkeypatch):
    """The way of a GPU, whose products have 16-bit operands and 32-bit results."""
    product = _products.mm

    def mm(a, b):
        assert a.dtype == b.dtype
        return product(a.float(), b.float()) if a.dtype == dtype else product(a, b)

    monkeypatch.setattr(linear_square, "product_dtype", lambda input: input.dtype)
    monkeypatch.setattr(_products, "mm", mm)
    assert_as_precise(state, dtype, k, M, "gram")


def test_row_products_are_exact_but_for_one_rounding():
    """The difference of large terms is what the loss near its end is made of."""
    a, b = np.random.default_rng(0).normal(size=(2, 400, 512)).astype(np.float32)
    exact = (a.astype(np.float64) * b.astype(np.float64)).sum(1)
    found = _products.row_products(torch.from_numpy(a), torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast(device):
    """float32 loss and the parameters' own dtype for their gradients, about those of full precision."""
    input, W, b, y = layer(N=300, d=32, C=400, dtype=torch.float32, device=device)
    plain = linear_square_loss(input, W, y, linear_bias=b, k=15, M=2, impl="direct")
    with torch.autocast(device, torch.bfloat16):
        loss = linear_square_loss(input.bfloat16(), W, y, linear_bias=b, k=15, M=2, impl="gram")
        ours = gradients(loss, (input, W, b))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain, rtol=1e-2, atol=0.0)
    for mine, other in zip(ours, gradients(plain, (input, W, b)), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize("device", DEVICES)
def test_deterministic(device):
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            input, W, b, y = layer(N=400, C=3, dtype=torch.float32, device=device)
            runs.append(gradients(linear_square_loss(input, W, y, linear_bias=b, impl="gram"), (input, W, b)))
        for first, second in zip(*runs, strict=True):
            assert torch.equal(first, second)
    finally:
        torch.use_deterministic_algorithms(False)


# ---------------------------------------------------------------- how it is called


def test_the_module():
    torch.manual_seed(0)
    module = LinearSquareLoss(6, 9, bias=True, k=15, M=2, label_smoothing=0.1)
    input, y = torch.randn(12, 6), torch.randint(0, 9, (12,))
    expected = square_loss(module.linear(input), y, k=15, M=2, label_smoothing=0.1)
    torch.testing.assert_close(module(input, y), expected)
    assert "k=15, M=2, impl='auto'" in repr(module)
    if hasattr(torch.nn, "LinearCrossEntropyLoss"):
        theirs = torch.nn.LinearCrossEntropyLoss(6, 9, bias=True)
        assert theirs.load_state_dict(module.state_dict())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"impl": "fast"}, ValueError, "choose from auto, direct, gram"),
        ({"reduction": "max"}, ValueError, "reduction"),
        ({"k": 0.0}, ValueError, "k must be"),
        ({"M": float("nan")}, ValueError, "M must be"),
        ({"label_smoothing": 1.5}, RuntimeError, "label_smoothing"),
        ({"input": torch.zeros(4, 5)}, ValueError, "d = 5"),
        ({"input": torch.zeros(4, 2, 6)}, ValueError, r"\(N, d\)"),
        ({"input": torch.zeros(4, 6, dtype=torch.int64)}, NotImplementedError, "floating point"),
        ({"input": torch.zeros(4, 6, dtype=torch.bfloat16)}, RuntimeError, "one dtype"),
        ({"linear_bias": torch.zeros(5)}, ValueError, "linear_bias"),
        ({"linear_weight": torch.zeros(9, 6, 2)}, ValueError, "linear_weight"),
        ({"linear_weight": torch.zeros(9, 6, device="meta")}, ValueError, "linear_weight is on meta"),
        ({"target": torch.zeros(3, dtype=torch.int64)}, ValueError, "shape"),
        ({"target": torch.tensor([0, 1, 9, 2])}, IndexError, "Target 9 is out of bounds"),
        ({"target": torch.tensor([0, 1, -3, 2])}, IndexError, "Target -3 is out of bounds"),
        ({"weight": torch.ones(5)}, RuntimeError, "weight"),
    ],
)
@pytest.mark.parametrize("impl", linear_square.IMPLEMENTATIONS)
def test_what_does_not_fit_is_refused(change, error, words, impl):
    arguments = {"input": torch.zeros(4, 6), "linear_weight": torch.zeros(9, 6), "target": torch.tensor([0, 1, 2, 3])}
    with pytest.raises(error, match=words):
        linear_square_loss(**({"impl": impl} | arguments | change))


@pytest.mark.parametrize("device", DEVICES)
def test_a_target_out_of_range_is_an_exception(device):
    """Not an assertion on the device, after which CUDA is of no use."""
    input, W, _, y = layer(device=device)
    y[1] = 9
    for impl in linear_square.IMPLEMENTATIONS:
        checked_here = impl == "gram" or device == "cuda"
        with pytest.raises(IndexError, match="out of bounds for 9 classes" if checked_here else "out of bounds"):
            linear_square_loss(input, W, y, impl=impl)


def test_transforms_get_the_direct_form():
    input, W, _, y = layer(N=300, C=400, bias=False)
    expected = gradients(linear_square_loss(input, W, y, k=15, M=2), (W,))[0]
    transformed = torch.func.grad(lambda W: linear_square_loss(input.detach(), W, y, k=15, M=2))(W.detach())
    torch.testing.assert_close(transformed, expected)
    with pytest.raises(
        ValueError, match="transforms, forward-mode differentiation and subclasses of Tensor have no Gram"
    ):
        torch.func.grad(lambda W: linear_square_loss(input.detach(), W, y, impl="gram"))(W.detach())


@pytest.mark.parametrize("impl", linear_square.IMPLEMENTATIONS)
def test_a_compiled_step_calls_it_uncompiled(impl):
    input, W, b, y = layer(N=300, C=400)

    def step(input):
        return linear_square_loss(input * 2.0, W, y, linear_bias=b, k=15, M=2, impl=impl) + 1.0

    results = [
        (loss.detach(), *gradients(loss, (input, W, b)))
        for loss in (torch.compile(step, backend="eager")(input), step(input))
    ]
    for mine, other in zip(*results, strict=True):
        assert torch.equal(mine, other)


def test_the_import_is_quick():
    """Not even the compiler is imported, which takes seconds."""
    program = "import sys, sqloss_plugins.losses; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_which_form():
    """A language model's head has it, a small classifier's has not."""
    assert gram_pays(8192, 768, 50257)
    assert gram_pays(8192, 768, 50257, precise_value=True)
    assert gram_pays(16384, 2048, 248320)
    assert not gram_pays(32, 768, 2)
    assert not gram_pays(256, 2048, 1000)
    assert gram_pays(128, 2048, 50000, needs_weight=False, kept=True)
    assert not gram_pays(128, 2048, 50000, needs_weight=False)

"""The losses under PyTorch's tracers, transforms, kinds of differentiation and subclasses of Tensor."""

import functools

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import aot_function, nop
from torch.autograd import forward_ad
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
from torch.fx.experimental.proxy_tensor import make_fx

from sqloss_plugins.losses import linear_square_loss, square_loss, squentropy_loss


def of_a_layer(input, target, **options):
    """The loss of a layer's outputs, where the inputs take the place of outputs."""
    weight = torch.sin(torch.arange(300 * 7.0)).view(300, 7)
    return linear_square_loss(input, weight, target, k=15.0, M=2.0, **options)


LOSSES = {
    "cross_entropy": F.cross_entropy,  # shows that what is asked for can be had
    "square": square_loss,
    "square, k = 15": functools.partial(square_loss, k=15.0, M=2.0),
    "squentropy": squentropy_loss,
    "linear square": of_a_layer,
}
SMALL, LARGE = (8, 5), (300, 230)
"""Shapes of outputs below and above 65,536 elements, up to which the plain square loss has a fast path."""


def problem(loss, shape, ignored=0, seed=0):
    """Outputs and targets; of a layer that has 300 classes, inputs and targets."""
    g = torch.Generator().manual_seed(seed)
    if loss == "linear square":
        shape = (shape[0], 7)
    f, c = torch.randn(shape, generator=g), torch.randint(0, 5, shape[:1], generator=g)
    c[:ignored] = -100
    return f, c


TRACERS = {
    "make_fx": lambda function, f, c: make_fx(function)(f, c),
    "make_fx symbolic": lambda function, f, c: make_fx(function, tracing_mode="symbolic")(f, c),
    "jit.trace": lambda function, f, c: torch.jit.trace(function, (f, c)),
    "aot_function": lambda function, f, c: aot_function(function, fw_compiler=nop),
}


@pytest.mark.filterwarnings("ignore")  # jit.trace is deprecated
@pytest.mark.parametrize("tracer", list(TRACERS))
@pytest.mark.parametrize("loss", list(LOSSES))
def test_what_is_recorded_of_one_input_serves_others(loss, tracer):
    """Recorded with targets none of which is ignored, replayed with others; value and gradient."""

    def value_and_gradient(f, c):
        gradient, value = torch.func.grad_and_value(LOSSES[loss])(f, c)
        return value, gradient

    def value(f, c):
        return LOSSES[loss](f, c)

    other = problem(loss, SMALL, ignored=3, seed=1)
    for function in (value,) if tracer == "jit.trace" else (value, value_and_gradient):  # torch.jit has no torch.func
        traced = TRACERS[tracer](function, *problem(loss, SMALL))
        traced(*problem(loss, SMALL))
        torch.testing.assert_close(traced(*other), function(*other))


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("loss", list(LOSSES))
def test_forward_mode_differentiation(loss, shape):
    """The derivative in one direction, and that of the gradient, against reverse mode."""
    f, c = problem(loss, shape, ignored=1)
    direction = torch.randn(f.shape)
    leaf = f.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[loss](leaf, c), leaf, create_graph=True)
    (second,) = torch.autograd.grad((gradient * direction).sum(), leaf)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(f.clone().requires_grad_(), direction)
        value = LOSSES[loss](dual, c)
        found = forward_ad.unpack_dual(value).tangent
        found_second = forward_ad.unpack_dual(torch.autograd.grad(value, dual, create_graph=True)[0]).tangent
    torch.testing.assert_close(found, (gradient * direction).sum())
    torch.testing.assert_close(found_second, second)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("loss", list(LOSSES))
def test_batched_gradients(loss, shape, create_graph):
    """Several gradients at once, by ``is_grads_batched`` and by ``vmap``."""
    f, c = problem(loss, shape, ignored=1)
    f.requires_grad_()
    rows = LOSSES[loss](f, c, reduction="none")
    chosen = torch.eye(len(c))[:3]
    expected = torch.stack([torch.autograd.grad(rows, f, row, retain_graph=True)[0] for row in chosen])

    def gradient(row):
        return torch.autograd.grad(rows, f, row, retain_graph=True, create_graph=create_graph)[0]

    (batched,) = torch.autograd.grad(
        rows, f, chosen, retain_graph=True, create_graph=create_graph, is_grads_batched=True
    )
    torch.testing.assert_close(batched, expected)
    torch.testing.assert_close(torch.func.vmap(gradient)(chosen), expected)


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("what", ["target", "probabilities", "outputs", "weight"])
@pytest.mark.parametrize("loss", ["cross_entropy", "square", "square, k = 15", "squentropy"])
def test_tensors_on_two_devices_are_refused(loss, what, shape):
    f, c = problem(loss, shape)
    weight = None
    if what == "target":
        c = c.to("meta")
    elif what == "probabilities":
        c = torch.rand(shape, device="meta")
    elif what == "outputs":
        f = f.to("meta")
    else:
        weight = torch.ones(shape[1], device="meta")
    for options in ({}, {"label_smoothing": 0.1}):
        with pytest.raises(RuntimeError, match="device"):
            LOSSES[loss](f, c, weight, **options)


def on_a_rank(rank, folder):
    """One of two ranks that have parts of the outputs; saves losses and gradients."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for name, (outputs, targets) in PLACEMENTS.items():
        for loss in OPTIONS:
            f, c = problem(loss, SMALL, ignored=2)
            f = distribute_tensor(f, mesh, [outputs]).requires_grad_()
            c = distribute_tensor(c, mesh, [targets])
            found = []
            for options in OPTIONS[loss]:
                value = LOSSES[loss](f, c, **options)
                found += [value.full_tensor().detach()]
                found += [torch.autograd.grad(value.sum(), f)[0].full_tensor()]
            torch.save(found, f"{folder}/{name}.{loss}.{rank}")
    torch.distributed.destroy_process_group()


PLACEMENTS = {
    "rows": (Shard(0), Shard(0)),
    "classes": (Shard(1), Replicate()),
    "copies": (Replicate(), Replicate()),
}
OPTIONS = {
    "square": ({}, {"reduction": "none"}, {"label_smoothing": 0.1}),
    "square, k = 15": ({}, {"reduction": "none"}, {"label_smoothing": 0.1}),
    # Smoothed, it calls F.cross_entropy, which averages the ranks' means whatever number of targets they have.
    "squentropy": ({}, {"reduction": "none"}),
}


def test_distributed_tensors(tmp_path):
    """Outputs and targets that are DTensors, divided by rows or by classes."""
    torch.multiprocessing.spawn(on_a_rank, (str(tmp_path),), nprocs=2)
    for name in PLACEMENTS:
        for loss in OPTIONS:
            expected = []
            f, c = problem(loss, SMALL, ignored=2)
            f.requires_grad_()
            for options in OPTIONS[loss]:
                value = LOSSES[loss](f, c, **options)
                expected += [value.detach(), torch.autograd.grad(value.sum(), f)[0]]
            for rank in range(2):
                found = torch.load(tmp_path / f"{name}.{loss}.{rank}")
                for mine, theirs in zip(found, expected, strict=True):
                    torch.testing.assert_close(mine, theirs)

"""The sparse multi-label square loss of a linear layer against the loss of its outputs and dense targets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from sqloss_plugins.losses import linear_multilabel_square_loss, multilabel_square_loss


def layer(N, d, C, bias=True, dtype=torch.float64, share=0.3):
    """Input, weight, bias, sparse targets and the dense ones."""
    tensors = torch.randn(N, d), torch.randn(C, d) / d**0.5, torch.randn(C)
    input, W, b = (tensor.to(dtype).requires_grad_() for tensor in tensors)
    q = torch.rand(N, C) < share
    counts = q.sum(1)
    return (input, W, b if bias else None), (q.nonzero()[:, 1], counts.cumsum(0) - counts), q.to(dtype)


def both(leaves, sparse, q, reduction="mean", **options):
    """Loss and gradients, of this form and of the outputs."""
    input, W, b = leaves
    losses = (
        linear_multilabel_square_loss(input, W, *sparse, linear_bias=b, reduction=reduction, **options),
        multilabel_square_loss(torch.nn.functional.linear(input, W, b), q, reduction=reduction, **options),
    )
    wanted = [leaf for leaf in leaves if leaf is not None]
    scale = torch.rand(losses[0].shape, dtype=losses[0].dtype)
    return [(loss.detach(), *torch.autograd.grad(loss, wanted, scale)) for loss in losses]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    N=st.integers(0, 5),
    d=st.sampled_from([1, 3, 8]),
    C=st.integers(1, 9),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    bias=st.booleans(),
    reduction=st.sampled_from(["none", "sum", "mean"]),
    k=st.sampled_from([1.0, 0.3, 15.0]),
    M=st.sampled_from([1.0, 30.0]),
)
def test_is_the_loss_of_the_outputs(seed, N, d, C, share, bias, **options):
    torch.manual_seed(seed)
    for mine, other in zip(*both(*layer(N, d, C, bias, share=share), **options), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9 * options["k"] * options["M"] ** 2, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrower_dtypes(dtype):
    torch.manual_seed(0)
    rtol = 1e-5 if dtype == torch.float32 else 0.02
    for mine, other in zip(*both(*layer(60, 16, 300, dtype=dtype, share=0.01), k=3.0, M=2.0), strict=True):
        assert mine.dtype == dtype
        assert (mine - other).float().norm() <= rtol * other.float().norm()


def test_no_tensor_is_of_the_outputs_size():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.numel())
            return out

    (input, W, b), sparse, _ = layer(400, 4, 500, share=0.005)
    with Largest() as largest:
        linear_multilabel_square_loss(input, W, *sparse, linear_bias=b).backward()
    assert largest.size < 400 * 500 // 10


def test_second_derivatives_are_refused():
    (input, W, _), sparse, _ = layer(4, 3, 5)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(linear_multilabel_square_loss(input, W, *sparse), input, create_graph=True)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"input": torch.zeros(3, 5)}, ValueError, r"shape \(N, d\)"),
        ({"linear_bias": torch.zeros(5)}, ValueError, "linear_bias"),
        ({"classes": torch.tensor([0, 1, 9])}, IndexError, "Target 9 is out of bounds"),
        ({"classes": torch.tensor([0, -1, 2])}, IndexError, "Target -1 is out of bounds"),
        ({"classes": torch.tensor([1, 1, 2])}, ValueError, "twice in one row"),
        ({"classes": torch.zeros(3)}, RuntimeError, "int64"),
        ({"offsets": torch.tensor([0, 2])}, ValueError, "classes is of shape"),
        ({"offsets": torch.tensor([0, 3, 2])}, ValueError, "never falls"),
        ({"offsets": torch.tensor([0, 2, 4])}, ValueError, "never falls"),
        ({"offsets": torch.tensor([1, 2, 3])}, ValueError, "begins with 0"),
        ({"linear_weight": torch.zeros(9, 6, dtype=torch.float64)}, RuntimeError, "one dtype"),
        ({"linear_weight": torch.zeros(9, 6, device="meta")}, ValueError, "linear_weight is on meta"),
        ({"k": 0.0}, ValueError, "k must be"),
        ({"reduction": "max"}, ValueError, "reduction"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, words):
    arguments = {
        "input": torch.zeros(3, 6),
        "linear_weight": torch.zeros(9, 6),
        "classes": torch.tensor([0, 1, 2]),
        "offsets": torch.tensor([0, 2, 2]),
    }
    with pytest.raises(error, match=words):
        linear_multilabel_square_loss(**(arguments | change))

"""The factorised head against a plain layer, its direct loss and torch.optim.SGD, in float64."""

import copy
import io
import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from sqloss_plugins.losses import FactorisedSquareHead, _factor, factorised, multilabel_square_loss, square_loss


def sgd(layer, lr, weight_decay=0.0):
    """torch.optim.SGD, the bias without weight decay."""
    groups = [{"params": [layer.weight], "weight_decay": weight_decay}]
    if layer.bias is not None:
        groups.append({"params": [layer.bias], "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=lr)


def options_of(head):
    return {name: getattr(head, name) for name in ("k", "M", "label_smoothing", "ignore_index", "reduction")}


def both_losses(head, layer, input, target):
    """Backward passes of the head's loss and the plain layer's; returns losses and gradients of the input."""
    found = []
    for outputs in (lambda h: head(h, target), lambda h: square_loss(layer(h.double()), target, **options_of(head))):
        h = input.clone().requires_grad_()
        loss = outputs(h)
        loss.sum().backward()
        found.append((loss.detach().double(), h.grad.double()))
    return found


def assert_same(head, layer, rtol):
    for mine, other in ((head.weight, layer.weight), (head.bias, layer.bias)):
        if other is not None:
            assert (mine - other).norm() <= rtol * layer.weight.norm()


def batch(N=16, d=12, C=30, mean=0.0, dtype=torch.float64):
    return torch.randn(N, d, dtype=dtype) + mean, torch.randint(0, C, (N,))


@pytest.fixture
def moves(monkeypatch):
    """The times that directions of U were moved into V."""
    calls, move = [], _factor._move_directions

    def counted(U):
        calls.append(U)
        return move(U)

    monkeypatch.setattr(_factor, "_move_directions", counted)
    return calls


@pytest.mark.parametrize(
    ("steps", "dtype", "rtol", "keep_plain"),
    [(1000, torch.float32, 3e-6, False), (200, torch.float64, 1e-12, False), (200, torch.float32, 2e-5, True)],
)
def test_a_thousand_steps(steps, dtype, rtol, keep_plain, moves):
    """With a feature so large that U's direction for it vanishes over and over."""
    torch.manual_seed(0)
    mean = 2.0 * torch.randn(12, dtype=dtype)
    head = FactorisedSquareHead(12, 30, k=3.0, M=2.0, label_smoothing=0.1, dtype=dtype, keep_plain=keep_plain)
    layer = head.materialise().double()
    optimizer = sgd(layer, 0.0, weight_decay=1e-3)
    for t in range(steps):
        input, target = batch(mean=mean, dtype=dtype)
        (mine, dH), (other, dH_other) = both_losses(head, layer, input, target)
        assert abs(mine - other) <= rtol * other
        assert (dH - dH_other).norm() <= rtol * dH_other.norm()
        for group in optimizer.param_groups:
            group["lr"] = 0.25 if t % 2 else 0.1
        head.step(0.25 if t % 2 else 0.1, weight_decay=1e-3)
        optimizer.step()
        optimizer.zero_grad()
    assert len(moves) > steps // 10 or keep_plain
    assert head._factor.is_plain == keep_plain
    assert_same(head, layer, rtol)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    N=st.sampled_from([1, 2, 7]),
    d=st.sampled_from([1, 3, 8]),
    C=st.integers(1, 9),
    bias=st.booleans(),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    label_smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    ignore_index=st.sampled_from([-100, 0, 2]),
    k=st.sampled_from([1.0, 0.3, 15.0]),
    M=st.sampled_from([1.0, 30.0]),
    weight_decay=st.sampled_from([0.0, 0.5]),
    micro_batches=st.integers(1, 3),
    clipped=st.booleans(),
    keep_plain=st.booleans(),
)
def test_every_option(seed, N, d, C, bias, weight_decay, micro_batches, clipped, **options):
    torch.manual_seed(seed)
    head = FactorisedSquareHead(d, C, bias=bias, dtype=torch.float64, **options)
    layer = head.materialise()
    optimizer = sgd(layer, 0.05 * C / N, weight_decay)
    for _ in range(4):
        for _ in range(micro_batches):
            input, target = batch(N, d, C)
            target[torch.rand(N) < 0.3] = head.ignore_index
            (mine, dH), (other, dH_other) = both_losses(head, layer, input, target)
            scale = 1.0 + head.k * head.M**2 + other.nan_to_num().abs().max()
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11 * float(scale), equal_nan=True)
            torch.testing.assert_close(dH, dH_other, rtol=1e-9, atol=1e-10 * float(scale))
        norm = torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.1 if clipped else 1e30)
        scale = 1e-7 * head.k * head.M  # the norm's squares cancel where the gradient is small
        torch.testing.assert_close(head.gradient_norm(), norm.double(), rtol=1e-8, atol=scale)
        if clipped:
            head.scale_gradient((0.1 / (norm + 1e-6)).clamp_max(1.0))
        head.step(0.05 * C / N, weight_decay)
        optimizer.step()
        optimizer.zero_grad()
    assert head._factor is None or head._factor.is_plain or not head.keep_plain
    scale = head.k * head.M + float(layer.weight.detach().abs().max())
    for mine, other in zip(head.materialise().parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10 * scale)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    N=st.sampled_from([1, 2, 7]),
    C=st.integers(1, 9),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    bias=st.booleans(),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    k=st.sampled_from([1.0, 0.3, 15.0]),
    M=st.sampled_from([1.0, 30.0]),
    micro_batches=st.integers(1, 3),
    keep_plain=st.booleans(),
)
def test_lists_of_classes(seed, N, C, share, bias, micro_batches, keep_plain, **options):
    """Against the dense loss of a plain layer's outputs, with SGD, over some steps."""
    torch.manual_seed(seed)
    head = FactorisedSquareHead(3, C, bias=bias, dtype=torch.float64, keep_plain=keep_plain, **options)
    layer = head.materialise()
    lr, weight_decay = 0.05 * C / N / micro_batches, 0.1
    optimizer = sgd(layer, lr, weight_decay)
    scale = 1.0 + C * head.k * head.M**2
    for _ in range(4):
        for _ in range(micro_batches):
            q = torch.rand(N, C) < share
            ends = q.sum(1).cumsum(0)
            lists = q.nonzero()[:, 1], torch.cat([ends.new_zeros(1), ends[:-1]])
            mine, other = (torch.randn(N, 3, dtype=torch.float64) for _ in "12")
            other.copy_(mine)
            mine.requires_grad_(), other.requires_grad_()
            loss, expected = head(mine, *lists), multilabel_square_loss(layer(other), q.double(), **options)
            torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-11 * scale)
            weights = torch.rand_like(loss)
            (loss * weights).sum().backward()
            (expected * weights).sum().backward()
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-10 * scale)
        norm = torch.nn.utils.clip_grad_norm_(layer.parameters(), 1e30)
        torch.testing.assert_close(head.gradient_norm(), norm, rtol=1e-8, atol=1e-7 * head.k * head.M)
        head.step(lr, weight_decay)
        optimizer.step()
        optimizer.zero_grad()
    for one, another in zip(head.materialise().parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(one, another, rtol=1e-9, atol=1e-10 * scale)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"target": torch.tensor([0, 9])}, IndexError, "Target 9 is out of bounds for 9 classes"),
        ({"target": torch.tensor([3, 3])}, ValueError, "twice in one row"),
        ({"target": torch.tensor([0.0, 1.0])}, RuntimeError, "int64"),
        ({"offsets": torch.tensor([0])}, ValueError, r"offsets of shape \(N\), got \(2, 4\), \(2,\) and \(1,\)"),
        ({"input": torch.zeros(2, 3, 4)}, ValueError, r"for an input of shape \(N, d\) .*, got \(2, 3, 4\)"),
        ({"offsets": torch.tensor([0, 3])}, ValueError, "never falls"),
        ({"input": torch.zeros(2, 5)}, ValueError, r"shape \(..., 4\)"),
        ({"label_smoothing": 0.1}, ValueError, "one true class"),
    ],
)
def test_lists_that_do_not_fit_are_refused(change, error, words):
    head = FactorisedSquareHead(4, 9, label_smoothing=change.pop("label_smoothing", 0.0))
    arguments = {"input": torch.zeros(2, 4), "target": torch.tensor([0, 1]), "offsets": torch.tensor([0, 2])}
    before = head.weight.clone()
    with pytest.raises(error, match=words):
        head(**(arguments | change))
    assert not head.has_gradient
    assert torch.equal(head.weight, before)


@pytest.mark.parametrize("weight_decay", [0.0, 4.0])
def test_a_rate_that_makes_the_factor_singular(weight_decay):
    """1 - lr * eigenvalue = 0; with the weight decay, for all directions but the input's."""
    torch.manual_seed(0)
    input, target = batch(N=1, d=3, C=5)
    head = FactorisedSquareHead(3, 5, bias=False, dtype=torch.float64)
    layer = head.materialise()
    eigenvalue = weight_decay or 2.0 / 5.0 * float(input.square().sum())
    optimizer = sgd(layer, 1.0 / eigenvalue, weight_decay)
    for _ in range(3):
        both_losses(head, layer, input, target)
        head.step(1.0 / eigenvalue, weight_decay)
        optimizer.step()
        optimizer.zero_grad()
        assert_same(head, layer, 1e-13)


def test_no_tensor_of_the_weights_size_is_made():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            known = {a.data_ptr() for a in args if isinstance(a, torch.Tensor)}
            if isinstance(out, torch.Tensor) and out.data_ptr() not in known:
                self.size = max(self.size, out.untyped_storage().nbytes() // out.element_size())
            return out

    N, d, C = 20, 8, 5000
    head = FactorisedSquareHead(d, C, label_smoothing=0.1)
    head(*batch(N, d, C, dtype=torch.float32)).backward()  # the first call computes W^T W
    with Largest() as largest:
        for _ in range(3):
            head(*batch(N, d, C, dtype=torch.float32)).backward()
            head.step(lr=100.0)
    assert largest.size < C


def test_what_plain_pytorch_makes_of_it():
    """A state_dict for nn.Linear, outputs, and the best classes from some classes' outputs at a time."""
    torch.manual_seed(0)
    head = trained_head()
    layer = torch.nn.Linear(12, 30, dtype=torch.float64)
    layer.load_state_dict(head.state_dict())
    input, _ = batch()
    expected = layer(input)
    torch.testing.assert_close(head.materialise()(input), expected)
    torch.testing.assert_close(head(input), expected)
    head(*batch()).backward()
    head.step(1.0)
    other = FactorisedSquareHead.from_linear(layer, k=2.0)
    torch.testing.assert_close(other(input), expected)
    assert sorted(other.state_dict()) == ["bias", "weight"]
    assert not any(parameter.requires_grad for parameter in other.parameters())
    assert "in_features=12, num_classes=30, bias=True, k=2, M=1" in repr(other)


@pytest.mark.parametrize("at_once", [1, 100, 1 << 22])
@pytest.mark.parametrize("n", [1, 4, 30])
def test_the_best_classes(at_once, n, monkeypatch):
    monkeypatch.setattr(factorised, "_OUTPUTS", at_once)
    head, (input, _) = trained_head(), batch()
    values, classes = head.top_classes(input.view(2, 8, 12), n)
    expected = head(input).topk(n)
    torch.testing.assert_close(values, expected.values.view(2, 8, n))
    assert torch.equal(classes, expected.indices.view(2, 8, n))
    with pytest.raises(ValueError, match="between 1 and 30 classes"):
        head.top_classes(input, 31)


def trained_head(**options):
    head = FactorisedSquareHead(12, 30, dtype=torch.float64, **options)
    for _ in range(3):
        head(*batch()).backward()
        head.step(lr=1.0)
    assert not head._factor.is_plain
    return head


def saved(head):
    buffer = io.BytesIO()
    torch.save(head.state_dict(), buffer)
    buffer.seek(0)
    fresh = FactorisedSquareHead(12, 30, dtype=torch.float64)
    fresh.load_state_dict(torch.load(buffer))
    return fresh


def pickled(head):
    buffer = io.BytesIO()
    torch.save(head, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [saved, pickled, copy.deepcopy])
def test_a_copy_goes_on_to_the_same_bits(copied):
    torch.manual_seed(0)
    head = trained_head()
    other = copied(head)
    for _ in range(3):
        input, target = batch()
        for each in (head, other):
            each(input, target).backward()
            each.step(lr=1.0)
    assert torch.equal(head.weight, other.weight)
    assert torch.equal(head.bias, other.bias)


def test_a_step_where_new_tensors_are_made_on_another_device():
    head, (input, target) = trained_head(), batch()
    head(input, target).backward()
    with torch.device("meta"):  # as after torch.set_default_device("cuda")
        head.step(lr=1.0)
    assert torch.isfinite(head.weight).all()


def test_weights_that_others_write():
    """As long as they write to what they have read, the loss follows; else there is one error."""
    torch.manual_seed(0)
    head, (input, target) = trained_head(), batch()
    with torch.no_grad():
        head.weight.mul_(0.5)
    expected = square_loss(head.materialise()(input), target)
    torch.testing.assert_close(head(input, target), expected)
    head(input, target).backward()
    with torch.no_grad():
        head.weight.mul_(0.5)
    with pytest.raises(RuntimeError, match="was written to"):
        head.step(lr=1.0)
    head.zero_grad()
    head(input, target).backward()
    head.step(lr=1.0)
    with torch.no_grad():
        dict(head.named_parameters())["weight"].mul_(0.5)
    with pytest.raises(RuntimeError, match="was written to"):
        head(input, target)


def test_another_dtype():
    head = FactorisedSquareHead(12, 30)
    assert head.double().weight.dtype == torch.float64
    head(*batch()).backward()
    with pytest.raises(RuntimeError, match="before the head is moved"):
        head.float()
    head.zero_grad()
    for refused in (head.half, head.bfloat16, lambda: FactorisedSquareHead(12, 30, dtype=torch.bfloat16)):
        with pytest.raises(ValueError, match="float32 or float64"):
            refused()
    assert head.weight.dtype == torch.float64


def test_narrow_inputs_under_autocast():
    torch.manual_seed(0)
    head = FactorisedSquareHead(12, 30)
    input, target = batch(dtype=torch.bfloat16)
    input.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head(input, target)
    loss.backward()
    assert (loss.dtype, input.grad.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(loss.detach(), square_loss(head.materialise()(input.detach().float()), target))


def test_predictions_of_narrow_inputs():
    """As in training, the layer's dtype is taken; and what does not fit is refused."""
    head, (input, _) = FactorisedSquareHead(12, 30), batch(dtype=torch.bfloat16)
    outputs = head(input)
    torch.testing.assert_close(outputs, head.materialise()(input.float()))
    assert torch.equal(head.top_classes(input, 3)[1], outputs.topk(3).indices)
    for predict in (head, lambda wrong: head.top_classes(wrong, 3)):
        with pytest.raises(ValueError, match=r"\(..., 12\), got \(16, 24\)"):
            predict(torch.zeros(16, 24))


def test_which_calls_leave_a_gradient():
    """A backward pass does, also where the input needs no gradient; evaluation does not."""
    head, (input, target) = FactorisedSquareHead(12, 30, dtype=torch.float64), batch()
    assert head.gradient_norm() == 0.0
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert not head(input, target).requires_grad
            head(input)
    before = head.weight.clone()
    head.step(lr=1.0, weight_decay=0.1)
    assert torch.equal(head.weight, before)
    head(input, target).backward()
    assert head.has_gradient
    assert head.gradient_norm() > 0.0
    head.step(lr=1.0)
    assert not head.has_gradient
    assert not torch.equal(head.weight, before)
    loss = head(input.requires_grad_(), target)
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(loss, input, create_graph=True)


@pytest.mark.parametrize("change", ["step", "write", "load"])
def test_a_loss_of_a_weight_that_has_changed_since_is_refused(change):
    """As a plain layer refuses it: what the layer's gradient is computed from is no longer there."""
    head = trained_head()
    input, target = batch()
    first, second = head(input, target), head(input, target)
    head.fold()  # not a change
    first.backward()
    if change == "step":
        head.step(lr=1.0)
    elif change == "write":
        head.zero_grad()
        head.weight.mul_(2.0)
    else:
        head.load_state_dict(head.state_dict())
    with pytest.raises(RuntimeError, match="has changed since this loss was computed"):
        second.backward()
    head(input, target).backward()


def test_evaluation_in_inference_mode_between_steps():
    torch.manual_seed(0)
    head = trained_head()
    with torch.inference_mode():
        head(batch()[0])
    input, target = batch()
    layer = head.materialise()
    both_losses(head, layer, input, target)
    head.step(lr=1.0)
    sgd(layer, 1.0).step()
    assert_same(head, layer, 1e-13)


def everything(head):
    """The head's state, to the bit."""
    return [tensor.clone() for tensor in (*dict(head.named_parameters()).values(), *head._factor[:4])]


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize(
    ("value", "lr", "error", "words"),
    [
        (float("nan"), 1.0, FloatingPointError, "gradient of the output layer is not finite"),
        (float("inf"), 1.0, FloatingPointError, "gradient of the output layer is not finite"),
        (0.0, 1e300, FloatingPointError, "learning rate of 1e.300"),
        (0.0, -1.0, ValueError, "lr must be"),
        (0.0, float("nan"), ValueError, "lr must be"),
    ],
)
def test_a_step_that_cannot_be_changes_nothing(is_plain, value, lr, error, words):
    torch.manual_seed(0)
    head = trained_head()
    if is_plain:
        head.fold()
    input, target = batch()
    input[3, 2] += value
    head(input, target).backward()
    before = everything(head)
    for _ in range(2):  # the gradient is still there
        with pytest.raises(error, match=words):
            head.step(lr)
    assert all(map(torch.equal, before, everything(head)))
    head.zero_grad()
    head(*batch()).backward()
    head.step(1.0)
    assert torch.isfinite(head.weight).all()


@pytest.mark.parametrize("keep_plain", [True, False])
def test_an_interrupt_waits_until_all_rows_are_written(keep_plain, monkeypatch):
    """It comes in the pass over V: of a step where V stays the weight, else of what makes V the weight again."""
    torch.manual_seed(0)
    head = FactorisedSquareHead(12, 30, dtype=torch.float64, keep_plain=keep_plain)
    other, data = copy.deepcopy(head), batch()
    for each in (head, other):
        each(*data).backward()
        if not keep_plain:
            each.step(lr=1.0)
    handler = signal.default_int_handler  # a shell that starts the tests in the background lets them ignore SIGINT
    before, parts = signal.signal(signal.SIGINT, handler), _factor.StoredRows.parts

    def interrupted(rows):
        for number, part in enumerate(parts(rows)):
            if number == 1:
                signal.raise_signal(signal.SIGINT)
            yield part

    monkeypatch.setattr(_factor, "_CHUNK", 100)
    monkeypatch.setattr(_factor.StoredRows, "parts", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            head.step(lr=1.0) if keep_plain else head.fold()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setattr(_factor.StoredRows, "parts", parts)
    other.step(lr=1.0)  # nothing, but for the one that has a gradient
    assert torch.equal(head.weight, other.weight)
    assert not head.has_gradient


def test_an_ignored_row_may_be_anything():
    head, (input, target) = FactorisedSquareHead(12, 30, dtype=torch.float64), batch()
    input[1], target[1] = float("nan"), -100
    loss = head(input, target)
    loss.backward()
    head.step(1.0)
    assert torch.isfinite(loss)
    assert torch.isfinite(head.weight).all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"input": torch.zeros(4, 5)}, ValueError, r"\(..., 6\), got \(4, 5\)"),
        ({"input": torch.zeros(4, 6, dtype=torch.int64)}, NotImplementedError, "floating point"),
        ({"input": torch.zeros(4, 6, device="meta")}, ValueError, "input is on meta"),
        ({"target": torch.zeros(3, dtype=torch.int64)}, ValueError, "class index for each row"),
        ({"target": torch.zeros(4)}, RuntimeError, "int64"),
        ({"target": torch.tensor([0, 1, 9, 2])}, IndexError, "Target 9 is out of bounds"),
        ({"target": torch.tensor([0, 1, -3, 2])}, IndexError, "Target -3 is out of bounds"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, words):
    head = FactorisedSquareHead(6, 9)
    with pytest.raises(error, match=words):
        head(**({"input": torch.zeros(4, 6), "target": torch.tensor([0, 1, 2, 3])} | change))
    assert not head.has_gradient


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"reduction": "max"}, ValueError, "reduction"),
        ({"k": 0.0}, ValueError, "k must be"),
        ({"label_smoothing": 1.5}, RuntimeError, "label_smoothing"),
        ({"num_classes": 0}, ValueError, "a feature and a class"),
    ],
)
def test_options_that_cannot_be(options, error, words):
    with pytest.raises(error, match=words):
        FactorisedSquareHead(**({"in_features": 6, "num_classes": 9} | options))

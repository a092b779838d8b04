"""Many small classifiers trained side by side, and the data of :mod:`sqloss_plugins.experiments.studies`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor", "Tensor"], "Tensor"]
"""From outputs, shape (N, C), and class numbers, shape (N,), to the sum over the rows."""

DIMENSIONS = 64
"""Of the inputs of :func:`digits` and :func:`clusters`."""


class Examples(NamedTuple):
    """Inputs, shape (N, d), and class numbers, shape (N,)."""

    x: Tensor
    y: Tensor


class Training(NamedTuple):
    """How a set of models is trained.

    Attributes:
        batches: step -> a batch, the same for every model.
        test: what accuracy is measured on.
        steps: how many.
        optimizer: ``SGD`` or ``Adam``, of ``torch.optim``, with its defaults but for the rate.
        every: after how many steps accuracy is measured.
    """

    batches: Callable[[int], Examples]
    test: Examples
    steps: int
    optimizer: str = "Adam"
    every: int = 10


def perceptron(sizes: Sequence[int], seed: int) -> list[Tensor]:
    """The weights and biases of a network with ReLUs between its layers, drawn as ``torch.nn.Linear`` draws them."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [torch.nn.Linear(size, following) for size, following in pairwise(sizes)]
    return [tensor.detach() for layer in layers for tensor in (layer.weight.T.contiguous(), layer.bias[None])]


def train(loss: Loss, models: Sequence[Sequence[Tensor]], rates: Sequence[float], how: Training) -> list[list[float]]:
    """Trains models of one shape side by side; returns for each its accuracies, after every ``how.every`` steps.

    They share each product of matrices, and nothing else: every model has its own gradient and its own rate. It is the
    one loop of the studies; real models are trained by Transformers and ESPnet.

    Args:
        loss: of all of them.
        models: weights and biases, as made by :func:`perceptron`.
        rates: the learning rate of each.
        how: data and steps.
    """
    import torch

    own = [[tensor.clone().requires_grad_() for tensor in model] for model in models]
    groups = [{"params": tensors, "lr": rate} for tensors, rate in zip(own, rates, strict=True)]
    optimizer = getattr(torch.optim, how.optimizer)(groups)

    def outputs(x: Tensor) -> Tensor:
        hidden = x.expand(len(own), *x.shape)
        stacked = [torch.stack(same) for same in zip(*own, strict=True)]
        for i in range(0, len(stacked), 2):
            hidden = torch.baddbmm(stacked[i + 1], hidden.relu() if i else hidden, stacked[i])
        return hidden

    found: list[list[float]] = []
    for step in range(how.steps):
        batch = how.batches(step)
        optimizer.zero_grad()
        value = loss(outputs(batch.x).flatten(0, 1), batch.y.repeat(len(own))) / len(batch.y)
        torch.autograd.backward(value)
        optimizer.step()
        if (step + 1) % how.every == 0:
            with torch.no_grad():
                found.append((outputs(how.test.x).argmax(2) == how.test.y).double().mean(1).tolist())
    return [list(of_model) for of_model in zip(*found, strict=True)]


def digits(is_centred: bool = True) -> tuple[Examples, Examples]:
    """Scikit-learn's 1797 digits: 1297 to train on, 500 to test on.

    Args:
        is_centred: whether the mean of each of the 64 pixels is taken off.
    """
    import torch
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    inputs, targets = torch.tensor(x / 16, dtype=torch.float32)[order], torch.tensor(y)[order]
    if is_centred:
        inputs = inputs - inputs[:-500].mean(0)
    return Examples(inputs[:-500], targets[:-500]), Examples(inputs[-500:], targets[-500:])


def drawn(examples: Examples, size: int) -> Callable[[int], Examples]:
    """Batches drawn from examples, the same whenever they are drawn."""
    import torch

    def batch(step: int) -> Examples:
        rows = torch.randint(len(examples.x), (size,), generator=torch.Generator().manual_seed(step))
        return Examples(examples.x[rows], examples.y[rows])

    return batch


def steps_until(accuracies: Sequence[float], wanted: float, every: int) -> int | None:
    """After how many steps so much was reached, where accuracy was measured after ``every`` steps; None: never."""
    return next((every * (i + 1) for i, accuracy in enumerate(accuracies) if accuracy >= wanted), None)


def clusters(classes: int, spread: float, size: int) -> tuple[Callable[[int], Examples], Examples]:
    """Batches of a size and a test set of 1000, of normal clusters, one a class, with normal centres of that spread."""
    import torch

    centres = spread * torch.randn(classes, DIMENSIONS, generator=torch.Generator().manual_seed(classes))

    def draw(seed: int, number: int) -> Examples:
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(classes, (number,), generator=generator)
        return Examples(centres[y] + torch.randn(number, DIMENSIONS, generator=generator), y)

    return lambda step: draw(step, size), draw(10**6, 1000)

"""Sampled softmax: cross-entropy of a linear layer with very many classes, estimated from some of them.

With f = W h + b and true class c, cross-entropy is ln Z - f_c with Z = sum_i exp(f_i). Of the C classes S are drawn
uniformly and without replacement, one sample for the whole batch, and Z is estimated from these alone:

    Z' = exp(f_c) + sum over sampled i != c of exp(f_i - ln Q),    Q = S / C

Q is the probability of a wrong class to be in the sample; the true class is there always. So Z' is Z on the average,
and Z itself with S = C. The logarithm is not linear: the loss is too small on the average, and its gradient is off, by
less the larger S is (Bengio & Senecal 2008, importance sampling; Jean et al. 2015, Section 3, for ln Q).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sqloss_plugins.losses._reduction import reduce_values
from sqloss_plugins.losses._targets import (
    IndexTargets,
    check_linear_layer,
    check_options,
    compute_dtype,
    index_targets,
    result_dtype,
)


def sampled_softmax_loss(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    num_sampled: int,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """An estimate of ``cross_entropy(F.linear(input, linear_weight, linear_bias), target, ...)`` for training.

    For N rows and S sampled classes loss and gradients take 6 d N (S + 1) floating-point operations and the memory of
    N x S outputs; the gradient of the weight is of the weight's size, with zeros for classes that are not there, and an
    optimiser passes over all of it. Every call draws anew, by PyTorch's generator of the input's device. For figures
    that are reported take all outputs.

    Args:
        input: what the layer is given, floating point, of shape (N, d).
        linear_weight: its weight W, of shape (C, d).
        target: class indices, int64, of shape (N), each in [0, C) or ``ignore_index``.
        num_sampled: S, from 1 to C; with C it is cross-entropy.
        linear_bias: its bias b, of shape (C).
        weight: a weight for each class, of shape (C).
        ignore_index, reduction, label_smoothing: as for :func:`torch.nn.functional.cross_entropy`. The outputs that
            label smoothing adds up are those of the sample, which is right on the average.

    Returns:
        A scalar, or for ``"none"`` a tensor of shape (N). Of the input's dtype; float32 under autocast.

    Raises:
        ValueError: ``num_sampled`` below 1 or above C; unknown reduction; shapes or devices that do not fit.
        IndexError, RuntimeError: as cross-entropy, for the targets and the label smoothing; dtypes that do not fit.

    Source: Bengio & Senecal (2008), doi 10.1109/TNN.2007.912312; Jean, Cho, Memisevic & Bengio (2015), arXiv 1412.2007.

    Examples:
        >>> import torch
        >>> from sqloss_plugins import sampled_softmax_loss
        >>> _ = torch.manual_seed(0)
        >>> hidden, W, target = torch.randn(8, 4), torch.randn(5000, 4), torch.randint(5000, (8,))
        >>> loss = sampled_softmax_loss(hidden, W, target, num_sampled=5000)
        >>> torch.allclose(loss, torch.nn.functional.cross_entropy(hidden @ W.T, target))
        True
    """
    check_options(reduction, label_smoothing)
    check_linear_layer(input, linear_weight, linear_bias, target=target, weight=weight)
    N, C = len(input), len(linear_weight)
    if not 1 <= num_sampled <= C:
        raise ValueError(f"num_sampled must be from 1 to the number of classes, {C}, got {num_sampled}")
    if target.shape != (N,):
        raise ValueError(f"the target is class indices of shape {(N,)}, got shape {tuple(target.shape)}")
    targets = index_targets(input.new_empty(()).expand(N, C), target, weight, ignore_index, label_smoothing)
    sampled = torch.randperm(C, device=input.device)[:num_sampled]
    values = _of_sample(input, linear_weight, linear_bias, targets, sampled, weight, label_smoothing)
    return reduce_values(values, targets, reduction).to(result_dtype(input))


def _of_sample(
    input: Tensor,
    W: Tensor,
    b: Tensor | None,
    targets: IndexTargets,
    sampled: Tensor,
    weight: Tensor | None,
    label_smoothing: float,
) -> Tensor:
    """The loss of each row, of shape (N), by the classes ``sampled``, of shape (S), each there once."""
    N, dtype = len(input), compute_dtype(input)
    true_class = targets.true_class  # (N, 1)
    classes = torch.cat([true_class.squeeze(1), sampled])
    rows = F.embedding(classes, W)  # at once, so that one gradient of the weight's size is made and not two
    true_output = (input.to(dtype) * rows[:N].to(dtype)).sum(1, keepdim=True)
    outputs = F.linear(input, rows[N:]).to(dtype)
    if b is not None:
        bias = b[classes].to(dtype)
        true_output, outputs = true_output + bias[:N].unsqueeze(1), outputs + bias[N:]
    wrong = (outputs - math.log(len(sampled) / len(W))).masked_fill(sampled == true_class, -math.inf)
    log_Z = torch.cat([true_output, wrong], 1).logsumexp(1)
    values = log_Z - true_output.squeeze(1)
    if label_smoothing == 0.0:
        return values
    others = log_Z.unsqueeze(1) - outputs
    if weight is not None:  # then the weights of the rows do not hold it
        values = values * weight.to(dtype)[true_class.squeeze(1)]
        others = others * weight.to(dtype)[sampled]
    return (1.0 - label_smoothing) * values + label_smoothing * others.mean(1)

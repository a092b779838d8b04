"""The losses in float64 numpy, written row by row from the equations, with nothing of the package in them.

Slow, obvious, and independent: what the tests hold the package against.
"""

import numpy as np


def row(loss, f, u, k=1.0, M=1.0, v=None):
    """One row: outputs f, weighted soft target u (both of length C), prior weights v of the square loss."""
    C, s = len(f), u.sum()
    v = np.ones(C) if v is None else v
    true = [k * ((f[i] - M) ** 2 / v[i] + M**2 - M**2 / v[i]) for i in range(C)]
    square = sum(u[i] * true[i] + (s - u[i]) * f[i] ** 2 / v[i] for i in range(C)) / C
    log_softmax = f - f.max() - np.log(np.exp(f - f.max()).sum())
    entropy = -(u * log_softmax).sum()
    if loss == "square":
        return square
    if loss == "cross_entropy":
        return entropy
    wrong = sum((s - u[i]) * f[i] ** 2 for i in range(C))
    return entropy + (wrong / (C - 1) if C > 1 else 0.0)


def reference(
    loss,
    input,
    target,
    weight=None,
    ignore_index=-100,
    reduction="mean",
    label_smoothing=0.0,
    k=1.0,
    M=1.0,
    prior_weight=None,
):
    """All rows; arguments as for torch.nn.functional.cross_entropy, as numpy arrays."""
    f = np.asarray(input, dtype=np.float64)
    target = np.asarray(target)
    probabilities = f.shape == target.shape
    rows = np.moveaxis(f, 0 if f.ndim == 1 else 1, -1)
    shape, C = rows.shape[:-1], rows.shape[-1]
    rows = rows.reshape(-1, C)
    w = np.ones(C) if weight is None else np.asarray(weight, dtype=np.float64)
    if probabilities:
        target = np.moveaxis(target, 0 if f.ndim == 1 else 1, -1)
    targets = target.reshape(-1, C) if probabilities else target.reshape(-1)

    losses, normaliser = [], 0.0
    for n in range(len(rows)):
        if probabilities:
            q = np.asarray(targets[n], dtype=np.float64)
            normaliser += 1.0
        elif targets[n] == ignore_index:
            losses.append(0.0)
            continue
        else:
            q = np.zeros(C)
            q[targets[n]] = 1.0
            normaliser += w[targets[n]]
        q = q * (1.0 - label_smoothing) + label_smoothing / C
        losses.append(row(loss, rows[n], q * w, k, M, None if prior_weight is None else np.asarray(prior_weight)))
    losses = np.array(losses)
    if reduction == "none":
        return losses.reshape(shape)
    if reduction == "sum":
        return losses.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.float64(losses.sum()) / np.float64(normaliser)

"""The square loss as a first-class training loss for classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqloss_plugins.losses import (
        LOSSES,
        FactorisedSquareHead,
        LinearSquareLoss,
        MultiLabelCrossEntropy,
        MultiLabelSquareLoss,
        SquareLoss,
        SquentropyLoss,
        linear_multilabel_square_loss,
        linear_square_loss,
        make_loss,
        multilabel_square_loss,
        prior_weights,
        sampled_softmax_loss,
        square_loss,
        squentropy_loss,
    )

__version__ = "0.1.0"

__all__ = [
    "LOSSES",
    "FactorisedSquareHead",
    "LinearSquareLoss",
    "MultiLabelCrossEntropy",
    "MultiLabelSquareLoss",
    "SquareLoss",
    "SquentropyLoss",
    "__version__",
    "linear_multilabel_square_loss",
    "linear_square_loss",
    "make_loss",
    "multilabel_square_loss",
    "prior_weights",
    "sampled_softmax_loss",
    "square_loss",
    "squentropy_loss",
]


def __getattr__(name: str) -> Any:
    """The losses, imported when the first is asked for: command lines answer ``--help`` without PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sqloss_plugins import losses

    return getattr(losses, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The square loss as a first-class training loss for classifiers."""

from sqloss_plugins.losses import (
    LOSSES,
    LinearSquareLoss,
    SquareLoss,
    SquentropyLoss,
    linear_square_loss,
    make_loss,
    square_loss,
    squentropy_loss,
)

__version__ = "0.1.0"

__all__ = [
    "LOSSES",
    "LinearSquareLoss",
    "SquareLoss",
    "SquentropyLoss",
    "__version__",
    "linear_square_loss",
    "make_loss",
    "square_loss",
    "squentropy_loss",
]

"""The square loss as a first-class training loss for classifiers."""

from sqloss_plugins.losses import (
    LOSSES,
    SquareLoss,
    SquentropyLoss,
    make_loss,
    square_loss,
    squentropy_loss,
)

__version__ = "0.1.0"

__all__ = ["LOSSES", "SquareLoss", "SquentropyLoss", "__version__", "make_loss", "square_loss", "squentropy_loss"]

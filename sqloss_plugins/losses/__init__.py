"""Classification losses on raw outputs, each with the conventions of :func:`torch.nn.functional.cross_entropy`.

:data:`LOSSES` maps the names that every command line of this package uses to what the package has to know of a loss.
To add a loss, write its file and its entry here. Cross-entropy is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sqloss_plugins.losses._targets import check_options
from sqloss_plugins.losses.accumulation import GradientAccumulation
from sqloss_plugins.losses.class_shard import ClassShard
from sqloss_plugins.losses.cost_model import gram_pays
from sqloss_plugins.losses.factorised import FactorisedSquareHead
from sqloss_plugins.losses.linear_multilabel import linear_multilabel_square_loss
from sqloss_plugins.losses.linear_square import LinearSquareLoss, linear_square_loss
from sqloss_plugins.losses.multilabel import MultiLabelCrossEntropy, MultiLabelSquareLoss, multilabel_square_loss
from sqloss_plugins.losses.prior import prior_weights
from sqloss_plugins.losses.sampled_softmax import sampled_softmax_loss
from sqloss_plugins.losses.square import SquareLoss, check_rescaling, square_loss
from sqloss_plugins.losses.squentropy import SquentropyLoss, squentropy_loss


@dataclass(frozen=True)
class LossSpec:
    """What the package has to know of a loss.

    Attributes:
        module: the loss module, made with ``weight``, ``ignore_index``, ``reduction`` and ``label_smoothing``.
        methods: how its outputs become class probabilities, names of :data:`sqloss_plugins.probability.METHODS`, the
            usual one first.
        is_rescaled: whether the module takes k and M as well.
        paper_column: the loss whose hyper-parameters in the paper are its: ``square`` or ``cross_entropy``.
        of_linear_layer: the loss of a linear layer's outputs without the outputs, called as
            :func:`linear_square_loss`; None where there is no such form.
        of_sampled_classes: an estimate of the loss of a linear layer's outputs from some of them, called as
            :func:`sampled_softmax_loss`; None where there is no such form.
        multilabel: the loss module of multi-label classification, made with ``weight`` and ``reduction``; None where
            the loss has no such form.
        multilabel_of_linear_layer: that loss of a linear layer's outputs without the outputs, called as
            :func:`linear_multilabel_square_loss`; None where there is no such form.
        multilabel_method: how the outputs of such a model become the probability of each class, one of
            :data:`sqloss_plugins.probability.LABEL_METHODS`; None where there is no such form.

    Examples:
        >>> from sqloss_plugins.losses import LOSSES
        >>> [name for name, spec in LOSSES.items() if spec.is_rescaled]
        ['square']
        >>> LOSSES["cross_entropy"].methods
        ('softmax', 'temperature')
    """

    module: type[nn.Module]
    methods: tuple[str, ...] = ("softmax", "temperature")
    is_rescaled: bool = False
    paper_column: str = "cross_entropy"
    of_linear_layer: Callable[..., Tensor] | None = None
    of_sampled_classes: Callable[..., Tensor] | None = None
    multilabel: type[nn.Module] | None = None
    multilabel_of_linear_layer: Callable[..., Tensor] | None = None
    multilabel_method: str | None = None


LOSSES: dict[str, LossSpec] = {
    "square": LossSpec(
        SquareLoss,
        methods=("square", "softmax", "temperature"),
        is_rescaled=True,
        paper_column="square",
        of_linear_layer=linear_square_loss,
        multilabel=MultiLabelSquareLoss,
        multilabel_of_linear_layer=linear_multilabel_square_loss,
        multilabel_method="square",
    ),
    "cross_entropy": LossSpec(
        nn.CrossEntropyLoss,
        of_sampled_classes=sampled_softmax_loss,
        multilabel=MultiLabelCrossEntropy,
        multilabel_method="sigmoid",
    ),
    "squentropy": LossSpec(SquentropyLoss),
}
"""Name of a loss -> what the package has to know of it."""

DEFAULT_LOSS = "square"

__all__ = [
    "DEFAULT_LOSS",
    "LOSSES",
    "ClassShard",
    "FactorisedSquareHead",
    "GradientAccumulation",
    "LinearSquareLoss",
    "LossSpec",
    "MultiLabelCrossEntropy",
    "MultiLabelSquareLoss",
    "SquareLoss",
    "SquentropyLoss",
    "check_loss",
    "check_rescaling",
    "gram_pays",
    "linear_multilabel_square_loss",
    "linear_square_loss",
    "make_loss",
    "multilabel_square_loss",
    "prior_weights",
    "sampled_softmax_loss",
    "square_loss",
    "squentropy_loss",
]


def check_loss(name: str, k: float | None = None, M: float | None = None, *, is_multi_label: bool = False) -> LossSpec:
    """The loss of that name, if it exists and can have this k and M (None: not given).

    Args:
        name: a key of :data:`LOSSES`.
        k, M: rescaling.
        is_multi_label: whether its form for multi-label classification is asked for.

    Raises:
        ValueError: unknown name; k or M not positive and finite, or given to a loss that has neither; no form for
            multi-label classification.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: choose from {', '.join(LOSSES)}")
    if not LOSSES[name].is_rescaled and not (k is None and M is None):
        raise ValueError(f"k and M rescale the square loss, and the loss {name} has neither: leave them out")
    check_rescaling(1.0 if k is None else k, 1.0 if M is None else M)
    if is_multi_label and LOSSES[name].multilabel is None:
        others = ", ".join(other for other, spec in LOSSES.items() if spec.multilabel is not None)
        raise ValueError(f"the loss {name} has no form for multi-label classification: choose from {others}")
    return LOSSES[name]


def make_loss(
    name: str, *, k: float | None = None, M: float | None = None, is_multi_label: bool = False, **options: Any
) -> nn.Module:
    """A loss module by name.

    Args:
        name: a key of :data:`LOSSES`: ``square``, ``cross_entropy`` or ``squentropy``.
        k, M: rescaling, for the square loss alone; None means 1.
        is_multi_label: the form for multi-label classification, such as :class:`MultiLabelSquareLoss`.
        **options: ``weight``, ``ignore_index``, ``reduction``, ``label_smoothing``; of the multi-label form ``weight``
            and ``reduction``; of the square loss, else, ``prior_weight``.

    Raises:
        ValueError: unknown name or reduction; k, M or a prior weight given to a loss that has none, or k or M not
            positive; no multi-label form.
        RuntimeError: label smoothing outside [0, 1].

    Examples:
        >>> from sqloss_plugins.losses import make_loss
        >>> make_loss("square", k=15, M=30)
        SquareLoss(k=15, M=30)
        >>> make_loss("cross_entropy", label_smoothing=0.1)
        CrossEntropyLoss()
    """
    check_options(options.get("reduction", "mean"), options.get("label_smoothing", 0.0))
    spec = check_loss(name, k, M, is_multi_label=is_multi_label)
    if options.get("prior_weight") is not None and (is_multi_label or not spec.is_rescaled):
        other = "multi-label classification" if is_multi_label else name
        raise ValueError(f"prior_weight is of the square loss of examples with one true class, and this is {other}")
    if spec.is_rescaled:
        options |= {"k": 1.0 if k is None else k, "M": 1.0 if M is None else M}
    if is_multi_label and spec.multilabel is not None:
        return spec.multilabel(**options)
    return spec.module(**options)

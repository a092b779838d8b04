"""ESPnet's classifier of sounds with a choice of loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from espnet2.cls.espnet_model import ESPnetClassificationModel
from torch import Tensor, nn

from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.decoding import log_probabilities_of, methods_of
from sqloss_plugins.espnet.model import WithLoss
from sqloss_plugins.espnet.tasks import TASKS
from sqloss_plugins.losses import LOSSES, make_loss
from sqloss_plugins.paper import Rescaling
from sqloss_plugins.probability import label_probabilities


class SquareLossClassificationModel(WithLoss, ESPnetClassificationModel):  # type: ignore[misc]
    """``ESPnetClassificationModel`` that is trained with a loss of one's choice; see :class:`WithLoss`.

    Its scores are probabilities by the usual method of the loss, of one class or, with ``classification_type:
    multi-label``, of each.
    """

    espnet_task = TASKS["cls"]

    classification_loss: nn.Module
    classification_function: Callable[[Tensor], Tensor]

    def _replace(self, name: str, size: int, rescaling: Rescaling | None, unigram: str | None) -> None:
        is_multi_label = isinstance(self.classification_loss, nn.BCEWithLogitsLoss)
        k, M = (rescaling.k, rescaling.M) if rescaling else (None, None)
        # ESPnet smooths the targets of a multi-label model itself.
        smoothing = {} if is_multi_label else {"label_smoothing": self.lsm_weight}
        try:
            self.classification_loss = make_loss(self.loss, k=k, M=M, is_multi_label=is_multi_label, **smoothing)
        except ValueError as error:
            raise UserError(f"model_conf: {error}") from error
        if is_multi_label:
            if LOSSES[self.loss].multilabel_method == "square":
                self.classification_function = partial(label_probabilities, method="square", k=k or 1.0, M=M or 1.0)
        else:
            self.use_method(methods_of(self)[0])

    def use_method(self, method: str, temperature: float | None = None) -> None:
        """Makes the scores probabilities by this method.

        Args:
            method: one that fits the loss.
            temperature: T, for the method ``temperature``.

        Raises:
            UserError: a method that the model cannot have.
        """
        if self.classification_type == "multi-label":
            raise UserError("a multi-label model has one probability for each class: leave --method out")
        convert = log_probabilities_of(self, method, temperature)
        self.classification_function = lambda outputs: convert(outputs).exp()

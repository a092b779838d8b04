"""ESPnet's models with a choice of loss for their attention decoders.

Of speech recognition's objective ``ctc_weight * CTC + (1 - ctc_weight) * attention`` only the attention decoder's
cross-entropy is replaced; CTC, and how ESPnet divides the sum over tokens, stay as they are, so that learning rates and
the clipping of gradients keep their meaning. All parameters have ESPnet's names: a state_dict fits either model.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import model_choices
from espnet2.train.abs_espnet_model import AbsESPnetModel
from torch import Tensor, nn

from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.decoding import ESPNETS_LOSS, log_probability_outputs, methods_of
from sqloss_plugins.espnet.initialization import check_initialization, initialize_as_espnet1
from sqloss_plugins.espnet.tasks import TASKS, ESPnetTask
from sqloss_plugins.losses import DEFAULT_LOSS, check_loss, make_loss
from sqloss_plugins.paper import Rescaling, choose_rescaling, tasks

MODEL_NAME = "sqloss"
OPTIONS = ("loss", "k", "M", "rescaling", "paper_task", "lsm_type", "lsm_unigram", "initialization")
"""The keys of ``model_conf`` that ESPnet's own model does not have."""

_FAR = 4.0  # the paper's settings lie within a factor of 2.2 of cross-entropy's level, but for its smallest tasks

logger = logging.getLogger(__name__)


class AttentionLoss(nn.Module):
    """A loss in the place of ESPnet's ``LabelSmoothingLoss``: the same call, smoothing and normalisation.

    Args:
        loss: name of the loss, a key of :data:`sqloss_plugins.losses.LOSSES`.
        k, M: rescaling of the square loss; None for other losses.
        num_classes: C.
        ignore_id: the target that is padding.
        smoothing: ESPnet's ``lsm_weight``: the true class keeps ``1 - smoothing``, the others share the rest evenly.
        unigram: a file with the number of occurrences of each class, one a line, or the share of each, shape (C,);
            then the rest is shared in proportion to them, the true class included (the paper's Table 21, as ESPnet1
            has it).
        normalize_length: divide by the number of tokens rather than by the number of utterances.

    Examples:
        >>> loss = AttentionLoss("square", k=1, M=1, num_classes=4)
        >>> loss(torch.zeros(1, 3, 4), torch.tensor([[2, 1, -1]]))  # M^2 / 4 for each of the two tokens; one utterance
        tensor(0.5000)
    """

    def __init__(
        self,
        loss: str,
        k: float | None,
        M: float | None,
        num_classes: int,
        ignore_id: int = -1,
        smoothing: float = 0.0,
        unigram: str | Tensor | None = None,
        normalize_length: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_id = ignore_id
        self.smoothing = smoothing
        self.unigram = unigram
        self.normalize_length = normalize_length
        # make_loss spreads the rest over all classes, ESPnet over all but the true one.
        uniform = smoothing * num_classes / (num_classes - 1) if unigram is None else 0.0
        self.loss = make_loss(loss, k=k, M=M, ignore_index=ignore_id, reduction="sum", label_smoothing=uniform)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch: a scalar, of float32 under autocast, else of the outputs' dtype.

        Args:
            outputs: raw outputs of the decoder, shape (utterances, tokens, C), floating point.
            targets: class numbers, or ``ignore_id`` for padding; shape (utterances, tokens), int64.
        """
        rows, classes = outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1)
        kept = classes != self.ignore_id
        if self.unigram is None:
            total = self.loss(rows, classes)
        else:
            if not isinstance(self.unigram, Tensor):  # not earlier: decoding has no need of the file
                self.unigram = read_unigram(Path(str(self.unigram)), self.num_classes)
            share = self.unigram.to(rows.device)
            one_hot = nn.functional.one_hot(classes[kept], self.num_classes)
            total = self.loss(rows[kept].float(), (1.0 - self.smoothing) * one_hot + self.smoothing * share)
        scalar: Tensor = total / (kept.sum().clamp(min=1) if self.normalize_length else len(outputs))
        return scalar


def read_unigram(path: Path, num_classes: int | None = None) -> Tensor:
    """The share of each class, shape (num_classes,), from a file with one count a line.

    Args:
        path: the file.
        num_classes: how many it must have; None where that is not known yet.

    Raises:
        UserError: no such file, or not one non-negative number for each class.

    Examples:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w") as file:
        ...     for count in (1, 3):
        ...         print(count, file=file, flush=True)
        ...     read_unigram(Path(file.name), num_classes=2)
        tensor([0.2500, 0.7500])
    """
    try:
        counts = torch.tensor([float(line) for line in path.read_text().split()])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"lsm_unigram: {path} cannot be read as one count a line: {reason}") from error
    if num_classes is not None and len(counts) != num_classes:
        raise UserError(
            f"lsm_unigram: {path} must have {num_classes} counts, one for each token, and has {len(counts)}"
        )
    if not bool((counts >= 0).all()) or not 0 < float(counts.sum()) < math.inf:
        raise UserError(f"lsm_unigram: {path} must have counts: finite numbers, none below 0, and not all 0")
    return counts / counts.sum()


def _number(name: str, value: object) -> float:
    """A number, also as text, which YAML takes 1e-3 for."""
    try:
        return float(str(value))
    except ValueError:
        raise UserError(f"model_conf: {name} must be a number, got {value!r}") from None


def _choose(
    loss: str,
    num_classes: int,
    task: str | None,
    beside_ctc: bool,
    is_multi_label: bool,
    rule: str,
    k: object,
    M: object,
) -> Rescaling | None:
    """k and M; None for a loss that has none."""
    given_k, given_M = (None if value is None else _number(name, value) for name, value in (("k", k), ("M", M)))
    if task not in (None, *tasks()):
        raise UserError(f"model_conf: unknown paper_task {task!r}: choose from {', '.join(tasks())}")
    try:
        spec = check_loss(str(loss), given_k, given_M)
        chosen = choose_rescaling(
            num_classes,
            task=task,
            beside_ctc=beside_ctc,
            is_multi_label=is_multi_label,
            rule=rule,
            k=given_k,
            M=given_M,
        )
    except ValueError as error:
        raise UserError(f"model_conf: {error}") from error
    return chosen if spec.is_rescaled else None


def _is_beside_ctc(task: ESPnetTask, criterion: str, options: Mapping[str, Any]) -> bool:
    """Whether what one of the model's criteria is for is trained together with CTC."""
    weight = task.ctc_weights.get(criterion)
    return weight is not None and 0.0 < _number(weight, options.get(weight, task.usual_ctc_weight)) < 1.0


def _is_multi_label(options: Mapping[str, Any]) -> bool:
    """Whether it is a classifier with any number of classes for an example."""
    return bool(options.get("classification_type") == "multi-label")


def initial_loss(config: Mapping[str, Any], task: str = "asr") -> float:
    """A token's loss where all outputs are 0, of the model that a training's ``config.yaml`` describes.

    Args:
        config: the content of the file.
        task: a name of :data:`sqloss_plugins.espnet.tasks.TASKS`.
    """
    # The list of a classifier ends with the word for classes that are not known, which is none.
    num_classes = len(config["token_list"]) - (TASKS[task].kind == "classifier")
    options = config["model_conf"]
    rescaling: Rescaling | None = None
    if config.get("model") == MODEL_NAME:
        rescaling = _choose(
            options.get("loss", DEFAULT_LOSS),
            num_classes,
            options.get("paper_task"),
            _is_beside_ctc(TASKS[task], next(iter(TASKS[task].criteria)), options),
            _is_multi_label(options),
            options.get("rescaling", "auto"),
            options.get("k"),
            options.get("M"),
        )
    return rescaling.initial_loss(num_classes) if rescaling else math.log(num_classes)


def _check_smoothing(weight: float, num_classes: int, is_multi_label: bool, lsm_type: str, unigram: str | None) -> None:
    if lsm_type not in ("uniform", "unigram"):
        raise UserError(f"model_conf: unknown lsm_type {lsm_type!r}: choose from uniform, unigram")
    # There all classes have the same target; of several labels ESPnet smooths each by itself.
    most = 0.5 if is_multi_label else (num_classes - 1) / num_classes
    if not 0.0 <= weight <= most:
        raise UserError(f"model_conf: lsm_weight must be between 0 and {most:.4g}, got {weight:g}")
    if (lsm_type == "unigram" and weight > 0) != (unigram is not None):
        raise UserError("model_conf: lsm_type unigram, lsm_weight and lsm_unigram go together: give all or none")


class WithLoss(AbsESPnetModel):  # type: ignore[misc]
    """What makes a model of ESPnet's one with a loss of one's choice, as the first of two base classes.

    Args:
        *args, **kwargs: of ESPnet's model.
        loss: ``square``, ``cross_entropy`` (ESPnet's own, unchanged) or ``squentropy``.
        k, M: rescaling of the square loss.
        rescaling: the rule for whichever of k and M is not given: ``auto``, ``paper`` or ``level``; see
            :func:`sqloss_plugins.paper.choose_rescaling`.
        paper_task: the paper's name of the task, such as ``librispeech``, for that rule; None for a task of one's own.
        lsm_type: ``uniform`` as in ESPnet2, or ``unigram`` as in ESPnet1 and the paper's WSJ.
        lsm_unigram: for ``unigram``: a file with each token's number of occurrences in the training text.
        initialization: ``espnet1`` for ESPnet1's initialisation of recurrent models; None for ESPnet's ``init``.

    Raises:
        UserError: options that do not go together.
    """

    espnet_task: ClassVar[ESPnetTask]

    def __init__(
        self,
        *args: Any,
        loss: str = DEFAULT_LOSS,
        k: float | None = None,
        M: float | None = None,
        rescaling: str = "auto",
        paper_task: str | None = None,
        lsm_type: str = "uniform",
        lsm_unigram: str | None = None,
        initialization: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_initialization(initialization)
        task = self.espnet_task
        for name in (*task.ctc_weights.values(), "lsm_weight"):
            if name in kwargs:
                kwargs[name] = _number(name, kwargs[name])
        try:
            given = inspect.signature(super().__init__).bind_partial(*args, **kwargs).arguments
        except TypeError as error:  # such as a key that the model does not have
            raise UserError(f"model_conf: {error}") from error
        sizes = {name: given[size] for name, size in task.criteria.items() if given.get(size)}
        smoothing = given.get("lsm_weight", 0.0)
        _check_smoothing(smoothing, min(sizes.values()), _is_multi_label(given), lsm_type, lsm_unigram)
        if lsm_unigram is not None and (task.kind != "decoder" or len(sizes) > 1):
            raise UserError("model_conf: lsm_type unigram is for models with one attention decoder: leave it out")
        for name in task.ctc_weights.values():
            if not 0.0 <= given.get(name, 0.0) <= 1.0:
                raise UserError(f"model_conf: {name} must be between 0 and 1, got {given[name]:g}")
        beside_ctc = {name: _is_beside_ctc(task, name, given) for name in sizes}
        rest = (_is_multi_label(given), rescaling, k, M)
        chosen = {name: _choose(loss, size, paper_task, beside_ctc[name], *rest) for name, size in sizes.items()}
        super().__init__(*args, **kwargs)
        if initialization is not None:
            initialize_as_espnet1(self)
        self.loss = loss
        self.rescaling = next(iter(chosen.values()))
        others = task.further_decoders.items()
        self.further_rescalings = {decoder: chosen[name] for name, decoder in others if name in chosen}
        if loss == ESPNETS_LOSS and lsm_unigram is None:
            return
        for name, size in sizes.items():
            self._replace(name, size, chosen[name], lsm_unigram)
            found = chosen[name]
            if found:
                _log_level(found, size, beside_ctc[name])

    def _replace(self, name: str, size: int, rescaling: Rescaling | None, unigram: str | None) -> None:
        """Puts the chosen loss in the place of one of the model's."""
        if not hasattr(self, name) or getattr(self, "decoder", None) is None:
            raise UserError(
                f"loss {self.loss} is for an attention decoder, and this model has none: use loss cross_entropy"
            )
        stock = getattr(self, name)
        k, M = (rescaling.k, rescaling.M) if rescaling else (None, None)
        loss = AttentionLoss(
            self.loss, k, M, size, stock.padding_idx, stock.smoothing, unigram, bool(stock.normalize_length)
        )
        setattr(self, name, loss)


def _log_level(rescaling: Rescaling, num_classes: int, beside_ctc: bool) -> None:
    """A token's loss at the start, which decides the balance with CTC, beside that of cross-entropy."""
    level, usual = rescaling.initial_loss(num_classes), math.log(num_classes)
    logger.info(
        f"Square loss, {rescaling}: a token's initial loss is "
        f"k M^2 / C = {level:.3g}, that of cross-entropy ln C = {usual:.3g} (C = {num_classes})"
    )
    if beside_ctc and not 1 / _FAR <= level / usual <= _FAR:
        starving = "attention" if level < usual else "CTC"
        logger.warning(
            f"The {starving} branch will get next to no gradient: k M^2 / C = {level:.3g} is far from "
            f"ln C = {usual:.3g}. rescaling: level (k = 15, M = sqrt(C ln C / 15)) starts both alike"
        )


class SquareLossASRModel(WithLoss, ESPnetASRModel):  # type: ignore[misc]
    """``ESPnetASRModel`` whose attention decoder is trained with a loss of one's choice; see :class:`WithLoss`."""

    espnet_task = TASKS["asr"]

    def nll(self, *args: Any, **kwargs: Any) -> Tensor:
        """Negative log-likelihood of each utterance, shape (utterances,), by the usual method of the loss."""
        with log_probability_outputs(self, methods_of(self)[0]):
            result: Tensor = super().nll(*args, **kwargs)
        return result


# Whoever imports the class can build it by its name.
model_choices.classes[MODEL_NAME] = SquareLossASRModel

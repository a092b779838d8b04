"""The losses in Hugging Face's Trainer: ``SquareLossTrainer``, or a Trainer with ``compute_loss_func=TrainerLoss()``.

Every loss goes through the Trainer's ``compute_loss_func``, cross-entropy too. It is the one hook with which the
gradient of an accumulated or distributed batch is that of the whole batch: the sum of the losses is divided by the
number of targets in all micro-batches on all ranks. The cross-entropy that many models compute themselves (BERT's
sequence classification, for one) ignores that number, and a comparison against it would compare learning rates.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_pt_utils import LabelSmoother

from sqloss_plugins import paper
from sqloss_plugins.hf.without_logits import HeadWithoutLogits
from sqloss_plugins.losses import make_loss

logger = logging.getLogger(__name__)

IGNORE_INDEX: int = LabelSmoother.ignore_index
"""What the Trainer's own counting of targets leaves out: -100."""


class TrainerLoss:
    """A loss for ``Trainer(compute_loss_func=...)``: sum over the targets / number of targets in the whole batch.

    Serves every head that returns ``logits`` with the classes last, for ``labels`` that are class indices: sequence
    and token classification, multiple choice, masked and causal language models. One output (``num_labels=1``) is
    regression, where there are no classes, and the loss the mean squared error.

    Args:
        loss: ``square``, ``cross_entropy`` or ``squentropy``.
        k, M: rescaling of the square loss; None means 1.
        label_smoothing: in [0, 1].
        shift_labels: True for causal language models: outputs at position i are held against label i + 1. Then pair
            it with a model whose targets the Trainer counts likewise, or use :class:`SquareLossTrainer`, which sees to
            that, and to DataParallel, where a plain Trainer's scale is off.

    Raises:
        ValueError: unknown loss; k or M not positive, or given to another loss.
        RuntimeError: label smoothing outside [0, 1].
    """

    def __init__(
        self,
        loss: str = "square",
        *,
        k: float | None = None,
        M: float | None = None,
        label_smoothing: float = 0.0,
        shift_labels: bool = False,
    ) -> None:
        self.name = loss
        self.shift_labels = shift_labels
        self.label_smoothing = label_smoothing
        options: dict[str, Any] = {"ignore_index": IGNORE_INDEX, "reduction": "sum", "label_smoothing": label_smoothing}
        self.loss = make_loss(loss, k=k, M=M, **options)
        self.head: HeadWithoutLogits | None = None
        self.options = options | {"k": 1.0 if k is None else k, "M": 1.0 if M is None else M}

    def __call__(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of one micro-batch.

        Args:
            outputs: what the model returned: a mapping with ``logits``, or a tuple that starts with them.
            labels: class indices, -100 where they do not count; for regression, floating point values.
            num_items_in_batch: how many targets the whole accumulated batch has on all ranks; None for "as many as
                are here".

        Raises:
            ValueError: no labels or no logits, or labels that are not class indices.
        """
        logits = outputs.get("logits") if isinstance(outputs, dict) else outputs[0]
        if labels is None or not isinstance(logits, Tensor):
            raise ValueError(f"the {self.name} loss needs `labels` in the batch and `logits` among the model's outputs")
        labels = labels.to(logits.device)
        if logits.shape[-1] == 1:
            if self.label_smoothing:
                raise ValueError("label smoothing needs classes, and a model with one output is a regression")
            if logits.numel() != labels.numel():
                raise ValueError(f"{logits.numel()} outputs and {labels.numel()} labels: a regression needs as many")
            total = F.mse_loss(logits.reshape(-1).float(), labels.reshape(-1).float(), reduction="sum")
            count = labels.numel()
        else:
            if labels.is_floating_point():
                raise ValueError(
                    "the labels are floating point (multi-label or soft targets); the Trainer losses take class indices"
                )
            if self.shift_labels:
                labels = F.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:]
            if self.head is not None and self.head.is_open:
                total = self.head.loss(logits, labels, **self.options)
            else:
                # float32, as in the Trainer's own losses: a sum over many tokens has no room in 16 bits.
                total = self.loss(logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1))
            count = int((labels != IGNORE_INDEX).sum()) if num_items_in_batch is None else 0
        if num_items_in_batch is None:
            return total / max(count, 1)
        if isinstance(num_items_in_batch, Tensor):
            num_items_in_batch = num_items_in_batch.to(total.device).clamp_min(1)
            return total / num_items_in_batch.reshape(-1)[0]
        return total / max(num_items_in_batch, 1)


class SquareLossTrainer(Trainer):
    """A Trainer whose training and evaluation loss is the square loss, or another of this package's.

    Used as :class:`transformers.Trainer` is, with everything it takes. ``label_smoothing_factor`` of the training
    arguments is applied by the loss. Which loss, k and M is logged once, and k and M are saved with the model as
    ``config.square_loss``, for :func:`sqloss_plugins.probability.link_probabilities` (PEFT saves adapters without it).
    The evaluation loss is the Trainer's mean over batches, weighted by their examples.

    Args:
        *args, **kwargs: as for :class:`transformers.Trainer`.
        loss: ``square``, ``cross_entropy`` or ``squentropy``.
        k, M: rescaling of the square loss; by default that of :func:`sqloss_plugins.paper.rescaling`.
        task: a task of the paper, to look its rescaling up; else the number of the model's classes decides.
        shift_labels: whether outputs are held against the next label; by default as the model's own loss does.
        without_logits: train the output layer by :func:`sqloss_plugins.losses.linear_square_loss`, so that training
            need not have the logits of a batch in memory: for language models, and classifiers of very many classes.
            (That function builds them where this is faster, and in float32 with k < 12, where it is more precise.)
            Evaluation and prediction have logits as ever. For the square loss; without DataParallel, FSDP, DeepSpeed
            and torch.compile. In one process, the micro-batches of an accumulated batch share what they can.

    Raises:
        ValueError: unknown loss or task; k or M not positive, or given to another loss; ``compute_loss_func`` given as
            well; a model or a setting whose loss would not pass through here, or that cannot be trained without
            logits, with the reason.
        RuntimeError: label smoothing outside [0, 1].
    """

    compute_loss_func: Any
    label_names: list[str]
    _loss_shifts_labels: bool

    def __init__(
        self,
        *args: Any,
        loss: str = "square",
        k: float | None = None,
        M: float | None = None,
        task: str | None = None,
        shift_labels: bool | None = None,
        without_logits: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if self.compute_loss_func is not None:
            raise ValueError("compute_loss_func is what SquareLossTrainer sets: give it `loss`, or use a Trainer")
        if task is not None and task not in paper.tasks():
            raise ValueError(f"the paper has no task {task!r}: it has {', '.join(paper.tasks())}")
        model = _underlying(self.accelerator.unwrap_model(self.model))
        self.label_names = self.label_names or ["labels"]  # none are found in a model that torch.compile has wrapped
        self._refuse_bypasses(model)
        num_classes = _num_classes(model)
        source = ""
        if num_classes == 1:
            if k is not None or M is not None:
                raise ValueError("k and M rescale the true class, and a model with one output is a regression")
        elif loss == "square" and (k is None or M is None):
            found = paper.rescaling(task, num_classes)
            k, M = found.k if k is None else k, found.M if M is None else M
            source = f" ({found.source})"
        if shift_labels is None:
            shift_labels = _shifts_labels(model, self._loss_shifts_labels)
        # What the Trainer counts must be what the loss adds up; by itself it knows some causal models only (not GPT-2).
        self._loss_shifts_labels = shift_labels
        self.compute_loss_func = TrainerLoss(
            loss, k=k, M=M, label_smoothing=self.args.label_smoothing_factor, shift_labels=shift_labels
        )
        if without_logits:
            self._refuse_without_logits(loss, num_classes)
        self._without_logits = without_logits
        self._rescaling = {"k": k, "M": M} if loss == "square" and num_classes != 1 else None
        self._adopt(model)
        if num_classes == 1:
            logger.warning("One output: a regression. The loss is the mean squared error, whatever the loss named.")
        elif loss == "square":
            logger.warning("Square loss with k = %g, M = %g%s", k, M, source)
        else:
            logger.warning("Loss: %s", loss)
        # A generating encoder-decoder makes its decoder's inputs from the labels, which it does not get to see here.
        config = getattr(model, "config", None)
        self._needs_decoder_inputs = bool(
            getattr(config, "is_encoder_decoder", False) and getattr(model, "can_generate", bool)()
        )

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """The Trainer's; with ``model_init`` it makes a new model for every training."""
        model: nn.Module = super().call_model_init(trial)
        if hasattr(self, "_rescaling"):  # not yet while this Trainer is made
            self._adopt(_underlying(model))
        return model

    def _adopt(self, model: nn.Module) -> None:
        """What is done with the model itself: its head and its configuration."""
        if self._without_logits:
            steps = self.args.gradient_accumulation_steps if self.args.world_size == 1 else 1
            self.compute_loss_func.head = HeadWithoutLogits(model, _num_classes(model) or 0, steps)
        # The saved configuration says how the outputs are to be read; no longer, after another loss.
        config = getattr(model, "config", None)
        if config is None:
            return
        if self._rescaling is not None:
            config.square_loss = self._rescaling
        elif hasattr(config, "square_loss"):
            del config.square_loss

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, which calls the loss function; right under DataParallel too.

        Raises:
            ValueError: an encoder-decoder without ``decoder_input_ids``.
        """
        if self._needs_decoder_inputs and "decoder_input_ids" not in inputs:
            raise ValueError(
                f"{type(_underlying(model)).__name__} needs decoder_input_ids in the batch, since the loss is computed "
                "outside of it: use DataCollatorForSeq2Seq(tokenizer, model=model)"
            )
        head = self.compute_loss_func.head
        with head.opened() if head is not None and model.training else nullcontext():
            result = super().compute_loss(model, inputs, *args, **kwargs)
        if self.args.n_gpu <= 1:
            return result
        # DataParallel: the outputs of all GPUs are gathered before the loss is computed, once, but the Trainer scales
        # it up as if each GPU had computed its own.
        if isinstance(result, tuple):
            return result[0] / self.args.n_gpu, *result[1:]
        return result / self.args.n_gpu

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's; after the last micro-batch of a step the output layer's gradient is completed."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if self.compute_loss_func.head is not None and self.accelerator.sync_gradients:
            self.compute_loss_func.head.finish_step()
        return loss

    def _refuse_without_logits(self, loss: str, num_classes: int | None) -> None:
        """Refuses, with a reason, where the loss cannot be had without logits."""
        reason = None
        if loss != "square":
            reason = f"the {loss} loss has no such form"
        elif num_classes == 1:
            reason = "a regression has no classes"
        elif self.args.n_gpu > 1:
            reason = "DataParallel gathers logits: start one process for each GPU, with torchrun"
        elif self.is_fsdp_enabled or self.is_deepspeed_enabled:
            reason = "FSDP and DeepSpeed hold the output layer in pieces"
        elif self.args.torch_compile or hasattr(self.model, "_orig_mod"):
            reason = "a compiled model has its output layer compiled in"
        elif "lomo" in str(self.args.optim).lower() and self.args.gradient_accumulation_steps > 1:
            reason = "LOMO steps within the backward pass"
        if reason is not None:
            raise ValueError(f"without_logits is for the square loss in plain training, and {reason}")

    def _refuse_bypasses(self, model: nn.Module) -> None:
        """Refuses, with a reason, what would train on another loss than the one asked for."""
        name, config = type(model).__name__, getattr(model, "config", None)
        if getattr(config, "problem_type", None) == "multi_label_classification":
            raise ValueError("multi-label classification has no single true class, and these losses need one")
        labels = [label for label in self.label_names if label != "labels"]
        if labels:
            raise ValueError(
                f"{name} takes {', '.join(labels)} rather than `labels`: its loss is computed by the model itself, out "
                "of reach of the Trainer's loss function"
            )
        if name.endswith("ForCTC"):
            raise ValueError(f"{name} is trained by CTC, which sums over alignments; these losses need aligned targets")
        if getattr(config, "output_router_logits", False):
            raise ValueError("output_router_logits adds a loss inside the model, for the router, which would be lost")
        if getattr(config, "return_dict", True) is False:
            raise ValueError("return_dict=False leaves the outputs without names: leave it at True")
        if self.args.use_liger_kernel:
            raise ValueError(
                "use_liger_kernel fuses cross-entropy with the model's last layer and returns no logits, so that the "
                "loss asked for would never be computed"
            )
        parallelism = getattr(self.accelerator, "parallelism_config", None)
        if parallelism is not None and parallelism.sp_backend == "deepspeed" and parallelism.sp_enabled:
            raise ValueError("DeepSpeed's sequence parallelism takes the loss of the model, not the Trainer's")


# Decoders whose own loss takes the labels as already shifted (their modeling files in transformers 5.23).
_UNSHIFTED = {"CpmAntForCausalLM", "TrOCRForCausalLM", "XLMWithLMHeadModel", "XLNetLMHeadModel"}
_UNSHIFTED |= {"BartForCausalLM", "BigBirdPegasusForCausalLM", "BlenderbotForCausalLM", "BlenderbotSmallForCausalLM"}
_UNSHIFTED |= {"MBartForCausalLM", "MarianForCausalLM", "MusicgenForCausalLM", "MusicgenMelodyForCausalLM"}
_UNSHIFTED |= {"MvpForCausalLM", "PLBartForCausalLM", "PegasusForCausalLM", "ProphetNetForCausalLM"}
_UNSHIFTED |= {"WhisperForCausalLM"}


def _underlying(model: nn.Module) -> nn.Module:
    """The model inside what torch.compile and PEFT wrap around it."""
    model = getattr(model, "_orig_mod", model)
    base = getattr(model, "get_base_model", None)
    return base() if callable(base) else model


def _shifts_labels(model: nn.Module, trainer_says: bool) -> bool:
    """Whether the model's own loss holds the output at position i against label i + 1."""
    names = {cls.__name__ for cls in type(model).__mro__}
    if names & _UNSHIFTED:
        return False
    return trainer_says or bool(names & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))


def _num_classes(model: nn.Module) -> int | None:
    """Classes of the head: words of a language model, labels of a classifier; None where neither is known."""
    if type(model).__name__.endswith("MultipleChoice"):
        return 2  # as many as an example has choices: few, and below the first step of the rule
    if isinstance(model, PreTrainedModel):
        embeddings = model.get_output_embeddings()
        if isinstance(embeddings, nn.Module):
            return int(model.config.get_text_config().vocab_size)
    labels = getattr(getattr(model, "config", None), "num_labels", None)
    return None if labels is None else int(labels)


__all__ = ["IGNORE_INDEX", "SquareLossTrainer", "TrainerLoss"]

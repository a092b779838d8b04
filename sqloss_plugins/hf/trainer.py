"""``SquareLossTrainer``: Transformers' Trainer with the losses of this package."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainingArguments

from sqloss_plugins.hf.config import LOSS_ARGUMENTS, SquareLossConfig, as_square_loss_config
from sqloss_plugins.hf.distillation import DEFAULT_WEIGHT, Distillation, load_teacher
from sqloss_plugins.hf.factorised_head import FactorisedHead, FactorisedHeadTrainer
from sqloss_plugins.hf.label_lists import loss_of_lists
from sqloss_plugins.hf.pipelines import about_outputs, class_probabilities
from sqloss_plugins.hf.prior import RowSteps, row_scales, start_at_prior
from sqloss_plugins.hf.token_scores import OutputScores
from sqloss_plugins.hf.trained_model import (
    check_class_weights,
    count_classes,
    forget_training,
    has_several_labels,
    keep_training,
    load_renamed,
    refuse_bypasses,
    refuse_without_logits,
    shifts_labels,
    underlying,
)
from sqloss_plugins.hf.trainer_loss import TrainerLoss
from sqloss_plugins.hf.without_logits import HeadWithoutLogits, output_layer
from sqloss_plugins.losses import LOSSES, prior_weights
from sqloss_plugins.paper import Rescaling

logger = logging.getLogger(__name__)


class SquareLossTrainer(FactorisedHeadTrainer):
    """A Trainer whose training and evaluation loss is the square loss, or another of this package's.

    Used as :class:`transformers.Trainer` is, with everything it takes. What the loss is, the arguments say:
    :class:`sqloss_plugins.hf.SquareLossConfig` (plain ``TrainingArguments`` have its defaults). They may be changed
    before every training, and by ``hyperparameter_search``. ``label_smoothing_factor`` is applied by the loss. Which
    loss, k and M is logged. A training writes them into the model's configuration, the loss's name as ``trained_with``,
    k and M as ``square_loss``, for :func:`sqloss_plugins.hf.class_probabilities` and for Transformers' pipelines
    (beside a PEFT adapter, too). A model that is not trained keeps what its configuration says, and its own k and M
    are those of the evaluation loss where none are given. A model whose ``config.problem_type`` is
    ``multi_label_classification`` is trained as such. The evaluation loss is the Trainer's mean over batches, weighted
    by their examples. ``protocol="early_stopping"`` adds the callback for it.

    Args:
        model: as for the Trainer.
        args: a SquareLossConfig, or plain TrainingArguments.
        *others, **keywords: as for the Trainer.
        shift_labels: whether outputs are held against the next label; by default as the model's own loss does.
        train_collator: puts the examples of training together to a batch, in the place of ``data_collator``, which then
            is that of evaluation: for batches whose labels are class probabilities, as MixUp makes them.
        teacher: a trained classifier of the same classes, which has a share of ``args.distillation_weight`` in the
            targets of training; see :mod:`sqloss_plugins.hf.distillation`. Evaluation goes by the labels alone. By
            default the one that ``args.teacher`` names, if any.
        label_lists: whether the labels of multi-label classification are lists of class numbers, for very many
            classes; :class:`sqloss_plugins.hf.label_lists.LabelListCollator` makes batches of them. With
            ``args.without_logits`` or ``args.factorised_head`` no output is made for the classes that are not true.
        class_weights: a weight for each class in training and evaluation loss, in the order of the class numbers; see
            ``weight`` of :class:`TrainerLoss`. Not for regression, multi-label classification and multiple choice.
        class_counts: how often each class occurs in the training data, all above 0, in the order of the class numbers;
            for ``args.prior_exponent``.

    Attributes:
        rescaling: k and M of the loss, and where they come from; None for a loss without, and for regression.

    Raises:
        ValueError: arguments that SquareLossConfig refuses; ``compute_loss_func`` given; a model or a setting whose
            loss would not pass through here, or that cannot be trained without logits, with the reason.
    """

    args: SquareLossConfig
    compute_loss_func: Any
    preprocess_logits_for_metrics: Any
    label_names: list[str]
    lr_scheduler: Any
    data_collator: Any
    rescaling: Rescaling | None
    _loss_shifts_labels: bool

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *others: Any,
        shift_labels: bool | None = None,
        label_lists: bool = False,
        class_weights: Sequence[float] | None = None,
        class_counts: Sequence[float] | None = None,
        train_collator: Callable[..., Any] | None = None,
        teacher: PreTrainedModel | None = None,
        **keywords: Any,
    ) -> None:
        if model is not None and not isinstance(model, nn.Module):
            raise ValueError(f"model must be an object of torch.nn.Module, got {model!r}")
        config = SquareLossConfig("tmp_trainer") if args is None else as_square_loss_config(args)
        super().__init__(model, config, *others, **keywords)
        if self.compute_loss_func is not None:
            raise ValueError(
                "compute_loss_func is what SquareLossTrainer sets: name a loss in its arguments, or use a Trainer"
            )
        self.label_names = self.label_names or ["labels"]  # none are found in a model that torch.compile has wrapped
        model = self._bare_model()
        parallelism = getattr(self.accelerator, "parallelism_config", None)
        refuse_bypasses(model, config, self.label_names, parallelism)
        if shift_labels is None:
            shift_labels = shifts_labels(model, self._loss_shifts_labels)
        # What the Trainer counts must be what the loss adds up; by itself it knows some causal models only (not GPT-2).
        self._loss_shifts_labels = shift_labels
        self._logged = ""
        # They are taken in the prediction step, which can do without logits.
        self._output_scores: OutputScores | None = None
        if isinstance(self.preprocess_logits_for_metrics, OutputScores):
            self._output_scores = self.preprocess_logits_for_metrics
            self.preprocess_logits_for_metrics = None
        self.label_lists = label_lists
        self.class_weights = class_weights
        self.class_counts = class_counts
        self._row_steps: RowSteps | None = None
        self.train_collator = train_collator
        if teacher is None and config.teacher is not None:
            teacher = load_teacher(config.teacher)
        self.distillation = None if teacher is None else Distillation(teacher, model)
        if teacher is None and config.distillation_weight is not None:
            raise ValueError("--distillation_weight is the share of --teacher in the targets, and there is no teacher")
        self._set_loss()
        if config.stops_early:
            self.add_callback(EarlyStoppingCallback(config.patience))
        # A generating encoder-decoder makes its decoder's inputs from the labels, which it does not get to see here.
        self._needs_decoder_inputs = bool(
            getattr(getattr(model, "config", None), "is_encoder_decoder", False)
            and getattr(model, "can_generate", bool)()
        )

    def _bare_model(self) -> nn.Module:
        return underlying(self.accelerator.unwrap_model(self.model))

    def _set_loss(self) -> None:
        """Makes the loss that the arguments ask for now, for the model that is trained, or scored, now."""
        args, model = self.args, self._bare_model()
        self._release_head()
        args.check_loss()
        num_classes, is_multi_label = count_classes(model), has_several_labels(model)
        self.rescaling = found = args.choose_rescaling(
            num_classes, is_multi_label, getattr(getattr(model, "config", None), "square_loss", None)
        )
        self._is_regression = is_regression = num_classes == 1 and not is_multi_label
        if is_regression and args.label_smoothing_factor:
            raise ValueError("--label_smoothing_factor needs classes, and a model with one output is a regression")
        if self.class_weights is not None:
            check_class_weights(self.class_weights, model, num_classes, is_regression)
        self.compute_loss_func = TrainerLoss(
            args.loss,
            k=found.k if found else None,
            M=found.M if found else None,
            label_smoothing=args.label_smoothing_factor,
            shift_labels=self._loss_shifts_labels,
            multi_label=is_multi_label,
            label_lists=self.label_lists,
            weight=self.class_weights,
            prior_weight=None if args.prior_exponent is None else self._prior_weight(model, num_classes),
        )
        if args.without_logits:
            if self.distillation is not None:
                raise ValueError(
                    f"{args.head_option} has no targets that are class probabilities, as a teacher gives them"
                )
            refuse_without_logits(
                self.model,
                args,
                num_classes,
                is_multi_label=is_multi_label,
                has_lists=self.label_lists,
                is_sharded=self.is_fsdp_enabled or self.is_deepspeed_enabled,
                is_weighted=self.class_weights is not None,
            )
            self.compute_loss_func.head = self._head_without_logits(model, num_classes)
        self._log_loss(is_regression, is_multi_label)

    def _prior_weight(self, model: nn.Module, num_classes: int | None) -> Tensor:
        """The prior weights that the arguments ask for; refuses, with a reason, where there can be none."""
        args, counts = self.args, self.class_counts
        reason = None
        if counts is None:
            reason = "SquareLossTrainer needs class_counts, how often each class occurs"
        elif has_several_labels(model) or num_classes == 1:
            reason = "the model has no classes of which one is true"
        elif len(counts) != num_classes:
            reason = f"there are {len(counts)} class counts, and the model has {num_classes} classes"
        elif self.is_fsdp_enabled or self.is_deepspeed_enabled:
            reason = "FSDP and DeepSpeed hold the output layer in pieces"
        elif any(kind in str(args.optim).lower() for kind in ("lomo", "layerwise")):
            reason = "this optimiser steps within the backward pass"
        if reason is not None or counts is None:
            raise ValueError(f"--prior_exponent weighs the classes by their frequencies, and {reason}")
        layer = output_layer(model, num_classes or 0, "--prior_exponent")
        inputs = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
        if getattr(inputs, "weight", None) is layer.weight:
            raise ValueError(
                f"--prior_exponent needs an output layer of its own, and that of {type(model).__name__} has the "
                "weights of the input embeddings: leave it out, or make a model without tie_word_embeddings"
            )
        return prior_weights(torch.as_tensor(counts), float(args.prior_exponent or 0.0))

    def begin_at_prior(self) -> None:
        """Brings a new model's output layer to where a training with ``args.prior_exponent`` begins."""
        model, weight = self._bare_model(), self.compute_loss_func.loss.prior_weight
        if weight is None or self.rescaling is None:
            raise ValueError("begin_at_prior is for a training with --prior_exponent")
        layer = output_layer(model, len(weight), "--prior_exponent")
        start_at_prior(layer, torch.as_tensor(self.class_counts), weight, self.rescaling.k, self.rescaling.M)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's; with ``prior_exponent`` its steps are longer for the rows of frequent classes."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if self._row_steps is not None:
            self._row_steps.remove()  # those of an earlier training, whose optimiser is used again
            self._row_steps = None
        weight = self.compute_loss_func.loss.prior_weight if self.args.prior_exponent is not None else None
        if weight is not None and self.rescaling is not None:
            layer = output_layer(self._bare_model(), len(weight), "--prior_exponent")
            parameters = [parameter for parameter in (layer.weight, layer.bias) if parameter is not None]
            inner = getattr(optimizer, "optimizer", optimizer)  # after a training it is wrapped by accelerate
            self._row_steps = RowSteps(inner, parameters, row_scales(weight, self.rescaling.k, self.rescaling.M))
        return optimizer

    def _head_without_logits(self, model: nn.Module, num_classes: int | None) -> HeadWithoutLogits:
        if self.args.factorised_head:
            rate = float(self.args.head_learning_rate or 0.0)
            return self._with_steps(FactorisedHead(model, num_classes or 0, rate, **self.compute_loss_func.options))
        spec, options = LOSSES[self.args.loss], self.compute_loss_func.options
        if self.args.num_sampled is not None and spec.of_sampled_classes is not None:
            sampled = partial(spec.of_sampled_classes, num_sampled=self.args.num_sampled, **options)
            return HeadWithoutLogits(model, sampled, num_classes or 0)
        if self.label_lists and spec.multilabel_of_linear_layer is not None:
            of_lists = partial(loss_of_lists, spec.multilabel_of_linear_layer, **options)
            return HeadWithoutLogits(model, of_lists, num_classes or 0)
        assert spec.of_linear_layer is not None, "check_loss refuses without_logits for such a loss"
        # An accumulation is of the layer's own rows, and there can be none with prior weights.
        shared = self.args.world_size == 1 and self.args.prior_exponent is None
        steps = self.args.gradient_accumulation_steps if shared else 1
        return HeadWithoutLogits(model, partial(spec.of_linear_layer, **options), num_classes or 0, steps)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The Trainer's, with the model's configuration where PEFT would save an adapter alone."""
        super()._save(output_dir, state_dict)
        base = underlying(self.model)
        is_adapted = base is not getattr(self.model, "_orig_mod", self.model)
        if is_adapted and isinstance(base, PreTrainedModel) and self.args.should_save:
            base.config.save_pretrained(output_dir or self.args.output_dir)

    def predict_proba(self, test_dataset: Dataset[Any]) -> NDArray[Any]:
        """Class probabilities of a data set, shape (N, C), by the model's own loss.

        See :func:`sqloss_plugins.hf.class_probabilities`; for models with one row of outputs for each example.

        Raises:
            ValueError: the model is a regression, or has no configuration.
        """
        model = self._bare_model()
        if count_classes(model) == 1 and not has_several_labels(model):
            raise ValueError("a model with one output is a regression, and has no class probabilities: use predict")
        if not hasattr(model, "config"):
            raise ValueError(f"{type(model).__name__} has no config that says how to read its outputs: use predict")
        outputs: Any = self.predict(test_dataset).predictions
        if isinstance(outputs, tuple):  # some models return more than their logits
            outputs = outputs[0]
        return class_probabilities(model.config, torch.from_numpy(outputs)).numpy()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's, and what the outputs of the model mean."""
        super().create_model_card(*args, **kwargs)
        path = Path(self.args.output_dir) / "README.md"
        reading = getattr(getattr(self._bare_model(), "config", None), "square_loss", None)
        if self.is_world_process_zero() and reading and path.is_file():
            text = path.read_text(encoding="utf-8") + about_outputs(reading["k"], reading["M"])
            path.write_text(text, encoding="utf-8")

    def _log_loss(self, is_regression: bool, is_multi_label: bool) -> None:
        """Says what the loss is, once, and again when it changes."""
        parts = [self.args.loss]
        if is_multi_label:
            parts.append("multi-label")
        if self.rescaling:
            parts.append(str(self.rescaling))
        if self.args.prior_exponent is not None:
            parts.append(f"prior exponent {self.args.prior_exponent:g}")
        if self.args.num_sampled is not None:
            parts.append(f"{self.args.num_sampled} sampled classes")
        if self.class_weights is not None:
            parts.append(f"class weights from {min(self.class_weights):.4g} to {max(self.class_weights):.4g}")
        line = f"Loss: {', '.join(parts)}"
        if is_regression:
            line = "One output: a regression. The loss is the mean squared error, whatever the loss named."
        if line != self._logged:
            logger.warning(line)
        self._logged = line

    def _hp_search_setup(self, trial: Any) -> None:
        """The Trainer's, which every training begins with: the loss is made anew, from the arguments as they are now.

        A trial starts with the arguments of the loss that the search was started with, so that k of an earlier trial
        is not left over for a loss that has none.
        """
        if trial is not None and self.hp_search_backend is not None:
            self._set_arguments(self._arguments_of_search)
        super()._hp_search_setup(trial)
        model = self._bare_model()
        forget_training(getattr(model, "config", None))  # by what its outputs were read before, or what was fitted
        self._set_loss()
        keep_training(model, self.args.loss, self.rescaling)

    def hyperparameter_search(self, *args: Any, **keywords: Any) -> Any:
        """The Trainer's. The search space may have what the loss is made from, such as ``loss``, ``k`` and ``M``."""
        self._arguments_of_search = {name: getattr(self.args, name) for name in LOSS_ARGUMENTS}
        try:
            return super().hyperparameter_search(*args, **keywords)
        finally:
            self._set_arguments(self._arguments_of_search)

    def _set_arguments(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self.args, name, value)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's, with the collator for training."""
        of_all, self.data_collator = self.data_collator, self.train_collator or self.data_collator
        try:
            loader: DataLoader[Any] = super().get_train_dataloader()
        finally:
            self.data_collator = of_all
        return loader

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The Trainer's, or the one by ``lr_milestones``."""
        args = self.args
        if self.lr_scheduler is None and args.lr_milestones and args.lr_decay:
            schedule = partial(
                _rate_by_milestones,
                milestones=[share * num_training_steps for share in args.lr_milestones],
                decay=args.lr_decay,
                warmup=args.get_warmup_steps(num_training_steps),
            )
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, schedule)
            self._created_lr_scheduler = True
        scheduler: LRScheduler = super().create_scheduler(num_training_steps, optimizer)
        return scheduler

    def _load_best_model(self) -> None:
        """The Trainer's, for models whose weights are saved by other names, too."""
        self._fold_head()
        if not self._load_renamed(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """The Trainer's, for models whose weights are saved by other names, too."""
        if not self._load_renamed(resume_from_checkpoint, model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_renamed(self, folder: str | None, model: nn.Module | None = None) -> bool:
        if folder is None or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return False
        return load_renamed(folder, self.model if model is None else model)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's, which calls the loss function; right under DataParallel, and with a teacher in training.

        Raises:
            ValueError: an encoder-decoder without ``decoder_input_ids``.
        """
        if self._needs_decoder_inputs and "decoder_input_ids" not in inputs:
            raise ValueError(
                f"{type(underlying(model)).__name__} needs decoder_input_ids in the batch, since the loss is computed "
                "outside of it: use DataCollatorForSeq2Seq(tokenizer, model=model)"
            )
        if self.distillation is not None and model.training and "labels" in inputs:
            share, labels = self.args.distillation_weight, inputs["labels"]
            targets = self.distillation(inputs, labels, DEFAULT_WEIGHT if share is None else share)
            if num_items_in_batch is not None and not labels.is_floating_point():
                num_items_in_batch = num_items_in_batch * targets.shape[-1]  # the values, as of class probabilities
            inputs = {**inputs, "labels": targets}
        # Labels that are shifted already, by a collator that packs texts, or by context parallelism, which cuts them.
        is_shifted = self._loss_shifts_labels and "shift_labels" in inputs
        if is_shifted:
            rest = {name: value for name, value in inputs.items() if name != "shift_labels"}
            inputs = {**rest, "labels": inputs["shift_labels"]}
        self.compute_loss_func.shift_labels = self._loss_shifts_labels and not is_shifted
        head = self.compute_loss_func.head
        with head.opened() if head is not None and model.training else nullcontext():
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.args.n_gpu > 1 and num_items_in_batch is not None:
            # DataParallel: the outputs of all GPUs are gathered before the loss is computed, once, but the Trainer
            # scales it up as if each GPU had computed its own.
            loss = loss / self.args.n_gpu
        if isinstance(outputs, tuple):
            outputs = (loss, *outputs)  # the Trainer takes the first of a tuple for the loss, and drops it
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """The Trainer's, without logits where ``without_logits`` is set and they are not asked for themselves.

        With :class:`~sqloss_plugins.hf.token_scores.OutputScores` it returns what they keep in the place of logits.
        """
        scores, head, labels = self._output_scores, self.compute_loss_func.head, inputs.get("labels")
        without = (
            head is not None
            and (prediction_loss_only or scores is not None)
            and labels is not None
            and not labels.is_floating_point()
        )
        with head.opened(scores) if without else nullcontext():
            loss, outputs, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if scores is not None and outputs is not None:
            outputs = head.sums if without else scores(outputs, labels)
        return loss, outputs, labels

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        """The Trainer's; of a regression -100 is a number like any other, and counts; lists of classes count once."""
        if self._is_regression or self.label_lists:
            batch_samples = [
                {**batch, "labels": torch.zeros_like(labels[:, 0] if self.label_lists else labels)}
                if torch.is_tensor(labels := batch.get("labels"))
                else batch
                for batch in batch_samples
            ]
        count: Tensor | int | None = super()._get_num_items_in_batch(batch_samples, device)
        return count

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's; after the last micro-batch of a step the output layer's gradient is completed."""
        head = self.compute_loss_func.head
        try:
            loss: Tensor = super().training_step(*args, **kwargs)
        except RuntimeError:  # where memory was too small, auto_find_batch_size begins anew
            if head is not None:
                head.drop_gradient()
            raise
        if head is not None and self.accelerator.sync_gradients:
            head.finish_step()
        return loss


def _rate_by_milestones(step: int, *, milestones: Sequence[float], decay: float, warmup: int) -> float:
    """What the learning rate is multiplied by at a step, counted from 0."""
    rising = min(1.0, step / warmup) if warmup else 1.0
    return float(rising * decay ** bisect_right(milestones, step))


__all__ = ["SquareLossTrainer"]

"""The training arguments of :class:`sqloss_plugins.hf.SquareLossTrainer`: Hugging Face's, and the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from transformers import TrainingArguments

from sqloss_plugins import paper
from sqloss_plugins.losses import DEFAULT_LOSS, LOSSES, check_loss, check_rescaling

PROTOCOLS = ("early_stopping", "same_epochs")
"""The paper's protocols that a Trainer can follow; see :class:`SquareLossConfig`."""


LOSS_ARGUMENTS = (
    *("loss", "k", "M", "rescaling", "paper_task", "prior_exponent", "without_logits", "label_smoothing_factor"),
    *("factorised_head", "head_learning_rate", "num_sampled", "distillation_weight"),
)
"""The training arguments that the loss is made from."""


@dataclass
class SquareLossConfig(TrainingArguments):
    """Training arguments with the loss: saved with a run, read from a command line, and open to a search.

    Takes every argument of :class:`transformers.TrainingArguments`, and those below. Losses that are not a number are
    logged as they are (``logging_nan_inf_filter`` is False by default): a training that diverged shows it.

    Attributes:
        loss: a key of :data:`sqloss_plugins.losses.LOSSES`.
        k: weight of the true class's term; None: chosen by ``rescaling``.
        M: target of the true class; None: chosen by ``rescaling``.
        rescaling: the rule for k and M, one of :data:`sqloss_plugins.paper.RULES`.
        paper_task: the paper's name of the task, to look k and M up; None for a task of one's own.
        prior_exponent: a, from 0 to 1, of the prior-weighted square loss, in which an error of class i counts in
            inverse proportion to (frequency of i)^a; for language models, whose classes are of very unequal frequency.
            The Trainer needs ``class_counts``. None: the plain loss.
        without_logits: train the output layer by :func:`sqloss_plugins.losses.linear_square_loss`, so that training
            need not have the logits of a batch in memory: for language models, and classifiers of very many classes.
            Evaluation has them for some tokens at a time where it wants the loss alone, or the scores of tokens
            (:class:`sqloss_plugins.hf.token_scores.TokenScores` as ``preprocess_logits_for_metrics``), and as ever
            where the logits themselves are asked for. Not with DataParallel, FSDP, DeepSpeed or torch.compile.
            None means False, unless a training script says otherwise.
        factorised_head: train the output layer by exact SGD in factorised form, whose steps cost the same for any
            number of classes (:class:`sqloss_plugins.losses.FactorisedSquareHead`); ``optim`` is for the rest of the
            model, and ``without_logits`` is implied. Gradient clipping, the schedule and weight decay (as AdamW's) are
            those of the rest; the layer has no momentum. What is saved is a plain model. Between a step and the next
            evaluation or checkpoint, a callback that reads the layer's weight reads a part of it. On one process, in
            float32, or bfloat16 by autocast.
        head_learning_rate: the learning rate of that SGD, which follows the schedule; of the usual size times C,
            because the loss is divided by C.
        num_sampled: train by :func:`sqloss_plugins.losses.sampled_softmax_loss`, cross-entropy estimated in each step
            from the true classes and so many others; ``without_logits`` is implied. Evaluation takes all outputs.
        protocol: ``early_stopping``: at most ``num_train_epochs`` epochs, ended when the validation metric has not
            improved for ``patience`` epochs, and the best epoch's model. ``same_epochs``: exactly ``num_train_epochs``
            epochs, and the last model. None: as the other arguments say.
        patience: validations, of which there is one after every epoch, or after every ``eval_steps``.
        teacher: folder or hub name of a trained classifier whose class probabilities have a share in the targets of
            training; see :mod:`sqloss_plugins.hf.distillation`. SquareLossTrainer takes the model itself, too.
        distillation_weight: the teacher's share, from 0 to 1; None: 0.5, where there is one.
        lr_milestones: shares of all training steps, increasing, after each of which the learning rate is multiplied by
            ``lr_decay``; ``lr_scheduler_type`` is ``constant`` or ``constant_with_warmup`` then, and a warm-up is made
            in either case. None: the schedule that ``lr_scheduler_type`` names.
        lr_decay: the factor; None: 0.1, where there are milestones.

    Raises:
        ValueError: a value that an argument cannot have, or arguments that contradict each other.

    Examples:
        >>> from sqloss_plugins.hf import SquareLossConfig
        >>> args = SquareLossConfig("out", loss="square", learning_rate=5e-5, use_cpu=True, report_to="none")
        >>> args.choose_rescaling(num_classes=2)
        Rescaling(k=1.0, M=1.0, source='not rescaled, as the paper below 42 classes')
    """

    loss: str = field(default=DEFAULT_LOSS, metadata={"help": "The training loss.", "choices": list(LOSSES)})
    k: float | None = field(
        default=None,
        metadata={"help": "Square loss: weight of the true class's term. By default chosen by --rescaling."},
    )
    M: float | None = field(
        default=None, metadata={"help": "Square loss: target of the true class. By default chosen by --rescaling."}
    )
    rescaling: str = field(
        default="auto",
        metadata={
            "help": "Square loss: the rule for k and M. auto: the paper's for its tasks, else by the number of "
            "classes; paper: the paper's table; level: the first loss is as large as cross-entropy's.",
            "choices": list(paper.RULES),
        },
    )
    paper_task: str | None = field(
        default=None, metadata={"help": "Square loss: the paper's name of the task, to look its k and M up."}
    )
    prior_exponent: float | None = field(
        default=None,
        metadata={
            "help": "Square loss of a language model: an error counts in inverse proportion to this power of the "
            "token's frequency; from 0 to 1. By default all count alike."
        },
    )
    without_logits: bool | None = field(
        default=None,
        metadata={
            "help": "Square loss: train the output layer without building its outputs, unless building them is "
            "faster; and score tokens without those of a whole batch."
        },
    )
    factorised_head: bool = field(
        default=False,
        metadata={
            "help": "Square loss: train the output layer by an exact SGD whose steps cost the same for any number of "
            "classes, beside --optim for the rest."
        },
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "The learning rate of --factorised_head: of the usual size for SGD times the number of classes."
        },
    )
    num_sampled: int | None = field(
        default=None,
        metadata={
            "help": "Cross-entropy: train by sampled softmax, on the true classes and so many others, drawn anew for "
            "every batch, each with the same probability. Validation and test take all classes."
        },
    )
    protocol: str | None = field(
        default=None,
        metadata={
            "help": "early_stopping: at most num_train_epochs epochs, stopping when the validation metric has not "
            "improved for `patience` epochs, and the best epoch's model; same_epochs: exactly num_train_epochs epochs, "
            "and the last model.",
            "choices": list(PROTOCOLS),
        },
    )
    patience: int = field(default=5, metadata={"help": "Validations without improvement before early_stopping stops."})
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Trained classifier of the same classes, a folder or a name on the hub, whose class probabilities "
            "have a share in the targets of training."
        },
    )
    distillation_weight: float | None = field(
        default=None, metadata={"help": "The share of --teacher in the targets, from 0 to 1: 0.5 by default."}
    )
    lr_milestones: list[float] | None = field(
        default=None,
        metadata={
            "help": "Shares of the training, such as 0.5 0.75, after which the learning rate is multiplied by "
            "--lr_decay; with --lr_scheduler_type constant."
        },
    )
    lr_decay: float | None = field(
        default=None, metadata={"help": "What the learning rate is multiplied by at a milestone: 0.1 by default."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave losses that are not finite out of the logged averages."}
    )

    def __post_init__(self) -> None:
        """Checks what can be checked before there is a model."""
        if (self.factorised_head or self.num_sampled is not None) and self.without_logits is None:
            self.without_logits = True
        self.check_loss()
        self._check_protocol()
        super().__post_init__()
        self._check_schedule()

    @property
    def stops_early(self) -> bool:
        """Whether validation decides when training ends and which model counts."""
        return self.protocol == "early_stopping"

    @property
    def head_option(self) -> str:
        """The option by which the output layer is trained without logits, for messages."""
        sampled = "--num_sampled" if self.num_sampled is not None else "--without_logits"
        return "--factorised_head" if self.factorised_head else sampled

    def check_loss(self) -> None:
        """Checks the arguments of the loss; again after a search has set some of them.

        Raises:
            ValueError: for the first that is wrong.
        """
        _check_choice("loss", self.loss, tuple(LOSSES))
        _check_choice("rescaling", self.rescaling, paper.RULES)
        if self.paper_task is not None:
            _check_choice("paper_task", self.paper_task, paper.tasks())
        spec = LOSSES[self.loss]
        if not spec.is_rescaled and (self.k is not None or self.M is not None):
            raise ValueError(f"--k and --M rescale the square loss, and --loss is {self.loss}: leave them out")
        try:
            check_rescaling(1.0 if self.k is None else self.k, 1.0 if self.M is None else self.M)
        except ValueError as error:
            raise ValueError(f"--{error}") from None
        self._check_head(spec.of_linear_layer is not None)
        self._check_num_sampled(spec.of_sampled_classes is not None)
        if self.without_logits and spec.of_linear_layer is None and self.num_sampled is None:
            raise ValueError(f"--without_logits needs a loss that can be had without logits, and {self.loss} cannot")
        if self.prior_exponent is not None:
            if not spec.is_rescaled:
                raise ValueError(f"--prior_exponent is of the square loss, and --loss is {self.loss}: leave it out")
            if not 0.0 <= self.prior_exponent <= 1.0:
                raise ValueError(f"--prior_exponent must be from 0 to 1, got {self.prior_exponent:g}")
        if not 0.0 <= self.label_smoothing_factor <= 1.0:
            raise ValueError(f"--label_smoothing_factor must be between 0 and 1, got {self.label_smoothing_factor:g}")
        if self.teacher == "":
            raise ValueError("--teacher is empty: give a folder or a name on the hub, or leave it out")
        if self.distillation_weight is not None and not 0.0 <= self.distillation_weight <= 1.0:
            raise ValueError(f"--distillation_weight must be between 0 and 1, got {self.distillation_weight:g}")

    def _check_head(self, has_form: bool) -> None:
        if not self.factorised_head:
            if self.head_learning_rate is not None:
                raise ValueError("--head_learning_rate is of --factorised_head: leave it out")
            return
        if not has_form:
            raise ValueError(f"--factorised_head is for the square loss, and --loss is {self.loss}: leave it out")
        if not self.without_logits:
            raise ValueError("--factorised_head trains without logits: leave --without_logits out")
        if self.prior_exponent is not None:
            raise ValueError("--factorised_head has no prior weights: leave it or --prior_exponent out")
        if self.fp16:
            raise ValueError("--factorised_head has no scaled loss, as --fp16 needs it: take --bf16")
        if not self.learning_rate > 0.0:
            raise ValueError("--factorised_head needs a --learning_rate greater than 0, by which the schedule is told")
        if self.head_learning_rate is None:
            raise ValueError("--factorised_head needs --head_learning_rate, the usual size for SGD times the classes")
        if not 0.0 < self.head_learning_rate < math.inf:
            raise ValueError(
                f"--head_learning_rate must be a finite number greater than 0, got {self.head_learning_rate:g}"
            )

    def _check_num_sampled(self, has_form: bool) -> None:
        if self.num_sampled is None:
            return
        if not has_form:
            raise ValueError(f"--num_sampled is for cross-entropy, and --loss is {self.loss}: leave it out")
        if self.num_sampled < 1:
            raise ValueError(f"--num_sampled must be at least 1, got {self.num_sampled}")
        if not self.without_logits:
            raise ValueError("--num_sampled trains without logits: leave --without_logits out")

    def check_sample(self, num_classes: int | None) -> None:
        """Checks how many classes are sampled, of a model with so many; None: not known.

        Raises:
            ValueError: more than there are.
        """
        if self.num_sampled is not None and num_classes is not None and self.num_sampled > num_classes:
            raise ValueError(f"--num_sampled {self.num_sampled} is more than the {num_classes} classes that there are")

    def _check_protocol(self) -> None:
        if self.protocol is not None:
            _check_choice("protocol", self.protocol, PROTOCOLS)
        if self.patience < 1:
            raise ValueError(f"--patience must be at least 1, got {self.patience}")
        if self.stops_early and not (
            self.load_best_model_at_end
            and self.eval_strategy == self.save_strategy
            and (
                self.eval_strategy == "epoch" or (self.eval_strategy == "steps" and self.eval_steps == self.save_steps)
            )
            and not self.eval_delay
        ):
            raise ValueError(
                "--protocol early_stopping validates and saves after every epoch, or every so many steps, and loads "
                "the best model: it needs --eval_strategy epoch and --save_strategy epoch, or both steps with equal "
                "--eval_steps and --save_steps, --load_best_model_at_end, and no --eval_delay"
            )
        if self.protocol == "same_epochs" and self.load_best_model_at_end:
            raise ValueError("--protocol same_epochs takes the last model: leave --load_best_model_at_end out")

    def _check_schedule(self) -> None:
        shares = self.lr_milestones
        if not shares:
            self.lr_milestones = None
            if self.lr_decay is not None:
                raise ValueError("--lr_decay is for --lr_milestones, and there are none: leave it out")
            return
        if not (all(0.0 < share < 1.0 for share in shares) and shares == sorted(set(shares))):
            raise ValueError(
                "--lr_milestones must be shares of the training, greater than 0, less than 1 and increasing, got "
                f"{' '.join(f'{share:g}' for share in shares)}"
            )
        if self.lr_decay is None:
            self.lr_decay = 0.1
        if not 0.0 < self.lr_decay < math.inf:
            raise ValueError(f"--lr_decay must be a finite number greater than 0, got {self.lr_decay:g}")
        if self.lr_scheduler_type not in ("constant", "constant_with_warmup"):
            raise ValueError(
                f"--lr_milestones and --lr_scheduler_type {self.lr_scheduler_type.value} are two schedules: with "
                "milestones the type is constant or constant_with_warmup"
            )

    def choose_rescaling(
        self, num_classes: int | None, is_multi_label: bool = False, own: Mapping[str, float] | None = None
    ) -> paper.Rescaling | None:
        """k and M for a model.

        Args:
            num_classes: outputs of the model; 1 is a regression; None where they are not known.
            is_multi_label: whether it is multi-label classification, of any number of classes: (1, 1), unless k and M
                are given, or ``rescaling`` is ``level``.
            own: ``k`` and ``M`` of a model that is not trained anew, ``config.square_loss``; they count where no
                argument says anything of k and M.

        Returns:
            None where the loss has neither k nor M, and for a regression.

        Raises:
            ValueError: k or M given for a regression, or not given where the number of classes is not known; a loss or
                a rule that multi-label classification does not have.
        """
        if not check_loss(self.loss, is_multi_label=is_multi_label).is_rescaled:
            return None
        if num_classes == 1 and not is_multi_label:
            if self.k is None and self.M is None:
                return None
            raise ValueError("--k and --M rescale the true class, and a model with one output is a regression")
        if self.k is not None and self.M is not None:
            return paper.Rescaling(float(self.k), float(self.M), "given by the user")
        if own and self.k is None and self.M is None and self.rescaling == "auto" and self.paper_task is None:
            return paper.Rescaling(float(own["k"]), float(own["M"]), "the model's own")
        if is_multi_label:
            return paper.choose_rescaling(
                num_classes or 1, is_multi_label=True, rule=self.rescaling, k=self.k, M=self.M
            )
        if num_classes is None and self.paper_task is not None:
            num_classes = paper.num_classes(self.paper_task)
        if num_classes is None:
            raise ValueError(
                "the model does not say how many classes it has (config.num_labels), and k and M depend on it: give "
                "--k and --M"
            )
        return paper.choose_rescaling(num_classes, task=self.paper_task, rule=self.rescaling, k=self.k, M=self.M)


def as_square_loss_config(args: TrainingArguments) -> SquareLossConfig:
    """The arguments themselves, or plain ones with the defaults of :class:`SquareLossConfig` for what they lack.

    Raises:
        ValueError: another subclass of TrainingArguments.

    Examples:
        >>> from transformers import TrainingArguments
        >>> args = as_square_loss_config(TrainingArguments("out", learning_rate=1e-4))
        >>> args.loss, args.learning_rate
        ('square', 0.0001)
    """
    if isinstance(args, SquareLossConfig):
        return args
    if type(args) is not TrainingArguments:
        raise ValueError(
            f"args is a {type(args).__name__}: SquareLossTrainer takes a SquareLossConfig, or a class made from it"
        )
    return SquareLossConfig(**{entry.name: getattr(args, entry.name) for entry in fields(args) if entry.init})


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"--{name} must be one of {', '.join(choices)}, got {value!r}")


__all__ = ["LOSS_ARGUMENTS", "PROTOCOLS", "SquareLossConfig"]

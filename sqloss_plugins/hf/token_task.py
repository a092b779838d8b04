"""What tasks share whose model predicts tokens of a text: their scores, in the place of outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from sqloss_plugins.errors import UserError
from sqloss_plugins.hf.options import check_at_least, refuse_given
from sqloss_plugins.hf.task import Scores, Task
from sqloss_plugins.hf.token_scores import TokenScores
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.metrics import perplexity
from sqloss_plugins.results import OF_OUTPUTS

_OF_LIKELIHOOD: Mapping[str, Callable[[float], float]] = {
    "perplexity": perplexity,
    "bpc": lambda nll: nll / math.log(2),
}
"""Metric -> its value, from the mean negative log-likelihood of a token in nats."""


class TokenTask(Task):
    """A task whose model predicts tokens of a text.

    Attributes:
        likelihood: what is reported of the negative log-likelihood, beside itself: ``perplexity`` or ``bpc``.
        shift_labels: whether outputs are held against the next label, whatever the model's own loss does.
        of_new_model: of its own options those that a model which is given has settled.
        tokens: the scores, once there is a Trainer.
    """

    mini_warning = "MINI DATA: Python's own reference, and no benchmark"
    keeps_outputs = False
    likelihood: ClassVar[str]
    shift_labels: ClassVar[bool]
    of_new_model: ClassVar[tuple[str, ...]]
    tokens: TokenScores

    def check(self) -> None:
        """Refuses sizes that no model has, sizes of a model that is given, and to score a new one."""
        args = self.args
        check_at_least(1, args, "hidden_size", "num_layers", "num_heads")
        if args.model_name_or_path is not None:
            refuse_given(self.given, self.of_new_model, "is of a new model, and --model_name_or_path names one")
        elif not self.config.do_train:
            raise UserError("a new model has to be trained: name a trained one by --model_name_or_path to score that")
        elif args.hidden_size % args.num_heads:
            raise UserError(
                f"--hidden_size must be a multiple of --num_heads, got {args.hidden_size} and {args.num_heads}"
            )

    def trainer_options(self) -> dict[str, Any]:
        """Sums in the place of outputs."""
        config, shift = self.config, self.shift_labels
        self.tokens = TokenScores(LOSSES[config.loss].methods, config.k, config.M, shift_labels=shift)
        return {"preprocess_logits_for_metrics": self.tokens, "shift_labels": shift}

    def begin_scoring(self) -> None:
        """From now on every temperature is tried."""
        self.tokens.begin()

    def scores(self, outputs: Any, targets: Any) -> Scores:
        """Accuracy; negative log-likelihood, and what is reported of it, by each method.

        The temperature is fitted on the first split that is scored after training, if that is the validation data.
        """
        accuracy, nll = self.tokens.means(outputs, may_fit=self.config.do_eval)
        value_of = _OF_LIKELIHOOD[self.likelihood]
        by_method = {name: {self.likelihood: value_of(value), "nll": value} for name, value in nll.items()}
        return {OF_OUTPUTS: {"accuracy": accuracy}, **by_method}

    def fitted(self) -> dict[str, float]:
        """The temperature."""
        return {} if self.tokens.temperature is None else {"temperature": self.tokens.temperature}


__all__ = ["TokenTask"]

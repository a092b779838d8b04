"""Ends a training that has diverged, with one sentence."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sqloss_plugins.errors import RunError


class DivergenceCallback(TrainerCallback):
    """Ends a training whose logged loss, in training or validation, is not a finite number.

    It needs ``logging_nan_inf_filter=False``, the default of SquareLossConfig: otherwise such losses are not logged.

    Raises:
        RunError: with the step.
    """

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Looks at what is logged."""
        for name, value in (logs or {}).items():
            if (name == "loss" or name.endswith("_loss")) and not math.isfinite(float(value)):
                raise RunError(
                    f"the training diverged: {name} is {value} at step {state.global_step}; a smaller "
                    "--learning_rate may help, and with the square loss smaller --k and --M"
                )


__all__ = ["DivergenceCallback"]

"""ESPnet's decoding programs with a choice of how outputs become probabilities, for every task of the table."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.decoding import (
    Speech2Text,
    check_loaded,
    keep_coverage_apart,
    keep_within_frames,
    methods_of,
    use_method,
)
from sqloss_plugins.espnet.model_files import told_of_files
from sqloss_plugins.espnet.registration import register
from sqloss_plugins.espnet.tasks import TASKS, ESPnetTask


def decode(name: str, arguments: Sequence[str], method: str | None, temperature: float | None) -> None:
    """Runs ESPnet's decoding of a task.

    Args:
        name: a name of :data:`sqloss_plugins.espnet.tasks.TASKS`.
        arguments: ESPnet's.
        method: one of :data:`sqloss_plugins.probability.METHODS`; None for the usual one of the model's loss.
        temperature: T, for the method ``temperature``.

    Raises:
        UserError: a method that the model cannot have, files that do not exist or are damaged, or a task that does not
            decode.
    """
    task = TASKS[name]
    if task.inference is None:
        raise UserError(f"the task {name} is not decoded by itself here: give its model to another task's decoding")
    for known in {name, "lm"}:  # which decoding may take beside the model
        register(known)
    module_name, _, class_name = task.inference.rpartition(".")
    module = importlib.import_module(module_name)
    stock = getattr(module, class_name)
    setattr(module, class_name, _with_method(stock, task, method, temperature))
    try:
        module.main(list(arguments))
    finally:
        setattr(module, class_name, stock)


def _with_method(stock: Any, task: ESPnetTask, method: str | None, temperature: float | None) -> Any:
    """ESPnet's class whose model scores by the method."""
    if issubclass(Speech2Text, stock):

        class ChosenMethod(Speech2Text):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, method=method, temperature=temperature, **kwargs)

        return ChosenMethod

    class WithMethod(stock):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            configs = [(value, None) for name, value in kwargs.items() if name.endswith("_train_config")]
            models = [(None, value) for name, value in kwargs.items() if name.endswith(("_model_file", "lm_file"))]
            with told_of_files(*configs, *models):
                super().__init__(*args, **kwargs)
            model = getattr(self, task.decoded)
            check_loaded(model, kwargs)
            if task.kind == "decoder":
                keep_coverage_apart(model)
                for search in ("beam_search", "asr_beam_search"):
                    keep_within_frames(getattr(self, search, None))
                use_method(model, method or methods_of(model)[0], temperature)
            elif method or temperature is not None:
                if not hasattr(model, "use_method"):
                    raise UserError("this model is ESPnet's own, which has the softmax: leave --method out")
                model.use_method(method or methods_of(model)[0], temperature)

    return WithMethod

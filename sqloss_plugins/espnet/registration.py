"""Makes this package's models known to ESPnet's tasks, in the process that asks for it."""

from __future__ import annotations

import argparse
import functools
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from sqloss_plugins.espnet.model import MODEL_NAME, SquareLossASRModel, WithLoss
from sqloss_plugins.espnet.model_files import load_model, read_config
from sqloss_plugins.espnet.tasks import TASKS, ESPnetTask

# The models that need more than WithLoss, by their task; each is a class of the row's name.
_OWN_MODULES = {"lm": "language_model", "cls": "classification"}


@functools.cache
def model_class(name: str) -> type[WithLoss]:
    """ESPnet's model of a task, with a choice of loss.

    Args:
        name: a name of :data:`sqloss_plugins.espnet.tasks.TASKS`.
    """
    task = TASKS[name]
    if name == "asr":
        return SquareLossASRModel
    if name in _OWN_MODULES:
        module = importlib.import_module(f"sqloss_plugins.espnet.{_OWN_MODULES[name]}")
        own: type[WithLoss] = getattr(module, task.class_name)
        return own
    stock = pkgutil.resolve_name(task.model)
    about = f"``{stock.__name__}`` that is trained with a loss of one's choice; see :class:`WithLoss`."
    content = {"espnet_task": task, "__module__": "sqloss_plugins.espnet", "__doc__": about}
    return type(task.class_name, (WithLoss, stock), content)


@functools.cache
def register(name: str = "asr") -> None:
    """Makes ``--model sqloss`` known to a task of ESPnet's in this process.

    Language models, which ESPnet loads without a word where a file lacks parameters, are then loaded whole or refused.

    Args:
        name: a name of :data:`sqloss_plugins.espnet.tasks.TASKS`.
    """
    task = TASKS[name]
    espnet_task = pkgutil.resolve_name(task.task)
    module = importlib.import_module(espnet_task.__module__)
    if hasattr(module, "model_choices"):
        module.model_choices.classes[MODEL_NAME] = model_class(name)
    else:
        _add_option(espnet_task)
    if task.is_hard_coded:
        _let_choose(espnet_task, module, task, model_class(name))
    if task.kind == "language_model":
        _load_whole(espnet_task)


def _add_option(espnet_task: Any) -> None:
    """``--model``, where ESPnet's parser has none."""
    stock = espnet_task.add_task_arguments.__func__

    @functools.wraps(stock)
    def add_task_arguments(cls: Any, parser: argparse.ArgumentParser) -> None:
        stock(cls, parser)
        parser.add_argument("--model", choices=("espnet", MODEL_NAME), default="espnet", help="The model type")

    espnet_task.add_task_arguments = classmethod(add_task_arguments)


def _load_whole(espnet_task: Any) -> None:
    """Refuses a model file that does not fit its configuration, wherever a model of the task is loaded."""
    stock = espnet_task.build_model_from_file.__func__

    @functools.wraps(stock)
    def build_model_from_file(cls: Any, config_file: Any = None, model_file: Any = None, device: str = "cpu") -> Any:
        # A file of adapters has no more than their parameters.
        if config_file is None or model_file is None or read_config(Path(config_file)).get("use_adapter"):
            return stock(cls, config_file, model_file, device)
        return load_model(Path(config_file), Path(model_file), device, cls)

    espnet_task.build_model_from_file = classmethod(build_model_from_file)


def _let_choose(espnet_task: Any, module: Any, task: ESPnetTask, chosen: type[WithLoss]) -> None:
    """Has ESPnet make the chosen model in the place of the one that its code names."""
    stock = espnet_task.build_model.__func__
    name = task.model.rpartition(".")[2]

    @functools.wraps(stock)
    def build_model(cls: Any, args: argparse.Namespace) -> Any:
        if getattr(args, "model", None) != MODEL_NAME:
            return stock(cls, args)
        its_own = getattr(module, name)
        setattr(module, name, chosen)
        try:
            return stock(cls, args)
        finally:
            setattr(module, name, its_own)

    espnet_task.build_model = classmethod(build_model)

"""Host 1: ESPnet's speech recognition, translation, spoken language understanding, language models and classification.

ESPnet, whose import takes seconds, is imported with the first of the names below. That also registers the model
choice ``sqloss`` with ESPnet's ASR task, as :func:`register` does for any. Programs that only import ESPnet do not know
it: train and decode by ``python -m sqloss_plugins.espnet.bin.asr_train``, ``...asr_inference``, ``...train`` and
``...inference``, or export the model. :mod:`sqloss_plugins.espnet.tasks` is the table of all tasks.

For ESPnet3's configurations this module has the models' classes, such as ``SquareLossMTModel`` (for ``_target_``), and
ESPnet's own classes of the tasks, such as ``MTTask`` (for ``task``), which know the model choice from then on.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sqloss_plugins.espnet.tasks import TASKS

if TYPE_CHECKING:
    from sqloss_plugins.espnet.decoding import Speech2Text, use_method
    from sqloss_plugins.espnet.model import MODEL_NAME, SquareLossASRModel
    from sqloss_plugins.espnet.registration import model_class, register

__all__ = ["MODEL_NAME", "Speech2Text", "SquareLossASRModel", "model_class", "register", "use_method"]

_MODELS = {task.class_name: name for name, task in TASKS.items()}
_TASKS = {task.task.rpartition(".")[2]: name for name, task in TASKS.items()}


class _ImportedAtUse(ModuleType):
    """Stands for a module until one of its attributes is read."""

    def __getattr__(self, name: str) -> Any:
        # inspect, which many packages use while they are imported, asks all modules for __file__.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _import_at_use(name: str) -> None:
    spec = None if name in sys.modules else find_spec(name)
    if spec and spec.submodule_search_locations:
        module = _ImportedAtUse(name)
        module.__spec__, module.__path__ = spec, spec.submodule_search_locations
        sys.modules[name] = module


# ESPnet imports it in every process, for tokens that few models have; its import tries to download data, and says so at
# length where that fails.
_import_at_use("g2p_en")


def __getattr__(name: str) -> Any:
    if name not in (*__all__, *_MODELS, *_TASKS):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    registration = importlib.import_module(f"{__name__}.registration")
    if name in _MODELS:
        return registration.model_class(_MODELS[name])
    if name in _TASKS:
        registration.register(_TASKS[name])
        return pkgutil.resolve_name(TASKS[_TASKS[name]].task)
    return getattr(
        registration if hasattr(registration, name) else importlib.import_module(f"{__name__}.decoding"), name
    )

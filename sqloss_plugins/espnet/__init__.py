"""Host 1: ESPnet's hybrid CTC/attention speech recognition.

ESPnet, whose import takes seconds, is imported with the first of the names below. That also registers the model choice
``sqloss`` with ESPnet's ASR task, as :func:`register` does. Programs that only import ESPnet do not know it: train and
decode by ``python -m sqloss_plugins.espnet.bin.asr_train`` and ``...asr_inference``, or export the model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqloss_plugins.espnet.decoding import Speech2Text, use_method
    from sqloss_plugins.espnet.model import MODEL_NAME, SquareLossASRModel, register

__all__ = ["MODEL_NAME", "Speech2Text", "SquareLossASRModel", "register", "use_method"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    model = importlib.import_module(f"{__name__}.model")
    return getattr(model if hasattr(model, name) else importlib.import_module(f"{__name__}.decoding"), name)

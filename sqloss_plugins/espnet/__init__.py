"""Host 1: ESPnet's hybrid CTC/attention speech recognition.

Importing this package registers the model choice ``sqloss`` with ESPnet's ASR task. Programs that only import ESPnet do
not know it: train and decode by ``python -m sqloss_plugins.espnet.bin.asr_train`` and ``...asr_inference``, or export.
"""

from sqloss_plugins.espnet.decoding import Speech2Text, use_score
from sqloss_plugins.espnet.model import MODEL_NAME, SquareLossASRModel, register

__all__ = ["MODEL_NAME", "Speech2Text", "SquareLossASRModel", "register", "use_score"]

register()

"""Host 2: Hugging Face's Trainer."""

from sqloss_plugins.hf.config import SquareLossConfig
from sqloss_plugins.hf.trainer import SquareLossTrainer, TrainerLoss

__all__ = ["SquareLossConfig", "SquareLossTrainer", "TrainerLoss"]

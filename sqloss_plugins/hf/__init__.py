"""Host 2: Hugging Face's Trainer. With this imported, Transformers' pipelines score square-loss models right."""

from sqloss_plugins.hf.config import SquareLossConfig
from sqloss_plugins.hf.pipelines import class_probabilities, register_pipelines
from sqloss_plugins.hf.trainer import SquareLossTrainer
from sqloss_plugins.hf.trainer_loss import TrainerLoss

register_pipelines()

__all__ = ["SquareLossConfig", "SquareLossTrainer", "TrainerLoss", "class_probabilities"]

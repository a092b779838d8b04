"""The metrics as a module of Hugging Face's ``evaluate``, which needs no network.

    from sqloss_plugins.evaluate_metrics import load_metric

    load_metric("wer").compute(predictions=["one too"], references=["one two"])
    evaluate.combine([load_metric("accuracy"), load_metric("f1")])
    evaluate.evaluator("text-classification").compute(model, data, tokenizer=tokenizer, metric=load_metric("accuracy"))

The evaluator of ``evaluate`` 0.4.6 takes a model with its tokenizer; with a ready-made pipeline it fails under
Transformers 5, whatever the metric.

``evaluate.load(sqloss_plugins.evaluate_metrics.__file__, "wer")`` loads the same by this file's path; the name of the
metric is the name of the configuration. Values and options are those of :func:`sqloss_plugins.metrics.compute`.
"""

from typing import Any

import evaluate
from datasets import Features, List, Value

from sqloss_plugins.metric_inputs import INPUTS
from sqloss_plugins.metrics import METRICS, compute, metric

# Class numbers are floats here, because datasets would cut 0.7 to the whole number 0 without a word.
_NUMBER, _NUMBERS, _TEXT = Value("float64"), List(Value("float64")), Value("string")
_FEATURES = {
    "labels": [(_NUMBER, _NUMBER), (_NUMBERS, _NUMBERS)],
    "numbers": [(_NUMBER, _NUMBER)],
    "texts": [(_TEXT, _TEXT)],
    "probabilities": [(_NUMBERS, _NUMBER)],
    "outputs": [(_NUMBERS, _NUMBER)],
}
_CITATION = """@inproceedings{hui2021evaluation,
  title={Evaluation of Neural Architectures Trained with Square Loss vs Cross-Entropy in Classification Tasks},
  author={Hui, Like and Belkin, Mikhail},
  booktitle={International Conference on Learning Representations},
  year={2021}
}"""


class SquareLossMetric(evaluate.Metric):
    """One of the package's metrics; ``config_name`` says which."""

    def _info(self) -> evaluate.MetricInfo:
        names = [name for name, found in METRICS.items() if found.function]
        if self.config_name not in names:
            raise ValueError(f"name the metric, as in evaluate.load(path, 'wer'): one of {', '.join(names)}")
        inputs = metric(self.config_name).inputs
        features = [Features({"predictions": p, "references": r}) for p, r in _FEATURES[inputs]]
        return evaluate.MetricInfo(
            description=compute.__doc__,
            citation=_CITATION,
            inputs_description=f"\n\nPredictions and references of {self.config_name}: {INPUTS[inputs]}.",
            features=features if len(features) > 1 else features[0],
        )

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        return {self.config_name: compute(self.config_name, predictions, references, **options)}


def load_metric(name: str, **options: Any) -> SquareLossMetric:
    """A metric as an ``evaluate`` module.

    Args:
        name: a key of :data:`sqloss_plugins.metrics.METRICS` that is computed from predictions.
        **options: of ``evaluate.Metric``. By default everything is kept in memory, and no file is written.

    Raises:
        ValueError: there is no such metric.
    """
    return SquareLossMetric(config_name=name, **{"keep_in_memory": options.get("num_process", 1) == 1, **options})

"""Results of runs that never were, for comparisons."""

from sqloss_plugins.results import OF_OUTPUTS, Result, write_result


def result(loss="square", rate=1e-4, seed=1, accuracy=0.8, metrics=None, **changes):
    """A result on MRPC; the test accuracy is 0.1 below that of validation."""
    scores = {"validation": accuracy, "test": accuracy - 0.1}
    default = {split: {OF_OUTPUTS: {"loss": 9.0, "accuracy": value}} for split, value in scores.items()}
    fields = {
        "task": "mrpc", "arch": "bert", "loss": loss, "k": None, "M": None, "rescaling_source": None,
        "protocol": "early_stopping", "ended_by": "maximum", "epochs": 3.0, "best_epoch": 2.0, "seed": seed,
        "mini": False, "resumed": False, "hyperparameters": {"learning_rate": rate},
        "data": {"source": "files", "fingerprint": "f" * 64, "test_fingerprints": {"test": "e" * 64}},
        "parameters": 1, "device": "cpu", "wall_time_s": 1.0, "versions": {}, "method": "softmax",
        "selection": "accuracy",
        "metrics": metrics or default,
    }  # fmt: skip
    return Result(**{**fields, **changes})


def write(folder, *args, **kwargs):
    """The path of a result file in a folder of its own below ``folder``."""
    made = result(*args, **kwargs)
    target = folder / f"{made.loss}-{made.hyperparameters['learning_rate']}-{made.protocol}-{made.seed}"
    target.mkdir(parents=True)
    return write_result(target, made, {})

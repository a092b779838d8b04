"""The paper's numbers, as data."""

import math

import pytest

from sqloss_plugins import paper


def test_every_task_has_its_rescaling():
    assert paper.rescaling("librispeech") == paper.Rescaling(15.0, 30.0, "the paper's Table 9 for librispeech")
    assert len(paper.tasks()) == 15
    for task in paper.tasks():
        found = paper.rescaling(task)
        assert (found.k, found.M) in {(1, 1), (1, 15), (15, 30)}


@pytest.mark.parametrize(("num_classes", "k", "M"), [(2, 1, 1), (41, 1, 1), (42, 1, 15), (999, 1, 15), (1000, 15, 30)])
def test_the_rule_for_other_tasks(num_classes, k, M):
    found = paper.rescaling("my task", num_classes)
    assert (found.k, found.M) == (k, M)
    assert f"rule for {num_classes} classes" in found.source


def test_the_rule_agrees_with_the_paper_but_for_enwik8():
    differing = []
    for row in paper.tables()["rescaling"]:
        by_rule = paper.rescaling(None, row["classes"])
        if (by_rule.k, by_rule.M) != (row["k"], row["M"]):
            differing.append(row["task"])
    assert differing == ["enwik8"]


def test_unknown_task_without_classes_is_refused():
    with pytest.raises(ValueError, match="give the number of classes, or k and M"):
        paper.rescaling("my task")


def test_hyperparameters_by_loss():
    square, entropy = (paper.hyperparameters("mrpc", "bert", loss) for loss in ("square", "cross_entropy"))
    assert (square.learning_rate, square.epochs, square.batch_size, square.max_length) == (5e-5, 5, 32, 128)
    assert (entropy.learning_rate, entropy.epochs) == (2e-5, 3)
    assert paper.hyperparameters("mrpc", "bert", "squentropy") == entropy
    assert paper.hyperparameters("imagenet", "resnet50", "square").steps == 168885
    assert paper.hyperparameters("rte", "bert", "square") is None


def test_the_papers_headline():
    """22 tasks better or equal, as the paper says; of 28 in its text, of 27 in its tables."""
    assert paper.test_results("mrpc", "bert")["accuracy"]["square"] == 83.8
    assert paper.test_results("mrpc", "no such model") == {}
    lower = {"per", "cer", "wer"}
    rows = [row for row in paper.tables()["test_results"] if row["metric"] not in ("f1", "top5")]
    better = [
        row for row in rows if (row["square"] - row["cross_entropy"]) * (-1 if row["metric"] in lower else 1) > -1e-9
    ]
    assert (len(better), len(rows)) == (22, 27)
    assert all(math.isfinite(row["square"]) for row in rows)

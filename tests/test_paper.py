"""The paper's numbers, as data."""

import math

import pytest

from sqloss_plugins import paper
from sqloss_plugins.hf import SquareLossConfig

CASES = [
    # classes, task, beside CTC, rule -> k, M; None for the level rule's
    (2, "mrpc", False, "auto", 1, 1),
    (1000, "librispeech", True, "auto", 15, 30),
    (42, "timit_phone", True, "auto", 1, 15),
    (27, "timit_char", True, "auto", 1, 1),
    (52, "wsj", True, "auto", 1, 15),
    (204, "enwik8", False, "auto", 1, 1),
    # another number of classes than the paper's: its values are not for them
    (100, "librispeech", True, "auto", 15, None),
    (30, "wsj", True, "auto", 15, None),
    # tasks that the paper does not name
    (3, "mnli", False, "auto", 1, 1),
    (41, None, False, "auto", 1, 1),
    (41, None, True, "auto", 15, None),
    (42, None, False, "auto", 15, None),
    (5000, None, False, "auto", 15, None),
    # the paper's table as a rule
    (100, "librispeech", True, "paper", 15, 30),
    (41, None, True, "paper", 1, 1),
    (42, None, False, "paper", 1, 15),
    (999, None, False, "paper", 1, 15),
    (1000, None, False, "paper", 15, 30),
    (2, "mrpc", False, "level", 15, None),
]


@pytest.mark.parametrize(("num_classes", "task", "beside_ctc", "rule", "k", "M"), CASES)
def test_the_one_rule_for_k_and_M(num_classes, task, beside_ctc, rule, k, M):
    found = paper.choose_rescaling(num_classes, task=task, beside_ctc=beside_ctc, rule=rule)
    expected = math.sqrt(num_classes * math.log(num_classes) / 15) if M is None else M
    assert (found.k, found.M) == (k, pytest.approx(expected, rel=1e-12))
    if M is None:
        assert found.initial_loss(num_classes) == pytest.approx(math.log(num_classes), rel=1e-12)
        assert "level rule" in found.source


def test_every_task_of_the_paper_has_its_rescaling():
    assert len(paper.tasks()) == 15
    for row in paper.tables()["rescaling"]:
        found = paper.choose_rescaling(row["classes"], task=row["task"])
        assert (found.k, found.M) == (row["k"], row["M"])
        assert row["task"] in found.source


def test_k_and_M_of_the_user_win_each_alone():
    assert paper.choose_rescaling(1000, task="librispeech", k=2) == paper.Rescaling(2.0, 30.0, "given by the user")
    assert paper.choose_rescaling(1000, task="librispeech", M=3) == paper.Rescaling(15.0, 3.0, "given by the user")


def test_the_table_read_as_a_rule_agrees_with_the_paper_but_for_enwik8():
    differing = []
    for row in paper.tables()["rescaling"]:
        by_rule = paper.choose_rescaling(row["classes"], rule="paper")
        if (by_rule.k, by_rule.M) != (row["k"], row["M"]):
            differing.append(row["task"])
    assert differing == ["enwik8"]


@pytest.mark.parametrize("num_classes", [1, 2, 90, 5000])
def test_multi_label_classification_is_not_rescaled_but_by_the_user(num_classes):
    found = paper.choose_rescaling(num_classes, is_multi_label=True)
    assert (found.k, found.M, found.source) == (1.0, 1.0, "not rescaled, for multi-label classification")
    given = paper.choose_rescaling(num_classes, is_multi_label=True, k=3)
    assert given == paper.Rescaling(3.0, 1.0, "given by the user")
    with pytest.raises(ValueError, match="the rescaling paper is for examples with one true class"):
        paper.choose_rescaling(num_classes, is_multi_label=True, rule="paper")
    level = paper.choose_rescaling(num_classes, is_multi_label=True, rule="level")
    if num_classes > 1:  # a true class costs ln C at the start, whatever else is true
        assert level.k * level.M**2 / num_classes == pytest.approx(math.log(num_classes))
    else:
        assert (level.k, level.M) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rule": "steps"}, "unknown rescaling 'steps': choose from auto, paper, level"), ({}, "two classes and more")],
)
def test_what_cannot_be_chosen(options, message):
    with pytest.raises(ValueError, match=message):
        paper.choose_rescaling(1, **options)


def test_hyperparameters_by_loss():
    square, entropy = (paper.hyperparameters("mrpc", "bert", loss) for loss in ("square", "cross_entropy"))
    assert (square.learning_rate, square.epochs, square.batch_size, square.max_length) == (5e-5, 5, 32, 128)
    assert (entropy.learning_rate, entropy.epochs) == (2e-5, 3)
    assert paper.hyperparameters("mrpc", "bert", "squentropy") == entropy
    assert paper.hyperparameters("imagenet", "resnet50", "square").steps == 168885
    assert paper.hyperparameters("rte", "bert", "square") is None


IMAGES = [("mnist", "tcnn"), ("cifar10", "wide_resnet"), ("cifar10", "vit")]
IMAGES += [("imagenet", "resnet50"), ("imagenet", "efficientnet")]


@pytest.mark.parametrize(("task", "model"), IMAGES)
@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
def test_images_have_all_that_a_training_needs(task, model, loss, tmp_path):
    """What the paper refers to, as arguments of the Trainer."""
    found = paper.hyperparameters(task, model, loss)
    assert None not in (found.batch_size, found.learning_rate, found.epochs, found.augmentation, found.source)
    if found.steps:
        assert found.epochs == round(found.steps * found.batch_size / 1281167)
    config = SquareLossConfig(str(tmp_path), learning_rate=found.rate(found.batch_size), **found.training)
    assert config.lr_scheduler_type in ("constant", "constant_with_warmup", "cosine")


def test_the_schedules_of_images():
    """In shares of the training; the rate of ImageNet is in proportion to the batch, and only that."""
    tcn, square, entropy, efficient = (
        paper.hyperparameters(task, model, loss)
        for task, model, loss in (
            ("mnist", "tcnn", "square"),
            ("imagenet", "resnet50", "square"),
            ("imagenet", "resnet50", "cross_entropy"),
            ("imagenet", "efficientnet", "square"),
        )
    )
    assert (tcn.training["lr_milestones"], tcn.training["lr_decay"]) == ([0.5], 0.1)
    assert (tcn.rate(64), tcn.rate(512)) == (2e-3, 2e-3)
    assert (square.rate(256), square.rate(1024), entropy.rate(1024)) == pytest.approx((0.3, 1.2, 0.4))
    for found in (square, entropy):
        epochs = [share * found.epochs for share in (found.training["warmup_steps"], *found.training["lr_milestones"])]
        assert epochs == pytest.approx([5, 30, 60, 80], abs=1e-3)
    shares = efficient.training["lr_milestones"]
    assert (len(shares), shares[0] * 350, shares[-1] * 350) == (145, pytest.approx(2.4, abs=1e-3), pytest.approx(348))
    assert paper.hyperparameters("mrpc", "bert", "square").rate(8) == 5e-5
    assert paper.hyperparameters("mrpc", "bert", "square").training == {}


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

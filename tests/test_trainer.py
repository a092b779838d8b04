"""The Trainer host: the gradient that a step takes is that of the whole batch, for each head and each loss."""

import json
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from test_token_scores import scored
from tiny import (
    CLASSES,
    HEADS,
    LENGTH,
    MULTI_LABEL,
    SOFT,
    TOKEN_COUNTS,
    VOCABULARY,
    WEIGHTS,
    WITHOUT_LOGITS,
    capped_model,
    examples,
    full_batch,
    model,
    one_sgd_step,
    prior_steps,
    soft_labels,
)
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BertForQuestionAnswering,
    HfArgumentParser,
    LlamaForCausalLM,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    default_data_collator,
)

from sqloss_plugins import multilabel_square_loss, square_loss
from sqloss_plugins.errors import RunError
from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer, TrainerLoss
from sqloss_plugins.hf.divergence import DivergenceCallback
from sqloss_plugins.hf.trained_model import load_renamed
from sqloss_plugins.losses import LOSSES, _products, linear_square
from sqloss_plugins.metrics import compute
from sqloss_plugins.probability import label_probabilities, probabilities

MULTI_LABEL_LOSSES = ["square", "cross_entropy"]


def arguments(folder, **options):
    return SquareLossConfig(output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, **options)


def assert_same_gradient(gradient, expected):
    assert (gradient.norm() / expected.norm()).item() == pytest.approx(1.0, abs=1e-4)
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item() + 1e-7)


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("count", [12, 10], ids=["even", "uneven last micro-batch"])
def test_accumulation_equals_one_full_batch(head, loss, count, tmp_path):
    gradient, _ = one_sgd_step(
        head, loss, count, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=3
    )
    assert_same_gradient(gradient, full_batch(head, loss, count)[0])


def test_two_ranks_equal_one_full_batch(tmp_path):
    """Two gloo ranks, three micro-batches of two each; evaluation on both ranks gives the same loss too."""
    worker = Path(__file__).with_name("ddp_worker.py")
    root = worker.parent.parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(worker.parent)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*command, str(worker), str(tmp_path)], env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    gradients, losses, scores = torch.load(tmp_path / "gradients.pt", weights_only=False)
    for head in HEADS:
        for loss in LOSSES:
            expected, value = full_batch(head, loss, 12)
            assert_same_gradient(gradients[head, loss], expected)
            assert losses[head, loss] == pytest.approx(value, rel=1e-4)
    for head in WITHOUT_LOGITS:
        assert_same_gradient(gradients[head, "without logits"], full_batch(head, "square", 12)[0])
    assert_same_gradient(gradients["prior"], prior_steps("causal LM", 12, TOKEN_COUNTS, 0.75))
    for (head, without), (sums, value) in scores.items():
        torch.testing.assert_close(sums, scored(head, tmp_path, without)[0], rtol=1e-4, atol=1e-4)
        assert value == pytest.approx(scores[head, False][1], rel=1e-5)
    for head in SOFT:
        data = soft_labels(head, examples(head, 12), ignored=(1, 8, 9))
        assert_same_gradient(gradients[head, "soft"], full_batch(head, "square", 12, data=data)[0])
    for loss in MULTI_LABEL_LOSSES:
        assert_same_gradient(gradients[MULTI_LABEL, loss, "more"], full_batch(MULTI_LABEL, loss, 12)[0])
    head = "token classification"
    assert_same_gradient(gradients[head, "square", "more"], full_batch(head, "square", 12, weight=WEIGHTS)[0])


@pytest.mark.parametrize("head", WITHOUT_LOGITS)
@pytest.mark.parametrize("gram", [True, False], ids=["gram", "direct"])
@pytest.mark.parametrize("count", [12, 10], ids=["even", "uneven last micro-batch"])
def test_without_logits_equals_one_full_batch(head, gram, count, tmp_path, monkeypatch):
    """Tied and untied weights, with bias and without, accumulated in three micro-batches that share G."""
    grams = []
    original = _products.gram_of
    monkeypatch.setattr(linear_square, "_SMALL", 0)
    monkeypatch.setattr(linear_square, "prefers_gram", lambda *args: gram)
    monkeypatch.setattr(_products, "gram_of", lambda a, b, dtype: grams.append(a is b) or original(a, b, dtype))
    gradient, trainer = one_sgd_step(
        head,
        "square",
        count,
        tmp_path,
        without_logits=True,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
    )
    expected, value = full_batch(head, "square", count)
    assert_same_gradient(gradient, expected)
    assert sum(grams) == gram
    trainer.model.load_state_dict(model(head).state_dict())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(value, rel=0.1)  # weighted by examples, not by targets


def test_without_logits_there_are_none(tmp_path):
    """Neither in training nor in an evaluation that wants none; where they are asked for, they are there."""
    shapes = {True: set(), False: set()}
    _, trainer = one_sgd_step("causal LM", "square", 6, tmp_path / "1", without_logits=True)
    trainer.model.register_forward_hook(
        lambda model, args, outputs: shapes[model.training].add(outputs.logits.shape[-1])
    )
    trainer.train()
    trainer.evaluate()
    assert shapes == {True: {trainer.model.config.hidden_size}, False: {trainer.model.config.hidden_size}}
    assert trainer.predict(examples("causal LM", 2)).predictions.shape == (2, LENGTH, VOCABULARY)


def test_without_logits_nothing_is_left_of_a_step_that_was_broken_off(tmp_path, monkeypatch):
    """Memory is too small for the second micro-batch: with auto_find_batch_size the training begins anew."""
    monkeypatch.setattr(linear_square, "_SMALL", 0)
    monkeypatch.setattr(linear_square, "prefers_gram", lambda *args: True)
    data = examples("causal LM", 4)
    trainer = SquareLossTrainer(
        model("causal LM"), arguments(tmp_path, without_logits=True, gradient_accumulation_steps=2), train_dataset=data
    )
    batch = {key: torch.stack([example[key] for example in data]) for key in data[0]}
    trainer.accelerator.gradient_state._set_sync_gradients(False)
    trainer.training_step(trainer.model, dict(batch), torch.tensor(20))
    forward = trainer.model.model.forward

    def too_much(*args, **keywords):
        raise RuntimeError("CUDA out of memory.")

    trainer.model.model.forward = too_much
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.training_step(trainer.model, dict(batch), torch.tensor(20))
    trainer.model.model.forward = forward
    trainer.model.zero_grad()
    trainer.compute_loss_func.head.finish_step()
    assert trainer.model.lm_head.weight.grad is None


def test_without_logits_in_mixed_precision(tmp_path):
    """accelerate makes float32 of what a model returns; the loss has the hidden states as they were."""
    plain, _ = one_sgd_step("causal LM", "square", 6, tmp_path / "1", bf16=True)
    gradient, _ = one_sgd_step("causal LM", "square", 6, tmp_path / "2", bf16=True, without_logits=True)
    assert (gradient - plain).norm() < 0.02 * plain.norm()


@pytest.mark.parametrize(
    ("head", "options", "words"),
    [
        ("multiple choice", {}, "has 0 linear layers with 2 outputs"),
        ("causal LM", {"torch_compile": True}, "compiled"),
        ("causal LM", {"optim": "lomo", "gradient_accumulation_steps": 2}, "LOMO"),
        ("causal LM", {"own_layer": True}, "is a NonDynamicallyQuantizableLinear"),
        ("causal LM", {"own_forward": True}, "is a wrapped Linear"),
    ],
)
def test_without_logits_where_it_cannot_be(head, options, words, tmp_path):
    network, options = model(head), dict(options)
    if options.pop("own_layer", False):
        layer = torch.nn.modules.linear.NonDynamicallyQuantizableLinear
        network.set_output_embeddings(layer(16, VOCABULARY))
    if options.pop("own_forward", False):  # as accelerate does to a model on several devices
        network.lm_head.forward = network.lm_head.forward
    with pytest.raises(ValueError, match=words):
        SquareLossTrainer(network, arguments(tmp_path, without_logits=True, **options))


def test_logits_that_are_picked_or_capped_are_needed(tmp_path):
    with pytest.raises(ValueError, match="LlamaForSequenceClassification does not return the outputs"):
        one_sgd_step("sequence classification, Llama", "square", 6, tmp_path, without_logits=True)
    trainer = SquareLossTrainer(
        capped_model(VOCABULARY), arguments(tmp_path, without_logits=True), train_dataset=examples("causal LM", 6)
    )
    with pytest.raises(ValueError, match="Gemma2ForCausalLM does not return the outputs"):
        trainer.train()


def test_the_trainers_own_cross_entropy_is_not_the_full_batch(tmp_path):
    """Why cross-entropy goes through the hook too. Fails the day the hosts mend it, and then the text can go."""
    gradient, _ = one_sgd_step(
        "sequence classification",
        "cross_entropy",
        12,
        tmp_path,
        trainer_class=Trainer,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
    )
    expected, _ = full_batch("sequence classification", "cross_entropy", 12)
    assert (gradient.norm() / expected.norm()).item() == pytest.approx(3.0, rel=1e-2)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_label_smoothing_is_applied(loss, tmp_path):
    head = "sequence classification"
    gradient, _ = one_sgd_step(head, loss, 8, tmp_path, per_device_train_batch_size=8, label_smoothing_factor=0.2)
    assert_same_gradient(gradient, full_batch(head, loss, 8, label_smoothing=0.2)[0])
    assert not torch.allclose(gradient, full_batch(head, loss, 8)[0], rtol=1e-2)


@pytest.mark.parametrize("head", SOFT)
@pytest.mark.parametrize("loss", list(LOSSES))
def test_class_probabilities_accumulated_equal_one_full_batch(head, loss, tmp_path):
    """Mixup and distillation: every target has as many values as there are classes, and counts once."""
    data = soft_labels(head, examples(head, 10), ignored=(1, 8, 9))
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "per_device_eval_batch_size": 10}
    gradient, trainer = one_sgd_step(head, loss, 10, tmp_path, data=data, **sizes)
    expected, value = full_batch(head, loss, 10, data=data)
    assert_same_gradient(gradient, expected)
    trainer.model.load_state_dict(model(head).state_dict())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(value, rel=1e-4)


def test_class_probabilities_need_logits(tmp_path):
    data = soft_labels("sequence classification", examples("sequence classification", 4))
    with pytest.raises(ValueError, match="class probabilities need all outputs: leave --without_logits out"):
        one_sgd_step("sequence classification", "square", 4, tmp_path, data=data, without_logits=True)


# ---------------------------------------------------------------- multi-label classification


@pytest.mark.parametrize("loss", MULTI_LABEL_LOSSES)
@pytest.mark.parametrize(("count", "ignored"), [(12, ()), (10, ()), (10, (1, 8, 9))])
def test_multi_label_accumulated_equals_one_full_batch(loss, count, ignored, tmp_path):
    """Also with an uneven last micro-batch, and with examples that do not count, two of them alone in it."""
    data = examples(MULTI_LABEL, count)
    for i in ignored:
        data[i]["labels"] = torch.full((CLASSES,), -100.0)
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "per_device_eval_batch_size": count}
    gradient, trainer = one_sgd_step(MULTI_LABEL, loss, count, tmp_path, data=data, **sizes)
    expected, value = full_batch(MULTI_LABEL, loss, count, data=data)
    assert_same_gradient(gradient, expected)
    trainer.model.load_state_dict(model(MULTI_LABEL).state_dict())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "rescaling"), [("square", {}), ("square", {"k": 5.0, "M": 2.0}), ("cross_entropy", {})]
)
def test_multi_label_learns_how_often_each_class_is_true(loss, rescaling, tmp_path, caplog):
    """Three texts, four label sets of each: a saved model's probabilities are the shares of the classes."""
    shares = torch.tensor([[0.0, 1.0, 0.75, 0.25, 1.0], [1.0, 1.0, 0.25, 0.0, 0.75], [0.0, 1.0, 1.0, 0.75, 0.0]])
    texts = torch.arange(1, 4)[:, None].expand(3, LENGTH)
    data = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": (4 * row > i).long()}
        for ids, row in zip(texts, shares, strict=True)
        for i in range(4)
    ]
    options = {"max_steps": 200, "learning_rate": 1e-2, "per_device_train_batch_size": 12, "save_strategy": "no"}
    with caplog.at_level(logging.WARNING):
        trainer = SquareLossTrainer(
            model(MULTI_LABEL), arguments(tmp_path, loss=loss, **options, **rescaling), train_dataset=data
        )
    assert f"Loss: {loss}, multi-label" in caplog.text
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    again = type(trainer.model).from_pretrained(tmp_path / "saved").eval()
    saved = getattr(again.config, "square_loss", {})
    assert saved == ((rescaling or {"k": 1.0, "M": 1.0}) if loss == "square" else {})
    with torch.no_grad():
        p = label_probabilities(again(texts).logits, LOSSES[loss].multilabel_method, **saved)
    torch.testing.assert_close(p, shares, rtol=0, atol=0.05)
    assert compute("accuracy", p >= 0.5, shares >= 0.5) == 1.0


def test_one_class_alone_can_be_multi_label(tmp_path):
    """It is no regression: one output with a label set of one."""
    config = model(MULTI_LABEL).config
    config.num_labels = 1
    data = [{**example, "labels": example["labels"][:1]} for example in examples(MULTI_LABEL, 8)]
    trainer = SquareLossTrainer(
        type(model(MULTI_LABEL))(config), arguments(tmp_path, loss="cross_entropy"), eval_dataset=data
    )
    outputs = torch.tensor(trainer.predict(data).predictions)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs, torch.stack([example["labels"] for example in data])
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert SquareLossTrainer(trainer.model, arguments(tmp_path, k=3.0)).rescaling.k == 3.0


def test_multi_label_by_hand():
    logits, labels = torch.randn(6, 5), torch.rand(6, 5).round()
    loss = TrainerLoss("square", k=3.0, M=2.0, multi_label=True)
    own = multilabel_square_loss(logits, labels, k=3.0, M=2.0)
    assert loss({"logits": logits}, labels).item() == pytest.approx(own.item())
    for same in (labels.long(), labels.bool(), labels.double(), labels.half()):
        assert loss((logits,), same).item() == pytest.approx(own.item())
    assert loss((logits,), labels, num_items_in_batch=torch.tensor(60)).item() == pytest.approx(own.item() / 2)
    assert loss((logits.half(),), labels).dtype == torch.float32
    assert loss((logits,), torch.full((6, 5), -100.0), num_items_in_batch=0).item() == 0.0
    with pytest.raises(ValueError, match=r"the labels are of shape \(6,\).* the outputs' shape, \(6, 5\)"):
        loss((logits,), torch.arange(6))
    for value in (2.0, -1.0, -100.0, math.nan):
        wrong = labels.clone()
        wrong[3, 2] = value
        with pytest.raises(ValueError, match=f"values from 0 to 1 for each class, and one is {value:g}"):
            loss((logits,), wrong)
    unknown = labels.clone()
    unknown[3, 0] = -100  # the row counts, and this label of it is not known
    with pytest.raises(ValueError, match="and one is -100; an example that does not count has -100 for every class"):
        loss((logits,), unknown)


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ({"loss": "squentropy"}, {}, "squentropy has no form for multi-label .*: choose from square, cross_entropy"),
        ({"label_smoothing_factor": 0.1}, {}, "label smoothing is for examples with one true class"),
        ({"without_logits": True}, {}, "--without_logits .*, and multi-label classification with a value for each"),
        ({"rescaling": "paper"}, {}, "the rescaling paper is for examples with one true class"),
        ({}, {"class_weights": WEIGHTS}, "class weights are for examples with one true class"),
        ({}, {"shift_labels": True}, "shifted labels are for examples with one true class"),
    ],
)
def test_what_multi_label_cannot_have(config, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        SquareLossTrainer(model(MULTI_LABEL), arguments(tmp_path, **config), **options)


# ---------------------------------------------------------------- class weights


@pytest.mark.parametrize("head", ["sequence classification", "token classification"])
@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_accumulated_equal_one_full_batch(head, loss, smoothing, tmp_path):
    gradient, trainer = one_sgd_step(
        head,
        loss,
        10,
        tmp_path,
        trainer_options={"class_weights": WEIGHTS},
        label_smoothing_factor=smoothing,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
        per_device_eval_batch_size=10,
    )
    expected, value = full_batch(head, loss, 10, label_smoothing=smoothing, weight=WEIGHTS)
    assert_same_gradient(gradient, expected)
    assert not torch.allclose(gradient, full_batch(head, loss, 10, label_smoothing=smoothing)[0], rtol=1e-2)
    trainer.model.load_state_dict(model(head).state_dict())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(value, rel=1e-4)


def test_class_weights_are_those_of_cross_entropy():
    """PyTorch divides by the summed weights of the targets, this by their number: the same for balanced weights."""
    logits, labels = torch.randn(40, 5), torch.arange(40) % 5 * (torch.arange(40) % 2)
    counts = torch.bincount(labels, minlength=5)
    weight = 40 / (5 * counts)  # balanced: the mean over the targets is 1
    labels = torch.cat([labels, torch.full((3,), -100)])
    logits = torch.cat([logits, torch.randn(3, 5)])
    found = TrainerLoss("cross_entropy", weight=weight.tolist())((logits,), labels)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, labels, weight))
    weight = torch.tensor(WEIGHTS)
    found = TrainerLoss("cross_entropy", weight=WEIGHTS)((logits,), labels)
    theirs = torch.nn.functional.cross_entropy(logits, labels, weight, reduction="sum")
    torch.testing.assert_close(found, theirs / 40)
    soft = torch.rand(6, 5).softmax(-1)
    found = TrainerLoss("square", k=3.0, M=2.0, weight=WEIGHTS)((logits[:6],), soft)
    torch.testing.assert_close(found, square_loss(logits[:6], soft, weight, k=3.0, M=2.0))


@pytest.mark.parametrize("head", ["sequence classification", "token classification"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_without_logits(head, smoothing, tmp_path, monkeypatch):
    """In the Gram form; with label smoothing there is none, and the outputs are built."""
    monkeypatch.setattr(linear_square, "_SMALL", 0)
    monkeypatch.setattr(linear_square, "prefers_gram", lambda *args: True)
    gradient, _ = one_sgd_step(
        head,
        "square",
        10,
        tmp_path,
        trainer_options={"class_weights": WEIGHTS},
        without_logits=True,
        label_smoothing_factor=smoothing,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
    )
    assert_same_gradient(gradient, full_batch(head, "square", 10, label_smoothing=smoothing, weight=WEIGHTS)[0])


def test_class_weights_outlast_a_change_of_the_loss(tmp_path, caplog):
    head = "sequence classification"
    with caplog.at_level(logging.WARNING):
        trainer = SquareLossTrainer(
            model(head),
            arguments(tmp_path, max_steps=1, save_strategy="no"),
            train_dataset=examples(head, 4),
            class_weights=WEIGHTS,
        )
    assert "(not rescaled, as the paper below 42 classes), class weights from 0.25 to 3" in caplog.text
    trainer.args.loss = "squentropy"
    trainer.train()
    assert trainer.compute_loss_func.name == "squentropy"
    assert trainer.compute_loss_func.loss.weight.tolist() == WEIGHTS


@pytest.mark.parametrize(
    ("head", "weights", "words"),
    [
        ("sequence classification", WEIGHTS[1:], "there are 4 class weights, and the model has 5 classes"),
        ("sequence classification", [1.0, 1.0, 0.0, 1.0, 1.0], "class weights are positive finite numbers"),
        ("sequence classification", [1.0, 1.0, math.nan, 1.0, 1.0], "class weights are positive finite numbers"),
        ("sequence classification", [1.0, 1.0, math.inf, 1.0, 1.0], "class weights are positive finite numbers"),
        ("sequence classification", [WEIGHTS] * CLASSES, "class weights are positive finite numbers"),
        ("multiple choice", [1.0, 1.0], "the choices of an example are none"),
        ("regression", [1.0], "class weights need classes, and a model with one output is a regression"),
    ],
)
def test_wrong_class_weights_are_refused(head, weights, words, tmp_path):
    network = model("sequence classification" if head == "regression" else head)
    if head == "regression":
        network.config.num_labels = 1
    with pytest.raises(ValueError, match=words):
        SquareLossTrainer(network, arguments(tmp_path), class_weights=weights)


# ---------------------------------------------------------------- arguments that change, and protocols


def test_a_search_over_the_loss_takes_effect(tmp_path):
    """Every trial trains with the loss that it asks for, and starts with the arguments of the search."""
    head = "sequence classification"
    trainer = SquareLossTrainer(
        model_init=lambda: model(head),
        args=arguments(tmp_path, max_steps=1, save_strategy="no"),
        train_dataset=examples(head, 4),
        eval_dataset=examples(head, 4),
        class_weights=WEIGHTS,
    )
    trials = [
        {"loss": "square", "k": 3.0, "M": 2.0},
        {"loss": "cross_entropy", "label_smoothing_factor": 0.2},
        {"loss": "squentropy"},
    ]
    losses = []

    def space(trial):
        trial.suggest_int("trial", 0, len(trials) - 1)
        return trials[trial.number]

    class Seen(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            losses.append(trainer.compute_loss_func)

    trainer.add_callback(Seen)
    trainer.hyperparameter_search(space, backend="optuna", n_trials=len(trials))
    assert all(loss.loss.weight.tolist() == WEIGHTS for loss in losses)
    assert [loss.name for loss in losses] == ["square", "cross_entropy", "squentropy"]
    assert [loss.label_smoothing for loss in losses] == [0.0, 0.2, 0.0]
    assert (losses[0].loss.k, losses[0].loss.M) == (3.0, 2.0)
    assert (trainer.args.loss, trainer.args.k, trainer.args.label_smoothing_factor) == ("square", None, 0.0)


def test_arguments_that_are_changed_before_training_take_effect(tmp_path):
    head = "sequence classification"
    trainer = SquareLossTrainer(
        model(head), arguments(tmp_path, max_steps=1, save_strategy="no"), train_dataset=examples(head, 4)
    )
    trainer.args.loss, trainer.args.label_smoothing_factor = "squentropy", 0.3
    trainer.train()
    assert (trainer.compute_loss_func.name, trainer.compute_loss_func.label_smoothing) == ("squentropy", 0.3)
    trainer.args.k = 2.0
    with pytest.raises(ValueError, match="--k and --M rescale the square loss, and --loss is squentropy"):
        trainer.train()


def test_diverged_training_is_not_a_loss_of_zero(tmp_path):
    network = model("sequence classification")
    torch.nn.init.constant_(network.classifier.bias, float("nan"))
    data = examples("sequence classification", 4)
    trainer = SquareLossTrainer(
        network, arguments(tmp_path, max_steps=2, save_strategy="no"), train_dataset=data, eval_dataset=data
    )
    assert math.isnan(trainer.train().training_loss)
    trainer.add_callback(DivergenceCallback())
    with pytest.raises(RunError, match="the training diverged: eval_loss is nan at step 2"):
        trainer.evaluate()
    with pytest.raises(RunError, match="the training diverged: train_loss is nan at step 2"):
        trainer.train()


def test_a_loss_beyond_float32_ends_the_training_when_it_is_logged(tmp_path):
    trainer = SquareLossTrainer(
        model("sequence classification"),
        arguments(tmp_path, max_steps=2, save_strategy="no", logging_steps=1, k=1e308),
        train_dataset=examples("sequence classification", 4),
        callbacks=[DivergenceCallback()],
    )
    with pytest.raises(RunError, match="the training diverged: loss is inf at step 1"):
        trainer.train()


def test_early_stopping_is_a_protocol(tmp_path):
    """The loss of the validation examples does not improve: training ends after the second epoch without progress."""
    head = "sequence classification"
    trainer = SquareLossTrainer(
        model(head),
        arguments(
            tmp_path,
            protocol="early_stopping",
            patience=2,
            num_train_epochs=6,
            learning_rate=0.0,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
        ),
        train_dataset=examples(head, 4),
        eval_dataset=examples(head, 4),
    )
    trainer.train()
    assert trainer.state.epoch == 3


def test_weights_that_are_saved_by_other_names_are_loaded(tmp_path):
    """As the best model, and to go on; Transformers itself leaves a vision transformer's layers out (issue 43701)."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(image_size=8, patch_size=4, num_labels=3, hidden_dropout_prob=0.0, **sizes)
    data = [{"pixel_values": torch.rand(3, 8, 8), "labels": i % 3} for i in range(8)]

    def trainer():
        torch.manual_seed(1)
        options = {"max_steps": 4, "save_steps": 2, "learning_rate": 0.1, "per_device_train_batch_size": 4}
        return SquareLossTrainer(ViTForImageClassification(config), arguments(tmp_path, **options), train_dataset=data)

    whole = trainer()
    whole.train()
    last = {name: value.clone() for name, value in whole.model.state_dict().items()}
    whole.state.best_model_checkpoint = str(tmp_path / "checkpoint-2")
    whole._load_best_model()
    saved = ViTForImageClassification.from_pretrained(tmp_path / "checkpoint-2").state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in whole.model.state_dict().items())
    assert not any(torch.equal(last[name], saved[name]) for name in saved if name.endswith("weight"))
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    torch.testing.assert_close(dict(resumed.model.state_dict()), last)


class Rates(TrainerCallback):
    """The learning rate of every step."""

    def __init__(self):
        self.found = []

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self.found.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("kind", ["constant", "constant_with_warmup"])
def test_the_rate_falls_at_milestones(kind, tmp_path):
    """After these shares of all steps, also where a training goes on from a checkpoint; with a warm-up."""
    head = "sequence classification"
    options = {"max_steps": 10, "learning_rate": 0.8, "lr_milestones": [0.5, 0.8], "lr_decay": 0.5}
    options |= {"warmup_steps": 4, "save_steps": 6, "lr_scheduler_type": kind, "optim": "sgd"}
    wanted = [0.0, 0.2, 0.4, 0.6, 0.8, 0.4, 0.4, 0.4, 0.2, 0.2]
    for resumed in (False, True):
        rates, config = Rates(), arguments(tmp_path, **options)
        trainer = SquareLossTrainer(model(head), config, train_dataset=examples(head, 8), callbacks=[rates])
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6") if resumed else None)
        assert rates.found == pytest.approx(wanted[6:] if resumed else wanted)


def test_sgd_has_momentum_by_optim_args(tmp_path):
    options = {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=True", "weight_decay": 5e-4}
    trainer = SquareLossTrainer(model("sequence classification"), arguments(tmp_path, **options))
    group = trainer.create_optimizer().param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 5e-4)


def test_batches_of_training_have_their_own_collator(tmp_path):
    """With class probabilities in training, and class numbers in evaluation, whose predictions have them as labels."""
    head = "sequence classification"
    data, soft = examples(head, 8), soft_labels(head, examples(head, 8))
    probabilities = {tuple(example["input_ids"].tolist()): example["labels"] for example in soft}

    def mixed(batch):
        return default_data_collator(
            [{**one, "labels": probabilities[tuple(one["input_ids"].tolist())]} for one in batch]
        )

    gradient, trainer = one_sgd_step(
        head, "square", 8, tmp_path, data=data, trainer_options={"train_collator": mixed}, per_device_train_batch_size=8
    )
    assert_same_gradient(gradient, full_batch(head, "square", 8, data=soft)[0])
    assert trainer.predict(data).label_ids.tolist() == [example["labels"].item() for example in data]


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("loss", list(LOSSES))
def test_evaluation_loss_is_the_same_loss(head, loss, tmp_path):
    options = {"k": 3.0, "M": 2.0} if LOSSES[loss].is_rescaled else {}
    trainer = SquareLossTrainer(
        model=model(head),
        args=arguments(tmp_path, per_device_eval_batch_size=12, loss=loss, **options),
        eval_dataset=examples(head, 12),
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(full_batch(head, loss, 12)[1], rel=1e-4)


def test_the_callable_alone(tmp_path):
    """In a plain Trainer, as the README shows it."""
    network = model("sequence classification")
    trainer = Trainer(
        model=network,
        args=arguments(tmp_path, per_device_eval_batch_size=12),
        eval_dataset=examples("sequence classification", 12),
        compute_loss_func=TrainerLoss("square", k=3.0, M=2.0),
    )
    expected = full_batch("sequence classification", "square", 12)[1]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_callable_by_hand():
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, -100, 2, 3, 4])
    loss = TrainerLoss("square", k=3.0, M=2.0)
    own = loss({"logits": logits}, labels)
    for count in (5, torch.tensor(5), torch.tensor([5, 5])):
        assert loss((logits,), labels, num_items_in_batch=count).item() == pytest.approx(own.item())
    assert loss({"logits": logits}, labels, num_items_in_batch=10).item() == pytest.approx(own.item() / 2)
    assert loss({"logits": logits}, torch.full((6,), -100), num_items_in_batch=0).item() == 0.0
    half = loss({"logits": logits.half()}, labels)
    assert half.dtype == torch.float32
    assert loss({"logits": logits}, torch.full((6,), -100), num_items_in_batch=torch.tensor(0)).item() == 0.0
    for outputs, targets in (({"logits": logits}, None), ({"scores": logits}, labels)):
        with pytest.raises(ValueError, match="needs `labels` in the batch"):
            loss(outputs, targets)
    column = torch.tensor([[1.0], [2.0], [3.0]])
    assert loss((column,), column).item() == loss((column,), column.squeeze(-1)).item() == 0.0
    with pytest.raises(ValueError, match="3 outputs and 2 labels"):
        loss((column,), column[:2])
    soft = torch.rand(6, 5).softmax(-1)
    own = loss({"logits": logits}, soft)
    assert own.item() == pytest.approx(square_loss(logits, soft, k=3.0, M=2.0).item())
    assert loss({"logits": logits}, soft, num_items_in_batch=30).item() == pytest.approx(own.item())
    assert loss({"logits": logits}, soft, num_items_in_batch=torch.tensor(60)).item() == pytest.approx(own.item() / 2)
    soft[2:] = -100.0
    assert loss({"logits": logits}, soft).item() == pytest.approx(
        square_loss(logits[:2], soft[:2], k=3.0, M=2.0).item()
    )
    assert loss({"logits": logits}, torch.full((6, 5), -100.0)).item() == 0.0
    with pytest.raises(ValueError, match=r"floating point, of shape \(6, 4\)"):
        loss({"logits": logits}, soft[:, 1:])
    with pytest.raises(
        ValueError, match=r"a row of them does not sum to 1.* set model\.config\.problem_type to 'multi"
    ):
        loss({"logits": logits}, torch.ones(6, 5))
    with pytest.raises(ValueError, match="class probabilities are not shifted"):
        TrainerLoss(shift_labels=True)({"logits": logits}, soft)


def test_one_output_is_regression(tmp_path, caplog):
    network = model("sequence classification")
    config = network.config
    config.problem_type = "regression"
    with pytest.raises(ValueError, match="is 'regression', and it has 5 outputs: these losses are for classes, or for"):
        SquareLossTrainer(model=network, args=arguments(tmp_path))
    config.num_labels, config.problem_type = 1, None
    network = type(network)(config)
    values = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, -100])  # of which the last is no ignored target
    data = [{**example, "labels": value} for value, example in zip(values, examples("sequence", 8), strict=True)]
    options = {"max_steps": 1, "save_strategy": "no", "optim": "sgd", "learning_rate": 1e-3, "max_grad_norm": 0.0}
    options |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "lr_scheduler_type": "constant"}
    with caplog.at_level(logging.WARNING):
        trainer = SquareLossTrainer(
            model=network, args=arguments(tmp_path, **options), train_dataset=data, eval_dataset=data
        )
    assert "regression" in caplog.text
    predicted = torch.tensor(trainer.predict(data).predictions).squeeze(-1)
    expected = ((predicted - values) ** 2).mean().item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    bias = network.classifier.bias.item()
    with pytest.raises(ValueError, match="is a regression, and has no class probabilities: use predict"):
        trainer.predict_proba(data)
    trainer.train()
    gradient = 2 * (predicted - values).mean().item()
    assert bias - network.classifier.bias.item() == pytest.approx(1e-3 * gradient, rel=1e-4)
    assert config.problem_type == "regression"  # or else Transformers' pipelines take a sigmoid of the output
    assert not hasattr(config, "trained_with")
    with pytest.raises(ValueError, match="regression"):
        SquareLossTrainer(model=network, args=arguments(tmp_path, k=15.0))
    with pytest.raises(ValueError, match="--label_smoothing_factor needs classes"):
        SquareLossTrainer(model=network, args=arguments(tmp_path, label_smoothing_factor=0.1))
    tokens = model("token classification")
    tokens.config.num_labels = 1
    with pytest.raises(ValueError, match=r"has one class \(num_labels=1\), so that there is nothing to choose"):
        SquareLossTrainer(model=type(tokens)(tokens.config), args=arguments(tmp_path))


@pytest.mark.parametrize(
    ("head", "task", "rule", "expected"),
    [
        ("sequence classification", None, "auto", "Loss: square, k = 1, M = 1 (not rescaled"),
        ("sequence classification", "librispeech", "auto", "k = 1, M = 1 (not rescaled"),
        ("sequence classification", "librispeech", "paper", "k = 15, M = 30 (the paper's Table 9 for librispeech"),
        ("sequence classification", None, "level", f"k = 15, M = 0.7324 (the level rule for {CLASSES} classes"),
        ("multiple choice", None, "auto", "k = 1, M = 1 (not rescaled"),
        ("causal LM", None, "auto", "k = 1, M = 1 (not rescaled"),
    ],
)
def test_rescaling_is_chosen_and_said(head, task, rule, expected, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        SquareLossTrainer(model=model(head), args=arguments(tmp_path, paper_task=task, rescaling=rule))
    assert expected in caplog.text


def test_a_saved_model_knows_how_it_was_trained(tmp_path):
    """Loss, k and M. A Trainer that only scores it has them too, and changes nothing; another training does."""
    head = "sequence classification"
    data = examples(head, 4)

    def trainer(network, **options):
        options |= {"max_steps": 1, "save_strategy": "no"}
        return SquareLossTrainer(network, arguments(tmp_path, **options), train_dataset=data, eval_dataset=data)

    first = trainer(model(head), k=3.0, M=2.0)
    first.train()
    first.save_model(str(tmp_path / "saved"))
    network = type(first.model).from_pretrained(tmp_path / "saved")
    own = {"k": 3.0, "M": 2.0}
    for options in ({}, {"loss": "squentropy"}, {"rescaling": "level"}):
        scorer = trainer(network, **options)
        assert (network.config.trained_with, network.config.square_loss) == ("square", own)
        expected = probabilities(torch.from_numpy(scorer.predict(data).predictions), "square", **own)
        torch.testing.assert_close(torch.from_numpy(scorer.predict_proba(data)), expected)
        if not options:
            assert (scorer.rescaling.k, scorer.rescaling.M) == (3.0, 2.0)
            assert scorer.evaluate()["eval_loss"] == pytest.approx(first.evaluate()["eval_loss"])
    trainer(network).train()
    assert network.config.square_loss == {"k": 1.0, "M": 1.0}
    trainer(network, loss="squentropy").train()
    assert network.config.trained_with == "squentropy"
    assert not hasattr(network.config, "square_loss")


def test_other_files_beside_the_weights_are_none(tmp_path):
    """Such as the memory of a checkpoint within an epoch: the weights are loaded as ever."""
    network = model("sequence classification")
    network.save_pretrained(tmp_path)
    save_file({"memory": torch.zeros(2)}, tmp_path / "memory-0.safetensors")
    assert not load_renamed(str(tmp_path), network)


@pytest.mark.parametrize("without_logits", [False, True])
def test_a_model_that_the_trainer_makes_itself(without_logits, tmp_path):
    """model_init makes one when the Trainer is made, and a new one for every training."""
    trainer = SquareLossTrainer(
        model_init=lambda: model("causal LM"),
        args=arguments(tmp_path, max_steps=1, k=15.0, M=2.0, without_logits=without_logits),
        train_dataset=examples("causal LM", 4),
    )
    made = trainer.model
    trainer.train()
    assert trainer.model is not made
    assert trainer.model.config.square_loss == {"k": 15.0, "M": 2.0}
    head = trainer.compute_loss_func.head
    assert (head is not None and head.layer is trainer.model.lm_head) == without_logits


def test_without_logits_the_sum_of_a_16_bit_model_is_in_32_bits(tmp_path):
    values = {}
    for without in (False, True):
        trainer = SquareLossTrainer(
            model("causal LM").half(), arguments(tmp_path, k=15.0, M=300.0, without_logits=without)
        )
        batch = {key: torch.stack([e[key] for e in examples("causal LM", 6)]) for key in examples("causal LM", 1)[0]}
        values[without] = trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=1)
    assert values[True].dtype == torch.float32
    assert values[False].item() > torch.finfo(torch.float16).max
    torch.testing.assert_close(values[True], values[False], rtol=1e-2, atol=0)


def test_peft_models(tmp_path):
    """LoRA wraps the model; its head and its loss are found all the same."""
    for head, kind in (("causal LM", TaskType.CAUSAL_LM), ("sequence classification", TaskType.SEQ_CLS)):
        names = ["q_proj"] if head == "causal LM" else ["query"]
        network = get_peft_model(model(head), LoraConfig(task_type=kind, r=2, target_modules=names))
        trainer = SquareLossTrainer(
            model=network,
            args=arguments(tmp_path, per_device_eval_batch_size=12, k=3.0, M=2.0),
            eval_dataset=examples(head, 12),
        )
        assert trainer.compute_loss_func.shift_labels == (head == "causal LM")
        if head == "causal LM":  # at the start LoRA changes nothing; a new classifier head does
            assert trainer.evaluate()["eval_loss"] == pytest.approx(full_batch(head, "square", 12)[1], rel=1e-4)


def test_routes_past_the_hook_are_refused(tmp_path):
    network = model("sequence classification")
    with pytest.raises(ValueError, match="compute_loss_func is what SquareLossTrainer sets"):
        SquareLossTrainer(model=network, args=arguments(tmp_path), compute_loss_func=TrainerLoss())
    with pytest.raises(ValueError, match="start_positions, end_positions rather than `labels`"):
        SquareLossTrainer(model=BertForQuestionAnswering(network.config), args=arguments(tmp_path))
    args = arguments(tmp_path)
    args.use_liger_kernel = True
    with pytest.raises(ValueError, match="use_liger_kernel fuses cross-entropy"):
        SquareLossTrainer(model=network, args=args)
    for name in ("output_router_logits", "return_dict"):
        other = model("sequence classification")
        setattr(other.config, name, name == "output_router_logits")
        with pytest.raises(ValueError, match=name):
            SquareLossTrainer(model=other, args=arguments(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "--loss must be one of square, cross_entropy, squentropy, got 'hinge'"),
        ({"rescaling": "none"}, "--rescaling must be one of auto, paper, level, got 'none'"),
        ({"paper_task": "libri_speech"}, "--paper_task must be one of mrpc, "),
        ({"loss": "cross_entropy", "k": 2.0}, "--k and --M rescale the square loss, and --loss is cross_entropy"),
        ({"k": -1.0}, "--k must be a positive finite number, got -1"),
        ({"M": float("nan")}, "--M must be a positive finite number, got nan"),
        ({"loss": "squentropy", "without_logits": True}, "--without_logits needs a loss that can be had without"),
        ({"label_smoothing_factor": 2.0}, "--label_smoothing_factor must be between 0 and 1, got 2"),
        ({"distillation_weight": 1.5}, "--distillation_weight must be between 0 and 1, got 1.5"),
        ({"teacher": ""}, "--teacher is empty"),
        ({"lr_milestones": [0.75, 0.5]}, "--lr_milestones must be shares of the training"),
        ({"lr_milestones": [1.0], "lr_scheduler_type": "constant"}, "less than 1 and increasing, got 1"),
        ({"lr_milestones": [0.5]}, "--lr_milestones and --lr_scheduler_type linear are two schedules"),
        ({"lr_milestones": [0.5], "lr_scheduler_type": "constant", "lr_decay": 0.0}, "--lr_decay must be a finite"),
        ({"lr_decay": 0.5}, "--lr_decay is for --lr_milestones, and there are none"),
        ({"protocol": "fixed_epochs"}, "--protocol must be one of early_stopping, same_epochs, got 'fixed_epochs'"),
        ({"patience": 0}, "--patience must be at least 1, got 0"),
        ({"protocol": "early_stopping"}, "it needs --eval_strategy epoch"),
        (
            {"protocol": "same_epochs", "load_best_model_at_end": True, "save_strategy": "no"},
            "--protocol same_epochs takes the last model",
        ),
    ],
)
def test_wrong_arguments_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        arguments(tmp_path, **options)


def test_arguments_from_a_command_line_are_saved_with_the_model(tmp_path):
    options = ["--output_dir", str(tmp_path), "--use_cpu", "--k", "15", "--rescaling", "paper", "--report_to", "none"]
    (args,) = HfArgumentParser(SquareLossConfig).parse_args_into_dataclasses(options)
    SquareLossTrainer(model=model("sequence classification"), args=args).save_model(str(tmp_path / "saved"))
    saved = torch.load(tmp_path / "saved" / "training_args.bin", weights_only=False)
    assert (saved.loss, saved.k, saved.M, saved.rescaling) == ("square", 15.0, None, "paper")
    assert json.loads(args.to_json_string())["rescaling"] == "paper"


def test_plain_training_arguments_have_the_defaults(tmp_path):
    plain = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", label_smoothing_factor=0.1, max_steps=3)
    trainer = SquareLossTrainer(model("sequence classification"), plain)
    assert (trainer.args.loss, trainer.args.max_steps, trainer.rescaling.k) == ("square", 3, 1.0)
    assert trainer.compute_loss_func.label_smoothing == 0.1
    other = Seq2SeqTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="args is a Seq2SeqTrainingArguments: SquareLossTrainer takes a SquareLossCon"):
        SquareLossTrainer(model("sequence classification"), other)


def test_models_that_say_nothing_of_themselves(tmp_path):
    with pytest.raises(ValueError, match=r"model must be an object of torch\.nn\.Module, got <class 'torch"):
        SquareLossTrainer(torch.nn.Linear, arguments(tmp_path))
    with pytest.raises(ValueError, match=r"does not say how many classes it has .*: give --k and --M"):
        SquareLossTrainer(torch.nn.Linear(3, 4), arguments(tmp_path))
    trainer = SquareLossTrainer(torch.nn.Linear(3, 4), arguments(tmp_path, k=1.0, M=1.0))
    with pytest.raises(ValueError, match="and `logits` among the model's outputs"):
        trainer.compute_loss(trainer.model, {"input": torch.rand(2, 3), "labels": torch.tensor([0, 1])})


class OwnLlama(LlamaForCausalLM):
    """A user's subclass, whose name no table knows."""


def test_labels_are_shifted_as_the_model_itself_would(tmp_path):
    """By cross-entropy, which every model computes as well: subclassed, compiled, and decoders that do not shift."""
    config = model("causal LM").config
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2}
    bart = BartConfig(decoder_ffn_dim=32, max_position_embeddings=32, dropout=0.0, pad_token_id=0, **sizes)
    for network in (OwnLlama(config), torch.compile(model("causal LM"), backend="eager"), BartForCausalLM(bart)):
        batch = examples("causal LM", 4)
        trainer = SquareLossTrainer(
            model=network,
            args=arguments(tmp_path, remove_unused_columns=False, loss="cross_entropy"),
            eval_dataset=batch,
        )
        ours = trainer.evaluate()["eval_loss"]
        with torch.no_grad():
            theirs = network(**{key: torch.stack([example[key] for example in batch]) for key in batch[0]}).loss.item()
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_labels_that_are_shifted_already(tmp_path):
    """By a collator that packs texts, or by context parallelism: they count, and are not shifted again."""
    network, batch = model("causal LM"), examples("causal LM", 4)
    for example in batch:
        example["shift_labels"] = example["labels"].roll(-1)  # the last one counts, as where a text is cut
        example["shift_labels"][3] = -100  # between two texts
    options = {"remove_unused_columns": False, "loss": "cross_entropy"}
    trainer = SquareLossTrainer(network, arguments(tmp_path, **options), eval_dataset=batch)
    with torch.no_grad():
        theirs = network(**{key: torch.stack([example[key] for example in batch]) for key in batch[0]}).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(theirs, rel=1e-4)
    plain = [{name: value for name, value in example.items() if name != "shift_labels"} for example in batch]
    assert trainer.evaluate(plain)["eval_loss"] == pytest.approx(full_batch("causal LM", "cross_entropy", 4)[1])


class Pair(torch.nn.Module):
    """A model of one's own, which returns a tuple."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, x, labels=None):
        return self.layer(x), x


def test_predictions_of_a_model_that_returns_a_tuple(tmp_path):
    """The Trainer takes the first of a tuple for the loss: without care the outputs are lost."""
    data = [{"x": torch.rand(3), "labels": i % 4} for i in range(8)]
    trainer = SquareLossTrainer(Pair(), arguments(tmp_path, k=1.0, M=1.0), eval_dataset=data)
    x = torch.stack([example["x"] for example in data])
    with pytest.raises(ValueError, match="Pair has no config that says how to read its outputs: use predict"):
        trainer.predict_proba(data)
    outputs, other = trainer.predict(data).predictions
    torch.testing.assert_close(torch.from_numpy(outputs), trainer.model.layer(x).detach())
    torch.testing.assert_close(torch.from_numpy(other), x)


def test_encoder_decoders_need_their_decoder_inputs(tmp_path):
    sizes = {"vocab_size": VOCABULARY, "d_model": 16, "max_position_embeddings": 32, "pad_token_id": 0}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(encoder_ffn_dim=32, decoder_ffn_dim=32, dropout=0.0, **sizes, **layers)
    network = BartForConditionalGeneration(config)
    data = examples("causal LM", 4)
    trainer = SquareLossTrainer(model=network, args=arguments(tmp_path, loss="cross_entropy"), eval_dataset=data)
    with pytest.raises(ValueError, match="needs decoder_input_ids in the batch"):
        trainer.evaluate()
    labels = torch.stack([example["labels"] for example in data])
    inputs = network.prepare_decoder_input_ids_from_labels(labels=labels)
    data = [{**example, "decoder_input_ids": row} for example, row in zip(data, inputs, strict=True)]
    with torch.no_grad():
        batch = {key: torch.stack([example[key] for example in data]) for key in data[0]}
        theirs = network.eval()(**batch).loss.item()
    assert trainer.evaluate(data)["eval_loss"] == pytest.approx(theirs, rel=1e-4)


def test_data_parallel_has_the_scale_of_one_device(tmp_path):
    """Without GPUs at hand: the Trainer is told of two, and scales as it would for two."""
    trainer = SquareLossTrainer(model=model("sequence classification"), args=arguments(tmp_path))
    batch = examples("sequence classification", 8)
    batch = {key: torch.stack([example[key] for example in batch]) for key in batch[0]}
    one = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(8))
    trainer.args._n_gpu = 2
    two = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor([8, 8]))
    assert two.item() == pytest.approx(one.item())
    alone = trainer.compute_loss(trainer.model, dict(batch))  # the mean of what is there, which nothing scales
    assert alone.item() == pytest.approx(one.item())

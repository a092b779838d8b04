"""Distillation: a teacher's class probabilities have their share in the targets, and only in training."""

import re
from pathlib import Path

import pytest
import torch
import toy_task
from commands import assert_refused
from tiny import CLASSES, examples, full_batch, model, one_sgd_step, soft_labels
from transformers import BertForSequenceClassification, BertForTokenClassification, ViTImageProcessor
from transformers.models.timm_wrapper import TimmWrapperImageProcessor

from sqloss_plugins.errors import UserError
from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer
from sqloss_plugins.hf.distillation import Distillation, check_inputs, load_teacher
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.results import read_result

HEAD = "sequence classification"
RESCALED = {"k": 4.0, "M": 2.0}
SIZES = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}


def a_teacher(square_loss=None):
    """Not the model that is trained: other weights, larger outputs."""
    network = model(HEAD)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    if square_loss:
        network.config.square_loss = square_loss
    return network


def inputs_of(data):
    return {name: torch.stack([example[name] for example in data]) for name in ("input_ids", "attention_mask")}


def expected_targets(teacher, data, weight):
    """(1 - w) q + w p, in float64, p by hand."""
    with torch.no_grad():
        f = teacher.eval()(**inputs_of(data)).logits.double()
    if hasattr(teacher.config, "square_loss"):
        k, M = RESCALED["k"], RESCALED["M"]
        f = f.clamp(0, M)
        p = (f / (k * M - (k - 1) * f)).clamp(min=0.01 / CLASSES)
        p = p / p.sum(1, keepdim=True)
    else:
        p = f.softmax(1)
    labels = torch.stack([example["labels"] for example in data])
    known = labels.double() if labels.is_floating_point() else torch.eye(CLASSES, dtype=torch.float64)[labels]
    return (1 - weight) * known + weight * p


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("square_loss", [None, RESCALED])
@pytest.mark.parametrize("is_soft", [False, True])
def test_the_gradient_is_that_of_the_mixed_targets(loss, square_loss, is_soft, tmp_path):
    """Accumulated over an uneven last micro-batch; also on top of targets that are mixed already."""
    teacher, data = a_teacher(square_loss), examples(HEAD, 10)
    data = soft_labels(HEAD, data) if is_soft else data
    options = {"trainer_options": {"teacher": teacher}, "distillation_weight": 0.3, **SIZES}
    gradient, _ = one_sgd_step(HEAD, loss, 10, tmp_path, data=data, **options)
    targets = expected_targets(teacher, data, 0.3).float()
    mixed = [{**example, "labels": target} for example, target in zip(data, targets, strict=True)]
    expected, _ = full_batch(HEAD, loss, 10, data=mixed)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    without, _ = full_batch(HEAD, loss, 10, data=data)
    assert (gradient - without).norm() > 0.01 * without.norm()


def test_no_share_is_no_teacher_and_evaluation_has_none(tmp_path):
    options = {"trainer_options": {"teacher": a_teacher()}, **SIZES}
    gradient, trainer = one_sgd_step(HEAD, "square", 10, tmp_path, distillation_weight=0.0, **options)
    expected, value = full_batch(HEAD, "square", 10)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)
    trainer.args.distillation_weight = 1.0
    trainer.model.load_state_dict(model(HEAD).state_dict())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(value, rel=1e-4)
    assert trainer.predict(examples(HEAD, 4)).label_ids.shape == (4,)


def test_the_teacher_is_neither_trained_nor_noisy(tmp_path):
    teacher = a_teacher()
    teacher.config.hidden_dropout_prob = 0.5
    teacher = BertForSequenceClassification(teacher.config).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    _, trainer = one_sgd_step(HEAD, "square", 8, tmp_path, trainer_options={"teacher": teacher}, **SIZES)
    assert not teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    data = examples(HEAD, 4)
    labels = torch.stack([example["labels"] for example in data])
    found = [trainer.distillation(inputs_of(data), labels, 0.5) for _ in range(2)]
    assert torch.equal(*found)


def test_classes_in_another_order_and_examples_that_do_not_count():
    teacher, student = a_teacher(), model(HEAD)
    student.config.id2label = dict(enumerate("abcde"))
    teacher.config.id2label = dict(enumerate("ecdab"))
    data = examples(HEAD, 3)
    labels = torch.tensor([0, -100, 4])
    found = Distillation(teacher, student)(inputs_of(data), labels, 0.25)
    with torch.no_grad():
        p = teacher(**inputs_of(data)).logits.softmax(1)[:, ["ecdab".index(name) for name in "abcde"]]
    wanted = 0.75 * torch.eye(CLASSES)[[0, 0, 4]] + 0.25 * p
    wanted[1] = -100.0
    torch.testing.assert_close(found, wanted)


def test_what_cannot_be_taught(tmp_path):
    student, other = model(HEAD), a_teacher()
    other.config.id2label = dict(enumerate("abcde"))
    token = BertForTokenClassification(student.config)
    config = SquareLossConfig(str(tmp_path), report_to="none", use_cpu=True)
    for network, teacher, message in (
        (student, other, "the teacher has 5 classes, a, b, c, d, e, and the model has 5, LABEL_0"),
        (student, token, "of one class each: not BertForToken"),
        (token, a_teacher(), "of one class each: not BertForToken"),
        (model("multi-label"), a_teacher(), "teacher and model must be classifiers"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            SquareLossTrainer(network, config, teacher=teacher)
    for options, message in (
        ({"distillation_weight": 0.5}, "--distillation_weight is the share of --teacher"),
        ({"without_logits": True, "teacher": "folder"}, "--without_logits has no targets"),
    ):
        config = SquareLossConfig(str(tmp_path), report_to="none", use_cpu=True, **options)
        with pytest.raises(ValueError, match=message):
            SquareLossTrainer(student, config, teacher=a_teacher() if config.teacher else None)


def test_images_must_be_read_alike(tmp_path):
    """How they are brought to their size makes no difference, nor do the classes of the two processors."""
    options = {"size": {"height": 24, "width": 24}}
    ViTImageProcessor(**options).save_pretrained(tmp_path)
    alike = TimmWrapperImageProcessor({"input_size": [3, 24, 24], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.8})
    for processor in (ViTImageProcessor(**options, resample=3), alike):
        check_inputs(str(tmp_path), processor)
    for more in ({"size": {"height": 9, "width": 9}}, {"image_mean": [0.1] * 3}, {"image_std": [0.4, 0.5, 0.5]}):
        with pytest.raises(UserError, match="has another size, mean or deviation of images than the model"):
            check_inputs(str(tmp_path), ViTImageProcessor(**{**options, **more}))
    with pytest.raises(UserError, match="has no image processor that can be used"):
        check_inputs(str(tmp_path / "nowhere"), alike)


def test_a_teacher_that_was_trained_here(tmp_path, monkeypatch, tiny_model, capsys):
    """From the command line: the teacher's own loss says how it is read; and teachers that cannot be."""
    monkeypatch.chdir(tmp_path)
    rows = [("I am happy", "glad"), ("I am miserable", "sad"), ("what joy", "glad"), ("what grief", "sad")] * 4
    for split in ("train", "validation"):
        Path(f"{split}.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    options = ["--model_name_or_path", str(tiny_model), "--use_cpu", "--num_train_epochs", "1", "--cache_dir", "cache"]
    assert toy_task.main([*options, "--output_dir", "teacher", "--k", "4", "--M", "2"]) == 0
    assert load_teacher("teacher").config.square_loss == RESCALED
    taught = [*options, "--loss", "cross_entropy", "--output_dir", "student", "--teacher", "teacher"]
    assert toy_task.main(taught) == 0
    assert "cross_entropy; 0.5 of the targets by the teacher teacher" in capsys.readouterr().out
    assert read_result(Path("student")).hyperparameters["teacher"] == "teacher"
    assert toy_task.main([*taught, "--distillation_weight", "0.2"]) == 2
    assert "holds another run (distillation_weight None -> 0.2)" in capsys.readouterr().err
    Path("out").mkdir()
    for more, message in (
        (["--teacher", "nobody"], "--teacher nobody cannot be the teacher"),
        (["--teacher", str(tiny_model)], "of one class each: not BertModel"),
        (["--distillation_weight", "0.5"], "--distillation_weight is the share of --teacher, and there is none"),
        (["--teacher", "teacher", "--do_eval"], "--teacher is for training, and nothing is trained"),
    ):
        assert_refused(toy_task.main, [*options, *more, "--output_dir", "out"], "mood", message, Path("out"), capsys)
    other = BertForSequenceClassification.from_pretrained("teacher", id2label={0: "good", 1: "bad"})
    other.save_pretrained("other")
    capsys.readouterr()
    assert_refused(
        toy_task.main,
        [*options, "--teacher", "other", "--output_dir", "out"],
        "mood",
        "the teacher has 2 classes, good, bad, and the model has 2, sad, glad: they must be the same",
        Path("out"),
        capsys,
    )

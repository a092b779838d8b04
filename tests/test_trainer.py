"""The Trainer host: the gradient that a step takes is that of the whole batch, for each head and each loss."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from tiny import CLASSES, HEADS, VOCABULARY, WITHOUT_LOGITS, capped_model, examples, full_batch, model, one_sgd_step
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartForConditionalGeneration,
    BertForQuestionAnswering,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from sqloss_plugins.hf import SquareLossTrainer, TrainerLoss
from sqloss_plugins.losses import linear_square

LOSSES = ("square", "cross_entropy", "squentropy")


def arguments(folder, **options):
    return TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, **options)


def assert_same_gradient(gradient, expected):
    assert (gradient.norm() / expected.norm()).item() == pytest.approx(1.0, abs=1e-4)
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item() + 1e-7)


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("loss", LOSSES)
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
    gradients, losses = torch.load(tmp_path / "gradients.pt", weights_only=False)
    for head in HEADS:
        for loss in LOSSES:
            expected, value = full_batch(head, loss, 12)
            assert_same_gradient(gradients[head, loss], expected)
            assert losses[head, loss] == pytest.approx(value, rel=1e-4)
    for head in WITHOUT_LOGITS:
        assert_same_gradient(gradients[head, "without logits"], full_batch(head, "square", 12)[0])


@pytest.mark.parametrize("head", WITHOUT_LOGITS)
@pytest.mark.parametrize("gram", [True, False], ids=["gram", "direct"])
@pytest.mark.parametrize("count", [12, 10], ids=["even", "uneven last micro-batch"])
def test_without_logits_equals_one_full_batch(head, gram, count, tmp_path, monkeypatch):
    """Tied and untied weights, with bias and without, accumulated in three micro-batches that share G."""
    grams = []
    original = linear_square._gram_of
    monkeypatch.setattr(linear_square, "_SMALL", 0)
    monkeypatch.setattr(linear_square, "_prefers_gram", lambda *args: gram)
    monkeypatch.setattr(linear_square, "_gram_of", lambda a, b, dtype: grams.append(a is b) or original(a, b, dtype))
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


def test_without_logits_there_are_none_in_training(tmp_path):
    shapes = {True: set(), False: set()}
    _, trainer = one_sgd_step("causal LM", "square", 6, tmp_path / "1", without_logits=True)
    trainer.model.register_forward_hook(
        lambda model, args, outputs: shapes[model.training].add(outputs.logits.shape[-1])
    )
    trainer.train()
    trainer.evaluate()
    assert shapes == {True: {trainer.model.config.hidden_size}, False: {VOCABULARY}}


def test_without_logits_in_mixed_precision(tmp_path):
    """accelerate makes float32 of what a model returns; the loss has the hidden states as they were."""
    plain, _ = one_sgd_step("causal LM", "square", 6, tmp_path / "1", bf16=True)
    gradient, _ = one_sgd_step("causal LM", "square", 6, tmp_path / "2", bf16=True, without_logits=True)
    assert (gradient - plain).norm() < 0.02 * plain.norm()


@pytest.mark.parametrize(
    ("head", "options", "words"),
    [
        ("causal LM", {"loss": "cross_entropy"}, "the cross_entropy loss has no such form"),
        ("multiple choice", {}, "has 0 linear layers with 2 outputs"),
        ("causal LM", {"torch_compile": True}, "compiled"),
        ("causal LM", {"optim": "lomo", "gradient_accumulation_steps": 2}, "LOMO"),
        ("causal LM", {"own_layer": True}, "is a NonDynamicallyQuantizableLinear"),
        ("causal LM", {"own_forward": True}, "is a wrapped Linear"),
    ],
)
def test_without_logits_where_it_cannot_be(head, options, words, tmp_path):
    network, loss = model(head), options.pop("loss", "square")
    if options.pop("own_layer", False):
        layer = torch.nn.modules.linear.NonDynamicallyQuantizableLinear
        network.set_output_embeddings(layer(16, VOCABULARY))
    if options.pop("own_forward", False):  # as accelerate does to a model on several devices
        network.lm_head.forward = network.lm_head.forward
    with pytest.raises(ValueError, match=words):
        SquareLossTrainer(network, arguments(tmp_path, **options), loss=loss, without_logits=True)


def test_logits_that_are_picked_or_capped_are_needed(tmp_path):
    with pytest.raises(ValueError, match="LlamaForSequenceClassification does not return the outputs"):
        one_sgd_step("sequence classification, Llama", "square", 6, tmp_path, without_logits=True)
    trainer = SquareLossTrainer(
        capped_model(VOCABULARY), arguments(tmp_path), train_dataset=examples("causal LM", 6), without_logits=True
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


@pytest.mark.parametrize("loss", LOSSES)
def test_label_smoothing_is_applied(loss, tmp_path):
    head = "sequence classification"
    gradient, _ = one_sgd_step(head, loss, 8, tmp_path, per_device_train_batch_size=8, label_smoothing_factor=0.2)
    assert_same_gradient(gradient, full_batch(head, loss, 8, label_smoothing=0.2)[0])
    assert not torch.allclose(gradient, full_batch(head, loss, 8)[0], rtol=1e-2)


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("loss", LOSSES)
def test_evaluation_loss_is_the_same_loss(head, loss, tmp_path):
    options = {"k": 3.0, "M": 2.0} if loss == "square" else {}
    trainer = SquareLossTrainer(
        model=model(head),
        args=arguments(tmp_path, per_device_eval_batch_size=12),
        eval_dataset=examples(head, 12),
        loss=loss,
        **options,
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
    with pytest.raises(ValueError, match="floating point"):
        loss({"logits": logits}, torch.rand(6, 5))


def test_one_output_is_regression(tmp_path, caplog):
    network = model("sequence classification")
    config = network.config
    config.num_labels = 1
    network = type(network)(config)
    data = [{**example, "labels": torch.tensor(float(i))} for i, example in enumerate(examples("sequence", 8))]
    with caplog.at_level(logging.WARNING):
        trainer = SquareLossTrainer(model=network, args=arguments(tmp_path), eval_dataset=data)
    assert "regression" in caplog.text
    predicted = torch.tensor(trainer.predict(data).predictions).squeeze(-1)
    expected = ((predicted - torch.arange(8.0)) ** 2).mean().item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="regression"):
        SquareLossTrainer(model=network, args=arguments(tmp_path), k=15.0)


@pytest.mark.parametrize(
    ("head", "task", "expected"),
    [
        ("sequence classification", None, f"k = 1, M = 1 (the rule for {CLASSES} classes"),
        ("sequence classification", "librispeech", "k = 15, M = 30 (the paper's Table 9 for librispeech"),
        ("multiple choice", None, "k = 1, M = 1 (the rule for 2 classes"),
        ("causal LM", None, f"k = 1, M = 1 (the rule for {VOCABULARY} classes"),
    ],
)
def test_rescaling_is_chosen_and_said(head, task, expected, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        SquareLossTrainer(model=model(head), args=arguments(tmp_path), task=task)
    assert expected in caplog.text


def test_a_saved_model_knows_its_rescaling(tmp_path):
    trainer = SquareLossTrainer(model=model("sequence classification"), args=arguments(tmp_path), k=3.0, M=2.0)
    trainer.save_model(str(tmp_path / "saved"))
    again = type(trainer.model).from_pretrained(tmp_path / "saved")
    assert again.config.square_loss == {"k": 3.0, "M": 2.0}
    trainer = SquareLossTrainer(model=again, args=arguments(tmp_path), loss="cross_entropy")
    trainer.save_model(str(tmp_path / "saved"))
    assert not hasattr(type(again).from_pretrained(tmp_path / "saved").config, "square_loss")


@pytest.mark.parametrize("without_logits", [False, True])
def test_a_model_that_the_trainer_makes_itself(without_logits, tmp_path):
    """model_init makes one when the Trainer is made, and a new one for every training."""
    trainer = SquareLossTrainer(
        model_init=lambda: model("causal LM"),
        args=arguments(tmp_path, max_steps=1),
        train_dataset=examples("causal LM", 4),
        k=15.0,
        M=2.0,
        without_logits=without_logits,
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
            model("causal LM").half(), arguments(tmp_path), k=15.0, M=300.0, without_logits=without
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
            args=arguments(tmp_path, per_device_eval_batch_size=12),
            eval_dataset=examples(head, 12),
            loss="square",
            k=3.0,
            M=2.0,
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
    network.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="multi-label classification has no single true class"):
        SquareLossTrainer(model=network, args=arguments(tmp_path))


def test_wrong_losses_are_refused(tmp_path):
    network = model("sequence classification")
    for options, message in (
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"task": "libri_speech"}, "the paper has no task 'libri_speech'"),
        ({"loss": "cross_entropy", "k": 2.0}, "k and M rescale the square loss"),
        ({"k": -1.0}, "k must be a positive finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            SquareLossTrainer(model=network, args=arguments(tmp_path), **options)
    with pytest.raises(RuntimeError, match="label_smoothing must be between"):
        SquareLossTrainer(model=network, args=arguments(tmp_path, label_smoothing_factor=2.0))


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
            args=arguments(tmp_path, remove_unused_columns=False),
            eval_dataset=batch,
            loss="cross_entropy",
        )
        ours = trainer.evaluate()["eval_loss"]
        with torch.no_grad():
            theirs = network(**{key: torch.stack([example[key] for example in batch]) for key in batch[0]}).loss.item()
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_encoder_decoders_need_their_decoder_inputs(tmp_path):
    sizes = {"vocab_size": VOCABULARY, "d_model": 16, "max_position_embeddings": 32, "pad_token_id": 0}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(encoder_ffn_dim=32, decoder_ffn_dim=32, dropout=0.0, **sizes, **layers)
    network = BartForConditionalGeneration(config)
    data = examples("causal LM", 4)
    trainer = SquareLossTrainer(model=network, args=arguments(tmp_path), eval_dataset=data, loss="cross_entropy")
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
    trainer = SquareLossTrainer(model=model("sequence classification"), args=arguments(tmp_path), loss="square")
    batch = examples("sequence classification", 8)
    batch = {key: torch.stack([example[key] for example in batch]) for key in batch[0]}
    one = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(8))
    trainer.args._n_gpu = 2
    two = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor([8, 8]))
    assert two.item() == pytest.approx(one.item())

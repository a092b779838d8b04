"""The prior-weighted square loss: its minimiser, how its output layer is trained, and ``--prior_exponent``."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_refused
from tiny import (
    CLASSES,
    TOKEN_COUNTS,
    VOCABULARY,
    WITHOUT_LOGITS,
    examples,
    full_batch,
    model,
    one_sgd_step,
    prior_steps,
)
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer, TrainerLoss, experiment
from sqloss_plugins.hf.prior import RowSteps, row_scales, start_at_prior
from sqloss_plugins.hf.tasks import characters, classification, glue, images
from sqloss_plugins.hf.tasks.language_model import main
from sqloss_plugins.losses import (
    GradientAccumulation,
    linear_square,
    linear_square_loss,
    prior_weights,
    square_loss,
)
from sqloss_plugins.probability import probabilities
from sqloss_plugins.results import read_result

COUNTS = torch.tensor([50.0, 30.0, 15.0, 4.0, 1.0])
V = prior_weights(COUNTS)

# ---------------------------------------------------------------- the loss


def test_prior_weights():
    torch.testing.assert_close(V, torch.tensor([2.5, 1.5, 0.75, 0.2, 0.05]))
    torch.testing.assert_close(prior_weights(COUNTS, 0.5), V.sqrt())
    assert prior_weights(COUNTS, 0.0).tolist() == [1.0] * 5
    for counts, exponent, words in [(COUNTS, 1.5, "from 0 to 1, got 1.5"), (COUNTS - 1.0, 1.0, "must be positive")]:
        with pytest.raises(ValueError, match=words):
            prior_weights(counts, exponent)


@pytest.mark.parametrize(("k", "M"), [(1.0, 1.0), (5.0, 3.0), (0.3, 2.0)])
def test_the_minimiser_is_that_of_the_plain_loss(k, M):
    """So that outputs become probabilities in the same way; and weights of 1 are the plain loss."""
    p = torch.softmax(torch.randn(2, 5, dtype=torch.float64), 1)
    f = (k * M * p / (1 + (k - 1) * p)).requires_grad_()
    (gradient,) = torch.autograd.grad(square_loss(f, p, k=k, M=M, prior_weight=V), f)
    assert gradient.abs().max() < 1e-12
    torch.testing.assert_close(probabilities(f, k=k, M=M).detach(), p)
    outputs, targets = torch.randn(4, 5), torch.tensor([0, 4, 2, 2])
    ones = square_loss(outputs, targets, k=k, M=M, prior_weight=torch.ones(5))
    torch.testing.assert_close(ones, square_loss(outputs, targets, k=k, M=M))
    assert square_loss(torch.zeros(4, 5), targets, k=k, M=M, prior_weight=V).item() == pytest.approx(k * M**2 / 5)


def test_auto_takes_the_gram_form_of_a_small_k():
    """In float32, to the direct form's figures: value and gradients."""
    found = {}
    counts = torch.logspace(0, 4, 700)
    for impl in ("auto", "direct"):
        torch.manual_seed(0)
        leaves = [torch.randn(300, 8), torch.randn(700, 8) * counts[:, None] / 1e4, torch.randn(700) / 1e3]
        H, W, b = (leaf.requires_grad_() for leaf in leaves)
        target, v = torch.multinomial(counts, 300, replacement=True), prior_weights(counts)
        loss = linear_square_loss(H, W, target, linear_bias=b, k=5.0, M=3.0, prior_weight=v, impl=impl)
        found[impl] = [loss, *torch.autograd.grad(loss, (H, W, b))]
        assert ("GramForm" in repr(loss.grad_fn)) == (impl == "auto")
    for one, other in zip(found["auto"], found["direct"], strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prior_weight": V[:4]}, "prior_weight"),
        (
            {"prior_weight": V, "label_smoothing": 0.1, "impl": "gram"},
            "prior weights with label smoothing have no Gram",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, words):
    H, W, y = torch.randn(3, 2), torch.randn(5, 2, requires_grad=True), torch.tensor([0, 1, 4])
    with pytest.raises(ValueError, match=words):
        linear_square_loss(H, W, y, **options)
    with pytest.raises(ValueError, match="a prior weight has neither an accumulation nor a shard"):
        linear_square_loss(H, W, y, prior_weight=V, accumulation=GradientAccumulation(W))
    with pytest.raises(ValueError, match=re.escape("each of the 5 classes, got (4,)")):
        square_loss(torch.randn(3, 5), y, prior_weight=V[:4])


@pytest.mark.parametrize("options", [{"loss": "cross_entropy"}, {"loss": "squentropy"}, {"multi_label": True}])
def test_losses_without_a_prior_weight(options):
    with pytest.raises(ValueError, match="prior_weight is of the square loss"):
        TrainerLoss(**options, prior_weight=V)


# ---------------------------------------------------------------- the output layer


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW"])
def test_steps_are_those_of_a_layer_with_scaled_rows(optimizer):
    """f = s (W h + b), trained by autograd as it is written, and as a plain layer: the same outputs after each step."""
    s, H, y = row_scales(V, 5.0, 4.0), torch.randn(16, 3, dtype=torch.float64), torch.randint(5, (16,))
    torch.manual_seed(0)
    inner, plain = nn.Linear(3, 5, dtype=torch.float64), nn.Linear(3, 5, dtype=torch.float64)
    plain.weight.data, plain.bias.data = inner.weight * s[:, None], inner.bias * s
    make = partial(getattr(torch.optim, optimizer), lr=0.05, eps=1e-30, weight_decay=0.0)
    of_inner, of_plain = make(inner.parameters()), make(plain.parameters())
    RowSteps(of_plain, [plain.weight, plain.bias], s)
    for _ in range(5):
        for of, outputs in ((of_inner, s * inner(H)), (of_plain, plain(H))):
            of.zero_grad()
            square_loss(outputs, y, k=5.0, M=4.0, prior_weight=V).backward()
            of.step()
        torch.testing.assert_close(plain(H), s * inner(H))


def test_a_new_layer_begins_at_the_prior():
    layer = nn.Linear(3, 5)
    weight = layer.weight.detach().clone()
    start_at_prior(layer, COUNTS, V, 5.0, 4.0)
    torch.testing.assert_close(layer.weight, weight * V[:, None] * 4 * 5 * 4 / 5)
    torch.testing.assert_close(probabilities(layer.bias, k=5.0, M=4.0), COUNTS / 100)


# ---------------------------------------------------------------- the Trainer


@pytest.mark.parametrize("head", ["token classification", "causal LM"])
@pytest.mark.parametrize("without_logits", [True, False])
def test_the_gradient_is_that_of_the_whole_batch(head, without_logits, tmp_path, monkeypatch):
    """With accumulation, with logits and in the Gram form; the step of plain SGD is s_i times as long."""
    monkeypatch.setattr(linear_square, "_SMALL", 0)
    monkeypatch.setattr(linear_square, "prefers_gram", lambda *args: True)
    assert head in WITHOUT_LOGITS
    counts = TOKEN_COUNTS[: CLASSES if head.startswith("token") else VOCABULARY]
    steps, trainer = one_sgd_step(
        head,
        "square",
        12,
        tmp_path,
        trainer_options={"class_counts": counts},
        prior_exponent=0.75,
        without_logits=without_logits,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
    )
    torch.testing.assert_close(steps, prior_steps(head, 12, counts, 0.75), rtol=2e-3, atol=2e-5)

    # In a second training, with an optimiser that is used again, the steps are those of its own arguments.
    for exponent, expected in (
        (0.5, prior_steps(head, 12, counts, 0.5)),
        (None, full_batch(head, "square", 12)[0]),
    ):
        trainer.args.prior_exponent = exponent
        trainer.model.load_state_dict(model(head).state_dict())
        trainer.train()
        moved = torch.nn.utils.parameters_to_vector(trainer.model.parameters())
        steps = torch.nn.utils.parameters_to_vector(model(head).parameters()) - moved
        torch.testing.assert_close(steps, expected, rtol=2e-3, atol=2e-5)


def test_a_trained_model_gives_probabilities_by_k_and_M_alone(tmp_path):
    """The saved model is a plain one, whose outputs are read as those of the plain loss."""
    config = GPT2Config(vocab_size=8, n_embd=16, n_layer=1, n_head=2, n_positions=4, tie_word_embeddings=False)
    config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = 0.0
    torch.manual_seed(0)
    prior = torch.tensor([0.4, 0.3, 0.15, 0.08, 0.04, 0.02, 0.008, 0.002])
    ids = torch.multinomial(prior, 4000, replacement=True).view(-1, 4)
    rows = [{"input_ids": row, "labels": row} for row in ids]
    counts = (torch.bincount(ids.flatten(), minlength=8) + 1.0).tolist()
    trainer = SquareLossTrainer(
        GPT2LMHeadModel(config),
        SquareLossConfig(
            output_dir=str(tmp_path),
            **{"prior_exponent": 1.0, "max_steps": 60, "learning_rate": 0.02, "per_device_train_batch_size": 64},
            **{"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"},
        ),
        train_dataset=rows,
        class_counts=counts,
    )
    trainer.begin_at_prior()
    trainer.train()
    trainer.save_model()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert saved.config.square_loss == {"k": trainer.rescaling.k, "M": trainer.rescaling.M}
    with torch.no_grad():
        found = probabilities(saved(ids[:50]).logits[:, :-1], **saved.config.square_loss).mean((0, 1))
    assert ((found - prior).abs() < 0.25 * prior + 0.01).all()


@pytest.mark.parametrize(
    ("head", "counts", "options", "words"),
    [
        ("causal LM", None, {}, "needs class_counts"),
        ("causal LM", [1.0, 2.0], {}, "there are 2 class counts, and the model has 40 classes"),
        ("causal LM, GPT-2", [1.0] * VOCABULARY, {}, "needs an output layer of its own"),
        ("causal LM", [0.0] * VOCABULARY, {}, "counts must be positive"),
        ("causal LM", [1.0] * VOCABULARY, {"optim": "lomo"}, "steps within the backward pass"),
        ("causal LM", [1.0] * VOCABULARY, {"optim": "galore_adamw_layerwise"}, "steps within the backward pass"),
    ],
)
def test_the_trainer_refuses(head, counts, options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        SquareLossTrainer(
            model(head),
            SquareLossConfig(output_dir=str(tmp_path), prior_exponent=1.0, use_cpu=True, report_to="none", **options),
            train_dataset=examples(head, 2),
            class_counts=counts,
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "cross_entropy"}, "--prior_exponent is of the square loss, and --loss is cross_entropy"),
        ({"prior_exponent": 1.5}, "--prior_exponent must be from 0 to 1, got 1.5"),
    ],
)
def test_the_arguments_are_checked(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        SquareLossConfig(**{"output_dir": str(tmp_path), "prior_exponent": 1.0, **options})


# ---------------------------------------------------------------- the command line


def test_a_language_model(tmp_path, monkeypatch, capsys):
    """As a user types it: the layer is the model's own, the result says what it was trained with."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    Path("a.txt").write_text("".join(f"{' '.join(generator.choice(words, 5))}.\n" for _ in range(300)))
    options = ["--train_file", "a.txt", "--vocab_size", "280", "--hidden_size", "16", "--num_layers", "1"]
    options += ["--num_heads", "2", "--block_size", "16", "--num_train_epochs", "2", "--use_cpu", "--disable_tqdm", "1"]
    options += ["--learning_rate", "1e-2", "--prior_exponent", "1", "--output_dir", "out"]
    assert main(options) == 0
    assert "square, k = 15, M = 10.26 (the level rule for 280 classes); prior exponent 1" in capsys.readouterr().out
    result = read_result(Path("out"))
    assert result.hyperparameters["prior_exponent"] == 1.0
    assert result.value("test", "perplexity") < result.data["unigram_perplexity"]["test"]
    saved = AutoModelForCausalLM.from_pretrained("out")
    assert saved.lm_head.weight is not saved.transformer.wte.weight

    checkpoint = str(next(Path("out").glob("checkpoint-*")))
    resumed = [*options, "--resume_from_checkpoint", checkpoint, "--output_dir", "other", "--prior_exponent", "0.5"]
    assert main(resumed) == 2
    assert "is of a run with prior_exponent 1.0, and this one has 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (characters.Characters, ["--mini"]),
        (classification.Classify, ["--mini", "--task", "text5"]),
        (glue.Glue, ["--mini", "--task", "mrpc"]),
        (images.Images, ["--mini", "--task", "mnist"]),
    ],
)
def test_other_tasks_refuse(task, options, tmp_path, monkeypatch, capsys):
    """Rather than train by the plain loss."""
    monkeypatch.chdir(tmp_path)
    words = "--prior_exponent is for language models: leave it out"
    run = partial(experiment.main, task)
    assert_refused(run, [*options, "--prior_exponent", "0.75"], task.program, words, tmp_path, capsys)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tie_word_embeddings", "true"], "needs an output layer of its own: leave --tie_word_embeddings out"),
        (["--do_predict", "--model_name_or_path", "x"], "is for training, and nothing is trained"),
        (["--loss", "squentropy"], "is of the square loss, and --loss is squentropy"),
        (["--prior_exponent", "-1"], "must be from 0 to 1, got -1"),
    ],
)
def test_mistakes(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert_refused(main, ["--mini", "--prior_exponent", "1", *options], "sqloss lm", words, tmp_path, capsys)

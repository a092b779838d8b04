"""Sampled softmax against cross-entropy of all outputs: by the equation, on the average, and in the Trainer."""

import json
import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from commands import assert_refused
from hypothesis import given, settings
from hypothesis import strategies as st
from test_factorised_head import CLASSES, examples, model, trained, trainer

from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer
from sqloss_plugins.hf.tasks.reverse_dictionary import main
from sqloss_plugins.losses import sampled_softmax, sampled_softmax_loss


def layer(N=6, d=3, C=7, bias=True, dtype=torch.float64):
    """Input, weight, bias and targets."""
    tensors = torch.randn(N, d), torch.randn(C, d), torch.randn(C)
    input, W, b = (tensor.to(dtype).requires_grad_() for tensor in tensors)
    return input, W, b if bias else None, torch.randint(0, C, (N,))


def full(input, W, b, target, **options):
    return F.cross_entropy(F.linear(input, W, b), target, **options)


def sampled(input, W, b, target, num_sampled, **options):
    return sampled_softmax_loss(input, W, target, num_sampled=num_sampled, linear_bias=b, **options)


def draws(monkeypatch, classes):
    """Makes these the classes that are drawn."""
    monkeypatch.setattr(sampled_softmax.torch, "randperm", lambda *args, **options: torch.tensor(classes))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    N=st.integers(1, 5),
    C=st.integers(1, 7),
    bias=st.booleans(),
    weighted=st.booleans(),
    ignore_index=st.sampled_from([-100, 0]),
    reduction=st.sampled_from(["none", "sum", "mean"]),
    label_smoothing=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_with_all_classes_it_is_cross_entropy(seed, N, C, bias, weighted, ignore_index, **options):
    torch.manual_seed(seed)
    input, W, b, target = layer(N, 3, C, bias)
    target[0] = ignore_index
    options |= {"ignore_index": ignore_index, "weight": torch.rand(C, dtype=torch.float64) if weighted else None}
    wanted = [leaf for leaf in (input, W, b) if leaf is not None]
    losses = sampled(input, W, b, target, C, **options), full(input, W, b, target, **options)
    scale = torch.rand(losses[0].shape, dtype=torch.float64)
    results = [(loss.detach(), *torch.autograd.grad(loss, wanted, scale)) for loss in losses]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_the_equation():
    """ln (exp(f_c) + C / S times the sum over sampled i != c of exp(f_i)) - f_c."""
    torch.manual_seed(0)
    input, W, b, target = layer()
    torch.manual_seed(5)
    drawn = torch.randperm(7)[:4].tolist()
    torch.manual_seed(5)
    losses = sampled(input, W, b, target, 4, reduction="none")
    assert set(target.tolist()) & set(drawn)
    for f, c, loss in zip(F.linear(input, W, b).tolist(), target.tolist(), losses.tolist(), strict=True):
        Z = math.exp(f[c]) + 7 / 4 * sum(math.exp(f[i]) for i in drawn if i != c)
        assert loss == pytest.approx(math.log(Z) - f[c], rel=1e-12)


def test_on_the_average_over_all_samples(monkeypatch):
    """The sum of the exponentials is right, with its gradient, and so are the terms of label smoothing; the loss is
    too small, and its gradient the better, the more classes are drawn."""
    torch.manual_seed(0)
    input, W, b, target = layer()
    leaves = (input, W, b)
    whole = full(input, W, b, target, reduction="none")
    sums = torch.autograd.grad(whole.exp().sum(), leaves, retain_graph=True)
    gradient = torch.autograd.grad(whole.sum(), leaves)
    errors = []
    for S in range(1, 8):
        samples = list(combinations(range(7), S))
        losses = []
        for classes in samples:
            draws(monkeypatch, classes)
            losses.append(sampled(input, W, b, target, S, reduction="none"))
        mean = torch.stack(losses).exp().mean(0)
        torch.testing.assert_close(mean, whole.exp())
        torch.testing.assert_close(torch.autograd.grad(mean.sum(), leaves, retain_graph=True), sums)
        assert torch.stack(losses).mean() <= whole.mean() + 1e-12
        found = [torch.autograd.grad(loss.sum(), leaves) for loss in losses]
        errors.append(
            sum(
                float((mine - right).square().sum()) for row in found for mine, right in zip(row, gradient, strict=True)
            )
            / len(samples)
        )
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-20 < errors[-2]


def test_smoothing_on_the_average(monkeypatch):
    """What label smoothing adds to the loss, apart from ln Z, is right on the average."""
    torch.manual_seed(0)
    input, W, b, target = layer()
    f = F.linear(input, W, b)
    found = []
    for classes in combinations(range(7), 3):
        draws(monkeypatch, classes)
        hard, smooth = (sampled(input, W, b, target, 3, reduction="none", label_smoothing=e) for e in (0.0, 1.0))
        found.append(smooth - hard)  # f_c - mean of f
    expected = f.gather(1, target.unsqueeze(1)).squeeze(1) - f.mean(1)
    torch.testing.assert_close(torch.stack(found).mean(0), expected)


def test_draws_without_repetition_and_anew():
    torch.manual_seed(0)
    input, W, b, target = layer(N=1, C=50)
    gradients = []
    for _ in range(2):
        (gradient,) = torch.autograd.grad(sampled(input, W, b, target, 10), W)
        gradients.append(gradient.abs().sum(1) > 0)
        assert 10 <= int(gradients[-1].sum()) <= 11
    assert not torch.equal(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrower_dtypes(dtype):
    torch.manual_seed(0)
    input, W, b, target = layer(C=50, dtype=dtype)
    loss = sampled(input, W, b, target, 50)
    assert loss.dtype == dtype
    torch.testing.assert_close(
        loss, full(input.double(), W.double(), b.double(), target).to(dtype), rtol=0.02, atol=0.0
    )
    with torch.autocast("cpu"):
        assert sampled(input.float(), W, b, target, 50).dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"num_sampled": 0}, ValueError, "num_sampled must be from 1 to the number of classes, 7, got 0"),
        ({"num_sampled": 8}, ValueError, "num_sampled must be from 1 to the number of classes, 7, got 8"),
        ({"target": torch.rand(6, 7)}, ValueError, r"the target is class indices of shape \(6,\)"),
        ({"target": torch.full((6,), 7)}, IndexError, "Target 7 is out of bounds"),
        ({"linear_weight": torch.randn(7, 4)}, ValueError, "linear_weight of shape"),
        ({"linear_bias": torch.randn(6)}, ValueError, "linear_bias is of shape"),
        ({"input": torch.randn(6, 3)}, RuntimeError, "must have one dtype"),
        ({"reduction": "total"}, ValueError, "not a valid value for reduction"),
    ],
)
def test_mistakes(changes, error, words):
    input, W, b, target = layer()
    arguments = {"input": input, "linear_weight": W, "linear_bias": b, "target": target, "num_sampled": 3, **changes}
    with pytest.raises(error, match=words):
        sampled_softmax_loss(**arguments)


# ---------------------------------------------------------------- in the Trainer

SAMPLED = {"factorised": False, "loss": "cross_entropy", "learning_rate": 0.5}


@pytest.mark.parametrize(
    "options", [{}, {"gradient_accumulation_steps": 3, "label_smoothing_factor": 0.1}], ids=["plain", "accumulated"]
)
def test_a_training_with_all_classes_is_that_of_cross_entropy(options, tmp_path):
    plain = trained(tmp_path, **SAMPLED, **options).model.state_dict()
    found = trained(tmp_path, num_sampled=CLASSES, **SAMPLED, **options).model.state_dict()
    start = model().state_dict()
    for name, weight in found.items():
        assert (plain[name] - start[name]).abs().max() > 1e-3
        torch.testing.assert_close(weight, plain[name], rtol=1e-4, atol=1e-5, msg=name)


def test_evaluation_is_of_all_classes(tmp_path):
    made = trainer(tmp_path, num_sampled=2, **SAMPLED)
    other = trainer(tmp_path, **SAMPLED)
    assert made.evaluate()["eval_loss"] == pytest.approx(other.evaluate()["eval_loss"], rel=1e-6)
    predicted, expected = (each.predict(examples()[:7]).predictions for each in (made, other))
    assert (predicted == expected).all()


def test_class_weights(tmp_path):
    """They are those of the targets, as in cross-entropy."""
    weights = [1.0 + i % 3 for i in range(CLASSES)]
    states = []
    for more in ({}, {"num_sampled": CLASSES}):
        options = {"learning_rate": 0.5, "max_steps": 2, "optim": "sgd", "save_strategy": "no", "report_to": "none"}
        config = SquareLossConfig(
            str(tmp_path), loss="cross_entropy", use_cpu=True, disable_tqdm=True, **options, **more
        )
        made = SquareLossTrainer(model(), config, train_dataset=examples(), class_weights=weights)
        made.train()
        states.append(made.model.state_dict())
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "square", "k": 1.0, "M": 1.0}, "--num_sampled is for cross-entropy, and --loss is square: leave it"),
        ({"num_sampled": 0}, "--num_sampled must be at least 1, got 0"),
        ({"num_sampled": CLASSES + 1}, f"--num_sampled {CLASSES + 1} is more than the {CLASSES} classes"),
        ({"without_logits": False}, "--num_sampled trains without logits: leave --without_logits out"),
        ({"torch_compile": True}, "--num_sampled is for plain training of classifiers, and a compiled model"),
    ],
)
def test_arguments_that_are_refused(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path, **{**SAMPLED, "num_sampled": 5, **options})


SHORT = ["--mini", "--use_cpu", "--disable_tqdm", "true", "--loss", "cross_entropy", "--num_sampled", "50"]


def test_the_command(tmp_path, capsys):
    options = ["--num_train_epochs", "4", "--seed", "1", "--output_dir", str(tmp_path / "run")]
    assert main([*SHORT, *options]) == 0
    assert "cross_entropy; sampled softmax with 50 of 400 classes" in capsys.readouterr().out
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["hyperparameters"]["num_sampled"] == 50
    assert result["metrics"]["test"]["outputs"]["top10"] > 0.2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--num_sampled", "401"], "--num_sampled 401 is more than the 400 classes that there are"),
        (["--without_logits", "false"], "--num_sampled trains without logits"),
        (["--loss", "square"], "--num_sampled is for cross-entropy, and --loss is square"),
        (["--do_eval", "--model_name_or_path", "."], "--num_sampled is for training, and nothing is trained"),
    ],
)
def test_the_command_refuses(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert_refused(main, [*SHORT, *options], "sqloss reverse_dictionary", words, tmp_path, capsys)

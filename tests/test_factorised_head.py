"""A factorised output layer in the Trainer: plain SGD's weights, checkpoints of plain models, and what is refused."""

import json
from functools import partial

import pytest
import torch
from commands import assert_refused
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from sqloss_plugins.errors import RunError
from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer
from sqloss_plugins.hf.tasks.reverse_dictionary import main
from sqloss_plugins.hf.token_scores import BestClasses
from sqloss_plugins.models.bag_of_words import BagOfWordsConfig, BagOfWordsForSequenceClassification

CLASSES, WORDS, RATE = 60, 30, 5.0


def model(**options):
    torch.manual_seed(0)
    config = BagOfWordsConfig(vocab_size=WORDS, embedding_size=6, hidden_size=8, num_labels=CLASSES, **options)
    made = BagOfWordsForSequenceClassification(config)
    torch.nn.init.normal_(made.classifier.weight, std=0.3)
    torch.nn.init.normal_(made.classifier.bias, std=0.3)
    return made


def examples(count=48):
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randint, generator=generator)
    return [{"input_ids": draw(1, WORDS, (5,)), "labels": int(draw(0, CLASSES, ()))} for _ in range(count)]


def trainer(folder, network=None, factorised=True, **options):
    options = {"learning_rate": RATE, "optim": "sgd", "num_train_epochs": 2, "max_grad_norm": 0.0, **options}
    options = {"k": 1.0, "M": 1.0, **options} if options.get("loss", "square") == "square" else options
    if factorised:
        options = {"factorised_head": True, "head_learning_rate": RATE, **options}
    config = SquareLossConfig(
        str(folder),
        **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", **options},
    )
    data = examples()
    network = model() if network is None else network
    return SquareLossTrainer(
        network, config, train_dataset=data, eval_dataset=data[:7], preprocess_logits_for_metrics=BestClasses(3)
    )


def trained(*arguments, **options):
    made = trainer(*arguments, **options)
    made.train()
    return made


OPTIONS = {
    "plain": {},
    "rescaled": {"k": 5.0, "M": 3.0, "learning_rate": 1.0, "head_learning_rate": 1.0},
    "clipped": {"max_grad_norm": 0.01},
    "decayed": {"weight_decay": 1e-3},
    "accumulated": {"gradient_accumulation_steps": 3, "label_smoothing_factor": 0.1},
    "scheduled": {"lr_scheduler_type": "cosine", "warmup_steps": 3},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_equals_plain_sgd(case, tmp_path):
    options = OPTIONS[case]
    rest = {name: value for name, value in options.items() if name != "head_learning_rate"}
    plain = trained(tmp_path, factorised=False, **rest).model.state_dict()
    start = model().state_dict()
    for name, weight in trained(tmp_path, **options).model.state_dict().items():
        moved = (plain[name] - start[name]).abs().max()
        assert moved > 1e-3
        torch.testing.assert_close(weight, plain[name], rtol=0.0, atol=1e-5 * float(moved + 1.0), msg=name)


def test_beside_another_optimiser(tmp_path):
    """The rate of the head is its own: with Adam's for the rest at almost 0 only the head learns."""
    options = {"optim": "adamw_torch", "learning_rate": 1e-12}
    made, start = trained(tmp_path, **options).model.state_dict(), model().state_dict()
    still = [name for name in made if torch.allclose(made[name], start[name])]
    assert still == ["embedding.weight", "hidden.weight", "hidden.bias"]


def test_resuming_equals_going_on(tmp_path):
    options = {"optim": "adamw_torch", "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 3}
    options |= {"eval_strategy": "steps", "eval_steps": 2, "num_train_epochs": 1.5}
    whole = trained(tmp_path / "whole", **options)
    again = trainer(tmp_path / "again", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-3"))
    assert whole.state.global_step == again.state.global_step == 9
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name
    assert [parameter.requires_grad for parameter in again.model.parameters()] == [True] * 5


def test_saved_and_evaluated_models_are_plain_ones(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    made = trained(tmp_path, load_best_model_at_end=True, metric_for_best_model="loss", **options)
    for entry in made.state.log_history:
        if "eval_loss" in entry and entry["step"] % 3 == 0:
            folder = tmp_path / f"checkpoint-{entry['step']}"
            saved = AutoModelForSequenceClassification.from_pretrained(folder)
            loss = trainer(tmp_path, network=saved, factorised=False).evaluate()["eval_loss"]
            assert loss == pytest.approx(entry["eval_loss"], rel=1e-5)
    best = AutoModelForSequenceClassification.from_pretrained(made.state.best_model_checkpoint)
    for name, weight in best.state_dict().items():
        assert torch.equal(made.model.state_dict()[name], weight)


def test_a_second_training_goes_on(tmp_path):
    made = trained(tmp_path)
    plain = trained(tmp_path, factorised=False)
    made.train()
    plain.train()
    torch.testing.assert_close(made.model.state_dict(), plain.model.state_dict(), rtol=1e-4, atol=1e-4)


def test_a_training_that_diverges(tmp_path):
    with pytest.raises(RunError, match="the training diverged: "):
        trained(tmp_path, head_learning_rate=1e30)


REFUSED = {
    "no rate": ({"head_learning_rate": None}, "--factorised_head needs --head_learning_rate"),
    "a rate that is none": (
        {"head_learning_rate": -1.0},
        "--head_learning_rate must be a finite number greater than 0",
    ),
    "a rate alone": ({"factorised_head": False}, "--head_learning_rate is of --factorised_head: leave it out"),
    "cross-entropy": (
        {"loss": "cross_entropy"},
        "--factorised_head is for the square loss, and --loss is cross_entropy",
    ),
    "with logits": ({"without_logits": False}, "--factorised_head trains without logits"),
    "prior weights": ({"prior_exponent": 0.5}, "--factorised_head has no prior weights"),
    "no rate of the rest": ({"learning_rate": 0.0}, "--factorised_head needs a --learning_rate greater than 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_that_are_refused(case, tmp_path):
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **options)


def test_models_that_are_refused(tmp_path):
    frozen = model()
    frozen.classifier.requires_grad_(False)
    tied = GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=8, n_layer=1, n_head=1, n_positions=8))
    for network, message in (
        (frozen, "BagOfWordsForSequenceClassification is not to be trained"),
        (model().bfloat16(), "is of dtype torch.bfloat16"),
        (tied, "that of GPT2LMHeadModel has the weights of the input embeddings"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path, network=network)
    config = SquareLossConfig(str(tmp_path), factorised_head=True, head_learning_rate=1.0, use_cpu=True)
    with pytest.raises(ValueError, match="--factorised_head has no class weights"):
        SquareLossTrainer(model(), config, class_weights=[1.0] * CLASSES)


SHORT = ["--mini", "--use_cpu", "--disable_tqdm", "true", "--num_train_epochs", "3", "--k", "1", "--M", "1"]


def test_the_command(tmp_path):
    options = [*SHORT, "--factorised_head", "--head_learning_rate", "100", "--output_dir", str(tmp_path / "run")]
    assert main(options) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["hyperparameters"]["factorised_head"] is True
    assert result["metrics"]["test"]["outputs"]["top10"] > 0.2


def test_the_command_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--mini", "--use_cpu", "--factorised_head"]
    assert_refused(main, options, "sqloss reverse_dictionary", "needs --head_learning_rate", tmp_path, capsys)

"""Tiny models of every head that the Trainer host serves, with data for them; no dropout, float32, seeded."""

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForSequenceClassification,
    BertForTokenClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

VOCABULARY, CLASSES, CHOICES, LENGTH = 40, 5, 3, 7
HEADS = {
    "sequence classification": BertForSequenceClassification,
    "token classification": BertForTokenClassification,
    "multiple choice": BertForMultipleChoice,
    "masked LM": BertForMaskedLM,
    "causal LM": LlamaForCausalLM,
    "causal LM, GPT-2": GPT2LMHeadModel,
    "sequence classification, Llama": LlamaForSequenceClassification,
}
WITHOUT_LOGITS = [
    "sequence classification",
    "token classification",
    "masked LM",
    "causal LM",
    "causal LM, GPT-2",
]
"""Those whose output layer's outputs are the logits."""
SOFT = ["sequence classification", "token classification"]
"""Those that are tried with class probabilities as labels."""
WEIGHTS = [0.5, 2.0, 1.0, 3.0, 0.25]
"""Class weights."""
TOKEN_COUNTS = [float(1 + i % 7) for i in range(VOCABULARY)]
"""How often each token occurs, as if it were so."""
MULTI_LABEL = "multi-label"
"""A head beside HEADS, because not every loss has a form for it: the classes of an example are any number of them."""


def model(head):
    torch.manual_seed(1)
    sizes = {"vocab_size": VOCABULARY, "num_labels": CLASSES, "pad_token_id": 0}
    if "GPT-2" in head:
        config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=16, **sizes)
        config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = 0.0
    else:
        sizes |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config = (LlamaConfig if "Llama" in head or head == "causal LM" else BertConfig)(**sizes)
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = config.attention_dropout = 0.0
    if head == MULTI_LABEL:
        config.problem_type = "multi_label_classification"
        return BertForSequenceClassification(config)
    return HEADS[head](config)


def capped_model(vocabulary):
    """A causal language model that does more to its logits than its output layer does."""
    sizes = {"hidden_size": 16, "head_dim": 8, "intermediate_size": 32}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=vocabulary, final_logit_softcapping=2.0, **sizes, **heads))


def examples(head, count):
    """As the default collator takes them. Token-level targets are ignored here and there, unevenly."""
    generator = torch.Generator().manual_seed(2)

    def draw(high, *shape):
        return torch.randint(1, high, shape, generator=generator)

    data = []
    for i in range(count):
        shape = (CHOICES, LENGTH) if head == "multiple choice" else (LENGTH,)
        ids = draw(VOCABULARY, *shape)
        if head.startswith("sequence"):
            labels = draw(CLASSES)
        elif head == MULTI_LABEL:
            labels = draw(4, CLASSES).float() / 3  # 1, and one and two thirds: a probability serves as well
        elif head == "multiple choice":
            labels = draw(CHOICES)
        else:
            labels = draw(CLASSES if head.startswith("token") else VOCABULARY, LENGTH)
            labels[: i % (LENGTH - 2)] = -100
        data.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return data


def soft_labels(head, data, ignored=()):
    """The same data with class probabilities as labels; those of the given examples, or rows, do not count."""
    generator = torch.Generator().manual_seed(3)
    for i, example in enumerate(data):
        shape = () if head.startswith("sequence") else (LENGTH,)
        labels = torch.rand(*shape, CLASSES, generator=generator).softmax(-1)
        if i in ignored:
            labels[(slice(0, 3) if shape else ...)] = -100.0
        example["labels"] = labels
    return data


def sentences(count, seed=0):
    """Lines that count on from some number, which a model of one layer learns in a few epochs."""
    generator = np.random.default_rng(seed)
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    starts = generator.integers(len(words), size=count)
    return "".join(" ".join(words[(start + i) % len(words)] for i in range(5)) + ".\n" for start in starts)


def one_sgd_step(head, loss, count, output_dir, trainer_class=None, data=None, trainer_options=None, **arguments):
    """Gradients, one flat tensor, that a Trainer's first optimiser step takes over ``count`` examples."""
    from transformers import TrainingArguments

    from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer
    from sqloss_plugins.losses import LOSSES

    network = model(head)
    before = _flat(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    if trainer_class is None:
        arguments |= {"loss": loss, **({"k": 3.0, "M": 2.0} if LOSSES[loss].is_rescaled else {})}
    data = examples(head, count) if data is None else data
    trainer = (trainer_class or SquareLossTrainer)(
        model=network,
        args=(SquareLossConfig if trainer_class is None else TrainingArguments)(
            output_dir=str(output_dir),
            max_steps=1,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            **arguments,
        ),
        train_dataset=data,
        eval_dataset=data,
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
        **(trainer_options or {}),
    )
    trainer.train()
    return before - _flat(network), trainer


def full_batch(head, loss, count, label_smoothing=0.0, data=None, weight=None, prior_weight=None):
    """The gradient and value over all examples at once, by the loss functions alone.

    With class weights the sum is divided by the number of targets.
    """
    from sqloss_plugins.losses import LOSSES, make_loss

    network = model(head).train()
    data = examples(head, count) if data is None else data
    batch = {key: torch.stack([e[key] for e in data]) for key in ("input_ids", "attention_mask")}
    labels = torch.stack([e["labels"] for e in data])
    logits = network(**batch).logits
    if head.startswith("causal"):
        logits, labels = logits[:, :-1], labels[:, 1:]
    options = {"k": 3.0, "M": 2.0} if LOSSES[loss].is_rescaled else {}
    options |= {} if prior_weight is None else {"prior_weight": prior_weight}
    if head == MULTI_LABEL:
        function = make_loss(loss, is_multi_label=True, **options)
    else:
        function = make_loss(loss, label_smoothing=label_smoothing, **options)
    logits = logits.reshape(-1, logits.shape[-1])
    if labels.is_floating_point():
        labels = labels.reshape(-1, labels.shape[-1])
        counted = labels[:, 0] >= 0
        logits, labels = logits[counted], labels[counted]
    labels = labels if labels.is_floating_point() else labels.reshape(-1)
    if weight is not None:
        function.weight, function.reduction = torch.tensor(weight), "sum"
    value = function(logits, labels)
    if weight is not None:
        value = value / (len(labels) if labels.is_floating_point() else (labels >= 0).sum())
    value.backward()
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in network.parameters()])
    return gradient, value.item()


def prior_steps(head, count, counts, exponent):
    """What :func:`one_sgd_step` gives with ``class_counts`` and ``prior_exponent``: other steps of the output layer."""
    from sqloss_plugins.hf.prior import row_scales
    from sqloss_plugins.losses import prior_weights

    weight = prior_weights(torch.tensor(counts), exponent)
    gradient, start = full_batch(head, "square", count, prior_weight=weight)[0], 0
    for name, parameter in model(head).named_parameters():
        rows = gradient[start : (start := start + parameter.numel())].view(len(parameter), -1)
        if name.startswith("lm_head" if head.startswith("causal") else "classifier"):
            rows *= row_scales(weight, 3.0, 2.0)[:, None]
    return gradient


def _flat(network):
    return torch.cat([parameter.detach().clone().flatten() for parameter in network.parameters()])

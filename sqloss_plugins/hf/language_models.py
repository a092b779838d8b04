"""The models and tokenizers of ``sqloss lm``: new ones, given ones, and what is wrong with a given one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from sqloss_plugins.errors import UserError, sentence
from sqloss_plugins.hf.hub import check_tokenizer

ALPHABET = 256
"""Tokens that every new tokenizer has: the bytes."""

SPECIAL_TOKENS: Mapping[str, Mapping[str, str]] = {
    "causal": {},
    "masked": {"pad_token": "[PAD]", "mask_token": "[MASK]"},
}
"""Objective -> the special tokens of a new tokenizer, by their names in Transformers."""

_AUTO = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}


def train_tokenizer(
    text: Iterable[str],
    vocab_size: int,
    characters: int,
    show_progress: bool = False,
    special_tokens: Mapping[str, str] = SPECIAL_TOKENS["causal"],
) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's, without special tokens but those that are given.

    Args:
        text: lines.
        vocab_size: how many tokens it shall have.
        characters: how many the text has.
        show_progress: show a bar.
        special_tokens: a value of :data:`SPECIAL_TOKENS`.

    Raises:
        UserError: the text does not support so many tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Each token more joins two; a character has 4 bytes.
    most = ALPHABET + len(special_tokens) + 4 * characters
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab_size, most),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special_tokens.values()),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(text, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise UserError(
            f"--vocab_size {vocab_size} is more than the training text supports: at most {tokenizer.get_vocab_size()}"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special_tokens)


def new_config(
    objective: str,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    length: int,
    tie_word_embeddings: bool = True,
) -> PretrainedConfig:
    """A GPT-2 for the objective ``causal``, a BERT without dropout for ``masked``.

    Args:
        objective: a key of :data:`SPECIAL_TOKENS`.
        vocab_size, hidden_size, num_layers, num_heads: its sizes.
        length: the most tokens that it takes.
        tie_word_embeddings: whether its output layer has the weights of its embedding.
    """
    if objective == "causal":
        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=length,
            n_embd=hidden_size,
            n_layer=num_layers,
            n_head=num_heads,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=tie_word_embeddings,
        )
    return BertConfig(
        vocab_size=vocab_size,
        max_position_embeddings=length,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size,
        # So small a model, whose text is masked anew in every epoch, learns more slowly with dropout, and needs none.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        tie_word_embeddings=tie_word_embeddings,
    )


def load_model(
    objective: str,
    path: str | None,
    new: PretrainedConfig | None,
    tokenizer: PreTrainedTokenizerBase | None,
    own: str | None,
    length: int,
    **hub: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model in float32, and its tokenizer.

    Args:
        objective: a key of :data:`SPECIAL_TOKENS`.
        path: a folder, or a name on the hub; None for a new model.
        new: the configuration of a new model.
        tokenizer: that of a new model; None for that of ``own``.
        own: the model that the user names; None for a new one.
        length: the most tokens that it is given.
        **hub: of ``from_pretrained``.

    Raises:
        UserError: it cannot be loaded or made, is of another objective, or has no tokenizer that it can use.
    """
    try:
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(own, **hub)
        if path is None:
            return _AUTO[objective].from_config(new), tokenizer
        # In 16 bits, which the file may have, small steps are lost; --bf16 trains mixed.
        model, loading = _AUTO[objective].from_pretrained(path, dtype=torch.float32, output_loading_info=True, **hub)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        what = (
            f"{path} cannot be loaded as a {objective} language model" if path else "no model of this size can be made"
        )
        raise UserError(f"{what}: {sentence(error)}") from error
    check_tokenizer(tokenizer, str(own or path), model, "save the model's there")
    if own is not None:
        _check(objective, own, model, tokenizer, length)
        if loading["missing_keys"]:
            print(f"  {'':10s} WARNING: {own} lacks some weights of a language model, and these are new", flush=True)
    return model, tokenizer


def _check(objective: str, own: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    """Refuses a model of another objective, or one that does not take so many tokens."""
    if objective == "causal":
        if not _is_causal(model):
            raise UserError(f"{own} is no causal language model: its outputs depend on the tokens that follow")
        return
    if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer of {own} has no token for what is masked or padded: give a model such as BERT")
    try:
        with torch.no_grad():
            model.eval()(input_ids=torch.full((1, length), tokenizer.mask_token_id))
    except (IndexError, RuntimeError, ValueError) as error:
        raise UserError(f"--max_seq_length {length} is more tokens than {own} takes: give a smaller one") from error


@torch.no_grad()
def _is_causal(model: PreTrainedModel) -> bool:
    """Whether what follows leaves a model's outputs alone: of BERT, too, the libraries make a "causal" model."""
    model.eval()
    one, other = model(input_ids=torch.tensor([[0, 1], [0, 2]])).logits[:, 0]
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


__all__ = ["ALPHABET", "SPECIAL_TOKENS", "load_model", "new_config", "train_tokenizer"]

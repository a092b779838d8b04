"""What one command line of a speech recipe says, and what follows from it: folders, configurations, k and M."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import yaml
from espnet2.bin import asr_inference
from espnet2.tasks.abs_task import optim_classes
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.lm import LMTask

from sqloss_plugins import paper
from sqloss_plugins.command_line import OneLineErrors, read_mapping
from sqloss_plugins.data.corpora import CORPORA
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.model import MODEL_NAME
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.probability import SCORES
from sqloss_plugins.results import run_folder

PROGRAM = "run.sh"
STAGES = ("download", "data", "dictionary", "statistics", "language model", "training", "decoding", "scoring")
# The best models by these are averaged, into the files by which the recipe takes them.
MODEL_CRITERION, MODEL_FILE = ("valid", "acc", "max"), "valid.acc.ave.pth"
LM_CRITERION, LM_FILE = ("valid", "loss", "min"), "valid.loss.ave.pth"
SUBSET_NAME = "subset.json"  # what a subset is, beside its wav.scp and text
_DEFAULT_RULE = "level"
_OURS = {
    "--config",
    "--model",
    "--output_dir",
    "--resume",
    "--dry_run",
    "--print_config",
    "--token_list",
    "--token_type",
    "--bpemodel",
    "--collect_stats",
}
_OURS |= {f"--{split}_data_path_and_name_and_type" for split in ("train", "valid")}
_OURS |= {f"--{split}_shape_file" for split in ("train", "valid")}
_OF_THE_LOSS = {"loss", "lsm_weight"}
# Arguments of ESPnet that do not decide what is trained.
_ASIDE = {
    "config",
    "output_dir",
    "ngpu",
    "num_workers",
    "log_level",
    "log_interval",
    "use_tensorboard",
    "model",
    "seed",
}
_ASIDE |= {"max_epoch", "multiprocessing_distributed", "num_att_plot", "use_matplotlib"}
_DECODING_NEEDS = ("--data_path_and_name_and_type", "x,speech,sound")  # ESPnet's parser insists
DESCRIPTION = """Speech recognition from audio to word error rate, with ESPnet's wheel alone.

Stages, each of which skips what it has done, and may be killed at any moment:

    1 download    2 data preparation    3 dictionary    4 features and statistics    5 language model
    6 training    7 decoding            8 scoring

Every argument that is not listed goes to ESPnet's training (--max_epoch 3, --optim_conf lr=0.002, ...)."""


def _as_espnet_reads(parser: argparse.ArgumentParser, program: str, arguments: Sequence[str]) -> argparse.Namespace:
    def refuse(message: str) -> NoReturn:
        raise UserError(f"ESPnet's {program} takes no such argument: {message}")

    parser.error = refuse  # type: ignore[method-assign]
    try:
        return parser.parse_args([*arguments, "--output_dir", "x"])
    except yaml.YAMLError as error:
        raise UserError(f"ESPnet's {program} cannot read a value: {' '.join(str(error).split())}") from error


def _need_criterion(espnet: argparse.Namespace, needed: tuple[str, str, str], program: str) -> None:
    if needed not in (tuple(given) for given in espnet.best_model_criterion):
        raise UserError(
            f"best_model_criterion of the {program} must have [{', '.join(needed)}], by which models are taken"
        )


def _digest(settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


class _Parser(OneLineErrors, argparse.ArgumentParser):
    pass


def recipe_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The options of a recipe's command line."""
    parser = _Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=add_help,
    )
    add = parser.add_argument
    add("task", choices=list(CORPORA), help="the corpus, whose layout decides how it is read")
    add("--loss", choices=list(LOSSES), default="square", help="loss of the attention decoder (default: %(default)s)")
    add("--k", type=float, help="square loss: weight of the true class's term")
    add("--M", type=float, help="square loss: target of the true class")
    add(
        "--rescaling",
        choices=list(paper.RULES),
        help="rule for k and M: the paper's table, or level (k = 15, M = sqrt(C ln C / 15)); by default the paper's "
        "where it names the task and its number of classes, else level",
    )
    add("--arch", default="transformer", help="one of conf/tuning/train_asr_ARCH.yaml (default: %(default)s)")
    add("--stage", type=int, default=1, help="first stage (default: %(default)s)")
    add("--stop_stage", type=int, default=len(STAGES), help="last stage (default: %(default)s)")
    add("--corpus", type=Path, help="folder of the corpus, where it is on this machine")
    add("--mini", action="store_true", help="the embedded mini corpus: synthetic speech, not the real task")
    # The defaults of the data are each recipe's, in its conf/recipe.yaml.
    add("--train_set", default="train", help="name of the training subset (default: %(default)s)")
    add("--dev_set", default="dev", help="name of the development subset (default: %(default)s)")
    add("--test_sets", default="test", help="names of the test subsets, separated by spaces (default: %(default)s)")
    add(
        "--token_type",
        choices=("bpe", "char"),
        default="bpe",
        help="sentencepiece's unigrams or characters (default: %(default)s)",
    )
    add("--nbpe", type=int, default=1000, help="sentencepiece's unigram pieces (default: %(default)s)")
    add(
        "--score",
        default="auto",
        help=f"how decoding reads the outputs: any of {', '.join(SCORES)} (several separated by spaces), or auto: all "
        "on the development set, and the best of them on the test sets (default: %(default)s)",
    )
    add(
        "--use_lm",
        choices=("true", "false"),
        default="true",
        help="train a language model, and decode with it (default: %(default)s)",
    )
    add("--lm_text", type=Path, help="more text for the language model, one sentence a line")
    add("--ngpu", type=int, default=0, help="GPUs (default: %(default)s)")
    add("--nj", type=int, default=os.cpu_count() or 1, help="processes side by side (default: the CPUs)")
    add("--seed", type=int, default=0, help="random seed of the training (default: %(default)s)")
    add("--tag", help="a word for the name of the run's folder")
    add("--workdir", type=Path, default=Path(), help="where data/ and runs/ go, and conf/ is (default: here)")
    add("--asr_config", type=Path, help="training configuration, taken as it is, not conf/tuning/train_asr_ARCH.yaml")
    add("--lm_config", type=Path, help="the language model's, instead of conf/train_lm.yaml")
    add("--inference_config", type=Path, help="decoding's, instead of conf/decode_asr.yaml")
    return parser


@dataclass
class Recipe:
    """One command line and what follows from it."""

    args: argparse.Namespace
    free: list[str]
    mini: bool

    @property
    def subsets(self) -> list[str]:
        """All subsets, the training one first, the development one second."""
        return [self.args.train_set, self.args.dev_set, *self.args.test_sets.split()]

    @property
    def data(self) -> Path:
        """The folder of the prepared data."""
        args = self.args
        tokens = f"unigram{args.nbpe}" if args.token_type == "bpe" else "char"
        return Path(args.workdir, "data", f"{args.train_set}-{tokens}{'-mini' if self.mini else ''}")

    def about(self, subset: str) -> dict[str, Any]:
        """What stage 2 found a subset to be: ``utterances``, ``seconds`` and ``fingerprint``."""
        found: dict[str, Any] = json.loads((self.data / subset / SUBSET_NAME).read_text(encoding="utf-8"))
        return found

    def fingerprint(self, *subsets: str) -> str:
        """Of the contents of these subsets."""
        return _digest([self.about(subset)["fingerprint"] for subset in subsets])

    @property
    def frontend(self) -> dict[str, Any]:
        """How features are made of audio."""
        names = ("frontend", "speech_volume_normalize")
        return {**{name: getattr(self.espnet, name) for name in names}, **self.espnet.frontend_conf}

    @property
    def statistics(self) -> Path:
        """The folder of the features' statistics; every front end has its own."""
        return self._beside_data("stats", self.frontend)

    @property
    def lm(self) -> Path:
        """The folder of the language model; every configuration and text has its own."""
        return self._beside_data("lm", self.language_model or {})

    def _beside_data(self, name: str, settings: Mapping[str, Any]) -> Path:
        return self.data / f"{name}-{_digest(settings)[:8]}"

    def config(self, which: str) -> Path:
        """The configuration ``asr``, ``lm`` or ``inference``: the one given, or the recipe's."""
        given: Path | None = getattr(self.args, f"{which}_config")
        names = {
            "asr": f"tuning/train_asr_{self.args.arch}.yaml",
            "lm": "train_lm.yaml",
            "inference": "decode_asr.yaml",
        }
        return given or Path(self.args.workdir, "conf", "mini" if self.mini else "", names[which])

    @cached_property
    def tokens(self) -> list[str]:
        """The token list, from the file that stage 3 writes."""
        return (self.data / "tokens.txt").read_text(encoding="utf-8").split("\n")[:-1]

    @property
    def has_papers_tokens(self) -> bool:
        """Whether the classes are as many as the paper's task has: then its k and M are for them."""
        args = self.args
        return not self.mini and args.token_type == "bpe" and paper.num_classes(args.task) == args.nbpe

    @cached_property
    def rescaling(self) -> paper.Rescaling | None:
        """k and M; None for other losses."""
        args = self.args
        if args.loss != "square":
            return None
        if self.has_papers_tokens and args.rescaling != "level":
            found = paper.rescaling(args.task)
        else:
            found = paper.RULES[args.rescaling or _DEFAULT_RULE](len(self.tokens))
        return found.overridden(args.k, args.M)

    @cached_property
    def training_arguments(self) -> list[str]:
        """What training gets beside data and folders; the later of two values counts."""
        args = self.args
        own = ["--config", str(self.config("asr"))]
        is_recipes = not (self.mini or args.asr_config)
        published = paper.hyperparameters(args.task, args.arch, args.loss) if is_recipes else None
        if published and published.epochs:
            own += ["--max_epoch", str(published.epochs)]
        own += ["--model", MODEL_NAME, "--model_conf", f"loss={args.loss}"]
        if args.loss == "square" and not args.asr_config:
            # The paper smooths no labels with the square loss; the recipe's configurations have cross-entropy's.
            own += ["--model_conf", "lsm_weight=0.0"]
        own += ["--ngpu", str(args.ngpu), "--seed", str(args.seed)]
        if args.ngpu > 1:
            own += ["--multiprocessing_distributed", "true"]
        return [*own, *self.free]

    @cached_property
    def espnet(self) -> argparse.Namespace:
        """The training arguments as ESPnet reads them.

        Raises:
            UserError: ESPnet does not know one of them.
        """
        for word in self.free:
            if word.partition("=")[0] in _OURS:
                raise UserError(f"{word.partition('=')[0]} is what this recipe sets itself: leave it out (see --help)")
        found = _as_espnet_reads(ASRTask.get_parser(), "training", self.training_arguments)
        given = {name: found.model_conf[name] for name in ("k", "M", "rescaling") if name in found.model_conf}
        if found.model_conf["loss"] != self.args.loss or given:
            raise UserError("the loss, k, M and rescaling are options of this recipe: leave them out of model_conf")
        if found.decoder in (None, "transducer") or found.model_conf.get("ctc_weight") == 1.0:
            raise UserError("this recipe is for models with an attention decoder: choose another decoder or ctc_weight")
        _need_criterion(found, MODEL_CRITERION, "training")
        return found

    def check_configurations(self) -> None:
        """Has ESPnet read the configurations that are needed after the training, and before it for the language model.

        Raises:
            UserError: it does not know an option, or what comes of it could not be used here.
        """
        words = ["--config", str(self.config("inference"))]
        found = _as_espnet_reads(asr_inference.get_parser(), "decoding", [*words, *_DECODING_NEEDS])
        if found.batch_size > 1:
            raise UserError(f"{self.config('inference')}: ESPnet decodes one utterance at a time: leave batch_size out")
        if self.language_model is not None:
            found = _as_espnet_reads(LMTask.get_parser(), "language model", ["--config", str(self.config("lm"))])
            _need_criterion(found, LM_CRITERION, "language model")

    @cached_property
    def hyperparameters(self) -> dict[str, Any]:
        """Everything that decides the trained model: what is not ESPnet's default, under ESPnet's names."""
        given, usual = vars(self.espnet), vars(ASRTask.get_parser().parse_args(["--output_dir", "x"]))
        found = {name: value for name, value in given.items() if name not in _ASIDE and value != usual[name]}
        found["model_conf"] = {name: value for name, value in given["model_conf"].items() if name not in _OF_THE_LOSS}
        found["lsm_weight"] = given["model_conf"].get("lsm_weight", 0.0)
        found["optim_conf"] = {name: value for name, value in given["optim_conf"].items() if name != "lr"}
        found |= {"learning_rate": self.learning_rate, "num_train_epochs": self.espnet.max_epoch}
        found |= {"loss": self.args.loss, "seed": self.args.seed}
        if self.rescaling:
            found |= {"k": self.rescaling.k, "M": self.rescaling.M}
        plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return plain

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What makes a run this run: the hyper-parameters, the data and the vocabulary."""
        tokens = hashlib.sha256("\n".join(self.tokens).encode()).hexdigest()
        fingerprint = self.fingerprint(self.args.train_set, self.args.dev_set)
        return {**self.hyperparameters, "data_fingerprint": fingerprint, "tokens": tokens}

    @cached_property
    def language_model(self) -> dict[str, Any] | None:
        """What makes the language model this one, beside the data's settings; None for none."""
        if self.args.use_lm == "false":
            return None
        text = None
        if self.args.lm_text:
            with self.args.lm_text.open("rb") as file:
                text = hashlib.file_digest(file, "sha256").hexdigest()
        return {**read_mapping(self.config("lm")), "lm_text": text}

    @cached_property
    def decoding(self) -> dict[str, Any]:
        """What decides the hypotheses of a trained model, but for the score."""
        lm = {"lm": self.language_model} if self.language_model else {}
        return {**read_mapping(self.config("inference")), **lm, "use_lm": self.args.use_lm}

    @property
    def learning_rate(self) -> float:
        """Of the first optimiser."""
        usual = inspect.signature(optim_classes[self.espnet.optim]).parameters["lr"].default
        return float(self.espnet.optim_conf.get("lr", usual))

    @cached_property
    def run(self) -> Path:
        """The folder of the run."""
        args = self.args
        k, M = (self.rescaling.k, round(self.rescaling.M, 3)) if self.rescaling else (None, None)
        folder = run_folder(args.task, args.arch, args.loss, k, M, self.learning_rate, args.seed, self.mini)
        return Path(args.workdir, folder.parent, f"{folder.name}{'-' + args.tag if args.tag else ''}")

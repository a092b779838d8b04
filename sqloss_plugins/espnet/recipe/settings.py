"""What ESPnet is given, as ESPnet reads it, and what makes a run this run and no other."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import yaml
from espnet2.bin import asr_inference
from espnet2.tasks.abs_task import optim_classes
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.lm import LMTask

from sqloss_plugins import paper
from sqloss_plugins.command_line import read_mapping
from sqloss_plugins.data.corpora.hub import PREFIX
from sqloss_plugins.errors import UserError, sentence
from sqloss_plugins.espnet.model import MODEL_NAME, read_unigram
from sqloss_plugins.espnet.model_files import check_sample_rate, read_state, sample_rate
from sqloss_plugins.espnet.recipe.frames import Subsampling, subsampling
from sqloss_plugins.espnet.recipe.options import LAST_STAGE, LM_CRITERION, LM_FILE, MODEL_CRITERION, MODEL_FILE
from sqloss_plugins.espnet.recipe.parsing import CommandLine
from sqloss_plugins.espnet.recipe.paths import Paths, RunFolder, digest
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.results import run_folder

_OF_THE_LOSS = ("loss", "lsm_weight")
# Arguments of ESPnet that do not decide what is trained.
_NOT_DECISIVE = {
    *("config", "output_dir", "model", "seed", "max_epoch", "ngpu", "num_workers", "multiprocessing_distributed"),
    *("log_level", "log_interval", "use_tensorboard", "num_att_plot", "use_matplotlib"),
}
_AT_LEAST_ONE = ("max_epoch", "accum_grad", "batch_size", "batch_bins", "keep_nbest_models")
_DECODING_NEEDS = ("--data_path_and_name_and_type", "x,speech,sound")  # ESPnet's parser insists
# Arguments of ESPnet's decoding that this recipe gives it, and the options for them.
_OF_DECODING = {
    **dict.fromkeys(("config", "output_dir", "key_file", "data_path_and_name_and_type", "model_tag"), ""),
    **dict.fromkeys(("asr_train_config", "asr_model_file"), "--inference_asr_model"),
    **dict.fromkeys(("lm_train_config", "lm_file"), "--inference_lm"),
    **dict.fromkeys(("method", "temperature"), "--method"),
    "ngpu": "--gpu_inference",
}
_MODEL_NAME = re.compile(r"(?:(\d+)epoch|latest|(train|valid)\.(\w+)\.(?:best|ave(?:_(\d+)best)?))\.pth")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _as_espnet_reads(parser: argparse.ArgumentParser, program: str, arguments: Sequence[str]) -> argparse.Namespace:
    def refuse(message: str) -> NoReturn:
        # The further lines of a message explain the syntax.
        raise UserError(f"ESPnet's {program} takes no such argument: {message.splitlines()[0]}")

    parser.error = refuse  # type: ignore[method-assign]
    mappings = [action.dest for action in parser._actions if isinstance(action.default, dict)]
    try:
        found = parser.parse_args([*arguments, "--output_dir", "x"])
    except yaml.YAMLError as error:
        raise UserError(f"ESPnet's {program} cannot read a value: {sentence(error)}") from error
    for name, value in vars(found).items():
        if name in mappings and not isinstance(value, dict):
            raise UserError(f"{name} of the {program} must be a mapping of names to values, got {value!r}")
        for number in value if isinstance(value, list) else [value]:
            if name in _AT_LEAST_ONE and isinstance(number, int) and number < 1:
                raise UserError(f"--{name} of the {program} must be at least 1, got {number}")
    return found


def _numbers(conf: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """``name=number`` for every number such as 1e-3, which YAML reads as text."""
    for name, value in conf.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, str) and _NUMBER.fullmatch(value):
            number = repr(float(value))
            # YAML wants a point before the exponent.
            yield f"{prefix}{name}={number if '.' in number else number.replace('e', '.0e')}"


def _read_with_numbers(
    make_parser: Callable[[], argparse.ArgumentParser], program: str, arguments: Sequence[str]
) -> tuple[list[str], argparse.Namespace]:
    """The arguments, with 1e-3 as a number, and what ESPnet reads."""
    found = _as_espnet_reads(make_parser(), program, arguments)
    confs = {name: conf for name, conf in vars(found).items() if isinstance(conf, dict)}
    further = [word for name, conf in confs.items() for number in _numbers(conf) for word in (f"--{name}", number)]
    if not further:
        return list(arguments), found
    return [*arguments, *further], _as_espnet_reads(make_parser(), program, [*arguments, *further])


def _words(option: str, text: str) -> list[str]:
    """The words of an option that holds a command line."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{option}: {str(error).lower()} in {text!r}") from error


def _with_absolute_path(init_param: str) -> str:
    """ESPnet's ``FILE:FROM:TO:EXCEPT``, after the file was read."""
    name, colon, rest = init_param.partition(":")
    read_state(Path(name))
    return f"{Path(name).absolute()}{colon}{rest}"


def _need_criterion(espnet: argparse.Namespace, needed: tuple[str, str, str], program: str) -> None:
    if needed not in (tuple(given) for given in espnet.best_model_criterion):
        raise UserError(
            f"best_model_criterion of the {program} must have [{', '.join(needed)}], by which models are taken"
        )


def _check_model_name(option: str, name: str, espnet: argparse.Namespace) -> None:
    """Refuses the name of a model that the training will not leave."""
    found = _MODEL_NAME.fullmatch(name)
    criteria = [(phase, criterion) for phase, criterion, *_ in espnet.best_model_criterion]
    kept = espnet.keep_nbest_models
    averaged = kept if isinstance(kept, list) else [kept]
    is_made = found is not None and (
        (found[1] is None or 1 <= int(found[1]) <= espnet.max_epoch)
        and (found[2] is None or (found[2], found[3]) in criteria)
        and (found[4] is None or int(found[4]) in averaged)
    )
    if not is_made:
        known = [f"{phase}.{criterion}.{kind}.pth" for phase, criterion in criteria for kind in ("ave", "best")]
        raise UserError(
            f"{option} {name}: the training makes no such model, but {', '.join(known)}, latest.pth and those of its "
            f"epochs, to {espnet.max_epoch}epoch.pth, that are among the best"
        )


class Settings:
    """The settings of one command line, checked by ESPnet's own parsers.

    Attributes:
        given: the command line.
        paths: the places that follow from it.
        training_arguments: what training gets beside data, tokens and folders; the later of two values counts.
        espnet: these as ESPnet reads them.
        lm_arguments: the same of the language model; empty for none.

    Raises:
        UserError: ESPnet does not know an option, or what comes of it could not be used here.
    """

    def __init__(self, given: CommandLine, paths: Paths) -> None:
        self.given = given
        self.paths = paths
        if self._without_figures():
            print("matplotlib is not installed: no figures of losses and attention are drawn", flush=True)
        self.training_arguments, self.espnet = _read_with_numbers(
            ASRTask.get_parser, "training", self._first_arguments()
        )
        self._check_model()
        _need_criterion(self.espnet, MODEL_CRITERION, "training")
        _check_model_name("--inference_asr_model", given.options.inference_asr_model, self.espnet)
        self.inference_arguments = _words("--inference_args", given.options.inference_args)
        self._decoding = self._read_decoding()
        self.lm_arguments: list[str] = []
        if given.options.has_lm:
            arguments = [*self._without_figures(), "--config", str(given.config("lm"))]
            self.lm_arguments, found = _read_with_numbers(LMTask.get_parser, "language model", arguments)
            _need_criterion(found, LM_CRITERION, "language model")
            _check_model_name("--inference_lm", given.options.inference_lm, found)
            if found.model == MODEL_NAME and given.options.stop_stage > LAST_STAGE:
                raise UserError(
                    f"stage {LAST_STAGE + 1} is for plain ESPnet, which loads no language model with model: "
                    f"{MODEL_NAME}, as {given.config('lm')} has it: end before it by --stop_stage {LAST_STAGE}"
                )

    # ---------------------------------------------------------------- training

    def _first_arguments(self) -> list[str]:
        options = self.given.options
        own = ["--config", str(self.given.config("asr")), *self._of_sample_rate()]
        if self.given.is_as_published:
            published = paper.hyperparameters(self.given.definition.task, options.arch, options.loss)
            own += ["--max_epoch", str(published.epochs)] if published and published.epochs else []
        own += ["--model", MODEL_NAME, "--model_conf", f"loss={options.loss}"]
        conf = read_mapping(self.given.config("asr")).get("model_conf")
        is_of_both_losses = isinstance(conf, dict) and conf.get("lsm_type") == "unigram"  # Table 21: WSJ's VGG-BLSTMP
        if LOSSES[options.loss].is_rescaled and not (options.asr_config or is_of_both_losses):
            # Otherwise the paper smooths no labels with the square loss; the configurations have cross-entropy's.
            own += ["--model_conf", "lsm_weight=0.0"]
        if options.pretrained_model:
            own += ["--init_param", *map(_with_absolute_path, options.pretrained_model.split())]
        if options.feats_normalize:
            own += ["--normalize", options.feats_normalize]
        own += ["--ngpu", str(options.ngpu), "--seed", str(options.seed)]
        if options.ngpu > 1:
            own += ["--multiprocessing_distributed", "true"]
        if options.num_att_plot is not None:
            own += ["--num_att_plot", str(options.num_att_plot)]
            # Configurations that draw nothing have both, and ESPnet would pass over the number.
            own += ["--use_matplotlib", "true"] if options.num_att_plot else []
        return [*own, *self._without_figures(), *self.given.free]

    def _of_sample_rate(self) -> list[str]:
        """The front end of a corpus of the user's own: the recipe's windows, as long at the sample rate of ``--fs``."""
        options = self.given.options
        if not options.fs or options.asr_config:
            return []
        conf = read_mapping(self.given.config("asr")).get("frontend_conf") or {}
        found = ["--frontend_conf", f"fs={options.fs}"]
        factor = options.fs / sample_rate(conf)
        for name in ("n_fft", "win_length", "hop_length"):
            if factor != 1 and name in conf:
                found += ["--frontend_conf", f"{name}={round(conf[name] * factor)}"]
        return found

    @property
    def fewest_samples(self) -> int:
        """How many samples an utterance must have for the encoder's subsampling; 1 where that is not known."""
        return self.subsampling.fewest_samples if self.subsampling else 1

    @cached_property
    def subsampling(self) -> Subsampling | None:
        """How the encoder makes frames of samples; None where that is not known."""
        return subsampling(self.espnet)

    @property
    def ctc_weight(self) -> float:
        """Of CTC's loss beside that of the attention branch."""
        return float(self.espnet.model_conf.get("ctc_weight", 0.5))

    def _without_figures(self) -> list[str]:
        """ESPnet draws figures of losses and attention with Matplotlib, and ends where that is missing."""
        return [] if find_spec("matplotlib") else ["--use_matplotlib", "false"]

    def _check_model(self) -> None:
        conf = self.espnet.model_conf
        if conf["loss"] != self.given.options.loss or {"k", "M", "rescaling", "paper_task"} & conf.keys():
            raise UserError("the loss, k, M and rescaling are options of this recipe: leave them out of model_conf")
        check_sample_rate(self.espnet.frontend_conf, self.given.definition.corpus.sample_rate)
        for name in ("ctc_weight", "lsm_weight"):
            weight = conf.get(name, 0.0)
            if not isinstance(weight, int | float) or not 0.0 <= weight <= 1.0:
                raise UserError(f"--model_conf {name} must be a number from 0 to 1, got {weight!r}")
        if self.espnet.decoder in (None, "transducer") or conf.get("ctc_weight") == 1.0:
            raise UserError("this recipe is for models with an attention decoder: choose another decoder or ctc_weight")
        if conf.get("lsm_unigram"):
            read_unigram(Path(str(conf["lsm_unigram"])))  # before the hours of the stages before the training
        if self.given.options.num_att_plot and not self.espnet.use_matplotlib:
            need = (
                "the package matplotlib, which is not installed" if self._without_figures() else "--use_matplotlib true"
            )
            raise UserError(f"--num_att_plot needs {need}")
        if self._without_figures() and self.espnet.use_matplotlib:
            raise UserError(
                "--use_matplotlib true needs the package matplotlib, which is not installed: pip install it"
            )
        rate = self.espnet.optim_conf.get("lr", 1.0)
        if not isinstance(rate, int | float) or not 0.0 < rate < math.inf:
            raise UserError(f"--optim_conf lr must be a positive number, got {rate!r}")

    @property
    def frontend(self) -> dict[str, Any]:
        """How features are made of audio."""
        names = ("frontend", "speech_volume_normalize")
        return {**{name: getattr(self.espnet, name) for name in names}, **self.espnet.frontend_conf}

    @property
    def stats_dir(self) -> Path:
        """The folder of the features' statistics; every front end has its own, and every training subset."""
        return self.paths.data.root / f"stats-{digest(self.statistics)[:8]}"

    @property
    def statistics(self) -> dict[str, Any]:
        """What decides the statistics."""
        speeds = self.given.options.speeds
        return {**self.frontend, "speed_perturb_factors": speeds} if speeds else self.frontend

    def model_arguments(self) -> list[str]:
        """The training arguments, with what follows from the tokens that stage 3 found."""
        arguments = list(self.training_arguments)
        rescaling = self.rescaling()
        if rescaling:
            arguments += ["--model_conf", f"k={rescaling.k}", "--model_conf", f"M={rescaling.M}"]
        conf = self.espnet.model_conf
        is_unigram = conf.get("lsm_type") == "unigram" and float(conf.get("lsm_weight", 0.0)) > 0
        if is_unigram and not conf.get("lsm_unigram"):
            arguments += ["--model_conf", f"lsm_unigram={self.paths.data.token_counts}"]
        return arguments

    def rescaling(self) -> paper.Rescaling | None:
        """k and M for the tokens that stage 3 found; None for losses that have neither."""
        options = self.given.options
        if not LOSSES[options.loss].is_rescaled:
            return None
        return paper.choose_rescaling(
            len(self.paths.data.tokens),
            task=None if options.mini else self.given.definition.task,
            beside_ctc=self.ctc_weight > 0,
            rule=options.rescaling,
            k=options.k,
            M=options.M,
        )

    @property
    def learning_rate(self) -> float:
        """Of the first optimiser."""
        usual = inspect.signature(optim_classes[self.espnet.optim]).parameters["lr"].default
        return float(self.espnet.optim_conf.get("lr", usual))

    @property
    def protocol(self) -> str:
        """How the number of epochs comes about, one of :data:`sqloss_plugins.results.PROTOCOLS`."""
        return "fixed_epochs" if self.espnet.patience is None else "early_stopping"

    @cached_property
    def hyperparameters(self) -> dict[str, Any]:
        """Everything that decides the trained model: what is not ESPnet's default, under ESPnet's names."""
        given, usual = vars(self.espnet), vars(ASRTask.get_parser().parse_args(["--output_dir", "x"]))
        found = {name: value for name, value in given.items() if name not in _NOT_DECISIVE and value != usual[name]}
        found["model_conf"] = {name: value for name, value in given["model_conf"].items() if name not in _OF_THE_LOSS}
        found["lsm_weight"] = given["model_conf"].get("lsm_weight", 0.0)
        found["optim_conf"] = {name: value for name, value in given["optim_conf"].items() if name != "lr"}
        found |= {"learning_rate": self.learning_rate, "num_train_epochs": self.espnet.max_epoch}
        found |= {"loss": self.given.options.loss, "seed": self.given.options.seed}
        rescaling = self.rescaling()
        if rescaling:
            found |= {"k": rescaling.k, "M": rescaling.M}
        plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return plain

    def of_run(self) -> dict[str, Any]:
        """What makes a run this run: the hyper-parameters, the data and the vocabulary."""
        options, data = self.given.options, self.paths.data
        return {
            **self.hyperparameters,
            "data_fingerprint": data.fingerprint([options.asr_train_set, options.dev_set]),
            "tokens": data.vocabulary,
        }

    def of_data(self) -> dict[str, Any]:
        """What makes the prepared data this and no other."""
        options, definition = self.given.options, self.given.definition
        names = ("train_set", "dev_set", "token_type", "nbpe", "mini")
        found = {name: getattr(options, name) for name in names}
        if definition.variants and definition.variant:
            found[definition.variants.option] = definition.variant
        if options.durations:
            found["durations"] = list(options.durations[options.train_set])
        if definition.corpus.identity:
            found["subsets"] = {name: definition.corpus.identity(name) for name in (options.train_set, options.dev_set)}
            found |= {name: getattr(options, name) for name in ("fs", "audio_channel")}
        is_path = not str(self.paths.corpus).startswith(PREFIX)
        folder = self.paths.corpus.resolve() if is_path else self.paths.corpus
        return {**found, "corpus": definition.corpus.name, "folder": str(folder)}

    def asr_exp(self) -> RunFolder:
        """The folder of the run."""
        options = self.given.options
        decoding = options.inference_asr_model, options.inference_tag
        if options.asr_exp:
            return RunFolder(options.asr_exp.absolute(), *decoding)
        rescaling = self.rescaling()
        k, M = (rescaling.k, rescaling.M) if rescaling else (None, None)
        task, arch, loss = self.given.definition.task, options.arch, options.loss
        folder = run_folder(task, arch, loss, k, M, self.learning_rate, self.protocol, options.seed, options.mini)
        speed = f"-sp{'-'.join(options.speeds)}" if options.speeds else ""
        tag = f"-{options.tag}" if options.tag else ""
        return RunFolder(self.paths.workdir / folder.parent / f"{folder.name}{speed}{tag}", *decoding)

    # ---------------------------------------------------------------- language model

    @cached_property
    def language_model(self) -> dict[str, Any] | None:
        """What makes the language model this one, beside the data's settings; None for none."""
        if not self.given.options.has_lm:
            return None
        text = None
        if self.paths.lm_text:
            with self.paths.lm_text.open("rb") as file:
                text = hashlib.file_digest(file, "sha256").hexdigest()
        return {**read_mapping(self.given.config("lm")), "lm_text": text}

    def of_language_model(self) -> dict[str, Any]:
        """The same with the vocabulary: what the language model's folder is claimed with."""
        return {**(self.language_model or {}), "tokens": self.paths.data.vocabulary}

    def lm_exp(self) -> Path:
        """The folder of the language model; every configuration and text has its own."""
        if self.given.options.lm_exp:
            return self.given.options.lm_exp.absolute()
        return self.paths.data.root / f"lm-{digest(self.language_model)[:8]}"

    def lm_files(self) -> tuple[Path, Path] | None:
        """Configuration and model of the language model that decodes; None for none."""
        if not self.given.options.has_lm:
            return None
        folder = self.lm_exp() / "model"
        return folder / "config.yaml", folder / self.given.options.inference_lm

    def lm_text_name(self) -> str | None:
        """Which text the language model has; None for no language model."""
        if not self.given.options.has_lm:
            return None
        train_set = self.given.options.train_set
        return f"{train_set} and {self.given.lm_text}" if self.given.lm_text else train_set

    # ---------------------------------------------------------------- decoding

    def _read_decoding(self) -> dict[str, Any]:
        """The configuration of decoding, and what ``--inference_args`` says beside it or instead."""
        config = self.given.config("inference")
        own = read_mapping(config)
        given = [word.removeprefix("--").partition("=")[0] for word in self.inference_arguments if word[:2] == "--"]
        for where, names in ((str(config), own), ("--inference_args", given)):
            for name in names:
                if name in _OF_DECODING:
                    instead = _OF_DECODING[name] or "leave it out"
                    raise UserError(f"{where}: {name} is what this recipe sets itself: {instead} (see --help)")
        words = ["--config", str(config), *_DECODING_NEEDS, *self.inference_arguments]
        found = _as_espnet_reads(asr_inference.get_parser(), "decoding", words)
        if found.batch_size > 1:
            raise UserError(f"{config}: ESPnet decodes one utterance at a time: leave batch_size out")
        if found.nbest < 1:
            raise UserError(f"nbest of the decoding must be at least 1, got {found.nbest}")
        for name in given:
            if not hasattr(found, name):  # argparse takes the beginning of a name for it
                raise UserError(f"--inference_args: write --{name} out, as in espnet2.bin.asr_inference --help")
            if name.startswith("lm_") and not self.given.options.has_lm:
                raise UserError(f"--inference_args: --{name} is for the language model, and there is none (--use_lm)")
        return {**own, **{name: getattr(found, name) for name in given}}

    def of_decoding(self) -> dict[str, Any]:
        """What decides the hypotheses of a trained model, but for the method."""
        options = self.given.options
        lm = {"lm": self.language_model} if self.language_model else {}
        models = {"inference_asr_model": MODEL_FILE, "inference_lm": LM_FILE}
        others = {name: getattr(options, name) for name, usual in models.items() if getattr(options, name) != usual}
        return {**self._decoding, **lm, **others, "use_lm": options.use_lm}

    @property
    def chooses_method(self) -> bool:
        """Whether the method is to be chosen on the development set."""
        return self.given.options.method.strip() == "auto"

    def methods(self) -> tuple[str, ...]:
        """The methods to decode the development set with: those given, or all that the loss has."""
        options = self.given.options
        return LOSSES[options.loss].methods if self.chooses_method else tuple(options.method.split())

    def initial_loss(self, rescaling: paper.Rescaling) -> str:
        """A token's loss at the start, beside cross-entropy's: the balance with CTC."""
        num_classes = len(self.paths.data.tokens)
        level, usual = rescaling.initial_loss(num_classes), math.log(num_classes)
        return f"a token's loss at the start {level:.3g}, cross-entropy's {usual:.3g}"

"""The command line of a speech recipe, and the ``recipe.yaml`` that its defaults come from.

Nothing here imports PyTorch or ESPnet before the options that need neither are checked.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqloss_plugins.command_line import OptionParser, check_name, is_reachable, read_mapping, recipes_folder
from sqloss_plugins.data.corpora import CORPORA, Corpus
from sqloss_plugins.data.corpora.manifest import ANY
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe import PROGRAM
from sqloss_plugins.espnet.recipe.asr_sh import INSTEAD
from sqloss_plugins.espnet.recipe.error_rates import ERROR_RATES, read_folding
from sqloss_plugins.espnet.recipe.own_corpus import add_options, make_own_corpus, refuse_own_options

STAGE_NAMES = (
    "download",
    "data preparation",
    "dictionary",
    "statistics",
    "language model",
    "training",
    "decoding",
    "scoring",
    "packing",
    "upload",
)
LAST_STAGE = STAGE_NAMES.index("scoring") + 1
"""The last stage of a command line that does not ask for a later one."""

UPLOAD = STAGE_NAMES.index("upload") + 1

# The best models by these are averaged, into the files by which the recipe takes them.
MODEL_CRITERION, MODEL_FILE = ("valid", "acc", "max"), "valid.acc.ave.pth"
LM_CRITERION, LM_FILE = ("valid", "loss", "min"), "valid.loss.ave.pth"
TOKEN_TYPES = ("bpe", "char", "phn")
NBPE = 1000
NO_TEXT = "none"
ANY_DURATION = (0.0, math.inf)
OWN_RECIPE = "any"
_RESERVED_OPTIONS = {
    *("--config", "--model", "--output_dir", "--resume", "--dry_run", "--print_config", "--collect_stats"),
    *("--token_list", "--token_type", "--bpemodel"),
    *(f"--{split}_data_path_and_name_and_type" for split in ("train", "valid")),
    *(f"--{split}_shape_file" for split in ("train", "valid")),
}
DESCRIPTION = f"""Speech recognition from audio to error rates, with ESPnet's wheel alone.

Stages, each of which skips what it has done, and may be killed at any moment:

    {"    ".join(f"{number} {name}" for number, name in enumerate(STAGE_NAMES[:4], start=1))}
    {"    ".join(f"{number} {name}" for number, name in enumerate(STAGE_NAMES[4:], start=5))}

9, an archive that plain ESPnet loads wherever it lies, is made where --stage or --stop_stage asks for it. 10 puts it
on the Hugging Face hub where --hf_repo says as what.
Every argument that is not listed goes to ESPnet's training (--max_epoch 3, --optim_conf lr=0.002, ...)."""


class Options(argparse.Namespace):
    """The options by name; see ``--help``."""

    recipe: str
    loss: str
    k: float | None
    M: float | None
    rescaling: str
    method: str
    arch: str
    stage: int
    stop_stage: int
    corpus: Path | None
    train: Path | None
    valid: Path | None
    test: list[Path] | None
    validation_size: float | None
    test_size: float | None
    fs: int | None
    audio_channel: str | None
    dataset_config_name: str | None
    audio_column_name: str | None
    text_column_name: str | None
    min_wav_duration: float
    max_wav_duration: float
    mini: bool
    train_set: str
    dev_set: str
    test_sets: str
    token_type: str
    nbpe: int
    use_lm: str
    lm_text: str
    ngpu: int
    nj: int
    seed: int
    tag: str | None
    workdir: Path
    hf_repo: str | None
    asr_exp: Path | None
    lm_exp: Path | None
    asr_config: Path | None
    feats_normalize: str | None
    pretrained_model: str
    num_att_plot: int | None
    speed_perturb_factors: str
    lm_config: Path | None
    inference_config: Path | None
    inference_args: str
    inference_asr_model: str
    inference_lm: str
    inference_tag: str | None
    inference_nj: int | None
    gpu_inference: str | None

    @property
    def tests(self) -> list[str]:
        """The test subsets."""
        return self.test_sets.split()

    @property
    def subsets(self) -> list[str]:
        """All subsets, the training one first, the development one second."""
        return [self.train_set, self.dev_set, *self.tests]

    @property
    def speeds(self) -> list[str]:
        """The factors of speed perturbation, as they were written; none: there is no perturbation."""
        return self.speed_perturb_factors.split()

    @property
    def asr_train_set(self) -> str:
        """The subset that the model is trained on; tokens and language model are of :attr:`train_set` in any case."""
        return f"{self.train_set}_sp{'-'.join(self.speeds)}" if self.speeds else self.train_set

    @property
    def prepared(self) -> list[str]:
        """The subsets that stage 2 makes."""
        return [*self.subsets, *([self.asr_train_set] if self.speeds else [])]

    @property
    def durations(self) -> dict[str, tuple[float, float]]:
        """Training and development subset -> the shortest and the longest duration, in seconds; none is for tests."""
        limits = (self.min_wav_duration, self.max_wav_duration)
        return {} if limits == ANY_DURATION else {self.train_set: limits, self.dev_set: limits}

    @property
    def has_lm(self) -> bool:
        """Whether there is a language model."""
        return self.use_lm == "true"

    @property
    def decodes_on_gpu(self) -> bool:
        """Whether beam search runs on a GPU."""
        return self.ngpu > 0 if self.gpu_inference is None else self.gpu_inference == "true"

    @property
    def decoding_processes(self) -> int:
        """How many processes decode side by side; on a GPU one, unless more are asked for."""
        return self.inference_nj or (1 if self.decodes_on_gpu else self.nj)


@dataclass(frozen=True)
class Variants:
    """An option of one recipe, each value of which brings settings: a mapping of mappings in ``recipe.yaml``.

    Attributes:
        option: its name, such as ``trans_type``.
        sections: its values, the default first -> what ``recipe.yaml`` says of each; nothing: it is the recipe as it
            is without the option.
    """

    option: str
    sections: Mapping[str, Mapping[str, Any]]

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Adds the option."""
        values = list(self.sections)
        parser.add_argument(
            f"--{self.option}", choices=values, default=values[0], help="of this recipe (default: %(default)s)"
        )


@dataclass(frozen=True)
class Definition:
    """What a ``recipe.yaml`` says.

    Attributes:
        path: the file.
        corpus: the corpus.
        task: the task's name in results; the paper's, where the paper has the task.
        metrics: the error rates to report; the first decides.
        folding: which tokens count as which when errors are counted, such as 48 phones as 39.
        defaults: options of the command line and their values.
        variants: the option that this recipe has of its own; None for none.
        variant: its value; None where there is no such option, or the value brings nothing.
    """

    path: Path
    corpus: Corpus
    task: str
    metrics: tuple[str, ...]
    folding: dict[str, str]
    defaults: dict[str, Any]
    variants: Variants | None = None
    variant: str | None = None


@dataclass(frozen=True)
class CommandLine:
    """A command line that was read and checked.

    Attributes:
        options: this package's options.
        free: what is for ESPnet's training.
        definition: the recipe's.
    """

    options: Options
    free: list[str]
    definition: Definition

    def config(self, which: str) -> Path:
        """The configuration ``asr``, ``lm`` or ``inference``: the one given, or the recipe's."""
        given: Path | None = getattr(self.options, f"{which}_config")
        of_variant = f"{self.definition.variant}/" if self.definition.variant else ""
        names = {
            "asr": f"tuning/{of_variant}train_asr_{self.options.arch}.yaml",
            "lm": "train_lm.yaml",
            "inference": "decode_asr.yaml",
        }
        return given or self.definition.path.parent / names[which]

    @property
    def is_as_published(self) -> bool:
        """Whether data, tokens and model are the recipe's own: only then its epochs and results in the paper apply."""
        options, defaults = self.options, self.definition.defaults
        names = ("train_set", "dev_set", "token_type", "nbpe")
        return not (options.mini or options.asr_config or options.train or options.speeds) and all(
            defaults.get(name, getattr(options, name)) == getattr(options, name) for name in names
        )

    @property
    def lm_text(self) -> str | None:
        """The further text of the language model, a file or a URL; None for none.

        A URL that the recipe has as its default is for those who have the corpus downloaded as well.
        """
        options = self.options
        if not options.has_lm or options.lm_text == NO_TEXT:
            return None
        is_default = options.lm_text == self.definition.defaults.get("lm_text")
        return None if is_default and is_url(options.lm_text) and options.corpus else options.lm_text


def make_parser(add_help: bool = True) -> OptionParser:
    """The options of a recipe's command line."""
    parser = OptionParser(PROGRAM, DESCRIPTION, add_help)
    parser.add_argument("recipe", help="name or folder of the recipe, such as librispeech, or a name for your corpus")
    _add_training(parser.add_argument_group("training").add_argument)
    _add_data(parser.add_argument_group("data").add_argument)
    add_options(parser.add_argument_group("a corpus of your own: sqloss asr NAME --train MANIFEST").add_argument)
    _add_decoding(parser.add_argument_group("language model and decoding").add_argument)
    _add_stages(parser.add_argument_group("stages and folders").add_argument)
    return parser


def _add_training(add: Callable[..., object]) -> None:
    add("--loss", default="square", help="of the attention decoder: square, cross_entropy, ... (default: %(default)s)")
    add("--k", type=float, help="square loss: weight of the true class's term")
    add("--M", type=float, help="square loss: target of the true class")
    add(
        "--rescaling",
        default="auto",
        help="rule for k and M: auto (the paper's where it names the task and its number of classes, else level), "
        "paper, or level (k = 15, M = sqrt(C ln C / 15)) (default: %(default)s)",
    )
    add("--arch", default="transformer", help="one of conf/tuning/train_asr_ARCH.yaml (default: %(default)s)")
    add("--ngpu", type=int, default=0, help="GPUs (default: %(default)s)")
    add("--seed", type=int, default=0, help="random seed of the training (default: %(default)s)")
    add("--asr_config", type=Path, help="training configuration, taken as it is, not conf/tuning/train_asr_ARCH.yaml")
    add(
        "--feats_normalize",
        choices=("global_mvn", "utterance_mvn", "none"),
        help="how features are normalised (default: what the training configuration says)",
    )
    add(
        "--pretrained_model",
        default="",
        metavar="FILE[:FROM[:TO[:EXCEPT]]]",
        help="model files, separated by spaces, that the parameters begin with, as ESPnet's --init_param has them: "
        "model.pth:encoder:encoder, ...; --ignore_init_mismatch true passes over those of another shape",
    )
    add(
        "--num_att_plot",
        type=int,
        metavar="N",
        help="draw the attention weights of the first N development utterances after every epoch, in att_ws/ of the "
        "run's folder; 0: none (default: what the training configuration says, ESPnet's 3 where it says nothing)",
    )


def _add_data(add: Callable[..., object]) -> None:
    # Each recipe has its own defaults, in its conf/recipe.yaml.
    add("--corpus", type=Path, help="folder of the corpus, where it is on this machine")
    add("--mini", action="store_true", help="the embedded mini corpus: synthetic speech, not the real task")
    add("--train_set", default="train", help="name of the training subset (default: %(default)s)")
    add("--dev_set", "--valid_set", default="dev", help="name of the development subset (default: %(default)s)")
    add("--test_sets", default="test", help="names of the test subsets, separated by spaces (default: %(default)s)")
    add(
        "--token_type",
        choices=TOKEN_TYPES,
        default="bpe",
        help="sentencepiece's unigrams, characters, or phones separated by spaces (default: %(default)s)",
    )
    add("--nbpe", type=int, default=NBPE, help="number of sentencepiece's unigrams (default: %(default)s)")
    for name, default, what in (("min", ANY_DURATION[0], "shorter"), ("max", ANY_DURATION[1], "longer")):
        add(
            f"--{name}_wav_duration",
            type=float,
            default=default,
            help=f"{what} utterances are left out of training and development data, in seconds (default: %(default)s)",
        )

    add(
        "--speed_perturb_factors",
        default="",
        help='train on a copy of the training data at each of these speeds, such as "0.9 1.0 1.1"',
    )


def _add_decoding(add: Callable[..., object]) -> None:
    add(
        "--method",
        default="auto",
        help="how decoding makes probabilities of the outputs: softmax, square, temperature (several separated by "
        "spaces), or auto: all that the loss has on the development set, and the best on the test sets "
        "(default: %(default)s)",
    )
    add(
        "--use_lm",
        choices=("true", "false"),
        default="true",
        help="train a language model, and decode with it (default: %(default)s)",
    )
    add(
        "--lm_text",
        default=NO_TEXT,
        help="more text for the language model, one sentence a line: a file, a .gz file or a URL; or none "
        "(default: %(default)s)",
    )
    add("--lm_config", type=Path, help="configuration of the language model, instead of conf/train_lm.yaml")
    add("--inference_config", type=Path, help="configuration of decoding, instead of conf/decode_asr.yaml")
    add(
        "--inference_args",
        default="",
        help='arguments of decoding, which count more than its configuration, such as "--nbest 5 --lm_weight 0.1"; all '
        "of the n best hypotheses are kept",
    )
    add(
        "--inference_asr_model",
        default=MODEL_FILE,
        metavar="FILE",
        help="the model that decodes, of those that the training left: valid.acc.best.pth, ... (default: %(default)s)",
    )
    add(
        "--inference_lm",
        default=LM_FILE,
        metavar="FILE",
        help="the language model that decodes, of those that its training left (default: %(default)s)",
    )
    add("--inference_tag", help="a word for the folder of hypotheses and results, to decode a run in several ways")
    add("--inference_nj", type=int, help="processes that decode side by side (default: --nj; on a GPU 1)")
    add(
        "--gpu_inference",
        choices=("true", "false"),
        help="decode on a GPU (default: true where --ngpu is above 0)",
    )


def _add_stages(add: Callable[..., object]) -> None:
    add("--stage", type=int, default=1, help="first stage (default: %(default)s)")
    add(
        "--stop_stage",
        type=int,
        help=f"last stage (default: {LAST_STAGE}, or --stage where that is later; {UPLOAD} with --hf_repo)",
    )
    add("--hf_repo", metavar="OWNER/NAME", help="repository of the Hugging Face hub that stage 10 uploads the model to")
    add("--nj", type=int, default=os.cpu_count() or 1, help="processes side by side (default: the CPUs)")
    add("--workdir", type=Path, default=Path(), help="where downloads/, data/ and runs/ go (default: here)")
    add("--tag", "--asr_tag", help="a word for the end of the run's folder name")
    add("--asr_exp", type=Path, help="folder of the run, instead of one below runs/")
    add("--lm_exp", type=Path, help="folder of the language model, instead of one beside the data")


# ---------------------------------------------------------------- recipe.yaml


def find_recipe(word: str, is_own: bool = False) -> tuple[Path, str | None]:
    """The folder of a recipe, given by its name or its folder.

    Args:
        word: name or folder.
        is_own: a name that no recipe has is that of a corpus of the user's own, for which there is one recipe.

    Returns:
        The folder, and the name of the user's corpus; None where the recipe names it.

    Raises:
        UserError: there is none.
    """
    is_path = os.sep in word or word == "."
    for folder in [Path(word)] if is_path else [recipes_folder() / word, Path(word)]:
        if (folder / "conf/recipe.yaml").is_file():
            return folder, None
    if is_own and not is_path:
        check_name("the name of the corpus", word)
        return recipes_folder() / OWN_RECIPE, word
    known = sorted(path.parent.parent.name for path in recipes_folder().glob("*/conf/recipe.yaml"))
    raise UserError(
        f"there is no speech recipe {word!r}: choose from {', '.join(known)}, or a folder with conf/recipe.yaml, "
        "or give your own corpus a name, and its manifest by --train"
    )


def read_definition(folder: Path, mini: bool, argv: Sequence[str] = ()) -> Definition:
    """A recipe's definition: ``conf/recipe.yaml``, or for the mini corpus ``conf/mini/recipe.yaml``.

    Args:
        folder: the recipe's.
        mini: which of the two.
        argv: the command line, which may choose a variant.

    Raises:
        UserError: it cannot be read, or says something that cannot be.
    """
    path = folder / "conf" / ("mini" if mini else "") / "recipe.yaml"
    if not path.is_file():
        raise UserError(f"there is no {path}: this recipe has no mini corpus, leave --mini out")
    content = read_mapping(path)
    variants, variant = _read_variants(path, content), None
    if variants:
        parser = OptionParser(PROGRAM, None, add_help=False)
        variants.add_to(parser)
        chosen = getattr(parser.parse_known_args(argv)[0], variants.option)
        content = {**content, **variants.sections[chosen]}
        del content[variants.option]
        variant = chosen if variants.sections[chosen] else None
    for name, value in content.items():
        if not isinstance(value, str | int | float):
            raise UserError(f"{path}: {name} must be one word or number, got {value!r}")
    own = {name: str(content.pop(name, "")) for name in ("corpus", "task", "metric", "folding")}
    corpora = {**CORPORA, ANY.name: ANY}
    if own["corpus"] not in corpora:
        raise UserError(f"{path}: unknown corpus {own['corpus']!r}: choose from {', '.join(corpora)}")
    metrics = own["metric"].split()
    unknown = [name for name in metrics if name not in ERROR_RATES]
    if unknown or not metrics:
        raise UserError(f"{path}: metric {own['metric']!r} must be one or more of {', '.join(ERROR_RATES)}")
    try:
        check_name("task", own["task"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    folding = read_folding(path.parent / own["folding"]) if own["folding"] else {}
    corpus, defaults = corpora[own["corpus"]], _defaults(path, content)
    return Definition(path, corpus, own["task"], tuple(metrics), folding, defaults, variants, variant)


def _read_variants(path: Path, content: Mapping[str, Any]) -> Variants | None:
    found = {name: value for name, value in content.items() if isinstance(value, dict)}
    if not found:
        return None
    option, sections = next(iter(found.items()))
    known = {word for action in make_parser()._actions for word in action.option_strings}
    if len(found) > 1 or f"--{option}" in known or not all(isinstance(value, dict) for value in sections.values()):
        raise UserError(
            f"{path}: {option} must be one word or number, or the one option of this recipe's own, with a mapping of "
            "settings for each of its values"
        )
    for name in (option, *sections):
        try:
            check_name("the variant", str(name))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return Variants(option, sections) if sections else None


def _defaults(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Read as words of a command line, so that they are checked like those."""
    words = []
    for name, value in content.items():
        words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    parser = make_parser(add_help=False)
    try:
        found = vars(parser.parse_args(["x", *words]))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    # An option may have two names.
    places = {string: action.dest for action in parser._actions for string in action.option_strings}
    return {places[f"--{name}"]: found[places[f"--{name}"]] for name in content}


# ---------------------------------------------------------------- reading and checking


def parse(argv: Sequence[str]) -> CommandLine:
    """The command line, checked as far as it can be without ESPnet, before anything is made.

    Raises:
        UserError: an option that is unknown, or cannot be fulfilled.
    """
    wants_help = not {"-h", "--help"}.isdisjoint(argv)
    if wants_help and (not argv or argv[0].startswith("-")):
        make_parser().parse_args(["--help"])
    first, _ = make_parser(add_help=False).parse_known_args(argv, Options())
    folder, own_name = find_recipe(first.recipe, first.train is not None)
    definition = read_definition(folder, first.mini, argv)
    found = _read(argv, replace(definition, task=own_name) if own_name else definition, first.mini)
    _check(found)
    if not (found.options.mini or found.options.corpus or found.options.train or _is_at_hand(found, folder)):
        found = _read(argv, read_definition(folder, True, argv), mini=True)
        _check(found)
    return found


def _read(argv: Sequence[str], definition: Definition, mini: bool) -> CommandLine:
    parser = make_parser()
    if definition.variants:
        definition.variants.add_to(parser)
    parser.set_defaults(**definition.defaults)
    options, free = parser.parse_known_args(argv, Options())
    options.mini = mini
    if options.stop_stage is None:
        options.stop_stage = max(options.stage, UPLOAD if options.hf_repo else LAST_STAGE)
    options.workdir = options.workdir.absolute()  # ESPnet's files name each other by path
    if definition.corpus is ANY:
        definition = replace(definition, corpus=make_own_corpus(options, definition.task))
    else:
        refuse_own_options(options, definition.corpus.title)
    return CommandLine(options, free, definition)


def _is_at_hand(found: CommandLine, folder: Path) -> bool:
    """Whether the corpus was downloaded before, or can be; says so if not."""
    corpus = found.definition.corpus
    if corpus.download and (
        (found.options.workdir / "downloads" / corpus.folder_name).is_dir() or is_reachable(corpus.source)
    ):
        return True
    why = f"{corpus.source} cannot be reached" if corpus.download else f"{corpus.title} is not public ({corpus.source})"
    if corpus.mini is None or not (folder / "conf/mini/recipe.yaml").is_file():
        raise UserError(f"there is no --corpus, {why}, and this recipe has no mini corpus")
    print(
        f"\n*** There is no --corpus, and {why}: using the embedded MINI corpus. ***\n"
        f"*** It is synthetic speech of about a hundred words, and says nothing about {corpus.title}. ***\n",
        flush=True,
    )
    return False


def _check(found: CommandLine) -> None:
    """Refuses what cannot be fulfilled, cheap checks first.

    Raises:
        UserError: for the first mistake.
    """
    options = found.options
    if not 1 <= options.stage <= options.stop_stage <= len(STAGE_NAMES):
        names = ", ".join(f"{number} {name}" for number, name in enumerate(STAGE_NAMES, start=1))
        raise UserError(
            f"--stage {options.stage} to --stop_stage {options.stop_stage} is no range of the stages {names}"
        )
    if (options.stop_stage == UPLOAD) != (options.hf_repo is not None):
        raise UserError(
            f"--hf_repo and stage {UPLOAD} ({STAGE_NAMES[UPLOAD - 1]}) need each other: give both, or neither"
        )
    for name in ("nj", "nbpe", "inference_nj"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise UserError(f"--{name} must be at least 1, got {number}")
    _check_data(found)
    _check_language_model(found)
    _check_configurations(found)
    _check_free(found.free)
    for name, espnets in (("feats_normalize", "--normalize"), ("pretrained_model", "--init_param")):
        if getattr(options, name) and any(word.partition("=")[0] == espnets for word in found.free):
            raise UserError(f"--{name} and ESPnet's {espnets} are the same: leave one of them out")
    if options.num_att_plot is not None and options.num_att_plot < 0:
        raise UserError(f"--num_att_plot must be at least 0, got {options.num_att_plot}")
    for name in options.pretrained_model.split():
        if not Path(name.partition(":")[0]).is_file():
            raise UserError(f"--pretrained_model {name}: there is no file {name.partition(':')[0]}")
    _check_loss(options)
    if options.train:
        _check_own(found)
    if options.hf_repo:
        from sqloss_plugins.espnet.recipe.uploading import check_hub

        check_hub(options.hf_repo)


def _check_own(found: CommandLine) -> None:
    """Refuses what is wrong with manifests before anything is made; audio is read in stage 2."""
    from sqloss_plugins import paper

    options, definition = found.options, found.definition
    if definition.task in paper.tasks():
        raise UserError(f"{definition.task} is a task of the paper: choose another name for your corpus")
    # What is to be downloaded is read in stage 2.
    if options.stage <= 2 <= options.stop_stage and not definition.corpus.download:
        for subset in options.subsets:
            definition.corpus.read(Path(), subset)


def _check_data(found: CommandLine) -> None:
    options = found.options
    if options.mini and options.corpus:
        raise UserError("--mini and --corpus exclude each other: the mini corpus or your own")
    if options.mini and found.definition.corpus.mini is None:
        raise UserError(f"{found.definition.corpus.title} has no mini corpus: give --corpus")
    if not 0 <= options.min_wav_duration < options.max_wav_duration:
        raise UserError(
            f"--min_wav_duration {options.min_wav_duration:g} and --max_wav_duration {options.max_wav_duration:g} "
            "are no range of seconds"
        )
    if options.token_type != "bpe" and options.nbpe not in (NBPE, found.definition.defaults.get("nbpe")):
        raise UserError(f"--nbpe is for --token_type bpe, and this is {options.token_type}: leave one of them out")
    if options.asr_exp and options.tag is not None:
        raise UserError("--tag is for the end of the run's folder name, and --asr_exp is the whole: leave one out")
    if options.corpus and not options.corpus.is_dir():
        raise UserError(f"--corpus {options.corpus} is no folder")
    if not options.tests:
        raise UserError("--test_sets is empty: name one test subset or more")
    # They become parts of paths: none may lead out of the work folder.
    for option in ("train_set", "dev_set", "arch", "inference_asr_model", "inference_lm"):
        check_name(f"--{option}", getattr(options, option))
    for option in ("tag", "inference_tag"):
        if getattr(options, option) is not None:
            check_name(f"--{option}", getattr(options, option))
    for name in options.tests:
        check_name("--test_sets", name)
    _check_speeds(options.speeds)
    repeated = [name for name, times in Counter(options.subsets).items() if times > 1]
    if repeated:
        raise UserError(f"--train_set, --dev_set and --test_sets must differ, and name {repeated[0]} more than once")


def _check_speeds(factors: Sequence[str]) -> None:
    for factor in factors:
        if not re.fullmatch(r"\d{1,2}(\.\d{1,3})?", factor) or not 0.1 <= float(factor) <= 10:
            raise UserError(f"--speed_perturb_factors {factor}: must be numbers from 0.1 to 10, such as 0.9 1.0 1.1")
    if len({float(factor) for factor in factors}) < len(factors):
        raise UserError(f"--speed_perturb_factors {' '.join(factors)} names a speed more than once")
    if [float(factor) for factor in factors] == [1.0]:
        raise UserError("--speed_perturb_factors 1 changes nothing: give other factors, or leave it out")


def _check_language_model(found: CommandLine) -> None:
    options, defaults = found.options, found.definition.defaults
    for name in ("lm_text", "lm_config", "lm_exp", "inference_lm"):
        is_given = getattr(options, name) not in (None, NO_TEXT, LM_FILE, defaults.get(name))
        if is_given and not options.has_lm:
            raise UserError(f"--{name} is for the language model, and there is none: --use_lm true, or leave it out")
    text = found.lm_text
    if text and not is_url(text) and not any(read_lm_text(Path(text))):
        raise UserError(f"--lm_text {text} has no text")


def is_url(text: str) -> bool:
    """Whether a text is to be downloaded."""
    return re.match(r"(https?|ftp)://", text) is not None


def read_lm_text(path: Path) -> Iterator[str]:
    """The lines of a text for the language model, which may be compressed by gzip; words separated by single spaces.

    Raises:
        UserError: the file cannot be read as text.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                yield " ".join(line.decode("utf-8").split())
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--lm_text {path} cannot be read as text: {reason}") from error


def _check_configurations(found: CommandLine) -> None:
    options = found.options
    config = found.config("asr")
    if not (options.asr_config or config.is_file()):
        known = ", ".join(
            sorted(path.stem.removeprefix("train_asr_") for path in config.parent.glob("train_asr_*.yaml"))
        )
        if not known:
            raise UserError(f"{config.parent} has no configurations: give --asr_config")
        raise UserError(f"unknown --arch {options.arch!r}: choose from {known}")
    for which in ("asr", "inference", *(["lm"] if options.has_lm else [])):
        read_mapping(found.config(which))


def _check_free(free: Sequence[str]) -> None:
    """Refuses what can be no option of ESPnet's training, without importing it: its source never has that word.

    Raises:
        UserError: for the first such word.
    """
    spec = importlib.util.find_spec("espnet2")
    folders = (spec.submodule_search_locations if spec else None) or []  # a missing ESPnet is said at its import
    sources = [Path(folder, "tasks", name) for folder in folders for name in ("abs_task.py", "asr.py")]
    texts = [path.read_text(encoding="utf-8") for path in sources if path.is_file()]
    for option in (word.partition("=")[0] for word in free if word.startswith("--")):
        underscored = option.removeprefix("--").replace("-", "_")
        if underscored in INSTEAD:
            raise UserError(f"{option} of ESPnet's asr.sh is not here: {INSTEAD[underscored]}")
        if option != f"--{underscored}":
            raise UserError(f"{option} is written with underscores here: --{underscored}")
        if option in _RESERVED_OPTIONS:
            raise UserError(f"{option} is what this recipe sets itself: leave it out (see --help)")
        name = re.sub(r"\d*(_conf)?$", "", option.removeprefix("--"))
        if texts and not any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts):
            raise UserError(f"{option} is no option of this recipe, nor of ESPnet's training (see --help)")


def _check_loss(options: Options) -> None:
    from sqloss_plugins.losses import LOSSES, check_loss
    from sqloss_plugins.paper import RULES

    try:
        spec = check_loss(options.loss, options.k, options.M)
    except ValueError as error:
        raise UserError(f"--loss {options.loss}: {error}") from error
    if options.rescaling != "auto" and not spec.is_rescaled:
        raise UserError(f"--rescaling is for losses with k and M, and {options.loss} has neither: leave it out")
    if options.rescaling not in RULES:
        raise UserError(f"unknown --rescaling {options.rescaling!r}: choose from {', '.join(RULES)}")
    methods = spec.methods if options.method.strip() == "auto" else options.method.split()
    for method in methods or [""]:
        if method not in spec.methods:
            names = ", ".join(LOSSES[options.loss].methods)
            raise UserError(
                f"--method {method!r} is not for the loss {options.loss}: choose from auto, or one or more of {names}"
            )
    import torch

    if not 0 <= options.ngpu <= torch.cuda.device_count():
        raise UserError(f"--ngpu {options.ngpu}: this machine has {torch.cuda.device_count()} GPUs")
    if options.decodes_on_gpu and not torch.cuda.device_count():
        raise UserError("--gpu_inference true: this machine has no GPU")

"""The command line of a speech recipe, read and checked before anything is made.

Nothing here imports PyTorch or ESPnet before the options that need neither are checked.
"""

from __future__ import annotations

import gzip
import importlib.util
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqloss_plugins.command_line import check_name, is_reachable, read_mapping
from sqloss_plugins.data.corpora.checks import check_path
from sqloss_plugins.data.corpora.manifest import ANY
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe.asr_sh import INSTEAD
from sqloss_plugins.espnet.recipe.definition import Definition, find_recipe, read_definition
from sqloss_plugins.espnet.recipe.options import (
    LAST_STAGE,
    LM_FILE,
    NBPE,
    NO_TEXT,
    STAGE_NAMES,
    UPLOAD,
    Options,
    make_parser,
)
from sqloss_plugins.espnet.recipe.own_corpus import make_own_corpus, refuse_own_options

_RESERVED_OPTIONS = {
    *("--config", "--model", "--output_dir", "--resume", "--dry_run", "--print_config", "--collect_stats"),
    *("--token_list", "--token_type", "--bpemodel"),
    *(f"--{split}_data_path_and_name_and_type" for split in ("train", "valid")),
    *(f"--{split}_shape_file" for split in ("train", "valid")),
}


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


def parse(argv: Sequence[str]) -> CommandLine:
    """The command line, checked as far as it can be without ESPnet, before anything is made.

    Raises:
        UserError: an option that is unknown, or cannot be fulfilled.
    """
    wants_help = not {"-h", "--help"}.isdisjoint(argv)
    if wants_help and (not argv or argv[0].startswith("-")):
        make_parser().parse_args(["--help"])
    first, _ = make_parser(add_help=False).parse_known_args(argv, Options())
    folder, own_name = find_recipe(first.recipe, first.train is not None or wants_help)
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
        raise UserError(f"there is no --corpus, {why}, and this recipe has no mini corpus: give --corpus")
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
    if not 0 <= options.seed < 2**32:
        raise UserError(f"--seed must be from 0 to {2**32 - 1}, got {options.seed}")
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
    for name in ("workdir", "lm_exp"):
        folder = str(getattr(options, name) or "")
        if "," in folder:
            raise UserError(f"--{name} {folder} has a comma, which for ESPnet ends a path: choose another folder")
    if options.mini or options.speeds or (found.definition.corpus.download and not options.corpus):
        check_path(options.workdir)  # audio is written there
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

    A byte order mark is dropped.

    Raises:
        UserError: the file cannot be read as text.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                yield " ".join(line.decode("utf-8").lstrip("\ufeff").split())
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

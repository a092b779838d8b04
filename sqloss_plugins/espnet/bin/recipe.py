"""What ``recipes/librispeech/run.sh`` and ``recipes/an4/run.sh`` run: all stages of a speech recipe."""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from sqloss_plugins.command_line import is_reachable, read_mapping
from sqloss_plugins.data.corpora import CORPORA
from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.espnet import stages
from sqloss_plugins.espnet.recipe import PROGRAM, STAGES, Recipe, recipe_parser
from sqloss_plugins.folders import claim_folder, lock_folder
from sqloss_plugins.losses import check_rescaling
from sqloss_plugins.probability import SCORES
from sqloss_plugins.results import RESULT_NAME, versions


def parse(argv: Sequence[str]) -> Recipe:
    """The command line, checked as far as it can be before anything is made.

    Raises:
        UserError: an option that is unknown, or cannot be fulfilled.
    """
    args, _ = recipe_parser(add_help=False).parse_known_args(argv)
    if args.mini and args.corpus:
        raise UserError("--mini and --corpus exclude each other: the mini corpus or your own")
    if args.corpus and not args.corpus.is_dir():
        raise UserError(f"--corpus {args.corpus} is no folder")
    wants_help = not {"-h", "--help"}.isdisjoint(argv)
    mini = args.mini or (args.corpus is None and not wants_help and not _is_at_hand(args.task, args.workdir))
    parser = recipe_parser()
    parser.set_defaults(**_defaults(args.workdir, mini))
    args, free = parser.parse_known_args(argv)
    if not 1 <= args.stage <= args.stop_stage <= len(STAGES):
        names = ", ".join(f"{number} {name}" for number, name in enumerate(STAGES, start=1))
        raise UserError(f"--stage {args.stage} to --stop_stage {args.stop_stage} is no range of the stages {names}")
    if args.loss != "square" and not (args.k is None and args.M is None and args.rescaling is None):
        raise UserError(f"--k, --M and --rescaling are for the square loss, and --loss is {args.loss}: leave them out")
    try:
        check_rescaling(1.0 if args.k is None else args.k, 1.0 if args.M is None else args.M)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    for score in args.score.split() or [""]:
        if score not in (*SCORES, "auto") or (score == "auto" and args.score.strip() != "auto"):
            raise UserError(f"unknown --score {args.score!r}: choose from auto or any of {', '.join(SCORES)}")
    if "link" in args.score.split() and args.loss != "square":
        raise UserError(f"--score link is for the square loss, and --loss is {args.loss}: choose softmax or scale")
    if args.ngpu > torch.cuda.device_count() or args.ngpu < 0:
        raise UserError(f"--ngpu {args.ngpu}: this machine has {torch.cuda.device_count()} GPUs")
    for name in ("nj", "nbpe"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(args, name)}")
    for name in ("lm_text", "lm_config"):
        if getattr(args, name) and args.use_lm == "false":
            raise UserError(f"--{name} is for the language model, and there is none: --use_lm true, or leave it out")
    if args.lm_text and not any(stages.read_lm_text(args.lm_text)):
        raise UserError(f"--lm_text {args.lm_text} has no text")
    recipe = Recipe(args, free, mini)
    if not args.test_sets.split():
        raise UserError("--test_sets is empty: name one test subset or more")
    repeated = [name for name, times in Counter(recipe.subsets).items() if times > 1]
    if repeated:
        raise UserError(f"--train_set, --dev_set and --test_sets must differ, and name {repeated[0]} more than once")
    if not (args.asr_config or recipe.config("asr").is_file()):
        files = recipe.config("asr").parent.glob("train_asr_*.yaml")
        known = ", ".join(sorted(path.stem.removeprefix("train_asr_") for path in files))
        if not known:
            raise UserError(
                f"{recipe.config('asr').parent} has no configurations: copy the recipe's conf there, or give "
                "--asr_config"
            )
        raise UserError(f"unknown --arch {args.arch!r}: choose from {known}")
    for which in ("asr", "inference", *(["lm"] if args.use_lm == "true" else [])):
        read_mapping(recipe.config(which))
    _ = recipe.espnet  # ESPnet's own check of the training arguments
    recipe.check_configurations()
    return recipe


def _defaults(workdir: Path, mini: bool) -> dict[str, object]:
    """What the recipe has as defaults of the command line: ``conf/recipe.yaml``, or the mini corpus's."""
    path = _defaults_file(workdir, mini)
    if mini and not path.is_file():
        raise UserError(f"there is no {path}, so that the mini corpus cannot be used here: give --corpus")
    if not path.is_file():  # a folder of one's own, with everything on the command line
        return {}
    # As words of a command line, so that they are checked like those.
    words = []
    for name, value in read_mapping(path).items():
        if not isinstance(value, str | int | float):
            raise UserError(f"{path}: {name} must be one word or number, got {value!r}")
        words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    parser = recipe_parser(add_help=False)
    usual = vars(parser.parse_args(["an4"]))
    try:
        found = vars(parser.parse_args(["an4", *words]))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return {name: value for name, value in found.items() if value != usual[name]}


def _defaults_file(workdir: Path, mini: bool) -> Path:
    return workdir / "conf" / ("mini" if mini else "") / "recipe.yaml"


def _is_at_hand(task: str, workdir: Path) -> bool:
    """Whether the corpus was downloaded before, or can be; says so if not."""
    if (workdir / "downloads" / task).is_dir():
        return True
    source = CORPORA[task].source
    if is_reachable(source):
        return True
    if not _defaults_file(workdir, mini=True).is_file():
        raise UserError(f"there is no --corpus, {source} cannot be reached, and this recipe has no mini corpus")
    print(
        f"\n*** There is no --corpus, and {source} cannot be reached: using the embedded MINI corpus. ***\n"
        f"*** It is synthetic speech of about a hundred words, and says nothing about {task}. ***\n",
        flush=True,
    )
    return False


def _data_settings(recipe: Recipe) -> dict[str, object]:
    args = recipe.args
    names = ("task", "train_set", "dev_set", "token_type", "nbpe")
    settings: dict[str, object] = {name: getattr(args, name) for name in names}
    return {**settings, "mini": recipe.mini, "corpus": str(stages.corpus_folder(recipe).resolve())}


def _banner(recipe: Recipe) -> None:
    args, chosen = recipe.args, recipe.rescaling
    loss = f"{args.loss}, {chosen}" if chosen else args.loss
    if chosen:
        level, usual = chosen.initial_loss(len(recipe.tokens)), math.log(len(recipe.tokens))
        loss += f"; a token's loss at the start {level:.3g}, cross-entropy's {usual:.3g}"
    for name, text in (
        ("task", f"{args.task}{'   *** MINI DATA: not the real task ***' if recipe.mini else ''}"),
        ("model", f"{args.arch} ({recipe.config('asr')}), {len(recipe.tokens)} tokens"),
        ("loss", loss),
        ("training", f"{recipe.espnet.max_epoch} epochs, lr {recipe.learning_rate:g}, seed {args.seed}"),
        ("folder", str(recipe.run)),
    ):
        print(f"  {name:9s} {text}", flush=True)


def run_recipe(argv: Sequence[str]) -> None:
    """Does what the command line says.

    Raises:
        UserError: for every mistake of the user's.
    """
    versions()  # of the code that begins, whatever becomes of the checkout in the meantime
    logging.basicConfig(level=logging.ERROR)  # what ESPnet says of itself is in the logs of its processes
    recipe = parse(argv)
    args = recipe.args
    preparing = {1: stages.fetch, 2: stages.prepare_data, 3: stages.make_dictionary, 4: stages.collect_statistics}
    preparing[5] = stages.train_language_model
    numbers = range(args.stage, args.stop_stage + 1)

    def announce(number: int) -> None:
        print(f"stage {number}: {STAGES[number - 1]}{' (MINI)' if recipe.mini else ''}", flush=True)

    # The data may serve several runs: the second waits for the first to make it.
    with lock_folder(recipe.data, wait=True) if args.stage in preparing else nullcontext():
        claim_folder(recipe.data, _data_settings(recipe), ("*/.data.done",), option="--workdir")
        for number in (number for number in numbers if number in preparing):
            announce(number)
            preparing[number](recipe)
    if args.stop_stage in preparing:
        return
    stages.need(recipe.statistics / ".statistics.done", 4)
    with lock_folder(recipe.run):
        claim_folder(recipe.run, recipe.settings, ("checkpoint.pth", RESULT_NAME, ".*.done"), option="--tag")
        if args.stop_stage > 6:
            stages.claim_decoding(recipe)
        _banner(recipe)
        for number in (number for number in numbers if number not in preparing):
            announce(number)
            if number == 6:
                stages.train(recipe)
            elif number == 7:
                stages.decode(recipe)
            else:
                stages.score(recipe)
                print("\n" + (recipe.run / "RESULTS.md").read_text(encoding="utf-8"))
                print(f"Everything is in {recipe.run}.", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run_command(PROGRAM, lambda: run_recipe(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())

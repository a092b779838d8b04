"""The ``recipe.yaml`` of a speech recipe: its corpus, its error rates, and the defaults of its command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqloss_plugins.command_line import OptionParser, check_name, read_mapping, recipes_folder
from sqloss_plugins.data.corpora import CORPORA, Corpus
from sqloss_plugins.data.corpora.manifest import ANY
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe import PROGRAM
from sqloss_plugins.espnet.recipe.error_rates import ERROR_RATES, read_folding
from sqloss_plugins.espnet.recipe.options import make_parser

OWN_RECIPE = "any"


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

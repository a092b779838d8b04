"""What the command lines share: mistakes in one line, configuration files, and whether a server can be reached."""

from __future__ import annotations

import argparse
import http.client
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import yaml

from sqloss_plugins.errors import UserError, sentence

_ANSWER_WITHIN_S = 4.0


class OneLineErrors:
    """For an ``argparse`` parser: a mistake is one line, rather than the usage of a hundred options."""

    def error(self, message: str) -> NoReturn:
        """Ends the parsing.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message} (see --help)")


class OptionParser(OneLineErrors, argparse.ArgumentParser):
    """``argparse``'s parser: a mistake is one line, the description keeps its lines, and options are written out."""

    def __init__(self, program: str, description: str | None, add_help: bool = True) -> None:
        super().__init__(
            prog=program,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=add_help,
        )


def check_name(option: str, name: str) -> None:
    """For names that become part of a path: letters, digits, ``_``, ``-`` and dots, and no path.

    Args:
        option: what the name was given as, for the message.
        name: the name.

    Raises:
        UserError: it is something else.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"{option} {name!r} is not a name: use letters, digits, _, - and dots, no path")


def recipes_folder() -> Path:
    """The folder of the recipes: inside the installed package, or at the top of a checkout.

    Raises:
        UserError: neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise UserError(f"{package} has no recipes: install the package anew")


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML's own would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if names.count(key.value) > 1 and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML or JSON file of option names and values.

    Raises:
        UserError: it cannot be read, is something else, or has a name twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, LookupError, RecursionError, yaml.YAMLError) as error:  # ValueError: 30 February
        raise UserError(f"{path} cannot be read as settings: {sentence(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must be a mapping of option names to values")
    for name in content:
        if not isinstance(name, str):  # to YAML on, off, yes and no are true and false
            raise UserError(f"{path}: {name!r} is no option's name: put it in quotes if it is one")
    return content


def is_reachable(url: str) -> bool:
    """Whether a server answers within some seconds, be it with an error."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_ANSWER_WITHIN_S).close()
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)  # it answered
        except (OSError, ValueError, http.client.HTTPException):
            answers.append(False)

    # In a thread, because looking up a name can take longer than any time-out of a connection.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_WITHIN_S)
    return bool(answers) and answers[0]

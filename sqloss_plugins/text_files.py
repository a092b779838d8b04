"""The lines of text files, and JSON, for every reader: what is wrong with them is said, and where."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqloss_plugins.errors import UserError


def decoded_json(text: str, where: str) -> Any:
    """What a JSON text says.

    Args:
        text: the JSON.
        where: the file, and the line where there are several texts, for the message.

    Raises:
        ValueError, RecursionError: it is no JSON.
        UserError: an object has a name twice, of which Python's own reader would take the last without a word.
    """

    def no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = [name for i, name in enumerate(names) if name in names[:i]] if len({*names}) < len(names) else []
        if twice:
            raise UserError(f"{where}: an object has {twice[0]!r} twice: remove one of them")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=no_name_twice)


def decoded_lines(path: Path | str, what: str) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends; a byte order mark at its start is left out.

    Args:
        path: the file; where its name ends with ``.gz`` it is unpacked by gzip.
        what: how messages name it.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        with gzip.open(path) if str(path).endswith(".gz") else open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
                    guess = "UTF-16" if number == 1 and line.startswith(marks) else "ISO-8859-1"
                    raise UserError(
                        f"{what} is not UTF-8 text (line {number}): convert it, perhaps by iconv -f {guess} -t UTF-8"
                    ) from error
    except OSError as error:
        raise UserError(f"{what} cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{what} cannot be unpacked by gzip, because it is cut short or damaged: {error}") from error

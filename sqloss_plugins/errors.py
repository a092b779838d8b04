"""The one exception for mistakes of the person at the command line, its words, and what a command does with it."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence


class UserError(Exception):
    """Something that the user can put right: one sentence that says what is wrong and what to do."""

    status = 2


class RunError(UserError):
    """A run failed without a mistake in its options: it diverged, its disk is full, or a program of it ended badly."""

    status = 1


def sentence(error: BaseException) -> str:
    """What another library says of a mistake, on one line."""
    text = " ".join(str(error).split())
    return text if text and not isinstance(error, KeyError) else f"{type(error).__name__} {text}".strip()


def listed(names: Sequence[str]) -> str:
    """Names for a sentence: the first of them."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} others" if len(names) > 5 else "")


def brief(value: object, longest: int = 60) -> str:
    """A value for a message; of a long one its beginning and its end.

    Args:
        value: is shown as ``repr`` does.
        longest: the most characters.

    Examples:
        >>> from sqloss_plugins.errors import brief
        >>> brief("a very long text indeed", longest=20)
        "'a very long  ... d'"
    """
    text = repr(value)
    if len(text) <= longest:
        return text
    begin = longest * 2 // 3
    return f"{text[:begin]} ... {text[begin + 5 - longest :]}"


def brief_list(names: Sequence[str]) -> str:
    """Names for a message, each by :func:`brief`, the first of many."""
    return listed([brief(name) for name in names])


def is_full_disk(error: BaseException) -> bool:
    """Whether there is no space left, or a quota is used up: nothing that is wrong with what is read or written."""
    # safetensors and datasets have exceptions of their own for a failed write, so the words decide as well.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(
        os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)
    )


def run_command(name: str, command: Callable[[], None]) -> int:
    """Runs a command and turns its errors into an exit status: 2 for a user's mistake, 1 for a failure or a full disk.

    A full disk is one without space, or a quota that is used up. Ctrl-C is 130, as in shells.

    Every other exception is a defect of the program, and passes with its traceback.
    """
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has had enough; nothing is left to be written at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return error.status
    except Exception as error:
        if is_full_disk(error):
            print(
                f"{name}: error: the disk is full ({error}); make room and run the same command again: "
                "it goes on from the last complete checkpoint",
                file=sys.stderr,
            )
            return 1
        raise
    return 0

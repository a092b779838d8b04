"""Bars of ``datasets`` where work on data takes long; short work has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

MANY_ROWS = 20_000
"""From so many rows on, texts and tokens have a bar: some seconds of work."""
MANY_BYTES = 2**24
"""The same of files that are read."""

_wanted: ContextVar[bool] = ContextVar("wanted", default=False)


@contextmanager
def bars_for_long_work(wanted: bool) -> Iterator[None]:
    """For the length of the block ``datasets`` has no bars but those of :func:`bar_if`, if they are wanted."""
    was_off, token = are_progress_bars_disabled(), _wanted.set(wanted)
    disable_progress_bars()
    try:
        yield
    finally:
        _wanted.reset(token)
        if not was_off:
            enable_progress_bars()


@contextmanager
def bar_if(is_long: bool) -> Iterator[None]:
    """Around the long work of ``datasets``; outside of :func:`bars_for_long_work` it changes nothing."""
    shown = is_long and _wanted.get()
    if shown:
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            disable_progress_bars()

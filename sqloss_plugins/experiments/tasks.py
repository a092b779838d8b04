"""Which command serves which task."""

from __future__ import annotations

from collections.abc import Mapping

from sqloss_plugins import paper
from sqloss_plugins.data import characters, glue, image_tasks, mini_text

COMMANDS: Mapping[str, tuple[str, ...]] = {
    **{name: ("glue", "--task", name) for name, task in glue.TASKS.items() if not task.is_regression},
    **{task: ("classify", "--task", task) for task in mini_text.TASKS},
    **{task: ("characters", "--task", task) for task in characters.MD5},
    "timit_phone": ("asr", "timit", "--trans_type", "phn"),
    "timit_char": ("asr", "timit", "--trans_type", "char"),
    "wsj": ("asr", "wsj"),
    "librispeech": ("asr", "librispeech"),
    "an4": ("asr", "an4"),
    "an4_phone": ("asr", "an4", "--trans_type", "phn"),
    **{task: ("images", "--task", task) for task in image_tasks.TASKS},
    "reverse_dictionary": ("reverse_dictionary",),
}
"""Task, by its name in results -> the words after ``sqloss``: all tasks of the paper, and some beside it."""

WITHOUT_ARCH = ("lm", "characters")
"""Commands without ``--arch``."""


def architectures(task: str) -> tuple[str, ...]:
    """The paper's architectures for a task, its first one first; empty for a task that it does not have."""
    return tuple(row["model"] for row in paper.tables()["hyperparameters"] if row["task"] == task)


def command(task: str, arch: str | None = None) -> tuple[str, ...]:
    """The words after ``sqloss`` for a task, and an architecture where it is not the command's own choice."""
    words = COMMANDS[task]
    return words if arch is None or words[0] in WITHOUT_ARCH else (*words, "--arch", arch)

"""The examples in docstrings are right, and all that PyTorch users call has one."""

import doctest
import importlib
import inspect
import re

import pytest
from documents import ROOT

import sqloss_plugins

MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in sorted((ROOT / "sqloss_plugins").rglob("*.py"))
    if re.search(r"^ +>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
]
RUNS = "runs are needed: examples/own_csv.py and examples/sweep.py"
SPEECH = "a trained speech model and audio are needed: docs/espnet.md, examples/espnet_model.py"
WITHOUT = {
    "sqloss_plugins.models": {"Architecture": "an entry of a table"},
    "sqloss_plugins.models.pairwise_word_interaction": {
        "PairwiseWordInteractionForSequenceClassification": "called as EsimForSequenceClassification"
    },
    "sqloss_plugins.hf.trainer": {"SquareLossTrainer": "a model and data are needed: examples/trainer.py"},
    "sqloss_plugins.results": dict.fromkeys(["Result", "write_result", "read_result"], RUNS),
    "sqloss_plugins.experiments.report": dict.fromkeys(["make_report", "replace_report"], RUNS),
    "sqloss_plugins.experiments.evidence": dict.fromkeys(["Evidence", "gather"], RUNS),
    "sqloss_plugins.experiments.comparison": dict.fromkeys(
        ["Run", "Group", "Summary", "Difference", "Comparison", "find_runs", "grouped", "compare_group"], RUNS
    ),
    "sqloss_plugins.espnet.model": {"SquareLossASRModel": SPEECH},
    "sqloss_plugins.espnet.decoding": dict.fromkeys(["Speech2Text", "use_method", "log_probabilities_of"], SPEECH),
    "sqloss_plugins.espnet.calibration": dict.fromkeys(["TeacherForced", "teacher_forced", "calibrate"], SPEECH),
    "sqloss_plugins.espnet.espnet1": dict.fromkeys(["use_square_loss", "SquareLossDecoder"], SPEECH),
    "sqloss_plugins.espnet.inference": {"decode": SPEECH},
    "sqloss_plugins.espnet.classification": {"SquareLossClassificationModel": SPEECH},
    "sqloss_plugins.espnet.language_model": {"SquareLossLanguageModel": SPEECH},
    "sqloss_plugins.espnet.interpreter": {"script": "it says where the program is installed"},
}
"""Of the reference: a module -> what has no example, and why."""


def reference():
    """The modules of the site's reference, with the names that it shows; None for all public ones."""
    for page in sorted((ROOT / "docs/reference").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for name, members in re.findall(r"^::: (\S+)\n(?: +options: \{members: \[(.*)\]\}\n)?", text, re.MULTILINE):
            yield name, members.split(", ") if members else None


def callables(name, members):
    """The functions and classes of a module that are its own, or that are named."""
    module = importlib.import_module(name)
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == name]
    for key in members or own:
        value = getattr(module, key)
        if not key.startswith("_") and (inspect.isroutine(value) or inspect.isclass(value)):
            yield key, value


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize(("name", "members"), reference(), ids=lambda value: value if isinstance(value, str) else "")
def test_what_the_reference_shows_has_an_example(name, members):
    without = {key for key, value in callables(name, members) if ">>> " not in (value.__doc__ or "")}
    assert without == set(WITHOUT.get(name, ()))


def test_what_the_package_exports_has_an_example():
    exported = [getattr(sqloss_plugins, name) for name in sqloss_plugins.__all__]
    called = [value for value in exported if inspect.isroutine(value) or inspect.isclass(value)]
    assert {value.__qualname__ for value in called if ">>> " not in value.__doc__} == set()

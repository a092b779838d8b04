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
COMPLETE = ["sqloss_plugins.probability", "sqloss_plugins.paper", "sqloss_plugins.metrics"]
"""Modules whose functions all have one."""


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_what_users_call_has_an_example():
    called = [getattr(sqloss_plugins, name) for name in sqloss_plugins.__all__]
    for name in COMPLETE:
        module = importlib.import_module(name)
        called += [value for value in vars(module).values() if getattr(value, "__module__", "") == name]
    without = {
        value.__qualname__
        for value in called
        if inspect.isroutine(value) or inspect.isclass(value)
        if not value.__name__.startswith("_") and ">>> " not in (value.__doc__ or "")
    }
    assert without == {"Rescaling", "HyperParameters", "Published", "Metric", "Edits", "tables", "top_class"}

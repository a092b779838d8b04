"""Installed packages with a patch, for one process."""

import contextlib
import importlib
import sys
import sysconfig
from pathlib import Path

import pytest

from patches.renew import apply, copy_upstream, patches_for

INSTALLED = Path(sysconfig.get_path("purelib"))
PATCHES = {patch.name.rpartition("-")[0]: patch for patch in patches_for(INSTALLED)}


@contextlib.contextmanager
def patched(what, folder):
    """Imports find the patched copies of an installed package's modules; afterwards they find the installed ones.

    Yields:
        The tests that the patch adds, as files.
    """
    copy_upstream(PATCHES[what], INSTALLED, folder)
    apply(PATCHES[what], folder)
    files = {path: path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.py")}
    tests = [path for path, name in files.items() if name.startswith("test")]
    names = {name.removeprefix("src/").replace("/", "."): path for path, name in files.items() if path not in tests}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, path in names.items():
            package, _, module = name.rpartition(".")
            found = importlib.import_module(package)
            monkeypatch.setattr(found, module, getattr(found, module, None), raising=False)  # may be what imports it
            monkeypatch.setattr(found, "__path__", [str(path.parent), *found.__path__])
            monkeypatch.delitem(sys.modules, name, raising=False)
        yield tests
        for name in names:
            sys.modules.pop(name, None)

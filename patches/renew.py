"""Checks the patches of this folder against trees of ESPnet or Transformers, and makes them anew for other versions.

    make patches                                      # against the installed packages
    make patches UPSTREAM=~/espnet                    # against a source checkout
    make patches UPSTREAM=~/espnet VERSION=202705     # writes the patches of another version
    make patches ... VERSION=202705 OVERWRITE=1       # also where it has them already

A patch is its own source: made anew, its changes are put into the files of the other version, with less context, and
compared with them. Nothing of the trees is changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import RunError, UserError, listed, run_command

FOLDER = Path(__file__).parent
_VERSION = re.compile(r"\d+(\.\d+)*")


def changed_files(patch: Path) -> dict[str, str]:
    """The files of upstream that a patch changes, without those that it adds, and the git hash of each as it was.

    The hash is empty where the patch does not say it, because the release's own file was not at hand.
    """
    found = re.findall(r"^(?:index ([0-9a-f]{40})\.\..+\n)?--- a/(.+)$", patch.read_text(), re.MULTILINE)
    return {name: before for before, name in found}


def _upstream_file(tree: Path, name: str) -> Path:
    """A file of a checkout, which may be in ``src``, or of an installed package, where it is not."""
    path = tree / name
    return path if path.exists() else tree / name.removeprefix("src/")


def copy_upstream(patch: Path, tree: Path, folder: Path) -> None:
    """Copies the files that a patch changes from a tree into a folder.

    Raises:
        UserError: one of them is not there.
    """
    for name in changed_files(patch):
        source, copy = _upstream_file(tree, name), folder / name
        if not source.is_file():
            raise UserError(f"{patch.name} changes {name}, which {tree} does not have: give a source checkout")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Git in a folder, outside any repository and without the user's configuration."""
    if shutil.which("git") is None:
        raise UserError("patches are applied by git, which is not there: install it")
    own = {"GIT_CEILING_DIRECTORIES": str(folder.parent), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(["git", *arguments], cwd=folder, env={**os.environ, **own}, capture_output=True, text=True)


def apply(patch: Path, folder: Path, *options: str) -> None:
    """Applies a patch to the files of a folder, or with the option ``-R`` takes it back.

    Args:
        patch: the patch.
        folder: what it is for; not inside a git repository, unless at its top.
        *options: of ``git apply``.

    Raises:
        RunError: it does not fit; names the file and the hunk. The folder is as it was.
    """
    done = _git(folder.resolve(), "apply", *options, str(patch.resolve()))
    if done.returncode:
        reasons = [_failed_hunk(patch, *failed) for failed in re.findall(r"patch failed: (.+):(\d+)", done.stderr)]
        raise RunError(f"{patch.name} does not fit: {'; '.join(reasons) or done.stderr.strip()}")


def _failed_hunk(patch: Path, name: str, line: str) -> str:
    """Which hunk of a file begins at a line, in words."""
    of_file = patch.read_text().partition(f"\n--- a/{name}\n")[2].partition("\ndiff --git ")[0]
    starts = re.findall(r"^@@ -(\d+)", of_file, re.MULTILINE)
    return f"{name}, hunk {starts.index(line) + 1} of {len(starts)} (line {line})"


def check(patch: Path, tree: Path) -> str:
    """How a patch fits a tree: ``fits exactly``, or ``fits other files`` than those that it was made from.

    Raises:
        UserError: the tree lacks a file.
        RunError: it does not fit.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy_upstream(patch, tree, Path(scratch))
        apply(patch, Path(scratch))
    return "fits exactly" if _is_exact(patch, tree) else "fits other files than it was made from"


def _is_exact(patch: Path, tree: Path) -> bool:
    """Whether a tree's files are, byte for byte, those that a patch was made from."""
    for name, before in changed_files(patch).items():
        content = _upstream_file(tree, name).read_bytes()
        if hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != before:
            return False
    return True


def _version(name: str) -> tuple[int, ...]:
    """The version in a patch's name, for comparisons."""
    return tuple(map(int, name.rpartition("-")[2].removesuffix(".patch").split(".")))


def of_version(patch: Path, version: str) -> Path:
    """The patch for the same files of another version, beside it: ``<what>-<version>.patch``."""
    return patch.with_name(f"{patch.name.rpartition('-')[0]}-{version}.patch")


def renew(patch: Path, tree: Path, version: str) -> Path:
    """Makes a patch anew for the files of a tree, as that :func:`of_version`, which is returned.

    Raises:
        UserError: the tree lacks a file.
        RunError: a hunk does not fit even with one line of context: that one has to be put in by hand.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for side in ("a", "b"):
            copy_upstream(patch, tree, folder / side)
        apply(patch, folder / "b", "-C1")
        made = _git(
            folder, "diff", "--no-index", "--no-ext-diff", "--no-color", "--no-prefix", "--full-index", "a", "b"
        )
    new = of_version(patch, version)
    new.write_text(made.stdout)
    return new


def patches_for(tree: Path) -> list[Path]:
    """The patches that a tree has all files for; of several versions, that for exactly these files, or the newest."""
    chosen: dict[str, Path] = {}
    for patch in sorted(FOLDER.glob("*.patch"), key=lambda path: _version(path.name)):
        what = patch.name.rpartition("-")[0]
        files = {_upstream_file(tree, name): before for name, before in changed_files(patch).items()}
        if not all(path.is_file() for path in files):
            continue
        if what not in chosen or not _is_exact(chosen[what], tree):
            chosen[what] = patch
    return sorted(chosen.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks or renews the patches; returns the exit status, 1 where one does not fit."""
    parser = OptionParser("patches/renew.py", __doc__)
    parser.add_argument("patches", nargs="*", type=Path, metavar="PATCH", help="by default those that the tree is for")
    parser.add_argument("--upstream", type=Path, help="a source checkout; by default, the installed packages")
    parser.add_argument("--version", help="write the patches of this version of upstream")
    parser.add_argument("--overwrite", action="store_true", help="with --version: in the place of those that it has")

    def run() -> None:
        options = parser.parse_args(arguments)
        tree = options.upstream or Path(sysconfig.get_path("purelib"))
        if options.version and not _VERSION.fullmatch(options.version):
            raise UserError(
                f"--version {options.version} must be numbers with dots between them, such as 202705 or 5.30.0"
            )
        if options.version and not (options.upstream or options.patches):
            raise UserError(
                "--version is of one upstream: give its checkout by --upstream, or a patch of the installed package"
            )
        patches = options.patches or patches_for(tree)
        if not patches:
            raise UserError(f"{tree} has the files of no patch: give a checkout of ESPnet or Transformers")
        for patch in patches:
            if not (patch.is_file() and _VERSION.search(patch.name) and changed_files(patch)):
                raise UserError(f"{patch} is not a patch of this folder, named as they are")
        there = [
            path.name for patch in patches if options.version and (path := of_version(patch, options.version)).exists()
        ]
        if there and not options.overwrite:
            raise UserError(f"{listed(there)} is there already: give --overwrite (make: OVERWRITE=1) to write it anew")
        failed = []
        for patch in patches:
            try:
                told = renew(patch, tree, options.version).name if options.version else check(patch, tree)
            except RunError as error:
                failed.append(str(error))
                told = "does not fit"
            print(f"{patch.name:40} {told}")
        if failed:
            raise RunError("; ".join(failed))

    return run_command(parser.prog, run)


if __name__ == "__main__":
    sys.exit(main())

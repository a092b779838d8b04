"""The package as a wheel, in another folder than the checkout: what is in it, and that its commands run."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_PACKAGED = ("data", "downloads", "exp", "runs", "__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that the checkout gets no build folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "sqloss_plugins", source / "sqloss_plugins", ignore=shutil.ignore_patterns("__pycache__"))

    def skip(folder, names):
        return [name for name in names if name in NOT_PACKAGED and Path(folder).parent == ROOT / "recipes"]

    shutil.copytree(ROOT / "recipes", source / "recipes", ignore=skip)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", target, source]
    subprocess.run(build, check=True)
    (found,) = target.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs a command of the installed wheel in a folder of its own, and returns what it printed."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=elsewhere, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    place = run("-c", "import sqloss_plugins; print(sqloss_plugins.__file__)")
    assert Path(place.strip()) == site / "sqloss_plugins" / "__init__.py"
    run.folder, run.environment = elsewhere, environment
    return run


def test_what_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "sqloss_plugins").rglob("*")
        if path.suffix in (".py", ".yaml", ".typed", ".jinja")
    }
    recipes = {
        f"sqloss_plugins/{path.relative_to(ROOT).as_posix()}"
        for pattern in ("*/run.sh", "*/README.md", "*/conf/**/*.yaml", "*/conf/**/*.txt")
        for path in (ROOT / "recipes").glob(pattern)
    }
    assert sources | recipes <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    assert not [name for name in names if "/recipes/" in name and set(Path(name).parts[3:]) & set(NOT_PACKAGED)]


def test_the_command_line(installed):
    assert "commands:" in installed("-m", "sqloss_plugins", "--help")


def test_the_python_for_espnets_recipes(installed):
    """Its path is printed, and it has the environment of the package."""
    program = installed("-m", "sqloss_plugins", "espnet-python").strip()
    done = subprocess.run(
        [program, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, env=installed.environment
    )
    assert done.stdout == f"{sys.executable}\n", done.stderr


@pytest.mark.slow
def test_glue(installed):
    options = ["--task", "mrpc", "--mini", "--max_train_samples", "64", "--num_train_epochs", "1", "--use_cpu"]
    printed = installed("-m", "sqloss_plugins", "glue", *options, "--output_dir", "glue")
    assert "MINI" in printed
    assert json.loads((installed.folder / "glue" / "result.json").read_text())["mini"] is True


@pytest.mark.slow
def test_a_language_model(installed):
    options = ["--mini", "--num_train_epochs", "1", "--hidden_size", "16", "--num_layers", "1", "--use_cpu"]
    installed("-m", "sqloss_plugins", "lm", *options, "--output_dir", "lm")
    assert json.loads((installed.folder / "lm" / "result.json").read_text())["mini"] is True


@pytest.mark.slow
def test_images(installed):
    options = ["--task", "mnist", "--mini", "--num_train_epochs", "1", "--use_cpu"]
    installed("-m", "sqloss_plugins", "images", *options, "--output_dir", "images")
    assert json.loads((installed.folder / "images" / "result.json").read_text())["mini"] is True


@pytest.mark.slow
def test_a_speech_recipe(installed):
    options = ["--mini", "--loss", "square", "--use_lm", "false", "--max_epoch", "1", "--stop_stage", "6"]
    printed = installed("-m", "sqloss_plugins", "asr", "librispeech", *options)
    assert "MINI" in printed
    assert [*installed.folder.rglob("valid.acc.ave.pth")]

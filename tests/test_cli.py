"""The command `sqloss`: what it prints, which commands it has, and what it says where something is missing."""

import importlib
import subprocess
import sys

import pytest

from sqloss_plugins import __version__, cli


def test_help_names_every_command(capsys):
    assert cli.main(["--help"]) == cli.main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in cli.COMMANDS)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sqloss {__version__}\n"


def test_an_unknown_command_is_refused(capsys):
    assert cli.main(["gleu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sqloss: error: there is no command 'gleu': choose from glue, ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_is_there_and_has_help(name, capsys):
    assert callable(importlib.import_module(cli.COMMANDS[name].module).main)
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_a_missing_extra_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "needs_more.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "glue", cli.COMMANDS["glue"]._replace(module="needs_more"))
    assert cli.main(["glue", "--task", "mrpc"]) == 2
    assert capsys.readouterr().err == (
        "sqloss: error: glue needs the package a_package_that_nobody_has, which is not installed: "
        "pip install 'sqloss_plugins[hf]'\n"
    )


def test_an_import_that_fails_without_a_name(tmp_path, monkeypatch, capsys):
    """As Transformers reports a class of its own whose module cannot be imported."""
    (tmp_path / "says_why.py").write_text("raise ModuleNotFoundError('Could not import module A.')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "glue", cli.COMMANDS["glue"]._replace(module="says_why"))
    assert cli.main(["glue"]) == 2
    assert capsys.readouterr().err == (
        "sqloss: error: glue cannot be imported (Could not import module A.): pip install 'sqloss_plugins[hf]'\n"
    )


def test_a_defect_of_our_own_is_not_called_a_missing_package(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import sqloss_plugins.no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.COMMANDS, "glue", cli.COMMANDS["glue"]._replace(module="broken"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["glue"])


def test_the_exit_status_is_the_commands(monkeypatch):
    module = importlib.import_module(cli.COMMANDS["compare"].module)
    monkeypatch.setattr(module, "main", lambda argv: 7 if argv == ["runs"] else 0)
    assert cli.main(["compare", "runs"]) == 7


def test_help_needs_no_pytorch():
    code = "import sys; from sqloss_plugins.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_a_reader_who_has_had_enough():
    """``sqloss ... | head`` ends like other programs, without a traceback."""
    command = f"{sys.executable} -m sqloss_plugins list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


@pytest.mark.parametrize("words", [["explain", "population", "--figures"], ["calibrate", "RUNS", "--output", "OUT"]])
def test_figures_that_cannot_be_drawn_are_told_before_the_work(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert "needs the package matplotlib, which is not installed: pip install 'sqloss_plugins[report]'" in printed.err
    assert (printed.out, "study" in printed.err, list(tmp_path.iterdir())) == ("", False, [])

"""The programs in examples/ run offline, as they are."""

import json
import runpy

import fake_runs
import pytest
from documents import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
FAST = ("plain_pytorch", "large_output_layer", "probabilities")
WANTED = {
    "plain_pytorch": "cross_entropy: test accuracy 0.9",
    "large_output_layer": "largest difference of the gradients: ",
    "probabilities": "k = 15, M = 30; outputs",
    "timm_model": "k = 1, M = 1 (not rescaled",
    "espnet_model": "log-probabilities of the first token: [",
    "trainer": "a tedious film {'bad'",
    "own_csv": "| minus cross_entropy",
    "sweep": "accuracy square {1: ",
}
"""What each prints; of the sweep with a command that trains nothing."""


def test_each_is_tried_and_short():
    assert {path.stem for path in EXAMPLES} == set(WANTED)
    assert {path.stem for path in EXAMPLES if len(path.read_text(encoding="utf-8").splitlines()) > 40} == set()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in sorted(WANTED)]
)
def test_example(name, tmp_path, monkeypatch, capfd):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    # What a sweep starts is a command that trains nothing: tests/test_sweep.py has a real one.
    monkeypatch.setenv("PYTHONPATH", fake_runs.python_path(tmp_path / "fake"))
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert WANTED[name] in capfd.readouterr().out


def test_notebook(monkeypatch):
    """Its cells, one after the other; plots are drawn, and not shown."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    notebook = json.loads((ROOT / "examples/plots.ipynb").read_text(encoding="utf-8"))
    drawn = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.gcf().axes) or plt.close("all"))
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert [len(axes) for axes in drawn] == [1, 2, 1]
    accuracies = [curve[-1] for curve in names["curves"].values()]
    assert min(accuracies) > 0.9

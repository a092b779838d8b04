"""The documents: their Python runs as it is written, commands have the options they name, links lead somewhere."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import result_files
import torch
from documents import DOCUMENTS, PAGES, ROOT, commands, python_blocks

from sqloss_plugins.cli import COMMANDS, main
from sqloss_plugins.experiments.evidence import gather
from sqloss_plugins.experiments.page import markdown
from sqloss_plugins.experiments.report import make_report
from sqloss_plugins.metrics import metric
from sqloss_plugins.results import read_result
from tools import front_page, keep_results, site_pages

README = ROOT / "README.md"


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in DOCUMENTS if python_blocks(page)], ids=name_of)
def test_python_runs(page, tmp_path, monkeypatch):
    """All blocks of a page, one after the other."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    for number, block in enumerate(python_blocks(page), start=1):
        exec(compile(block, f"{name_of(page)}, block {number}", "exec"), names)
        if number == 1 and isinstance(names.get("model"), torch.nn.Linear):
            assert (names["model"](names["inputs"]).argmax(dim=1) == names["targets"]).float().mean() > 0.5


def test_readme_is_short():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(map(len, python_blocks(README)[1].splitlines())) <= 120
    assert [len(block.splitlines()) <= 11 for block in python_blocks(README)] == [True, True]


def named_options(command):
    """The options of a command that documents name, and one of the pages that does."""
    return {option: page for page in DOCUMENTS for option in commands(page).get(command, ())}


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in COMMANDS if named_options(command)])
def test_commands_know_the_options_that_documents_name(command):
    named = named_options(command)
    output = io.StringIO()
    for options in ([], ["--objective", "masked"]) if command == "lm" else ([],):
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            main([command, *options, "--help"])
    known = set(re.findall(r"--\w+", output.getvalue()))
    if command == "sweep":  # what it does not know goes to the command that it runs
        named = {option: page for option, page in named.items() if option in ("--grid", "--seeds", "--workers")}
    assert {option: page for option, page in named.items() if option not in known} == {}


def test_documents_name_commands_that_there_are():
    assert {name for page in DOCUMENTS for name in commands(page)} <= {*COMMANDS, "help", "version"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


# ---------------------------------------------------------------- the README's table


RUNS = Path("recipes/RESULTS/result_files")


def test_the_report_is_what_the_result_files_say(monkeypatch):
    """All but the line that says which version of the package made it."""
    monkeypatch.chdir(ROOT)
    made = markdown(make_report(gather([RUNS]), [RUNS]))
    pages = [re.sub("^\\* made by: .*$", "", text, flags=re.MULTILINE) for text in
             (made, front_page.REPORT.with_suffix(".md").read_text(encoding="utf-8"))]  # fmt: skip
    assert pages[0] == pages[1], "run make readme"


def test_result_files_name_no_folder_of_the_machine_that_made_them():
    files = sorted((ROOT / RUNS).rglob("*"))
    assert {path.name for path in files if path.is_file()} == {"result.json"}
    for path in files:
        if path.is_file():
            assert re.findall(r'"(?:/|[A-Z]:)[^"]*"', path.read_text(encoding="utf-8")) == []


def test_results_are_kept_without_the_folders_of_the_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keep_results, "KEPT", tmp_path / "kept")
    source = {"source": "/home/someone/a.txt, hub: b/c", "fingerprint": "f" * 64}
    settings = {"learning_rate": 1e-4, "task": "a"}
    path = result_files.write(tmp_path / "runs", task="a", data=source, hyperparameters=settings)
    assert keep_results.main([str(tmp_path / "runs"), "letters", "--task", "mine"]) == 0
    found = read_result(tmp_path / "kept" / "letters" / path.relative_to(tmp_path / "runs"))
    assert (found.task, found.hyperparameters["task"], found.data["source"]) == ("mine", "mine", "a.txt, hub: b/c")
    assert (found.metrics, found.seed) == (read_result(path).metrics, 1)
    result_files.write(tmp_path / "runs", task="a", seed=2, mini=True)
    assert keep_results.main([str(tmp_path / "runs"), "letters"]) == 2
    assert "is of mini data: what is kept is of real data" in capsys.readouterr().err
    assert keep_results.main([str(tmp_path / "runs"), "../letters"]) == 2


def test_readme_is_what_the_results_say():
    assert front_page.main(["--check"]) == 0, "run make readme"


def test_a_readme_of_other_results_is_told(monkeypatch, tmp_path, capsys):
    report = json.loads(front_page.EARLIER_REPORT.read_text(encoding="utf-8"))
    for section in report["sections"]:
        for table in section["tables"]:
            if table["name"] in ("differences", "own_differences"):
                table["records"] = []
    other = tmp_path / "report.json"
    other.write_text(json.dumps(report), encoding="utf-8")
    monkeypatch.setattr(front_page, "EARLIER_REPORT", other)
    assert front_page.main(["--check"]) == 2
    error = "front_page: error: README.md is not what the reports in recipes/ say: run make readme\n"
    assert capsys.readouterr().err == error


def test_markers_are_needed():
    with pytest.raises(front_page.UserError, match="lacks the line"):
        front_page.replaced("no markers", "text")
    page = f"a\n{front_page.BEGIN}\nold\n{front_page.END}\nb"
    assert front_page.replaced(page, "new\\1") == f"a\n{front_page.BEGIN}\nnew\\1\n{front_page.END}\nb"


def record(task, arch, loss, by_seed, is_main=True, protocol="early_stopping"):
    mean = sum(by_seed) / len(by_seed)
    seeds = " ".join(f"{seed}:{value}" for seed, value in enumerate(by_seed, start=1))
    return {"task": task, "arch": arch, "protocol": protocol, "loss": loss, "split": "test", "metric": "accuracy",
            "is_main": is_main, "mean": mean, "seeds": len(by_seed), "by_seed": seeds}  # fmt: skip


def test_rows_of_a_report():
    """One row a task and model: the square loss with most seeds, not the one for cross-entropy's epochs."""
    square, other = "square (k=1, M=1)", "square (k=15, M=2)"
    differences = [
        record("cats", "net", square, [1.0, 2.0]),
        record("cats", "net", other, [1.0, 2.0, 6.0]),
        record("cats", "net", other, [9.0] * 4, is_main=False),
        record("cats", "net", other, [9.0] * 4, protocol="same_epochs"),
        record("cats", "net", "squentropy", [9.0] * 4),
    ]
    results = [
        {**record("cats", "net", loss, [0.0]), "mean": mean, "std": std, "about": "not the paper's; a part of the data"}
        for loss, mean, std in ((square, 1.0, None), (other, 93.456, 0.5), ("cross_entropy", 90.5, None))
    ]
    report = {"sections": [{"tables": [{"name": "own_differences", "records": differences},
                                       {"name": "own_results", "records": results}]}]}  # fmt: skip
    (row,) = front_page.rows_of_report(report)
    assert (row.square, row.cross_entropy, row.ahead, row.published) == (
        "93.46 +- 0.50",
        "90.50",
        [1.0, 2.0, 6.0],
        None,
    )
    shown = front_page.table([row])
    assert row.is_part
    assert "| cats, part of the data, net: accuracy % | 93.46 +- 0.50 | 90.50         |" in shown
    assert "| +3.00 (-3.6 to +9.6)     | 3     |" in shown  # 3 +- 4.303 * sqrt(7 / 3), by hand


def test_means_are_of_the_group_of_runs_that_the_difference_is_of():
    """Of two groups that differ in a setting; a report that does not say which is refused."""
    square, means = "square (k=1, M=1)", {"batch 8": (91.0, 90.0), "batch 16": (73.0, 70.0)}
    differences = [{**record("cats", "net", square, [a - b] * 2), "about": about} for about, (a, b) in means.items()]
    differences[1] = {**record("cats", "net", square, [3.0] * 3), "about": "batch 16"}
    results = [
        {**record("cats", "net", loss, [0.0]), "mean": mean, "std": None, "about": about}
        for about, pair in means.items()
        for loss, mean in zip((square, "cross_entropy"), pair, strict=True)
    ]
    report = {"sections": [{"tables": [{"name": "own_differences", "records": differences},
                                       {"name": "own_results", "records": results}]}]}  # fmt: skip
    (row,) = front_page.rows_of_report(report)
    assert (row.ahead, row.square, row.cross_entropy) == ([3.0, 3.0, 3.0], "73.00", "70.00")
    of_paper = {"sections": [{"tables": [{"name": "differences", "records": differences}]}]}
    without = {**differences[1]}
    del without["about"]
    report["sections"][0]["tables"][0]["records"] = [without]
    for each in (of_paper, report):
        with pytest.raises(front_page.UserError, match="several groups of runs of cats, net, early_stopping"):
            front_page.rows_of_report(each)


def test_earlier_rows_are_those_of_their_pages():
    for row, entry in zip(
        front_page.earlier_rows(front_page.EARLIER_RUNS.read_text(encoding="utf-8")),
        front_page.yaml.safe_load(front_page.EARLIER_RUNS.read_text(encoding="utf-8")),
        strict=True,
    ):
        page = (ROOT / entry["page"]).read_text(encoding="utf-8")
        assert row.square in page
        assert row.cross_entropy in page
        means = [float(text.partition(" ")[0]) for text in (row.square, row.cross_entropy)]
        sign = 1 if metric(row.metric).higher_is_better else -1
        assert row.mean == pytest.approx(sign * (means[0] - means[1]), abs=0.011)


def test_the_paper_is_beside_its_own_model_alone():
    row = front_page.Row("mrpc", "lstm_cnn", "accuracy", "", "", [1.0], "paper")
    assert row.published == 3.8  # 73.2 - 69.4
    assert row._replace(task="wsj", model="transformer", metric="wer").published == 0.1  # 5.8 - 5.7, fewer errors
    assert row._replace(model="minilm-l6").published is None
    assert row._replace(origin="own").published is None
    assert "MRPC (sentence pairs), part of the data, LSTM+CNN" in front_page.table([row._replace(is_part=True)])


# ---------------------------------------------------------------- the site's pages


def test_links_move_with_their_pages():
    moved = site_pages.moved_links
    assert moved("[a](../../recipes/glue/README.md)", "guides/text.md") == "[a](../recipes/glue/README.md)"
    assert moved("[a](../README.md#use)", "index.md") == "[a](overview.md#use)"
    assert moved("[a](../an4)", "recipes/glue/RESULTS.md") == "[a](../an4/README.md)"
    assert moved("[a](docs/images/floors.svg)", "CONTRIBUTING.md") == "[a](images/floors.svg)"
    assert moved("[the test](tests/toy_loss.py)", "CONTRIBUTING.md") == "`the test`"
    assert moved("[`a` b](docs/espnet.md)", "overview.md") == "[`a` b](espnet.md)"
    assert moved("[a](not_there.md)", "CONTRIBUTING.md") == "[a](not_there.md)"
    assert moved("`[a](../README.md)`\n\n    [a](../README.md)\n", "index.md").count("../README.md") == 2
    assert moved("[a](https://arxiv.org/abs/1412.7091)", "index.md") == "[a](https://arxiv.org/abs/1412.7091)"


def test_the_page_of_tasks_has_the_papers_numbers():
    page = site_pages.tasks_page()
    assert "### MRPC, BERT" in page
    assert "    sqloss glue --task mrpc --arch bert --loss square" in page
    assert re.search(r"\| accuracy % \| 83.8 +\| +\| 82.1 +\| +\| 83.6 +\|", page)
    assert page.count("\n### ") == 25

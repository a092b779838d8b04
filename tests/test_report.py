"""`sqloss report`: the paper's tables with our runs, what is counted and tested, and the files."""

import csv
import json
import os
import re
from html.parser import HTMLParser

import pytest
from commands import assert_refused
from result_files import write
from scipy import stats

from sqloss_plugins import paper
from sqloss_plugins.experiments import findings
from sqloss_plugins.experiments.evidence import gather
from sqloss_plugins.experiments.figures import figure_1, figure_2, figure_3
from sqloss_plugins.experiments.findings import ahead
from sqloss_plugins.experiments.report import main
from sqloss_plugins.experiments.tables import match, paper_tables
from sqloss_plugins.results import OF_OUTPUTS

PAPER_MODEL = "bert-base-cased"


def data(train=3668, validation=408, **changes):
    return {
        "source": "files", "fingerprint": "f" * 64, "test_fingerprints": {"test": "e" * 64},
        "sizes": {"train": train, "validation": validation, "test": 1725}, **changes,
    }  # fmt: skip


def errors(value, test):
    return {"validation": {OF_OUTPUTS: {"wer": value}}, "test": {OF_OUTPUTS: {"wer": test}}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """MRPC with BERT under both protocols, WSJ's word errors, a task of one's own with three losses, and mini runs."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, (square, entropy) in enumerate([(0.90, 0.88), (0.91, 0.88), (0.92, 0.90)], start=1):
        for loss, accuracy in (("square", square), ("cross_entropy", entropy)):
            k = 1.0 if loss == "square" else None
            curves = {"validation": {"accuracy": {"1": accuracy - 0.1, "2": accuracy}}}
            write(folder / "mrpc", loss, 1e-4, seed, accuracy, arch=PAPER_MODEL, data=data(), k=k, M=k, curves=curves)
            write(folder / "mini", loss, 1e-4, seed, 0.5, arch=PAPER_MODEL, data=data(), mini=True)
            write(folder / "own", loss, 1e-4, seed, accuracy - seed / 100, task="mine", data=data(train=10))
            sizes = data(sizes={"train_si284": 37416, "dev": 500, "test": 333})
            error = errors(0.08, 1 - accuracy + 0.01 * seed)
            shape = {
                "task": "wsj",
                "arch": "transformer",
                "protocol": "fixed_epochs",
                "selection": "wer",
                "data": sizes,
            }
            write(folder / "wsj", loss, 1e-3, seed, metrics=error, **shape)
        write(folder / "own", "squentropy", 1e-4, seed, 0.7, task="mine", data=data(train=10))
        same = {"arch": PAPER_MODEL, "data": data(), "protocol": "same_epochs", "k": 1.0, "M": 1.0}
        write(folder / "same", "square", 1e-4, seed, square - 0.01, **same)
    write(folder / "part", "square", 1e-4, 1, 0.99, task="mnist", arch="tcnn", data=data(6000, 1000), k=1.0, M=1.0)
    return folder


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert main([str(runs), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def content(made):
    found = json.loads((made / "report.json").read_text())
    return {table["name"]: table for section in found["sections"] for table in section["tables"]}


@pytest.fixture
def _without_figures(monkeypatch):
    """They take most of the time."""
    monkeypatch.setattr("sqloss_plugins.experiments.page.write_figures", lambda folder, figures: [])


def test_every_rescaling_has_its_panel_in_figure_3(tmp_path):
    for k, accuracy in ((1.0, 0.8), (15.0, 0.7)):
        write(tmp_path / f"{k}", "square", 1e-4, 1, accuracy, task="mine", data=data(train=10), k=k, M=k)
    write(tmp_path, "cross_entropy", 1e-4, 1, 0.75, task="mine", data=data(train=10))
    panels = [panel for panel in figure_3(gather([tmp_path])).panels if panel.title.startswith("mine")]
    assert [panel.title.partition(", square ")[2] for panel in panels] == ["(k=1, M=1)", "(k=15, M=15)"]
    assert [panel.ours["square"][0] for panel in panels] == pytest.approx([70.0, 60.0])  # on test data, 10 less
    assert [panel.ours["cross_entropy"][0] for panel in panels] == pytest.approx([65.0, 65.0])


def record(content, table, **wanted):
    (found,) = [each for each in content[table]["records"] if wanted.items() <= each.items()]
    return found


# ---------------------------------------------------------------- the paper's numbers


def test_the_papers_own_counts():
    """Its words are 22 and 21 of 28."""
    counts = findings.paper_counts()
    assert counts["square", findings.TASKS] == (17, 5, 5)
    assert counts["square", findings.ROWS] == (17, 6, 6)
    assert counts["std of square", findings.TASKS] == (19, 0, 8)
    assert counts["std of square", findings.ROWS] == (19, 1, 9)
    assert counts["square", "Table 2"] == (9, 3, 2), "its text: better or equal in 12 of 14"
    assert counts["square", "Table 3"] == (5, 0, 1), "its text: 5 of 6"
    assert counts["square", "Table 5"] == (6, 1, 1), "its text: 7 of 8"
    assert counts["square, same epochs", "Table 2"] == (8, 3, 3), "its text: better or equal in 11 of 14"


def test_what_is_found_in_the_papers_tables():
    said = " ".join(findings.paper_remarks(findings.paper_test_table()))
    for words in (
        "better or equal in 22 of 28",
        "better or equal in 22 of 27",
        "smaller in 19, equal in 0 and larger in 8 of 27",
        "LSTM+CNN on MRPC: Tables 10 to 12 have 20 epochs for both losses",
        "73.2 and 72.5",
        "BERT on SST-2",
        "BERT on QQP",
        "enwik8 has 204",
        "VGG+BLSTM on Librispeech (CER) 11.0 for 10.7",
        "a higher F1 in 5 out of 6 tasks; Table 3 has 4 better, 1 equal, 1 worse",
    ):
        assert words in said
    assert "Librispeech: Tables 10" not in said, "it has other epochs for the square loss"


def test_the_papers_differences_are_tested_by_welch():
    table = findings.paper_test_table()
    row = next(each for each in table.records if (each["task"], each["model"]) == ("enwik8", "transformer_xl"))
    assert row["ahead"] == -0.8
    p = stats.ttest_ind_from_stats(76.7, 0.228, 5, 77.5, 0.102, 5, equal_var=False).pvalue
    assert row["p_value_welch"] == pytest.approx(p)
    assert all(each["low"] < 1 < each["high"] for each in table.records), "five seeds show no single difference in std"


@pytest.mark.parametrize(
    ("number", "rows", "columns"),
    [(2, 14, 5), (3, 6, 5), (5, 8, 5), (7, 7, 5), (8, 29, 4), (13, 14, 5), (14, 6, 5), (15, 8, 5)]
    + [(16, 14, 8), (17, 6, 8), (18, 8, 8), (19, 7, 8)],
)
def test_every_table_has_the_papers_rows_and_columns(number, rows, columns):
    """Without any run, so that all of our cells are empty."""
    table = next(each for each in paper_tables([]) if each.name == f"table{number}")
    assert len(table.rows) == rows
    assert {len(row) for row in table.rows} == {len(table.columns)} == {columns}
    assert all(cell.text == "" and cell.paper for row in table.rows for cell in row[2:])


def test_rows_that_are_in_two_tables_have_the_same_models_and_tasks():
    """Training and test results stand side by side."""
    keys = [{(r.task, r.model, r.metric) for r in paper.published(b)} for b in ("train_results", "test_results")]
    assert keys[0] == keys[1]


# ---------------------------------------------------------------- our runs


def test_our_numbers_stand_beside_the_papers(content):
    cells = next(row for row in content["table2"]["shown"] if row[:2] == ["BERT", "MRPC"])
    assert cells == ["BERT", "MRPC", "81.00 +- 1.00 (3) [83.8]", "78.67 +- 1.15 (3) [82.1]", "80.00 +- 1.00 (3) [83.6]"]
    found = record(content, "table13", task="mrpc", model="bert")
    assert found["square_validation_mean"] == pytest.approx(91)
    assert found["square_validation_paper"] == 85.3
    assert record(content, "table5", task="wsj", model="transformer")["square_test_seeds"] == 3
    assert any("fixed number of epochs" in note for note in content["table5"]["notes"])
    assert record(content, "table8", task="mrpc", model="bert")["square_std"] == pytest.approx(1)


def test_scores_of_the_training_data_are_in_the_papers_tables_of_them(tmp_path):
    """From runs with --score_train, beside others."""
    for seed, accuracy in enumerate((0.98, 1.0), start=1):
        metrics = {split: {OF_OUTPUTS: {"accuracy": accuracy - less}} for split, less in
                   (("train", 0.0), ("validation", 0.1), ("test", 0.2))}  # fmt: skip
        settings = {"learning_rate": 1e-4, "score_train": seed == 1}
        write(tmp_path, "square", 1e-4, seed, metrics=metrics, arch=PAPER_MODEL, data=data(), hyperparameters=settings)
    (evidence,) = gather([tmp_path])
    tables = {table.name: table for table in paper_tables([evidence])}
    row = tables["table16"].rows[0]
    assert [cell.text for cell in row[:4]] == ["BERT", "MRPC", "99.00 +- 1.41 (2)", "79.00 +- 1.41 (2)"]
    assert [cell.paper for cell in row[2:4]] == ["99.7", "83.8"]
    told = "No run has measured its training data"
    assert not any(told in note for note in tables["table16"].notes)
    assert any(f"{told} (a run with --score_train has)" in note for note in tables["table19"].notes)


def test_what_is_not_the_papers_is_in_none_of_its_tables(content):
    assert record(content, "table7", task="mnist")["square_test_mean"] is None, "a part of the data"
    reasons = {(each["task"], each["about"]) for each in content["own_results"]["records"]}
    assert reasons == {("mine", "not a task of the paper's"), ("mnist", "7000 of 60000 examples")}
    assert {each["mean"] for each in content["mini_results"]["records"]} == {50.0, 40.0}
    places = {(each["mini"], "/mini/" in each["path"]) for each in content["runs"]["records"]}
    assert places == {(True, True), (False, False)}
    assert "mini" not in {each["over"] for each in content["counts"]["records"]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arch": "minilm-l6"}, "not a model of the paper's"),
        ({"task": "mrpc2"}, "not a task of the paper's"),
        ({"data": data(train=2000)}, "2408 of 3700 examples"),
        ({"hyperparameters": {"learning_rate": 1e-4, "max_predict_samples": 10}}, "a part of the data"),
        ({"mini": True}, "mini data"),
        ({}, ""),
    ],
)
def test_why_a_run_is_not_the_papers(tmp_path, changes, reason):
    write(tmp_path, **{"arch": PAPER_MODEL, "data": data(), **changes})
    (found,) = gather([tmp_path])
    assert found.reason == reason
    assert (found.section == "paper") == (reason == "")


def test_differences_by_seed_with_interval_test_and_power(content):
    found = record(content, "differences", task="mrpc", protocol="early_stopping", split="test", metric="accuracy")
    gains = [2.0, 3.0, 2.0]
    assert found["mean"] == pytest.approx(7 / 3)
    expected = stats.ttest_1samp(gains, 0)
    assert found["p_value"] == pytest.approx(expected.pvalue)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval()))
    assert found["p_value_holm"] == found["p_value"], "the only one of its protocol"
    assert found["is_main"]
    assert found["seeds_needed"] == 3
    validation = record(content, "differences", task="mrpc", protocol="early_stopping", split="validation")
    assert validation["p_value_holm"] is None, "it does not decide"


def test_fewer_errors_are_ahead(content):
    found = record(content, "differences", task="wsj", split="test")
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["seeds_better"] == 3


def test_the_same_epochs_are_compared_with_the_cross_entropy_of_the_same_settings(tmp_path):
    """Not with another one that has more seeds."""
    for batch, accuracy, seeds in ((16, 0.5, 1), (32, 0.8, 2)):
        settings = {"learning_rate": 1e-4, "per_device_train_batch_size": batch}
        for seed in range(1, seeds + 1):
            write(tmp_path / f"{batch}", "cross_entropy", 1e-4, seed, accuracy, hyperparameters=settings)
    settings = {"learning_rate": 1e-4, "per_device_train_batch_size": 16}
    write(tmp_path / "same", "square", 1e-4, 1, 0.6, protocol="same_epochs", hyperparameters=settings)
    (found,) = (each for each in ahead(gather([tmp_path])) if each.is_main)
    assert found.by_seed == {1: pytest.approx(10.0)}


def test_what_is_not_in_per_cent_is_equal_where_it_is_shown_as_0(tmp_path):
    """0.004 bits are shown as such, and are no tie."""
    for loss, bits in (("square", 1.204), ("cross_entropy", 1.2)):
        metrics = {split: {OF_OUTPUTS: {"bpc": bits}} for split in ("validation", "test")}
        write(tmp_path, loss, 1e-4, 1, metrics=metrics, selection="bpc")
    (ours, *_) = findings.count_table({"all": ahead(gather([tmp_path]))}).records
    assert (ours["wins"], ours["ties"], ours["losses"]) == (0, 0, 1)


def test_the_same_epochs_are_compared_with_cross_entropys_early_stopping(content):
    found = record(content, "differences", task="mrpc", protocol="same_epochs", split="test")
    assert found["mean"] == pytest.approx(4 / 3)


def test_wins_and_losses_are_counted_by_loss_and_protocol(content):
    ours = {(each["compared"], each["over"]): each for each in content["counts"]["records"] if each["source"] == "ours"}
    assert ours["square, early_stopping", "the paper's tasks"]["wins"] == 1
    assert ours["squentropy, early_stopping", "other tasks and models"]["losses"] == 1
    assert ours["square, same_epochs", "the paper's tasks"]["tasks"] == 1


def test_standard_deviations_are_compared(content):
    found = record(content, "std", task="mrpc", loss="square (k=1, M=1)")
    assert found["ratio"] == pytest.approx(1 / 1.1547, rel=1e-4)
    assert found["low"] < 1 < found["high"]


def test_of_several_settings_those_with_most_seeds_are_shown(tmp_path):
    for seed in (1, 2):
        write(tmp_path / "a", "square", seed=seed, arch=PAPER_MODEL, data=data(), k=2.0, M=2.0)
        write(tmp_path / "c", "square", seed=seed, accuracy=0.7, arch=PAPER_MODEL, data=data(), k=1.0, M=1.0)
    settings = {"learning_rate": 1e-4, "warmup_steps": 5}
    write(tmp_path / "b", arch=PAPER_MODEL, data=data(), hyperparameters=settings, k=1.0, M=1.0)
    found = match(gather([tmp_path]), "mrpc", "bert")
    assert found.summaries["square"].rescaling == (1.0, 1.0), "the paper's, though the other is better"
    assert len(found.summaries["square"].seeds) == 2
    assert found.notes == [
        "2 groups of runs differ in settings (early_stopping): shown is that with most seeds",
        "square (k=1, M=1) of 2; the paper has k=1, M=1",
    ]


def test_an_option_that_is_not_set_makes_no_other_group(tmp_path):
    write(tmp_path / "old", seed=1)
    write(tmp_path / "new", seed=2, hyperparameters={"learning_rate": 1e-4, "a_new_option": None})
    assert len(gather([tmp_path])) == 1


def test_long_names_leave_room_for_the_plot(tmp_path):
    """Plotly draws nothing at the width of a phone where a label takes it all."""
    for loss in ("square", "cross_entropy"):
        write(tmp_path, loss, task="a-long-name-without-any-spaces-that-a-user-gave-to-a-task")
    layout = figure_1(ahead(gather([tmp_path]))).interactive().layout
    lines = [line for text in layout.yaxis.ticktext for line in text.split("<br>")]
    assert max(map(len, lines)) == 26
    assert layout.margin.l <= 200
    assert not layout.yaxis.automargin


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_k_and_M_has_a_line_in_figure_1_and_one_of_its_own_in_figure_2(number, tmp_path):
    for seed in (1, 2):
        curves = {"validation": {"accuracy": {"1": 0.5}}}
        write(tmp_path / "ce", "cross_entropy", 1e-4, seed, 0.7, task="mine", curves=curves)
        for k in range(1, number + 1):
            rescaling = {"k": float(k), "M": 1.0}
            write(tmp_path / f"{k}", "square", 1e-4, seed, 0.7 + k / 100, task="mine", curves=curves, **rescaling)
    evidence = gather([tmp_path])
    found = {line.label: line.ours.x for line in figure_1(ahead(evidence)).lines if line.label.startswith("mine")}
    labels = [f"mine, bert, square (k={k}, M=1), early_stopping" for k in range(1, number + 1)]
    assert list(found) == (labels if number > 1 else ["mine, bert"])
    assert list(found.values()) == pytest.approx(list(range(1, number + 1)))
    figure = figure_2(evidence)
    (panel,) = figure.panels
    drawn = {(curve.color, panel.dash(curve)) for curve in panel.curves}
    assert len(drawn) == number + 1
    assert {line.get_linestyle() for line in figure.drawn().axes[0].lines} == set(["-", "--", ":"][:number])


def test_curves_are_those_of_the_chosen_rate(runs, tmp_path):
    assert figure_2(gather([runs / "own"])) is None, "none was recorded"
    for loss in ("square", "cross_entropy"):
        for seed in (1, 2):
            for rate, accuracy in ((1e-4, 0.8), (1e-3, 0.9)):
                curves = {"validation": {"accuracy": {"10": accuracy, "2": accuracy - 0.3}}}
                write(tmp_path, loss, rate, seed, accuracy, curves=curves)
    (panel,) = figure_2(gather([tmp_path])).panels
    assert panel.axis == "validation accuracy %"
    assert {(curve.loss, curve.seed) for curve in panel.curves} == {
        (loss, seed) for loss in ("cross_entropy", "square") for seed in (1, 2)
    }
    assert len(panel.curves) == 4
    for curve in panel.curves:
        assert list(curve.by_epoch) == [2.0, 10.0]
        assert list(curve.by_epoch.values()) == pytest.approx([60, 90])


# ---------------------------------------------------------------- the files


class Page(HTMLParser):
    """The tables of a page, each as rows of cells, and everything that a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.fetched, self.open, self.script = [], [], [], None
        self.scripts = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.fetched += [attributes[name] for name in ("src", "srcset", "data", "action") if name in attributes]
        if tag == "link" or (tag == "a" and not attributes["href"].startswith("#")):
            self.fetched.append(attributes["href"])
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "small":
            self.tables[-1][-1][-1] += " ["
        elif tag == "script":
            self.script = attributes.get("id", "program")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "small":
            self.tables[-1][-1][-1] += "]"

    def handle_data(self, text):
        if self.open and self.open[-1] in ("td", "button", "small"):
            self.tables[-1][-1][-1] += text.removeprefix("paper ") if self.open[-1] == "small" else text
        elif self.open and self.open[-1] == "script":
            self.scripts[self.script] = self.scripts.get(self.script, "") + text


def test_the_page_has_the_numbers_and_fetches_nothing(made, content):
    text = (made / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.fetched == ["data:,"]
    assert "http" not in re.sub(r'<script type="text/plain".*?</script>', "", text, flags=re.S)
    assert "@import" not in text
    tables = [[[cell.strip() for cell in row] for row in table] for table in page.tables]
    assert len(tables) == len(content)
    for found, table in zip(tables, content.values(), strict=True):
        assert found == [table["columns"], *table["shown"]]
    assert set(json.loads(page.scripts["plots"])) == {"figure1", "figure2", "figure3", "seed_sensitivity"}
    assert (made / "report.html").stat().st_size < 5e6


@pytest.mark.usefixtures("_without_figures")
def test_what_names_hold_is_text_on_the_page(tmp_path):
    """A task's name is the user's."""
    for loss in ("square", "cross_entropy"):
        write(tmp_path / "runs", loss, task="</script><script>alert(1)</script>")
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "alert(1)" in text
    assert "<script>alert" not in text


def test_markdown_csv_and_json_have_the_same_numbers(made, content):
    text = (made / "report.md").read_text()
    for table in content.values():
        part = text.split(f"### {table['title']}\n\n")[1].split("\n\n")[0]
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines()]
        assert [lines[0], *lines[2:]] == [table["columns"], *table["shown"]]
        with (made / "tables" / f"{table['name']}.csv").open() as file:
            rows = list(csv.DictReader(file))
        for row, expected in zip(rows, table["records"], strict=True):
            assert row == {name: "" if value is None else str(value) for name, value in expected.items()}


def test_every_figure_is_there(made):
    for name in ("figure1", "figure3", "seed_sensitivity"):
        assert (made / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        svg = (made / "figures" / f"{name}.svg").read_text()
        assert "MRPC, BERT" in svg, "text is text"
    assert (made / "figures" / "figure2.png").exists()


@pytest.mark.usefixtures("_without_figures")
def test_a_report_is_replaced_and_other_files_stay(tmp_path, capsys):
    out = tmp_path / "out"
    write(tmp_path / "a", "square", mini=True)
    assert main([str(tmp_path / "a"), "--output", str(out)]) == 0
    assert (out / "tables" / "mini_results.csv").exists()
    (out / "notes.txt").write_text("mine")
    write(tmp_path / "b", "square")
    assert main([str(tmp_path / "b"), "--output", str(out)]) == 0
    assert not (out / "tables" / "mini_results.csv").exists()
    assert (out / "notes.txt").read_text() == "mine"
    assert not list(out.glob(".report.*"))
    before = (out / "report.html").read_bytes()
    (tmp_path / "b" / "broken").mkdir()
    (tmp_path / "b" / "broken" / "result.json").write_text("{")
    capsys.readouterr()
    assert main([str(tmp_path / "b"), "--output", str(out)]) == 2
    assert "broken/result.json is not a result file" in capsys.readouterr().err
    assert (out / "report.html").read_bytes() == before


@pytest.mark.usefixtures("_without_figures")
def test_files_elsewhere_are_never_taken_away(tmp_path):
    write(tmp_path / "a")
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "mine.csv").write_text("mine")
    (out / "report.json").write_text(json.dumps({"files": ["../mine.csv", "tables/../../mine.csv", 3, "/etc/x"]}))
    assert main([str(tmp_path / "a"), "--output", str(out)]) == 0
    assert (tmp_path / "mine.csv").exists()


def test_refusals(tmp_path, monkeypatch, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert_refused(main, [], "sqloss report", "runs is not a folder", empty, capsys)
    assert_refused(main, ["."], "sqloss report", "no result.json below .", empty, capsys)
    write(tmp_path / "runs")
    (tmp_path / "file").write_text("")
    options = [str(tmp_path / "runs"), "--output", str(tmp_path / "file")]
    assert_refused(main, options, "sqloss report", "is a file: name a folder", empty, capsys)
    below = [str(tmp_path / "runs"), "--output", str(tmp_path / "file" / "report")]
    assert_refused(main, below, "sqloss report", "cannot write the report to", empty, capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    write(tmp_path / "runs")
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    options = [str(tmp_path / "runs"), "--output", str(out)]
    assert_refused(main, options, "sqloss report", "cannot write the report to", out, capsys)

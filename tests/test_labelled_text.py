"""Labelled texts of one's own: columns, labels, rows held out, and what is wrong with them."""

import json
import re
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from sqloss_plugins.data import hold_out as holding
from sqloss_plugins.data import labelled_text
from sqloss_plugins.data.hold_out import HoldOut
from sqloss_plugins.data.labelled_text import load_files, load_from_hub
from sqloss_plugins.data.labels import Columns
from sqloss_plugins.data.progress import bars_for_long_work
from sqloss_plugins.errors import UserError

USUAL = Columns()
NONE_HELD_OUT = HoldOut(validation_size=0)
GOOD = "text,label\na cat,1\na dog,10\na cow,2\n"


def load(folder, columns=USUAL, hold_out=NONE_HELD_OUT, *, suffix=".csv", labels=None, kind=None, **files):
    """From the content of the files."""
    paths = {}
    for split, content in files.items():
        paths[split] = folder / f"{split}{suffix}"
        if suffix == ".parquet":
            pq.write_table(content if isinstance(content, pyarrow.Table) else pyarrow.table(content), paths[split])
        elif isinstance(content, list):
            paths[split] = folder / f"{split}.jsonl"
            paths[split].write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        else:
            paths[split].write_text(content, encoding="utf-8")
    return load_files(paths, columns, hold_out, labels=labels, kind=kind, cache_dir=str(folder / "cache"))


def rows(found, split="train"):
    return found.data.splits[split][:]


def test_labels_are_compared_as_text_and_sorted_as_numbers(tmp_path):
    validation = [{"label": 2, "text": "a bird"}, {"label": "10", "text": "a fish"}]
    found = load(tmp_path, train=GOOD, validation=validation, test="text\na bee\n")
    assert found.labels == ("1", "2", "10")
    assert found.kind == "single_label"
    assert found.texts == ("text",)
    assert rows(found) == {"text": ["a cat", "a dog", "a cow"], "label": [0, 2, 1]}
    assert rows(found, "validation") == {"text": ["a bird", "a fish"], "label": [1, 2]}
    assert rows(found, "test") == {"text": ["a bee"]}
    assert found.data.splits["train"].features["label"] == Value("int64")
    assert found.data.source == ", ".join(
        str(tmp_path / name) for name in ("train.csv", "validation.jsonl", "test.csv")
    )
    assert found.data.notes == (f"{tmp_path / 'test.csv'} has no labels: its predictions are not scored",)


def test_words_are_sorted_alphabetically(tmp_path):
    assert load(tmp_path, train="text,label\na,b\nb,10\nc,9\n").labels == ("10", "9", "b")
    assert load(tmp_path, train="text,label\na,1\nb,-2\nc,01\n").labels == ("-2", "01", "1")
    assert load(tmp_path, train=[{"text": "a", "label": True}, {"text": "b", "label": False}]).labels == (
        "False",
        "True",
    )


def test_numbers_of_pandas_are_the_same_labels(tmp_path):
    """A column of whole numbers is one of floating-point numbers where pandas has missing values in it."""
    train, validation = {"text": ["a", "b"], "label": [1, 2]}, {"text": ["c", "d"], "label": [2.0, 1.0]}
    found = load(tmp_path, suffix=".parquet", train=train, validation=validation)
    assert rows(found, "validation")["label"] == [1, 0]


def test_labels_that_are_one_number_are_told(tmp_path):
    """As two files have them that were put together; where they are numbers there is nothing to tell."""
    train = "text,label\na,1\nb,1.0\nc,2\nd,2\ne,x\n"
    warning = "WARNING: labels that are the same number are classes of their own: '1' and '1.0'"
    assert load(tmp_path, train=train).data.notes == (warning,)
    alike = "text,label\na,1\nb,1.0\nc,2\nd,2.5\n"
    assert not any("WARNING" in note for note in load(tmp_path, train=alike).data.notes)


HEADERS = {
    "sentence2,label,sentence1": ("sentence1", "sentence2"),
    "idx,premise,hypothesis,label": ("premise", "hypothesis"),
    "question1,question2,label": ("question1", "question2"),
    "sentence,question,label": ("question", "sentence"),
    "title,text,label": ("text",),
    "Text,Label": ("Text",),
    "sentence,title,label": ("sentence",),
    "idx,review,id,labels": ("review",),
}


@pytest.mark.parametrize("header", list(HEADERS))
def test_usual_columns(header, tmp_path):
    names = header.split(",")
    lines = "".join(",".join(f"{name}{i}" for name in names) + "\n" for i in range(2))
    found = load(tmp_path, train=f"{header}\n{lines}")
    assert found.texts == HEADERS[header]
    assert found.data.splits["train"].column_names == [*HEADERS[header], "label"]
    assert rows(found)[found.texts[0]] == [f"{found.texts[0]}{i}" for i in range(2)]


def test_columns_by_name_whatever_their_case(tmp_path):
    """As the public file of text5 has them: Title,Conference."""
    columns = Columns(texts=("title",), label="conference")
    found = load(tmp_path, columns, train="Title,Conference\na,X\nb,Y\n", validation="Conference,TITLE\nX,c\n")
    assert rows(found) == {"title": ["a", "b"], "label": [0, 1]}
    assert rows(found, "validation") == {"title": ["c"], "label": [0]}
    exact = load(tmp_path, columns, train="Title,title,conference\nx,a,X\ny,b,Y\n")
    assert rows(exact)["title"] == ["a", "b"]


def test_columns_are_joined_or_left_out(tmp_path):
    train = "title,body,tag,label\nA,b,t,1\nC,,u,2\n"
    found = load(tmp_path, Columns(texts=("title", "body", "tag"), text_delimiter=" | "), train=train)
    assert found.texts == ("text",)
    assert rows(found) == {"text": ["A | b | t", "C |  | u"], "label": [0, 1]}
    found = load(tmp_path, Columns(removed=("title", "body")), train=train)
    assert rows(found) == {"tag": ["t", "u"], "label": [0, 1]}


def test_several_labels(tmp_path):
    """As lists, of names or numbers, or with a delimiter; a row may have none."""
    lists = [{"text": "a", "label": ["y", "x"]}, {"text": "b", "label": []}, {"text": "c", "label": ["x"]}]
    found = load(tmp_path, train=lists)
    assert (found.kind, found.labels) == ("multi_label", ("x", "y"))
    assert rows(found)["label"] == [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
    delimited = load(tmp_path, Columns(label_delimiter="|"), train="text,label\na,y| x\nb,\nc,x\n")
    assert rows(delimited) == rows(found)
    assert delimited.data.fingerprint == found.data.fingerprint
    table = {"text": ["a", "b", "c"], "label": [[10, 9], [], [9]]}
    numbers = load(tmp_path, suffix=".parquet", train=table, test={"text": ["d"], "label": [[]]})
    assert numbers.labels == ("9", "10")
    assert rows(numbers)["label"] == rows(found)["label"]
    assert rows(numbers, "test") == {"text": ["d"]}


def test_classes_that_a_file_names_itself(tmp_path):
    features = {"text": Value("string"), "label": ClassLabel(names=["neg", "neutral", "pos"])}
    data = Dataset.from_dict({"text": ["a", "b"], "label": [2, 0]}, features=Features(features))
    hidden = Dataset.from_dict({"text": ["c"], "label": [-1]}, features=Features(features))
    found = load(tmp_path, suffix=".parquet", train=data.data.table, test=hidden.data.table)
    assert found.labels == ("neg", "neutral", "pos")
    assert rows(found)["label"] == [2, 0]
    assert "label" not in rows(found, "test")
    (tmp_path / "validation.csv").write_text("text,label\nd,pos\n", encoding="utf-8")
    files = {"train": tmp_path / "train.parquet", "validation": tmp_path / "validation.csv"}
    named = load_files(files, USUAL, NONE_HELD_OUT, cache_dir=str(tmp_path / "cache"))
    assert rows(named, "validation")["label"] == [2]


@pytest.mark.parametrize(
    ("train", "is_regression", "kind"),
    [
        ("text,label\na,1\nb,0.5\n", None, "regression"),
        ("text,label\na,1\nb,2\n", None, "single_label"),
        ("text,label\na,1\nb,2.5\nc,x\n", None, "single_label"),
        ("text,label\na,1.5\nb,inf\n", None, "single_label"),
        ("text,label\na,1\nb,0.5\n", False, "single_label"),
        ("text,label\na,1\nb,2\n", True, "regression"),
        ([{"text": "a", "label": 1.0}, {"text": "b", "label": 2}], None, "regression"),
    ],
)
def test_regressions(train, is_regression, kind, tmp_path):
    found = load(tmp_path, Columns(is_regression=is_regression), train=train, test="text,label\nc,\n")
    assert found.kind == kind
    assert "label" not in rows(found, "test")
    if kind == "regression":
        assert found.labels == ()
        assert rows(found)["label"][0] == 1.0
        assert found.data.splits["train"].features["label"] == Value("float64")
    told = [note for note in found.data.notes if "this is a regression" in note]
    assert bool(told) == (kind == "regression" and is_regression is None)


def test_labels_of_a_saved_model(tmp_path):
    options = {"labels": ["b", "a"], "validation": "text,label\nx,a\ny,b\n"}
    assert rows(load(tmp_path, **options), "validation")["label"] == [1, 0]
    several = load(tmp_path, kind="multi_label", **options)
    assert rows(several, "validation")["label"] == [[0.0, 1.0], [1.0, 0.0]]
    unlabelled = load(tmp_path, labels=["b", "a"], test="text\nx\n")
    assert (unlabelled.kind, unlabelled.labels, rows(unlabelled, "test")) == (
        "single_label",
        ("b", "a"),
        {"text": ["x"]},
    )
    assert load(tmp_path, labels=[], test="text,label\nx,1\n").kind == "regression"
    assert load(tmp_path, Columns(is_regression=True), validation="text,label\nx,1\n").kind == "regression"
    assert load(tmp_path, train="text,label\nx,a\ny,b\n", labels=["c", "b", "a"]).labels == ("c", "b", "a")


def test_other_names_for_a_saved_models_labels(tmp_path):
    """In another case, or by their numbers; never by number where the data has one of the names."""
    options = {"labels": ["Neg", "Pos"], "validation": "text,label\nx,pos\ny,neg\n"}
    assert rows(load(tmp_path, **options), "validation")["label"] == [1, 0]
    found = load(tmp_path, labels=["Neg", "Pos"], validation="text,label\nx,1\ny,0\n")
    assert rows(found, "validation")["label"] == [1, 0]
    assert found.data.notes == ("labels are taken for the model's by their numbers: 0 is Neg, 1 is Pos",)
    classes = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    table = Dataset.from_dict({"text": ["x"], "label": [1]}, features=classes).data.table
    found = load(tmp_path, suffix=".parquet", labels=["LABEL_0", "LABEL_1"], validation=table)
    assert rows(found, "validation")["label"] == [1]
    for labels, validation in (
        (["1", "2"], "text,label\nx,0\ny,1\n"),
        (["bad", "Pos"], table),
        (["Neg", "Pos"], "text,label\nx,1\ny,2\n"),
    ):
        with pytest.raises(UserError, match="has labels that the model has not"):
            load(
                tmp_path, suffix=".csv" if validation is not table else ".parquet", labels=labels, validation=validation
            )


def test_relabelled_data_is_the_same_data(tmp_path):
    found = load(tmp_path, train=GOOD, test="text,label\na cat,2\n").data
    changed = found.relabelled([2, 0, 1])
    assert changed.splits["train"]["label"][:] == [2, 1, 0]
    assert changed.splits["test"]["label"][:] == [0]
    assert (changed.fingerprint, changed.test_fingerprints) == (found.fingerprint, found.test_fingerprints)
    assert found.splits["train"]["label"][:] == [0, 2, 1], "a copy"
    sets = load(tmp_path, Columns(label_delimiter="+"), train="text,label\na,x\nb,y+z\n", test="text\nc\n").data
    assert sets.relabelled([1, 2, 0]).splits["train"]["label"][:] == [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]


def test_fingerprints_tell_data_apart(tmp_path):
    def fingerprint(text):
        return load(tmp_path, train=text).data.fingerprint

    assert fingerprint("text,label\na,0.00001\nb,0.00002\n") != fingerprint("text,label\na,0.00001\nb,0.00003\n")
    assert fingerprint("label,text\n1,a\n2,b\n") == fingerprint("text,label\na,1\nb,2\n")
    test = load(tmp_path, labels=["1", "2"], test="text,label\na,1\n").data
    assert list(test.test_fingerprints) == ["test"]
    assert test.fingerprint != fingerprint(GOOD)


def many(count, classes, start=0):
    return "text,label\n" + "".join(f"text {start + i},{'abcdefgh'[i % classes]}\n" for i in range(count))


@given(
    counts=st.lists(st.integers(2, 12), min_size=2, max_size=4),
    validation_size=st.one_of(st.integers(0, 8), st.floats(0.05, 0.4)),
    test_size=st.one_of(st.integers(0, 8), st.floats(0.05, 0.4)),
    seed=st.integers(0, 3),
)
@settings(max_examples=50)
def test_a_hold_out_is_a_partition_with_class_shares_kept(counts, validation_size, test_size, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    train = Dataset.from_dict({"label": labels})
    tables = {"train": holding.Table(train, "train")}
    hold_out = HoldOut(validation_size, test_size, seed)
    wanted = [np.ceil(size * len(labels)) if size < 1 else size for size in (test_size, validation_size)]
    if sum(wanted) >= len(labels):
        with pytest.raises(UserError, match="too few to hold out"):
            holding.hold_out_sizes(tables, hold_out)
        return
    sizes = holding.hold_out_sizes(tables, hold_out)
    assert [sizes.get("test", 0), sizes.get("validation", 0)] == wanted
    if not sizes:
        return
    parts, notes = holding._draw_hold_out(train, sizes, seed, "single_label")
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    for split, size in sizes.items():
        assert len(parts[split]) == size
        assert np.array_equal(parts[split], np.sort(parts[split]))
    rest = np.arange(len(labels))
    for split in ("test", "validation"):
        if split in sizes and any(f"for {split}: {sizes[split]} rows, by class" in note for note in notes):
            movable = rest[np.bincount(labels[rest])[labels[rest]] > 1]
            shares = np.bincount(labels[movable], minlength=len(counts)) * sizes[split] / len(movable)
            assert np.abs(np.bincount(labels[parts[split]], minlength=len(counts)) - shares).max() < 1
        rest = np.setdiff1d(rest, parts.get(split, []))
    again, _ = holding._draw_hold_out(train, sizes, seed, "single_label")
    assert all(np.array_equal(parts[split], again[split]) for split in parts)


def test_rows_are_held_out_by_class(tmp_path):
    found = load(tmp_path, hold_out=HoldOut(0.1, 8, seed=1), train=many(80, 4) + "alone,z\n")
    assert found.data.sizes == {"train": 64, "validation": 9, "test": 8}
    assert np.bincount(found.data.splits["test"]["label"]).tolist() == [2, 2, 2, 2]
    assert rows(found)["text"][-1] == "alone"
    assert rows(found, "test")["text"] == [f"text {number}" for number in found.data.numbers["test"]]
    assert rows(found)["text"] == sorted(rows(found)["text"][:-1], key=lambda text: int(text.split()[1])) + ["alone"]
    assert found.data.notes == (
        "held out of the training data for test: 8 rows, by class (seed 1)",
        "held out of the training data for validation: 9 rows, by class (seed 1)",
        "classes of which one row is left, which stays in the training data: 1",
    )
    other = load(tmp_path, hold_out=HoldOut(0.1, 8, seed=2), train=many(80, 4) + "alone,z\n")
    assert rows(other, "test") != rows(found, "test")
    few = load(tmp_path, hold_out=HoldOut(3), train=many(80, 4))
    assert few.data.notes == ("held out of the training data for validation: 3 rows, at random (seed 42)",)
    given_ones = load(tmp_path, hold_out=HoldOut(0.1, 0.1), train=many(80, 4), validation=many(8, 4, 80))
    assert given_ones.data.sizes == {"train": 72, "validation": 8, "test": 8}


def test_rows_of_other_kinds_are_held_out_at_random(tmp_path):
    for columns, train in (
        (Columns(label_delimiter="+"), "text,label\na,x+y\nb,x\nc,\nd,y\n"),
        (Columns(is_regression=True), "text,label\na,1\nb,2\nc,3\nd,4\n"),
    ):
        found = load(tmp_path, columns, HoldOut(1, 1), train=train)
        assert found.data.sizes == {"train": 2, "validation": 1, "test": 1}
        assert "at random" in found.data.notes[0]
        assert sorted(text for split in found.data.splits for text in rows(found, split)["text"]) == list("abcd")


def test_texts_in_two_splits_are_told(tmp_path):
    test = "text,label\na cat,2\na dog,1\nan owl,1\n"
    assert load(tmp_path, train=GOOD, test=test).data.notes == (
        "WARNING: the texts of 2 of 3 test rows are in the training data, too",
    )
    twice = "text,label\n" + "".join(f"text {i % 10},{'ab'[i % 2]}\n" for i in range(20))
    notes = load(tmp_path, hold_out=HoldOut(4), train=twice).data.notes
    assert re.fullmatch("WARNING: the texts of [1-4] of 4 validation rows are in the training data, too", notes[-1])


def test_data_is_memory_mapped_and_found_again_by_another_process(tmp_path):
    """What is kept does not grow with every run, and a file that changes is read anew."""
    found = load(tmp_path, train=GOOD)
    files = sorted((tmp_path / "cache").rglob("*.arrow"))
    assert found.data.splits["train"].cache_files
    program = (
        "from pathlib import Path; from sqloss_plugins.data.labelled_text import *; "
        f"load_files({{'train': Path({str(tmp_path / 'train.csv')!r})}}, Columns(), HoldOut(0), "
        f"cache_dir={str(tmp_path / 'cache')!r})"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert sorted((tmp_path / "cache").rglob("*.arrow")) == files
    assert rows(load(tmp_path, train=GOOD.replace("cat", "ant")))["text"][0] == "a ant"


def test_a_bar_is_shown_where_many_texts_are_read(tmp_path, monkeypatch, capsys):
    for name in ("data.labelled_text.MANY_ROWS", "data.tables.MANY_BYTES"):
        monkeypatch.setattr(f"sqloss_plugins.{name}", 10)
    many = "text,label\n" + "".join(f"number {i},{i % 2}\n" for i in range(20))
    for wanted in (False, True):
        with bars_for_long_work(wanted):
            load(tmp_path, train=many.replace("number", f"wanted {wanted}"))
        said = capsys.readouterr().err
        assert ("Generating train split" in said, "Texts and labels of" in said) == (wanted, wanted)


def test_the_hub(monkeypatch):
    """Names, configurations and splits as the hub has them."""
    label = List(ClassLabel(names=["sad", "glad"]))
    data = DatasetDict(
        {
            "train": Dataset.from_dict(
                {"text": ["a", "b"], "labels": [[1], []], "id": [0, 1]},
                features=Features({"text": Value("string"), "labels": label, "id": Value("int64")}),
            )
        }
    )
    data["dev"] = data["test"] = data["unsupervised"] = data["train"]
    asked = []
    monkeypatch.setattr(labelled_text, "load_dataset", lambda *names, **_: asked.append(names) or data)
    found = load_from_hub("a/b", "c", {"validation": "dev"}, Columns(), HoldOut(), remove_splits=["test"])
    assert asked == [("a/b", "c")]
    assert found.data.source == "hub: a/b c"
    assert found.labels == ("sad", "glad")
    assert list(found.data.splits) == ["train", "validation"]
    assert rows(found) == {"text": ["a", "b"], "label": [[0.0, 1.0], [0.0, 0.0]]}
    with pytest.raises(UserError, match="a/b has no split 'valid': it has 'train', 'dev', 'test', 'unsupervised'"):
        load_from_hub("a/b", None, {"validation": "valid"}, Columns(), HoldOut())
    with pytest.raises(UserError, match="a/b has no split 'x'"):
        load_from_hub("a/b", None, {}, Columns(), HoldOut(), remove_splits=["x"])
    texts = [None, "b"]
    data["train"] = Dataset.from_dict({"text": texts, "label": [1, 0]})
    with pytest.raises(UserError, match="a/b, train row 1: 'text' is missing"):
        load_from_hub("a/b", None, {}, Columns(), HoldOut(), remove_splits=["test"])
    data["train"] = data["train"].select([])
    with pytest.raises(UserError, match="a/b: split 'train' has no rows"):
        load_from_hub("a/b", None, {}, Columns(), HoldOut())


ROW = {"text": "a", "label": 1}
BAD = {
    "no label column": (
        {"train": "text,lable\na,1\n"},
        "train.csv has no column 'label', but 'text', 'lable': name the right one by --label_column_name",
    ),
    "semicolons": (
        {"train": "text;label\na;1\n"},
        "train.csv has no column 'label', but 'text;label': its fields seem to be separated by semicolons; separate",
    ),
    "label column of validation": ({"train": GOOD, "validation": "text\na\n"}, "validation.csv has no column 'label'"),
    "named label": ({"train": GOOD, "columns": Columns(label="stars")}, "has no column 'stars'"),
    "named text": (
        {"train": GOOD, "columns": Columns(texts=("title",))},
        "train.csv has no column 'title', but 'text', 'label': name the right one by --text_column_names",
    ),
    "text column of test": ({"train": GOOD, "test": "title\na\n"}, "test.csv has no column 'text', but 'title'"),
    "two columns of one name": (
        {"train": "Text,TEXT,label\na,b,1\n", "columns": Columns(texts=("text",))},
        "has no column 'text'",
    ),
    "separator in one row": (
        {"train": "text;label\na;b\n", "hold_out": HoldOut(validation_size=0.1)},
        "its fields seem to be separated by semicolons",
    ),
    "no usual texts": (
        {"train": "title,body,label\na,b,1\n"},
        "does not show which columns are the texts (it has 'title', 'body', 'label'): name one or two",
    ),
    "no text": ({"train": "idx,label\n0,1\n"}, "does not show which columns are the texts"),
    "three texts": (
        {"train": "a,b,c,label\n1,2,3,4\n", "columns": Columns(texts=("a", "b", "c"))},
        "takes one text or a pair, not 3: join them by --text_column_delimiter",
    ),
    "one text to join": ({"train": GOOD, "columns": Columns(text_delimiter=" ")}, "'text' is the only one"),
    "a text twice": ({"train": GOOD, "columns": Columns(texts=("text", "text"))}, "names 'text' more than once"),
    "text and label": ({"train": GOOD, "columns": Columns(texts=("label",))}, "cannot be both text and label"),
    "text called label": (
        {"train": "label,stars\na,1\n", "columns": Columns(texts=("label",), label="stars")},
        "cannot be called 'label'",
    ),
    "removed": ({"train": GOOD, "columns": Columns(removed=("x",))}, "--remove_columns: no split has a column 'x'"),
    "empty text": ({"train": GOOD + '" \n",1\n'}, "train.csv line 5: 'text' is empty"),
    "empty text of a pair": (
        {"train": "sentence1,sentence2,label\na,b,1\nc,,2\n"},
        "train.csv line 3: 'sentence2' is empty",
    ),
    "joined texts": (
        {"train": "a,b,label\n1,,1\n ,,2\n", "columns": Columns(texts=("a", "b"), text_delimiter=" ")},
        "train.csv line 3: 'a' is empty",
    ),
    "number as text": (
        {"train": [{"text": "a", "label": 1}, {"text": 5, "label": 2}]},
        "train.jsonl line 2: 'text' is not text but 5",
    ),
    "numbers as texts": (
        {"train": [{"text": 5, "label": 1}, {"text": 6, "label": 2}]},
        "train.jsonl line 1: 'text' is not text but 5",
    ),
    "not a number as text": (
        {"train": [ROW, {"text": float("nan"), "label": 2}]},
        "train.jsonl line 2: 'text' is missing",
    ),
    "text that lacks": ({"train": [ROW, {"label": 2}]}, "train.jsonl line 2: 'text' is missing"),
    "no label": ({"train": GOOD + "x,\n"}, "train.csv line 5: 'label' has no label"),
    "blank label": ({"train": GOOD + "x, \n"}, "train.csv line 5: 'label' has no label"),
    "nan label": ({"train": GOOD + "x,NaN\n"}, "train.csv line 5: 'label' has no label"),
    "label that lacks": ({"train": [ROW, {"text": "b"}]}, "train.jsonl line 2: 'label' has no label"),
    "NaN label": ({"train": [ROW, {"text": "b", "label": float("nan")}]}, "train.jsonl line 2: 'label' has no label"),
    "null in parquet": (
        {"train": {"text": ["a", "b"], "label": ["x", None]}, "suffix": ".parquet"},
        "train.parquet row 2: 'label' has no label",
    ),
    "no label in validation": (
        {"train": GOOD, "validation": "text,label\nb,\n"},
        "validation.csv line 2: 'label' has no label",
    ),
    "some labels of a test": (
        {"train": GOOD, "test": "text,label\na,1\nb,\n"},
        "test.csv line 3: 'label' has no label",
    ),
    "blank before": ({"train": GOOD + "x, 1\n"}, "train.csv line 5: label ' 1' begins or ends with a blank"),
    "blank after": ({"train": GOOD + "x,1 \n"}, "train.csv line 5: label '1 ' begins or ends with a blank"),
    "unknown": (
        {"train": GOOD, "validation": "text,label\na,1\n" + "".join(f"b,{i}\n" for i in range(20, 27))},
        "validation.csv has labels that the training data has not: '20', '21', '22', '23', '24' and 2 others (first: ",
    ),
    "unknown in test": (
        {"train": GOOD, "test": "text,label\nb,x\n"},
        "test.csv has labels that the training data has not: 'x'",
    ),
    "unknown to the model": (
        {"validation": GOOD, "labels": ["1", "2"]},
        "validation.csv has labels that the model has not: '10'",
    ),
    "no names": ({"validation": GOOD}, "without training data the labels come from a trained model"),
    "one class": ({"train": "text,label\na,x\nb,x\n"}, "every label of "),
    "an object": (
        {"train": [{"text": "a", "label": {"x": 1}}]},
        "train.jsonl line 1: 'label' is not a label but {'x': 1}",
    ),
    "some lists": ({"train": [ROW, {"text": "a", "label": [1]}]}, "train.jsonl line 2: 'label' is not a label but [1]"),
    "not finite": (
        {"train": "text,label\na,1\nb,inf\n", "columns": Columns(is_regression=True)},
        "train.csv line 3: label 'inf' is not a finite number",
    ),
    "not a number": (
        {"train": "text,label\na,1\nb,1_0\n", "columns": Columns(is_regression=True)},
        "train.csv line 3: label '1_0' is not a finite number",
    ),
    "no number of validation": (
        {"train": "text,label\na,1\nb,1.5\n", "validation": "text,label\na,good\n"},
        "validation.csv line 2: label 'good' is not a finite number",
    ),
    "a label twice": (
        {"train": "text,label\na,x+y\nb,x+x\n", "columns": Columns(label_delimiter="+")},
        "train.csv line 3: 'label' has a label twice",
    ),
    "0 and 1": ({"train": [{"text": "a", "label": [0, 0, 1]}]}, "labels are names, not a 0 or 1 for each label"),
    "an empty one": (
        {"train": "text,label\na,x++y\n", "columns": Columns(label_delimiter="+")},
        "train.csv line 2: 'label' has no label in one place",
    ),
    "null in a list": (
        {"train": [{"text": "a", "label": ["x", None]}]},
        "train.jsonl line 1: 'label' has no label in one place",
    ),
    "null for a list": (
        {"train": [{"text": "a", "label": ["x"]}, {"text": "b"}]},
        "train.jsonl line 2: 'label' has no label",
    ),
    "one label": (
        {"train": "text,label\na,x\nb,\n", "columns": Columns(label_delimiter="+")},
        "has 1 labels: multi-label data has at least two",
    ),
    "no labels": ({"train": [{"text": "a", "label": []}]}, "has 0 labels: multi-label data has at least two"),
    "delimited lists": (
        {"train": [{"text": "a", "label": ["x"]}], "columns": Columns(label_delimiter=",")},
        "leave --label_column_delimiter out",
    ),
    "empty delimiter": ({"train": GOOD, "columns": Columns(label_delimiter="")}, "--label_column_delimiter is empty"),
    "regression of lists": (
        {"train": [{"text": "a", "label": [1.5]}], "columns": Columns(is_regression=True)},
        "--do_regression takes one number",
    ),
    "regression for a classifier": (
        {"validation": GOOD, "labels": ["1"], "kind": "single_label", "columns": Columns(is_regression=True)},
        "the model was trained on single_label data, and this is regression",
    ),
    "lists for a classifier": (
        {"validation": [{"text": "a", "label": ["x"]}], "labels": ["x", "y"], "kind": "single_label"},
        "the model was trained on single_label data",
    ),
    "nothing": ({}, "there is no data"),
    "negative size": ({"train": GOOD, "hold_out": HoldOut(-1)}, "--validation_size -1 is neither a fraction"),
    "broken size": (
        {"train": GOOD, "hold_out": HoldOut(0.1, 1.5)},
        "--test_size 1.5 is neither a fraction below 1 nor a number of rows",
    ),
    "no size": ({"train": GOOD, "hold_out": HoldOut(float("nan"))}, "--validation_size nan is neither"),
    "all rows": (
        {"train": GOOD, "hold_out": HoldOut(3)},
        "train.csv has 3 rows, too few to hold out 3 for validation: make --validation_size smaller",
    ),
    "all rows together": (
        {"train": GOOD, "hold_out": HoldOut(0.5, 0.1)},
        "too few to hold out 2 for validation and 1 for test",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_data(case, tmp_path):
    options, message = BAD[case]
    with pytest.raises(UserError) as raised:
        load(tmp_path, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)

"""Mini text5 and text20: the public files' layout, the same data every time, to be learnt but not by heart."""

import csv

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from sqloss_plugins import paper
from sqloss_plugins.data.hold_out import HoldOut
from sqloss_plugins.data.labelled_text import load_files
from sqloss_plugins.data.labels import Columns
from sqloss_plugins.data.mini_text import load_mini, write_mini_text

FILES = {
    "text5": ("title_conference.csv", ["Title", "Conference"], 600),
    "text20": ("stack-overflow-data.csv", ["post", "tags"], 1500),
}


@pytest.mark.parametrize("task", list(FILES))
def test_mini_text(task, tmp_path):
    name, header, count = FILES[task]
    path = write_mini_text(task, tmp_path)
    assert path == tmp_path / name
    with path.open(encoding="utf-8", newline="") as file:
        first, *rows = csv.reader(file)
    assert first == header
    assert len(rows) == len({text for text, _ in rows}) == count, "no text occurs twice"
    found = load_mini(task)
    classes = next(row["classes"] for row in paper.tables()["datasets"] if row["task"] == task)
    assert len(found.labels) == classes
    assert found.kind == "single_label"
    assert found.texts == (header[0].lower(),)
    assert found.data.mini
    assert "mini data" in found.data.source
    assert found.data.sizes == {"train": count * 7 // 10, "validation": count // 10, "test": count // 5}
    for split, data in found.data.splits.items():
        counts = np.bincount(data["label"], minlength=classes)
        assert np.ptp(counts) <= 1, f"as many of every class in {split}"
    assert load_mini(task).data.fingerprint == found.data.fingerprint
    own = load_files(
        {"train": path}, Columns((header[0],), header[1]), HoldOut(0.1, 0.2), cache_dir=str(tmp_path / "cache")
    )
    assert own.data.splits["test"][:][header[0]] == found.data.splits["test"][:][found.texts[0]]


@pytest.mark.parametrize("task", list(FILES))
def test_mini_text_can_be_learnt(task):
    """By a bag of words, far above chance, but not all of it."""
    found = load_mini(task)
    train, test = (found.data.splits[split] for split in ("train", "test"))
    model = make_pipeline(CountVectorizer(), MultinomialNB()).fit(train[found.texts[0]][:], train["label"][:])
    assert 0.7 < model.score(test[found.texts[0]][:], test["label"][:]) < 0.97

"""Texts with any number of very many labels: folders of the Extreme Classification Repository, and WordNet's synonyms.

A folder of the repository (Bhatia et al., http://manikvarma.org/downloads/XC/XMLRepository.html), such as that of
LF-AmazonTitles-131K, has ``trn.json`` and ``tst.json``, an object on each line with ``title``, perhaps ``content``, and
``target_ind``, the numbers of its labels; ``lbl.json``, likewise the labels; and perhaps ``filter_labels_test.txt``,
pairs of a test text and a label that is the same thing, which does not count as an answer. Each may be packed by gzip,
with the ending ``.gz``.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets.utils import tqdm
from numpy.typing import NDArray

from sqloss_plugins.data.hold_out import divided, size_held_out
from sqloss_plugins.data.progress import MANY_BYTES, bar_if
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.data.wordnet import (
    KINDS,
    PARTS,
    TRAITS,
    Definition,
    held_out_definitions,
    read_definitions,
)
from sqloss_plugins.errors import UserError, brief, sentence
from sqloss_plugins.text_files import decoded_json, decoded_lines

_FEATURES = Features({"text": Value("string"), "label": List(Value("int64"))})
_ONE_OF = "trn.json, tst.json and lbl.json (or .json.gz), or WordNet's data.noun, data.verb, data.adj or data.adv"


@dataclass(frozen=True)
class LabelLists:
    """Texts with lists of labels.

    Attributes:
        data: splits train, validation and test, with the columns ``text`` and ``label``, a list of class numbers.
        labels: their names, each once.
        counts: how many texts have each label, of all that there are to train and validate on, of shape (C).
        count: how many such texts there are.
        filtered: split -> row -> class numbers that do not count as an answer to it.
    """

    data: TaskData
    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    count: int
    filtered: Mapping[str, Mapping[int, Sequence[int]]] = field(default_factory=dict)


def load_label_lists(folder: Path, content: bool = False, held_out: int | None = None, seed: int = 42) -> LabelLists:
    """The texts of a folder, some of those for training held out to validate on.

    Args:
        folder: in the repository's layout; or with WordNet's files, whose texts are definitions, their labels all
            synonyms that they define, and of which as many are held out to test on, too.
        content: whether ``content`` follows the title in a text.
        held_out: how many are validated on; None: 5000, but at most a twentieth.
        seed: decides which they are.

    Raises:
        UserError: what is wrong with the files, and where.
    """
    with bar_if(any(path.stat().st_size >= MANY_BYTES // 4 for path in folder.glob("*.json*"))):
        return _read(folder, content, held_out, seed)


def _read(folder: Path, content: bool, held_out: int | None, seed: int) -> LabelLists:
    parts = [part for part in PARTS if (folder / f"data.{part}").is_file()]
    if _find(folder, "trn.json") is None and parts:
        if content:
            raise UserError(f"{folder} has WordNet's files, which have no content beside the definitions")
        return _synonyms(read_definitions(folder, parts), str(folder), held_out, seed)
    labels = _unique(record.text for record in _records(_found(folder, "lbl.json"), content=False, num_labels=None))
    splits = {}
    for split, name in (("train", "trn.json"), ("test", "tst.json")):
        path = _found(folder, name)
        splits[split] = list(_records(path, content, len(labels)))
        if not splits[split]:
            raise UserError(f"{path} is empty")
    total = len(splits["train"])
    size = size_held_out(total, held_out)
    if not 0 < size < total:
        raise UserError(f"{folder} has {total} texts to train on, too few to hold out {size} for validation")
    notes = []
    graded = sum(record.is_graded for records in splits.values() for record in records)
    if graded:
        notes.append(f"relevances other than 1, in {graded} texts, count as 1")
    filters = _find(folder, "filter_labels_test.txt")
    filtered = _filters(filters, len(splits["test"]), len(labels)) if filters else {}
    if filters:
        notes.append(f"labels that are no answer to a test text, by {filters.name}: {sum(map(len, filtered.values()))}")
    found = _label_lists(splits, labels, str(folder), notes, {"validation": size}, seed)
    return replace(found, filtered={"test": filtered})


class _Record(NamedTuple):
    text: str
    labels: Sequence[int]
    is_graded: bool = False  # a label has another relevance than 1


def _label_lists(
    records: Mapping[str, Sequence[_Record]],
    labels: tuple[str, ...],
    source: str,
    notes: Sequence[str],
    sizes: Mapping[str, int],
    seed: int,
) -> LabelLists:
    """The splits as data, those that are lacking held out of the training data, with warnings of repeated texts."""
    splits = {
        split: Dataset.from_dict(
            {"text": [one.text for one in its], "label": [[*one.labels] for one in its]}, _FEATURES
        )
        for split, its in records.items()
    }
    hashes = {split: np.array([hash(one.text) for one in its]) for split, its in records.items()}
    found, _, told = divided(splits, hashes, sizes, seed, "multi_label")
    known = [record for split, its in records.items() if split != "test" for record in its]
    counts = np.bincount([label for record in known for label in record.labels], minlength=len(labels))
    return LabelLists(TaskData(found, source, notes=(*notes, *told)), labels, counts, len(known))


# ---------------------------------------------------------------- the repository's files


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _found(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise UserError(f"{folder} has no {name}: give a folder with {_ONE_OF}")
    return path


def _records(path: Path, content: bool, num_labels: int | None) -> Iterator[_Record]:
    """The lines of a file; those of ``lbl.json``, for which there is no number of labels, have none."""
    names = ("title", "content") if content else ("title",)
    lines = tqdm(decoded_lines(path, str(path)), desc=f"Reading {path.name}", unit=" lines")
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number},"
        try:
            record = decoded_json(line, where)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is no JSON object: {sentence(error)}") from error
        texts = [str(record[name]) for name in names if isinstance(record, dict) and isinstance(record.get(name), str)]
        if len(texts) < len(names):
            raise UserError(f"{where} is no object with a {' and a '.join(names)}, each a text")
        text = " ".join(part.strip() for part in texts).strip()
        if num_labels is None:
            yield _Record(text, ())
            continue
        labels, relevances = record.get("target_ind"), record.get("target_rel", [])
        _check_labels(where, labels, num_labels)
        yield _Record(text, labels, not isinstance(relevances, list) or any(each != 1 for each in relevances))


def _check_labels(where: str, labels: Any, num_labels: int) -> None:
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise UserError(f"{where} has no target_ind, a list of the numbers of its labels")
    outside = [label for label in labels if not 0 <= label < num_labels]
    if outside:
        raise UserError(f"{where} has the label {outside[0]}, and lbl.json has those from 0 to {num_labels - 1}")
    if len(set(labels)) < len(labels):
        raise UserError(f"{where} has a label twice: {brief(labels)}")


def _unique(titles: Iterable[str]) -> tuple[str, ...]:
    """Names of the labels: their titles, with the label's number where there is none, or another has the same."""
    names = list(titles)
    if len(names) < 2:
        raise UserError(f"lbl.json has {len(names)} labels: at least two are needed")
    count = Counter(names)
    is_name = [bool(name) and count[name] == 1 for name in names]
    numbered = tuple(name if is_name[i] else f"{name} (label {i})".strip() for i, name in enumerate(names))
    if len(set(numbered)) < len(numbered):
        raise UserError("lbl.json has titles that cannot be told apart, not by the numbers of the labels either")
    return numbered


def _filters(path: Path, num_texts: int, num_labels: int) -> dict[int, list[int]]:
    filtered: dict[int, list[int]] = {}
    for number, line in enumerate(decoded_lines(path, str(path)), start=1):
        if not line.strip():
            continue
        pair = line.split()
        if len(pair) != 2 or not all(each.isdecimal() for each in pair):
            raise UserError(f"{path}, line {number}, is not the numbers of a text and a label: {brief(line.strip())}")
        text, label = map(int, pair)
        if text >= num_texts or label >= num_labels:
            raise UserError(f"{path}, line {number}, is of no text or no label that there is: {brief(line.strip())}")
        if label not in filtered.setdefault(text, []):
            filtered[text].append(label)
    return filtered


# ---------------------------------------------------------------- WordNet


def _synonyms(definitions: Sequence[Definition], source: str, held_out: int | None, seed: int) -> LabelLists:
    validation, test = held_out_definitions(definitions, size_held_out(len(definitions), held_out), seed, True)
    if not validation:
        raise UserError(f"{source} has no definitions to hold out: one is needed whose words all have another")
    labels = tuple(sorted({word for definition in definitions for word in definition.synonyms}))
    number = {word: i for i, word in enumerate(labels)}
    records = [_Record(one.text, [number[word] for word in one.synonyms]) for one in definitions]
    elsewhere = {*validation, *test}
    splits = {
        "train": [record for i, record in enumerate(records) if i not in elsewhere],
        "validation": [records[i] for i in validation],
        "test": [records[i] for i in test],
    }
    return _label_lists(splits, labels, source, (), {}, seed)


# ---------------------------------------------------------------- mini data


_TEXTS, _TRAITS_EACH, _TRAITS_SAID = 2400, 4, 3


def write_mini_repository(folder: Path) -> None:
    """Writes made-up texts in the repository's layout, the same every time.

    Each of 160 labels is a kind of thing with a trait. Each of 2400 texts is about a kind with four traits, which are
    its labels, and names three of them, in changing words. One of the test texts is a label.
    """
    rng = Random("mini extreme classification")
    labels = [f"{trait} {kind}" for kind in KINDS for trait, _ in TRAITS]
    texts = []
    for _ in range(_TEXTS):
        kind, traits = rng.randrange(len(KINDS)), rng.sample(range(len(TRAITS)), _TRAITS_EACH)
        said = [rng.choice(TRAITS[trait]) for trait in traits[:_TRAITS_SAID]]
        numbers = sorted(kind * len(TRAITS) + trait for trait in traits)
        texts.append({"title": f"{KINDS[kind]} that is {' and '.join(said)}", "target_ind": numbers})
    test = texts[-200:]
    test.append({"title": labels[5], "target_ind": [4, 6]})
    titles: list[dict[str, Any]] = [{"title": label} for label in labels]
    for name, records in (("lbl", titles), ("trn", texts[:-200]), ("tst", test)):
        lines = [json.dumps({"uid": str(i), **record}) + "\n" for i, record in enumerate(records)]
        (folder / f"{name}.json").write_text("".join(lines), encoding="utf-8")
    (folder / "filter_labels_test.txt").write_text(f"{len(test) - 1} 5\n", encoding="utf-8")


def load_mini(held_out: int | None = None, seed: int = 42) -> LabelLists:
    """The mini data, written to a folder and read back by the reader of real files."""
    with tempfile.TemporaryDirectory() as folder:
        write_mini_repository(Path(folder))
        found = load_label_lists(Path(folder), held_out=held_out, seed=seed)
    return replace(found, data=replace(found.data, source="mini data made by this package", mini=True))

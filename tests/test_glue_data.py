"""Reading GLUE: its own layouts, the hub's, and what is wrong with a file."""

import csv

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from sqloss_plugins.data import glue
from sqloss_plugins.data.glue import TASKS, write_submission
from sqloss_plugins.data.mini_glue import SIZES, load_mini
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError

HEADER = "sentence1\tsentence2\tlabel\n"
GOOD = HEADER + 'He said " no .\tHe refused .\t1\nA cat sat .\tIt rained .\t0\n'


def load_from_dir(task, folder):
    return glue.load_from_dir(task, folder, cache_dir=str(folder / "cache"))


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", list(TASKS))
def test_mini_data_is_glue_for_every_task(name):
    task = TASKS[name]
    data = load_mini(task)
    assert data.mini
    assert data.sizes["train"] == SIZES["train"]
    assert set(data.splits) == {"train", "validation", "test", *task.extra_splits}
    texts = {split: set(zip(*(columns[t] for t in task.texts), strict=True)) for split, columns in data.splits.items()}
    assert data.sizes["validation"] == data.sizes["test"] == SIZES["dev"]
    for a in texts:
        for b in texts:
            assert a == b or not texts[a] & texts[b], "no text in two splits"
    labels = data.splits["train"]["label"]
    if task.is_regression:
        assert min(labels) == 0.0
        assert max(labels) == 5.0
    else:
        assert np.bincount(labels, minlength=len(task.labels)).min() > SIZES["train"] / 4
    assert load_mini(task).fingerprint == data.fingerprint


def test_quotation_marks_are_text(tmp_path):
    data = load_from_dir(TASKS["mrpc"], write(tmp_path, train=GOOD, dev=GOOD))
    assert data.splits["train"]["sentence1"][0] == 'He said " no .'
    assert data.splits["train"]["label"][:] == [1, 0]
    assert "test" not in data.splits


def test_glues_own_columns_and_folder_names(tmp_path):
    own = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tb\n"
    hidden = "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tc\td\n"
    write(tmp_path / "MRPC", train=own, dev=own, test=hidden)
    data = load_from_dir(TASKS["mrpc"], tmp_path)
    assert data.splits["train"][:] == {"sentence1": ["a"], "sentence2": ["b"], "label": [1]}
    assert data.splits["test"][:] == {"sentence1": ["c"], "sentence2": ["d"]}


def test_cola_has_no_header_and_its_test_set_has(tmp_path):
    write(
        tmp_path, train="gj04\t1\t\tIt works .\n", dev="gj04\t0\t*\tWorks it .\n", test="index\tsentence\n0\tWell .\n"
    )
    data = load_from_dir(TASKS["cola"], tmp_path)
    assert [data.splits[s]["sentence"][:] for s in data.splits] == [["It works ."], ["Works it ."], ["Well ."]]
    assert data.splits["validation"]["label"][:] == [0]


def test_class_names_and_mnli_files(tmp_path):
    text = "sentence1\tsentence2\tgold_label\na\tb\tneutral\nc\td\tcontradiction\n"
    write(tmp_path, train=text, dev_matched=text, dev_mismatched=text)
    data = load_from_dir(TASKS["mnli"], tmp_path)
    assert data.splits["validation_mismatched"]["label"][:] == [1, 2]
    assert data.splits["train"]["premise"][:] == ["a", "c"]


def test_parquet_and_its_shards(tmp_path):
    for split, label in (("train", [1, 0]), ("validation", [0, 1]), ("test", [-1, -1])):
        table = pyarrow.table({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": label, "idx": [0, 1]})
        shards = 2 if split == "train" else 1
        pq.write_table(table, tmp_path / f"{split}-00000-of-0000{shards}.parquet")
    with pytest.raises(UserError, match="has 1 of the 00002 files train-"):
        load_from_dir(TASKS["mrpc"], tmp_path)
    table = pyarrow.table({"sentence1": ["e"], "sentence2": ["f"], "label": [1], "idx": [2]})
    pq.write_table(table, tmp_path / "train-00001-of-00002.parquet")
    data = load_from_dir(TASKS["mrpc"], tmp_path)
    assert data.splits["train"]["label"][:] == [1, 0, 1]
    assert "label" not in data.splits["test"].column_names, "labels of -1 are not public"


def test_lines_of_windows_and_characters_that_end_no_line(tmp_path):
    """Only a newline ends a row; a carriage return before it belongs to neither row nor label; "NA" is a text."""
    text = "\ufeff" + HEADER + "NA\tnull \r\x00 x\u2028y\t1\n\n a\t\t0"
    write(tmp_path, train=text.replace("\n", "\r\n"), dev=GOOD)
    data = load_from_dir(TASKS["mrpc"], tmp_path)
    expected = {"sentence1": ["NA", " a"], "sentence2": ["null \r\x00 x\u2028y", ""], "label": [1, 0]}
    assert data.splits["train"][:] == expected
    write(tmp_path / "unix", train=text, dev=GOOD)
    assert load_from_dir(TASKS["mrpc"], tmp_path / "unix").fingerprint == data.fingerprint


def test_data_is_memory_mapped_and_limited(tmp_path):
    """A file that changes is read anew, and the first rows are other data than all of them."""
    data = load_from_dir(TASKS["mrpc"], write(tmp_path, train=GOOD, dev=GOOD))
    assert data.splits["train"].cache_files
    limited = data.limited({"train": 1, "validation": 5, "test": None})
    assert limited.sizes == {"train": 1, "validation": 2}
    assert limited.fingerprint != data.fingerprint
    write(tmp_path, train=GOOD.replace("cat", "cow"))
    assert load_from_dir(TASKS["mrpc"], tmp_path).splits["train"]["sentence1"][1] == "A cow sat ."


def test_the_fingerprint_is_of_the_content(tmp_path):
    write(tmp_path / "tsv", train=GOOD, dev=GOOD)
    (tmp_path / "parquet").mkdir()
    for split in ("train", "validation"):
        rows = {"sentence1": ['He said " no .', "A cat sat ."], "sentence2": ["He refused .", "It rained ."]}
        pq.write_table(pyarrow.table({**rows, "label": [1, 0]}), tmp_path / "parquet" / f"{split}.parquet")
    first, second = (load_from_dir(TASKS["mrpc"], tmp_path / kind).fingerprint for kind in ("tsv", "parquet"))
    assert first == second
    write(tmp_path / "tsv", test=GOOD)
    with_test = load_from_dir(TASKS["mrpc"], tmp_path / "tsv")
    assert with_test.fingerprint == first, "of training and validation data alone"
    assert list(with_test.test_fingerprints) == ["test"]
    write(tmp_path / "tsv", train=GOOD.replace("cat", "dog"))
    assert load_from_dir(TASKS["mrpc"], tmp_path / "tsv").fingerprint != first


BAD_FILES = {
    "missing column": ("sentence1\tlabel\na\t1\n", "has no column 'sentence2' .it has 'sentence1', 'label'."),
    "no labels": ("sentence1\tsentence2\na\tb\n", "has no column 'label'"),
    "after blank lines": (HEADER + "\n\na\tb\t1\nc\t0\n", "line 5 has 2 fields"),
    "too few fields": (HEADER + "a\tb\t1\nc\t0\n", "line 3 has 2 fields where the header has 3"),
    "a tab too many": (HEADER + "a\tb\tc\t1\n", "line 2 has 4 fields"),
    "quoted": (HEADER + '"a"\t"b"\t1\n"c ""d"""\t"e"\t0\n', "is in quotation marks"),
    "label out of range": (
        HEADER + "a\tb\t2\n",
        "label '2' of example 1 is not one of 0 .not_equivalent., 1 .equivalent.",
    ),
    "label not a number": (HEADER + "a\tb\tyes\n", "label 'yes' of example 1"),
    "fractional label": (HEADER + "a\tb\t0.5\n", "label '0.5' of example 1"),
    "hidden labels": (HEADER + "a\tb\t-1\n", "has 1 labels of -1"),
    "doubled column": ("sentence1\tsentence1\tlabel\na\tb\t1\n", "names 'sentence1' more than once"),
    "empty": ("", "is empty"),
    "header only": (HEADER, "has no examples"),
}


@pytest.mark.parametrize("case", list(BAD_FILES))
@pytest.mark.parametrize("split", ["train", "dev"])
def test_bad_files(case, split, tmp_path):
    text, message = BAD_FILES[case]
    write(tmp_path, **{"train": GOOD, "dev": GOOD, split: text})
    with pytest.raises(UserError, match=message) as raised:
        load_from_dir(TASKS["mrpc"], tmp_path)
    assert f"{split}.tsv" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_bad_data(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        load_from_dir(TASKS["mrpc"], tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no validation data for mrpc: put dev\.tsv or validation\.tsv"):
        load_from_dir(TASKS["mrpc"], write(tmp_path / "a", train=GOOD))
    with pytest.raises(UserError, match="not a similarity from 0 to 5"):
        load_from_dir(TASKS["stsb"], write(tmp_path / "b", train=HEADER + "a\tb\t5.5\n", dev=HEADER))
    (tmp_path / "c").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "c" / name).write_bytes(b"sentence1\tsentence2\tlabel\n\xff\xfe\tb\t1\n")
    with pytest.raises(UserError, match=r"train\.tsv is not UTF-8 text \(line 2\)"):
        load_from_dir(TASKS["mrpc"], tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        load_from_dir(TASKS["mrpc"], tmp_path / "d")
    mixed = write(tmp_path / "e", train=GOOD, dev=GOOD, test=HEADER + "a\tb\t1\nc\td\t-1\n")
    with pytest.raises(UserError, match="has 1 labels of -1"):
        load_from_dir(TASKS["mrpc"], mixed)


def test_a_few_broken_lines_of_many_are_left_out_and_said(tmp_path):
    """QQP comes with some: two dozen among 364 thousand."""
    lines = [f"a{i}\tb\t{i % 2}" for i in range(20000)]
    lines[77] = "only half a line"
    write(tmp_path, train=HEADER + "\n".join(lines) + "\n", dev=GOOD)
    data = load_from_dir(TASKS["mrpc"], tmp_path)
    assert data.sizes["train"] == 19999
    assert data.notes == ("train.tsv: 1 of 20000 lines have missing fields and are left out",)


def test_single_precision_similarities_are_the_same_data():
    columns = {"sentence1": ["A cat ."], "sentence2": ["A dog ."]}
    one, other = (
        TaskData(
            DatasetDict(dict.fromkeys(("train", "validation"), Dataset.from_dict({**columns, "label": [label]}))), ""
        )
        for label in (3.8, float(np.float32(3.8)))
    )
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("task", "split", "predictions", "name", "text"),
    [
        ("mrpc", "test", [1, 0], "MRPC.tsv", ["1", "0"]),
        ("rte", "test", [1, 0], "RTE.tsv", ["not_entailment", "entailment"]),
        ("mnli", "test", [2], "MNLI-m.tsv", ["contradiction"]),
        ("mnli", "test_mismatched", [0], "MNLI-mm.tsv", ["entailment"]),
        ("stsb", "test", [5.7, -0.2, 3.14159], "STS-B.tsv", ["5.000", "0.000", "3.142"]),
    ],
)
def test_submissions(task, split, predictions, name, text, tmp_path):
    path = write_submission(TASKS[task], split, predictions, tmp_path)
    assert path.name == name
    with path.open() as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows == [["index", "prediction"], *([str(i), t] for i, t in enumerate(text))]

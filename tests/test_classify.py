"""`sqloss classify` on files of one's own, through the command line that a user types."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from commands import assert_refused
from safetensors.torch import load_file, save_file
from sklearn.utils.class_weight import compute_class_weight
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

from sqloss_plugins import paper
from sqloss_plugins.hf.classification import _order
from sqloss_plugins.hf.options import parse as parse_task
from sqloss_plugins.hf.tasks import glue
from sqloss_plugins.hf.tasks.classification import PAPER_TASKS, Classify, main
from sqloss_plugins.results import OF_OUTPUTS, read_result

ROOT = Path(__file__).parent.parent
CLASSES = ("bad", "fair", "good")


def write(name, rows):
    """Rows, the first of which names the columns, as CSV, TSV or JSON lines."""
    with open(name, "w", newline="", encoding="utf-8") as file:
        if name.endswith(".jsonl"):
            file.writelines(json.dumps(dict(zip(rows[0], row, strict=True))) + "\n" for row in rows[1:])
        else:
            csv.writer(file, delimiter="\t" if name.endswith(".tsv") else ",").writerows(rows)
    return name


def reviews(count=48, names=CLASSES, label="label"):
    """Texts that say their class."""
    rows = [(f"number {i}: the film is {CLASSES[i % 3]}", names[i % len(names)]) for i in range(count)]
    return [("text", label), *rows]


@pytest.fixture
def small(tiny_model, tmp_path, monkeypatch):
    """Options of a small run, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return ["--model_name_or_path", str(tiny_model), "--num_train_epochs", "2", "--use_cpu", "--learning_rate", "1e-2"]


def predictions(folder):
    """The rows of predict_results.tsv, as dictionaries."""
    with open(Path(folder, "predict_results.tsv"), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def outputs_of(folder):
    with np.load(Path(folder, "outputs.npz")) as arrays:
        return dict(arrays)


def values(folder, split="validation"):
    return read_result(Path(folder)).metrics[split][OF_OUTPUTS]


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
def test_a_file_of_ones_own(loss, small, capsys):
    """Held-out data, names, probabilities by the loss's method, and the model in a pipeline and scored again."""
    write("reviews.csv", reviews())
    write("new.csv", [("text",), ("the film is good",), ("the film is bad",)])
    files = ["--train_file", "reviews.csv", "--test_file", "new.csv", "--validation_size", "0.25"]
    assert main([*files, *small, "--loss", loss]) == 0
    rescaled = "-k1-M1" if loss == "square" else ""
    (folder,) = Path("runs/reviews/tiny-bert").iterdir()
    assert folder.name == f"{loss}{rescaled}-lr0.01-early_stopping-s42"
    result = read_result(folder)
    assert result.data["sizes"] == {"train": 36, "validation": 12, "test": 2}
    assert list(values(folder)) == ["loss", "accuracy", "f1_macro"]
    assert "test" not in result.metrics
    config = AutoConfig.from_pretrained(folder)
    assert config.id2label == dict(enumerate(CLASSES))
    assert config.problem_type == "single_label_classification"

    outputs, rows = outputs_of(folder)["test_outputs"], predictions(folder)
    p = np.array([[float(row[f"p({name})"]) for name in CLASSES] for row in rows])
    assert [row["prediction"] for row in rows] == [CLASSES[i] for i in outputs.argmax(1)]
    raw = np.exp(outputs) if loss == "cross_entropy" else outputs.clip(0.01 / 3, 1)
    assert p == pytest.approx(raw / raw.sum(1, keepdims=True), abs=1e-5)

    classify = pipeline("text-classification", model=str(folder), device="cpu")
    assert [found["label"] for found in classify(["the film is good", "the film is bad"])] == [
        row["prediction"] for row in rows
    ]
    again = ["--do_predict", "--model_name_or_path", str(folder), "--test_file", "new.csv", "--use_cpu"]
    assert "WITHOUT EFFECT" not in capsys.readouterr().out
    assert main([*again, "--output_dir", "again", "--learning_rate", "1e-3", "--warmup_steps=2"]) == 0
    printed = capsys.readouterr().out
    assert "training   none; the model is scored as it is\n" in printed
    assert "  WITHOUT EFFECT, as nothing is trained: --learning_rate, --warmup_steps\n" in printed
    assert "Scored without training in " in printed
    assert predictions("again") == rows
    assert read_result(Path("again")).loss == loss


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
def test_several_labels(loss, small):
    """Each label is decided by itself, from a probability of 1/2 on; none is as good as two."""
    tags = ["red;blue", "blue", "", "red; green"]
    rows = [(f"this is {tags[i % 4] or 'nothing'}", tags[i % 4]) for i in range(48)]
    write("posts.csv", [("post", "tags"), *rows])
    write("new.csv", [("post",), *((text,) for text, _ in rows[:8])])
    columns = ["--label_column_name", "tags", "--label_column_delimiter", ";", "--validation_size", "16"]
    files = ["--train_file", "posts.csv", "--test_file", "new.csv", "--output_dir", "out"]
    assert main([*files, *columns, *small, "--loss", loss, *(["--k", "3", "--M", "2"] * (loss == "square"))]) == 0
    assert list(values("out")) == ["loss", "f1_micro", "f1_macro", "accuracy"]
    assert read_result(Path("out")).selection == "f1_micro"
    config = AutoConfig.from_pretrained("out")
    assert config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert config.problem_type == "multi_label_classification"
    with np.load("out/outputs.npz") as arrays:
        f, q = arrays["validation_outputs"], arrays["validation_targets"]
        new = arrays["test_outputs"]
    if loss == "square":
        expected = (q * 3 * (f - 2) ** 2 + (1 - q) * f**2).mean()
        p = new.clip(0, 2) / (3 * 2 - 2 * new.clip(0, 2))
        decided = f >= 3 * 2 / (3 + 1)
    else:
        expected = (np.log1p(np.exp(f)) - q * f).mean()
        p, decided = 1 / (1 + np.exp(-new)), f >= 0
    assert values("out")["loss"] == pytest.approx(expected, rel=1e-4)
    assert values("out")["accuracy"] == pytest.approx((decided == q).all(1).mean())
    for row, likely in zip(predictions("out"), p, strict=True):
        assert [float(row[f"p({name})"]) for name in ("blue", "green", "red")] == pytest.approx(likely, abs=1e-4)
        named = [name for name, value in zip(("blue", "green", "red"), likely, strict=True) if value >= 0.5]
        assert row["prediction"] == ";".join(named)
    # The kind, the names and the loss of a saved model are its own; the file's delimiter is not.
    again = ["--do_predict", "--model_name_or_path", "out", "--test_file", "new.csv", "--use_cpu"]
    assert main([*again, "--output_dir", "again", "--label_column_delimiter", ";"]) == 0
    assert predictions("again") == predictions("out")
    assert (read_result(Path("again")).k, read_result(Path("again")).loss) == (3 if loss == "square" else None, loss)


@pytest.mark.parametrize("is_pair", [False, True])
def test_a_model_is_not_scored_on_texts_of_another_number(is_pair, small, capsys):
    """A column that happens to make a pair would be read along, without a word."""
    single = [("text", "label"), *((f"this is {CLASSES[i % 2]}", CLASSES[i % 2]) for i in range(20))]
    pairs = [("sentence1", "sentence2", "label"), *((text, "or not", label) for text, label in single[1:])]
    write("train.csv", pairs if is_pair else single)
    write("other.csv", single if is_pair else pairs)
    assert main(["--train_file", "train.csv", *small, "--num_train_epochs", "1", "--output_dir", "out"]) == 0
    capsys.readouterr()
    score = ["--do_predict", "--model_name_or_path", "out", "--use_cpu", "--test_file"]
    assert main([*score, "other.csv"]) == 2
    ours, theirs = (
        ("pairs of texts", "single texts (text)") if is_pair else ("single texts", "pairs of texts (sentence1, ")
    )
    assert f"out was trained on {ours}, and other has {theirs}" in capsys.readouterr().err
    assert main([*score, "train.csv", "--output_dir", "again"]) == 0


def tagged(count=60):
    """Texts of which a half are red, a fifth blue, and a twelfth green."""
    names = {"red": 2, "blue": 5, "green": 12}
    tags = [";".join(name for name, each in names.items() if i % each == 0) for i in range(count)]
    rows = [(f"number {i} is {tag or 'nothing'}", "so it is", tag) for i, tag in enumerate(tags)]
    return write("posts.csv", [("post", "reply", "tags"), *rows])


TAGS = ["--label_column_name", "tags", "--label_column_delimiter", ";", "--validation_size", "12"]
STANDING = ["--learning_rate", "1e-12", "--num_train_epochs", "1", "--use_cpu"]


def classifier_bias(folder):
    return load_file(Path(folder, "model.safetensors"))["classifier.bias"].double()


@pytest.mark.parametrize(("loss", "begins"), [("cross_entropy", True), ("square", False)])
@pytest.mark.parametrize("model", ["tiny-bert", "lstm_cnn"])
def test_labels_of_a_new_head_begin_at_their_frequencies_with_cross_entropy(loss, begins, model, tiny_model, small):
    """Of the training texts, with one more that has the label and one that has not."""
    start = ["--model_name_or_path", str(tiny_model), "--text_column_names", "post"]
    if model != "tiny-bert":
        start = ["--arch", model, "--embedding_size", "8", "--hidden_size", "8", "--text_column_names", "post,reply"]
    assert main(["--train_file", tagged(), *TAGS, *start, *STANDING, "--loss", loss, "--output_dir", "out"]) == 0
    assert read_result(Path("out")).data["sizes"]["train"] == 48
    with np.load("out/outputs.npz") as arrays:
        held_out = arrays["validation_targets"]
    counts = np.array([12, 5, 30]) - held_out.sum(0)  # blue, green, red
    expected = (counts + 1) / 50 if begins else np.full(3, 0.5)
    assert classifier_bias("out").sigmoid().numpy() == pytest.approx(expected, abs=1e-6)


def test_the_head_of_a_saved_model_is_not_begun_anew(small):
    """It goes on from its own bias; a head of another size is a new one."""
    options = ["--train_file", tagged(), *TAGS, "--text_column_names", "post", "--loss", "cross_entropy"]
    assert main([*options, *small, "--output_dir", "out"]) == 0
    again = [*options, "--model_name_or_path", "out", *STANDING]
    assert main([*again, "--output_dir", "again"]) == 0
    assert classifier_bias("again").numpy() == pytest.approx(classifier_bias("out").numpy(), abs=1e-9)
    others = [(f"number {i}", "", "white" if i % 4 else "white;black") for i in range(60)]
    write("posts.csv", [("post", "reply", "tags"), *others])
    assert main([*again, "--ignore_mismatched_sizes", "--output_dir", "other"]) == 0
    assert classifier_bias("other").sigmoid().numpy() == pytest.approx([0.26, 0.98], abs=0.03)


@pytest.mark.parametrize(("options", "half"), [(["--k", "3", "--M", "2"], 1.5), (["--loss", "cross_entropy"], 0.0)])
def test_a_label_of_several_is_given_from_a_probability_of_one_half_on(options, half):
    task = parse_task(Classify, [*FILE, *options])
    task.labels, task.is_multi_label, task.order = ("one", "other"), True, (1, 0)
    assert task.decided(np.array([[half - 0.01, half + 0.01]])).tolist() == [[1, 0]]


def test_a_regression(small, capsys):
    rows = [(f"worth {i % 7 / 2}", i % 7 / 2) for i in range(48)]
    write("prices.jsonl", [("text", "price"), *rows])
    columns = ["--train_file", "prices.jsonl", "--label_column_name", "price", "--test_size", "8"]
    assert main([*columns, *small, "--output_dir", "out"]) == 0
    assert list(values("out", "test")) == ["loss", "mse", "pearson", "spearmanr"]
    assert values("out")["mse"] == pytest.approx(values("out")["loss"], rel=1e-5)
    assert read_result(Path("out")).loss == "mean_squared_error"
    config = AutoConfig.from_pretrained("out")
    assert (config.problem_type, config.id2label) == ("regression", {0: "price"})
    arrays = outputs_of("out")
    assert [float(row["prediction"]) for row in predictions("out")] == pytest.approx(
        arrays["test_outputs"][:, 0], rel=1e-5
    )
    assert list(predictions("out")[0]) == ["index", "prediction"]
    assert main([*columns, *small, "--output_dir", "no", "--k", "2"]) == 2
    assert "--k is for one label of several, and an example has a number: leave it out" in capsys.readouterr().err
    again = ["--do_eval", "--validation_file", "prices.jsonl", "--label_column_name", "price", "--use_cpu"]
    assert main([*again, "--model_name_or_path", "out", "--output_dir", "again"]) == 0
    assert list(values("again")) == ["loss", "mse", "pearson", "spearmanr"]


def test_pairs_and_the_metric_that_decides(small, capsys):
    """TSV with two columns of text; the metric that is asked for comes first and chooses the model."""
    rows = [(f"there are {i}", f"are there {i + i % 2}?", i % 2) for i in range(48)]
    write("pairs.tsv", [("one", "other", "same"), *rows])
    columns = ["--train_file", "pairs.tsv", "--text_column_names", "one,other", "--label_column_name", "same"]
    assert main([*columns, *small, "--metric_name", "matthews_correlation", "--output_dir", "out"]) == 0
    result = read_result(Path("out"))
    assert list(values("out")) == ["loss", "matthews_correlation", "accuracy", "f1_macro", "f1"]
    assert result.selection == "matthews_correlation"
    assert result.hyperparameters["metric_for_best_model"] == "matthews_correlation"
    assert AutoConfig.from_pretrained("out").id2label == {0: "0", 1: "1"}
    assert main([*columns, *small, "--metric_name", "pearson", "--output_dir", "no"]) == 2
    error = capsys.readouterr().err
    assert "pearson is no metric where an example has one label: choose from accuracy, f1_macro, f1, f1_micro" in error


def test_class_weights(small, monkeypatch, capsys):
    """scikit-learn's balanced weights of the training examples that are left, in the loss."""
    rows = reviews(names=("bad", "good", "good", "good", "fair", "good"))
    write("train.csv", rows)
    write("validation.csv", rows)
    files = ["--train_file", "train.csv", "--validation_file", "validation.csv", "--max_train_samples", "40"]
    assert main([*files, *small, "--class_weights", "balanced", "--output_dir", "out"]) == 0
    assert "balanced classes" in capsys.readouterr().out
    numbers = np.array([CLASSES.index(label) for _, label in rows[1:]])
    weights = compute_class_weight("balanced", classes=np.arange(3), y=numbers[:40])
    arrays = outputs_of("out")
    f, q = arrays["validation_outputs"], np.eye(3)[arrays["validation_targets"]]
    expected = (((f - q) ** 2).mean(1) * weights[arrays["validation_targets"]]).mean()
    assert values("out")["loss"] == pytest.approx(expected, rel=1e-4)
    few = [*files[:-1], "2", *small, "--class_weights", "balanced", "--output_dir", "no"]
    assert main(few) == 2
    assert "no training example has the label fair" in capsys.readouterr().err


def permuted(folder, target, order, names):
    """A saved classifier with its outputs in another order, and names for them."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    model.save_pretrained(target)
    for path in Path(folder).glob("*token*"):
        Path(target, path.name).write_bytes(path.read_bytes())
    weights = load_file(Path(target, "model.safetensors"))
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][list(order)].clone()
    save_file(weights, Path(target, "model.safetensors"), metadata={"format": "pt"})


def test_a_models_order_of_the_labels_is_kept(small, capsys):
    """In GLUE: the same scores without training; the submission has the right names; training goes on in that order."""
    mini = ["--task", "mnli", "--mini", *small[2:], "--max_train_samples", "64"]
    mini += ["--max_eval_samples", "32", "--max_predict_samples", "32"]
    assert glue.main([*mini, *small[:2], "--output_dir", "out", "--num_train_epochs", "1"]) == 0
    permuted("out", "other", (2, 0, 1), ("CONTRADICTION", "ENTAILMENT", "NEUTRAL"))
    score = [*mini, "--do_eval", "--do_predict"]
    assert glue.main([*score, "--model_name_or_path", "out", "--output_dir", "scores"]) == 0
    assert glue.main([*score, "--model_name_or_path", "other", "--output_dir", "others"]) == 0
    for split in ("validation", "validation_mismatched", "test", "test_mismatched"):
        assert values("others", split) == pytest.approx(values("scores", split))
    fingerprints = [read_result(Path(name)).data["fingerprint"] for name in ("scores", "others")]
    assert fingerprints[0] == fingerprints[1]
    assert [row["prediction"].upper() for row in predictions("scores")] == [
        row["prediction"] for row in predictions("others")
    ]
    assert glue.main([*mini, "--model_name_or_path", "other", "--output_dir", "more", "--num_train_epochs", "1"]) == 0
    assert AutoConfig.from_pretrained("more").id2label == {0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"}
    assert glue.main(["--task", "rte", "--mini", "--use_cpu", "--do_eval", "--model_name_or_path", "other"]) == 2
    error = capsys.readouterr().err
    assert "other has the labels CONTRADICTION, ENTAILMENT, NEUTRAL, and the data of rte has entailment, not_" in error


def test_f1_is_of_the_tasks_class_1_whatever_the_models_order(small):
    mini = ["--task", "mrpc", "--mini", *small[2:], "--max_train_samples", "64"]
    train = [*mini, *small[:2], "--output_dir", "out", "--num_train_epochs", "1", "--loss", "squentropy"]
    assert glue.main(train) == 0
    permuted("out", "other", (1, 0), ("equivalent", "not_equivalent"))
    score = [*mini, "--do_eval", "--output_dir", "again", "--model_name_or_path", "other"]
    assert glue.main(score) == 0
    assert values("again") == pytest.approx(values("out"))
    assert read_result(Path("again")).loss == "squentropy"  # the model's own


def test_numbers_are_a_models_labels_by_their_names_where_it_has_them():
    """And by their places only where its names are others."""
    assert _order(("1", "0"), ("0", "1")) == [1, 0]
    assert _order(("good", "bad"), ("0", "1")) == [0, 1]
    assert _order(("good", "bad"), ("bad", "good")) == [1, 0]
    assert _order(("good", "bad"), ("bad", "fair")) is None


def test_a_saved_model_on_other_names_for_its_labels(small, capsys):
    """Numbers, and other case, stand for the model's labels; other labels are refused."""
    write("reviews.csv", reviews())
    assert main(["--train_file", "reviews.csv", *small, "--output_dir", "out"]) == 0
    score = ["--do_eval", "--model_name_or_path", "out", "--use_cpu", "--validation_file"]
    found = []
    for name, names in (("same", CLASSES), ("numbers", "012"), ("case", ("BAD", "Fair", "good"))):
        write(f"{name}.csv", reviews(names=names))
        assert main([*score, f"{name}.csv", "--output_dir", name]) == 0
        found.append(values(name))
    assert found[0] == found[1] == found[2]
    write("stars.csv", reviews(names=("one", "two", "three")))
    assert main([*score, "stars.csv", "--output_dir", "stars"]) == 2
    assert "stars.csv has labels that the model has not: 'one', 'three', 'two'" in capsys.readouterr().err
    permuted("out", "nameless", (0, 1, 2), ("LABEL_0", "LABEL_1", "LABEL_2"))
    nameless = ["--do_eval", "--model_name_or_path", "nameless", "--use_cpu", "--output_dir", "scores"]
    assert main([*nameless, "--validation_file", "numbers.csv"]) == 0
    assert values("scores") == found[0]
    # The result of another model is not taken for this one's.
    permuted("out", "out", (2, 1, 0), CLASSES)
    assert main([*score, "same.csv", "--output_dir", "same"]) == 2
    assert "holds another run (model_weights " in capsys.readouterr().err


def test_a_data_set(small):
    """A folder of one, as from the hub: names of its splits and of its classes, columns and splits to leave out."""
    Path("moods").mkdir()
    features = {"info": {"features": {"text": {"dtype": "string", "_type": "Value"}}}}
    names = {"names": ["sad", "glad"], "_type": "ClassLabel"}
    features["info"]["features"] |= {"label": names, "note": {"dtype": "string", "_type": "Value"}}
    rows = {"text": [f"{('sad', 'glad')[i % 2]} {i}" for i in range(32)], "label": [i % 2 for i in range(32)]}
    table = pyarrow.table({**rows, "note": ["x"] * 32})
    for split in ("train", "dev", "test"):
        described = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        pq.write_table(described, f"moods/{split}.parquet")
    Path("moods/README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {split}.parquet\n" for split in ("train", "dev", "test"))
        + "---\n"
    )
    options = ["--dataset_name", "moods", "--cache_dir", "cache", *small, "--output_dir", "out"]
    options += ["--validation_split_name", "dev", "--remove_splits", "test", "--remove_columns", "note"]
    options += ["--shuffle_train_dataset", "--max_train_samples", "24", "--max_eval_samples", "16"]
    assert main([*options, "--num_train_epochs", "1"]) == 0
    assert read_result(Path("out")).data["sizes"] == {"train": 24, "validation": 16}
    assert AutoConfig.from_pretrained("out").id2label == {0: "sad", 1: "glad"}
    assert json.loads(Path("out/settings.json").read_text())["task"] == "moods"


def test_the_training_data_is_shuffled_before_it_is_cut(small):
    write("sorted.csv", [("text", "label"), *sorted(reviews()[1:], key=lambda row: row[1])])
    first = ["--train_file", "sorted.csv", *small, "--num_train_epochs", "1", "--max_train_samples", "10"]
    task = parse_task(Classify, [*first, "--shuffle_train_dataset"])
    shuffled = task.load().splits["train"]["label"]
    assert set(shuffled) == {0, 1, 2}
    task = parse_task(Classify, first)
    assert set(task.load().splits["train"]["label"]) == {0}


def test_the_papers_tasks(tmp_path, monkeypatch):
    """Its columns, sizes and hyper-parameters; a file with another number of rows has the same share to test on."""
    monkeypatch.chdir(tmp_path)
    for name, (text, label) in {"text5": ("Title", "Conference"), "text20": ("post", "tags")}.items():
        sizes = next(row for row in paper.tables()["datasets"] if row["task"] == name)
        task = parse_task(Classify, ["--task", name])
        expected = paper.hyperparameters(name, "bert", "square")
        assert (task.config.learning_rate, task.config.num_train_epochs) == (expected.learning_rate, expected.epochs)
        assert (task.args.max_seq_length, task.paper_task) == (expected.max_length, name)
        write(f"{name}.csv", [(text, label), *reviews(100, names=[f"c{i}" for i in range(sizes["classes"])])[1:]])
        task = parse_task(Classify, ["--task", name, "--train_file", f"{name}.csv"])
        data = task.load()
        share = sizes["test"] / (sizes["train"] + sizes["test"])
        assert len(data.splits["test"]) == pytest.approx(100 * share, abs=1)
        assert any(f"the paper's {name} has" in note for note in data.notes)
        assert len(task.labels) == sizes["classes"]
    write("whole.csv", [("title", "conference"), *reviews(2507, names=list("abcde"))[1:]])
    data = parse_task(Classify, ["--task", "text5", "--train_file", "whole.csv"]).load()
    assert data.sizes == {"train": 2507 - 400 - 251, "validation": 251, "test": 400}
    assert np.bincount(data.splits["test"]["label"]).tolist() == [80] * 5
    again = parse_task(Classify, ["--task", "text5", "--train_file", "whole.csv", "--seed", "7"]).load()
    assert again.fingerprint == data.fingerprint


def test_files_of_ones_own_are_taken_by_run_glue_too(small, capsys):
    """As run_glue.py does; with --task it is a GLUE task."""
    rows = [(i, f"there are {i}", f"are there {i + i % 2}?", i % 2) for i in range(32)]
    write("pairs.csv", [("id", "sentence1", "sentence2", "label"), *rows])
    options = ["--train_file", "pairs.csv", *small, "--num_train_epochs", "1", "--output_dir", "out"]
    assert glue.main(options) == 0
    assert read_result(Path("out")).task == "pairs"
    capsys.readouterr()
    Path("settings.yaml").write_text("train_file: nowhere.csv\n")
    assert glue.main(["settings.yaml"]) == 2
    assert capsys.readouterr().err.startswith("sqloss glue: error: nowhere.csv cannot be read: No such file")
    assert glue.main(["--task", "mrpc", "--train_file", "pairs.csv"]) == 2
    assert "unknown option or value: --train_file pairs.csv" in capsys.readouterr().err


def test_defaults_and_help(capsys):
    task = parse_task(Classify, ["--train_file", "a/news.csv", "--loss", "cross_entropy"])
    config = task.config
    assert (task.name, task.paper_task) == ("news", None)
    assert (config.learning_rate, config.num_train_epochs, config.per_device_train_batch_size) == (2e-5, 3, 32)
    assert parse_task(Classify, ["--train_file", "mrpc.csv"]).paper_task is None
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "usage: sqloss classify [options]" in printed
    assert "sqloss classify --do_predict --model_name_or_path" in printed
    assert all(f"--{name}" in printed for name in ("label_column_delimiter", "class_weights", "remove_splits"))


FILE = ["--train_file", "train.csv"]
BAD_OPTIONS = {
    "no data": ([], "there is no data: give --train_file, --dataset_name, or --task text5 or text20"),
    "no file": (FILE, "train.csv cannot be read: No such file or directory"),
    "mini of nothing": (["--mini"], "--mini needs --task text5 or text20"),
    "mini and files": (["--mini", *FILE], "--mini and --train_file exclude each other"),
    "two sources": ([*FILE, "--dataset_name", "imdb"], "--train_file and --dataset_name exclude each other"),
    "empty": (["--train_file", ""], "--train_file is empty: give a value, or leave it out"),
    "nothing to train on": (["--test_file", "new.csv"], "training needs --train_file; a saved model is scored by"),
    "split of a file": ([*FILE, "--train_split_name", "x"], "--train_split_name is of --dataset_name: leave it out"),
    "columns of mini data": (
        ["--task", "text5", "--label_column_name", "x"],
        "--label_column_name is of your own data, and this is the embedded mini data: leave it out",
    ),
    "size beside a file": (
        [*FILE, "--validation_file", "x.csv", "--validation_size", "0.2"],
        "--validation_size is of data that is held out, not of --validation_file: leave it out",
    ),
    "size beside a test file": ([*FILE, "--test_file", "x.csv", "--test_size", "9"], "not of --test_file"),
    "seed of nothing": (
        ["--do_predict", "--test_file", "x.csv", "--shuffle_seed", "1"],
        "--shuffle_seed is of training data, and there is none: leave it out",
    ),
    "seed of mini data": (
        ["--task", "text5", "--mini", "--shuffle_seed", "1"],
        "--shuffle_seed changes nothing in mini data, which are always the same: leave it out",
    ),
    "weights of nothing": (
        [*FILE, "--do_eval", "--class_weights", "balanced"],
        "--class_weights is of training, and nothing is trained: leave it out",
    ),
    "unknown weights": (
        [*FILE, "--class_weights", "heavy"],
        "argument --class_weights/--class-weights: invalid",
    ),
    "unknown metric": ([*FILE, "--metric_name", "bleu"], "--metric_name must be one of accuracy, f1"),
    "metric twice": (
        [*FILE, "--metric_name", "f1_macro", "--metric_for_best_model", "accuracy"],
        "--metric_for_best_model is what --metric_name says: leave it out",
    ),
    "a path as a name": ([*FILE, "--task", "a/b"], "--task 'a/b' is not a name"),
    "a file without a name": (["--train_file", "my data.csv"], "no path; or name the task by --task"),
    "no data set": (["--dataset_name", "nowhere/at_all"], "--dataset_name nowhere/at_all cannot be read: "),
}


@pytest.mark.parametrize("case", list(BAD_OPTIONS))
def test_bad_options(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options, message = BAD_OPTIONS[case]
    assert_refused(main, options, "sqloss classify", message, tmp_path, capsys)


BAD_DATA = {
    "no column": (reviews(label="stars"), [], "has no column 'label', but 'text', 'stars': name the right one by"),
    "one class": (reviews(names=("good",)), [], "every label of "),
    "weights of label sets": (
        reviews(names=("a b", "b", "a")),
        ["--label_column_delimiter", " ", "--class_weights", "balanced"],
        "--class_weights is for one label of several, and an example has several labels: leave it out",
    ),
    "weights of numbers": (
        reviews(names=("1", "2", "3")),
        ["--do_regression", "--class_weights", "balanced"],
        "--class_weights is for one label of several, and an example has a number: leave it out",
    ),
    "smoothed label sets": (
        reviews(names=("a b", "b", "a")),
        ["--label_column_delimiter", " ", "--label_smoothing_factor", "0.1"],
        "--label_smoothing_factor is for one label of several",
    ),
    "metric of another kind": (
        reviews(),
        ["--metric_for_best_model", "f1"],
        "f1 is no metric where there are 3 classes",
    ),
    "f1 of many": (reviews(), ["--metric_name", "mse"], "mse is no metric where an example has one label: choose from"),
    "squentropy": (
        reviews(names=("a b", "b", "a")),
        ["--label_column_delimiter", " ", "--loss", "squentropy"],
        "the loss squentropy has no form for multi-label classification",
    ),
    "no validation": (reviews(), ["--validation_size", "0"], "--do_train needs validation data, and there is none"),
    "no test data": (reviews(), ["--do_train", "--do_predict"], "--do_predict needs test data, and there is none"),
}


@pytest.mark.parametrize("case", list(BAD_DATA))
def test_bad_data(case, small, capsys):
    """One sentence, before there is a folder."""
    rows, options, message = BAD_DATA[case]
    write("train.csv", rows)
    assert main([*FILE, *small, *options, "--output_dir", "out"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("sqloss classify: error: ")
    assert message in error
    assert not Path("out").exists()


@pytest.mark.parametrize("task", list(PAPER_TASKS))
def test_the_recipes(task, tmp_path):
    """run.sh is the command with the paper's task."""
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    command = [str(ROOT / f"recipes/{task}/run.sh"), "--train_file", "nowhere.csv"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nowhere.csv cannot be read" in done.stderr

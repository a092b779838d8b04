"""Extreme classification: lists of labels in the Trainer, the metrics, the files, and the command on made-up texts."""

import csv
import gzip
import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from commands import assert_refused, assert_same_answers_without_logits
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import default_data_collator

from sqloss_plugins.data import extreme
from sqloss_plugins.data.extreme import load_label_lists
from sqloss_plugins.data.wordnet import read_definitions, write_mini_wordnet
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer, TrainerLoss
from sqloss_plugins.hf.label_lists import LabelListCollator, multi_hot, padded
from sqloss_plugins.hf.options import parse
from sqloss_plugins.hf.tasks.extreme import ExtremeClassification, main
from sqloss_plugins.hf.token_scores import BestClasses
from sqloss_plugins.models.bag_of_words import BagOfWordsConfig, BagOfWordsForSequenceClassification
from sqloss_plugins.ranking_metrics import inverse_propensities, ranking_metrics, without_filtered

CLASSES, WORDS = 60, 30
SHORT = ["--mini", "--use_cpu", "--disable_tqdm", "true", "--num_train_epochs", "4", "--seed", "1"]

# ---------------------------------------------------------------- in the Trainer


def model():
    torch.manual_seed(0)
    config = BagOfWordsConfig(vocab_size=WORDS, embedding_size=6, hidden_size=8, num_labels=CLASSES)
    config.problem_type = "multi_label_classification"
    made = BagOfWordsForSequenceClassification(config)
    torch.nn.init.normal_(made.classifier.weight, std=0.3)
    torch.nn.init.normal_(made.classifier.bias, std=0.3)
    return made


def examples(has_lists, count=46):
    """From no label to five; as lists, or as a value for each class."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randint, generator=generator)
    data = []
    for i in range(count):
        labels = torch.randperm(CLASSES, generator=generator)[: i % 6].tolist()
        text = {"input_ids": draw(1, WORDS, (5,))}
        data.append(
            {**text, "label": labels} if has_lists else {**text, "labels": multi_hot(padded([labels]), CLASSES)[0]}
        )
    return data


def trainer(folder, has_lists=True, **options):
    options = {"learning_rate": 2.0, "optim": "sgd", "num_train_epochs": 2, "max_grad_norm": 0.0, **options}
    options = {"k": 3.0, "M": 2.0, **options} if options.get("loss", "square") == "square" else options
    config = SquareLossConfig(
        str(folder),
        **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", **options},
    )
    return SquareLossTrainer(
        model(),
        config,
        train_dataset=examples(has_lists),
        eval_dataset=examples(has_lists, 13),
        data_collator=LabelListCollator(default_data_collator) if has_lists else default_data_collator,
        label_lists=has_lists,
        preprocess_logits_for_metrics=BestClasses(3),
    )


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 3, "max_grad_norm": 0.01},
        {"without_logits": True, "gradient_accumulation_steps": 3},
        {"without_logits": True, "bf16": True},
        {"factorised_head": True, "head_learning_rate": 2.0, "max_grad_norm": 0.01, "weight_decay": 1e-3},
        {"factorised_head": True, "head_learning_rate": 2.0, "gradient_accumulation_steps": 3},
    ],
    ids=["logits", "accumulated", "without logits", "autocast", "factorised", "factorised, accumulated"],
)
def test_lists_train_as_values_for_each_class(loss, options, tmp_path):
    """The same weights, losses and answers; the last batch has fewer examples, and some have no label."""
    special = {"without_logits", "factorised_head", "head_learning_rate"}
    if loss == "cross_entropy" and special & options.keys():
        with pytest.raises(ValueError, match=r"leave it out|cannot"):
            trainer(tmp_path, loss=loss, **options)
        return
    dense = trainer(tmp_path, False, loss=loss, **{name: options[name] for name in options.keys() - special})
    lists = trainer(tmp_path, loss=loss, **options)
    start = model().state_dict()
    dense.train()
    lists.train()
    rtol = 0.03 if options.get("bf16") else 1e-5
    for name, weight in dense.model.state_dict().items():
        moved = (weight - start[name]).abs().max()
        assert moved > 1e-4
        torch.testing.assert_close(lists.model.state_dict()[name], weight, rtol=0.0, atol=rtol * float(moved + 1.0))
    if not options.get("bf16"):
        one, another = (made.predict(made.eval_dataset) for made in (dense, lists))
        assert np.array_equal(one.predictions, another.predictions)
        assert one.metrics["test_loss"] == pytest.approx(another.metrics["test_loss"], rel=1e-5)
        assert another.label_ids.shape == (13, 5)


def test_by_hand():
    logits, lists = torch.randn(3, 7), padded([[2, 6], [], [0, 1, 5]])
    dense = TrainerLoss("square", k=3.0, M=2.0, multi_label=True)
    loss = TrainerLoss("square", k=3.0, M=2.0, multi_label=True, label_lists=True)
    expected = dense((logits,), multi_hot(lists, 7))
    assert loss((logits,), lists).item() == pytest.approx(expected.item())
    assert loss({"logits": logits}, lists, num_items_in_batch=6).item() == pytest.approx(expected.item() / 2)
    for wrong, words in (
        (lists.float(), r"of shape \(3, 3\), torch.float32: lists of classes are int64, of shape \(3, L\)"),
        (lists[:, 0], r"of shape \(3,\)"),
        (lists[:2], r"of shape \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            loss((logits,), wrong)
    for outside in (7, -1):
        with pytest.raises(IndexError, match=f"Target {outside} is out of bounds for 7 classes"):
            loss((logits,), torch.tensor([[0], [outside], [1]]))


def test_what_lists_cannot_have(tmp_path):
    with pytest.raises(ValueError, match="lists of classes are the labels of multi-label classification"):
        TrainerLoss("square", label_lists=True)
    with pytest.raises(ValueError, match=r"--num_sampled is for .*, and these examples have lists of classes"):
        trainer(tmp_path, loss="cross_entropy", num_sampled=5)


# ---------------------------------------------------------------- metrics


@given(st.data(), st.integers(1, 6), st.integers(5, 9))
def test_the_metrics_by_their_definitions(data, N, C):
    answers = np.array([data.draw(st.permutations(range(C))) for _ in range(N)])[:, :5]
    sets = [data.draw(st.sets(st.integers(0, C - 1), max_size=C)) for _ in range(N)]
    weights = data.draw(arrays(np.float64, C, elements=st.floats(1.0, 50.0)))
    found = ranking_metrics(answers, padded([sorted(labels) for labels in sets]).numpy(), weights)
    for k in (1, 3, 5):
        hits = [[answer for answer in row[:k] if answer in labels] for row, labels in zip(answers, sets, strict=True)]
        gained = sum(weights[answer] for row in hits for answer in row)
        possible = sum(sum(sorted((weights[label] for label in labels), reverse=True)[:k]) for labels in sets)
        assert found[f"precision_at_{k}"] == pytest.approx(sum(map(len, hits)) / (k * N))
        assert found[f"psp_at_{k}"] == pytest.approx(gained / possible if possible else 0.0)


def test_propensities():
    """Jain et al., Section 4: p = 1 / (1 + C e^(-A ln(N_l + B))), C = (ln N - 1) (B + 1)^A."""
    weights = inverse_propensities(np.array([0, 7, 1000]), 5000, 0.6, 2.6)
    C = (np.log(5000) - 1) * 3.6**0.6
    assert weights == pytest.approx([1 + C * np.exp(-0.6 * np.log(n + 2.6)) for n in (0, 7, 1000)])


def test_answers_that_do_not_count():
    answers = np.array([[4, 2, 7, 1], [3, 0, 5, 6]])
    assert without_filtered(answers, {1: [0, 3]}, 2).tolist() == [[4, 2], [5, 6]]
    assert without_filtered(answers, {0: [4, 7, 1]}, 4).tolist()[0] == [2, -1, -1, -1]
    assert without_filtered(answers.astype(float), {}, 2).tolist() == [[4.0, 2.0], [3.0, 0.0]]


# ---------------------------------------------------------------- the files


def repository(folder, **changed):
    """A folder in the repository's layout; lines in the place of those of a file, None for no such file."""
    labels = [{"uid": f"B{i}", "title": title} for i, title in enumerate(["red shoe", "hat", "hat", ""])]
    train = [
        {"title": f"text {i} ", "content": " more", "target_ind": [i % 4, 3][: 1 + (i % 4 < 3)]} for i in range(40)
    ]
    files = {
        "lbl": labels,
        "trn": train,
        "tst": [{"title": title, "content": "", "target_ind": labels} for title, labels in (("a", []), ("b", [0]))],
    }
    for name, records in files.items():
        lines = changed.get(name, [json.dumps(record) for record in records])
        if lines is not None:
            (folder / f"{name}.json").write_text("".join(f"{line}\n" for line in lines))
    if "filter" in changed:
        (folder / "filter_labels_test.txt").write_text(changed["filter"])
    return folder


def test_reading(tmp_path):
    found = load_label_lists(repository(tmp_path, filter="0 2\n0 1\n0 2\n"))
    assert found.labels == ("red shoe", "hat (label 1)", "hat (label 2)", "(label 3)")
    assert (found.data.sizes, found.count) == ({"train": 38, "validation": 2, "test": 2}, 40)
    assert found.counts.tolist() == [10, 10, 10, 40]
    assert found.filtered == {"test": {0: [2, 1]}}
    assert found.data.splits["test"][1] == {"text": "b", "label": [0]}
    together = [*found.data.splits["train"], *found.data.splits["validation"]]
    assert {row["text"]: row["label"] for row in together} == {
        f"text {i}": [i % 4, 3][: 1 + (i % 4 < 3)] for i in range(40)
    }
    for name in ("trn.json", "tst.json", "lbl.json", "filter_labels_test.txt"):
        path = tmp_path / name
        with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
            shutil.copyfileobj(plain, packed)
        path.unlink()
    again = load_label_lists(tmp_path)
    assert again.data.fingerprint == found.data.fingerprint
    assert again.filtered == found.filtered
    whole = load_label_lists(tmp_path, content=True, held_out=5, seed=1)
    assert set(whole.data.splits["validation"]["text"]) < {f"text {i} more" for i in range(40)}


GOOD = json.dumps({"title": "x", "target_ind": [0]})
WRONG = {
    "no file": (
        {"tst": None},
        "has no tst.json: give a folder with trn.json, tst.json and lbl.json (or .json.gz), or Wo",
    ),
    "nothing": ({"lbl": None, "trn": None, "tst": None}, "has no lbl.json"),
    "empty": ({"trn": []}, "trn.json is empty"),
    "no json": ({"trn": [GOOD, "{"]}, "trn.json, line 2, is no JSON object"),
    "no object": ({"tst": ["[1]"]}, "tst.json, line 1, is no object with a title, each a text"),
    "no title": ({"lbl": ['{"uid": "1"}']}, "lbl.json, line 1, is no object with a title"),
    "a title twice": ({"tst": ['{"title": "a", "title": "b"}']}, "has 'title' twice"),
    "one label": ({"lbl": ['{"title": "a"}']}, "lbl.json has 1 labels: at least two are needed"),
    "no labels": ({"trn": ['{"title": "a"}']}, "line 1, has no target_ind, a list of the numbers of its labels"),
    "no number": ({"trn": ['{"title": "a", "target_ind": [true]}']}, "line 1, has no target_ind"),
    "outside": ({"tst": ['{"title": "a", "target_ind": [4]}']}, "has the label 4, and lbl.json has those from 0 to 3"),
    "twice": ({"trn": ['{"title": "a", "target_ind": [1, 1]}']}, "line 1, has a label twice: [1, 1]"),
    "too few": ({"trn": [GOOD] * 3}, "has 3 texts to train on, too few to hold out 0 for validation"),
    "filter": ({"filter": "0 1\n0 x\n"}, "filter_labels_test.txt, line 2, is not the numbers of a text and a label"),
    "no such text": ({"filter": "2 0\n"}, "filter_labels_test.txt, line 1, is of no text or no label that there is"),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_are_wrong(case, tmp_path):
    changed, message = WRONG[case]
    with pytest.raises(UserError) as error:
        load_label_lists(repository(tmp_path, **changed))
    assert message in str(error.value)


def test_texts_that_are_in_two_splits_are_told(tmp_path):
    """What is held out for validation is drawn as for texts of one's own, and said."""
    texts = [f'{{"title": "text {i}", "target_ind": [{i % 4}]}}' for i in range(40)]
    found = load_label_lists(repository(tmp_path, trn=texts, tst=[texts[3], GOOD]), held_out=4)
    assert found.data.sizes == {"train": 36, "validation": 4, "test": 2}
    assert found.data.notes[-2:] == (
        "held out of the training data for validation: 4 rows, at random (seed 42)",
        "WARNING: the texts of 1 of 2 test rows are in the training data, too",
    )


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"no gzip", lambda data: data[:40] + b"x" * 40]
)
def test_packed_files_that_are_damaged(damage, tmp_path):
    repository(tmp_path, lbl=None)
    packed = gzip.compress(b'{"title": "a label of its own"}\n' * 1000)
    (tmp_path / "lbl.json.gz").write_bytes(damage(packed))
    with pytest.raises(UserError, match=r"lbl\.json\.gz cannot be (read|unpacked by gzip)"):
        load_label_lists(tmp_path)


def test_words_of_wordnet(tmp_path):
    """All synonyms are labels, and those of what is held out have another definition to train on."""
    write_mini_wordnet(tmp_path)
    lines = (tmp_path / "data.noun").read_text().splitlines(keepends=True)
    words = [line.split(" ")[4] for line in lines[1:]]
    pairs = zip(lines[1:], words, reversed(words), strict=True)
    both = [
        line.replace(f"01 {word} 0", f"02 {word} 0 {other} 0" if word != other else f"01 {word} 0")
        for line, word, other in pairs
    ]
    (tmp_path / "data.noun").write_text("".join([lines[0], *both]))
    assert {len(one.synonyms) for one in read_definitions(tmp_path, ["noun"])} == {1, 2}
    found = load_label_lists(tmp_path)
    assert found.data.sizes == {"train": 1800, "validation": 100, "test": 100}
    assert (found.count, len(found.labels)) == (1900, 400)
    trained = {label for labels in found.data.splits["train"]["label"] for label in labels}
    assert trained == set(range(400))
    with pytest.raises(UserError, match="no content beside the definitions"):
        load_label_lists(tmp_path, content=True)


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main([*SHORT, "--output_dir", str(folder)]) == 0
    return folder


def test_the_command(run, capsys):
    result = json.loads((run / "result.json").read_text())
    scores = result["metrics"]["test"]["outputs"]
    assert (result["mini"], result["selection"], result["loss"], result["k"]) == (
        True,
        "precision_at_1",
        "square",
        15.0,
    )
    assert result["M"] == pytest.approx((160 * np.log(160) / 15) ** 0.5)
    assert scores["precision_at_1"] > 0.8  # chance: 4 of 160
    assert scores["precision_at_1"] > scores["precision_at_3"] > scores["precision_at_5"] > 0.4
    with (run / "predict_results.tsv").open(encoding="utf-8") as file:
        head, *rows = csv.reader(file, delimiter="\t")
    assert head == ["text", "labels", *(f"answer {i}" for i in range(1, 6))]
    right = [sum(answer in row[1].split("; ") for answer in row[2:]) for row in rows]
    assert sum(right) / (5 * len(rows)) == pytest.approx(scores["precision_at_5"])
    text, _, *answers = rows[-1]
    assert text == "rare animal"
    assert text not in answers
    assert main([*SHORT, "--output_dir", str(run)]) == 0
    assert "finished already" in capsys.readouterr().out


def test_scores_are_those_of_all_outputs(run, tmp_path):
    assert_same_answers_without_logits(main, SHORT[:4], run, tmp_path)


@pytest.mark.parametrize(
    "options",
    [["--factorised_head", "--head_learning_rate", "100"], ["--loss", "cross_entropy"]],
    ids=["factorised", "cross-entropy"],
)
def test_other_ways_to_train(options, tmp_path):
    assert main([*SHORT, *options, "--output_dir", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"]["test"]["outputs"]["precision_at_1"] > 0.6


def test_cross_entropy_begins_with_rare_labels(tmp_path):
    """Each of the 160 has the probability 1 / 160, and four of a text are true."""
    options = ["--loss", "cross_entropy", "--learning_rate", "1e-12", "--num_train_epochs", "1"]
    assert main([*SHORT, *options, "--output_dir", str(tmp_path)]) == 0
    loss = json.loads((tmp_path / "result.json").read_text())["metrics"]["validation"]["outputs"]["loss"]
    assert loss == pytest.approx(-(4 * np.log(1 / 160) + 156 * np.log(159 / 160)) / 160, rel=1e-4)


def test_few_labels_of_which_some_do_not_count(tmp_path):
    """Fewer answers than are looked at."""
    (tmp_path / "shop").mkdir()
    folder = repository(tmp_path / "shop", filter="0 2\n0 1\n1 3\n")
    out = tmp_path / "out"
    assert main([*SHORT[1:], "--data_dir", str(folder), "--output_dir", str(out)]) == 0
    with (out / "predict_results.tsv").open(encoding="utf-8") as file:
        _, first, second = csv.reader(file, delimiter="\t")
    assert set(first[2:]) == {"red shoe", "(label 3)", ""}
    assert (len(first), second[-1]) == (6, "")


def test_a_folder_of_real_texts(tmp_path, capsys):
    (tmp_path / "LF-Shoes").mkdir()
    extreme.write_mini_repository(tmp_path / "LF-Shoes")
    out = tmp_path / "out"
    options = [*SHORT[1:], "--data_dir", str(tmp_path / "LF-Shoes"), "--max_predict_samples", "50"]
    assert main([*options, "--propensity_a", "0.6", "--propensity_b", "2.6", "--output_dir", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert (result["task"], result["mini"]) == ("lf-shoes", False)
    assert "160 labels, 4 for each text" in capsys.readouterr().out
    assert len((out / "predict_results.tsv").read_text().splitlines()) == 51


def test_a_folder_that_is_called_as_one_of_the_papers_tasks(tmp_path):
    (tmp_path / "MRPC").mkdir()
    task = parse(ExtremeClassification, ["--use_cpu", "--data_dir", str(repository(tmp_path / "MRPC"))])
    task.load()
    assert (task.name, task.paper_task) == ("mrpc", None)


REFUSED = {
    "mini and a folder": (["--mini", "--data_dir", "x"], "--data_dir is of a folder of real texts, and this is mini"),
    "content of nothing": (["--content"], "--content is of a folder of real texts"),
    "no folder": (["--data_dir", "nowhere"], "--data_dir nowhere is no folder"),
    "nothing held out": (["--mini", "--held_out", "0"], "--held_out must be at least 1, got 0"),
    "another metric": (["--mini", "--metric_for_best_model", "top5"], "must be one of precision_at_1, precision_at_3"),
    "propensity": (["--mini", "--propensity_b", "-1"], "--propensity_b must be a finite number of at least 0, got -1"),
    "no such form": (["--mini", "--loss", "squentropy"], "squentropy"),
    "sampled": (["--mini", "--loss", "cross_entropy", "--num_sampled", "9"], "--num_sampled is for texts with one"),
    "a teacher": (["--mini", "--teacher", "x"], "--teacher is for examples of one class each"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path, monkeypatch, capsys):
    options, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    assert_refused(main, ["--use_cpu", *options], "sqloss extreme", message, tmp_path, capsys)

"""The reverse dictionary: WordNet's files, what is held out, and the command on made-up words."""

import csv
import json
from collections import Counter

import pytest
import torch
from commands import assert_refused, assert_same_answers_without_logits
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from sqloss_plugins.data import wordnet
from sqloss_plugins.data.wordnet import Definition, held_out_definitions, load_definitions, read_definitions
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf.options import parse
from sqloss_plugins.hf.tasks.reverse_dictionary import ReverseDictionary, main

SHORT = ["--mini", "--use_cpu", "--disable_tqdm", "true", "--num_train_epochs", "4", "--seed", "1"]

LINES = "\n".join(
    (
        "  1 This is the licence.  ",
        "00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is perceived; or inferred  ",
        '00002452 03 n 02 Ice_Age 0 glacial_period 0 000 | a cold time; "the last one"; "it was long"  ',
        '00012779 00 a 01 big(a) 0 000 | (of size) large: "a big house"  \n',
    )
)


def test_reading(tmp_path):
    (tmp_path / "data.noun").write_text(LINES)
    assert read_definitions(tmp_path, ["noun"]) == [
        Definition("that which is perceived; or inferred", "entity"),
        Definition("a cold time", "ice age", ("glacial period",)),
        Definition("(of size) large", "big"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES + "word\n", "data.noun, line 5, is no line of WordNet's data files"),
        ('00000001 03 n 01 word 0 000 | "only an example"\n', "line 1, is no line of WordNet's"),
        (None, "data.noun cannot be read: No such file or directory"),
        (LINES, "no definitions to hold out: a word with two of them is needed"),
    ],
)
def test_files_that_are_none(content, message, tmp_path):
    if content is not None:
        (tmp_path / "data.noun").write_text(content)
    with pytest.raises(UserError) as error:
        load_definitions(tmp_path, ["noun"])
    assert message in str(error.value)


@given(
    words=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz"), st.sets(st.sampled_from("uvw"), max_size=2)),
        max_size=12,
    ),
    size=st.integers(1, 4),
    seed=st.integers(0, 3),
    of_all=st.booleans(),
)
def test_what_is_held_out(words, size, seed, of_all):
    definitions = [Definition(text, word, tuple(sorted(others))) for text, word, others in words]
    validation, test = held_out_definitions(definitions, size, seed, of_all)
    assert len(validation) <= size
    assert 0 <= len(test) - len(validation) <= 1
    held_out = [*validation, *test]
    assert len(set(held_out)) == len(held_out)
    training = [definition for i, definition in enumerate(definitions) if i not in held_out]
    for i in held_out:
        if of_all:
            assert set(definitions[i].synonyms) <= {word for one in training for word in one.synonyms}
        else:
            assert definitions[i].word in {definition.word for definition in training}
        assert (definitions[i].text, definitions[i].word) not in {(one.text, one.word) for one in training}
    assert (validation, test) == held_out_definitions(definitions, size, seed, of_all)


def test_mini_data(tmp_path):
    wordnet.write_mini_wordnet(tmp_path)
    found, again = load_definitions(tmp_path, ["noun"]), wordnet.load_mini()
    assert found.data.fingerprint == again.data.fingerprint
    assert (found.data.mini, again.data.mini) == (False, True)
    assert found.data.sizes == {"train": 1800, "validation": 100, "test": 100}
    assert len(found.labels) == 400
    everything = Counter(text for split in found.data.splits.values() for text in split["text"])
    assert sum(everything.values()) == 2000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main([*SHORT, "--output_dir", str(folder)]) == 0
    return folder


def test_the_command(run, capsys):
    result = json.loads((run / "result.json").read_text())
    scores = result["metrics"]["test"]["outputs"]
    assert result["mini"] is True
    assert 0.1 < scores["accuracy"] < scores["top5"] < scores["top10"]
    assert (result["loss"], result["k"], round(result["M"], 2)) == ("square", 15.0, 12.64)
    with (run / "predict_results.tsv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows[0] == ["definition", "word", *(f"answer {i}" for i in range(1, 11))]
    assert sum(row[1] == row[2] for row in rows[1:]) / 100 == scores["accuracy"]
    assert sum(row[1] in row[2:] for row in rows[1:]) / 100 == scores["top10"]
    assert main([*SHORT, "--output_dir", str(run)]) == 0
    assert "finished already" in capsys.readouterr().out


def test_the_saved_model_answers(run):
    with (run / "predict_results.tsv").open(encoding="utf-8") as file:
        _, (text, _, *answers), *_ = csv.reader(file, delimiter="\t")
    (found,) = pipeline("text-classification", str(run), top_k=10)([text])
    assert [entry["label"] for entry in found] == answers
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    inputs = tokenizer([text, f"{text} {text} {text}", "unheardof"], padding=True, return_tensors="pt")
    together = model(**inputs).logits
    alone = model(**tokenizer([text], return_tensors="pt")).logits
    torch.testing.assert_close(together[:1], alone)
    torch.testing.assert_close(together[1], together[0])  # a mean


def test_scores_are_those_of_all_outputs(run, tmp_path):
    assert_same_answers_without_logits(main, SHORT[:4], run, tmp_path)


REFUSED = {
    "mini and a folder": (["--mini", "--data_dir", "x"], "--data_dir is of WordNet, and --mini is made-up data"),
    "no such folder": (["--data_dir", "nowhere"], "nowhere/data.noun cannot be read: No such file or directory"),
    "nothing held out": (["--mini", "--held_out", "0"], "--held_out must be at least 1, got 0"),
    "another metric": (["--mini", "--metric_for_best_model", "f1"], "must be one of accuracy, top5, top10"),
    "sizes of a trained one": (["--mini", "--arch", "bert", "--hidden_size", "8"], "--hidden_size is of a new model"),
    "a new one to score": (["--mini", "--do_eval"], "--arch bag_of_words is a new model, which has to be trained"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path, monkeypatch, capsys):
    options, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    assert_refused(main, ["--use_cpu", *options], "sqloss reverse_dictionary", message, tmp_path, capsys)


def test_without_wordnet(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sqloss_plugins.hf.tasks.reverse_dictionary.DEFAULT_DIR", tmp_path / "nowhere")
    options = ["--use_cpu", "--parts_of_speech", "verb", "--output_dir", str(tmp_path / "run")]
    message = f"--parts_of_speech is of WordNet, and there is none in {tmp_path / 'nowhere'}: give --data_dir"
    assert_refused(main, options, "sqloss reverse_dictionary", message, tmp_path, capsys)
    assert main([*SHORT[1:], "--max_steps", "1", "--output_dir", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "using MINI data" in printed
    assert "*** MINI DATA: made-up words, and no real dictionary ***" in printed


def test_all_of_wordnet_is_said_to_take_long(tmp_path, monkeypatch):
    """Where it is taken because it is there; and it is taken, rather than the mini data."""
    for part in wordnet.PARTS:
        (tmp_path / f"data.{part}").write_text("".join(f"0 03 n 01 go 0 000 | to {part} {i}\n" for i in range(20)))
    monkeypatch.setattr("sqloss_plugins.hf.tasks.reverse_dictionary.DEFAULT_DIR", tmp_path)
    warning = "all of WordNet: many minutes on a CPU; --parts_of_speech takes a part, --mini needs seconds"
    for options, is_warned in (
        ([], True),
        (["--parts_of_speech", "verb"], False),
        (["--data_dir", str(tmp_path)], False),
    ):
        task = parse(ReverseDictionary, ["--use_cpu", *options])
        task.data = task.load()
        assert not task.data.mini
        assert (warning in task.notes()) is is_warned

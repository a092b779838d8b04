"""Speech from a data set with an audio column, as the hub has them: here from folders."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import soundfile
from commands import assert_refused
from datasets import Audio, Features, Value
from pyarrow import parquet
from speech import settings

from sqloss_plugins.data.corpora.hub import HubSplit, parse_split
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe import main

TEXTS = ("one", "two too", "three")


def encoded(number, kind="WAV", rate=16000):
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(number).normal(0, 0.1, rate), rate, format=kind)
    return file.getvalue()


def make(folder, split, rows, audio="audio", text="sentence", names=None):
    """A split as a parquet file, with the audio in it, as on the hub."""
    columns = {
        audio: [None if content is None else {"bytes": content, "path": f"{i}.{kind}"} for i, content, kind in rows],
        text: [TEXTS[i % 3] for i, *_ in rows],
        "client_id": [names[i] if names else i // 4 for i, *_ in rows],
    }
    features = Features({audio: Audio(), text: Value("string"), "client_id": Value("string" if names else "int64")})
    folder.mkdir(parents=True, exist_ok=True)
    # The schema says, as in the hub's files, that the column is audio; datasets itself encodes none without torchcodec.
    table = pyarrow.Table.from_pydict(columns, schema=features.arrow_schema)
    parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """Twelve utterances of three speakers for training, WAV and FLAC at two rates, and four of another to validate."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [(i, encoded(i, *((("WAV", 16000), ("FLAC", 8000))[i % 2])), ("wav", "flac")[i % 2]) for i in range(16)]
    make(tmp_path / "set", "train", rows[:12])
    make(tmp_path / "set", "validation", rows[12:])
    return tmp_path / "set"


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_split_is_a_manifest_with_the_audio_as_it_is(data_set, tmp_path, capsys):
    split = HubSplit(str(data_set), "train")
    manifest = tmp_path / "out/manifest.jsonl"
    split.write(manifest)
    rows = read(manifest)
    assert [row["text"] for row in rows] == [TEXTS[i % 3] for i in range(12)]
    assert [row["speaker"] for row in rows] == [i // 4 for i in range(12)]
    assert [Path(row["audio"]).suffix for row in rows] == [".wav", ".flac"] * 6
    assert [Path(row["audio"]).read_bytes() for row in rows] == [
        encoded(i, *((("WAV", 16000), ("FLAC", 8000))[i % 2])) for i in range(12)
    ]
    assert rows[3]["id"] == f"{split.folder_name}-0000003"
    before = manifest.stat().st_mtime_ns
    split.write(manifest)
    assert "done before" in capsys.readouterr().out
    assert manifest.stat().st_mtime_ns == before
    part = HubSplit(str(data_set), "train[:2]")
    part.write(tmp_path / "part/manifest.jsonl")
    assert len(read(tmp_path / "part/manifest.jsonl")) == 2
    assert part.folder_name != split.folder_name


def test_audio_in_files_stays_there(tmp_path, monkeypatch):
    """As a data set of a folder of audio has it."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "a.wav").write_bytes(encoded(0))
    features = Features({"audio": Audio(), "transcription": Value("string")})
    columns = {"audio": [{"bytes": None, "path": str(tmp_path / "a.wav")}], "transcription": ["one"]}
    (tmp_path / "set").mkdir()
    parquet.write_table(
        pyarrow.Table.from_pydict(columns, schema=features.arrow_schema), tmp_path / "set/train.parquet"
    )
    HubSplit(str(tmp_path / "set"), "train").write(tmp_path / "out/manifest.jsonl")
    (row,) = read(tmp_path / "out/manifest.jsonl")
    assert (row["audio"], row["text"]) == (str(tmp_path / "a.wav"), "one")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.jsonl"]


MISTAKES = {
    "no split": ({"split": "test"}, "hub:.*set:test cannot be loaded: Unknown split"),
    "no data set": ({"name": "nothing/there"}, "hub:nothing/there:train cannot be loaded: "),
    "no such text": (
        {"text_column": "words"},
        "has no column words: choose --text_column_name from its columns audio, se",
    ),
    "text as audio": ({"audio_column": "sentence"}, "has no column sentence of audio: choose --audio_column_name from"),
}


@pytest.mark.parametrize("case", list(MISTAKES))
def test_mistakes_are_said_and_nothing_is_left(case, data_set, tmp_path):
    what, message = MISTAKES[case]
    with pytest.raises(UserError, match=message):
        HubSplit(**{"name": str(data_set), "split": "train", **what}).write(tmp_path / "out/manifest.jsonl")
    assert not (tmp_path / "out").exists()


def test_a_row_without_audio(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    make(tmp_path / "set", "train", [(0, encoded(0), "wav"), (1, None, "wav")], "speech", "words", ["a b", "c"])
    with pytest.raises(UserError, match=r"set:train: row 1 has no audio"):
        HubSplit(str(tmp_path / "set"), "train", text_column="words").write(tmp_path / "out/manifest.jsonl")
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_how_a_split_is_named():
    assert parse_split("hub:a/b", "train", "en", None, None) == HubSplit("a/b", "train", "en")
    assert parse_split("hub:a/b:train[:10%]", "test", None, "x", "y") == HubSplit("a/b", "train[:10%]", None, "x", "y")
    assert str(HubSplit("a/b", "train", "en")) == "hub:a/b:train (en)"
    for text in ("hub:", "hub::train", "hub:a/b:"):
        with pytest.raises(UserError, match="must be hub:NAME or hub:NAME:SPLIT"):
            parse_split(text, "train", None, None, None)


def test_a_data_set_is_prepared_by_the_recipe(data_set, tmp_path, monkeypatch, capsys):
    """Hold-outs, audio at one rate and tokens are those of any other corpus; it is fetched once."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    words = ["mine", "--train", f"hub:{data_set}", "--valid", f"hub:{data_set}:validation", "--test_size", "4"]
    words += ["--nj", "1"]
    assert main([*words, "--stage", "2", "--stop_stage", "3"]) == 2
    assert "manifest.jsonl is missing, which stage 1 makes of hub:" in capsys.readouterr().err
    assert main([*words, "--stop_stage", "3"]) == 0
    data = Path("data/mine/train-char")
    assert [
        json.loads((data / name / "subset.json").read_text())["utterances"] for name in ("train", "dev", "test")
    ] == [
        8,
        4,
        4,
    ]
    assert "by speaker: 4 utterances as test (1 speakers)" in capsys.readouterr().out
    for line in (data / "train/wav.scp").read_text().splitlines():
        info = soundfile.info(line.split()[1])
        assert (info.samplerate, info.frames) == (16000, 16000)
    assert main([*words, "--stop_stage", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("done before") == 6  # two manifests, three subsets, the dictionary
    assert settings(*words, "--stage", "4").of_data()["folder"] == f"hub:{data_set}"
    assert main([*words[:2], f"hub:{data_set}:train[:8]", *words[3:], "--stop_stage", "3"]) == 2
    assert "holds another run" in capsys.readouterr().err


WRONG_OPTIONS = {
    "config": (
        ["--train", "x.tsv", "--dataset_config_name", "en"],
        "--dataset_config_name is for data sets, hub:NAME, and",
    ),
    "column": (
        ["--train", "x.tsv", "--text_column_name", "a"],
        "--text_column_name is for data sets, hub:NAME, and there",
    ),
    "name": (["--train", "hub:"], "hub: must be hub:NAME or hub:NAME:SPLIT"),
}


@pytest.mark.parametrize("case", list(WRONG_OPTIONS))
def test_wrong_options(case, tmp_path, monkeypatch, capsys):
    words, message = WRONG_OPTIONS[case]
    (tmp_path / "x.tsv").write_text("audio\ttext\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    assert_refused(main, ["mine", *words, "--workdir", "work"], "sqloss asr", message, tmp_path / "work", capsys)
    monkeypatch.setattr("sqloss_plugins.espnet.recipe.own_corpus.find_spec", lambda name: None)
    words = ["mine", "--train", "hub:a/b", "--workdir", "work"]
    message = "hub:a/b:train needs the package datasets, which is not installed: pip install it"
    assert_refused(main, words, "sqloss asr", message, tmp_path / "work", capsys)

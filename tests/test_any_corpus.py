"""A corpus of the user's own: manifests, their audio, hold-outs, and the whole recipe by the command line."""

import errno
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import assert_refused
from hypothesis import given
from hypothesis import strategies as st
from speech import call_compressed, make_decoder, settings

from sqloss_plugins.data.corpora import Utterance
from sqloss_plugins.data.corpora.conversion import convert_audio, resample, write_flac
from sqloss_plugins.data.corpora.manifest import Manifests, hold_out, own_corpus, read_manifest
from sqloss_plugins.data.corpora.sphere import write_sphere
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe import main
from sqloss_plugins.espnet.recipe.confidence import batch_size
from sqloss_plugins.espnet.recipe.parsing import parse
from sqloss_plugins.espnet.recipe.paths import DataFolder
from sqloss_plugins.espnet.recipe.preparation import make_dictionary
from sqloss_plugins.results import read_result

TINY = [
    *("--encoder_conf", "num_blocks=1", "--encoder_conf", "output_size=16", "--encoder_conf", "linear_units=16"),
    *("--decoder_conf", "num_blocks=1", "--decoder_conf", "linear_units=16", "--frontend_conf", "n_mels=20"),
    *("--max_epoch", "1", "--batch_size", "4", "--num_workers", "0", "--nj", "1", "--use_matplotlib", "false"),
]


def tone(seconds=0.5, rate=16000, frequency=440.0, channels=1):
    """Shape (n,) or (n, channels); the channels are louder and louder."""
    wave = 0.1 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return wave if channels == 1 else wave[:, None] * np.arange(1, channels + 1)


def write(path, *what, rate=16000, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(*what, rate=rate, **more), rate)


@pytest.fixture
def folder(tmp_path):
    """Two files of audio below ``data``."""
    for name in ("a", "b"):
        write(tmp_path / f"data/wav/{name}.wav")
    return tmp_path / "data"


TSV = "audio\ttext\tid\tspeaker\nwav/a.wav\tone  two\tu1\tann\nwav/b.wav\tthree\tu2\tbob lee\n"
MANIFESTS = {
    "all.tsv": TSV,
    "windows.tsv": "\ufeff" + TSV.replace("\n", "\r\n") + "\r\n",
    "upper.tsv": TSV.replace("audio\ttext\tid\tspeaker", " Path\tSENTENCE\tutt_id\tClient_ID"),
    "all.csv": 'wav,transcript,id,spk,length\nwav/a.wav,"one two",u1,ann,1\nwav/b.wav,three,u2,"bob lee",1\n',
    "all.jsonl": '{"audio_filepath": "wav/a.wav", "text": "one two", "duration": 0.5, "id": "u1", "speaker": "ann"}\n\n'
    '{"audio_filepath": "wav/b.wav", "text": "three", "duration": 0.4, "id": "u2", "speaker": "bob lee"}\n',
}


def as_kaldi(folder, segments=None):
    files = {
        "wav.scp": "u1 wav/a.wav\nu2 wav/b.wav\n",
        "text": "u2 three\nu1 one two\n",
        "utt2spk": "u1 ann\nu2 bob_lee\n",
        **({"segments": segments} if segments else {}),
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("kind", [*MANIFESTS, "kaldi"])
def test_the_kinds_of_manifests_say_the_same(kind, folder):
    path = as_kaldi(folder) if kind == "kaldi" else folder / kind
    if kind != "kaldi":
        path.write_bytes(MANIFESTS[kind].encode())
    found = sorted(read_manifest(path), key=lambda item: item.name)
    what = [(item.name, item.speaker, item.audio, item.text, item.start, item.end) for item in found]
    assert what == [
        ("u1", "ann", folder / "wav/a.wav", "one two", 0.0, None),
        ("u2", "bob_lee", folder / "wav/b.wav", "three", 0.0, None),
    ]


def test_quotes_in_a_tsv_are_text_and_common_voice_has_its_audio_in_clips(tmp_path):
    write(tmp_path / "clips/c.flac")
    (tmp_path / "x.tsv").write_text('client_id\tpath\tsentence\tage\nabc\tc.flac\t"Well," he said\t\n')
    (item,) = read_manifest(tmp_path / "x.tsv")
    assert (item.audio, item.text, item.speaker) == (tmp_path / "clips/c.flac", '"Well," he said', "abc")


def test_names_that_are_not_given_are_those_of_the_files(tmp_path):
    """As short as they can be without two being the same, in all manifests together."""
    for split in ("train", "dev"):
        for name in ("a.x", "b"):
            write(tmp_path / f"{split}/{name}.wav")
        (tmp_path / f"{split}.tsv").write_text(f"audio\ttext\n{split}/a.x.wav\tone\n{split}/b.wav\ttwo\n")
    files = {split: tmp_path / f"{split}.tsv" for split in ("train", "dev")}
    corpus = own_corpus("mine", Manifests(files, {}))
    assert [item.name for split in files for item in corpus.read(Path(), split)] == [
        *("train-a.x", "train-b", "dev-a.x", "dev-b"),
    ]
    only = own_corpus("mine", Manifests({"train": files["train"]}, {})).read(Path(), "train")
    assert [(item.name, item.speaker) for item in only] == [("a.x", "a.x"), ("b", "b")]  # each speaker is another one


def row(*fields):
    return TSV + "\t".join(fields) + "\n"


BAD_MANIFESTS = {
    "no audio column": ("x.tsv", "sound\ttext\nwav/a.wav\tone\n", "x.tsv has no column of audio (one of audio, path, "),
    "no text column": (
        "x.tsv",
        "audio\twords\nwav/a.wav\tone\n",
        "(one of text, transcript, sentence, transcription):",
    ),
    "columns are listed": ("x.tsv", "audio\twords\n", "its columns are audio, words"),
    "a column twice": ("x.tsv", "audio\ttext\tText\n", "x.tsv line 1: two columns are called 'text'"),
    "fields": ("x.tsv", "audio\ttext\nwav/a.wav\tone\ttwo\n", "x.tsv line 2 has 3 fields, and the header has 2"),
    "quote": ("x.csv", 'audio,text\nwav/a.wav,"one\n', "x.csv line 3 is not a row of a table: unexpected end of data"),
    "no audio": ("x.tsv", row("wav/c.wav", "x", "u3", "c"), "x.tsv line 4: there is no audio file "),
    "a folder": ("x.tsv", row("wav", "x", "u3", "c"), "x.tsv line 4: "),
    "a path of nothing": ("x.tsv", row(" ", "x", "u3", "c"), "x.tsv line 4: audio is empty"),
    "a path that cannot be": ("x.tsv", row("x" * 5000, "x", "u3", "c"), "x.tsv line 4: there is no audio file "),
    "no text": ("x.tsv", row("wav/a.wav", " ", "u3", "c"), "x.tsv line 4: text is empty"),
    "no id": ("x.tsv", row("wav/a.wav", "x", "", "c"), "x.tsv line 4: id is empty"),
    "an id twice": ("x.tsv", row("wav/a.wav", "x", "u1", "c"), "x.tsv line 4: the id u1 is in "),
    "an id that is a path": (
        "x.tsv",
        row("wav/a.wav", "x", "../u3", "c"),
        "x.tsv line 4: the id '../u3' cannot be used",
    ),
    "an id of words": ("x.tsv", row("wav/a.wav", "x", "u 3", "c"), "x.tsv line 4: the id 'u 3' cannot be used"),
    "some speakers": ("x.tsv", row("wav/a.wav", "x", "u3", ""), "x.tsv line 4 has no speaker, and others have"),
    "the same file twice": (
        "x.tsv",
        "audio\ttext\nwav/a.wav\tone\nwav/a.wav\ttwo\n",
        "x.tsv line 3: the utterance a is",
    ),
    "only a header": ("x.tsv", "audio\ttext\n", "x.tsv has no utterances"),
    "nothing": ("x.tsv", "\n", "x.tsv has no utterances"),
    "not utf-8": ("x.tsv", b"audio\ttext\nwav/a.wav\t\xff\n", "x.tsv line 2 is not UTF-8"),
    "not json": ("x.jsonl", '{"audio": 1}\n{"audio"\n', "x.jsonl line 1: there is no audio file "),
    "no json": ("x.jsonl", '\n{"audio"\n', "x.jsonl line 2 is not JSON: "),
    "a name twice": ("x.json", '{"audio": "a", "text": "b", "text": "c"}', "x.json line 1: an object has 'text' twice"),
    "a list": ("x.json", '["wav/a.wav", "one"]', "x.json line 1 must be one JSON object"),
    "no text in json": (
        "x.json",
        '{"audio": "wav/a.wav", "words": "x"}',
        "line 1 has no text (one of text, transcript",
    ),
    "null": ("x.json", '{"audio": "wav/a.wav", "text": null}', "x.json line 1: text must be text, got null"),
    "offset": (
        "x.json",
        '{"audio": "wav/a.wav", "text": "x", "offset": 0.1}',
        "x.json line 1: duration must be a number of seconds, got None",
    ),
    "a negative part": (
        "x.json",
        '{"audio": "wav/a.wav", "text": "x", "offset": -1, "duration": 2}',
        "x.json line 1: a part with offset -1 and duration 2 is none",
    ),
}


@pytest.mark.parametrize("case", list(BAD_MANIFESTS))
def test_bad_manifests(case, folder, tmp_path, monkeypatch, capsys):
    """One sentence with file and line, exit status 2, nothing made."""
    name, content, message = BAD_MANIFESTS[case]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert_refused(main, ["mine", "--train", f"../data/{name}"], "sqloss asr", message, tmp_path / "work", capsys)


BAD_KALDI = {
    "pipe": (
        "wav.scp",
        "u1 sph2pipe -f wav a.sph |\n",
        "wav.scp line 1 is a pipe, and no command of a file is run here",
    ),
    "no audio": ("wav.scp", "u1 wav/a.wav\nu2 wav/c.wav\n", "wav.scp line 2: there is no audio file "),
    "audio twice": ("wav.scp", "u1 wav/a.wav\nu1 wav/b.wav\n", "wav.scp line 2: u1 has audio already, in "),
    "text of nothing": ("wav.scp", "u1 wav/a.wav\n", "text: u2 has a transcript, and no audio"),
    "no text": ("text", "u1 one\n", "wav.scp line 2: u2 has no transcript in "),
    "empty text": ("text", "u1 one\nu2\n", "text line 2: the transcript of u2 is empty"),
    "no speaker": ("utt2spk", "u1 ann\n", "wav.scp line 2: u2 has no speaker in "),
    "segment": ("segments", "u1 u1 0\n", "segments line 1 must have a name, a recording, a start and an end"),
    "no number": ("segments", "u1 u1 0 end\n", "segments line 1 must be a number of seconds, got 'end'"),
    "recording": ("segments", "u1 u9 0 1\n", "segments line 1: u9 is not in wav.scp"),
    "segment twice": ("segments", "u1 u1 0 1\nu1 u1 1 2\n", "segments line 2: u1 is there already"),
}


@pytest.mark.parametrize("case", list(BAD_KALDI))
def test_bad_data_directories(case, folder):
    name, content, message = BAD_KALDI[case]
    (as_kaldi(folder) / name).write_text(content)
    with pytest.raises(UserError) as raised:
        read_manifest(folder)
    assert message in str(raised.value)


BAD_OPTIONS = {
    "no manifest": (["any"], "this recipe is for a corpus of your own: give --train, its manifest"),
    "unknown recipe": (["mine"], "or give your own corpus a name, and its manifest by --train"),
    "known corpus": (
        ["an4", "--train", "DATA/all.tsv"],
        "--train is for a corpus of your own, and this recipe is for AN4",
    ),
    "option of it": (["an4", "--fs", "8k"], "--fs is for a corpus of your own, and this recipe is for AN4"),
    "path as name": (["x/y", "--train", "DATA/all.tsv"], "there is no speech recipe 'x/y'"),
    "name": (["m i", "--train", "DATA/all.tsv"], "the name of the corpus 'm i' is not a name"),
    "name of the paper's": (["timit_phone", "--train", "DATA/all.tsv"], "timit_phone is a task of the paper: choose"),
    "no file": (["mine", "--train", "DATA/no.tsv"], "no.tsv is not there"),
    "another kind": (
        ["mine", "--train", "DATA/wav/a.wav"],
        "is neither a file that ends in .tsv, .csv, .jsonl, .json, nor",
    ),
    "another folder": (
        ["mine", "--train", "DATA/wav"],
        "is a folder without wav.scp: Kaldi's data directories have it",
    ),
    "corpus": (["mine", "--train", "DATA/all.tsv", "--corpus", "DATA"], "--corpus is for a corpus that is known"),
    "mini": (["mine", "--train", "DATA/all.tsv", "--mini"], "this recipe has no mini corpus"),
    "rate": (["mine", "--train", "DATA/all.tsv", "--fs", "fast"], "must be a sample rate in Hz, such as 16k or 8000"),
    "no rate": (["mine", "--train", "DATA/all.tsv", "--fs", "0"], "must be a sample rate in Hz"),
    "channel": (["mine", "--train", "DATA/all.tsv", "--audio_channel", "left"], "must be 0, 1, or mix, got 'left'"),
    "size": (
        ["mine", "--train", "DATA/all.tsv", "--test_size", "1.5"],
        "must be a fraction below 1 or a number of utt",
    ),
    "size of nothing": (
        ["mine", "--train", "DATA/all.tsv", "--valid", "DATA/all.tsv", "--validation_size", "0.1"],
        "--validation_size is of what is held out of --train, and --valid is given",
    ),
    "two tests": (
        ["mine", "--train", "DATA/all.tsv", "--test", "DATA/all.tsv", "DATA/all.tsv"],
        "--test has 2 manifests, and --test_sets has 1 names for them (test)",
    ),
    "two names": (["mine", "--train", "DATA/all.tsv", "--test_sets", "a b"], "there is no --test with their manifests"),
    "too few": (["mine", "--train", "DATA/all.tsv"], "2 utterances are too few to hold 1 and 1 of them out"),
    "durations": (
        ["mine", "--train", "DATA/all.tsv", "--min_wav_duration", "30"],
        "30 and --max_wav_duration 20 are no",
    ),
    "in both": (
        ["mine", "--train", "DATA/all.tsv", "--valid", "DATA/all.tsv", "--test", "DATA/all.tsv"],
        "all.tsv line 2: the utterance u1 is in ",
    ),
}


@pytest.mark.parametrize("case", list(BAD_OPTIONS))
def test_bad_options(case, folder, tmp_path, monkeypatch, capsys):
    words, message = BAD_OPTIONS[case]
    (folder / "all.tsv").write_text(TSV)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    words = [word.replace("DATA", str(folder)) for word in words]
    assert_refused(main, words, "sqloss asr", message, tmp_path / "work", capsys)


# ---------------------------------------------------------------- audio


def utterance(path, name="x", **part):
    return Utterance(name, "s", path, "one", where="m.tsv line 2", **part)


@pytest.mark.parametrize(("rate", "target"), [(8000, 16000), (44100, 16000), (48000, 8000), (16000, 11025)])
def test_resampling_keeps_a_tone(rate, target):
    """Against the tone made at the target rate; the filter's edges aside."""
    found, expected = resample(tone(0.5, rate), rate, target), tone(0.5, target)
    assert len(found) == pytest.approx(len(expected), abs=1)
    inner = slice(target // 20, -target // 20)
    assert found[: len(expected)][inner] == pytest.approx(expected[: len(found)][inner], abs=2e-3)


def test_resampling_keeps_nothing_above_half_the_rate():
    assert np.abs(resample(tone(0.5, 44100, frequency=12000), 44100, 16000)[800:-800]).max() < 1e-3


@pytest.mark.parametrize(("channel", "factor"), [("0", 1), ("1", 2), ("mix", 1.5)])
def test_a_channel_is_taken(channel, factor, tmp_path):
    write(tmp_path / "x.wav", channels=2)
    ((item,), samples) = convert_audio([utterance(tmp_path / "x.wav")], tmp_path / "out", 1, None, 16000, channel)
    found, rate = soundfile.read(item.audio)
    assert (rate, samples, item.audio) == (16000, [8000], tmp_path / "out/audio/x.flac")
    assert found == pytest.approx(factor * tone(), abs=1e-4)


def test_what_is_mono_at_the_rate_is_taken_as_it_is(tmp_path):
    kinds = {"a.wav": {}, "b.flac": {}, "c d.wav": {}, "e.mp3": {}, "f.ogg": {}, "g.wav": {"rate": 8000}}
    for name, more in kinds.items():
        write(tmp_path / name, **more)
    items = [utterance(tmp_path / name, name[0]) for name in kinds]
    counted = []
    found, samples = convert_audio(items, tmp_path / "out", 2, lambda: counted.append(1), 16000, None)
    assert [item.audio.name for item in found] == ["a.wav", "b.flac", "c.flac", "e.flac", "f.flac", "g.flac"]
    assert [item.name for item in found] == list("abcefg")
    assert samples == [8000] * 6
    assert len(counted) == 6
    for item in found:
        assert soundfile.read(item.audio)[0][500:-500] == pytest.approx(tone()[500:-500], abs=0.02)


def test_parts_of_a_recording(tmp_path):
    """NeMo's offset and duration, and Kaldi's segments; a part may end some milliseconds behind the file."""
    write(tmp_path / "x.wav", 2.0, rate=8000)
    rows = [{"offset": 0, "duration": 0.5}, {"offset": 0.5, "duration": 1.51}]
    lines = [json.dumps({"audio_filepath": "x.wav", "text": "one", **part}) for part in rows]
    (tmp_path / "x.json").write_text("\n".join(lines))
    corpus = own_corpus("mine", Manifests({"train": tmp_path / "x.json"}, {}))
    items = corpus.read(Path(), "train")
    assert [item.name for item in items] == ["x-00000000-00000500", "x-00000500-00002010"]
    found, samples = corpus.convert(items, tmp_path / "out", 1, None)
    assert samples == [8000, 24000]
    whole = resample(tone(2.0, 8000), 8000, 16000)
    assert soundfile.read(found[1].audio)[0][100:-100] == pytest.approx(whole[8100:-100], abs=1e-3)
    segments = "u1-a u1 0.1 0.3\nu1-b u1 0.3 -1\n"
    kaldi = as_kaldi(tmp_path, segments)
    for name in "ab":
        write(tmp_path / f"wav/{name}.wav")
    (kaldi / "text").write_text("u1-a one\nu1-b two\n")
    (kaldi / "utt2spk").write_text("u1-a ann\nu1-b ann\n")
    found, samples = convert_audio(read_manifest(kaldi), tmp_path / "out", 1, None, 16000, None)
    assert samples == [3200, 3200]


def samples(value):
    def write_samples(path):
        wave = np.zeros(1000)
        wave[700] = value
        soundfile.write(path, wave, 8000, subtype="FLOAT")

    return write_samples


BAD_AUDIO = {
    "text": (lambda path: path.write_text("one two three\n" * 50), "x.wav cannot be read as audio: "),
    "no bytes": (lambda path: path.write_bytes(b""), "x.wav cannot be read as audio: "),
    "no samples": (lambda path: soundfile.write(path, np.zeros(0), 8000), "x.wav is empty: it has no samples"),
    "nan": (samples(np.nan), "x.wav has samples that are not numbers (NaN or infinite)"),
    "infinite": (samples(np.inf), "x.wav has samples that are not numbers (NaN or infinite)"),
    "stereo": (
        lambda path: write(path, channels=2),
        "has 2 channels: choose one by --audio_channel 0 or 1, or the mean",
    ),
}


@pytest.mark.parametrize("case", list(BAD_AUDIO))
def test_bad_audio(case, tmp_path):
    make, message = BAD_AUDIO[case]
    make(tmp_path / "x.wav")
    with pytest.raises(UserError) as raised:
        convert_audio([utterance(tmp_path / "x.wav")], tmp_path / "out", 1, None, 16000, None)
    assert str(raised.value).startswith("m.tsv line 2: ")
    assert message in str(raised.value)


@pytest.mark.parametrize("limit", [4000, 9000])
def test_a_full_disk_leaves_no_part_of_a_file(limit, tmp_path):
    """Where the end of a FLAC file did not fit, libsndfile said nothing."""
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_flac(tmp_path / "x.flac", noise, 16000)
        with pytest.raises(OSError, match="too large"):
            write_sphere(tmp_path / "x.sph", noise, 16000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "x.flac").exists()


def test_bad_parts_and_channels(tmp_path):
    write(tmp_path / "x.wav", 0.5)
    (tmp_path / "x.raw").write_bytes(bytes(100))
    for item, channel, message in (
        (
            utterance(tmp_path / "x.wav", start=0.2, end=0.7),
            None,
            "x is from 0.2 to 0.7 s of .*x.wav, which has 0.50 s",
        ),
        (utterance(tmp_path / "x.wav", start=0.6, end=0.7), None, "x is from 0.6 to 0.7 s"),
        (utterance(tmp_path / "x.wav", start=0.2, end=0.2), None, "x is from 0.2 to 0.2 s"),
        (utterance(tmp_path / "x.wav"), "1", r"has 1 channel\(s\): there is no --audio_channel 1, counted from 0"),
        (utterance(tmp_path / "x.raw"), None, "x.raw cannot be read as audio: it has no header"),
    ):
        with pytest.raises(UserError, match=message):
            convert_audio([item], tmp_path / "out", 1, None, 16000, channel)


# ---------------------------------------------------------------- hold-outs


def spoken(counts, files=None):
    """So many utterances of each speaker."""
    return [
        Utterance(f"{speaker}-{i}", speaker, Path(f"/{(files or speaker)}{i}"), "one")
        for speaker, count in counts.items()
        for i in range(count)
    ]


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 9), min_size=3, max_size=12),
    st.permutations(range(5)),
    st.sampled_from([0.1, 0.3, 1]),
)
def test_hold_outs_are_disjoint_and_the_same_whatever_the_order(counts, order, size):
    items = spoken(counts)
    shuffled = [item for i in order for item in items[i::5]]
    sizes = {"dev": size, "test": 1}
    left, taken, by = hold_out(items, sizes)
    names = [item.name for group in (left, *taken.values()) for item in group]
    assert sorted(names) == sorted(item.name for item in items)
    assert left
    assert all(taken.values())
    assert hold_out(shuffled, sizes) == (left, taken, by)
    speakers = [{item.speaker for item in group} for group in (left, *taken.values())]
    if by == "speaker":
        assert sum(map(len, speakers)) == len(set.union(*speakers))


def test_hold_outs_of_whole_speakers_where_that_leaves_enough():
    left, taken, by = hold_out(spoken({f"s{i}": 10 for i in range(20)}), {"dev": 0.1, "test": 10})
    assert (by, len(left), {name: len(group) for name, group in taken.items()}) == (
        "speaker",
        170,
        {"dev": 20, "test": 10},
    )
    assert hold_out(spoken({f"s{i}": 10 for i in range(5)}), {"dev": 0.1, "test": 0.1})[2] == "speaker"
    left, taken, by = hold_out(spoken({"ann": 50, "bob": 50}), {"dev": 0.1, "test": 0.1})
    assert (by, len(left), len(taken["dev"])) == ("file", 80, 10)
    # One recording of all: no way but by utterance.
    items = [Utterance(f"u{i}", "", Path("/x"), "one", i, i + 1) for i in range(10)]
    assert hold_out(items, {"dev": 0.1})[2] == "utterance"


# ---------------------------------------------------------------- the recipe


@pytest.fixture
def mine(tmp_path):
    """Six speakers' utterances of three kinds of audio; one is too long, one too short."""
    rows = ["path\tsentence\tclient_id"]
    for i in range(24):
        rate, channels = ((8000, 1), (44100, 2), (16000, 1))[i % 3]
        path = tmp_path / f"data/wav/u{i:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).normal(0, 0.1, (round(0.6 * rate), channels))
        soundfile.write(path, noise, rate)
        rows.append(f"wav/{path.name}\t{('one', 'two two', 'three')[i % 3]}\ts{i // 4}")
    for name, seconds in (("short", 0.05), ("long", 20.5)):
        write(tmp_path / f"data/wav/{name}.wav", seconds, rate=8000)
        rows.append(f"wav/{name}.wav\tfour\ts9{name}")
    (tmp_path / "data/all.tsv").write_text("\n".join(rows))
    return tmp_path / "data"


def test_all_stages(mine, tmp_path, monkeypatch, capsys):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    before = sorted(mine.rglob("*"))
    Path("decode.yaml").write_text("beam_size: 2\nctc_weight: 0.3\nmaxlenratio: -4\n")
    words = ["mine", "--train", "../data/all.tsv", "--fs", "8k", "--audio_channel", "mix", *TINY]
    words += ["--inference_config", "decode.yaml", "--method", "softmax", "--max_wav_duration", "20"]
    # Held out: the seed's choice; the two odd ones are for training by these sizes.
    assert main([*words, "--validation_size", "4", "--test_size", "4"]) == 0
    printed = capsys.readouterr().out
    assert sorted(mine.rglob("*")) == before

    (path,) = Path("runs/mine/conformer").rglob("result.json")
    result = read_result(path.parent)
    assert (result.task, result.selection, result.rescaling_source.split(" for ")[0]) == (
        "mine",
        "wer",
        "the level rule",
    )
    assert result.data["sizes"] == {"train": 16, "dev": 4, "test": 4}
    assert result.data["source"].endswith("all.tsv")
    assert "train: 2 of 18 utterances are left out: 1 shorter than 0.1 s, 1 longer than 20 s" in printed
    assert "by speaker: 4 utterances as dev (1 speakers) and 4 utterances as test (1 speakers) (seed 42)" in printed
    assert "wer" in result.metrics["test"]["softmax"]
    data = Path("data/mine/train-char")
    assert {line.split()[1] for line in (data / "dev/utt2num_samples").read_text().splitlines()} == {"4800"}
    for line in (data / "train/wav.scp").read_text().splitlines():
        assert soundfile.info(line.split()[1]).samplerate == 8000
    config = (path.parent / "config.yaml").read_text()
    for name, value in (("fs", 8000), ("n_fft", 256), ("win_length", 200), ("hop_length", 80)):
        assert f"    {name}: {value}\n" in config


def test_a_manifest_that_was_changed_is_another_corpus(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["mine", "--train", "data/all.tsv", "--audio_channel", "0", "--stop_stage", "2", "--nj", "1"]
    held = [*words, "--test", "data/test.tsv"]
    write(mine / "wav/test.wav")
    (mine / "test.tsv").write_text("audio\ttext\nwav/test.wav\tone\n")
    assert main(held) == 0
    assert main(words) == 2  # another hold-out
    assert "holds another run (subsets " in capsys.readouterr().err
    (mine / "test.tsv").write_text("audio\ttext\nwav/test.wav\ttwo\n")
    assert main(held) == 2
    assert "train-char/test was made of another manifest, or of what this one was before" in capsys.readouterr().err
    (mine / "test.tsv").write_text("audio\ttext\nwav/test.wav\tone\n")
    write(mine / "wav/more.wav", frequency=220)
    (mine / "more.tsv").write_text("audio\ttext\nwav/more.wav\tone\n")
    more = [*words, "--test_sets", "test more", "--test", "data/test.tsv", "data/more.tsv"]
    assert main(more) == 0  # a further test set
    with (mine / "all.tsv").open("a") as file:
        file.write("\nwav/test.wav\tone\tx")
    assert main(held) == 2
    assert "the utterance test is in " in capsys.readouterr().err


def test_the_same_audio_in_two_subsets(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (mine / "wav/copy.wav").write_bytes((mine / "wav/u03.wav").read_bytes())
    (mine / "test.tsv").write_text("audio\ttext\nwav/copy.wav\tone\n")
    words = ["mine", "--train", "data/all.tsv", "--valid", "data/test.tsv", "--test_size", "1", "--stop_stage", "2"]
    assert main([*words, "--audio_channel", "0"]) == 2
    assert "remove it from one" in capsys.readouterr().err


def test_compressed_sphere_is_decoded_and_not_taken_for_that_of_another_manifest(folder, monkeypatch, capsys):
    """A first attempt ended after some of it was decoded; the second gives the same ids to other audio."""
    monkeypatch.chdir(folder)
    for name, seconds in (("short", 0.5), ("long", 1.5), ("cut", 1.0)):
        write_sphere(folder / f"{name}.sph", tone(seconds), 16000)
        call_compressed(folder / f"{name}.sph")
    os.truncate("cut.sph", 9000)
    for split, name in (("dev", "a"), ("test", "b")):
        Path(f"{split}.tsv").write_text(f"audio\ttext\nwav/{name}.wav\tone\n")
    write(folder / "wav/b.wav", frequency=200)  # not the audio of the other
    words = ["mine", "--train", "all.tsv", "--valid", "dev.tsv", "--test", "test.tsv", "--nj", "1", "--stop_stage", "2"]
    monkeypatch.setenv("PATH", str(make_decoder(folder / "bin").parent))
    for audio, status in ((("short", "cut"), 2), (("long", "short"), 0)):
        rows = [f"{name}.sph\tone\tu{i}" for i, name in enumerate(audio)]
        Path("all.tsv").write_text("\n".join(["audio\ttext\tid", *rows]))
        assert main(words) == status
    assert "cut.sph is cut short" in capsys.readouterr().err
    assert Path("data/mine/train-char/train/utt2num_samples").read_text() == "u0 24000\nu1 8000\n"


def test_utterances_too_short_for_the_encoder_are_named_before_the_training(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["mine", "--train", "data/all.tsv", "--audio_channel", "0", "--nj", "1", "--test", "data/test.tsv"]
    write(mine / "wav/test.wav", 0.05)
    (mine / "test.tsv").write_text("audio\ttext\tid\nwav/test.wav\tone\tt1\n")
    assert main([*words, "--stop_stage", "6"]) == 2
    printed = capsys.readouterr()
    assert "1 utterance(s) of test are shorter than the 0.060 s that the encoder's subsampling needs, such as t1 (" in (
        printed.err
    )
    assert "stage 3" not in printed.out
    assert main([*words, "--stage", "3", "--stop_stage", "3"]) == 0  # tokens need no encoder


def test_transcripts_too_long_for_ctc_are_named_before_the_training(mine, tmp_path, monkeypatch, capsys):
    """0.6 s are 61 frames, of which this encoder leaves 6; and those that could have more are left out."""
    monkeypatch.chdir(tmp_path)
    text = (mine / "all.tsv").read_text()
    (mine / "all.tsv").write_text(text.replace("\tone\t", "\tseven six\t").replace("\tthree\t", "\tthree ten\t"))
    words = ["mine", "--train", "data/all.tsv", "--audio_channel", "0", "--nj", "1", "--stop_stage", "6"]
    words += ["--max_wav_duration", "1"]
    assert main([*words, "--encoder_conf", "input_layer=conv2d8"]) == 2
    printed = capsys.readouterr()
    assert "of train have more tokens than CTC can put on the encoder's frames: u" in printed.err
    assert "choose an encoder that subsamples less, longer tokens, or --model_conf ctc_weight=0" in printed.err
    assert "stage 3" in printed.out
    assert "stage 4" not in printed.out


def test_a_token_that_is_unknown_and_one_that_cannot_be(tmp_path, capsys):
    data = DataFolder(tmp_path, "phn")
    text = tmp_path / "text"
    text.write_text("u1 a <unk> b\nu2 a <unk>\n")
    make_dictionary(text, data, 1)
    assert data.tokens == ["<blank>", "<unk>", "a", "b", "<sos/eos>"]
    assert data.token_counts.read_text().split() == ["0", "2", "2", "1", "2"]
    text.write_text("u1 a <blank>\n")
    with pytest.raises(UserError, match="text have <blank>, which no transcript can have: take it out"):
        make_dictionary(text, data, 1)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "sqloss asr: interrupted"),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            1,
            "sqloss asr: error: the disk is full (",
        ),
    ],
)
def test_what_is_no_defect_has_no_traceback(error, status, message, monkeypatch, capsys):
    def end(_):
        raise error

    monkeypatch.setattr("sqloss_plugins.espnet.recipe.parsing.parse", end)
    assert main([]) == status
    assert capsys.readouterr().err.startswith(message)


def test_few_long_utterances_at_a_time(tmp_path):
    path = tmp_path / "utt2num_samples"
    assert batch_size(path) == 8
    for seconds, size in ((35, 8), (60, 8), (120, 4), (7200, 1)):
        path.write_text(f"u1 {8000}\nu2 {seconds * 16000}\n")
        assert batch_size(path) == size


def test_a_work_folder_that_cannot_be_is_said_before_any_audio_is_converted(folder):
    (folder / "a b").mkdir()
    with pytest.raises(UserError, match="has white space or unprintable characters"):
        convert_audio([utterance(folder / "wav/a.wav")], folder / "a b", 1, None, 8000, None)
    assert list((folder / "a b").iterdir()) == []


def test_no_utterance_of_the_durations(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["mine", "--train", "data/all.tsv", "--audio_channel", "0", "--nj", "1", "--min_wav_duration", "19"]
    assert main([*words, "--max_wav_duration", "19.5"]) == 2
    assert "no utterance of train has 19 to 19.5 s: choose another --min_wav_duration" in capsys.readouterr().err


def test_defaults(mine, tmp_path):
    words = ["mine", "--train", str(mine / "all.tsv"), "--workdir", str(tmp_path)]
    found = settings(*words)
    options = found.given.options
    assert (options.arch, options.token_type, options.durations) == (
        "conformer",
        "char",
        {"train": (0.1, 20.0), "dev": (0.1, 20.0)},
    )
    assert (found.espnet.frontend_conf["hop_length"], found.fewest_samples) == (160, 960)
    assert settings(*words, "--frontend_conf", "hop_length=128").fewest_samples == 768
    assert settings(*words, "--encoder_conf", "input_layer=conv2d6").fewest_samples == 1600
    assert settings(*words, "--arch", "conformer_large", "--fs", "44.1k").espnet.frontend_conf["win_length"] == 1102
    own = tmp_path / "own.yaml"
    own.write_text("frontend_conf: {fs: 16k}\nbest_model_criterion: [[valid, acc, max]]\n")
    with pytest.raises(UserError, match="fs is 16k, and the audio has 8000 Hz: the two must be the same"):
        settings(*words, "--asr_config", str(own), "--fs", "8k")  # taken as it is


def test_known_corpora_keep_all_their_utterances(tmp_path):
    """Their results are of all durations, unless others are asked for."""
    words = ["an4", "--corpus", str(tmp_path), "--workdir", str(tmp_path)]
    assert parse(words).options.durations == {}
    assert parse([*words, "--max_wav_duration", "5"]).options.durations == {"train": (0.0, 5.0), "dev": (0.0, 5.0)}

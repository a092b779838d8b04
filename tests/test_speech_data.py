"""Speech corpora: layouts, checks, and the mini corpus."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sqloss_plugins.data.mini_speech import write_mini_librispeech
from sqloss_plugins.data.speech import Utterance, check_audio, download, read_an4, read_librispeech, write_data_dir
from sqloss_plugins.errors import UserError

SIZES = {"train-clean-100": (3, 7), "dev-clean": (2, 4), "test-clean": (2, 3)}


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    write_mini_librispeech(root, SIZES)
    return root


def test_the_mini_corpus_has_librispeechs_layout(mini):
    subsets = {subset: read_librispeech(mini, subset) for subset in SIZES}
    assert {subset: (len({item.speaker for item in found}), len(found)) for subset, found in subsets.items()} == SIZES
    everything = [item for found in subsets.values() for item in found]
    assert len({item.text for item in everything}) == len(everything) == 14  # no sentence twice, in no two subsets
    assert len({item.speaker for item in everything}) == 7
    assert check_audio(everything) > 14
    first = soundfile.read(everything[0].audio)[0]
    assert 0.05 < np.abs(first).max() < 0.6
    assert all(item.text == item.text.upper() for item in everything)


def test_the_mini_corpus_is_the_same_in_every_process(tmp_path):
    """A speaker of every kind of voice; eSpeak NG carries state from call to call, and some voices have own noise."""
    command = (
        "import sys, pathlib; from sqloss_plugins.data.mini_speech import write_mini_librispeech as write; "
        "write(pathlib.Path(sys.argv[1]), {'train-clean-100': (78, 78)})"
    )
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        subprocess.run([sys.executable, "-c", command, str(root)], check=True, cwd=Path(__file__).parent.parent)
    ours, theirs = ({path.name: path.read_bytes() for path in root.rglob("*.flac")} for root in roots)
    assert len(ours) == 78
    assert ours == theirs


def write_wave(path, seconds=0.5, rate=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (int(seconds * rate), channels) if channels > 1 else int(seconds * rate)
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, shape), rate)


@pytest.fixture
def chapter(tmp_path):
    folder = tmp_path / "LibriSpeech/dev-clean/11/7"
    for name in ("11-7-0000", "11-7-0001"):
        write_wave(folder / f"{name}.flac")
    (folder / "11-7.trans.txt").write_text("11-7-0000 ONE  TWO\n11-7-0001 THREE\n")
    return folder


def test_librispeech(chapter, tmp_path):
    for root in (tmp_path, tmp_path / "LibriSpeech"):
        first, second = read_librispeech(root, "dev-clean")
        assert first == Utterance("11-7-0000", "11-7", root.absolute() / first.audio.relative_to(root), "ONE TWO")
        assert second.text == "THREE"
    write_data_dir(tmp_path / "data", [second, first])
    assert (tmp_path / "data/text").read_text() == "11-7-0000 ONE TWO\n11-7-0001 THREE\n"
    assert (tmp_path / "data/utt2spk").read_text() == "11-7-0000 11-7\n11-7-0001 11-7\n"
    assert (tmp_path / "data/wav.scp").read_text().split()[1] == str(first.audio)


def damage(chapter, how):
    if how == "no audio":
        (chapter / "11-7-0001.flac").unlink()
    elif how == "no transcript":
        (chapter / "11-7.trans.txt").write_text("11-7-0000 ONE TWO\n")
    elif how == "no transcripts":
        write_wave(chapter.parent / "8/11-8-0000.flac")
    elif how == "empty transcript":
        (chapter / "11-7.trans.txt").write_text("11-7-0000 ONE TWO\n11-7-0001\n")
    elif how == "cut short":
        path = chapter / "11-7-0001.flac"
        path.write_bytes(path.read_bytes()[:3000])
    elif how == "not audio":
        (chapter / "11-7-0001.flac").write_bytes(b"x" * 999)
    elif how == "another rate":
        write_wave(chapter / "11-7-0001.flac", rate=8000)
    elif how == "stereo":
        write_wave(chapter / "11-7-0001.flac", channels=2)
    elif how == "other layout":
        (chapter / "11-7.trans.txt").unlink()
        for path in chapter.glob("*.flac"):
            path.unlink()


DAMAGES = {
    "no audio": "has a transcript for 11-7-0001, and there is no 11-7-0001.flac beside it",
    "no transcript": "11-7-0001.flac has no transcript in 11-7.trans.txt",
    "no transcripts": "has audio, and no .*trans.txt",
    "empty transcript": "11-7.trans.txt line 2: the transcript of 11-7-0001 is empty",
    "cut short": "11-7-0001.flac (is cut short|cannot be read as audio)",
    "not audio": "11-7-0001.flac cannot be read as audio",
    "another rate": r"11-7-0001.flac has 8000 Hz and 1 channel\(s\): this recipe takes mono at 16000 Hz",
    "stereo": "11-7-0001.flac has 16000 Hz and 2 channel",
    "other layout": "this is not LibriSpeech's layout",
}


@pytest.mark.parametrize("how", list(DAMAGES))
def test_a_damaged_corpus(how, chapter, tmp_path):
    damage(chapter, how)
    with pytest.raises(UserError, match=DAMAGES[how]):
        check_audio(read_librispeech(tmp_path, "dev-clean"), nj=2)


def test_wrong_folders(tmp_path, chapter):
    with pytest.raises(UserError, match=r"has no subset test-clean \(it has dev-clean\)"):
        read_librispeech(tmp_path, "test-clean")
    with pytest.raises(UserError, match="there is no such folder"):
        read_librispeech(tmp_path / "nowhere", "dev-clean")
    with pytest.raises(UserError, match="has white space"):
        write_data_dir(tmp_path / "data", [Utterance("a", "a", Path("/two words.flac"), "A")])
    with pytest.raises(UserError, match="two utterances are called a"):
        write_data_dir(tmp_path / "data", [Utterance("a", "a", Path("/x.flac"), "A")] * 2)


@pytest.fixture
def an4(tmp_path):
    root = tmp_path / "an4"
    speakers = [f"s{i:02d}" for i in range(21)]
    lines = {"train": [f"<s> YES </s> (an1-{speaker}-b)" for speaker in speakers[:20]], "test": ["NO (an1-s20-b)"]}
    for speaker in speakers:
        write_wave(root / "wav" / speaker / f"an1-{speaker}-b.wav")
    (root / "etc").mkdir()
    for split, text in lines.items():
        (root / f"etc/an4_{split}.transcription").write_text("\n".join(text) + "\n")
    return root


def test_an4(an4):
    train, dev, test = (read_an4(an4, subset) for subset in ("train", "dev", "test"))
    assert (len(train), len(dev), len(test)) == (18, 2, 1)
    assert {item.speaker for item in dev} == {"s00", "s10"}  # whole speakers are held out
    assert not {item.speaker for item in dev} & {item.speaker for item in train}
    assert (test[0].name, test[0].text) == ("s20-an1-s20-b", "NO")
    assert check_audio([*train, *dev, *test]) == pytest.approx(10.5)
    next(an4.rglob("an1-s03-b.wav")).unlink()
    with pytest.raises(UserError, match="line 4: no audio of an1-s03-b"):
        read_an4(an4, "train")
    (an4 / "etc/an4_test.transcription").write_text("(an1-s20-b)\n")
    with pytest.raises(UserError, match="line 1 is not a transcript"):
        read_an4(an4, "test")
    with pytest.raises(UserError, match="AN4 has no subset dev-clean"):
        read_an4(an4, "dev-clean")
    with pytest.raises(UserError, match=r"has no etc/an4_train\.transcription"):
        read_an4(an4 / "wav", "train")


def test_a_download_that_was_cut_short_is_unpacked_anew(tmp_path, monkeypatch):
    """torchaudio takes a subset's folder, whatever is in it, for the whole subset."""

    def fetch(root, url, download):
        target = root / "LibriSpeech" / url
        if not target.is_dir():
            target.mkdir(parents=True)
            (target / "whole").touch()

    monkeypatch.setattr("torchaudio.datasets.LIBRISPEECH", fetch)
    cut = tmp_path / "LibriSpeech/dev-clean/1/2"
    cut.mkdir(parents=True)
    download("librispeech", ["dev-clean", "test-clean"], tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("whole")) == ["whole", "whole"]
    assert not cut.exists()
    (tmp_path / "LibriSpeech/dev-clean/whole").unlink()
    download("librispeech", ["dev-clean"], tmp_path)
    assert not (tmp_path / "LibriSpeech/dev-clean/whole").exists()  # it was complete: nothing is done
    with pytest.raises(UserError, match="LibriSpeech has no subset test-cleen: choose from train-clean-100, "):
        download("librispeech", ["dev-clean", "test-cleen"], tmp_path)

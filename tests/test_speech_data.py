"""Speech corpora: layouts, checks, and the mini corpus."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sqloss_plugins.data.corpora import (
    CORPORA,
    Utterance,
    check_audio,
    check_subsets,
    write_data_dir,
)
from sqloss_plugins.data.corpora.librispeech import write_mini
from sqloss_plugins.errors import UserError

AN4, AN4_PHONES, LIBRISPEECH = (CORPORA[name] for name in ("an4", "an4_phn", "librispeech"))
SIZES = {"train-clean-100": (3, 7), "dev-clean": (2, 4), "test-clean": (2, 3)}


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    write_mini(root, subsets=SIZES)
    return root


def test_the_mini_corpus_has_librispeechs_layout(mini):
    subsets = {subset: LIBRISPEECH.read(mini, subset) for subset in SIZES}
    assert {subset: (len({item.speaker for item in found}), len(found)) for subset, found in subsets.items()} == SIZES
    everything = [item for found in subsets.values() for item in found]
    assert len({item.text for item in everything}) == len(everything) == 14  # no sentence twice, in no two subsets
    assert len({item.speaker for item in everything}) == 7
    assert sum(check_audio(everything)) > 14 * 16000
    first = soundfile.read(everything[0].audio)[0]
    assert 0.05 < np.abs(first).max() < 0.6
    assert all(item.text == item.text.upper() for item in everything)


def test_the_mini_corpus_is_the_same_in_every_process(tmp_path):
    """A speaker of every kind of voice; eSpeak NG carries state from call to call, and some voices have own noise."""
    command = (
        "import sys, pathlib; from sqloss_plugins.data.corpora.librispeech import write_mini; "
        "write_mini(pathlib.Path(sys.argv[1]), subsets={'train-clean-100': (78, 78)})"
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
        first, second = LIBRISPEECH.read(root, "dev-clean")
        assert first == Utterance("11-7-0000", "11-7", root.absolute() / first.audio.relative_to(root), "ONE TWO")
        assert second.text == "THREE"
    write_data_dir(tmp_path / "data", [second, first])
    assert (tmp_path / "data/text").read_text() == "11-7-0000 ONE TWO\n11-7-0001 THREE\n"
    assert (tmp_path / "data/utt2spk").read_text() == "11-7-0000 11-7\n11-7-0001 11-7\n"
    assert (tmp_path / "data/wav.scp").read_text().split()[1] == str(first.audio)


def test_transcripts_are_read_as_espnet_reads_them(chapter, tmp_path):
    """A byte order mark, tabs, other ends of lines; what str.splitlines alone takes for an end of line is a space."""
    text = "\ufeff11-7-0000\tONE\u2028TWO\x85THREE \r\n\r\n  11-7-0001  FOUR\x0cFIVE\u00a0SIX\r\n"
    (chapter / "11-7.trans.txt").write_bytes(text.encode())
    utterances = LIBRISPEECH.read(tmp_path, "dev-clean")
    assert [item.text for item in utterances] == ["ONE TWO THREE", "FOUR FIVE SIX"]
    write_data_dir(tmp_path / "data", utterances)
    with (tmp_path / "data/text").open() as lines:
        assert [line.split() for line in lines] == [[item.name, *item.text.split()] for item in utterances]


def nothing(chapter):
    for path in chapter.iterdir():
        path.unlink()


def samples(value, subtype):
    def write(chapter):
        wave = np.zeros(1000)
        wave[700] = value
        soundfile.write(chapter / "11-7-0001.flac", wave, 16000, format="WAV", subtype=subtype)

    return write


def transcripts(content):
    return lambda chapter: (chapter / "11-7.trans.txt").write_bytes(content)


def cut(chapter):
    path = chapter / "11-7-0001.flac"
    path.write_bytes(path.read_bytes()[:3000])


DAMAGES = {
    "no audio": (
        lambda chapter: (chapter / "11-7-0001.flac").unlink(),
        "has a transcript for 11-7-0001, and there is no 11-7-0001.flac beside it",
    ),
    "no transcript": (transcripts(b"11-7-0000 ONE"), "11-7-0001.flac has no transcript in 11-7.trans.txt"),
    "no transcripts": (
        lambda chapter: write_wave(chapter.parent / "8/11-8-0000.flac"),
        "has audio, and no .*trans.txt",
    ),
    "empty transcript": (
        transcripts(b"11-7-0000 ONE\n\n11-7-0001 \n"),
        "11-7.trans.txt line 3: the transcript of 11-7-0001 is empty",
    ),
    "two transcripts": (
        transcripts(b"11-7-0000 ONE\n11-7-0001 TWO\n11-7-0000 ONE\n"),
        "11-7.trans.txt line 3: 11-7-0000 has a transcript already",
    ),
    "another encoding": (
        transcripts("11-7-0000 ONE\n11-7-0001 ÜBER\n".encode("latin-1")),
        "11-7.trans.txt line 2 is not UTF-8: convert the file",
    ),
    "a folder of transcripts": (
        lambda chapter: (chapter / "11-7.trans.txt").rename(chapter / "x") and (chapter / "11-7.trans.txt").mkdir(),
        "11-7.trans.txt cannot be read: Is a directory",
    ),
    "cut short": (cut, "11-7-0001.flac (is cut short|cannot be read as audio)"),
    "not audio": (
        lambda chapter: (chapter / "11-7-0001.flac").write_bytes(b"x" * 999),
        "11-7-0001.flac cannot be read as audio",
    ),
    "no bytes": (
        lambda chapter: (chapter / "11-7-0001.flac").write_bytes(b""),
        "11-7-0001.flac cannot be read as audio",
    ),
    "no samples": (
        lambda chapter: soundfile.write(chapter / "11-7-0001.flac", np.zeros(0), 16000, format="WAV"),
        "11-7-0001.flac is empty: it has no samples",
    ),
    "nan": (samples(np.nan, "FLOAT"), r"11-7-0001.flac has samples that are not numbers \(NaN or infinite\)"),
    "infinite": (samples(-np.inf, "DOUBLE"), "11-7-0001.flac has samples that are not numbers"),
    "another rate": (
        lambda chapter: write_wave(chapter / "11-7-0001.flac", rate=8000),
        r"11-7-0001.flac has 8000 Hz and 1 channel\(s\): this recipe takes mono at 16000 Hz",
    ),
    "stereo": (
        lambda chapter: write_wave(chapter / "11-7-0001.flac", channels=2),
        "11-7-0001.flac has 16000 Hz and 2 channel",
    ),
    "other layout": (nothing, "this is not LibriSpeech's layout"),
}


@pytest.mark.parametrize("case", list(DAMAGES))
def test_a_damaged_corpus(case, chapter, tmp_path):
    damage, message = DAMAGES[case]
    damage(chapter)
    with pytest.raises(UserError, match=message):
        check_audio(LIBRISPEECH.read(tmp_path, "dev-clean"), nj=2)


def test_audio_of_another_rate_is_checked_against_the_corpuss(chapter, tmp_path):
    utterances = LIBRISPEECH.read(tmp_path, "dev-clean")
    with pytest.raises(UserError, match=r"has 16000 Hz and 1 channel.*: this recipe takes mono at 8000 Hz"):
        check_audio(utterances, sample_rate=8000)
    samples(0.5, "FLOAT")(chapter)  # floating-point samples that are numbers
    assert check_audio(utterances) == [8000, 1000]


def test_an_utterance_in_two_subsets(chapter, tmp_path):
    copy = tmp_path / "LibriSpeech/test-clean/11/7"
    shutil.copytree(chapter, copy)
    subsets = {subset: LIBRISPEECH.read(tmp_path, subset) for subset in ("dev-clean", "test-clean")}
    message = r"the utterance 11-7-000. \(.*test-clean.*\) is in dev-clean and in test-clean: remove it from one"
    with pytest.raises(UserError, match=message):
        check_subsets(subsets)
    first, second = subsets["dev-clean"]
    with pytest.raises(UserError, match=r"the utterance 11-7-0001 .* is in a and in b"):
        check_subsets({"a": [first], "b": [second]})  # the same audio under two names
    second.audio.write_bytes(first.audio.read_bytes()[::-1])
    check_subsets({"a": [first], "b": [second]})
    other = copy.parent.parent / "12/7"  # under another name
    shutil.rmtree(copy.parent)
    other.mkdir(parents=True)
    (other / "12-7-0000.flac").symlink_to(chapter / "11-7-0000.flac")
    (other / "12-7.trans.txt").write_text("12-7-0000 ONE TWO\n")
    with pytest.raises(UserError, match=r"the utterance 12-7-0000 .*is in dev-clean and in test-clean"):
        check_subsets({**subsets, "test-clean": LIBRISPEECH.read(tmp_path, "test-clean")})


def test_a_broken_link_is_named(chapter, tmp_path):
    (chapter / "11-7-0000.flac").unlink()
    (chapter / "11-7-0000.flac").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"11-7-0000\.flac cannot be read: No such file or directory"):
        check_subsets({"dev-clean": LIBRISPEECH.read(tmp_path, "dev-clean")})


def test_wrong_folders(tmp_path, chapter):
    with pytest.raises(UserError, match=r"has no subset test-clean \(it has dev-clean\)"):
        LIBRISPEECH.read(tmp_path, "test-clean")
    with pytest.raises(UserError, match="there is no such folder"):
        LIBRISPEECH.read(tmp_path / "nowhere", "dev-clean")
    for path in ("/two words.flac", "/two\nlines.flac", "/not\udcffutf-8.flac"):
        with pytest.raises(UserError, match="has white space or unprintable characters"):
            write_data_dir(tmp_path / "data", [Utterance("a", "a", Path(path), "A")])
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


@pytest.mark.parametrize("is_link", [False, True])
def test_an4(is_link, an4, tmp_path):
    if is_link:  # audio on another disk
        (an4 / "wav").rename(tmp_path / "elsewhere")
        (an4 / "wav").symlink_to(tmp_path / "elsewhere")
    train, dev, test = (AN4.read(an4, subset) for subset in ("train", "dev", "test"))
    assert (len(train), len(dev), len(test)) == (18, 2, 1)
    assert {item.speaker for item in dev} == {"s00", "s10"}  # whole speakers are held out
    assert not {item.speaker for item in dev} & {item.speaker for item in train}
    assert (test[0].name, test[0].text) == ("s20-an1-s20-b", "NO")
    assert check_audio([*train, *dev, *test]) == [8000] * 21


AN4_DAMAGES = {
    "no audio": ("<s> YES </s> (an1-s99-b)", "line 2: no audio of an1-s99-b below .* \\(.flac, .wav, .sph\\)"),
    "no words": ("(an1-s00-b)", "line 2 is not a transcript with the utterance's name in parentheses"),
    "no name": ("<s> YES </s>", "line 2 is not a transcript with the utterance's name in parentheses"),
    "no speaker": ("YES (an1)", "line 2: an1 is no name of AN4's, which are like an406-SPEAKER-b"),
    "twice": ("YES (an1-s20-b)", "line 2: an1-s20-b has a transcript already"),
    "another encoding": ("\udcff (an1-s00-b)", "an4_test.transcription line 2 is not UTF-8"),
}


@pytest.mark.parametrize("case", list(AN4_DAMAGES))
def test_a_damaged_an4(case, an4):
    line, message = AN4_DAMAGES[case]
    write_wave(an4 / "wav/an1.wav")
    with (an4 / "etc/an4_test.transcription").open("a", errors="surrogateescape") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match=message):
        AN4.read(an4, "test")


def test_wrong_folders_of_an4(an4):
    with pytest.raises(UserError, match="AN4 has no subset dev-clean"):
        AN4.read(an4, "dev-clean")
    with pytest.raises(UserError, match=r"has no etc/an4_train\.transcription"):
        AN4.read(an4 / "wav", "train")
    (an4 / "etc/an4_test.transcription").write_text("\n")
    with pytest.raises(UserError, match=r"an4_test\.transcription has no transcripts"):
        AN4.read(an4, "test")


def test_phones_of_an4_are_those_of_the_first_pronunciation(an4):
    with pytest.raises(UserError, match=r"an4 has no etc/an4\.dic, in which the CMU archive has"):
        AN4_PHONES.read(an4, "train")
    (an4 / "etc/an4.dic").write_text("NO  N OW\nYES(2)\tY AH S\nYES\tY EH  S\n\nA                    AH\nA(2)  EY\n")
    by_words = {item.name: item for item in AN4.read(an4, "train")}
    for item in AN4_PHONES.read(an4, "train"):
        assert item == replace(by_words[item.name], text="Y AH S")  # of those in the file, the first
    (an4 / "etc/an4_test.transcription").write_text("A NO A (an1-s20-b)\n")
    assert [item.text for item in AN4_PHONES.read(an4, "test")] == ["AH N OW AH"]


AN4_LEXICONS = {
    "no phones": ("YES Y EH S\nNO\n", r"etc/an4\.dic line 2: NO has no phones"),
    "a word is missing": ("NO N OW\n", r"an4\.dic lacks 1 word\(s\) of the transcripts, such as YES of s01-an1-s01-b"),
    "empty": ("\n", r"an4\.dic has no words"),
}


@pytest.mark.parametrize("case", list(AN4_LEXICONS))
def test_damaged_pronunciations_of_an4(case, an4):
    content, message = AN4_LEXICONS[case]
    (an4 / "etc/an4.dic").write_text(content)
    with pytest.raises(UserError, match=message):
        AN4_PHONES.read(an4, "train")

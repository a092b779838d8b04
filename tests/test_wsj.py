"""WSJ: LDC's layout and transcripts, compressed audio, the mini corpus, and the recipe from end to end."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from speech import WRITE_WAV, call_compressed, make_decoder, settings

from sqloss_plugins.data.corpora import CORPORA, check_audio, check_subsets
from sqloss_plugins.data.corpora.sphere import SphereHeader, decode, find_decoder, read_header, write_sphere
from sqloss_plugins.data.corpora.wsj import MINI_SUBSETS, SUBSETS, normalize, write_mini
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.bin.asr_export import main as export
from sqloss_plugins.espnet.recipe import main
from sqloss_plugins.espnet.recipe.error_rates import count_errors
from sqloss_plugins.espnet.recipe.parsing import parse
from sqloss_plugins.espnet.recipe.preparation import make_dictionary
from sqloss_plugins.results import read_result

ROOT = Path(__file__).parent.parent
WSJ = CORPORA["wsj"]
DEV = "13-34.1/wsj1/doc/indices/h1_p0.ndx"
AUDIO = "13-16.1/wsj1/si_dt_20/4k0"
DOT = "13-34.1/wsj1/trans/wsj1/si_dt_20/4k0/4k0c0300.dot"

# ---------------------------------------------------------------- SPHERE


def noise(samples=8000):
    return np.random.default_rng(samples).integers(-3000, 3000, samples, dtype=np.int16)


@pytest.fixture
def shortened(tmp_path):
    """Such a file."""
    write_sphere(tmp_path / "a.wv1", noise(), 16000)
    return call_compressed(tmp_path / "a.wv1")


def test_sphere(tmp_path):
    path = tmp_path / "a.wv1"
    write_sphere(path, noise(), 16000)
    assert path.read_bytes()[:16] == b"NIST_1A\n   1024\n"
    assert path.stat().st_size == 1024 + 2 * 8000
    assert read_header(path) == SphereHeader(8000, "pcm")
    assert not read_header(path).is_compressed
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == 16000
    np.testing.assert_array_equal(samples, noise())
    assert read_header(call_compressed(path)) == SphereHeader(8000, "pcm,embedded-shorten-v1.09")
    assert read_header(path).is_compressed
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(path)
    soundfile.write(tmp_path / "a.flac", noise(), 16000)
    assert read_header(tmp_path / "a.flac") is None


def test_a_header_as_timit_has_it_says_nothing_of_the_coding(tmp_path):
    path = tmp_path / "a.wav"
    fields = "database_id -s5 TIMIT\nchannel_count -i 1\nsample_count -i 3\nsample_rate -i 16000\nsample_max -r 1.5\n"
    path.write_bytes(f"NIST_1A\n   1024\n{fields}end_head\n".encode().ljust(1024) + bytes(6))
    assert read_header(path) == SphereHeader(3, "pcm")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"NIST_1A\n   1024\nsample_rate -i 16000\n", "has a damaged SPHERE header: there is no end_head"),
        (b"NIST_1A\nmuch\nend_head\n", "has a damaged SPHERE header: there is no end_head"),
        (b"NIST_1A\n   1024\nsample_rate -i 16000\nend_head\n", "has a damaged SPHERE header: 'sample_count'"),
        (b"NIST_1A\n   1024\nsample_count -i x\nend_head\n", "has a damaged SPHERE header: invalid"),
    ],
)
def test_damaged_headers(content, message, tmp_path):
    (tmp_path / "a.wv1").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_header(tmp_path / "a.wv1")


@pytest.mark.parametrize("name", ["sph2pipe", "ffmpeg"])
def test_compressed_sphere_is_decoded_by_a_program_on_the_path(name, shortened, tmp_path, monkeypatch):
    program = make_decoder(tmp_path / "bin", name=name)
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_decoder() == str(program)
    decode(shortened, tmp_path / "a.wav", find_decoder())
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert rate == 16000
    np.testing.assert_array_equal(samples, noise())


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("sys.exit('warning\\nno such coding')", "a.wv1 cannot be decoded by .*sph2pipe: no such coding"),
        ("sys.exit(3)", "a.wv1 cannot be decoded by .*sph2pipe: it ended with status 3"),
        ("", "a.wv1 cannot be decoded by .*sph2pipe: it ended with status 0"),
        ("open(target, 'w').write('x')", "a.wv1 cannot be decoded by .*sph2pipe: it ended with status 0"),
        (f"samples = samples[:-1]; {WRITE_WAV}", "a.wv1 is cut short: .*sph2pipe finds 7999 of 8000 samples"),
    ],
)
def test_a_program_that_does_not_decode(act, message, shortened, tmp_path):
    program = make_decoder(tmp_path / "bin", act)
    with pytest.raises(UserError, match=message):
        decode(shortened, tmp_path / "a.wav", str(program))
    assert not (tmp_path / "a.wav").exists()


def test_another_format_is_not_decoded_as_sphere(tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(), 16000)
    with pytest.raises(UserError, match=r"a\.flac is not NIST SPHERE"):
        decode(tmp_path / "a.flac", tmp_path / "a.wav", "sph2pipe")


# ---------------------------------------------------------------- transcripts


@pytest.mark.parametrize(
    ("transcript", "words"),
    [
        ("Of course there isn\\'t any guarantee", "OF COURSE THERE ISN'T ANY GUARANTEE"),  # quoted signs
        ("I\\. B\\. M\\. introduced", "I. B. M. INTRODUCED"),  # abbreviations
        ("the hot hand [misc_noise]", "THE HOT HAND <NOISE>"),
        ("[loud_breath] and new", "<NOISE> AND NEW"),
        ("hardware[door_slam] such", "<NOISE> SUCH"),  # the word goes with it, as in Kaldi
        ("the [<door_slam] door", "THE DOOR"),  # a noise over the word before
        ("the [door_slam>] door", "THE DOOR"),  # and after
        ("[phone_ring/] the door [/phone_ring]", "THE DOOR"),
        ("the door[phone_ring/] shuts[/phone_ring] now", "THE NOW"),  # the words go with them, as in Kaldi
        ("the . door", "THE DOOR"),  # a pause
        ("the door ~", "THE DOOR"),  # cut off
        ("<and> the door", "AND THE DOOR"),
        ("<isn't> it", "ISN'T IT"),
        ("a *mispronounced* word", "A *MISPRONOUNCED* WORD"),
        ("<*in*> the door", "<*IN*> THE DOOR"),
        ("<*mr.*> door", "<*MR.*> DOOR"),
        ("yes \\,COMMA no \\.PERIOD", "YES ,COMMA NO .PERIOD"),  # punctuation that was read aloud
        ('he said \\"DOUBLE\\-QUOTE go', 'HE SAID "DOUBLE-QUOTE GO'),
        ("one \\.POINT five %PERCENT", "ONE POINT FIVE PERCENT"),
        ("that --DASH is", "THAT -DASH IS"),
        ("the corp(oration)- failed", "THE CORP(ORATION)- FAILED"),  # a word that breaks off
        ("a lo:ng word!", "A LO:NG WORD!"),
        ("one  \t two", "ONE TWO"),
        ("[tongue_click>] .", ""),
    ],
)
def test_normalisation(transcript, words):
    assert normalize(transcript) == words


# ---------------------------------------------------------------- reading


@pytest.fixture
def discs(tmp_path):
    """Dev93 of two utterances, on discs."""
    root = tmp_path / "wsj"
    for folder in (root / AUDIO, (root / DEV).parent, (root / DOT).parent):
        folder.mkdir(parents=True)
    (root / DEV).write_text(
        ";; File: h1_p0.ndx, updated 04/26/94\n;;\n"
        "13_16_1:wsj1/si_dt_20/4k0/4k0c0301.wv1\n13_16_1: /wsj1/si_dt_20/4k0/4k0c030a.wv1\n"
    )
    (root / DOT).write_text("One [<door_slam] two (4k0c0301)\r\nThree \\,COMMA four (4K0C030A)\nFive (4k0c0302)\n")
    for number, name in enumerate(("4k0c0301", "4k0c030a", "4k0c0302")):
        write_sphere(root / AUDIO / f"{name}.wv1", noise(8000 + number), 16000)
        write_sphere(root / AUDIO / f"{name}.wv2", noise(9000), 16000)
    return root


def expect_dev(found):
    assert [(item.name, item.speaker, item.text) for item in found] == [
        ("4k0c0301", "4k0", "ONE TWO"),
        ("4k0c030a", "4k0", "THREE ,COMMA FOUR"),
    ]
    assert [item.audio.name.lower() for item in found] == ["4k0c0301.wv1", "4k0c030a.wv1"]
    assert check_audio(found) == [8000, 8001]


def test_the_index_names_the_utterances(discs):
    """Of the first microphone; what it does not name is left."""
    expect_dev(WSJ.read(discs, "test_dev93"))


def test_merged_folders_capitals_and_links(discs, tmp_path):
    merged = tmp_path / "merged"
    for disc in discs.iterdir():
        shutil.copytree(disc, merged, dirs_exist_ok=True)
    expect_dev(WSJ.read(merged, "test_dev93"))
    for path in sorted(merged.rglob("*"), reverse=True):  # as one of the discs is shipped
        path.rename(path.with_name(path.name.upper()))
    expect_dev(WSJ.read(merged, "test_dev93"))
    (tmp_path / "links/wsj1").mkdir(parents=True)
    for disc in discs.iterdir():
        (tmp_path / "links/wsj1" / disc.name).symlink_to(disc)
    expect_dev(WSJ.read(tmp_path / "links", "test_dev93"))


def test_an_index_without_suffixes_and_a_speaker_that_is_not_shipped(discs):
    """As those of eval92 and si_84 are; train_si284 has two index files."""
    indices = {
        "11-13.1/wsj0/doc/indices/test/nvp/si_et_20.ndx": ["11_14_1:wsj0/si_et_20/440/440c0401"],
        "11-13.1/wsj0/doc/indices/train/tr_s_wv1.ndx": [
            "11_1_1:wsj0/si_tr_s/01i/01ic0201.wv1",
            "11_2_1:wsj0/si_tr_s/401/401c0201.wv1",
        ],
        "13-34.1/wsj1/doc/indices/si_tr_s.ndx": ["13_1_1:wsj1/si_tr_s/46b/46bc0201.wv1"],
    }
    dots = {"01i": "11-4.1/wsj0/transcrp/dots/si_tr_s/01i", "46b": "13-34.1/wsj1/trans/wsj1/si_tr_s/46b"}
    for index, lines in indices.items():
        (discs / index).parent.mkdir(parents=True, exist_ok=True)
        (discs / index).write_text("".join(f"{line}\n" for line in lines))
        for line in lines:
            disc, _, place = line.partition(":")
            first, second, third = disc.split("_")
            path = (discs / f"{first}-{second}.{third}" / place).with_suffix(".wv1")
            if path.parent.name == "401":
                continue
            path.parent.mkdir(parents=True)
            write_sphere(path, noise(), 16000)
            dot = discs / dots[path.parent.name] if path.parent.name in dots else path.parent
            dot.mkdir(parents=True, exist_ok=True)
            (dot / f"{path.stem[:6]}00.dot").write_text(f"Word {path.stem} ({path.stem})\n")
    names = {subset: [item.name for item in WSJ.read(discs, subset)] for subset in SUBSETS[:4]}
    assert names == {
        "train_si84": ["01ic0201"],
        "train_si284": ["46bc0201", "01ic0201"],
        "test_dev93": ["4k0c0301", "4k0c030a"],
        "test_eval92": ["440c0401"],
    }


def test_the_same_transcript_in_two_places(discs):
    copy = discs / AUDIO / "4k0c0300.DOT"
    shutil.copy(discs / DOT, copy)
    expect_dev(WSJ.read(discs, "test_dev93"))
    copy.write_text("Another (4k0c0301)\n")
    with pytest.raises(UserError, match="have different transcripts of 4k0c0301: remove one of them"):
        WSJ.read(discs, "test_dev93")


def write(path, text):
    return lambda root: (root / path).write_text(text)


DAMAGES = {
    "no index": (
        lambda root: (root / DEV).unlink(),
        r"has no wsj1/doc/indices/h1_p0\.ndx, .*WSJ's layout is the discs",
    ),
    "no entry": (write(DEV, ";; nothing\n"), "the index files of test_dev93 below .* name no utterances"),
    "another entry": (
        write(DEV, ";;\n4k0c0301\n"),
        "h1_p0.ndx line 2 is not like 11_1_1:wsj0/si_tr_s/01i/01ic0201.wv1",
    ),
    "the same entry twice": (
        lambda root: (root / DEV).write_text((root / DEV).read_text() * 2),
        "h1_p0.ndx line 7 names 4k0c0301, which test_dev93 has already",
    ),
    "no audio": (
        lambda root: (root / AUDIO / "4k0c030a.wv1").unlink(),
        "h1_p0.ndx line 4 names wsj1/si_dt_20/4k0/4k0c030a.wv1, which is not below",
    ),
    "no transcript": (
        write(DOT, "One (4k0c0301)\n"),
        r"4k0c030a.wv1 has no transcript: no si_dt_20/\*/4k0c0300.dot below .* has it",
    ),
    "no transcripts": (lambda root: (root / DOT).unlink(), "4k0c0301.wv1 has no transcript: no si_dt_20"),
    "two transcripts": (
        write(DOT, "One (4k0c0301)\nTwo (4k0c030a)\nThree (4k0c0301)\n"),
        "4k0c0300.dot line 3: 4k0c0301 has a transcript already",
    ),
    "no name": (
        write(DOT, "One (4k0c0301)\nTwo\n"),
        "4k0c0300.dot line 2 is not a transcript with the utterance's name",
    ),
    "nothing said": (
        write(DOT, "[door_slam>] . (4k0c0301)\nTwo (4k0c030a)\n"),
        "4k0c0301.wv1 has an empty transcript: take it out of .*h1_p0.ndx line 3",
    ),
    "another encoding": (
        lambda root: (root / DOT).write_bytes("Über (4k0c0301)\n".encode("latin-1")),
        "4k0c0300.dot line 1 is not UTF-8",
    ),
    "cut short": (
        lambda root: (root / AUDIO / "4k0c0301.wv1").write_bytes((root / AUDIO / "4k0c0301.wv1").read_bytes()[:9000]),
        "4k0c0301.wv1 is cut short: it has 3988 of 8000 samples",
    ),
}


@pytest.mark.parametrize("case", list(DAMAGES))
def test_a_damaged_copy(case, discs):
    damage, message = DAMAGES[case]
    damage(discs)
    with pytest.raises(UserError, match=message):
        check_audio(WSJ.read(discs, "test_dev93"))


def test_wrong_folders(discs):
    with pytest.raises(
        UserError, match="WSJ has no subset dev: choose from train_si84, train_si284, test_dev93, test_ev"
    ):
        WSJ.read(discs, "dev")
    with pytest.raises(UserError, match=r"has no wsj0/doc/indices/test/nvp/si_et_20\.ndx, which names the utterances"):
        WSJ.read(discs, "test_eval92")


# ---------------------------------------------------------------- the mini corpus

SIZES = {"train, CSR-I": (2, 10), "train, CSR-II": (1, 5), "dev": (1, 3), "test": (1, 3)}


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    write_mini(root, subsets=SIZES)
    return root


def test_the_mini_corpus_has_wsjs_layout(mini):
    assert SIZES.keys() == MINI_SUBSETS.keys()
    subsets = {subset: WSJ.read(mini, subset) for subset in ("train_si284", "test_dev93", "test_eval92")}
    check_subsets(subsets)
    sizes = {name: (len(found), len({item.speaker for item in found})) for name, found in subsets.items()}
    assert sizes == {"train_si284": (15, 3), "test_dev93": (3, 1), "test_eval92": (3, 1)}
    assert [item.name for item in WSJ.read(mini, "train_si84")] == [
        f"00{speaker}c020{number}" for speaker in (1, 2) for number in range(1, 6)
    ]
    everything = [item for found in subsets.values() for item in found]
    assert len({item.text for item in everything}) == len(everything)  # no sentence twice, in no two subsets
    assert {character for item in everything for character in item.text} <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ <>")
    assert sum("<NOISE>" in item.text for item in everything) == 5  # the second of each speaker
    check_audio(everything)
    assert all(read_header(item.audio).coding == "pcm" for item in everything)
    transcripts = "".join(path.read_text() for path in mini.rglob("*.dot"))
    assert all(mark in transcripts for mark in ("[loud_breath]", " . ", "[door_slam>]", "<", "[<lip_smack]"))


# ---------------------------------------------------------------- the recipe


@pytest.mark.parametrize(
    ("arch", "loss", "epochs", "smoothing"),
    [
        ("vgg_blstmp", "square", 15, (0.05, "unigram")),  # the paper's Tables 11 and 21
        ("vgg_blstmp", "cross_entropy", 15, (0.05, "unigram")),
        ("transformer", "square", 100, (0, None)),
        ("transformer", "cross_entropy", 100, (0.1, None)),
    ],
)
def test_the_papers_settings(arch, loss, epochs, smoothing, mini, tmp_path):
    found = settings("wsj", "--corpus", str(mini), "--workdir", str(tmp_path), "--arch", arch, "--loss", loss)
    conf = found.espnet.model_conf
    assert (found.espnet.max_epoch, (conf["lsm_weight"], conf.get("lsm_type"))) == (epochs, smoothing)


# As ESPnet1 lists the characters of si_284; `<blank>` and `<sos/eos>` come to them.
OF_SI_284 = [*"!\"&'()*,-./:;", "<*IN*>", "<*MR.*>", "<NOISE>", "<space>", "?", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"_`{}~"]


def test_si_284_has_the_papers_52_classes_and_its_k_and_M(mini, tmp_path):
    found = settings("wsj", "--corpus", str(mini), "--workdir", str(tmp_path))
    data = found.paths.data
    data.root.mkdir(parents=True)
    words = [character for character in OF_SI_284 if character != "<space>"]
    (tmp_path / "text").write_text("".join(f"a{i:02d} {word} A\n" for i, word in enumerate(words)))
    make_dictionary(tmp_path / "text", data, nbpe=1)
    assert set(data.tokens) == {"<blank>", "<unk>", *OF_SI_284, "<sos/eos>"}
    assert len(data.tokens) == 52
    rescaling = found.rescaling()
    assert (rescaling.k, rescaling.M, rescaling.source) == (1, 15, "the paper's Table 9 for wsj")


def test_without_a_corpus_the_mini_one_is_taken_loudly(tmp_path, capsys):
    given = parse(["wsj", "--workdir", str(tmp_path)])
    assert given.options.mini
    printed = capsys.readouterr().out
    assert "WSJ is not public" in printed
    assert "using the embedded MINI corpus" in printed


TINY = [
    *("--encoder_conf", "output_size=16", "--encoder_conf", "num_blocks=1", "--encoder_conf", "attention_heads=2"),
    *("--encoder_conf", "linear_units=32", "--decoder_conf", "num_blocks=1", "--decoder_conf", "linear_units=32"),
    *("--decoder_conf", "attention_heads=2", "--batch_size", "8", "--num_workers", "0", "--max_epoch", "1"),
]


@pytest.fixture
def options(mini, tmp_path):
    """A command line on the mini corpus as if it were the real one, with a configuration for the mini corpus."""
    (tmp_path / "decode.yaml").write_text("beam_size: 2\nctc_weight: 0.3\nmaxlenratio: -8\n")
    config = ROOT / "recipes/wsj/conf/mini/tuning/train_asr_transformer.yaml"
    words = ["--corpus", str(mini), "--workdir", str(tmp_path / "work"), "--asr_config", str(config)]
    words += ["--inference_config", str(tmp_path / "decode.yaml"), "--use_lm", "false", "--nj", "1"]
    return ["wsj", *words, *TINY]


def test_all_stages(options, tmp_path):
    """With symbols as one token each, which are not scored."""
    assert main([*options, "--method", "softmax"]) == 0
    (folder,) = (path.parent for path in (tmp_path / "work/runs/wsj/transformer").rglob("result.json"))
    result = read_result(folder)
    assert (result.task, result.loss, result.selection, result.epochs) == ("wsj", "square", "wer", 1)
    assert result.data["sizes"] == {"train_si284": 15, "test_dev93": 3, "test_eval92": 3}
    assert set(result.metrics["test"]["softmax"]) >= {"wer", "cer"}
    data = tmp_path / "work/data/wsj/train_si284-char"
    tokens = (data / "tokens.txt").read_text().splitlines()
    assert tokens[:3] == ["<blank>", "<unk>", "<space>"]
    assert {"<NOISE>", "A", "<sos/eos>"} <= set(tokens)
    assert not {"<", ">"} & set(tokens)
    assert result.rescaling_source == f"the level rule for {len(tokens)} classes"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["non_linguistic_symbols"] == str(data / "symbols.txt")
    files = ["--asr_train_config", str(folder / "config.yaml"), "--asr_model_file", str(folder / "valid.acc.ave.pth")]
    assert export([*files, "--output_dir", str(tmp_path / "stock")]) == 0
    exported = yaml.safe_load((tmp_path / "stock/config.yaml").read_text())["non_linguistic_symbols"]
    assert exported == str(tmp_path / "stock/symbols.txt")
    assert Path(exported).read_text() == "<NOISE>\n<*IN*>\n<*MR.*>\n"
    said = (data / "test_eval92/text").read_text()
    assert "<NOISE>" in said
    definition = parse(options).definition
    assert count_errors({"a": said}, {"a": said.replace("<NOISE>", "")}, ["wer"], definition.folding)["wer"].rate == 0


def test_compressed_audio_is_decoded_into_the_work_folder(options, mini, tmp_path, monkeypatch, capsys):
    """Once; the corpus stays as it is, and what ESPnet gets is what was compressed."""
    copy = tmp_path / "copy"
    shutil.copytree(mini, copy)
    dev = WSJ.read(copy, "test_dev93")
    before = soundfile.read(dev[0].audio, dtype="int16")[0]
    for item in dev:
        call_compressed(item.audio)
    files = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    options[options.index(str(mini))] = str(copy)

    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert main([*options, "--stop_stage", "2"]) == 2
    message = (
        f"{dev[0].audio} is compressed, and there is neither sph2pipe nor ffmpeg on the PATH to decode it: install"
    )
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "work").rglob("wav.scp"))

    monkeypatch.setenv("PATH", str(make_decoder(tmp_path / "bin").parent))
    assert main([*options, "--stop_stage", "2"]) == 0
    folder = tmp_path / "work/data/wsj/train_si284-char"
    lines = dict(line.split() for line in (folder / "test_dev93/wav.scp").read_text().splitlines())
    assert lines.keys() == {item.name for item in dev}
    assert all(Path(path).match(f"{folder}/test_dev93/decoded/{name}-*.wav") for name, path in lines.items())
    np.testing.assert_array_equal(soundfile.read(lines[dev[0].name], dtype="int16")[0], before)
    assert str(copy) in (folder / "train_si284/wav.scp").read_text()  # what is not compressed is read where it is
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == files

"""TIMIT: lists, reader and mini corpus; the recipe's own option; one short training of each kind of tokens."""

import itertools
import json
import re
import shutil
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from commands import assert_refused
from espnet2.asr.decoder.rnn_decoder import RNNDecoder
from speech import settings, smaller

from sqloss_plugins.data.corpora import CORPORA, check_audio, check_subsets, timit, write_data_dir
from sqloss_plugins.data.corpora.sphere import write_sphere
from sqloss_plugins.data.mini_speech import speak
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.decoding import keep_coverage_apart
from sqloss_plugins.espnet.recipe import main
from sqloss_plugins.espnet.recipe.definition import read_definition
from sqloss_plugins.espnet.recipe.parsing import parse
from sqloss_plugins.espnet.recipe.paths import Paths
from sqloss_plugins.espnet.recipe.preparation import make_dictionary
from sqloss_plugins.results import read_result

RECIPE = Path(__file__).parent.parent / "recipes/timit"
PHONES, CHARACTERS = CORPORA["timit_phn"], CORPORA["timit_char"]
MINI = {"train": (3, 12), "dev": (2, 4), "test": (2, 3)}


# ---------------------------------------------------------------- lists


def test_the_sets_of_phones_are_complete():
    """61, 48 and 39 phones, as in Kaldi's phones.60-48-39.map; what is one of 48 is one of 39."""
    phones = timit.phones()
    kept = {name: smaller for name, smaller in phones.items() if smaller}
    assert len(phones) == 61
    assert phones.keys() - kept.keys() == {"q"}
    assert len({of_48 for of_48, _ in kept.values()}) == 48
    assert len({of_39 for _, of_39 in kept.values()}) == 39
    assert len(set(kept.values())) == 48  # each of the 48 has one of the 39
    silences = {name for name, smaller in kept.items() if smaller[1] == "sil"}
    assert silences == {"bcl", "dcl", "gcl", "pcl", "tcl", "kcl", "epi", "h#", "pau"}
    merged = {("ao", "aa"), ("ax", "ah"), ("ix", "ih"), ("el", "l"), ("en", "n"), ("zh", "sh"), ("cl", "sil")}
    assert {*merged, ("vcl", "sil"), ("epi", "sil")} == {pair for pair in kept.values() if pair[0] != pair[1]}


def test_the_lists_of_speakers():
    dev, test = timit.speakers("dev"), timit.speakers("test")
    assert (len(set(dev)), len(set(test))) == (50, 24)
    assert not set(dev) & set(test)
    assert all(re.fullmatch(r"[MF][A-Z]{3}\d", name) for name in (*dev, *test))
    assert Counter(name[0] for name in test) == {"M": 16, "F": 8}  # two men and one woman of each of eight regions


# ---------------------------------------------------------------- a corpus made by hand

PHN = "0 1000 h#\n1000 2000 sh\n2000 2500 ix\n2500 3000 q\n3000 4000 kcl\n4000 4800 ao\n4800 8000 h#\n"
WRD = "1000 2500 Don't\n2500 4800 sun-dried\n"


def write_utterance(folder, name, seed=0, seconds=0.5):
    folder.mkdir(parents=True, exist_ok=True)
    write_sphere(folder / f"{name}.WAV", np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16000)), 16000)
    (folder / f"{name}.PHN").write_text(PHN)
    (folder / f"{name}.WRD").write_text(WRD)
    (folder / f"{name}.TXT").write_text("0 8000 Don't, sun-dried!\n")


@pytest.fixture
def corpus(tmp_path):
    """Two training speakers, and a speaker of each of dev, the core test set and neither."""
    root = tmp_path / "TIMIT"
    places = ["TRAIN/DR1/FCJF0", "TRAIN/DR2/MARC0", "TEST/DR1/FAKS0", "TEST/DR1/MDAB0", "TEST/DR8/MPGL0"]
    for i, place in enumerate(places):
        for j, name in enumerate(("SA1", "SI1027", "SX37")):
            write_utterance(root / place, name, seed=3 * i + j)
    return root


def test_the_reader(corpus, tmp_path, capsys):
    train, dev, test = (PHONES.read(tmp_path, subset) for subset in timit.SUBSETS)
    assert [item.name for item in train] == ["FCJF0_SI1027", "FCJF0_SX37", "MARC0_SI1027", "MARC0_SX37"]
    assert {item.speaker for item in dev} == {"FAKS0"}
    assert {item.speaker for item in test} == {"MDAB0"}
    assert {item.text for item in (*train, *dev, *test)} == {"sil sh ih sil aa sil"}
    assert {item.text for item in CHARACTERS.read(corpus, "dev")} == {"dont sundried"}
    assert check_audio([*train, *dev, *test]) == [8000] * 8
    check_subsets({"train": train, "dev": dev, "test": test})
    write_data_dir(tmp_path / "data", test)
    assert (tmp_path / "data/text").read_text().splitlines()[0] == "MDAB0_SI1027 sil sh ih sil aa sil"
    said = capsys.readouterr().out
    assert "note: train has 2 speakers here, TIMIT's has 462" in said
    assert "note: test has 1 speakers here, TIMIT's has 24" in said


def rename_all(corpus, change):
    for path in sorted(corpus.rglob("*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(change(path.name)))


def test_names_in_small_letters_are_the_same_corpus(corpus):
    before = [(item.name, item.text) for item in PHONES.read(corpus, "train")]
    rename_all(corpus, str.lower)
    moved = corpus.with_name("copy") / "data"
    moved.parent.mkdir()
    corpus.rename(moved)
    for root in (moved.parent, moved):
        assert [(item.name, item.text) for item in PHONES.read(root, "train")] == before


def test_converted_audio_beside_the_original_is_not_read(corpus):
    """Some copies have SI1027.WAV.wav in RIFF beside each SI1027.WAV; others have RIFF under the same name."""
    folder = corpus / "TRAIN/DR1/FCJF0"
    shutil.copy(folder / "SI1027.WAV", folder / "SI1027.WAV.wav")
    (folder / "._SI1027.WAV").write_bytes(b"x")  # hidden, of another system
    assert len(PHONES.read(corpus, "train")) == 4
    soundfile.write(folder / "SI1027.WAV", np.zeros(4000), 16000, format="WAV")
    assert check_audio(PHONES.read(corpus, "train"))[0] == 4000


SPEAKER = "TRAIN/DR1/FCJF0"


def phn(content):
    return lambda root: (root / SPEAKER / "SX37.PHN").write_bytes(content)


def wrd(content):
    return lambda root: (root / SPEAKER / "SX37.WRD").write_bytes(content)


def change_audio(change):
    def damage(root):
        path = root / SPEAKER / "SX37.WAV"
        path.write_bytes(change(path.read_bytes()))

    return damage


def samples(values, **options):
    def damage(root):
        soundfile.write(root / SPEAKER / "SX37.WAV", values, 16000, **options)

    return damage


NAN = np.array([0.0, np.nan] * 100)
DAMAGES = {
    "no audio": (lambda root: (root / SPEAKER / "SX37.WAV").unlink(), "SX37.PHN has no SX37.WAV beside it"),
    "no phones": (lambda root: (root / SPEAKER / "SX37.PHN").unlink(), "SX37.WAV has no SX37.PHN beside it"),
    "another phone": (phn(b"0 9 h#\n9 20 zz\n"), "SX37.PHN line 2: zz is none of TIMIT's 61 phones"),
    "empty": (phn(b"\n"), "SX37.PHN has no phones"),
    "glottal stops alone": (phn(b"0 9 q\n"), "SX37.PHN has no phones"),
    "two columns": (phn(b"0 9 h#\n9 sh\n"), "line 2 is not the first sample, the last sample and a name: '9 sh'"),
    "four columns": (phn(b"0 9 h# x\n"), "line 1 is not the first sample, the last sample and a name"),
    "no numbers": (phn(b"0 9 h#\n\n9 -3 sh\n"), "line 3 is not the first sample, the last sample and a name"),
    "backwards": (phn(b"9 0 h#\n"), "line 1 is not the first sample, the last sample and a name"),
    "another encoding": (phn("0 9 h#\n9 20 ä\n".encode("latin-1")), "SX37.PHN line 2 is not UTF-8"),
    "another name": (lambda root: write_utterance(root / SPEAKER, "SQ1"), "SQ1 is no name of TIMIT's, which are like"),
    "compressed": (
        change_audio(
            lambda data: data.replace(b"sample_coding -s3 pcm\n", b"sample_coding -s26 pcm,embedded-shorten-v2.00\n")
        ),
        "SX37.WAV cannot be read as audio",
    ),
    "cut short": (change_audio(lambda data: data[:9000]), "SX37.WAV is cut short: it has 3988 of 8000 samples"),
    "damaged header": (change_audio(lambda data: data.replace(b"end_head", b"end_bead")), "SX37.WAV .*header"),
    "not audio": (change_audio(lambda data: b"x" * 999), "SX37.WAV cannot be read as audio"),
    "no bytes": (change_audio(lambda data: b""), "SX37.WAV cannot be read as audio"),
    "no samples": (samples(np.zeros(0), format="WAV"), "SX37.WAV is empty"),
    "nan": (samples(NAN, format="WAV", subtype="FLOAT"), "SX37.WAV has samples that are not numbers"),
    "stereo": (samples(np.zeros((100, 2)), format="WAV"), "SX37.WAV has 16000 Hz and 2 channel"),
    "both cases": (
        lambda root: shutil.copy(root / SPEAKER / "SX37.WAV", root / SPEAKER / "sx37.WAV"),
        "SX37.WAV and .*sx37.WAV are the same name in capitals and small letters: remove one",
    ),
    "a speaker twice": (
        lambda root: shutil.copytree(root / SPEAKER, root / "TRAIN/DR2/FCJF0"),
        "DR1/FCJF0 and .*DR2/FCJF0 are the same speaker: remove one",
    ),
    "other layout": (lambda root: shutil.rmtree(root / "TEST"), r"has no TRAIN and TEST: TIMIT's layout is"),
    "no regions": (
        lambda root: [path.rename(path.with_name(f"x{path.name}")) for path in (root / "TRAIN").iterdir()],
        "TRAIN has no utterances of TIMIT's train: TIMIT's layout is",
    ),
}


@pytest.mark.parametrize("case", list(DAMAGES))
def test_a_damaged_corpus(case, corpus):
    damage, message = DAMAGES[case]
    damage(corpus)
    with pytest.raises(UserError, match=message) as caught:
        check_audio(PHONES.read(corpus, "train"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / SPEAKER / "SX37.WRD").unlink(), "SX37.WAV has no SX37.WRD beside it"),
        (lambda root: (root / SPEAKER / "SX37.WAV").unlink(), "SX37.WRD has no SX37.WAV beside it"),
        (wrd(b""), "SX37.WRD has no words"),
        (wrd(b"0 9 '-\n"), "SX37.WRD has no words"),
        (wrd(b"she had\n"), "SX37.WRD line 1 is not the first sample, the last sample and a name"),
    ],
)
def test_damaged_words(damage, message, corpus):
    damage(corpus)
    with pytest.raises(UserError, match=message):
        CHARACTERS.read(corpus, "train")


def test_wrong_folders(corpus, tmp_path):
    with pytest.raises(UserError, match="TIMIT has no subset core: choose from train, dev, test"):
        PHONES.read(corpus, "core")
    with pytest.raises(UserError, match="nowhere has no TRAIN and TEST"):
        PHONES.read(tmp_path / "nowhere", "train")
    shutil.rmtree(corpus / "TEST/DR1/FAKS0")
    with pytest.raises(UserError, match="TEST has no utterances of TIMIT's dev"):
        PHONES.read(corpus, "dev")


def test_an_utterance_in_two_subsets(corpus):
    shutil.copy(corpus / "TEST/DR1/FAKS0/SX37.WAV", corpus / "TRAIN/DR1/FCJF0/SX37.WAV")
    subsets = {subset: PHONES.read(corpus, subset) for subset in timit.SUBSETS}
    with pytest.raises(UserError, match="is in train and in dev: remove it from one"):
        check_subsets(subsets)


# ---------------------------------------------------------------- mini corpus


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    timit.write_mini(root, subsets=MINI)
    return root


def rows(path):
    return [line.split(maxsplit=2) for line in path.read_text().splitlines()]


def test_the_mini_corpus_has_timits_layout(mini):
    for subset, (speakers, utterances) in MINI.items():
        found = PHONES.read(mini, subset)
        assert (len({item.speaker for item in found}), len(found)) == (speakers, utterances)
        assert [item.name for item in CHARACTERS.read(mini, subset)] == [item.name for item in found]
        if subset != "train":
            assert {item.speaker for item in found} <= set(timit.speakers(subset))
    folders = {path.parent for path in mini.rglob("*.WAV")}
    assert all(
        {f"SA{i}.{kind}" for i in (1, 2) for kind in ("WAV", "PHN", "WRD", "TXT")}
        <= {path.name for path in folder.iterdir()}
        for folder in folders
    )
    assert all(re.search(r"TIMIT/(TRAIN|TEST)/DR[1-8]/[MF][A-Z]{3}\d$", str(folder)) for folder in folders)
    said = {path: path.with_suffix(".TXT").read_text().split(maxsplit=2)[2] for path in mini.rglob("S[IX]*.WAV")}
    assert len(set(said.values())) == len(said) == 19  # no sentence twice
    first = min(mini.rglob("SA1.TXT")).read_text()
    assert first.endswith("She had your dark suit in greasy wash water all year.\n")


def test_the_mini_corpus_has_phones_and_words_where_they_are(mini):
    for path in sorted(mini.rglob("*.WAV")):
        assert path.read_bytes().startswith(b"NIST_1A\n   1024\n")
        samples, rate = soundfile.read(path)
        phones = rows(path.with_suffix(".PHN"))
        assert rate == 16000
        assert (phones[0][0], phones[0][2], phones[-1][2]) == ("0", "h#", "h#")
        assert int(phones[-1][1]) == len(samples)
        for (_, end, name), (begin, _, following) in itertools.pairwise(phones):
            assert end == begin
            assert name != following
        assert all(int(begin) < int(end) for begin, end, _ in phones)
        words = rows(path.with_suffix(".WRD"))
        text = path.with_suffix(".TXT").read_text().split(maxsplit=2)[2]
        assert [word for _, _, word in words] == re.sub("[.?]", "", text.lower()).split()
        assert all(int(begin) < int(end) for begin, end, _ in words)
        speech = samples[int(phones[0][1]) : int(phones[-1][0])]
        assert np.abs(speech).mean() > 5 * np.abs(samples[: int(phones[0][1])]).mean()


def test_stops_have_closures_and_vowels_are_as_the_accent_has_them(mini):
    """Of "dark suit in": with and without r after vowels."""
    heard = set()
    for path in mini.rglob("SA1.PHN"):
        names = " ".join(name for _, _, name in rows(path))
        heard.add(re.search(r" (dcl d aa.* s uw tcl t ih n) ", names)[1])
    assert heard == {f"dcl d aa{r} kcl k s uw tcl t ih n" for r in ("", " r")}


def test_the_phones_do_not_change_the_speech():
    """Sentences that all read come before a speaker's own, and say where their words and phones are."""
    ((_, _, plain),) = speak({"a": (1, 2)}, 16000)
    ((_, _, more),) = speak({"a": (1, 2)}, 16000, of_all=["One two."])
    assert [item.text for item in more] == ["One two.", *(item.text for item in plain)]
    for item in (*plain, *more):
        assert [mark.name for mark in item.words] == item.text.split()
        begins = [mark.begin for mark in item.phones]
        assert begins == sorted(begins)
        assert begins[-1] <= len(item.samples) / 16000 + 0.001


# ---------------------------------------------------------------- the recipe


@pytest.mark.parametrize(
    ("trans_type", "classes", "rule", "expected", "source"),
    [
        ("phn", 42, "auto", (1, 15), "the paper's Table 9 for timit_phone"),
        ("char", 30, "auto", (15, 2.608), "the level rule for 30 classes"),
        ("char", 30, "paper", (1, 1), "the paper's Table 9 for timit_char"),
    ],
)
def test_classes_and_k_and_M(trans_type, classes, rule, expected, source, corpus, tmp_path):
    """39 phones, blank, unk and sos/eos are the paper's 42. 26 letters and the space are its 27, and 30 outputs."""
    words = ["timit", "--corpus", str(corpus), "--workdir", str(tmp_path), "--trans_type", trans_type]
    found = settings(*words, "--rescaling", rule)
    data = found.paths.data
    data.root.mkdir(parents=True)
    text = " ".join({of_39 for _, of_39 in filter(None, timit.phones().values())})
    (tmp_path / "text").write_text(f"a {text if trans_type == 'phn' else 'the ' + string.ascii_lowercase}\n")
    make_dictionary(tmp_path / "text", data, nbpe=1)
    assert len(data.tokens) == classes
    rescaling = found.rescaling()
    assert (rescaling.k, rescaling.M) == pytest.approx(expected, abs=1e-3)
    assert rescaling.source == source
    assert found.espnet.max_epoch == 20  # the paper's Table 11
    assert found.protocol == "early_stopping"  # ESPnet1's patience of 3


def test_the_papers_configurations():
    """ESPnet1's egs/timit/asr1 conf/tuning/train2.yaml with the paper's mtlalpha, and decoders of its RESULTS.md."""
    read = {
        name: yaml.safe_load((RECIPE / f"conf/tuning/{name}/train_asr_attention_ctc.yaml").read_text())
        for name in ("phn", "char")
    }
    decoders = {
        name: (conf["decoder_conf"].pop("rnn_type"), conf["decoder_conf"]["att_conf"].pop("atype"))
        for name, conf in read.items()
    }
    assert decoders == {"phn": ("gru", "location"), "char": ("lstm", "coverage_location")}
    assert read["phn"] == read["char"]
    conf = read["phn"]
    assert conf["encoder_conf"] == {
        "rnn_type": "gru",
        "bidirectional": True,
        "use_projection": True,
        "num_layers": 5,
        "hidden_size": 320,
        "output_size": 320,
        "subsample": [2, 2, 1, 1],
    }
    assert conf["decoder_conf"] == {
        "num_layers": 1,
        "hidden_size": 300,
        "att_conf": {"adim": 320, "aconv_chans": 10, "aconv_filts": 100},
    }
    assert (conf["model_conf"]["ctc_weight"], conf["batch_size"], conf["optim"]) == (0.3, 30, "adadelta")
    assert (conf["max_epoch"], conf["patience"]) == (20, 3)


def test_the_option_of_this_recipe(corpus, tmp_path, capsys):
    assert parse(["timit", "--corpus", str(corpus)]).definition.variant == "phn"
    words = ["--corpus", str(corpus), "--workdir", str(tmp_path / "work")]
    (tmp_path / "work").mkdir()
    message = "argument --trans_type: invalid choice: 'word' (choose from "
    assert_refused(main, ["timit", *words, "--trans_type", "word"], "sqloss asr", message, tmp_path / "work", capsys)
    message = "--trans_type is no option of this recipe"
    assert_refused(
        main, ["librispeech", *words, "--trans_type", "phn"], "sqloss asr", message, tmp_path / "work", capsys
    )
    with pytest.raises(SystemExit):
        main(["timit", "--help"])
    assert "--trans_type {phn,char}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: {x: {task: t}}\nb: {x: {task: t}}\n", "a must be one word or number, or the one option"),
        ("loss: {x: {task: t}}\n", "loss must be one word or number, or the one option"),
        ("a: {x: y}\n", "a must be one word or number, or the one option"),
        ("a: {x: {task: [t]}}\n", "task must be one word or number"),
        ("a: {../x: {task: t}}\n", "the variant '../x' is not a name"),
        ("a: {}\n", "a must be one word or number"),
    ],
)
def test_recipes_with_other_options_of_their_own(content, message, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/recipe.yaml").write_text(content)
    with pytest.raises(UserError, match=re.escape(message)):
        read_definition(tmp_path, mini=False)


def test_a_value_of_it_that_brings_nothing_is_the_recipe_itself(corpus, tmp_path):
    """AN4: data and runs of words lie where they would without the option."""
    words = ["an4", "--corpus", str(corpus), "--workdir", str(tmp_path)]
    plain, of_characters, of_phones = (
        settings(*words, *(["--trans_type", value] if value else [])) for value in ("", "char", "phn")
    )
    assert of_characters.of_data() == plain.of_data()
    assert "trans_type" not in plain.of_data()
    assert of_characters.paths.data == plain.paths.data
    assert of_characters.given.config("asr") == plain.given.config("asr")
    assert of_phones.of_data()["trans_type"] == "phn"
    assert of_phones.given.config("asr").parts[-3:] == ("tuning", "phn", "train_asr_attention_ctc.yaml")
    assert (of_phones.given.definition.task, of_phones.given.definition.metrics) == ("an4_phone", ("per",))
    assert of_phones.espnet.max_epoch == 20


def test_without_a_corpus_it_is_the_mini_corpus(tmp_path, capsys):
    """TIMIT is sold: there is nothing to ask the network for."""
    given = parse(["timit", "--trans_type", "char", "--workdir", str(tmp_path)])
    assert (given.options.mini, given.definition.task) == (True, "timit_char")
    assert (
        "TIMIT is not public (https://catalog.ldc.upenn.edu/LDC93S1): using the embedded MINI"
        in capsys.readouterr().out
    )
    assert Paths(given).corpus == tmp_path / "downloads/timit-mini"
    assert Paths(parse(["timit", "--mini", "--workdir", str(tmp_path)])).corpus == tmp_path / "downloads/timit-mini"


@pytest.mark.parametrize("atype", ["coverage_location", "coverage", "location"])
def test_hypotheses_of_a_beam_do_not_share_their_coverage(atype):
    """The scores after a prefix do not depend on which other prefixes were scored before."""
    torch.manual_seed(0)
    att_conf = {"atype": atype, "adim": 8, "aconv_chans": 2, "aconv_filts": 3}
    decoder = RNNDecoder(7, 8, rnn_type="gru", hidden_size=8, att_conf=att_conf).eval()
    keep_coverage_apart(decoder)
    encoded = torch.randn(9, 8)

    def last_scores(*tokens):
        _, state = decoder.score(torch.tensor([6]), decoder.init_state(encoded), encoded)
        return [decoder.score(torch.tensor([6, token]), state, encoded)[0] for token in tokens][-1]

    with torch.no_grad():
        assert torch.equal(last_scores(3), last_scores(2, 4, 3))


SMALL = {
    **{"num_layers": 2, "output_size": 16, "hidden_size": 16, "adim": 16, "aconv_filts": 5, "n_mels": 20},
    **{"batch_size": 4, "num_workers": 0},
}


@pytest.mark.parametrize(
    ("trans_type", "metric"), [pytest.param("phn", "per", marks=pytest.mark.slow), ("char", "cer")]
)
def test_all_stages(trans_type, metric, mini, tmp_path):
    """The paper's model with small sizes, by the command line."""
    conf = yaml.safe_load((RECIPE / f"conf/tuning/{trans_type}/train_asr_attention_ctc.yaml").read_text())
    (tmp_path / "asr.yaml").write_text(yaml.safe_dump(smaller(conf, SMALL)))
    (tmp_path / "inference.yaml").write_text("beam_size: 2\nctc_weight: 0.5\nmaxlenratio: -5\n")
    words = [str(RECIPE), "--trans_type", trans_type, "--corpus", str(mini), "--workdir", str(tmp_path), "--nj", "1"]
    words += ["--asr_config", str(tmp_path / "asr.yaml"), "--inference_config", str(tmp_path / "inference.yaml")]
    assert main([*words, "--max_epoch", "1", "--method", "softmax", "--use_matplotlib", "false"]) == 0
    task = {"phn": "timit_phone", "char": "timit_char"}[trans_type]
    (folder,) = (path.parent for path in (tmp_path / "runs" / task / "attention_ctc").rglob("result.json"))
    result = read_result(folder)
    assert (result.task, result.selection) == (task, metric)
    assert result.metrics["test"]["softmax"][metric] > 0
    assert result.data["sizes"] == {"train": 12, "dev": 4, "test": 3}
    tokens = (tmp_path / f"data/{task}/train-{trans_type}/tokens.txt").read_text().split()
    assert tokens[:2] + tokens[-1:] == ["<blank>", "<unk>", "<sos/eos>"]
    usual = (
        {of_39 for _, of_39 in filter(None, timit.phones().values())}
        if trans_type == "phn"
        else {*map(chr, range(97, 123)), "<space>"}
    )
    assert set(tokens[2:-1]) <= usual
    heard = json.loads((folder / "training.json").read_text())
    assert heard["epochs"] == 1


def test_what_the_recipes_option_brings():
    definition = read_definition(RECIPE, mini=False, argv=["--trans_type", "phn"])
    assert (definition.task, definition.metrics, definition.corpus.name) == ("timit_phone", ("per",), "timit_phn")
    definition = read_definition(RECIPE, mini=False, argv=["--trans_type", "char"])
    assert (definition.task, definition.metrics, definition.corpus.name) == ("timit_char", ("cer",), "timit_char")

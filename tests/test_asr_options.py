"""What an ESPnet user finds in the speech recipes as in ``egs2/TEMPLATE/asr1/asr.sh``, on one small finished run."""

import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from commands import assert_refused
from speech import TINY_ASR, TINY_LM, settings

from sqloss_plugins.data.corpora.librispeech import write_mini
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe import decoding, flow, main, training, uploading
from sqloss_plugins.espnet.recipe.asr_sh import INSTEAD
from sqloss_plugins.espnet.recipe.definition import read_definition
from sqloss_plugins.espnet.recipe.error_rates import count_errors, read_text
from sqloss_plugins.espnet.recipe.options import make_parser
from sqloss_plugins.espnet.recipe.packing import plain_method
from sqloss_plugins.espnet.recipe.parsing import parse
from sqloss_plugins.espnet.recipe.paths import DataFolder
from sqloss_plugins.espnet.recipe.scoring import espnets_tables
from sqloss_plugins.espnet.recipe.speed import perturb_speed
from sqloss_plugins.metrics import METRICS
from sqloss_plugins.probability import METHODS
from sqloss_plugins.results import read_result

# One run serves all; pytest-xdist would make it once for each worker.
pytestmark = pytest.mark.xdist_group("asr_options")
JOBS = []
DATA = "data/librispeech/train-clean-100-unigram40"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    write_mini(root, subsets={"train-clean-100": (2, 10), "dev-clean": (1, 3), "test-clean": (1, 2)})
    return root


def run_here(jobs, nj=1, on_success=None, *_):
    """In this process, where ESPnet is imported already."""
    for job in jobs:
        JOBS.append(job)
        assert importlib.import_module(job.module).main(list(job.arguments)) == 0
        if on_success:
            on_success(job)


@pytest.fixture(scope="module", autouse=True)
def _in_this_process():
    with pytest.MonkeyPatch.context() as patch:
        for module in (training, decoding):
            patch.setattr(module, "run_jobs", run_here)
        yield


@pytest.fixture(scope="module")
def options(corpus, tmp_path_factory):
    """A recipe's command line for a tiny model, and the folder that it works in."""
    work = tmp_path_factory.mktemp("work")
    inference = "beam_size: 2\nctc_weight: 0.3\nlm_weight: 0.1\n"
    texts = {"asr": TINY_ASR.replace("max_epoch: 3", "max_epoch: 2"), "lm": TINY_LM, "inference": inference}
    words = []
    for name, text in texts.items():
        (work / f"{name}.yaml").write_text(text)
        words += [f"--{name}_config", str(work / f"{name}.yaml")]
    return ["librispeech", "--corpus", str(corpus), "--workdir", str(work), *words, "--nbpe", "40", "--nj", "1"]


@pytest.fixture(scope="module")
def whole(options):
    """One run through all stages; all methods on both sets."""
    assert main([*options, "--method", "softmax square temperature"]) == 0
    (result,) = Path(options[4], "runs").rglob("result.json")
    return result.parent


@pytest.fixture
def copy(whole):
    """A copy of the run under another tag, and the option for it."""
    folder = whole.with_name(f"{whole.name}-copy")
    shutil.copytree(whole, folder, symlinks=True)
    yield folder
    shutil.rmtree(folder)


# ---------------------------------------------------------------- scoring


def test_the_table_of_sclite():
    """By hand: one substitution, one deletion and one insertion in three of four sentences with ten words."""
    said = {"a": "ONE TWO THREE", "b": "FOUR FIVE SIX", "c": "SEVEN EIGHT", "d": "SEVEN SEVEN"}
    heard = {"a": "ONE TOO THREE", "b": "FOUR FIVE", "c": "SEVEN EIGHT NINE", "d": "SEVEN SEVEN"}
    pieces = {"SEVEN": ["_SE", "VEN"]}
    errors = count_errors(
        said, heard, ["wer"], tokenize=lambda text: [p for w in text.split() for p in pieces.get(w, [w])]
    )
    tables = espnets_tables({("test", "square"): errors}, "square").split("\n\n")
    names = ["dataset", "Snt", "Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err"]
    for heading, table, row in (
        (1, 2, ["4", "10", "80.0", "10.0", "10.0", "10.0", "30.0", "75.0"]),
        (3, 4, ["4", "13", "84.6", "7.7", "7.7", "7.7", "23.1", "75.0"]),
    ):
        assert tables[heading] == ("### WER" if heading == 1 else "### TER")
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[table].splitlines()]
        assert (lines[0], lines[2]) == (names, ["test/square *", *row])


def test_token_and_sentence_error_rates_are_in_the_result(whole, options):
    import jiwer
    import sentencepiece

    result = read_result(whole)
    data = Path(options[4], DATA)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(data / "bpe.model"))
    said, heard = read_text(data / "test-clean/text"), read_text(whole / "decode/test-clean/softmax/text")
    tokens = [[" ".join(pieces.encode(texts[name], out_type=str)) for name in said] for texts in (said, heard)]
    assert result.metrics["test"]["softmax"]["ter"] == jiwer.wer(*tokens)
    wrong = sum(said[name] != heard[name] for name in said)
    assert result.metrics["test"]["softmax"]["ser"] == wrong / len(said)
    for name in ("ter", "ser"):
        assert (METRICS[name].higher_is_better, METRICS[name].unit) == (False, "%")
    text = (whole / "RESULTS.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("###")]
    assert headings == ["### WER", "### CER", "### TER", "### Probabilities"]
    assert "side by side" not in text


def test_another_losss_run_beside_this_one_is_in_the_same_table(whole, options, copy, capsys):
    """Only of the same data, seed and decoding."""
    finished = json.loads((whole / "result.json").read_text())
    changes = {
        "cross_entropy-a": {},
        "cross_entropy-seed": {"seed": 1},
        "cross_entropy-decoding": {"hyperparameters": {**finished["hyperparameters"], "decoding": {"beam_size": 7}}},
        "cross_entropy-data": {"data": {**finished["data"], "fingerprint": "x"}},
        "square-same": {"loss": "square"},
    }
    for name, change in changes.items():
        shutil.copytree(whole, whole.with_name(name), symlinks=True)
        other = {**finished, "loss": "cross_entropy", "k": None, "M": None, "method": "softmax", **change}
        (whole.with_name(name) / "result.json").write_text(json.dumps(other))
    (whole.with_name("cross_entropy-seed") / "result.json").write_text("{")
    assert main([*options, "--tag", "copy", "--stage", "8", "--method", "square"]) == 0
    for name in changes:
        shutil.rmtree(whole.with_name(name))
    heading, table = capsys.readouterr().out.partition("### WER of the losses side by side\n\n")[1:]
    assert heading
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.partition("\n\n")[0].splitlines()]
    runs = (("cross_entropy", "softmax", "cross_entropy-a"), ("square", "square", copy.name))
    for line, (subset, (loss, method, name)) in zip(
        lines[2:], [(subset, run) for subset in ("dev-clean", "test-clean") for run in runs], strict=True
    ):
        assert (line[0], line[1], line[-1]) == (loss, f"{subset}/{method}", name)
        split = "test" if subset == "test-clean" else "validation"
        assert line[-3] == f"{100 * read_result(whole).metrics[split][method]['wer']:.1f}"
    assert set(read_result(copy).metrics["test"]) == {*METHODS, "outputs"}


# ---------------------------------------------------------------- packing

DECODE = """
import sys
import soundfile
from espnet2.bin.asr_inference import Speech2Text
options = {"beam_size": 2, "ctc_weight": 0.3, "lm_weight": 0.1}
if sys.argv[1].endswith(".zip"):
    from espnet_model_zoo.downloader import ModelDownloader
    found = ModelDownloader("cache").download_and_unpack(sys.argv[1])
else:
    from espnet2.main_funcs.pack_funcs import unpack
    found = unpack(sys.argv[1] + "/model.zip", "unpacked")
recogniser = Speech2Text(**found, **options)
for path in sys.argv[2:]:
    text, _, _, hypothesis = recogniser(soundfile.read(path)[0])[0]
    print("HYPOTHESIS", float(hypothesis.score), text)
print(sorted(name for name in sys.modules if name.startswith("sqloss")))
"""


@pytest.mark.parametrize("by", ["espnet_model_zoo", "espnet"])
def test_an_archive_of_a_run_that_is_gone_decodes_in_plain_espnet(by, whole, options, tmp_path, monkeypatch):
    """Elsewhere, without this package, the same hypotheses; by a temperature where that is the method."""
    moved = tmp_path / "recipe"
    method = {"espnet_model_zoo": "temperature", "espnet": "softmax"}[by]
    shutil.copytree(options[4], moved, symlinks=True)
    for path in moved.rglob("*.yaml"):
        path.write_text(path.read_text().replace(options[4], str(moved)))
    words = [str(moved) if word == options[4] else word.replace(options[4], str(moved)) for word in options]
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--stage", "9", "--method", method]) == 0
    assert Path.cwd() == tmp_path
    (archive,) = moved.rglob("*.zip")
    assert archive.name == f"{whole.name}_valid.acc.ave.zip"
    assert not list(archive.parent.glob(".pack*"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(archive, elsewhere / "model.zip")
    shutil.rmtree(moved)
    with zipfile.ZipFile(elsewhere / "model.zip") as file:
        names = set(file.namelist())
        texts = [file.read(name).decode() for name in names if name.endswith(".yaml")]
    assert names >= {"meta.yaml", "config.yaml", "model.pth", "bpe.model", "feats_stats.npz", "RESULTS.md"}
    assert names >= {"language_model/config.yaml", "language_model/model.pth", "decode_asr.yaml"}
    assert not [text for text in texts if str(tmp_path) in text or options[4] in text]

    scp = read_text(Path(options[4], DATA, "test-clean/wav.scp"))
    command = [sys.executable, "-c", DECODE, str(elsewhere / "model.zip" if by == "espnet_model_zoo" else elsewhere)]
    plain = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run([*command, *scp.values()], cwd=elsewhere, env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line.split(" ", 2)[1:] for line in done.stdout.splitlines() if line.startswith("HYPOTHESIS")]
    folder = whole / f"decode/test-clean/{method}"
    wanted, scores = read_text(folder / "text"), read_text(folder / "part0of1/1best_recog/score")
    assert [text for _, text in said] == [wanted[name] for name in scp]
    for (score, _), name in zip(said, scp, strict=True):
        assert scores[name] == f"tensor({float(score):.4f})"
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_packed_run_is_uploaded(whole, options, copy, monkeypatch, capsys):
    """To a hub that is none (more of it in test_uploading.py)."""
    sent = []
    for module in (flow, uploading):
        monkeypatch.setattr(module, "check_hub", lambda name: f"me/{name}")
    monkeypatch.setattr(flow, "upload", lambda *what: sent.append(what) or "https://hub/me/mine")
    assert main([*options, "--tag", "copy", "--stage", "10", "--hf_repo", "mine"]) == 2
    assert ".zip is missing, which stage 9 (packing) makes: begin with --stage 9" in capsys.readouterr().err
    assert main([*options, "--tag", "copy", "--stage", "9", "--hf_repo", "mine", "--method", "softmax"]) == 0
    assert "stage 10: upload\n  https://hub/me/mine\n" in capsys.readouterr().out
    ((archive, card, name),) = sent
    assert (archive, name) == (copy / f"{copy.name}_valid.acc.ave.zip", "me/mine")
    assert "by the method `softmax`" in card
    assert (copy / "RESULTS.md").read_text() in card


def test_which_method_an_archive_is_for(whole):
    result = read_result(whole)
    assert plain_method(result, ["temperature"]) == "temperature"
    values = {"softmax": 0.2, "temperature": 0.1, "square": 0.0}
    metrics = {"validation": {method: {"wer": value} for method, value in values.items()}}
    result = replace(result, metrics={**metrics, "test": {}})
    assert plain_method(result, list(METHODS)) == "temperature"
    with pytest.raises(UserError, match="cannot decode by the method square: give --method auto, softmax or"):
        plain_method(result, ["square"])
    result = replace(result, metrics={"validation": {"square": {"wer": 0.0}}})
    with pytest.raises(UserError, match="was decoded by none of softmax, temperature: begin with --stage 7"):
        plain_method(result, list(METHODS))


def test_who_needs_the_language_model_needs_its_text():
    """By that it is known; a text that had been removed ended in a traceback."""
    assert [number for number, stage in flow.STAGES.items() if 5 in stage.needs and 1 not in stage.needs] == []


def test_only_what_is_finished_is_packed(options, copy, capsys):
    (copy / "result.json").unlink()
    assert main([*options, "--tag", "copy", "--stage", "9"]) == 2
    assert "result.json is missing, which stage 8 (scoring) makes: begin with --stage 8" in capsys.readouterr().err
    (copy / "result.json").write_text("{")
    assert main([*options, "--tag", "copy", "--stage", "9"]) == 2
    assert "result.json is not a result file: " in capsys.readouterr().err
    assert not list(copy.glob("*.zip"))


# ---------------------------------------------------------------- decoding


def test_the_n_best_hypotheses_of_another_model_beside_the_usual_ones(whole, options, capsys):
    """Kept as ESPnet names them; by the model and the arguments that were asked for, in a folder of their own."""
    before = {path: path.read_bytes() for path in (whole / "decode").rglob("*") if path.is_file()}
    finished = (whole / "result.json").read_text()
    words = [*options, "--stage", "7", "--method", "softmax", "--inference_args", "--nbest 2 --beam_size 3"]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert "decode holds another run (beam_size 2 -> 3, nbest None -> 2): choose another --inference_tag" in message
    words += ["--inference_tag", "wide", "--inference_asr_model", "valid.acc.best.pth", "--inference_nj", "2"]
    assert main(words) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert (whole / "result.json").read_text() == finished
    folder = whole / "decode_wide/test-clean/softmax"
    names = read_text(Path(options[4], DATA, "test-clean/text")).keys()
    for rank in (1, 2):
        for name in ("text", "token", "token_int", "score"):
            assert list(read_text(folder / f"{rank}best_recog/{name}")) == sorted(names)
    assert read_text(folder / "text") == read_text(folder / "1best_recog/text")
    scores = [read_text(folder / f"{rank}best_recog/score") for rank in (1, 2)]
    assert all(float(scores[0][name][7:-1]) >= float(scores[1][name][7:-1]) for name in names)
    assert len(list(folder.glob("part*of2/.done"))) == 2
    assert f"--asr_model_file {whole}/valid.acc.best.pth" in " ".join(JOBS[-1].arguments)
    result = read_result(whole / "decode_wide")
    decoding = result.hyperparameters["decoding"]
    assert (decoding["nbest"], decoding["beam_size"], decoding["ctc_weight"]) == (2, 3, 0.3)
    assert decoding["inference_asr_model"] == "valid.acc.best.pth"
    # Another model has a temperature and likelihoods of its own.
    usual, best = (json.loads((whole / f"calibration{name}.json").read_text()) for name in ("", ".valid.acc.best"))
    assert usual["nll"] != best["nll"]
    assert result.metrics["validation"]["softmax"]["nll"] == best["nll"]["softmax"]


def test_another_language_model_file_decodes(whole, options):
    words = ["--stage", "7", "--method", "softmax", "--inference_tag", "lm", "--inference_lm", "valid.loss.best.pth"]
    assert main([*options, *words]) == 0
    assert "/model/valid.loss.best.pth" in " ".join(JOBS[-1].arguments)
    assert read_result(whole / "decode_lm").hyperparameters["decoding"]["inference_lm"] == "valid.loss.best.pth"


def test_a_model_that_was_removed_is_said(whole, options, copy, capsys):
    (copy / "1epoch.pth").unlink()
    words = ["--tag", "copy", "--stage", "7", "--inference_tag", "x"]
    assert main([*options, *words, "--inference_asr_model", "1epoch.pth"]) == 2
    message = capsys.readouterr().err
    assert (
        "1epoch.pth is not there: choose --inference_asr_model from 2epoch.pth, latest.pth, valid.acc.ave.pth"
        in message
    )


BAD_DECODING = {
    "unknown": (["--inference_args", "--beam 3 --no 5"], "ESPnet's decoding takes no such argument: "),
    "not whole": (["--inference_args", "--beam 3"], "--inference_args: write --beam out, as in espnet2.bin.asr_inf"),
    "quote": (["--inference_args", "--nbest '5"], "--inference_args: no closing quotation in"),
    "ours": (
        ["--inference_args", "--lm_file x.pth"],
        "--inference_args: lm_file is what this recipe sets itself: --inf",
    ),
    "gpu": (["--inference_args", "--ngpu 1"], "ngpu is what this recipe sets itself: --gpu_inference (see --help)"),
    "batch": (["--inference_args", "--batch_size 2"], "ESPnet decodes one utterance at a time: leave batch_size out"),
    "n best": (["--inference_args", "--nbest 0"], "nbest of the decoding must be at least 1, got 0"),
    "lm weight": (
        ["--use_lm", "false", "--inference_args", "--lm_weight 0.1"],
        "--lm_weight is for the language model, and there is none",
    ),
    "lm": (
        ["--use_lm", "false", "--inference_lm", "latest.pth"],
        "--inference_lm is for the language model, and there",
    ),
    "path": (
        ["--inference_asr_model", "exp/valid.acc.best.pth"],
        "--inference_asr_model 'exp/valid.acc.best.pth' is not",
    ),
    "model": (
        ["--inference_asr_model", "valid.wer.best.pth"],
        "the training makes no such model, but valid.acc.ave.pth",
    ),
    "epoch": (
        ["--inference_asr_model", "9epoch.pth"],
        "and those of its epochs, to 3epoch.pth, that are among the best",
    ),
    "average": (["--inference_asr_model", "valid.acc.ave_5best.pth"], "the training makes no such model"),
    "lm model": (["--inference_lm", "valid.acc.best.pth"], "the training makes no such model, but valid.loss.ave.pth"),
    "nj": (["--inference_nj", "0"], "--inference_nj must be at least 1, got 0"),
    "tag": (["--inference_tag", "../x"], "--inference_tag '../x' is not a name"),
}


@pytest.mark.parametrize("case", list(BAD_DECODING))
def test_decoding_that_cannot_be_is_refused_before_anything_is_made(case, options, tmp_path, capsys):
    words, message = BAD_DECODING[case]
    own = options.index("--lm_config")
    given = [str(tmp_path) if word == options[4] else word for word in options[:own] + options[own + 2 :]]
    assert_refused(main, [*given, "--max_epoch", "3", *words], "sqloss asr", message, tmp_path, capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_to_decode_on(options, capsys):
    assert main([*options, "--gpu_inference", "true"]) == 2
    assert "--gpu_inference true: this machine has no GPU" in capsys.readouterr().err


def test_where_and_by_how_many_processes_is_decoded(corpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for words, on_gpu, processes in (
        ([], False, 4),
        (["--ngpu", "2"], True, 2),
        (["--ngpu", "1", "--gpu_inference", "false"], False, 4),
        (["--ngpu", "1", "--gpu_inference", "false", "--inference_nj", "3"], False, 3),
        (["--gpu_inference", "true"], True, 1),
        (["--gpu_inference", "true", "--inference_nj", "2"], True, 2),
    ):
        found = parse(["librispeech", "--corpus", str(corpus), "--nj", "4", *words]).options
        assert (found.decodes_on_gpu, found.decoding_processes) == (on_gpu, processes)


# ---------------------------------------------------------------- names, and what the training begins with

# Of espnet/espnet at 004c30c, egs2/TEMPLATE/asr1/asr.sh: all that its help lists, and what it reads beside that.
ASR_SH = """
stage stop_stage skip_data_prep skip_train skip_eval skip_upload skip_upload_hf ngpu num_nodes nj inference_nj
gpu_inference dumpdir expdir python debug local_data_opts speed_perturb_factors feats_type audio_format fs
min_wav_duration max_wav_duration token_type nbpe bpemode oov blank sos_eos bpe_input_sentence_size bpe_nlsyms
bpe_char_cover use_ngram ngram_exp ngram_num use_lm lm_tag lm_exp lm_stats_dir lm_config lm_args use_word_lm
num_splits_lm word_vocab_size asr_tag asr_exp asr_stats_dir asr_config asr_args pretrained_model ignore_init_mismatch
feats_normalize num_splits_asr hf_repo use_k2 k2_ctc_decoding use_nbest_rescoring num_paths nll_batch_size k2_config
use_streaming batch_size inference_tag inference_config inference_args inference_lm inference_ngram inference_asr_model
download_model train_set valid_set test_sets bpe_train_text lm_train_text lm_dev_text lm_test_text nlsyms_txt cleaner
g2p lang score_opts local_score_opts asr_speech_fold_length asr_text_fold_length lm_fold_length
"""
OF_ESPNETS_TRAINING = {"ignore_init_mismatch", "batch_size"}


@pytest.mark.parametrize("name", ASR_SH.split())
def test_every_option_of_asr_sh_is_here_or_it_is_said_what_is(name, corpus, capsys):
    ours = {string for action in make_parser()._actions for string in action.option_strings}
    if f"--{name}" in ours or name in OF_ESPNETS_TRAINING:
        assert name not in INSTEAD
        return
    for option in {f"--{name}", f"--{name.replace('_', '-')}"}:
        assert main(["librispeech", "--corpus", str(corpus), option, "x"]) == 2
        message = capsys.readouterr().err
        assert f"{option} of ESPnet's asr.sh is not here: {INSTEAD[name]}" in message
    # What it names is there.
    for word in re.findall(r"--\w+", INSTEAD[name]):
        assert word in ours | {"--frontend", "--frontend_conf", "--ngram_file", "--ngram_weight", "--model_tag"} | {
            "--max_epoch"
        }


def test_two_names_of_one_option(corpus, tmp_path):
    words = ["librispeech", "--corpus", str(corpus), "--use_lm", "false"]
    found = parse([*words, "--asr_tag", "a", "--valid_set", "test-clean", "--test_sets", "dev-clean"]).options
    assert (found.tag, found.dev_set) == ("a", "test-clean")
    recipe = tmp_path / "own/conf"
    recipe.mkdir(parents=True)
    (recipe / "recipe.yaml").write_text("corpus: librispeech\ntask: own\nmetric: wer\nvalid_set: other\n")
    assert read_definition(tmp_path / "own", mini=False).defaults == {"dev_set": "other"}


BAD_NAMES = {
    "hyphen": (["--max-epoch", "3"], "--max-epoch is written with underscores here: --max_epoch"),
    "normalize": (["--feats_normalize", "cmvn"], "argument --feats_normalize: invalid choice: 'cmvn'"),
    "both": (
        ["--feats_normalize", "none", "--normalize", "none"],
        "--feats_normalize and ESPnet's --normalize are the",
    ),
    "no model": (
        ["--pretrained_model", "no.pth:encoder"],
        "--pretrained_model no.pth:encoder: there is no file no.pth",
    ),
    "no model file": (["--pretrained_model", f"{__file__}:encoder"], "cannot be read as a model file: it is damaged"),
    "init": (["--pretrained_model", __file__, "--init_param", "x"], "--pretrained_model and ESPnet's --init_param are"),
    "speed": (["--speed_perturb_factors", "0.9 fast"], "--speed_perturb_factors fast: must be numbers from 0.1 to 10"),
    "negative": (["--speed_perturb_factors", "-1"], "--speed_perturb_factors -1: must be numbers from 0.1 to 10"),
    "no speed": (["--speed_perturb_factors", "0"], "--speed_perturb_factors 0: must be numbers from 0.1 to 10"),
    "one": (["--speed_perturb_factors", "1.0"], "--speed_perturb_factors 1 changes nothing"),
    "pieces of characters": (["--token_type", "char"], "--nbpe is for --token_type bpe, and this is char: leave one"),
    "attention of fewer than none": (["--num_att_plot", "-1"], "--num_att_plot must be at least 0, got -1"),
    "attention and no figures": (
        ["--num_att_plot", "2", "--use_matplotlib", "false"],
        "--num_att_plot needs --use_matplotlib true",
    ),
    "tag of a folder": (["--asr_exp", "x", "--tag", "y"], "--tag is for the end of the run's folder name, and --asr"),
    "twice": (
        ["--speed_perturb_factors", "1.0 0.9 1"],
        "--speed_perturb_factors 1.0 0.9 1 names a speed more than once",
    ),
}


@pytest.mark.parametrize("case", list(BAD_NAMES))
def test_wrong_values_are_refused_before_anything_is_made(case, options, tmp_path, capsys):
    words, message = BAD_NAMES[case]
    given = [str(tmp_path) if word == options[4] else word for word in options]
    assert_refused(main, [*given, *words], "sqloss asr", message, tmp_path, capsys)


def test_the_normalisation_and_the_model_to_begin_with(whole, options, capsys):
    """A run of its own, which begins with the other's encoder; statistics of the features are not used."""
    model = whole / "valid.acc.ave.pth"
    words = [*options, "--max_epoch", "1", "--stage", "6", "--stop_stage", "6", "--feats_normalize", "utterance_mvn"]
    words += ["--optim_conf", "lr=1e-30", "--asr_tag", "begun", "--pretrained_model", f"{model}:encoder:encoder"]
    assert main(words) == 0
    (folder,) = whole.parent.glob("*-begun")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["normalize"], config["init_param"]) == ("utterance_mvn", [f"{model}:encoder:encoder"])
    before, after = (torch.load(path, weights_only=True) for path in (model, folder / "valid.acc.ave.pth"))
    same = {name for name, value in after.items() if name in before and torch.equal(value, before[name])}
    assert {name for name in after if name.startswith("encoder.")} <= same
    assert "decoder.output_layer.weight" not in same
    assert not [name for name in after if name.startswith("normalize.")]
    shutil.rmtree(folder)


def test_attention_is_drawn_by_an_option(whole, options):
    """Of the first utterances of the development set, after every epoch, also where the configuration draws nothing."""
    words = [*options, "--max_epoch", "1", "--stage", "6", "--stop_stage", "6", "--asr_tag", "drawn"]
    assert main([*words, "--num_att_plot", "1"]) == 0
    (folder,) = whole.parent.glob("*-drawn")
    name = next(iter(read_text(Path(options[4], DATA, "dev-clean/wav.scp"))))
    drawn = {path.relative_to(folder / "att_ws") for path in folder.glob("att_ws/*/*")}
    parts = ("encoder.encoders.0.self_attn", "decoder.decoders.0.self_attn", "decoder.decoders.0.src_attn")
    assert drawn == {Path(name, f"{part}.1ep.png") for part in parts}
    assert not (whole / "att_ws").exists()
    shutil.rmtree(folder)


def test_speed_perturbation(whole, options):
    """Three copies of the training data; the tokens and the language model are those of the plain data."""
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    data, factors = Path(options[4], DATA), "0.9 1.0 1.1"
    tokens, lms = (data / "tokens.txt").read_bytes(), sorted(data.glob("lm-*"))
    words = [*options, "--speed_perturb_factors", factors, "--method", "softmax"]
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert ((data / "tokens.txt").read_bytes(), sorted(data.glob("lm-*"))) == (tokens, lms)
    (folder,) = whole.parent.glob("*-sp0.9-1.0-1.1")
    result = read_result(folder)
    name = "train-clean-100_sp0.9-1.0-1.1"
    assert result.data["sizes"] == {"train-clean-100": 10, "dev-clean": 3, "test-clean": 2, name: 30}
    assert result.data["fingerprint"] != read_result(whole).data["fingerprint"]
    plain, made = (
        {n: read_text(data / s / n) for n in ("wav.scp", "text", "utt2spk")} for s in ("train-clean-100", name)
    )
    lengths = read_text(data / name / "utt2num_samples")
    assert len(made["wav.scp"]) == 30
    for key, path in plain["wav.scp"].items():
        assert made["wav.scp"][key] == path
        samples, rate = soundfile.read(path)
        for factor in (0.9, 1.1):
            other = f"sp{factor}-{key}"
            assert made["text"][other] == plain["text"][key]
            assert made["utt2spk"][other] == f"sp{factor}-{plain['utt2spk'][key]}"
            changed, changed_rate = soundfile.read(made["wav.scp"][other])
            assert changed_rate == rate
            assert len(changed) == int(lengths[other]) == pytest.approx(len(samples) / factor, abs=1)
            # As if time ran by the factor: by plain interpolation, up to what a filter takes off.
            wanted = np.interp(np.arange(len(changed)) * factor, np.arange(len(samples)), samples)
            assert np.corrcoef(changed, wanted)[0, 1] > 0.98
    (shapes,) = [path for path in data.glob("stats-*/train/speech_shape") if "sp0.9-" in path.read_text()]
    assert len(shapes.read_text().splitlines()) == 30
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["train_data_path_and_name_and_type"][0][0] == str(data / name / "wav.scp")
    # What is there is kept, and what is lacking is made.
    stamps = {path: path.stat().st_mtime_ns for path in (data / name / "audio").iterdir()}
    gone = min(stamps)
    gone.unlink()
    (data / name / "subset.json").unlink()
    assert main([*words, "--stage", "2", "--stop_stage", "2"]) == 0
    again = {path: path.stat().st_mtime_ns for path in (data / name / "audio").iterdir()}
    assert again.pop(gone) > stamps.pop(gone)
    assert again == stamps
    # Not that of other data.
    about = data / "train-clean-100/subset.json"
    content = about.read_text()
    about.write_text(json.dumps({**json.loads(content), "fingerprint": "other"}))
    made = DataFolder(data, "bpe")
    perturb_speed(made, "train-clean-100", name, factors.split(), 1)
    assert not {path: path.stat().st_mtime_ns for path in (data / name / "audio").iterdir()}.items() & again.items()
    about.write_text(content)


def test_speeds_are_not_the_papers_setting(corpus):
    words = ["librispeech", "--corpus", str(corpus)]
    assert parse(words).is_as_published
    assert not parse([*words, "--speed_perturb_factors", "0.9 1.0 1.1"]).is_as_published


# ---------------------------------------------------------------- language model


def test_the_language_models_perplexity_is_espnets(whole, options):
    """Token by token, by the model that ESPnet loads: exp of the mean negative log-likelihood, ends included."""
    from espnet2.tasks.lm import LMTask

    result = read_result(whole)
    data = Path(options[4], DATA)
    (folder,) = data.glob("lm-*/model")
    config = str(folder / "config.yaml")
    model, args = LMTask.build_model_from_file(config, str(folder / "valid.loss.ave.pth"), "cpu")
    read = LMTask.build_preprocess_fn(args, False)
    for subset in ("dev-clean", "test-clean"):
        nll, count = 0.0, 0
        for name, text in read_text(data / subset / "text").items():
            tokens = torch.from_numpy(read(name, {"text": text})["text"]).long()
            inputs, targets = torch.nn.functional.pad(tokens, (1, 0)), torch.nn.functional.pad(tokens, (0, 1))
            inputs[0] = targets[-1] = model.eos
            with torch.inference_mode():
                outputs, _ = model.eval().lm(inputs[None], None)
            nll += float(torch.nn.functional.cross_entropy(outputs[0], targets, reduction="sum"))
            count += len(targets)
        found = result.data["lm_perplexity"][subset]
        assert found == pytest.approx(math.exp(nll / count), rel=1e-4)
        assert f"{found:.2f} on {subset}" in (whole / "RESULTS.md").read_text()


@pytest.mark.parametrize("changed", ["lm_config", "tokens"])
def test_a_language_model_that_is_named_must_be_the_one(changed, whole, options, tmp_path, capsys):
    """Another one that is there was taken without a word."""
    named = [*options, "--lm_exp", str(settings(*options).lm_exp())]
    assert main([*named, "--stage", "5", "--stop_stage", "5"]) == 0
    capsys.readouterr()
    if changed == "lm_config":
        (tmp_path / "other.yaml").write_text(TINY_LM.replace("unit: 8", "unit: 9"))
        for stage in "57":
            assert main([*named, "--lm_config", str(tmp_path / "other.yaml"), "--stage", stage]) == 2
            assert "holds another run (lm_conf {'unit': 8, 'nlayers': 1} -> {'unit': 9" in capsys.readouterr().err
        return
    named = [str(tmp_path) if word == options[4] else word for word in named] + ["--nbpe", "41"]
    assert main([*named, "--stop_stage", "3"]) == 0
    assert main([*named, "--stage", "5", "--stop_stage", "5"]) == 2
    assert "holds another run (tokens '" in capsys.readouterr().err


def test_what_was_made_of_other_data_is_not_taken(whole, options, capsys):
    """A subset was removed and prepared anew from a corpus that has changed since; ESPnet would pass over it."""
    data = Path(options[4], DATA)
    for subset, made in (("test-clean", whole / "decode/test-clean"), ("train-clean-100", data)):
        about = data / subset / "subset.json"
        content = about.read_text()
        about.write_text(json.dumps({**json.loads(content), "fingerprint": "other"}))
        assert main([*options, "--stage", "5"]) == 2
        assert f"{made} was made of other data than those that are prepared now" in capsys.readouterr().err
        about.write_text(content)


def test_the_perplexity_is_computed_once_and_anew_where_a_kill_left_it_empty(whole, options, copy, capsys):
    paths = list(copy.glob("decode/*/lm_perplexity/ppl"))
    assert len(paths) == 2
    words = [*options, "--tag", "copy", "--stage", "8", "--method", "softmax"]
    assert main(words) == 0
    assert "perplexity on" not in capsys.readouterr().out
    for path in paths:
        path.write_text("")
    assert main(words) == 0
    assert capsys.readouterr().out.count("  the language model's perplexity on ") == 2
    assert read_result(copy).data["lm_perplexity"] == read_result(whole).data["lm_perplexity"]

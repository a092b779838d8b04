"""The speech recipes, through the command line that a user types, on a few seconds of synthetic speech."""

import gzip
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import soundfile
import torch
from commands import kill_when
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask
from filelock import FileLock
from result_files import result
from speech import TINY_ASR, TINY_LM, make_tokens, settings

from sqloss_plugins.data.corpora import CORPORA, Corpus, Utterance
from sqloss_plugins.data.corpora.librispeech import write_mini
from sqloss_plugins.errors import RunError, UserError
from sqloss_plugins.espnet import Speech2Text
from sqloss_plugins.espnet.bin.asr_export import main as export
from sqloss_plugins.espnet.jobs import Job, run_jobs
from sqloss_plugins.espnet.recipe import decoding, main, preparation
from sqloss_plugins.espnet.recipe.error_rates import count_errors, read_folding, read_text, word_auroc
from sqloss_plugins.espnet.recipe.options import STAGE_NAMES
from sqloss_plugins.espnet.recipe.parsing import parse, read_lm_text
from sqloss_plugins.espnet.recipe.paths import Paths
from sqloss_plugins.espnet.recipe.scoring import confidence_table
from sqloss_plugins.experiments.calibrate import main as calibrate
from sqloss_plugins.metrics import Edits, compute
from sqloss_plugins.probability import METHODS, probabilities
from sqloss_plugins.results import read_result

ROOT = Path(__file__).parent.parent
RUN = ROOT / "recipes/librispeech/run.sh"
# The tests on the same finished run; pytest-xdist would make it once for each worker.
one_worker = pytest.mark.xdist_group("recipe")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    write_mini(
        root, subsets={"train-clean-100": (3, 16), "dev-clean": (1, 3), "test-clean": (1, 3), "test-other": (1, 2)}
    )
    return root


@pytest.fixture(scope="module")
def options(corpus, tmp_path_factory):
    """A recipe's command line for a tiny model, and the folder that it works in."""
    work = tmp_path_factory.mktemp("work")
    for name, text in (
        ("asr", TINY_ASR),
        ("lm", TINY_LM),
        ("inference", "beam_size: 2\nctc_weight: 0.3\nlm_weight: 0.1\n"),
    ):
        (work / f"{name}.yaml").write_text(text)
    configs = [word for name in ("asr", "lm", "inference") for word in (f"--{name}_config", str(work / f"{name}.yaml"))]
    return ["--corpus", str(corpus), "--workdir", str(work), *configs, "--nbpe", "40", "--nj", "1"]


def environment():
    return {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(*words):
    return subprocess.run([str(RUN), *words], env=environment(), capture_output=True, text=True, timeout=1800)


@pytest.fixture(scope="module")
def whole(options):
    """One run through all stages, not interrupted."""
    done = run("--loss", "square", *options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (folder,) = Path(options[3], "runs").rglob("result.json")
    return done.stdout, folder.parent


@one_worker
def test_all_stages(whole, options):
    printed, folder = whole
    assert [line.split(":")[0] for line in printed.splitlines() if line.startswith("stage")] == [
        f"stage {i}" for i in range(1, 9)
    ]
    result = read_result(folder)
    assert (result.task, result.arch, result.loss, result.k, result.seed) == (
        "librispeech",
        "transformer",
        "square",
        15,
        0,
    )
    assert result.rescaling_source == "the level rule for 40 classes"  # 40 pieces are not the paper's 1000
    assert result.data["sizes"] == {"train-clean-100": 16, "dev-clean": 3, "test-clean": 3}
    assert not result.mini
    assert (result.epochs, result.resumed) == (3, False)
    assert result.wall_time_s > 0
    dev, test = result.metrics["validation"], result.metrics["test"]
    of_tokens, of_words = {"nll", "brier", "ece"}, {"wer", "cer", "ter", "ser", "word_auroc"}
    assert set(dev) == set(test) == {"square", "softmax", "temperature", "outputs"}
    assert set(dev["square"]) == of_words | of_tokens
    assert set(dev["outputs"]) == {"accuracy"}
    for method in METHODS:
        assert set(test[method]) == (of_words | of_tokens if method == result.method else of_tokens)
    assert dev[result.method]["wer"] == min(dev[method]["wer"] for method in METHODS)
    assert (result.protocol, result.ended_by, result.selection) == ("fixed_epochs", "maximum", "wer")
    assert result.data["lm_text"] == "train-clean-100"
    assert result.hyperparameters["learning_rate"] == 0.01
    assert result.hyperparameters["num_train_epochs"] == 3
    table = (folder / "RESULTS.md").read_text()
    assert "| dev-clean" in table
    assert "* espnet: 20" in table
    assert table in printed
    data = Path(options[3], "data/librispeech/train-clean-100-unigram40")
    tokens = (data / "tokens.txt").read_text().splitlines()
    assert tokens[:2] == ["<blank>", "<unk>"]
    assert tokens[-1] == "<sos/eos>"
    assert len((data / "token_counts.txt").read_text().splitlines()) == len(tokens) == len(set(tokens))
    assert int((data / "token_counts.txt").read_text().split()[-1]) == 16  # an end for each sentence


def hypotheses(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.glob("decode/*/*/text")}


@one_worker
def test_a_finished_run_is_not_repeated(whole, options):
    _, folder = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pth")}
    done = run("--loss", "square", *options)
    assert done.returncode == 0
    # Three subsets, dictionary, statistics, language model, training; three methods on dev, one on test.
    assert done.stdout.count("done before") == 3 + 4 + 3 + 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pth")} == before


@one_worker
def test_another_front_end_has_statistics_of_its_own(whole, options):
    def found():
        folders = Path(options[3], "data/librispeech/train-clean-100-unigram40").glob("stats-*/train/feats_stats.npz")
        return {len(np.load(path)["sum"]): path for path in folders}

    before = found()
    stamp = before[20].stat().st_mtime_ns
    # With more processes than there are utterances to develop on.
    words = ["--frontend_conf", "n_mels=16", "--stage", "4", "--stop_stage", "4", "--nj", "4"]
    assert main(["librispeech", *options, *words]) == 0
    assert found().keys() == {16, 20}
    assert found()[20].stat().st_mtime_ns == stamp


@one_worker
@pytest.mark.parametrize("kill_in", ["training", pytest.param("decoding", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_result(kill_in, whole, options):
    """SIGKILL to the recipe takes its processes with it; the same command goes on from what is there."""
    _, folder = whole
    killed = folder.with_name(f"{folder.name}-{kill_in}")
    command = [str(RUN), "--loss", "square", *options, "--tag", kill_in, "--stage", "6"]
    if kill_in == "decoding":  # from the trained model on
        shutil.copytree(folder, killed, symlinks=True)
        shutil.rmtree(killed / "decode")
        for name in ("result.json", "calibration.json"):
            (killed / name).unlink()
    wanted = "1epoch.pth" if kill_in == "training" else "decode/dev-clean/softmax/text"
    assert kill_when(command, environment(), killed, wanted) == []

    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert hypotheses(killed) == hypotheses(folder)
    result = read_result(killed)
    assert result.metrics == read_result(folder).metrics
    assert (result.epochs, result.resumed) == (3, kill_in == "training")
    if kill_in == "training":
        log = (killed / "train.log").read_text()
        assert "1/3epoch started" in log  # by the process that was killed
        assert "The training was resumed" in log


@one_worker
def test_a_killed_decoding_goes_on_with_another_number_of_processes(whole, options, monkeypatch):
    """The parts of the first split are not taken for those of the second."""
    _, folder = whole
    copy = folder.with_name(f"{folder.name}-split")
    shutil.copytree(folder, copy, symlinks=True)
    shutil.rmtree(copy / "decode")
    words = ["librispeech", *options, "--tag", "split", "--stage", "7", "--method", "softmax"]

    def killed_after_one(jobs, *rest):
        run_jobs(jobs[:1], *rest)
        raise RunError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "run_jobs", killed_after_one)
        assert main([*words, "--nj", "2"]) == 1
    assert main(words) == 0
    text = "decode/dev-clean/softmax/text"
    assert (copy / text).read_text() == (folder / text).read_text()


@one_worker
def test_a_further_test_set_needs_no_training(whole, options):
    _, folder = whole
    copy = folder.with_name(f"{folder.name}-further")
    shutil.copytree(folder, copy, symlinks=True)
    words = ["librispeech", *options, "--tag", "further", "--test_sets", "test-clean test-other"]
    assert main([*words, "--stage", "6"]) == 2
    assert main([*words, "--stage", "2"]) == 0
    result = read_result(copy)
    assert result.data["sizes"]["test-other"] == 2
    assert result.metrics["test"] == read_result(folder).metrics["test"]
    found = set(result.metrics["test test-other"][result.method])
    assert found - {"word_auroc"} == {"wer", "cer", "ter", "ser", "nll", "brier", "ece"}  # that needs a wrong word
    before, after = read_result(folder).data, result.data
    assert before["fingerprint"] == after["fingerprint"], "of training and development data"
    assert set(after["test_fingerprints"]) == {"test", "test test-other"}
    assert before["test_fingerprints"]["test"] == after["test_fingerprints"]["test"]
    assert (copy / "training.json").read_bytes() == (folder / "training.json").read_bytes()


@one_worker
def test_two_processes_do_not_share_a_run(whole, options, capsys):
    _, folder = whole
    busy = folder.with_name(f"{folder.name}-busy")
    busy.mkdir()
    (busy / "settings.json").write_text("{}")
    with FileLock(busy / ".lock"):
        assert main(["librispeech", *options, "--tag", "busy", "--stage", "6"]) == 2
    assert "another process is at work in " in capsys.readouterr().err
    assert (busy / "settings.json").read_text() == "{}"  # the other one's


@one_worker
def test_a_model_that_is_fetched_scores_as_one_that_is_there(whole):
    _, folder = whole
    files = {"asr_train_config": str(folder / "config.yaml"), "asr_model_file": str(folder / "valid.acc.ave.pth")}
    found = Speech2Text.from_pretrained(**files)
    assert (type(found), found.method) == (Speech2Text, "square")


@one_worker
def test_scoring_tells_of_the_training_that_was(whole, options, capsys):
    """Early stopping ends it before max_epoch, and it may be long ago, before probabilities were measured."""
    printed, folder = whole
    assert "without all probabilities" not in printed
    copy = folder.with_name(f"{folder.name}-told")
    shutil.copytree(folder, copy, symlinks=True)
    told = {"epochs": 2, "wall_time_s": 123.5, "resumed": True, "device": "abacus", "versions": {"espnet": "1"}}
    (copy / "training.json").write_text(json.dumps(told))
    (copy / "decode/test-clean/outputs.npz").unlink()
    assert main(["librispeech", *options, "--tag", "told", "--stage", "8"]) == 0
    assert "  without all probabilities of test-clean: --stage 7 measures them, and" in capsys.readouterr().out
    result = read_result(copy)
    assert {name: getattr(result, name) for name in told} == told
    assert ", 2 epochs," in (copy / "RESULTS.md").read_text()


@one_worker
def test_methods_that_were_not_decoded(whole, options, capsys):
    _, folder = whole
    copy = folder.with_name(f"{folder.name}-less")
    shutil.copytree(folder, copy, symlinks=True)
    before = (copy / "result.json").read_text()
    words = ["librispeech", *options, "--tag", "less", "--stage", "8", "--method"]
    assert main([*words, "softmax square temperature"]) == 2  # of these the test set has one
    assert "test-clean was not decoded with the method " in capsys.readouterr().err
    shutil.rmtree(copy / "decode/dev-clean/temperature")
    assert main([*words, "temperature"]) == 2
    assert "dev-clean was not decoded with the method temperature: begin with --stage 7" in capsys.readouterr().err
    assert (copy / "result.json").read_text() == before


@one_worker
def test_calibration_is_what_espnets_own_model_computes(whole, options, tmp_path):
    """On the development set, read by other means: the attention decoder's accuracy and cross-entropy."""
    _, folder = whole
    files = ["--asr_train_config", str(folder / "config.yaml"), "--asr_model_file", str(folder / "valid.acc.ave.pth")]
    assert export([*files, "--output_dir", str(tmp_path)]) == 0
    model, _ = ASRTask.build_model_from_file(str(tmp_path / "config.yaml"), str(tmp_path / "model.pth"), "cpu")
    assert type(model) is ESPnetASRModel
    data = Path(options[3], "data/librispeech/train-clean-100-unigram40")
    tokens = (data / "tokens.txt").read_text().splitlines()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(data / "bpe.model"))
    paths, said = read_text(data / "dev-clean/wav.scp"), read_text(data / "dev-clean/text")
    speech = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths.values()]
    text = [torch.tensor([tokens.index(piece) for piece in pieces.encode(said[name], out_type=str)]) for name in paths]
    with torch.inference_mode():
        _, stats, _ = model.eval()(
            torch.nn.utils.rnn.pad_sequence(speech, batch_first=True),
            torch.tensor([len(row) for row in speech]),
            torch.nn.utils.rnn.pad_sequence(text, batch_first=True, padding_value=-1),
            torch.tensor([len(row) for row in text]),
        )
    found = json.loads((folder / "calibration.json").read_text())
    assert found["tokens"] == sum(len(row) + 1 for row in text)
    assert found["accuracy"] == read_result(folder).value("validation", "accuracy")
    assert found["accuracy"] == pytest.approx(float(stats["acc"]))
    # ESPnet's is the sum over tokens for each utterance.
    assert found["nll"]["softmax"] * found["tokens"] / len(text) == pytest.approx(float(stats["loss_att"]), rel=1e-4)
    assert found["nll"]["temperature"] <= found["nll"]["softmax"]
    assert read_result(folder).parameters == sum(parameter.numel() for parameter in model.parameters())


@one_worker
def test_the_probabilities_of_tokens_and_words(whole, options, capsys):
    """The outputs are kept as a Trainer's are, and `sqloss calibrate` reads them; each decoded word has a number."""
    printed, folder = whole
    result = read_result(folder)
    calibration = json.loads((folder / "calibration.json").read_text())
    with np.load(folder / "outputs.npz") as arrays:
        assert set(arrays) == {f"{split}_{what}" for split in ("validation", "test") for what in ("outputs", "targets")}
        f, y = (torch.from_numpy(arrays[f"validation_{what}"]) for what in ("outputs", "targets"))
        assert f.dtype == torch.float32
        assert len(y) == calibration["tokens"]
        p = probabilities(f.double(), "temperature", temperature=calibration["temperature"]).numpy()
        assert result.value("validation", "brier", "temperature") == compute("brier", p, y.numpy())
        nll = float(-np.log(p[np.arange(len(y)), y.numpy()]).mean())
        assert result.value("validation", "nll", "temperature") == pytest.approx(nll, rel=1e-5)
        y, right = arrays["test_targets"], arrays["test_outputs"].argmax(1) == arrays["test_targets"]
        assert result.value("test", "accuracy") == right.mean()
    for method in METHODS:
        texts, confidence = (read_text(folder / f"decode/dev-clean/{method}/{name}") for name in ("text", "confidence"))
        assert {name: len(text.split()) for name, text in texts.items()} == {
            name: len(numbers.split()) for name, numbers in confidence.items()
        }
        assert all(0 < float(number) <= 1 for numbers in confidence.values() for number in numbers.split())
    table = printed.split("### Probabilities\n\n")[1].split("\n\n")[0].splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == ["dev-clean"] * 3 + ["test-clean"] * 3

    assert calibrate([str(folder), "--bootstrap", "0", "--save"]) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.split("test:\n\n")[1].splitlines() if "| square " in line)
    assert f"{result.value('test', 'nll', 'square'):.4f}" in row
    assert f"Nothing is kept in {folder}: it has no config.json of a Transformers model." in printed


@one_worker
def test_more_methods_later(whole, options):
    """Another --method decodes what is missing, and nothing anew."""
    _, folder = whole
    before = {path: path.stat().st_mtime_ns for path in folder.glob("decode/*/*/text")}
    shutil.copytree(folder, folder.with_name(f"{folder.name}-more"), symlinks=True)
    done = run("--loss", "square", *options, "--tag", "more", "--stage", "7", "--method", "softmax square temperature")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") == 4
    more = read_result(folder.with_name(f"{folder.name}-more"))
    assert all("wer" in more.metrics["test"][method] for method in METHODS)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("decode/*/*/text")} == before


@one_worker
def test_an_exported_model_is_plain_espnets(whole, corpus, tmp_path):
    """Without this package imported: the same hypotheses as its own softmax."""
    _, folder = whole
    arguments = [
        "--asr_train_config",
        str(folder / "config.yaml"),
        "--asr_model_file",
        str(folder / "valid.acc.ave.pth"),
    ]
    assert export([*arguments, "--output_dir", str(tmp_path / "stock")]) == 0
    audio = min(corpus.rglob("dev-clean/**/*.flac"))
    script = (
        "import sys, soundfile, {module} as m; "
        "s = m.Speech2Text(sys.argv[1], sys.argv[2], beam_size=2, ctc_weight=0.3{extra}); "
        "print(s(soundfile.read(sys.argv[3])[0])[0][2], 'sqloss_plugins.espnet' in sys.modules)"
    )
    printed = []
    for module, extra, config, model in (
        ("espnet2.bin.asr_inference", "", tmp_path / "stock/config.yaml", tmp_path / "stock/model.pth"),
        ("sqloss_plugins.espnet", ", method='softmax'", folder / "config.yaml", folder / "valid.acc.ave.pth"),
    ):
        command = [sys.executable, "-c", script.format(module=module, extra=extra), str(config), str(model), str(audio)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        printed.append(done.stdout.splitlines()[-1])
    assert printed[0].rpartition(" ")[0] == printed[1].rpartition(" ")[0]
    assert [line.rpartition(" ")[2] for line in printed] == ["False", "True"]


@one_worker
def test_wrong_exports(whole, tmp_path, capsys):
    _, folder = whole
    config, model = folder / "config.yaml", folder / "valid.acc.ave.pth"
    for options, message in (
        ((tmp_path / "no.yaml", model), "no.yaml cannot be read as settings"),
        ((config, config), "config.yaml cannot be read as a model file"),
        ((config, model, "--temperature", "-1"), "emperature must be a positive finite number"),
    ):
        words = ["--asr_train_config", str(options[0]), "--asr_model_file", str(options[1]), *options[2:]]
        assert export([*words, "--output_dir", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


BAD_OPTIONS = {
    "recipe": (["--stage", "1"], "no speech recipe 'nothing': choose from an4, any, librispeech"),
    "stage": (["--stage", "11"], "--stage 11 to --stop_stage 11 is no range of the stages 1 download, 2 data"),
    "stop stage": (["--stop_stage", "0"], "--stage 1 to --stop_stage 0 is no range of the stages"),
    "loss": (["--loss", "hinge"], "--loss hinge: unknown loss 'hinge': choose from square, cross_entropy"),
    "method": (["--method", "softmax probit"], "--method 'probit' is not for the loss square: choose from auto, or"),
    "no method": (["--method", ""], "--method '' is not for the loss square"),
    "square": (["--loss", "cross_entropy", "--method", "square"], "'square' is not for the loss cross_entropy"),
    "arch": (["--arch", "perceptron"], "unknown --arch 'perceptron': choose from transformer, vgg_blstm"),
    "k": (["--k", "-1"], "k must be a positive finite number, got -1.0"),
    "M": (["--M", "nan"], "M must be a positive finite number, got nan"),
    "no number": (["--k", "many"], "argument --k: invalid float value: 'many'"),
    "rescaling": (["--rescaling", "linear"], "unknown --rescaling 'linear': choose from auto, paper, level"),
    "k for cross-entropy": (["--loss", "cross_entropy", "--M", "30"], "k and M rescale the square loss"),
    "rescaling for cross-entropy": (
        ["--loss", "cross_entropy", "--rescaling", "paper"],
        "--rescaling is for losses with k and M, and cross_entropy has neither",
    ),
    "ngpu": (["--ngpu", "99"], "--ngpu 99: this machine has "),
    "seed": (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
    "negative seed": (["--seed", "-1"], "--seed must be from 0 to 4294967295, got -1"),
    "blank in a path": (
        ["--workdir", "TMP/a b", "--speed_perturb_factors", "0.9"],
        "/a b' has white space or unprintable characters, which ESPnet's wav.scp cannot hold: choose",
    ),
    "comma in a path": (["--workdir", "TMP/a,b"], "a,b has a comma, which for ESPnet ends a path: choose another"),
    "nj": (["--nj", "0"], "--nj must be at least 1, got 0"),
    "nbpe": (["--nbpe", "0"], "--nbpe must be at least 1, got 0"),
    "token type": (["--token_type", "word"], "argument --token_type: invalid choice: 'word'"),
    "no corpus": (["--corpus", "nowhere"], "--corpus nowhere is no folder"),
    "both": (["--mini", "--corpus", "."], "--mini and --corpus exclude each other"),
    "config": (["--asr_config", "nowhere.yaml"], "nowhere.yaml cannot be read as settings"),
    "lm config": (["--lm_config", "nowhere.yaml"], "nowhere.yaml cannot be read as settings"),
    "inference config": (["--inference_config", "nowhere.yaml"], "nowhere.yaml cannot be read as settings"),
    "free": (["--max_epochs", "3"], "--max_epochs is no option of this recipe, nor of ESPnet's training"),
    "free word": (["3"], "ESPnet's training takes no such argument: unrecognized arguments: 3"),
    "ours": (["--token_list", "x"], "--token_list is what this recipe sets itself"),
    "use_lm": (["--use_lm", "no"], "argument --use_lm: invalid choice: 'no'"),
    "lm text without an lm": (
        ["--use_lm", "false", "--lm_text", "x"],
        "--lm_text is for the language model",
    ),
    "lm config without an lm": (
        ["--use_lm", "false", "--lm_config", "x"],
        "--lm_config is for the language model",
    ),
    "lm folder without an lm": (
        ["--use_lm", "false", "--lm_exp", "x"],
        "--lm_exp is for the language model",
    ),
    "no lm text": (["--lm_text", "nowhere.txt"], "--lm_text nowhere.txt cannot be read as text: No such file"),
    "lm text of bytes": (["--lm_text", sys.executable], "cannot be read as text: 'utf-8' codec can't decode"),
    "lm text of a mark": (["--lm_text", "TMP/mark.txt"], "mark.txt has no text"),
    "lm text not compressed": (["--lm_text", "TMP/plain.gz"], "plain.gz cannot be read as text: Not a gzipped file"),
    "empty lm text": (["--lm_text", os.devnull], "--lm_text /dev/null has no text"),
    "no test set": (["--test_sets", " "], "--test_sets is empty: name one test subset or more"),
    "test set twice": (["--test_sets", "a b a"], "--train_set, --dev_set and --test_sets must differ, and name a more"),
    "dev set for training": (["--dev_set", "train-clean-100"], "must differ, and name train-clean-100 more than once"),
    "path as test set": (["--test_sets", "test-clean TMP/test"], "/test' is not a name: use letters, digits, _, - and"),
    "path as training set": (["--train_set", "../x"], "--train_set '../x' is not a name"),
    "path as development set": (["--dev_set", ".."], "--dev_set '..' is not a name"),
    "path as tag": (["--tag", "a/b"], "--tag 'a/b' is not a name"),
    "path as arch": (["--arch", "../x"], "--arch '../x' is not a name"),
    "empty tag": (["--tag", ""], "--tag '' is not a name"),
    "dry run": (["--dry_run", "true"], "--dry_run is what this recipe sets itself"),
    "broken value": (["--optim_conf", "lr={"], "ESPnet's training cannot read a value: "),
    "no attention": (["--loss", "cross_entropy", "--model_conf", "ctc_weight=1.0"], "models with an attention decoder"),
    "transducer": (["--loss", "cross_entropy", "--decoder", "transducer"], "for models with an attention decoder"),
    "criterion": (["--best_model_criterion", "[[valid, loss, min]]"], "of the training must have [valid, acc, max]"),
    "hidden k": (["--model_conf", "k=3"], "the loss, k, M and rescaling are options of this recipe"),
    "no epochs": (["--max_epoch", "0"], "--max_epoch of the training must be at least 1, got 0"),
    "no batch": (["--batch_size", "-1"], "--batch_size of the training must be at least 1, got -1"),
    "no models": (["--keep_nbest_models", "0"], "--keep_nbest_models of the training must be at least 1, got 0"),
    "no optimiser's options": (
        ["--optim_conf", "null"],
        "--optim_conf: must be interpreted as dict: but got null",
    ),
    "rate": (["--optim_conf", "lr=fast"], "--optim_conf lr must be a positive number, got 'fast'"),
    "negative rate": (["--optim_conf", "lr=-1e-3"], "--optim_conf lr must be a positive number, got -0.001"),
    "optimiser": (["--optim", "guess"], "ESPnet's training takes no such argument: argument --optim: invalid choice"),
    "ctc weight": (["--model_conf", "ctc_weight=2"], "--model_conf ctc_weight must be a number from 0 to 1, got 2"),
    "smoothing": (["--model_conf", "lsm_weight=much"], "--model_conf lsm_weight must be a number from 0 to 1, got 'm"),
}


@pytest.mark.parametrize("case", list(BAD_OPTIONS))
def test_bad_options(case, tmp_path, monkeypatch, capsys, corpus):
    """One sentence, exit status 2, and nothing made, here or in the corpus."""
    monkeypatch.chdir(tmp_path)
    words, message = BAD_OPTIONS[case]
    words = [word.replace("TMP", str(tmp_path)) for word in words]
    (tmp_path / "plain.gz").write_text("ONE TWO")
    (tmp_path / "mark.txt").write_text("\ufeff\n")
    given = [] if "--corpus" in words else ["--corpus", str(corpus)]
    before = [sorted(folder.rglob("*")) for folder in (tmp_path, corpus)]
    assert main(["nothing" if case == "recipe" else "librispeech", *given, *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("sqloss asr: error: ")
    assert message in error
    assert [sorted(folder.rglob("*")) for folder in (tmp_path, corpus)] == before


def test_help_and_wrong_options_need_neither_pytorch_nor_espnet(tmp_path):
    """They take seconds to import."""
    script = (
        "import sys\nfrom sqloss_plugins.cli import main\n"
        "try:\n    status = main(['asr', *sys.argv[1:]])\n"
        "except SystemExit as ended:\n    status = ended.code\n"
        "print(status, 'torch' in sys.modules, 'espnet2' in sys.modules)"
    )
    for words, status in (
        (["--help"], 0),
        (["librispeech", "--help"], 0),
        (["my_corpus", "--help"], 0),
        (["librispeech", "--stage", "11"], 2),
        (["librispeech", "--max_epochs", "3"], 2),
        (["nothing"], 2),
    ):
        command = [sys.executable, "-c", script, *words]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout.splitlines()[-1] == f"{status} False False", done.stderr


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("inference", "beam_szie: 5", "ESPnet's decoding takes no such argument: "),
        ("inference", "batch_size: 4", "ESPnet decodes one utterance at a time: leave batch_size out"),
        ("lm", "unitt: 5", "ESPnet's language model takes no such argument: "),
        ("lm", "max_epoch: 0", "--max_epoch of the language model must be at least 1, got 0"),
        ("lm", "best_model_criterion: [[valid, acc, max]]", "of the language model must have [valid, loss, min]"),
        ("asr", "optim_conf: null", "optim_conf of the training must be a mapping of names to values, got None"),
    ],
)
def test_configurations_are_read_before_the_training(option, text, message, corpus, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        settings("librispeech", "--corpus", str(corpus), f"--{option}_config", str(tmp_path / "own.yaml"))
    assert message in str(raised.value)


def test_what_has_no_value_is_no_number_in_the_table():
    """The AUROC of words that are all right."""
    measured = {"nll": 0.1, "brier": 0.2, "ece": 0.01, "word_auroc": math.nan}
    metrics = {"validation": {"outputs": {"accuracy": 1.0}, "softmax": measured, "square": {"brier": 0.5}}}
    table = confidence_table(result(metrics=metrics), {"dev": "validation"})
    assert re.search(r"\| dev +\| softmax \* +\| 100.00 +\| 0.1000 +\| 0.2000 +\| 1.00 +\| - +\|", table)
    assert re.search(r"\| dev +\| square +\| 100.00 +\| +\| 0.5000 +\| +\| +\|", table)


def test_a_language_model_with_another_loss_is_not_packed(corpus, tmp_path):
    config = tmp_path / "own.yaml"
    config.write_text("lm: seq_rnn\nmodel: sqloss\nbest_model_criterion: [[valid, loss, min]]\n")
    words = ["librispeech", "--corpus", str(corpus), "--lm_config", str(config), "--use_lm", "true"]
    settings(*words)
    with pytest.raises(
        UserError, match=r"stage 9 is for plain ESPnet, .*own\.yaml has it: end before it by --stop_stage 8"
    ):
        settings(*words, "--stop_stage", "9")


def test_the_recipe_speaks_of_its_mistakes(tmp_path):
    done = run("--corpus", str(tmp_path), "--workdir", str(tmp_path), "--loss", "hinge")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    helped = subprocess.run(
        [str(ROOT / "recipes/an4/run.sh"), "--help"], env=environment(), capture_output=True, text=True
    )
    assert helped.returncode == 0
    assert all(f"{number} {name}" in helped.stdout for number, name in enumerate(STAGE_NAMES, start=1))
    assert "(default: conformer)" in " ".join(helped.stdout.split())  # the recipe's own


@pytest.fixture
def elsewhere(tmp_path):
    """Another folder to work in."""
    return tmp_path


def test_stages_in_the_wrong_order(options, elsewhere, capsys):
    words = ["librispeech", *options[:2], "--workdir", str(elsewhere), *options[4:]]
    for stage, need in ((3, 2), (4, 2), (6, 2), (8, 2)):
        assert main([*words, "--stage", str(stage)]) == 2
        assert f"makes: begin with --stage {need}" in capsys.readouterr().err


def test_more_pieces_than_the_text_supports(options, elsewhere, capsys):
    words = ["librispeech", *options[:2], "--workdir", str(elsewhere), *options[4:], "--nbpe", "5000"]
    assert main([*words, "--stop_stage", "3"]) == 2
    assert "--nbpe 5000 does not fit the training text: Vocabulary size too high" in capsys.readouterr().err


@one_worker
def test_another_runs_data_is_left_alone(whole, options, tmp_path, capsys):
    corpus = tmp_path / "other"
    write_mini(corpus, subsets={"train-clean-100": (1, 2), "dev-clean": (1, 1), "test-clean": (1, 1)})
    words = ["librispeech", "--corpus", str(corpus), *options[2:]]
    assert main(words) == 2
    assert "holds another run (folder " in capsys.readouterr().err


@one_worker
@pytest.mark.parametrize("changed", ["lm_config", "lm_text"])
def test_another_language_model_is_not_the_one_that_is_there(changed, whole, options, tmp_path, capsys):
    """Missed before anything is done with it, at whatever stage; and made beside the other one."""

    def found():
        models = Path(options[3], "data/librispeech/train-clean-100-unigram40").glob("lm-*/model/valid.loss.ave.pth")
        return {path: path.stat().st_mtime_ns for path in models}

    other = tmp_path / "other"
    other.write_text(TINY_LM.replace("unit: 8", "unit: 9"))
    words = ["librispeech", *options, f"--{changed}", str(other), "--tag", "new"]
    for first in "68":
        assert main([*words, "--stage", first]) == 2
        printed = capsys.readouterr()
        assert "which stage 5 (language model) makes: begin with --stage 5" in printed.err
        assert "stage 6" not in printed.out
    before = found()
    assert main([*words, "--stage", "5", "--stop_stage", "5"]) == 0
    assert before.items() < found().items()
    assert len(found()) == len(before) + 1


@one_worker
@pytest.mark.parametrize("stage", ["7", "8"])
def test_other_settings_of_decoding_are_not_mixed(stage, whole, options, tmp_path, capsys):
    _, folder = whole
    before = (folder / "result.json").read_text()
    assert main(["librispeech", *options[:6], "--use_lm", "false", *options[8:], "--stage", stage]) == 2
    assert "lm {'lm': 'seq_rnn', " in capsys.readouterr().err
    other = tmp_path / "inference.yaml"
    other.write_text("beam_size: 3\nctc_weight: 0.3\nlm_weight: 0.1\n")
    assert main(["librispeech", *options, "--inference_config", str(other), "--stage", stage]) == 2
    assert "decode holds another run (beam_size 2 -> 3): choose another --inference_tag" in capsys.readouterr().err
    assert (folder / "result.json").read_text() == before


def test_a_program_that_fails_is_said(tmp_path):
    """What it refuses, it refuses for the command that gave it that."""
    with pytest.raises(UserError, match=r"^asr_train: unrecognized arguments: --no_such 1 \(log: .*log\)$") as raised:
        run_jobs([Job("sqloss_plugins.espnet.bin.asr_train", ["--no_such", "1"], tmp_path / "log")])
    assert raised.value.status == 2


def test_a_log_goes_on_and_complaints_are_of_the_last_process(tmp_path, monkeypatch):
    """The program's own error line, if it has one, else its last."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = Job("stumbles", [], tmp_path / "log")
    for program, status, complaint in (
        ("print('stumbles: error: no such thing\\ncleaning up'); exit(2)", 2, "stumbles: no such thing"),
        ("print('stumbles: error: it diverged\\n'); exit(1)", 1, "stumbles ended with status 1: it diverged"),
        ("print('out of memory\\n'); exit(1)", 1, "stumbles ended with status 1: out of memory"),
        ("exit(2)", 1, "stumbles ended with status 2: no output"),
    ):
        (tmp_path / "stumbles.py").write_text(program)
        with pytest.raises(UserError, match=rf"^{complaint} \(log: ") as raised:
            run_jobs([job])
        assert raised.value.status == status
    assert job.log.read_text().startswith("stumbles: error: no such thing\ncleaning up\nstumbles: error: it")


def test_jobs_that_ended_well_are_marked_and_none_is_begun_after_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    program = "import sys, time; time.sleep(float(sys.argv[1])); exit(int(sys.argv[2]))"
    (tmp_path / "sleeps.py").write_text(program)
    waits = [("2", "1"), ("0", "0"), ("3", "0"), ("0", "0")]
    jobs = [Job("sleeps", words, tmp_path / f"log{i}") for i, words in enumerate(waits)]
    marked = []
    with pytest.raises(RunError, match="sleeps ended with status 1"):
        run_jobs(jobs, 2, marked.append)
    assert marked == jobs[1:3]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process of its parent's end")
def test_workers_on_other_gpus_die_with_the_training(tmp_path):
    """ESPnet starts them by multiprocessing's spawn; they import the module that trains."""
    script = tmp_path / "trains.py"
    script.write_text(
        "import multiprocessing, pathlib, os, time\n"
        "from sqloss_plugins.espnet.resume import prepare_process\n"
        "prepare_process(__name__, 'asr')\n"
        "def work():\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.get_context('spawn').Process(target=work).start()\n"
        "    time.sleep(600)\n"
    )
    started_by = {"SQLOSS_PARENT_PID": str(os.getpid())}  # as run_jobs starts it
    kill_when([sys.executable, str(script)], {**environment(), **started_by}, tmp_path, "pid")
    time.sleep(0.5)
    command = Path("/proc", (tmp_path / "pid").read_text(), "cmdline")
    assert not command.exists() or command.read_text() == ""  # gone, or a zombie that nobody waits for


def test_defaults(corpus, tmp_path):
    """The paper's: k = 15, M = 30 with 1000 pieces, the epochs of Table 11 for each loss."""
    words = ["librispeech", "--corpus", str(corpus), "--workdir", str(tmp_path)]
    square = settings(*words)
    make_tokens(square, 1000)
    rescaling = square.rescaling()
    assert (rescaling.k, rescaling.M, square.espnet.max_epoch) == (15, 30, 120)
    assert square.espnet.model_conf["lsm_weight"] == 0
    entropy = settings(*words, "--loss", "cross_entropy", "--arch", "vgg_blstm")
    assert (entropy.rescaling(), entropy.espnet.max_epoch) == (None, 20)
    assert settings(*words, "--arch", "vgg_blstm", "--max_epoch", "7").espnet.max_epoch == 7
    assert entropy.asr_exp().root.name == "cross_entropy-lr1-fixed_epochs-s0"
    patient = settings(*words, "--patience", "3")
    assert patient.asr_exp().root.name == "square-k15-M30-lr0.00395-early_stopping-s0"


def test_label_smoothing_of_the_cited_configuration_and_of_table_21(corpus):
    """Cross-entropy has the configuration's 0.1 unless it is told otherwise; the square loss has none."""
    words = ["librispeech", "--corpus", str(corpus)]
    for given, weight in (
        (["--loss", "cross_entropy"], 0.1),
        (["--loss", "cross_entropy", "--model_conf", "lsm_weight=0"], 0),
        (["--loss", "square"], 0),
        (["--loss", "square", "--model_conf", "lsm_weight=0.1"], 0.1),
    ):
        assert settings(*words, *given).espnet.model_conf["lsm_weight"] == weight


def test_the_transformers_batch_is_espnet1s(corpus):
    """128 utterances and two batches a step."""
    found = settings("librispeech", "--corpus", str(corpus)).espnet
    assert found.batch_size * found.accum_grad == 128 * 2


def test_unigram_smoothing_takes_the_counts_of_stage_3(corpus, tmp_path):
    words = ["librispeech", "--corpus", str(corpus), "--workdir", str(tmp_path), "--model_conf", "lsm_type=unigram"]
    smoothed = settings(*words, "--loss", "cross_entropy")
    make_tokens(smoothed, 7)
    counts = f"lsm_unigram={smoothed.paths.data.token_counts}"
    assert counts in smoothed.model_arguments()
    assert counts not in settings(*words).model_arguments()  # the square loss smooths nothing
    words += ["--loss", "cross_entropy", "--model_conf", f"lsm_unigram={tmp_path / 'own.txt'}"]
    with pytest.raises(UserError, match=r"own\.txt cannot be read as one count a line: No such file"):
        settings(*words)
    (tmp_path / "own.txt").write_text("1\n" * 7)
    assert counts not in settings(*words).model_arguments()


@pytest.mark.parametrize(("text", "rate"), [("1e-3", 0.001), ("2E-05", 2e-5), ("1e+1", 10.0), ("0.5", 0.5), ("3", 3.0)])
def test_numbers_as_they_are_usually_written(text, rate, corpus, tmp_path):
    """YAML takes 1e-3 for text."""
    words = ["librispeech", "--corpus", str(corpus), "--workdir", str(tmp_path)]
    found = settings(*words, "--optim_conf", f"lr={text}")
    assert (found.learning_rate, found.espnet.optim_conf["lr"]) == (rate, rate)
    own = tmp_path / "own.yaml"
    own.write_text(TINY_ASR.replace("{lr: 0.01}", f"{{lr: {text}}}"))
    assert settings(*words, "--asr_config", str(own)).espnet.optim_conf == {"lr": rate}


def test_a_configuration_of_ones_own_is_taken_as_it_is(corpus, tmp_path):
    """Neither the paper's epochs nor its lack of label smoothing are put over it."""
    own = tmp_path / "own.yaml"
    own.write_text(f"{TINY_ASR}\n".replace("model_conf: {", "model_conf: {lsm_weight: 0.2, "))
    words = ["librispeech", "--corpus", str(corpus), "--workdir", str(tmp_path), "--asr_config", str(own)]
    found = settings(*words)
    make_tokens(found, 7)
    assert (found.espnet.model_conf["lsm_weight"], found.espnet.max_epoch) == (0.2, 3)
    assert found.hyperparameters["lsm_weight"] == 0.2


@pytest.mark.parametrize("is_there", [True, False])
def test_without_matplotlib_nothing_is_drawn(is_there, corpus, monkeypatch, capsys):
    """ESPnet's trainers draw figures unless they are told not to, and end where Matplotlib is missing."""
    monkeypatch.setattr(
        "sqloss_plugins.espnet.recipe.settings.find_spec",
        lambda name: name if is_there or name != "matplotlib" else None,
    )
    words = ["librispeech", "--corpus", str(corpus)]
    found = settings(*words)
    assert found.espnet.use_matplotlib is is_there
    assert ("--use_matplotlib" in found.training_arguments) is not is_there
    assert ("--use_matplotlib" in found.lm_arguments) is not is_there
    if not is_there:
        assert "matplotlib is not installed" in capsys.readouterr().out
        with pytest.raises(UserError, match="--use_matplotlib true needs the package matplotlib"):
            settings(*words, "--use_matplotlib", "true")
        with pytest.raises(UserError, match="--num_att_plot needs the package matplotlib, which is not installed"):
            settings(*words, "--num_att_plot", "2")
        assert not settings(*words, "--num_att_plot", "0").espnet.use_matplotlib


def test_without_a_corpus_the_mini_one_is_taken_loudly(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("sqloss_plugins.espnet.recipe.parsing.is_reachable", lambda url: False)
    given = parse(["librispeech", "--workdir", str(tmp_path), "--loss", "square"])
    assert given.options.mini
    assert given.options.nbpe == 100  # the mini corpus's
    assert "using the embedded MINI corpus" in capsys.readouterr().out
    assert Paths(given).data.root.name.endswith("-mini")


def test_a_recipe_without_a_mini_corpus_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("sqloss_plugins.espnet.recipe.parsing.is_reachable", lambda url: False)
    for words in ([], ["--mini"]):
        assert main(["an4", "--workdir", str(tmp_path), *words]) == 2
        printed = capsys.readouterr()
        assert "mini corpus" in printed.err
        assert "MINI" not in printed.out


GOOD_DEFINITION = "corpus: librispeech\ntask: librispeech\nmetric: wer\n"


def make_recipe(folder, text):
    """A recipe folder with LibriSpeech's configurations and a ``recipe.yaml`` of one's own."""
    shutil.copytree(RUN.parent / "conf", folder / "conf")
    (folder / "conf/recipe.yaml").write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD_DEFINITION + "train_sets: x", "recipe.yaml: unrecognized arguments: --train_sets x"),
        (GOOD_DEFINITION + "token_type: phone", "recipe.yaml: argument --token_type: invalid choice: 'phone'"),
        (GOOD_DEFINITION + "nbpe: many", "recipe.yaml: argument --nbpe: invalid int value: 'many'"),
        (GOOD_DEFINITION + "test_sets: [a, b]", "recipe.yaml: test_sets must be one word or number, got ['a', 'b']"),
        (GOOD_DEFINITION + "task: x", "task is there twice"),
        (GOOD_DEFINITION + "folding: nowhere.txt", "nowhere.txt cannot be read: "),
        (GOOD_DEFINITION.replace("task: librispeech", ""), "recipe.yaml: task '' is not a name"),
        (GOOD_DEFINITION.replace("task: librispeech", "task: ../x"), "recipe.yaml: task '../x' is not a name"),
        (
            GOOD_DEFINITION.replace("metric: wer", "metric: wer bleu"),
            "metric 'wer bleu' must be one or more of",
        ),
        (GOOD_DEFINITION.replace("metric: wer", ""), "recipe.yaml: metric '' must be one or more of wer, cer, per"),
        (
            GOOD_DEFINITION.replace("corpus: librispeech", "corpus: x"),
            "unknown corpus 'x': choose from ",
        ),
        ("- a", "recipe.yaml must be a mapping of option names to values"),
    ],
)
def test_wrong_definitions_of_a_recipe(text, message, corpus, tmp_path, capsys):
    assert main([make_recipe(tmp_path, text), "--corpus", str(corpus)]) == 2
    assert message in capsys.readouterr().err


def test_defaults_are_read_as_on_the_command_line(corpus, tmp_path):
    words = [make_recipe(tmp_path, GOOD_DEFINITION + "use_lm: false\n"), "--corpus", str(corpus)]
    assert not parse(words).options.has_lm
    assert parse([*words, "--use_lm", "true"]).options.has_lm


@pytest.mark.parametrize(
    ("task", "count", "given", "expected"),
    [
        ("wsj", 52, [], (1, 15)),  # the paper's, which names the task and its number of classes
        ("wsj", 53, [], (15, 3.7455)),  # level: the paper's is not for so many
        ("wsj", 53, ["--rescaling", "paper"], (1, 15)),
        ("timit_phone", 42, [], (1, 15)),
        ("timit_char", 27, [], (1, 1)),
        ("timit_char", 30, ["--rescaling", "paper"], (1, 1)),
        ("librispeech", 1000, [], (15, 30)),
        ("librispeech", 1000, ["--rescaling", "level"], (15, 21.4597)),
        ("mine", 52, [], (15, 3.7010)),
        ("wsj", 52, ["--M", "7"], (1, 7)),
    ],
)
def test_k_and_M_are_those_of_the_task_that_the_recipe_names(task, count, given, expected, corpus, tmp_path):
    text = f"corpus: librispeech\ntask: {task}\nmetric: wer\ntoken_type: char\n"
    recipe = make_recipe(tmp_path / "recipe", text)
    words = ["--corpus", str(corpus), "--workdir", str(tmp_path), "--arch", "transformer", *given]
    found = settings(recipe, *words)
    make_tokens(found, count)
    assert (found.rescaling().k, found.rescaling().M) == pytest.approx(expected, abs=1e-4)


def test_folders_of_ones_own(corpus, tmp_path, monkeypatch):
    """ESPnet's names; relative ones are below the folder where the command runs, as is the work folder."""
    monkeypatch.chdir(tmp_path)
    words = ["librispeech", "--corpus", str(corpus), "--asr_exp", "exp/asr", "--lm_exp", "exp/lm"]
    found = settings(*words)
    assert found.asr_exp().root == tmp_path / "exp/asr"
    assert found.lm_exp() == tmp_path / "exp/lm"
    assert found.paths.data.root == tmp_path / "data/librispeech/train-clean-100-unigram1000"
    assert found.paths.downloads == tmp_path / "downloads"


def test_a_recipes_text_for_the_language_model_goes_with_its_download(corpus, tmp_path):
    """ESPnet1's LibriSpeech language model has a text of its own; whoever brings the corpus names the text."""
    url = "https://www.openslr.org/resources/11/librispeech-lm-norm.txt.gz"
    words = ["librispeech", "--workdir", str(tmp_path)]
    (tmp_path / "downloads/librispeech").mkdir(parents=True)  # as if it had been downloaded
    fetched = settings(*words)
    assert fetched.lm_text_name() == f"train-clean-100 and {url}"
    assert fetched.paths.lm_text == tmp_path / "downloads/librispeech-lm-norm.txt.gz"
    assert settings(*words, "--lm_text", "none").lm_text_name() == "train-clean-100"
    assert settings(*words, "--use_lm", "false").lm_text_name() is None
    brought = ["--corpus", str(corpus)]
    assert settings(*words, *brought).lm_text_name() == "train-clean-100"
    assert settings(*words, *brought, "--lm_text", f"{url}.2").lm_text_name() == f"train-clean-100 and {url}.2"
    urls = [f"https://{host}/text.gz{query}" for host in "ab" for query in ("", "?download=1")]
    texts = {Paths(parse([*words, "--lm_text", other])).lm_text for other in urls}
    assert len(texts) == 4
    assert {path.name[8:] for path in texts} == {"-text.gz"}


def test_a_text_is_fetched_once_and_a_broken_download_is_not_taken(tmp_path, monkeypatch):
    source = tmp_path / "text.gz"
    source.write_bytes(gzip.compress(b"ONE TWO\nTHREE\n"))
    target = tmp_path / "downloads/text.gz"
    preparation.download_text(source.as_uri(), target)
    assert list(read_lm_text(target)) == ["ONE TWO", "THREE"]
    source.unlink()
    preparation.download_text(source.as_uri(), target)
    with pytest.raises(UserError, match=r"the download of file:.* failed"):
        preparation.download_text(source.as_uri(), target.with_name("other.gz"))
    assert {path.name for path in target.parent.iterdir()} == {".lock", "text.gz"}
    target.write_bytes(gzip.compress(b"ONE TWO\n" * 1000)[:-20])
    with pytest.raises(UserError, match="cannot be read as text: Compressed file ended before"):
        list(read_lm_text(target))


def test_a_language_model_is_known_by_its_text(corpus, tmp_path):
    words = ["librispeech", "--workdir", str(tmp_path), "--corpus", str(corpus), "--lm_text"]
    for name, text in (("a", "ONE TWO"), ("b", "ONE TWO"), ("c", "ONE")):
        (tmp_path / name).write_text(text)
    a, b, c = (settings(*words, str(tmp_path / name)).lm_exp() for name in "abc")
    assert a == b != c


def test_the_learning_rate_that_is_espnets_default(corpus, tmp_path):
    (tmp_path / "own.yaml").write_text(TINY_ASR.replace("optim_conf: {lr: 0.01}", ""))
    words = ["librispeech", "--workdir", str(tmp_path), "--corpus", str(corpus)]
    for optimizer, rate in (("sgd", 0.1), ("adadelta", 1.0), ("adam", 0.001)):
        found = settings(*words, "--asr_config", str(tmp_path / "own.yaml"), "--optim", optimizer)
        assert found.learning_rate == rate


def test_error_rates():
    """By hand: one substitution, one deletion and one insertion in six words."""
    said = {"a": "ONE TWO THREE", "b": "FOUR FIVE SIX"}
    found = count_errors(said, {"a": "ONE TOO THREE", "b": "FOUR SIX SEVEN"}, ["wer", "cer"])
    assert found["wer"].rate == pytest.approx(0.5)
    assert found["wer"].length == 6
    assert found["cer"].length == 26
    assert Edits(1, 2, 3, 12, texts=2, wrong_texts=2).rate == 0.5
    assert count_errors({"a": "ONE"}, {"a": ""}, ["wer"])["wer"] == Edits(0, 1, 0, 1, texts=1, wrong_texts=1)
    with pytest.raises(UserError, match="1 utterances have only one of reference and hypothesis, such as b"):
        count_errors({"a": "ONE", "b": "TWO"}, {"a": "ONE"}, ["wer"])


def test_folded_phones_count_as_the_same(tmp_path):
    """Here ax counts as ah, and q not at all."""
    (tmp_path / "fold.txt").write_text("ax ah\nq\n\n")
    folding = read_folding(tmp_path / "fold.txt")
    said, heard = {"a": "sil ax q t ah"}, {"a": "sil ah t ax"}
    assert count_errors(said, heard, ["per"], folding)["per"] == Edits(0, 0, 0, 4, texts=1, wrong_texts=0)
    assert count_errors(said, heard, ["per"])["per"] == Edits(2, 1, 0, 5, texts=1, wrong_texts=1)
    (tmp_path / "fold.txt").write_text("ax ah b\n")
    with pytest.raises(UserError, match="line 1 has more than a token and what it counts as"):
        read_folding(tmp_path / "fold.txt")


def read_toy(corpus, subset):
    """A reader in as many lines as a corpus takes: ``SUBSET.txt`` with a name and phones in each line."""
    lines = [line.split(" ", 1) for line in (corpus / f"{subset}.txt").read_text().splitlines()]
    return [Utterance(name, name[:2], corpus / f"{name}.wav", text) for name, text in lines]


def download_toy(subsets, folder):
    """There is nothing to be had."""
    raise OSError("no such place")


@pytest.mark.slow
def test_a_new_corpus_is_a_reader_and_a_recipe_folder(tmp_path, monkeypatch):
    """With phones, and their folding when errors are counted."""
    corpus, recipe = tmp_path / "corpus", tmp_path / "toy_phones"
    corpus.mkdir()
    noise = np.random.default_rng(0)
    for subset, count in (("train", 6), ("dev", 2), ("test", 2)):
        texts = [f"{subset[:2]}-{i} sil k ae t ax sil" for i in range(count)]
        (corpus / f"{subset}.txt").write_text("".join(f"{line}\n" for line in texts))
        for line in texts:
            soundfile.write(corpus / f"{line.split()[0]}.wav", noise.normal(0, 0.1, 12000), 8000)
    toy = Corpus("toy", "Toy", read_toy, "http://toy", download_toy, sample_rate=8000)
    monkeypatch.setitem(CORPORA, "toy", toy)

    (recipe / "conf/tuning").mkdir(parents=True)
    definition = "corpus: toy\ntask: timit_phone\nmetric: per\nfolding: fold.txt\ntoken_type: phn\nuse_lm: false\n"
    (recipe / "conf/recipe.yaml").write_text(definition)
    (recipe / "conf/fold.txt").write_text("ax ah\nsil\n")
    (recipe / "conf/tuning/train_asr_transformer.yaml").write_text(TINY_ASR.replace("fs: 16k", "fs: 8k"))
    (recipe / "conf/decode_asr.yaml").write_text("beam_size: 2\nctc_weight: 0.3\nmaxlenratio: -8\n")
    words = [str(recipe), "--corpus", str(corpus), "--workdir", str(tmp_path), "--nj", "1", "--max_epoch", "1"]
    assert main([*words, "--method", "softmax"]) == 0

    (path,) = (tmp_path / "runs/timit_phone").rglob("result.json")
    result = read_result(path)
    assert (result.task, result.selection, result.data["lm_text"]) == ("timit_phone", "per", None)
    assert set(result.metrics["test"]["softmax"]) == {"per", "ser", "nll", "brier", "ece", "word_auroc"}
    tokens = (tmp_path / "data/timit_phone/train-phn/tokens.txt").read_text().split()
    assert tokens == ["<blank>", "<unk>", "sil", "ae", "ax", "k", "t", "<sos/eos>"]
    errors = count_errors(
        {"a": "sil k ae t ax sil"}, {"a": "k ae t ah"}, ["per"], read_folding(recipe / "conf/fold.txt")
    )
    assert errors["per"].rate == 0
    assert word_auroc({"a": "k ae ah"}, {"a": "sil k ah ax"}, {"a": [0.1, 0.9, 0.2, 0.8]}, {"ax": "ah", "sil": ""}) == 1
    table = (path.parent / "RESULTS.md").read_text()
    assert "PER %" in table
    assert "The paper's PER" not in table  # no model of the paper's


def test_an_utterance_of_two_subsets_is_refused(corpus, tmp_path, capsys):
    """By its name, and by what it sounds like; also when a subset is added later."""
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    words = ["librispeech", "--corpus", str(copy), "--workdir", str(tmp_path), "--use_lm", "false"]
    words += ["--nj", "1", "--stop_stage", "2"]
    assert main(words) == 0
    known = min((copy / "LibriSpeech/train-clean-100").rglob("*.flac"))
    other = min((copy / "LibriSpeech/test-other").rglob("*.flac"))
    shutil.copy(known, other)
    assert main([*words, "--test_sets", "test-clean test-other"]) == 2
    error = capsys.readouterr().err
    assert other.stem in error
    assert "test-other" in error


@one_worker
@pytest.mark.parametrize(
    ("name", "stage", "message"),
    [
        ("valid.acc.ave.pth", 7, "valid.acc.ave.pth cannot be read as a model file: it is damaged"),
        ("calibration.json", 7, "calibration.json is damaged: remove it, and give the same command again"),
        ("calibration.json", 8, "calibration.json is damaged: remove it, and give the same command again"),
        ("training.json", 8, "training.json is damaged: remove it, and give the same command again"),
    ],
)
def test_torn_files_are_said(name, stage, message, whole, options, capsys):
    _, folder = whole
    copy = folder.with_name(f"{folder.name}-torn-{stage}-{name}")
    shutil.copytree(folder, copy, symlinks=True)
    content = (folder / name).read_bytes()
    (copy / name).unlink()
    (copy / name).write_bytes(content[: len(content) // 2])
    assert main(["librispeech", *options, "--tag", f"torn-{stage}-{name}", "--stage", str(stage)]) == 2
    assert message in capsys.readouterr().err


@one_worker
def test_an_epoch_without_a_step_is_said(whole, options, capsys):
    """ESPnet drops the batches at the end of an epoch that make no whole step."""
    words = ["librispeech", *options, "--tag", "stepless", "--stage", "6", "--max_epoch", "1"]
    assert main([*words, "--accum_grad", "99"]) == 1
    message = capsys.readouterr().err
    assert "no step was taken: an epoch has " in message
    assert "a step needs 99 (accum_grad); lower accum_grad or batch_size" in message


@one_worker
def test_a_training_that_diverged_has_no_result(whole, options, capsys):
    words = ["librispeech", *options, "--tag", "diverged", "--stage", "6", "--max_epoch", "1"]
    assert main([*words, "--optim_conf", "lr=1e8"]) == 1
    assert "the training diverged: in epoch 1 " in capsys.readouterr().err
    (folder,) = Path(options[3], "runs").rglob("*-diverged")
    assert not (folder / "training.json").exists()
    assert not (folder / "result.json").exists()


def test_a_truncated_file_is_named_before_training(options, corpus, elsewhere, capsys):
    damaged = elsewhere / "corpus"
    shutil.copytree(corpus, damaged)
    path = min(damaged.rglob("*.flac"))
    path.write_bytes(path.read_bytes()[:5000])
    words = ["librispeech", "--corpus", str(damaged), "--workdir", str(elsewhere), *options[4:]]
    assert main(words) == 2
    assert path.name in capsys.readouterr().err
    subset = path.relative_to(damaged / "LibriSpeech").parts[0]
    done = elsewhere / "data/librispeech/train-clean-100-unigram40" / subset / "subset.json"
    assert not done.exists()
    shutil.copy(corpus / path.relative_to(damaged), path)  # once it is put right, the same command goes on
    assert main([*words, "--stop_stage", "2"]) == 0
    assert done.exists()

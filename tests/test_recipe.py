"""The speech recipes, through the command line that a user types, on a few seconds of synthetic speech."""

import json
import os
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

from sqloss_plugins.data.corpora.librispeech import write_mini
from sqloss_plugins.errors import StageError, UserError
from sqloss_plugins.espnet import Speech2Text, stages
from sqloss_plugins.espnet.bin.asr_export import main as export
from sqloss_plugins.espnet.bin.recipe import main, parse
from sqloss_plugins.espnet.jobs import Job, run_jobs
from sqloss_plugins.espnet.scoring import Errors, read_text, score_texts
from sqloss_plugins.results import read_result

ROOT = Path(__file__).parent.parent
RUN = ROOT / "recipes/librispeech/run.sh"
# The tests on the same finished run; pytest-xdist would make it once for each worker.
one_worker = pytest.mark.xdist_group("recipe")

TINY_ASR = """
encoder: transformer
encoder_conf: {input_layer: conv2d6, output_size: 16, attention_heads: 2, linear_units: 32, num_blocks: 1}
decoder: transformer
decoder_conf: {attention_heads: 2, linear_units: 32, num_blocks: 1}
model_conf: {ctc_weight: 0.3, report_cer: false, report_wer: false}
frontend_conf: {fs: 16k, n_fft: 512, win_length: 400, hop_length: 160, n_mels: 20}
normalize: global_mvn
batch_type: folded
batch_size: 4
fold_length: [80000, 150]
optim: adam
optim_conf: {lr: 0.01}
max_epoch: 3
keep_nbest_models: 2
best_model_criterion: [[valid, acc, max]]
num_workers: 0
num_att_plot: 0
use_matplotlib: false
"""
TINY_LM = """
lm: seq_rnn
lm_conf: {unit: 8, nlayers: 1}
batch_type: folded
batch_size: 8
fold_length: [150]
optim: adam
max_epoch: 1
keep_nbest_models: 1
best_model_criterion: [[valid, loss, min]]
num_workers: 0
use_matplotlib: false
"""


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
    shutil.copytree(RUN.parent / "conf", work / "conf")
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
    assert result.rescaling_source.startswith("the level rule for")  # 40 pieces are not the paper's 1000
    assert result.data["sizes"] == {"train-clean-100": 16, "dev-clean": 3, "test-clean": 3}
    assert not result.mini
    assert (result.epochs, result.resumed) == (3, False)
    assert result.wall_time_s > 0
    assert not (folder / "outputs.npz").exists()
    assert {"wer", "cer", "accuracy", "wer softmax", "wer link", "wer scale"} <= set(result.metrics["validation"])
    assert {"wer", "cer"} <= set(result.metrics["test"])
    dev = result.metrics["validation"]
    assert dev["wer"] == min(dev["wer softmax"], dev["wer link"], dev["wer scale"])
    assert result.hyperparameters["learning_rate"] == 0.01
    assert result.hyperparameters["num_train_epochs"] == 3
    table = (folder / "RESULTS.md").read_text()
    assert "| dev-clean" in table
    assert "* espnet: 20" in table
    assert table in printed
    data = Path(options[3], "data/train-clean-100-unigram40")
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
    # Three subsets, dictionary, statistics, language model, training; three scores on dev, one on test.
    assert done.stdout.count("done before") == 3 + 4 + 3 + 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pth")} == before


@one_worker
def test_another_front_end_has_statistics_of_its_own(whole, options):
    def found():
        folders = Path(options[3], "data/train-clean-100-unigram40").glob("stats-*/train/feats_stats.npz")
        return {len(np.load(path)["sum"]): path for path in folders}

    before = found()
    stamp = before[20].stat().st_mtime_ns
    # With more processes than there are utterances to develop on.
    words = ["--frontend_conf", "n_mels=16", "--stage", "4", "--stop_stage", "4", "--nj", "4"]
    assert main(["librispeech", *options, *words]) == 0
    assert found().keys() == {16, 20}
    assert found()[20].stat().st_mtime_ns == stamp


@one_worker
@pytest.mark.parametrize("kill_in", ["training", "decoding"])
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
    kill_when(command, environment(), killed, wanted)
    time.sleep(0.5)
    left = subprocess.run(["pgrep", "-f", str(killed)], capture_output=True, text=True).stdout
    assert left == ""

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
    words = ["librispeech", *options, "--tag", "split", "--stage", "7", "--score", "softmax"]

    def killed_after_one(jobs, *rest):
        run_jobs(jobs[:1], *rest)
        raise StageError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(stages, "run_jobs", killed_after_one)
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
    assert "wer" in result.metrics["test test-other"]
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
    assert (type(found), found.score) == (Speech2Text, "link")


@one_worker
def test_scoring_tells_of_the_training_that_was(whole, options):
    """Early stopping ends it before max_epoch, and it may be long ago."""
    _, folder = whole
    copy = folder.with_name(f"{folder.name}-told")
    shutil.copytree(folder, copy, symlinks=True)
    told = {"epochs": 2, "wall_time_s": 123.5, "resumed": True, "device": "abacus", "versions": {"espnet": "1"}}
    (copy / "training.json").write_text(json.dumps(told))
    assert main(["librispeech", *options, "--tag", "told", "--stage", "8"]) == 0
    result = read_result(copy)
    assert {name: getattr(result, name) for name in told} == told
    assert ", 2 epochs," in (copy / "RESULTS.md").read_text()


@one_worker
def test_scores_that_were_not_decoded(whole, options, capsys):
    _, folder = whole
    copy = folder.with_name(f"{folder.name}-less")
    shutil.copytree(folder, copy, symlinks=True)
    before = (copy / "result.json").read_text()
    words = ["librispeech", *options, "--tag", "less", "--stage", "8", "--score"]
    assert main([*words, "softmax link scale"]) == 2  # of these the test set has one
    assert "test-clean was not decoded with the score " in capsys.readouterr().err
    shutil.rmtree(copy / "decode/dev-clean/scale")
    assert main([*words, "scale"]) == 2
    assert "dev-clean was not decoded with the score scale: begin with --stage 7" in capsys.readouterr().err
    assert (copy / "result.json").read_text() == before


@one_worker
def test_calibration_is_what_espnets_own_model_computes(whole, options, tmp_path):
    """On the development set, read by other means: the attention decoder's accuracy and cross-entropy."""
    _, folder = whole
    files = ["--asr_train_config", str(folder / "config.yaml"), "--asr_model_file", str(folder / "valid.acc.ave.pth")]
    assert export([*files, "--output_dir", str(tmp_path)]) == 0
    model, _ = ASRTask.build_model_from_file(str(tmp_path / "config.yaml"), str(tmp_path / "model.pth"), "cpu")
    assert type(model) is ESPnetASRModel
    data = Path(options[3], "data/train-clean-100-unigram40")
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
    assert found["accuracy"] == read_result(folder).metrics["validation"]["accuracy"]
    assert found["accuracy"] == pytest.approx(float(stats["acc"]))
    # ESPnet's is the sum over tokens for each utterance.
    assert found["nll"]["softmax"] * found["tokens"] / len(text) == pytest.approx(float(stats["loss_att"]), rel=1e-4)
    assert found["nll"]["scale"] <= found["nll"]["softmax"]
    assert read_result(folder).parameters == sum(parameter.numel() for parameter in model.parameters())


@one_worker
def test_more_scores_later(whole, options):
    """Another --score decodes what is missing, and nothing anew."""
    _, folder = whole
    before = {path: path.stat().st_mtime_ns for path in folder.glob("decode/*/*/text")}
    shutil.copytree(folder, folder.with_name(f"{folder.name}-more"), symlinks=True)
    done = run("--loss", "square", *options, "--tag", "more", "--stage", "7", "--score", "softmax link scale")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") == 4
    more = read_result(folder.with_name(f"{folder.name}-more"))
    assert {"wer softmax", "wer link", "wer scale"} <= set(more.metrics["test"])
    assert {path: path.stat().st_mtime_ns for path in folder.glob("decode/*/*/text")} == before


@one_worker
def test_an_exported_model_is_plain_espnets(whole, corpus, tmp_path):
    """Without this package imported: the same hypotheses as its own softmax scores."""
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
        ("sqloss_plugins.espnet", ", score='softmax'", folder / "config.yaml", folder / "valid.acc.ave.pth"),
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
        ((tmp_path / "no.yaml", model), "no.yaml is not the config.yaml of an ASR training"),
        ((config, config), "config.yaml is not a model file"),
        ((config, model, "--score_scale", "-1"), "--score_scale must be a positive finite number"),
    ):
        words = ["--asr_train_config", str(options[0]), "--asr_model_file", str(options[1]), *options[2:]]
        assert export([*words, "--output_dir", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


BAD_OPTIONS = {
    "stage": (["--stage", "9"], "--stage 9 to --stop_stage 8 is no range of the stages 1 download, 2 data,"),
    "loss": (["--loss", "hinge"], "argument --loss: invalid choice: 'hinge'"),
    "score": (["--score", "softmax probit"], "unknown --score 'softmax probit': choose from auto or any of softmax"),
    "no score": (["--score", ""], "unknown --score ''"),
    "link": (["--loss", "cross_entropy", "--score", "link"], "--score link is for the square loss"),
    "arch": (["--arch", "perceptron"], "unknown --arch 'perceptron': choose from transformer, vgg_blstm"),
    "k": (["--k", "-1"], "--k must be a positive finite number, got -1.0"),
    "k for cross-entropy": (
        ["--loss", "cross_entropy", "--M", "30"],
        "--k, --M and --rescaling are for the square loss",
    ),
    "ngpu": (["--ngpu", "99"], "--ngpu 99: this machine has "),
    "nj": (["--nj", "0"], "--nj must be at least 1, got 0"),
    "no corpus": (["--corpus", "nowhere"], "--corpus nowhere is no folder"),
    "both": (["--mini", "--corpus", "."], "--mini and --corpus exclude each other"),
    "config": (["--asr_config", "nowhere.yaml"], "nowhere.yaml cannot be read as settings"),
    "free": (["--max_epochs", "3"], "ESPnet's training takes no such argument: unrecognized arguments: --max_epochs 3"),
    "ours": (["--token_list", "x"], "--token_list is what this recipe sets itself"),
    "lm text without an lm": (
        ["--use_lm", "false", "--lm_text", "x"],
        "--lm_text is for the language model, and there is none",
    ),
    "lm config without an lm": (
        ["--use_lm", "false", "--lm_config", "x"],
        "--lm_config is for the language model, and there",
    ),
    "no lm text": (["--lm_text", "nowhere.txt"], "--lm_text nowhere.txt cannot be read as text: No such file"),
    "lm text of bytes": (["--lm_text", sys.executable], "cannot be read as text: 'utf-8' codec can't decode"),
    "empty lm text": (["--lm_text", os.devnull], "--lm_text /dev/null has no text"),
    "no test set": (["--test_sets", " "], "--test_sets is empty: name one test subset or more"),
    "test set twice": (["--test_sets", "a b a"], "--train_set, --dev_set and --test_sets must differ, and name a more"),
    "dev set for training": (
        ["--dev_set", "train-clean-100"],
        "must differ, and name train-clean-100 more than once",
    ),
    "dry run": (["--dry_run", "true"], "--dry_run is what this recipe sets itself"),
    "broken value": (["--optim_conf", "lr={"], "ESPnet's training cannot read a value: "),
    "no attention": (["--loss", "cross_entropy", "--model_conf", "ctc_weight=1.0"], "models with an attention decoder"),
    "transducer": (["--loss", "cross_entropy", "--decoder", "transducer"], "for models with an attention decoder"),
    "criterion": (
        ["--best_model_criterion", "[[valid, loss, min]]"],
        "best_model_criterion of the training must have [valid, acc, max]",
    ),
    "hidden k": (["--model_conf", "k=3"], "the loss, k, M and rescaling are options of this recipe"),
}


@pytest.mark.parametrize("case", list(BAD_OPTIONS))
def test_bad_options(case, tmp_path, monkeypatch, capsys, corpus):
    """One sentence, exit status 2, and nothing made."""
    monkeypatch.chdir(tmp_path)
    words, message = BAD_OPTIONS[case]
    given = [] if "--corpus" in words else ["--corpus", str(corpus)]
    shutil.copytree(RUN.parent / "conf", tmp_path / "conf")
    before = sorted(tmp_path.rglob("*"))
    assert main(["librispeech", "--workdir", str(tmp_path), *given, *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("run.sh: error: ")
    assert message in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("inference", "beam_szie: 5", "ESPnet's decoding takes no such argument: "),
        ("inference", "batch_size: 4", "ESPnet decodes one utterance at a time: leave batch_size out"),
        ("lm", "unitt: 5", "ESPnet's language model takes no such argument: "),
        ("lm", "best_model_criterion: [[valid, acc, max]]", "of the language model must have [valid, loss, min]"),
    ],
)
def test_configurations_are_read_before_the_training(option, text, message, corpus, tmp_path, capsys):
    (tmp_path / "own.yaml").write_text(text)
    words = ["--corpus", str(corpus), "--workdir", str(RUN.parent), f"--{option}_config", str(tmp_path / "own.yaml")]
    with pytest.raises(UserError) as raised:
        parse(["librispeech", *words])
    assert message in str(raised.value)


def test_the_recipe_speaks_of_its_mistakes(tmp_path):
    done = run("--corpus", str(tmp_path), "--workdir", str(tmp_path), "--loss", "hinge")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    helped = subprocess.run(
        [str(ROOT / "recipes/an4/run.sh"), "--help"], env=environment(), capture_output=True, text=True
    )
    assert helped.returncode == 0
    assert "6 training" in helped.stdout
    assert "(default: conformer)" in " ".join(helped.stdout.split())  # the recipe's own


@pytest.fixture
def elsewhere(tmp_path):
    """Another folder to work in."""
    shutil.copytree(RUN.parent / "conf", tmp_path / "conf")
    return tmp_path


def test_stages_in_the_wrong_order(options, elsewhere, capsys):
    words = ["librispeech", *options[:2], "--workdir", str(elsewhere), *options[4:]]
    for stage, need in ((3, 2), (4, 3), (6, 4), (8, 4)):
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
    assert "holds another run (corpus " in capsys.readouterr().err


@one_worker
@pytest.mark.parametrize("changed", ["lm_config", "lm_text"])
def test_another_language_model_is_not_the_one_that_is_there(changed, whole, options, tmp_path, capsys):
    """Missed before anything is done with it, at whatever stage; and made beside the other one."""

    def found():
        models = Path(options[3], "data/train-clean-100-unigram40").glob("lm-*/model/valid.loss.ave.pth")
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
    assert "decode holds another run (beam_size 2 -> 3): choose another --tag" in capsys.readouterr().err
    assert (folder / "result.json").read_text() == before


def test_a_program_that_fails_is_said(tmp_path):
    with pytest.raises(UserError, match=r"asr_train ended with status 2: .*unrecognized arguments") as raised:
        run_jobs([Job("sqloss_plugins.espnet.bin.asr_train", ["--no_such", "1"], tmp_path / "log")])
    assert raised.value.status == 1


def test_a_log_goes_on_and_complaints_are_of_the_last_process(tmp_path, monkeypatch):
    """The program's own error line, if it has one, else its last."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = Job("stumbles", [], tmp_path / "log")
    for program, complaint in (
        ("print('stumbles: error: no such thing\\ncleaning up'); exit(2)", "2: stumbles: error: no such thing"),
        ("print('out of memory\\n'); exit(1)", "1: out of memory"),
    ):
        (tmp_path / "stumbles.py").write_text(program)
        with pytest.raises(UserError, match=rf"stumbles ended with status {complaint} \(log: "):
            run_jobs([job])
    assert job.log.read_text() == "stumbles: error: no such thing\ncleaning up\nout of memory\n\n"


def test_jobs_that_ended_well_are_marked_and_none_is_begun_after_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    program = "import sys, time; time.sleep(float(sys.argv[1])); exit(int(sys.argv[2]))"
    (tmp_path / "sleeps.py").write_text(program)
    waits = [("2", "1"), ("0", "0"), ("3", "0"), ("0", "0")]
    jobs = [Job("sleeps", words, tmp_path / f"log{i}") for i, words in enumerate(waits)]
    marked = []
    with pytest.raises(StageError, match="sleeps ended with status 1"):
        run_jobs(jobs, 2, marked.append)
    assert marked == jobs[1:3]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process of its parent's end")
def test_workers_on_other_gpus_die_with_the_training(tmp_path):
    """ESPnet starts them by multiprocessing's spawn; they import the module that trains."""
    script = tmp_path / "trains.py"
    script.write_text(
        "import multiprocessing, pathlib, os, time\n"
        "from sqloss_plugins.espnet.resume import prepare_process\n"
        "prepare_process(__name__)\n"
        "def work():\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.get_context('spawn').Process(target=work).start()\n"
        "    time.sleep(600)\n"
    )
    kill_when([sys.executable, str(script)], environment(), tmp_path, "pid")
    time.sleep(0.5)
    command = Path("/proc", (tmp_path / "pid").read_text(), "cmdline")
    assert not command.exists() or command.read_text() == ""  # gone, or a zombie that nobody waits for


def test_defaults(corpus, tmp_path):
    """The paper's: k = 15, M = 30 with 1000 pieces, the epochs of Table 11 for each loss."""
    words = ["librispeech", "--corpus", str(corpus), "--workdir", str(RUN.parent)]
    square = parse(words)
    assert (square.rescaling.k, square.rescaling.M, square.espnet.max_epoch) == (15, 30, 120)
    assert square.espnet.model_conf["lsm_weight"] == 0
    entropy = parse([*words, "--loss", "cross_entropy", "--arch", "vgg_blstm"])
    assert (entropy.rescaling, entropy.espnet.max_epoch) == (None, 20)
    assert parse([*words, "--loss", "cross_entropy"]).espnet.model_conf["lsm_weight"] == 0.1
    assert parse([*words, "--arch", "vgg_blstm", "--max_epoch", "7"]).espnet.max_epoch == 7
    assert entropy.run.name == "cross_entropy-lr1-s0"


def test_a_configuration_of_ones_own_is_taken_as_it_is(corpus, tmp_path):
    """Neither the paper's epochs nor its lack of label smoothing are put over it."""
    own = tmp_path / "own.yaml"
    own.write_text(f"{TINY_ASR}\n".replace("model_conf: {", "model_conf: {lsm_weight: 0.2, "))
    recipe = parse(["librispeech", "--corpus", str(corpus), "--workdir", str(RUN.parent), "--asr_config", str(own)])
    assert (recipe.espnet.model_conf["lsm_weight"], recipe.espnet.max_epoch) == (0.2, 3)
    assert recipe.hyperparameters["lsm_weight"] == 0.2


def test_without_a_corpus_the_mini_one_is_taken_loudly(capsys, tmp_path):
    shutil.copytree(RUN.parent / "conf", tmp_path / "conf")
    recipe = parse(["librispeech", "--workdir", str(tmp_path), "--loss", "square"])
    assert recipe.mini
    assert "using the embedded MINI corpus" in capsys.readouterr().out
    assert recipe.data.name.endswith("-mini")


def test_a_recipe_without_a_mini_corpus_says_so(capsys):
    for words in ([], ["--mini"]):
        assert main(["an4", "--workdir", str(ROOT / "recipes/an4"), *words]) == 2
        printed = capsys.readouterr()
        assert "mini corpus" in printed.err
        assert "MINI" not in printed.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train_sets: x", "recipe.yaml: unrecognized arguments: --train_sets x"),
        ("token_type: phone", "recipe.yaml: argument --token_type: invalid choice: 'phone'"),
        ("nbpe: many", "recipe.yaml: argument --nbpe: invalid int value: 'many'"),
        ("test_sets: [a, b]", "recipe.yaml: test_sets must be one word or number, got ['a', 'b']"),
    ],
)
def test_the_defaults_of_a_recipe_are_options(text, message, corpus, tmp_path, capsys):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/recipe.yaml").write_text(f"{text}\n")
    assert main(["librispeech", "--workdir", str(tmp_path), "--corpus", str(corpus)]) == 2
    assert message in capsys.readouterr().err


def test_defaults_are_read_as_on_the_command_line(corpus, tmp_path):
    shutil.copytree(RUN.parent / "conf", tmp_path / "conf")
    with (tmp_path / "conf/recipe.yaml").open("a") as file:
        file.write("use_lm: false\n")
    words = ["librispeech", "--workdir", str(tmp_path), "--corpus", str(corpus)]
    assert parse(words).language_model is None
    assert parse([*words, "--use_lm", "true"]).language_model is not None


def test_a_language_model_is_known_by_its_text(corpus, tmp_path):
    words = ["librispeech", "--workdir", str(RUN.parent), "--corpus", str(corpus), "--lm_text"]
    for name, text in (("a", "ONE TWO"), ("b", "ONE TWO"), ("c", "ONE")):
        (tmp_path / name).write_text(text)
    a, b, c = (parse([*words, str(tmp_path / name)]).lm for name in "abc")
    assert a == b != c


def test_the_learning_rate_that_is_espnets_default(corpus, tmp_path):
    (tmp_path / "own.yaml").write_text(TINY_ASR.replace("optim_conf: {lr: 0.01}", ""))
    words = ["librispeech", "--workdir", str(RUN.parent), "--corpus", str(corpus)]
    for optimizer, rate in (("sgd", 0.1), ("adadelta", 1.0), ("adam", 0.001)):
        found = parse([*words, "--asr_config", str(tmp_path / "own.yaml"), "--optim", optimizer])
        assert found.learning_rate == rate


def test_error_rates():
    """By hand: one substitution, one deletion and one insertion in six words."""
    found = score_texts({"a": "ONE TWO THREE", "b": "FOUR FIVE SIX"}, {"a": "ONE TOO THREE", "b": "FOUR SIX SEVEN"})
    assert found["wer"].rate == pytest.approx(0.5)
    assert found["wer"].length == 6
    assert Errors(1, 2, 3, 12).rate == 0.5
    assert score_texts({"a": "ONE"}, {"a": ""})["wer"] == Errors(0, 1, 0, 1)
    with pytest.raises(UserError, match="1 utterances have only one of reference and hypothesis, such as b"):
        score_texts({"a": "ONE", "b": "TWO"}, {"a": "ONE"})


def test_a_truncated_file_is_named_before_training(options, corpus, elsewhere, capsys):
    damaged = elsewhere / "corpus"
    shutil.copytree(corpus, damaged)
    path = min(damaged.rglob("*.flac"))
    path.write_bytes(path.read_bytes()[:5000])
    words = ["librispeech", "--corpus", str(damaged), "--workdir", str(elsewhere), *options[4:]]
    assert main(words) == 2
    assert path.name in capsys.readouterr().err
    subset = path.relative_to(damaged / "LibriSpeech").parts[0]
    done = elsewhere / "data/train-clean-100-unigram40" / subset / ".data.done"
    assert not done.exists()
    shutil.copy(corpus / path.relative_to(damaged), path)  # once it is put right, the same command goes on
    assert main([*words, "--stop_stage", "2"]) == 0
    assert done.exists()

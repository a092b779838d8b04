"""The Python for egs2's recipes: which programs it gives, and the commands of asr.sh by it."""

import importlib.resources
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from commands import assert_refused
from espnet2.tasks.asr import ASRTask
from espnet2.tasks.lm import LMTask

from sqloss_plugins.espnet import interpreter
from sqloss_plugins.espnet.bin.asr_train import main as asr_train
from sqloss_plugins.espnet.interpreter import PROGRAMS, SCRIPT, translate
from sqloss_plugins.espnet.resume import read_arguments

RECIPES = Path(__file__).parent.parent / "recipes"
OWN = "sqloss_plugins.espnet.bin"


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("before", [[], ["-u", "-X", "dev"], ["-Wignore", "-W", "e", "--check-hash-based-pycs", "x"]])
def test_programs_of_espnet_are_ours(program, before):
    rest = ["--config", "x", "-m", f"espnet2.bin.{program}"]
    module, *first = PROGRAMS[program]
    ours = [f"{OWN}.{module}", *first]
    assert translate([*before, "-m", f"espnet2.bin.{program}", *rest]) == [*before, "-m", *ours, *rest]
    assert translate([*before, "-um", f"espnet2.bin.{program}", *rest]) == [*before, "-um", *ours, *rest]
    assert translate([*before, f"-mespnet2.bin.{program}", *rest]) == [*before, "-m", *ours, *rest]
    for found in (f"espnet2.bin.{program}", f"{OWN}.{module}"):
        folder, _, name = found.rpartition(".")
        assert importlib.resources.files(folder).joinpath(f"{name}.py").is_file()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-"],
        ["-m"],
        ["-V"],
        ["-c", "import sys", "-m", "espnet2.bin.asr_train"],
        ["script.py", "-m", "espnet2.bin.asr_train"],
        ["--", "-m", "espnet2.bin.asr_train"],
        ["-X", "-m", "espnet2.bin.asr_train"],
        ["-m", "espnet2.bin.launch", "--", "python", "-m", "espnet2.bin.asr_train"],
        ["-m", "espnet2.bin.tokenize_text", "-f", "2-"],
        ["-m", "espnet2.bin.asr_export"],  # there is one here, and none there
        ["-m", "espnet2.bin.asr_train.more"],
        ["-m", "asr_train"],
    ],
)
def test_everything_else_is_left_as_it_is(words):
    assert translate(words) == words


def test_it_goes_on_as_the_real_interpreter():
    """In the same process, with its streams."""
    code = "import os, sys; print(os.getpid(), sys.executable, sys.stdin.read(), sys.argv[1:]); sys.exit(3)"
    started = subprocess.Popen(
        [sys.executable, "-m", "sqloss_plugins.espnet.interpreter", "-c", code, "-m", "espnet2.bin.asr_train"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    said, _ = started.communicate("words")
    assert said == f"{started.pid} {sys.executable} words ['-m', 'espnet2.bin.asr_train']\n"
    assert started.returncode == 3


def make_script(folder):
    """The program as pip makes it of the entry point."""
    folder.mkdir(exist_ok=True)
    script = folder / SCRIPT
    script.write_text(f"#!{sys.executable}\nfrom sqloss_plugins.espnet.interpreter import run\nrun()\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def test_the_command_prints_its_path(tmp_path, monkeypatch, capsys):
    script = make_script(tmp_path / "bin")
    monkeypatch.setattr("sysconfig.get_path", lambda *names: str(script.parent))
    assert interpreter.main([]) == 0
    assert capsys.readouterr().out == f"{script}\n"


def test_what_is_missing_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sysconfig.get_path", lambda *names: str(tmp_path))
    again = f"the program {SCRIPT} is not in {tmp_path}: install sqloss_plugins anew by pip"
    assert_refused(interpreter.main, [], "sqloss espnet-python", again, tmp_path, capsys)
    monkeypatch.setattr(interpreter, "find_spec", lambda name: None)
    espnet = "ESPnet is not installed: pip install 'sqloss_plugins[espnet]'"
    assert_refused(interpreter.main, [], "sqloss espnet-python", espnet, tmp_path, capsys)
    assert_refused(interpreter.main, ["x"], "sqloss espnet-python", "unrecognized arguments: x", tmp_path, capsys)


# ---------------------------------------------------------------- configurations

CONFIGURATIONS = [*RECIPES.glob("*/conf/**/train_asr_*.yaml"), *RECIPES.glob("*/conf/**/train_lm.yaml")]


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_configurations_fit_asr_sh(path):
    """It gives a length for speech and one for text, or one for a language model's text, beside the configuration."""
    task, lengths = (LMTask, ["150"]) if path.stem == "train_lm" else (ASRTask, ["80000", "150"])
    words = ["--config", str(path), "--output_dir", "x"]
    own = read_arguments(task, words)
    assert own == task.get_parser().parse_args(words)
    for length in lengths:
        words += ["--fold_length", length]
    assert read_arguments(task, words).fold_length == [int(length) for length in lengths]
    assert getattr(read_arguments(task, [*words, "--collect_stats", "true"]), "normalize", None) is None


def test_statistics_that_are_there_are_not_left_out():
    words = ["--output_dir", "x", "--collect_stats", "true", "--normalize", "global_mvn"]
    assert read_arguments(ASRTask, [*words, "--normalize_conf", "stats_file=x.npz"]).normalize == "global_mvn"
    assert read_arguments(ASRTask, [*words, "--normalize", "utterance_mvn"]).normalize == "utterance_mvn"


# ---------------------------------------------------------------- the commands of asr.sh

TINY = """
encoder: transformer
encoder_conf: {output_size: 8, attention_heads: 2, linear_units: 16, num_blocks: 1}
decoder: transformer
decoder_conf: {attention_heads: 2, linear_units: 16, num_blocks: 1}
frontend_conf: {n_fft: 512, win_length: 400, hop_length: 160, n_mels: 20}
model_conf: {ctc_weight: 0.3, report_cer: false, report_wer: false}
batch_type: folded
batch_size: 4
fold_length: [80000, 150]
normalize: global_mvn
optim: adam
max_epoch: 1
num_workers: 0
num_att_plot: 0
use_matplotlib: false
use_tensorboard: false
best_model_criterion: [[valid, acc, max]]
"""
# Kaldi's run.pl, for one job: run.pl [--option value]... LOG COMMAND...
RUN_PL = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift 2; done
log=$1; shift
exec "$@" > "$log" 2>&1
"""
SQUARE = ["--model", "sqloss", "--model_conf", "loss=square"]  # what a user gives as --asr_args


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe's folder after asr.sh's stage 5: dump/raw, the tokens, the configuration, and run.pl."""
    folder = tmp_path_factory.mktemp("recipe")
    data = folder / "dump/raw/train"
    data.mkdir(parents=True)
    texts = {f"u{i}": "AB CD"[: i + 1].strip() for i in range(5)}
    generator = torch.Generator().manual_seed(0)
    for name in texts:
        soundfile.write(data / f"{name}.wav", (torch.randn(12000, generator=generator) / 10).numpy(), 16000)
    (data / "wav.scp").write_text("".join(f"{name} {data / name}.wav\n" for name in texts))
    (data / "text").write_text("".join(f"{name} {text}\n" for name, text in texts.items()))
    (folder / "tokens.txt").write_text("<blank>\n<unk>\n<space>\nA\nB\nC\nD\n<sos/eos>\n")
    (folder / "asr.yaml").write_text(TINY)
    (folder / "run.pl").write_text(RUN_PL)
    (folder / "run.pl").chmod(0o755)
    return folder


TOKENS = ["--use_preprocessor", "true", "--bpemodel", "none", "--token_type", "char", "--token_list", "tokens.txt"]
TOKENS += ["--non_linguistic_symbols", "none", "--cleaner", "none", "--g2p", "none"]
CONFIG = ["--config", "asr.yaml", "--frontend_conf", "fs=16k"]
SPEECH, TEXT = "dump/raw/train/wav.scp,speech,sound", "dump/raw/train/text,text,text"


def data_of(split):
    option = f"--{split}_data_path_and_name_and_type"
    return [option, SPEECH, option, TEXT]


def shapes_of(split):
    option = f"--{split}_shape_file"
    return [option, f"exp/stats/{split}/speech_shape", option, f"exp/stats/{split}/text_shape.char"]


COLLECTION = ["--collect_stats", "true", *TOKENS, *data_of("train"), *data_of("valid")]
COLLECTION += ["--train_shape_file", "dump/raw/train/wav.scp", "--valid_shape_file", "dump/raw/train/wav.scp"]
COLLECTION += ["--output_dir", "exp/stats/logdir/stats.1", *CONFIG, *SQUARE]
TRAINING = [*TOKENS, *data_of("valid"), *shapes_of("valid"), "--resume", "true", "--ignore_init_mismatch", "false"]
TRAINING += ["--fold_length", "80000", "--output_dir", "exp/asr", *CONFIG, "--normalize=global_mvn"]
TRAINING += ["--normalize_conf", "stats_file=exp/stats/train/feats_stats.npz", *data_of("train"), *shapes_of("train")]
TRAINING += ["--fold_length", "150", *SQUARE]
LAUNCH = ["--cmd", "./run.pl --name exp/asr/train.log", "--log", "exp/asr/train.log", "--ngpu", "0", "--num_nodes", "1"]
LAUNCH += ["--init_file_prefix", "exp/asr/.dist_init_", "--multiprocessing_distributed", "true", "--"]
DECODING = ["--batch_size", "1", "--ngpu", "0", "--data_path_and_name_and_type", SPEECH]
DECODING += ["--key_file", "dump/raw/train/wav.scp", "--asr_train_config", "exp/asr/config.yaml"]
DECODING += ["--asr_model_file", "exp/asr/valid.acc.ave.pth", "--output_dir", "exp/asr/decode/logdir/output.1"]
DECODING += ["--beam_size", "2", "--maxlenratio", "-3", "--method", "square"]


@pytest.mark.slow
def test_the_stages_of_asr_sh(recipe, monkeypatch):
    """Stages 10 (statistics), 11 (training) and 12 (decoding), by the commands that asr.sh gives in them."""
    python = str(make_script(recipe / "bin"))
    environment = {**os.environ, "PYTHONPATH": f"{RECIPES.parent}:{os.environ.get('PYTHONPATH', '')}"}

    def run(*words):
        done = subprocess.run(words, cwd=recipe, env=environment, capture_output=True, text=True)
        log = recipe / "exp/asr/train.log"
        assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")

    run("./run.pl", "stats.1.log", python, "-m", "espnet2.bin.asr_train", *COLLECTION)
    parts = ["--input_dir", "exp/stats/logdir/stats.1", "--output_dir", "exp/stats"]
    run(python, "-m", "espnet2.bin.aggregate_stats_dirs", *parts)
    for split in ("train", "valid"):  # asr.sh does it by awk
        shapes = recipe / "exp/stats" / split / "text_shape"
        Path(f"{shapes}.char").write_text("".join(f"{line},8\n" for line in shapes.read_text().splitlines()))
    (recipe / "exp/asr").mkdir()
    run(python, "-m", "espnet2.bin.launch", *LAUNCH, python, "-m", "espnet2.bin.asr_train", *TRAINING)
    assert "Square loss, k" in (recipe / "exp/asr/train.log").read_text()
    run("./run.pl", "--gpu", "0", "asr_inference.1.log", python, "-m", "espnet2.bin.asr_inference", *DECODING)
    text = recipe / "exp/asr/decode/logdir/output.1/1best_recog/text"
    assert len(text.read_text().splitlines()) == 5

    monkeypatch.chdir(recipe)
    assert asr_train([*TRAINING, "--output_dir", "exp/direct", "--ngpu", "0"]) == 0
    mine, direct = (torch.load(f"exp/{name}/valid.acc.ave.pth") for name in ("asr", "direct"))
    assert mine.keys() == direct.keys()
    assert all(torch.equal(mine[name], direct[name]) for name in mine)

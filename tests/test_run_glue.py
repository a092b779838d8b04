"""The GLUE script, through the command line that a user types."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
import torch
from commands import assert_refused, kill_when
from filelock import FileLock
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2Model

from sqloss_plugins.data.glue import TASKS
from sqloss_plugins.data.mini_glue import write_mini_task
from sqloss_plugins.hf.options import parse as parse_task
from sqloss_plugins.hf.tasks.glue import Glue, main
from sqloss_plugins.results import OF_OUTPUTS, read_result

ROOT = Path(__file__).parent.parent


def parse(options):
    task = parse_task(Glue, options)
    return task.args, task.config


@pytest.fixture
def small(tiny_model, tmp_path, monkeypatch):
    """Options of a small run, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return ["--mini", "--model_name_or_path", str(tiny_model), "--num_train_epochs", "2", "--use_cpu"]


def script(*options, cwd, **env):
    return subprocess.run(
        [sys.executable, str(ROOT / "run_glue_sq.py"), *options],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=1800,
    )


@pytest.mark.slow
def test_the_script_on_its_embedded_default(tmp_path):
    """python run_glue_sq.py --task mrpc, where no hub can be reached: says so, marks all as mini, and learns."""
    options = ["--task", "mrpc", "--num_train_epochs", "4", "--learning_rate", "1e-4"]
    done = script(*options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The Hugging Face hub cannot be reached" in done.stdout
    assert "*** MINI DATA: not the real task ***" in done.stdout
    assert "square, k = 1, M = 1 (the paper's Table 9 for mrpc)" in done.stdout
    folder = tmp_path / "runs/mrpc/minilm-l6/square-k1-M1-lr0.0001-early_stopping-s42-mini"
    result = read_result(folder)
    assert result.mini
    assert (result.loss, result.k, result.M, result.epochs) == ("square", 1.0, 1.0, 4.0)
    assert (result.ended_by, result.method, result.selection) == ("maximum", "square", "accuracy")
    assert result.value("test", "accuracy") > 0.65
    assert result.data["sizes"] == {"train": 480, "validation": 128, "test": 128}
    assert {"torch", "transformers", "python", "sqloss_plugins", "git"} <= set(result.versions)
    with np.load(folder / "outputs.npz") as outputs:
        decided = outputs["test_outputs"].argmax(1) == outputs["test_targets"]
        assert decided.mean() == pytest.approx(result.value("test", "accuracy"))
        difference = outputs["test_outputs"] - np.eye(2)[outputs["test_targets"]]
        assert (difference**2).mean() == pytest.approx(result.value("test", "loss"), rel=1e-4)
    AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.mark.parametrize("task", list(TASKS))
def test_every_task(task, small, capsys):
    assert main(["--task", task, *small, "--max_train_samples", "64", "--seed", "3"]) == 0
    (path,) = Path("runs").rglob("result.json")
    result = read_result(path)
    assert result.mini
    assert path.parent.name.endswith("-s3-mini")
    for split in ("validation", "test", *TASKS[task].extra_splits):
        assert set(result.metrics[split]) == {OF_OUTPUTS}
        assert list(result.metrics[split][OF_OUTPUTS]) == ["loss", *TASKS[task].metrics]
    if task == "stsb":
        assert result.loss == "mean_squared_error"
        assert "stsb is a regression" in capsys.readouterr().out


@pytest.mark.parametrize("loss", ["cross_entropy", "squentropy"])
def test_other_losses_and_their_hyperparameters(loss, small, capsys):
    """The paper's for cross-entropy: lr 2e-5 (square: 5e-5)."""
    assert main(["--task", "mrpc", "--loss", loss, *small]) == 0
    (path,) = Path("runs").rglob("result.json")
    result = read_result(path)
    assert (result.loss, result.k, result.hyperparameters["learning_rate"]) == (loss, None, 2e-5)
    assert ("the paper has no squentropy" in capsys.readouterr().out) == (loss == "squentropy")


def test_defaults_are_the_papers():
    _, square = parse(["--task", "mrpc"])
    assert (square.learning_rate, square.num_train_epochs, square.per_device_train_batch_size) == (5e-5, 5, 32)
    glue, entropy = parse(["--task_name", "mrpc", "--loss", "cross_entropy"])
    assert (entropy.learning_rate, entropy.num_train_epochs, glue.max_seq_length) == (2e-5, 3, 128)
    _, same = parse(["--task", "mrpc", "--protocol", "same_epochs"])
    assert (same.learning_rate, same.load_best_model_at_end, same.metric_for_best_model) == (5e-5, False, None)
    _, given = parse(["--task", "mrpc", "--learning_rate", "1e-3", "--warmup_steps", "7", "--num_train_epochs", "9"])
    assert (given.learning_rate, given.warmup_steps, given.num_train_epochs) == (1e-3, 7, 9)


def test_settings_from_a_file(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("task: sst2\nlearning_rate: 5e-5\nbf16: true\nuse_cpu: true\nmax_train_samples: null\n")
    glue, training = parse([str(file)])
    assert (glue.task, training.learning_rate, training.bf16) == ("sst2", 5e-5, True)


def test_rescaling_reaches_the_loss(small):
    assert main(["--task", "mrpc", *small, "--k", "4", "--M", "3", "--label_smoothing_factor", "0.1"]) == 0
    (folder,) = (path.parent for path in Path("runs").rglob("result.json"))
    assert folder.name.startswith("square-k4-M3-")
    result = read_result(folder)
    assert result.rescaling_source == "given by the user"
    with np.load(folder / "outputs.npz") as outputs:
        f, q = outputs["test_outputs"], 0.9 * np.eye(2)[outputs["test_targets"]] + 0.05
    expected = (q * 4 * (f - 3) ** 2 + (1 - q) * f**2).mean()
    assert result.value("test", "loss") == pytest.approx(expected, rel=1e-4)


def test_early_stopping_keeps_the_best_epoch(small):
    """With a learning rate of next to nothing no epoch improves on the first: stop after patience more."""
    options = [*small, "--num_train_epochs", "9", "--patience", "2", "--learning_rate", "1e-12"]
    assert main(["--task", "mrpc", *options]) == 0
    (path,) = Path("runs").rglob("result.json")
    result = read_result(path)
    assert (result.epochs, result.best_epoch, result.ended_by) == (3.0, 1.0, "early stopping")
    curve = result.curves["validation"]["accuracy"]
    assert list(curve) == ["1", "2", "3"]
    assert curve["1"] == pytest.approx(result.value("validation", "accuracy"))


def test_same_epochs_are_those_of_cross_entropys_best_model(small, capsys):
    """Of the same seed: read from its run, of several learning rates the best one's, or given; never guessed."""
    same = ["--task", "mrpc", *small[:3], "--use_cpu", "--protocol", "same_epochs", "--max_train_samples", "64"]
    assert main(same) == 2
    assert "takes the number of epochs of the cross-entropy run with the same seed" in capsys.readouterr().err
    assert main([*same, "--cross_entropy_run", "nowhere"]) == 2
    assert "the number of epochs cannot be read" in capsys.readouterr().err
    baseline = ["--task", "mrpc", *small, "--loss", "cross_entropy", "--patience", "1", "--max_train_samples", "64"]
    for rate in ("1e-12", "1e-3"):
        assert main([*baseline, "--learning_rate", rate]) == 0
    names = (f"cross_entropy-lr{rate}-early_stopping-s42-mini" for rate in ("1e-12", "0.001"))
    folders = [Path("runs/mrpc/tiny-bert", name) for name in names]
    chosen = max(folders, key=lambda folder: read_result(folder).value("validation", "accuracy"))
    assert main(same) == 0
    result = read_result(Path("runs/mrpc/tiny-bert/square-k1-M1-lr5e-05-same_epochs-s42-mini"))
    assert result.protocol == "same_epochs"
    assert result.epochs == result.best_epoch == read_result(chosen).best_epoch
    assert main([*same, "--seed", "7"]) == 2
    assert main([*same, "--seed", "7", "--cross_entropy_run", str(chosen)]) == 2
    assert "has seed 42, and its epochs are wanted for a run with 7" in capsys.readouterr().err
    assert main([*same, "--seed", "7", "--num_train_epochs", "1"]) == 0
    assert read_result(Path("runs/mrpc/tiny-bert/square-k1-M1-lr5e-05-same_epochs-s7-mini")).epochs == 1.0


def test_hidden_test_labels_become_a_submission(small, tmp_path, capsys):
    folder = write_mini_task(TASKS["rte"], tmp_path / "data")
    lines = (folder / "test.tsv").read_text().splitlines()
    (folder / "test.tsv").write_text("\n".join(line.rsplit("\t", 1)[0] for line in lines) + "\n")
    assert main(["--task", "rte", "--data_dir", str(tmp_path / "data"), *small[1:], "--output_dir", "out"]) == 0
    rows = Path("out/RTE.tsv").read_text().splitlines()
    assert rows[0] == "index\tprediction"
    assert len(rows) == 129
    assert {row.split("\t")[1] for row in rows[1:]} <= {"entailment", "not_entailment"}
    result = read_result(Path("out"))
    assert "test" not in result.metrics
    assert not result.mini
    assert "RTE.tsv" in capsys.readouterr().out


def test_fine_tuning_is_in_single_precision(small, tiny_model, tmp_path, monkeypatch):
    """Whatever the file has; and the batch of a step is among the settings, which that of a process is not."""
    half = tmp_path / "half"
    shutil.copytree(tiny_model, half)
    BertModel.from_pretrained(tiny_model).bfloat16().save_pretrained(half)
    options = ["--task", "mrpc", *small[:2], str(half), *small[3:], "--gradient_accumulation_steps", "2"]
    assert main([*options, "--output_dir", "out", "--num_train_epochs", "1"]) == 0
    assert AutoModelForSequenceClassification.from_pretrained("out").dtype == torch.float32
    assert json.loads(Path("out/settings.json").read_text())["total_train_batch_size"] == 2 * 32


def test_a_tokenizer_without_a_token_to_pad_with(small, tiny_model, tmp_path):
    """As GPT-2's and Llama's: the one that ends a text takes its place."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(tmp_path / "own")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=128)
    GPT2Model(config).save_pretrained(tmp_path / "own")
    assert main(["--task", "mrpc", *small[:2], "own", *small[3:], "--output_dir", "out"]) == 0
    assert AutoModelForSequenceClassification.from_pretrained("out").config.pad_token_id == tokenizer.eos_token_id


def test_evaluation_alone(small, tiny_model):
    """--do_eval as in run_glue: no training, the model as it is."""
    assert main(["--task", "mrpc", *small, "--do_eval", "--output_dir", "out"]) == 0
    result = read_result(Path("out"))
    assert set(result.metrics) == {"validation"}
    assert (result.epochs, result.best_epoch, result.ended_by) == (0, None, None)
    assert not list(Path("out").glob("*.safetensors"))


def test_a_finished_run_is_not_repeated(small, capsys):
    assert main(["--task", "mrpc", *small]) == 0
    (path,) = Path("runs").rglob("result.json")
    before = path.stat().st_mtime_ns
    capsys.readouterr()
    assert main(["--task", "mrpc", *small]) == 0
    assert "This run is finished already" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before


def results_and_outputs(folder):
    result = read_result(folder)
    with np.load(folder / "outputs.npz") as outputs:
        arrays = {name: outputs[name] for name in outputs.files}
    return result.metrics, (result.epochs, result.best_epoch, result.ended_by), arrays


@pytest.mark.parametrize("kill_in", ["training", "a checkpoint", "the writing of files", "the end"])
def test_a_killed_run_goes_on_to_the_same_result(kill_in, small, tmp_path):
    """SIGKILL at an epoch's end, with a torn checkpoint or file, and after the last epoch; to the last bit."""
    options = ["--task", "mrpc", *small, "--num_train_epochs", "4", "--learning_rate", "1e-3", "--patience", "2"]
    assert main([*options, "--output_dir", "whole"]) == 0

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "run_glue_sq.py"), *options, "--output_dir", "killed"]
    wanted = "model.safetensors" if kill_in == "the end" else "checkpoint-15/trainer_state.json"
    kill_when(command, environment, Path("killed"), wanted)
    if kill_in in ("a checkpoint", "the writing of files"):  # the second checkpoint, half written
        shutil.rmtree("killed/checkpoint-30", ignore_errors=True)
        shutil.copytree("killed/checkpoint-15", "killed/checkpoint-30")
        torn = Path("killed/checkpoint-30", "optimizer.pt" if kill_in == "a checkpoint" else "model.safetensors")
        torn.write_bytes(torn.read_bytes()[:-100])
        if kill_in == "a checkpoint":
            Path("killed/checkpoint-30/trainer_state.json").unlink()

    assert main([*options, "--output_dir", "killed"]) == 0
    assert read_result(Path("killed")).resumed
    whole, killed = results_and_outputs(Path("whole")), results_and_outputs(Path("killed"))
    assert whole[:2] == killed[:2]
    for name, array in whole[2].items():
        assert np.array_equal(array, killed[2][name]), name


BAD_OPTIONS = {
    "no task": ([], "--task is missing: choose from cola, mnli, mrpc"),
    "unknown task": (["--task", "imagenet"], "argument --task/--task_name: invalid choice: 'imagenet'"),
    "unknown loss": (["--task", "mrpc", "--loss", "hinge"], "argument --loss: invalid choice: 'hinge'"),
    "unknown option": (["--task", "mrpc", "--learnin_rate", "1"], "unknown option or value: --learnin_rate 1 (see --h"),
    "unknown model": (
        ["--task", "mrpc", "--mini", "--model_name_or_path", "no/such"],
        "--model_name_or_path no/such is",
    ),
    "k of zero": (["--task", "mrpc", "--k", "0"], "--k must be a positive finite number, got 0.0"),
    "negative M": (["--task", "mrpc", "--M", "-1"], "--M must be a positive finite number, got -1.0"),
    "k not a number": (["--task", "mrpc", "--k", "nan"], "--k must be a positive finite number, got nan"),
    "k a word": (["--task", "mrpc", "--k", "big"], "argument --k: invalid float value: 'big'"),
    "k for cross-entropy": (
        ["--task", "mrpc", "--loss", "cross_entropy", "--k", "15"],
        "--k and --M rescale the square",
    ),
    "k for regression": (["--task", "stsb", "--k", "15"], "stsb is a regression"),
    "smoothing": (
        ["--task", "mrpc", "--label_smoothing_factor", "2"],
        "--label_smoothing_factor must be between 0 and 1",
    ),
    "smoothed regression": (["--task", "stsb", "--label_smoothing_factor", "0.1"], "needs classes"),
    "rule for regression": (["--task", "stsb", "--rescaling", "level"], "--rescaling needs classes, and stsb is a reg"),
    "rule for another loss": (
        ["--task", "mrpc", "--loss", "cross_entropy", "--rescaling", "level"],
        "--rescaling is of the square loss, and --loss is cross_entropy: leave it out",
    ),
    "unknown paper's task": (["--task", "mrpc", "--paper_task", "imagenot"], "--paper_task must be one of"),
    "patience of no use": (
        ["--task", "mrpc", "--protocol", "same_epochs", "--patience", "3"],
        "--patience is of --protocol early_stopping: leave it out",
    ),
    "run of no use": (["--task", "mrpc", "--cross_entropy_run", "x"], "--cross_entropy_run is of --protocol same_epo"),
    "epochs twice": (
        ["--task", "mrpc", "--protocol", "same_epochs", "--num_train_epochs", "3", "--cross_entropy_run", "x"],
        "--cross_entropy_run says how many epochs, and so does --num_train_epochs: leave it out",
    ),
    "no patience": (["--task", "mrpc", "--patience", "0"], "--patience must be at least 1, got 0"),
    "without logits": (
        ["--task", "mrpc", "--loss", "cross_entropy", "--without_logits", "true"],
        "--without_logits needs a loss that can be had without logits",
    ),
    "no model": (["--task", "mrpc", "--model_name_or_path", ""], "--model_name_or_path is empty"),
    "negative workers": (
        ["--task", "mrpc", "--dataloader_num_workers", "-1"],
        "--dataloader_num_workers must be",
    ),
    "no workers": (["--task", "mrpc", "--dataloader_persistent_workers"], "--dataloader_persistent_workers needs"),
    "noise": (["--task", "mrpc", "--neftune_noise_alpha", "-1"], "--neftune_noise_alpha must be a finite number great"),
    "no such file": (["--task", "mrpc", "--accelerator_config", "x.json"], "No such file or directory: 'x.json'"),
    "foreign keys": (["--task", "mrpc", "--accelerator_config", '{"no_such": 1}'], "no_such"),
    "no mapping": (
        ["--task", "mrpc", "--gradient_checkpointing_kwargs", "x"],
        "--gradient_checkpointing_kwargs must be a mapping in JSON, got 'x'",
    ),
    "protocol": (["--task", "mrpc", "--protocol", "forever"], "argument --protocol: invalid choice"),
    "no epochs": (["--task", "mrpc", "--num_train_epochs", "0"], "--num_train_epochs must be a finite number greater"),
    "endless": (["--task", "mrpc", "--num_train_epochs", "inf"], "--num_train_epochs must be a finite number greater"),
    "eval batch": (["--task", "mrpc", "--per_device_eval_batch_size", "0"], "--per_device_eval_batch_size must be"),
    "no phase": (
        ["--task", "mrpc", "--do_train", "false", "--do_eval", "false", "--do_predict", "false"],
        "--do_train, --do_eval and --do_predict are all false",
    ),
    "no steps": (["--task", "mrpc", "--max_steps", "0"], "--max_steps must be at least 1"),
    "negative seed": (["--task", "mrpc", "--seed", "-1"], "--seed must be from 0 to 4294967295, got -1"),
    "late start": (["--task", "mrpc", "--eval_delay", "2"], "early_stopping validates and saves after every epoch"),
    "the worst": (["--task", "mrpc", "--greater_is_better", "false"], "the greater accuracy, the better"),
    "no examples": (["--task", "mrpc", "--max_train_samples", "0"], "--max_train_samples must be at least 1"),
    "no evaluation": (["--task", "mrpc", "--eval_strategy", "no"], "early_stopping validates and saves after"),
    "no checkpoints": (["--task", "mrpc", "--save_strategy", "no"], "early_stopping validates and saves after every"),
    "metric": (["--task", "sst2", "--metric_for_best_model", "f1"], "--metric_for_best_model must be one of accuracy"),
    "liger": (["--task", "mrpc", "--use_liger_kernel"], "use_liger_kernel"),
    "no states": (["--task", "mrpc", "--save_only_model"], "--save_only_model leaves out of the checkpoints what a"),
    "no scores": (["--task", "mrpc", "--prediction_loss_only"], "--prediction_loss_only leaves no outputs to score"),
    "dropped rows": (["--task", "mrpc", "--dataloader_drop_last"], "--dataloader_drop_last drops validation and test"),
    "empty data_dir": (["--task", "mrpc", "--data_dir", ""], "--data_dir is empty"),
    "pieces": (["--task", "mrpc", "--eval_do_concat_batches", "false"], "--eval_do_concat_batches false leaves"),
    "no checkpoint": (["--task", "mrpc", "--mini", "--resume_from_checkpoint", "x"], "x is no checkpoint's folder"),
    "mini and real": (["--task", "mrpc", "--mini", "--data_dir", "."], "--mini and --data_dir exclude each other"),
    "no data": (["--task", "mrpc", "--data_dir", "nowhere"], "data_dir nowhere is not a folder"),
    "no settings": (["nowhere.yaml"], "nowhere.yaml cannot be read as settings"),
    "unwritable": (["--task", "mrpc", "--mini", "--output_dir", "/dev/null/x"], "cannot write to the output folder"),
}


@pytest.mark.parametrize("case", list(BAD_OPTIONS))
def test_bad_options(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options, message = BAD_OPTIONS[case]
    assert_refused(main, options, "sqloss glue", message, tmp_path, capsys)


def test_a_settings_file_with_an_option_twice(tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text("task: mrpc\nseed: 1\nseed: 2\n")
    assert main([str(file)]) == 2
    assert "settings.yaml cannot be read as settings: seed is there twice" in capsys.readouterr().err


def test_bad_options_end_the_process_with_2(tmp_path):
    done = script("--task", "mrpc", "--k", "-3", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    done = script("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--learning_rate" in done.stdout


def test_another_runs_folder_is_left_alone(small, capsys):
    assert main(["--task", "mrpc", *small, "--output_dir", "out"]) == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert main(["--task", "mrpc", *small, "--output_dir", "out", "--learning_rate", "1e-3"]) == 2
    assert "holds another run (learning_rate 5e-05 -> 0.001)" in capsys.readouterr().err
    Path("foreign/checkpoint-7").mkdir(parents=True)
    assert main(["--task", "mrpc", *small, "--output_dir", "foreign"]) == 2
    assert "holds checkpoints or results of something else" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_seq_length", "100000"], "--max_seq_length 100000 is more than the 512 tokens that the model takes"),
        (["--report_to", "no_such_tracker"], "no_such_tracker"),
        (["--label_names", "start_positions"], "takes start_positions rather than `labels`"),
        (["--max_seq_length", "4"], "--max_seq_length must be at least 5 for mrpc, got 4"),
        (["--adam_beta1", "2"], "Invalid beta parameter"),
        (["--lr_scheduler_kwargs", '{"no_such": 1}'], "no_such"),
        (["--tokenizer_name", "no/such"], "(with no/such) cannot be loaded"),
        (["--dataloader_multiprocessing_context", "fork"], "multiprocessing_context"),
    ],
)
def test_options_that_cannot_be_fulfilled(options, message, small, capsys):
    """What shows only once the model is there: one sentence, before training."""
    assert main(["--task", "mrpc", *small, *options, "--output_dir", "out"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(Path("out").glob("checkpoint-*"))


def test_a_broken_result_is_said(small, capsys):
    assert main(["--task", "mrpc", *small, "--output_dir", "out"]) == 0
    before = results_and_outputs(Path("out"))[:2]
    Path("out/result.json").write_text("{")
    assert main(["--task", "mrpc", *small, "--output_dir", "out"]) == 2
    error = capsys.readouterr().err
    assert "result.json is not a result file: " in error
    assert "; remove it, and the same command makes it anew" in error
    Path("out/result.json").unlink()
    assert main(["--task", "mrpc", *small, "--output_dir", "out"]) == 0
    assert results_and_outputs(Path("out"))[:2] == before


def test_a_start_that_failed_binds_nobody(small, capsys):
    assert main(["--task", "mrpc", *small, "--adam_beta1", "2", "--output_dir", "out"]) == 2
    assert main(["--task", "mrpc", *small, "--num_train_epochs", "1", "--output_dir", "out"]) == 0
    Path("out/settings.json").write_text("[1]")
    assert main(["--task", "mrpc", *small, "--num_train_epochs", "1", "--output_dir", "out"]) == 2
    assert "settings.json is damaged" in capsys.readouterr().err


def test_files_of_another_task_are_told(small, tmp_path, capsys):
    """The columns and labels of RTE are among those of MNLI, which has one class more."""
    rows = {"premise": ["a", "b"] * 8, "hypothesis": ["c", "d"] * 8, "label": [0, 1] * 8}
    for split in ("train", "validation"):
        pq.write_table(pyarrow.table(rows), tmp_path / f"{split}.parquet")
    options = ["--task", "mnli", "--data_dir", ".", *small[1:], "--do_eval", "--output_dir", "out"]
    assert main([*options, "--cache_dir", "cache"]) == 0
    printed = capsys.readouterr().out
    for split in ("train", "validation"):
        assert f"WARNING: no example of contradiction in the {split} data: is it data of mnli?" in printed


def test_a_cache_that_cannot_be_written(small, tmp_path, capsys):
    write_mini_task(TASKS["mrpc"], tmp_path)
    Path("file").touch()
    options = ["--task", "mrpc", "--data_dir", ".", *small[1:], "--output_dir", "out", "--cache_dir", "file"]
    assert main(options) == 2
    assert "the data cannot be read, or not be kept in --cache_dir" in capsys.readouterr().err


def test_two_processes_do_not_share_a_folder(small, capsys):
    Path("out").mkdir()
    Path("out/settings.json").write_text("{}")
    with FileLock("out/.lock"):
        assert main(["--task", "mrpc", *small, "--output_dir", "out"]) == 2
    assert "another process is at work in out" in capsys.readouterr().err
    assert Path("out/settings.json").read_text() == "{}"  # the other one's


def test_phases():
    def phases(*options):
        _, training = parse(["--task", "mrpc", *options])
        return training.do_train, training.do_eval, training.do_predict

    assert phases() == (True, True, True)
    assert phases("--do_predict", "false") == (True, True, False)
    assert phases("--do_train", "--do_predict=true") == (True, False, True)
    assert phases("--do_train", "--do_eval", "false") == (True, False, False)


def test_a_checkpoint_of_another_run_is_refused(small, capsys):
    """A checkpoint given by hand goes on with the same task, data, model and loss; other epochs are welcome."""
    same = ["--task", "mrpc", *small, "--protocol", "same_epochs", "--max_train_samples", "64"]
    assert main([*same, "--output_dir", "one"]) == 0
    (checkpoint,) = Path("one").glob("checkpoint-*")
    resume = ["--resume_from_checkpoint", str(checkpoint), "--output_dir", "two"]
    assert main([*same, *resume, "--k", "3"]) == 2
    assert "is of a run with k 1.0, and this one has 3.0" in capsys.readouterr().err
    assert main([*same, *resume, "--num_train_epochs", "3"]) == 0
    assert read_result(Path("two")).epochs == 3.0


def test_a_model_and_a_tokenizer_that_do_not_belong_together(small, tiny_model, capsys):
    bare = Path("bare")
    shutil.copytree(tiny_model, bare)
    for path in [*bare.glob("tokenizer*"), *bare.glob("vocab*"), *bare.glob("special*")]:
        path.unlink()
    options = ["--task", "mrpc", *small[:1], "--use_cpu", "--output_dir", "out", "--model_name_or_path", str(bare)]
    assert main(options) == 2
    assert "--tokenizer_name" in capsys.readouterr().err
    AutoModelForSequenceClassification.from_config(
        BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained("few")
    assert main([*options[:-1], "few", "--tokenizer_name", str(tiny_model)]) == 2
    assert "they do not belong together" in capsys.readouterr().err
    (bare / "model.safetensors").write_bytes(b"torn")
    assert main([*options, "--tokenizer_name", str(tiny_model)]) == 2
    assert "cannot be loaded as a classifier" in capsys.readouterr().err


def test_a_run_that_diverges_is_said(small, tiny_model, capsys):
    """One sentence, exit status 1, and no result; whether the loss overflows, or the model was broken before."""
    for name, options in (("rate", ["--learning_rate", "1e30"]), ("k", ["--k", "1e308"])):
        assert main(["--task", "mrpc", *small, *options, "--output_dir", name]) == 1
        assert "error: the training diverged: " in capsys.readouterr().err
        assert not Path(name, "result.json").exists()
    broken = BertModel.from_pretrained(tiny_model)
    broken.embeddings.word_embeddings.weight.data.fill_(float("nan"))
    shutil.copytree(tiny_model, "broken")
    broken.save_pretrained("broken")
    options = ["--task", "mrpc", "--mini", "--use_cpu", "--model_name_or_path", "broken", "--output_dir", "out"]
    assert main([*options, "--do_eval"]) == 1
    assert "not all outputs on validation are finite" in capsys.readouterr().err


def test_the_pretrained_model_is_not_overwritten(small, tiny_model, capsys):
    before = (tiny_model / "model.safetensors").read_bytes()
    assert main(["--task", "mrpc", *small, "--output_dir", str(tiny_model)]) == 2
    assert "holds checkpoints or results of something else" in capsys.readouterr().err
    assert (tiny_model / "model.safetensors").read_bytes() == before


def test_a_full_disk_is_said_before_training(small, monkeypatch, capsys):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert main(["--task", "mrpc", *small, "--output_dir", "out"]) == 2
    error = capsys.readouterr().err
    assert "out has 1 kB free, and the checkpoints of this run take up to" in error
    assert " MB more: make room, or choose another --output_dir" in error
    assert not list(Path("out").glob("checkpoint-*"))


def test_a_killed_run_has_room_where_its_checkpoints_are(small, monkeypatch, capsys):
    """What they take already is not wanted again."""
    options = ["--task", "mrpc", *small, "--max_train_samples", "64", "--output_dir", "out"]
    assert main(options) == 0
    Path("out/result.json").unlink()
    state = next(Path("out").glob("checkpoint-*/trainer_state.json"))
    state.write_text(state.read_text().replace('"should_training_stop": true', '"should_training_stop": false'))
    state.write_text(state.read_text().replace('"max_steps": 4', '"max_steps": 6'))
    with next(Path("out").glob("checkpoint-*/optimizer.pt")).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(3.5 * size)))
    assert main(["--task", "mrpc", *small, "--max_train_samples", "64", "--output_dir", "other"]) == 2
    capsys.readouterr()
    assert main(options) == 0


def test_a_disk_that_fills_up_is_said(small, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sqloss_plugins.hf.tasks.glue.load_from_hub", full)
        assert main(["--task", "mrpc", *small[1:], "--output_dir", "out"]) == 1, "and no mini data are taken"
        assert "the disk is full" in capsys.readouterr().err
    monkeypatch.setattr("sqloss_plugins.hf.experiment.write_result", full)
    assert main(["--task", "mrpc", *small, "--output_dir", "out"]) == 1
    assert "the disk is full" in capsys.readouterr().err


def test_the_recipe(tmp_path):
    """recipes/glue/run.sh is a sweep with a grid of its own, which the command line may replace."""
    script, env = str(ROOT / "recipes/glue/run.sh"), {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    for grid, rates in ((["--grid", "learning_rate=1e-3 1"], 2), ([], 3)):
        command = [script, "--task", "sst2", "--mini", "--seeds", "1 2", *grid, "--dry_run"]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        lines = done.stdout.splitlines()
        assert len(lines) == 2 * (rates + 1)
        assert lines[0].startswith("sqloss glue --task sst2 --mini --loss square --learning_rate ")

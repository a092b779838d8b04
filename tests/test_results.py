"""Result files and the folders of runs: written whole, read strictly, cleaned after a kill."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from result_files import result, write

from sqloss_plugins import results
from sqloss_plugins.errors import UserError
from sqloss_plugins.experiments.compare import main as compare
from sqloss_plugins.folders import claim_folder, lock_folder, read_settings
from sqloss_plugins.metrics import METRICS
from sqloss_plugins.results import OF_OUTPUTS, Result, markdown_table, read_result, run_folder, write_json, write_result

ROOT = Path(__file__).parent.parent


def test_what_is_written_is_read(tmp_path):
    made = result(k=15.0, M=30.0, ended_by=None, best_epoch=None)
    path = write_result(tmp_path, made, {"validation_outputs": np.arange(6.0).reshape(2, 3)})
    assert read_result(path) == read_result(tmp_path) == made
    assert np.load(tmp_path / "outputs.npz")["validation_outputs"].shape == (2, 3)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["outputs.npz", "result.json"]


def test_values_that_are_not_finite(tmp_path):
    values = {"nll": math.inf, "perplexity": math.nan, "accuracy": 0.0}
    path = write_result(tmp_path, result(metrics={"validation": {OF_OUTPUTS: values}}), {})
    assert "NaN" not in path.read_text()
    found = read_result(path).metrics["validation"][OF_OUTPUTS]
    assert math.isnan(found["nll"])
    assert math.isnan(found["perplexity"])
    assert found["accuracy"] == 0.0


def test_a_result_says_the_direction_of_every_metric():
    made = result(metrics={"test": {OF_OUTPUTS: {"accuracy": 1.0, "loss": 0.0}, "softmax": {"wer": 0.5}}})
    assert made.directions == {name: METRICS[name].direction for name in ("accuracy", "loss", "wer")}
    assert not made.metric("wer").higher_is_better
    with pytest.raises(ValueError, match="unknown metric 'surprise'"):
        result(metrics={"test": {OF_OUTPUTS: {"surprise": 1.0}}})
    own = {"surprise": {"higher_is_better": True, "unit": "bits", "is_comparable": True}}
    assert result(metrics={"test": {OF_OUTPUTS: {"surprise": 1.0}}}, directions=own).metric("surprise").unit == "bits"


def test_value():
    made = result(metrics={"test": {OF_OUTPUTS: {"accuracy": 0.1}, "softmax": {"wer": 0.2}, "square": {"wer": 0.3}}})
    assert (made.value("test", "accuracy"), made.value("test", "wer")) == (0.1, 0.2)
    assert made.value("test", "wer", "square") == 0.3
    assert made.value("test", "cer") is made.value("other", "wer") is None


def test_protocols_and_mini_data_do_not_share_a_folder():
    folders = {
        run_folder("mrpc", "bert", "square", 1.0, 1.0, 1e-4, protocol, 1, mini)
        for protocol in results.PROTOCOLS
        for mini in (False, True)
    }
    assert len(folders) == 6
    assert Path("runs/mrpc/bert/square-k1-M1-lr0.0001-same_epochs-s1-mini") in folders


# ---------------------------------------------------------------- damaged files


def changed(**values):
    """A whole result with some fields replaced."""
    return lambda text: json.dumps({**json.loads(text), **values})


def without(name):
    return lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != name})


def directed(**direction):
    return changed(directions={"accuracy": direction, "loss": METRICS["loss"].direction})


DAMAGES = {
    "truncated": (lambda text: text[: len(text) // 2], "is not a result file: "),
    "empty": (lambda text: "", "is not a result file: "),
    "a list": (lambda text: "[1, 2]", "it holds no JSON object"),
    "a number": (lambda text: "7", "it holds no JSON object"),
    "null": (lambda text: "null", "it holds no JSON object"),
    "NaN": (lambda text: text.replace("0.8,", "NaN,").replace("0.8\n", "NaN\n"), "NaN is no JSON"),
    "infinity": (changed(wall_time_s=1e999), "Infinity is no JSON"),
    "a number that is too large": (lambda text: text.replace('"seed": 1', '"seed": 1e999'), "seed is inf"),
    "a huge integer": (changed(seed=10**100), "seed is 1000"),
    "a huge integer for a float": (changed(epochs=10**400), "epochs is 1000"),
    "an integer that Python refuses": (
        lambda text: text.replace('"seed": 1', '"seed": 1' + 5000 * "0"),
        "is not a result file: ",
    ),
    "nested too deeply": (lambda text: 100_000 * "[", "is not a result file: "),
    "byte order mark": (lambda text: "\ufeff" + text, "is not a result file: "),
    "binary": (lambda text: b"\x00\xff\xfe\x80" * 50, "is not a result file: "),
    "UTF-16": (lambda text: text.encode("utf-16"), "is not a result file: "),
    "no seed": (changed(seed=None), "seed is None"),
    "text for a number": (changed(epochs="3"), "epochs is '3'"),
    "a truth value for a number": (changed(parameters=True), "parameters is True"),
    "missing field": (without("method"), "it lacks method"),
    "missing directions": (without("directions"), "it does not say in which direction the metric"),
    "extra field": (changed(colour="red"), "it has unknown colour"),
    "other schema": (changed(schema_version=1), "has schema version 1; this package reads version 2"),
    "no schema": (without("schema_version"), "has schema version None"),
    "other protocol": (changed(protocol="until_friday"), "protocol is 'until_friday', not one of early_stopping"),
    "metrics without a method": (changed(metrics={"validation": {"accuracy": 0.5}}), "metrics is "),
    "metrics nested too deeply": (
        changed(metrics={"validation": {"softmax": {"accuracy": {"mean": 0.5}}}}),
        "metrics is ",
    ),
    "metrics as a list": (changed(metrics=[0.5]), "metrics is [0.5]"),
    "a metric as text": (changed(metrics={"test": {"softmax": {"accuracy": "0.5"}}}), "metrics is "),
    "an unknown metric": (
        changed(metrics={"test": {"softmax": {"surprise": 0.5}}}),
        "it does not say in which direction the metric surprise is better",
    ),
    "a known metric without a direction": (
        changed(metrics={"test": {"softmax": {"wer": 0.5}}}),
        "it does not say in which direction the metric wer is better",
    ),
    "half a direction": (directed(higher_is_better=True), "the direction of accuracy is "),
    "a direction as text": (
        directed(higher_is_better="yes", unit="%", is_comparable=True),
        "the direction of accuracy is ",
    ),
    "a fingerprint that is a number": (changed(data={"fingerprint": 7}), "data has the fingerprint 7"),
    "test fingerprints as a list": (changed(data={"test_fingerprints": []}), "data has the test_fingerprints []"),
}


def assert_refused_in_one_sentence(path, sentence, capsys):
    with pytest.raises(ValueError, match="^" + str(path)) as refused:
        read_result(path)
    assert sentence in str(refused.value)
    assert compare([str(path.parent)]) == 2
    error = capsys.readouterr().err
    assert error == f"sqloss compare: error: {refused.value}\n"


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_results(damage, tmp_path, capsys):
    make, sentence = DAMAGES[damage]
    path = write(tmp_path)
    text = make(path.read_text())
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused_in_one_sentence(path, sentence, capsys)


WRONG = {"str": 7, "int": 1.5, "float": "x", "bool": 1, "dict": "x"}


@pytest.mark.parametrize("name", [field.name for field in fields(Result) if field.name != "schema_version"])
def test_a_wrong_type_in_every_field(name, tmp_path, capsys):
    path = write(tmp_path)
    hint = str(Result.__annotations__[name])
    value = next(wrong for kind, wrong in WRONG.items() if hint.startswith(kind))
    path.write_text(changed(**{name: value})(path.read_text()))
    assert_refused_in_one_sentence(path, f"{name} is {value!r}", capsys)


def make_folder(path):
    path.mkdir()


def make_loop(path):
    path.symlink_to(path)


def make_dangling_link(path):
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (make_folder, "cannot be read: Is a directory"),
        (make_loop, "cannot be read: Too many levels of symbolic links"),
        (make_dangling_link, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_file(make, sentence, tmp_path, capsys):
    make(tmp_path / "result.json")
    assert_refused_in_one_sentence(tmp_path / "result.json", sentence, capsys)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, capsys):
    """As root reads everything, the refusal is the operating system's in name only."""
    path = write(tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    assert_refused_in_one_sentence(path, "cannot be read: Permission denied", capsys)


def test_a_loop_of_folders_ends(tmp_path, capsys):
    write(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert compare([str(tmp_path)]) == 0


# ---------------------------------------------------------------- writing and kills


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"new": 1, "strange": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"old": 1}
    with pytest.raises(TypeError):
        write_result(tmp_path, result(hyperparameters={"strange": object()}), {})
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


def test_every_file_is_written_in_one_step(tmp_path, monkeypatch):
    """Its content is on the disk before it takes the old file's place, outputs and result alike."""
    write_result(tmp_path, result(), {"x": np.arange(3)})
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: steps.append("fsync") or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda old, new: steps.append(Path(new).name) or replace(old, new))
    write_result(tmp_path, result(), {"x": np.arange(4)})
    assert steps == ["fsync", "outputs.npz", "fsync", "result.json"]
    with np.load(tmp_path / "outputs.npz") as arrays:
        assert arrays["x"].tolist() == [0, 1, 2, 3]
    assert len({(tmp_path / name).stat().st_mode for name in ("outputs.npz", "result.json")}) == 1


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
import numpy as np
from result_files import result
from sqloss_plugins import results
from sqloss_plugins.folders import lock_folder

def kill(*args):
    os.kill(os.getpid(), signal.SIGKILL)

def half(file, **outputs):
    file.write(b"half")
    file.flush()
    kill()

if sys.argv[1] == "outputs":
    np.savez_compressed = half
else:
    steps = iter((os.fsync, kill))  # that of the outputs is done
    os.fsync = lambda handle: next(steps)(handle)
with lock_folder(Path.cwd()):
    results.write_result(Path.cwd(), result(), {"x": np.arange(3)})
"""


@pytest.mark.parametrize("moment", ["outputs", "result"])
def test_what_a_killed_process_leaves_is_removed(moment, tmp_path, capsys):
    """Partial files are never read, stay while another process has the folder, and are gone at the next claim."""
    for _ in range(2):
        command = [sys.executable, "-c", KILLED, moment, str(ROOT), str(ROOT / "tests")]
        assert subprocess.run(command, cwd=tmp_path, timeout=100).returncode == -signal.SIGKILL
    partial = list(tmp_path.glob(".*.partial"))
    assert len(partial) == 2
    assert not (tmp_path / "result.json").exists()
    assert compare([str(tmp_path)]) == 2
    assert "no run is finished there" in capsys.readouterr().err
    with lock_folder(tmp_path):
        with pytest.raises(UserError, match="another process is at work"), lock_folder(tmp_path):
            claim_folder(tmp_path, {"a": 1}, ("result.json",))
        assert list(tmp_path.glob(".*.partial")) == partial
        claim_folder(tmp_path, {"a": 1}, ("result.json",))
    assert list(tmp_path.glob(".*.partial")) == []
    assert write_result(tmp_path, result(), {"x": np.arange(3)}).is_file()


def test_a_folder_belongs_to_one_run(tmp_path):
    kept = ("result.json",)
    claim_folder(tmp_path, {"seed": 1}, kept)
    claim_folder(tmp_path, {"seed": 2}, kept)
    assert read_settings(tmp_path / "settings.json") == {"seed": 2}, "nothing was made with the first settings"
    write_result(tmp_path, result(), {})
    claim_folder(tmp_path, {"seed": 2}, kept)
    with pytest.raises(UserError, match=r"holds another run \(seed 2 -> 3\): choose another --output_dir"):
        claim_folder(tmp_path, {"seed": 3}, kept)
    assert read_settings(tmp_path / "settings.json") == {"seed": 2}
    (tmp_path / "settings.json").write_text(200_000 * "[")
    with pytest.raises(UserError, match="is damaged"):
        claim_folder(tmp_path, {"seed": 2}, kept)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(UserError, match="holds checkpoints or results of something else: choose another --tag"):
        claim_folder(tmp_path, {"seed": 2}, kept, "--tag")


def test_a_run_that_an_earlier_version_began(tmp_path):
    """It had no option `head`, and its runs are those with the option's default."""
    kept, defaults = ("result.json",), {"head": "plain", "never_a_setting": 1}
    claim_folder(tmp_path, {"seed": 1}, kept)
    write_result(tmp_path, result(), {})
    claim_folder(tmp_path, {"seed": 1, "head": "plain"}, kept, defaults=defaults)
    with pytest.raises(UserError, match=r"holds another run \(head 'plain' -> 'other'\)"):
        claim_folder(tmp_path, {"seed": 1, "head": "other"}, kept, defaults=defaults)
    with pytest.raises(UserError, match=r"holds another run \(head None -> 'plain'\)"):
        claim_folder(tmp_path, {"seed": 1, "head": "plain"}, kept)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to the output folder"), lock_folder(tmp_path / "file"):
        pass
    with pytest.raises(UserError, match="cannot write to the output folder"):
        claim_folder(tmp_path / "file", {}, ())


def test_a_folder_that_cannot_be_locked(tmp_path):
    (tmp_path / ".lock").mkdir()  # as where the file is another user's
    with pytest.raises(UserError, match="cannot lock the folder"), lock_folder(tmp_path):
        pass


def test_versions_are_looked_up_once():
    found = results.versions()
    found["python"] = "changed"
    assert results.versions()["python"] == ".".join(map(str, sys.version_info[:3]))
    assert results.versions()["sqloss_plugins"]


def test_a_bar_in_a_cell_of_a_table_stays_one():
    assert markdown_table([["a", "b"], ["x|y", "z"]]).splitlines()[2] == r"| x\|y | z |"

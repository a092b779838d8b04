"""What the tests of several command lines do alike."""

import os
import signal
import subprocess
import time


def assert_refused(main, options, program, message, folder, capsys):
    """One sentence, exit status 2, and nothing left behind in the folder."""
    assert main(options) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{program}: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert list(folder.iterdir()) == []


def assert_same_answers_without_logits(main, options, run, folder):
    """A saved model gives the answers of its own run, with and without the outputs of a batch."""
    options = [*options, "--do_predict", "--model_name_or_path", str(run)]
    for name in ("true", "false"):
        assert main([*options, "--without_logits", name, "--output_dir", str(folder / name)]) == 0
        assert (folder / name / "predict_results.tsv").read_text() == (run / "predict_results.tsv").read_text()


def kill_when(command, environment, folder, wanted):
    """Starts a command and kills it, with SIGKILL, as soon as the folder has what is wanted, but no result.

    Args:
        wanted: a pattern below the folder.

    Returns:
        What is left of its processes.
    """
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 600

    def is_there():  # and not only made, with nothing in it yet
        return any(path.stat().st_size for path in folder.glob(wanted))

    while not is_there() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert any(folder.glob(wanted))
    assert not (folder / "result.json").exists()
    return left_of(process.pid)


def left_of(session):
    """What is at work, one a line, of the processes of a session that are to end; some take a while to."""
    deadline = time.monotonic() + 20
    left = ["?"]
    while left and time.monotonic() < deadline:
        words = ["ps", "-o", "stat=,args=", "-s", str(session)]
        lines = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
        left = [line for line in lines if not line.startswith("Z")]  # which have ended, and nobody waits for them
        time.sleep(0.1)
    return left

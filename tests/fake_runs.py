"""A command that stands in for `sqloss classify`, so that a sweep's run takes a moment: it trains nothing.

Its steps are kept, so that it goes on where it was killed; and it has the lock of its folder, as the real ones do.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

STEPS = 10
SITE = """
import sqloss_plugins.cli as cli
cli.COMMANDS["classify"] = cli.COMMANDS["classify"]._replace(module="fake_runs")
"""


def python_path(folder):
    """`PYTHONPATH` that puts this command in the place of the real one; `folder` gets what does so."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    tests = Path(__file__).parent
    return os.pathsep.join(map(str, (folder, tests.parent, tests)))


def main(argv):
    from result_files import result

    from sqloss_plugins.errors import run_command
    from sqloss_plugins.folders import claim_folder, lock_folder
    from sqloss_plugins.results import RESULT_NAME, read_result, write_result

    parser = argparse.ArgumentParser()
    for name in ("train_file", "loss", "protocol", "cross_entropy_run", "refused", "broken"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--output_dir", type=Path)
    args, _ = parser.parse_known_args(argv)  # the others are the real command's
    print("fake: gpu", os.environ.get("CUDA_VISIBLE_DEVICES"), "threads", os.environ.get("OMP_NUM_THREADS"))
    if args.refused:
        print("fake: error: an option that is wrong", file=sys.stderr)
        return 2
    if args.broken == args.loss and args.learning_rate > 1e-3:
        print("one\ntwo\nfake: error: the training diverged")
        return 1

    def run():
        with lock_folder(args.output_dir):
            claim_folder(args.output_dir, {"argv": argv}, ("steps.json", RESULT_NAME))
            if (args.output_dir / RESULT_NAME).exists():
                raise SystemExit("a finished run was given again")
            kept = args.output_dir / "steps.json"
            done = json.loads(kept.read_text()) if kept.exists() else 0
            for step in range(done, STEPS):
                time.sleep(float(os.environ.get("FAKE_STEP_S", 0.03)))
                partial = kept.with_suffix(".partial")
                partial.write_text(json.dumps(step + 1))
                os.replace(partial, kept)
            epochs = read_result(Path(args.cross_entropy_run)).best_epoch if args.cross_entropy_run else 3.0
            accuracy = 0.7 + 10 * args.learning_rate * (1 if args.loss == "square" else -1) + 0.001 * args.seed
            made = result(args.loss, args.learning_rate, args.seed, accuracy, protocol=args.protocol, epochs=epochs)
            write_result(args.output_dir, made, {})

    return run_command("fake", run)

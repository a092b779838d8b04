"""Evaluation of language models with the outputs of a batch and without them, side by side in one process.

    python -m benchmarks.evaluation --json benchmarks/results/evaluation_cpu.json

One batch of the evaluation of SquareLossTrainer: loss, accuracy and negative log-likelihood by `square` and `softmax`,
of a GPT-2 and, with 15 % of its tokens masked, a BERT, each of one layer, with the square loss and the level rule.
Every round takes both ways in turn and in a new order; the table has medians over the rounds of the processor's time,
and of the ratio in each round. Peak memory is what a batch allocates beside the model.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from benchmarks.measure import Run, make_parser, peak_bytes, prepare, report, side_by_side
from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer
from sqloss_plugins.hf.language_models import new_config
from sqloss_plugins.hf.token_scores import IGNORE_INDEX, TokenScores
from sqloss_plugins.losses import LOSSES

SHAPES = [(4, 256, 50_000), (16, 256, 50_000), (16, 256, 10_000), (16, 256, 1_000)]
"""Examples in a batch, width, classes."""

LENGTH = 128
MASKED = 0.15
MODELS = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}


def one_batch(objective: str, rows: int, width: int, C: int, folder: str, device: str) -> dict[str, Run]:
    """What is timed: the evaluation of a batch, with logits and without."""
    model = MODELS[objective].from_config(new_config(objective, C, width, 1, 4, LENGTH)).to(device)
    ids = torch.randint(C, (rows, LENGTH), device=device)
    labels = ids
    if objective == "masked":
        labels = ids.masked_fill(torch.rand(rows, LENGTH, device=device) > MASKED, IGNORE_INDEX)
    runs: dict[str, Run] = {}
    for way in ("with", "without"):
        config = SquareLossConfig(
            folder, rescaling="level", without_logits=way == "without", report_to="none", use_cpu=device == "cpu"
        )
        found = config.choose_rescaling(C)
        assert found is not None, "the square loss has k and M"
        scores = TokenScores(LOSSES["square"].methods, found.k, found.M, shift_labels=objective == "causal")
        trainer = SquareLossTrainer(model, config, preprocess_logits_for_metrics=scores)

        def run(trainer: SquareLossTrainer = trainer) -> Any:
            return trainer.prediction_step(model.eval(), {"input_ids": ids, "labels": labels}, False)

        runs[way] = run
    return runs


def measure(objective: str, shape: tuple[int, int, int], rounds: int, device: str) -> dict[str, Any]:
    """One model: figures that agree, times and memory of both ways."""
    rows, width, C = shape
    with tempfile.TemporaryDirectory() as folder:
        runs = one_batch(objective, rows, width, C, folder, device)
    figures: list[Any] = [run() for run in runs.values()]  # loss, sums, labels
    torch.testing.assert_close(*(each[:2] for each in figures), rtol=1e-4, atol=1e-3)
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = side_by_side(runs, rounds, device, f"{objective}, {rows} rows, C {C}", clock)
    tokens = rows * LENGTH
    return {
        "objective": objective,
        "tokens": tokens,
        "scored": int(figures[0][1][:, 0].sum()),
        "d": width,
        "C": C,
        "tokens_per_s": {way: tokens / statistics.median(taken) for way, taken in times.items()},
        "speed": statistics.median(a / b for a, b in zip(times["with"], times["without"], strict=True)),
        "peak_mib": {way: peak_bytes(run, [], device) / 2**20 for way, run in runs.items()},
    }


def main() -> int:
    parser = make_parser(__doc__, rounds=5)
    args = parser.parse_args()
    prepare(parser, args)
    rows = [measure(objective, shape, args.rounds, args.device) for objective in MODELS for shape in SHAPES]
    table = [["objective", "tokens (scored)", "d, C", "tokens/s", "without", "speed", "peak MiB", "without", "share"]]
    for row in rows:
        speeds, peaks = row["tokens_per_s"], row["peak_mib"]
        table.append(
            [
                row["objective"],
                f"{row['tokens']} ({row['scored']})",
                f"{row['d']}, {row['C']}",
                *(f"{speeds[way]:.0f}" for way in ("with", "without")),
                f"{row['speed']:.2f}",
                *(f"{peaks[way]:.0f}" for way in ("with", "without")),
                f"{peaks['without'] / peaks['with']:.2f}",
            ]
        )
    report(table, rows, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())

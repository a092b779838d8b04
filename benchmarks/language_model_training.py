"""A training step of a language model with cross-entropy and the square loss, side by side in one process.

    python -m benchmarks.language_model_training --json benchmarks/results/language_model_training_cpu.json

A step of SquareLossTrainer: forward, loss, backward and AdamW, of the model that `sqloss lm` trains from scratch (a
GPT-2 of 4 layers and width 128, its output layer tied to its embedding) on a batch of 8 blocks of 128 tokens. The
square loss has the level rule's k and M, and takes turns with its outputs built and without. Every round takes all in
turn and in a new order; the table has medians over the rounds of the processor's time, and of the ratio in each round.
Peak memory is what a step allocates beside the model and its optimiser, the gradients included.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.measure import Run, make_parser, peak_bytes, prepare, report, side_by_side
from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer
from sqloss_plugins.hf.language_models import new_config

VOCABULARIES = (1024, 8192, 50_257)
WIDTH, LAYERS, HEADS, LENGTH, ROWS = 128, 4, 4, 128, 8
LOSSES: dict[str, dict[str, Any]] = {
    "cross_entropy": {"loss": "cross_entropy"},
    "square, with logits": {"loss": "square"},
    "square, without": {"loss": "square", "without_logits": True},
}


class Step:
    """A training step, of one loss, on the same batch again and again."""

    def __init__(self, options: dict[str, Any], C: int, device: str) -> None:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(new_config("causal", C, WIDTH, LAYERS, HEADS, LENGTH)).to(device)
        with tempfile.TemporaryDirectory() as folder:
            config = SquareLossConfig(
                folder, rescaling="level", learning_rate=1e-4, report_to="none", use_cpu=device == "cpu", **options
            )
        ids = torch.randint(C, (ROWS, LENGTH), device=device)
        self.batch = {"input_ids": ids, "labels": ids}
        self.model, self.trainer = model.train(), SquareLossTrainer(model, config)
        self.optimizer = self.trainer.create_optimizer()

    def __call__(self) -> torch.Tensor:
        """The loss before the step."""
        self.optimizer.zero_grad()
        loss: torch.Tensor = self.trainer.training_step(self.model, self.batch)
        self.optimizer.step()
        return loss


def measure(C: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Time and memory of a step by each loss, with a vocabulary of C."""
    steps = {name: Step(options, C, device) for name, options in LOSSES.items()}
    first = {}
    for name, step in steps.items():
        torch.manual_seed(0)  # of dropout, so that the same loss has the same value
        first[name] = step()
    torch.testing.assert_close(first["square, with logits"], first["square, without"], rtol=1e-4, atol=0.0)
    clock = time.process_time if device == "cpu" else time.perf_counter
    runs: dict[str, Run] = {**steps}
    times = side_by_side(runs, rounds, device, f"C {C}", clock)
    peaks = {name: peak_bytes(step, step.model.parameters(), device) / 2**20 for name, step in steps.items()}
    tokens = ROWS * LENGTH
    return [
        {
            "C": C,
            "parameters": sum(parameter.numel() for parameter in step.model.parameters()),
            "loss": name,
            "tokens_per_s": tokens / statistics.median(times[name]),
            "speed": statistics.median(a / b for a, b in zip(times["cross_entropy"], times[name], strict=True)),
            "peak_mib": peaks[name],
            "memory": peaks[name] / peaks["cross_entropy"],
        }
        for name, step in steps.items()
    ]


def main() -> int:
    parser = make_parser(__doc__, rounds=7)
    args = parser.parse_args()
    prepare(parser, args)
    rows = [row for C in VOCABULARIES for row in measure(C, args.rounds, args.device)]
    table = [["C", "parameters", "loss", "tokens/s", "speed / CE", "peak MiB", "memory / CE"]]
    for row in rows:
        table.append(
            [
                f"{row['C']}",
                f"{row['parameters'] / 1e6:.2f} M",
                row["loss"],
                f"{row['tokens_per_s']:.0f}",
                f"{row['speed']:.2f}",
                f"{row['peak_mib']:.0f}",
                f"{row['memory']:.2f}",
            ]
        )
    report(table, rows, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How many pairs of texts a second the models for pairs train on, with batches as they come and grouped by length.

    python -m benchmarks.pair_models --json benchmarks/results/pair_models_cpu.json
    python -m benchmarks.pair_models --precisions float32 --processor-time

A training step of 64 pairs with lengths as in MRPC (23.5 words on average, 7 to 48): forward, backward and optimiser,
in float32 and in mixed bfloat16 (--bf16). Grouped by length is --train_sampling_strategy group_by_length.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.trainer_pt_utils import LengthGroupedSampler

from benchmarks.measure import add_processor_time, clock_of, make_parser, prepare, report, side_by_side
from sqloss_plugins.models import ARCHITECTURES

PAIRS, BATCH, WORDS = 3668, 64, 12443  # MRPC's training data
MEAN, DEVIATION, CORRELATION, SHORTEST, LONGEST = 23.5, 6.4, 0.71, 7, 48
PRECISIONS = ["float32", "bfloat16"]
STEPS = 6  # in each run, evenly out of the epoch


def lengths() -> Tensor:
    """Words of both texts of each pair, shape (PAIRS, 2)."""
    common, own = torch.randn(PAIRS, 1), torch.randn(PAIRS, 2)
    drawn = CORRELATION**0.5 * common + (1 - CORRELATION) ** 0.5 * own
    found: Tensor = (MEAN + DEVIATION * drawn).round().clamp(SHORTEST, LONGEST).long()
    return found


def batches(sizes: Tensor, is_grouped: bool, device: str) -> list[dict[str, Tensor]]:
    """Some batches of an epoch."""
    order = torch.randperm(PAIRS).tolist()
    if is_grouped:
        order = list(LengthGroupedSampler(BATCH, lengths=sizes.sum(1).tolist()))
    whole = [order[start : start + BATCH] for start in range(0, PAIRS - BATCH + 1, BATCH)]
    return [_batch(sizes[rows], device) for rows in whole[:: len(whole) // STEPS][:STEPS]]


def _batch(sizes: Tensor, device: str) -> dict[str, Tensor]:
    column = torch.arange(int(sizes.sum(1).max()))
    is_word, is_second = column < sizes.sum(1, keepdim=True), column >= sizes[:, :1]
    ids = torch.randint(2, WORDS, is_word.shape) * is_word
    columns = {"input_ids": ids, "token_type_ids": (is_second & is_word).long(), "attention_mask": is_word.long()}
    return {name: values.to(device) for name, values in columns.items()}


class Training:
    """Steps of one model, in one precision, over some batches again and again."""

    def __init__(self, arch: str, precision: str, data: list[dict[str, Tensor]], device: str) -> None:
        entry = ARCHITECTURES[arch]
        self.model = entry.model(entry.config(vocab_size=WORDS, num_labels=2)).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.0)
        self.precision, self.device = precision, device
        self.batches: Iterator[dict[str, Tensor]] = cycle(data)
        self.labels = torch.randint(0, 2, (BATCH,), device=device)

    def __call__(self) -> None:
        """Some steps."""
        for _ in range(STEPS):
            self.optimizer.zero_grad()
            with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16"):
                outputs = self.model(**next(self.batches)).logits
            F.cross_entropy(outputs.float(), self.labels).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


def main() -> int:
    parser = make_parser(__doc__, rounds=3)
    parser.set_defaults(threads=1)
    add_processor_time(parser)
    parser.add_argument(
        "--precisions",
        nargs="+",
        default=PRECISIONS,
        choices=PRECISIONS,
        metavar="NAME",
        help=f"some of {', '.join(PRECISIONS)}; bfloat16 is slow on a CPU that has no instructions for it",
    )
    args = parser.parse_args()
    clock = clock_of(parser, args)
    prepare(parser, args)
    sizes = lengths()
    data = {name: batches(sizes, name == "grouped", args.device) for name in ("random", "grouped")}
    runs = {
        (arch, precision, order): Training(arch, precision, data[order], args.device)
        for arch in ARCHITECTURES
        for precision in dict.fromkeys(args.precisions)
        for order in data
    }
    named = {" ".join(key): run for key, run in runs.items()}
    times = side_by_side(named, args.rounds, args.device, "models for pairs", clock)
    rows: list[dict[str, object]] = []
    table = [["model", "parameters beside word vectors", "precision", "batches", "pairs/s"]]
    for (arch, precision, order), taken in zip(runs, times.values(), strict=True):
        named_parameters = runs[arch, precision, order].model.named_parameters()
        parameters = sum(p.numel() for name, p in named_parameters if not name.startswith("embedding"))
        rate = STEPS * BATCH / statistics.median(taken)
        table.append([arch, str(parameters), precision, order, f"{rate:.0f}"])
        row = {"arch": arch, "parameters": parameters, "precision": precision, "order": order, "pairs_per_s": rate}
        rows.append(row)
    report(table, rows, args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

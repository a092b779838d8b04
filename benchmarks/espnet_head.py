"""What the attention decoder's output layer and its loss cost in a training step of ESPnet's model.

    python -m benchmarks.espnet_head --json benchmarks/results/espnet_head_cpu.json

The recipe's Transformer for LibriSpeech, on utterances of 12 s with 45 tokens each: a whole training step, forward and
backward, beside the layer and the square loss alone, with the outputs and without (``linear_square_loss``). What could
be saved of a step by doing without the outputs is the difference.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks.asr import ASRTask

from benchmarks.measure import make_parser, prepare, report, side_by_side
from sqloss_plugins.espnet import MODEL_NAME
from sqloss_plugins.losses import linear_square_loss

CONFIG = Path(__file__).parent.parent / "recipes/librispeech/conf/tuning/train_asr_transformer.yaml"
PIECES = (1000, 5000)
UTTERANCES, SECONDS, TOKENS = 8, 12.0, 45


def build(config: Path, pieces: int) -> ESPnetASRModel:
    """The recipe's model with the square loss, for so many pieces."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--config", str(config), "--model", MODEL_NAME, "--output_dir", folder, "--normalize", "none"]
        options += ["--model_conf", "k=15", "--model_conf", "M=30", "--model_conf", "lsm_weight=0.0"]
        args = ASRTask.get_parser().parse_args(options)
    names = ["<blank>", "<unk>", *(f"piece{i}" for i in range(pieces - 3)), "<sos/eos>"]
    model: ESPnetASRModel = ASRTask.build_model(argparse.Namespace(**{**vars(args), "token_list": names}))
    return model


def measure(pieces: int, rounds: int, device: str) -> dict[str, float]:
    """Milliseconds, medians over the rounds, and shares of a step, medians of the rounds' own."""
    model = build(CONFIG, pieces).to(device).train()
    layer = model.decoder.output_layer
    samples = int(16000 * SECONDS)
    speech = torch.randn(UTTERANCES, samples, device=device)
    text = torch.randint(2, pieces - 1, (UTTERANCES, TOKENS), device=device)
    lengths = [torch.full((UTTERANCES,), length, device=device) for length in (samples, TOKENS)]
    rows = UTTERANCES * (TOKENS + 1)
    hidden = torch.randn(rows, layer.in_features, device=device, requires_grad=True)
    target = torch.randint(0, pieces, (rows,), device=device)

    def step() -> None:
        model.zero_grad()
        model(speech, lengths[0], text, lengths[1])[0].backward()

    def head(impl: str) -> Callable[[], None]:
        def run() -> None:
            hidden.grad = layer.weight.grad = layer.bias.grad = None
            loss = linear_square_loss(hidden, layer.weight, target, linear_bias=layer.bias, k=15, M=30, impl=impl)
            loss.backward()  # type: ignore[no-untyped-call]

        return run

    runs = {"step": step, "direct": head("direct"), "gram": head("gram")}
    times = side_by_side(runs, rounds, device, f"{pieces} pieces")
    found = {f"{name}_ms": 1e3 * statistics.median(taken) for name, taken in times.items()}
    share = statistics.median(a / b for a, b in zip(times["direct"], times["step"], strict=True))
    triples = zip(times["direct"], times["gram"], times["step"], strict=True)
    return {"pieces": pieces, "rows": rows, **found, "share": share} | {
        "saved": statistics.median((a - b) / c for a, b, c in triples)
    }


def main() -> int:
    parser = make_parser(__doc__, rounds=7)
    args = parser.parse_args()
    prepare(parser, args)
    found = [measure(pieces, args.rounds, args.device) for pieces in PIECES]
    table = [["pieces", "rows", "step, ms", "head, ms", "head without outputs, ms", "head / step", "saved of a step"]]
    for row in found:
        times = [f"{row[name]:.1f}" for name in ("step_ms", "direct_ms", "gram_ms")]
        shares = [f"{100 * row[name]:.2f} %" for name in ("share", "saved")]
        table.append([f"{row['pieces']:.0f}", f"{row['rows']:.0f}", *times, *shares])
    report(table, found, args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

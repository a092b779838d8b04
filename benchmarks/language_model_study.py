"""What the square loss lacks as the loss of a language model: variants of it beside cross-entropy, on one small model.

    python -m benchmarks.language_model_study --data-dir text --json benchmarks/results/language_model_study.json
    python -m benchmarks.language_model_study --data-dir text --only cross_entropy prior --seeds 1 2 3 --steps 1200

The folder has ``valid.txt`` and ``test.txt`` of WikiText-2 (pytorch/examples has them in word_language_model/data).
Training text is the first, and four fifths of the second; validation and test text are a tenth of the second each. A
byte-level BPE of 2048 tokens; windows of 64 tokens, 16 a step; a transformer of two layers, width 128, its output layer
apart from its embedding, with a bias; AdamW, a warm-up over a twentieth of the steps, linear decay. Figures that the
file has already are not made again. Probabilities of the square loss: p = f / (k M - (k - 1) f), but at least a share
of the token's frequency, which the validation text chooses.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor, nn

from benchmarks.measure import in_words, make_parser, prepare, save
from sqloss_plugins.losses import linear_square_loss, prior_weights, squentropy_loss
from sqloss_plugins.results import device_name, markdown_table, versions

VOCABULARY, WINDOW, BATCH, WIDTH, LAYERS, HEADS = 2048, 64, 16, 128, 2, 4
SHARES = (0.2, 0.1, 0.05, 0.02)  # of a token's frequency, its least probability after the square loss


@dataclass(frozen=True)
class Variant:
    """A loss, and how the output layer begins and is trained; k = 0 stands for no rescaling."""

    loss: str = "square"
    learning_rate: float = 3e-3
    prior_exponent: float = 0.0  # a: the loss has the prior weights v = (C p)^a
    row_exponent: float = 1.0  # the rows of the output layer are v to this power times those that are trained
    k: float = 15.0
    M: float = 0.0  # 0: that of the level rule
    bias_at_prior: bool = True
    tied: bool = False
    wide: int = 0  # so many features for the output layer, made of the hidden state by a layer of their own; 0: none
    first: float = 0.0  # share of the steps with cross-entropy, before a new output layer and this loss
    later_rate: float = 0.5  # times the learning rate: that after such a beginning


_CE = Variant("cross_entropy")
_PRIOR = Variant(prior_exponent=1.0, k=5.0, M=256.0)
_LEVEL = replace(_PRIOR, M=32.0, k=15.0, prior_exponent=0.75)
VARIANTS: dict[str, Variant] = {
    "cross_entropy": _CE,
    "cross_entropy, lr 1.5e-3": replace(_CE, learning_rate=1.5e-3),
    "cross_entropy, lr 6e-3": replace(_CE, learning_rate=6e-3),
    "cross_entropy, bias at 0": replace(_CE, bias_at_prior=False),
    "cross_entropy, tied": replace(_CE, tied=True),
    "cross_entropy, wide": replace(_CE, wide=512),
    "squentropy": replace(_CE, loss="squentropy"),
    "square": Variant(),
    "square, bias at 0": Variant(bias_at_prior=False),
    "square, tied": Variant(tied=True),
    "square, lr 1.5e-3": Variant(learning_rate=1.5e-3),
    "square, lr 6e-3": Variant(learning_rate=6e-3),
    "prior": _PRIOR,
    "prior, lr 1.5e-3": replace(_PRIOR, learning_rate=1.5e-3),
    "prior, lr 6e-3": replace(_PRIOR, learning_rate=6e-3),
    "prior, lr 1e-2": replace(_PRIOR, learning_rate=1e-2),
    "prior, a = 3/4": replace(_PRIOR, prior_exponent=0.75),
    "prior, a = 1/2": replace(_PRIOR, prior_exponent=0.5),
    "prior, M = 64": replace(_PRIOR, M=64.0),
    "prior, M = 32, k = 15, a = 3/4": _LEVEL,
    "prior, M = 32, k = 15, a = 3/4, lr 1.5e-3": replace(_LEVEL, learning_rate=1.5e-3),
    "prior, M = 32, k = 15, a = 3/4, lr 6e-3": replace(_LEVEL, learning_rate=6e-3),
    "prior, M = 32, k = 15, a = 3/4, wide": replace(_LEVEL, wide=512),
    "prior, M = 32, k = 15, a = 1/2": replace(_LEVEL, prior_exponent=0.5),
    "prior, M = 64, a = 3/4, lr 6e-3": replace(_PRIOR, M=64.0, prior_exponent=0.75, learning_rate=6e-3),
    "prior, M = 128, lr 6e-3": replace(_PRIOR, M=128.0, learning_rate=6e-3),
    "prior, M = 16": replace(_PRIOR, M=16.0),
    "prior, M = 64, k = 2": replace(_PRIOR, M=64.0, k=2.0),
    "prior, M = 64, a = 3/4": replace(_PRIOR, M=64.0, prior_exponent=0.75),
    "prior, M = 64, lr 6e-3": replace(_PRIOR, M=64.0, learning_rate=6e-3),
    "prior, M = 1024": replace(_PRIOR, M=1024.0),
    "prior, k = 1": replace(_PRIOR, k=1.0),
    "prior, k = 2": replace(_PRIOR, k=2.0),
    "prior, k = 15": replace(_PRIOR, k=15.0),
    "prior, bias at 0": replace(_PRIOR, bias_at_prior=False),
    "prior, rows half": replace(_PRIOR, row_exponent=0.5),
    "prior after cross_entropy": replace(_PRIOR, first=2 / 3),
    "log-Taylor": Variant("log_taylor", prior_exponent=1.0),
}


class Block(nn.Module):
    """A layer of the transformer, normalised first."""

    def __init__(self) -> None:
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attend, self.mix = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, of the input's shape, (batch, length, width)."""
        parts = self.attend(self.first_norm(x)).chunk(3, 2)
        query, key, value = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in parts)
        x = x + self.mix(F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2))
        narrowed: Tensor = self.narrow(F.gelu(self.widen(self.second_norm(x))))
        return x + narrowed


class Body(nn.Module):
    """The transformer without its output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(WINDOW, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden states, of shape (tokens, width)."""
        hidden: Tensor = self.norm(self.blocks(self.embedding(tokens) + self.position.weight))
        return hidden.flatten(0, 1)


class Head(nn.Module):
    """The output layer and its loss.

    Args:
        variant: what they are.
        counts: how often each token occurs.
        embedding: its weight, if that is the embedding's.
    """

    def __init__(self, variant: Variant, counts: Tensor, embedding: Tensor) -> None:
        super().__init__()
        self.variant = variant
        self.prior = counts / counts.sum()
        wide = variant.wide
        self.widen = nn.Sequential()
        if wide:
            self.widen.extend([nn.Linear(WIDTH, wide), nn.GELU(), nn.LayerNorm(wide)])
        self.weight = embedding if variant.tied else nn.Parameter(0.02 * torch.randn(VOCABULARY, wide or WIDTH))
        self.v = prior_weights(counts, variant.prior_exponent)
        self.rows = self.v**variant.row_exponent if variant.loss == "square" else torch.ones(VOCABULARY)
        self.M = variant.M or math.sqrt(VOCABULARY * math.log(VOCABULARY) / variant.k)
        bias = torch.zeros(VOCABULARY)
        k = variant.k
        if variant.bias_at_prior and variant.loss == "square":
            bias = k * self.M * self.prior / (1.0 + (k - 1.0) * self.prior) / self.rows
        elif variant.bias_at_prior and variant.loss != "log_taylor":  # which begins at v / C as it is
            bias = self.prior.log() - self.prior.log().mean()
        self.bias = nn.Parameter(bias.float())

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The mean over the tokens, from hidden states of shape (tokens, width)."""
        variant, hidden = self.variant, self.widen(hidden)
        W, b = self.weight, self.bias
        if variant.loss == "square":
            return linear_square_loss(
                hidden,
                W * self.rows[:, None],
                targets,
                linear_bias=b * self.rows,
                k=variant.k,
                M=self.M,
                prior_weight=self.v if variant.prior_exponent else None,
                impl="gram",
            )
        if variant.loss == "log_taylor":  # p = v (1 + f + f^2 / 2), normalised; without the outputs
            root = self.v.sqrt()
            W2, b2 = W * root[:, None], b * root
            squares = ((hidden @ (W2.T @ W2)) * hidden).sum(1) + 2.0 * (hidden @ (W2.T @ b2)) + b2 @ b2
            total = self.v.sum() + hidden @ (self.v @ W) + self.v @ b + squares / 2.0
            f = (hidden * W[targets]).sum(1) + b[targets]
            return (total.log() - (1.0 + f + f.square() / 2.0).log()).mean()
        of_outputs = F.cross_entropy if variant.loss == "cross_entropy" else squentropy_loss
        return of_outputs(F.linear(hidden, W, b), targets)

    def probabilities(self, hidden: Tensor) -> dict[str, Tensor]:
        """By method, what is in proportion to the probabilities, of shape (tokens, C)."""
        f = F.linear(self.widen(hidden), self.weight, self.bias)
        if self.variant.loss == "square":
            k, M = self.variant.k, self.M
            f = (f * self.rows).clamp(0.0, M)
            p = f / (f + k * (M - f))
            return {f"at least {share:g} of the frequency": p.maximum(share * self.prior) for share in SHARES}
        if self.variant.loss == "log_taylor":
            return {"Taylor": self.v * (1.0 + f + f.square() / 2.0)}
        return {"softmax": f.softmax(1)}


def load(folder: Path) -> dict[str, Tensor]:
    """Inputs and targets of each split, of shape (2, windows, WINDOW)."""
    first, second = ((folder / name).read_text(encoding="utf-8") for name in ("valid.txt", "test.txt"))
    lines = second.splitlines(keepends=True)
    cuts = [int(0.8 * len(lines)), int(0.9 * len(lines))]
    texts = {
        "train": first + "".join(lines[: cuts[0]]),
        "validation": "".join(lines[cuts[0] : cuts[1]]),
        "test": "".join(lines[cuts[1] :]),
    }
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([texts["train"]], vocab_size=VOCABULARY, min_frequency=2, show_progress=False)
    windows = {}
    for split, text in texts.items():
        ids = torch.tensor(tokenizer.encode(text).ids)
        count = (len(ids) - 1) // WINDOW * WINDOW
        windows[split] = torch.stack([ids[:count].view(-1, WINDOW), ids[1 : count + 1].view(-1, WINDOW)])
    return windows


def batches(count: int) -> Iterator[Tensor]:
    """Numbers of windows, whole batches of them, over and over in a new order."""
    while True:
        yield from (part for part in torch.split(torch.randperm(count), BATCH) if len(part) == BATCH)


def train(variant: Variant, windows: dict[str, Tensor], steps: int, seed: int) -> tuple[Body, Head]:
    """A trained model."""
    torch.manual_seed(seed)
    inputs, targets = windows["train"]
    counts = torch.bincount(targets.flatten(), minlength=VOCABULARY) + 1.0
    body = Body()
    numbers = batches(len(inputs))
    phases = [(variant, steps)]
    if variant.first:
        before, rate = round(variant.first * steps), variant.learning_rate
        after = replace(variant, learning_rate=variant.later_rate * rate)
        phases = [(replace(_CE, learning_rate=rate), before), (after, steps - before)]
    for phase, length in phases:
        head = Head(phase, counts, body.embedding.weight)
        parameters = {id(parameter): parameter for parameter in (*body.parameters(), *head.parameters())}
        optimizer = torch.optim.AdamW(parameters.values(), lr=phase.learning_rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(length))
        for _ in range(length):
            number = next(numbers)
            optimizer.zero_grad()
            loss = head.loss(body(inputs[number]), targets[number].flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return body, head


def _rate(steps: int) -> Callable[[int], float]:
    warmup = max(1, steps // 20)
    return lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup))


def states(body: Body, split: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some hidden states at a time, of shape (tokens, width), and their targets, of shape (tokens)."""
    for inputs, targets in zip(*(torch.split(part, 2 * BATCH) for part in split), strict=True):
        yield body(inputs), targets.flatten()


@torch.no_grad()
def score(head: Head, parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, dict[str, float]]:
    """Accuracy in percent, and perplexity by method, of such states and targets."""
    count, right, nll = 0, 0.0, dict.fromkeys(head.probabilities(torch.zeros(1, WIDTH)), 0.0)
    for hidden, true in parts:
        for method, p in (found := head.probabilities(hidden)).items():
            nll[method] -= float((p.gather(1, true[:, None])[:, 0] / p.sum(1)).log().sum())
        right += float((next(iter(found.values())).argmax(1) == true).sum())
        count += len(true)
    return 100.0 * right / count, {method: math.exp(value / count) for method, value in nll.items()}


def measure(name: str, windows: dict[str, Tensor], steps: int, seed: int) -> dict[str, object]:
    """One training, as a row of figures."""
    started = time.process_time()
    body, head = train(VARIANTS[name], windows, steps, seed)
    seconds = time.process_time() - started
    accuracy, perplexity = score(head, states(body, windows["validation"]))
    test_accuracy, test_perplexity = score(head, states(body, windows["test"]))
    chosen = min(perplexity, key=lambda method: perplexity[method])
    return {
        "variant": name,
        "steps": steps,
        "seed": seed,
        "validation_perplexity": perplexity[chosen],
        "validation_accuracy": accuracy,
        "test_perplexity": test_perplexity[chosen],
        "test_accuracy": test_accuracy,
        "probabilities": chosen,
        "processor_s": seconds,
        **asdict(VARIANTS[name]),
    }


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program over options that cannot be."""
    prepare(parser, args)
    if args.device != "cpu":
        parser.error("this study is for a CPU")
    missing = [name for name in ("valid.txt", "test.txt") if not (args.data_dir / name).is_file()]
    if missing:
        parser.error(f"--data-dir {args.data_dir} has no {' and no '.join(missing)}")
    if args.steps < 3:
        parser.error("--steps must be at least 3")


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is asked for, and prints a table; returns the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with WikiText-2's valid.txt and test.txt")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    args = parser.parse_args(argv)
    check(parser, args)
    rows = json.loads(args.json.read_text())["rows"] if args.json and args.json.is_file() else []
    windows = load(args.data_dir)
    environment = {"device": device_name("cpu"), **versions()}
    for seed in args.seeds:
        for name in args.only:
            if not any((row["variant"], row["steps"], row["seed"]) == (name, args.steps, seed) for row in rows):
                rows.append(measure(name, windows, args.steps, seed))
                save(args.json, {"environment": environment, "rows": rows})
                print(f"{name}, seed {seed}: {rows[-1]['validation_perplexity']:.2f}", flush=True)
    print(f"\n{markdown_table(table(rows, args.steps))}\n\n{in_words(environment)}")
    return 0


def table(rows: Sequence[dict[str, Any]], steps: int) -> list[list[str]]:
    """The rows of so many steps; mean and standard deviation over the seeds, where there are several."""
    columns = ("validation_perplexity", "validation_accuracy", "test_perplexity", "test_accuracy")
    lines = [["variant", "seeds", *(column.replace("_", " ") for column in columns)]]
    for name in VARIANTS:
        of_name = [row for row in rows if row["variant"] == name and row["steps"] == steps]
        if of_name:
            found = torch.tensor([[row[column] or math.nan for column in columns] for row in of_name])
            spread = found.std(0) if len(found) > 1 else torch.full((len(columns),), math.nan)
            cells = [
                "-" if math.isnan(mean) else f"{mean:.2f}" + ("" if math.isnan(std) else f" +- {std:.2f}")
                for mean, std in zip(found.mean(0).tolist(), spread.tolist(), strict=True)
            ]
            lines.append([name, str(len(found)), *cells])
    return lines


if __name__ == "__main__":
    raise SystemExit(main())

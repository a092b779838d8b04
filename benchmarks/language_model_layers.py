"""How much of the square loss's distance to cross-entropy in a language model is the output layer's form.

    python -m benchmarks.language_model_layers --data-dir text --json benchmarks/results/language_model_layers.json

Models of benchmarks.language_model_study are trained, one by cross-entropy and one by the prior-weighted square loss.
Then their bodies are kept, and new output layers are fitted to the hidden states of the training text: that of the
square loss by its minimiser, which has a closed form, and that of cross-entropy by Adam, over an epoch. With the
hidden states given, the square loss is a least-squares problem of its own for each class, so that the prior weights
and M change nothing. Random features of the hidden states, a linear layer and GELU, tell what more of them would do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import language_model_study as study
from benchmarks.language_model_study import VARIANTS, Head
from benchmarks.measure import in_words, make_parser, save
from sqloss_plugins.results import device_name, markdown_table, versions

BODIES = ("cross_entropy", "prior, M = 32, k = 15, a = 3/4")
SQUARES = {
    "square, k = 1, its minimiser": study.Variant(k=1.0),
    "square, k = 15, its minimiser": study.Variant(k=15.0),
    "square, k = 1, its minimiser on 512 random features": study.Variant(k=1.0, wide=512),
}
RIDGE = 1e-6  # of the mean of the diagonal, so that a class that hardly occurs has a solution
EPOCHS, RATE, ROWS = 1, 3e-3, 1024
SCORED = 32 * ROWS  # tokens of the training text, the first ones


@torch.no_grad()
def least_squares(hidden: Tensor, targets: Tensor, head: Head) -> None:
    """Gives the layer the weight and bias of the square loss's minimiser.

    For class i it solves (H^T H + (k - 1) H_i^T H_i) w = k M H_i^T 1, where H_i are the rows whose class is i.
    """
    k, M = head.variant.k, head.M

    def rows(part: Tensor) -> Tensor:
        return F.pad(head.widen(part), (0, 1), value=1.0).double()

    size = head.weight.shape[1] + 1
    every = torch.zeros(size, size, dtype=torch.double)
    sums = torch.zeros(len(head.weight), size, dtype=torch.double)
    for part, true in zip(torch.split(hidden, ROWS), torch.split(targets, ROWS), strict=True):
        given = rows(part)
        every += given.T @ given
        sums.index_add_(0, true, given)
    every += RIDGE * every.diagonal().mean() * torch.eye(size, dtype=every.dtype)
    if k == 1.0:
        found = M * torch.linalg.solve(every, sums.T).T
    else:
        of_class = torch.split(hidden[targets.argsort()], torch.bincount(targets, minlength=len(sums)).tolist())
        products = ((own := rows(part)).T @ own for part in of_class)
        found = (
            k
            * M
            * torch.stack([torch.linalg.solve(every + (k - 1.0) * p, t) for p, t in zip(products, sums, strict=True)])
        )
    head.weight.copy_(found[:, :-1])
    head.bias.copy_(found[:, -1])


def fit_softmax(hidden: Tensor, targets: Tensor, head: Head) -> None:
    """Trains the layer alone by cross-entropy, with a rate that falls to 0."""
    optimizer = torch.optim.Adam(head.parameters(), lr=RATE)
    steps = EPOCHS * (len(targets) // ROWS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
    while schedule.last_epoch < steps:
        for rows in torch.split(torch.randperm(len(targets)), ROWS)[: len(targets) // ROWS]:
            optimizer.zero_grad()
            head.loss(hidden[rows], targets[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def row(body: str, layer: str, head: Head, states: dict[str, tuple[Tensor, Tensor]]) -> dict[str, object]:
    """Perplexity and accuracy of a layer on the hidden states of every split."""
    found: dict[str, object] = {"body": body, "layer": layer}
    chosen = None
    for split in ("validation", "train", "test"):
        hidden, targets = (part[:SCORED] if split == "train" else part for part in states[split])
        parts = zip(torch.split(hidden, ROWS), torch.split(targets, ROWS), strict=True)
        accuracy, perplexity = study.score(head, parts)
        chosen = chosen or min(perplexity, key=lambda method: perplexity[method])
        found |= {f"{split}_perplexity": perplexity[chosen], f"{split}_accuracy": accuracy}
    return found | {"probabilities": chosen}


def measure(name: str, windows: dict[str, Tensor], steps: int, seed: int) -> list[dict[str, object]]:
    """One body with its own layer, and with layers fitted to its hidden states."""
    body, own = study.train(VARIANTS[name], windows, steps, seed)
    with torch.no_grad():
        parts = {split: zip(*study.states(body, part), strict=True) for split, part in windows.items()}
        states = {split: (torch.cat(next(part)), torch.cat(next(part))) for split, part in parts.items()}
    hidden, targets = states["train"]
    counts = torch.bincount(targets, minlength=study.VOCABULARY) + 1.0
    rows = [row(name, "its own", own, states)]
    for layer, variant in SQUARES.items():
        head = Head(variant, counts, body.embedding.weight)
        least_squares(hidden, targets, head)
        rows.append(row(name, layer, head, states))
    head = Head(VARIANTS["cross_entropy"], counts, body.embedding.weight)
    fit_softmax(hidden, targets, head)
    return [*rows, row(name, "cross_entropy, fitted", head, states)]


def main(argv: Sequence[str] | None = None) -> int:
    """Trains and fits, and prints a table; returns the exit status."""
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with WikiText-2's valid.txt and test.txt")
    parser.add_argument("--steps", type=int, default=400, help="of the bodies (default 400)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    study.check(parser, args)
    windows = study.load(args.data_dir)
    environment = {"device": device_name("cpu"), **versions()}
    rows: list[dict[str, object]] = []
    for name in BODIES:
        rows += measure(name, windows, args.steps, args.seed)
        save(args.json, {"environment": environment, "steps": args.steps, "seed": args.seed, "rows": rows})
    columns = [f"{split}_{what}" for split in ("train", "validation", "test") for what in ("perplexity", "accuracy")]
    table = [["body", "layer", *(column.replace("_", " ") for column in columns)]]
    table += [[str(line["body"]), str(line["layer"]), *(f"{line[c]:.2f}" for c in columns)] for line in rows]
    print(f"{markdown_table(table)}\n\n{in_words(environment)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Small experiments on one question each: where does the square loss differ from cross-entropy?

Every study trains models of a few thousand parameters, on data that is made here or ships with scikit-learn, and
returns its numbers as tables. Nothing is downloaded, and all of them together take about a minute of one processor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from sqloss_plugins.experiments.small_models import (
    DIMENSIONS,
    Loss,
    Training,
    clusters,
    digits,
    drawn,
    perceptron,
    steps_until,
    train,
)
from sqloss_plugins.experiments.statistics import deviation_ratio, standard_deviation
from sqloss_plugins.experiments.tables import Cell, Table
from sqloss_plugins.paper import choose_rescaling

if TYPE_CHECKING:
    from torch import Tensor

P = ParamSpec("P")

CROSS_ENTROPY, SQUARE, BEHIND_SOFTMAX, BEHIND_SIGMOID = (
    "cross-entropy",
    "square",
    "square behind softmax",
    "square behind sigmoid",
)
MOST_STEPS = 10_000
"""Of the single neuron."""
_HIDDEN = 64
"""Units of the hidden layer of every network."""


@dataclass(frozen=True)
class Study:
    """What one experiment found.

    Attributes:
        name: of its files.
        question: what it was made for.
        tables: the first is the result, the others are the numbers of the figure's lines.
    """

    name: str
    question: str
    tables: Sequence[Table]


def _on_processor(study: Callable[P, Study]) -> Callable[P, Study]:
    """A study on the processor, whatever PyTorch's default device is."""

    @wraps(study)
    def run(*args: P.args, **options: P.kwargs) -> Study:
        import torch

        with torch.device("cpu"):
            return study(*args, **options)

    return run


def _table(name: str, title: str, records: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> Table:
    """A table whose columns are the records' fields."""

    def cell(value: Any) -> Cell:
        if isinstance(value, float):
            return Cell(f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.0e}", value)
        return Cell("-" if value is None else str(value))

    columns = [field.replace("_", " ") for field in records[0]]
    return Table(
        name, title, columns, [[cell(value) for value in record.values()] for record in records], records, notes
    )


def _cross_entropy() -> Loss:
    import torch.nn.functional as F

    return partial(F.cross_entropy, reduction="sum")


def _square(k: float = 1.0, M: float = 1.0) -> Loss:
    from sqloss_plugins.losses import square_loss

    return partial(square_loss, reduction="sum", k=k, M=M)


def _behind_softmax() -> Loss:
    """The mean squared error of probabilities, which is what the square loss is often taken for."""
    loss = _square()
    return lambda outputs, targets: loss(outputs.softmax(1), targets)


# ---------------------------------------------------------------- the saturated neuron


@_on_processor
def saturated(steps: int = 300) -> Study:
    """What a start that is confidently wrong costs: a network for digits, and one neuron.

    The neuron's weight and bias begin at half of each start, its input is 1 and its target 0.
    """
    return Study(
        "saturated",
        "Does the square loss stall where a model begins confidently wrong?",
        [_wrong_classifiers((0, 4, 8, 16), steps), *_neurons((0, 2, 4, 6, 8, 10), 0.15)],
    )


def _neurons(starts: Sequence[float], rate: float) -> tuple[Table, Table]:
    import torch
    import torch.nn.functional as F

    from sqloss_plugins.losses import multilabel_square_loss

    losses: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
        BEHIND_SIGMOID: (lambda z, q: multilabel_square_loss(z.sigmoid(), q, reduction="sum"), True),
        CROSS_ENTROPY: (partial(F.binary_cross_entropy_with_logits, reduction="sum"), True),
        SQUARE: (partial(multilabel_square_loss, reduction="sum"), False),
    }
    steps, curves = [], []
    for name, (loss, has_sigmoid) in losses.items():
        w = (torch.tensor(list(starts), dtype=torch.float64) / 2)[:, None].requires_grad_()
        b = w.detach().clone().requires_grad_()
        target = torch.zeros_like(b)
        first: list[float] = []
        reached: dict[float, int] = {}
        for step in range(MOST_STEPS + 1):
            z = w + b
            y = z.sigmoid() if has_sigmoid else z
            error = y.detach()[:, 0].tolist()
            reached = {start: step for start, e in zip(starts, error, strict=True) if e < 0.5} | reached
            if step in (0, 1, 2, 5) or step % 10 ** max(1, int(math.log10(max(step, 1)))) == 0:
                curves.append({"loss": name, "step": step, "start": float(starts[-2]), "output": error[-2]})
            gradient_w, gradient_b = torch.autograd.grad(loss(z, target), (w, b))
            first = first or gradient_b[:, 0].tolist()
            w, b = (w - rate * gradient_w).detach().requires_grad_(), (b - rate * gradient_b).detach().requires_grad_()
            if len(reached) == len(starts) and step >= 1000:
                break
        for start, gradient in zip(starts, first, strict=True):
            steps.append({"loss": name, "start": float(start), "gradient": gradient, "steps": reached.get(start)})
    notes = [f"One neuron, rate {rate:g}: its gradient at the start, and steps until its output is below 1/2; "
             f"- where {MOST_STEPS} steps were not enough"]  # fmt: skip
    return (
        _table("neuron", "One neuron that should be 0", steps, notes),
        _table("neuron_curves", "Its output by step", curves),
    )


_SGD_RATES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_ADAM_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
_RIGHT = 0.9
"""The share of test digits at which a model counts as having learned."""


def _wrong_classifiers(starts: Sequence[float], steps: int) -> Table:
    """Networks for digits that begin sure of one class: its bias begins at each start."""
    losses = {BEHIND_SOFTMAX: _behind_softmax(), CROSS_ENTROPY: _cross_entropy(), SQUARE: _square()}
    records = []
    for optimizer, rates, is_centred in (
        ("SGD", _SGD_RATES, True),
        ("SGD", _SGD_RATES, False),
        ("Adam", _ADAM_RATES, True),
    ):
        training, test = digits(is_centred)
        how = Training(drawn(training, 128), test, steps, optimizer, every=5)
        models = [perceptron((DIMENSIONS, _HIDDEN, 10), 0) for _ in starts for _ in rates]
        for i, model in enumerate(models):
            model[-1][0, 0] += starts[i // len(rates)]
        for name, loss in losses.items():
            found = train(loss, models, [*rates] * len(starts), how)
            for i, start in enumerate(starts):
                of_start = found[i * len(rates) : (i + 1) * len(rates)]
                needed = [steps_until(each, _RIGHT, how.every) or math.inf for each in of_start]
                best = needed.index(min(needed))
                is_there = math.isfinite(needed[best])
                records.append(
                    {
                        "optimizer": optimizer,
                        "inputs": "centred" if is_centred else "as they are",
                        "loss": name,
                        "start": float(start),
                        "steps": needed[best] if is_there else None,
                        "rate": rates[best] if is_there else None,
                        "best_final_accuracy_%": 100 * max(each[-1] for each in of_start),
                    }
                )
    title = "A network for digits whose bias for one class begins at `start`"
    notes = [f"One hidden layer of {_HIDDEN}; steps of 128 digits until {100 * _RIGHT:g} % of the 500 test digits are "
             f"right, at the best rate of one grid; - where {steps} steps were not enough at any rate"]  # fmt: skip
    return _table("saturated", title, records, notes)


# ---------------------------------------------------------------- the number of classes


_SHARE = 0.8
"""Of the best accuracy, which is reached at different speeds."""


def _by_rescaling(classes: int) -> dict[str, tuple[Loss, str]]:
    """Name -> loss, and k and M as text; rules that give the same k and M are one."""
    found: dict[str, tuple[Loss, str]] = {CROSS_ENTROPY: (_cross_entropy(), "")}
    paper, level = (choose_rescaling(classes, rule=rule) for rule in ("paper", "level"))
    for name, (k, M) in {
        "square, k = M = 1": (1.0, 1.0),
        "square, paper's rule": (paper.k, paper.M),
        "square, level rule": (level.k, level.M),
    }.items():
        found[name] = (_square(k, M), f"{k:g}, {M:.3g}")
    return found


@_on_processor
def convergence(class_counts: Sequence[int] = (2, 10, 100, 1000), steps: int = 300) -> Study:
    """How fast each loss learns by the number of classes, each at its best rate of one grid."""
    rates = _ADAM_RATES
    records, curves = [], []
    for classes in class_counts:
        batches, test = clusters(classes, 0.75, 128)
        how = Training(batches, test, steps)
        models = [perceptron((DIMENSIONS, _HIDDEN, classes), 0)] * len(rates)
        found = {
            name: (rescaling, train(loss, models, rates, how))
            for name, (loss, rescaling) in _by_rescaling(classes).items()
        }
        wanted = _SHARE * max(each[-1] for _, by_rate in found.values() for each in by_rate)
        for name, (rescaling, by_rate) in found.items():
            # The rate whose mean accuracy over all steps is best: it is fast, and ends high.
            means = [sum(each) / len(each) for each in by_rate]
            best = means.index(max(means))
            accuracies = by_rate[best]
            records.append(
                {
                    "classes": classes,
                    "loss": name,
                    "k, M": rescaling,
                    "rate": rates[best],
                    "steps": steps_until(accuracies, wanted, how.every),
                    "final_accuracy_%": 100 * accuracies[-1],
                    "worst_rate_final_%": 100 * min(each[-1] for each in by_rate),
                }
            )
            curves += [
                {"classes": classes, "loss": name, "step": how.every * (i + 1), "accuracy_%": 100 * accuracy}
                for i, accuracy in enumerate(accuracies)
            ]
    notes = [f"Normal clusters in {DIMENSIONS} dimensions, one hidden layer of {_HIDDEN}, Adam, {steps} steps of 128 "
             f"new examples; steps until {100 * _SHARE:g} % of the best final accuracy of all losses"]  # fmt: skip
    title = "Speed by the number of classes"
    return Study(
        "convergence",
        "Does the square loss learn more slowly where classes are many?",
        [_table("convergence", title, records, notes), _table("convergence_curves", "Accuracy by step", curves)],
    )


# ---------------------------------------------------------------- probabilities


@_on_processor
def population(class_counts: Sequence[int] = (2, 10, 100, 1000), points: int = 100, draws: int = 10) -> Study:
    """What the outputs that minimise each expected loss say of known class probabilities.

    At each point the class probabilities p are known, and the outputs are those with the least expected loss, found by
    L-BFGS from zero. Temperatures are fitted to ``draws`` classes drawn at every point.
    """
    import torch

    from sqloss_plugins.probability import fit_temperature, log_probabilities

    records = []
    for classes in class_counts:
        generator = torch.Generator().manual_seed(classes)
        p = torch.softmax(2 * torch.randn(points, classes, generator=generator, dtype=torch.float64), 1)
        targets = torch.multinomial(p, draws, replacement=True, generator=generator).T.flatten()
        entropy = float(torch.special.entr(p).sum(1).mean())
        chosen = choose_rescaling(classes)
        k, M = chosen.k, chosen.M
        for name, loss, rescaling in (
            (CROSS_ENTROPY, _cross_entropy(), {}),
            (SQUARE, _square(k, M), {"k": k, "M": M}),
        ):
            outputs = _minimiser(loss, p)
            methods: dict[str, dict[str, Any]] = {"softmax": {}}
            if rescaling:
                temperature = fit_temperature(outputs.repeat(draws, 1), targets)
                methods = {"square": rescaling, "softmax": {}, "temperature": {"temperature": temperature}}
            for method, options in methods.items():
                logs = log_probabilities(outputs, method, **options)
                nll = -float((p * logs).sum(1).mean())
                records.append(
                    {
                        "classes": classes,
                        "loss": name,
                        "k, M": f"{k:g}, {M:.3g}" if rescaling else "",
                        "method": method,
                        "entropy": entropy,
                        "nll": nll,
                        "nll_above_entropy_%": 100 * (nll / entropy - 1),
                        "mean_largest_p": float(p.amax(1).mean()),
                        "mean_confidence": float(logs.amax(1).exp().mean()),
                    }
                )
    notes = [f"{points} points whose class probabilities are known; nll in nats, expected under them, of the outputs "
             "that minimise each loss; the entropy is the least that any probabilities can have"]  # fmt: skip
    question = "Are the probabilities of square-loss outputs right?"
    return Study("population", question, [_table("population", "Known probabilities", records, notes)])


def _minimiser(loss: Loss, p: Tensor) -> Tensor:
    """The outputs, shape (N, C), with the least expected loss under class probabilities."""
    import torch

    outputs = torch.zeros_like(p, requires_grad=True)
    optimizer = torch.optim.LBFGS([outputs], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def expected() -> Tensor:
        optimizer.zero_grad()
        value = loss(outputs, p)
        torch.autograd.backward(value)
        return value

    optimizer.step(expected)  # type: ignore[no-untyped-call]
    return outputs.detach()


# ---------------------------------------------------------------- the cost of the output layer


@_on_processor
def cost(
    class_counts: Sequence[int] = (100, 1000, 10_000, 30_000), N: int = 512, d: int = 128, rounds: int = 5
) -> Study:
    """The processor time of the last layer and its loss, forward and backward, as a ratio to cross-entropy's."""
    import torch
    import torch.nn.functional as F

    from sqloss_plugins.losses import linear_square_loss, square_loss

    records = []
    for classes in class_counts:
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(N, d, generator=generator).requires_grad_()
        weight = (torch.randn(classes, d, generator=generator) / math.sqrt(d)).requires_grad_()
        targets = torch.randint(classes, (N,), generator=generator)
        rescaling = choose_rescaling(classes, rule="level")
        k, M = rescaling.k, rescaling.M
        forms: dict[str, Callable[[], Tensor]] = {
            CROSS_ENTROPY: lambda: F.cross_entropy(hidden @ weight.T, targets),  # noqa: B023
            SQUARE: lambda: square_loss(hidden @ weight.T, targets, k=k, M=M),  # noqa: B023
            "square without outputs": lambda: linear_square_loss(hidden, weight, targets, k=k, M=M, impl="gram"),  # noqa: B023
        }
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(rounds + 1):
            for name, form in forms.items():
                begun = time.process_time()
                torch.autograd.grad(form(), (hidden, weight))
                seconds[name].append(time.process_time() - begun)
        for name, times in seconds.items():
            ratios = sorted(a / b for a, b in zip(times[1:], seconds[CROSS_ENTROPY][1:], strict=True))
            records.append({"classes": classes, "loss": name, "time_/_cross-entropy": ratios[len(ratios) // 2]})
    notes = [f"{N} rows, {d} features, float32, forward and backward on this machine's processor; the median of "
             f"{rounds} rounds after a first one"]  # fmt: skip
    title = "Processor time of the output layer with its loss"
    return Study("cost", "What does the output layer cost?", [_table("cost", title, records, notes)])


# ---------------------------------------------------------------- the seed


@_on_processor
def seeds(number_of_seeds: int = 20, steps: int = 300) -> Study:
    """How far accuracy varies with the seed, each loss at the rate that is best on three other seeds."""
    training, test = digits()
    clustered = {classes: clusters(classes, 0.5, 128) for classes in (10, 100)}
    tasks = {
        "digits": (10, Training(drawn(training, 128), test, steps, every=steps)),
        **{
            f"{classes} clusters": (classes, Training(batches, tested, steps, every=steps))
            for classes, (batches, tested) in clustered.items()
        },
    }
    records = []
    for task, (classes, how) in tasks.items():
        rescaling = choose_rescaling(classes)
        found: dict[str, list[float]] = {}
        chosen: dict[str, float] = {}
        for name, loss in ((CROSS_ENTROPY, _cross_entropy()), (SQUARE, _square(rescaling.k, rescaling.M))):
            rates = _ADAM_RATES
            tried = [perceptron((DIMENSIONS, _HIDDEN, classes), 1000 + seed) for _ in rates for seed in range(3)]
            ends = [each[-1] for each in train(loss, tried, [rate for rate in rates for _ in range(3)], how)]
            chosen[name] = rates[max(range(len(rates)), key=lambda i: sum(ends[3 * i : 3 * i + 3]))]
            models = [perceptron((DIMENSIONS, _HIDDEN, classes), seed) for seed in range(number_of_seeds)]
            found[name] = [100 * each[-1] for each in train(loss, models, [chosen[name]] * number_of_seeds, how)]
        deviations = {name: standard_deviation(values) or 0.0 for name, values in found.items()}
        ratio = deviation_ratio(deviations[SQUARE], number_of_seeds, deviations[CROSS_ENTROPY], number_of_seeds)
        records.append(
            {
                "task": task,
                "rates": f"{chosen[SQUARE]:.3g}, {chosen[CROSS_ENTROPY]:.3g}",
                "square_%": sum(found[SQUARE]) / number_of_seeds,
                "cross-entropy_%": sum(found[CROSS_ENTROPY]) / number_of_seeds,
                "std_square": deviations[SQUARE],
                "std_cross-entropy": deviations[CROSS_ENTROPY],
                "ratio": ratio and ratio.ratio,
                "low": ratio and ratio.interval.low,
                "high": ratio and ratio.interval.high,
            }
        )
    notes = [f"Test accuracy of {number_of_seeds} seeds, which differ in their initial weights alone; the ratio of the "
             "standard deviations with its 95 % F interval"]  # fmt: skip
    question = "Is the square loss less sensitive to the seed?"
    return Study("seeds", question, [_table("seeds", "Standard deviation over seeds", records, notes)])


STUDIES: dict[str, Callable[[], Study]] = {
    "saturated": saturated,
    "convergence": convergence,
    "population": population,
    "cost": cost,
    "seeds": seeds,
}
"""Name -> the study."""

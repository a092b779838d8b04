"""Compares losses over finished runs.

    python -m sqloss_plugins.experiments.compare runs/mrpc

Reads every result.json below the given folders. Within one task, model and protocol, each loss gets the learning rate
with the best validation metric (over the seeds that were run with every rate), then mean and standard deviation over
all seeds of that rate, and its paired differences, seed by seed, against cross-entropy.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.results import RESULT_NAME, Result, markdown_table, read_result, write_json

PROGRAM = "compare"
BASELINE = "cross_entropy"
ERRORS = ("wer", "per", "cer", "perplexity")
"""Metrics of which less is better, in the order in which one is chosen to go by."""
_NO_RATES = ("perplexity",)
"""Metrics that are not shown in per cent."""
_ASIDE = ("loss", "scale", "nll")
"""No measure across losses, a fitted parameter, and the logarithm of a metric that is compared."""


@dataclass(frozen=True)
class Summary:
    """One loss with its chosen learning rate.

    Attributes:
        loss: with k and M where it has them.
        learning_rate: the chosen one.
        rates: every rate tried -> the mean validation metric it was chosen by.
        seeds: the seeds run at the chosen rate.
        values: ``split metric`` -> one value a seed, as the seeds are ordered.
    """

    loss: str
    learning_rate: float
    rates: dict[float, float]
    seeds: list[int]
    values: dict[str, list[float]]


@dataclass(frozen=True)
class Difference:
    """A loss minus the baseline, seed by seed.

    Attributes:
        loss, metric: what is compared.
        seeds: those that both were run with.
        differences: one a seed.
        p_value: of the paired t-test, two-sided; None below three seeds or where all differences are equal.
    """

    loss: str
    metric: str
    seeds: list[int]
    differences: list[float]
    p_value: float | None


def find_results(folders: Iterable[Path]) -> list[Result]:
    """Every result below the folders.

    Raises:
        UserError: a folder that is not there, a file that is not a result, or none at all.
    """
    results = []
    folders = list(folders)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        for path in sorted(folder.rglob(RESULT_NAME)):
            try:
                results.append(read_result(path))
            except ValueError as error:
                raise UserError(str(error)) from error
    if not results:
        raise UserError(f"no {RESULT_NAME} below {', '.join(map(str, folders))}: no run is finished there")
    return results


def _label(result: Result) -> str:
    return result.loss if result.k is None else f"{result.loss} (k={result.k:g}, M={result.M:.4g})"


# What differs between runs that are to be compared; the paper's epochs and label smoothing differ by loss, and only the
# square loss can be trained without logits, which is the same training.
_VARIED = {"learning_rate", "seed", "loss", "k", "M", "num_train_epochs", "lsm_weight", "without_logits"}
_Group = tuple[str, str, str, bool, str, str]


def _group(result: Result) -> _Group:
    """Runs that may be compared: equal but for loss, learning rate, epochs (the paper's differ by loss) and seed."""
    data = str(result.data.get("fingerprint", ""))
    others = {name: value for name, value in result.hyperparameters.items() if name not in _VARIED}
    return result.task, result.arch, result.protocol, result.mini, data, json.dumps(others, sort_keys=True)


def _peculiar(group: _Group, groups: Iterable[_Group]) -> str:
    """The settings by which a group of runs differs from others of the same task, model, protocol and data."""
    settings = [json.loads(other[-1]) for other in groups if other[:-1] == group[:-1]]
    own = json.loads(group[-1])
    names = sorted(
        {name for other in settings for name in own.keys() | other.keys() if own.get(name) != other.get(name)}
    )
    return "".join(f", {name} {own.get(name)}" for name in names)


def summarise(results: Sequence[Result]) -> dict[str, Summary]:
    """Chooses each loss's learning rate and gathers its seeds; for the results of one group.

    Raises:
        UserError: two results of the same loss, rate and seed; different numbers of epochs for one loss; no
            validation metrics.
    """
    runs: dict[str, dict[float, dict[int, Result]]] = defaultdict(lambda: defaultdict(dict))
    epochs: dict[str, Any] = {}
    for result in results:
        by_seed = runs[_label(result)][float(result.hyperparameters["learning_rate"])]
        if result.seed in by_seed:
            raise UserError(
                f"two runs of {result.task}, {_label(result)}, lr {result.hyperparameters['learning_rate']:g}, seed "
                f"{result.seed}: compare them in separate folders"
            )
        if epochs.setdefault(_label(result), result.hyperparameters.get("num_train_epochs")) != (
            result.hyperparameters.get("num_train_epochs")
        ):
            raise UserError(
                f"runs of {result.task}, {_label(result)}, with different num_train_epochs: compare them in separate "
                "folders"
            )
        if not result.metrics.get("validation"):
            raise UserError(f"a run of {result.task}, {_label(result)}, has no validation metrics to compare by")
        by_seed[result.seed] = result
    summaries = {}
    for label, by_rate in runs.items():
        common = set.intersection(*(set(by_seed) for by_seed in by_rate.values()))
        if not common:
            raise UserError(f"{label}: no seed was run with every learning rate, so that none can be chosen")
        metric, is_error = selection_metric(results[0])
        rates = {
            rate: statistics.fmean(by_seed[seed].metrics["validation"][metric] for seed in sorted(common))
            for rate, by_seed in sorted(by_rate.items())
        }
        # A training that diverged may have nan: the worst.
        best = min(rates, key=lambda rate: (math.isnan(rates[rate]), rates[rate] if is_error else -rates[rate]))
        seeds = sorted(by_rate[best])
        values: dict[str, list[float]] = {}
        for split in ("validation", "test"):
            metrics = [by_rate[best][seed].metrics.get(split, {}) for seed in seeds]
            for name in metrics[0]:
                # Of speech, seeds may differ in the scores that they were decoded with.
                if name not in _ASIDE and all(name in others for others in metrics):
                    values[f"{split} {name}"] = [others[name] for others in metrics]
        summaries[label] = Summary(label, best, rates, seeds, values)
    return summaries


def selection_metric(result: Result) -> tuple[str, bool]:
    """What models are chosen by, and whether less of it is better; the loss is no measure across losses.

    The word error rate or the perplexity where there is one, else the first metric of the task.
    """
    names = [name for name in result.metrics["validation"] if name not in _ASIDE]
    error = next((name for name in ERRORS if name in names), None)
    return (error, True) if error else (names[0], False)


def differences(summaries: dict[str, Summary], baseline: str = BASELINE) -> list[Difference]:
    """Every other loss minus the baseline, on every metric; empty where the baseline was not run."""
    from scipy.stats import ttest_rel

    found = []
    base = summaries.get(baseline)
    for label, summary in summaries.items():
        if base is None or label == baseline:
            continue
        seeds = sorted(set(base.seeds) & set(summary.seeds))
        for metric in [name for name in summary.values if name in base.values]:
            ours = [summary.values[metric][summary.seeds.index(seed)] for seed in seeds]
            theirs = [base.values[metric][base.seeds.index(seed)] for seed in seeds]
            paired = [a - b for a, b in zip(ours, theirs, strict=True)]
            testable = len(seeds) >= 3 and max(paired) > min(paired)
            p_value = float(ttest_rel(ours, theirs).pvalue) if testable else None
            found.append(Difference(label, metric, seeds, paired, p_value))
    return found


def _metric(name: str) -> str:
    """The metric in ``split metric`` or ``split metric score``."""
    return name.split()[1]


def _shown(name: str, values: Sequence[float], sign: str = "") -> list[str]:
    """Values as they are printed: rates in per cent."""
    factor = 1 if _metric(name) in _NO_RATES else 100
    return [f"{factor * value:{sign}.2f}" for value in values]


def _headed(name: str) -> str:
    """A metric with its unit."""
    return name if _metric(name) in _NO_RATES else f"{name} %"


def _mean(name: str, values: Sequence[float], sign: str = "") -> str:
    """Mean +- sample standard deviation."""
    (mean,) = _shown(name, [statistics.fmean(values)], sign)
    return " +- ".join([mean, *_shown(name, [statistics.stdev(values)])]) if len(values) > 1 else mean


def overview(folders: Sequence[Path]) -> None:
    """Prints one table with a line for every task, model and loss: what decides, on the test data."""
    groups: dict[_Group, list[Result]] = defaultdict(list)
    for result in find_results(folders):
        groups[_group(result)].append(result)
    rows = [["task", "model", "loss", "lr", "seeds", "metric", "validation", "test"]]
    for group, results in sorted(groups.items()):
        metric, _ = selection_metric(results[0])
        headed = _headed(f"validation {metric}").removeprefix("validation ")
        for label, summary in sorted(summarise(results).items()):
            values = [
                _mean(name, summary.values[name]) if (name := f"{split} {metric}") in summary.values else "-"
                for split in ("validation", "test")
            ]
            task = f"{group[0]}{' (MINI)' if group[3] else ''}"
            rows.append([task, group[1], label, f"{summary.learning_rate:g}", str(len(summary.seeds)), headed, *values])
    print(f"\n{markdown_table(rows)}")
    if any(group[3] for group in groups):
        print("\nMINI: embedded data, which shows that everything works, and says nothing about the real task.")


def compare(folders: Sequence[Path], json_path: Path | None = None, by_score: bool = False) -> None:
    """Prints the comparison of every group found, and writes it as JSON where a path is given.

    Args:
        folders: where the results are.
        json_path: the file to write.
        by_score: show error rates by score, too.
    """
    groups: dict[_Group, list[Result]] = defaultdict(list)
    for result in find_results(folders):
        groups[_group(result)].append(result)
    content = []
    for group, results in sorted(groups.items()):
        task, arch, protocol, mini, fingerprint, _ = group
        summaries = summarise(results)
        paired = differences(summaries)
        warning = ", MINI DATA: not the real task" if mini else ""
        print(f"\n{task}, {arch}, {protocol}{warning} (data {fingerprint[:12]}{_peculiar(group, groups)})\n")
        # Of speech all scores are in the JSON file, and the chosen one is in the table.
        every = dict.fromkeys(name for summary in summaries.values() for name in summary.values)
        metrics = [name for name in every if by_score or name.count(" ") < 2]
        chosen_by = f"validation {selection_metric(results[0])[0]}"
        rows = [["loss", "lr", "lr tried", "seeds", *map(_headed, metrics)]]
        for label, summary in sorted(summaries.items()):
            by_rate = zip(summary.rates, _shown(chosen_by, list(summary.rates.values())), strict=True)
            tried = ", ".join(f"{rate:g}: {value}" for rate, value in by_rate)
            values = [_mean(name, summary.values[name]) if name in summary.values else "-" for name in metrics]
            rows.append([label, f"{summary.learning_rate:g}", tried, str(len(summary.seeds)), *values])
        print(markdown_table(rows))
        shown = [item for item in paired if item.metric in metrics]
        if shown:
            rows = [["minus cross_entropy", "metric", "mean difference", "by seed", "seeds better", "paired t, p"]]
            for item in shown:
                is_better = (0.0).__gt__ if _metric(item.metric) in ERRORS else (0.0).__lt__
                rows.append(
                    [
                        item.loss,
                        _headed(item.metric),
                        _mean(item.metric, item.differences, "+"),
                        " ".join(_shown(item.metric, item.differences, "+")),
                        f"{sum(map(is_better, item.differences))} of {len(item.seeds)}",
                        "-" if item.p_value is None else f"{item.p_value:.3f}",
                    ]
                )
            print(f"\n{markdown_table(rows)}")
        content.append(
            {
                "task": task,
                "arch": arch,
                "protocol": protocol,
                "mini": mini,
                "data_fingerprint": fingerprint,
                "summaries": [asdict(summary) for summary in summaries.values()],
                "differences": [asdict(item) for item in paired],
            }
        )
    if json_path is not None:
        try:
            write_json(json_path, content)
        except OSError as error:
            raise UserError(f"cannot write {json_path}: {error.strerror}") from error


def best_learning_rate(folders: Sequence[Path], loss: str) -> float:
    """The learning rate that the comparison chooses for a loss.

    Raises:
        UserError: no or several runs to choose among: another task, model or data in the same folders.
    """
    results = [result for result in find_results(folders) if result.loss == loss]
    if len({_group(result) for result in results}) != 1 or len({_label(result) for result in results}) != 1:
        raise UserError(f"the folders must hold runs of {loss} on one task with one model, and with one k and M")
    return next(iter(summarise(results).values())).learning_rate


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="where the runs are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison there as well")
    parser.add_argument("--best_lr", metavar="LOSS", help="print that loss's chosen learning rate and nothing else")
    parser.add_argument("--overview", action="store_true", help="print one table over all tasks and nothing else")
    parser.add_argument("--by_score", action="store_true", help="show the error rates of speech by score, too")
    args = parser.parse_args(argv)
    if args.overview:
        return run_command(PROGRAM, lambda: overview(args.folders))
    if args.best_lr:
        return run_command(PROGRAM, lambda: print(f"{best_learning_rate(args.folders, args.best_lr):g}"))
    return run_command(PROGRAM, lambda: compare(args.folders, args.json, args.by_score))


if __name__ == "__main__":
    sys.exit(main())

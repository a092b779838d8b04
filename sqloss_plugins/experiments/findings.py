"""What a report finds: differences by seed, standard deviations, wins and losses, and the paper's own counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqloss_plugins import paper
from sqloss_plugins.experiments.comparison import BASELINE, Column, Difference, Group
from sqloss_plugins.experiments.evidence import Evidence
from sqloss_plugins.experiments.statistics import (
    Interval,
    adjusted,
    deviation_interval,
    deviation_ratio,
    mean_interval,
    seeds_needed,
    sign_test,
)
from sqloss_plugins.experiments.tables import Cell, Measured, Table, number, scaled
from sqloss_plugins.metrics import metric

PAPER_SEEDS = int(paper.tables()["protocols"]["seeds"])
"""Of every number of the paper."""


class Ahead(NamedTuple):
    """By how much a loss is ahead of cross-entropy in one column; errors count the other way round, as in Figure 1.

    Attributes:
        evidence: the group of runs.
        difference: the comparison's own, whose p value is that of the paired t-test.
        is_main: whether it is of the metric that decides, on test data where there are any.
        by_seed: seed -> points, positive where the loss is better.
    """

    evidence: Evidence
    difference: Difference
    is_main: bool
    by_seed: Mapping[int, float]

    @property
    def digits(self) -> int:
        """Decimals that are shown."""
        return 2 if self.evidence.comparison.metrics[self.difference.column.metric].unit == "%" else 4

    @property
    def family(self) -> tuple[str, str]:
        """The loss and the protocol: what is counted, and adjusted for, together."""
        return self.difference.loss.partition(" ")[0], self.evidence.group.protocol


def ahead(evidence: Sequence[Evidence]) -> list[Ahead]:
    """Every difference to cross-entropy by the method that counts."""
    found = []
    for item in evidence:
        for loss in dict.fromkeys(difference.loss for difference in item.differences):
            its = [each for each in item.differences if each.loss == loss and each.column.method is None]
            main = item.main_column([each.column for each in its])
            for difference in its:
                kind = item.comparison.metrics[difference.column.metric]
                sign = 1.0 if kind.higher_is_better else -1.0
                by_seed = {seed: sign * scaled(kind, value) for seed, value in difference.differences.items()}
                found.append(Ahead(item, difference, difference.column == main, by_seed))
    return found


def _heading(item: Evidence, column: Column) -> str:
    return f"{column.split} {item.comparison.metrics[column.metric].heading}"


def _interval(interval: Interval | None, digits: int, sign: str = "") -> Cell:
    text = "" if interval is None else f"{interval.low:{sign}.{digits}f} to {interval.high:{sign}.{digits}f}"
    return Cell(text, interval.low if interval else None)


def _p(value: float | None) -> Cell:
    return Cell("") if value is None else Cell(f"{value:.3f}" if value >= 0.001 else "< 0.001", value)


def _holm(differences: Sequence[Ahead]) -> dict[int, float | None]:
    """Place among the differences -> Holm's p value, over those that decide, of the same loss and protocol."""
    families: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, each in enumerate(differences):
        if each.is_main:
            families[each.family].append(i)
    found: dict[int, float | None] = {}
    for members in families.values():
        p_values = adjusted([differences[i].difference.p_value for i in members])
        found |= dict(zip(members, p_values, strict=True))
    return found


def _about(item: Evidence, groups: Sequence[Group]) -> str:
    """Why a group of runs is not the paper's, and what tells it from the others of the same task, model, protocol."""
    return "; ".join(filter(None, (item.reason, item.group.peculiarities(groups))))


def difference_table(name: str, title: str, differences: Sequence[Ahead], all_evidence: Sequence[Evidence]) -> Table:
    """Differences seed by seed, with their interval, test and power."""
    holm, groups = _holm(differences), [item.group for item in all_evidence]
    rows, records = [], []
    for i, each in enumerate(differences):
        record = {**_difference_record(each, holm.get(i)), "about": _about(each.evidence, groups)}
        rows.append(_difference_row(each, record))
        records.append(record)
    columns = ["task", "model", "protocol", "loss", "metric", "ahead of cross-entropy by"]
    columns += ["95 % interval", "seeds better", "p", "p, Holm", "seeds to show it"]
    notes = [
        "Positive is better than cross-entropy, for error rates too: mean +- standard deviation of the differences by "
        "seed, in points of per cent where the metric is in per cent",
        "The interval and p are those of the paired t-test, p from three seeds on; with few seeds it takes the "
        "differences to be normal",
        "* decides: Holm's p is over these, one for each group of runs, of the same loss and protocol",
        "Seeds to show it: with so many the paired t-test at 5 % would see a difference of the observed size with "
        "power 0.8; of few seeds the size itself is a rough guess",
    ]
    return Table(name, title, columns, rows, records, notes)


def _difference_record(each: Ahead, holm: float | None) -> dict[str, Any]:
    """A difference as data."""
    group, column, values = each.evidence.group, each.difference.column, list(each.by_seed.values())
    measured, interval = Measured(each.by_seed), mean_interval(values)
    return {
        "task": group.task,
        "arch": group.arch,
        "protocol": group.protocol,
        "loss": each.difference.loss,
        "split": column.split,
        "metric": column.metric,
        "is_main": each.is_main,
        "mean": measured.mean,
        "std": measured.deviation,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "seeds": len(values),
        "seeds_better": sum(value > 0 for value in values),
        "p_value": each.difference.p_value,
        "p_value_holm": holm,
        "seeds_needed": seeds_needed(values),
        "by_seed": " ".join(f"{seed}:{value:.6g}" for seed, value in each.by_seed.items()),
    }


def _difference_row(each: Ahead, record: Mapping[str, Any]) -> list[Cell]:
    """A difference for people."""
    digits = each.digits
    spread = "" if record["std"] is None else f" +- {record['std']:.{digits}f}"
    interval = None if record["low"] is None else Interval(record["low"], record["high"])
    return [
        *(Cell(record[column]) for column in ("task", "arch", "protocol", "loss")),
        Cell(_heading(each.evidence, each.difference.column) + (" *" if each.is_main else "")),
        Cell(f"{record['mean']:+.{digits}f}{spread}", record["mean"]),
        _interval(interval, digits, "+"),
        Cell(f"{record['seeds_better']} of {record['seeds']}", record["seeds"]),
        _p(record["p_value"]),
        _p(record["p_value_holm"]),
        number(record["seeds_needed"], 0),
    ]


def deviation_table(name: str, title: str, evidence: Sequence[Evidence]) -> Table:
    """Standard deviations over seeds, and their ratio to cross-entropy's, in the metric that decides."""
    rows, records = [], []
    for item in evidence:
        baseline = item.comparison.summaries.get(BASELINE)
        column = item.main_column(baseline.values) if baseline else None
        for label, summary in item.comparison.summaries.items():
            if baseline is None or column is None or label == BASELINE:
                continue
            kind = item.comparison.metrics[column.metric]
            ours, theirs = (
                Measured({seed: scaled(kind, value) for seed, value in each.values.get(column, {}).items()})
                for each in (summary, baseline)
            )
            if ours.deviation is None or theirs.deviation is None:
                continue
            n, m = len(ours.by_seed), len(theirs.by_seed)
            found = deviation_ratio(ours.deviation, n, theirs.deviation, m)
            intervals = deviation_interval(ours.deviation, n), deviation_interval(theirs.deviation, m)
            group = item.group
            rows.append(
                [
                    *(Cell(text) for text in (group.task, group.arch, group.protocol, label, _heading(item, column))),
                    *(
                        Cell(f"{each.deviation:.3f} [{low:.2f}, {high:.2f}] ({len(each.by_seed)})", each.deviation)
                        for each, (low, high) in zip((ours, theirs), filter(None, intervals), strict=True)
                    ),
                    number(found.ratio if found else None),
                    _interval(found.interval if found else None, 2),
                    _p(found.p_value if found else None),
                ]
            )
            records.append(
                {
                    "task": group.task,
                    "arch": group.arch,
                    "protocol": group.protocol,
                    "loss": label,
                    "split": column.split,
                    "metric": column.metric,
                    "std": ours.deviation,
                    "seeds": n,
                    "std_cross_entropy": theirs.deviation,
                    "seeds_cross_entropy": m,
                    "ratio": found.ratio if found else None,
                    "low": found.interval.low if found else None,
                    "high": found.interval.high if found else None,
                    "p_value": found.p_value if found else None,
                }
            )
    columns = ["task", "model", "protocol", "loss", "metric", "its std", "cross-entropy's std", "ratio"]
    notes = [
        "In brackets the 95 % chi-square interval of a standard deviation. A ratio below 1: less sensitive to the "
        "seed; its interval and p are those of the F test, which takes normal values and the two losses as independent"
    ]
    return Table(name, title, [*columns, "95 % interval", "p"], rows, records, notes)


def result_table(name: str, title: str, evidence: Sequence[Evidence], all_evidence: Sequence[Evidence]) -> Table:
    """A row for every group of runs and loss: all metrics that are comparable, by the method that counts."""
    groups = [item.group for item in all_evidence]
    rows, records = [], []
    for item in evidence:
        group = item.group
        about = _about(item, groups)
        for label, summary in item.comparison.summaries.items():
            for column, values in summary.values.items():
                if column.method is not None:
                    continue
                kind = item.comparison.metrics[column.metric]
                measured = Measured({seed: scaled(kind, value) for seed, value in values.items()})
                names = (group.task, group.arch, group.protocol, _heading(item, column), label)
                rate = Cell(f"{summary.learning_rate:g}", summary.learning_rate)
                rows.append([*map(Cell, names), rate, measured.cell(), Cell(about)])
                records.append(
                    {
                        "task": group.task,
                        "arch": group.arch,
                        "protocol": group.protocol,
                        "split": column.split,
                        "metric": column.metric,
                        "loss": label,
                        "learning_rate": summary.learning_rate,
                        "mean": measured.mean,
                        "std": measured.deviation,
                        "seeds": len(values),
                        "about": about,
                    }
                )
    columns = ["task", "model", "protocol", "metric", "loss", "lr", "mean +- std (seeds)", "what it is"]
    notes = [f"{item.group.task}, {item.group.arch}: {note}" for item in evidence for note in item.comparison.notes]
    return Table(name, title, columns, rows, records, notes)


# ---------------------------------------------------------------- counts


class Count(NamedTuple):
    """Wins, ties and losses of a loss against cross-entropy."""

    wins: int
    ties: int
    losses: int

    @classmethod
    def of(cls, advantages: Sequence[float]) -> Count:
        """Counts advantages, each rounded as it is shown, so that what is shown as 0 is a tie."""
        return cls(sum(each > 0 for each in advantages), advantages.count(0), sum(each < 0 for each in advantages))

    @property
    def total(self) -> int:
        """Of all tasks."""
        return self.wins + self.ties + self.losses

    @property
    def words(self) -> str:
        """For a sentence."""
        return f"{self.wins} better, {self.ties} equal, {self.losses} worse"


TASKS, ROWS = "Tables 2, 5 and 7 without Top-5", "Tables 2, 5 and 7"
_KINDS: Mapping[str, Callable[[paper.Published], bool]] = {
    TASKS: lambda row: row.metric not in ("f1", "top5"),
    ROWS: lambda row: row.metric != "f1",
    "Table 2": lambda row: row.domain == "text" and row.metric == "accuracy",
    "Table 3": lambda row: row.metric == "f1",
    "Table 5": lambda row: row.domain == "speech",
    "Table 7 without Top-5": lambda row: row.domain == "vision" and row.metric != "top5",
}


def paper_advantage(row: paper.Published, column: str, baseline: str = BASELINE) -> float:
    """By how much a column of the paper is ahead of another one, in points; errors count the other way round."""
    sign = 1.0 if metric(row.metric).higher_is_better else -1.0
    return sign * (row.values[column] - row.values[baseline])


def paper_counts() -> dict[tuple[str, str], Count]:
    """The paper's own counts from its test results: (what is compared, over which tasks) -> count."""
    rows = paper.published("test_results")
    compared: Mapping[str, Callable[[paper.Published], float]] = {
        "square": lambda row: paper_advantage(row, "square"),
        "square, same epochs": lambda row: paper_advantage(row, "same_epochs"),
        "std of square": lambda row: row.values["std_cross_entropy"] - row.values["std_square"],
    }
    found = {}
    for what, advantage in compared.items():
        for kind, belongs in _KINDS.items():
            chosen = [row for row in rows if belongs(row) and (what != "std of square" or "std_square" in row.values)]
            if chosen:
                found[what, kind] = Count.of([round(advantage(row), 3) for row in chosen])
    return found


def count_table(differences: Mapping[str, Sequence[Ahead]]) -> Table:
    """Wins, ties and losses over tasks with an exact sign test: of the paper and of our runs.

    Args:
        differences: what the runs are of -> their differences.
    """
    counts: list[tuple[str, str, str, Count]] = []
    for kind, members in differences.items():
        families: dict[tuple[str, str], list[float]] = defaultdict(list)
        for each in members:
            mean = Measured(each.by_seed).mean
            if each.is_main and mean is not None:
                families[each.family].append(round(mean, each.digits))
        counts += [
            ("ours", f"{loss}, {protocol}", kind, Count.of(means)) for (loss, protocol), means in families.items()
        ]
    counts += [("paper", what, kind, count) for (what, kind), count in paper_counts().items()]
    rows, records = [], []
    for source, what, kind, count in counts:
        p_value = sign_test(count.wins, count.losses)
        texts = [Cell(text) for text in (source, what, kind)]
        numbers = [number(value, 0) for value in (count.total, *count)]
        rows.append([*texts, *numbers, number(count.wins + count.ties, 0), _p(p_value)])
        records.append(
            {
                "source": source,
                "compared": what,
                "over": kind,
                "tasks": count.total,
                **count._asdict(),
                "better_or_equal": count.wins + count.ties,
                "p_value": p_value,
            }
        )
    columns = ["source", "against cross-entropy", "over", "tasks", "better", "equal", "worse", "better or equal"]
    notes = [
        "p is that of the exact two-sided sign test, without the ties. It takes the tasks as independent, which rows "
        "of one model (WER and CER, accuracy and Top-5) and models on the same data are not",
        "For std better is smaller. Ours: the mean over seeds of the metric that decides, equal where the "
        "difference is shown as 0. A task with several models, settings, or k and M counts once for each of them",
    ]
    return Table("counts", "Wins, ties and losses over tasks", [*columns, "sign test, p"], rows, records, notes)


def paper_test_table() -> Table:
    """What the paper's means and standard deviations allow to test: Welch's t test and the F test, row by row."""
    from scipy.stats import ttest_ind_from_stats

    tested = [row for row in paper.published("test_results") if "std_square" in row.values]
    welch = []
    for row in tested:
        numbers = [(row.values[loss], row.values[f"std_{loss}"], PAPER_SEEDS) for loss in ("square", BASELINE)]
        welch.append(float(ttest_ind_from_stats(*numbers[0], *numbers[1], equal_var=False).pvalue))
    rows, records = [], []
    for row, p_value, holm in zip(tested, welch, adjusted(welch), strict=True):
        gain = paper_advantage(row, "square")
        found = deviation_ratio(row.values["std_square"], PAPER_SEEDS, row.values["std_cross_entropy"], PAPER_SEEDS)
        assert found is not None, "the paper has no standard deviation of 0"
        rows.append(
            [
                Cell(row.model_name),
                Cell(row.task_name),
                number(round(gain, 1) + 0.0, 1, "+"),
                _p(p_value),
                _p(holm),
                number(found.ratio),
                _interval(found.interval, 2),
                _p(found.p_value),
            ]
        )
        records.append(
            {
                "model": row.model,
                "task": row.task,
                "metric": row.metric,
                "ahead": round(gain, 3),
                "p_value_welch": p_value,
                "p_value_holm": holm,
                "std_ratio": found.ratio,
                "low": found.interval.low,
                "high": found.interval.high,
                "p_value_std": found.p_value,
            }
        )
    columns = ["model", "task", "ahead of cross-entropy by", "Welch's t, p", "p, Holm", "std ratio"]
    notes = [
        f"From the paper's means and standard deviations of {PAPER_SEEDS} seeds; it gives no numbers by seed, so that "
        "its differences cannot be tested in pairs",
        "A std ratio below 1: less sensitive to the seed than cross-entropy; with its 95 % F interval",
    ]
    title = "The paper's differences and standard deviations, tested"
    return Table("paper_tests", title, [*columns, "95 % interval", "F, p"], rows, records, notes)


def paper_remarks(tests: Table) -> list[str]:
    """What is found in the paper's own numbers, a sentence each.

    Args:
        tests: made by :func:`paper_test_table`.
    """
    counts, claims = paper_counts(), paper.tables()["claims"]
    tasks, more = counts["square", TASKS], counts["square", ROWS]
    std, std_more = counts["std of square", TASKS], counts["std of square", ROWS]
    f1 = counts["square, same epochs", "Table 3"]
    clear = [record for record in tests.records if not record["low"] < 1 < record["high"]]
    significant = [record for record in tests.records if record["p_value_holm"] < 0.05]
    return [
        f"The paper says that the square loss is better or equal in {claims['tasks_better_or_equal']}. Its tables hold "
        f"{tasks.total} tasks (accuracy and error rates of Tables 2, 5 and 7 without Top-5): {tasks.words}, so that it "
        f"is better or equal in {tasks.wins + tasks.ties} of {tasks.total}. With Top-5 there are {more.total} rows: "
        f"{more.words}, {more.wins + more.ties} of {more.total}.",
        f"The paper says that its standard deviation is smaller in {claims['tasks_smaller_std']}. In Table 8 it is "
        f"smaller in {std.wins}, equal in {std.ties} and larger in {std.losses} of {std.total} tasks; of the "
        f"{std_more.total} rows with Top-5 in {std_more.wins}, {std_more.ties} and {std_more.losses}.",
        f"Of five seeds a standard deviation says little: {_of(clear, tests)} the 95 % F interval of the ratio leaves "
        "out 1. Over tasks the sign test in the table of counts is what there is for the claim.",
        f"Of the differences {len(significant)} of {len(tests.records)} are significant at 5 % by Welch's t test with "
        "Holm's adjustment.",
        f"With the same epochs its text has a higher F1 in {claims['higher_f1_same_epochs']}; Table 3 has {f1.words}.",
        *_inconsistencies(),
    ]


def _of(records: Sequence[Any], table: Table) -> str:
    return f"in {len(records)} of {len(table.records)} rows" if records else f"in none of {len(table.records)} rows"


def _inconsistencies() -> list[str]:
    """Numbers of the paper that do not go together, found in its tables."""
    blocks = {"test": "test_results", "validation": "validation_results", "training": "train_results"}
    by_task: dict[tuple[str, str], list[str]] = defaultdict(list)
    for split, block in blocks.items():
        for row in paper.published(block):
            square, same = row.values["square"], row.values["same_epochs"]
            if square != same and _has_equal_epochs(row):
                name = f"{row.model_name} on {paper.tables()['names']['tasks'][row.task]}"
                metric_name = paper.tables()["names"]["metrics"][row.metric]
                by_task[name, _epochs(row)].append(f"{split} {metric_name} {square:.1f} and {same:.1f}")
    found = [
        f"{name}: Tables 10 to 12 have {epochs} for both losses. If these are the epochs trained, the square loss "
        f"with the same epochs is the same runs; yet it has {', '.join(differing)}."
        for (name, epochs), differing in by_task.items()
    ]
    rows = {(row.task, row.model, row.metric): row for row in paper.published("test_results")}
    cer, wer = (rows["librispeech", "vgg_blstm", name].values for name in ("cer", "wer"))
    found.append(
        f"VGG+BLSTM on Librispeech: a character error rate of {cer['square']:g} and {cer[BASELINE]:g} beside a word "
        f"error rate of {wer['square']:g} and {wer[BASELINE]:g} is not usual; on WSJ it is less than half of it."
    )
    least = paper.tables()["claims"]["rescale_from"]
    unscaled = [row for row in paper.tables()["rescaling"] if row["classes"] >= least and row["k"] == row["M"] == 1]
    found += [
        f"The paper rescales from {least} classes on; {row['task']} has {row['classes']} and k = M = 1 in Table 9."
        for row in unscaled
    ]
    found.append("Table 9 calls TIMIT's task of 42 classes WER; it is the phone task (PER) of Table 5.")
    others = []
    for other in paper.published("table_20"):
        row = rows[other.task, other.model, other.metric]
        numbers = f"{other.values[BASELINE]:.1f} for {row.values[BASELINE]:.1f}"
        others.append(f"{row.model_name} on {row.task_name} {numbers}")
    found.append(f"Table 20 has other results of cross-entropy than Tables 5 and 7: {', '.join(others)}.")
    return found


def _has_equal_epochs(row: paper.Published) -> bool:
    settings = [paper.hyperparameters(row.task, row.model, loss) for loss in ("square", BASELINE)]
    return len({(each.epochs, each.steps) for each in settings if each}) == 1


def _epochs(row: paper.Published) -> str:
    settings = paper.hyperparameters(row.task, row.model, BASELINE)
    assert settings is not None, "the paper has settings for each of its rows"
    return f"{settings.epochs} epochs" if settings.steps is None else f"{settings.steps} steps"

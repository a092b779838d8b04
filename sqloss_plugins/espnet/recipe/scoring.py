"""Stage 8: the error rates of all that was decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqloss_plugins import paper
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe.error_rates import count_errors, read_text
from sqloss_plugins.espnet.recipe.paths import DataFolder, RunFolder, read_json
from sqloss_plugins.metrics import Edits, metric
from sqloss_plugins.probability import METHODS
from sqloss_plugins.results import OF_OUTPUTS, Result, markdown_table


@dataclass(frozen=True)
class Scorer:
    """How hypotheses are held against the transcripts.

    Attributes:
        data: the transcripts.
        asr_exp: the hypotheses.
        metrics: error rates; the first decides.
        folding: which tokens count as which.
    """

    data: DataFolder
    asr_exp: RunFolder
    metrics: tuple[str, ...]
    folding: Mapping[str, str]

    def _is_decoded(self, subset: str, method: str) -> bool:
        return (self.asr_exp.decoded(subset, method) / "text").is_file()

    def check_decoded(self, subsets: Sequence[str], methods: Sequence[str]) -> None:
        """Refuses to score what was not decoded.

        Raises:
            UserError: one of the subsets was not decoded by one of the methods.
        """
        for subset in subsets:
            for method in methods:
                if not self._is_decoded(subset, method):
                    raise UserError(f"{subset} was not decoded with the method {method}: begin with --stage 7")

    def errors(self, subset: str, method: str) -> dict[str, Edits]:
        """By metric.

        Raises:
            UserError: the subset was not decoded by this method.
        """
        self.check_decoded([subset], [method])
        references = read_text(self.data.subset(subset) / "text")
        hypotheses = read_text(self.asr_exp.decoded(subset, method) / "text")
        return count_errors(references, hypotheses, self.metrics, self.folding)

    def best_method(self, dev: str, methods: Sequence[str]) -> str:
        """The method with the fewest errors on the development set; of equals the first."""
        decisive = self.metrics[0]
        rates = [self.errors(dev, method)[decisive].rate for method in methods]
        return methods[metric(decisive).best(rates)]

    def all_errors(self, subsets: Sequence[str]) -> dict[tuple[str, str], dict[str, Edits]]:
        """By subset and method, of whatever was decoded."""
        pairs = [(subset, method) for subset in subsets for method in METHODS]
        return {pair: self.errors(*pair) for pair in pairs if self._is_decoded(*pair)}


def test_splits(tests: Sequence[str]) -> dict[str, str]:
    """Test set -> its name in a result: ``test`` for the first, ``test NAME`` for a further one."""
    return {subset: f"test {subset}" if i else "test" for i, subset in enumerate(tests)}


def metrics_by_split(
    errors: Mapping[tuple[str, str], Mapping[str, Edits]],
    calibration: Mapping[str, Any],
    dev: str,
    tests: Sequence[str],
) -> dict[str, dict[str, dict[str, float]]]:
    """``Result.metrics``."""
    splits = {dev: "validation", **test_splits(tests)}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (subset, method), by_metric in errors.items():
        values = {name: value.rate for name, value in by_metric.items()}
        found.setdefault(splits[subset], {})[method] = values
    validation = found["validation"]
    for method in validation.keys() & calibration["nll"].keys():
        validation[method]["nll"] = calibration["nll"][method]
    validation[OF_OUTPUTS] = {"accuracy": calibration["accuracy"]}
    return found


def results_table(errors: Mapping[tuple[str, str], Mapping[str, Edits]], chosen: str, sizes: Mapping[str, int]) -> str:
    """The error rates by subset and method, in Markdown; the chosen method is marked."""
    names = list(next(iter(errors.values())))
    first, further = names[0], names[1:]
    headings = [f"{name.upper()} %" for name in names]
    rows: list[Sequence[str]] = [["set", "utterances", "method", headings[0], "S", "D", "I", *headings[1:]]]
    for (subset, method), found in errors.items():
        edits = [str(value) for value in (found[first].substitutions, found[first].deletions, found[first].insertions)]
        rates = {name: f"{100 * found[name].rate:.2f}" for name in names}
        marked = f"{method} *" if method == chosen else method
        rows.append([subset, str(sizes[subset]), marked, rates[first], *edits, *(rates[name] for name in further)])
    return markdown_table(rows)


def papers_results(task: str, arch: str, test: str) -> str:
    """What the paper has for the task and the model, in Markdown."""
    lines = [
        f"\n\nThe paper's {name.upper()} on {test} with this model: {published['square']} % (square), "
        f"{published['cross_entropy']} % (cross-entropy)."
        for name, published in paper.test_results(task, arch).items()
    ]
    return "".join(lines)


def report(result: Result, table: str, num_tokens: int, rescaling: paper.Rescaling | None, dev: str) -> str:
    """``RESULTS.md`` of a run."""
    mini = " (MINI: synthetic speech, not the real task)" if result.mini else ""
    rescaled = f", {rescaling}" if rescaling else ""
    lm_text = result.data["lm_text"]
    lm = f"language model on the text of {lm_text}" if lm_text else "no language model"
    made_by = {"device": result.device, **{name: value for name, value in result.versions.items() if value}}
    return (
        f"## {result.task}{mini}: {result.arch}, {result.loss}{rescaled}\n\n"
        f"{result.parameters / 1e6:.1f} M parameters, {num_tokens} tokens, {result.epochs:g} epochs, "
        f"lr {result.hyperparameters['learning_rate']:g}, seed {result.seed}, {lm}; * is the method with the lowest "
        f"{result.selection.upper()} on {dev}.\n\n{table}\n\n"
        + "\n".join(f"* {name}: {value}" for name, value in made_by.items())
        + "\n"
    )


def make_result(
    scorer: Scorer,
    errors: Mapping[tuple[str, str], Mapping[str, Edits]],
    dev: str,
    tests: Sequence[str],
    what: Mapping[str, Any],
    max_epoch: int,
) -> Result:
    """The result of a run.

    Args:
        scorer: what counted the errors.
        errors: by subset and method.
        dev, tests: the subsets.
        what: the fields of the result that the command line decides.
        max_epoch: of the training.
    """
    training, calibration = read_json(scorer.asr_exp.training), read_json(scorer.asr_exp.calibration)
    epochs = training.pop("epochs")
    return Result(
        **what,
        **training,
        epochs=float(epochs),
        ended_by="maximum" if epochs >= max_epoch else "early stopping",
        best_epoch=None,
        parameters=calibration["parameters"],
        metrics=metrics_by_split(errors, calibration, dev, tests),
        selection=scorer.metrics[0],
    )

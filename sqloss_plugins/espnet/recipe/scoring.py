"""Stage 8: the error rates of all that was decoded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqloss_plugins import paper
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe.confidence import token_metrics
from sqloss_plugins.espnet.recipe.error_rates import count_errors, read_text, word_auroc
from sqloss_plugins.espnet.recipe.paths import DataFolder, RunFolder, read_json
from sqloss_plugins.espnet.recipe.preparation import tokenizer
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.metrics import Edits, metric
from sqloss_plugins.probability import METHODS
from sqloss_plugins.results import OF_OUTPUTS, Result, markdown_table, read_result

_SCLITE = ("Snt", "Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err")


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
        """By metric: those of the recipe, and where the model has sentencepiece's pieces their ``ter``.

        The tokens of other models are characters or phones, whose error rates are ``cer`` and ``per``.

        Raises:
            UserError: the subset was not decoded by this method.
        """
        self.check_decoded([subset], [method])
        references = read_text(self.data.subset(subset) / "text")
        hypotheses = read_text(self.asr_exp.decoded(subset, method) / "text")
        tokenize = tokenizer(self.data).text2tokens if self.data.bpe_model else None
        return count_errors(references, hypotheses, self.metrics, self.folding, tokenize)

    def best_method(self, dev: str, methods: Sequence[str]) -> str:
        """The method with the fewest errors on the development set; of equals the first."""
        decisive = self.metrics[0]
        rates = [self.errors(dev, method)[decisive].rate for method in methods]
        return methods[metric(decisive).best(rates)]

    def all_errors(self, subsets: Sequence[str]) -> dict[tuple[str, str], dict[str, Edits]]:
        """By subset and method, of whatever was decoded."""
        pairs = [(subset, method) for subset in subsets for method in METHODS]
        return {pair: self.errors(*pair) for pair in pairs if self._is_decoded(*pair)}

    def word_aurocs(self, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """By subset and method: how well its confidence tells a right word; of those that have any."""
        found = {}
        for subset, method in pairs:
            path = self.asr_exp.confidence(subset, method)
            if path.is_file():
                confidence = {name: list(map(float, line.split())) for name, line in read_text(path).items()}
                references = read_text(self.data.subset(subset) / "text")
                hypotheses = read_text(self.asr_exp.decoded(subset, method) / "text")
                found[subset, method] = word_auroc(references, hypotheses, confidence, self.folding)
        return found

    def beside_other_losses(self, result: Result, subsets: Mapping[str, str]) -> str:
        """The first metric of this run and of those of other losses beside it, in Markdown; empty where there are none.

        These are the finished runs in the folders beside this one with the same data, model, seed and decoding, each
        with the method that counts in it.

        Args:
            result: of this run.
            subsets: of which the errors are shown -> their splits in the result.
        """
        runs = {self.asr_exp: result}
        for path in sorted(self.asr_exp.root.parent.iterdir()):
            folder = replace(self.asr_exp, root=path)
            try:
                other = read_result(folder.result)
            except ValueError:
                continue  # there is none, or it is damaged, or of another version
            if other.loss != result.loss and _what_is_shared(other) == _what_is_shared(result):
                runs[folder] = other
        if len(runs) == 1:
            return ""
        name = self.metrics[0]
        rows: list[Sequence[str]] = [["loss", "dataset", *_SCLITE, "run"]]
        for subset, split in subsets.items():
            for folder, found in sorted(runs.items(), key=lambda run: (run[1].loss, run[0].root.name)):
                scorer = replace(self, asr_exp=folder)
                is_same = _fingerprint(found, split) == _fingerprint(result, split)
                if is_same and scorer._is_decoded(subset, found.method):
                    edits = scorer.errors(subset, found.method)[name]
                    rows.append([found.loss, f"{subset}/{found.method}", *_as_sclite(edits), folder.root.name])
        return f"\n\n### {name.upper()} of the losses side by side\n\n{markdown_table(rows)}"


def _what_is_shared(result: Result) -> tuple[object, ...]:
    """What runs have in common that are shown in one table."""
    decoding = result.hyperparameters.get("decoding")
    return result.task, result.arch, result.mini, result.seed, result.data.get("fingerprint"), decoding


def _fingerprint(result: Result, split: str) -> object:
    """Of a test set; None for the development set, of which :func:`_what_is_shared` knows."""
    return result.data.get("test_fingerprints", {}).get(split)


def test_splits(tests: Sequence[str]) -> dict[str, str]:
    """Test set -> its name in a result: ``test`` for the first, ``test NAME`` for a further one."""
    return {subset: f"test {subset}" if i else "test" for i, subset in enumerate(tests)}


def metrics_by_split(
    errors: Mapping[tuple[str, str], Mapping[str, Edits]],
    calibration: Mapping[str, Any],
    aurocs: Mapping[tuple[str, str], float],
    of_tokens: Mapping[str, Mapping[str, Mapping[str, float]]],
    dev: str,
    tests: Sequence[str],
) -> dict[str, dict[str, dict[str, float]]]:
    """``Result.metrics``.

    Args:
        errors: by subset and method.
        calibration: of the development set.
        aurocs: made by :meth:`Scorer.word_aurocs`.
        of_tokens: split -> method -> metrics of the tokens of transcripts.
        dev, tests: the subsets.
    """
    splits = {dev: "validation", **test_splits(tests)}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (subset, method), by_metric in errors.items():
        values = {name: value.rate for name, value in by_metric.items()}
        values["ser"] = _decisive(by_metric).rate_of_texts
        found.setdefault(splits[subset], {})[method] = values
    for (subset, method), value in aurocs.items():
        found[splits[subset]][method]["word_auroc"] = value
    for split, by_method in of_tokens.items():
        for method, of_method in by_method.items():
            found[split].setdefault(method, {}).update(of_method)
    validation = found["validation"]
    for method in validation.keys() & calibration["nll"].keys():
        validation[method]["nll"] = calibration["nll"][method]
    validation[OF_OUTPUTS] = {"accuracy": calibration["accuracy"]}
    return found


def _decisive(by_metric: Mapping[str, Edits]) -> Edits:
    """Of the first metric, whose errors also decide which sentences are wrong."""
    return next(iter(by_metric.values()))


def results_table(errors: Mapping[tuple[str, str], Mapping[str, Edits]], chosen: str, sizes: Mapping[str, int]) -> str:
    """The error rates by subset and method, in Markdown; the chosen method is marked."""
    names = list(next(iter(errors.values())))
    first, further = names[0], names[1:]
    headings = [f"{name.upper()} %" for name in (*names, "ser")]
    rows: list[Sequence[str]] = [["set", "utterances", "method", headings[0], "S", "D", "I", *headings[1:]]]
    for (subset, method), found in errors.items():
        edits = [str(value) for value in (found[first].substitutions, found[first].deletions, found[first].insertions)]
        rates = {name: f"{100 * found[name].rate:.2f}" for name in names}
        of_sentences = f"{100 * _decisive(found).rate_of_texts:.2f}"
        shown = [rates[first], *edits, *(rates[name] for name in further), of_sentences]
        rows.append([subset, str(sizes[subset]), _marked(method, chosen), *shown])
    return markdown_table(rows)


def _marked(method: str, chosen: str) -> str:
    return f"{method} *" if method == chosen else method


def confidence_table(result: Result, splits: Mapping[str, str]) -> str:
    """How good the decoder's probabilities are, by subset and method, in Markdown; empty where nothing was measured.

    Args:
        result: of the run.
        splits: subset -> its split in the result.
    """
    names = ("nll", "brier", "ece", "word_auroc")
    rows: list[Sequence[str]] = [["set", "method", "token accuracy %", *(metric(name).heading for name in names)]]
    for subset, split in splits.items():
        accuracy = result.value(split, "accuracy")
        for method in METHODS:
            values = result.metrics[split].get(method, {})
            if "brier" in values and accuracy is not None:
                cells = [_shown(name, values.get(name)) for name in names]
                rows.append([subset, _marked(method, result.method), metric("accuracy").shown(accuracy), *cells])
    if len(rows) == 1:
        return ""
    about = (
        "Tokens: the attention decoder that is told the transcript. word_auroc: how well the probability of a decoded "
        "word tells whether it is right; - where all words are right, or all are wrong."
    )
    return f"\n\n### Probabilities\n\n{markdown_table(rows)}\n\n{about}"


def _shown(name: str, value: float | None) -> str:
    """A cell: empty for what was not measured, - for what has no value."""
    if value is None:
        return ""
    return "-" if math.isnan(value) else metric(name).shown(value)


def espnets_tables(errors: Mapping[tuple[str, str], Mapping[str, Edits]], chosen: str) -> str:
    """A table for each metric as ESPnet's recipes have it from sclite, in Markdown.

    ``Snt`` and ``Wrd`` are the numbers of sentences and words (characters, tokens), ``S.Err`` is in per cent of the
    sentences, all else in per cent of the words. The edits are jiwer's. Where two substitutions serve as well as a
    deletion and an insertion, jiwer counts the former, and sclite, with its costs of 4, 3 and 3, the latter.
    """
    found = ""
    for name in next(iter(errors.values())):
        rows: list[Sequence[str]] = [["dataset", *_SCLITE]]
        for (subset, method), by_metric in errors.items():
            rows.append([f"{subset}/{_marked(method, chosen)}", *_as_sclite(by_metric[name])])
        found += f"\n\n### {name.upper()}\n\n{markdown_table(rows)}"
    return found


def _as_sclite(edits: Edits) -> list[str]:
    correct = edits.length - edits.substitutions - edits.deletions
    counts = (correct, edits.substitutions, edits.deletions, edits.insertions)
    shares = [*(count / max(edits.length, 1) for count in counts), edits.rate, edits.rate_of_texts]
    return [str(edits.texts), str(edits.length), *(f"{100 * share:.1f}" for share in shares)]


def papers_results(task: str, arch: str, test: str) -> str:
    """What the paper has for the task and the model, in Markdown."""
    lines = [
        f"\n\nThe paper's {name.upper()} on {test} with this model: {published['square']} % (square), "
        f"{published['cross_entropy']} % (cross-entropy)."
        for name, published in paper.test_results(task, arch).items()
    ]
    return "".join(lines)


def report(
    result: Result,
    table: str,
    num_tokens: int,
    rescaling: paper.Rescaling | None,
    dev: str,
    perplexities: Mapping[str, float],
) -> str:
    """``RESULTS.md`` of a run.

    Args:
        result: of the run.
        table: its error rates, in Markdown.
        num_tokens: of the vocabulary.
        rescaling: k and M; None for losses that have neither.
        dev: name of the development set.
        perplexities: subset -> the language model's perplexity of a token; empty where there is no language model.
    """
    mini = " (MINI: synthetic speech, not the real task)" if result.mini else ""
    rescaled = f", {rescaling}" if rescaling else ""
    lm_text = result.data["lm_text"]
    on_sets = ", ".join(f"{value:.2f} on {subset}" for subset, value in perplexities.items())
    lm = f"language model on the text of {lm_text}, perplexity {on_sets}" if lm_text else "no language model"
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
    outputs: Mapping[str, tuple[Any, Any]],
    max_epoch: int,
) -> Result:
    """The result of a run.

    Args:
        scorer: what counted the errors.
        errors: by subset and method.
        dev, tests: the subsets.
        what: the fields of the result that the command line decides.
        outputs: split -> the decoder's outputs and targets; see :mod:`sqloss_plugins.espnet.recipe.confidence`.
        max_epoch: of the training.
    """
    training, calibration = read_json(scorer.asr_exp.training), read_json(scorer.asr_exp.calibration)
    epochs = training.pop("epochs")
    of_tokens = {}
    for split, (f, y) in outputs.items():
        methods = LOSSES[what["loss"]].methods
        of_tokens[split] = token_metrics(f, y, methods, what["k"], what["M"], calibration["temperature"])
    return Result(
        **what,
        **training,
        epochs=float(epochs),
        ended_by="maximum" if epochs >= max_epoch else "early stopping",
        best_epoch=None,
        parameters=calibration["parameters"],
        metrics=metrics_by_split(errors, calibration, scorer.word_aurocs(errors), of_tokens, dev, tests),
        selection=scorer.metrics[0],
    )

"""Word and character error rates, and the table at the end of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqloss_plugins.errors import UserError
from sqloss_plugins.results import Result, markdown_table


@dataclass(frozen=True)
class Errors:
    """Edits between references and hypotheses, in words or in characters.

    Attributes:
        substitutions, deletions, insertions: how many of each.
        length: words or characters of the references.
    """

    substitutions: int
    deletions: int
    insertions: int
    length: int

    @property
    def rate(self) -> float:
        """Edits for each word or character of the references, a fraction."""
        return (self.substitutions + self.deletions + self.insertions) / self.length


def read_text(path: Path) -> dict[str, str]:
    """ESPnet's ``text``: utterance -> words, which may be none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: text.strip() for name, _, text in (line.partition(" ") for line in lines)}


def score_texts(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> dict[str, Errors]:
    """``wer`` and ``cer`` over all utterances together.

    Raises:
        UserError: the two do not have the same utterances.
    """
    import jiwer

    missing = sorted(references.keys() ^ hypotheses.keys())
    if missing:
        raise UserError(f"{len(missing)} utterances have only one of reference and hypothesis, such as {missing[0]}")
    names = sorted(references)
    said, heard = [references[name] for name in names], [hypotheses[name] for name in names]
    return {
        metric: Errors(
            found.substitutions, found.deletions, found.insertions, found.hits + found.substitutions + found.deletions
        )
        for metric, found in (("wer", jiwer.process_words(said, heard)), ("cer", jiwer.process_characters(said, heard)))
    }


def results_table(errors: Mapping[tuple[str, str], Mapping[str, Errors]], chosen: str, sizes: Mapping[str, int]) -> str:
    """The error rates by subset and score, in Markdown; the chosen score is marked."""
    rows: list[Sequence[str]] = [["set", "utterances", "score", "WER %", "S", "D", "I", "CER %"]]
    for (subset, score), found in errors.items():
        words, characters = found["wer"], found["cer"]
        edits = [str(value) for value in (words.substitutions, words.deletions, words.insertions)]
        marked = f"{score} *" if score == chosen else score
        rates = [f"{100 * value.rate:.2f}" for value in (words, characters)]
        rows.append([subset, str(sizes[subset]), marked, rates[0], *edits, rates[1]])
    return markdown_table(rows)


def environment(result: Result) -> str:
    """What made a result, in Markdown."""
    pairs = {"device": result.device, **{name: value for name, value in result.versions.items() if value}}
    return "\n".join(f"* {name}: {value}" for name, value in pairs.items())

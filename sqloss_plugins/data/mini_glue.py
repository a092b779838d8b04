"""Mini GLUE: small made-up data for every GLUE task, in GLUE's own file layout, made at once and offline.

The sentences come from a small grammar of scenes: who did what to what, where and when. Each task asks of them what
the real task asks of real text (a paraphrase, an entailment, a sentiment, ...). The data exists to run the whole
pipeline; nothing measured on it says anything about the real task.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sqloss_plugins.data.glue import GlueTask, load_from_dir
from sqloss_plugins.data.task_data import TaskData

SIZES = {"train": 480, "dev": 128, "test": 128}

# Each entry is one concept and the words for it; a paraphrase exchanges words, never concepts.
_PEOPLE = (
    ("doctor", "physician"),
    ("teacher", "instructor"),
    ("lawyer", "attorney"),
    ("child", "kid"),
    ("woman", "lady"),
    ("police officer", "cop"),
    ("writer", "author"),
    ("farmer", "grower"),
)
_ACTS = (
    ("bought", "purchased"),
    ("repaired", "fixed"),
    ("sold", "traded away"),
    ("found", "discovered"),
    ("broke", "smashed"),
    ("painted", "coloured"),
    ("hid", "concealed"),
    ("washed", "cleaned"),
)
_THINGS = (
    ("car", "automobile"),
    ("picture", "image"),
    ("bicycle", "bike"),
    ("sofa", "couch"),
    ("lamp", "light"),
    ("boat", "ship"),
    ("phone", "telephone"),
    ("coat", "jacket"),
)
_PLACES = (
    ("in the shop", "at the store"),
    ("near the forest", "by the woods"),
    ("in the city", "in the town"),
    ("at home", "in the house"),
    ("on the street", "on the road"),
    ("by the sea", "near the ocean"),
)
_TIMES = (
    ("yesterday", "the day before"),
    ("last week", "a week ago"),
    ("this morning", "today at dawn"),
    ("in winter", "during the cold months"),
    ("at noon", "in the middle of the day"),
)
_SLOTS = (_PEOPLE, _ACTS, _THINGS, _PLACES, _TIMES)

_GOOD = ("wonderful", "brilliant", "charming", "delightful", "superb", "touching")
_BAD = ("dull", "awful", "boring", "clumsy", "dreadful", "tedious")
_WORKS = ("film", "story", "performance", "plot", "ending", "acting", "music")


@dataclass(frozen=True)
class _Scene:
    """Concepts by their numbers in the five slots: person, act, thing, place, time."""

    concepts: tuple[int, ...]

    @staticmethod
    def draw(rng: random.Random) -> _Scene:
        return _Scene(tuple(rng.randrange(len(slot)) for slot in _SLOTS))

    def changed(self, rng: random.Random, slots: list[int]) -> _Scene:
        concepts = list(self.concepts)
        for slot in slots:
            others = [i for i in range(len(_SLOTS[slot])) if i != concepts[slot]]
            concepts[slot] = rng.choice(others)
        return replace(self, concepts=tuple(concepts))

    def words(self, rng: random.Random) -> list[str]:
        return [rng.choice(slot[i]) for slot, i in zip(_SLOTS, self.concepts, strict=True)]


def _statement(rng: random.Random, scene: _Scene) -> str:
    person, act, thing, place, time = scene.words(rng)
    text = f"the {person} {act} the {thing} {place}"
    text = rng.choice((f"{text} {time}", f"{time} , {text}"))
    return f"{text[0].upper()}{text[1:]} ."


def _question(rng: random.Random, scene: _Scene) -> str:
    person, act, thing, place, time = scene.words(rng)
    text = f"{act} the {thing} {place} {time}"
    return rng.choice((f"Who {text} : the {person} ?", f"Is it the {person} who {text} ?"))


def _paraphrase(write: Callable[[random.Random, _Scene], str]) -> Callable[[random.Random], tuple[list[str], str]]:
    def draw(rng: random.Random) -> tuple[list[str], str]:
        scene, same = _Scene.draw(rng), rng.random() < 0.5
        other = scene if same else scene.changed(rng, rng.sample(range(len(_SLOTS)), 2))
        return [write(rng, scene), write(rng, other)], str(int(same))

    return draw


def _similarity(rng: random.Random) -> tuple[list[str], str]:
    scene, different = _Scene.draw(rng), rng.randint(0, len(_SLOTS))
    other = scene.changed(rng, rng.sample(range(len(_SLOTS)), different))
    return [_statement(rng, scene), _statement(rng, other)], f"{5 - different:.3f}"


def _entailment(names: tuple[str, ...]) -> Callable[[random.Random], tuple[list[str], str]]:
    def draw(rng: random.Random) -> tuple[list[str], str]:
        scene, name = _Scene.draw(rng), rng.choice(names)
        told = scene if name in ("entailment", "neutral") else scene.changed(rng, [rng.choice((0, 2))])
        if name == "not_entailment":
            told = scene.changed(rng, [0, 2])
        person, act, thing, _, time = told.words(rng)
        hypothesis = f"The {person} {act} the {thing} ."
        if name == "neutral":
            hypothesis = f"The {person} {act} the {thing} to please a friend ."
        if name == "contradiction":
            hypothesis = f"Nobody {act} the {thing} {time} ."
        return [_statement(rng, scene), hypothesis], name

    return draw


def _answers(rng: random.Random) -> tuple[list[str], str]:
    scene, name = _Scene.draw(rng), rng.choice(("entailment", "not_entailment"))
    person, act, thing, _, _ = scene.words(rng)
    told = scene if name == "entailment" else scene.changed(rng, [0, 1, 2])
    return [f"Where is it that the {person} {act} the {thing} ?", _statement(rng, told)], name


def _acceptable(rng: random.Random) -> tuple[list[str], str]:
    words = _statement(rng, _Scene.draw(rng)).split()
    good = rng.random() < 0.5
    if not good:
        middle = words[:-1]
        rng.shuffle(middle)
        words = [*middle, words[-1]]
    return [" ".join(words)], str(int(good))


def _sentiment(rng: random.Random) -> tuple[list[str], str]:
    positive, negated = rng.random() < 0.5, rng.random() < 0.3
    word = rng.choice(_GOOD if positive != negated else _BAD)
    work, other = rng.sample(_WORKS, 2)
    verb = "was not" if negated else "was"
    return [f"the {work} {verb} {word} , and so {verb} the {other} "], str(int(positive))


_DRAW: dict[str, Callable[[random.Random], tuple[list[str], str]]] = {
    "cola": _acceptable,
    "mnli": _entailment(("entailment", "neutral", "contradiction")),
    "mrpc": _paraphrase(_statement),
    "qnli": _answers,
    "qqp": _paraphrase(_question),
    "rte": _entailment(("entailment", "not_entailment")),
    "sst2": _sentiment,
    "stsb": _similarity,
    "wnli": lambda rng: _binary(_entailment(("entailment", "not_entailment"))(rng)),
}


def _binary(example: tuple[list[str], str]) -> tuple[list[str], str]:
    return example[0], str(int(example[1] == "entailment"))


def write_mini_task(task: GlueTask, folder: Path) -> Path:
    """Writes a task's mini data as TSV files into ``folder``/<GLUE's folder name>; returns that folder.

    The same task always gets the same data; no text occurs in two splits.
    """
    target = folder / task.folder
    target.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"mini {task.name}")
    splits = dict(SIZES)
    if task.name == "mnli":
        splits = {"train": SIZES["train"]}
        for kind in ("matched", "mismatched"):
            splits |= {f"dev_{kind}": SIZES["dev"], f"test_{kind}": SIZES["test"]}
    seen: set[tuple[str, ...]] = set()
    for split, size in splits.items():
        lines = [] if task.headerless else ["\t".join([*task.texts, "label"])]
        count = 0
        while count < size:
            texts, label = _DRAW[task.name](rng)
            if tuple(texts) in seen:
                continue
            seen.add(tuple(texts))
            count += 1
            fields = {**dict(zip(task.texts, texts, strict=True)), "label": label}
            names = task.headerless or (*task.texts, "label")
            lines.append("\t".join(fields.get(name, "mini") for name in names))
        (target / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def load_mini(task: GlueTask) -> TaskData:
    """A task's mini data, written to a folder and read back by the reader of the real files."""
    with tempfile.TemporaryDirectory() as folder:
        write_mini_task(task, Path(folder))
        data = load_from_dir(task, Path(folder), cache_dir=f"{folder}/cache", in_memory=True)
    return replace(data, source="mini data made by this package", mini=True)

"""Mini text5 and text20: made-up titles and questions, in the layout of the public files, made at once and offline.

Titles and posts come from a small grammar: each class has its own topics, related classes share some of them, and
everything else is said alike in all classes. The data exists to run the whole pipeline; nothing measured on it says
anything about the real tasks.
"""

from __future__ import annotations

import csv
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqloss_plugins.data.hold_out import HoldOut
from sqloss_plugins.data.labelled_text import LabelledText, load_files
from sqloss_plugins.data.labels import Columns

_TOPICS: Mapping[str, tuple[str, ...]] = {
    "ISCAS": (
        "switched-capacitor filters",
        "delta-sigma modulators",
        "phase-locked loops",
        "CMOS amplifiers",
        "analog-to-digital converters",
        "on-chip voltage regulators",
        "memristor arrays",
        "VLSI adders",
    ),
    "INFOCOM": (
        "wireless sensor networks",
        "congestion control",
        "multicast routing",
        "packet scheduling",
        "cellular base stations",
        "medium access protocols",
        "optical switches",
        "peer-to-peer streaming",
    ),
    "VLDB": (
        "join processing",
        "transaction logs",
        "relational query optimizers",
        "data warehouses",
        "B-tree indexes",
        "schema matching",
        "materialized views",
        "column stores",
    ),
    "WWW": (
        "search engine advertising",
        "hyperlink analysis",
        "web page classification",
        "social bookmarks",
        "online reviews",
        "browser caching",
        "semantic web ontologies",
        "news recommendation",
    ),
    "SIGGRAPH": (
        "global illumination",
        "mesh simplification",
        "cloth animation",
        "texture synthesis",
        "ray tracing",
        "facial motion capture",
        "volume rendering",
        "subdivision surfaces",
    ),
}
_METHODS = (
    "a graph-based approach",
    "an adaptive algorithm",
    "a probabilistic model",
    "dynamic programming",
    "convex optimization",
    "neural networks",
    "a unified framework",
    "incremental updates",
)
_QUALITIES = ("efficient", "scalable", "robust", "fast", "low-cost", "accurate", "practical", "parallel")
_STRANGERS = 0.1  # share of texts whose topic is drawn from all classes

_CLIENT = ("a click handler", "form validation", "an ajax call", "a drop-down menu", "a hidden div")
_DOTNET = ("a linq query", "a nuget package", "the gridview control", "an app.config file", "async and await")
_APPLE = ("a uitableview cell", "a storyboard segue", "core data", "push notifications", "the xcode simulator")
_NATIVE = ("a null pointer", "malloc and free", "a linker error", "an array of structs", "a header file")
_DATABASE = ("an inner join", "a group by clause", "a foreign key", "a stored procedure", "duplicate rows")

_TAGS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    ".net": (("the clr", "a windows service", "wcf endpoints", "an assembly reference"), _DOTNET),
    "android": (("an intent", "the activity lifecycle", "a listview adapter", "the manifest"), ("java code",)),
    "angularjs": (("ng-repeat", "a directive", "$scope", "ui-router"), _CLIENT),
    "asp.net": (("a web form postback", "an mvc controller", "session state", "a master page"), _DOTNET),
    "c": (("printf", "scanf input", "a char buffer", "fork and pipe"), _NATIVE),
    "c#": (("a delegate", "string.format", "an enum flag", "a winforms button"), _DOTNET),
    "c++": (("std::vector", "a template class", "operator overloading", "a virtual destructor"), _NATIVE),
    "css": (("float left", "a media query", "the z-index", "vertical align"), _CLIENT),
    "html": (("an iframe", "table cells", "a doctype", "the anchor tag"), _CLIENT),
    "ios": (("swift optionals", "auto layout", "a view controller", "the app store"), _APPLE),
    "iphone": (("the ipad screen", "screen rotation", "an app icon", "device tokens"), _APPLE),
    "java": (("an arraylist", "a swing jframe", "maven", "the garbage collector"), ("java code",)),
    "javascript": (("a closure", "prototype inheritance", "settimeout", "a json string"), _CLIENT),
    "jquery": (("a selector", "fadein", "the datepicker plugin", "$(this)"), _CLIENT),
    "mysql": (("innodb", "phpmyadmin", "auto_increment", "a mysqldump"), _DATABASE),
    "objective-c": (("an nsarray", "retain and release", "a category method", "nsstring"), _APPLE),
    "php": (("$_post", "a session cookie", "an include path", "preg_match"), ("form validation", "duplicate rows")),
    "python": (("a list comprehension", "a pandas dataframe", "pip", "a generator"), ("a json string", "an import")),
    "ruby-on-rails": (("activerecord", "a migration", "devise", "routes.rb"), ("form validation", "a foreign key")),
    "sql": (("a subquery", "a window function", "a pivot", "a cursor"), _DATABASE),
}
_WISHES = ("how do i use {} here", "why does {} not work", "what is wrong with {}", "is there a better way than {}")
_STORIES = (
    "i have tried everything that i found so far.",
    "it works on my machine but not on the server.",
    "i am new to this and the documentation does not help.",
    "after the last update the result is empty.",
    "my boss wants it by tomorrow.",
)
_CODE = ("x = get(1)", "run(x)", 'print("ok")', "if x: stop()", "value = a, b", "result = f(x)", "// todo")
_NAMED = 0.3  # share of posts that name their tag


def _or_another(rng: random.Random, name: str, names: Sequence[str]) -> str:
    return rng.choice(names) if rng.random() < _STRANGERS else name


def _title(rng: random.Random, conference: str) -> str:
    topic = rng.choice(_TOPICS[_or_another(rng, conference, tuple(_TOPICS))])
    method, quality = rng.choice(_METHODS), rng.choice(_QUALITIES)
    patterns = (
        f"{quality} {topic} by {method}",
        f"{method} for {quality} {topic}",
        f"on {quality} {topic} and {method}",
    )
    title = rng.choice(patterns)
    return f"{title[0].upper()}{title[1:]}."


def _post(rng: random.Random, tag: str) -> str:
    own, shared = _TAGS[_or_another(rng, tag, tuple(_TAGS))]
    things = [rng.choice(own), rng.choice((*own, *shared))]
    rng.shuffle(things)
    named = f" in {tag}" if rng.random() < _NAMED else ""
    code = "\n".join(rng.sample(_CODE, 3))
    wish = rng.choice(_WISHES).format(things[0])
    return f"{wish}{named}? {rng.choice(_STORIES)} <pre><code>{code}\n</code></pre> it has to do with {things[1]}"


@dataclass(frozen=True)
class _MiniTask:
    """How a task's file is made: its name and header, the rows, the classes, and what makes a text of a class."""

    file: str
    header: tuple[str, str]
    rows: int
    classes: tuple[str, ...]
    draw: Callable[[random.Random, str], str]


TASKS: Mapping[str, _MiniTask] = {
    "text5": _MiniTask("title_conference.csv", ("Title", "Conference"), 600, tuple(_TOPICS), _title),
    "text20": _MiniTask("stack-overflow-data.csv", ("post", "tags"), 1500, tuple(_TAGS), _post),
}
"""The paper's tasks that are files of one's own, and what is made for each."""


def write_mini_text(task: str, folder: Path) -> Path:
    """Writes the mini data of ``text5`` or ``text20`` as one CSV file, which it returns.

    The same task always gets the same data, as many rows of every class; no text occurs twice.
    """
    made = TASKS[task]
    rng = random.Random(f"mini {task}")
    rows: dict[str, str] = {}
    while len(rows) < made.rows:
        name = made.classes[len(rows) % len(made.classes)]
        rows.setdefault(made.draw(rng, name), name)
    shuffled = list(rows.items())
    rng.shuffle(shuffled)
    path = folder / made.file
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([made.header, *shuffled])
    return path


def load_mini(task: str) -> LabelledText:
    """The mini data of a task, written to a folder and read back by the reader of the real file.

    A tenth is for validation and a fifth for testing.
    """
    text, label = (name.lower() for name in TASKS[task].header)
    with tempfile.TemporaryDirectory() as folder:
        path = write_mini_text(task, Path(folder))
        found = load_files(
            {"train": path},
            Columns(texts=(text,), label=label),
            HoldOut(validation_size=0.1, test_size=0.2),
            cache_dir=f"{folder}/cache",
            in_memory=True,
        )
    return replace(found, data=replace(found.data, source="mini data made by this package", mini=True))

"""A hook of MkDocs: pages of the site that are not in docs/, and links that hold in the repository and on the site.

The recipes' and benchmarks' pages and those at the top are taken as they are. The page of the paper's tasks is made
from the paper's tables, `sqloss list` and the reports in recipes/, so that no number is typed twice.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqloss_plugins import paper
from sqloss_plugins.experiments.listing import Entry, entries
from sqloss_plugins.metrics import metric
from sqloss_plugins.results import markdown_table
from tools import front_page

ROOT = Path(__file__).parent.parent
TOP = {"CONTRIBUTING.md": "How to add to it", "CHANGELOG.md": "Changes"}
OVERVIEW = "overview.md"
"""The README on the site, whose index.md is another page."""
_OF_RECIPE = {"README": "How to run it", "RESULTS": "What came out"}
_OF_REPORT = {"README": "The result files", "report": "The report"}
_TITLES = {"RESULTS": "All results", "EARLIER_RESULTS": "All earlier results"}
_DOMAINS = {"text": "Texts", "speech": "Speech", "vision": "Images"}
_CODE_OR_LINK = re.compile(  # whichever begins first: code may have links in it, and words of a link may be code
    r"(^```.*?^```|^(?: {4}|\t)[^\n]*$|`[^`\n]*`)|(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)", re.MULTILINE | re.DOTALL
)
_ROLE = re.compile(r":(?:func|class|data|meth|mod|attr|exc):<code>~?([^<]*)</code>")


@functools.cache
def outside() -> dict[str, Path]:
    """The site's path -> the file of every page, and of every picture on one, that is not in docs/."""
    patterns = ("recipes/*/*.md", "recipes/*/figures/*.[ps][nv]g", "benchmarks/*.md", "benchmarks/results/*.png")
    paths = [path for pattern in (*patterns, "patches/**/*.md") for path in ROOT.glob(pattern)]
    paths += [ROOT / name for name in TOP]
    there = {path.relative_to(ROOT).as_posix(): path for path in sorted(paths) if path.exists()}
    return {OVERVIEW: ROOT / "README.md", **there}


def target(link: str, page: str) -> str | None:
    """Where a relative link of a page leads on the site: a path from its top; None for what is not on it.

    Args:
        link: as in the repository, relative to the page.
        page: the page's path on the site.
    """
    place = page if page in outside() else f"docs/{page}"
    found = posixpath.normpath(posixpath.join(posixpath.dirname(place), link))
    if found == "README.md":
        return OVERVIEW
    if (ROOT / found / "README.md").exists():
        found = f"{found}/README.md"
    if found.startswith("docs/") and not (ROOT / found).is_dir():
        return found.removeprefix("docs/")
    return found if found in outside() else None


def moved_links(markdown: str, page: str) -> str:
    """A page with its links as they are on the site; a link to a file that the site does not have becomes its name.

    Code is left alone. A link to a file that is not there at all stays, for MkDocs to complain of.
    """

    def moved(found: re.Match[str]) -> str:
        code, picture, words, link, anchor = found.groups()
        if code or "://" in link or link.startswith("mailto:"):
            return found.group()
        where = target(link, page)
        place = ROOT / (page if page in outside() else f"docs/{page}")
        if where is None:
            return f"`{words.strip('`')}`" if (place.parent / link).exists() and not picture else found.group()
        return f"{picture}[{words}]({posixpath.relpath(where, posixpath.dirname(page) or '.')}{anchor or ''})"

    return _CODE_OR_LINK.sub(moved, markdown)


# ---------------------------------------------------------------- the paper's tasks


def tasks_page() -> str:
    """The paper's tasks: command, data, and our numbers beside the paper's."""
    ours = _ours()
    lines = [
        "# The paper's tasks",
        "Each of the paper's tasks is one command. It takes the paper's architecture and hyper-parameters by itself. "
        "`--loss cross_entropy` and `--loss squentropy` take the place of `--loss square`; a comparison has `--seed` 1 "
        "to 5. `sqloss list` prints the same, with what is on your machine, and `sqloss list --budget` the hours.",
        "Numbers are those on test data in per cent. Accuracy, F1 and top-5 are better when they are higher, PER, CER "
        "and WER when they are lower. *Here* is the mean over seeds of the runs of this repository that have the "
        "paper's model and data, with the number of seeds in brackets; empty cells were not run. Smaller runs, and "
        "runs of other models, are on the recipes' pages.",
    ]  # fmt: skip
    found = entries()
    for domain, title in _DOMAINS.items():
        lines += [f"## {title}"]
        for entry in found:
            if entry.task in paper.tables()["names"]["domains"][domain]:
                lines += _task(entry, ours)
    return "\n\n".join(lines) + "\n"


def _ours() -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """Task, model, metric -> our means and the numbers of their seeds, of the reports in recipes/."""
    found: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    kept, earlier = front_page.read_reports()
    for tables in map(front_page.records_by_table, (earlier, kept)):  # the later one counts for what both have
        for record in (record for name in ("table2", "table3", "table5", "table7") for record in tables.get(name, [])):
            if record["square_test_seeds"] or record["cross_entropy_test_seeds"]:
                found[record["task"], record["model"], record["metric"]] = record
    return found


def _task(entry: Entry, ours: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> list[str]:
    names, sizes = paper.tables()["names"], paper.tables()["datasets"]
    size = next(row for row in sizes if row["task"] == entry.task)
    title = f"### {names['tasks'][entry.task]}, {names['models'][entry.arch]}"
    if entry.task in ("timit_phone", "timit_char"):
        title += ", phones" if entry.task == "timit_phone" else ", characters"
    folder = re.sub(r"_(phone|char)$", "", entry.task)
    recipe = next(name for name in (folder, "glue") if (ROOT / "recipes" / name / "README.md").exists())
    results = ROOT / "recipes" / recipe / "RESULTS.md"
    pages = [f"[recipe](../recipes/{recipe}/README.md)"]
    pages += [f"[what came out](../recipes/{recipe}/RESULTS.md)"] if results.exists() else []
    chosen = paper.choose_rescaling(int(size["classes"]), task=entry.task)
    about = (
        f"{size['classes']} classes, {size['domain']}. Data: {entry.data.source}, or your own copy by "
        f"`{entry.data.option}`. k = {chosen.k:g}, M = {chosen.M:g} ({chosen.source}). {', '.join(pages)}."
    )
    columns = {"square": "square", "cross_entropy": "cross-entropy", "same_epochs": "square, same epochs"}
    heading = ["metric", *(f"{name}: {whose}" for name in columns.values() for whose in ("the paper", "here"))]
    rows = [heading]
    for name, values in entry.numbers.items():
        row = [metric(name).heading]
        for column in columns:
            row += [f"{values[column]:.1f}", _measured(ours.get((entry.task, entry.arch, name), {}), column)]
        rows.append(row)
    return [title, about, f"    {entry.command} --loss square", markdown_table(rows)]


def _measured(record: Mapping[str, Any], column: str) -> str:
    mean, seeds = record.get(f"{column}_test_mean"), record.get(f"{column}_test_seeds")
    return f"{mean:.2f} ({seeds})" if mean is not None and seeds else ""


def programs() -> str:
    """The programs in examples/, each in a section of its own."""
    paths = sorted((ROOT / "examples").glob("*.py"))
    return "".join(f"\n## {path.name}\n\n```python\n{path.read_text(encoding='utf-8')}```\n" for path in paths)


# ---------------------------------------------------------------- called by MkDocs


def on_config(config: Any) -> Any:
    """Adds the pages from outside of docs/ to the navigation."""
    recipes: dict[str, list[dict[str, str]]] = {}
    others: list[dict[str, str]] = []
    for path in outside():
        folder, _, name = path.removeprefix("recipes/").rpartition("/")
        if path in (OVERVIEW, *TOP) or not path.endswith(".md"):
            continue
        if path.startswith("recipes/"):
            of_page = _OF_REPORT if folder in _TITLES else _OF_RECIPE
            title = of_page.get(Path(name).stem, Path(name).stem)
            recipes.setdefault(folder, []).append({title: path})
        else:
            others.append({path.rpartition("/")[0].capitalize(): path})
    config["nav"] += [
        {"Recipes": [{_TITLES.get(folder, folder): pages} for folder, pages in recipes.items()]},
        *others,
        *({title: name} for name, title in TOP.items() if (ROOT / name).exists()),
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the files of these pages."""
    from mkdocs.structure.files import File

    for path, source in outside().items():
        files.append(File.generated(config, path, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Moves its links; makes the page of tasks, and adds the programs to that of examples.

    Searches find the guides before the reference and the recipes.
    """
    if page.file.src_uri not in outside() and not page.file.src_uri.startswith("reference/"):
        page.meta.setdefault("search", {"boost": 4})
    made: dict[str, Callable[[], str]] = {"tasks.md": tasks_page, "examples.md": lambda: markdown + programs()}
    return moved_links(made.get(page.file.src_uri, lambda: markdown)(), page.file.src_uri)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Shows the references of docstrings, which are Sphinx's, as code."""
    return _ROLE.sub(r"<code>\1</code>", html)

"""The documents of the project, and what is in them: blocks of Python, and commands."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
"""What tells how to use the package."""
RECIPES = sorted(ROOT.glob("recipes/*/README.md"))
"""The pages of the recipes, which are on the site, too."""
PAGES = [
    *DOCUMENTS,
    *(
        path
        for pattern in ("recipes/*/*.md", "benchmarks/*.md", "patches/**/*.md")
        for path in sorted(ROOT.glob(pattern))
    ),
]
"""And what came out."""
_SCRIPTS = {"run_glue_sq.py": "glue", "recipes/glue/run.sh": "sweep", "recipes/language_model/run.sh": "lm"}
_KINDS = {"text8": "characters", "enwik8": "characters", "mnist": "images", "cifar10": "images", "imagenet": "images"}


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def shell_commands(page):
    """The commands of a page for a shell, in its order and without their comments.

    Not what sets up an environment (`pip`, `make`) or runs the tests.
    """
    return commands_of(page.read_text(encoding="utf-8"))


def commands_of(text):
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE).replace("\\\n", " ")
    lines = re.findall(r"^    ((?:sqloss|python|torchrun|sudo|zcat|cd|\./).*)$", text, re.MULTILINE)
    return [" ".join(re.split(r"\s+#", line)[0].split()) for line in lines]


def site_commands():
    """The commands of the README, and those of the site's pages, which differ in more than the loss and the seed."""
    kinds = {}
    for page in [*DOCUMENTS[1:], *RECIPES]:
        for command in shell_commands(page):
            kinds.setdefault(re.sub(r" --(?:loss|seed) \S+", "", command), command)
    return list(dict.fromkeys([*shell_commands(DOCUMENTS[0]), *kinds.values()]))


def commands(page):
    """Command of `sqloss` -> the options that a page gives it; also where it is run by a script."""
    found = defaultdict(set)
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^    (.*)$", text, re.MULTILINE):
        for command in re.split(r"#|;", line):
            if name := _name(command):
                found[name] |= set(re.findall(r"(?<!\S)--\w+", command))
    return found


def _name(command):
    if found := re.search(r"(?:^|\s)(?:sqloss|-m sqloss_plugins) ([a-z]\w*)(?:\s|$)", command):
        return found[1]
    for script, name in _SCRIPTS.items():
        if script in command:
            return name
    found = re.search(r"recipes/(\w+)/run\.sh", command)
    return _KINDS.get(found[1], "classify" if found[1].startswith("text") else "asr") if found else None

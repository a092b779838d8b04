"""The documents of the project, and what is in them: blocks of Python, and commands."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
"""What tells how to use the package."""
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
    """The commands of a page for a shell, in its order and without their comments; not what sets up an environment."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = re.findall(r"^    ((?:sqloss|python|\./recipes).*)$", text.replace("\\\n", " "), re.MULTILINE)
    return [re.split(r"\s+#", line)[0].strip() for line in lines]


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

"""The README's Python examples run as they are written, and links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(EXAMPLES[number], f"README.md, example {number + 1}", "exec"), names)
    if "predictions" in names:
        assert (names["predictions"] == names["targets"]).float().mean() > 0.5


def test_there_are_examples():
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize(
    "page",
    [README, *sorted(ROOT.glob("recipes/*/*.md")), *sorted(ROOT.glob("benchmarks/*.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []

"""The README's Python examples run as they are written."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
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

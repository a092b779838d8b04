"""What the command lines share: configuration files, and whether a server can be reached."""

import pytest

from sqloss_plugins.command_line import is_reachable, read_mapping
from sqloss_plugins.errors import UserError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "must be a mapping of option names to values"),
        ("lr: 1\nlr: 2", "cannot be read as settings: lr is there twice"),
        ('{"lr": 1, "lr": 2}', "cannot be read as settings: lr is there twice"),
        ("since: 2020-02-30", "cannot be read as settings: day is out of range for month"),
        ("lr: !!int ''", "cannot be read as settings"),
        ("[" * 5000, "cannot be read as settings"),
        ("on: 1", "True is no option's name: put it in quotes if it is one"),
        ("lr: 1\n2: 3", "2 is no option's name"),
    ],
)
def test_files_that_are_no_settings(text, words, tmp_path):
    path = tmp_path / "conf.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_mapping(path)
    assert str(refused.value).startswith(str(path))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("url", ["http://host:port", "nonsense", "http://127.0.0.1:1/"])
def test_addresses_that_nobody_answers(url):
    """And nothing is printed: a thread's exception would be a warning of pytest's."""
    assert not is_reachable(url)

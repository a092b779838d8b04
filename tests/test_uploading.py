"""The upload of a packed model, against a hub that is none."""

import zipfile
from types import SimpleNamespace
from typing import ClassVar

import pytest
import yaml
from commands import assert_refused

from sqloss_plugins.errors import RunError, UserError
from sqloss_plugins.espnet.recipe import main, uploading
from sqloss_plugins.espnet.recipe.uploading import check_hub, model_card, upload

OWNER = {"name": "me", "orgs": [{"name": "lab"}], "auth": {"accessToken": {"role": "write"}}}


class FakeApi:
    """What of the hub's client is used; an attribute of the class says what it finds and does."""

    user = OWNER
    fails = ""
    made: ClassVar = []
    files: ClassVar = {}

    def __init__(self, token=None):
        self.token = token

    def whoami(self):
        if self.fails == "whoami":
            raise OSError("Invalid user token.")
        return self.user

    def create_repo(self, name, exist_ok):
        assert exist_ok
        FakeApi.made.append(name)
        return f"https://hub/{name}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        if self.fails == "upload":
            raise OSError("the connection\nwas lost")
        FakeApi.files = {
            str(path.relative_to(folder_path)): path.read_bytes() for path in folder_path.rglob("*") if path.is_file()
        }


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers, and a token that may write."""
    monkeypatch.setattr(uploading.huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(uploading.huggingface_hub, "get_token", lambda: "hf_x")
    monkeypatch.setattr(uploading.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(uploading, "is_reachable", lambda url: True)
    monkeypatch.setattr(FakeApi, "made", [])
    monkeypatch.setattr(FakeApi, "files", {})
    return monkeypatch


@pytest.mark.parametrize(("given", "expected"), [("me/m", "me/m"), ("lab/m", "lab/m"), ("m", "me/m")])
def test_the_repository_is_its_owners(given, expected, hub):
    assert check_hub(given) == expected
    assert FakeApi.made == []


REFUSALS = {
    "no name": ("a/b/c", None, "--hf_repo a/b/c: "),
    "offline": (
        "m",
        (uploading.constants, "HF_HUB_OFFLINE", True),
        "--hf_repo m needs the hub, and HF_HUB_OFFLINE is set",
    ),
    "no hub": ("m", (uploading, "is_reachable", lambda url: False), "--hf_repo m needs the hub, and https://"),
    "no token": (
        "m",
        (uploading.huggingface_hub, "get_token", lambda: None),
        "needs a token of the hub, and there is none",
    ),
    "a wrong token": ("m", (FakeApi, "fails", "whoami"), "the hub does not take the token: Invalid user token."),
    "reads": ("m", (FakeApi, "user", {**OWNER, "auth": {"accessToken": {"role": "read"}}}), "the token may only read"),
    "another's": ("you/m", None, "--hf_repo you/m: the token is for me, lab, and not for you"),
}


@pytest.mark.parametrize("case", list(REFUSALS))
def test_what_cannot_be_uploaded_is_refused_before_anything_is_made(case, hub, tmp_path, capsys):
    repository, patch, message = REFUSALS[case]
    if patch:
        hub.setattr(*patch)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "work").mkdir()
    words = ["librispeech", "--corpus", str(tmp_path / "corpus"), "--workdir", str(tmp_path / "work")]
    assert_refused(main, [*words, "--hf_repo", repository], "sqloss asr", message, tmp_path / "work", capsys)
    assert FakeApi.made == []


@pytest.mark.parametrize("words", [["--stage", "10"], ["--stop_stage", "10"], ["--hf_repo", "m", "--stop_stage", "9"]])
def test_the_stage_and_the_repository_need_each_other(words, tmp_path, capsys):
    message = "--hf_repo and stage 10 (upload) need each other"
    folder = tmp_path / "work"
    folder.mkdir()
    words = ["librispeech", "--corpus", str(tmp_path), "--workdir", str(folder), *words]
    assert_refused(main, words, "sqloss asr", message, folder, capsys)


@pytest.fixture
def archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as file:
        for name in ("meta.yaml", "model.pth", "language_model/model.pth"):
            file.writestr(name, name)
    return tmp_path / "run.zip"


def test_the_archive_is_unpacked_on_the_hub_with_a_card(archive, hub):
    assert upload(archive, "the card", "me/m") == "https://hub/me/m"
    assert FakeApi.made == ["me/m"]
    names = ["meta.yaml", "model.pth", "language_model/model.pth"]
    assert FakeApi.files == {"README.md": b"the card", **{name: name.encode() for name in names}}
    assert list(archive.parent.iterdir()) == [archive]


def test_a_lost_hub_leaves_the_archive(archive, hub):
    hub.setattr(FakeApi, "fails", "upload")
    message = "the upload to me/m failed: the connection was lost; .*run.zip is whole: begin again with --stage 10"
    with pytest.raises(RunError, match=message):
        upload(archive, "", "me/m")
    assert list(archive.parent.iterdir()) == [archive]
    archive.write_bytes(b"x")
    with pytest.raises(UserError, match="the upload to me/m failed: File is not a zip file"):
        upload(archive, "", "me/m")


@pytest.mark.parametrize("mini", [False, True])
def test_the_card_says_what_the_model_is(mini):
    result = SimpleNamespace(mini=mini, k=15.0, M=2.608, arch="conformer", task="an4", loss="square")
    card = model_card("me/m", result, "temperature", "## an4\n\n| set |\n")
    _, heading, body = card.split("---\n")
    assert yaml.safe_load(heading)["tags"] == ["espnet", "audio", "automatic-speech-recognition"]
    assert 'Speech2Text.from_pretrained("me/m")' in body
    assert "square (k = 15, M = 2.608). Plain ESPnet decodes this model by the method `temperature`" in body
    assert body.endswith("## an4\n\n| set |\n")
    assert ("MINI" in body) is mini
    result = SimpleNamespace(mini=mini, k=None, M=None, arch="conformer", task="an4", loss="cross_entropy")
    assert "is cross_entropy. Plain" in model_card("me/m", result, "softmax", "")

"""Stage 10: the packed model on the Hugging Face hub, from where ESPnet's ``from_pretrained`` takes it by its name."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import huggingface_hub
import yaml
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is there

from sqloss_plugins.command_line import is_reachable
from sqloss_plugins.errors import RunError, UserError, sentence
from sqloss_plugins.results import Result

_TAGS = ("espnet", "audio", "automatic-speech-recognition")  # by these the hub knows ESPnet's models


def check_hub(repository: str) -> str:
    """Refuses an upload that would fail, before anything is made; returns the repository with its owner's name.

    Args:
        repository: ``OWNER/NAME``, or ``NAME`` for the owner of the token.

    Raises:
        UserError: no name of a repository; no hub; no token, or one that may not write there.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"--hf_repo {repository}: {sentence(error)}") from error
    if constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
        raise UserError(
            f"--hf_repo {repository} needs the hub, and {why}: leave it out, and upload later by --stage 10"
        )
    token = huggingface_hub.get_token()
    if not token:
        raise UserError(
            f"--hf_repo {repository} needs a token of the hub, and there is none: hf auth login, or HF_TOKEN"
        )
    try:
        user = huggingface_hub.HfApi(token=token).whoami()
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"--hf_repo {repository}: the hub does not take the token: {sentence(error)}") from error
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"--hf_repo {repository}: the token may only read: make one that may write")
    owner, _, name = repository.rpartition("/")
    owners = [user["name"], *(organisation["name"] for organisation in user.get("orgs", []))]
    if owner and owner not in owners:
        raise UserError(f"--hf_repo {repository}: the token is for {', '.join(owners)}, and not for {owner}")
    return f"{owner or user['name']}/{name}"


def model_card(repository: str, result: Result, method: str, results: str) -> str:
    """The model card, ``README.md`` of the repository.

    Args:
        repository: its name.
        result: of the run.
        method: by which plain ESPnet decodes the packed model.
        results: ``RESULTS.md`` of the run.
    """
    mini = ", on a MINI corpus of synthetic speech: not the real task" if result.mini else ""
    rescaled = f" (k = {result.k:g}, M = {result.M:.4g})" if result.k is not None and result.M is not None else ""
    heading = yaml.safe_dump(
        {"library_name": "espnet", "pipeline_tag": _TAGS[-1], "tags": list(_TAGS)}, sort_keys=False
    )
    return f"""---
{heading}---

# {repository}

ESPnet2 speech recognition, {result.arch}, trained on {result.task} by sqloss_plugins{mini}. The loss of the attention
decoder is {result.loss}{rescaled}. Plain ESPnet decodes this model by the method `{method}`:

```python
from espnet2.bin.asr_inference import Speech2Text  # pip install espnet espnet_model_zoo

recogniser = Speech2Text.from_pretrained("{repository}")  # decode_asr.yaml has the further settings of decoding
```

{results}"""


def upload(archive: Path, card: str, repository: str) -> str:
    """Uploads what a packed model holds, with its card; what is there already is not sent again.

    Args:
        archive: of stage 9.
        card: the model card.
        repository: ``OWNER/NAME``; it is made, public, where it is not there.

    Returns:
        Its URL.

    Raises:
        RunError: the hub refused it, or was lost.
    """
    folder = archive.parent / ".upload"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        api = huggingface_hub.HfApi()
        url = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Model of {archive.stem}")
    except (HfHubHTTPError, OSError, zipfile.BadZipFile) as error:
        raise RunError(
            f"the upload to {repository} failed: {sentence(error)}; {archive} is whole: begin again with --stage 10"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return str(url)

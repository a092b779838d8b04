"""A split of a data set with an audio column, of the Hugging Face hub or a folder, as a manifest and audio files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqloss_plugins.data.corpora.manifest import COLUMNS
from sqloss_plugins.errors import UserError, sentence

PREFIX = "hub:"
_SUFFIX = re.compile(r"\.(?!raw$)\w{1,5}")  # libsndfile sees by the content what a file is, but of .raw


@dataclass(frozen=True)
class HubSplit:
    """A split of a data set.

    Attributes:
        name: of the data set, on the hub or a folder, as ``datasets.load_dataset`` takes it.
        split: its name, or a part of it as ``datasets`` writes that: ``train[:10%]``.
        config: of the data set; None for its usual one.
        audio_column, text_column: of the audio and the transcripts; None: a usual name, or the only audio column.
    """

    name: str
    split: str
    config: str | None = None
    audio_column: str | None = None
    text_column: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this one, as JSON has it."""
        columns = {"audio_column_name": self.audio_column, "text_column_name": self.text_column}
        return {"dataset_name": self.name, "split": self.split, "dataset_config_name": self.config, **columns}

    @property
    def folder_name(self) -> str:
        """Of the folder that it is written to; it also begins the utterances' names."""
        words = [self.name.rstrip("/").rpartition("/")[2], *([self.config] if self.config else []), self.split]
        identity = hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()
        return f"{re.sub(r'[^A-Za-z0-9]+', '_', '-'.join(words)).strip('_')}-{identity[:8]}"

    def write(self, manifest: Path) -> None:
        """Writes the audio as it is into files beside a manifest of them, once; the manifest is written last.

        Audio that is in files on this machine stays there, and is named.

        Raises:
            UserError: the data set cannot be loaded; it has no such columns; a row without audio.
        """
        if manifest.is_file():
            print(f"  done before: {manifest}", flush=True)
            return
        from tqdm import tqdm

        table, columns = self._load()
        manifest.parent.mkdir(parents=True, exist_ok=True)
        partial = manifest.with_name(f".{manifest.name}")
        with partial.open("w", encoding="utf-8") as file:
            for number, row in enumerate(tqdm(table, desc=f"  {self.folder_name}", unit=" utterances")):
                name = f"{self.folder_name}-{number:07d}"
                audio = self._write_audio(row[columns["audio"]], manifest.parent / name, number)
                fields = {what: row[column] for what, column in columns.items() if what != "audio"}
                file.write(f"{json.dumps({'audio': str(audio), 'id': name, **fields}, ensure_ascii=False)}\n")
        os.replace(partial, manifest)

    def _load(self) -> tuple[Any, dict[str, str]]:
        """The rows, whose audio is not decoded, and what each column of them is for."""
        import datasets  # slow, and needed for such data alone

        try:
            table = datasets.load_dataset(self.name, self.config, split=self.split)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            # Of a failure while a table is made the cause says why: that audio files need torchcodec, for instance.
            raise UserError(f"{self} cannot be loaded: {sentence(error.__cause__ or error)}") from error
        audio = [name for name, kind in table.features.items() if isinstance(kind, datasets.Audio)]
        columns = {
            "audio": self._column("audio", self.audio_column, audio, table.column_names),
            "text": self._column("text", self.text_column, table.column_names, table.column_names),
        }
        speakers = [name for name in COLUMNS["speaker"] if name in table.column_names]
        if speakers:
            columns["speaker"] = speakers[0]
        table = table.select_columns(list(dict.fromkeys(columns.values())))
        return table.cast_column(columns["audio"], datasets.Audio(decode=False)), columns

    def _column(self, what: str, given: str | None, possible: Sequence[str], names: Sequence[str]) -> str:
        usual = [name for name in COLUMNS[what] if name in possible]
        if what == "audio" and len(possible) == 1:
            usual = list(possible)
        if given is not None:
            usual = [given] if given in possible else []
        if not usual:
            wanted = given or f"called {', '.join(COLUMNS[what])}"
            raise UserError(
                f"{self} has no column {wanted}{' of audio' if what == 'audio' else ''}: choose "
                f"--{what}_column_name from its columns {', '.join(names)}"
            )
        return usual[0]

    def _write_audio(self, audio: Any, target: Path, number: int) -> Path:
        content, path = (audio or {}).get("bytes"), (audio or {}).get("path")
        if content is None and path and os.path.isfile(path):
            return Path(path).absolute()
        if not content:
            raise UserError(f"{self}: row {number} has no audio")
        suffix = Path(path or "").suffix.lower()
        target = target.with_name(f"{target.name}{suffix if _SUFFIX.fullmatch(suffix) else '.wav'}")
        target.write_bytes(content)
        return target.absolute()

    def __str__(self) -> str:
        config = f" ({self.config})" if self.config else ""
        return f"{PREFIX}{self.name}:{self.split}{config}"


def parse_split(
    text: str, usual: str, config: str | None, audio_column: str | None, text_column: str | None
) -> HubSplit:
    """Reads ``hub:NAME`` or ``hub:NAME:SPLIT``.

    Args:
        text: what was given.
        usual: the split where none is named.
        config, audio_column, text_column: see :class:`HubSplit`.

    Raises:
        UserError: it names no data set, or an empty split.
    """
    name, _, split = text.removeprefix(PREFIX).partition(":")
    if not name or text.endswith(":"):
        raise UserError(f"{text} must be {PREFIX}NAME or {PREFIX}NAME:SPLIT")
    return HubSplit(name, split or usual, config, audio_column, text_column)

"""A corpus of the user's own: tables, JSON lines, or Kaldi's data directories that name audio files and their text."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sqloss_plugins.data.corpora.checks import read_lines, read_raw_lines, read_transcripts
from sqloss_plugins.data.corpora.conversion import convert_audio
from sqloss_plugins.data.corpora.corpus import SAMPLE_RATE, Corpus, Utterance
from sqloss_plugins.errors import UserError
from sqloss_plugins.text_files import decoded_json

COLUMNS = {
    "audio": ("audio", "path", "wav", "audio_filepath", "audio_path", "file_name", "file"),
    "text": ("text", "transcript", "sentence", "transcription"),
    "id": ("id", "utt_id", "utterance_id"),
    "speaker": ("speaker", "spk", "client_id", "speaker_id", "spk_id"),
}
"""What a column is for -> its usual names; of several that are there the first counts."""

TABLES = (".tsv", ".csv")
JSON_LINES = (".jsonl", ".json")
KALDI_FILES = ("wav.scp", "text", "utt2spk", "segments")
SPLIT_SEED = 42
HOLD_OUT = 0.1
_LONGEST_NAME = 200  # bytes; it is part of a file's name
_FULL = 1.5  # up to this factor a held-out subset may be larger than asked for, where smaller groups do not fit


# ---------------------------------------------------------------- reading


def check_manifest(option: str, path: Path) -> None:
    """Refuses what is no manifest, without reading it.

    Raises:
        UserError: there is no such file, or it is of an unknown kind.
    """
    if not path.exists():
        raise UserError(f"{option} {path} is not there")
    if path.is_dir():
        lacking = [name for name in ("wav.scp", "text") if not (path / name).is_file()]
        if lacking:
            raise UserError(f"{option} {path} is a folder without {lacking[0]}: Kaldi's data directories have it")
    elif path.suffix.lower() not in TABLES + JSON_LINES:
        kinds = ", ".join(TABLES + JSON_LINES)
        raise UserError(f"{option} {path} is neither a file that ends in {kinds}, nor one of Kaldi's data directories")


def read_manifest(path: Path) -> list[Utterance]:
    """The utterances of a manifest; ``name`` and ``speaker`` are empty where it has none.

    Args:
        path: a table with a header (``.tsv``, ``.csv``), JSON lines (``.jsonl``, ``.json``), or one of Kaldi's data
            directories. Relative paths of audio begin at its folder.

    Raises:
        UserError: with file and line: it cannot be read, has no such column, no audio, no text, or one name twice.
    """
    found = list(_read_kaldi(path) if path.is_dir() else _read_rows(path))
    if not found:
        raise UserError(f"{path} has no utterances")
    first: dict[str, str] = {}
    for item in found:
        if item.name in first:
            raise UserError(f"{item.where}: the id {item.name} is in {first[item.name]} already")
        if item.name:
            first[item.name] = item.where
    without = [item for item in found if not item.speaker]
    if 0 < len(without) < len(found):
        raise UserError(f"{without[0].where} has no speaker, and others have: give the speakers of all, or of none")
    return found


def _read_rows(path: Path) -> Iterator[Utterance]:
    read = _read_table if path.suffix.lower() in TABLES else _read_json_lines
    for number, row in read(path):
        where = f"{path} line {number}"
        by_name = {str(name).strip().casefold(): value for name, value in row.items()}

        def cell(what: str, is_needed: bool, where: str = where, row: dict[str, Any] = by_name) -> str:
            names = [name for name in COLUMNS[what] if name in row]
            if not names and is_needed:
                raise UserError(
                    f"{where} has no {what} (one of {', '.join(COLUMNS[what])}): its columns are {', '.join(row)}"
                )
            value = row[names[0]] if names else ""
            if value is None or isinstance(value, bool | dict | list):
                raise UserError(f"{where}: {names[0]} must be text, got {json.dumps(value)[:80]}")
            text = " ".join(str(value).split()) if what != "audio" else str(value).strip()
            if not text and (is_needed or (names and what == "id")):
                raise UserError(f"{where}: {names[0]} is empty")
            return text

        start, end = _part(by_name, where)
        audio = _find_audio(cell("audio", True), (path.parent, path.parent / "clips"), where)  # Common Voice's folder
        name, speaker = cell("id", False), cell("speaker", False)
        _check_name(name, where)
        yield Utterance(name, speaker.replace(" ", "_"), audio, cell("text", True), start, end, where)


def _read_table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with the numbers of their lines. A ``.tsv`` has no quotes: they are text."""
    is_tsv = path.suffix.lower() == ".tsv"
    lines = (f"{line}\n" for _, line in read_raw_lines(path))
    reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if is_tsv else csv.reader(lines, strict=True)
    header: list[str] | None = None
    try:
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            if header is None:
                header = [name.strip() for name in row]
                twice = [name for name, times in Counter(map(str.casefold, header)).items() if times > 1]
                if twice:
                    raise UserError(f"{path} line {reader.line_num}: two columns are called {twice[0]!r}")
                _check_header(path, header)
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path} line {reader.line_num} has {len(row)} fields, and the header has {len(header)} "
                    f"({', '.join(header)})"
                )
            yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num} is not a row of a table: {error}") from error


def _check_header(path: Path, header: Sequence[str]) -> None:
    """Said of the file, before its first row."""
    known = {name.casefold() for name in header}
    for what in ("audio", "text"):
        if known.isdisjoint(COLUMNS[what]):
            raise UserError(
                f"{path} has no column of {what} (one of {', '.join(COLUMNS[what])}): its columns are "
                f"{', '.join(header)}"
            )


def _read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in read_raw_lines(path):
        if not line.strip():
            continue
        try:
            row = decoded_json(line, f"{path} line {number}")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} line {number} is not JSON: {error}; each line must be one object") from error
        if not isinstance(row, dict):
            raise UserError(f'{path} line {number} must be one JSON object, such as {{"audio": ..., "text": ...}}')
        yield number, row


def _part(row: Mapping[str, Any], where: str) -> tuple[float, float | None]:
    """NeMo's ``offset`` and ``duration``, in seconds: a part of a file where there is an offset, else the whole."""
    if row.get("offset") in (None, ""):
        return 0.0, None
    start, duration = (_seconds(row.get(name), f"{where}: {name}") for name in ("offset", "duration"))
    if start < 0 or duration <= 0:
        raise UserError(f"{where}: a part with offset {start:g} and duration {duration:g} is none")
    return start, start + duration


def _seconds(value: object, where: str) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]
        if math.isfinite(seconds) and not isinstance(value, bool):
            return seconds
    except (TypeError, ValueError):
        pass
    raise UserError(f"{where} must be a number of seconds, got {value!r}")


def _find_audio(text: str, folders: Iterable[Path], where: str) -> Path:
    # os.path.isfile is False, and no error, for what can be no path.
    candidates = [Path(folder, text) for folder in folders]
    for path in candidates:
        if os.path.isfile(path):
            return path.absolute()
    if os.path.isdir(candidates[0]):
        raise UserError(f"{where}: {candidates[0]} is a folder, and not an audio file")
    raise UserError(f"{where}: there is no audio file {candidates[0]}")


def _check_name(name: str, where: str) -> None:
    """Names become files' names, and words in ESPnet's files."""
    if name and (
        re.search(r"[\s/\\]", name)
        or name.startswith(".")
        or not name.isprintable()
        or len(name.encode(errors="replace")) > _LONGEST_NAME
    ):
        raise UserError(
            f"{where}: the id {name[:80]!r} cannot be used: it must have no white space and no slash, not begin with "
            f"a dot, and have at most {_LONGEST_NAME} bytes"
        )


def _read_kaldi(folder: Path) -> Iterator[Utterance]:
    """``wav.scp`` and ``text``, with ``utt2spk`` and ``segments`` where they are there."""
    scp = folder / "wav.scp"
    texts = read_transcripts(folder / "text")
    speakers = read_transcripts(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    recordings: dict[str, tuple[Path, str]] = {}
    for number, line in read_lines(scp):
        where = f"{scp} line {number}"
        name, _, audio = line.partition(" ")
        if audio.endswith("|") or audio.startswith("|"):
            raise UserError(f"{where} is a pipe, and no command of a file is run here: write the audio to files before")
        if name in recordings:
            raise UserError(f"{where}: {name} has audio already, in {recordings[name][1]}")
        # Kaldi's own relative paths begin where its commands run.
        recordings[name] = (_find_audio(audio, (folder, Path.cwd()), where), where)
    parts = _read_segments(folder / "segments", recordings) if (folder / "segments").is_file() else None
    if parts is None:
        parts = {name: (audio, 0.0, None, where) for name, (audio, where) in recordings.items()}
    for name, (path, start, end, where) in parts.items():
        _check_name(name, where)
        if name not in texts:
            raise UserError(f"{where}: {name} has no transcript in {folder / 'text'}")
        if speakers and name not in speakers:
            raise UserError(f"{where}: {name} has no speaker in {folder / 'utt2spk'}")
        yield Utterance(name, speakers.get(name, "").replace(" ", "_"), path, texts[name], start, end, where)
    if texts.keys() - parts.keys():
        raise UserError(f"{folder / 'text'}: {min(texts.keys() - parts.keys())} has a transcript, and no audio")


def _read_segments(
    path: Path, recordings: Mapping[str, tuple[Path, str]]
) -> dict[str, tuple[Path, float, float | None, str]]:
    """Name -> file, start and end in seconds (None: the end of the file), and the line that says so."""
    found: dict[str, tuple[Path, float, float | None, str]] = {}
    for number, line in read_lines(path):
        where = f"{path} line {number}"
        words = line.split()
        if len(words) != 4:
            raise UserError(f"{where} must have a name, a recording, a start and an end")
        name, recording = words[:2]
        start, end = (_seconds(word, where) for word in words[2:])
        if recording not in recordings:
            raise UserError(f"{where}: {recording} is not in wav.scp")
        if name in found:
            raise UserError(f"{where}: {name} is there already")
        found[name] = (recordings[recording][0], start, None if end == -1 else end, where)
    return found


# ---------------------------------------------------------------- names, subsets


def _with_names(subsets: Mapping[str, Sequence[Utterance]]) -> dict[str, list[Utterance]]:
    """Utterances without a name get that of their file, or where that is not unique, its path's last parts."""
    items = [item for group in subsets.values() for item in group]
    files = sorted({item.audio for item in items if not item.name})
    names = {path: path.stem for path in files}
    for length in range(2, max((len(path.parts) for path in files), default=0)):
        if len(set(names.values())) == len(files):
            break
        names = {path: "-".join(path.with_suffix("").parts[1:][-length:]) for path in files}
    names = {path: re.sub(r"[\s/\\]+", "_", name).lstrip(".") or "_" for path, name in names.items()}

    def named(item: Utterance) -> Utterance:
        name = item.name
        if not name:
            part = "" if item.start == 0 and item.end is None else f"-{_ms(item.start)}-{_ms(item.end or 0)}"
            name = f"{names[item.audio]}{part}"
            _check_name(name, item.where)
        return replace(item, name=name)

    found = {subset: [named(item) for item in group] for subset, group in subsets.items()}
    first: dict[str, str] = {}
    for item in (item for group in found.values() for item in group):
        if item.name in first:
            raise UserError(f"{item.where}: the utterance {item.name} is in {first[item.name]} already")
        first[item.name] = item.where
    return found


def _ms(seconds: float) -> str:
    return f"{round(1000 * seconds):08d}"


def hold_out(
    items: Sequence[Utterance], sizes: Mapping[str, float], seed: int = SPLIT_SEED
) -> tuple[list[Utterance], dict[str, list[Utterance]], str]:
    """Takes subsets out of the training data: whole speakers where they are known, else whole files.

    Speakers, or files, that are so few and so large that less than half of the data would be left are divided.

    Args:
        items: the training data.
        sizes: subset -> its size: a fraction of the utterances below 1, or a number of them.
        seed: of the choice; the order of the items does not matter.

    Returns:
        What is left, what was taken, and by what it was taken: ``speaker``, ``file`` or ``utterance``.

    Raises:
        UserError: there are too few utterances.
    """
    wanted = {name: max(1, round(size * len(items) if size < 1 else size)) for name, size in sizes.items()}
    fewest_left = max(1.0, min(len(items) / 2, len(items) - _FULL * sum(wanted.values())))
    keys: list[tuple[str, Callable[[Utterance], str]]] = [
        ("speaker", lambda item: item.speaker),
        ("file", lambda item: str(item.audio)),
        ("utterance", lambda item: item.name),
    ]
    ordered = sorted(items, key=lambda item: item.name)
    for by, key in keys if items[0].speaker else keys[1:]:
        groups: dict[str, list[Utterance]] = {}
        for item in ordered:
            groups.setdefault(key(item), []).append(item)
        left = list(groups)
        random.Random(seed).shuffle(left)
        taken = {name: _take(left, groups, size) for name, size in wanted.items()}
        rest = [item for group in left for item in groups[group]]
        if len(rest) >= fewest_left and all(len(taken[name]) >= size for name, size in wanted.items()):
            return rest, taken, by
    raise UserError(
        f"{len(items)} utterances are too few to hold {' and '.join(str(size) for size in wanted.values())} of them "
        "out: give --valid and --test, or smaller sizes"
    )


def _take(left: list[str], groups: Mapping[str, Sequence[Utterance]], size: int) -> list[Utterance]:
    """Takes the first groups that fit, out of what is left; then, where that is not enough, the smallest."""
    found: list[Utterance] = []
    taken = set()
    for limit, groups_in_order in (
        (_FULL * size, left),
        (math.inf, sorted(left, key=lambda group: len(groups[group]))),
    ):
        for group in groups_in_order:
            if len(found) >= size:
                break
            if group not in taken and len(found) + len(groups[group]) <= limit:
                found += groups[group]
                taken.add(group)
    left[:] = [group for group in left if group not in taken]
    return found


# ---------------------------------------------------------------- the corpus


@dataclass(frozen=True)
class Manifests:
    """The manifests of a corpus.

    Attributes:
        files: subset -> its manifest; the training subset is the first.
        sizes: subset that is held out of the training data -> its size.
        origins: manifest that was made of something else -> what that is, as JSON has it.
    """

    files: Mapping[str, Path]
    sizes: Mapping[str, float]
    origins: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def _all(self) -> tuple[dict[str, list[Utterance]], str]:
        found = _with_names({subset: read_manifest(path) for subset, path in self.files.items()})
        note = ""
        if self.sizes:
            train = next(iter(self.files))
            whole = found[train]
            found[train], taken, by = hold_out(whole, self.sizes)
            found |= taken
            note = self._note(by, taken, whole)
        # A speaker that is not known is one of its own.
        return {
            subset: [replace(item, speaker=item.speaker or item.name) for item in group]
            for subset, group in found.items()
        }, note

    def _note(self, by: str, taken: Mapping[str, Sequence[Utterance]], whole: Sequence[Utterance]) -> str:
        counts = " and ".join(
            f"{len(group)} utterances as {name}"
            + (f" ({len({item.speaker for item in group})} speakers)" if by == "speaker" else "")
            for name, group in taken.items()
        )
        reason = {
            "speaker": "by speaker",
            "file": "by file, whoever speaks" if whole[0].speaker else "by file, as no speakers are given",
            "utterance": "by utterance: the same files are in several subsets",
        }[by]
        return f"held out of {next(iter(self.files.values()))}, {reason}: {counts} (seed {SPLIT_SEED})"

    def read(self, subset: str) -> list[Utterance]:
        """The utterances of a subset.

        Raises:
            UserError: what is wrong with a manifest, with its line.
        """
        return self._all[0][subset]

    def notes(self) -> list[str]:
        """What was held out of what, and by what."""
        return [self._all[1]] if self._all[1] else []

    def identity(self, subset: str) -> dict[str, Any]:
        """What makes a subset this one: the contents of its manifest, and what is held out of it."""
        train = next(iter(self.files))
        is_of_training = subset == train or subset in self.sizes
        path = self.files[train if is_of_training else subset]
        held_out = {"held_out": dict(self.sizes), "split_seed": SPLIT_SEED} if self.sizes and is_of_training else {}
        if path in self.origins:
            return {**self.origins[path], **held_out}
        found = hashlib.sha256()
        for file in [path / name for name in KALDI_FILES] if path.is_dir() else [path]:
            if file.is_file():
                found.update(file.read_bytes())
        return {"manifest": str(path.resolve()), "sha256": found.hexdigest(), **held_out}


def own_corpus(
    name: str,
    manifests: Manifests,
    sample_rate: int = SAMPLE_RATE,
    channel: str | None = None,
    download: Callable[[Sequence[str], Path], Path] | None = None,
) -> Corpus:
    """The corpus that manifests make.

    Args:
        name: of the corpus.
        manifests: its subsets.
        sample_rate: that all audio is converted to, in Hz.
        channel: as :func:`sqloss_plugins.data.corpora.conversion.convert_audio` takes it.
        download: makes manifests of what they are made of, as a corpus's does; None: all are there.
    """

    def read(_: Path, subset: str) -> list[Utterance]:
        return manifests.read(subset)

    def convert(
        utterances: Sequence[Utterance], folder: Path, nj: int, on_progress: Callable[[], object] | None
    ) -> tuple[list[Utterance], list[int]]:
        return convert_audio(utterances, folder, nj, on_progress, sample_rate, channel)

    return Corpus(
        name=name,
        title=name,
        read=read,
        source="",
        download=download,
        sample_rate=sample_rate,
        convert=convert,
        identity=manifests.identity,
        notes=manifests.notes,
    )


ANY = own_corpus("any", Manifests({}, {}))
"""What a ``recipe.yaml`` names for a corpus that the command line gives."""

"""The options of a corpus of the user's own: its manifests, and the audio that is made of them."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from sqloss_plugins.data.corpora.conversion import MIX
from sqloss_plugins.data.corpora.corpus import SAMPLE_RATE, Corpus
from sqloss_plugins.data.corpora.hub import PREFIX, HubSplit, parse_split
from sqloss_plugins.data.corpora.manifest import HOLD_OUT, Manifests, check_manifest, own_corpus
from sqloss_plugins.errors import UserError

_OF_DATA_SETS = ("dataset_config_name", "audio_column_name", "text_column_name")
OPTIONS = ("train", "valid", "test", "validation_size", "test_size", "fs", "audio_channel", *_OF_DATA_SETS)
"""Those that are for a corpus of the user's own alone."""

_SPLITS = {"train": "train", "valid": "validation", "test": "test"}


def add_options(add: Callable[..., object]) -> None:
    """Adds them to a parser."""
    add(
        "--train",
        type=Path,
        help="manifest of the training data: .tsv, .csv, .jsonl, one of Kaldi's data directories; or hub:NAME:SPLIT, "
        "a data set with an audio column, of the Hugging Face hub or in a folder (SPLIT where none is given: train)",
    )
    add(
        "--valid",
        type=Path,
        help="manifest of the development data, or hub:NAME:SPLIT; without it they are held out of --train",
    )
    add(
        "--test",
        type=Path,
        nargs="+",
        help="manifests of the test data, or hub:NAME:SPLIT, one for each of --test_sets; without it they are held out "
        "of --train",
    )
    for name, what, instead in (("validation_size", "development", "valid"), ("test_size", "test", "test")):
        add(
            f"--{name}",
            type=_size,
            help=f"how much of --train is held out as {what} data where there is no --{instead}: a fraction below 1, "
            f"or a number of utterances (default: {HOLD_OUT})",
        )
    add("--fs", type=_sample_rate, help="sample rate to convert the audio to, such as 16k or 8000 (default: 16k)")
    add(
        "--audio_channel",
        type=_channel,
        help=f"channel to take of audio that has several, 0 or 1, or {MIX} for their mean (default: mono only)",
    )
    add("--dataset_config_name", help="configuration of the data set of hub:NAME, where it has several")
    for name in ("audio", "text"):
        add(f"--{name}_column_name", help=f"the data set's column of {name} (default: one with a usual name)")


def _sample_rate(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(k?)", text.strip().lower().removesuffix("hz"))
    rate = float(found[1]) * (1000 if found[2] else 1) if found else 0.0
    if rate != int(rate) or not 1000 <= rate <= 192000:
        raise argparse.ArgumentTypeError(f"must be a sample rate in Hz, such as 16k or 8000, got {text!r}")
    return int(rate)


def _size(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < math.inf or (size >= 1 and size != int(size)):
        raise argparse.ArgumentTypeError(f"must be a fraction below 1 or a number of utterances, got {text!r}")
    return size


def _channel(text: str) -> str:
    if text != MIX and not re.fullmatch(r"[0-9]{1,2}", text):
        raise argparse.ArgumentTypeError(f"must be 0, 1, or {MIX}, got {text!r}")
    return text


def refuse_own_options(options: argparse.Namespace, title: str) -> None:
    """Refuses them for a corpus that is known.

    Raises:
        UserError: for the first that is given.
    """
    for name in OPTIONS:
        if getattr(options, name) is not None:
            raise UserError(
                f"--{name} is for a corpus of your own, and this recipe is for {title}: leave it out, or take a name "
                "that no recipe has"
            )


def make_own_corpus(options: argparse.Namespace, name: str) -> Corpus:
    """The corpus that the options describe.

    Args:
        options: of the command line, with the names of the subsets.
        name: of the corpus.

    Raises:
        UserError: options that do not fit together, or a manifest that is not there.
    """
    tests, given = options.test_sets.split(), options.test
    if options.train is None:
        raise UserError("this recipe is for a corpus of your own: give --train, its manifest")
    if options.corpus:
        raise UserError("--corpus is for a corpus that is known: give --train, the manifest of your own")
    if given is not None and len(given) != len(tests):
        raise UserError(
            f"--test has {len(given)} manifests, and --test_sets has {len(tests)} names for them ({' '.join(tests)}): "
            "give as many, in the same order"
        )
    if given is None and len(tests) != 1:
        raise UserError("--test_sets has several names, and there is no --test with their manifests")
    held_out = {}
    for option, size, is_given, subset in (
        ("valid", "validation_size", options.valid is not None, options.dev_set),
        ("test", "test_size", given is not None, tests[0] if tests else ""),
    ):
        if not is_given:
            held_out[subset] = HOLD_OUT if getattr(options, size) is None else getattr(options, size)
        elif getattr(options, size) is not None:
            raise UserError(
                f"--{size} is of what is held out of --train, and --{option} is given: leave one of them out"
            )
    files = {options.train_set: options.train}
    if options.valid is not None:
        files[options.dev_set] = options.valid
    files |= dict(zip(tests, given or [], strict=False))
    splits: dict[Path, HubSplit] = {}
    for subset, path in files.items():
        option = {options.train_set: "train", options.dev_set: "valid"}.get(subset, "test")
        if str(path).startswith(PREFIX):
            split = parse_split(str(path), _SPLITS[option], *(getattr(options, name) for name in _OF_DATA_SETS))
            files[subset] = options.workdir / "downloads" / name.lower() / split.folder_name / "manifest.jsonl"
            splits[files[subset]] = split
        else:
            check_manifest(f"--{option}", path)
    _check_data_sets(options, splits)

    def download(_: Sequence[str], folder: Path) -> Path:
        for manifest, split in splits.items():
            split.write(manifest)
        return folder

    manifests = Manifests(files, held_out, {manifest: split.identity for manifest, split in splits.items()})
    rate = options.fs or SAMPLE_RATE
    return own_corpus(name, manifests, rate, options.audio_channel, download if splits else None)


def _check_data_sets(options: argparse.Namespace, splits: Mapping[Path, HubSplit]) -> None:
    for name in _OF_DATA_SETS:
        if getattr(options, name) is not None and not splits:
            raise UserError(f"--{name} is for data sets, {PREFIX}NAME, and there is none: leave it out")
    if splits and not find_spec("datasets"):
        raise UserError(
            f"{next(iter(splits.values()))} needs the package datasets, which is not installed: pip install it"
        )
    if options.stage > 1:
        for manifest, split in splits.items():
            if not manifest.is_file():
                raise UserError(f"{manifest} is missing, which stage 1 makes of {split}: begin with --stage 1")

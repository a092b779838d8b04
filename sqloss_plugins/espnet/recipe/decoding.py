"""Stage 7: beam search on the development and test sets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from sqloss_plugins.espnet.calibration import calibrate
from sqloss_plugins.espnet.jobs import Job, run_jobs
from sqloss_plugins.espnet.model_files import read_state
from sqloss_plugins.espnet.recipe.paths import LM_FILE, DataFolder, RunFolder, read_json
from sqloss_plugins.espnet.recipe.training import BINS, DONE, split_keys
from sqloss_plugins.results import write_json

_CALIBRATION_BATCH = 8


@dataclass(frozen=True)
class BeamSearch:
    """What beam search needs.

    Attributes:
        data: the subsets, and the type of their tokens.
        asr_exp: the trained model; the hypotheses go there.
        config: configuration of decoding.
        lm_exp: the language model; None for none.
        ngpu: GPUs; each process uses at most one.
        nj: processes.
    """

    data: DataFolder
    asr_exp: RunFolder
    config: Path
    lm_exp: Path | None
    ngpu: int
    nj: int

    def arguments(self, subset: str, method: str, keys: Path) -> list[str]:
        """Of ``asr_inference``, for the utterances that ``keys`` names."""
        found = ["--config", str(self.config), "--ngpu", str(min(self.ngpu, 1)), "--key_file", str(keys)]
        found += ["--data_path_and_name_and_type", f"{self.data.subset(subset) / 'wav.scp'},speech,sound"]
        found += ["--method", method]
        if method == "temperature":
            found += ["--temperature", str(read_json(self.asr_exp.calibration)["temperature"])]
        found += ["--asr_train_config", str(self.asr_exp.config), "--asr_model_file", str(self.asr_exp.model)]
        if self.lm_exp is None:
            return [*found, "--lm_weight", "0.0"]
        model = self.lm_exp / "model"
        return [*found, "--lm_train_config", str(model / "config.yaml"), "--lm_file", str(model / LM_FILE)]


def measure_calibration(asr_exp: RunFolder, dev: Path, device: str) -> None:
    """Measures how well each method fits the development set, and finds the temperature, once.

    Raises:
        UserError: a damaged model.
    """
    if asr_exp.calibration.is_file():
        read_json(asr_exp.calibration)
        read_state(asr_exp.model)
        return
    print("  likelihoods on the development set", flush=True)
    found = calibrate(asr_exp.config, asr_exp.model, dev, _CALIBRATION_BATCH, device)
    write_json(asr_exp.calibration, found)


def decode(
    search: BeamSearch, dev: str, tests: Sequence[str], methods: Sequence[str], choose: Callable[[], Sequence[str]]
) -> None:
    """Decodes the development set with all methods, then the test sets with those that come of it.

    Args:
        search: the model and its beam search.
        dev, tests: the subsets.
        methods: of the development set.
        choose: called when that is decoded: the methods of the test sets.
    """
    _decode_sets(search, [(dev, method) for method in methods])
    chosen = choose()
    _decode_sets(search, [(subset, method) for subset in tests for method in chosen])


def _decode_sets(search: BeamSearch, pairs: Sequence[tuple[str, str]]) -> None:
    jobs: list[Job] = []
    parts_of: dict[Path, list[Path]] = {}
    utterances = 0
    nj = 1 if search.ngpu else search.nj
    for subset, method in pairs:
        folder = search.asr_exp.decoded(subset, method)
        if (folder / "text").is_file():
            print(f"  done before, in {folder}", flush=True)
            continue
        parts_of[folder] = []
        for keys in split_keys(search.data.subset(subset) / "wav.scp", folder, "keys", nj):
            # The name says of how many: a part of another split, by a process with another --nj, is another one.
            part = folder / keys.stem.replace("keys.", "part")
            parts_of[folder].append(part)
            if (part / DONE).is_file():
                continue
            shutil.rmtree(part, ignore_errors=True)
            utterances += len(keys.read_text(encoding="utf-8").splitlines())
            arguments = [*search.arguments(subset, method, keys), "--output_dir", str(part)]
            jobs.append(Job(f"{BINS}.asr_inference", arguments, part.with_suffix(".log")))
    with tqdm(total=utterances, desc="  beam search", unit=" utterances", disable=not jobs) as bar:

        def count(line: str) -> None:
            if "speech length:" in line:  # what ESPnet says of each utterance
                bar.update()

        run_jobs(jobs, nj, lambda job: Path(job.log.with_suffix(""), DONE).touch(), count)
    # ESPnet joins phones without spaces between them.
    name = "token" if search.data.token_type == "phn" else "text"
    for folder, parts in parts_of.items():
        texts = [(part / "1best_recog" / name).read_text(encoding="utf-8") for part in parts]
        lines = sorted(line for text in texts for line in text.split("\n") if line)
        partial = folder / ".text"
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(partial, folder / "text")

"""Stage 7: beam search on the development and test sets; what the language model makes of their transcripts."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from espnet2.bin import lm_calc_perplexity
from tqdm import tqdm

from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.calibration import calibrate
from sqloss_plugins.espnet.jobs import Job, run_jobs, visible_gpus
from sqloss_plugins.espnet.model_files import read_state
from sqloss_plugins.espnet.recipe.paths import DataFolder, RunFolder, read_json
from sqloss_plugins.espnet.recipe.training import BINS, DONE, split_keys
from sqloss_plugins.espnet.registration import register
from sqloss_plugins.results import write_json, write_text

_PERPLEXITY_BATCH = 16


@dataclass(frozen=True)
class BeamSearch:
    """What beam search needs.

    Attributes:
        data: the subsets, and the type of their tokens.
        asr_exp: the trained model; the hypotheses go there.
        config: configuration of decoding.
        further: arguments that count more than it.
        language_model: its configuration and model; None for none.
        on_gpu: whether each process uses a GPU; they are dealt out to those that are visible.
        nj: processes.
    """

    data: DataFolder
    asr_exp: RunFolder
    config: Path
    further: Sequence[str]
    language_model: tuple[Path, Path] | None
    on_gpu: bool
    nj: int

    def arguments(self, subset: str, method: str, keys: Path) -> list[str]:
        """Of ``asr_inference``, for the utterances that ``keys`` names."""
        found = ["--config", str(self.config), *self.further]
        found += ["--ngpu", "1" if self.on_gpu else "0", "--key_file", str(keys)]
        found += ["--data_path_and_name_and_type", f"{self.data.subset(subset) / 'wav.scp'},speech,sound"]
        found += ["--method", method]
        if method == "temperature":
            found += ["--temperature", str(read_json(self.asr_exp.calibration)["temperature"])]
        found += ["--asr_train_config", str(self.asr_exp.config), "--asr_model_file", str(self.asr_exp.model)]
        if self.language_model is None:
            return [*found, "--lm_weight", "0.0"]
        config, model = self.language_model
        return [*found, "--lm_train_config", str(config), "--lm_file", str(model)]


def check_models_are_there(asr_exp: RunFolder, language_model: tuple[Path, Path] | None) -> None:
    """Refuses to decode by a model that its training did not leave; ESPnet removes those of most epochs.

    Raises:
        UserError: with the models that are there.
    """
    models = {"--inference_asr_model": asr_exp.model}
    if language_model:
        models["--inference_lm"] = language_model[1]
    for option, model in models.items():
        if not model.is_file():
            known = sorted(path.name for path in model.parent.glob("*.pth") if path.stem != "checkpoint")
            raise UserError(f"{model} is not there: choose {option} from {', '.join(known) or 'nothing'}")


def measure_calibration(asr_exp: RunFolder, dev: Path, size: int, device: str) -> None:
    """Measures how well each method fits the development set, and finds the temperature, once.

    Args:
        asr_exp: the trained model.
        dev: folder of the development set.
        size: utterances at a time.
        device: PyTorch's name of it.

    Raises:
        UserError: a damaged model.
    """
    if asr_exp.calibration.is_file():
        read_json(asr_exp.calibration)
        read_state(asr_exp.model)
        return
    print("  likelihoods on the development set", flush=True)
    found = calibrate(asr_exp.config, asr_exp.model, dev, size, device)
    write_json(asr_exp.calibration, found)


def lm_perplexity(language_model: tuple[Path, Path], text: Path, folder: Path, on_gpu: bool) -> float:
    """The language model's perplexity of a token, the end of a sentence included, as ESPnet computes it; once.

    Args:
        language_model: its configuration and model.
        text: a subset's ``text``.
        folder: where ESPnet's files go, and are looked for.
        on_gpu: whether to compute on a GPU.

    Raises:
        UserError: a model that cannot be read.
    """
    path = folder / "ppl"
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a kill may have left it empty
        pass
    config, model = language_model
    read_state(model)
    print(f"  the language model's perplexity on {text.parent.name}", flush=True)
    arguments = ["--train_config", str(config), "--model_file", str(model), "--output_dir", str(folder)]
    arguments += ["--data_path_and_name_and_type", f"{text},text,text", "--batch_size", str(_PERPLEXITY_BATCH)]
    arguments += ["--num_workers", "0", "--ngpu", "1" if on_gpu else "0"]
    register("lm")  # --lm_config may name this package's model
    with redirect_stderr(io.StringIO()):  # ESPnet repeats the command line
        lm_calc_perplexity.main(arguments)
    return float(path.read_text(encoding="utf-8"))


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
    for subset, method in pairs:
        folder = search.asr_exp.decoded(subset, method)
        if (folder / "text").is_file():
            print(f"  done before, in {folder}", flush=True)
            continue
        parts_of[folder] = []
        for keys in split_keys(search.data.subset(subset) / "wav.scp", folder, "keys", search.nj):
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

        def done(job: Job) -> None:
            Path(job.log.with_suffix(""), DONE).touch()

        run_jobs(jobs, search.nj, done, count, visible_gpus() if search.on_gpu else ())
    # ESPnet joins phones without spaces between them.
    name = "token" if search.data.token_type == "phn" else "text"
    for folder, parts in parts_of.items():
        # 1best_recog, 2best_recog, ...: as many as nbest says.
        of_hypotheses = {path.relative_to(part) for part in parts for path in part.glob("*best_recog/*")}
        for path in sorted(of_hypotheses):
            (folder / path.parent).mkdir(exist_ok=True)
            _join([part / path for part in parts], folder / path)
        _join([part / "1best_recog" / name for part in parts], folder / "text")


def _join(parts: Sequence[Path], target: Path) -> None:
    """The lines of files, by utterance; the n-th best hypothesis may be of some utterances alone."""
    texts = [part.read_text(encoding="utf-8") for part in parts if part.is_file()]
    lines = sorted(line for text in texts for line in text.split("\n") if line)
    write_text(target, "".join(f"{line}\n" for line in lines))

"""Speed perturbation as ESPnet's recipes have it: the training data once for each factor.

Audio at speed 0.9 is the same samples taken for those of 0.9 times the sample rate, so that it is longer and lower
(Ko et al., 2015). Its utterances and speakers have the prefix ``sp0.9-``.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import soundfile
from tqdm import tqdm

from sqloss_plugins.data.corpora import Utterance
from sqloss_plugins.data.corpora.conversion import resample, write_flac
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe.error_rates import read_text
from sqloss_plugins.espnet.recipe.paths import DataFolder, digest
from sqloss_plugins.espnet.recipe.preparation import write_subset
from sqloss_plugins.folders import note_made_of, read_made_of


@dataclass(frozen=True)
class _Copy:
    """An utterance at another speed: what becomes of which audio."""

    utterance: Utterance
    source: Path
    speed: Fraction

    def write(self) -> tuple[int, int]:
        """Writes the audio if it is not there; returns the number of samples and the sample rate.

        Raises:
            UserError: audio that cannot be read.
            OSError: the new audio cannot be written.
        """
        path = self.utterance.audio
        try:
            if self.speed != 1 and not path.is_file():
                samples, rate = soundfile.read(self.source, dtype="float64")
                changed = resample(samples, self.speed.numerator, self.speed.denominator)
                write_flac(path, changed, rate)
            info = soundfile.info(path)
        except soundfile.LibsndfileError as error:
            raise UserError(f"the audio {self.source}, or {path} made of it, cannot be read: {error}") from error
        return info.frames, info.samplerate


def perturb_speed(data: DataFolder, source: str, target: str, factors: Sequence[str], nj: int) -> None:
    """Writes a subset with a copy of another one for each factor; for the factor 1 with the other's own audio.

    Args:
        data: where the subsets are.
        source: name of the subset that is there.
        target: name of the one to make; audio of an earlier process is kept, but not that of other data.
        factors: of the speed, as they are to be written in the names of the utterances.
        nj: threads.

    Raises:
        UserError: audio that cannot be read.
        OSError: audio cannot be written.
    """
    fingerprint = digest([data.about(source)["fingerprint"], list(factors)])
    if read_made_of(data.subset(target)) != fingerprint:
        shutil.rmtree(data.subset(target), ignore_errors=True)
    if data.about_file(target).is_file():
        print(f"  {target:20s} done before, in {data.subset(target)}", flush=True)
        return
    audio, texts, speakers = (read_text(data.subset(source) / name) for name in ("wav.scp", "text", "utt2spk"))
    folder = data.subset(target) / "audio"
    folder.mkdir(parents=True, exist_ok=True)
    note_made_of(data.subset(target), fingerprint)
    copies = []
    for factor in factors:
        speed = Fraction(factor)
        prefix = f"sp{factor}-" if speed != 1 else ""
        for name, path in audio.items():
            changed = folder / f"{prefix}{name}.flac" if prefix else Path(path)
            utterance = Utterance(f"{prefix}{name}", f"{prefix}{speakers[name]}", changed, texts[name])
            copies.append(_Copy(utterance, Path(path), speed))
    found = []
    with tqdm(total=len(copies), desc=f"  {target}", unit=" files") as bar, ThreadPoolExecutor(nj) as pool:
        for written in pool.map(_Copy.write, copies):
            found.append(written)
            bar.update()
    utterances = [item.utterance for item in copies]
    lengths = {item.name: samples for item, (samples, _) in zip(utterances, found, strict=True)}
    seconds = sum(samples / rate for samples, rate in found)
    write_subset(data, target, utterances, lengths, seconds, {"fingerprint": fingerprint})

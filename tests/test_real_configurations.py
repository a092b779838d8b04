"""Every real configuration of every speech recipe, through all stages: only sizes are made smaller.

What a configuration turns on, such as figures, TensorBoard, schedulers and label smoothing, is really run.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from speech import smaller

from sqloss_plugins.data.corpora.librispeech import write_mini
from sqloss_plugins.data.corpora.timit import write_mini as timit_mini
from sqloss_plugins.data.corpora.wsj import write_mini as wsj_mini
from sqloss_plugins.espnet.recipe import main
from sqloss_plugins.results import read_result

RECIPES = Path(__file__).parent.parent / "recipes"
CONFIGURATIONS = sorted(RECIPES.glob("*/conf/tuning/**/train_asr_*.yaml"))
SMALL = {
    **{"num_blocks": 1, "num_layers": 1, "nlayers": 1, "attention_heads": 2, "output_size": 16, "linear_units": 32},
    **{"hidden_size": 16, "adim": 16, "aconv_filts": 5, "unit": 8, "nbpe": 40},
    **{"batch_size": 4, "accum_grad": 2, "max_epoch": 1, "num_workers": 0, "beam_size": 2, "maxlenratio": -5},
}
pytestmark = pytest.mark.slow


def small_recipe(recipe, folder):
    """A copy of a recipe's folder, whose configurations differ in sizes alone."""
    shutil.copytree(recipe, folder, ignore=shutil.ignore_patterns("mini", "runs", "data", "downloads"))
    for path in folder.glob("conf/**/*.yaml"):
        path.write_text(yaml.safe_dump(smaller(yaml.safe_load(path.read_text()), SMALL), sort_keys=False))
    return folder


def librispeech(folder):
    """A few utterances in LibriSpeech's layout."""
    write_mini(folder, subsets={"train-clean-100": (2, 8), "dev-clean": (1, 2), "test-clean": (1, 2)})


def an4(folder):
    """The same utterances in AN4's layout, with half of their words, for whose characters CTC has frames."""
    librispeech(folder / "made")
    transcripts = {"train": [], "test": []}
    for path in sorted(folder.glob("made/**/*.trans.txt")):
        for line in path.read_text().splitlines():
            name, _, text = line.partition(" ")
            speaker, _, number = name.split("-")
            target = folder / "wav" / f"an4-s{speaker}-{number}.flac"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path.with_name(f"{name}.flac"), target)
            split = "test" if path.is_relative_to(folder / "made/LibriSpeech/test-clean") else "train"
            words = text.split()
            transcripts[split].append(f"<s> {' '.join(words[: len(words) // 2])} </s> ({target.stem})\n")
    shutil.rmtree(folder / "made")
    (folder / "etc").mkdir()
    for split, lines in transcripts.items():
        (folder / f"etc/an4_{split}.transcription").write_text("".join(lines))
    words = {word for lines in transcripts.values() for line in lines for word in line.split()[1:-2]}
    (folder / "etc/an4.dic").write_text("".join(f"{word} {' '.join(word)}\n" for word in sorted(words)))


def wsj(folder):
    """A few utterances as WSJ's discs."""
    wsj_mini(folder, subsets={"train, CSR-I": (1, 4), "train, CSR-II": (1, 4), "dev": (1, 2), "test": (1, 2)})


def timit(folder):
    """A few utterances as TIMIT has them."""
    timit_mini(folder, subsets={"train": (2, 8), "dev": (1, 2), "test": (1, 2)})


def any_corpus(folder):
    """The utterances of LibriSpeech's layout, and a manifest of them."""
    librispeech(folder)
    lines = ["audio\ttext"]
    for path in sorted(folder.rglob("*.trans.txt")):
        for name, _, text in (line.partition(" ") for line in path.read_text().splitlines()):
            lines.append(f"{path.relative_to(folder).with_name(name)}.flac\t{text}")
    (folder / "all.tsv").write_text("\n".join(lines))


CORPUS_MAKERS = {"librispeech": librispeech, "an4": an4, "wsj": wsj, "timit": timit, "any": any_corpus}
# Folders of conf/tuning -> what chooses their configurations.
VARIANTS = {"phn": ["--trans_type", "phn"], "char": ["--trans_type", "char"]}


def name_of(configuration):
    recipe, _, _, *inside = configuration.relative_to(RECIPES).parts
    return "-".join((recipe, *inside))


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=name_of)
def test_a_real_configuration_runs_through_all_stages(configuration, tmp_path):
    recipe = RECIPES / configuration.relative_to(RECIPES).parts[0]
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    CORPUS_MAKERS[recipe.name](corpus)
    where = ["--train", str(corpus / "all.tsv")] if recipe.name == "any" else ["--corpus", str(corpus)]
    words = [str(small_recipe(recipe, tmp_path / "recipe")), *where, "--workdir", str(tmp_path)]
    words += ["--arch", configuration.stem.removeprefix("train_asr_"), "--use_lm", "true", "--lm_text", "none"]
    words += VARIANTS.get(configuration.parent.name, [])
    assert main([*words, "--max_epoch", "1", "--method", "softmax", "--nj", "1"]) == 0

    (folder,) = (path.parent for path in (tmp_path / "runs").rglob("result.json"))
    result = read_result(folder)
    assert (result.loss, result.epochs, result.ended_by) == ("square", 1, "maximum")
    assert result.selection in result.metrics["test"]["softmax"]
    real, used = (yaml.safe_load(path.read_text()) for path in (configuration, folder / "config.yaml"))
    for name, value in real.items():
        if name not in SMALL and not isinstance(value, dict):
            assert used[name] == value  # nothing else was changed
    assert any(folder.glob("tensorboard/*/*"))
    draws = find_spec("matplotlib") is not None and real.get("use_matplotlib", True)
    assert any(folder.glob("images/*.png")) is draws
    assert any(folder.glob("att_ws/*")) is (draws and real.get("num_att_plot", 3) > 0)

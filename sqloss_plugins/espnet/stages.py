"""The stages of a speech recipe, from the audio to the table of error rates.

Each writes into the folder of the data or into that of the run, leaves an empty file ``.STAGE.done`` there when it is
through, and is not repeated while that is there; decoding goes by the hypotheses that are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from espnet2.bin.aggregate_stats_dirs import aggregate_stats_dirs
from espnet2.text.build_tokenizer import build_tokenizer
from tqdm import tqdm

from sqloss_plugins import paper
from sqloss_plugins.data.corpora import CORPORA, MiniCorpus, check_audio, check_subsets, write_data_dir
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.calibration import calibrate
from sqloss_plugins.espnet.jobs import Job, run_jobs
from sqloss_plugins.espnet.recipe import LM_FILE, MODEL_FILE, STAGES, SUBSET_NAME, Recipe
from sqloss_plugins.espnet.resume import trained
from sqloss_plugins.espnet.scoring import Errors, environment, read_text, results_table, score_texts
from sqloss_plugins.folders import SETTINGS_NAME, claim_folder, lock_folder
from sqloss_plugins.probability import SCORES
from sqloss_plugins.results import Result, device_name, versions, write_json, write_result

BLANK, UNKNOWN, SOS_EOS = "<blank>", "<unk>", "<sos/eos>"
_BINS = "sqloss_plugins.espnet.bin"


def is_done(folder: Path, stage: str) -> bool:
    """Whether an earlier process finished the stage; says so if it did."""
    done = (folder / f".{stage}.done").is_file()
    if done:
        print(f"  done before, in {folder}", flush=True)
    return done


def _mark_done(folder: Path, stage: str) -> None:
    (folder / f".{stage}.done").touch()


def need(path: Path, stage: int) -> None:
    """Refuses to begin with a stage before the earlier ones."""
    if not path.exists():
        raise UserError(
            f"{path} is missing, which stage {stage} ({STAGES[stage - 1]}) makes: begin with --stage {stage}"
        )


# ---------------------------------------------------------------- 1 download


def corpus_folder(recipe: Recipe) -> Path:
    """Where the corpus is: given, embedded, or downloaded."""
    given: Path | None = recipe.args.corpus
    return given or Path(recipe.args.workdir, "downloads", "mini" if recipe.mini else recipe.args.task)


def fetch(recipe: Recipe) -> None:
    """Stage 1: downloads the corpus, or makes the mini corpus, unless it is given."""
    if recipe.args.corpus:
        print(f"  not needed: the corpus is {recipe.args.corpus}", flush=True)
        return
    folder = corpus_folder(recipe)
    with lock_folder(folder.parent, wait=True):  # it may serve several folders of data
        if recipe.mini:
            _make_mini(folder, _mini_corpus(recipe))
            return
        try:
            CORPORA[recipe.args.task].download(recipe.subsets, folder)
        except (OSError, RuntimeError, EOFError) as error:  # torchaudio's and the archives' own
            raise UserError(
                f"the download to {folder} failed: {' '.join(str(error).split())}; begin again, or give --corpus"
            ) from error
    print(f"  the corpus is in {folder}", flush=True)


def _mini_corpus(recipe: Recipe) -> MiniCorpus:
    found = CORPORA["librispeech"].mini  # other recipes have none
    assert found is not None
    return found


def _make_mini(folder: Path, mini: MiniCorpus) -> None:
    if is_done(folder, "download"):
        return
    partial = folder.with_name(".mini.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tqdm(total=mini.sentences, desc="  eSpeak NG reads", unit=" sentences") as bar:
        mini.write(partial, bar.update)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    _mark_done(folder, "download")


# ---------------------------------------------------------------- 2 data preparation


def prepare_data(recipe: Recipe) -> None:
    """Stage 2: each subset's transcripts and checked audio as ESPnet takes them, and what it is."""
    corpus = corpus_folder(recipe)
    missing = [subset for subset in recipe.subsets if not is_done(recipe.data / subset, "data")]
    if missing and not corpus.is_dir():
        option = "--corpus" if recipe.args.corpus else "stage 1"
        raise UserError(f"{corpus} is no folder: see {option}")
    reader = CORPORA["librispeech" if recipe.mini else recipe.args.task]
    read = {subset: reader.read(corpus, subset) for subset in missing}
    check_subsets(read)
    for subset, utterances in read.items():
        with tqdm(total=len(utterances), desc=f"  {subset}", unit=" files") as bar:
            seconds = check_audio(utterances, recipe.args.nj, bar.update)
        write_data_dir(recipe.data / subset, utterances)
        digest = hashlib.sha256()
        for item in sorted(utterances, key=lambda item: item.name):
            digest.update(f"{subset} {item.name} {item.text} {item.audio.stat().st_size}\n".encode())
        about = {"utterances": len(utterances), "seconds": seconds, "fingerprint": digest.hexdigest()}
        write_json(recipe.data / subset / SUBSET_NAME, about)
        print(f"  {subset:20s} {len(utterances):7d} utterances {seconds / 3600:8.2f} h", flush=True)
        _mark_done(recipe.data / subset, "data")


# ---------------------------------------------------------------- 3 dictionary


def make_dictionary(recipe: Recipe) -> None:
    """Stage 3: ``tokens.txt`` from the training text, ``bpe.model`` where it has pieces, and counts of the tokens."""
    if is_done(recipe.data, "dictionary"):
        return
    for subset in (recipe.args.train_set, recipe.args.dev_set):
        need(recipe.data / subset / ".data.done", 2)
    text = list(read_text(recipe.data / recipe.args.train_set / "text").values())
    if recipe.args.token_type == "bpe":
        _train_pieces(recipe, text)
        model = sentencepiece.SentencePieceProcessor(model_file=str(recipe.data / "bpe.model"))
        pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
        symbols = [piece for piece in pieces if piece not in ("<unk>", "<s>", "</s>")]
    else:
        counted = Counter(token for line in text for token in _tokenizer(recipe).text2tokens(line))
        symbols = [token for token, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]
    tokens = [BLANK, UNKNOWN, *symbols, SOS_EOS]
    counts = Counter(token for line in text for token in [*_tokenizer(recipe).text2tokens(line), SOS_EOS])
    (recipe.data / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    # For lsm_type: unigram (ESPnet1's label smoothing).
    (recipe.data / "token_counts.txt").write_text("".join(f"{counts[token]}\n" for token in tokens), encoding="utf-8")
    print(f"  {len(tokens)} tokens", flush=True)
    _mark_done(recipe.data, "dictionary")


def _train_pieces(recipe: Recipe, text: list[str]) -> None:
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text),
            model_prefix=str(recipe.data / "bpe"),
            vocab_size=recipe.args.nbpe,
            model_type="unigram",
            character_coverage=1.0,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition("] ")[2]
        raise UserError(f"--nbpe {recipe.args.nbpe} does not fit the training text: {reason}") from error


def _tokenizer(recipe: Recipe) -> Any:
    model = str(recipe.data / "bpe.model") if recipe.args.token_type == "bpe" else None
    return build_tokenizer(recipe.args.token_type, bpemodel=model)


def _text_arguments(recipe: Recipe) -> list[str]:
    arguments = ["--use_preprocessor", "true", "--token_type", recipe.args.token_type]
    arguments += ["--token_list", str(recipe.data / "tokens.txt")]
    if recipe.args.token_type == "bpe":
        arguments += ["--bpemodel", str(recipe.data / "bpe.model")]
    return arguments


# ---------------------------------------------------------------- 4 statistics


def collect_statistics(recipe: Recipe) -> None:
    """Stage 4: lengths of all utterances, mean and variance of the features."""
    stats = recipe.statistics
    if is_done(stats, "statistics"):
        return
    need(recipe.data / ".dictionary.done", 3)
    train, dev = (recipe.data / recipe.args.train_set, recipe.data / recipe.args.dev_set)
    shutil.rmtree(stats, ignore_errors=True)
    stats.mkdir()
    write_json(stats / SETTINGS_NAME, recipe.frontend)
    count = min(recipe.args.nj, *(len(read_text(folder / "wav.scp")) for folder in (train, dev)))
    parts = _split_keys(train / "wav.scp", stats / "keys", "train", count)
    dev_parts = _split_keys(dev / "wav.scp", stats / "keys", "dev", count)
    jobs = []
    for i, (part, dev_part) in enumerate(zip(parts, dev_parts, strict=True)):
        arguments = ["--collect_stats", "true", *recipe.training_arguments, *_text_arguments(recipe)]
        arguments += ["--ngpu", "0", "--normalize", "none"]  # normalisation needs what is collected here
        arguments += ["--output_dir", str(stats / f"part{i}"), *_asr_data("train", train), *_asr_data("valid", dev)]
        arguments += ["--train_shape_file", str(part), "--valid_shape_file", str(dev_part)]
        jobs.append(Job(f"{_BINS}.asr_train", arguments, stats / f"part{i}.log"))
    run_jobs(jobs, recipe.args.nj)
    inputs = [str(stats / f"part{i}") for i in range(len(parts))]
    aggregate_stats_dirs(inputs, str(stats), "WARNING", False)
    for split in ("train", "valid"):
        _append_vocabulary(stats / split / "text_shape", len(recipe.tokens))
    _mark_done(stats, "statistics")


def _asr_data(split: str, folder: Path) -> list[str]:
    option = f"--{split}_data_path_and_name_and_type"
    return [option, f"{folder / 'wav.scp'},speech,sound", option, f"{folder / 'text'},text,text"]


def _split_keys(scp: Path, folder: Path, name: str, parts: int) -> list[Path]:
    """The file's lines, dealt out to at most so many files of near equal length."""
    lines = scp.read_text(encoding="utf-8").splitlines(keepends=True)
    parts = max(1, min(parts, len(lines)))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(parts):
        paths.append(folder / f"{name}.{i}of{parts}.scp")
        paths[-1].write_text("".join(lines[len(lines) * i // parts : len(lines) * (i + 1) // parts]), encoding="utf-8")
    return paths


def _append_vocabulary(shapes: Path, size: int) -> None:
    """ESPnet's batching wants the number of tokens behind each text's length, in another file."""
    lines = shapes.read_text(encoding="utf-8").splitlines()
    target = shapes.with_name("text_shape.tokens")
    target.write_text("".join(f"{line},{size}\n" for line in lines), encoding="utf-8")


# ---------------------------------------------------------------- 5 language model


def train_language_model(recipe: Recipe) -> None:
    """Stage 5: a language model on the training text, and on more of it where it is given."""
    if recipe.language_model is None:
        print("  not wanted (--use_lm false)", flush=True)
        return
    need(recipe.data / ".dictionary.done", 3)
    folder = recipe.lm
    if is_done(folder, "lm"):
        return
    folder.mkdir(exist_ok=True)
    write_json(folder / SETTINGS_NAME, recipe.language_model)
    text = (recipe.data / recipe.args.train_set / "text").read_text(encoding="utf-8")
    with (folder / "train.txt").open("w", encoding="utf-8") as file:
        file.write(text)
        for number, line in enumerate(read_lm_text(recipe.args.lm_text) if recipe.args.lm_text else ()):
            if line:
                file.write(f"lm_text_{number:09d} {line}\n")
    dev = recipe.data / recipe.args.dev_set / "text"
    shared = ["--config", str(recipe.config("lm")), "--ngpu", str(min(recipe.args.ngpu, 1)), *_text_arguments(recipe)]
    shared += ["--train_data_path_and_name_and_type", f"{folder / 'train.txt'},text,text"]
    shared += ["--valid_data_path_and_name_and_type", f"{dev},text,text"]
    stats = folder / "stats"
    if not (stats / ".done").is_file():
        shutil.rmtree(stats, ignore_errors=True)
        shapes = ["--train_shape_file", str(folder / "train.txt"), "--valid_shape_file", str(dev)]
        arguments = [*shared, "--ngpu", "0", "--collect_stats", "true", *shapes, "--output_dir", str(stats)]
        run_jobs([Job(f"{_BINS}.lm_train", arguments, folder / "stats.log")])
        for split in ("train", "valid"):
            _append_vocabulary(stats / split / "text_shape", len(recipe.tokens))
        (stats / ".done").touch()
    arguments = [*shared, "--resume", "true", "--output_dir", str(folder / "model")]
    for split in ("train", "valid"):
        arguments += [f"--{split}_shape_file", str(stats / split / "text_shape.tokens")]
    run_jobs([Job(f"{_BINS}.lm_train", arguments, folder / "train.log")])
    _mark_done(folder, "lm")


def read_lm_text(path: Path) -> Iterator[str]:
    """The lines of ``--lm_text``, words separated by single spaces.

    Raises:
        UserError: the file cannot be read as text.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield " ".join(line.split())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--lm_text {path} cannot be read as text: {reason}") from error


# ---------------------------------------------------------------- 6 training


def train(recipe: Recipe) -> None:
    """Stage 6: ESPnet's training, which goes on from its last epoch where it was killed."""
    if is_done(recipe.run, "training"):
        return
    stats = recipe.statistics
    need(stats / ".statistics.done", 4)
    arguments = [*recipe.training_arguments, *_text_arguments(recipe), "--resume", "true"]
    if recipe.rescaling:
        arguments += ["--model_conf", f"k={recipe.rescaling.k}", "--model_conf", f"M={recipe.rescaling.M}"]
    if recipe.espnet.normalize == "global_mvn":
        arguments += ["--normalize_conf", f"stats_file={stats / 'train' / 'feats_stats.npz'}"]
    for split, subset in (("train", recipe.args.train_set), ("valid", recipe.args.dev_set)):
        arguments += _asr_data(split, recipe.data / subset)
        for shape in ("speech_shape", "text_shape.tokens"):
            arguments += [f"--{split}_shape_file", str(stats / split / shape)]
    is_resumed = (recipe.run / "checkpoint.pth").is_file()
    run_jobs([Job(f"{_BINS}.asr_train", [*arguments, "--output_dir", str(recipe.run)], recipe.run / "train.log")])
    epochs, seconds = trained(recipe.run)
    device = device_name("cuda" if recipe.args.ngpu else "cpu")
    about = {"epochs": epochs, "wall_time_s": seconds, "resumed": is_resumed, "device": device, "versions": versions()}
    write_json(recipe.run / "training.json", about)
    _mark_done(recipe.run, "training")


# ---------------------------------------------------------------- 7 decoding


def claim_decoding(recipe: Recipe) -> None:
    """Refuses hypotheses of other settings than this command line's, before the training."""
    for subset in recipe.subsets:
        need(recipe.data / subset / ".data.done", 2)
    if recipe.language_model is not None:
        need(recipe.lm / ".lm.done", 5)
    claim_folder(recipe.run / "decode", recipe.decoding, ("*/*/text", "*/*/part*"), option="--tag")


def decode(recipe: Recipe) -> None:
    """Stage 7: beam search on the development and test sets, with the scores that are asked for."""
    need(recipe.run / ".training.done", 6)
    calibration = recipe.run / "calibration.json"
    if not calibration.is_file():
        print("  likelihoods on the development set", flush=True)
        device = "cuda" if recipe.args.ngpu else "cpu"
        dev = recipe.data / recipe.args.dev_set
        write_json(calibration, calibrate(recipe.run / "config.yaml", recipe.run / MODEL_FILE, dev, 8, device))
    for pairs in _wanted(recipe):
        _decode_sets(recipe, pairs)


def _wanted(recipe: Recipe) -> Iterator[list[tuple[str, str]]]:
    """Subsets and scores to decode: the development set's, then the test sets', which may depend on those."""
    scores = wanted_scores(recipe)
    yield [(recipe.args.dev_set, score) for score in scores]
    if recipe.args.score == "auto":
        scores = [best_score(recipe, scores)]
    yield [(subset, score) for subset in recipe.args.test_sets.split() for score in scores]


def wanted_scores(recipe: Recipe) -> list[str]:
    """The scores to decode the development set with: those given, or all that the loss has a use for."""
    if recipe.args.score != "auto":
        return list(recipe.args.score.split())
    # A scale is a temperature, from which cross-entropy may gain as well.
    return [score for score in SCORES if score != "link" or recipe.args.loss == "square"]


def best_score(recipe: Recipe, scores: Sequence[str]) -> str:
    """The score with the fewest word errors on the development set; of equals the first."""
    rates = {score: _errors(recipe, recipe.args.dev_set, score)["wer"].rate for score in scores}
    return min(scores, key=rates.__getitem__)


def _decoded(recipe: Recipe, subset: str, score: str) -> Path:
    return recipe.run / "decode" / subset / score


def _decode_sets(recipe: Recipe, pairs: Sequence[tuple[str, str]]) -> None:
    jobs: list[Job] = []
    parts_of: dict[Path, list[Path]] = {}
    utterances = 0
    nj = 1 if recipe.args.ngpu else recipe.args.nj
    for subset, score in pairs:
        folder = _decoded(recipe, subset, score)
        if (folder / "text").is_file():
            print(f"  done before, in {folder}", flush=True)
            continue
        parts_of[folder] = []
        for keys in _split_keys(recipe.data / subset / "wav.scp", folder, "keys", nj):
            # The name says of how many: a part of another split, by a process with another --nj, is another one.
            part = folder / keys.stem.replace("keys.", "part")
            parts_of[folder].append(part)
            if (part / ".done").is_file():
                continue
            shutil.rmtree(part, ignore_errors=True)
            utterances += len(keys.read_text(encoding="utf-8").splitlines())
            arguments = [*_decoding_arguments(recipe, score, subset, keys), "--output_dir", str(part)]
            jobs.append(Job(f"{_BINS}.asr_inference", arguments, part.with_suffix(".log")))
    with tqdm(total=utterances, desc="  beam search", unit=" utterances", disable=not jobs) as bar:

        def count(line: str) -> None:
            if "speech length:" in line:  # what ESPnet says of each utterance
                bar.update()

        run_jobs(jobs, nj, lambda job: Path(job.log.with_suffix(""), ".done").touch(), count)
    for folder, parts in parts_of.items():
        texts = [(part / "1best_recog" / "text").read_text(encoding="utf-8") for part in parts]
        lines = sorted(line for text in texts for line in text.splitlines())
        partial = folder / ".text"
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(partial, folder / "text")


def _decoding_arguments(recipe: Recipe, score: str, subset: str, keys: Path) -> list[str]:
    arguments = ["--config", str(recipe.config("inference")), "--ngpu", str(min(recipe.args.ngpu, 1))]
    arguments += ["--data_path_and_name_and_type", f"{recipe.data / subset / 'wav.scp'},speech,sound"]
    arguments += ["--key_file", str(keys), "--score", score]
    if score == "scale":
        calibration = json.loads((recipe.run / "calibration.json").read_text(encoding="utf-8"))
        arguments += ["--score_scale", str(calibration["scale"])]
    arguments += ["--asr_train_config", str(recipe.run / "config.yaml")]
    arguments += ["--asr_model_file", str(recipe.run / MODEL_FILE)]
    if recipe.language_model is not None:
        model = recipe.lm / "model"
        arguments += ["--lm_train_config", str(model / "config.yaml"), "--lm_file", str(model / LM_FILE)]
    else:
        arguments += ["--lm_weight", "0.0"]
    return arguments


def _errors(recipe: Recipe, subset: str, score: str) -> dict[str, Errors]:
    return score_texts(read_text(recipe.data / subset / "text"), read_text(_decoded(recipe, subset, score) / "text"))


# ---------------------------------------------------------------- 8 scoring


def score(recipe: Recipe) -> Result:
    """Stage 8: error rates of all that was decoded, into ``RESULTS.md`` and ``result.json``."""
    for subset, name in (pair for pairs in _wanted(recipe) for pair in pairs):
        if not (_decoded(recipe, subset, name) / "text").is_file():
            raise UserError(f"{subset} was not decoded with the score {name}: begin with --stage 7")
    dev, tests = recipe.args.dev_set, recipe.args.test_sets.split()
    found = {
        (subset, name): _errors(recipe, subset, name)
        for subset in (dev, *tests)
        for name in SCORES
        if (_decoded(recipe, subset, name) / "text").is_file()
    }
    chosen = best_score(recipe, wanted_scores(recipe))
    training = json.loads((recipe.run / "training.json").read_text(encoding="utf-8"))
    sizes = {subset: recipe.about(subset)["utterances"] for subset in recipe.subsets}
    calibration = json.loads((recipe.run / "calibration.json").read_text(encoding="utf-8"))
    metrics: dict[str, dict[str, float]] = {}
    for (subset, name), errors in found.items():
        split = "validation" if subset == dev else "test" if subset == tests[0] else f"test {subset}"
        values = metrics.setdefault(split, {})
        for metric, value in errors.items():
            values[f"{metric} {name}"] = value.rate
            if name == chosen:
                values[metric] = value.rate
    metrics["validation"]["accuracy"] = calibration["accuracy"]
    rescaling = recipe.rescaling
    result = Result(
        task=recipe.args.task,
        arch=recipe.args.arch,
        loss=recipe.args.loss,
        k=rescaling.k if rescaling else None,
        M=rescaling.M if rescaling else None,
        rescaling_source=rescaling.source if rescaling else None,
        protocol="early_stopping",
        epochs=float(training["epochs"]),
        seed=recipe.args.seed,
        mini=recipe.mini,
        hyperparameters={**recipe.hyperparameters, "decoding": recipe.decoding},
        data={
            "source": str(corpus_folder(recipe)),
            "fingerprint": recipe.fingerprint(*recipe.subsets),
            "sizes": sizes,
        },
        parameters=calibration["parameters"],
        device=training["device"],
        wall_time_s=training["wall_time_s"],
        resumed=training["resumed"],
        metrics=metrics,
        versions=training["versions"],
    )
    table = results_table(found, chosen, sizes)
    is_papers = recipe.has_papers_tokens and not recipe.args.asr_config and recipe.args.train_set == "train-clean-100"
    if is_papers and "test-clean" in tests:
        for metric, published in paper.test_results(recipe.args.task, recipe.args.arch).items():
            table += (
                f"\n\nThe paper's {metric.upper()} on test-clean with this model: {published['square']} % (square), "
                f"{published['cross_entropy']} % (cross-entropy)."
            )
    mini = " (MINI: synthetic speech, not the real task)" if recipe.mini else ""
    rescaled = f", {rescaling}" if rescaling else ""
    text = (
        f"## {recipe.args.task}{mini}: {recipe.args.arch}, {recipe.args.loss}{rescaled}\n\n"
        f"{result.parameters / 1e6:.1f} M parameters, {len(recipe.tokens)} tokens, {result.epochs:g} epochs, "
        f"lr {recipe.learning_rate:g}, seed {result.seed}; * is the score with the fewest word errors on {dev}. "
        f"The scale is {calibration['scale']:.3g}.\n\n{table}\n\n{environment(result)}\n"
    )
    (recipe.run / "RESULTS.md").write_text(text, encoding="utf-8")
    write_result(recipe.run, result, {})
    return result

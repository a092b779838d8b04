"""The stages of a speech recipe in one table, and the flow that runs them.

Each stage is a function of the folders it reads and writes. Here, and only here, it is said which those are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe import preparation, training
from sqloss_plugins.espnet.recipe.confidence import batch_size, measure_decoder, read_outputs, tell_of_unmeasured
from sqloss_plugins.espnet.recipe.decoding import (
    BeamSearch,
    check_models_are_there,
    decode,
    lm_perplexity,
    measure_calibration,
)
from sqloss_plugins.espnet.recipe.frames import check_for_ctc
from sqloss_plugins.espnet.recipe.options import STAGE_NAMES
from sqloss_plugins.espnet.recipe.packing import pack, plain_method
from sqloss_plugins.espnet.recipe.parsing import CommandLine, is_url
from sqloss_plugins.espnet.recipe.paths import Paths, read_json
from sqloss_plugins.espnet.recipe.scoring import (
    Scorer,
    confidence_table,
    espnets_tables,
    make_result,
    papers_results,
    report,
    results_table,
    test_splits,
)
from sqloss_plugins.espnet.recipe.settings import Settings
from sqloss_plugins.espnet.recipe.speed import perturb_speed
from sqloss_plugins.espnet.recipe.uploading import check_hub, model_card, upload
from sqloss_plugins.folders import check_made_of, claim_folder, lock_folder
from sqloss_plugins.results import OUTPUTS_NAME, Result, read_result, versions, write_result, write_text


@dataclass(frozen=True)
class Recipe:
    """One command line and what follows from it.

    Attributes:
        given: the command line.
        paths: where everything is.
        settings: what ESPnet is given.
    """

    given: CommandLine
    paths: Paths
    settings: Settings

    def subset(self, name: str) -> Path:
        """The folder of a prepared subset."""
        return self.paths.data.subset(name)

    @property
    def train(self) -> Path:
        """The folder of the training subset."""
        return self.subset(self.given.options.train_set)

    @property
    def asr_train(self) -> Path:
        """The folder of the subset that the model is trained on."""
        return self.subset(self.given.options.asr_train_set)

    @property
    def dev(self) -> Path:
        """The folder of the development subset."""
        return self.subset(self.given.options.dev_set)

    @property
    def device(self) -> str:
        """PyTorch's name of what trains."""
        return "cuda" if self.given.options.ngpu else "cpu"

    @property
    def scorer(self) -> Scorer:
        """How hypotheses are held against the transcripts."""
        definition = self.given.definition
        return Scorer(self.paths.data, self.settings.asr_exp(), definition.metrics, definition.folding)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        needs: numbers of the stages before it that it needs; who needs the language model (5) needs its text (1), by
            which it is known.
        makes: files that are there when it is through, each written last.
        run: does it.
        skips_itself: True: it looks for itself which part of it is done. Else it is skipped where all files are there.
        is_of_run: whether it works in the run's folder, and not in that of the data, which several runs may share.
    """

    needs: tuple[int, ...]
    makes: Callable[[Recipe], Sequence[Path]]
    run: Callable[[Recipe], None]
    skips_itself: bool = False
    is_of_run: bool = False


def _download(recipe: Recipe) -> None:
    given, paths = recipe.given, recipe.paths
    corpus = given.definition.corpus
    if given.options.corpus or (given.options.train and not corpus.download):
        print(f"  not needed: the corpus is {paths.corpus}", flush=True)
    elif given.options.mini:
        assert corpus.mini is not None
        preparation.make_mini_corpus(corpus.mini, paths.corpus)
    else:
        folder = paths.downloads / corpus.folder_name if given.options.train else paths.corpus
        preparation.download_corpus(corpus, given.options.subsets, folder)
    if given.lm_text and is_url(given.lm_text) and paths.lm_text:
        preparation.download_text(given.lm_text, paths.lm_text)


def _prepare(recipe: Recipe) -> None:
    given, options, data = recipe.given, recipe.given.options, recipe.paths.data
    corpus, folder = given.definition.corpus, recipe.paths.corpus
    preparation.prepare_data(corpus, folder, options.subsets, data, options.nj, options.durations)
    if options.speeds:
        perturb_speed(data, options.train_set, options.asr_train_set, options.speeds, options.nj)


def _downloads(recipe: Recipe) -> list[Path]:
    """Only the text: what there is of the corpus is seen when it is read."""
    text = recipe.given.lm_text
    return [recipe.paths.lm_text] if text and is_url(text) and recipe.paths.lm_text else []


def _language_model(recipe: Recipe) -> None:
    settings = recipe.settings
    if settings.language_model is None:
        print("  not wanted (--use_lm false)", flush=True)
        return
    print(f"  on the text of {settings.lm_text_name()}", flush=True)
    training.train_language_model(
        recipe.train / "text",
        recipe.dev / "text",
        recipe.paths.lm_text,
        recipe.paths.data,
        settings.lm_exp(),
        settings.lm_arguments,
        settings.of_language_model(),
        recipe.given.options.ngpu,
    )


def _decode(recipe: Recipe) -> None:
    options, settings = recipe.given.options, recipe.settings
    asr_exp, methods = settings.asr_exp(), settings.methods()
    check_models_are_there(asr_exp, settings.lm_files())
    device = "cuda" if options.decodes_on_gpu else "cpu"
    measure_calibration(asr_exp, recipe.dev, batch_size(recipe.paths.data.lengths_file(options.dev_set)), device)
    search = BeamSearch(
        recipe.paths.data,
        asr_exp,
        recipe.given.config("inference"),
        settings.inference_arguments,
        settings.lm_files(),
        options.decodes_on_gpu,
        options.decoding_processes,
    )

    def choose() -> Sequence[str]:
        return [recipe.scorer.best_method(options.dev_set, methods)] if settings.chooses_method else methods

    decode(search, options.dev_set, options.tests, methods, choose)
    measure_decoder(recipe.paths.data, asr_exp, [options.dev_set, *options.tests], device)


def _perplexities(recipe: Recipe) -> dict[str, float]:
    """Development or test set -> the language model's perplexity on its transcripts; empty for no language model."""
    options, decoded, files = recipe.given.options, recipe.settings.asr_exp().decode, recipe.settings.lm_files()
    if files is None:
        return {}
    return {
        name: lm_perplexity(
            files, recipe.subset(name) / "text", decoded / name / "lm_perplexity", options.decodes_on_gpu
        )
        for name in (options.dev_set, *options.tests)
    }


def _score(recipe: Recipe) -> None:
    given, settings, data = recipe.given, recipe.settings, recipe.paths.data
    options, task = given.options, given.definition.task
    asr_exp, scorer, rescaling = settings.asr_exp(), recipe.scorer, settings.rescaling()
    sizes = {subset: data.about(subset)["utterances"] for subset in options.prepared}
    what: dict[str, Any] = {
        "task": task,
        "arch": options.arch,
        "loss": options.loss,
        "k": rescaling.k if rescaling else None,
        "M": rescaling.M if rescaling else None,
        "rescaling_source": rescaling.source if rescaling else None,
        "protocol": settings.protocol,
        "seed": options.seed,
        "mini": options.mini,
        "hyperparameters": {**settings.hyperparameters, "decoding": settings.of_decoding()},
        "data": {
            "source": str(recipe.paths.corpus),
            "fingerprint": data.fingerprint([options.asr_train_set, options.dev_set]),
            "test_fingerprints": {
                split: data.fingerprint([subset]) for subset, split in test_splits(options.tests).items()
            },
            "sizes": sizes,
            "lm_text": settings.lm_text_name(),
        },
    }
    methods = settings.methods()
    what["method"] = chosen = scorer.best_method(options.dev_set, methods)
    scorer.check_decoded(options.tests, [chosen] if settings.chooses_method else methods)
    what["data"]["lm_perplexity"] = perplexities = _perplexities(recipe)
    errors = scorer.all_errors([options.dev_set, *options.tests])
    splits = {options.dev_set: "validation", **test_splits(options.tests)}
    outputs = read_outputs(asr_exp, splits)
    tell_of_unmeasured(asr_exp, errors)
    result = make_result(scorer, errors, options.dev_set, options.tests, what, outputs, settings.espnet.max_epoch)
    table = results_table(errors, result.method, sizes)
    published = str(given.definition.defaults.get("test_sets", "")).split()[:1]  # the paper has one test set
    if given.is_as_published and set(published) <= set(options.tests):
        table += "".join(papers_results(task, options.arch, test) for test in published)
    table += espnets_tables(errors, result.method)
    table += confidence_table(result, splits) + scorer.beside_other_losses(result, splits)
    text = report(result, table, len(data.tokens), rescaling, options.dev_set, perplexities)
    write_text(asr_exp.table, text)
    # With `_` for a space, as `sqloss calibrate` has the names of test sets.
    arrays = {f"{split.replace(' ', '_')}_outputs": f for split, (f, _) in outputs.items()}
    arrays |= {f"{split.replace(' ', '_')}_targets": y for split, (_, y) in outputs.items()}
    write_result(asr_exp.results, result, arrays)
    print(f"\n{text}\nEverything is in {asr_exp.results}.", flush=True)


def _scored(recipe: Recipe) -> Result:
    try:
        return read_result(recipe.settings.asr_exp().result)
    except ValueError as error:
        raise UserError(f"{error}: begin with --stage 8") from error


def _plain_method(recipe: Recipe, result: Result) -> str:
    """By which plain ESPnet decodes what is packed."""
    settings = recipe.settings
    return plain_method(result, list(result.metrics["validation"]) if settings.chooses_method else settings.methods())


def _pack(recipe: Recipe) -> None:
    settings, asr_exp, result = recipe.settings, recipe.settings.asr_exp(), _scored(recipe)
    method = _plain_method(recipe, result)
    temperature = read_json(asr_exp.calibration)["temperature"] if method == "temperature" else 1.0
    decoding = {name: value for name, value in settings.of_decoding().items() if name not in ("lm", "use_lm")}
    pack(asr_exp.config, asr_exp.model, temperature, settings.lm_files(), decoding, [asr_exp.table], asr_exp.archive)
    print(f"  {asr_exp.archive}, which plain ESPnet decodes by {method}", flush=True)
    attention = settings.espnet.decoder_conf.get("att_conf", {}).get("atype", "")
    if "coverage" in str(attention):
        print("  its beam search gives all hypotheses one coverage, so that its error rates may be higher", flush=True)


def _upload(recipe: Recipe) -> None:
    asr_exp, result = recipe.settings.asr_exp(), _scored(recipe)
    repository = check_hub(str(recipe.given.options.hf_repo))
    results = asr_exp.table.read_text(encoding="utf-8")
    card = model_card(repository, result, _plain_method(recipe, result), results)
    print(f"  {upload(asr_exp.archive, card, repository)}", flush=True)


STAGES: dict[int, Stage] = {
    1: Stage(needs=(), makes=_downloads, run=_download, skips_itself=True),
    2: Stage(
        needs=(),
        makes=lambda recipe: [recipe.paths.data.about_file(name) for name in recipe.given.options.prepared],
        run=_prepare,
    ),
    3: Stage(
        needs=(2,),
        makes=lambda recipe: [recipe.paths.data.token_list],
        run=lambda recipe: preparation.make_dictionary(
            recipe.train / "text", recipe.paths.data, recipe.given.options.nbpe
        ),
    ),
    4: Stage(
        needs=(2, 3),
        makes=lambda recipe: [recipe.settings.stats_dir / training.DONE],
        run=lambda recipe: training.collect_statistics(
            recipe.asr_train,
            recipe.dev,
            recipe.paths.data,
            recipe.settings.stats_dir,
            recipe.settings.model_arguments(),
            recipe.settings.statistics,
            recipe.given.options.nj,
        ),
    ),
    5: Stage(
        needs=(1, 2, 3),
        makes=lambda recipe: [recipe.settings.lm_exp() / training.DONE] if recipe.given.options.has_lm else [],
        run=_language_model,
    ),
    6: Stage(
        needs=(2, 3, 4),
        makes=lambda recipe: [recipe.settings.asr_exp().training],
        run=lambda recipe: training.train_model(
            recipe.asr_train,
            recipe.dev,
            recipe.paths.data,
            recipe.settings.stats_dir,
            recipe.settings.asr_exp(),
            recipe.settings.model_arguments(),
            recipe.settings.espnet.normalize == "global_mvn",
            recipe.device,
        ),
        is_of_run=True,
    ),
    7: Stage(
        needs=(1, 2, 3, 5, 6),
        makes=lambda recipe: [recipe.settings.asr_exp().calibration],
        run=_decode,
        skips_itself=True,
        is_of_run=True,
    ),
    8: Stage(
        needs=(1, 2, 3, 5, 6, 7),
        makes=lambda recipe: [recipe.settings.asr_exp().result],
        run=_score,
        skips_itself=True,
        is_of_run=True,
    ),
    9: Stage(
        needs=(1, 2, 3, 5, 6, 7, 8),
        makes=lambda recipe: [recipe.settings.asr_exp().archive],
        run=_pack,
        skips_itself=True,
        is_of_run=True,
    ),
    10: Stage(needs=(1, 2, 3, 5, 6, 7, 8, 9), makes=lambda recipe: [], run=_upload, skips_itself=True, is_of_run=True),
}
"""Number -> stage; their names are :data:`sqloss_plugins.espnet.recipe.options.STAGE_NAMES`."""


def check_needs(recipe: Recipe, numbers: Sequence[int]) -> None:
    """Refuses to begin before the stages that are needed, and not asked for, are through.

    Raises:
        UserError: with the first file that is missing.
    """
    for need in sorted({need for number in numbers for need in STAGES[number].needs} - set(numbers)):
        for path in STAGES[need].makes(recipe):
            if not path.exists():
                raise UserError(
                    f"{path} is missing, which stage {need} ({STAGE_NAMES[need - 1]}) makes: begin with --stage {need}"
                )


def _run_stage(recipe: Recipe, number: int) -> None:
    stage = STAGES[number]
    print(f"stage {number}: {STAGE_NAMES[number - 1]}{' (MINI)' if recipe.given.options.mini else ''}", flush=True)
    made = stage.makes(recipe)
    if made and not stage.skips_itself and all(path.exists() for path in made):
        for path in made:
            print(f"  done before, in {path.parent}", flush=True)
        return
    stage.run(recipe)
    for path in made:
        if path.name == training.DONE:
            path.touch()


def _check_data(recipe: Recipe) -> None:
    """What can be told when the data are prepared."""
    options, data, settings = recipe.given.options, recipe.paths.data, recipe.settings
    fingerprint = data.fingerprint([options.train_set, options.dev_set])
    check_made_of(data.root, fingerprint, [data.token_list.name])
    sample_rate = recipe.given.definition.corpus.sample_rate
    preparation.check_lengths(options.prepared, options.tests, data, settings.fewest_samples, sample_rate)


def _check_language_model(recipe: Recipe) -> None:
    settings = recipe.settings
    if settings.language_model is not None:
        training.check_language_model(settings.lm_exp(), settings.of_language_model())


def _check_for_ctc(recipe: Recipe) -> None:
    options, settings = recipe.given.options, recipe.settings
    if settings.ctc_weight > 0 and settings.subsampling and not settings.asr_exp().training.is_file():
        check_for_ctc(
            options.asr_train_set, options.dev_set, recipe.paths.data, settings.subsampling, settings.espnet.ctc_conf
        )


def _banner(recipe: Recipe) -> None:
    options, settings, rescaling = recipe.given.options, recipe.settings, recipe.settings.rescaling()
    loss = f"{options.loss}, {rescaling}; {settings.initial_loss(rescaling)}" if rescaling else options.loss
    for name, text in (
        ("task", f"{recipe.given.definition.task}{'   *** MINI DATA: not the real task ***' if options.mini else ''}"),
        ("model", f"{options.arch} ({recipe.given.config('asr')}), {len(recipe.paths.data.tokens)} tokens"),
        ("loss", loss),
        ("training", f"{settings.espnet.max_epoch} epochs, lr {settings.learning_rate:g}, seed {options.seed}"),
        ("folder", str(settings.asr_exp().root)),
    ):
        print(f"  {name:9s} {text}", flush=True)


@contextmanager
def _claimed_run(recipe: Recipe, numbers: Sequence[int]) -> Iterator[None]:
    """The run's folder, for this process alone, if it is this command line's."""
    asr_exp, settings = recipe.settings.asr_exp(), recipe.settings
    option = "--asr_exp" if recipe.given.options.asr_exp else "--tag"
    with lock_folder(asr_exp.root):
        kept = ("checkpoint.pth", asr_exp.result.name, asr_exp.training.name)
        claim_folder(asr_exp.root, settings.of_run(), kept, option)
        if max(numbers) >= 7:
            # Before the training: hypotheses of other settings, or other data, are not mixed with this command line's.
            _check_language_model(recipe)
            decoding = "--inference_tag"
            claim_folder(asr_exp.decode, settings.of_decoding(), ("*/*/text", "*/*/part*"), decoding)
            data = recipe.paths.data
            for name in recipe.given.options.tests:
                made = ("*/text", "*/part*", OUTPUTS_NAME)
                check_made_of(asr_exp.decode / name, data.about(name)["fingerprint"], made)
        yield


def run_recipe(given: CommandLine) -> None:
    """Does what the command line says.

    Raises:
        UserError: for every mistake of the user's.
    """
    versions()  # of the code that begins, whatever becomes of the checkout in the meantime
    logging.basicConfig(level=logging.ERROR)  # what ESPnet says of itself is in the logs of its processes
    paths = Paths(given)
    recipe = Recipe(given, paths, Settings(given, paths))
    numbers = range(given.options.stage, given.options.stop_stage + 1)
    of_data = [number for number in numbers if not STAGES[number].is_of_run]
    of_run = [number for number in numbers if STAGES[number].is_of_run]
    check_needs(recipe, numbers)
    # The data may serve several runs: the second waits for the first to make it.
    with lock_folder(paths.data.root, wait=True) if of_data else nullcontext():
        claim_folder(paths.data.root, recipe.settings.of_data(), ("*/subset.json",), option="--workdir")
        preparation.check_prepared(given.definition.corpus, given.options.subsets, paths.data)
        for number in of_data:
            if number == 5:
                _check_language_model(recipe)
            _run_stage(recipe, number)
            if number == 2:
                _check_data(recipe)
            if number == 3 and 6 in numbers:
                _check_for_ctc(recipe)
    if not of_run:
        return
    _check_data(recipe)
    if 6 in numbers and 3 not in numbers:
        _check_for_ctc(recipe)
    with _claimed_run(recipe, of_run):
        _banner(recipe)
        for number in of_run:
            _run_stage(recipe, number)

"""Trains a small causal language model on text files with the square loss, cross-entropy or squentropy.

    python -m sqloss_plugins.hf.language_model --mini
    python -m sqloss_plugins.hf.language_model --train_file text.txt --loss cross_entropy --learning_rate 3e-3
    python -m sqloss_plugins.hf.language_model --train_file text.txt --model_name_or_path gpt2
    python -m sqloss_plugins.hf.language_model settings.yaml

From scratch: a GPT-2 of the given size, and a byte-level BPE trained on the training text. With --model_name_or_path:
that model and its tokenizer. Takes the options below and all of transformers.TrainingArguments.
A run that was killed goes on where it was when the same command is run again; a run that is finished is not repeated.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    GPT2Config,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from sqloss_plugins.data.text import TextData, load_files, load_mini
from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.hf.hub import check_tokenizer, reach_hub
from sqloss_plugins.hf.options import RunArguments, check_at_least, check_options, parse_options, training_line
from sqloss_plugins.hf.run_folder import (
    Run,
    check_space,
    earlier_progress,
    one_voice,
    print_banner,
    rehearse,
    run_once,
    train,
    trainer_refusals,
)
from sqloss_plugins.hf.trainer import SquareLossTrainer
from sqloss_plugins.paper import RULES, Rescaling
from sqloss_plugins.probability import SCALES, log_probabilities
from sqloss_plugins.results import Result, markdown_table, write_result

TASK = "language_model"
PROGRAM = TASK
_ASIDE = ("train_file", "validation_file", "test_file", "model_name_or_path", "rescaling")
_SAME_WHEN_RESUMED = ("task", "loss", "k", "M", "model", "vocab_size", "block_size", "data_fingerprint")
_NEW_MODEL = {"vocab_size": 1024, "hidden_size": 128, "num_layers": 4, "num_heads": 4}
_ALPHABET = 256
_MINI = "MINI DATA: Python's own reference, and no benchmark"


@dataclass
class LanguageModelArguments(RunArguments):
    """What to train, on what."""

    rescaling: str | None = field(
        default=None,
        metadata={
            "help": "Square loss: rule for k and M, by the size of the vocabulary: the paper's, or level (k = 15, "
            "M = sqrt(C ln C / 15)). Default: paper.",
            "choices": list(RULES),
        },
    )
    train_file: str | None = field(default=None, metadata={"help": "Text to train on, UTF-8."})
    validation_file: str | None = field(
        default=None, metadata={"help": "Text to validate on. By default a tenth of the training text is held out."}
    )
    test_file: str | None = field(
        default=None, metadata={"help": "Text to test on. By default a tenth of the training text is held out."}
    )
    mini: bool = field(
        default=False, metadata={"help": "Use the embedded text, Python's own reference: no benchmark of anything."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Causal language model to fine-tune, a name on the hub or a folder; by default a new GPT-2."},
    )
    # These have no defaults with --model_name_or_path; without it, _NEW_MODEL's.
    vocab_size: int | None = field(
        default=None, metadata={"help": f"New model: tokens of its BPE. Default {_NEW_MODEL['vocab_size']}."}
    )
    hidden_size: int | None = field(
        default=None, metadata={"help": f"New model: its width. Default {_NEW_MODEL['hidden_size']}."}
    )
    num_layers: int | None = field(
        default=None, metadata={"help": f"New model: its layers. Default {_NEW_MODEL['num_layers']}."}
    )
    num_heads: int | None = field(
        default=None, metadata={"help": f"New model: heads of a layer. Default {_NEW_MODEL['num_heads']}."}
    )
    without_logits: bool | None = field(
        default=None,
        metadata={
            "help": "Square loss: train the output layer without building its outputs, unless that is faster or, in float32 "
            "with k below 12, more precise. Default: true for a new model."
        },
    )
    block_size: int = field(default=128, metadata={"help": "Tokens of an example; the text is cut into such blocks."})


@dataclass(frozen=True, kw_only=True)
class _Run(Run):
    args: LanguageModelArguments
    data: TextData
    num_classes: int

    @property
    def score(self) -> str:
        """How outputs become probabilities: by the link where the loss was the square loss."""
        return "link" if self.rescaling else "softmax"


def parse(argv: Sequence[str]) -> tuple[LanguageModelArguments, TrainingArguments]:
    """The command line, or the YAML or JSON file that it names, as two data classes.

    Raises:
        UserError: an option that does not exist, or has a value that it cannot have.
    """
    args, training = parse_options(
        argv,
        LanguageModelArguments,
        _defaults,
        prog=PROGRAM,
        usage="python -m sqloss_plugins.hf.language_model [options]",
        description=__doc__,
    )
    _check(args, training)
    if args.without_logits is None:
        args.without_logits = args.loss == "square" and args.model_name_or_path is None
    if args.model_name_or_path is None:
        for name, value in _NEW_MODEL.items():
            if getattr(args, name) is None:
                setattr(args, name, value)
    return args, training


def _defaults(args: LanguageModelArguments) -> dict[str, Any]:
    is_new = args.model_name_or_path is None
    return {
        "learning_rate": 3e-3 if is_new else 5e-5,
        "num_train_epochs": 10.0 if is_new else 3.0,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 32,
        "warmup_steps": 0.1 if is_new else 0,
        "metric_for_best_model": "perplexity" if args.stops_early else None,
        "greater_is_better": False if args.stops_early else None,
    }


def _check(args: LanguageModelArguments, training: TrainingArguments) -> None:
    """Refuses what cannot work before anything is loaded."""
    check_options(args, training, "a language model", ["perplexity"], greater_is_better=False)
    if args.rescaling and args.loss != "square":
        raise UserError(f"--rescaling is of the square loss, and --loss is {args.loss}: leave it out")
    if args.rescaling and args.k is not None and args.M is not None:
        raise UserError("--rescaling chooses k and M, and both are given: leave it out")
    check_at_least(2, args, "block_size")
    check_at_least(1, args, "hidden_size", "num_layers", "num_heads")
    check_at_least(_ALPHABET, args, "vocab_size")
    for name in _NEW_MODEL:
        if args.model_name_or_path is not None and getattr(args, name) is not None:
            raise UserError(f"--{name} is of a new model, and --model_name_or_path names one: leave it out")
    width, heads = (getattr(args, name) or _NEW_MODEL[name] for name in ("hidden_size", "num_heads"))
    if width % heads:
        raise UserError(f"--hidden_size must be a multiple of --num_heads, got {width} and {heads}")
    files = {name: getattr(args, name) for name in ("train_file", "validation_file", "test_file")}
    for name, file in files.items():
        if file is not None and args.mini:
            raise UserError(f"--mini and --{name} exclude each other: the embedded text or your own")
        if file is not None and args.train_file is None:
            raise UserError(f"--{name} needs --train_file beside it")


def _prepare(args: LanguageModelArguments, training: TrainingArguments) -> _Run:
    """Finds the text and the model, says what is used, and settles the folder."""
    if args.train_file is None and not args.mini:
        print(
            "*** No --train_file: using the embedded MINI text, Python's own reference, which is no benchmark. ***",
            flush=True,
        )
    files = (args.validation_file, args.test_file)
    data = load_mini() if args.train_file is None else load_files(args.train_file, *files)
    arch, num_classes = _find_model(args, training)
    rescaled = None
    if args.loss == "square":
        rescaled = RULES[args.rescaling or "paper"](num_classes).overridden(args.k, args.M)
    return _Run(
        task=TASK,
        arch=arch,
        args=args,
        training=training,
        data=data,
        rescaling=rescaled,
        num_classes=num_classes,
    )


def _find_model(args: LanguageModelArguments, training: TrainingArguments) -> tuple[str, int]:
    """The model's short name, and how many classes its outputs have."""
    path = args.model_name_or_path
    reachable = True
    if training.push_to_hub or not (path is None or Path(path).is_dir()):
        reachable = reach_hub(training.push_to_hub)
    if path is None:
        assert args.vocab_size is not None
        return f"gpt2-{args.num_layers}x{args.hidden_size}", args.vocab_size
    try:
        config = AutoConfig.from_pretrained(path, **args.hub)
        num_classes = int(config.get_text_config().vocab_size)
    except (OSError, ValueError, AttributeError) as error:
        hint = "" if reachable else ", and the hub cannot be reached"
        raise UserError(
            f"--model_name_or_path {path} is neither a language model's folder nor a model on the hub{hint}"
        ) from error
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and args.block_size > longest:
        raise UserError(f"--block_size {args.block_size} is more than the {longest} tokens that the model takes")
    return Path(path).resolve().name, num_classes


def _banner(run: _Run) -> None:
    """Says what is about to run."""
    data, args = run.data, run.args
    origin = "fine-tuned" if args.model_name_or_path else f"new, {args.num_heads} heads"
    print_banner(
        [
            ("task", f"{TASK}{f'   *** {_MINI} ***' if data.mini else ''}"),
            ("data", f"{', '.join(f'{n} {split}' for split, n in data.sizes.items())} characters ({data.source})"),
            *(("", note) for note in data.notes),
            ("model", f"{run.arch} ({origin}, {run.num_classes} tokens)"),
            ("loss", f"square, {run.rescaling}" if run.rescaling else args.loss),
            ("training", f"{training_line(args, run.training)}, blocks of {args.block_size} tokens"),
            *([] if run.training.do_train else [("", "NO TRAINING: the model is scored as it is")]),
            ("folder", str(run.folder)),
        ]
    )


def train_tokenizer(text: str, vocab_size: int, show_progress: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's, without special tokens.

    Raises:
        UserError: the text does not support so many tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise UserError(
            f"--vocab_size {vocab_size} is more than the training text supports: at most {tokenizer.get_vocab_size()}"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _load(run: _Run, path: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, from a folder or the hub or, without a path, a new one; and its tokenizer."""
    args = run.args
    own = args.model_name_or_path
    if own is None:
        assert args.vocab_size is not None
        tokenizer = train_tokenizer(run.data.splits["train"], args.vocab_size, not run.training.disable_tqdm)
    try:
        if own is not None:
            tokenizer = AutoTokenizer.from_pretrained(own, **args.hub)
        if path is None:
            config = GPT2Config(
                vocab_size=args.vocab_size,
                n_positions=args.block_size,
                n_embd=args.hidden_size,
                n_layer=args.num_layers,
                n_head=args.num_heads,
                bos_token_id=None,
                eos_token_id=None,
            )
            return AutoModelForCausalLM.from_config(config), tokenizer
        # In 16 bits, which the file may have, small steps are lost; --bf16 trains mixed.
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **args.hub)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise UserError(f"{path} cannot be loaded as a language model: {' '.join(str(error).split())}") from error
    check_tokenizer(tokenizer, str(own or path), model, "save the model's there")
    if own is not None and not _is_causal(model):
        raise UserError(f"{path} is no causal language model: its outputs depend on the tokens that follow")
    return model, tokenizer


@torch.no_grad()
def _is_causal(model: PreTrainedModel) -> bool:
    """Whether what follows leaves a model's outputs alone: of BERT, too, the libraries make a "causal" model."""
    model.eval()
    one, other = model(input_ids=torch.tensor([[0, 1], [0, 2]])).logits[:, 0]
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def _blocks(run: _Run, split: str, tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int64]:
    """A split's tokens, cut into blocks, of shape (blocks, block_size); what is left over at the end is dropped.

    Raises:
        UserError: the text is shorter than one block.
    """
    size = run.args.block_size

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        ids = tokenizer(batch["text"], add_special_tokens=False, verbose=False)["input_ids"]
        return {"ids": list(chain.from_iterable(ids))}

    lines = Dataset.from_dict({"text": run.data.splits[split].splitlines(keepends=True)})
    tokenized = lines.map(tokenize, batched=True, remove_columns="text") if len(lines) else None
    ids = tokenized.with_format("numpy")[:]["ids"] if tokenized else np.zeros(0, np.int64)
    if len(ids) < size:
        raise UserError(
            f"the {split} text has {len(ids)} tokens, less than one block of {size}: give more text, or a smaller "
            "--block_size"
        )
    return ids[: len(ids) // size * size].reshape(-1, size)


def unigram_perplexity(train: NDArray[np.int64], held_out: NDArray[np.int64], num_classes: int) -> float:
    """What knowing each token's frequency alone gives: the baseline that a language model has to beat.

    Args:
        train: blocks, of shape (blocks, block_size), whose tokens are counted, each once more than it occurs.
        held_out: blocks whose tokens but the first of each are predicted.
        num_classes: the size of the vocabulary.
    """
    counts = np.bincount(train.ravel(), minlength=num_classes) + 1
    return float(np.exp(-np.log(counts / counts.sum())[held_out[:, 1:]].mean()))


class _Sums:
    """What evaluation keeps of the outputs: a few sums over each block, rather than an output for every word.

    Called by the Trainer with outputs, of shape (blocks, block_size, C), and labels, of shape (blocks, block_size);
    returns, of shape (blocks, 2 + scales), how many tokens are right, the negative log-likelihood of the true ones in
    nats, and the same by softmax(s f) for each scale s in ``scales``.
    """

    def __init__(self, score: str, rescaling: Rescaling | None) -> None:
        self.score = score
        self.k, self.M = (rescaling.k, rescaling.M) if rescaling else (1.0, 1.0)
        self.scales: Sequence[float] = ()

    def __call__(self, outputs: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        logits = outputs[0] if isinstance(outputs, tuple) else outputs  # some models return more than their logits
        # One block after the other: a copy of all outputs for each score would be large.
        return torch.stack([self._block(f.float(), y) for f, y in zip(logits[:, :-1], labels[:, 1:], strict=True)])

    def _block(self, outputs: Tensor, targets: Tensor) -> Tensor:
        def nll(score: str, scale: float = 1.0) -> Tensor:
            logs = log_probabilities(outputs, score, k=self.k, M=self.M, scale=scale)
            return -logs.gather(1, targets[:, None]).sum()

        right = (outputs.argmax(1) == targets).sum().float()
        return torch.stack([right, nll(self.score), *(nll("scale", scale) for scale in self.scales)])


def _means(sums: NDArray[np.float32], block_size: int) -> NDArray[np.float64]:
    """Of the sums of all blocks, per predicted token: all of a block's but the first."""
    means: NDArray[np.float64] = sums.astype(np.float64).mean(axis=0) / (block_size - 1)
    return means


def _perplexity(nll: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(nll))


def _train(run: _Run, settings: dict[str, Any]) -> Result:
    """Trains, scores, and writes everything that the run leaves behind."""
    args, training = run.args, run.training
    _banner(run)
    set_seed(training.seed)
    progress = earlier_progress(run.folder) if training.do_train else None
    finished = progress is not None and progress.is_finished
    model, tokenizer = _load(run, str(progress.best) if progress and finished else args.model_name_or_path)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    check_space(training, parameters)
    blocks = {split: _blocks(run, split, tokenizer) for split in run.data.splits}
    datasets = {split: Dataset.from_dict({"input_ids": ids, "labels": ids}) for split, ids in blocks.items()}
    tokens = {split: ids.size for split, ids in blocks.items()}
    baseline = {
        split: unigram_perplexity(blocks["train"], blocks[split], run.num_classes) for split in ("validation", "test")
    }
    print_banner(
        [
            ("tokens", f"{', '.join(f'{n} {split}' for split, n in tokens.items())}; {parameters} parameters"),
            ("unigram", f"perplexity {', '.join(f'{value:.1f} {split}' for split, value in baseline.items())}"),
        ]
    )
    sums = _Sums(run.score, run.rescaling)

    def compute_metrics(prediction: Any) -> dict[str, float]:
        right, nll = _means(prediction.predictions, args.block_size)[:2]
        return {"perplexity": _perplexity(nll), "accuracy": right, "nll": nll}

    if not training.do_train:  # then there is nothing to select
        training.load_best_model_at_end = False
    with trainer_refusals():
        trainer = SquareLossTrainer(
            model=model,
            args=training,
            train_dataset=datasets["train"],
            eval_dataset=datasets["validation"],
            processing_class=tokenizer,
            data_collator=default_data_collator,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=sums,
            callbacks=[EarlyStoppingCallback(args.patience)] if training.load_best_model_at_end else None,
            loss=args.loss,
            k=run.k,
            M=run.M,
            shift_labels=True,  # whatever the model's own loss does, labels here are the inputs
            without_logits=bool(args.without_logits),
        )
        if trainer.compute_loss_func.head is not None:
            trainer.compute_loss_func.head.try_out(model, input_ids=torch.tensor(blocks["train"][:1]))
        rehearse(trainer)

    start = time.monotonic()
    metrics: dict[str, dict[str, float]] = {}
    epochs = 0.0
    if training.do_train:
        epochs, metrics = train(trainer, progress)
    best: int | None = None
    sums.scales = SCALES
    for split, wanted in (("validation", training.do_eval), ("test", training.do_predict)):
        if not wanted:
            continue
        predicted = trainer.predict(datasets[split], metric_key_prefix=split)
        by_scale = _means(predicted.predictions, args.block_size)[2:]
        names = ("loss", "perplexity", "accuracy", "nll")
        metrics[split] = {name: float(predicted.metrics[f"{split}_{name}"]) for name in names}
        if not np.isfinite(metrics[split]["nll"]):
            print(
                f"WARNING: not all outputs on {split} are finite: training diverged. Lower --learning_rate.", flush=True
            )
        elif split == "validation":
            best = int(by_scale.argmin())
            metrics[split]["scale"] = SCALES[best]
        if best is not None:
            metrics[split]["perplexity scale"] = _perplexity(by_scale[best])
    result = run.result(
        data={"tokens": tokens, "unigram_perplexity": baseline},
        epochs=epochs,
        hyperparameters=settings,
        parameters=parameters,
        wall_time_s=time.monotonic() - start,
        resumed=progress is not None or bool(training.resume_from_checkpoint),
        metrics=metrics,
    )
    if trainer.is_world_process_zero():
        write_result(run.folder, result, {})
    return result


def _print_result(folder: Path, result: Result) -> None:
    score = "softmax" if result.k is None else "link"
    rows = [["split", "accuracy %", "NLL", f"perplexity ({score})", "perplexity (scale)", "perplexity (unigram)"]]
    for split, values in result.metrics.items():
        if split != "train":
            scaled = values.get("perplexity scale")
            rows.append(
                [
                    split,
                    f"{100 * values['accuracy']:.2f}",
                    f"{values['nll']:.4f}",
                    f"{values['perplexity']:.2f}",
                    "-" if scaled is None else f"{scaled:.2f}",
                    f"{result.data['unigram_perplexity'][split]:.2f}",
                ]
            )
    print(f"\n{TASK}{f' ({_MINI})' if result.mini else ''}, {result.loss}, seed {result.seed}:\n")
    print(markdown_table(rows))
    scale = result.metrics.get("validation", {}).get("scale")
    if scale is not None:
        print(f"\nscale: softmax({scale:.3g} f), which fits the validation text best.")
    print(f"Trained {result.epochs:g} epochs in {result.wall_time_s:.0f} s on {result.device}.")
    print(f"Everything is in {folder}.", flush=True)


def run_language_model(argv: Sequence[str]) -> None:
    """Does what the module says, for a command line.

    Raises:
        UserError: for every mistake of the user's, before training begins.
    """
    args, training = parse(argv)
    with one_voice(training):
        run = _prepare(args, training)
        settings = run.settings(_ASIDE, model=args.model_name_or_path or run.arch)
        run_once(training, settings, _SAME_WHEN_RESUMED, lambda: _train(run, settings), _print_result)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``python -m sqloss_plugins.hf.language_model``; returns the exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return run_command(PROGRAM, lambda: run_language_model(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    raise SystemExit(main())

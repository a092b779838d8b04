"""How many images a second `sqloss images` trains on, beside timm's own script and with the square loss beside CE.

    git clone --depth 1 https://github.com/huggingface/pytorch-image-models
    python -m benchmarks.image_training --timm-script pytorch-image-models/train.py \
        --json benchmarks/results/image_training_cpu.json

First whole trainings, each in a process of its own: timm's train.py (Apache 2.0; it is run as it is, with the installed
timm) and `sqloss images` with both losses, on the same JPEG images, with the same model, batch, precision, optimiser,
worker processes and transforms (a random piece brought to size, and mirrored or not). Counted are the steps of the
second epoch, from the end of its first step on: wall time, and processor time of the process and its workers together,
which on a CPU says more where others use the machine as well. Without --timm-script it is `sqloss images` alone.

Then training steps of the paper's architectures, forward, loss, backward and optimiser, with both losses in turn in one
process, in processor time. On a CPU they are smaller than the paper's.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import random
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import timm
import torch
from PIL import Image
from transformers import TrainerCallback

from benchmarks.measure import in_words, make_parser, prepare, save, side_by_side
from sqloss_plugins.hf.trainer_loss import TrainerLoss
from sqloss_plugins.models.temporal_convolution import (
    TemporalConvolutionConfig,
    TemporalConvolutionForImageClassification,
)
from sqloss_plugins.models.wide_resnet import WideResnetConfig, WideResnetForImageClassification
from sqloss_plugins.paper import choose_rescaling
from sqloss_plugins.results import device_name, markdown_table, versions

MODELS = ("resnet18", "vit_tiny_patch16_224")
LOSSES = ("cross_entropy", "square")
CLASSES, PIXELS = 4, 256  # of the images on disk
EPOCHS = 2


@dataclass(frozen=True)
class Setting:
    """What all trainings of a comparison have in common.

    Attributes:
        model: a name of timm's.
        size: height and width of the images that it is given.
        batch: images of a step.
        steps: steps of an epoch.
        workers: processes that read images.
        threads: CPU threads of the training process.
        dtype: float32, or bfloat16 for mixed precision.
        device: cpu or cuda.
        folder: where the images are, and where the trainings write.
    """

    model: str
    size: int
    batch: int
    steps: int
    workers: int
    threads: int
    dtype: str
    device: str
    folder: Path


@dataclass
class Clock:
    """Times of the ends of steps, of the last epoch that there was."""

    wall: list[float]
    processor: list[float]

    def begin_epoch(self) -> None:
        """Forgets the epoch before."""
        self.wall, self.processor = [], []

    def end_step(self) -> None:
        """A step is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        # The system counts a process's time in ticks of some 10 ms, and its own to the nanosecond.
        times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
        self.processor.append(time.process_time() + sum(spent.user + spent.system for spent in times))
        self.wall.append(time.perf_counter())

    def seconds(self, setting: Setting) -> tuple[float, float]:
        """Wall and processor time of an image.

        Raises:
            RuntimeError: not all steps were seen.
        """
        if len(self.wall) != setting.steps:
            raise RuntimeError(f"{len(self.wall)} steps were seen in the last epoch, and there are {setting.steps}")
        images = (setting.steps - 1) * setting.batch
        return (self.wall[-1] - self.wall[0]) / images, (self.processor[-1] - self.processor[0]) / images


def train_with_timm(setting: Setting, script: Path) -> tuple[float, float]:
    """Seconds an image of timm's train.py, which logs the end of every step; wall and processor time."""
    clock = Clock([], [])

    class OfSteps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            words = record.getMessage().replace("[", " ").replace("/", " ").split()
            if words[:1] == ["Train:"]:
                if words[2] == "0":
                    clock.begin_epoch()
                clock.end_step()

    log = logging.getLogger("train")
    log.setLevel(logging.INFO)
    log.addHandler(OfSteps())
    options = {
        "--data-dir": setting.folder,
        "--val-split": "",
        "--model": setting.model,
        "--num-classes": CLASSES,
        "--img-size": setting.size,
        "--batch-size": setting.batch,
        "--epochs": EPOCHS,
        "--device": setting.device,
        "--workers": setting.workers,
        "--opt": "sgd",
        "--momentum": 0.9,
        "--weight-decay": 0,
        "--sched": "step",
        "--lr": 0.01,
        "--warmup-epochs": 0,
        "--color-jitter": 0,
        "--smoothing": 0,
        "--train-interpolation": "bicubic",
        "--log-interval": 1,
        "--output": setting.folder / "timm",
    }
    sys.argv = [str(script), *(str(word) for pair in options.items() for word in pair)]
    if setting.dtype == "bfloat16":
        sys.argv += ["--amp", "--amp-dtype", "bfloat16"]
    known = timm.get_pretrained_cfg(setting.model)
    if known is not None and known.fixed_input_size:
        sys.argv += ["--model-kwargs", f"img_size={setting.size}"]
    runpy.run_path(str(script), {"__file__": str(script)}, "__main__")
    return clock.seconds(setting)


def train_with_trainer(setting: Setting, loss: str) -> tuple[float, float]:
    """Seconds an image of `sqloss images`; wall and processor time."""
    from transformers import trainer

    from sqloss_plugins.hf.tasks.images import main as sqloss_images

    clock = Clock([], [])

    class OfSteps(TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            clock.begin_epoch()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.end_step()

    trainer.DEFAULT_CALLBACKS.append(OfSteps)
    options = {
        "--train_dir": setting.folder / "train",
        "--validation_dir": setting.folder / "validation",
        "--cache_dir": setting.folder / "cache",
        "--arch": setting.model,
        "--image_size": setting.size,
        "--augmentation": "resized_crop",
        "--loss": loss,
        "--protocol": "same_epochs",
        "--num_train_epochs": EPOCHS,
        "--per_device_train_batch_size": setting.batch,
        "--dataloader_num_workers": setting.workers,
        "--dataloader_persistent_workers": setting.workers > 0,
        "--optim": "sgd",
        "--optim_args": "momentum=0.9,nesterov=True",
        "--max_grad_norm": 0,
        "--learning_rate": 0.01,
        "--lr_scheduler_type": "constant",
        "--use_cpu": setting.device == "cpu",
        "--bf16": setting.dtype == "bfloat16",
        "--disable_tqdm": True,
        "--output_dir": tempfile.mkdtemp(dir=setting.folder),
    }
    status = sqloss_images([str(word) for pair in options.items() for word in pair])
    if status:
        raise RuntimeError(f"sqloss images ended with status {status}")
    return clock.seconds(setting)


def _quietly(train: Callable[..., tuple[float, float]], setting: Setting, how: Any) -> tuple[float, float]:
    """One training, in a process of its own; what it prints is shown where it fails."""
    torch.set_num_threads(setting.threads)
    log = setting.folder / "log.txt"
    try:
        with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            return train(setting, how)
    except BaseException:
        print(log.read_text(), file=sys.stderr)
        raise


def alone(train: Callable[..., tuple[float, float]], setting: Setting, how: Any) -> tuple[float, float]:
    """One training, in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_quietly, train, setting, how).result()


def make_images(folder: Path, count: int) -> None:
    """JPEG images of smooth noise, ``count`` for training and one of each class for validation."""
    drawn = np.random.default_rng(0)
    for split, images in (("train", count), ("validation", CLASSES)):
        for number in range(images):
            path = folder / split / f"class{number % CLASSES}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = drawn.integers(0, 256, (PIXELS // 8, PIXELS // 8, 3), dtype=np.uint8)
            Image.fromarray(values).resize((PIXELS, PIXELS)).save(path)


def measure_trainings(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Every training in every round, in a new order each time."""
    make_images(folder, args.steps * args.batch)
    trainings: dict[str, tuple[Callable[..., tuple[float, float]], Any]] = {
        f"sqloss images, {loss}": (train_with_trainer, loss) for loss in LOSSES
    }
    if args.timm_script is not None:
        trainings = {"timm train.py": (train_with_timm, args.timm_script.resolve()), **trainings}
    first = next(iter(trainings))
    rows: list[dict[str, Any]] = []
    for model in args.models:
        setting = Setting(
            model, args.size, args.batch, args.steps, args.workers, args.threads, args.dtype, args.device, folder
        )
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in trainings}
        shuffled = random.Random(0)
        for number in range(args.rounds):
            print(f"\r{model}: round {number + 1} of {args.rounds}", end="", file=sys.stderr, flush=True)
            for name in shuffled.sample(list(trainings), len(trainings)):
                found[name].append(alone(trainings[name][0], setting, trainings[name][1]))
        print("\r" + " " * 70 + "\r", end="", file=sys.stderr)
        for name, times in found.items():
            beside = zip(times, found[first], strict=True)
            ratios = [(own[0] / other[0], own[1] / other[1]) for own, other in beside]
            row: dict[str, Any] = {"model": model, "training": name, "times": times}
            row["images_per_s"] = 1 / statistics.median(wall for wall, _ in times)
            row["processor_ms"] = 1000 * statistics.median(processor for _, processor in times)
            row["wall_ratio"] = statistics.median(wall for wall, _ in ratios)
            row["processor_ratio"] = statistics.median(processor for _, processor in ratios)
            rows.append(row)
    return rows


@dataclass(frozen=True)
class Case:
    """An architecture, and what a step of it reads.

    Attributes:
        make: the model, for a number of classes.
        shape: of a batch of images.
        classes: how many.
    """

    make: Callable[[int], torch.nn.Module]
    shape: tuple[int, int, int, int]
    classes: int


def _timm(name: str, **options: Any) -> Callable[[int], torch.nn.Module]:
    return lambda classes: timm.create_model(name, num_classes=classes, **options)


CASES: dict[str, Case] = {
    "tcnn": Case(
        lambda classes: TemporalConvolutionForImageClassification(TemporalConvolutionConfig(num_labels=classes)),
        (64, 1, 28, 28),
        10,
    ),
    "wide_resnet-28-2": Case(
        lambda classes: WideResnetForImageClassification(WideResnetConfig(widen_factor=2, num_labels=classes)),
        (32, 3, 32, 32),
        10,
    ),
    "vit (ti/16)": Case(_timm("vit_tiny_patch16_224", img_size=96), (32, 3, 96, 96), 10),
    "resnet50": Case(_timm("resnet50"), (8, 3, 128, 128), 1000),
    "efficientnet (b0)": Case(_timm("efficientnet_b0"), (16, 3, 96, 96), 1000),
}
"""The paper's architectures -> at sizes that a CPU takes about a second for."""


class Training:
    """Steps of a model with a loss, on the same batch again and again."""

    def __init__(self, case: Case, loss: str, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.model = case.make(case.classes).to(args.device).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6, momentum=0.9)
        found = choose_rescaling(case.classes)
        self.loss = TrainerLoss(loss, k=found.k, M=found.M) if loss == "square" else TrainerLoss(loss)
        self.images = torch.randn(case.shape, device=args.device)
        self.labels = torch.arange(case.shape[0], device=args.device) % case.classes
        self.device, self.dtype = args.device, args.dtype

    def __call__(self) -> None:
        """A step."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            outputs = self.model(self.images)
        logits = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
        self.loss((logits,), self.labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def measure_steps(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every architecture with both losses, side by side."""
    rows: list[dict[str, Any]] = []
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    for name, case in CASES.items():
        runs = {loss: Training(case, loss, args) for loss in LOSSES}
        times = side_by_side(runs, args.step_rounds, args.device, name, clock)
        pairs = zip(times["square"], times["cross_entropy"], strict=True)
        ratios = sorted(square / cross_entropy for square, cross_entropy in pairs)
        rows.append(
            {
                "arch": name,
                "batch": case.shape[0],
                "size": case.shape[-1],
                "classes": case.classes,
                "parameters": sum(p.numel() for p in runs["square"].model.parameters()),
                "cross_entropy_ms": 1000 * statistics.median(times["cross_entropy"]),
                "square_ms": 1000 * statistics.median(times["square"]),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
            }
        )
    return rows


def print_trainings(rows: list[dict[str, Any]]) -> None:
    """The whole trainings."""
    table = [["model", "training", "images/s", "time / first", "processor ms/image", "processor time / first"]]
    for row in rows:
        wall = [f"{row['images_per_s']:.1f}", f"{row['wall_ratio']:.2f}"]
        processor = [f"{row['processor_ms']:.1f}", f"{row['processor_ratio']:.2f}"]
        table.append([row["model"], row["training"], *wall, *processor])
    print(markdown_table(table))


def print_steps(rows: list[dict[str, Any]]) -> None:
    """The steps with both losses."""
    table = [["architecture", "batch", "pixels", "classes", "parameters", "CE, ms", "square, ms", "square / CE"]]
    for row in rows:
        sizes = [str(row[name]) for name in ("batch", "size", "classes", "parameters")]
        times = [f"{row['cross_entropy_ms']:.0f}", f"{row['square_ms']:.0f}", f"{row['ratio']:.3f}"]
        table.append([row["arch"], *sizes, *times])
    print(f"\n{markdown_table(table)}")


def main() -> int:
    parser = make_parser(__doc__, rounds=5)
    parser.set_defaults(threads=1)
    parser.add_argument("--timm-script", type=Path, metavar="FILE", help="timm's train.py")
    parser.add_argument(
        "--models", nargs="*", default=list(MODELS), help="models of timm for the whole trainings; none: only steps"
    )
    parser.add_argument("--size", type=int, default=96, help="their images' height and width (default 96)")
    parser.add_argument("--batch", type=int, default=32, help="their images of a step (default 32)")
    parser.add_argument("--steps", type=int, default=12, help="their steps of an epoch (default 12)")
    parser.add_argument("--workers", type=int, default=1, help="their processes that read images (default 1)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="bfloat16: mixed")
    parser.add_argument(
        "--step-rounds", type=int, default=9, help="rounds over both losses' steps; 0: none (default 9)"
    )
    args = parser.parse_args()
    prepare(parser, args)
    if args.timm_script is not None and not args.timm_script.is_file():
        parser.error(f"--timm-script: {args.timm_script} is not a file; the first lines of --help say how to get it")
    if min(args.steps - 1, args.batch, args.step_rounds + 1) < 1:
        parser.error("--batch must be at least 1, --step-rounds 0, and --steps 2: the first is not counted")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        trainings = measure_trainings(args, Path(folder)) if args.models else []
    steps = measure_steps(args) if args.step_rounds else []
    if trainings:
        print_trainings(trainings)
    if steps:
        print_steps(steps)
    environment = {"device": device_name(args.device), "dtype": args.dtype, "timm": timm.__version__, **versions()}
    print(f"\n{in_words(environment)}")
    sizes = {name: getattr(args, name) for name in ("size", "batch", "steps", "workers", "rounds", "step_rounds")}
    save(args.json, {"environment": environment, **sizes, "trainings": trainings, "of a step": steps})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

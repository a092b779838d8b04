"""What the benchmarks share: their command lines, and times and memory of things measured in turn by one process."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from sqloss_plugins.results import device_name, markdown_table, versions, write_json

Run = Callable[[], object]


def make_parser(description: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """The options of every benchmark, and with a default number of ``rounds`` those of one that takes times."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds over all losses (default {rounds})")
        parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser


def add_processor_time(parser: argparse.ArgumentParser) -> None:
    """The option that :func:`clock_of` reads."""
    parser.add_argument("--processor-time", action="store_true", help="of this process, where others use the machine")


def clock_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Callable[[], float]:
    """What gives the seconds; ends the program where ``--processor-time`` cannot be."""
    if args.processor_time and args.device != "cpu":
        parser.error("--processor-time is of a CPU")
    return time.process_time if args.processor_time else time.perf_counter


def prepare(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Checks these options and does what they say of threads; ends the program over one that cannot be."""
    for name in ("rounds", "threads"):
        if getattr(args, name, 1) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no CUDA device that PyTorch can use")
    if "threads" in args:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)


def save(path: Path | None, content: Mapping[str, object]) -> None:
    """Writes the figures, if they are to go anywhere."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)


def in_words(environment: Mapping[str, object]) -> str:
    """What was measured on, in one line."""
    return ", ".join(f"{name} {value}" for name, value in environment.items())


def report(table: Sequence[Sequence[str]], rows: Sequence[Mapping[str, object]], args: argparse.Namespace) -> None:
    """Prints a table and what was measured on, and writes the rows that it is made of where ``--json`` says."""
    environment = {"device": device_name(args.device), **versions()}
    print(f"{markdown_table(table)}\n\n{in_words(environment)}")
    save(args.json, {"environment": environment, "rows": rows})


def side_by_side(
    runs: Mapping[str, Run], rounds: int, device: str, title: str, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run in every round. Each round takes them in a new order, so that all see the same machine.

    Short runs are repeated within a round, up to about a twentieth of a second. ``clock`` is what gives the seconds:
    time.process_time those of the processor, where others use the machine as well.
    """
    repeats = {}
    for name, run in runs.items():
        single = _seconds(run, 1, device)
        if single < 1.0:  # a first call may take a thousand times as long as the others
            single = min(_seconds(run, 1, device) for _ in range(5))
        repeats[name] = max(1, min(300, int(0.05 / (single + 1e-9))))
        _seconds(run, max(1, repeats[name] // 10), device)
    shuffled = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        print(f"\r{title}: round {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        for name in shuffled.sample(list(runs), len(runs)):
            times[name].append(_seconds(runs[name], repeats[name], device, clock))
    print("\r" + " " * 70 + "\r", end="", file=sys.stderr)
    return times


def _seconds(run: Run, repeats: int, device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    for _ in range(repeats):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / repeats


def peak_bytes(run: Run, leaves: Iterable[torch.Tensor], device: str) -> int:
    """Peak of what a run allocates, the gradients of the leaves included.

    On the CPU from the allocator's own record, on a GPU from CUDA's counter.
    """
    for leaf in leaves:  # or the run would begin by freeing the last one's
        leaf.grad = None
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak

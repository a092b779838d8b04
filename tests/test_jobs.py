"""Which GPU and how many threads each of several processes has."""

import os
import threading

import pytest
import torch

from sqloss_plugins.espnet import jobs
from sqloss_plugins.espnet.jobs import Job, run_jobs, visible_gpus
from sqloss_plugins.processes import usable_cpus


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [
        (None, 4, ["0", "1", "2", "3"]),
        ("2, 0,1", 3, ["2", "0", "1"]),
        ("GPU-8932f937,MIG-5c89", 2, ["GPU-8932f937", "MIG-5c89"]),
        ("1,-1,0", 1, ["1"]),  # CUDA takes none behind the first that is none
        ("", 0, []),
    ],
)
def test_the_gpus_of_the_user_as_the_user_names_them(named, count, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == expected


@pytest.mark.parametrize(
    ("gpus", "nj", "expected"),
    [
        (["1", "MIG-5c89"], 4, ["1", "1", "MIG-5c89", "MIG-5c89"]),
        (["3", "4", "5"], 2, ["3", "4"]),
        (["0"], 2, ["7,8", "7,8"]),
        ([], 3, ["7,8", "7,8", "7,8"]),
    ],
)
def test_processes_are_dealt_out_to_gpus_and_share_the_cpus(gpus, nj, expected, tmp_path, monkeypatch):
    """Whichever is begun when another has ended has its GPU; one GPU, or none, is left as the user has it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,8")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(jobs, "usable_cpus", lambda: 12)
    side_by_side = threading.Barrier(nj, timeout=10)
    seen = []

    def run(job, environment, *_):
        seen.append(environment)
        side_by_side.wait()

    monkeypatch.setattr(jobs, "_run", run)
    run_jobs([Job("any", [], tmp_path / f"{i}") for i in range(2 * nj)], nj, gpus=gpus)
    given = [environment["CUDA_VISIBLE_DEVICES"] for environment in seen]
    assert sorted(given[:nj]) == sorted(given[nj:]) == expected
    assert {environment["OMP_NUM_THREADS"] for environment in seen} == {f"{12 // nj}"}


def test_the_cpus_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cpus() == 2

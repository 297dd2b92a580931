"""What a process of a cell is told by whoever starts it."""

from __future__ import annotations

import pytest

from bench.process.environment import RankEnvironment

ALONE = RankEnvironment(job="123_4", claim="b1")
OF_FOUR = RankEnvironment("local:7", "7", "s", rank=3, size=4, local_rank=1, local_size=2)


@pytest.mark.parametrize("told", [RankEnvironment(), ALONE, OF_FOUR])
def test_a_process_reads_what_it_was_told(told: RankEnvironment) -> None:
    outer = OF_FOUR.to_env({"PATH": "/bin"})  # a sweep that somebody starts inside another cell
    assert RankEnvironment.from_env(told.to_env(outer)) == told
    assert told.to_env(outer)["PATH"] == "/bin"


def test_torchrun_needs_no_start() -> None:
    env = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    assert RankEnvironment.from_env(env) == RankEnvironment(
        rank=1, size=2, local_rank=1, local_size=2
    )


def test_only_jobs_of_slurm_go_on_by_themselves() -> None:
    assert ALONE.slurm and not OF_FOUR.slurm and not RankEnvironment().slurm

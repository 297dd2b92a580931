"""The rules of a benchmark (`bench.task.BenchmarkModule`)."""

from __future__ import annotations

import argparse

import pytest

from bench import find
from bench.task import BenchmarkModule

NAMES = find.names("benchmark")


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_default_and_a_help(name: str) -> None:
    benchmark: BenchmarkModule = find.load("benchmark", name)
    parser = argparse.ArgumentParser(epilog=find.optional("benchmark", name, "EPILOG"))
    benchmark.add_arguments(parser)
    parser.parse_args([])  # `python -m bench.speed <name>` alone measures something
    for action in parser._actions:
        assert action.help, f"{'/'.join(action.option_strings)} says what it does"


@pytest.mark.parametrize("name", NAMES)
def test_it_says_in_a_line_what_it_measures(name: str) -> None:
    benchmark: BenchmarkModule = find.load("benchmark", name)
    assert benchmark.HELP and "\n" not in benchmark.HELP, "HELP is one line"
    assert benchmark.DESCRIPTION, "DESCRIPTION says what is measured"

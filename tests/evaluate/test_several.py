"""Several evaluations in one call: each is kept as soon as it is through, and the same command goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from makers import make_run, smoke_config

from bench import find, results
from bench.config.science import parse
from bench.evaluate import command
from bench.run.cell import run_cell
from bench.store.rundir import RunDir, State

GAP, PROBE = "video.shuffle_gap", "video.order_probe"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> RunDir:
    """A trained baseline of which nothing was measured."""
    config = parse({**smoke_config("baseline").dump(), "evaluations": {}})
    made = make_run(tmp_path_factory.mktemp("runs"), config, data_dir)
    assert run_cell(made.path) == State.DONE
    return made


@pytest.fixture
def call(run: RunDir, data_dir: Path, tmp_path: Path) -> Any:
    data = smoke_config("baseline").data
    shards = find.load("source", data.name).locate(data.config, data_dir)

    def called(names: str, *more: str) -> int:
        where = ("--data", str(shards), "--runs", str(tmp_path), "--device", "cpu")
        return command.main([names, "--model", str(run.path), *where, *more])

    return called


def test_each_is_kept_and_the_report_reads_them(call: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ("--set", f"{GAP}.permutations=2", "--out", str(out))
    assert call(f"{GAP},{PROBE}", *options) == 0
    frame = results.load(tmp_path)
    assert set(frame["evaluation"]) == {GAP, PROBE}
    [gap] = (tmp_path / "evaluated").glob(f"*{GAP}*.json")
    assert json.loads(gap.read_text())["options"]["permutations"] == 2
    written = json.loads(out.read_text())
    assert set(written["versions"]) == {GAP, PROBE} == {r["evaluation"] for r in written["rows"]}


def test_the_same_command_goes_on(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second, it makes the second; what is kept is not made again, unless asked."""
    made: list[str] = []
    for name in (GAP, PROBE):
        module = find.load("evaluation", name)

        def run(options: Any, context: Any, name: str = name, original: Any = module.run) -> Any:
            made.append(name)
            if made == [GAP, PROBE]:
                raise KeyboardInterrupt
            return original(options, context)

        monkeypatch.setattr(module, "run", run)
    with pytest.raises(KeyboardInterrupt):
        call(f"{GAP},{PROBE}")
    assert call(f"{GAP},{PROBE}") == 0
    assert made == [GAP, PROBE, PROBE]
    assert call(f"{GAP},{PROBE}") == 0 and len(made) == 3
    assert call(GAP, "--again") == 0 and made[3:] == [GAP]


def test_an_option_says_of_which_evaluation_it_is(
    call: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(f"{GAP},{PROBE}", "--set", "permutations=2", "--set", f"{PROBE}.depht=1") == 2
    err = capsys.readouterr().err
    assert f"of which evaluation? {GAP}.permutations=2 or {PROBE}.permutations=2" in err
    assert not (tmp_path / "evaluated").exists()
    assert call(f"{GAP},video.nonsense") == 2
    assert "video.nonsense" in capsys.readouterr().err

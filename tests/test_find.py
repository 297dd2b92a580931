"""Discovery: a name is a file, and a file that does not keep its contract is one clear mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from components import only
from makers import ROOT

from bench import find, prepare
from bench.evaluate import command as evaluate
from bench.export import command as export
from bench.speed import command as speed
from bench.sweep import command as sweep

Put = Callable[[str, str], None]
"""put(kind, source): the only component of this kind is now `mine`, and that is its source."""

SOUND = {
    "source": "bench/data/sources/ssv2.py",
    "decoder": "bench/data/decoders/pyav.py",
    "backbone": "bench/models/backbones/timesformer.py",
    "objective": "tasks/video/flow.py",
    "evaluation": "tasks/video/shuffle_gap.py",
    "benchmark": "bench/speed/sweep.py",
    "sink": "bench/export/sinks/tensorboard.py",
    "table": "reports/tables/ablation.py",
    "figure": "reports/figures/shuffled_accuracy.py",
}


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    return lambda kind, source: only(kind, {"mine": source}, tmp_path, monkeypatch)


def wrong(put: Put, kind: str, source: str) -> str:
    put(kind, source)
    with pytest.raises(find.InvalidComponent) as caught:
        find.load(kind, "mine")
    return str(caught.value)


@pytest.mark.parametrize("kind", sorted(find.PACKAGES))
def test_unknown_names_list_what_exists(kind: str) -> None:
    for bad in ("no_such_thing", "../secrets", "os", "Video", ""):
        with pytest.raises(find.UnknownComponent):
            find.load(kind, bad)


def test_a_broken_component_is_never_skipped(put: Put) -> None:
    put("objective", "import no_such_dependency\nclass Objective: ...\n")
    assert find.names("objective") == ("mine",)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        find.load("objective", "mine")


@pytest.mark.parametrize("kind", SOUND)
def test_every_required_member_is_missed_with_its_signature(put: Put, kind: str) -> None:
    message = wrong(put, kind, "def run(): ...\nclass Objective: ...\n")
    assert "mine.py" in message and f"the {kind} 'mine'" in message
    contract = find.contract(kind)
    values = [name for name in contract.__annotations__ if not hasattr(contract, name)]
    abstract = set(contract.__abstractmethods__) & vars(contract).keys()
    required = {n for n in abstract if n != "run"} | (set(values) - {"Objective"})
    for member in required:
        assert f"  {member} is missing; wanted: {member}" in message


@pytest.mark.parametrize(
    ("kind", "change", "mistake"),
    [
        ("source", ("VERSION = 1", "VERSION = '1'"), "VERSION is '1'; wanted: VERSION: int"),
        ("source", ("def spec(config", "def spec(config, more"),
         "takes other parameters; wanted: spec(config: Any) -> task.DataSpec"),
        ("source", ("class Config(VideoConfig)", "class Config"),
         "wanted: Config: type[task.Config]"),
        ("backbone", ("    drop_path: DropRate = 0.1", "    drop_path: DropRate"),
         "Config() raises ValidationError"),
        ("backbone", ("class Config(VitConfig)", "from bench import task\nclass Config(task.Config)"),
         "Config() has no "),
        ("backbone", ("    drop_path: DropRate = 0.1\n",
                      "    @classmethod\n    def tiny(cls):\n        return cls(patches=8)\n"),
         "Config.tiny() raises ValidationError"),
        ("backbone", ("def skip(config: Config, *, frames", "def skip(config: Config, *, clip"),
         "wanted: skip(config: Any, *, frames: int, size: int) -> str | None"),
        ("backbone", ("def from_released", "def from_release"),
         "recognise needs from_released beside it"),
        ("objective", ("    weight: task.Weight = 1.0", ""), "Config() has no weight"),
        ("objective", ("class Objective(task.Objective)", "class Objective"),
         "wanted: Objective: type[task.Objective]"),
        ("objective", ("    def forward(", "    def forwards("), "Objective.forward is missing"),
        ("objective", ("def prepare(", "prepare = 3\ndef prepares("), "prepare is 3; wanted: prepare("),
        ("evaluation", ("def run(config: Config, context: task.Context)", "def run(context)"),
         "run(context) -> 'list[task.Row]' takes other parameters; wanted: run(config: Any"),
        ("table", ("SUMMARY = True", "SUMMARY = 'yes'"), "wanted: SUMMARY: bool"),
        ("figure", ("def draw(frame: pd.DataFrame, figure", "def draw(figure"), "wanted: draw(frame"),
    ],
)  # fmt: skip
def test_a_wrong_member_is_a_mistake_with_the_signature_wanted(
    put: Put, kind: str, change: tuple[str, str], mistake: str
) -> None:
    sound = (ROOT / SOUND[kind]).read_text()
    assert change[0] in sound
    assert mistake in wrong(put, kind, sound.replace(*change, 1))


@pytest.mark.parametrize("kind", SOUND)
def test_without_its_optional_members_a_component_has_the_defaults(put: Put, kind: str) -> None:
    put(kind, (ROOT / SOUND[kind]).read_text())
    module: ModuleType = find.load(kind, "mine")
    for member, value in vars(find.contract(kind)).items():
        required = getattr(value, "__isabstractmethod__", False)
        if member.startswith("_") or required:
            continue
        vars(module).pop(member, None)
        assert find.optional(kind, "mine", member) == (None if callable(value) else value)


def test_the_engine_asks_for_no_member_that_no_contract_names() -> None:
    with pytest.raises(KeyError, match="prepares"):
        find.optional("source", "ssv2", "prepares")


@pytest.mark.parametrize(
    ("kind", "name", "command"),
    [
        ("objective", "classify",
         lambda out: sweep.main(["sweeps/ablation.yaml", "--scale", "smoke", "--plan"])),
        ("backbone", "timesformer",
         lambda out: sweep.main(["sweeps/ablation.yaml", "--scale", "smoke", "--plan"])),
        ("evaluation", "video.shuffle_gap",
         lambda out: evaluate.main(["video.shuffle_gap", "--model", "no", "--data", "no"])),
        ("source", "ssv2", lambda out: prepare.main(["mini-ssv2", "--out", str(out)])),
        ("benchmark", "step", lambda out: speed.main(["step"])),
        ("sink", "tensorboard", lambda out: export.main(["tensorboard", "x", "--out", str(out)])),
    ],
)  # fmt: skip
def test_commands_show_an_invalid_component_and_end_with_2(
    kind: str,
    name: str,
    command: Callable[[Path], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = find.load(kind, name)
    monkeypatch.chdir(ROOT)
    with monkeypatch.context() as without:
        without.delattr(module, "HELP" if kind in ("benchmark", "sink") else "VERSION")
        find.load.cache_clear()
        assert command(tmp_path / "out") == 2
    find.load.cache_clear()
    assert f"the {kind} {name!r}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

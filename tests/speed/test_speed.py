"""bench.speed: complete rows, right FLOPs, the step that Trainer runs, failures that stay in their row.
torch.compile: the same losses, the same checkpoints. No assertion is about time.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from makers import final_weights, make_run, smoke_config, trainer_of

from bench import find
from bench.data.access import prepare_data
from bench.speed import _measuring, _training_step, challenge, step
from bench.speed import command as speed
from bench.store.rundir import RunDir
from bench.train import environment
from bench.train.learner import build
from bench.train.step import Optimisation, compiled

TINY = ["--frames=4", "--size=16", "--classes=5", "--threads=1", "--device=cpu"] + [
    f"--model={option}" for option in ("patch=8", "dim=16", "depth=2", "heads=2")
]
QUICK = ["step", "--backbone=timesformer", "--precision=fp32", "--steps=2", "--seconds=0.2", *TINY]


@pytest.fixture(autouse=True)
def _flow_of_small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step costs is measured here on frames that are too small to learn from."""
    monkeypatch.setattr(find.load("objective", "video.flow"), "SMALLEST", 0)


def measurement(**changes: Any) -> _training_step.StepMeasurement:
    options = speed._parser().parse_args([*QUICK, "--objectives", changes.pop("step", "plain")])
    return replace(step.read_step(options).groups[0], **changes)


def optimisation_of(m: _training_step.StepMeasurement) -> tuple[Optimisation, Any]:
    config = _training_step.config_of(m)
    learner = build(config, weights_dir=None)
    cpu = torch.device("cpu")
    return Optimisation(learner, config, cpu), _training_step.random_batch(config, cpu)


def timesformer_forward_flops(*, T: int, N: int, patch: int, D: int, depth: int, K: int) -> int:
    """Two per multiply-add; the matrix products and attention, nothing else."""

    def linear(tokens: int, rows: int, columns: int) -> int:
        return 2 * tokens * rows * columns

    def attention(groups: int, tokens: int) -> int:
        products = 2 * 2 * groups * tokens * tokens * D
        return products + linear(groups * tokens, D, 3 * D) + linear(groups * tokens, D, D)

    block = attention(N, T) + linear(N * T, D, D) + attention(T, N + 1)
    block += 2 * linear(1 + N * T, D, 4 * D)
    return linear(N * T, 3 * patch * patch, D) + depth * block + linear(1, D, K)


# -- what is counted ---


@pytest.mark.parametrize("batch", [1, 3])
def test_flops_of_a_timesformer_are_those_by_hand(batch: int) -> None:
    counted = _training_step.count_flops(*optimisation_of(measurement(batch=batch)))
    by_hand = timesformer_forward_flops(T=4, N=4, patch=8, D=16, depth=2, K=5)
    assert counted["forward"] == batch * by_hand
    assert counted["uncounted"] == []
    assert 2.5 * counted["forward"] < counted["executed"] < 3.5 * counted["forward"]


def test_the_hand_count_is_the_known_one_at_full_size() -> None:
    """0.392 TFLOP for 8 x 224 x 224, ViT-B/16 and 174 classes."""
    flops = timesformer_forward_flops(T=8, N=196, patch=16, D=768, depth=12, K=174)
    assert flops / 1e12 == pytest.approx(0.392, abs=5e-4)


def test_a_time_step_counts_both_passes_and_the_heads() -> None:
    plain = _training_step.count_flops(*optimisation_of(measurement(batch=2)))["forward"]
    time_step = _training_step.count_flops(*optimisation_of(measurement(batch=2, step="TIME")))[
        "forward"
    ]
    assert 2 * plain < time_step < 2.3 * plain


@pytest.mark.parametrize("name", ["plain", "TIME", "classify,video.flow"])
def test_random_batches_have_the_labels_of_every_objective(name: str) -> None:
    m = measurement(batch=6, step=name)
    raw = optimisation_of(m)[1]
    assert raw.clip_BTHWC.shape == (6, 4, 16, 16, 3) and raw.clip_BTHWC.dtype == torch.uint8
    assert set(raw.extras) == ({"video.flow"} & set(m.objectives))
    assert all(len(labels) == 6 for labels in raw.extras.values())


def test_what_the_device_labels_is_part_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch comes without these labels then, and each step makes them."""
    config = _training_step.config_of(measurement(batch=2, step="classify,video.flow"))
    name, part = "video.flow", config.objectives["video.flow"]
    there = part.config.model_copy(update={"where": "device"})
    config = replace(config, objectives={**config.objectives, name: replace(part, config=there)})
    cpu = torch.device("cpu")
    raw = _training_step.random_batch(config, cpu)
    assert raw.extras == {}
    module, calls = find.load("objective", name), []
    real = module.prepare_batch
    monkeypatch.setattr(module, "prepare_batch", lambda *a: calls.append(1) or real(*a))
    optimisation = Optimisation(build(config, weights_dir=None), config, cpu)
    for number in (1, 2):
        optimisation.step([raw], number=number, lr=1e-4)
    assert len(calls) == 2


def test_the_measured_step_is_the_trainers(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = Optimisation.step

    def counting(self: Optimisation, micro_batches: Any, *, number: int, lr: float) -> Any:
        calls.append(number)
        return real(self, micro_batches, number=number, lr=lr)

    monkeypatch.setattr(Optimisation, "step", counting)
    trainer = trainer_of(make_run(tmp_path, smoke_config("baseline"), data_dir))
    trainer.fit()
    assert calls == list(range(trainer.total_steps))
    calls.clear()
    row = _training_step.measure(measurement(batch=2), lambda _: None)
    assert len(calls) == len(set(calls)) == 3 + row["step_s"]["n"]  # counted, warm-up, warm-up


# -- the command ---


@pytest.mark.slow
def test_rows_json_and_a_failure_that_stays_in_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command: a good row, one that dies, one that does not fit into memory."""
    real, calls = _measuring.child_command(), []

    def command() -> list[str]:
        calls.append(None)
        return [sys.executable, "-c", "raise SystemExit('no luck')"] if len(calls) == 3 else real

    monkeypatch.setattr(_measuring, "child_command", command)
    out = tmp_path / "step.json"
    arguments = [*QUICK, "--objectives=TIME", "--batch=2", "--batch=1", "--batch=9999999999"]
    assert speed.main([*arguments, f"--out={out}"]) == 1
    saved = json.loads(out.read_text())
    good, failed, _ = saved["rows"]
    assert [row["status"] for row in saved["rows"]] == ["ok", "failed", "out of memory"]
    assert "no luck" in failed["note"]
    assert good["clips_per_s"] == pytest.approx(2 / good["step_s"]["median"])
    assert good["step_s"]["n"] == 2
    assert good["step_s"]["min"] <= good["step_s"]["median"] <= good["step_s"]["max"]
    assert good["model_flops_per_step"] == 3 * 2 * good["forward_flops_per_clip"] > 0
    ceiling = good["ceiling_flops_per_s"]
    assert ceiling >= saved["ceilings"]["fp32"]["flops_per_s"] > 0
    rate = good["model_flops_per_step"] / good["step_s"]["median"]
    assert good["fraction_of_ceiling"] == pytest.approx(rate / ceiling)
    assert good["peak_bytes"] > 10**8 and good["host_syncs_per_step"] is None
    assert good["objectives"] == list(_training_step.SETS["TIME"]) and good["threads"] == 1
    assert {"code", "versions", "device"} <= set(saved["environment"])
    shown = capsys.readouterr()
    lines = [line for line in shown.out.splitlines() if line.startswith("timesformer")]
    assert len(lines) == 3 and "no luck" in lines[1] and "out of memory" in lines[2]
    assert "batch 1" in shown.err


def test_best_doubles_until_it_no_longer_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {1: 10.0, 2: 18.0, 4: 24.0, 8: 24.1}

    def answer(task: dict[str, Any], tell: Any) -> dict[str, Any]:
        if task["function"].endswith(":answer_ceiling"):
            return {"status": "failed", "note": "no ceiling"}
        batch = task["batch"]
        return {
            "status": "ok",
            "note": "",
            "clips_per_s": rates[batch],
            "step_s": _measuring.spread([batch / rates[batch]]),
            "model_flops_per_step": 1,
            "forward_flops_per_clip": 1,
            "peak_bytes": 1,
            "host_syncs_per_step": None,
            "ceiling_flops_per_s": 1.0,
        }

    monkeypatch.setattr(step, "in_fresh_process", answer)
    options = speed._parser().parse_args([*QUICK, "--objectives=plain", "--batch=best"])
    with _measuring.Show(step.COLUMNS) as show:
        rows, _ = step.run_step(step.read_step(options), show)
    assert [row["batch"] for row in rows] == [1, 2, 4, 8]
    assert "no faster" in rows[-1]["note"] and rows[-1]["fraction_of_ceiling"] is not None


def test_every_mistake_is_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--backbone=timesfomer", "--precision=fp8", "--batch=0", "--frames=x"]
    arguments += ["--objectives=classify,video.ordr", "--model=depth", "--seconds=-1"]
    arguments += ["--device=tpu", f"--out={tmp_path / 'absent' / 'a.json'}"]
    assert speed.main(["step", *arguments]) == 2
    shown = capsys.readouterr()
    assert "9 mistake(s), nothing was measured" in shown.err and not shown.out
    for word in ("did you mean 'timesformer'", "fp8", "--batch", "--frames", "video.order"):
        assert word in shown.err, word
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--model=dephth=3"], "depth"),
        (["--size=20", "--model=patch=16"], "do not divide"),
        (["--frames=1", "--objectives=TIME"], "no frame"),
    ],
)
def test_impossible_models_are_mistakes(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert speed.main(["step", "--backbone=timesformer", "--device=cpu", *arguments]) == 2
    assert word in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        speed.main(["step", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("examples:", "exit status:", "of ceiling", "best"))


# -- the Backgrounds Challenge ---


@pytest.fixture(scope="module")
def released_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in test images as JPEG files: 36 foregrounds, 36 backgrounds."""
    source = find.load("source", "mini_imagenet9")
    folder = tmp_path_factory.mktemp("tree")
    source.write_tree(source.Config(train=9, val=9, test=36), folder)
    return folder / source.TEST_FOLDER


def challenge_of(tree: Path, **changes: Any) -> challenge.ChallengeMeasurement:
    options = speed._parser().parse_args(
        ["challenge", "--device=cpu", "--threads=1", "--seconds=0.01", "--foregrounds=18"]
    )
    known = {"model": "vulnerable ViT", "data": str(tree), "workers": 0, "steps": 3}
    return challenge.replace(challenge.read(options).shared, **known, **changes)


def test_challenge_rows_are_complete_and_both_procedures_agree(released_tree: Path) -> None:
    told: list[str] = []
    row = challenge.measure(challenge_of(released_tree), told.append)
    assert (row["foregrounds"], row["backgrounds"]) == (18, 36)
    assert any("training" in text for text in told) and any("18/18" in text for text in told)
    released, quick, whole = (row["procedures"][n] for n in ("released", "verdicts", "all"))
    assert released["faster"] == released["passes_of_released"] == 1.0
    assert quick["rating_passes"] == 0 and quick["passes"] <= released["passes"] <= 18 * 36
    assert whole["passes"] == quick["passes"] + whole["rating_passes"]
    assert whole["rating_passes"] > 0 and row["vulnerable"] > 0  # else nothing was left to rate
    for procedure in (released, quick, whole):
        assert procedure["passes_of_released"] == procedure["passes"] / released["passes"]
        assert procedure["faster"] == released["wall_s"] / procedure["wall_s"]
        rate = procedure["passes"] / procedure["wall_s"]
        assert procedure["fraction_of_ceiling"] == rate / row["ceiling_passes_per_s"] > 0


def test_a_different_verdict_is_a_failure(
    released_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = challenge.released_procedure

    def wrong(*arguments: Any) -> Any:
        verdicts, passes = released(*arguments)
        first = next(iter(verdicts))
        return {**verdicts, first: not verdicts[first]}, passes

    monkeypatch.setattr(challenge, "released_procedure", wrong)
    with pytest.raises(RuntimeError, match="different verdicts on 00_dog/"):
        challenge.measure(challenge_of(released_tree), lambda _: None)


def test_what_a_challenge_cannot_use_is_one_message(
    released_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert speed.main(["challenge", "--foregrounds=0", "--data=x", "--workers=-1"]) == 2
    assert "3 mistake(s), nothing was measured" in capsys.readouterr().err
    assert speed.main(["challenge", "--model=absent.pt", f"--data={released_tree}"]) == 2
    assert "absent.pt" in capsys.readouterr().err


@pytest.mark.slow
def test_a_challenge_that_fails_in_its_own_process_is_a_row_of_its_own(
    tmp_path: Path, released_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "challenge.json"
    shared = challenge_of(released_tree, foregrounds=4)
    plan = challenge.ChallengePlan(("vulnerable ViT", "nonsense"), released_tree, shared, out)
    with challenge.Show(challenge.COLUMNS) as show:
        good, bad = challenge.run_challenge(plan, released_tree, show)
    assert (good["status"], bad["status"]) == ("ok", "failed") and "nonsense" in bad["note"]
    assert [r["status"] for r in json.loads(out.read_text())["rows"]] == ["ok", "failed"]
    shown = capsys.readouterr()
    assert sum(line.startswith("vulnerable ViT") for line in shown.out.splitlines()) == 3


# -- torch.compile ---


def test_without_a_compiler_training_does_not_start(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    run = make_run(tmp_path, smoke_config("baseline"), data_dir, compile=True)
    with pytest.raises(ValueError, match=r"C\+\+ compiler.*no-such-compiler"):
        trainer_of(run)
    assert speed.main([*QUICK, "--compile"]) == 2


def test_compiling_leaves_names_and_ends_with_the_block() -> None:
    optimisation, _ = optimisation_of(measurement())
    learner = optimisation.learner
    names, backbone = list(learner.state_dict()), learner.classifier.backbone
    with compiled(learner, enabled=True):
        assert list(learner.state_dict()) == names
        assert learner.classifier.backbone is backbone and backbone._compiled_call_impl is not None
    assert backbone._compiled_call_impl is None
    with compiled(learner, enabled=False):
        assert backbone._compiled_call_impl is None


def test_env_says_what_was_compiled() -> None:
    cpu = torch.device("cpu")
    assert environment.describe(cpu, threads=1)["device"]["compiled"] is False
    assert environment.describe(cpu, threads=1, compiled=True)["device"]["compiled"] is True


needs_compiler = pytest.mark.skipif(
    environment.compile_problem(torch.device("cpu")) is not None, reason="no compiler"
)
# Paths and features are dropped: a compiled run must drop the same ones.
DROPPING = {"model.depth": 1, "model.drop_path": 0.3, "train.dropout": 0.2}


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("backbone", [n for n in find.names("backbone") if n != "timesformer"])
def test_a_compiled_run_is_an_eager_one(backbone: str, tmp_path: Path, data_dir: Path) -> None:
    module = find.load("backbone", backbone)
    clips = module.skip(module.Config.tiny(), frames=4, size=16) is None
    config = smoke_config(
        sweep="ablation" if clips else "background",
        **DROPPING,
        **{"model.name": backbone, "train.epochs": 1},
    )
    prepare_data(config, data_dir)
    eager = _fit(make_run(tmp_path / "eager", config, data_dir))
    run = make_run(tmp_path / "compiled", config, data_dir, compile=True)
    assert _fit(run) == pytest.approx(eager, rel=1e-4)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("first", ["eager", "compiled"])
def test_each_goes_on_from_the_others_checkpoint(
    first: str, tmp_path: Path, data_dir: Path
) -> None:
    config = smoke_config(**DROPPING)
    straight = make_run(tmp_path / "straight", config, data_dir)
    losses = _fit(straight)
    run = make_run(tmp_path / "mixed", config, data_dir, compile=first == "compiled")
    trainer = trainer_of(run)
    trainer.total_steps = trainer.steps_per_epoch  # stops after the first of two epochs
    trainer.fit()
    assert list(final_weights(run)) == list(final_weights(straight))
    run = make_run(tmp_path / "mixed", config, data_dir, compile=first == "eager")
    assert _fit(run) == pytest.approx(losses, rel=1e-4)


def _fit(run: RunDir) -> list[float]:
    """Trains, or goes on; the loss of each step."""
    trainer_of(run).fit()
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]

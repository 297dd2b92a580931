"""`bench.speed challenge`: the Backgrounds Challenge here beside the released evaluator's procedure.

The procedure is written anew in `_released_challenge.py`. Beside it `image.background_challenge`:
the verdicts alone, and all of it (with the rating of the strongest backgrounds). Same process, data
on disk, model, device and threads; ours goes first, so that the files are cached when the released
procedure reads them. All must give the same verdict on each foreground, else the row has failed.
The ceiling is the rate of plain forward passes of that model over a batch that is ready.

Without --model there are two models, ViTs of the mini scale trained for the purpose on the test
images themselves: one on the images as they are, which gives in to almost any background, and one
on their foregrounds before all backgrounds, which hardly ever does and leaves little to save.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench import find
from bench.config.mistakes import Mistake, Mistakes
from bench.config.resources import Resources
from bench.config.science import Input
from bench.config.seeds import rng
from bench.data.access import open_data
from bench.data.imagenet9 import CLASSES, FG_MASK, MEAN, STD
from bench.evaluate import session
from bench.evaluate.context import EvaluationContext, run_one
from bench.evaluate.model import load_named
from bench.models.classifier import Classifier
from bench.models.named import NamedModel
from bench.process.machine import available_cores
from bench.speed._measuring import (
    Clock,
    Numbers,
    Show,
    SpeedColumn,
    SpeedRow,
    Tell,
    check_out,
    in_fresh_process,
    ok,
    read_device,
)
from bench.speed._released_challenge import released_procedure
from bench.store.files import write_json
from bench.task import Samples
from bench.train import environment

HELP = "the Backgrounds Challenge: wall time and forward passes beside the released procedure"
DESCRIPTION = "Run the Backgrounds Challenge here and by the released evaluator's procedure."
EPILOG = """what the columns say (docs/performance.md has the full definitions):
  passes        images that went through the model
  of released   passes / passes of the released procedure
  s             wall time, reading the images included
  faster        wall time of the released procedure / this wall time
  of ceiling    passes per second / plain forward passes per second of this model on a ready batch

examples:
  python -m bench.speed challenge                                built-in data, two small ViTs
  python -m bench.speed challenge --model runs/0123456789abcdef  a model for 48 x 48 images
  python -m bench.speed challenge --model timm:resnet50@resnet50.safetensors --data bg_challenge \\
                                  --foregrounds 50 --device cuda --workers 8

exit status: 0 all measured, 1 some models failed, 2 bad input (nothing measured)"""

EVALUATION = "image.background_challenge"
# Share of the training images that are put on another background, and training steps.
TRAINED = {"vulnerable ViT": (0.0, 150), "robust ViT": (1.0, 900)}
SIZE = 48  # pixels
FOREGROUNDS = 90


@dataclass(frozen=True)
class ChallengeMeasurement:
    """One model to measure; travels to its process as JSON."""

    model: str  # a name of TRAINED, or as bench.evaluate takes it
    data: str  # folder in the released layout
    foregrounds: int | None  # None: all
    batch: int | None  # of ours; None: its default
    workers: int
    threads: int
    device: str
    seconds: float  # that the ceiling is measured for
    steps: int | None = None  # of training; None: as in TRAINED


# -- in the process of a measurement ---


def answer(task: dict[str, Any], tell: Tell) -> SpeedRow:
    """{"procedures": one row each for the released one, our verdicts and all of ours, ...}."""
    return measure(ChallengeMeasurement(**task), tell)


def measure(m: ChallengeMeasurement, tell: Tell) -> SpeedRow:
    """Raises RuntimeError when a verdict differs."""
    context = context_of(m)
    context.report = lambda p: tell(f"{p['phase']} {p['done']}/{p['total']}")
    if m.model in TRAINED:
        elsewhere, steps = TRAINED[m.model]
        train(context, elsewhere=elsewhere, steps=m.steps or steps, tell=tell)
    batch = m.batch or (256 if context.device.type == "cuda" else 64)
    ceiling = _ceiling(context, batch, m.seconds)
    quick, quick_verdicts = _ours(context, m, strongest=0)
    whole, whole_verdicts = _ours(context, m)
    tell("the released procedure")
    released, released_verdicts = _timed(lambda: released_procedure(context, m.workers, tell))
    _check_same(released_verdicts, quick_verdicts, whole_verdicts)
    ceiling = max(ceiling, _ceiling(context, batch, m.seconds))
    rows = {"released": released, "verdicts": quick, "all": whole}
    return {
        "foregrounds": len(released_verdicts),
        "backgrounds": context.count("only_bg_t"),
        "vulnerable": sum(released_verdicts.values()),
        "ceiling_passes_per_s": ceiling,
        "ceiling_batch": batch,
        "environment": environment.describe(context.device, threads=m.threads),
        "procedures": {
            name: {
                **row,
                "passes_of_released": row["passes"] / released["passes"],
                "faster": released["wall_s"] / row["wall_s"],
                "fraction_of_ceiling": row["passes"] / row["wall_s"] / ceiling,
            }
            for name, row in rows.items()
        },
    }


def context_of(m: ChallengeMeasurement) -> EvaluationContext:
    """As `bench.evaluate --official` makes it, with the first so many foregrounds of each class.

    Raises ValueError for a model or data that do not go together.
    """
    options = find.load("evaluation", EVALUATION).Config()
    named = _small_vit() if m.model in TRAINED else load_named(m.model)
    resources = Resources(device=m.device, workers=0, threads=m.threads)
    context = session.context_over(
        EVALUATION, options, named, open_data(Path(m.data)), resources, batch=64, official=True
    )
    opened = context.open_split
    if m.foregrounds is None:
        return context
    fewer = _FewerForegrounds(opened("original"), m.foregrounds)
    return replace(
        context, open_split=lambda split: fewer if split == "original" else opened(split)
    )


class _FewerForegrounds:
    """The test images, of which only some have a mask, evenly spread over the classes."""

    def __init__(self, samples: Samples, count: int) -> None:
        self._samples = samples
        with_mask = samples.with_layer(FG_MASK)
        spread = np.linspace(0, len(with_mask) - 1, min(count, len(with_mask))).round()
        self._chosen = with_mask[spread.astype(np.int64)]

    def __len__(self) -> int:
        return len(self._samples)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._samples, name)

    def with_layer(self, name: str) -> np.ndarray:
        return self._chosen if name == FG_MASK else self._samples.with_layer(name)


def _small_vit() -> NamedModel:
    """The backbone of the mini scale, untrained."""
    vit = find.load("backbone", "vit")
    torch.manual_seed(0)
    config = vit.Config(patch=8, dim=64, depth=4, heads=4, drop_path=0.0, init_std=0.1)
    model = Classifier(vit.build(config, frames=1, size=SIZE), len(CLASSES))
    return NamedModel(model, "image", Input(frames=1, size=SIZE), len(CLASSES), {}, MEAN, STD)


def train(context: EvaluationContext, *, elsewhere: float, steps: int, tell: Tell) -> None:
    """Fit the model to the test images, a share `elsewhere` of them put on a random background."""
    images, labels, masks = _foregrounds(context)
    backgrounds = torch.cat([batch.images_BHWC for batch in context.images("only_bg_t")])
    generator = torch.Generator().manual_seed(0)
    model = context.model
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    model.train()
    for step in range(steps):
        f = torch.randint(len(images), (64,), generator=generator)
        b = torch.randint(len(backgrounds), (64,), generator=generator)
        kept = torch.rand(64, 1, 1, 1, generator=generator) >= elsewhere
        mixed = torch.where(masks[f] | kept.to(masks.device), images[f], backgrounds[b])
        loss = nn.functional.cross_entropy(model(context.to_clip(mixed)), labels[f])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 0:
            tell(f"training: step {step}/{steps}")
    model.eval()


def _foregrounds(context: EvaluationContext) -> tuple[Tensor, Tensor, Tensor]:
    """On the device: images_FHWC (uint8), labels_F, masks_FHW1 (bool) of those with a mask."""
    samples = context.samples("original")
    chosen = samples.with_layer(FG_MASK)
    first = np.zeros(1, np.int64)
    images = np.stack([samples.frames(int(i), first)[0] for i in chosen])
    masks = np.stack([samples.layer(int(i), FG_MASK) for i in chosen])[..., None] != 0
    labels = samples.labels[chosen]
    on_device = (torch.from_numpy(part).to(context.device) for part in (images, labels, masks))
    images_FHWC, labels_F, masks_FHW1 = on_device
    return images_FHWC, labels_F, masks_FHW1


def _ours(
    context: EvaluationContext, m: ChallengeMeasurement, **options: Any
) -> tuple[SpeedRow, dict[str, bool]]:
    """Wall time and passes of the evaluation, and whether each foreground is vulnerable."""
    module = find.load("evaluation", EVALUATION)
    with tempfile.TemporaryDirectory() as folder:
        # Its state is saved, as bench.evaluate lets it.
        fresh = replace(context, scratch_folder=Path(folder))
        config = module.Config(batch=m.batch, **options)
        begun = time.perf_counter()
        rows = run_one(EVALUATION, config, fresh)
        wall_s = time.perf_counter() - begun
        assert fresh.scratch is not None
        verdicts = {key: by is not None for key, by in module.verdicts(fresh.scratch).items()}
    counts = {row["metric"]: round(row["value"] * row["n"]) for row in rows if row["n"]}
    rating = counts["rating_passes"]
    passes = {"passes": counts["passes"] + rating, "rating_passes": rating}
    return {"wall_s": wall_s, **passes}, verdicts


def _timed(
    procedure: Callable[[], tuple[dict[str, bool], int]],
) -> tuple[SpeedRow, dict[str, bool]]:
    begun = time.perf_counter()
    verdicts, passes = procedure()
    return {"wall_s": time.perf_counter() - begun, "passes": passes}, verdicts


def _check_same(released: dict[str, bool], *ours: dict[str, bool]) -> None:
    for verdicts in ours:
        if verdicts != released:
            differ = [key for key in released if verdicts.get(key) != released[key]]
            raise RuntimeError(f"different verdicts on {', '.join(differ[:5] or ['other keys'])}")


@torch.no_grad()
def _ceiling(context: EvaluationContext, batch: int, seconds: float) -> float:
    """Images per second that the model takes when they are ready, the best of many batches."""
    samples = context.samples("original")
    shape = (batch, *samples.frames(0, np.zeros(1, np.int64)).shape[1:])
    noise = rng("speed challenge").integers(0, 256, shape, dtype=np.uint8)
    clip_BTCHW = context.to_clip(torch.from_numpy(noise).to(context.device))
    for _ in range(2):
        context.model(clip_BTCHW)
    clock, begun, ticks = Clock(context.device), time.perf_counter(), 0
    while ticks < 3 or (time.perf_counter() - begun < seconds and ticks < 2000):
        context.model(clip_BTCHW)
        clock.tick()
        ticks += 1
    return batch / min(clock.intervals())


# -- in the process of the command ---


@dataclass(frozen=True)
class ChallengePlan:
    """A valid command."""

    models: tuple[str, ...]
    data: Path | None  # None: built-in, generated into a temporary folder
    shared: ChallengeMeasurement  # of which `model` and `data` are not set
    out: Path | None

    def measurements(self, data: Path) -> list[ChallengeMeasurement]:
        return [replace(self.shared, model=model, data=str(data)) for model in self.models]


def read(options: argparse.Namespace) -> ChallengePlan:
    """Validate the command line. Raises Mistakes with all that is wrong with it."""
    mistakes: list[Mistake] = []
    number = Numbers(mistakes)
    given = options.foregrounds or ("all" if options.data else str(FOREGROUNDS))
    shared = ChallengeMeasurement(
        model="",
        data=str(options.data or ""),
        foregrounds=None if given == "all" else number.whole("--foregrounds", given),
        batch=number.whole("--batch", options.batch) if options.batch else None,
        workers=number.whole("--workers", options.workers or str(available_cores())),
        threads=number.whole("--threads", options.threads or str(torch.get_num_threads())),
        device=read_device(options.device, mistakes),
        seconds=number.positive("--seconds", options.seconds),
    )
    check_out(options.out, mistakes)
    if options.data and not options.model:
        mistakes.append(Mistake(("--data",), "also say which --model; the small ViTs are trained "
                                "on the built-in data"))  # fmt: skip
    if options.model and options.data and not mistakes:
        try:  # before anything is measured
            context_of(replace(shared, model=options.model))
        except (ValueError, RuntimeError, OSError) as error:
            mistakes.append(Mistake((), str(error)))
    if mistakes:
        raise Mistakes(mistakes)
    models = (options.model,) if options.model else tuple(TRAINED)
    return ChallengePlan(models, options.data, shared, options.out)


def run(options: argparse.Namespace) -> int:
    """Exit status; raises Mistakes, before anything is measured, with all that is wrong."""
    plan = read(options)
    with Show(COLUMNS) as show, tempfile.TemporaryDirectory() as folder:
        rows = run_challenge(plan, plan.data or _built_in(Path(folder), show), show)
    return 1 if any(row["status"] == "failed" for row in rows) else 0


def _built_in(folder: Path, show: Show) -> Path:
    """The test images of mini-imagenet9 as JPEG files, in the released layout."""
    show.doing("generating mini-imagenet9")
    source = find.load("source", "mini_imagenet9")
    config = source.Config(train=9, val=9)  # the test set as it comes
    source.write_tree(config, folder, workers=available_cores())
    return folder / source.TEST_FOLDER


def run_challenge(plan: ChallengePlan, data: Path, show: Show) -> list[SpeedRow]:
    """Measure each model; a row for each."""
    rows: list[SpeedRow] = []
    for m in plan.measurements(data):
        show.doing(m.model)
        row = in_fresh_process(
            {"function": f"{__name__}:answer", **asdict(m)},
            lambda text, m=m: show.doing(f"{m.model}: {text}", minor=True),  # type: ignore[misc]
        )
        kept = {**asdict(m), **row, "data": str(plan.data or "mini-imagenet9")}
        if not rows:
            _start(show, kept)
        rows.append(kept)
        for line in _lines(kept):
            show.row(line)
        if plan.out:
            write_json(plan.out, {"what": "challenge", "rows": rows})
    return rows


def _start(show: Show, first: SpeedRow) -> None:
    described = first.get("environment")
    name = described["device"]["name"] if described else first["device"]
    show.line(
        f"{name}, {first['threads']} threads, {first['workers']} loader processes, "
        f"torch {torch.__version__}, fp32; {first['data']}"
    )
    show.head()


def _lines(row: SpeedRow) -> Iterator[SpeedRow]:
    """A line for each procedure; one for a model that failed."""
    if row["status"] != "ok":
        yield {**row, "procedure": "-"}
        return
    for name, procedure in row["procedures"].items():
        note = f"{row['ceiling_passes_per_s']:.4g}/s at best" if name == "released" else ""
        yield {**row, **procedure, "procedure": name, "note": note}


def _vulnerable(row: SpeedRow) -> str:
    return f"{row['vulnerable']}/{row['foregrounds']} on {row['backgrounds']}"


COLUMNS = (
    SpeedColumn("model", 16, lambda r: r["model"]),
    SpeedColumn("vulnerable", 17, ok(_vulnerable)),
    SpeedColumn("procedure", 9, lambda r: r["procedure"]),
    SpeedColumn("passes", 9, ok(lambda r: str(r["passes"]))),
    SpeedColumn("of released", 11, ok(lambda r: f"{r['passes_of_released']:.1%}")),
    SpeedColumn("s", 7, ok(lambda r: f"{r['wall_s']:.4g}")),
    SpeedColumn("faster", 7, ok(lambda r: f"{r['faster']:.3g}x")),
    SpeedColumn("of ceiling", 10, ok(lambda r: f"{r['fraction_of_ceiling']:.1%}")),
    SpeedColumn("note", 20, lambda r: r["note"]),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", help="as bench.evaluate takes it; default two small ViTs, trained for it")
    add("--data", type=Path, metavar="DIR",
        help="test images as released (bg_challenge); default the built-in ones")  # fmt: skip
    add("--foregrounds", metavar="N",
        help=f"so many, spread over the classes, or `all`; default all of --data, else {FOREGROUNDS}")  # fmt: skip
    add("--batch", metavar="N", help="of ours (default: 256 on a GPU, 64 on a CPU)")
    add("--workers", metavar="N",
        help="loader processes of the released procedure (default: the cores)")  # fmt: skip
    add("--threads", metavar="N", help="CPU threads (default: what torch takes)")
    add("--seconds", default="2", metavar="S",
        help="measure plain forward passes for so long (default: %(default)s)")  # fmt: skip
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1 ...")
    add(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="write all numbers and what they were made with",
    )

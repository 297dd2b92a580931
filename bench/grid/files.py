"""Where a sweep and its scale lie: files of the user's, or by name those of the suite and of the
user's own folders (bench.components). Before anything of them is read (plan.py).

    my.yaml             the file; its scales from scales/ beside it, or else those with names
    ablation            the suite's sweep, or DIR/sweeps/ablation.yaml; from any folder also written
                        sweeps/ablation.yaml, where there is no such file
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import SUITE, find, own_folders
from bench.config.mistakes import Mistake, Mistakes, cut, shown
from bench.grid import yaml

LONGEST_NAME = 250
"""Of a file without its .yaml, in bytes: file systems end at 255."""
LONGEST_PATH = 4000


def sweep_file(given: Path, mistakes: list[Mistake]) -> Path:
    """The file that a command line means. Raises Mistakes for a name that no sweep or more than one
    has; a path that does not exist is for its reader to complain of.
    """
    if wrong := _why_no_name(str(given)):
        mistakes.append(Mistake((), f"{cut(str(given))!r}: {wrong}"))
        raise Mistakes(mistakes)
    named = given.parent in (Path(), Path("sweeps")) and given.suffix in ("", ".yaml")
    if given.is_file() or not named:
        return given
    known = sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})
    found = [path for folder in _folders() if (path := folder / f"{given.stem}.yaml").is_file()]
    nothing = f"{given}: no such file, and no sweep has this name{find.nearest(given.stem, known)}"
    return _only(found, f"sweep {given.stem!r}", nothing, mistakes)


def scale_file(sweep: Path, folder: Any, scale: str, mistakes: list[Mistake]) -> Path:
    """The file of a scale. `folder` is what the sweep says under `scales`: the scales' folder within
    that of all scales, or an absolute path, which the winner of a search has whose own sweep has
    scales beside it. Raises Mistakes when there is no such folder or file, or more than one file.
    """
    record = f"{sweep.stem}-{scale}-123456"  # sweep/manifest.py
    for key, name in (("--scale", record), (f"{sweep}: scales", folder)):
        if wrong := isinstance(name, str) and _why_no_name(name):
            mistakes.append(Mistake((), f"{key}: {cut(name)!r}: {wrong}"))
            raise Mistakes(mistakes)
    folders = _scale_folders(sweep, folder, mistakes)
    known = sorted({path.stem for each in folders for path in each.glob("*.yaml")})
    found = [path for each in folders if (path := each / f"{scale}.yaml").exists()]
    nothing = f"--scale: unknown scale {scale!r}{find.nearest(scale, known)}"
    return _only(found, f"--scale: {scale!r}", nothing, mistakes)


def own_scales(sweep: Path) -> Path | None:
    """The folder of scales beside a sweep, which then has no others, unless those are the ones that
    all sweeps have.
    """
    beside = sweep.parent / "scales"
    shared = [(folder / "scales").resolve() for folder in _folders()]
    return beside if beside.is_dir() and beside.resolve() not in shared else None


def _why_no_name(path: str) -> str | None:
    """Why nothing on a disk can be called so, or None."""
    if wrong := yaml.why_unwritable(path):
        return wrong
    parts = [len(part.encode()) for part in path.split("/")]
    if max(parts) > LONGEST_NAME or sum(parts) > LONGEST_PATH:
        return f"a name has at most {LONGEST_NAME} bytes, a path {LONGEST_PATH:,}"
    return None


def _folders() -> list[Path]:
    """Folders whose sweeps and scales have names."""
    return [SUITE / "sweeps", *(own / "sweeps" for own in own_folders())]


def _scale_folders(sweep: Path, folder: Any, mistakes: list[Mistake]) -> list[Path]:
    if isinstance(folder, str) and Path(folder).is_absolute() and Path(folder).is_dir():
        return [Path(folder)]
    beside = own_scales(sweep)
    roots = [beside] if beside else [each / "scales" for each in _folders()]
    known = sorted({path.name for root in roots for path in root.glob("*") if path.is_dir()})
    if folder != "." and folder not in known:
        hint = find.nearest(str(folder), known)
        where = " or ".join(map(str, roots))
        mistakes.append(
            Mistake((), f"{sweep}: scales: no such folder in {where}: {shown(folder)}{hint}")
        )
        raise Mistakes(mistakes)
    return [root / folder for root in roots]


def _only(found: list[Path], what: str, nothing: str, mistakes: list[Mistake]) -> Path:
    if len(found) == 1:
        return found[0]
    twice = f"{what} exists twice, rename one: {' and '.join(map(str, found))}"
    mistakes.append(Mistake((), twice if found else nothing))
    raise Mistakes(mistakes)

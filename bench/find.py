"""Component name -> module. This is the whole registry: the path of a file is its name.

`video.order` as a task is `tasks/video/order.py`; `timesformer` as a backbone is
`bench/models/backbones/timesformer.py`. Nothing is registered, nothing is skipped: a file that does
not import raises, and so does one that does not keep the contract of its kind (docs/components.md).
The user's own folders (`--components DIR`, BENCH_COMPONENTS) have rooms of the same kinds:
`DIR/tasks/video/x.py` is `video.x`. A name that exists twice is a mistake.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from bench import ROOMS, SUITE, own_folders

PACKAGES = {
    "source": "bench.data.sources",
    "decoder": "bench.data.decoders",
    "backbone": "bench.models.backbones",
    "adapter": "bench.models.adapters",
    "objective": "tasks",
    "evaluation": "tasks",
    "benchmark": "bench.speed",
    "sink": "bench.export.sinks",
    "table": "reports.tables",
    "figure": "reports.figures",
}
# The protocol of each kind, by name: this module must import neither torch nor the reports.
CONTRACTS = {
    "source": "bench.task.SourceModule",
    "decoder": "bench.data.decoders.DecoderModule",
    "backbone": "bench.task.BackboneModule",
    "adapter": "bench.models.named.AdapterModule",
    "objective": "bench.task.ObjectiveModule",
    "evaluation": "bench.task.EvaluationModule",
    "benchmark": "bench.task.BenchmarkModule",
    "sink": "bench.export.sinks.SinkModule",
    "table": "reports.contracts.TableModule",
    "figure": "reports.contracts.FigureModule",
}
# A task file is what it defines: a loss (`class Objective`) or a measurement (`def run`).
_DEFINES = {"objective": "class Objective", "evaluation": "def run", "benchmark": "def run"}
_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


class ComponentError(ValueError):
    """A component that cannot be used."""


class UnknownComponent(ComponentError):
    """A name for which there is no file; the message lists what exists."""


class InvalidComponent(ComponentError):
    """A file that does not keep the contract of its kind; the message lists all that is wrong."""


class TwiceNamed(ComponentError):
    """Two files for one name; the message says which."""


@cache
def names(kind: str) -> tuple[str, ...]:
    """Every component of a kind, sorted. Reads folder listings only; imports nothing."""
    found: dict[str, Path] = {}
    for root in _roots(PACKAGES[kind]):
        for path in sorted(root.rglob("*.py")):
            relative = path.relative_to(root).with_suffix("")
            if path.stem == "__init__" or any(part.startswith(".") for part in relative.parts):
                continue
            name = ".".join(relative.parts)
            if not _NAME.fullmatch(name):
                raise ValueError(f"{path}: names have only a-z, 0-9 and _ in them; rename it")
            if name in found:
                raise TwiceNamed(f"{name!r} exists twice, rename one: {found[name]} and {path}")
            found[name] = path
    return tuple(sorted(name for name, path in found.items() if _is_a(kind, path)))


def _roots(package: str) -> list[Path]:
    """The suite's folder of a package, then the user's own ones."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"package {package} is not installed; run `pip install -e .`")
    suites = Path(next(iter(spec.submodule_search_locations)))
    wanted = SUITE.joinpath(*package.split("."))
    if wanted.is_dir() and suites.resolve() != wanted.resolve():
        raise RuntimeError(
            f"{suites} hides the suite's {wanted}: it was imported as `{package}` first. "
            "Rename it, or `import bench` before it"
        )
    rooms = [own / ROOMS[package] for own in own_folders()] if package in ROOMS else []
    return [suites, *(room for room in rooms if room.is_dir())]


def _is_a(kind: str, path: Path) -> bool:
    if path.name.startswith("_"):
        return False
    return kind not in _DEFINES or _defines(path, _DEFINES[kind])


def _defines(path: Path, head: str) -> bool:
    return re.search(rf"^{head}\b", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


@cache
def load(kind: str, name: str) -> Any:
    """The component's module, checked: it keeps the protocol of its kind, as which callers may
    annotate it. Raises UnknownComponent on a miss and InvalidComponent for a member that is missing
    or wrong; any error inside the file comes out untouched.
    """
    if not _NAME.fullmatch(name) or name not in names(kind):
        raise UnknownComponent(f"unknown {kind} {name!r}{nearest(name, names(kind))}")
    module = importlib.import_module(f"{PACKAGES[kind]}.{name}")
    _check(kind, name, module)
    return module


def optional(kind: str, name: str, member: str) -> Any:
    """A member that the component may leave out: then a value's default, or None for a function."""
    without = vars(contract(kind))[member]
    return getattr(load(kind, name), member, None if inspect.isfunction(without) else without)


def nearest(name: str, valid: tuple[str, ...] | list[str]) -> str:
    """'; did you mean ...?' followed by everything that exists, for an error message."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (there are: {', '.join(valid)})"


# -- contracts ---


@cache
def contract(kind: str) -> type:
    """The protocol that a module of this kind keeps."""
    module, _, name = CONTRACTS[kind].rpartition(".")
    return getattr(importlib.import_module(module), name)


def _check(kind: str, name: str, module: ModuleType) -> None:
    wanted = contract(kind)
    if mistakes := [*_wrong_values(wanted, module), *_wrong_functions(wanted, module)]:
        listed = "".join(f"\n  {mistake}" for mistake in mistakes)
        raise InvalidComponent(
            f"{module.__file__} is not yet the {kind} {name!r} (docs/components.md):{listed}"
        )


def _wrong_values(wanted: type, module: ModuleType) -> Iterator[str]:
    """Members that are no functions: each is what its annotation in the protocol says."""
    for member, hint in get_type_hints(wanted, include_extras=True).items():
        text = f"wanted: {member}: {_readable(wanted.__annotations__[member])}"
        if hasattr(module, member):
            yield from (f"{wrong}; {text}" for wrong in _wrong_value(module, member, hint))
        elif not hasattr(wanted, member):
            yield f"{member} is missing; {text}"


def _readable(annotation: str) -> str:
    """Annotated[type[task.Config], "patch"] -> type[task.Config] with patch."""
    kind, *options = annotation.removeprefix("Annotated[").split(", ")
    names = ", ".join(option.strip("]").strip('"') for option in options)
    return f"{kind} with {names}" if annotation.startswith("Annotated[") else annotation


def _wrong_value(module: ModuleType, member: str, hint: Any) -> Iterator[str]:
    value, options = getattr(module, member), []
    if get_origin(hint) is Annotated:
        hint, *options = get_args(hint)
    if get_origin(hint) is not type:
        if not isinstance(value, get_origin(hint) or hint):
            yield f"{member} is {value!r}"
        return
    (base,) = get_args(hint)
    if not (isinstance(value, type) and issubclass(value, base)):
        yield f"{member} is {value!r}"
    elif hasattr(base, "tiny"):
        yield from _wrong_config(value, options)
    else:
        yield from _wrong_functions(base, value)


def _wrong_config(config: Any, options: list[str]) -> Iterator[str]:
    """Every option has a default, the engine's own are among them, and `tiny` makes one."""
    for text, make in (("Config()", config), ("Config.tiny()", config.tiny)):
        try:
            made = make()
        except Exception as error:
            yield f"{text} raises {type(error).__name__}: {error}".replace("\n", " ")
            continue
        if not isinstance(made, config):
            yield f"{text} returns {made!r}"
        elif lacking := [option for option in options if not hasattr(made, option)]:
            yield f"{text} has no {', '.join(lacking)}"


def _wrong_functions(wanted: type, owner: Any) -> Iterator[str]:
    """Functions of a module, or methods of a class, that cannot be called as `wanted` says."""
    named = f"{owner.__name__}." if isinstance(owner, type) else ""
    for member, function in vars(wanted).items():
        if not inspect.isfunction(function) or member.startswith("_"):
            continue
        found = getattr(owner, member, None)
        text = f"wanted: {member}{_signature(function)}"
        if found is None or found is function:
            if getattr(function, "__isabstractmethod__", False):
                yield f"{named}{member} is missing; {text}"
        elif not callable(found):
            yield f"{named}{member} is {found!r}; {text}"
        elif not _takes(found, function, method=isinstance(owner, type)):
            yield f"{named}{member}{inspect.signature(found)} takes other parameters; {text}"
        elif lacking := [n for n in getattr(function, "needs", ()) if not hasattr(owner, n)]:
            yield f"{member} needs {' and '.join(lacking)} beside it"


def _signature(function: FunctionType) -> str:
    """As written in the protocol, without self."""
    signature = inspect.signature(function)
    _, *parameters = signature.parameters.values()
    return str(signature.replace(parameters=parameters)).replace("'", "")


def _takes(found: Any, wanted: FunctionType, *, method: bool) -> bool:
    """Whether a function takes the arguments that the engine passes: all, or those without default."""
    parameters = list(inspect.signature(wanted).parameters.values())[0 if method else 1 :]
    required = [p for p in parameters if p.default is p.empty]
    for passed in (parameters, required):
        positional = [p.name for p in passed if p.kind is not p.KEYWORD_ONLY]
        keywords = [p.name for p in passed if p.kind is p.KEYWORD_ONLY]
        try:
            inspect.signature(found).bind(*positional, **dict.fromkeys(keywords))
        except TypeError:
            return False
    return True

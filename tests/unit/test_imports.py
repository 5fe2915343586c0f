# SPDX-License-Identifier: Apache-2.0
"""Imports point down: ops -> control -> net -> dataplane; control, net -> core -> noise -> leaves.

The appliance is above all of them: image, guest -> update -> gateway. Image and guest, one built by the other, know
nothing of each other.

The rule is read from the syntax tree, so an import inside a function counts too. Cython modules are read by pattern.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "gateway"

LEAVES = ("constants", "errors", "wire", "crypto", "_sodium", "suites", "frames", "framefields", "__init__")
LAYERS = {"core", "dataplane", "net", "control", "ops", "noise"}
# layer -> the layers it may use besides itself and the leaves
MAY_USE: dict[str, set[str]] = {
    "leaf": set(),
    "noise": set(),
    "core": {"noise"},
    "dataplane": set(),
    "net": {"dataplane", "core", "noise"},
    "control": {"net", "dataplane", "core", "noise"},
    "ops": {"control", "net", "dataplane", "core", "noise"},
}
# Pure layers get time, randomness and I/O as arguments.
PURE = {"noise", "core"}
IMPURE_MODULES = {"asyncio", "socket", "time", "os", "random", "threading", "secrets", "subprocess", "uvloop"}


def layer_of(relative: Path) -> str:
    first = relative.parts[0]
    return first if first in LAYERS else "leaf"


def python_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module) for every import of a Python file; ``from gateway import x`` is gateway.x."""
    package = ("gateway", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *((node.module,) if node.module else ())))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(\w+)|c?import\s+([\w.]+))")


def cython_imports(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if found := CYTHON_IMPORT.match(line):
            yield number, f"{found[1]}.{found[2]}" if found[1] else found[3]


def sources() -> list[Path]:
    return sorted(path for suffix in ("py", "pyi", "pyx", "pxd") for path in PACKAGE.rglob(f"*.{suffix}"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    return python_imports(path) if path.suffix in (".py", ".pyi") else cython_imports(path)


def faults(path: Path) -> Iterator[str]:
    relative = path.relative_to(PACKAGE)
    layer = layer_of(relative)
    for line, module in imports(path):
        parts = module.split(".")
        if layer in PURE and parts[0] in IMPURE_MODULES:
            yield f"{relative}:{line}: {layer} is pure and imports {parts[0]}"
        if parts[0] == "appliance":
            yield f"{relative}:{line}: the gateway knows of no appliance"
        if parts[0] != "gateway" or len(parts) < 2:
            continue
        target = parts[1] if parts[1] in LAYERS else "leaf"
        if target not in MAY_USE[layer] | {layer, "leaf"}:
            yield f"{relative}:{line}: {layer} imports gateway.{parts[1]}, which is above it"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    assert not list(faults(path))


def test_every_file_of_the_package_root_is_a_known_leaf() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} <= set(LEAVES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("noise/x.py", "def f():\n    import time\n"),
        ("core/x.py", "from gateway.dataplane import engine\n"),
        ("net/x.py", "from ..control import config\n"),
        ("crypto.py", "from gateway import noise\n"),
        ("dataplane/x.pyx", "from gateway.net.tun cimport Tun\n"),
    ],
)
def test_the_reader_sees_an_import_that_points_up(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert len(list(faults(path))) == 1


APPLIANCE_MAY_USE = {"update": {"update"}, "guest": {"guest", "update"}, "image": {"image", "update"}}


@pytest.mark.parametrize("part", sorted(APPLIANCE_MAY_USE))
def test_parts_of_the_appliance_point_down(part: str) -> None:
    used = set()
    for path in (ROOT / "appliance" / part).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            used |= {name.split(".")[1] for name in names if name.startswith("appliance.")}
    assert used - APPLIANCE_MAY_USE[part] == set()
    assert used, "nothing was read"

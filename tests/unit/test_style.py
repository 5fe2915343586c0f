# SPDX-License-Identifier: Apache-2.0
"""What a formatter does not see: licence line, sizes of files and functions, who may import pysodium, no machine paths.

ruff, mypy, cython-lint and clang-format run in `make lint`.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60
SOURCE_SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".sh", ".toml"}
SPDX = "SPDX-License-Identifier: Apache-2.0"
# Written in two pieces, or this file would accuse itself.
FOREIGN_PATHS = re.compile("|".join(re.escape(a + b) for a, b in (("/wo", "rk/"), ("/tmp", "/jv"))))


def project_files() -> list[Path]:
    """Everything git tracks or would track; without git (an unpacked archive) everything that is not built."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        built = {"build", ".venv", "_lib", "__pycache__", ".git"}
        files = [path for path in ROOT.rglob("*") if not built & set(path.relative_to(ROOT).parts)]
    return sorted(path for path in files if path.is_file())


FILES = project_files()
SOURCES = [path for path in FILES if path.suffix in SOURCE_SUFFIXES or path.name == "Makefile"]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def python_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (name, lines) of each function, decorators and docstring left out of the count."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            documented = ast.get_docstring(node) is not None and len(node.body) > 1
            first = node.body[1].lineno if documented else node.lineno
            yield node.name, node.end_lineno - first + 1


C_NOISE = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


def c_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (head, lines) of each top-level { } block whose head ends with ')'; comments and strings are blanked."""
    text = C_NOISE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), path.read_text())
    depth, start, head = 0, 0, 0
    for at, char in enumerate(text):
        if char == "{":
            start = at if depth == 0 else start
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0 and text[head:start].rstrip().endswith(")"):
                yield " ".join(text[head:start].split())[-70:], text[start:at].count("\n") + 1
        if depth == 0 and char in ";}":
            head = at + 1


def cython_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (head, lines) of each def by indentation: it ends before the next line indented no deeper."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        found = re.match(r"(\s*)(?:cdef|cpdef|def)\b(?!\s+(?:class|extern|struct|enum)).*\(", line)
        if not found:
            continue
        body = lines[number + 1 :]
        deeper = rf"\s{{{len(found[1])}}}\s|\s*$|\s*[)\]]"
        length = next((n for n, text in enumerate(body) if not re.match(deeper, text)), len(body))
        yield line.strip(), length + 1


READERS = {".py": python_functions, ".c": c_functions, ".h": c_functions, ".pyx": cython_functions}
WITH_FUNCTIONS = [path for path in SOURCES if path.suffix in READERS]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_licence_line(path: Path) -> None:
    lines = path.read_text().splitlines()
    head = lines[1:2] if lines and lines[0].startswith("#!") else lines[:1]
    assert head and SPDX in head[0], f"the first line must hold '{SPDX}'"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_file_size(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES_MAX


@pytest.mark.parametrize("path", WITH_FUNCTIONS, ids=relative)
def test_function_size(path: Path) -> None:
    long = [(name, lines) for name, lines in READERS[path.suffix](path) if lines > FUNCTION_LINES_MAX]
    assert not long


PYSODIUM = re.compile(r"^\s*(?:from|import)\s+pysodium\b", re.MULTILINE)


def test_one_importer_of_pysodium() -> None:
    """A second importer could load the system's library beside ours."""
    tree = {relative(path) for path in FILES if path.suffix in (".py", ".pyx")}
    importers = {name for name in tree if PYSODIUM.search((ROOT / name).read_text())}
    assert importers == {"gateway/_sodium.py"}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_paths_of_one_machine(path: Path) -> None:
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return
    found = FOREIGN_PATHS.findall(text)
    assert not found


def test_the_readers_measure_what_they_should(tmp_path: Path) -> None:
    samples = {
        "a.c": "int f(int x) /* { */\n{\n    char c = '{';\n    return x;\n}\nstruct s {\n    int y;\n};\n",
        "a.py": 'def f(x):\n    """One.\n\n    Two."""\n    y = x\n    return y\n',
        "a.pyx": "cdef int f(\n    int x,\n) except -1:\n    return x\n\ndef g():\n    pass\n",
    }
    measured = {}
    for name, text in samples.items():
        path = tmp_path / name
        path.write_text(text)
        measured[name] = [lines for _, lines in READERS[path.suffix](path)]
    assert measured == {"a.c": [4], "a.py": [2], "a.pyx": [5, 2]}

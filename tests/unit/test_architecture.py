"""The rules of the house that tools can hold: sizes, walls, and where each thing is done."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "contimg_dask"
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py"))

LINES_LIMIT = 400
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "common", "manager", "base", "misc"}

ENVIRONMENT_READERS = {
    "contimg_dask/settings/loading.py",
    "contimg_dask/settings/process.py",
}

# Where one group's failure must not end the others', whatever it is: there it becomes a record.
BROAD_EXCEPT_PLACES = ("contimg_dask/execution/", "contimg_dask/dispatching/dispatcher.py")

# Modules that may import inside a function, and why.
LATE_IMPORTS = {
    "contimg_dask/phasing.py": "pyuvdata takes 0.7 s to load, and only workers need it",
    "contimg_dask/quicklook/rendering.py": "matplotlib is an extra, and only pictures need it",
    "contimg_dask/uvh5/catalogue.py": "pyuvdata takes 0.7 s to load, and only workers need it",
}


def tree_of(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"), filename=module)


def environment_reads(tree: ast.Module) -> Iterator[int]:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=attr) if attr in names:
                yield node.lineno
            case ast.ImportFrom(module="os") if names & {alias.name for alias in node.names}:
                yield node.lineno


def broad_excepts(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {kind.id if isinstance(kind, ast.Name) else kind for kind in kinds}
            if names & {None, "Exception", "BaseException"}:
                yield node.lineno


def late_imports(tree: ast.Module) -> Iterator[int]:
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield node.lineno


def offenders(check: Callable[[ast.Module], Iterable[int]], modules: Iterable[str]) -> list[str]:
    """List the places, as path:line, at which the check finds something."""
    return [
        f"{module}:{line}" for module in modules for line in sorted(set(check(tree_of(module))))
    ]


def test_no_module_is_longer_than_the_limit() -> None:
    lines = {module: (ROOT / module).read_text(encoding="utf-8").count("\n") for module in MODULES}
    assert {module: n for module, n in lines.items() if n >= LINES_LIMIT} == {}


def test_module_names_say_something() -> None:
    parts = {module: set(Path(module).with_suffix("").parts) for module in MODULES}
    assert [module for module in MODULES if parts[module] & NAMES_THAT_SAY_NOTHING] == []


def test_modules_open_with_their_promise() -> None:
    assert [module for module in MODULES if not ast.get_docstring(tree_of(module))] == []


def test_only_settings_looks_at_environment_variables() -> None:
    assert offenders(environment_reads, set(MODULES) - ENVIRONMENT_READERS) == []


def test_only_named_errors_are_caught_where_one_can_act() -> None:
    modules = [module for module in MODULES if not module.startswith(BROAD_EXCEPT_PLACES)]
    assert offenders(broad_excepts, modules) == []


def test_imports_stand_at_the_top() -> None:
    assert offenders(late_imports, set(MODULES) - set(LATE_IMPORTS)) == []


def test_imports_go_down_only() -> None:
    # The command, not its Python interface: that one keeps state between runs.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("check", "source", "lines"),
    [
        (environment_reads, "import os\nos.environ['A']", [2]),
        (environment_reads, "import os\nos.getenv('A')", [2]),
        (environment_reads, "from os import environ", [1]),
        (environment_reads, "import os\nos.path\nself.environ", []),
        (broad_excepts, "try:\n    pass\nexcept:\n    pass", [3]),
        (broad_excepts, "try:\n    pass\nexcept Exception:\n    pass", [3]),
        (broad_excepts, "try:\n    pass\nexcept (OSError, BaseException):\n    pass", [3]),
        (broad_excepts, "try:\n    pass\nexcept (OSError, a.Error):\n    pass", []),
        (late_imports, "def f():\n    if True:\n        import os", [3]),
        (late_imports, "class C:\n    async def f(self):\n        from a import b", [3]),
        (late_imports, "import os\nif True:\n    import sys", []),
    ],
)
def test_the_checks_find_what_they_look_for(
    check: Callable[[ast.Module], Iterable[int]], source: str, lines: list[int]
) -> None:
    assert list(check(ast.parse(source))) == lines

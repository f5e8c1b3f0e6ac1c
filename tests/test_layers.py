"""Imports only point down. The table stands here as data: whoever adds a module gives it a place."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_PACKAGE = "tfjs_fetch"
_ROOT = Path(__file__).parents[1] / _PACKAGE

# From the bottom up. A layer is a row of sets; a module may import those of lower layers and of sets to its left.
_LAYERS: tuple[tuple[set[str], ...], ...] = (
    ({"redaction", "events", "config"}, {"errors", "progress"}),
    (
        {"format", "format.dtypes", "format.nesting", "format.shapes"},
        {"format.manifest"},
        {"format.layout", "format.encoding", "format.selection", "format.topology"},
        {"format.quantization"},
        {"format.decoding", "content", "urls", "freshness"},
    ),
    ({"bundle"},),
    (
        {"sinks", "dialing", "connection", "stretches", "tasks", "signals", "representation", "translation"},
        {"exchange", "planning", "files", "pieces", "origins"},
        {"direct"},
        {"transport"},
        {"bodies", "gathering"},
    ),
    (
        {"cache", "cache.folder", "cache.records"},
        {"cache.journal", "cache.place"},
        {"cache.partials"},
        {"cache.shelf"},
        {"cache.upkeep", "filing"},
    ),
    (
        {"requesting", "documents"},
        {"download", "assembly", "strings"},
        {"shards"},
        {"streams"},
        {"loading"},
        {"models"},
        {"kept"},
        {"keeping"},
        {"visits"},
        {"opening"},
        {"flights"},
    ),
    ({"client"},),
    ({"bars"},),
    ({"__init__"},),
    (
        {"cli.options", "cli.output"},
        {"cli.get", "cli.plan", "cli.cache"},
        {"cli.demo", "cli.show"},
        {"cli.app"},
        {"cli"},
        {"__main__"},
    ),
)
_RANKS = {name: rank for rank, names in enumerate(names for layer in _LAYERS for names in layer) for name in names}

# Which modules may import what does not come with Python; whatever is not listed here nobody may.
_OTHERS = {
    "numpy": {"format", "bundle", "pieces", "gathering", "cache"},
    "pydantic": {"format", "cache"},
    "platformdirs": {"cache"},
    "anyio": {
        "transport",
        "direct",
        "dialing",
        "exchange",
        "files",
        "pieces",
        "bodies",
        "gathering",
        "strings",
        "signals",
        "origins",
        "requesting",
        "download",
        "tasks",
        "streams",
        "loading",
        "models",
        "filing",
        "kept",
        "keeping",
        "visits",
        "opening",
        "client",
        "cli",
    },
    "httpx": {"transport", "direct", "exchange"},
    "h11": {"exchange"},
    "sniffio": {"exchange"},
    # The fast lane is for asyncio only; elsewhere anyio chooses.
    "asyncio": {"direct", "dialing", "connection", "exchange"},
    "rich": {"bars", "cli"},
    "click": {"bars", "cli"},
}
_WHEN_CALLED = {"rich", "click"}  # extras: in `bars`, which is in reach without them, they are imported by functions


@dataclass(frozen=True)
class Import:
    """The line `line` of `importer` names the module `target`, with the package's own name if it has one."""

    importer: str
    line: int
    target: str
    late: bool

    @property
    def top(self) -> str:
        """The name of the distribution, more or less."""
        return self.target.partition(".")[0]

    @property
    def inner(self) -> str:
        """The target inside this package, as in the table."""
        return self.target.removeprefix(_PACKAGE).removeprefix(".") or "__init__"

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}, imports {self.target}"


def modules() -> dict[str, Path]:
    """Return the files of the package by the names of the table."""
    found = {}
    for path in sorted(_ROOT.rglob("*.py")):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def imports(name: str, path: Path) -> Iterator[Import]:
    """Yield all imports of a module, late ones and those for types alone included."""
    tree = ast.parse(path.read_text("utf-8"))
    late = {inner for outer in ast.walk(tree) if _is_late(outer) for inner in ast.walk(outer)}
    for node in ast.walk(tree):
        for target in _targets(node):
            yield Import(name, getattr(node, "lineno", 0), target, node in late)


def all_imports() -> list[Import]:
    return [one for name, path in modules().items() for one in imports(name, path)]


def test_an_import_is_found_wherever_it_stands(tmp_path: Path) -> None:
    lines = [
        "import os.path, tfjs_fetch",
        "from tfjs_fetch import errors, fetch",
        "if TYPE_CHECKING: from rich import table",
        "class A:",
        "    async def method(self):",
        "        from tfjs_fetch.format.manifest import parse",
    ]
    (tmp_path / "module.py").write_text("\n".join(lines))

    found = [(one.line, one.target, one.late) for one in imports("module", tmp_path / "module.py")]

    assert sorted(found) == [
        (1, "os.path", False),
        (1, "tfjs_fetch", False),
        (2, "tfjs_fetch", False),
        (2, "tfjs_fetch.errors", False),
        (3, "rich", True),
        (6, "tfjs_fetch.format.manifest", True),
    ]


def test_every_module_has_a_place_in_the_table() -> None:
    homeless = set(modules()) - set(_RANKS)

    assert not homeless, f"give them a place in _LAYERS of tests/test_layers.py: {sorted(homeless)}"


@pytest.mark.parametrize("name", modules())
def test_imports_only_point_down(name: str) -> None:
    inside = [one for one in imports(name, modules()[name]) if one.top == _PACKAGE]

    assert not [str(one) for one in inside if _RANKS.get(one.inner, -1) >= _RANKS.get(name, -1)]


def test_imports_are_spelled_out() -> None:
    assert not [str(one) for one in all_imports() if one.target.startswith(".")]


def test_nobody_inside_imports_the_package_root() -> None:
    assert not [str(one) for one in all_imports() if one.target == _PACKAGE]


def test_other_packages_are_imported_only_where_the_table_says() -> None:
    foreign = [one for one in all_imports() if one.top not in sys.stdlib_module_names and one.top != _PACKAGE]

    assert not [str(one) for one in foreign if not _is_allowed(one)]


def test_trio_is_imported_nowhere_and_asyncio_only_by_the_fast_lane() -> None:
    asynchronous = [one for one in all_imports() if one.top in ("asyncio", "trio")]

    assert not [str(one) for one in asynchronous if one.importer not in _OTHERS.get(one.top, ())]


def test_bars_import_the_extras_only_when_they_are_called() -> None:
    extras = [one for one in imports("bars", modules()["bars"]) if one.top in _WHEN_CALLED]

    assert extras
    assert not [str(one) for one in extras if not one.late]


def test_content_needs_nothing_but_errors() -> None:
    inside = {one.inner for one in imports("content", modules()["content"]) if one.top == _PACKAGE}

    assert inside <= {"errors"}


def _is_allowed(one: Import) -> bool:
    importers = _OTHERS.get(one.top, set())
    return one.importer in importers or one.importer.partition(".")[0] in importers


def _is_late(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = "." * node.level + (node.module or "")
    # `from package import module` imports the module, not only the package.
    names = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name.removeprefix(f"{_PACKAGE}.") in _RANKS else base for name in names]

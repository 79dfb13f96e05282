"""The rooms of the package: thirteen, with imports that point downwards only and never in a circle."""

import ast
from pathlib import Path

import holdfast

ROOT = Path(holdfast.__file__).parent
# From the top down. Rooms of one floor may import each other, as long as no modules form a circle.
FLOORS = (
    {"cli", "ui", "batch", "bench"},
    {"shapeworld"},
    {"conform"},
    {"pipeline"},
    {"methods"},
    {"sampling", "models", "metrics"},  # metrics load networks (CLIP, DINO, RAFT) as models do
    {"media"},
    {"base"},
)
FLOOR = {room: height for height, rooms in enumerate(reversed(FLOORS)) for room in rooms}


def list_modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    names = {
        ".".join(("holdfast", *p.relative_to(ROOT).with_suffix("").parts)): p
        for p in ROOT.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of Holdfast that a module imports, at its top or inside a function."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {module for module in found if module in modules and module != name}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


MODULES = list_modules()
IMPORTS = {name: imports_of(name, path, MODULES) for name, path in MODULES.items()}


def test_the_package_has_thirteen_rooms_and_no_module_next_to_them():
    entries = {p.name for p in ROOT.iterdir() if not p.name.startswith("_")}
    assert entries - {"py.typed"} == set(FLOOR)


def test_imports_point_downwards():
    upward = [
        f"{name} imports {module}"
        for name, modules in IMPORTS.items()
        for module in modules
        if room_of(name) and room_of(module) and FLOOR[room_of(module)] > FLOOR[room_of(name)]
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle():
    """Remove modules that import nothing that is left, until none can be removed: what stays is in a circle."""
    is_package = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    left = {name: modules - is_package for name, modules in IMPORTS.items()}
    while free := [name for name, modules in left.items() if not modules & left.keys()]:
        for name in free:
            del left[name]
    assert not left

"""The only look-up: a module's name in its folder is its name everywhere; nothing is registered."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from truing.errors import PluginError

_ROOT = Path(__file__).parent


def names(folder: str) -> list[str]:
    """Return the sorted names of the plug-ins in `truing/<folder>/`; reads the directory, imports nothing."""
    return sorted(m.name for m in pkgutil.iter_modules([str(_ROOT / folder)]) if m.name[0] != "_")


def find(folder: str, name: str) -> tuple[str, Path]:
    """Return (module name, source file) of a built-in name, a dotted path or a path ending in `.py`.

    Raises:
        PluginError: nothing of that name exists; the message lists the nearest names.
    """
    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise PluginError(f"{folder}: no such file: {path}")
        return f"truing_user.{folder}.{path.stem}", path
    dotted = name if "." in name else f"truing.{folder}.{name}"
    if "." not in name:
        path = _ROOT / folder / f"{name}.py"
        if path.is_file() and name[0] != "_":
            return dotted, path
        near = difflib.get_close_matches(name, names(folder), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise PluginError(
            f"{folder}: unknown name '{name}'.{hint} Known: {', '.join(names(folder))}; "
            "or give a dotted path (my_package.my_module) or a path to a .py file."
        )
    try:
        spec = importlib.util.find_spec(dotted)
    except (ImportError, ValueError) as error:
        raise PluginError(f"{folder}: cannot import '{name}': {error}") from error
    if spec is None or spec.origin is None:
        raise PluginError(f"{folder}: cannot import '{name}': no such module")
    return dotted, Path(spec.origin)


def load(folder: str, name: str) -> ModuleType:
    """Return the module of a plug-in: `dapo`, `my_package.my_module` or `path/to/mine.py`."""
    module_name, path = find(folder, name)
    loaded = sys.modules.get(module_name)
    if loaded is not None and loaded.__file__ == str(path):  # two files of one's own may share a name
        return loaded
    if not name.endswith(".py"):
        return importlib.import_module(module_name)
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def config_class(folder: str, name: str) -> type[Any]:
    """Return a plug-in's `Config` class without importing torch.

    Only the class statement and the imports it uses run, so that a recipe is checked in
    milliseconds. A Config may therefore use nothing but the standard library, pydantic and
    `truing.config`; one that uses more is taken from the imported module instead.
    """
    module_name, path = find(folder, name)
    loaded = sys.modules.get(module_name)
    if loaded is not None and loaded.__file__ == str(path):
        return _config_of(loaded, folder, name)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, ValueError) as error:
        raise PluginError(f"{folder}: cannot read '{name}' ({path}): {error}") from error
    light = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom) and _is_light(n)]
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config"]
    stand_in = ModuleType(f"truing_config.{module_name}")
    sys.modules[stand_in.__name__] = stand_in  # where pydantic looks up the names in annotations
    try:
        exec(compile(ast.Module([*light, *classes], []), str(path), "exec"), vars(stand_in))
    except NameError:
        return _config_of(load(folder, name), folder, name)
    found = getattr(stand_in, "Config", None)
    if not isinstance(found, type) or not getattr(found, "__pydantic_complete__", True):
        return _config_of(load(folder, name), folder, name)
    return found


def _is_light(node: ast.Import | ast.ImportFrom) -> bool:
    modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    allowed = {"pydantic", "truing.config", "truing.errors", *sys.stdlib_module_names}
    return all(m in allowed or m.split(".")[0] in {"pydantic", *sys.stdlib_module_names} for m in modules)


def _config_of(module: ModuleType, folder: str, name: str) -> type[Any]:
    found = getattr(module, "Config", None)
    if not isinstance(found, type):
        raise PluginError(f"{folder}: '{name}' has no Config class ({module.__file__})")
    return found

"""The roles' plugins, which Ansible finds by their folders and Python does not."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROLES = Path(__file__).parents[3] / "roles"


def load(path: str) -> ModuleType:
    """The module at `path` below roles/."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), ROLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""Renders a role's template as Ansible does, with the role's real defaults and variables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[3]
Render = Callable[..., str]


@cache
def _variables(role: str) -> dict[str, Any]:
    """What a role's templates are rendered with; merged with what a test gives, never changed."""
    merged: dict[str, Any] = {}
    for part in ("defaults", "vars"):
        file = ROOT / "roles" / role / part / "main.yml"
        if file.exists():
            merged |= yaml.safe_load(file.read_text()) or {}
    return {key: _trusted(value) for key, value in merged.items()}


def _trusted(value: Any) -> Any:
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: _trusted(item) for key, item in value.items()}
    return [_trusted(item) for item in value] if isinstance(value, list) else value


@contextmanager
def _imports(finders: list[Any], hooks: list[Any]) -> Iterator[None]:
    """Python's own way to import is put back afterwards: Ansible's knows nothing of what other tests have imported."""
    before = list(sys.meta_path), list(sys.path_hooks)
    sys.meta_path[:], sys.path_hooks[:] = finders, hooks
    try:
        yield
    finally:
        sys.meta_path[:], sys.path_hooks[:] = before


@pytest.fixture(scope="session")
def render() -> Render:
    with _imports(list(sys.meta_path), list(sys.path_hooks)):
        init_plugin_loader([str(ROOT / ".ansible" / "collections")])
        ansibles = list(sys.meta_path), list(sys.path_hooks)

    def rendered(role: str, template: str, **variables: Any) -> str:
        directory = ROOT / "roles" / role / "templates"
        loader = DataLoader()
        loader.set_basedir(str(ROOT))
        defined = _variables(role) | variables | {"inventory_dir": str(ROOT)}
        defined["ansible_search_path"] = [str(directory.parent)]
        templar = Templar(loader=loader, variables=defined).copy_with_new_env(searchpath=[str(directory)])
        with _imports(*ansibles):
            return str(templar.template(trust_as_template((directory / template).read_text())))

    return rendered

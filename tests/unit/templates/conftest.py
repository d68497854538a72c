"""Renders a role's template as Ansible does, with the role's real defaults and variables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[3]
Render = Callable[..., str]


def _variables(role: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in ("defaults", "vars"):
        file = ROOT / "roles" / role / part / "main.yml"
        if file.exists():
            merged |= yaml.safe_load(file.read_text()) or {}
    return merged


def _trusted(value: Any) -> Any:
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: _trusted(item) for key, item in value.items()}
    return [_trusted(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def render() -> Render:
    init_plugin_loader([str(ROOT / ".ansible" / "collections")])

    def rendered(role: str, template: str, **variables: Any) -> str:
        directory = ROOT / "roles" / role / "templates"
        loader = DataLoader()
        loader.set_basedir(str(ROOT))
        defined = _trusted(_variables(role)) | variables | {"inventory_dir": str(ROOT)}
        defined["ansible_search_path"] = [str(directory.parent)]
        templar = Templar(loader=loader, variables=defined)
        templar.environment.loader.searchpath = [str(directory)]
        return str(templar.template(trust_as_template((directory / template).read_text())))

    return rendered

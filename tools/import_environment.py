"""Print the `environment` block of an application's file from the `.env.example` of its repository.

    python tools/import_environment.py ../shop/.env.example

Keys whose names say that nobody may read them, and URLs that hold a password, go to `required` and `secret`, without
what the example gives as their value; all others go to `values` with it. Look through it: what is empty may stay so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
# A checkout has a link to itself by the name that the library imports; an installed collection lies where it is one.
INSTALLED = ROOT.parent.parent.name == "ansible_collections"
sys.path.insert(0, str(ROOT.parents[2] if INSTALLED else ROOT / ".ansible" / "collections"))

from ansible_collections.backstay.ops.plugins.module_utils._application import PROVIDED
from ansible_collections.backstay.ops.plugins.module_utils._environment import parse
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError

SECRET_NAME = re.compile(r"(^|_)(KEY|SECRET|PASSWORD|PASSWD|PASS|TOKEN|CREDENTIALS?|DSN)(_|$)", re.IGNORECASE)
SECRET_VALUE = re.compile(r"://[^/@\s]*:[^/@\s]+@")


def block(example: Mapping[str, str]) -> dict[str, Any]:
    """The keys of an example, but those that Backstay provides, as the application's file wants them. Pure."""
    own = {key: value for key, value in example.items() if key not in PROVIDED}
    secret = [key for key, value in own.items() if SECRET_NAME.search(key) or SECRET_VALUE.search(value)]
    values = {key: value for key, value in own.items() if key not in secret}
    return {"values": values, "required": secret, "secret": list(secret)}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.exit("import_environment: name one file, such as ../shop/.env.example.")
    try:
        example = parse(Path(arguments[0]).read_text(encoding="utf-8"), file=arguments[0])
    except (OSError, UnicodeDecodeError) as broken:
        sys.exit(f"import_environment: {arguments[0]} cannot be read ({broken}): correct the path.")
    except InputError as refused:
        sys.exit(f"import_environment: {refused}")
    print(yaml.safe_dump({"environment": block(example)}, sort_keys=False, allow_unicode=True), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

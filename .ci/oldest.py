"""Print constraints that pin every dependency to its lower bound in pyproject.toml."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
# Tools that read the code instead of running it are always the newest.
tools = {"mypy", "ruff"}
for requirement in sorted({*project["dependencies"], *(one for extra in extras.values() for one in extra)}):
    found = re.fullmatch(r"([A-Za-z0-9-]+)>=([0-9.]+)", requirement)
    if found and found[1] not in tools:
        print(f"{found[1]}=={found[2]}")

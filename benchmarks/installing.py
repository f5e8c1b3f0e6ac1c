"""What the benchmarks need beside Python and the package: where it is, and how it gets there."""

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import nginx

_PROGRAMS = {"nginx": "nginx", "curl": "curl", "aria2c": "aria2", "node": "nodejs", "npm": "npm"}
_PACKAGES = ("aiohttp", "obstore", "pooch", "safetensors")
_TFJS = "@tensorflow/tfjs"
_TFJS_VERSION = "4.22.0"


def install_peers() -> None:
    """Install what is missing: packages beside this Python, programs by apt-get, TensorFlow.js in a cache."""
    if packages := [name for name in _PACKAGES if not has_package(name)]:
        _run([sys.executable, "-m", "pip", "install", "--quiet", *packages])
        importlib.invalidate_caches()
    if programs := [package for name, package in _PROGRAMS.items() if program(name) is None]:
        _run(["apt-get", "-qq", "update"])
        _run(["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *programs])
    if node_modules() is None:
        options = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(_cache())]
        _run(["npm", "install", *options, f"{_TFJS}@{_TFJS_VERSION}"])


def program(name: str) -> str | None:
    """Return where a program is, None if it is not installed."""
    return nginx.program() if name == "nginx" else shutil.which(name)


def has_package(name: str) -> bool:
    """Whether a Python package is installed."""
    return importlib.util.find_spec(name) is not None


def node_modules() -> Path | None:
    """Return the node_modules with TensorFlow.js: that which TFJS_FETCH_NODE_MODULES names, else that in the cache."""
    given = os.environ.get("TFJS_FETCH_NODE_MODULES")
    directory = Path(given) if given else _cache() / "node_modules"
    return directory if (directory / _TFJS).is_dir() else None


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tfjs-fetch-benchmarks"


def _run(command: Sequence[str]) -> None:
    """Run a command that installs something; what fails to come is left out later."""
    print("$", *command, flush=True)
    try:
        subprocess.run(command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"that failed: {error}", flush=True)

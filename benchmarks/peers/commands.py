"""Programs that download the files of a model to disk: curl and aria2c, eight transfers at a time.

Their clock runs from the start of the process to its end; they are not asked for arrays, nor for the memory they take.
"""

import hashlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contest import SECONDS, Run

_TRANSFERS = "8"


def curl(program: str, base: str, paths: Sequence[str], with_digest: bool) -> Run:
    """Download with `curl -Z`."""
    files = [f'url = "{base}{path}"\noutput = "{path}"' for path in paths]
    command = [program, "--no-progress-meter", "--fail", "-Z", "--parallel-max", _TRANSFERS, "--config", "-"]
    return _download(command, "\n".join(files), paths, with_digest)


def aria2c(program: str, base: str, paths: Sequence[str], with_digest: bool) -> Run:
    """Download with aria2c."""
    command = [program, "--quiet", "-j", _TRANSFERS, "--input-file=-"]
    return _download(command, "\n".join(base + path for path in paths), paths, with_digest)


def _download(command: Sequence[str], files: str, paths: Sequence[str], with_digest: bool) -> Run:
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        with subprocess.Popen(command, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            hung = threading.Timer(SECONDS, process.kill)
            hung.start()
            assert process.stdin is not None
            process.stdin.write(files.encode())
            process.stdin.close()
            _, status, usage = os.wait4(process.pid, 0)
            hung.cancel()
            process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        digest = _digest(Path(directory), paths) if with_digest else None
    return Run(wall, usage.ru_utime + usage.ru_stime, None, digest)


def _digest(directory: Path, paths: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update((directory / path).read_bytes())
    return digest.hexdigest()

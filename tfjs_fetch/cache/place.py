"""Where a cache is on this machine."""

import os
from pathlib import Path

import platformdirs

from tfjs_fetch.cache.folder import Folder

_VARIABLE = "TFJS_FETCH_CACHE"


def folder_of(directory: str | os.PathLike[str] | None) -> Folder:
    """Return the cache in `directory`, else in that which the environment names, else in the user's own."""
    given = directory if directory is not None else os.environ.get(_VARIABLE) or None
    return Folder(Path(given).expanduser() if given is not None else Path(platformdirs.user_cache_dir("tfjs_fetch")))

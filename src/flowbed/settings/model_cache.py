"""Where files made from the weights of local models are kept: once per user, or in the project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from flowbed.settings.project import Settings

MODELS = "models"


def model_cache(config: Settings, *, folder: Path, hidden: Path) -> Path:
    """Return the folder of graphs and digests of local models.

    It is `model_cache`, relative to the project's `folder`, or `flowbed/models` in the user's cache. Where there is no
    home that can be written, and where the project has graphs already, it is `models` in the project's `hidden` folder.
    Nothing is created.

    Raises:
        Misconfigured: the setting begins with the home folder of a user that does not exist.
    """
    if config.model_cache:
        try:
            return folder / Path(config.model_cache).expanduser()
        except RuntimeError as error:
            raise Misconfigured(
                f"model_cache = {config.model_cache!r}: {error}; write the whole path"
            ) from error
    from platformdirs import user_cache_path  # only processes that open a model need it

    own, shared = hidden / MODELS, user_cache_path("flowbed", appauthor=False) / MODELS
    return shared if _can_be_written(shared) and not any(own.glob("*.onnx")) else own


def _can_be_written(folder: Path) -> bool:
    """Return whether this process may create files in a folder that need not exist yet."""
    try:
        # Nothing of a relative path may exist.
        nearest = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    except PermissionError:  # one of them cannot be entered
        return False
    # A home that does not exist is none, even where root could create it.
    return nearest != nearest.parent and nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)

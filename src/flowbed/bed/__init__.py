"""`Flowbed`, one open project: each method calls the step that does the work, and loads what that step needs."""

from flowbed.bed.opening import Flowbed, Opening, aopen, examine, look_through

__all__ = ["Flowbed", "Opening", "aopen", "examine", "look_through"]

"""Run by Python itself when it starts, if this folder is on its path. Without orders it does nothing."""

from __future__ import annotations

import os

if "CONDENSE_KILL" in os.environ:
    import kill_points

    kill_points.install(os.environ["CONDENSE_KILL"])

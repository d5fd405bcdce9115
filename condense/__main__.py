"""``python -m condense``: the command line."""

from __future__ import annotations

from condense.cli import main

if __name__ == "__main__":
    main()

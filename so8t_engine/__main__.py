"""``python -m so8t_engine``: the same commands as ``so8t``."""

from __future__ import annotations

import sys

from so8t_engine.cli import main

if __name__ == "__main__":
    sys.exit(main())

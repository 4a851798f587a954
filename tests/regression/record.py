"""Record what test_unchanged.py compares with: python tests/regression/record.py [FILE].

Only on purpose: a record made after a change contains the change. The settings in configs/ are not
recorded again: they keep the former names that they were written with.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def main() -> int:
    """Run the tests so that they record their results."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "recorded.json").resolve()
    target.unlink(missing_ok=True)
    os.environ["DDPM_TESTS_RECORD"] = str(target)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(HERE.parent.parent)
    return pytest.main(["-n", "0", "-p", "no:cacheprovider", str(HERE / "test_unchanged.py")])


if __name__ == "__main__":
    sys.exit(main())

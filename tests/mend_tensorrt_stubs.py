"""Put tensorrt-stubs where mypy finds them, mended: `make check` runs this.

They were generated from the C++ bindings, and have arguments that Python has no syntax for: one is
called ``in``, and one without a default follows others that have one.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

MENDS = [(r"\bin: ", "in_: "), (r"(\w+: Weights = None, channel_axis: int)\)", r"\1 = ...)")]


def mend(folder: Path) -> None:
    """Write the mended stubs to ``folder``."""
    for file in metadata.files("tensorrt-stubs") or []:
        if file.suffix != ".pyi":
            continue
        text = Path(str(file.locate())).read_text()
        for wrong, right in MENDS:
            text = re.sub(wrong, right, text)
        place = folder / str(file)
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)


if __name__ == "__main__":
    mend(Path(sys.argv[1]))

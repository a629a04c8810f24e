"""Where a benchmark's figures go: a JSON file with machine, versions and date beside them."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pitstop.runtime.machine.system import this_machine

RESULTS = Path(__file__).parent / "results"


def record(name: str, figures: Mapping[str, Any]) -> Path:
    """Write ``results/NAME.json``, with the command that was run, and return its path."""
    content = {
        "command": shlex.join(["python", f"benchmarks/{name}.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": dataclasses.asdict(this_machine()),
        "figures": figures,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path

"""Load time and peak memory of one contender, in a process of its own.

In the benchmark's own process all contenders share one heap, and each library is loaded already.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .contender import Contender
from .open_contender import open_contender
from .timed_run import time_run

STATUS = Path("/proc/self/status")
USED = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class Fresh:
    """What a contender costs a process that does nothing else.

    Attributes:
        load_seconds: From the bundle's folder, or the checkpoint's file, to a denoiser that is
            open: hashes and the imports of its library included, Python's own start not.
        peak_memory_bytes: The most main memory that the process ever held, libraries included;
            None where the system does not tell.
        device_memory_bytes: The most memory of the GPU that PyTorch held, or what all GPUs held
            more after the run than before; None where there is no GPU.
    """

    load_seconds: float
    peak_memory_bytes: int | None
    device_memory_bytes: int | None


def measure_fresh(contender: Contender, steps: int) -> Fresh | str:
    """Have a new process open ``contender`` and draw one group of images with it.

    Returns:
        What that cost, or why it did not come to an end.
    """
    asked = [sys.executable, "-m", __name__, contender.to_json(), str(steps)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        return told[-1]
    return Fresh(**json.loads(done.stdout.splitlines()[-1]))


def measure_here(contender: Contender, steps: int) -> Fresh:
    """What the new process does; its peaks are those of all that ran in it before, too."""
    before = gpu_used_bytes()
    start = time.perf_counter()
    opened = open_contender(contender)
    seconds = time.perf_counter() - start
    time_run(opened, steps)
    device = None if before is None else (gpu_used_bytes() or before) - before
    if contender.is_torch:
        from .torch_rows import device_peak_bytes

        device = device_peak_bytes()
    return Fresh(seconds, peak_memory_bytes(), device)


def peak_memory_bytes() -> int | None:
    """This process's high-water mark.

    Not ``ru_maxrss``, which a new process takes over from the one that started it.
    """
    if not STATUS.is_file():
        return None
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) * 1024 if "VmHWM" in fields else None


def gpu_used_bytes() -> int | None:
    """Memory in use on all NVIDIA GPUs together, by whomever; None where none is shown."""
    if shutil.which(USED[0]) is None:
        return None
    done = subprocess.run(USED, capture_output=True, text=True, check=False)
    used = [int(line) for line in done.stdout.split() if line.isdecimal()]
    return sum(used) << 20 if used and done.returncode == 0 else None


if __name__ == "__main__":
    measured = measure_here(Contender.from_json(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.write(json.dumps(vars(measured)) + "\n")

"""A build in a process of its own, so that one which is killed becomes a message.

The child tells of its progress through a pipe, in lines of JSON. It ends with its parent, and the
system kills it first where memory runs out.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from ... import EngineError, PitstopError
from ...runtime.backends import import_builder
from ...runtime.builder import BuildRequest, OnPhase
from ...runtime.machine.system import this_machine

PR_SET_PDEATHSIG = 1  # of prctl
LINES = 3  # of what a child that broke had to say
NEEDS_LESS = (
    "Close other programs or add swap, ask for less with `--optimization-level 1` or "
    "`--workspace 512`, or build a smaller batch"
)


def build_apart(request: BuildRequest, on_phase: OnPhase) -> None:
    """Build an engine in a child process.

    Raises:
        EngineError: The graph was refused, or the child was killed or broke.
    """
    free = this_machine().free_bytes
    with tempfile.TemporaryFile("w+", errors="replace") as said:  # a full pipe would stop the child
        code, refused = _watch_child(request, on_phase, said)
        said.seek(0)
        words = said.read()
    if refused is not None:
        raise refused
    if code:
        raise broken(request, code, words, free)


def _watch_child(
    request: BuildRequest, on_phase: OnPhase, said: IO[str]
) -> tuple[int, EngineError | None]:
    """Run the child to its end: its exit code, and why it refused, if it said so."""
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, str(writing), request.to_json()],
        pass_fds=[writing],
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.STDOUT,
    )
    os.close(writing)
    refused = None
    try:
        with os.fdopen(reading, encoding="utf-8") as lines:
            for line in lines:
                event = json.loads(line)
                if "phase" in event:
                    on_phase(event["phase"], event["done"], event["steps"])
                else:
                    refused = EngineError(event["problem"], event["remedy"])
        return child.wait(), refused
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()


def broken(request: BuildRequest, code: int, said: str, free: int | None) -> EngineError:
    """What became of a child that ended without a word."""
    memory = f"{free / 1e9:.1f} GB of memory were free when it began" if free else "of this machine"
    if code == -signal.SIGKILL:
        return EngineError(
            f"The build of {request.graph} was killed, as the system does when memory runs out; "
            f"{memory}",
            NEEDS_LESS,
        )
    if code < 0:
        name = signal.Signals(-code).name
        return EngineError(f"The build of {request.graph} died of {name}; {memory}", NEEDS_LESS)
    last = " ".join(said.strip().splitlines()[-LINES:]) or f"exit code {code}"
    return EngineError(f"The build of {request.graph} broke: {last}", "Report it with this message")


def main(pipe: int, facts: str) -> None:
    """The child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent ends this one
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    Path("/proc/self/oom_score_adj").write_text("1000")
    request = BuildRequest.from_json(facts)
    with os.fdopen(pipe, "w", encoding="utf-8") as lines:

        def tell(**event: object) -> None:
            lines.write(json.dumps(event) + "\n")
            lines.flush()

        def on_phase(name: str, done: int, steps: int) -> bool:
            tell(phase=name, done=done, steps=steps)
            return True

        try:
            import_builder(request.builder).build(request, on_phase)
        except PitstopError as error:
            tell(problem=error.problem, remedy=error.remedy)
        except OSError as error:
            tell(
                problem=f"{request.plan} cannot be written ({error.strerror or error})",
                remedy="Free some space there, or copy the bundle to where there is more",
            )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

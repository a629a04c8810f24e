"""Damaged and odd input, seeded: every command must end in a result or in one line.

Each case damages one thing, runs a command on it, and is looked at: no traceback, no exit code but
0, 1 and 2, one line of message where it is 2, no success over a changed byte of a bundle, no file
outside the case's own folder, no code of a file run, and an end within seconds. A case is named by
its seed and number, and `--case` runs one again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
from click.testing import CliRunner, Result
from PIL import Image
from record import record

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bundle_helpers import toy_manifest, write_bundle
from checkpoint_helpers import tiny_checkpoint
from damage import (
    ODD_WORDS,
    damage_bytes,
    damage_json,
    damage_safetensors,
    hostile_pickle,
)

from pitstop.cli import main as pitstop
from pitstop.runtime.bundle.folder import sha256

LIMIT = 30  # seconds of a case
CANARY = "code-ran"
STAGE = re.compile(r", (done in )?\d+:\d\d:\d\d( left)?$")  # what is said of long stages
OPTIONS = (
    "--label", "--num", "--steps", "--sampler", "--cfg-scale", "--eta", "--seed", "--precision",
    "--backend", "--provider", "--threads", "--json",
)  # fmt: skip


class Hang(Exception):
    """A case did not end."""


class Case:
    """One case's folder, what it starts from, and its own random numbers."""

    def __init__(self, folder: Path, sources: Path, seed: int, number: int) -> None:
        self.folder, self.sources = folder, sources
        self.random = random.Random(f"{seed} {number}")

    def bundle(self) -> Path:
        return Path(shutil.copytree(self.sources / "toy", self.folder / "toy"))

    def a_file(self, bundle: Path) -> Path:
        """One of a bundle's files, but not its manifest."""
        files = [path for path in sorted(bundle.rglob("*")) if path.name != "manifest.json"]
        return self.random.choice(files)

    def generate(self, bundle: Path) -> Result:
        few = ("--num", "1", "--steps", "2")
        return self.run("generate", bundle, "--out", self.folder / "out", *few)

    def pictures(self) -> list[Path]:
        return sorted((self.folder / "out").glob("*.png"))

    def run(self, *arguments: object) -> Result:
        signal.alarm(LIMIT)
        result = CliRunner().invoke(pitstop, [str(argument) for argument in arguments])
        signal.alarm(0)
        if isinstance(result.exception, Hang):
            raise result.exception
        return result


def changed_manifest(case: Case) -> list[Result]:
    """A field of the manifest is another; all hashes are right."""
    bundle = case.bundle()
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    for _ in range(case.random.choice([1, 1, 2])):
        content = damage_json(content, case.random)
    path.write_bytes(json.dumps(content).encode("utf-8", "surrogatepass"))
    return [case.run("inspect", bundle), case.generate(bundle)]


def changed_file(case: Case) -> list[Result]:
    """A file of the bundle is damaged, and the manifest knows nothing: that must be noticed."""
    bundle = case.bundle()
    whole = case.generate(bundle)
    drawn = {picture.name: _pixels(picture) for picture in case.pictures()}
    shutil.rmtree(case.folder / "out")
    path = case.a_file(bundle)
    before = path.read_bytes()
    path.write_bytes(damage_bytes(before, case.random))
    inspected, again = case.run("inspect", bundle), case.generate(bundle)
    if path.read_bytes() != before:
        opened = path.suffix == ".onnx"  # the toy's graphs are all needed to draw; goldens are not
        if inspected.exit_code == 0 or (again.exit_code == 0 and opened):
            raise AssertionError(f"success over a changed {path.name}")
        if any(_pixels(picture) != drawn[picture.name] for picture in case.pictures()):
            raise AssertionError(f"another picture over a changed {path.name}")
    return [whole, inspected, again]


def broken_inside(case: Case) -> list[Result]:
    """A file of the bundle is damaged, and the manifest has its new hash."""
    bundle = case.bundle()
    manifest = json.loads((bundle / "manifest.json").read_text())
    path = case.a_file(bundle)
    path.write_bytes(damage_bytes(path.read_bytes(), case.random))
    manifest["files"][path.relative_to(bundle).as_posix()] = sha256(path)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return [case.run("inspect", bundle), case.generate(bundle), case.run("compare", bundle)]


def odd_options(case: Case) -> list[Result]:
    """Options of `generate` that are odd alone or together."""
    chosen = case.random.sample(OPTIONS, case.random.randrange(1, 4))
    words = []
    for option in chosen:
        word = case.random.choice(ODD_WORDS)
        words += [option, str(case.folder / "figures.json") if option == "--json" else word]
    if "--num" not in chosen:
        words += ["--num", "1"]
    if "--steps" not in chosen:
        words += ["--steps", "2"]
    return [case.run("generate", case.bundle(), "--out", case.folder / "out", *words)]


def damaged_checkpoint(case: Case) -> list[Result]:
    """A checkpoint whose bytes or header are damaged."""
    content = (case.sources / "tiny.safetensors").read_bytes()
    damage = case.random.choice([damage_bytes, damage_safetensors, damage_safetensors])
    path = case.folder / "tiny.safetensors"
    path.write_bytes(damage(content, case.random))
    return [case.run("inspect", path)]


def damaged_pickle(case: Case) -> list[Result]:
    """A PyTorch file that is damaged, or would run code."""
    path = case.folder / case.random.choice(["model.pt", "model.ckpt", "model.pth"])
    if case.random.random() < 0.3:
        path.write_bytes(hostile_pickle(case.sources.parent / CANARY))
    else:
        content = (case.sources / "tiny.pt").read_bytes()
        path.write_bytes(damage_bytes(content, case.random))
    return [case.run("inspect", path)]


def odd_picture(case: Case) -> list[Result]:
    """Something that is no whole picture lies where one is to be drawn."""
    bundle = case.bundle()
    first = case.generate(bundle)
    drawn = {path: _pixels(path) for path in case.pictures()}
    for path in drawn:
        path.write_bytes(damage_bytes(path.read_bytes(), case.random))
    again = case.generate(bundle)
    if again.exit_code != 0:
        raise AssertionError(f"not drawn again: {again.stderr}")
    if {path: _pixels(path) for path in drawn} != drawn:
        raise AssertionError("another picture than before")
    return [first, again]


def _pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


KINDS: list[tuple[Callable[[Case], list[Result]], int]] = [
    (changed_manifest, 35),
    (changed_file, 15),
    (broken_inside, 15),
    (odd_options, 15),
    (damaged_checkpoint, 12),
    (damaged_pickle, 5),
    (odd_picture, 3),
]


def run_case(sources: Path, seed: int, number: int) -> tuple[str, str | None]:
    """Run a case: its kind, and what is wrong, or None."""
    with tempfile.TemporaryDirectory(dir=sources.parent) as folder:
        place = Path(folder) / "case"
        place.mkdir()
        case = Case(place, sources, seed, number)
        kind = case.random.choices(*zip(*KINDS, strict=True))[0]
        before = _outside(Path(folder), sources)
        signal.signal(signal.SIGALRM, _hang)
        os.chdir(place)
        try:
            wrong = next(filter(None, map(_look_at, kind(case))), None)
        except Hang:
            wrong = f"it did not end in {LIMIT} s"
        except AssertionError as error:
            wrong = str(error)
        finally:
            os.chdir(sources)
        if wrong is None and _outside(Path(folder), sources) != before:
            wrong = "a file outside the case's folder"
        return kind.__name__, wrong


def _hang(signum: int, frame: object) -> None:
    raise Hang


def _outside(folder: Path, sources: Path) -> set[str]:
    return {path.name for path in (*folder.iterdir(), *sources.iterdir())}


def _look_at(result: Result) -> str | None:
    """What is wrong with how a command ended."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        lines = "".join(traceback.format_exception(result.exception)).strip().splitlines()
        return " | ".join(line.strip() for line in lines[-4:])
    if result.exit_code not in {0, 1, 2}:
        return f"exit code {result.exit_code}"
    if result.exit_code == 2:
        lines = [line for line in result.stderr.splitlines() if not STAGE.search(line)]
        usage = lines and lines[0].startswith("Usage: ")
        if not usage and len(lines) != 1:
            return f"{len(lines)} lines: {lines[:3]}"
    if "\x1b" in result.stdout or "\x1b" in result.stderr:
        return "a terminal's command was printed"
    return None


def _run_many(task: tuple[Path, int, range]) -> list[tuple[str, int, str | None]]:
    """Some cases, one after the other: the kind, number and fault of each."""
    sources, seed, numbers = task
    done = []
    for number in numbers:
        kind, wrong = run_case(sources, seed, number)
        done.append((kind, number, wrong))
    return done


def make_sources(folder: Path) -> Path:
    """What cases start from."""
    import torch

    folder.mkdir()
    write_bundle(folder / "toy", toy_manifest(split=True))
    tiny_checkpoint(folder / "tiny.safetensors")
    torch.save({"model": {"weight": torch.zeros(4, 4)}}, folder / "tiny.pt")
    return folder


@click.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--cases", default=20_000, show_default=True)
@click.option("--case", type=int, help="Run one case alone.")
@click.option("--keep", is_flag=True, help="Write the figures to results/fuzz.json.")
def main(seed: int, cases: int, case: int | None, keep: bool) -> None:
    """Run the cases on all cores, and end with 1 where one is wrong."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        sources = make_sources(Path(folder) / "sources")
        numbers = range(cases) if case is None else range(case, case + 1)
        parts = [(sources, seed, numbers[k : k + 100]) for k in range(0, len(numbers), 100)]
        count, wrong = Counter[str](), []
        with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
            for done in pool.imap_unordered(_run_many, parts):
                for kind, number, why in done:
                    count[kind] += 1
                    if why is not None:
                        wrong.append(f"{kind}, --seed {seed} --case {number}: {why}")
                        click.echo(wrong[-1])
            pool.close()  # a child that is stopped would say so
            pool.join()
        if (sources.parent / CANARY).exists():
            wrong.append("the code of a file ran")
    seconds = time.monotonic() - started
    click.echo(
        f"{sum(count.values()):,} cases in {seconds:.0f} s, {len(wrong)} wrong; {dict(count)}"
    )
    if keep:
        figures = {"seed": seed, "cases": dict(count), "wrong": wrong, "seconds": seconds}
        click.echo(record("fuzz", figures))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

from cli_helpers import run

from pitstop.export.target import TARGETS
from pitstop.models.presets import PRESETS
from pitstop.runtime.backends import backend_names
from pitstop.runtime.sampling.samplers import FLOW_SAMPLERS, SAMPLERS

BRACES = re.compile(r"(\w+)-\{([\w,]+)\}-(\{[\d,]+\}|\d)")


def test_every_name_that_commands_take_is_listed(tmp_path: Path) -> None:
    result = run("presets", "--json", tmp_path / "names.json")

    assert result.exit_code == 0, result.output
    said = set(re.split(r"[\s,]+", result.output))
    assert said >= {*TARGETS, "auto", *backend_names(), *SAMPLERS, *FLOW_SAMPLERS}
    figures = json.loads((tmp_path / "names.json").read_text())
    assert [preset["name"] for preset in figures["presets"]] == [*PRESETS]
    assert [preset["name"] for preset in figures["presets"] if preset["trained"]] == ["fashion"]
    assert {*figures["targets"]} == {*TARGETS}


def test_without_pytorch_the_rest_is_listed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from pitstop.cli import main; main(['presets'])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "pip install 'pitstop[export]'" in done.stdout
    assert "target portable" in done.stdout


def test_the_help_of_export_names_presets_and_targets() -> None:
    said = " ".join(run("export", "--help").output.split()).replace("- ", "-")

    for target in TARGETS:
        assert target in said
    named = {"fashion"}
    for arch, sizes, patches in BRACES.findall(said):
        each = itertools.product(sizes.split(","), patches.strip("{}").split(","), ("", "-512"))
        named |= {f"{arch}-{size}-{patch}{suffix}" for size, patch, suffix in each}
    assert named == {*PRESETS}

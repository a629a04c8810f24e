"""The commands of ``docs/serve.md``, run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from bundle_helpers import toy_manifest, with_label, write_bundle
from server_helpers import serving_bundle

from pitstop.cli.serve import serve

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
EXAMPLES = [block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "curl" in block]
FIELDS = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    manifest = with_label(toy_manifest(batch=4), names=("sneaker", "bag", "shirt"))
    said = []
    with serving_bundle(write_bundle(tmp_path / "toy", manifest)) as client:
        for example in EXAMPLES:
            command = example.replace("curl -s", "curl -fs").replace(":8000", f":{client.port}")
            done = subprocess.run(
                ["bash", "-ec", command], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (command, done.stderr)
            said.append(done.stdout)

    assert len(said) == 4
    assert (tmp_path / "sneaker.png").read_bytes().startswith(b"\x89PNG")
    assert said[1].count("/v1/images/by-id/") == 2
    assert said[2].count("event: image_generation.completed") == 1
    assert all(
        word in said[3] for word in ('"ok"', '"ready"', '"sneaker"', "pitstop_queue", "3.1.0")
    )


def test_the_page_names_every_field_and_option() -> None:
    from pitstop.server.asked import FIELDS as TAKEN

    assert set(TAKEN) == FIELDS
    own = {"host", "queue", "token_file", "grace", "batching", "max_images", "max_steps"}
    options = {param.name: param.opts[0] for param in serve.params}
    assert own <= set(options)
    assert all(options[name] in PAGE for name in own)

"""The API as a client sees it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundle_helpers import LABELS, toy_manifest, with_decoder, write_bundle
from server_helpers import Client, serving_bundle

from pitstop.runtime.image import read_parameters
from pitstop.server.asked import FIELDS

SMALL = {"label": 1, "seed": 7, "steps": 4}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    bundle = tmp_path_factory.mktemp("serve") / "toy"
    write_bundle(bundle, toy_manifest(batch=4, split=True))
    with serving_bundle(bundle) as client:
        yield client


def test_an_image_is_a_png_that_says_what_drew_it(client: Client, tmp_path: Path) -> None:
    [png] = client.pngs({**SMALL, "cfg_scale": 2.5, "sampler": "dpmpp_2m"})

    (tmp_path / "a.png").write_bytes(png)
    told = read_parameters(tmp_path / "a.png")
    assert told is not None
    assert (told["label"], told["label_name"], told["seed"]) == (1, "shoe", 7)
    assert (told["steps"], told["cfg_scale"], told["sampler"]) == (4, 2.5, "dpmpp_2m")


def test_several_images_have_seeds_that_count_up_and_the_answer_says_the_settings(
    client: Client,
) -> None:
    status, headers, body = client.post({**SMALL, "n": 3})

    content = json.loads(body)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert [one["seed"] for one in content["data"]] == [7, 8, 9]
    assert content["label_name"] == "shoe"
    assert content["settings"]["steps"] == 4
    alone = [client.pngs({**SMALL, "seed": seed})[0] for seed in (7, 8, 9)]
    assert [base64.b64decode(one["b64_json"]) for one in content["data"]] == alone


@pytest.mark.parametrize("fields", [{"prompt": "shoe"}, {"label": "shoe"}, {"label": 1}])
def test_a_class_goes_by_prompt_label_name_or_number(client: Client, fields: object) -> None:
    assert client.pngs({**SMALL, "label": None, **fields}) == client.pngs(SMALL)  # type: ignore[dict-item]


def test_without_a_seed_one_is_drawn_that_draws_the_image_again(client: Client) -> None:
    _, _, body = client.post({"label": 1, "steps": 4})
    [one] = json.loads(body)["data"]
    assert client.pngs({**SMALL, "seed": one["seed"]}) == [base64.b64decode(one["b64_json"])]


def test_a_url_gives_the_image_and_no_other_id_does(client: Client) -> None:
    _, _, body = client.post({**SMALL, "response_format": "url"})
    [one] = json.loads(body)["data"]
    start, path = one["url"].split("/v1/")
    assert start == f"http://127.0.0.1:{client.port}"

    status, headers, png = client.ask("GET", f"/v1/{path}")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert [png] == client.pngs(SMALL)
    assert client.ask("GET", f"/v1/{path[:-1]}")[0] == 404


def events(body: bytes) -> list[tuple[str, dict[str, object]]]:
    parts = [part.split("\n", 1) for part in body.decode().split("\n\n") if part]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in parts
    ]


def test_a_stream_shows_steps_and_ends_with_the_image(client: Client) -> None:
    status, headers, body = client.post({**SMALL, "stream": True, "partial_images": 3})

    told = events(body)
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    assert told[-1][0] == "image_generation.completed"
    assert base64.b64decode(str(told[-1][1]["b64_json"])) == client.pngs(SMALL)[0]
    previews = [content for name, content in told if name == "image_generation.partial_image"]
    assert len(previews) == len(told) - 1
    steps = [content["step"] for content in previews]
    assert steps == sorted(set(steps))  # type: ignore[type-var]
    assert set(steps) <= {1, 2, 3}
    for content in previews:
        assert base64.b64decode(str(content["b64_json"])).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({}, "label", "by prompt or by label"),
        ({"label": 1, "prompt": "shoe"}, "label", "by prompt or by label"),
        ({"prompt": "a red shoe on a table"}, "prompt", "'a red shoe on a table' is none of them"),
        ({"label": 3}, "label", "Give a number from 0 to 2"),
        ({"label": True}, "label", "label is True. Give a whole number or a text."),
        ({"label": 1, "n": 0}, "n", "n is 0. Choose at least 1."),
        ({"label": 1, "n": 17}, "n", "n is 17. Choose at most 16."),
        ({"label": 1, "n": 10**30}, "n", "Choose at most 16."),
        ({"label": 1, "steps": 251}, "steps", "Choose at most 250."),
        ({"label": 1, "size": "512x512"}, "size", "This server has 8x8."),
        ({"label": 1, "seed": 2**64}, "seed", "Choose at most 18446744073709551615."),
        ({"label": 1, "seed": 2**64 - 1, "n": 2}, "seed", "Choose at most"),
        ({"label": 1, "sampler": "ddmi"}, "sampler", "There is no sampler called 'ddmi'."),
        ({"label": 1, "cfg_scale": -1}, "cfg_scale", "Choose at least 0."),
        ({"label": 1, "calls": 60}, "calls", "Choose at most 50 calls"),
        ({"label": 1, "quality": "hd"}, "quality", "There is no field 'quality'."),
        ({"label": 1, "partial_images": 2}, "partial_images", "goes with stream"),
        ({"label": 1, "response_format": "file"}, "response_format", "Choose b64_json or url."),
        ({"label": "x" * 300}, "label", "label has 300 letters."),
        ({"label": "\ud800\x1b[2J"}, "label", "is none of them"),
    ],
)
def test_what_the_model_does_not_have_is_refused_by_name(
    client: Client, fields: object, param: str, said: str
) -> None:
    error = client.refused(fields)
    assert said in error["message"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


def test_another_model_is_not_found(client: Client) -> None:
    error = client.refused({"label": 1, "model": "dall-e-3"}, 404)
    assert error["message"] == "model is 'dall-e-3'. This server has toy."


def test_models_say_what_may_be_asked_for(client: Client) -> None:
    [model] = json.loads(client.ask("GET", "/v1/models")[2])["data"]
    assert (model["id"], model["size"], model["labels"]) == ("toy", "8x8", list(LABELS))


def test_the_document_has_each_field_that_is_taken(client: Client) -> None:
    document = json.loads(client.ask("GET", "/openapi.json")[2])
    post = document["paths"]["/v1/images/generations"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == set(FIELDS)
    assert schema["properties"]["n"]["maximum"] == 16


def test_metrics_count_what_was_drawn(client: Client) -> None:
    before = client.figure("pitstop_images_total")
    client.pngs({**SMALL, "n": 3})

    client.wait_for("pitstop_images_total", before + 3)
    client.wait_for("pitstop_in_flight", 0)
    assert client.figure("pitstop_queue") == 0
    assert 'pitstop_rows_a_call_bucket{le="4.0"}' in client.metrics()


def test_health_and_readiness_are_told(client: Client) -> None:
    assert client.ask("GET", "/health")[0] == 200
    assert client.ask("GET", "/ready")[0] == 200


def test_a_model_of_latents_sends_decoded_pictures(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy", with_decoder(toy_manifest(batch=2)))
    with serving_bundle(tmp_path / "toy") as client:
        [model] = json.loads(client.ask("GET", "/v1/models")[2])["data"]
        assert model["size"] == "16x16"
        assert client.pngs({**SMALL, "size": "16x16"})[0].startswith(b"\x89PNG")

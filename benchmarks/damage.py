"""Damage as it comes: bytes, JSON, names and options, drawn from a seed."""

from __future__ import annotations

import json
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 0.0, -0.5, 1e308, float("nan"),
    float("inf"), "", "x", "../../x", "/etc/passwd", "\x1b[2J", "\ud800", "a" * 5000, "é", [], [1],
    [None], {}, {"a": 1}, [[[]]], "NaN", "1e400",
]  # fmt: skip
ODD_WORDS = [
    "", " ", "-1", "0", "1", "2", "3.5", "nan", "inf", "-inf", "1e400", "99999999999999999999",
    "fp32", "fp16", "int8", "all", "auto", "ddim", "ddpm", "euler", "shoe", "0", "2", "--", "-",
    "\x1b[2J", "\udcff", "a,b", ",", "../x", "/dev/null", "é", "x" * 300,
]  # fmt: skip


def damage_bytes(content: bytes, random_: random.Random) -> bytes:
    """A file with a bit turned, a part gone, doubled, zeroed, or something else in its place."""
    if not content:
        return b"\0"
    data, place = bytearray(content), random_.randrange(len(content))
    length = random_.randrange(1, 64)
    ways: list[Callable[[], bytes]] = [
        lambda: bytes(data[:place]) + bytes([data[place] ^ (1 << random_.randrange(8))])
        + bytes(data[place + 1 :]),
        lambda: bytes(data[:place]),
        lambda: bytes(data[:place] + data[place + length :]),
        lambda: bytes(data[:place] + data[max(0, place - length) : place] + data[place:]),
        lambda: bytes(data[:place] + bytes(length) + data[place + length :]),
        lambda: bytes(data) + random_.randbytes(length),
        lambda: random_.randbytes(random_.randrange(0, 300)),
        lambda: b"",
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
        lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    ]  # fmt: skip
    return random_.choice(ways)()


def damage_json(value: Any, random_: random.Random) -> Any:
    """JSON with one place of it changed, gone, doubled or renamed."""
    if isinstance(value, dict) and value and random_.random() < 0.85:
        key = random_.choice(list(value))
        return _damage_field(value, key, random_)
    if isinstance(value, list) and value and random_.random() < 0.85:
        index = random_.randrange(len(value))
        changed = damage_json(value[index], random_)
        kept = [*value[:index], changed, *value[index + 1 :]]
        return random_.choice([kept, value[:index] + value[index + 1 :], [*value, *value], kept])
    return random_.choice(ODD_VALUES)


def _damage_field(value: dict[str, Any], key: str, random_: random.Random) -> dict[str, Any]:
    way = random_.random()
    if way < 0.1:
        return {name: item for name, item in value.items() if name != key}
    if way < 0.15:
        return {
            **value,
            random_.choice(["colour", "\x1b[2J", "a\r\nb", ""]): random_.choice(ODD_VALUES),
        }
    return {**value, key: damage_json(value[key], random_)}


def damage_safetensors(content: bytes, random_: random.Random) -> bytes:
    """A safetensors file whose header is another, its length right or wrong."""
    [size] = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    text = json.dumps(damage_json(header, random_)).encode("utf-8", "surrogatepass")
    length = len(text) if random_.random() < 0.8 else random_.choice([0, 2**63, size, 2**32])
    return struct.pack("<Q", length) + text + content[8 + size :]


class Canary:
    """What a pickle runs where somebody lets it: it leaves a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


def hostile_pickle(place: Path) -> bytes:
    return pickle.dumps({"model": Canary(place)})

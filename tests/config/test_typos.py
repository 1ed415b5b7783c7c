"""Hundreds of slips of the pen across a config: every one is caught, nearly every one with the right suggestion."""

import copy
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmlm.config import parse
from mmlm.config.reading import plain, read_file
from mmlm.errors import InputError

# Names of one's own, which nobody can correct.
FREE = {("inputs",), ("backbone", "grafts"), ("inputs", "video", "aligner", "gates")}
CHOICES = {"into", "schedule", "precision", "scale", "template", "class_token", "norm", "type", "reader", "modality"}
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


def words(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str, str]]:
    """Every key and every choice of a config: its path, "key" or "value", and the word."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from words(item, (*path, i))
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if path not in FREE:
            yield (*path, key), "key", key
        if key in CHOICES and isinstance(item, str):
            yield (*path, key), "value", item
        if key == "encoder" and isinstance(item, str):
            yield (*path, key), "value", item
        yield from words(item, (*path, key))


def slips(word: str, draw: random.Random) -> set[str]:
    """A word with a letter too many, one too few, a wrong one, or two exchanged."""
    i = draw.randrange(len(word))
    letter = draw.choice(LETTERS)
    found = {word[:i] + letter + word[i:], word[:i] + letter + word[i + 1 :], word[:i] + word[i] + word[i:]}
    if len(word) > 2:
        found.add(word[:i] + word[i + 1 :])
        j = draw.randrange(len(word) - 1)
        found.add(word[:j] + word[j + 1] + word[j] + word[j + 2 :])
    return {s for s in found if s and s != word and s[0] not in "_." and s[-1] not in "."}


def spoil(data: dict[str, Any], path: tuple[Any, ...], what: str, slip: str) -> dict[str, Any]:
    """The config with one word misspelt, everything else and its order as before."""
    data = copy.deepcopy(data)
    block: Any = data
    for step in path[:-1]:
        block = block[step]
    entries = [((slip if what == "key" else k) if k == path[-1] else k, v) for k, v in block.items()]
    block.clear()
    block.update(entries)
    if what == "value":
        block[path[-1]] = slip
    return data


def siblings(data: dict[str, Any], path: tuple[Any, ...]) -> set[str]:
    """The other keys of a block."""
    block: Any = data
    for step in path[:-1]:
        block = block[step]
    return set(block) if isinstance(block, dict) else set()


def test_slips_are_caught_and_corrected(typical: Path) -> None:
    data = plain(read_file(typical, []))
    data["inputs"]["image"] |= {"into": "slots", "modality": "image"}
    data["scale"] = "tiny"
    data["stages"][0] |= {
        "micro_batch": 8,
        "gradient_checkpointing": True,
        "save_every": 100,
        "workers": 2,
        "pack": True,
    }
    assert parse(data)
    draw = random.Random(0)
    caught: dict[str, list[str]] = {"right": [], "other": []}
    for path, what, word in words(data):
        for slip in draw.sample(sorted(slips(word, draw)), 3 if len(word) > 2 else 2):
            if slip in siblings(data, path) or (what == "value" and slip in ("eva", "clip", "video")):
                continue
            try:
                parse(spoil(data, path, what, slip))
            except InputError as e:
                suggested = re.findall(r"did you mean (.*?)\?", str(e))
                right = any(f"`{word}`" in s for s in suggested)
                caught["right" if right else "other"].append(f"{'.'.join(map(str, path))}: {slip} -> {suggested}")
                continue
            raise AssertionError(f"{path}: {slip!r} for {word!r} went through")
    total = len(caught["right"]) + len(caught["other"])
    assert total >= 200
    assert len(caught["right"]) >= 0.95 * total, "\n".join(caught["other"])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a config."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def test_whatever_stands_anywhere_is_no_fault(typical: Path) -> None:
    """Every value of a config, exchanged for one of every kind, is taken or told with its path."""
    data = plain(read_file(typical, []))
    strangers: list[Any] = [
        None,
        True,
        0,
        -1,
        1.5,
        float("inf"),
        "",
        "x",
        "a:b",
        [],
        [None],
        [[]],
        {},
        {"type": []},
        {"a": {"b": 1}},
        {"name": {}},
    ]
    draw = random.Random(0)
    taken = told = 0
    for path in places(data):
        for stranger in draw.sample(strangers, 4):
            changed = copy.deepcopy(data)
            block: Any = changed
            for step in path[:-1]:
                block = block[step]
            block[path[-1]] = stranger
            try:
                parse(changed)
                taken += 1
            except InputError as e:
                told += 1
                assert all(line.startswith("config: ") for line in str(e).splitlines())
    assert told > 10 * taken > 0

"""YAML 1.2, its safe subset, and the lines of values."""

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmlm.config.problems import Problem
from mmlm.config.reading import DEPTH, SIZE, VALUES, Node, plain, read_file, read_text, scalar
from mmlm.config.writing import yaml
from mmlm.errors import InputError

easy = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(text: str) -> Any:
    """The plain value of a document that has nothing wrong."""
    problems: list[Problem] = []
    found = plain(read_text(text, "t.yaml", problems))
    assert problems == []
    return found


def wrong(text: str) -> list[str]:
    """All that is told of a document."""
    problems: list[Problem] = []
    try:
        read_text(text, "t.yaml", problems)
    except InputError as e:
        return str(e).splitlines()
    return [str(p) for p in problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.0e-3", 1e-3),
        ("1E5", 1e5),
        ("1e+16", 1e16),
        (".5", 0.5),
        ("-.5e3", -500.0),
        ("5.", 5.0),
        ("7.06e9", 7.06e9),
        ("-.inf", -math.inf),
        ("12", 12),
        ("+12", 12),
        ("-2", -2),
        ("007", 7),
        ("0o17", 15),
        ("0xFf", 255),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_core_schema_values(text: str, value: object) -> None:
    found = read(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "yes",
        "on",
        "off",
        "y",
        "n",
        "No",
        "12:30",
        "1_000",
        "0b11",
        "2001-12-14",
        "1e",
        "e3",
        ".",
        "-",
        "tRue",
        "0o8",
        "1.2.3",
    ],
)
def test_what_yaml_1_1_changed_is_a_string(text: str) -> None:
    assert read(f"a: [{text}, 1]" if text != "-" else "a: ['-', 1]")["a"][0] == text


def test_nan_is_a_number() -> None:
    assert math.isnan(read("a: .nan")["a"])


def test_quoted_scalars_are_strings() -> None:
    assert read("""{a: "1", b: 'true', c: "", d: "null"}""") == {"a": "1", "b": "true", "c": "", "d": "null"}


def test_core_tags_are_kept() -> None:
    assert read("{a: !!str 1, b: !!float 1, c: !!int '3', d: ! 4, e: !!map {}, f: !!seq []}") == {
        "a": "1", "b": 1.0, "c": 3, "d": "4", "e": {}, "f": []
    }  # fmt: skip


@easy
@given(st.floats(allow_nan=False))
def test_python_floats_are_read_back(value: float) -> None:
    text = {"inf": ".inf", "-inf": "-.inf"}.get(repr(value), repr(value))
    found = scalar(text)
    assert isinstance(found, float)
    assert found == value


@easy
@given(st.integers())
def test_integers_are_read_back(value: int) -> None:
    assert scalar(str(value)) == value


def test_every_value_knows_its_line() -> None:
    root = read_text("# first\na: 1\nb:\n  c: [1,\n    2]\n  d:\n    7\n", "t.yaml", [])
    assert str(root.value["a"].spot) == "t.yaml:2"
    assert str(root.value["b"].spot) == "t.yaml:3"
    inner = root.value["b"].value
    assert [n.spot.line for n in inner["c"].value] == [4, 5]
    assert inner["d"].spot.line == 6  # the key's line: that is where one looks


def test_duplicate_keys_tell_both_lines() -> None:
    assert wrong("a: 1\nb: 2\na: 3\n") == [
        "t.yaml:3: a: expected a key once, got it again; it stands already at line 1"
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &x 1", "got &x"),
        ("a: &x 1\nb: *x", "got *x"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "got *x"),
        ("a: !!python/object:os.system x", "the tag !!python/object:os.system"),
        ("a: !own x", "the tag !own"),
        ("a: !!binary aGk=", "the tag !!binary"),
        ("a: !!int x", "the tag !!int"),
        ("a: !!set {b}", "the tag !!set"),
        ("1: x", "expected a word for a key, got 1"),
        ("null: x", "expected a word for a key, got null"),
        ("true: x", "expected a word for a key, got true"),
        ("? [a]\n: b", "expected a word for a key, got a list of 1"),
        ("a: [1", "not YAML"),
        ("a: b: c", "not YAML"),
        ("a: 'x", "not YAML"),
        ("\ta: 1", "not YAML"),
        ("a: 1\nb: \x07", "t.yaml:2: not YAML"),
        ("a: 1\n---\nb: 2", "expected one document"),
        ("%YAML 1.1\n---\na: 1", "expected YAML 1.2"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    assert told in "\n".join(wrong(text))


def test_a_syntax_error_has_its_line() -> None:
    assert wrong("a: 1\nb: 2\nc: [1, 2\nd: 3\n")[0].startswith("t.yaml:4: not YAML")


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    assert len(wrong("\n".join(lines))) == 30 + 29 * 9  # each mark is told once, and none is followed


def test_depth_has_an_end() -> None:
    assert read("[" * DEPTH + "]" * DEPTH)
    assert "levels" in wrong("[" * (DEPTH + 2))[0]
    assert "levels" in wrong("{a: " * 200_000)[0]
    assert "levels" in wrong("- " * 1000)[0]


def test_size_and_count_have_an_end(tmp_path: Path) -> None:
    assert "characters" in wrong("a: " + "x" * SIZE)[0]
    assert "values" in wrong("[" + "1," * (VALUES + 1) + "]")[0]
    big = tmp_path / "big.yaml"
    big.write_text("# " + "x" * SIZE)
    with pytest.raises(InputError, match="at most 1048576 bytes"):
        read_file(big, [])


def test_files_that_are_no_config(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    for raw, told in (
        (b"\xff\xfe", "UTF-8"),
        (b"- 1\n- 2\n", "expected a mapping (name, backbone, ...), got a list of 2"),
        (b"", "got null"),
        (b"just words", "got 'just words'"),
    ):
        file.write_bytes(raw)
        with pytest.raises(InputError) as e:
            read_file(file, [])
        assert told in str(e.value)
        assert str(file) in str(e.value)
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")  # a byte-order mark and another system's line ends
    assert plain(read_file(file, [])) == {"a": 1, "b": 2}
    with pytest.raises(InputError, match="cannot be read"):
        read_file(tmp_path / "absent.yaml", [])
    with pytest.raises(InputError, match="cannot be read"):
        read_file(tmp_path, [])


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@easy
@given(st.dictionaries(st.text(), _values))
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    assert read(yaml(value)) == value


@easy
@given(st.text())
def test_no_text_makes_a_fault(text: str) -> None:
    problems: list[Problem] = []
    with contextlib.suppress(InputError):
        assert isinstance(read_text(text, "t.yaml", problems), Node)

"""Which objects a caption mentions, and the table that says so."""

from pathlib import Path

import pytest

from mmlm.errors import InputError
from mmlm.evaluation.metrics import chair
from mmlm.evaluation.statistics import point

OBJECTS = chair.Objects.of(
    [["dog", "puppy"], ["hot dog"], ["person", "man", "woman"], ["dining table", "table"], ["bus"]]
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two men eat hot dogs, the puppies watch.", ["person", "hot dog", "dog"]),
        ("A dining table and a table", ["dining table", "dining table"]),
        ("People wait for the buses; a bus comes", ["person", "bus", "bus"]),
        ("A dogma of tables' edges", ["dining table"]),
        ("", []),
    ],
)
def test_mentions(text: str, expected: list[str]) -> None:
    assert OBJECTS.mentions(text) == expected


@pytest.mark.parametrize(
    ("many", "one"),
    [("boxes", "box"), ("glasses", "glass"), ("cherries", "cherry"), ("benches", "bench"), ("grass", "grass"), ("bus", "bus"),
     ("ties", "tie"), ("knives", "knife"), ("dishes", "dish"), ("tomatoes", "tomato"), ("horses", "horse"), ("tennis", "tennis")],
)  # fmt: skip
def test_singular(many: str, one: str) -> None:
    assert chair.singular(many) == one


def test_a_table_of_objects_is_a_file_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "objects.txt"
    path.write_text("# name, synonyms\ndog, puppy\n\ncell phone, phone\n", encoding="utf-8")
    assert chair.Objects.load(path).mentions("a puppy with a cell phone and phones") == [
        "dog",
        "cell phone",
        "cell phone",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("dog, puppy\ncat, puppy\n", "names 'dog' too"), ("", "at least one object"), (",,\n", "holds no word")],
)
def test_a_table_that_cannot_be_one_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "objects.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"objects\.txt.*{reason}"):
        chair.Objects.load(path)
    with pytest.raises(InputError, match="FileNotFoundError"):
        chair.Objects.load(tmp_path / "gone.txt")


def test_no_mention_is_no_hallucination() -> None:
    found = point([chair.counts([], ["dog"])], chair.MEASURES)
    assert found == {"CHAIRi": 0.0, "CHAIRs": 0.0, "recall": 0.0}

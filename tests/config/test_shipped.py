"""The configs that come with the package, with the project's own parts."""

import jsonschema
import pytest

from mmlm.config import dump, json_schema, load, parse, shipped
from mmlm.config.reading import plain, read_file, read_text


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, shelf: None) -> None:
    """The project's own tables: what the shelf put away is put back."""
    monkeypatch.undo()


def test_there_are_some() -> None:
    assert "llava-1.5-7b" in shipped()


@pytest.mark.parametrize("name", shipped())
def test_shipped_configs_are_whole(name: str, own: None) -> None:
    config = load(name)
    assert parse(plain(read_text(dump(config), name, []))) == config
    assert load(name, ["scale=tiny"]).scale == "tiny"


def test_shipped_configs_fit_the_schema(own: None) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    wrong = [n for n, path in shipped().items() if not validator.is_valid(plain(read_file(path, [])))]
    assert wrong == []

"""Part of the readers: the wording of a question, for data that hold questions and answers and no conversation."""

import re
from collections import Counter
from collections.abc import Sequence

from mmlm.errors import InputError
from mmlm.sample import Item, Part
from mmlm.training.readers.conversation import joined
from mmlm.training.readers.field import Field

_FIELD = re.compile(r"\{(\w*)\}")


class Prompt:
    """Text with {items} and the names of what is filled in, such as "{items}\\n{question}".

    The wording is cut first and filled afterwards, so that nothing in a question can pass for a field.
    """

    def __init__(self, wording: str, *names: str, once: str = "items") -> None:
        """`names`: the fields that may stand in it; `once`: the one that must, exactly once."""
        self.pieces = _FIELD.split(wording)
        unknown = sorted(set(self.pieces[1::2]) - {once, *names})
        if unknown or self.pieces[1::2].count(once) != 1:
            raise InputError(
                f"prompt {wording!r}: expected {{{once}}} once"
                + (f" and no field but {', '.join(f'{{{n}}}' for n in names)}" if names else " and no other field")
                + (f", got {', '.join(f'{{{n}}}' for n in unknown)}" if unknown else "")
            )

    def __call__(self, items: Sequence[Item], **values: str) -> tuple[Part, ...]:
        """The parts of the user's turn. Where there is no item, the line that would hold it goes too."""
        parts: list[Part] = []
        after_none = False
        for i, piece in enumerate(self.pieces):
            if i % 2 == 0:
                parts.append(piece.removeprefix("\n") if after_none else piece)
            elif piece == "items":
                parts.extend(items)
            else:
                parts.append(values[piece])
            after_none = i % 2 == 1 and piece == "items" and not items
        return joined(parts)


def lettered(choices: Sequence[str]) -> str:
    """Choices as lines "A. ...", for the field {choices}."""
    return "\n".join(f"{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(choices))


def most_common(answers: Sequence[str]) -> str:
    """The answer given most often, the first of those given equally often."""
    return Counter(answers).most_common(1)[0][0]


def references(record: Field) -> list[str]:
    """Every reference answer of a record: `answers` (texts, or objects with `answer`) or the one `answer`."""
    if not record["answers"].present:
        return [record["answer"].text()] if record["answer"].present else []
    return [(f["answer"] if isinstance(f.value, dict) else f).text() for f in record["answers"].elements()]

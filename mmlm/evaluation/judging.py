"""Evaluation room: who says whether an item shows what was asked for - a run that understands items, or a rule."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlm.assemble import Assembly
from mmlm.errors import InputError, reason
from mmlm.evaluation.assembled import Assembled
from mmlm.evaluation.metrics import agreement
from mmlm.evaluation.nouns import content
from mmlm.evaluation.tasks.task import asked
from mmlm.registry import component
from mmlm.reply import Decoding, reply
from mmlm.sample import Item, Modality
from mmlm.training.readers.prompt import Prompt
from mmlm.training.run import load_run

_ASKED: dict[Modality, str] = {
    "image": "What is in the picture?",
    "audio": "What is heard in the sound?",
    "video": "What is in the clip?",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an item was to show: the caption, and a question about it with its answers, where there is one."""

    caption: str
    question: str = ""
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far an item shows it, 0..1, and what the judge said."""

    value: float
    said: str = ""


class Judge(ABC):
    """Looks at items of one modality. A rule is a class of its own, built without arguments and named judge=module:Class; its
    `name` stands in the version of every result, so that a rule that changes needs another."""

    name: str
    modality: Modality = "image"

    def able(self, wanted: Wanted) -> bool:
        """Whether it can say anything of what was wanted; what it cannot is left out."""
        return True

    @abstractmethod
    def judge(self, items: Sequence[Item], wanted: Sequence[Wanted]) -> list[Verdict]:
        """A verdict for each item on what was wanted of it, whatever stands beside it."""


class RunJudge(Judge):
    """A run of a system that takes items of the modality in: it answers the question, or where there is none `question`, by
    default what there is in the item."""

    def __init__(self, assembly: Assembly, modality: Modality, prompt: str, question: str | None, tokens: int) -> None:
        self.assembly, self.modality, self.decoding = assembly, modality, Decoding(limit=tokens)
        self.question = _ASKED[modality] if question is None else question
        self.prompt = Prompt(prompt, "question")
        self.name = f"{self.assembly.config.name},{Assembled(self.assembly).fingerprint}"

    def able(self, wanted: Wanted) -> bool:
        return bool(wanted.answers or content(wanted.caption))

    def judge(self, items: Sequence[Item], wanted: Sequence[Wanted]) -> list[Verdict]:
        samples = [
            asked(self.prompt([i], question=w.question or self.question), "judged", "judge")
            for i, w in zip(items, wanted, strict=True)
        ]
        said = [r.text.strip() for r in reply(self.assembly, samples, self.decoding)]
        return [
            Verdict(agreement.answered(s, w.answers) if w.answers else agreement.named(s, w.caption), s)
            for s, w in zip(said, wanted, strict=True)
        ]


def opened(
    named: str, modalities: Collection[Modality], prompt: str, question: str | None, tokens: int
) -> dict[Modality, Judge]:
    """The judge of a name, the folder of a run or module:Class of a rule, for each of the modalities that it can judge."""
    path, made = Path(named).expanduser(), " and ".join(sorted(modalities))
    if path.exists() or ":" not in named:
        try:
            assembly = load_run(path)
        except InputError as e:
            raise InputError(f"judge={path}: {e}") from e
        takes = {s.modality for s in assembly.processor.streams.values()}
        if not (seen := sorted(takes & set(modalities))):
            raise InputError(
                f"judge={path}: expected a run that takes {made} items in, and this one takes "
                f"{', '.join(sorted(takes)) or 'text'} alone; name one that was trained to take them"
            )
        return {m: RunJudge(assembly, m, prompt, question, tokens) for m in seen}
    cls = component("judges", named)
    if not issubclass(cls, Judge):
        raise InputError(f"judge={named}: {cls.__name__} is no Judge of mmlm.evaluation.judging")
    try:
        judge: Judge = cls()
    except TypeError as e:
        raise InputError(f"judge={named}: expected a class that is built without arguments; {reason(e)}") from e
    if judge.modality not in modalities:
        raise InputError(f"judge={named}: it judges {judge.modality} items, and {made} items are made")
    return {judge.modality: judge}

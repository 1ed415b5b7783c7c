"""Evaluation room: MMMU, college questions over thirty subjects, with up to seven pictures inside question and options."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmlm.errors import InputError
from mmlm.evaluation.metrics import letters, mmmu
from mmlm.evaluation.statistics import mean
from mmlm.evaluation.tasks.tables import parquet_rows
from mmlm.evaluation.tasks.task import Prediction, Question, Scored, Task, asked
from mmlm.media import digest
from mmlm.sample import Image, Part
from mmlm.training.readers.conversation import joined
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt, lettered
from mmlm.training.readers.source import LIMIT

_CHOICE = "{items}\n{question}\n{choices}\n\nAnswer with the option's letter from the given choices directly."
_OPEN = "{items}\n{question}\n\nAnswer the question using a single word or phrase."
_COLUMNS = ("id", "question", "options", "answer", "question_type")
_KINDS = {"multiple-choice": "choice", "open": "open"}
_IMAGE = re.compile(r"<image ([1-7])>")
_ELEMENT = re.compile(r"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|[-+\w.]++""", re.DOTALL)
_LIST = re.compile(rf"\[\s*+(?:(?:{_ELEMENT.pattern})\s*+(?:,\s*+|(?=\])))*+\]", re.DOTALL)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U0010[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|.)", re.DOTALL)
_SHORT = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "\n": ""}
_LONGEST = 1 << 16  # characters of a list of options
_DISCIPLINES = {
    "Art and Design": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Science": "Biology Chemistry Geography Math Physics",
    "Health and Medicine": "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine Pharmacy "
    "Public_Health",
    "Humanities and Social Science": "History Literature Sociology Psychology",
    "Tech and Engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics Energy_and_Power "
    "Materials Mechanical_Engineering",
}
_OF = {subject: discipline for discipline, subjects in _DISCIPLINES.items() for subject in subjects.split()}


class MmmuTask(Task):
    """The folder of the release with a folder for each subject, `Accounting/validation-00000-of-00001.parquet`, or such
    files: columns `id`, `question`, `options` (a list written as text), `answer`, `question_type`, `image_1` to
    `image_7`. A picture stands where "<image 1>" first is in the question or an option.

    An answer to options is read by `rule` (`mmmu` is the published parse; where that draws a letter the answer is wrong
    here, and counted as unparsed). `prompt` words questions with options, `open_prompt` the others. The pictures of a
    split are kept in memory, encoded.
    """

    name = "mmmu"
    measures = (mean("accuracy"),)

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        split: str = "validation",
        rule: letters.Rule = "mmmu",
        prompt: str = _CHOICE,
        open_prompt: str = _OPEN,
        tokens: int = 64,
    ) -> None:
        if images is not None:
            raise InputError(f"{path}: MMMU's pictures stand inside its files; leave `images` out")
        files = [path]
        if path.is_dir():
            files = sorted(p for p in path.rglob("*.parquet") if p.name.startswith(f"{split}-"))
        if not files:
            raise InputError(f"{path}: holds no file {split}-*.parquet, in itself or in the folder of a subject")
        super().__init__(files, split=split, rule=rule, prompt=prompt, open_prompt=open_prompt, tokens=tokens)
        self.rule, self.tokens = rule, tokens
        self.prompts = {"choice": Prompt(prompt, "question", "choices"), "open": Prompt(open_prompt, "question")}
        self.version = f"{mmmu.VERSION}+{letters.version(rule)}"

    def questions(self) -> list[Question]:
        found = [self._question(row) for path in self.files for row in parquet_rows(path, _COLUMNS)]
        if not found:
            raise InputError(f"{self.files[0]}: holds no question")
        return found

    def _question(self, row: Field) -> Question:
        id, kind = row["id"].text(), row["question_type"].one_of(_KINDS)
        subject = id.partition("_")[2].rpartition("_")[0]
        options = _listed(row["options"]) if kind == "choice" else []
        if kind == "choice":
            if not 2 <= len(options) <= len(letters.LETTERS):
                raise row["options"].refuse("two options at least, and 26 at most")
            references = [row["answer"].one_of({c: c for c in letters.LETTERS[: len(options)]})]
        else:
            text = row["answer"].text()
            references = _listed(row["answer"]) if text.startswith("[") else [text]
        question = row["question"].text()
        marks = dict.fromkeys(int(k) for k in _IMAGE.findall("\n".join([question, *options])))
        pictures, faults = _pictures(row)
        faults += [f"{row.where}: image_{k}: named in the question and not there" for k in marks if k not in pictures]
        values = {"question": question} | ({"choices": lettered(options)} if kind == "choice" else {})
        parts = self.prompts[kind]([p for k, p in pictures.items() if k not in marks], **values)
        first = next(iter(pictures.values()), None)
        return Question(
            id=id,
            sample=asked(_placed(parts, pictures), id, row.where),
            references=tuple(references),
            picture=digest(first) if first else id,
            choices=tuple(options) or None,
            meta={"type": kind}
            | ({"discipline": _OF[subject]} if subject in _OF else {})
            | ({"subject": subject} if subject else {}),
            fault=next(iter(faults), ""),
        )

    def score(self, question: Question, prediction: Prediction) -> Scored:
        if question.choices is None:
            said = mmmu.candidates(prediction.text)
            right = mmmu.correct(said, question.references)
            return Scored({"accuracy": float(right)}, bool(said), " | ".join(sorted(map(str, said))))
        index = letters.parse(prediction.text, question.choices, self.rule)
        answer = "" if index is None else letters.LETTERS[index]
        return Scored({"accuracy": float(answer == question.references[0])}, index is not None, answer)


def _listed(field: Field) -> list[str]:
    """A list of texts and numbers, or one that is written as Python writes it. Only quotes and escapes are read; nothing
    is run, and nothing can nest."""
    if isinstance(field.value, list):
        return [f.identity() for f in field.elements()]
    text = field.text().strip()
    if len(text) > _LONGEST or not _LIST.fullmatch(text):
        raise field.refuse("a list of texts, ['...', '...']")
    plain = [_ESCAPE.sub(_unescaped, e[1:-1]) if e[0] in "'\"" else e for e in _ELEMENT.findall(text)]
    return [Field(field.where, field.name, e).text(blank=True) for e in plain]


def _unescaped(escape: re.Match[str]) -> str:
    """The character that an escape writes; what is no escape stays."""
    code = escape[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _SHORT.get(code, "\\" + code)


def _pictures(row: Field) -> tuple[dict[int, Image], list[str]]:
    """The pictures of a row by number, and why others cannot be had."""
    found: dict[int, Image] = {}
    faults = []
    for k in range(1, 8):
        field = row[f"image_{k}"]
        if not field.present:
            continue
        data = field.value.get("bytes") if isinstance(field.value, dict) else field.value
        if isinstance(data, bytes) and 0 < len(data) <= LIMIT:
            found[k] = Image(data)
        else:
            faults.append(str(field.refuse(f"the bytes of a picture, 1 to {LIMIT} of them")))
    return found, faults


def _placed(parts: Iterable[Part], pictures: Mapping[int, Image]) -> tuple[Part, ...]:
    """The parts with each picture where its mark first stands; a later mark of it stays text."""
    placed: list[Part] = []
    used: set[int] = set()
    for part in parts:
        pieces: list[Part] = [part] if not isinstance(part, str) else list(_IMAGE.split(part))
        for i, piece in enumerate(pieces):
            if i % 2 == 0 or not isinstance(piece, str):
                placed.append(piece)
                continue
            number = int(piece)
            placed.append(f"image {number}" if number in used or number not in pictures else pictures[number])
            used.add(number)
    return joined(placed)

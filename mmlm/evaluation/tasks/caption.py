"""Evaluation room: captions of pictures against several that people wrote."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from mmlm.errors import InputError
from mmlm.evaluation.metrics import captions
from mmlm.evaluation.metrics import meteor as java
from mmlm.evaluation.metrics.captions import Frequencies
from mmlm.evaluation.metrics.tokens import VERSION, tokenise
from mmlm.evaluation.statistics import Measure
from mmlm.evaluation.tasks.records import picture
from mmlm.evaluation.tasks.task import Prediction, Question, Scored, Task, asked
from mmlm.training.readers.captions import key
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt
from mmlm.training.readers.source import Folders
from mmlm.training.readers.table import open_records, open_tables

Row = tuple[str, Field, list[str]]  # id, the field that names the picture, captions


class CaptionTask(Task):
    """BLEU, ROUGE-L, CIDEr-D and, where Java and pycocoevalcap are installed, METEOR. SPICE is left out: the models it
    needs are in no package.

    Reads COCO captions (`images`, `annotations`), the Karpathy file (`images` with `sentences`), and JSON Lines
    `{"id", "image", "captions": [...] or "caption"}`; `split` keeps the records of one split. CIDEr's document
    frequencies are counted over all references of the file, whatever `limit` says, or read from the file `frequencies`
    (relative to the data's folder); `save_frequencies` writes them there.
    """

    name = "caption"

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        split: str | None = None,
        frequencies: str | None = None,
        save_frequencies: str | None = None,
        meteor: bool = True,
        prompt: str = "{items}\nDescribe the image in one short sentence.",
        tokens: int = 64,
    ) -> None:
        files = [path] if frequencies is None else [path, path.parent / Path(frequencies).expanduser()]
        super().__init__(files, split=split, meteor=meteor, prompt=prompt, tokens=tokens)
        self.tokens, self.prompt = tokens, Prompt(prompt)
        self.folders = Folders.beside(path, images, None, None)
        self.found = [self._question(*row) for row in captioned(path, split)]
        if not self.found:
            raise InputError(f"{path}: holds no caption" + (f" of the split {split!r}" if split else ""))
        self.references = {q.id: [tokenise(r) for r in q.references] for q in self.found}
        counted = Frequencies.of(list(self.references.values()))
        self.frequencies = counted if frequencies is None else Frequencies.load(files[1])
        if save_frequencies is not None:
            counted.save(path.parent / Path(save_frequencies).expanduser())
        absent = java.missing()
        self.meteor = meteor and not absent
        cider = self.frequencies.pictures > 1
        self.measures: Sequence[Measure] = (*captions.measures(cider), *((java.MEASURE,) if self.meteor else ()))
        self.version = "+".join([captions.VERSION, VERSION, *([java.VERSION] if self.meteor else [])])
        self.notes = [
            f"CIDEr-D weighs by document frequencies over {self.frequencies.pictures} pictures"
            if cider
            else "CIDEr-D is absent: with one picture every weight is 0",
            *([absent] if meteor and absent else []),
        ]

    @classmethod
    def recorded(cls, keys: Collection[str]) -> Sequence[Measure]:
        return (*captions.measures(True), java.MEASURE)

    def questions(self) -> list[Question]:
        return self.found

    def _question(self, id: str, image: Field, references: list[str]) -> Question:
        items, fault = picture(self.folders, image)
        return Question(
            id=id,
            sample=asked(self.prompt(items), id, image.where),
            references=tuple(references),
            picture=id,
            fault=fault,
        )

    def read(self, question: Question, prediction: Prediction) -> str:
        return " ".join(tokenise(prediction.text))

    def score(self, question: Question, prediction: Prediction) -> Scored:
        said, references = tokenise(prediction.text), self.references[question.id]
        values = captions.bleu_counts(said, references)
        values["ROUGE-L"] = captions.rouge_l(said, references)
        values["CIDEr-D"] = captions.cider_d(said, references, self.frequencies)
        return Scored(values, bool(said), " ".join(said))

    def score_all(self, questions: Sequence[Question], predictions: Sequence[Prediction]) -> list[Scored]:
        scored = super().score_all(questions, predictions)
        if not self.meteor:
            return scored
        references = [[" ".join(r) for r in self.references[q.id]] for q in questions]
        counts = java.counts([s.answer for s in scored], references)
        return [Scored({**s.values, **c}, s.parsed, s.answer) for s, c in zip(scored, counts, strict=True)]


def captioned(path: Path, split: str | None) -> Iterator[Row]:
    """The captions of each picture, from whichever of the three forms the file has."""
    if path.suffix == ".jsonl":
        yield from _lines(path, split)
        return
    tables, _ = open_tables(path, {"images": ("id",), "annotations": ("image_id",)})
    if "images" not in tables:
        raise InputError(f"{path}: expected a list 'images', got {list(tables) or 'neither that nor annotations'}")
    pictures, annotations = tables["images"], tables.get("annotations")
    at: dict[str, list[int]] = {}
    for i, image_id in enumerate(annotations.columns["image_id"] if annotations else ()):
        at.setdefault(key(image_id), []).append(i)
    for i in range(len(pictures)):
        record = pictures[i]
        if split is not None and record["split"].value != split:
            continue
        if annotations is None:
            yield _karpathy(record)
            continue
        id = record["id"].identity()
        yield id, record["file_name"], _some([annotations[k]["caption"] for k in at.get(id, ())], record)


def _karpathy(record: Field) -> Row:
    """A picture of the Karpathy file, with its sentences as they were written."""
    id = (record["cocoid"] if record["cocoid"].present else record["imgid"]).identity()
    folder = record["filepath"].text() + "/" if record["filepath"].present else ""
    image = Field(record.where, "filename", folder + record["filename"].text())
    return id, image, _some([s["raw"] for s in record["sentences"].elements()], record)


def _lines(path: Path, split: str | None) -> Iterator[Row]:
    table = open_records(path)
    for i in range(len(table)):
        record = table[i]
        if split is None or record["split"].value == split:
            several = record["captions"].present
            fields = record["captions"].elements() if several else [record["caption"]]
            yield record["id"].identity(), record["image"], _some(fields, record)


def _some(fields: list[Field], record: Field) -> list[str]:
    """The captions as text, at least one that holds a word."""
    texts = [f.text() for f in fields]
    if not any(tokenise(t) for t in texts):
        raise record.refuse("at least one caption with a word in it")
    return texts

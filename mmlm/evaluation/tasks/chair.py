"""Evaluation room: captions of pictures, and how much of what they name is not in the picture."""

from collections.abc import Iterator
from pathlib import Path

from mmlm.errors import InputError
from mmlm.evaluation.metrics import chair
from mmlm.evaluation.metrics.tokens import tokenise
from mmlm.evaluation.tasks.caption import captioned
from mmlm.evaluation.tasks.records import picture
from mmlm.evaluation.tasks.task import Prediction, Question, Scored, Task, asked
from mmlm.training.readers.captions import key
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt
from mmlm.training.readers.source import Folders
from mmlm.training.readers.table import open_records, open_tables

Row = tuple[str, Field, list[str], list[str]]  # id, the field that names the picture, objects, captions


class ChairTask(Task):
    """Rows of JSON Lines `{"id", "image", "objects": ["dog", ...], "captions": [...] or "caption"}`, or COCO captions and
    the Karpathy file (`split` keeps the records of one split). In a picture is what `objects` lists and what its captions
    name, and with `instances`, a file of COCO's instances, what was annotated there.

    `words` names the things, a line each: name, synonym, ...; without it they are those that `objects` and `instances`
    list, by these names alone. Both files are relative to the data's folder. Of words that name no thing nothing is said.
    """

    name = "chair"
    version = chair.VERSION
    measures = chair.MEASURES

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        split: str | None = None,
        words: str | None = None,
        instances: str | None = None,
        prompt: str = "{items}\nDescribe the image in detail.",
        tokens: int = 128,
    ) -> None:
        more = {k: path.parent / Path(v).expanduser() for k, v in (("words", words), ("instances", instances)) if v}
        super().__init__(
            [path, *more.values()], split=split, words=words, instances=instances, prompt=prompt, tokens=tokens
        )
        self.folders = Folders.beside(path, images, None, None)
        self.prompt, self.tokens, self.split = Prompt(prompt), tokens, split
        self.annotated = _instances(more["instances"]) if "instances" in more else {}
        self.rows = list(_rows(path, split))
        if not self.rows:
            raise InputError(f"{path}: holds no picture" + (f" of the split {split!r}" if split else ""))
        self.objects = chair.Objects.load(more["words"]) if "words" in more else self._listed(path)

    def _listed(self, path: Path) -> chair.Objects:
        """The things that the data list, each by its own name."""
        every = [o for _, _, listed, _ in self.rows for o in listed] + [o for a in self.annotated.values() for o in a]
        if not every:
            raise InputError(f"{path}: lists no objects; name the things with the option `words`, a file of them")
        try:
            return chair.Objects.of([[o] for o in dict.fromkeys(every)])
        except InputError as e:
            raise InputError(f"{path}: {e}; give the option `words`, a file of all names of each thing") from e

    def questions(self) -> list[Question]:
        return [self._question(*row) for row in self.rows]

    def _question(self, id: str, image: Field, listed: list[str], captions: list[str]) -> Question:
        items, fault = picture(self.folders, image)
        present = [self._thing(o, image.where) for o in (*listed, *self.annotated.get(id, ()))]
        named = [thing for caption in captions for thing in self.objects.mentions(caption)]
        return Question(
            id=id,
            sample=asked(self.prompt(items), id, image.where),
            references=tuple(sorted({*present, *named})),
            picture=id,
            fault=fault,
        )

    def _thing(self, name: str, where: str) -> str:
        """The thing that a name in the data is of."""
        found = self.objects.mentions(name)
        if len(found) != 1:
            raise InputError(
                f"{where}: objects: expected the name of one thing of {self.options['words']}, got {name!r}"
            )
        return found[0]

    def score(self, question: Question, prediction: Prediction) -> Scored:
        said = tokenise(prediction.text)
        return Scored(
            chair.counts(self.objects.mentions(prediction.text), question.references), bool(said), " ".join(said)
        )


def _rows(path: Path, split: str | None) -> Iterator[Row]:
    """What is known of each picture, from whichever form the file has."""
    if path.suffix != ".jsonl":
        for id, image, captions in captioned(path, split):
            yield id, image, [], captions
        return
    table = open_records(path)
    for record in (table[i] for i in range(len(table))):
        if split is not None and record["split"].value != split:
            continue
        objects, several, one = record["objects"], record["captions"], record["caption"]
        if not (objects.present or several.present or one.present):
            raise objects.refuse("the objects in the picture, or its captions")
        fields = several.elements() if several.present else [one] if one.present else []
        listed = objects.elements() if objects.present else []
        yield record["id"].identity(), record["image"], [o.text() for o in listed], [c.text() for c in fields]


def _instances(path: Path) -> dict[str, list[str]]:
    """The names of what is annotated in each picture, by its id, of a file of COCO's instances."""
    tables, _ = open_tables(path, {"annotations": ("image_id", "category_id"), "categories": ("id", "name")})
    if len(tables) < 2:
        raise InputError(f"{path}: expected the lists 'annotations' and 'categories', got {list(tables) or 'neither'}")
    categories, annotations = tables["categories"].columns, tables["annotations"].columns
    names = {key(i): name for i, name in zip(categories["id"], categories["name"], strict=True)}
    found: dict[str, dict[str, None]] = {}
    for image, category in zip(annotations["image_id"], annotations["category_id"], strict=True):
        name = names.get(key(category))
        if not isinstance(name, str):
            raise InputError(f"{path}: annotations: expected a category_id of 'categories', got {category!r:.60}")
        found.setdefault(key(image), {})[name] = None
    return {image: list(every) for image, every in found.items()}

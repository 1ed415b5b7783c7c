"""Part of the demo: the tab where many pictures are asked about at once."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from mmlm.errors import InputError
from mmlm.evaluation.predictions import Answer
from mmlm.media import load_image
from mmlm.reply import Decoding
from mmlm.sample import Image, Modality

from .batch import Asked, answers, records, write
from .engine import Engine
from .gather import MOST, gather
from .kept import STAY, Kept
from .notes import readable
from .panel import picture, safe
from .uploads import Limits

_SHOWN = 100  # rows on the page; all are in the files
_THUMBNAIL = 96
_ABOUT = (
    f"Drop pictures or a zip file of pictures, and ask one question about each; or drop a CSV or JSONL file with the columns "
    f"<b>image</b> and <b>question</b> and the pictures it names. At most {MOST} questions. The answers are made as "
    f"<code>mmlm eval</code> makes them."
)
_EMPTY = '<div class="mm-note">Answers come in here, row by row.</div>'


class BatchTab:
    """The tab of a page: what it draws, and what its buttons do."""

    def __init__(
        self, engines: Sequence[Engine], names: Sequence[str], folder: Path, takes: set[Modality], limits: Limits
    ) -> None:
        self.engines, self.names, self.folder, self.takes, self.limits = engines, names, folder, takes, limits

    def draw(self) -> None:
        """Draw and wire everything; called inside the tab."""
        kept = gr.State(None, time_to_live=STAY)  # holds the files of what is shown; others go when it is replaced
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                files = gr.File(
                    label="Files",
                    file_count="multiple",
                    height=190,
                    elem_id="batch-files",
                )
                whole = gr.UploadButton("Add a folder", file_count="directory", size="sm", elem_id="batch-folder")
                question = gr.Textbox(
                    label="Question", lines=2, placeholder="Asked about every file", elem_id="batch-question"
                )
                limit = gr.Slider(1, 512, 64, step=1, label="Length", info="tokens of an answer, at most")
                with gr.Row():
                    run = gr.Button("Ask", variant="primary", elem_id="batch-run")
                    stop = gr.Button("Stop", variant="stop", visible=False, elem_id="batch-stop")
                gr.HTML(f'<div class="mm-note">{_ABOUT}</div>')
            with gr.Column(scale=8, min_width=330):
                rows = gr.HTML(_EMPTY, elem_id="batch-rows")
                with gr.Row(visible=False) as downloads:
                    lines = gr.DownloadButton("Download JSONL", size="sm", elem_id="batch-jsonl")
                    sheet = gr.DownloadButton("Download CSV", size="sm", elem_id="batch-csv")
        outputs = [rows, run, stop, downloads, lines, sheet, kept]
        whole.upload(self._add, [files, whole], files, queue=False, api_visibility="undocumented", api_name="batch_add")
        event = run.click(
            self._ask,
            [files, question, limit],
            outputs,
            show_progress="hidden",
            concurrency_limit=2,
            api_visibility="undocumented",
            api_name="batch",
        )
        again: dict[str, Any] = {
            "fn": lambda: [gr.update(visible=True), gr.update(visible=False)],
            "outputs": [run, stop],
            "queue": False,
        }
        stop.click(**again, cancels=[event], api_visibility="undocumented", api_name="batch_stop")
        event.failure(**again, api_visibility="undocumented", api_name="batch_failed")

    def _add(self, files: list[str] | None, more: list[str] | None) -> list[str]:
        return [*(files or []), *(more or [])]

    def _ask(self, files: list[str] | None, question: str, limit: float) -> Iterator[list[Any]]:
        """Ask everything, each model in turn for each few questions; the table and the files grow with the answers."""
        with readable():
            home = Kept(self.folder, "asked-")
            task = Asked(gather([Path(f) for f in files or []], question or "", home.path), self.takes, self.limits)
            decoding = Decoding(limit=int(limit))
            pictures = [self._picture(q.sample.items) for q in task.questions()[:_SHOWN]]
        yield [*self._now(task, pictures, [[] for _ in self.names], [], running=True), home]
        streams = [answers(e, task, decoding, i) for i, e in enumerate(self.engines)]
        with readable():
            for sides in zip(*streams, strict=True):
                kept = write(records(task, self.names, sides, decoding), task.home)
                now = self._now(task, pictures, sides, kept, running=len(sides[0]) < len(task.reader))
                yield [*now, home]

    def _now(
        self,
        task: Asked,
        pictures: Sequence[str],
        sides: Sequence[Sequence[Answer]],
        kept: Sequence[Path],
        running: bool,
    ) -> list[Any]:
        """What the tab shows at this moment."""
        files: list[str | None] = [str(p) for p in kept] or [None, None]
        return [
            self._table(task, pictures, sides),
            gr.update(visible=not running),
            gr.update(visible=running),
            gr.update(visible=bool(kept)),
            *files,
        ]

    def _picture(self, items: Sequence[Any]) -> str:
        """A thumbnail of the first picture of a question."""
        shown = next((i for i in items if isinstance(i, Image)), None)
        try:
            return picture(load_image(shown), "", _THUMBNAIL) if shown else ""
        except InputError:
            return ""

    def _table(self, task: Asked, pictures: Sequence[str], sides: Sequence[Sequence[Answer]]) -> str:
        total, done = len(task.reader), len(sides[0])
        head = [safe(f"{'AB'[i]}: {n}") for i, n in enumerate(self.names)] if len(sides) > 1 else ["Answer"]
        body = []
        for i, shown in enumerate(pictures):
            raw = task.reader.record(i)
            said = "".join(_answer(side[i] if i < len(side) else None) for side in sides)
            body.append(
                f'<tr><td>{shown}</td><td>{safe(raw["question"])}<br><span class="mm-soft">{safe(raw["file"])}</span></td>{said}</tr>'
            )
        more = f'<p class="mm-note">{total - len(pictures)} more are in the files.</p>' if total > len(pictures) else ""
        failed = sum(any(a.error for a in row) for row in zip(*sides, strict=True))
        told = f"{done} of {total} done" + (f", {failed} could not be asked" if failed else "")
        bar = f'<div class="mm-bar"><i style="width:{math.floor(100 * done / total)}%"></i></div>'
        columns = "".join(f"<th>{h}</th>" for h in head)
        return (
            f'<div class="mm-progress">{bar}<span>{told}</span></div><div class="mm-rows"><table><tr><th></th><th>Question</th>'
            f"{columns}</tr>{''.join(body)}</table></div>{more}"
        )


def _answer(answer: Answer | None) -> str:
    """The cell of one answer: the model's words as they are, or why there are none."""
    if answer is None:
        return '<td class="mm-soft">...</td>'
    if answer.error:
        return f'<td class="mm-bad">{safe(answer.error)}</td>'
    sure = "" if answer.logprob is None else f' title="p = {math.exp(answer.logprob):.3f}"'
    return f'<td class="mm-said"{sure}>{safe(answer.reply.strip()) or "(empty)"}</td>'

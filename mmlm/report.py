"""The page of a run: one HTML file with tables, loss curves, and held-out pictures beside references and replies."""

import base64
import html
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmlm.errors import InputError
from mmlm.evaluation import Result
from mmlm.evaluation.calibrating import ABOUT, Calibration
from mmlm.evaluation.playing import PAGE
from mmlm.evaluation.tasks.task import Question, Scored
from mmlm.media import digest, load_image
from mmlm.sample import Image

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #66707a; --line: #d9dee3; --paper: #ffffff;
  --good: #1a7f4b; --bad: #b3372f; --one: #2563c9; --two: #c9622a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #98a2ac; --line: #363d44; --paper: #15191d;
  --good: #4cc38a; --bad: #ef7a70; --one: #6ba1f5; --two: #eb9c6a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.6rem; margin: 0 0 4px; }
h2 { font-size: 1.15rem; margin: 40px 0 12px; }
p { margin: 4px 0 12px; }
.soft { color: var(--soft); }
pre { overflow-x: auto; font: 13px/1.5 ui-monospace, monospace; border: 1px solid var(--line);
  border-radius: 8px; padding: 12px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 16px; }
.card { border: 1px solid var(--line); border-radius: 10px; overflow: hidden; display: flex; flex-direction: column; }
.card img { width: 100%; aspect-ratio: 1; object-fit: contain; background: #fff; }
.card div { padding: 8px 12px 12px; font-size: 14px; overflow-wrap: anywhere; }
.card .found { display: flex; padding: 0; }
.card .found img { width: 20%; box-sizing: border-box; }
.card .found .right { border: 3px solid var(--good); }
.sheet img { width: 100%; }
.q { color: var(--soft); }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; }
svg.small { max-width: 320px; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
"""


def write(run: Path, results: Mapping[str, Result], shown: int = 24) -> Path:
    """Write `run`/report.html from the run's metrics and the evaluation results; gives its path. Nothing in it is fetched
    from outside, and what a model or a data set says is text, never markup."""
    name = html.escape(run.name)
    blocks = [
        f"<h1>{name}</h1><p class=soft>Held-out pictures: none of them was seen in training. Below each table stands what "
        f"its control is; only what a score has above its control comes from seeing.</p>"
    ]
    for result in results.values():
        blocks.append(f"<pre>{html.escape(result.table())}</pre>")
        blocks += [_reliability(kind, c) for kind, c in list(result.calibration.items())[:1]]
    blocks.append("<h2>Loss while training</h2>" + _curves(_lines(run / "metrics.jsonl")))
    for task, result in results.items():
        if result.sheet is not None:
            blocks.append(f"<h2>{html.escape(task)}: requests, true items, made items</h2>{_sheet(run, result.sheet)}")
            continue
        pairs = list(zip(result.questions, result.scored, strict=True))
        cards = [_card(question, scored) for question, scored in _spread(pairs, shown)]
        blocks.append(f"<h2>{html.escape(task)}: pictures, references, replies</h2>")
        blocks.append(f"<div class=grid>{''.join(cards)}</div>")
    page = run / "report.html"
    page.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{name}</title><style>{_STYLE}</style><body>{''.join(blocks)}</body></html>",
        encoding="utf-8",
    )
    return page


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _spread(rows: Sequence[Any], n: int) -> list[Any]:
    """`n` rows evenly spread over all, so that no category fills the page."""
    return [rows[i * len(rows) // n] for i in range(n)] if len(rows) > n else list(rows)


def _card(question: Question, scored: Scored) -> str:
    """One question: its picture, what was asked, what people say, what the model said, and the pictures by which it did."""
    value = next(iter(scored.values.values()), 0.0)
    verdict = ("good" if value >= 1 else "bad") if value in (0.0, 1.0) else ""
    pictures = "".join(_thumbnail(i) for i in question.sample.items if isinstance(i, Image))
    asked = html.escape([t.text.strip() for t in question.sample.turns if t.role == "user"][-1])
    people = html.escape(" / ".join(question.references))
    lines = [f"<span class=q>{asked}</span>", *([people] if people != asked else [])]
    said = html.escape(scored.answer) or "(nothing)"
    own = {digest(i) for i in question.sample.items} if scored.items else set()
    found = "".join(_thumbnail(i, 96, digest(i) in own) for i in scored.items if isinstance(i, Image))
    answer = f"<div class=found>{found}</div><span class='{verdict}'>{said}</span>"
    return f"<div class=card>{pictures}<div>{'<br>'.join(lines)}{'' if found else '<br>'}{answer}</div></div>"


def _sheet(run: Path, file: Path) -> str:
    """A contact sheet in the page itself, which leads to the file, or to the page that plays what it shows."""
    played = file.with_name(PAGE)
    way = quote(Path(os.path.relpath(played if played.is_file() else file, run)).as_posix())
    more = f"<p><a href='{way}'>Play the sounds and clips</a></p>" if played.is_file() else ""
    return f"<p><a class=sheet href='{way}'>{_thumbnail(Image(file), 2400)}</a></p>{more}"


def _thumbnail(item: Image, side: int = 320, right: bool = False) -> str:
    """A picture in the page itself, marked where it is the right one; in its place why it cannot be read."""
    try:
        picture = load_image(item)
    except InputError as e:
        return f"<p class=bad>{html.escape(str(e))}</p>"
    picture.thumbnail((side, side))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    mark = "class=right " if right else ""
    return f"<img {mark}alt='' src='data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}'>"


def _reliability(kind: str, calibration: Calibration) -> str:
    """How right answers are over how sure the model was: a dot for each bin that holds an answer, as large as it holds
    many; dots on the line are of a model that is as often right as it is sure."""
    side, edge = 240, 28
    marks = [f"<line x1={edge} y1={edge + side} x2={edge + side} y2={edge} stroke='var(--line)' stroke-width=2 />"]
    for share, said in ((0, "0"), (0.5, "0.5"), (1, "1")):
        x, y = edge + share * side, edge + (1 - share) * side
        marks.append(f"<line x1={edge} x2={edge + side} y1={y} y2={y} stroke='var(--line)'/>")
        marks.append(f"<text x={edge - 6} y={y + 4} text-anchor=end>{said}</text>")
        marks.append(f"<text x={x} y={edge + side + 16} text-anchor=middle>{said}</text>")
    for b in calibration.curve:
        x, y = edge + b.confidence * side, edge + (1 - b.accuracy) * side
        said = f"{b.n} answers, confidence {b.confidence:.2f}, right {b.accuracy:.2f}"
        size = 3 + 9 * math.sqrt(b.n / calibration.n)
        marks.append(f"<circle cx={x:.1f} cy={y:.1f} r={size:.1f} fill='var(--one)'><title>{said}</title></circle>")
    span = side + 2 * edge
    drawn = f"<svg class=small viewBox='0 0 {span} {span}' role=img aria-label='reliability'>{''.join(marks)}</svg>"
    return f"{drawn}<p class=soft>Share of right answers (up) over {html.escape(ABOUT.get(kind, kind))} (across), in ten bins.</p>"


def _curves(lines: Sequence[Mapping[str, Any]]) -> str:
    """Loss over steps of all stages, one after the other, as SVG; validation as dots."""
    losses = [line for line in lines if "loss" in line]
    if len(losses) < 2:
        return "<p class=soft>too few steps for a curve</p>"
    width, height, left, bottom = 1000, 280, 44, 24
    stages = list(dict.fromkeys(line["stage"] for line in losses))
    lengths = {s: max(line["step"] for line in losses if line["stage"] == s) + 1 for s in stages}
    begins = {s: sum(lengths[t] for t in stages[: stages.index(s)]) for s in stages}
    top = max(line["loss"] for line in losses) * 1.05
    total = sum(lengths.values())

    def at(line: Mapping[str, Any], value: float) -> tuple[float, float]:
        x = left + (begins[line["stage"]] + line["step"]) / total * (width - left - 8)
        return x, 8 + (1 - value / top) * (height - bottom - 8)

    marks = []
    for i in range(5):
        y = 8 + (1 - i / 4) * (height - bottom - 8)
        marks.append(f"<line x1={left} x2={width} y1={y:.1f} y2={y:.1f} stroke='var(--line)'/>")
        marks.append(f"<text x={left - 8} y={y + 4:.1f} text-anchor=end>{top * i / 4:.1f}</text>")
    for n, stage in enumerate(stages):
        points = " ".join("{:.1f},{:.1f}".format(*at(line, line["loss"])) for line in losses if line["stage"] == stage)
        colour = "var(--one)" if n % 2 == 0 else "var(--two)"
        x = left + begins[stage] / total * (width - left - 8)
        marks.append(f"<polyline points='{points}' fill=none stroke={colour!r} stroke-width=2 />")
        marks.append(f"<text x={x + 4:.1f} y={height - 6}>{html.escape(stage)} ({lengths[stage]} steps)</text>")
    for line in lines:
        if "validation_loss" in line and line["stage"] in begins:
            x, y = at(line, min(line["validation_loss"], top))
            said = f"held-out loss {line['validation_loss']:.3f}"
            marks.append(f"<circle cx={x:.1f} cy={y:.1f} r=5 fill='var(--ink)'><title>{said}</title></circle>")
    drawn = f"<svg viewBox='0 0 {width} {height}' role=img aria-label='loss over steps'>{''.join(marks)}</svg>"
    return drawn + "<p class=soft>Dots: loss on held-out samples.</p>"

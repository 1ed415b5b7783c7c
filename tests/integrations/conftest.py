"""What the tests of the integrations share: a run, two pictures, and what `mmlm eval` has it say of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from systems import pictures, tiny

from mmlm import cli
from mmlm.config import dump

SAID = (("What is it?", "a hat"), ("Which colour is it?", "red"))


@dataclass(frozen=True)
class Home:
    """A trained run, its two questions (id -> picture, words), and its replies to them as `mmlm eval` records them."""

    folder: Path
    run: Path
    asked: Mapping[str, tuple[Path, str]]
    replies: Mapping[str, str]
    tokens: int


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("integrations")
    shown = pictures(folder / "pictures", 2)
    rows = [
        {"id": str(i), "image": f"pictures/{p.name}", "question": q, "answer": a}
        for i, (p, (q, a)) in enumerate(zip(shown, SAID, strict=True))
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    config = folder / "config.yaml"
    # Steps enough to know both answers by heart, so that a reply says which question it is to.
    longer = [f"stages.{i}.{k}={n}" for i, n in enumerate((1, 40)) for k in ("steps", "save_every")]
    config.write_text(dump(tiny("mlp", folder, *longer, data=data)), encoding="utf-8")
    run, out = folder / "run", folder / "out"
    assert cli.main(["train", str(config), "--out", str(run)]) == 0
    arguments = ["--data", str(data), "--out", str(out), "--set", "prompt={items}\n{question}"]
    assert cli.main(["eval", str(run), "--task", "vqa", *arguments]) == 0
    said = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = {str(r["id"]): (folder / r["image"], r["question"]) for r in rows}
    return Home(folder, run, asked, {s["id"]: s["reply"] for s in said}, 16)

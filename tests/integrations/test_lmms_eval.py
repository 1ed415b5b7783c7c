"""A run as a model of lmms-eval: the mapping of its requests, and the suite itself where it is installed."""

import copy
import json
import math
import os
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import PIL.Image
import pytest

from mmlm.errors import InputError
from mmlm.media import load_image
from mmlm.reply import likelihood
from mmlm.sample import Image, Sample, Turn
from mmlm.training.run import load_run

ROOT = Path(__file__).parents[2]
HERE = find_spec("lmms_eval") is not None
TASK, SPLIT = "probe", "test"
GREEDY = {"max_new_tokens": 16, "temperature": 0, "do_sample": False, "num_beams": 1, "until": []}
ENTRY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]


@dataclass
class _Instance:
    request_type: str
    arguments: tuple[Any, ...]
    idx: int
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.task_name, self.doc_id = self.metadata["task"], self.metadata["doc_id"]

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


@dataclass
class _TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class _GenerationResult:
    text: str
    token_counts: _TokenCounts | None = None


@dataclass(frozen=True)
class _Manifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None


class _Lmms:
    def __init__(self) -> None:
        self._rank = 0
        self.task_dict: dict[str, Any] = {}

    @property
    def rank(self) -> int:
        return self._rank


STAND_INS: dict[str, dict[str, Any]] = {
    "lmms_eval": {},
    "lmms_eval.api": {},
    "lmms_eval.api.instance": {
        "Instance": _Instance,
        "TokenCounts": _TokenCounts,
        "GenerationResult": _GenerationResult,
    },
    "lmms_eval.api.model": {"lmms": _Lmms},
    "lmms_eval.models": {},
    "lmms_eval.models.registry_v2": {"ModelManifest": _Manifest},
}


@pytest.fixture(scope="module")
def suite() -> Iterator[ModuleType]:
    """mmlm.integrations.lmms_eval_model over the real suite, or over stand-ins for what it imports of it."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not HERE:
            for name, held in STAND_INS.items():
                module = ModuleType(name)
                vars(module).update(held)
                patch.setitem(sys.modules, name, module)
        yield import_module("mmlm.integrations.lmms_eval_model")
        if not HERE:
            del sys.modules["mmlm.integrations.lmms_eval_model"]


@pytest.fixture(scope="module")
def docs(home: Any) -> list[dict[str, Any]]:
    """The records of a data set, as the suite holds them: pictures in memory."""
    return [{"image": PIL.Image.open(p), "question": q} for p, q in home.asked.values()]


Build = Callable[..., Any]


@pytest.fixture
def model(suite: ModuleType, home: Any, docs: list[dict[str, Any]]) -> Build:
    """Makes the model as the suite does, and tells it its data."""

    def build(form: str = "Chat", batch: int | str = 2) -> Any:
        made = getattr(suite, form)(run=str(home.run), batch_size=batch, device="cpu", max_batch_size=None)
        made.task_dict[TASK] = {SPLIT: docs}
        return made

    return build


@pytest.fixture
def ask(suite: ModuleType) -> Build:
    """Makes a request in one of the two forms, or one for the likelihood of `target`."""

    def build(form: str, doc: int, given: dict[str, Any] | None = None, target: Any = None) -> Any:
        given = copy.deepcopy(GREEDY if given is None else given)
        kind, told = (
            "generate_until",
            ("unused", _messages, given) if form == "Chat" else (QUESTIONS[doc], given, _visual),
        )
        if target is not None:
            kind, told = "loglikelihood", (QUESTIONS[doc], target, _visual)
        arguments = (*told, doc, TASK, SPLIT)
        return suite.Instance(kind, arguments, 0, {"task": TASK, "doc_id": doc, "repeats": 1})

    return build


QUESTIONS = ("What is it?", "Which colour is it?")


def _visual(doc: dict[str, Any]) -> list[Any]:
    return [doc["image"]]


def _messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    content = [{"type": "image", "url": doc["image"]}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": content}]


def test_importing_the_room_costs_nothing() -> None:
    code = (
        "import sys, mmlm.integrations, mmlm.integrations.lmms_eval\n"
        "assert not {'torch', 'numpy', 'transformers', 'lmms_eval', 'vlmeval'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, timeout=60, check=True)


def test_the_entry_point_names_both_forms(suite: ModuleType) -> None:
    ((name, value),) = ENTRY["lmms_eval.models"].items()
    told = EntryPoint(name, value, "lmms_eval.models").load()()
    assert (name, told.model_id) == ("mmlm", "mmlm")
    for path, simple in ((told.simple_class_path, True), (told.chat_class_path, False)):
        place, _, attribute = path.rpartition(".")
        assert place == suite.__name__
        assert getattr(suite, attribute).is_simple is simple


@pytest.mark.parametrize("form", ["Chat", "Simple"])
@pytest.mark.parametrize("batch", [1, 2, "3"])
def test_replies_are_those_of_mmlm_eval_in_their_order(
    form: str, batch: int | str, model: Build, ask: Build, home: Any
) -> None:
    order = [1, 0, 0, 1, 1]
    shorter = GREEDY | {"max_new_tokens": 1}
    requests = [ask(form, d, shorter if i == 2 else None) for i, d in enumerate(order)]
    given = copy.deepcopy([r.arguments[1:3] for r in requests])
    made = model(form, batch)
    said = made.generate_until(requests)
    assert [s.text for i, s in enumerate(said) if i != 2] == [home.replies[str(d)] for d in [1, 0, 1, 1]]
    assert said[2].token_counts.output_tokens == 1 and home.replies["0"].startswith(said[2].text)
    assert all(s.token_counts.input_tokens > 0 for s in said)
    assert len(set(home.replies.values())) == 2, "the two replies must differ"
    assert made.asked.assembly.model.cache.encoded == 2, "each picture is encoded once"
    assert [r.arguments[1:3] for r in requests] == given, "the suite's own keywords stay as they are"


def test_a_stop_text_ends_a_reply(model: Build, ask: Build, home: Any) -> None:
    stop = home.replies["0"][-1]
    (said,) = model().generate_until([ask("Chat", 0, GREEDY | {"until": [stop]})])
    assert said.text == home.replies["0"].partition(stop)[0]


def test_repeats_of_a_sampled_question_are_drawn_anew(model: Build, ask: Build) -> None:
    made, sampled = model(batch=8), GREEDY | {"do_sample": True, "temperature": 5.0}
    request = ask("Chat", 0, sampled)
    first = [s.text for s in made.generate_until([request] * 4)]
    assert len(set(first)) > 1
    assert [s.text for s in made.generate_until([request] * 4)] == first


def test_pictures_stand_where_the_text_marks_them(suite: ModuleType, docs: list[dict[str, Any]]) -> None:
    two = lambda _: [d["image"] for d in docs]  # noqa: E731
    (turn,) = suite._pictured("First <image>, then <image>: which?", two, None, "here").turns
    assert [p if isinstance(p, str) else "item" for p in turn.parts] == [
        "First ",
        "item",
        ", then ",
        "item",
        ": which?",
    ]
    (turn,) = suite._pictured("One <image>?", two, None, "here").turns
    assert [p if isinstance(p, str) else "item" for p in turn.parts] == ["item", "item", "\nOne <image>?"]
    (turn,) = suite._pictured("No <image>", lambda _: None, None, "here").turns
    assert turn.parts == ("No <image>",)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_question_that_cannot_be_put_has_an_empty_reply(
    batch: int, model: Build, ask: Build, home: Any, docs: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    made = model(batch=batch)
    made.task_dict[TASK] = {SPLIT: [*docs, {"image": None, "question": "And this?"}]}
    said = made.generate_until([ask("Chat", d) for d in (0, 2, 1)])
    assert [s.text for s in said] == [home.replies["0"], "", home.replies["1"]]
    assert "expected image as a picture, array or path, came NoneType" in caplog.text
    with pytest.raises(InputError, match=r"none of 2 questions could be asked: .*came NoneType"):
        made.generate_until([ask("Chat", 2)] * 2)


def test_nothing_is_asked_where_a_keyword_is_unknown(model: Build, ask: Build) -> None:
    made = model()
    with pytest.raises(InputError, match="probe:1: there is no generation keyword 'beams'"):
        made.generate_until([ask("Chat", 0), ask("Chat", 1, {"beams": 3})])
    assert made.asked.assembly.model.cache.encoded == 0


@pytest.mark.parametrize("batch", [1, 3])
def test_choices_have_the_loss_of_the_whole_reply(
    batch: int, model: Build, ask: Build, home: Any, docs: list[dict[str, Any]]
) -> None:
    choices = [" red", f" {home.replies['1']}", " a hat"]
    made = model("Simple", batch)
    found = [r.text for r in made.loglikelihood([ask("Simple", d, target=c) for d in (1, 0) for c in choices])]
    assembly = load_run(home.run, "cpu")
    samples = [Sample((Turn("user", (Image(home.asked[str(d)][0]), "\n" + home.asked[str(d)][1])),)) for d in (1, 0)]
    ranks = [r for each in likelihood(assembly, samples, [[c.strip() for c in choices]] * 2) for r in each]
    assert [loss for loss, _ in found] == pytest.approx([-total / tokens for total, tokens in ranks], abs=1e-5)
    assert [greedy for _, greedy in found][:3] == [c.strip() == home.replies["1"] for c in choices]
    (single,) = made.loglikelihood([ask("Simple", 1, target=lambda d: " red" if d is docs[1] else "")])
    told, greedy = single.text
    assert told == pytest.approx(ranks[0][0], abs=1e-5) and greedy is found[0][1]
    assert all(math.isfinite(loss) for loss, _ in found)


def test_rounds_are_refused(model: Build, ask: Build) -> None:
    with pytest.raises(InputError, match="probe: tasks of several rounds are not offered"):
        model().generate_until_multi_round([ask("Chat", 0)])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "expected run=RUN and nothing else, came no run"),
        ({"run": "RUN", "pretrained": "x"}, "expected run=RUN and nothing else, came pretrained"),
        ({"run": "RUN", "batch_size": "auto"}, "--batch_size: expected a number from 1 on, came 'auto'"),
        ({"run": "RUN", "batch_size": 0}, "--batch_size: expected a number from 1 on, came 0"),
        ({"run": "nowhere"}, "nowhere is not a run"),
        ({"run": "RUN", "device": "gpu"}, "device: expected cpu, cuda or cuda:0, came 'gpu'"),
        ({"run": "RUN", "device": "cuda:99"}, "device: cuda:99 was asked for, but there are"),
    ],
)
def test_wrong_arguments_are_one_clear_error(suite: ModuleType, home: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        suite.Chat(**(given | ({"run": str(home.run)} if given.get("run") == "RUN" else {})))
    assert told in str(caught.value)


def test_a_picture_is_the_same_in_memory_and_on_disk(home: Any, docs: list[dict[str, Any]], suite: ModuleType) -> None:
    for doc, (path, _) in zip(docs, home.asked.values(), strict=True):
        (item,) = suite._pictured("", _visual, doc, "here").items
        assert load_image(item).tobytes() == load_image(Image(path)).tobytes()


TASKS = {
    "mmlm_said": """
output_type: generate_until
generation_kwargs: {max_new_tokens: 16, temperature: 0, do_sample: false, until: []}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
doc_to_target: "{{answer}}"
""",
    "mmlm_ranked": """
output_type: multiple_choice
doc_to_choice: !function probe.choices
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
doc_to_target: !function probe.target
""",
}
PROBE = """
import PIL.Image

def visual(doc):
    return [PIL.Image.open(doc["image"]).convert("RGB")]

def choices(doc):
    return ["red", "a hat", "something else"]

def target(doc):
    return ["a hat", "red"].index(doc["answer"]) ^ 1
"""


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="lmms_eval is not installed: pip install lmms-eval")
@pytest.mark.parametrize(
    ("task", "flags"), [("mmlm_said", []), ("mmlm_said", ["--force_simple"]), ("mmlm_ranked", ["--force_simple"])]
)
def test_the_suite_asks_a_run(task: str, flags: list[str], home: Any, tmp_path: Path) -> None:
    """From its own command line, on two pictures of the disk, without a network."""
    rows = [
        {"id": i, "image": str(p), "question": q, "answer": a}
        for (i, (p, q)), a in zip(home.asked.items(), ("a hat", "red"), strict=True)
    ]
    (tmp_path / "rows.json").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    (tmp_path / "probe.py").write_text(PROBE, encoding="utf-8")
    (tmp_path / f"{task}.yaml").write_text(
        f"task: {task}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.json}}}}\n"
        "test_split: test\ndoc_to_visual: !function probe.visual\n"
        f'doc_to_text: "{{{{question}}}}"\n{TASKS[task]}',
        encoding="utf-8",
    )
    asked = (
        f"--model mmlm --model_args run={home.run} --tasks {task} --include_path {tmp_path} --device cpu --batch_size 2"
    )
    logging = f"--log_samples --output_path {tmp_path}/out --verbosity DEBUG"
    done = subprocess.run(
        [sys.executable, "-m", "lmms_eval", *asked.split(), *logging.split(), *flags],
        cwd=tmp_path,
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = (tmp_path / "out").rglob("*_results.json")
    scores = json.loads(results.read_text(encoding="utf-8"))["results"][task]
    (logged,) = (tmp_path / "out").rglob(f"*_samples_{task}.jsonl")
    lines = [json.loads(line) for line in logged.read_text(encoding="utf-8").splitlines()]
    if task == "mmlm_said":
        assert {str(s["doc_id"]): s["filtered_resps"] for s in lines} == home.replies
    else:
        assert scores["acc,none"] == 1.0


def _environment(folder: Path) -> dict[str, str]:
    """Where this checkout is installed, as far as its entry points go."""
    about = folder / "installed" / "mmlm_here-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mmlm-here\nVersion: 0\n", encoding="utf-8")
    groups = [f"[{g}]\n" + "".join(f"{n} = {v}\n" for n, v in points.items()) for g, points in ENTRY.items()]
    (about / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    path = os.pathsep.join((str(about.parent), str(ROOT)))
    return os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}

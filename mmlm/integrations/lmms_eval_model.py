"""Integrations room: a run as a model of lmms-eval, in both of its forms."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from mmlm.errors import InputError
from mmlm.integrations.asking import Asked
from mmlm.integrations.messages import item_of, part_of, sample_of
from mmlm.integrations.settings import decoding_of
from mmlm.reply import Decoding, Reply, ranked
from mmlm.sample import Part, Sample

_IMAGE = "<image>"
Make = Callable[[], Sample]


class _Model(lmms):
    """What both forms share. Questions are put in the order of the requests, so that those about one picture stand together
    and its features are computed once."""

    def __init__(
        self,
        run: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        """`--model_args run=RUN`; the other arguments are the suite's own."""
        super().__init__()
        if run is None or unknown:
            raise InputError(f"--model_args: expected run=RUN and nothing else, came {', '.join(unknown) or 'no run'}")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise InputError(f"--batch_size: expected a number from 1 on, came {batch_size!r}")
        self.batch_size = int(batch_size)
        self.asked = Asked(str(run), device or _own_device())

    @property
    def device(self) -> torch.device:
        """Where the model is; the suite gathers counts there."""
        return self.asked.assembly.model.device

    def question(self, request: Instance) -> tuple[dict[str, Any], Make]:
        """The generation keywords of a request, and what makes its sample."""
        raise NotImplementedError

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Replies in the order of `requests`. Raises InputError for a keyword that there is not, before anything is asked,
        and where no question at all could be asked; a single one that cannot has an empty reply and is logged."""
        makes: list[Make] = []
        alike: dict[Decoding, list[int]] = {}
        seen: Counter[str] = Counter()
        for i, request in enumerate(requests):
            given, make = self.question(request)
            where = _where(request)
            alike.setdefault(decoding_of(given, self.asked.room, where, seen[where]), []).append(i)
            seen[where] += 1
            makes.append(make)
        found: dict[int, GenerationResult] = {}
        before = len(self.asked.refused)
        with _bar(len(requests), self.rank) as bar:
            for decoding, numbers in alike.items():
                for group in _batches(numbers, self.batch_size):
                    said = self.asked.replies([makes[i] for i in group], decoding)
                    found |= {i: _result(r) for i, r in zip(group, said, strict=True)}
                    bar.update(len(group))
        refused = self.asked.refused[before:]
        if requests and len(refused) == len(requests):
            raise InputError(f"none of {len(requests)} questions could be asked: {refused[0]}")
        return [found[i] for i in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """For each choice of a ranking task the loss, the mean of -log p over the tokens that would say it as the whole
        reply: the suite takes the choice with the least. For a single target, its log p. And whether greedy decoding says
        just that. The pair stands where a text would: bare tuples are turned into texts by lmms-eval 0.7.3, which then
        cannot rank them."""
        found: list[GenerationResult] = []
        with _bar(len(requests), self.rank) as bar:
            for group in _batches(requests, self.batch_size):
                samples, targets = [], []
                for request in group:
                    ctx, target, visual, doc_id, task, split = request.args
                    doc = self.task_dict[task][split][doc_id]
                    samples.append(_pictured(ctx, visual, doc, _where(request)))
                    # The template itself parts a reply from the question, so that the suite's delimiter is left out.
                    targets.append([(target if isinstance(target, str) else str(target(doc))).strip()])
                ranks = ranked(self.asked.assembly, samples, targets)
                for request, (rank,) in zip(group, ranks, strict=True):
                    loss = -rank.total / rank.tokens if isinstance(request.args[1], str) else rank.total
                    found.append(GenerationResult((loss, rank.greedy)))
                bar.update(len(group))
        return found

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refused: the text of a later round is the task's, made from its earlier replies."""
        raise InputError(f"{requests[0].task_name}: tasks of several rounds are not offered; use tasks of one")


class Chat(_Model):
    """Asked by messages, in which pictures stand where the task puts them. For generation only."""

    is_simple: ClassVar[bool] = False

    def question(self, request: Instance) -> tuple[dict[str, Any], Make]:
        _, messages, given, doc_id, task, split = request.args

        def make() -> Sample:
            told = messages(self.task_dict[task][split][doc_id])
            return sample_of([(m["role"], [part_of(c, "url") for c in m["content"]]) for m in told], _where(request))

        return given, make


class Simple(_Model):
    """Asked by a text and a list of pictures: at the places that the text marks, or else before it."""

    is_simple: ClassVar[bool] = True

    def question(self, request: Instance) -> tuple[dict[str, Any], Make]:
        ctx, given, visual, doc_id, task, split = request.args
        return given, lambda: _pictured(ctx, visual, self.task_dict[task][split][doc_id], _where(request))


def _pictured(ctx: str, visual: Callable[[Any], Any] | None, doc: Any, where: str) -> Sample:
    """A user turn of a text and the pictures of a record."""
    shown = (visual(doc) if visual else None) or []
    items = [item_of(v) for each in shown for v in (each if isinstance(each, list) else [each])]
    texts = ctx.split(_IMAGE)
    parts: list[Part] = [*items, ctx]
    if items and len(texts) == len(items) + 1:
        parts = [p for pair in zip(texts, [*items, ""], strict=True) for p in pair if p != ""]
    return sample_of([("user", parts)], where)


def _where(request: Instance) -> str:
    return f"{request.task_name}:{request.doc_id}"


def _result(said: Reply | None) -> GenerationResult:
    if said is None:
        return GenerationResult("", TokenCounts())
    return GenerationResult(said.text, TokenCounts(said.prompt_tokens, len(said.ids)))


def _batches(values: Sequence[Any], size: int) -> list[Any]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def _bar(total: int, rank: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="mmlm", disable=rank != 0)


def _own_device() -> str | None:
    """The GPU of this process among those that the suite was started with."""
    from accelerate import PartialState

    return f"cuda:{PartialState().local_process_index}" if torch.cuda.is_available() else None

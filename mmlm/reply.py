"""From prompts to replies, token by token: batched for evaluation, streamed for a chat. One loop serves both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmlm.assemble import Assembly
from mmlm.batch import IGNORE
from mmlm.errors import InputError
from mmlm.sample import Sample, Turn
from mmlm.speech import Finish, Reply, Run, Speech
from mmlm.vocabulary import Vocabulary

_LIMIT = 256  # tokens of a reply where nobody says how many


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen: greedy at temperature 0, otherwise nucleus sampling (Holtzman et al. 2020) from `seed`, the same
    for a sample whatever batch it is in. `stop` strings end a reply and are cut off. `items`: the most pictures, sounds and
    clips that one reply may hold."""

    limit: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    items: int = 4

    def __post_init__(self) -> None:
        if self.limit < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.items < 0:
            raise InputError(
                f"decoding: expected limit >= 1, temperature >= 0, 0 < top_p <= 1 and items >= 0; got limit {self.limit}, "
                f"temperature {self.temperature}, top_p {self.top_p}, items {self.items}"
            )


def usual(length: int) -> int:
    """The longest reply, in tokens, where nobody says how long: in a small context half of its `length`."""
    return max(1, min(_LIMIT, length // 2))


def reply(
    assembly: Assembly,
    samples: Sequence[Sample],
    decoding: Decoding | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Reply]:
    """Replies to conversations that end with a user turn, all at once, in their order. `seeds`: one for each, in place of the
    decoding's."""
    if not samples:
        return []
    *_, said = _say(assembly, samples, decoding or Decoding(), seeds)
    return said


def stream(assembly: Assembly, sample: Sample, decoding: Decoding | None = None) -> Iterator[Reply]:
    """The reply so far, again after each token. Its text only ever grows: half a character, and what may be the beginning
    of a stop, wait for what comes next. Its items come with the last one. Closing the iterator stops the model within one
    token."""
    for (said,) in _say(assembly, [sample], decoding or Decoding()):
        yield said


def _say(
    assembly: Assembly, samples: Sequence[Sample], decoding: Decoding, seeds: Sequence[int] | None = None
) -> Iterator[list[Reply]]:
    """One step of all rows per turn of the iterator; the last value is final."""
    seeds = seeds or [decoding.seed] * len(samples)
    model, vocabulary = assembly.model, assembly.vocabulary
    if decoding.limit >= assembly.processor.length:
        raise InputError(
            f"the reply may have {decoding.limit} tokens, but the context holds {assembly.processor.length} positions for what is "
            f"asked and the reply; set a lower limit (--limit), or train with a longer `length`"
        )
    examples = [assembly.processor(s, reply=True, length=assembly.processor.length - decoding.limit) for s in samples]
    batch = assembly.processor.collate([[e] for e in examples], left=True).to(model.device)
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    stops = decoding.stop + tuple(vocabulary.template.stop)
    speech = Speech(assembly, decoding.items)
    rows = [_Row(vocabulary, stops, len(e), e.lead, Run(speech)) for e in examples]
    with torch.inference_mode():
        x, memory = model.embed(batch)
        session = model.backbone.start(x, batch, memory)
    for _ in range(decoding.limit):
        with torch.inference_mode():
            logits = speech.free(model.backbone.logits(session.states), [row.run for row in rows])
            ids, logprobs = _choose(logits, decoding, generators)
        for row, token, logprob in zip(rows, ids.tolist(), logprobs.tolist(), strict=True):
            if row.finish is None:
                row.take(token, logprob)
        if all(row.finish for row in rows):
            break
        if len(rows) == 1:
            yield [row.reply() for row in rows]
        with torch.inference_mode():
            session.advance(ids, speech.given(ids, [row.run for row in rows], session.states))
    for row in rows:
        row.finish = row.finish or "limit"
    yield speech.made([row.reply() for row in rows], examples, [row.run for row in rows], seeds)


class _Row:
    """One reply under way."""

    def __init__(self, vocabulary: Vocabulary, stops: tuple[str, ...], prompt_tokens: int, lead: str, run: Run) -> None:
        self.vocabulary, self.stops, self.prompt_tokens, self.lead = vocabulary, stops, prompt_tokens, lead
        self.run = run
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish: Finish | None = None
        self.cut: int | None = None

    def take(self, token: int, logprob: float) -> None:
        self.ids.append(token)
        self.logprobs.append(logprob)
        if self.run.take(token):
            return
        if token in self.vocabulary.ends:
            self.finish = "end"
        elif self.stops:
            text = self._text()
            found = [at for s in self.stops if (at := text.find(s)) >= 0]
            if found:
                self.finish, self.cut = "stop", min(found)

    def reply(self) -> Reply:
        text = self._text()[: self.cut] if self.finish else self._certain()
        return Reply(text, tuple(self.ids), tuple(self.logprobs), self.finish or "limit", self.prompt_tokens)

    def _text(self) -> str:
        """The text so far, without what asks for items."""
        return "".join(self.vocabulary.decode(ids, lead=lead) for ids, lead in self.run.pieces(self.ids, self.lead))

    def _certain(self) -> str:
        """What stands whatever comes next."""
        *before, (ids, lead) = self.run.pieces(self.ids, self.lead)
        text = self.vocabulary.decode(ids)
        text = "" if lead.startswith(text) else text.removeprefix(lead).rstrip("\ufffd")
        text = "".join(self.vocabulary.decode(i, lead=lead) for i, lead in before) + text
        begun = [n for s in self.stops for n in range(1, len(s)) if text.endswith(s[:n])]
        return text[: len(text) - max(begun, default=0)]


def _choose(
    logits: Float[Tensor, "B V"], decoding: Decoding, generators: list[torch.Generator]
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """The next id of each row and its log-probability under the model."""
    logp = logits.log_softmax(-1)
    if decoding.temperature == 0:
        ids = logits.argmax(-1)
    else:
        p, order = (logits / decoding.temperature).softmax(-1).sort(-1, descending=True)
        kept = p.cumsum(-1) - p < decoding.top_p  # the smallest set that holds top_p; the first id always stays
        below = (p * kept).cumsum(-1)
        drawn = torch.stack([torch.rand((), generator=g) for g in generators]).to(logits.device)
        at = (below < (drawn * below[:, -1])[:, None]).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
        ids = order.gather(-1, at).squeeze(-1)
    return ids, logp.gather(-1, ids[:, None]).squeeze(-1)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A given reply: the sum of log p over the tokens that would say it, their number, and whether each of them is the
    likeliest one where it stands."""

    total: float
    tokens: int
    greedy: bool


def likelihood(
    assembly: Assembly, samples: Sequence[Sample], options: Sequence[Sequence[str]]
) -> list[list[tuple[float, int]]]:
    """For each sample that ends with a user turn and each of its options: the sum of log p over the tokens that would say it
    as the whole reply (its end token included, so that "cat" does not profit from "cattle"), and their number."""
    return [[(r.total, r.tokens) for r in each] for each in ranked(assembly, samples, options)]


@torch.inference_mode()
def ranked(assembly: Assembly, samples: Sequence[Sample], options: Sequence[Sequence[str]]) -> list[list[Ranked]]:
    """As `likelihood`, and whether greedy decoding would say the option."""
    model = assembly.model
    sizes = [len(o) for o in options]
    asked = [
        replace(s, turns=(*s.turns, Turn("assistant", (o,))))
        for s, each in zip(samples, options, strict=True)
        for o in each
    ]
    if not asked:
        return [[] for _ in samples]
    examples = [assembly.processor(s) for s in asked]
    batch = assembly.processor.collate([[e] for e in examples]).to(model.device)
    states, targets = model.states(batch)
    told: list[Tensor] = []
    likeliest: list[Tensor] = []
    for s, t in zip(states.split(256), targets.split(256), strict=True):
        logits = model.backbone.logits(s)
        told.append(logits.log_softmax(-1).gather(-1, t[:, None]).squeeze(-1))
        likeliest.append(logits.argmax(-1) == t)
    learned = [e.learned for e in examples]
    scores = []
    rows = zip(torch.cat(told).split(learned), torch.cat(likeliest).split(learned), strict=True)
    for example, (logp, best) in zip(examples, rows, strict=True):
        last = _last_run(example.labels)
        scores.append(Ranked(float(logp[-last:].sum()), last, bool(best[-last:].all())))
    it = iter(scores)
    return [[next(it) for _ in range(n)] for n in sizes]


def _last_run(labels: list[int]) -> int:
    """Length of the last unbroken run of supervised labels: the last assistant turn."""
    end = max(i for i, label in enumerate(labels) if label != IGNORE) + 1
    begin = end
    while begin > 0 and labels[begin - 1] != IGNORE:
        begin -= 1
    return end - begin


__all__ = ["Decoding", "Finish", "Ranked", "Reply", "likelihood", "ranked", "reply", "stream"]

"""From prompts to replies, token by token: batched for evaluation, streamed for a chat. One loop serves both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmlm.assemble import Assembly
from mmlm.batch import IGNORE
from mmlm.errors import InputError
from mmlm.processor import Example
from mmlm.sample import Sample, Turn
from mmlm.speech import Finish, Reply, Run, Speech


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


def reply(assembly: Assembly, samples: Sequence[Sample], decoding: Decoding | None = None) -> list[Reply]:
    """Replies to conversations that end with a user turn, all at once, in their order."""
    if not samples:
        return []
    *_, said = _say(assembly, samples, decoding or Decoding())
    return said


def stream(assembly: Assembly, sample: Sample, decoding: Decoding | None = None) -> Iterator[Reply]:
    """The reply so far, again after each token; its items come with the last one. Closing the iterator stops the model within
    one token."""
    for (said,) in _say(assembly, [sample], decoding or Decoding()):
        yield said


def _say(assembly: Assembly, samples: Sequence[Sample], decoding: Decoding) -> Iterator[list[Reply]]:
    """One step of all rows per turn of the iterator; the last value is final."""
    model, vocabulary = assembly.model, assembly.vocabulary
    examples = [assembly.processor(s, reply=True, length=assembly.processor.length - decoding.limit) for s in samples]
    batch = assembly.processor.collate([[e] for e in examples], left=True).to(model.device)
    speech = Speech(assembly, decoding.items)
    generators = [torch.Generator().manual_seed(decoding.seed) for _ in samples]
    rows = [_Row(e, speech) for e in examples]
    stops = decoding.stop + tuple(vocabulary.template.stop)
    with torch.inference_mode():
        x, memory = model.embed(batch)
        session = model.backbone.start(x, batch, memory)
    for _ in range(decoding.limit):
        with torch.inference_mode():
            logits = speech.free(model.backbone.logits(session.states), [row.run for row in rows])
            ids, logprobs = _choose(logits, decoding, generators)
        for row, token, logprob in zip(rows, ids.tolist(), logprobs.tolist(), strict=True):
            if row.finish is None:
                row.take(token, logprob, assembly, stops)
        done = all(row.finish for row in rows)
        if done:
            break
        if len(rows) == 1:
            yield [row.reply(assembly) for row in rows]
        with torch.inference_mode():
            session.advance(ids, speech.given(ids, [row.run for row in rows]))
    for row in rows:
        row.finish = row.finish or "limit"
    yield speech.made([row.reply(assembly) for row in rows], examples, [row.run for row in rows], decoding.seed)


class _Row:
    """One reply under way."""

    def __init__(self, example: Example, speech: Speech) -> None:
        self.prompt_tokens, self.lead, self.run = len(example), example.lead, Run(speech)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish: Finish | None = None
        self.cut: int | None = None

    def take(self, token: int, logprob: float, assembly: Assembly, stops: tuple[str, ...]) -> None:
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.run.take(token)
        if token in assembly.vocabulary.ends:
            self.finish = "end"
        elif stops:
            text = assembly.vocabulary.decode(self.ids, lead=self.lead)
            found = [at for s in stops if (at := text.find(s)) >= 0]
            if found:
                self.finish, self.cut = "stop", min(found)

    def reply(self, assembly: Assembly) -> Reply:
        text = assembly.vocabulary.decode(self.ids, lead=self.lead)[: self.cut]
        return Reply(text, tuple(self.ids), tuple(self.logprobs), self.finish or "limit", self.prompt_tokens)


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


@torch.inference_mode()
def likelihood(
    assembly: Assembly, samples: Sequence[Sample], options: Sequence[Sequence[str]]
) -> list[list[tuple[float, int]]]:
    """For each sample that ends with a user turn and each of its options: the sum of log p over the tokens that would say it
    as the whole reply (its end token included, so that "cat" does not profit from "cattle"), and their number."""
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
    logp = torch.cat(
        [
            model.backbone.logits(s).log_softmax(-1).gather(-1, t[:, None]).squeeze(-1)
            for s, t in zip(states.split(256), targets.split(256), strict=True)
        ]
    )
    scores = []
    for example, row in zip(examples, logp.split([e.learned for e in examples]), strict=True):
        last = _last_run(example.labels)
        scores.append((float(row[-last:].sum()), last))
    it = iter(scores)
    return [[next(it) for _ in range(n)] for n in sizes]


def _last_run(labels: list[int]) -> int:
    """Length of the last unbroken run of supervised labels: the last assistant turn."""
    end = max(i for i, label in enumerate(labels) if label != IGNORE) + 1
    begin = end
    while begin > 0 and labels[begin - 1] != IGNORE:
        begin -= 1
    return end - begin

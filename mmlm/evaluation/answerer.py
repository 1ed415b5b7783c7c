"""Evaluation room: what the runner asks of a model, so that it can be anything that answers."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from mmlm.sample import Sample


@runtime_checkable
class Said(Protocol):
    """A reply, as `mmlm.reply.Reply`: the text, its ids with the log-probability of each (none where the model does not
    tell them), why it ended, and the length of the prompt in tokens."""

    @property
    def text(self) -> str: ...
    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def logprobs(self) -> Sequence[float]: ...
    @property
    def finish(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...


@runtime_checkable
class Choosing(Protocol):
    """How tokens are chosen: any dataclass, as `mmlm.reply.Decoding`; its fields are part of an answer's key."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@runtime_checkable
class Answerer(Protocol):
    """A model that replies to samples that end with a user turn, or says how likely it holds given replies."""

    @property
    def fingerprint(self) -> str:
        """Names the weights and the arithmetic: equal fingerprints give equal answers."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """What a result should say of the model: system, template, dtype, device."""
        ...

    def reply(self, samples: Sequence[Sample], decoding: Any) -> Sequence[Said]:
        """Replies in the order of `samples`. Raises InputError where a sample cannot be asked."""
        ...

    def likelihood(
        self, samples: Sequence[Sample], replies: Sequence[Sequence[str]]
    ) -> Sequence[Sequence[tuple[float, int]]]:
        """For each sample and each given reply: the sum of log p, and the number of tokens."""
        ...

"""Part of the demo: OpenAI's chat completions as words of the house. A request becomes a sample, a Reply becomes JSON."""

import base64
import json
import secrets
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from mmlm.assemble import Assembly
from mmlm.errors import InputError, reason
from mmlm.jsonfile import once
from mmlm.media.saving import TYPES, encoded
from mmlm.reply import Decoding, Finish, Reply, usual
from mmlm.sample import Image, Item, Modality, Sample
from mmlm.training.readers.conversation import Supply, read_turns
from mmlm.training.readers.field import Field as Record
from mmlm.training.readers.source import embedded

from .links import Links

LEAST = -9999.0  # what OpenAI writes for the logarithm of nothing
ORIGIN = "request"
_FINISH: dict[Finish, str] = {"end": "stop", "stop": "stop", "limit": "length"}
Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Stops = Annotated[list[Stop], Field(max_length=16), BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
Zero = Annotated[float, Field(ge=0, le=0)]


class Refused(InputError):
    """A request that cannot be answered, with the status, the code and the parameter that OpenAI's clients look at."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class StreamOptions(_Strict):
    """What may be asked of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Asked(_Strict):
    """A request. What would change a reply and is not known here is refused, not passed over."""

    model: str
    messages: list[Any]
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: Stops = []
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    logprobs: bool = False
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    # These are known where they ask for what happens anyway.
    n: Literal[1] = 1
    top_logprobs: Literal[0] = 0
    presence_penalty: Zero = 0.0
    frequency_penalty: Zero = 0.0
    response_format: dict[Literal["type"], Literal["text"]] = {}
    modalities: list[Literal["text"]] = []
    # These are notes of the client's.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None


def asked(body: bytes, model: str) -> Asked:
    """The request in a body, for `model`. Raises Refused; its message quotes names of parameters, no values."""
    try:
        found = json.loads(body, object_pairs_hook=once, parse_constant=_no_number)
    except (ValueError, RecursionError) as e:
        raise Refused(f"{ORIGIN}: expected JSON, got something else ({reason(e)})") from None
    if not isinstance(found, dict):
        raise Refused(f"{ORIGIN}: expected a JSON object, got another value")
    try:
        request = Asked.model_validate({k: v for k, v in found.items() if v is not None})
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        param = str(first["loc"][0])
        told = "it is not known here; leave it out" if first["type"] == "extra_forbidden" else first["msg"]
        raise Refused(f"{ORIGIN}: {param[:60]}: {told}", param=param[:60]) from None
    if request.model != model:
        raise no_model(model)
    return request


def no_model(model: str) -> Refused:
    """The refusal of every name but that of the one model there is."""
    told = f"{ORIGIN}: model: there is only {model!r} here"
    return Refused(told, status=404, code="model_not_found", param="model")


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def sample(request: Asked, links: Links) -> Sample:
    """The conversation, by the reader of messages that data sets have too: without folders, so that no path leads anywhere.

    Addresses of pictures are fetched through `links`. Raises InputError.
    """

    def linked(url: Record, modality: Modality) -> Item:
        text = url.text()
        if text[:5].lower() == "data:":
            return embedded(url, modality)
        if modality != "image":
            raise url.refuse(f"a data URI, data:{modality}/...;base64,...")
        return Image(links.fetch(text))

    supply = Supply({}, loose=True, linked=linked)
    messages = Record(ORIGIN, "messages", request.messages)
    turns = read_turns(messages, "role", "content", supply, unanswered=True)
    if turns[-1].role != "user":
        raise messages.refuse("a message of the user's at the end")
    return Sample(turns, ORIGIN, ORIGIN)


def decoding(request: Asked, length: int) -> Decoding:
    """How the reply is chosen, in a context of `length`. Without a seed, sampling differs from one time to the next."""
    limit = request.max_completion_tokens or request.max_tokens or usual(length)
    if limit >= length:
        raise Refused(
            f"{ORIGIN}: max_tokens: expected fewer than the {length} tokens of the context", param="max_tokens"
        )
    seed = secrets.randbits(63) if request.seed is None else request.seed
    return Decoding(limit, request.temperature, request.top_p, tuple(request.stop), seed)


def completion(
    said: Reply, head: dict[str, Any], likely: dict[str, Any] | None, more: dict[str, Any]
) -> dict[str, Any]:
    """The answer in one piece; `more` is what stands `beside` its text."""
    message = {"role": "assistant", "content": said.text, "refusal": None, **more}
    choice = {"index": 0, "message": message, "logprobs": likely, "finish_reason": _FINISH[said.finish]}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": usage(said)}


def piece(
    head: dict[str, Any], delta: dict[str, Any], likely: dict[str, Any] | None, end: Reply | None
) -> dict[str, Any]:
    """One piece of an answer that is streamed; the last but the usage has the reply's end."""
    choice = {"index": 0, "delta": delta, "logprobs": likely, "finish_reason": end and _FINISH[end.finish]}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def beside(said: Reply) -> dict[str, Any]:
    """What a message has beside its text, by mmlm's own names: `parts`, where the reply holds items, are its texts and items in
    reading order, as content parts that a request may hold (items as data URIs); `notes` say which items there are none of."""
    parts, notes = [], list(said.notes)
    for part in said.parts if said.items else ():
        try:
            parts.append({"type": "text", "text": part} if isinstance(part, str) else _linked(part))
        except InputError as e:
            notes.append(str(e))
    return {**({"parts": parts} if parts else {}), **({"notes": notes} if notes else {})}


def _linked(item: Item) -> dict[str, Any]:
    data, suffix = encoded(item)
    url = f"data:{TYPES[suffix]};base64,{base64.b64encode(data).decode()}"
    return {"type": f"{item.modality}_url", f"{item.modality}_url": {"url": url}}


def usage(said: Reply) -> dict[str, int]:
    """What the reply cost."""
    spent = {"prompt_tokens": said.prompt_tokens, "completion_tokens": len(said.ids)}
    return {**spent, "total_tokens": sum(spent.values())}


def likelihoods(said: Reply, assembly: Assembly, begin: int = 0) -> dict[str, Any]:
    """The log-probability of each token from `begin` on, without the one that ends a reply and says nothing."""
    ends, decode = assembly.vocabulary.ends, assembly.vocabulary.decode
    pairs = [(decode([i]), p) for i, p in zip(said.ids[begin:], said.logprobs[begin:], strict=True) if i not in ends]
    # Part of a character has no text of its own, and so no bytes that could be told.
    return {
        "content": [
            {
                "token": text,
                "logprob": max(logprob, LEAST),
                "bytes": None if "\ufffd" in text else list(text.encode()),
                "top_logprobs": [],
            }
            for text, logprob in pairs
        ],
        "refusal": None,
    }

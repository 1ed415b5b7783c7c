"""A tokenizer in pieces: ids of texts that can be joined, with what a person typed kept apart from what is structure.

SentencePiece tokenizers put a space in front of every text, and most tokenizers put ids around it. `Codec` works on a
copy of the tokenizer that adds nothing, so that encode(a) + encode(b) is encode(a + b) wherever no token spans the
border. Some do, where whitespace or punctuation meets whitespace: Qwen's vocabulary joins a full stop to the newline
behind it, GPT-2's parts two newlines in front of a word, SentencePiece joins spaces. There the text is the same, not the
ids. T5 keeps no whitespace but single spaces, and takes one for an id where it ends a text.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from tokenizers import AddedToken, Encoding, Tokenizer

Spec = dict[str, Any]  # one step of a tokenizer.json
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACES = {"Regex": r"\s+"}
_LONGEST = 8  # more tokens than this never share one character


@dataclass(frozen=True, slots=True)
class Space:
    """Where the original tokenizer puts a space in front of text: nowhere, where a text starts, or behind each special
    token too ("section"); and what must not stand there already: anything may, no space, no whitespace at all."""

    where: Literal["never", "text", "section"] = "never"
    unless: Literal["never", "space", "whitespace"] = "never"

    def stands(self, text: str) -> bool:
        """Whether the text begins with what makes a space needless."""
        if self.unless == "whitespace":
            return text[:1].isspace()
        return self.unless == "space" and text.startswith((" ", "▁"))


class Codec:
    """The copy of a tokenizer.

    `structure` maps each special token, and each other added token that is more than whitespace, to its id; `space`
    says what the original puts in front of a text; `lost` are ids left out of texts that somebody typed: that of an
    unknown character, where the same id begins a text or ends a reply.
    """

    def __init__(self, spec: str, added: Mapping[int, AddedToken], unknown: int | None) -> None:
        """`spec` is the tokenizer.json of the original, `added` its added tokens, `unknown` the id of what it cannot
        say."""
        tokens = {i: t for i, t in added.items() if t.special or t.content.strip()}
        self.structure = {t.content: i for i, t in tokens.items()}
        plain, self.space = _plain(json.loads(spec), self.structure)
        self._tokenizer = Tokenizer.from_str(json.dumps(plain))
        self._tokenizer.encode_special_tokens = True
        self._barred = set(tokens) - {unknown}
        # These come out of texts in good faith, but not where the text spells them.
        self._named = {i: t for t, i in self._tokenizer.get_vocab().items() if i == unknown or _BYTE.fullmatch(t)}
        self.marks = _pattern(tokens.values())
        self.lost: set[int | None] = set()

    def encode(self, text: str) -> list[int]:
        """Ids of text that somebody typed. No id of `structure` comes out: a text that spells one is cut inside it.
        Lone surrogates become U+FFFD."""
        if not text.isascii():
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        ids: list[int] = []
        waiting = [text]
        while waiting:
            piece = waiting.pop()
            encoding = self._tokenizer.encode(piece, add_special_tokens=False)
            if cuts := self._cuts(piece, encoding):
                waiting += [piece[a:b] for a, b in pairwise([0, *cuts, len(piece)])][::-1]
            else:
                ids += [i for i in encoding.ids if i not in self._barred and i not in self.lost]
        return ids

    def _cuts(self, text: str, encoding: Encoding) -> list[int]:
        """Where to cut a text so that it spells no structure, and neither a byte token ("<0x0A>") nor the unknown one."""
        if self._barred.isdisjoint(encoding.ids) and self._named.keys().isdisjoint(encoding.ids):
            return []
        cuts = set()
        for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if end - start > 1 and (i in self._barred or self._named.get(i) == text[start:end]):
                cuts.add(start + 1)
        return sorted(cuts)

    def parts(self, text: str) -> Iterator[str | int]:
        """Text of a template: plain text, and the ids of the structure in it."""
        at = 0
        for found in self.marks.finditer(text):
            if found.start() > at:
                yield text[at : found.start()]
            name = found.group()
            yield self.structure[name if name in self.structure else name.strip()]
            at = found.end()
        if at < len(text):
            yield text[at:]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, nothing taken away: decode(encode(text)) is text wherever the tokenizer can say it."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


class Stream:
    """Ids to text one by one; what is not yet a whole character is held back."""

    def __init__(self, decode: Callable[[Sequence[int]], str], lead: str = "") -> None:
        """`lead` is left out where the text begins with it."""
        self._decode, self._lead = decode, lead
        self._held: list[int] = []
        self._start = ""

    def push(self, token: int) -> str:
        """The text that this id completes; often empty."""
        self._held.append(token)
        text = self._decode(self._held)
        if text.endswith("\ufffd") and len(self._held) < _LONGEST:
            return ""
        self._held = []
        return self._say(text)

    def finish(self) -> str:
        """What was held back, as it is."""
        text = self._say(self._decode(self._held)) + self._start
        self._held, self._start = [], ""
        return text

    def _say(self, text: str) -> str:
        if not self._lead:
            return text
        self._start += text
        if self._lead != self._start and self._lead.startswith(self._start):
            return ""
        text, self._start, lead, self._lead = self._start, "", self._lead, ""
        return text.removeprefix(lead)


def _pattern(tokens: Iterable[AddedToken]) -> re.Pattern[str]:
    """Matches any of the tokens, the longest first, with the whitespace that it swallows; nothing if there are none."""
    longest = sorted(tokens, key=lambda t: -len(t.content))
    each = [r"\s*" * t.lstrip + re.escape(t.content) + r"\s*" * t.rstrip for t in longest]
    return re.compile("|".join(each) or r"(?!)")


def _plain(spec: Spec, structure: Mapping[str, int]) -> tuple[Spec, Space]:
    """The tokenizer.json that adds nothing and strips nothing, and what the original adds in front."""
    space = Space()
    normalizer = []
    for step in _steps(spec["normalizer"], "normalizers"):
        if step["type"] == "Prepend":
            space = Space("section")
        elif step["type"] != "Strip":
            normalizer.append(step)
    before = _steps(spec["pre_tokenizer"], "pretokenizers")
    unless: Literal["space", "whitespace"] = "space"
    if any(step["type"] == "Metaspace" for step in before):
        # Words that were split at whitespace lose it; to keep it, whitespace becomes a space, and that a metaspace.
        kept = [step for step in before if step["type"] != "WhitespaceSplit"]
        if len(kept) < len(before):
            normalizer.append({"type": "Replace", "pattern": _SPACES, "content": " "})
            unless = "whitespace"
        before = kept
    for at, step in enumerate(before):
        if step["type"] == "Metaspace" and step["prepend_scheme"] != "never":
            space = Space("text" if step["prepend_scheme"] == "first" else "section", unless)
            before[at] = {**step, "prepend_scheme": "never"}
        elif step["type"] == "ByteLevel" and step["add_prefix_space"]:
            space = Space("section", unless)
            before[at] = {**step, "add_prefix_space": False}
    behind = [s for s in _steps(spec["decoder"], "decoders") if s["type"] != "Strip"] or [{"type": "Fuse"}]
    behind = [{**s, "prepend_scheme": "never"} if s["type"] == "Metaspace" else s for s in behind]
    plain = {
        **spec,
        "truncation": None,
        "padding": None,
        "added_tokens": [{**t, "special": t["special"] or t["content"] in structure} for t in spec["added_tokens"]],
        "normalizer": {"type": "Sequence", "normalizers": normalizer} if normalizer else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": before} if before else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": behind},
    }
    return plain, space


def _steps(step: Spec | None, key: str) -> list[Spec]:
    """The steps of a part of tokenizer.json, sequences laid flat."""
    if step is None:
        return []
    return [s for inner in step[key] for s in _steps(inner, key)] if step["type"] == "Sequence" else [step]

"""What the blocks of a config owe each other: names that must exist elsewhere, keys that exclude one another.

The rules read plain data and pass over what has another form than expected, so that a config with other mistakes still
hears of these.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmlm.config.problems import Path, got, hint, one_of
from mmlm.objectives import PARTS as OBJECTIVES
from mmlm.templates import TEMPLATES

Broken = Iterator[tuple[Path, str]]
SPELLING = "[OUT{}]"
_OF_SIGNALS = {"spelling": SPELLING, "taught": 1, "queries": 0}  # what only a stream with signals of its own says
_OF_STATES = {**_OF_SIGNALS, "layers": [-1], "embed": False}  # what a stream that reads no such states says nothing of
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def broken(data: Mapping[str, Any]) -> Broken:
    """Every rule that `data` breaks: the key path, and what was expected and came."""
    streams = _mapping(data.get("inputs"))
    stages = {i: s for i, s in enumerate(_list(data.get("stages"))) if isinstance(s, dict)}
    yield from _names(data, streams)
    yield from _encoders(streams)
    yield from _aligners(streams)
    yield from _memory(streams)
    yield from _templates(data, stages)
    yield from _stage_names(stages)
    outputs = _mapping(data.get("outputs"))
    yield from _signals(outputs)
    yield from _reads(outputs, streams)
    ids = part_ids(data)
    for i, stage in stages.items():
        yield from _trained(("stages", i, "train"), _mapping(stage.get("train")), ids, streams)
        yield from _durations(("stages", i), stage)
        yield from _kept_states(("stages", i, "cache_states"), stage)
        yield from _objectives(("stages", i, "objectives"), _mapping(stage.get("objectives")), outputs)
    yield from _published(_mapping(data.get("published")), streams, [s.get("name") for s in stages.values()])


def part_ids(data: Mapping[str, Any]) -> list[str]:
    """The ids of a system's parts, by which stages, plan and checkpoints name them. A shared encoder has one id."""
    ids: list[str] = []
    for name, stream in _mapping(data.get("inputs")).items():
        ids += [] if _shared(stream) else [f"inputs.{name}.encoder"]
        ids += [] if _mapping(stream).get("tied") else [f"inputs.{name}.aligner"]
    grafts = _mapping(_mapping(data.get("backbone")).get("grafts"))
    llm = ("backbone", "backbone.embeddings", "backbone.head", "backbone.added")
    ways = [
        f"outputs.{n}.{k}"
        for n, way in _mapping(data.get("outputs")).items()
        for k in (("decoder",) if _mapping(way).get("read") == "text" else ("queries", "aligner", "decoder"))
    ]
    return [*ids, *llm, *(f"backbone.grafts.{g}" for g in grafts), *ways]


def _names(data: Mapping[str, Any], streams: Mapping[str, Any]) -> Broken:
    grafts = _mapping(_mapping(data.get("backbone")).get("grafts"))
    outputs = _mapping(data.get("outputs"))
    for path, names in ((("inputs",), streams), (("backbone", "grafts"), grafts), (("outputs",), outputs)):
        for name in names:
            if not _NAME.fullmatch(name):
                yield (*path, name), f"expected a name of letters, digits, - and _, got {name!r}"


def _shared(stream: Any) -> tuple[Path, str] | None:
    """Where a stream names another whose encoder it shares, itself or inside its own, and that name."""
    path: Path = ()
    while isinstance(stream, dict):
        path, stream = (*path, "encoder"), stream.get("encoder")
    return (path, stream) if isinstance(stream, str) else None


def _encoders(streams: Mapping[str, Any]) -> Broken:
    """A stream that names another one shares an encoder that is that stream's own."""
    own = [n for n, s in streams.items() if not _shared(s)]
    for name, stream in streams.items():
        if (named := _shared(stream)) is None or (other := named[1]) in own:
            continue
        further = _shared(streams.get(other))
        got_it = f"{got(other)}, which shares that of `{further[1]}`" if further else got(other)
        yield (
            ("inputs", name, *named[0]),
            f"expected a block, or a stream with an encoder of its own ({one_of(own)}), got {got_it}{hint(other, own)}",
        )


def _aligners(streams: Mapping[str, Any]) -> Broken:
    """A stream tied to another one says the same aligner as that one, which is that stream's own."""
    own = [n for n, s in streams.items() if not _mapping(s).get("tied")]
    for name, stream in streams.items():
        if not isinstance(other := _mapping(stream).get("tied"), str):
            continue
        if other not in own:
            yield (
                ("inputs", name, "tied"),
                f"expected a stream with an aligner of its own ({one_of(own)}), got {got(other)}{hint(other, own)}",
            )
        elif _mapping(stream).get("aligner") != _mapping(streams[other]).get("aligner"):
            yield ("inputs", name, "aligner"), f"expected that of `{other}`, which is used, got another one"


def _memory(streams: Mapping[str, Any]) -> Broken:
    for name, stream in streams.items():
        if isinstance(stream, dict) and stream.get("into") == "memory" and not stream.get("marker"):
            text = "expected the text that stands where an item is, as the stream feeds memory; got none"
            yield ("inputs", name, "marker"), text
        if isinstance(stream, dict) and stream.get("into") != "memory" and stream.get("opening"):
            yield ("inputs", name, "opening"), "expected none, as the stream feeds slots (use `before`); got one"


def _signals(outputs: Mapping[str, Any]) -> Broken:
    """A stream that names another one shares ids that are that stream's own, for items of one modality; spellings differ."""
    own = {n: _mapping(s) for n, s in outputs.items() if not isinstance(_mapping(s).get("signals"), str)}
    spelt: dict[str, str] = {}
    for name, stream in own.items():
        spelling = str(stream.get("spelling", SPELLING))
        if spelling in spelt:
            text = f"expected a spelling of its own, got {spelling!r}, which is that of `{spelt[spelling]}`"
            yield ("outputs", name, "spelling"), text
        spelt.setdefault(spelling, name)
        signals = stream.get("signals", 1)
        if isinstance(signals, int) and isinstance(stream.get("taught"), int) and stream["taught"] > signals:
            yield ("outputs", name, "taught"), f"expected at most `signals` ({signals}), got {stream['taught']}"
        if stream.get("read") == "queries" and not stream.get("queries"):
            yield ("outputs", name, "queries"), "expected how many learned vectors are read, got none"
    for name, stream in outputs.items():
        if name in own:
            continue
        other = stream["signals"]
        if other not in own:
            text = f"expected a number, or a stream with ids of its own ({one_of(list(own))}), got {got(other)}"
            yield ("outputs", name, "signals"), text + hint(other, list(own))
        elif stream.get("modality", name) != own[other].get("modality", other):
            text = f"expected a stream that makes {stream.get('modality', name)} too, got `{other}`"
            yield ("outputs", name, "signals"), text
        elif given := [k for k, plain in _OF_SIGNALS.items() if stream.get(k, plain) != plain]:
            yield ("outputs", name, given[0]), f"expected nothing, for the ids are those of `{other}`"


def _reads(outputs: Mapping[str, Any], streams: Mapping[str, Any]) -> Broken:
    """What a stream says beside `read` is what this way of reading needs."""
    for name, stream in ((n, s) for n, s in outputs.items() if isinstance(s, dict)):
        path, read, signals = ("outputs", name), stream.get("read"), stream.get("signals", 1)
        if read != "text" and stream.get("aligner") is None:
            yield (*path, "aligner"), "expected a block, got nothing (only a stream with `read: text` has none)"
        if read != "feedback" and stream.get("feeds") is not None:
            yield (*path, "feeds"), f"expected none but with `read: feedback`, got {got(stream['feeds'])}"
        if read == "text" and stream.get("aligner") is not None:
            yield (*path, "aligner"), "expected none, as the decoder is steered by text; remove it"
        if isinstance(signals, str):
            yield from _shared_reads(path, read, signals, _mapping(outputs.get(signals)).get("read"))
        elif read == "text":
            yield from _text(path, stream, signals)
        elif read == "feedback":
            yield from _feedback(path, stream, signals, streams)


def _shared_reads(path: Path, read: Any, owner: str, other: Any) -> Broken:
    """Ids around a text, or around vectors that are fed, are shared by no stream of another kind."""
    if "feedback" in (read, other) or ("text" in (read, other) and read != other):
        kinds = " and ".join(f"`{n}` reads {r or 'at'}" for n, r in ((path[-1], read), (owner, other)))
        yield (*path, "signals"), f"expected a number, as {kinds}; got {got(owner)}"


def _text(path: Path, stream: Mapping[str, Any], signals: Any) -> Broken:
    """Between two ids the LLM writes a text; no state is read."""
    if signals != 2:
        yield (*path, "signals"), f"expected 2, an id before the text and one behind it, got {got(signals)}"
    for key, plain in _OF_STATES.items():
        if key != "spelling" and stream.get(key, plain) != plain:
            yield (*path, key), "expected nothing, as the decoder is steered by text; remove it"


def _feedback(path: Path, stream: Mapping[str, Any], signals: Any, streams: Mapping[str, Any]) -> Broken:
    """Behind an id the LLM predicts the vectors of an input stream, each from the last state at the one before."""
    if signals not in (1, 2):
        text = "expected 1, an id before the vectors, or 2, one behind them too, got"
        yield (*path, "signals"), f"{text} {got(signals)}"
    for key, plain in _OF_STATES.items():
        if key not in ("spelling", "taught") and stream.get(key, plain) != plain:
            yield (*path, key), f"expected {plain!r} with `read: feedback`, got {got(stream[key])}"
    modality, feeds = stream.get("modality", path[-1]), stream.get("feeds")
    fitting = [
        n
        for n, s in streams.items()
        if isinstance(s, dict) and s.get("modality", n) == modality and s.get("into", "slots") == "slots"
    ]
    if feeds not in fitting:
        known = f" ({one_of(fitting)})" if fitting else ""
        text = f"expected an input stream of {modality} items that feeds slots{known}"
        yield (*path, "feeds"), f"{text}, got {got(feeds)}{hint(feeds, fitting) if isinstance(feeds, str) else ''}"


def _objectives(path: Path, named: Mapping[str, Any], outputs: Mapping[str, Any]) -> Broken:
    for name in named:
        stream, _, objective = name.partition(".")
        known = [
            "text",
            *(f"{n}.{o}" for n, s in outputs.items() for o in OBJECTIVES if _mapping(s).get("read") != "text"),
        ]
        if name != "text" and _mapping(outputs.get(stream)).get("read") == "text":
            yield (*path, name), f"expected `text`, by which what {stream!r} writes is learned; got `{name}`"
            continue
        if name != "text" and not (stream in outputs and objective in OBJECTIVES):
            yield (*path, name), f"expected {one_of(known)}, got `{name}`{hint(name, known)}"


def _kept_states(path: Path, stage: Mapping[str, Any]) -> Broken:
    """States can be kept where nothing that they depend on is trained, and no text is learned from what the head reads of them."""
    if not stage.get("cache_states"):
        return
    trained = [p for p in _mapping(stage.get("train")) if isinstance(p, str)]
    if before := [p for p in trained if p.startswith(("backbone", "inputs.")) or p.split(".")[2:3] == ["queries"]]:
        yield (
            path,
            f"expected 0, as the stage trains `{before[0]}`, which changes the states; got {stage['cache_states']}",
        )
    elif _mapping(stage.get("objectives") or {"text": 1}).get("text"):
        yield path, f"expected 0, as the stage learns text (`objectives`); got {stage['cache_states']}"


def _templates(data: Mapping[str, Any], stages: Mapping[int, Mapping[str, Any]]) -> Broken:
    named: list[tuple[Path, Any]] = [(("template",), data.get("template"))]
    named += [(("stages", i, "template"), s.get("template")) for i, s in stages.items()]
    for path, name in named:
        if isinstance(name, str) and name not in TEMPLATES:
            yield path, f"expected {one_of(list(TEMPLATES))}, got {name!r}{hint(name, TEMPLATES)}"


def _stage_names(stages: Mapping[int, Mapping[str, Any]]) -> Broken:
    seen: dict[str, int] = {}
    for i, stage in stages.items():
        if not isinstance(name := stage.get("name"), str):
            continue
        if not _NAME.fullmatch(name):
            yield ("stages", i, "name"), f"expected a name of letters, digits, - and _, got {name!r}"
        if name in seen:
            text = f"expected a name that no other stage has, got {name!r}, the name of stages.{seen[name]}"
            yield ("stages", i, "name"), text
        seen.setdefault(name, i)


def _trained(path: Path, train: Mapping[str, Any], ids: list[str], streams: Mapping[str, Any]) -> Broken:
    for part in train:
        # A dotted path below a part is a part too (inputs.image.aligner.projection); only the built model knows which there are.
        if part in ids or any(part.startswith(f"{i}.") for i in ids if i != "backbone"):
            continue
        named = _shared(streams.get(part.removeprefix("inputs.").removesuffix(".encoder")))
        if part.endswith(".encoder") and named and (owner := f"inputs.{named[1]}.encoder") in ids:
            yield (*path, part), f"expected {owner}, got `{part}`, which is the same encoder shared"
        else:
            near = hint(part, ids)
            yield (*path, part), f"expected the id of a part{'' if near else f' ({one_of(ids)})'}, got `{part}`{near}"


def _durations(path: Path, stage: Mapping[str, Any]) -> Broken:
    if "epochs" in stage and stage.get("steps") is not None:
        yield (*path, "steps"), "expected `epochs` or `steps`, got both; remove one"
    warmup, batch, micro = stage.get("warmup"), stage.get("batch"), stage.get("micro_batch")
    if isinstance(warmup, float) and warmup > 1 and not warmup.is_integer():
        yield (*path, "warmup"), f"expected a share below 1 or a whole number of steps, got {warmup!r}"
    if isinstance(batch, int) and isinstance(micro, int) and micro > batch:
        yield (*path, "micro_batch"), f"expected at most `batch` ({batch}), got {micro}"


def _published(published: Mapping[str, Any], streams: Mapping[str, Any], stages: list[Any]) -> Broken:
    names = [s for s in stages if isinstance(s, str)]
    for key, known, what in (("trainable", names, "stage"), ("tokens", list(streams), "stream")):
        for name in _mapping(published.get(key)):
            if name not in known:
                have = one_of(known) if known else "none"
                text = f"expected the name of a {what} ({have}), got `{name}`{hint(name, known)}"
                yield ("published", key, name), text


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

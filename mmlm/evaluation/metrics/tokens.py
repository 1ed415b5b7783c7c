"""Evaluation room: caption text to the tokens that the COCO caption metrics count.

The published numbers use the Penn Treebank tokenizer of CoreNLP 3.4.1 (Java), lower-cased, followed by a list of marks
to remove. This is an independent lexer for caption text that gives the same tokens, its quirks included: clitics are
split (`is n't`), hyphens and slashes stay inside words, `?!` stays where `?` goes, and brackets become `-lrb-` words
that the list of marks, being in capitals, never removes. Whatever breaks a line is a space here, where the Java
tokenizer would split the caption in two and shift every later one.
"""

import re

from mmlm.evaluation.metrics.text import clip

VERSION = "ptb-captions-1"

_REMOVED = frozenset(["''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", ";"])
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_BRACKET = re.compile(r"[()\[\]{}]")
# What the lexer writes another way (quotes, dashes, currencies, fractions); the C0 controls are spaces.
_SPELLING = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "–": " -- ", "—": " -- ", "…": " ... "}
    | {"£": " # ", "€": " $ ", "¢": " cents ", "½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 "}
    | {chr(i): " " for i in (*range(32), 127)}
)
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")  # emoji and the like: the lexer drops them
# The words that keep their point, and those that keep it before a number only.
_POINTED = """
    mr mrs ms messrs dr drs prof st ste mt ave blvd rd bldg ct sq jr sr bros inc co ltd corp dept assn assoc est etc vs
    cf ft ph\\.d sgt gen gov rev capt lt col maj sen rep pres jan feb mar apr jun jul aug sept sep oct nov dec mon tue
    tues wed thu thurs fri
"""
_BEFORE_NUMBER = "no fig pp art"
_LEXER = re.compile(
    rf"""
    (?:https?://|www\.)[^\s"]*[^\s".,;:!?)]                   # addresses
  | [\w.+-]+@[^\W_][\w.-]*[^\W_] | @[^\W_]\w* | \#[^\W\d_]\w*
  | </?[a-z][^<>\s]*>
  | (?-i:\b[A-Z]{{1,3}}&[A-Z]{{1,3}}\b)                       # AT&T, but black & white
  | \b(?:{"|".join(_POINTED.split())})\.(?![^\W\d_]) | \b(?:{"|".join(_BEFORE_NUMBER.split())})\.(?=\s?\d)
  | (?-i:\b[A-HJ-Z])(?=\.\s*$)                               # an initial ends the caption
  | (?<![^\W\d_])(?:[^\W\d_]\.)+(?![^\W_])                  # a.m. u.s.a.
  | 'n'(?![^\W_]) | '(?:n|em|cause)(?![^\W_]) | '\d0s | '\d\d(?![^\W_]) | '(?=tis\b|twas\b)t | \bol'(?!\w) | \by'(?=\w)
  | '(?:s|m|d|re|ve|ll)(?![^\W_]) | n't(?![^\W_])             # clitics
  | \bcan(?=not\b) | \b(?:gon|wan)(?=na\b) | \bgot(?=ta\b) | \b(?:lem|gim)(?=me\b)
  | \b(?:[odl]'(?!s\b)|c'(?=mon\b)|ma'(?=am\b))[^\W_]+(?:-[^\W_]+)*   # o'clock, c'mon, ma'am
  | [^\W\d_]+(?:-[^\W\d_]+)*?(?=n't(?![^\W_]))                # the stem of a negation
  | [-+]?(?:\d+(?:[.,:]\d+)+|\.\d+(?:[.,:]\d+)*)              # numbers and times
  | (?:(?<!\w)[-+](?=\d))?[^\W_]+(?:(?:[-/_]|(?<=[^\W\d_])\.(?=[^\W\d_]))[^\W_]+)*
  | [:;=]-?[()]                                               # ":)" is one word
  | [?!]{{2,}} | \*+ | _+ | \.\.+ | --+ | ''
  | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)
_DROPPED = re.compile(r"\.\.+|--+")


def tokenise(text: str) -> list[str]:
    """The tokens of one caption, lower-cased, without the removed marks.

    Differs from the Java tokenizer on a few forms that captions hardly hold (`a,1`, `a?b`, `ho'ohu`, `KY.`).
    """
    text = _ASTRAL.sub(" ", clip(text).translate(_SPELLING))
    found = [_BRACKET.sub(lambda m: _BRACKETS[m[0]], m[0].lower()) for m in _LEXER.finditer(text)]
    return [word for word in found if word not in _REMOVED and not _DROPPED.fullmatch(word)]

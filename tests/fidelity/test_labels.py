"""Labels: whatever the conversation, the template and the tokenizer, the supervised ids spell what the assistant says."""

import random
from itertools import islice

import pytest
from fidelity.vocabularies import AROUND, FAMILIES, end_of, processor, specials, text_of, typed, vocabulary
from ledger import record, share
from test_writer import conversation

from mmlm.batch import IGNORE
from mmlm.templates import TEMPLATES, find

CASES = share(858, 30)  # for each family; 6,006 in all


@pytest.mark.parametrize("family", FAMILIES)
def test_the_supervised_ids_spell_what_the_assistant_says(family: str) -> None:
    for seed in range(CASES):
        template = list(TEMPLATES)[seed % len(TEMPLATES)]
        words = vocabulary(family, template)
        sample = conversation(random.Random(f"{family} {seed}"), system=bool(find(template).head) or template == "chat")
        example = processor(words)(sample)
        learned = [i for i in example.labels if i != IGNORE]
        assert all(label in (IGNORE, i) for label, i in zip(example.labels, example.ids, strict=True))
        end, leads = end_of(words, family, template), words.render(sample, around=AROUND).leads
        replies = [t.text for t in sample.turns if t.role == "assistant"]
        assert all(lead.strip(" ") == "" and len(lead) <= 2 for lead in leads)
        expected = "".join(lead + typed(family, said) + end for lead, said in zip(leads, replies, strict=True))
        assert text_of(words, family, learned) == expected, (template, seed)
        # What ends a reply is the token that ends it, not its letters, and no other special token is learned.
        ends = [i for i in words.structure(end) if i in specials(words)]
        assert [i for i in learned if i in specials(words)] == ends * len(replies), (template, seed)
        slots = {p.start + k for p in example.placed for k in range(p.slots)}
        assert not any(example.labels[at] != IGNORE for at in slots)
    record(f"tokenizer {family}", "labels: decode(supervised ids) = reply + end", CASES)


def test_the_cases_reach_every_template() -> None:
    assert {*islice(range(CASES), len(TEMPLATES))} == {*range(len(TEMPLATES))}

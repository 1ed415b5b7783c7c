"""A vocabulary keeps its ids: from a folder, in a run, in a worker, with added tokens."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from families import CORPUS, FAMILIES, LOSSLESS, saved, sentencepiece
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mmlm.errors import InputError
from mmlm.sample import Sample, Turn
from mmlm.templates import find
from mmlm.vocabulary import Text, Vocabulary

TALK = Sample(
    (
        Turn("user", ("What is in it? <box> </s>",)),
        Turn("assistant", ("A dog, naïve 你好 🚀.",)),
        Turn("user", ("Sure?",)),
        Turn("assistant", ("Yes",)),
    )
)


def ids_of(vocabulary: Vocabulary, sample: Sample = TALK, **options: Any) -> list[int]:
    return [i for s in vocabulary.render(sample, **options).segments if isinstance(s, Text) for i in s.ids]


@pytest.mark.parametrize("template", ["vicuna-v1", "chat"])
@pytest.mark.parametrize("family", FAMILIES)
def test_saved_loaded_and_pickled_it_gives_the_same_ids(family: str, template: str, tmp_path: Path) -> None:
    folder = saved(family, tmp_path)
    first = Vocabulary.load(folder, template=template, system="Be brief.", add_tokens=["<box>", "<point>"])
    first.save(tmp_path / "run")
    for again in (
        Vocabulary.load(tmp_path / "run"),
        Vocabulary.load(tmp_path / "run", template=template, system="Be brief.", add_tokens=["<box>", "<point>"]),
        pickle.loads(pickle.dumps(first)),
    ):
        assert ids_of(again) == ids_of(first)
        assert ids_of(again, Sample(TALK.turns[:3]), reply=True) == ids_of(first, Sample(TALK.turns[:3]), reply=True)
        assert again.fingerprint() == first.fingerprint()
        for name in ("size", "own", "pad", "bos", "ends", "added_ids", "template"):
            assert getattr(again, name) == getattr(first, name)
    assert first.added_ids == (first.size - 2, first.size - 1) == (first.own, first.own + 1)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_tokenizer_that_its_class_builds_anew_keeps_its_ids(legacy: bool, tmp_path: Path) -> None:
    from transformers import LlamaTokenizer

    vocab, merges = sentencepiece()
    LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True).save_pretrained(tmp_path / "hub")
    options = json.loads((tmp_path / "hub" / "tokenizer_config.json").read_text())
    options |= {"legacy": legacy}
    (tmp_path / "hub" / "tokenizer_config.json").write_text(json.dumps(options))
    first = Vocabulary.load(tmp_path / "hub", template="vicuna-v1")
    first.save(tmp_path / "run")
    again = Vocabulary.load(tmp_path / "run")
    assert ids_of(again) == ids_of(first) and again.fingerprint() == first.fingerprint() and again.bos == 1
    other = Vocabulary(LOSSLESS["llama-legacy" if legacy else "llama"](), find("vicuna-v1"))
    assert ids_of(first) == ids_of(other)


def test_a_sentencepiece_model_gives_the_ids_of_sentencepiece(tmp_path: Path) -> None:
    sentencepiece_library = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece_library.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, model_type="bpe", vocab_size=420, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    original = sentencepiece_library.SentencePieceProcessor(model_proto=model.getvalue())
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    options = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    vocabulary = Vocabulary.load(tmp_path, template="vicuna-v1", system="Be brief.")
    text = "Be brief. USER: What is in it? ASSISTANT: A dog, naïve 你好 🚀."
    sample = Sample((Turn("user", ("What is in it?",)), TALK.turns[1]))
    assert ids_of(vocabulary, sample) == [1, *original.encode(text), 2]


def test_a_fingerprint_tells_vocabularies_apart(tmp_path: Path) -> None:
    folder = saved("gpt2", tmp_path)
    made = [
        Vocabulary.load(folder, template="vicuna-v1"),
        Vocabulary.load(folder, template="vicuna-v1", system="Be brief."),
        Vocabulary.load(folder, template="vicuna-v1", add_tokens=["<box>"]),
        Vocabulary.load(folder, template="chat"),
        Vocabulary.load(saved("qwen", tmp_path), template="vicuna-v1"),
        Vocabulary.tiny(template="vicuna-v1"),
    ]
    assert len({v.fingerprint() for v in made}) == len(made)
    made[0].render(TALK)
    assert made[0].fingerprint() == Vocabulary.load(folder, template="vicuna-v1").fingerprint()


def test_a_run_refuses_another_template_and_keeps_its_own_text(tmp_path: Path) -> None:
    Vocabulary.load(saved("llama", tmp_path), template="vicuna-v1").save(tmp_path / "run")
    with pytest.raises(InputError, match="belongs to a model of the template 'vicuna-v1', but the template 'plain'"):
        Vocabulary.load(tmp_path / "run", template="plain")
    stored = json.loads((tmp_path / "run" / "template.json").read_text())
    stored["template"]["user"] = "PERSON: {text} "
    (tmp_path / "run" / "template.json").write_text(json.dumps(stored))
    changed = Vocabulary.load(tmp_path / "run", template="vicuna-v1")
    assert "PERSON: Sure?" in changed.decode(ids_of(changed))
    (tmp_path / "run" / "template.json").write_text("{")
    with pytest.raises(InputError, match=r"template.json is not JSON"):
        Vocabulary.load(tmp_path / "run")


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_folder_that_asks_for_code_is_refused(file: str, tmp_path: Path) -> None:
    folder = saved("gpt2", tmp_path)
    path = folder / file
    raw = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(raw | {"nested": {"auto_map": {"AutoTokenizer": ["own.Own", None]}}}))
    (folder / "own.py").write_text("raise SystemExit('code of a checkpoint was run')")
    with pytest.raises(InputError, match=f"{file}.*auto_map"):
        Vocabulary.load(folder, template="vicuna-v1")


def test_a_folder_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        Vocabulary.load(tmp_path / "absent", template="vicuna-v1")
    with pytest.raises(InputError, match="cannot be loaded"):
        Vocabulary.load(tmp_path, template="vicuna-v1")
    folder = saved("gpt2", tmp_path)
    with pytest.raises(InputError, match="`template` must say"):
        Vocabulary.load(folder)
    with pytest.raises(InputError, match="no template named 'vicuna'"):
        Vocabulary.load(folder, template="vicuna")
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:-50])
    with pytest.raises(InputError, match=r"tokenizer.json is not JSON"):
        Vocabulary.load(folder, template="vicuna-v1")


def test_the_tiny_vocabulary_is_bytes() -> None:
    vocabulary = Vocabulary.tiny()
    assert vocabulary.size == 261
    assert vocabulary.encode("aé🙂\x00") == list("aé🙂\x00".encode())
    assert (vocabulary.bos, vocabulary.pad, vocabulary.ends) == (256, 258, frozenset({257, 260}))
    assert vocabulary.structure("<|im_start|>a</s>") == [259, 97, 257]
    text = "".join(map(chr, range(1, 0x500)))
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert Vocabulary.tiny(add_tokens=["<box>"]).added_ids == (261,)


def test_decoding_leaves_out_what_nobody_said() -> None:
    vocabulary = Vocabulary.tiny(template="vicuna-v1", add_tokens=["<box>"])
    ids = [256, *b" a dog", 261, *b"!", 257, 258, 258]
    assert vocabulary.decode(ids) == " a dog!"
    assert vocabulary.decode(ids, lead=" ") == "a dog!"
    stream = vocabulary.stream(lead=" ")
    assert "".join([*map(stream.push, ids), stream.finish()]) == "a dog!"


def test_padding_that_is_the_end_token_is_learned_all_the_same(tmp_path: Path) -> None:
    vocabulary = Vocabulary.load(saved("gpt2", tmp_path), template="vicuna-v1")
    assert vocabulary.pad in vocabulary.ends
    learned = [s.ids[-1] for s in vocabulary.render(TALK).segments if isinstance(s, Text) and s.learn]
    assert learned == [vocabulary.pad, vocabulary.pad]


def test_tokens_that_exist_already_keep_their_ids(tmp_path: Path) -> None:
    folder = saved("gpt2", tmp_path)
    vocabulary = Vocabulary.load(folder, template="vicuna-v1", add_tokens=["<|im_start|>", "<new>", "<tool_call>"])
    size = Vocabulary.load(folder, template="vicuna-v1").size
    assert vocabulary.added_ids == (501, size, 503) and vocabulary.size == size + 1 and vocabulary.own == size
    vocabulary.save(tmp_path / "run")
    for template in (None, find("vicuna-v1")):
        assert Vocabulary.load(tmp_path / "run", template=template, add_tokens=["<new>"]).own == size
    with pytest.raises(InputError, match="`add_tokens` holds an empty text"):
        Vocabulary.load(folder, template="vicuna-v1", add_tokens=[""])


@pytest.mark.parametrize(
    ("own", "message"), [(0, "has 0 ids of its own"), (999, "its ids end at 261"), ("9", "`own` is '9'")]
)
def test_a_folder_that_miscounts_its_own_ids_is_refused(own: object, message: str, tmp_path: Path) -> None:
    Vocabulary.tiny(add_tokens=["<box>"]).save(tmp_path)
    stored = json.loads((tmp_path / "template.json").read_text())
    (tmp_path / "template.json").write_text(json.dumps(stored | {"own": own}))
    with pytest.raises(InputError, match=message):
        Vocabulary.load(tmp_path)


def test_a_tokenizer_with_gaps_takes_no_tokens() -> None:
    """Its library gives new tokens ids by the number of those there are, which may lie in a gap, or be taken."""
    vocab = {chr(97 + i): i if i < 20 else i + 5 for i in range(26)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="a", pad_token="a")
    with pytest.raises(InputError, match="use a tokenizer whose ids have no gaps"):
        Vocabulary(made, find("vicuna-v1"), add_tokens=["<box>"])


def test_an_unknown_character_ends_nothing() -> None:
    tokenizer = FAMILIES["t5"]()
    tokenizer.eos_token = tokenizer.unk_token
    vocabulary = Vocabulary(tokenizer, find("vicuna-v1"))
    assert not vocabulary.ends & set(vocabulary.encode("a ☃ b"))


def test_the_names_in_a_chat_template_dictionary() -> None:
    tokenizer = FAMILIES["gpt2"]()
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ messages }}"}
    assert ids_of(Vocabulary(tokenizer, find("chat"))) == ids_of(Vocabulary(FAMILIES["gpt2"](), find("chat")))

"""The Q-Former equals those of BLIP-2 and InstructBLIP, and starts from a BERT."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmlm.aligners.qformer import QFormer
from mmlm.errors import InputError
from mmlm.interfaces import Features, FeatureShape
from mmlm.interop.families import blip as family
from mmlm.interop.names import Names
from mmlm.weights import Weights

SHAPE = FeatureShape(5, 20)
SMALL: dict[str, Any] = {"queries": 4, "layers": 3, "heads": 2, "hidden": 16, "dropout": 0.0}


def blip(kind: str, every: int) -> Any:
    """A tiny random BLIP of transformers, with biases and norms that are not just zeros and ones."""
    torch.manual_seed(0)
    sizes = {"intermediate_size": 64, "num_attention_heads": 2}
    config = getattr(t, f"{kind}Config")(
        vision_config={**sizes, "hidden_size": 20, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
        qformer_config={
            **sizes,
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "encoder_hidden_size": 20,
            "vocab_size": 259,
            "cross_attention_frequency": every,
        },
        text_config={"model_type": "opt", "hidden_size": 12, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "vocab_size": 50, "word_embed_proj_dim": 12},
        num_query_tokens=4,
    )  # fmt: skip
    model = getattr(t, f"{kind}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model


def renamed(state: Any, names: Names) -> dict[str, Tensor]:
    """What an import would make of the Q-Former in a BLIP."""
    found = {}
    for name, value in state.items():
        here = names.here(name)
        if here and here[0].startswith(family.ALIGNER):
            found[here[0].removeprefix(f"{family.ALIGNER}.")] = here[1].take(value)
    return found


@pytest.mark.parametrize("every", [1, 2])
def test_as_blip_2_has_it(every: int) -> None:
    theirs, ours = blip("Blip2", every), QFormer(SHAPE, 12, every=every, **SMALL).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), family.BLIP2))
    values = torch.randn(3, 5, 20)
    memory = theirs.vision_model.post_layernorm(values)
    queries = theirs.query_tokens.expand(3, -1, -1)
    seen = theirs.qformer(query_embeds=queries, encoder_hidden_states=memory).last_hidden_state
    expected = theirs.language_projection(seen).flatten(0, 1)
    torch.testing.assert_close(ours(Features(values, (1, 2))), expected, atol=1e-5, rtol=1e-5)


def test_as_instructblip_has_it() -> None:
    theirs, ours = blip("InstructBlip", 2), QFormer(SHAPE, 12, instruction=True, **SMALL).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), family.INSTRUCTBLIP))
    values = torch.randn(3, 5, 20)
    ids = torch.tensor([[1, 65, 70, 2, 0, 0], [1, 71, 82, 93, 94, 2]])
    each = ids[[0, 1, 1]]  # the second item has two units
    memory = theirs.vision_model.post_layernorm(values)
    queries = theirs.query_tokens.expand(3, -1, -1)
    mask = torch.cat([torch.ones(3, 4, dtype=torch.long), (each != 0).long()], 1)
    seen = theirs.qformer(
        input_ids=each, attention_mask=mask, query_embeds=queries, encoder_hidden_states=memory
    ).last_hidden_state[:, :4]
    expected = theirs.language_projection(seen).flatten(0, 1)
    torch.testing.assert_close(ours(Features(values, (1, 2), ids)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("instruction", "millions"), [(False, 105.14), (True, 185.66)])
def test_parameters_as_published(instruction: bool, millions: float, tmp_path: Path) -> None:
    """Without queries, projection and the features' norm, which the papers' code counts elsewhere."""
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "num_attention_heads": 12, '
        '"intermediate_size": 3072, "num_hidden_layers": 12}'
    )
    with torch.device("meta"):
        aligner = QFormer(FeatureShape(257, 1408), 4096, Weights(str(tmp_path), load=False), instruction=instruction)
    beside = ("queries", "project.", "features_norm.")
    assert round(sum(p.numel() for n, p in aligner.named_parameters() if not n.startswith(beside)) / 1e6, 2) == millions
    assert aligner.queries.numel() == 24_576
    assert aligner.tokens(1) == 32 and aligner.tokens(4) == 128


def test_items_stay_apart_and_instructions_reach_their_own() -> None:
    torch.manual_seed(0)
    aligner = QFormer(SHAPE, 7, instruction=True, **SMALL).eval()
    with torch.no_grad():
        for p in aligner.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    values, counts = torch.randn(6, 5, 20), (1, 3, 2)
    ids = torch.tensor([[1, 9, 2, 0], [1, 8, 7, 2], [1, 2, 0, 0]])
    out = aligner(Features(values, counts, ids))
    assert out.shape == (24, 7)
    alone = [
        aligner(Features(v, (n,), i[i != 0][None])) for v, n, i in zip(values.split(counts), counts, ids, strict=True)
    ]
    torch.testing.assert_close(out, torch.cat(alone), atol=1e-5, rtol=1e-5)
    ids[1, 1] = 30
    moved = (aligner(Features(values, counts, ids)) - out).abs().amax(1) > 1e-6
    assert moved[4:16].all() and not moved[:4].any() and not moved[16:].any()


@pytest.mark.parametrize("instruction", [False, True])
def test_gradients_reach_everything(instruction: bool) -> None:
    aligner = QFormer(SHAPE, 7, instruction=instruction, **SMALL)
    ids = torch.tensor([[1, 9, 2]]) if instruction else None
    out = aligner(Features(torch.randn(2, 5, 20), (2,), ids))
    (out * torch.randn(out.shape)).sum().backward()
    assert all(p.grad is not None for p in aligner.parameters())


def test_an_instruction_is_needed_where_it_is_read() -> None:
    aligner = QFormer(SHAPE, 7, instruction=True, **SMALL)
    with pytest.raises(InputError, match=r"reads one instruction .* for each of 2 items; came: none"):
        aligner(Features(torch.randn(2, 5, 20), (1, 1)))
    assert QFormer(SHAPE, 7, **SMALL).tokenize is None
    with pytest.raises(InputError, match="hidden a multiple of heads"):
        QFormer(SHAPE, 7, heads=5)


def test_letters_are_a_tokenizer_without_files() -> None:
    tokenize = QFormer(SHAPE, 7, instruction=True, **SMALL).tokenize
    assert tokenize is not None
    assert tokenize("a\0é") == [1, 100, 3, 198, 172, 2]
    long = tokenize("x" * 500 + "end")
    assert len(long) == 128 and long[-4:] == [104, 113, 103, 2] and min(long) > 0
    assert pickle.loads(pickle.dumps(tokenize))("what?") == tokenize("what?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT as on the hub: a masked LM with its tokenizer, four layers."""
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "[", "]", "pad", "this", "##s", "?"]
    (path / "vocab.txt").write_text("\n".join(words) + "\n")
    t.BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    sizes = {"hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4}
    t.BertForMaskedLM(t.BertConfig(vocab_size=len(words), **sizes)).save_pretrained(path)
    return path


def test_starts_from_a_bert(folder: Path) -> None:
    aligner = QFormer(SHAPE, 7, Weights(str(folder)), instruction=True, **SMALL).eval()
    theirs = t.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    block, layer = aligner.blocks[2], theirs.encoder.layer[2]
    assert torch.equal(block.attention.q.weight, layer.attention.self.query.weight)
    for ffn, bias in ((block.ffn, block.ffn_norm), (block.text_ffn, block.text_norm)):
        assert torch.equal(ffn.up.weight, layer.intermediate.dense.weight)
        assert torch.equal(bias.bias, layer.output.LayerNorm.bias)
    assert aligner.words is not None
    assert (
        torch.equal(aligner.words.weight[:13], theirs.embeddings.word_embeddings.weight)
        and len(aligner.words.weight) == 14
    )
    assert torch.equal(aligner.places.weight, theirs.embeddings.position_embeddings.weight)
    assert not torch.equal(aligner.blocks[0].cross.q.weight, aligner.blocks[0].attention.q.weight)
    # Text alone goes through the text half just as through that BERT, but for its embedding of token types.
    with torch.no_grad():
        theirs.embeddings.token_type_embeddings.weight.zero_()
    ids = torch.tensor([[2, 5, 6, 3]])
    x: Tensor = aligner.norm(aligner.words(ids) + aligner.places.weight[:4])
    for each in aligner.blocks:
        x = each(x, torch.zeros(1, 5, 20), 0, None)
    expected = theirs(input_ids=ids, output_hidden_states=True).hidden_states[3]
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)


def test_the_words_of_a_bert(folder: Path) -> None:
    aligner = QFormer(SHAPE, 7, Weights(str(folder), load=False), instruction=True, **SMALL)
    tokenize = aligner.tokenize
    assert tokenize is not None
    assert tokenize("What is THIS?") == [2, 5, 6, 10, 12, 3]
    # What looks like padding in the user's words is not padding.
    assert tokenize("[PAD] pads") == [2, 7, 9, 8, 9, 11, 3]
    long = tokenize("what " * 200 + "this")
    assert len(long) == 128 and (long[0], long[-2], long[-1]) == (2, 10, 3)
    carried = pickle.dumps(tokenize)
    assert len(carried) < 1000 and pickle.loads(carried)("what?") == tokenize("what?")


def test_old_names_are_read_and_missing_ones_are_not_forgiven(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(folder / "model.safetensors")
    old = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in state.items()
    }
    save_file(old, tmp_path / "model.safetensors")
    first, second = (QFormer(SHAPE, 7, Weights(str(p)), **SMALL) for p in (folder, tmp_path))
    assert torch.equal(first.blocks[1].ffn_norm.weight, second.blocks[1].ffn_norm.weight)
    save_file(
        {k: v for k, v in state.items() if "layer.1.attention.self.key.bias" not in k}, tmp_path / "model.safetensors"
    )
    with pytest.raises(InputError, match=r"the tensor for blocks.1.attention.k.bias is missing; expected \(16,\)"):
        QFormer(SHAPE, 7, Weights(str(tmp_path)), **SMALL)
    with pytest.raises(
        InputError, match="4 layers, hidden=16, heads=2 and an inner width of 64; asked for are 12 layers"
    ):
        QFormer(SHAPE, 7, Weights(str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(InputError, match="are a 'roberta'; expected a bert"):
        QFormer(SHAPE, 7, Weights(str(tmp_path)))


def test_tiny_needs_no_checkpoint() -> None:
    aligner = QFormer(SHAPE, 7, Weights("bert-base-uncased", tiny=True), instruction=True, **QFormer.tiny)
    assert isinstance(aligner, nn.Module) and aligner.tokenize is not None
    ids = torch.tensor([aligner.tokenize("what?")])
    assert aligner.eval()(Features(torch.randn(1, 5, 20), (1,), ids)).shape == (4, 7)

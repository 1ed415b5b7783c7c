"""Every family of language models: packed = apart, padded left = padded right = alone, step by step = at once."""

from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

from mmlm.blocks import hf
from mmlm.errors import InputError

SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2}
LATENT = {
    **{"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 12},
    **{"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 6},
    **{"num_key_value_heads": 6, "first_k_dense_replace": 1},
}
ALIBI: dict[str, Any] = {"vocab_size": 31, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# Those whose attention goes through transformers' interface ...
ADOPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "qwen2": ("Qwen2", {**GROUPED, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 6}),
    "qwen3-moe": ("Qwen3Moe", {**GROUPED, **EXPERTS, "head_dim": 6, "num_experts": 4, "moe_intermediate_size": 12}),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": 3}),
    "mixtral": ("Mixtral", {**GROUPED, **EXPERTS, "num_local_experts": 4}),
    "gemma": ("Gemma", {**GROUPED, "head_dim": 6}),
    "gemma2": ("Gemma2", {**GROUPED, "head_dim": 6, "sliding_window": 3, "attn_logit_softcapping": 1.5}),
    "gemma3": ("Gemma3", {**GROUPED, "head_dim": 6, "sliding_window": 3, "sliding_window_pattern": 2}),
    "phi": ("Phi", {}),
    "phi3": ("Phi3", GROUPED),
    "opt": ("OPT", {"ffn_dim": 40, "word_embed_proj_dim": 24, "dropout": 0.0}),
    "gpt-neox": ("GPTNeoX", {}),
    "gpt2": ("GPT2", {}),
    "stablelm": ("StableLm", GROUPED),
    "starcoder2": ("Starcoder2", {**GROUPED, "sliding_window": 3}),
    "olmo2": ("Olmo2", GROUPED),
    "smollm3": ("SmolLM3", GROUPED),
    "granite": ("Granite", GROUPED),
    "cohere": ("Cohere", GROUPED),
    "deepseek": ("DeepseekV3", LATENT),
}
# ... and those that compute attention by themselves.
ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    "mpt": ("Mpt", {**ALIBI, "d_model": 24, "n_heads": 3, "n_layers": 3, "max_seq_len": 64}),
    "bloom": ("Bloom", {**ALIBI, "hidden_size": 24, "n_head": 3, "n_layer": 3}),
    "falcon": ("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False}),
    "gptj": ("GPTJ", {**ALIBI, "n_embd": 24, "n_head": 3, "n_layer": 3, "n_positions": 64, "rotary_dim": 4}),
}


def build(name: str) -> nn.Module:
    """A random model of a family, in evaluation mode, with weights large enough that attention is far from uniform."""
    kind, changes = {**ADOPTED, **ALONE}[name]
    sizes = changes if changes.get("vocab_size") else {**SIZES, **changes}
    torch.manual_seed(5)
    config = getattr(t, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")(**sizes)
    model = t.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model.eval()


class Think:
    """Calls a model the way the causal backbone does."""

    def __init__(self, name: str) -> None:
        self.model: Any = build(name)
        self.adopted = hf.adopt(self.model)

    def __call__(self, x: Tensor, keys: Tensor, positions: Tensor, cache: Any = None) -> Tensor:
        mask = hf.carrier(keys) if self.adopted else hf.dense_mask(keys, x.shape[1], x.dtype)
        places = {"position_ids": positions} if self.takes_positions else {}
        out = self.model(
            inputs_embeds=x, attention_mask=mask, past_key_values=cache, use_cache=cache is not None, **places
        )
        return out.logits

    @property
    def takes_positions(self) -> bool:
        return not isinstance(self.model, (t.MptForCausalLM, t.BloomForCausalLM))


def lay(lengths: list[int], width: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Segments and positions of one row."""
    segments = [i + 1 for i, n in enumerate(lengths) for _ in range(n)]
    positions = [p for n in lengths for p in range(n)]
    gap = [0] * (width - len(segments))
    rows = (gap + segments, gap + positions) if left else (segments + gap, positions + gap)
    return torch.tensor([rows[0]]), torch.tensor([rows[1]])


def gradients(out: Tensor, model: nn.Module, x: Tensor) -> list[Tensor]:
    """Of a weighted sum of logits: with respect to the input, and to all parameters."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    wanted = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad((out * weights).sum(), [x, *wanted], allow_unused=True)
    return [f for f in found if f is not None]


@pytest.mark.parametrize("name", [*ADOPTED, *ALONE])
def test_packed_samples_are_as_if_apart(name: str) -> None:
    think = Think(name)
    assert think.adopted == (name in ADOPTED)
    lengths = [6, 1, 4]
    x = torch.randn(1, 13, 24, requires_grad=True)
    segments, positions = lay(lengths, 13)
    packed = think(x, segments, positions)[:, :11]
    apart = torch.cat(
        [think(part, *lay([n], n)) for part, n in zip(x[:, :11].split(lengths, 1), lengths, strict=True)], 1
    )
    torch.testing.assert_close(packed, apart, atol=1e-5, rtol=1e-5)
    one, two = gradients(packed, think.model, x), gradients(apart, think.model, x)
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-4)
        assert a.isfinite().all()


@pytest.mark.parametrize("name", [*ADOPTED, *ALONE])
def test_the_side_of_padding_does_not_matter(name: str) -> None:
    think = Think(name)
    x = torch.randn(1, 5, 24)
    alone = think(x, *lay([5], 5))
    for left in (False, True):
        gap = torch.randn(1, 4, 24)
        padded = torch.cat([gap, x], 1) if left else torch.cat([x, gap], 1)
        out = think(padded, *lay([5], 9, left))
        torch.testing.assert_close(out[:, 4:] if left else out[:, :5], alone, atol=1e-5, rtol=1e-5)
        assert out.isfinite().all()


@pytest.mark.parametrize("name", [*ADOPTED, *ALONE])
def test_step_by_step_is_as_at_once(name: str) -> None:
    think = Think(name)
    x = torch.randn(2, 9, 24)
    segments = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])
    positions = (segments.cumsum(1) - 1).clamp(min=0)
    whole = think(x, segments, positions)
    cache = t.DynamicCache(config=think.model.config)
    with torch.no_grad():
        steps = [
            think(x[:, a:b], segments[:, :b], positions[:, a:b], cache)
            for a, b in ((0, 4), (4, 6), (6, 7), (7, 8), (8, 9))
        ]
    seen = segments != 0
    torch.testing.assert_close(torch.cat(steps, 1)[seen], whole[seen], atol=1e-5, rtol=1e-5)


def compared(name: str, **inputs: Any) -> tuple[Tensor, Tensor]:
    """Logits of a family with this attention, and with transformers' own eager one."""
    ours, eager = build(name), build(name)
    assert hf.adopt(ours)
    eager.set_attn_implementation("eager")  # type: ignore[operator]
    return ours(**inputs).logits, eager(**inputs).logits


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gemma3", "opt", "gpt2"])
def test_masks_that_transformers_lays_out(name: str) -> None:
    ids = torch.randint(3, 31, (3, 8), generator=torch.Generator().manual_seed(0))
    padding = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0], [1] * 8])
    for mask in (padding, torch.ones_like(padding), None):
        ours, eager = compared(name, input_ids=ids, attention_mask=mask, use_cache=False)
        real = torch.ones_like(padding).bool() if mask is None else mask.bool()
        torch.testing.assert_close(ours[real], eager[real], atol=1e-5, rtol=1e-5)


def test_positions_that_restart_are_packing_to_transformers_and_to_us() -> None:
    ids = torch.randint(3, 31, (1, 7), generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    ours, eager = compared("llama", input_ids=ids, position_ids=positions, use_cache=False)
    torch.testing.assert_close(ours, eager, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_masks_of_the_caller(kind: str) -> None:
    ids = torch.randint(3, 31, (2, 6), generator=torch.Generator().manual_seed(0))
    seen = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    seen |= torch.eye(6, dtype=torch.bool)
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min) + torch.linspace(0, 1, 6)
    mine = seen if kind == "bool" else added
    theirs = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min) if kind == "bool" else added
    ours, eager = build("llama"), build("llama")
    hf.adopt(ours)
    eager.set_attn_implementation("eager")  # type: ignore[operator]
    expected = eager(input_ids=ids, attention_mask=theirs).logits
    torch.testing.assert_close(ours(input_ids=ids, attention_mask=mine).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["CLIPVision", "SiglipVision", "CLIPText"])
def test_towers_look_both_ways_unless_they_are_causal(kind: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 31, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(t, f"{kind}Config")(**sizes, **({"image_size": 8, "patch_size": 4} if "Vision" in kind else text))
    model = getattr(t, f"{kind}Model")(config).eval()
    inputs = (
        {"pixel_values": torch.randn(2, 3, 8, 8)} if "Vision" in kind else {"input_ids": torch.randint(3, 31, (2, 5))}
    )
    if kind == "CLIPText":
        inputs["attention_mask"] = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    model.set_attn_implementation("eager")
    expected = model(**inputs).last_hidden_state
    model.set_attn_implementation(hf.NAME)
    torch.testing.assert_close(model(**inputs).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def t5() -> Any:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 20, "num_layers": 2, "num_heads": 2, "relative_attention_num_buckets": 8}
    return t.T5ForConditionalGeneration(t.T5Config(vocab_size=31, decoder_start_token_id=0, **sizes)).eval()


def test_t5_with_its_position_bias() -> None:
    model = t5()
    ids, said = torch.randint(3, 31, (2, 6)), torch.randint(3, 31, (2, 4))
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    model.set_attn_implementation("eager")
    expected = model(input_ids=ids, attention_mask=mask, decoder_input_ids=said).logits
    assert hf.adopt(model)
    out = model(input_ids=ids, attention_mask=mask, decoder_input_ids=said).logits
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_segments_are_refused_where_queries_are_not_keys() -> None:
    model = t5()
    if not hf.adopt(model):
        pytest.skip("T5 of this transformers does not call the attention interface")
    ids = torch.randint(3, 31, (1, 6))
    keys = hf.carrier(torch.ones_like(ids))
    with pytest.raises(InputError, match="T5Attention attends to other positions than its own"):
        model(input_ids=ids, attention_mask=keys, decoder_input_ids=ids)


def test_arguments_that_would_change_the_result_are_refused() -> None:
    sizes = {**SIZES, **GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 4}
    model = t.GptOssForCausalLM(t.GptOssConfig(**sizes)).eval()
    hf.adopt(model)
    with pytest.raises(InputError, match="GptOssAttention passes s_aux to its attention"):
        model(input_ids=torch.tensor([[3, 4, 5]]))


def test_packing_that_only_a_kernel_would_read_is_not_lost() -> None:
    model: Any = build("llama")
    hf.adopt(model)
    starts = torch.tensor([0, 2, 4], dtype=torch.int32)
    with pytest.raises(InputError, match="LlamaAttention passes cu_seq_lens_q to its attention"):
        model(input_ids=torch.tensor([[3, 4, 5, 6]]), cu_seq_lens_q=starts, use_cache=False)
    positions = torch.tensor([[0, 1, 0, 1]])  # from these transformers lays out a mask
    model(input_ids=torch.tensor([[3, 4, 5, 6]]), cu_seq_lens_q=starts, position_ids=positions, use_cache=False)


def test_a_model_that_cannot_be_packed_is_refused() -> None:
    config = t.FalconConfig(**{**SIZES, "alibi": True})
    with pytest.raises(InputError, match="Falcon with ALiBi cannot tell packed samples apart"):
        hf.adopt(t.FalconForCausalLM(config))


def test_masks_of_wrong_shape_are_refused() -> None:
    model: Any = build("llama")
    hf.adopt(model)
    x = torch.randn(1, 4, 24)
    with pytest.raises(
        InputError, match=r"integer mask of shape \(1, 1, 1, 3\); expected segments \[B, 1, 1, at least 4\]"
    ):
        model(inputs_embeds=x, attention_mask=torch.ones(1, 1, 1, 3, dtype=torch.long))


def test_what_a_mask_becomes_is_made_once_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(hf, "Segments", lambda *a: made.append(1) or hf_segments(*a))
    think = Think("llama")
    before = len(hf._derived)
    for times in (1, 2):
        think(torch.randn(1, 5, 24), *lay([2, 3], 5))
        assert len(made) == times
        assert len(hf._derived) == before


hf_segments = hf.Segments


def test_a_mask_written_to_is_read_again() -> None:
    model: Any = build("llama")
    hf.adopt(model)
    x = torch.randn(1, 4, 24)
    mask = hf.carrier(torch.tensor([[1, 1, 1, 1]]))
    first = model(inputs_embeds=x, attention_mask=mask).logits
    mask[..., 0] = 0
    second = model(inputs_embeds=x, attention_mask=mask).logits
    alone = model(inputs_embeds=x, attention_mask=hf.carrier(torch.tensor([[0, 1, 1, 1]]))).logits
    assert not torch.allclose(first[:, 1:], second[:, 1:])
    torch.testing.assert_close(second, alone)


def test_recomputing_layers_gives_the_same_gradients() -> None:
    found = []
    for recompute in (False, True):
        think = Think("gemma2")
        think.model.train()
        if recompute:
            enable = (
                getattr(think.model, "activation_checkpointing_enable", None)
                or think.model.gradient_checkpointing_enable
            )
            enable({"use_reentrant": False})
        x = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
        found.append(gradients(think(x, *lay([3, 4], 7)), think.model, x))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)

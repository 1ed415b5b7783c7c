"""The plan's arithmetic against numbers worked out by hand, against a counter, and against memory in use."""

import json
import weakref
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mmlm.aligners.mlp import Mlp
from mmlm.backbones.causal import Causal
from mmlm.backbones.seq2seq import Seq2Seq
from mmlm.blocks import loss
from mmlm.blocks.attention import forced
from mmlm.config import SystemConfig, parse
from mmlm.errors import InputError
from mmlm.interfaces import Features
from mmlm.plan import Plan, plan
from mmlm.plan.amounts import count, flops, gibibytes, ratio
from mmlm.plan.lines import StageLine
from mmlm.plan.memory import LOGITS, activations, logits, of_parameters, stored
from mmlm.plan.work import Matrix, Places, Work, attention, dense, llm, on_shapes
from mmlm.weights import Weights

SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# The tiny SmolLM2: D 32, F 64, 4 layers, 4 heads of 8, 2 key heads; per layer q, k, v, o and gate, up, down.
LAYER = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 64
T, TEXT, V = 10, 7, 101


def small(llm_name: str = SMOL, *, trained: bool = False) -> Causal:
    torch.manual_seed(0)
    backbone = Causal(Weights(llm_name, load=False, tiny=True), V)
    return backbone.requires_grad_(trained).eval()


class Looks(Mlp):
    """An aligner that asks how large its features are."""

    def forward(self, features: Features) -> Tensor:
        return super().forward(features) * float(features.values.amax())


def inputs(aligner: str = "mlp") -> dict[str, Any]:
    encoder = {"type": "clip", "weights": "openai/clip-vit-base-patch32"}
    return {"image": {"encoder": encoder, "aligner": {"type": aligner, "depth": 2}}}


def config(**changes: Any) -> SystemConfig:
    """A tiny system of real parts: 16 patches of a tiny CLIP through two layers into a tiny LLM."""
    stage = {"name": "tune", "data": [{"reader": "qa", "path": "x.jsonl"}], "batch": 6, "micro_batch": 2}
    stage |= {"train": {"inputs.image.aligner": {"lr": 1e-3}}}
    stage |= changes.pop("stage", {})
    system = {
        "name": "small",
        "scale": "tiny",
        "length": 64,
        "inputs": inputs(),
        "backbone": {"type": "causal", "weights": SMOL},
        "stages": [stage],
    }
    return parse(system | changes)


class TestFlops:
    def test_llm_by_hand(self) -> None:
        layers, head = llm(small(), Places(T, TEXT), flows=False)
        assert layers.forward == 2 * 4 * LAYER * T + 4 * 4 * T * T * 32 == 737_280 + 51_200
        assert head.forward == 2 * V * 32 * TEXT == 45_248
        assert layers.backward == head.backward == layers.kept == 0

    def test_backward_through_frozen_layers(self) -> None:
        """A gradient that only passes costs each product once more, and attention's two products twice."""
        layers, head = llm(small(), Places(T, TEXT), flows=True)
        assert layers.backward == 737_280 + 2 * 51_200
        assert head.backward == 45_248

    def test_backward_into_trained_layers(self) -> None:
        layers, head = llm(small(trained=True), Places(T, TEXT), flows=True)
        assert layers.backward == 2 * 737_280 + 2 * 51_200
        assert head.backward == 2 * 45_248

    @pytest.mark.parametrize("trained", [False, True])
    def test_the_formula_is_what_a_counter_counts(self, trained: bool) -> None:
        backbone = small(trained=trained)
        layers, _ = llm(backbone, Places(T, TEXT), flows=True)
        x = torch.randn(1, T, 32, requires_grad=True)
        positions = torch.arange(T)[None]
        with FlopCounterMode(display=False) as counter:
            cast(Any, backbone.llm).model.rotary_emb(x, positions)
            angles = counter.get_total_flops()  # some transformers make them by a product, which the formula neglects
        with forced("reference"), FlopCounterMode(display=False) as counter:
            out = backbone.think(x, torch.ones(1, T, dtype=torch.long), positions)
            forward = counter.get_total_flops()
            out.sum().backward()
        assert (forward - angles, counter.get_total_flops() - forward) == (layers.forward, layers.backward)

    def test_an_encoder_decoder(self) -> None:
        backbone = Seq2Seq(Weights("google/flan-t5-xl", load=False, tiny=True), V).requires_grad_(False).eval()
        layers, head = llm(backbone, Places(T, TEXT), flows=False)
        t5: Any = backbone.llm
        for stack in (t5.get_encoder(), t5.get_decoder()):
            stack.set_attn_implementation("eager")  # not every torch counts the fused attention of a CPU
        with FlopCounterMode(display=False) as counter:
            read = t5.get_encoder()(inputs_embeds=torch.randn(1, T, 32)).last_hidden_state
            states = t5.get_decoder()(input_ids=torch.zeros(1, TEXT, dtype=torch.long), encoder_hidden_states=read)
            backbone.logits(states.last_hidden_state)
        assert counter.get_total_flops() == layers.forward + head.forward

    def test_memory_rows_count_for_what_reads_them(self) -> None:
        """A graft of 8 x 32 on states and 8 x 24 on a memory of 5 rows, 24 wide."""

        class Reads(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.q, self.k = nn.Linear(32, 8, bias=False), nn.Linear(24, 8, bias=False)

        backbone = small()
        before, _ = llm(backbone, Places(T, TEXT, 5, 24), flows=False)
        backbone.grafts["reads"] = Reads()
        after, _ = llm(backbone, Places(T, TEXT, 5, 24), flows=False)
        assert after.forward - before.forward == 2 * 8 * 32 * T + 2 * 8 * 24 * 5

    def test_attention_by_hand(self) -> None:
        assert attention(3, 5, 8, 2, flows=True) == Work(4 * 3 * 5 * 8 * 2, 2 * 4 * 3 * 5 * 8 * 2)


class TestOnShapes:
    """A module run on shapes: 6 rows of 5 through a 5 x 7 layer."""

    def run(self, *, trained: bool, before: bool) -> Work:
        layer = nn.Linear(5, 7, device="meta").requires_grad_(trained)
        out, work = on_shapes(layer, torch.zeros(6, 5, device="meta", requires_grad=before))
        assert out.shape == (6, 7) and out.is_meta
        return work

    def test_frozen(self) -> None:
        assert self.run(trained=False, before=False) == Work(2 * 6 * 5 * 7, 0, 0)

    def test_trained(self) -> None:
        """The gradient of the weight costs as much as the forward, and the input is kept for it."""
        assert self.run(trained=True, before=False) == Work(420, 420, 6 * 5)

    def test_passing(self) -> None:
        assert self.run(trained=False, before=True) == Work(420, 420, 0)

    def test_trained_and_passing(self) -> None:
        assert self.run(trained=True, before=True) == Work(420, 840, 6 * 5)

    def test_fused_attention_keeps_no_scores(self) -> None:
        class Attends(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return nn.functional.scaled_dot_product_attention(x, x, x)

        x = torch.zeros(1, 4, 11, 8, device="meta", requires_grad=True)
        _, work = on_shapes(Attends(), x)
        assert work == Work(4 * 4 * 11 * 11 * 8, 2 * 4 * 4 * 11 * 11 * 8, 2 * 4 * 11 * 8)  # x and the output

    def test_the_fast_path_is_counted_too(self) -> None:
        """nn.MultiheadAttention in evaluation mode hides all its products in one operation, unless told not to."""
        part = nn.MultiheadAttention(8, 2, batch_first=True, device="meta").eval().requires_grad_(False)

        class Alone(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.part = part

            def forward(self, x: Tensor) -> Tensor:
                return self.part(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]

        _, work = on_shapes(Alone(), torch.zeros(1, 5, 8, device="meta"))
        assert work.forward == 2 * 5 * 8 * 32 + 4 * 5 * 5 * 8


class TestMemory:
    def test_kept_by_hand(self) -> None:
        """What a matrix gives is kept, and half as much again, where a gradient passes; what it takes, where it is trained."""
        frozen, trained = Matrix(8, 5, rows=3, trained=False), Matrix(8, 5, rows=3, trained=True)
        assert dense([frozen], flows=False).kept == 0
        assert dense([frozen], flows=True).kept == 3 * 12
        assert dense([trained], flows=True).kept == 3 * (12 + 5)

    def test_sisters_take_one_thing(self) -> None:
        """Per layer of the tiny Llama: what q, k, v take (and o: attention keeps it anyway), gate and up, and down."""
        taken = llm(small(trained=True), Places(T, TEXT), True)[0].kept - llm(small(), Places(T, TEXT), True)[0].kept
        assert taken == T * 4 * (32 + 32 + 64)

    def test_logits_by_hand(self) -> None:
        """All 7 rows of 101 where few; of many rows and a large vocabulary only the chunk of the fused loss."""
        assert logits(7, 101) == 2 * 4 * 7 * 101
        assert logits(100_000, 32_000) == 2 * 4 * 32_000 * (LOGITS // 32_000)
        assert LOGITS == loss._HELD

    def test_parameters_by_hand(self) -> None:
        """1000 fp32 weights, 100 trained: 4 bytes each, 4 for each gradient, 8 for its moments."""
        opened = [nn.Parameter(torch.zeros(10, 10))]
        memory = of_parameters(4000.0, opened, crossed=900, layers=3, precision="fp32", recompute=False, devices=1)
        assert (memory.weights, memory.copies, memory.gradients, memory.moments) == (4000, 0, 400, 800)
        assert memory.total == 5200

    def test_copies_of_a_forward_in_bf16(self) -> None:
        opened = [nn.Parameter(torch.zeros(10, 10))]
        kwargs: dict[str, Any] = {"crossed": 900, "layers": 3, "precision": "bf16", "devices": 1}
        assert of_parameters(0.0, opened, recompute=False, **kwargs).copies == 2 * (100 + 900)
        assert of_parameters(0.0, opened, recompute=True, **kwargs).copies == 2 * (100 + 300)

    def test_devices_share_all_but_copies_and_activations(self) -> None:
        opened = [nn.Parameter(torch.zeros(10, 10))]
        memory = of_parameters(4000.0, opened, crossed=0, layers=3, precision="bf16", recompute=True, devices=4)
        assert (memory.weights, memory.copies, memory.gradients, memory.moments) == (1000, 200, 100, 200)

    def test_recomputing_keeps_the_entrances_and_one_layer(self) -> None:
        assert activations(1200.0, 4, positions=10, width=8, precision="fp32", recompute=False) == 4 * 1200
        assert activations(1200.0, 4, positions=10, width=8, precision="bf16", recompute=True) == 2 * (4 * 80 + 300)

    def test_quantised_weights(self) -> None:
        held = [nn.Parameter(torch.zeros(10, 10)), nn.Parameter(torch.zeros(10))]
        assert stored(held) == 440
        assert stored(held, {id(held[0])}, "int8") == 100 + 40
        assert stored([nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))]) == 6


class Live(TorchDispatchMode):
    """Bytes of all storages that are alive and were made inside, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, int] = {}

    def _gone(self, key: int) -> None:
        self.now -= self.known.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                key = storage._cdata
                if key not in given and key not in self.known:
                    self.known[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, key)
        self.peak = max(self.peak, self.now)
        return out


def peak(backbone: Causal, positions: int) -> int:
    """The most bytes that the second of two micro-batches has alive: activations, and the gradients of what is trained."""
    keys, places = torch.ones(1, positions, dtype=torch.long), torch.arange(positions)[None]
    targets = torch.zeros(positions, dtype=torch.long)
    with Live() as live:
        for _ in range(2):
            x = torch.randn(1, positions, backbone.width, requires_grad=True)
            states = backbone.think(x, keys, places)[0]
            loss.linear_cross_entropy(states, backbone.head.weight, targets).backward()
    return live.peak


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", [SMOL, "facebook/opt-2.7b"], ids=["llama", "opt"])
def test_activations_are_within_a_third(name: str, trained: bool, recompute: bool) -> None:
    """The estimate of activations and gradients against the peak of a real step in fp32."""
    backbone, positions = small(name, trained=trained), 256
    if recompute:
        backbone.recompute(True)
    backbone.train(recompute)  # layers recompute in training mode only; there is no dropout in these
    layers, head = llm(backbone, Places(positions, positions), flows=True)
    estimated = activations(layers.kept, backbone.layers, positions, backbone.width, "fp32", recompute)
    estimated += 4 * head.kept + logits(positions, V) + stored(p for p in backbone.parameters() if p.requires_grad)
    measured = peak(backbone, positions)
    assert 0.75 < estimated / measured < 1.33


class TestPlan:
    def test_lines(self) -> None:
        found = plan(config())
        aligner = 32 * 32 + 32 + 32 * 32 + 32
        assert {p.id: p.trained["tune"] for p in found.parts if p.trained["tune"]} == {"inputs.image.aligner": aligner}
        assert sum(p.parameters for p in found.parts) == found.parameters
        assert [(s.units, s.length, s.channels, s.tokens) for s in found.streams] == [(1, 16, 32, 16)]
        (stage,) = found.stages
        assert (stage.trained, stage.positions, stage.text, stage.micro_batch) == (aligner, 64, 48, 2)
        assert stage.memory.gradients == 4 * aligner and stage.memory.moments == 8 * aligner
        assert stage.step == 6 * (stage.forward + stage.backward)

    def test_activations_grow_with_the_micro_batch(self) -> None:
        one, two = (plan(config(stage={"micro_batch": n})).stages[0].memory for n in (1, 2))
        assert two.activations == 2 * one.activations
        assert two.weights == one.weights

    def test_a_lora_graft_is_counted_in_the_layers(self) -> None:
        """rank 2 on q and v of 4 layers: A 2 x 32, B 32 x 2 and 16 x 2; each adds its products to the backward, once for
        the input and once for itself, and keeps only what it takes."""
        lora = {"type": "lora", "targets": ["q_proj", "v_proj"]}
        backbone = {"type": "causal", "weights": SMOL}
        train = {"inputs.image.aligner": {"lr": 1e-3}}
        plain = plan(config(backbone=backbone)).stages[0]
        grafted = plan(
            config(
                backbone={**backbone, "grafts": {"lora": lora}},
                stage={"train": train | {"backbone.grafts.lora": {"lr": 1e-3}}},
            )
        ).stages[0]
        size = 4 * (2 * 2 * 32 + 32 * 2 + 16 * 2)
        assert grafted.trained - plain.trained == size
        assert grafted.forward - plain.forward == 2 * size * 64
        assert grafted.backward - plain.backward == 2 * 2 * size * 64
        # Per layer: A of q and of v take x (32) each, B take 2 each; 2 samples of 64 positions.
        assert grafted.memory.activations - plain.memory.activations == 4 * 2 * 64 * 4 * (32 + 32 + 2 + 2)

    @pytest.mark.parametrize(("llm", "tables"), [(SMOL, 1), ("huggyllama/llama-7b", 2)], ids=["tied", "untied"])
    def test_added_rows_are_counted(self, llm: str, tables: int) -> None:
        """Two tokens: a row each in the embedding, and in the head where that is another table. Training them takes a gradient
        through the layers, and each is a row more to multiply states with."""
        backbone = {"type": "causal", "weights": llm}
        plain = plan(config(backbone=backbone))
        train = {"inputs.image.aligner": {"lr": 1e-3}, "backbone.added": {"lr": 1e-3}}
        added = plan(config(backbone=backbone | {"add_tokens": ["<a>", "<b>"]}, stage={"train": train}))
        line = next(p for p in added.parts if p.id == "backbone.added")
        assert (line.parameters, line.trained["tune"], line.weights) == (tables * 2 * 32, tables * 2 * 32, "")
        assert added.parameters - plain.parameters == line.parameters
        before, after = plain.stages[0], added.stages[0]
        assert after.trained - before.trained == line.parameters
        assert after.forward - before.forward == 2 * 2 * 32 * 48
        assert after.backward - before.backward == 2 * (2 * 2 * 32 * 48)
        assert after.memory.moments - before.memory.moments == 8 * line.parameters

    def test_a_head_alone_needs_no_gradient_through_the_layers(self) -> None:
        backbone = {"type": "causal", "weights": "huggyllama/llama-7b", "add_tokens": ["<a>"]}
        head, both = (
            plan(config(backbone=backbone, stage={"train": {part: {"lr": 1e-3}}})).stages[0]
            for part in ("backbone.added.head", "backbone.added")
        )
        assert head.backward == 2 * 1 * 32 * 48 and both.backward > head.backward

    def test_a_stage_without_text_thinks_up_to_what_steers_its_decoders(self) -> None:
        """A backward and logits there are only where the LLM learns; layer 2 of 4 is half of the layers' work."""
        decoder = {"type": "pixel_diffusion"}
        draw = {"modality": "image", "read": "all", "layers": [2], "aligner": {"type": "linear"}, "decoder": decoder}
        fed = draw | {"read": "feedback", "feeds": "image", "layers": [-1], "spelling": "[FED{}]"}

        def stage(objectives: dict[str, float], *train: str) -> StageLine:
            changes = {"objectives": objectives, "train": {part: {"lr": 1e-3} for part in train}}
            return plan(config(outputs={"drawn": draw, "fed": fed}, stage=changes)).stages[0]

        halfway = stage({"drawn.denoise": 1, "text": 0}, "outputs.drawn.decoder", "outputs.drawn.aligner")
        whole = stage({"drawn.denoise": 1, "fed.mse": 1}, "outputs.drawn.decoder", "outputs.fed.aligner")
        nothing = stage({"fed.reconstruct": 1}, "outputs.fed.decoder")
        added = stage({"drawn.denoise": 1}, "outputs.drawn.decoder", "backbone.added")
        text = stage({"drawn.denoise": 1, "text": 1}, "outputs.drawn.decoder", "backbone.added")
        layers = 2 * 4 * LAYER * 64 + 4 * 64 * 64 * 32 * 4
        assert whole.forward - nothing.forward == layers == 2 * (halfway.forward - nothing.forward)
        assert [s.backward for s in (halfway, whole, nothing)] == [0, 0, 0]
        assert halfway.memory.activations == nothing.memory.activations < text.memory.activations
        assert added == text, "what the LLM learns by anything goes through all of it"

    def test_a_quantised_llm(self) -> None:
        """4-bit matrices of the layers; embedding, head and norms stay as they were."""
        full, less = (
            plan(config(backbone={"type": "causal", "weights": SMOL, "quantize": q})).stages[0] for q in ("none", "nf4")
        )
        assert full.memory.weights - less.memory.weights == pytest.approx(4 * LAYER * (4 - 0.52))

    def test_gradient_checkpointing_trades_memory_for_work(self) -> None:
        kept, recomputed = (plan(config(stage={"gradient_checkpointing": g})).stages[0] for g in (False, True))
        assert recomputed.memory.activations < kept.memory.activations
        assert recomputed.backward > kept.backward and recomputed.forward == kept.forward

    def test_devices(self) -> None:
        one, four = (plan(config(), devices=n).stages[0].memory for n in (1, 4))
        assert four.weights == one.weights / 4 and four.moments == one.moments / 4
        with pytest.raises(InputError, match="at least 1 device, got 0"):
            plan(config(), devices=0)

    def test_items_that_fill_the_context_are_refused(self) -> None:
        with pytest.raises(InputError, match="takes 16 slots, but the context has 16 positions"):
            plan(config(length=16))

    def test_a_sub_part_can_be_trained(self) -> None:
        found = plan(config(stage={"train": {"inputs.image.aligner.layers.1": {"lr": 1e-3}}}))
        assert found.stages[0].trained == 32 * 32 + 32

    def test_a_part_that_must_see_values_is_counted_whole(self) -> None:
        """Every weight of it with every feature: 16 features through 32 x 32 twice, as for the part that can be run."""
        whole, seen = (plan(config(inputs=inputs(kind))).stages[0] for kind in ("mlp", f"{__name__}:Looks"))
        assert seen.forward == whole.forward

    def test_published_figures_stand_beside(self) -> None:
        found = plan(
            config(
                published={"parameters": 1e6, "trainable": {"tune": 4224}, "tokens": {"image": 16}, "source": "here"}
            )
        )
        text = found.table()
        assert "published" in text and "here" in text and found.stages[0].published == 4224
        assert found.streams[0].published == 16

    def test_table_and_json(self) -> None:
        found = plan(config())
        assert isinstance(found, Plan)
        text = found.table()
        assert all(word in text for word in ("inputs.image.encoder", "backbone", "tune", "16", "total"))
        assert max(map(len, text.splitlines())) < 160
        back = json.loads(json.dumps(found.as_json()))
        assert back["stages"][0]["memory"]["total"] == found.stages[0].memory.total
        assert back["parts"][0]["id"] == found.parts[0].id

    def test_nothing_is_allocated_or_trained_afterwards(self) -> None:
        before = torch.random.get_rng_state()
        plan(config())
        assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0, "-"), (7, "7"), (20_979_712, "20.98 M"), (7.063e9, "7.063 B")]
)
def test_counts(value: float | None, text: str) -> None:
    assert count(value) == text


def test_other_amounts() -> None:
    assert (flops(7.063e9), flops(43.77e15)) == ("7.063 G", "43.77 P")
    assert (gibibytes(2**30 * 12.34), gibibytes(2**20 * 123)) == ("12.3", "0.12")
    assert (ratio(2.0, 1.0), ratio(2.0, None)) == ("2.000", "-")

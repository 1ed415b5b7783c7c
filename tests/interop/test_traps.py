"""The traps of published checkpoints that an import could fall into, one test for each."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmlm.errors import InputError
from mmlm.interop import import_folder
from mmlm.training.run import load_run
from tests.interop import blips, llavas, parity
from tests.interop.parity import CLOSE, picture


def test_eva_has_no_bias_for_keys_and_transformers_stores_one_of_zeros(tmp_path: Path) -> None:
    blips.saved(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    found = load_file(file)
    biases = [n for n in found if n.endswith("self_attn.qkv.bias")]
    for name in biases:
        found[name][20:40] = 0
    save_file(found, file, metadata={"format": "pt"})
    import_folder(tmp_path / "theirs", tmp_path / "ours")
    state = load_run(tmp_path / "ours", "cpu").model.state_dict()
    kept = [state[n.replace("vision_model.", "inputs.image.encoder.model.")] for n in biases]
    assert len(kept) == 3 and all(not b[20:40].any() and b[:20].all() and b[40:].all() for b in kept)


def test_stage_1_and_llm_stage_q_formers_hold_different_modules(tmp_path: Path) -> None:
    """BLIP-2's Q-Former has no text branch behind it, InstructBLIP's has; one in place of the other is refused by name."""
    blips.saved(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    text = "qformer.encoder.layer.0.intermediate.dense.weight"
    found = load_file(file)
    assert text not in found
    save_file(found | {text: torch.ones(64, 16)}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"left over: {text}"):
        import_folder(tmp_path / "theirs", tmp_path / "ours")
    blips.saved(tmp_path / "instructed", text="llama", instruct=True)
    found = load_file(tmp_path / "instructed" / "model.safetensors")
    del found[text]
    save_file(found, tmp_path / "instructed" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"missing: {text}"):
        import_folder(tmp_path / "instructed", tmp_path / "ours")


def test_t5_keeps_the_activation_that_its_config_names(tmp_path: Path) -> None:
    """LAVIS runs Flan-T5 with GELU, where Flan-T5's own config says GELU in its tanh form."""
    pair = blips.imported(tmp_path, text="t5")
    theirs = pair.theirs.language_model.encoder.block[0].layer[-1].DenseReluDense.act
    ours: Any = pair.ours.model.backbone.llm
    x = torch.linspace(-3, 3, 50)
    assert torch.equal(ours.encoder.block[0].layer[-1].DenseReluDense.act(x), theirs(x))
    said = json.loads((tmp_path / "theirs" / "config.json").read_text())["text_config"]["dense_act_fn"]
    kept = json.loads((tmp_path / "ours" / "parts" / "backbone" / "config.json").read_text())
    assert kept["dense_act_fn"] == pair.theirs.config.text_config.dense_act_fn == said


def test_instructblip_begins_and_ends_with_one_token(tmp_path: Path) -> None:
    """LAVIS gives Vicuna "</s>" for beginning, end and unknown alike; the labels still end with it, once."""
    pair = blips.imported(tmp_path, text="llama", instruct=True)
    vocabulary = pair.ours.vocabulary
    end = vocabulary.structure("</s>")[0]
    assert vocabulary.bos == end and end in vocabulary.ends
    ids, labels = parity.learned(pair, [[picture(1), "What is it?"], ["a dog"]])
    assert ids[0, 5] == end and ids[0, -1] == end and int((ids == end).sum()) == 2
    assert labels[0, -1] == end and not (labels[0, :6] != -100).any()


@pytest.mark.parametrize("tower", ["clip", "siglip", "dinov2"])
def test_the_last_hidden_state_is_taken_before_the_last_norm(tower: str, tmp_path: Path) -> None:
    """hidden_states[-1] of a tower is what leaves its last block, not what `post_layernorm` makes of it."""
    pair = llavas.imported(tmp_path, tower=tower, full=tower == "siglip", vision_feature_layer=-1)
    units = torch.randn(2, 3, 21, 21)
    with torch.no_grad():
        eye = pair.theirs.model.vision_tower(units, output_hidden_states=True)
        ours = pair.ours.model.inputs["image"].eyes(units)
    skip = 0 if tower == "siglip" else 1
    torch.testing.assert_close(ours, eye.hidden_states[-1][:, skip:], **CLOSE)
    with torch.no_grad():
        norm = pair.theirs.model.vision_tower
        normed = (norm.layernorm if tower == "dinov2" else norm.post_layernorm)(eye.hidden_states[-1])[:, skip:]
    assert float((ours - normed).abs().max()) > 1e-2


@pytest.mark.parametrize("name", ["vicuna", "llava-v1.5-7b-lora", "mpt_projector", "checkpoint-7", "phi-qwen2"])
def test_no_name_of_a_folder_says_anything(name: str, tmp_path: Path) -> None:
    llavas.saved(tmp_path / name)
    import_folder(tmp_path / name, tmp_path / "ours" / name)
    told = (tmp_path / "ours" / name / "config.yaml").read_text()
    assert "name: llava-llama" in told and name not in told

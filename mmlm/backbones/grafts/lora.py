"""Low-rank adapters on the LLM's linear layers, by peft (LoRA, Hu et al. 2021; on a quantised LLM: QLoRA, 2023)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import nn

from mmlm.backbones.backbone import Backbone
from mmlm.errors import InputError
from mmlm.interfaces import Graft


class Lora(Graft):
    """y = Wx + (alpha / rank) B A x on chosen linear layers; B starts at 0, so the model starts unchanged.

    The adapters live inside the LLM's own layers (that is where peft puts them), under names that hold ".lora_".
    """

    tiny: ClassVar[Mapping[str, object]] = {"rank": 2, "alpha": 4}

    def __init__(
        self,
        backbone: Backbone,
        *,
        rank: int = 16,
        alpha: int = 32,
        dropout: float = 0.0,
        targets: list[str] | Literal["all-linear"] = "all-linear",
        bias: Literal["none", "all", "lora_only"] = "none",
        rslora: bool = False,
    ) -> None:
        super().__init__()
        del backbone  # its layers are reached in attach
        self.rank, self.alpha, self.dropout, self.targets = rank, alpha, dropout, targets
        self.bias, self.rslora = bias, rslora

    def attach(self, backbone: Backbone) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        targets = self.targets
        if targets == "all-linear":
            targets = sorted(
                {n.rpartition(".")[2] for n, m in backbone.layer_list().named_modules() if isinstance(m, nn.Linear)}
            )
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            bias=self.bias,
            use_rslora=self.rslora,
        )
        try:
            inject_adapter_in_model(config, backbone.llm)
        except ValueError as e:
            known = sorted({n.rpartition(".")[2] for n, m in backbone.llm.named_modules() if isinstance(m, nn.Linear)})
            raise InputError(
                f"lora: targets {targets} match no layer of {type(backbone.llm).__name__}; its linear layers are {', '.join(known)}"
            ) from e

    def owns(self, name: str) -> bool:
        return ".lora_" in name

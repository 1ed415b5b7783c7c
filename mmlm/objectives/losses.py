"""The objectives room: losses that compare a condition with what was meant. Each gives one number for each run."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmlm.batch import Targets
from mmlm.errors import InputError
from mmlm.interfaces import Condition, Decoder

Goal = Callable[[], Condition]
Objective = Callable[[Decoder, Condition, Targets, Goal], Float[Tensor, " R"]]


def l2(decoder: Decoder, condition: Condition, target: Targets, goal: Goal) -> Float[Tensor, " R"]:
    """The mean over the K vectors of || c_k - g_k ||, not squared (GILL's code, Koh et al. 2023; NExT-GPT, Wu et al. 2024)."""
    c, g = _pair(condition, goal())
    return (c - g).norm(dim=-1).mean(-1)  # type: ignore[no-any-return]


def mse(decoder: Decoder, condition: Condition, target: Targets, goal: Goal) -> Float[Tensor, " R"]:
    """The mean over vectors and width of (c - g)^2 (MiniGPT-5, Zheng et al. 2023)."""
    c, g = _pair(condition, goal())
    return (c - g).square().mean((-1, -2))  # type: ignore[no-any-return]


def cosine(decoder: Decoder, condition: Condition, target: Targets, goal: Goal) -> Float[Tensor, " R"]:
    """The mean over the K vectors of 1 - cos(c_k, g_k) (CoDi-2, Tang et al. 2023)."""
    c, g = _pair(condition, goal())
    return (1 - F.cosine_similarity(c, g, dim=-1)).mean(-1)


def contrast(decoder: Decoder, condition: Condition, target: Targets, goal: Goal) -> Float[Tensor, " R"]:
    """InfoNCE in both directions over the runs of the batch (van den Oord et al. 2018; GILL): with s the cosines of all
    conditions to all goals times the decoder's `scale`, the mean of -log softmax(s)[r, r] over rows and over columns. Runs
    that mean the same item are no negatives of each other. One process compares its own micro-batch."""
    c, g = _pair(condition, goal())
    c, g = F.normalize(c.flatten(1), dim=-1), F.normalize(g.flatten(1), dim=-1)
    known: dict[str, int] = {}
    kind = torch.tensor([known.setdefault(k, len(known)) for k in target.keys], device=c.device)
    same = (kind[:, None] == kind) & ~torch.eye(len(kind), dtype=torch.bool, device=c.device)
    scores = (decoder.scale * (c @ g.T)).masked_fill(same, float("-inf"))
    return -(scores.log_softmax(1).diagonal() + scores.log_softmax(0).diagonal()) / 2


def denoise(decoder: Decoder, condition: Condition, target: Targets, goal: Goal) -> Float[Tensor, " R"]:
    """The decoder's own loss of making the item from the condition; the gradient passes a frozen decoder."""
    if target.units is None:
        raise ValueError("denoise needs the units of the target items, which the processor was not asked for")
    return decoder.denoise(target.units, condition)


def objective(name: str) -> Objective:
    """The objective of a name."""
    return {"contrast": contrast, "cosine": cosine, "denoise": denoise, "l2": l2, "mse": mse}[name]


def _pair(condition: Condition, goal: Condition) -> tuple[Float[Tensor, "R K E"], Float[Tensor, "R K E"]]:
    """The vectors of both in fp32. Raises InputError where they are not of one shape."""
    c, g = condition.values.float(), goal.values.float()
    if c.shape != g.shape:
        raise InputError(
            f"the output aligner gives conditions of {list(c.shape[1:])}, the decoder's own encodings are {list(g.shape[1:])}"
        )
    return c, g

"""Where tokens of items enter the LLM's sequence."""

from jaxtyping import Float, Int
from torch import Tensor


def splice(x: Float[Tensor, "B T D"], where: Int[Tensor, " S"], tokens: Float[Tensor, "Z D"]) -> Float[Tensor, "B T D"]:
    """Write `tokens` over the flat positions `where`, in order. The counts must agree: the processor wrote as many slots
    as the aligner promised tokens, and neither may cheat."""
    if len(where) != len(tokens):
        raise ValueError(f"the batch holds {len(where)} slots, but the aligner gave {len(tokens)} tokens")
    flat: Tensor = x.flatten(0, 1).index_copy(0, where, tokens.to(x.dtype))
    return flat.unflatten(0, x.shape[:2])  # type: ignore[no-any-return]

"""The output aligners and their names: what stands between the LLM's states and a decoder."""

PARTS: dict[str, str] = {
    "linear": "linear:Linear",
    "mlp": "mlp:Mlp",
    "qformer": "qformer:QFormer",
    "queries": "queries:Queries",
    "resampler": "resampler:Resampler",
}

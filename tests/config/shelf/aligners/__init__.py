"""The aligners of the shelf."""

PARTS = {
    "mlp": "projectors:Mlp",
    "linear": "projectors:Linear",
    "resampler": "queries:Resampler",
    "qformer": "queries:QFormer",
}

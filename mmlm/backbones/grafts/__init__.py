"""The grafts and their names."""

PARTS = {
    "gated_cross_attention": "gated_cross_attention:GatedCrossAttention",
    "lora": "lora:Lora",
}

"""The grafts of the shelf."""

PARTS = {"gated_cross_attention": "gated:Gated", "lora": "lora:Lora"}

"""The backbones of the shelf."""

PARTS = {"causal": "llm:Causal", "seq2seq": "llm:Seq2Seq"}

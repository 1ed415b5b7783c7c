"""The LLM backbones and their names."""

PARTS = {
    "causal": "causal:Causal",
    "seq2seq": "seq2seq:Seq2Seq",
}

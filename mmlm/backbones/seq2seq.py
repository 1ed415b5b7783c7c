"""The encoder-decoder backbone: the T5 family. What is given goes to the LLM's encoder, what is learnt to its decoder."""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSeq2SeqLM, DynamicCache, EncoderDecoderCache

from mmlm.backbones.backbone import Backbone, Session
from mmlm.batch import IGNORE, Batch, Memory
from mmlm.errors import InputError
from mmlm.weights import Weights


class Seq2Seq(Backbone):
    """T5 and its kin (Flan-T5, UL2). Rows that hold several samples are taken apart, so none sees another.

    A sample's prompt, slots included, is what the encoder reads; all its supervised tokens are the decoder's one target.
    """

    def __init__(self, weights: Weights, vocabulary: int | None, *, dtype: Literal["fp32", "bf16"] = "fp32") -> None:
        """`vocabulary`: ids of the tokenizer without added ones (None: not known, as in a plan). `dtype` is how the LLM's
        weights are stored."""
        changes: dict[str, Any] = {"vocab_size": vocabulary} if weights.tiny and vocabulary else {}
        super().__init__(weights.transformers(AutoModelForSeq2SeqLM, **changes))
        if weights.config().get("tie_word_embeddings") is False:
            self._part_head()
        if dtype == "bf16":
            self.llm.to(torch.bfloat16)
        self._llm: Any = self.llm
        config: Any = self.llm.config
        self._start = int(config.decoder_start_token_id or 0)

    def _part_head(self) -> None:
        """Flan-T5 has a head of its own. transformers builds every T5 with one table for both, and parts them only where it
        loads files that differ: without this a system would have other parameters before loading than after it."""
        llm: Any = self.llm
        llm.config.tie_word_embeddings = False
        llm.all_tied_weights_keys.pop("lm_head.weight", None)
        if self.head.weight is self.embeddings.weight:
            self.head.weight = nn.Parameter(self.head.weight.detach().clone())

    @property
    def logit_scale(self) -> float:
        """T5 scales its states by 1 / sqrt(D) where input and output embedding are one table."""
        return float(self.width**-0.5) if getattr(self.llm.config, "scale_decoder_outputs", False) else 1.0

    def remember(self, memory: Memory | None) -> None:
        if memory is not None:
            raise InputError(
                "the seq2seq backbone takes tokens in slots only; set `into: slots`, or use a causal backbone"
            )

    def read(self, x: Float[Tensor, "B T D"], batch: Batch) -> tuple[Float[Tensor, "M D"], Int[Tensor, " M"]]:
        learn = batch.labels != IGNORE
        given, targets = [], []
        for row in range(len(x)):
            for segment in range(1, int(batch.segments[row].max()) + 1):
                here = batch.segments[row] == segment
                if bool((here & learn[row]).any()):
                    given.append(x[row][here & ~learn[row]])
                    targets.append(batch.labels[row][here & learn[row]])
        if not given:
            return x.new_zeros(0, self.width), batch.labels.new_zeros(0)
        lengths = torch.tensor([len(g) for g in given], device=x.device)
        target = pad_sequence(targets, batch_first=True, padding_value=IGNORE)
        said = torch.cat([target.new_full((len(target), 1), self._start), target[:, :-1]], 1).clamp(min=0)
        mask = torch.arange(int(lengths.max()), device=x.device)[None] < lengths[:, None]
        encoded = self._llm.get_encoder()(inputs_embeds=pad_sequence(given, batch_first=True), attention_mask=mask)
        states = self._llm.get_decoder()(
            inputs_embeds=self.embed(said),
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        return states[target != IGNORE], target[target != IGNORE]

    def start(self, x: Float[Tensor, "B T D"], batch: Batch, memory: Memory | None) -> Session:
        self.remember(memory)
        return _Seq2SeqSession(self, x, batch)


class _Seq2SeqSession(Session):
    def __init__(self, backbone: Seq2Seq, x: Float[Tensor, "B T D"], batch: Batch) -> None:
        llm: Any = backbone.llm
        self.backbone, self.decoder = backbone, llm.get_decoder()
        self.mask = batch.segments > 0
        # T5's position bias is relative, so padding on the left does not shift anything.
        self.encoded = llm.get_encoder()(inputs_embeds=x, attention_mask=self.mask).last_hidden_state
        self.cache = EncoderDecoderCache(DynamicCache(config=llm.config), DynamicCache(config=llm.config))
        self.advance(torch.full((len(x),), backbone._start, device=x.device))

    def advance(self, ids: Int[Tensor, " B"], x: Float[Tensor, "B D"] | None = None) -> None:
        out = self.decoder(
            inputs_embeds=self.backbone.embed(ids[:, None]) if x is None else x[:, None],
            encoder_hidden_states=self.encoded,
            encoder_attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.states = out.last_hidden_state[:, -1]

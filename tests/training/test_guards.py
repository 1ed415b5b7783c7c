"""What must hold while a stage trains, and what is said where it does not."""

from pathlib import Path

import pytest
import torch

from mmlm.batch import Batch
from mmlm.config import StageConfig, load
from mmlm.errors import InputError
from mmlm.training import guards
from mmlm.training.data import Bad

ROW = torch.zeros(1, 2, dtype=torch.long)
BATCH = Batch(ROW, ROW, ROW, ROW, samples=("a#1", "b#2"))


def stage(**changes: object) -> StageConfig:
    return load("llava-1.5-7b").stages[0].model_copy(update={"name": "align", **changes})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_names_the_samples(value: float) -> None:
    guards.finite(torch.tensor(3.0), stage(), 5, BATCH)
    with pytest.raises(
        InputError, match=r"stage 'align', step 5: the loss or its gradient is .*in the samples a#1, b#2"
    ):
        guards.finite(torch.tensor(value), stage(), 5, BATCH)


def test_bad_samples_are_borne_up_to_a_share_with_room_at_the_start() -> None:
    bad, listed = [Bad("x:3", "no such picture")], Path("run/quarantine.jsonl")
    some = stage(max_bad=0.1, batch=4)
    guards.few_bad(some, 0, {"samples": 0, "bad": 4}, bad, listed)
    guards.few_bad(some, 9, {"samples": 90, "bad": 10}, bad, listed)
    for counts in ({"samples": 0, "bad": 5}, {"samples": 90, "bad": 11}):
        with pytest.raises(
            InputError, match=r"more than max_bad \(0.1\) allows. The last: no such picture. .*quarantine"
        ):
            guards.few_bad(some, 9, counts, bad, listed)


def test_a_frozen_part_that_moved_is_a_fault() -> None:
    guards.unchanged(stage(), {"a": "1"}, {"a": "1", "b": "2"})
    with pytest.raises(RuntimeError, match="stage 'align' changed what it declares frozen: a, c"):
        guards.unchanged(stage(), {"a": "1", "b": "2", "c": "3"}, {"a": "x", "b": "2"})

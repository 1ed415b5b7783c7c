"""Integrations room: what lmms-eval finds in its entry-point group `lmms_eval.models`. It loads this for every model of its
own too, so that nothing heavy is imported here."""

from typing import Any


def manifest() -> Any:
    """The model `mmlm`: asked by messages ("chat"), or by a text with pictures ("simple") with `--force_simple`, which
    ranked choices need."""
    from lmms_eval.models.registry_v2 import ModelManifest

    place = "mmlm.integrations.lmms_eval_model"
    return ModelManifest("mmlm", simple_class_path=f"{place}.Simple", chat_class_path=f"{place}.Chat")

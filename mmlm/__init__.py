"""Assemble large multimodal models from configs: encoder, input aligner, LLM backbone, output aligner, decoder."""

from pathlib import Path

__version__ = "0.1.0"

# The part folders lie beside this one in a checkout, and inside it in a wheel.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "encoders" / "__init__.py").is_file():
    __path__.append(str(_root))

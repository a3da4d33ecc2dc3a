"""transformers: architectures of every kind, built small from configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.zoo.configurations import Inputs, Row
from benchmarks.zoo.entry import Built, Entry
from benchmarks.zoo.transformers_decoders import DECODERS, SEQUENCES
from benchmarks.zoo.transformers_dense import DENSE
from benchmarks.zoo.transformers_media import AUDIO, MULTIMODAL, SERIES
from benchmarks.zoo.transformers_text import ENCODERS
from benchmarks.zoo.transformers_vision import VIDEO, VISION

ROWS: tuple[Row, ...] = (
    *VISION,
    *DENSE,
    *VIDEO,
    *AUDIO,
    *ENCODERS,
    *DECODERS,
    *SEQUENCES,
    *MULTIMODAL,
    *SERIES,
)


def _configured(options: Mapping[str, Any]) -> dict[str, Any]:
    """Turn nested dictionaries that name a model type into configurations."""
    from transformers import AutoConfig

    made: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, dict) and "model_type" in value:
            nested = _configured({name: option for name, option in value.items() if name != "model_type"})
            made[key] = AutoConfig.for_model(value["model_type"], **nested)
        else:
            made[key] = dict(value) if isinstance(value, dict) else value
    return made


def _factory(name: str, options: dict[str, Any], inputs: Inputs) -> Callable[[], Built]:
    def build() -> Built:
        import transformers

        kind = getattr(transformers, name)
        return kind(kind.config_class(**_configured(options))), (), inputs()

    return build


def entries() -> Iterator[Entry]:
    """One entry per row, named after its family."""
    seen: set[str] = set()
    for family, name, options, inputs in ROWS:
        label = f"transformers/{family}" if family not in seen else f"transformers/{family}-{name}"
        seen.add(family)
        yield Entry(label, "transformers", family, _factory(name, options, inputs))

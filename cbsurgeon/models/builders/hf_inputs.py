"""Example inputs for a transformers model, from its configuration and the parameters of its ``forward``.

No model class is named here. The *name* of a parameter gives its modality (``pixel_values``, ``input_ids`` ...: the
library uses the same names everywhere), and the configuration gives the sizes. If several sets of inputs are possible,
the first one that the model accepts is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from cbsurgeon.models import inputs
from cbsurgeon.models.inputs import Spec
from cbsurgeon.models.seed import SEED, fixed_seed

TOKENS = 16
"""Length of an example text."""
SAMPLES = 16000
"""Length of an example waveform: one second at 16 kHz, the rate the library's speech models take."""
FRAMES = 128
"""Length of example spectral features where the configuration fixes none."""
IMAGE = 224
"""Edge of an example image where the configuration fixes none."""

Inputs = dict[str, torch.Tensor]


def find(module: nn.Module, batch: int) -> tuple[Inputs, str]:
    """Return keyword inputs that ``module`` accepts, or no inputs and the reason.

    The module is run (once per candidate, on one sample) only if there is more than one candidate.
    """
    choices = list(_candidates(module, batch))
    if len(choices) == 1:
        return choices[0], ""
    why = "none of its parameters is an image, a text or a sound"
    for choice in choices:
        why = _refusal(module, choice)
        if not why:
            return choice, ""
    return {}, why


def _candidates(module: Any, batch: int) -> Iterator[Inputs]:
    names = list(inspect.signature(module.forward).parameters)
    makers = {name: maker for name, maker in _MAKERS.items() if name in names}
    main = module.main_input_name
    if main in makers:
        first = [main, *(["attention_mask"] if main == "input_ids" and "attention_mask" in makers else [])]
        # Masks and decoder inputs are not separate modalities.
        others = [name for name in makers if name not in (*first, "attention_mask", *_DECODER)]
        decoder = [name for name in _DECODER if name in makers]
        masked = ["attention_mask"] if "input_ids" in others and "attention_mask" in makers else []
        sets = [first, first + decoder, first + others + masked, first + others + masked + decoder]
        for chosen in dict.fromkeys(tuple(dict.fromkeys(each)) for each in sets):
            yield {name: makers[name](module, batch) for name in chosen}
    own = type(module).__dict__.get("dummy_inputs") if main not in makers else None
    if own is not None:
        given: Mapping[str, Any] = module.dummy_inputs
        yield {
            name: value[:1].repeat(batch, *[1] * (value.dim() - 1))
            for name, value in given.items()
            if isinstance(value, torch.Tensor) and name in names
        }


def _refusal(module: nn.Module, choice: Inputs) -> str:
    """Why the module does not run on these inputs; empty if it does."""
    try:
        with torch.no_grad(), fixed_seed():
            module(**{name: value[:1] for name, value in choice.items()})
    except Exception as error:
        # The model's own checks may raise anything; the message of the last candidate is shown to the user.
        return f"with {', '.join(choice)}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def _pixels(module: Any, batch: int) -> torch.Tensor:
    config = module.config
    channels = int(_first(config, ("num_channels", "in_channels", "in_chans"), 3))
    height, width = _edges(_first(config, ("image_size", "img_size", "input_size"), IMAGE))
    frames = _first(config, ("num_frames",), None)
    shape = (channels, height, width) if not isinstance(frames, int) else (frames, channels, height, width)
    return inputs.image(batch, *shape)


def _text(module: Any, batch: int) -> torch.Tensor:
    config = module.config.get_text_config()
    vocabulary = int(_first(config, ("vocab_size",), 2))
    length = min(TOKENS, int(_first(config, ("max_position_embeddings",), TOKENS)))
    special = set(_special(module.config)) | set(_special(config))
    ordinary = torch.tensor([token for token in range(min(vocabulary, 1000)) if token not in special] or [0])
    generator = torch.Generator().manual_seed(SEED)
    text = ordinary[torch.randint(0, len(ordinary), (batch, length), generator=generator)]
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < vocabulary:
        text[:, -1] = end  # some classifiers read the representation at the one end token
    return text


def _mask(module: Any, batch: int) -> torch.Tensor:
    return torch.ones_like(_text(module, batch))


def _wave(module: Any, batch: int) -> torch.Tensor:
    bins, length = _first(module.config, ("num_mel_bins",), None), _first(module.config, ("max_length",), None)
    if isinstance(bins, int) and isinstance(length, int) and length > bins:
        return inputs.image(batch, length, bins)  # a spectrogram, although the parameter is named after a waveform
    return inputs.image(batch, SAMPLES)


def _features(module: Any, batch: int) -> torch.Tensor:
    bins = int(_first(module.config, ("num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel"), 80))
    positions = getattr(module.config, "max_source_positions", None)
    if isinstance(positions, int) and hasattr(module.config, "num_mel_bins"):
        return inputs.tensor(batch, Spec((bins, 2 * positions)))
    return inputs.image(batch, FRAMES, bins)


def _no_patches(module: Any, batch: int) -> torch.Tensor:
    height, width = _edges(_first(module.config, ("image_size",), IMAGE))
    patch = _edges(_first(module.config, ("patch_size",), 16))
    tubelet, frames = _first(module.config, ("tubelet_size",), 1), _first(module.config, ("num_frames",), 1)
    count = (height // patch[0]) * (width // patch[1]) * (int(frames) // int(tubelet))
    chosen = torch.zeros(batch, count, dtype=torch.bool)
    chosen[:, : count // 2] = True  # the same number in every sample, as reconstruction heads reshape by it
    return chosen


_DECODER = ("decoder_input_ids", "decoder_input_values", "bool_masked_pos")
_MAKERS: dict[str, Callable[[Any, int], torch.Tensor]] = {
    "pixel_values": _pixels,
    "pixel_values_videos": _pixels,
    "input_ids": _text,
    "attention_mask": _mask,
    "input_values": _wave,
    "input_features": _features,
    "decoder_input_ids": _text,
    "bool_masked_pos": _no_patches,
}


def _first(config: Any, names: tuple[str, ...], default: Any) -> Any:
    """The first of ``names`` that the configuration sets, or one nested in it; outer configurations come first."""
    for each in nested(config):
        for name in names:
            value = getattr(each, name, None)
            if value is not None:
                return value
    return default


def nested(config: Any) -> Iterator[Any]:
    """Yield a configuration and those nested in it, breadth first."""
    kind, pending, seen = _configuration(), [config], set()
    while pending:
        each = pending.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending += [value for value in vars(each).values() if isinstance(value, kind)]


def _configuration() -> type:
    from transformers import PretrainedConfig

    return PretrainedConfig  # type: ignore[no-any-return]


def _special(config: Any) -> Iterator[int]:
    for name, value in vars(config).items():
        if name.endswith(("_token_id", "_token_index")):
            yield from (value if isinstance(value, list) else [value])


def _edges(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    if isinstance(size, list | tuple):
        return int(size[-2]), int(size[-1])
    return int(size), int(size)

"""Find the preprocessing that a model's library defines for it: timm's data config, the transforms of torchvision's
weights, or transformers' image processor.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy
from torch import Tensor, nn

from cbsurgeon.errors import CBSurgeonError
from cbsurgeon.models.files import metadata
from cbsurgeon.models.imaging import to_input
from cbsurgeon.models.model import Model
from cbsurgeon.models.preprocessing import Preprocessing, cropped, resized
from cbsurgeon.vocabulary import INTERPOLATIONS

_LARGEST = 1 << 20
_FILE = "preprocessor_config.json"
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_PROBES = ((67, 100), (403, 300))
"""Heights and widths of the images on which a description is compared with the processor: smaller and larger than the
usual inputs, landscape and portrait, with odd differences.
"""
_CLOSE = 1e-5
"""Largest difference between the results of a description and of the processor that it describes. Rounding of the same
arithmetic in another order stays below it; one of 255 levels is a hundred times as much.
"""


def preprocessing_of(model: Model) -> Preprocessing | None:
    """Return the preprocessing that the model states, or that its library defines; ``None`` if neither does.

    timm's modules have a data config and transformers' a configuration; a torchvision module is recognised by its
    reference. The size is that of the model's example input.
    """
    if model.preprocessing is not None:
        return model.preprocessing
    image = _image_input(model)
    if image is None or model.module is None:
        return None
    channels, size = image.shape[1], (int(image.shape[2]), int(image.shape[3]))
    found = _from_library(model.module, model.provenance.architecture or "", model.provenance.reference, size, channels)
    return None if found is None or len(found.mean) != channels else found


def of_training(model: Model, arguments: Mapping[str, Any]) -> Preprocessing | None:
    """Return the preprocessing that timm's training script used with some arguments; ``None`` if it is not known.

    Args:
        model: a model of timm.
        arguments: those of ``mean``, ``std``, ``crop_pct`` and ``interpolation`` that were given to the script.
    """
    image = _image_input(model)
    configuration: Any = getattr(model.module, "pretrained_cfg", None)
    if image is None or model.module is None or not isinstance(configuration, Mapping):
        return None
    channels, height, width = (int(size) for size in image.shape[1:])
    usable = {name: value for name, value in arguments.items() if name != "interpolation" or value in INTERPOLATIONS}
    try:
        found = _timm(model.module, configuration, (channels, height, width), usable)
    except AssertionError:  # timm refuses a mean or deviation for another number of channels
        return None
    return found and dataclasses.replace(
        found, source=f"{found.source}, changed by {', '.join(usable)} of the training"
    )


def with_preprocessing(model: Model) -> Model:
    """Return the model with the preprocessing that :func:`preprocessing_of` finds."""
    return dataclasses.replace(model, preprocessing=preprocessing_of(model))


def _image_input(model: Model) -> Tensor | None:
    """The only example input that is a batch of images, ``[batch, channels, height, width]``, or ``None``."""
    values = [*model.example_inputs, *model.example_kwargs.values()]
    images = [value for value in values if isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point()]
    return images[0] if len(images) == 1 and images[0].shape[1] in (1, 3) else None


def _from_library(
    module: nn.Module, architecture: str, reference: str, size: tuple[int, int], channels: int
) -> Preprocessing | None:
    if architecture.startswith("torchvision:"):
        return _torchvision(architecture.removeprefix("torchvision:"), size)
    configuration: Any = getattr(module, "pretrained_cfg", None)
    if isinstance(configuration, Mapping) and configuration.get("mean"):
        return _timm(module, configuration, (channels, *size))
    if hasattr(module, "main_input_name") and hasattr(module, "config"):
        folder = Path(reference.removeprefix("hf:")) if reference.startswith("hf:") else None
        return _transformers(module, folder if folder is not None and folder.is_dir() else None, size)
    return None


def _timm(
    module: nn.Module,
    configuration: Mapping[str, Any],
    shape: tuple[int, int, int],
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> Preprocessing | None:
    """timm's data config, as ``create_transform`` reads it; with arguments of its scripts."""
    from timm.data import resolve_data_config

    config = resolve_data_config({**arguments, "input_size": shape}, model=module)
    name = configuration.get("architecture") or type(module).__name__
    modes = {"center": "shortest", "squash": "squash", "border": "pad"}
    if config["crop_mode"] not in modes or len(config["mean"]) != shape[0]:
        return None
    return cropped(
        shape[1:],
        config["crop_pct"],
        resize=modes[config["crop_mode"]],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        channels="grey" if shape[0] == 1 else "rgb",
        source=f"timm data config of {name}",
    )


def _torchvision(name: str, size: tuple[int, int]) -> Preprocessing | None:
    """The transforms of the model's default weights, if they are those of a classifier."""
    import torchvision.models
    from torchvision.transforms._presets import ImageClassification

    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError):
        return None
    made = weights.transforms()
    if not isinstance(made, ImageClassification) or len(made.crop_size) != 1 or len(made.resize_size) != 1:
        return None
    edge, scaled = made.crop_size[0], made.resize_size[0]
    found = Preprocessing(
        size=(edge, edge),
        resize="shortest",
        resize_to=(scaled, scaled),
        interpolation=made.interpolation.value,
        mean=tuple(made.mean),
        std=tuple(made.std),
        source=f"torchvision {weights}",
    )
    return resized(found, size)


def _transformers(module: Any, folder: Path | None, size: tuple[int, int]) -> Preprocessing | None:
    """The image processor of the model's folder, or the defaults of its class, if a test shows that it only resizes,
    crops and normalises.
    """
    values = _stored(folder)
    kind = _processor_class(module, values)
    if kind is None:
        return None
    ignored = ("image_processor_type", "feature_extractor_type", "processor_class", "auto_map")
    try:
        processor = kind(**{key: value for key, value in values.items() if key not in ignored})
        found = _read(processor, kind)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, CBSurgeonError):
        # A processor that this description does not cover; the user gives flags.
        return None
    if found is None:
        return None
    if values:
        return dataclasses.replace(found, source=f"{folder}/{_FILE}")
    return resized(found, size)


def _stored(folder: Path | None) -> Mapping[str, Any]:
    path = None if folder is None else folder / _FILE
    if path is None or not path.is_file() or path.stat().st_size > _LARGEST:
        return {}
    document = metadata.parse_json(path.read_bytes(), str(path), _LARGEST)
    return document if isinstance(document, Mapping) else {}


def _processor_class(module: Any, values: Mapping[str, Any]) -> Any:
    import transformers
    from transformers.image_processing_backends import TorchvisionBackend
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    default = (IMAGE_PROCESSOR_MAPPING_NAMES.get(module.config.model_type) or {}).get("torchvision")
    for name in (values.get("image_processor_type"), default):
        found = getattr(transformers, name.removesuffix("Fast"), None) if isinstance(name, str) else None
        if inspect.isclass(found) and issubclass(found, TorchvisionBackend):
            return found
    return None


def _read(processor: Any, kind: Any) -> Preprocessing | None:
    """A processor's attributes as a :class:`Preprocessing`; ``None`` if the processor does anything else."""
    given = {key: value for key, value in dict(processor.size or {}).items() if value}
    if not getattr(processor, "do_resize", False) or len(given) not in (1, 2):
        return None
    edge, share = given.get("shortest_edge"), getattr(processor, "crop_pct", None)
    if edge is None:
        resize, scaled = "squash", (given["height"], given["width"])
    elif share and edge >= 384:  # ConvNeXt's rule: from 384 on the image is squashed
        resize, scaled = "squash", (edge, edge)
    else:
        resize, scaled = "shortest", (int(edge / (share or 1)),) * 2
    crop = (edge, edge) if edge and share else scaled
    if getattr(processor, "do_center_crop", False):
        crop = (processor.crop_size["height"], processor.crop_size["width"])
    numbers = bool(processor.do_normalize)
    found = Preprocessing(
        size=crop,
        resize=resize,
        resize_to=scaled,
        interpolation=_RESAMPLING[int(processor.resample)],
        mean=tuple(processor.image_mean) if numbers else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if numbers else (1.0, 1.0, 1.0),
        channels="bgr" if getattr(processor, "do_flip_channel_order", False) else "rgb",
        resampler="torch",
        source=f"transformers {kind.__name__}",
    )
    return found if all(_agrees(processor, found, shape) for shape in _PROBES) else None


def _agrees(processor: Any, found: Preprocessing, shape: tuple[int, int]) -> bool:
    """Whether the description gives the same result as the processor on an image of noise."""
    from PIL import Image

    pixels = numpy.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=numpy.uint8)
    picture = Image.fromarray(pixels)
    theirs = processor(images=picture, return_tensors="pt")["pixel_values"][0]
    ours = to_input(picture, found)
    return theirs.shape == ours.shape and float((theirs - ours).abs().max()) <= _CLOSE

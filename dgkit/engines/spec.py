"""Names, order, dtypes and symbolic shapes of the inputs and outputs of every network.

A shape consists of symbols such as ``"batch"``; tensors of one call that share a symbol share that size. ``float``
means any floating-point dtype, because a runner casts to its own precision.
"""

from dataclasses import dataclass, replace

from dgkit.errors import EngineError, UsageError


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: ``shape`` holds one symbol per axis, ``dtype`` is ``"float"`` or ``"int64"``."""

    name: str
    shape: tuple[str, ...]
    dtype: str = "float"


@dataclass(frozen=True)
class NetworkSpec:
    """One network: the order of ``inputs`` is the order of the module's positional arguments."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


_LATENTS = ("batch", "latent_channels", "height", "width")
_TEXT = ("batch", "length", "text_width")
_FEATURES = ("batch", "features", "height", "width")
_IMAGE = ("batch", "rgb", "image_height", "image_width")
_LABEL = ("batch", "classes", "image_height", "image_width")

NETWORKS = {
    spec.name: spec
    for spec in (
        NetworkSpec(
            "text_encoder",
            (TensorSpec("input_ids", ("batch", "length"), "int64"),),
            (TensorSpec("text", _TEXT),),
        ),
        NetworkSpec("condition", (TensorSpec("label", _LABEL),), (TensorSpec("condition", _FEATURES),)),
        NetworkSpec(
            "denoiser",
            (
                TensorSpec("latents", _LATENTS),
                TensorSpec("timestep", ("batch",), "int64"),
                TensorSpec("text", _TEXT),
                TensorSpec("condition", _FEATURES),
                TensorSpec("control_scale", ("batch",)),
            ),
            (TensorSpec("prediction", _LATENTS),),
        ),
        NetworkSpec(
            "vae_encoder",
            (TensorSpec("image", _IMAGE),),
            (TensorSpec("mean", _LATENTS), TensorSpec("logvar", _LATENTS)),
        ),
        NetworkSpec("vae_decoder", (TensorSpec("latents", _LATENTS),), (TensorSpec("image", _IMAGE),)),
    )
}

# SDXL has a second text encoder, whose pooled output and the sizes of the image are further inputs of the denoiser.
ADDED = (TensorSpec("text_embeds", ("batch", "pooled_width")), TensorSpec("time_ids", ("batch", "time_values")))
_ENCODER, _DENOISER = NETWORKS["text_encoder"], NETWORKS["denoiser"]
SDXL_NETWORKS = {
    **NETWORKS,
    "text_encoder": replace(
        _ENCODER,
        inputs=(*_ENCODER.inputs, TensorSpec("input_ids_2", ("batch", "length"), "int64")),
        outputs=(*_ENCODER.outputs, ADDED[0]),
    ),
    "denoiser": replace(_DENOISER, inputs=(*_DENOISER.inputs, *ADDED)),
}
TIME_VALUES = 6  # height and width of the original, top and left of the crop, height and width of the result

# Not part of a generator's model folder, so not in NETWORKS. The logits have the size of the input.
SEGMENTER = NetworkSpec("segmenter", (TensorSpec("image", _IMAGE),), (TensorSpec("logits", _LABEL),))

# Symbols whose size the model determines; all others may change from call to call.
FIXED_SYMBOLS = frozenset(
    {"latent_channels", "text_width", "features", "rgb", "classes", "length", "pooled_width", "time_values"}
)


def network_spec(name: str) -> NetworkSpec:
    """Return the spec called ``name``. Raises UsageError for an unknown network."""
    if name not in NETWORKS:
        raise UsageError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}", "use --networks all")
    return NETWORKS[name]


def bind(spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, int], owner: str) -> None:
    """Add the sizes of ``shape`` to ``sizes``. Raises EngineError if the rank or an already known size differs."""
    if len(shape) != len(spec.shape):
        raise EngineError(f"{owner}: {spec.name} has shape {list(shape)}; expected [{', '.join(spec.shape)}]")
    for symbol, size in zip(spec.shape, shape, strict=True):
        known = sizes.setdefault(symbol, size)
        if known != size:
            raise EngineError(f"{owner}: {spec.name} has {symbol} {size} in shape {list(shape)}; expected {known}")

"""Maps the names and shapes of published weights to this package's (`blocks.0.norm1.scale`).

A layout is recognised by a name that it alone has. The CNNs have torchvision's names and need no
table; the ViT's tables follow
- torchvision/models/vision_transformer.py,
- timm/models/vision_transformer.py,
- transformers/models/vit (the names of files on the Hub),
- google-research/vision_transformer, vit_jax/models_vit.py.
"""

import dataclasses
import re

import numpy as np

from dtvit_jax.weights.files import Arrays

_Names = dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names and shapes of one publisher.

    Attributes:
        name: the publisher, for messages.
        marker: pattern of a name that this layout alone has.
        heads: pattern of the classifier's names, which are not the encoder's.
        names: our name to the publisher's, or to three (query, key, value) that are concatenated;
            `#` is the block's number. Empty for CNNs and our own files.
        renames: patterns and replacements that turn older names into those of `names`.
        options: the model's options that reproduce the publisher's computation.
        prefix: of our own files: what precedes our name; shapes are ours.
    """

    name: str
    marker: str
    heads: str
    names: _Names = dataclasses.field(default_factory=dict)
    renames: tuple[tuple[str, str], ...] = ()
    options: dict[str, str | float] = dataclasses.field(default_factory=dict)
    prefix: str | None = None

    def sources(self, ours: str) -> tuple[str, ...]:
        """The publisher's names of our parameter `ours`."""
        if self.prefix is not None:
            return (self.prefix + ours,)
        if not self.names:
            return (_cnn_name(ours),)
        block = re.search(r"(?<=^blocks\.)\d+", ours)
        parts = self.names[re.sub(r"^blocks\.\d+", "blocks.#", ours)]
        return tuple(part.replace("#", block[0] if block else "#") for part in parts)

    def clean(self, arrays: Arrays) -> Arrays:
        """The encoder's arrays: older names renamed, without heads and batch counters."""
        kept = {}
        for name, array in arrays.items():
            for pattern, replacement in self.renames:
                name = re.sub(pattern, replacement, name)
            if not (re.match(self.heads, name) or name.endswith("num_batches_tracked")):
                kept[name] = array
        return kept

    def to_ours(self, ours: str, parts: list[np.ndarray]) -> np.ndarray:
        """Our array from the publisher's: kernels become [in, out] or [rows, columns, in, out]."""
        if self.prefix is not None:
            return parts[0]
        convert = _from_google if self.name == "google" else _from_torch
        converted = [convert(ours, part) for part in parts]
        return converted[0] if len(converted) == 1 else np.concatenate(converted, axis=-1)

    def from_ours(self, ours: str, array: np.ndarray, patch: int) -> np.ndarray:
        """The publisher's array from ours (not Google's or Hugging Face's, which split QKV).

        patch: a patch's side in pixels, for a ViT.
        """
        if self.prefix is not None:
            return array
        if ours == "patch_embedding.kernel":
            array = array.reshape(patch, patch, -1, array.shape[-1])
        if ours.endswith("kernel"):
            array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
        return np.ascontiguousarray(array)


def _cnn_name(ours: str) -> str:
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    module, _, leaf = re.sub(r"^convolutions\.", "features.", ours).rpartition(".")
    return f"{module}.{leaves.get(leaf, leaf)}"


def _from_torch(ours: str, array: np.ndarray) -> np.ndarray:
    """Transposes kernels: torch's Linear is [out, in], Conv2d [out, in, rows, columns]."""
    if ours.endswith("kernel"):
        return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)
    return array


def _from_google(ours: str, array: np.ndarray) -> np.ndarray:
    """Joins heads and head width: kernels are [in, heads, D], that of `out` [heads, D, out]."""
    if ours.endswith("attention.qkv.kernel"):
        return array.reshape(len(array), -1)
    if ours.endswith("attention.out.kernel"):
        return array.reshape(-1, array.shape[-1])
    if ours.endswith("attention.qkv.bias"):
        return array.reshape(-1)
    return array


_IN_BLOCK = ("norm1", "attention.qkv", "attention.out", "norm2", "mlp.hidden", "mlp.out")


def _vit(outside: tuple[str, ...], block: str, in_block: tuple[str, ...]) -> _Names:
    """The table of a ViT's parameters: kernel or scale, and bias, of each module.

    Args:
        outside: the publisher's names of class token, position embedding, patch embedding and last
            norm.
        block: what precedes the name of a block's module.
        in_block: the publisher's names of _IN_BLOCK; query, key and value may be three.
    """
    class_token, position, patch, norm = outside
    names: _Names = {"class_token": (class_token,), "position_embedding": (position,)}
    modules = {"patch_embedding": [patch], "norm": [norm]}
    for ours, theirs in zip(_IN_BLOCK, in_block, strict=True):
        modules[f"blocks.#.{ours}"] = [block + part for part in theirs.split()]
    dot = block[-1]  # Flax writes a slash
    weight, scale = ("kernel", "scale") if dot == "/" else ("weight", "weight")
    for ours, parts in modules.items():
        main, leaf = ("scale", scale) if "norm" in ours else ("kernel", weight)
        for mine, their in ((main, leaf), ("bias", "bias")):
            # torchvision's fused projection is `in_proj_weight`, without a dot
            names[f"{ours}.{mine}"] = tuple(
                part + ("_" if part.endswith("in_proj") else dot) + their for part in parts
            )
    return names


TORCHVISION = Layout(
    "torchvision",
    marker=r"conv_proj\.weight$",
    heads=r"heads\.",
    # published files have the names of an older MLP, which torchvision renames when it loads them
    renames=((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
    names=_vit(
        ("class_token", "encoder.pos_embedding", "conv_proj", "encoder.ln"),
        "encoder.layers.encoder_layer_#.",
        ("ln_1", "self_attention.in_proj", "self_attention.out_proj", "ln_2", "mlp.0", "mlp.3"),
    ),
    options={"gelu": "exact", "norm_epsilon": 1e-6},
)

TIMM = Layout(
    "timm",
    marker=r"patch_embed\.proj\.weight$",
    heads=r"(head|pre_logits)\.",
    names=_vit(
        ("cls_token", "pos_embed", "patch_embed.proj", "norm"),
        "blocks.#.",
        ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"),
    ),
    options={"gelu": "exact", "norm_epsilon": 1e-6},
)

HUGGING_FACE = Layout(
    "Hugging Face",
    marker=r"(vit\.)?embeddings\.patch_embeddings\.projection\.weight$",
    heads=r"(classifier|pooler)\.",
    renames=((r"^vit\.", ""),),
    names=_vit(
        (
            "embeddings.cls_token",
            "embeddings.position_embeddings",
            "embeddings.patch_embeddings.projection",
            "layernorm",
        ),
        "encoder.layer.#.",
        (
            "layernorm_before",
            "attention.attention.query attention.attention.key attention.attention.value",
            "attention.output.dense",
            "layernorm_after",
            "intermediate.dense",
            "output.dense",
        ),
    ),
    options={"gelu": "exact", "norm_epsilon": 1e-12},
)

GOOGLE = Layout(
    "google",
    marker=r"Transformer/posembed_input/pos_embedding$",
    heads=r"(head|pre_logits)/",
    names=_vit(
        (
            "cls",
            "Transformer/posembed_input/pos_embedding",
            "embedding",
            "Transformer/encoder_norm",
        ),
        "Transformer/encoderblock_#/",
        (
            "LayerNorm_0",
            " ".join(f"MultiHeadDotProductAttention_1/{x}" for x in ("query", "key", "value")),
            "MultiHeadDotProductAttention_1/out",
            "LayerNorm_2",
            "MlpBlock_3/Dense_0",
            "MlpBlock_3/Dense_1",
        ),
    ),
    options={"gelu": "tanh", "norm_epsilon": 1e-6},
)

# torchvision's CNNs. SqueezeNet, too, has `features.0`: it comes before AlexNet and VGG.
RESNET = Layout("torchvision", marker=r"conv1\.weight$", heads=r"fc\.")
DENSENET = Layout(
    "torchvision",
    marker=r"features\.conv0\.weight$",
    heads=r"classifier\.",
    # the published file has `denselayer1.norm.1`, from when torch allowed a dot in a name
    renames=((r"(denselayer\d+)\.(norm|conv)\.([12])\.", r"\1.\2\3."),),
)
SQUEEZENET = Layout("torchvision", marker=r"features\.3\.squeeze\.weight$", heads=r"classifier\.")
ALEXNET_VGG = Layout("torchvision", marker=r"features\.0\.weight$", heads=r"classifier\.6\.")

OWN = Layout(
    "DTViT-JAX",
    marker=r"hemorrhage\.out\.kernel$",
    heads=r"(hemorrhage|location)\.",
    prefix="encoder.",
)
OWN_HEADS = dataclasses.replace(OWN, heads=r"encoder\.", prefix="")
"""The heads of the same files."""

LAYOUTS = (OWN, TORCHVISION, TIMM, HUGGING_FACE, GOOGLE, RESNET, DENSENET, SQUEEZENET, ALEXNET_VGG)


def recognise(arrays: Arrays) -> Layout | None:
    """The layout of a file's names; None where it is none of LAYOUTS."""
    for layout in LAYOUTS:
        if any(re.match(layout.marker, name) for name in arrays):
            return layout
    return None

"""Makes tests/references/*.npz: the reference implementations' answers to random weights.

    python -m tests.helpers.make_references

Takes the `parity` extra: torch, torchvision, timm, transformers.

Each file holds the names and shapes of a state dict, as the publisher's own code saves it, and
for `pictures(side)`: the embedding (a CNN's stem), the first block's output (of a CNN's maps the
first 8 channels) and the logits.
"""

import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file

from tests.helpers import ROOT
from tests.helpers.reference_models import draw, pictures

FOLDER = ROOT / "tests/references"
SIZE = {"width": 64, "depth": 2, "heads": 2, "mlp": 128, "patch": 16}
CLASSES = 10


class Reference(NamedTuple):
    """A publisher's model: what it saves, and its answers with `weights` loaded."""

    model: str
    side: int
    state: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]


def import_torchvision() -> Any:
    """torchvision, also where its compiled operators don't fit the torch at hand.

    The models need none of them; importing it asks only that two are known.
    """
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision.kept = library  # its operators live as long as it does
    return torchvision


def answers(model: torch.nn.Module, side: int, layers: dict[str, str]) -> dict[str, np.ndarray]:
    """Outputs of the named layers, and the logits, channels last."""
    found: dict[str, torch.Tensor] = {}
    for label, name in layers.items():

        def keep(module: Any, inputs: Any, output: Any, label: str = label) -> None:
            found[label] = output[0] if isinstance(output, tuple) else output

        model.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        output = model.eval()(torch.from_numpy(pictures(side)).permute(0, 3, 1, 2))
    found["logits"] = output if isinstance(output, torch.Tensor) else output.logits
    arrays = {label: tensor.detach().numpy() for label, tensor in found.items()}
    return {k: v.transpose(0, 2, 3, 1) if v.ndim == 4 else v for k, v in arrays.items()}


def fill(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Puts random weights in; returns them under the model's own names."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = draw(list(shapes), list(shapes.values()))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return state


def torchvision_vit(side: int = 48) -> Reference:
    vit = import_torchvision().models.VisionTransformer(
        side, SIZE["patch"], SIZE["depth"], SIZE["heads"], SIZE["width"], SIZE["mlp"],
        num_classes=CLASSES,
    )  # fmt: skip
    state = fill(vit)
    layers = {"embedding": "encoder.dropout", "block": "encoder.layers.encoder_layer_0"}
    return Reference("vit_nano16", side, state, answers(vit, side, layers))


def make_timm(side: int, act: str = "gelu", **options: Any) -> torch.nn.Module:
    import_torchvision()
    import timm

    return timm.models.VisionTransformer(
        img_size=side,
        patch_size=SIZE["patch"],
        embed_dim=SIZE["width"],
        depth=SIZE["depth"],
        num_heads=SIZE["heads"],
        mlp_ratio=SIZE["mlp"] / SIZE["width"],
        num_classes=CLASSES,
        act_layer=act,
        **options,
    )


TIMM_LAYERS = {"embedding": "pos_drop", "block": "blocks.0"}


def timm_vit(side: int = 48) -> Reference:
    vit = make_timm(side)
    state = fill(vit)
    return Reference("vit_nano16", side, state, answers(vit, side, TIMM_LAYERS))


def hugging_face_vit(side: int = 48) -> Reference:
    import_torchvision()
    from safetensors.numpy import load_file
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=SIZE["width"],
        num_hidden_layers=SIZE["depth"],
        num_attention_heads=SIZE["heads"],
        intermediate_size=SIZE["mlp"],
        image_size=side,
        patch_size=SIZE["patch"],
        num_labels=CLASSES,
    )
    assert config.layer_norm_eps == 1e-12
    vit = ViTForImageClassification(config)
    fill(vit)
    with tempfile.TemporaryDirectory() as folder:  # the names in a file differ from the model's
        vit.save_pretrained(folder)
        state = load_file(Path(folder) / "model.safetensors")
        shapes = [array.shape for array in state.values()]
        state = draw(list(state), shapes)
        save_file(state, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        vit = ViTForImageClassification.from_pretrained(folder)
    block = next(n for n, _ in vit.named_modules() if n.endswith(("layer.0", "layers.0")))
    layers = {"embedding": "vit.embeddings", "block": block}
    return Reference("vit_nano16", side, state, answers(vit, side, layers))


CNNS = {
    "resnet18": {"stem": "maxpool", "block": "layer1"},
    "resnet34": {"stem": "maxpool", "block": "layer1"},
    "resnet50": {"stem": "maxpool", "block": "layer1"},
    "alexnet": {"stem": "features.2", "block": "features.5"},
    "squeezenet1_0": {"stem": "features.2", "block": "features.3"},
    "squeezenet1_1": {"stem": "features.2", "block": "features.3"},
    "densenet121": {"stem": "features.pool0", "block": "features.denseblock1"},
    "vgg16": {"stem": "features.4", "block": "features.9"},
}
"""torchvision's CNNs and where their answers are taken."""


def make_cnn(name: str) -> torch.nn.Module:
    options = {"init_weights": False} if name == "vgg16" else {}  # it would take long
    return import_torchvision().models.get_model(name, num_classes=CLASSES, **options)


def torchvision_cnn(name: str, side: int = 64) -> Reference:
    cnn = make_cnn(name)
    state = fill(cnn)
    return Reference(name, side, state, answers(cnn, side, CNNS[name]))


def google_names(side: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes as in Google's `.npz` (vit_jax/models_vit.py)."""
    width, heads, mlp, patch = (SIZE[k] for k in ("width", "heads", "mlp", "patch"))
    names: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, width),
        "embedding/kernel": (patch, patch, 3, width),
        "embedding/bias": (width,),
        "Transformer/posembed_input/pos_embedding": (1, (side // patch) ** 2 + 1, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, CLASSES),
        "head/bias": (CLASSES,),
    }
    for i in range(SIZE["depth"]):
        block = f"Transformer/encoderblock_{i}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            names |= {f"{block}/{norm}/{leaf}": (width,) for leaf in ("scale", "bias")}
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            names[f"{attention}/{part}/kernel"] = (width, heads, width // heads)
            names[f"{attention}/{part}/bias"] = (heads, width // heads)
        names[f"{attention}/out/kernel"] = (heads, width // heads, width)
        names[f"{attention}/out/bias"] = (width,)
        names[f"{block}/MlpBlock_3/Dense_0/kernel"] = (width, mlp)
        names[f"{block}/MlpBlock_3/Dense_0/bias"] = (mlp,)
        names[f"{block}/MlpBlock_3/Dense_1/kernel"] = (mlp, width)
        names[f"{block}/MlpBlock_3/Dense_1/bias"] = (width,)
    return names


def google_vit(side: int = 48) -> Reference:
    """timm's own reader of Google's files, with the tanh GELU that they were trained with."""
    shapes = google_names(side)
    state = draw(list(shapes), list(shapes.values()))
    vit = make_timm(side, act="gelu_tanh")
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "vit.npz", **state)
        vit.load_pretrained(str(Path(folder) / "vit.npz"))
    return Reference("vit_nano16", side, state, answers(vit, side, TIMM_LAYERS))


def save(state: dict[str, np.ndarray], name: str, folder: Path) -> Path:
    """The state dict of the reference called `name`, in its publisher's own file format."""
    if name == "google_vit":
        path = folder / "w.npz"
        np.savez(path, **state)
    elif name in ("timm_vit", "hugging_face_vit"):
        path = folder / "w.safetensors"
        save_file(state, path, metadata={"format": "pt"})
    else:
        path = folder / "w.pth"
        torch.save({name: torch.from_numpy(array) for name, array in state.items()}, path)
    return path


REFERENCES: dict[str, Callable[[], Reference]] = {
    "torchvision_vit": torchvision_vit,
    "timm_vit": timm_vit,
    "hugging_face_vit": hugging_face_vit,
    "google_vit": google_vit,
    **{name: functools.partial(torchvision_cnn, name) for name in CNNS},
}


def resampled_positions() -> dict[str, np.ndarray]:
    """A 7x7 grid's position embeddings, and timm's resampling of them to other grids."""
    import_torchvision()
    from timm.layers import resample_abs_pos_embed

    before = draw(["pos_embed"], [(1, 50, 8)])["pos_embed"]
    after = {
        f"grid{new}": resample_abs_pos_embed(torch.from_numpy(before), [new, new]).numpy()
        for new in (3, 4, 12, 14)
    }
    return {"before": before, **after}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / "timm_positions.npz", **resampled_positions())
    for name, make in REFERENCES.items():
        reference = make()
        shapes = json.dumps({n: array.shape for n, array in reference.state.items()})
        about = json.dumps({"model": reference.model, "side": reference.side})
        path = FOLDER / f"{name}.npz"
        few = {k: v[..., :8] if v.ndim == 4 else v for k, v in reference.answers.items()}
        np.savez_compressed(path, shapes=shapes, about=about, **few)
        print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()

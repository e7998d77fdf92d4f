"""Which host a MODEL needs: AnimateDiff-Evolved's motion module, or a diffusion transformer of a known family.

A family of diffusion transformers is one file, ``comfy_dit_<name>.py`` beside this one, with a ``FAMILY`` in it (see
`comfy_dit.Family`); it is found by its name.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from .base import UnsupportedModelError
from .comfy_animatediff import AnimateDiffHost, has_motion_models
from .comfy_dit import Family, TransformerHost

_FAMILY_FILES = "comfy_dit_"
Host = AnimateDiffHost | TransformerHost


def host_of(patcher: Any) -> Host:
    """The host of a MODEL.

    Raises:
        UnsupportedModelError: nothing that is known fits; the message names what the MODEL is.
    """
    network = patcher.get_model_object("diffusion_model")
    if has_motion_models(patcher) or isinstance(network, UNetModel):
        return AnimateDiffHost(patcher)
    for family in families():
        if family.recognises(network):
            return TransformerHost(patcher, family)
    known = ", ".join(family.title for family in families())
    raise UnsupportedModelError(
        f"this MODEL is a {type(network).__name__} ({type(patcher.model).__name__}), whose motion cannot be read: use "
        f"an AnimateDiff model (from an AnimateDiff-Evolved loader), or one of {known}"
    )


def require_image_model(host: Host, what: str) -> None:
    """Check that a model is one of images, with a motion module: what needs cross-attention, or a noise prediction.

    Raises:
        UnsupportedModelError: it is a transformer.
    """
    if not isinstance(host, AnimateDiffHost):
        raise UnsupportedModelError(
            f"{what} is for AnimateDiff, and this MODEL is {host.title}: take it out of this graph"
        )


@cache
def families() -> tuple[Family, ...]:
    """Every family that has a file."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    names = sorted(module.name for module in found if module.name.startswith(_FAMILY_FILES))
    return tuple(import_module(f".{name}", __package__).FAMILY for name in names)

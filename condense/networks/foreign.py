"""Networks from elsewhere: ``torchvision:NAME``, ``timm:NAME`` and ``module:callable``, all without trained weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from condense.callables import find_callable
from condense.errors import NetworkError
from condense.networks.base import InputShape

__all__ = ["check_output", "foreign"]

_TORCHVISION_SETTINGS: dict[str, dict[str, bool]] = {
    # Their training mode returns the auxiliary heads too, and their defaults warn.
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def foreign(name: str, shape: InputShape, n_classes: int) -> nn.Module:
    """The network called ``name``, which holds a colon, checked on a batch of zeros."""
    source, _, rest = name.partition(":")
    make = {"torchvision": _torchvision, "timm": _timm}.get(source)
    try:
        network = make(rest, shape, n_classes) if make else _callable(source, rest, shape, n_classes)
    except NetworkError:
        raise
    except Exception as error:
        raise NetworkError(f'cannot make network "{name}": {_reason(error)}') from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f'"{name}" must return a torch.nn.Module, got {type(network).__name__}')
    check_output(name, network, shape, n_classes)
    return network


def check_output(name: str, network: nn.Module, shape: InputShape, n_classes: int) -> None:
    """Raise ``NetworkError`` unless zeros (2, C, H, W) give a tensor (2, ``n_classes``) in eval mode."""
    size = f"{shape.channels} x {shape.height} x {shape.width}"
    zeros = torch.zeros(2, shape.height, shape.width, shape.channels).permute(0, 3, 1, 2)
    training = network.training
    try:
        with torch.no_grad():
            output = network.eval()(zeros)
    except Exception as error:
        raise NetworkError(f'network "{name}" fails on {size} images: {_reason(error)}') from error
    finally:
        network.train(training)
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != (2, n_classes):
        raise NetworkError(f'network "{name}" must return logits (2, {n_classes}) for two {size} images, got {found}')


def _torchvision(name: str, shape: InputShape, n_classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    network: nn.Module = models.get_model(
        name, weights=None, num_classes=n_classes, **_TORCHVISION_SETTINGS.get(name, {})
    )
    if shape.channels != 3:
        _adapt_first_convolution(network, shape.channels)
    return network


def _adapt_first_convolution(network: nn.Module, channels: int) -> None:
    """Replace the first convolution by a fresh one like it, for ``channels`` input channels."""
    path, old = next((path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, new)


def _timm(name: str, shape: InputShape, n_classes: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise NetworkError(
            f"\"timm:{name}\" needs the timm package, which is not installed: pip install 'condense-dd[timm]'"
        ) from error
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    settings: dict[str, Any] = {"pretrained": False, "num_classes": n_classes, "in_chans": shape.channels}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        settings["img_size"] = (shape.height, shape.width)
    network: nn.Module = timm.create_model(name, **settings)
    return network


def _callable(module: str, path: str, shape: InputShape, n_classes: int) -> object:
    make = find_callable(f"{module}:{path}", "network", NetworkError)
    return make(**shape._asdict(), n_classes=n_classes)


def _unknown(source: str, name: str, known: Iterable[str]) -> NetworkError:
    """The nearest few of names too many to list."""
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    hint = f"near it: {', '.join(near)}" if near else f"see the model list of {source}"
    return NetworkError(f'{source} has no classification network "{name}"; {hint}')


def _reason(error: Exception) -> str:
    """The first line of what an exception says, with its type."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

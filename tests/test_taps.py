"""Tapped networks against hooks and autograd's own BatchNorm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from condense.errors import TeacherError
from condense.networks import build
from condense.teachers.taps import TappedNetwork

GROUPS, BATCH, SIDE = 3, 4, 8


def trained_looking(network: nn.Module, seed: int = 0) -> nn.Module:
    """Running statistics and affine parameters that are not 0 and 1."""
    made = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=made))
            module.running_var.copy_(torch.rand(module.num_features, generator=made) + 0.5)
            if module.affine:
                module.weight.data.copy_(torch.randn(module.num_features, generator=made))
                module.bias.data.copy_(torch.randn(module.num_features, generator=made))
    return network.eval().requires_grad_(False)


def network(name: str = "resnet8") -> nn.Module:
    return trained_looking(build(name, channels=2, height=SIDE, width=SIDE, n_classes=5)).double()


def images(seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(GROUPS * BATCH, 2, SIDE, SIDE, generator=made, dtype=torch.float64).to(dtype)


def hooked(plain: nn.Module, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The textbook form: a hook per layer, mean and variance in separate passes."""
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)
        mean = values.mean(1)
        seen.append((mean, ((values - mean[:, None]) ** 2).mean(1)))

    handles = [m.register_forward_hook(hook) for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    logits = plain(x)
    for handle in handles:
        handle.remove()
    return logits, seen


def some_loss(logits: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Curved in everything, with another weight for each layer."""
    return logits.sin().sum() + sum(
        (n + 1) * ((mean - 0.3).norm() + (var - 0.2).norm()) for n, (mean, var) in enumerate(layers)
    )


@pytest.mark.parametrize("name", ["resnet8", "convnet2-w8-bn", "mobilenetv2"])
def test_equals_hooks_group_by_group(name: str) -> None:
    plain = network(name)
    x = images().requires_grad_()
    logits, statistics = TappedNetwork(plain)(x, GROUPS)
    layers = list(statistics.per_layer())
    losses = [
        some_loss(logits[BATCH * g : BATCH * (g + 1)], [(mean[g], var[g]) for mean, var in layers])
        for g in range(GROUPS)
    ]
    (gradient,) = torch.autograd.grad(sum(losses), x)
    for g in range(GROUPS):
        part = x.detach()[BATCH * g : BATCH * (g + 1)].requires_grad_()
        wanted_logits, wanted = hooked(plain, part)
        torch.testing.assert_close(logits[BATCH * g : BATCH * (g + 1)], wanted_logits, rtol=1e-10, atol=1e-10)
        assert len(layers) == len(wanted)
        for (mean, var), (wanted_mean, wanted_var) in zip(layers, wanted, strict=True):
            torch.testing.assert_close(mean[g], wanted_mean, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(var[g], wanted_var, rtol=1e-10, atol=1e-10)
        (wanted_gradient,) = torch.autograd.grad(some_loss(wanted_logits, wanted), part)
        torch.testing.assert_close(gradient[BATCH * g : BATCH * (g + 1)], wanted_gradient, rtol=1e-9, atol=1e-10)


def test_gradcheck() -> None:
    tapped = TappedNetwork(trained_looking(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh())).double())

    def outputs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps, statistics = tapped(x, 2)
        return maps, statistics.mean, statistics.var

    assert torch.autograd.gradcheck(outputs, images()[:4, :, :4, :4].clone().requires_grad_())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_does_not_matter(layout: torch.memory_format) -> None:
    plain = network()
    x = images().contiguous(memory_format=layout).requires_grad_()
    logits, statistics = TappedNetwork(plain)(x, GROUPS)
    wanted, _ = hooked(plain, images())
    torch.testing.assert_close(logits, wanted, rtol=1e-10, atol=1e-10)
    some_loss(logits, list(statistics.per_layer())).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_statistics_are_float32_under_autocast() -> None:
    """Summing bfloat16 in bfloat16 would be off by percents; what remains is that the maps are rounded to it."""
    plain = trained_looking(nn.Sequential(nn.Identity(), nn.BatchNorm2d(2)))
    x = (images(dtype=torch.float32) + 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        _, statistics = TappedNetwork(plain)(x, GROUPS)
    assert statistics.mean.dtype == statistics.var.dtype == torch.float32
    exact = x.double().view(GROUPS, BATCH, 2, -1).transpose(1, 2).flatten(2)
    torch.testing.assert_close(statistics.mean.double(), exact.mean(2), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(statistics.var.double(), exact.var(2, correction=0), rtol=1e-5, atol=1e-6)


def test_bf16_gradients_are_near_float32() -> None:
    plain = network().float()
    tapped = TappedNetwork(plain)
    gradients = []
    for half in (False, True):
        x = images(dtype=torch.float32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits, statistics = tapped(x, GROUPS)
        some_loss(logits.float(), list(statistics.per_layer())).backward()
        gradients.append(x.grad.flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_network_is_copied_frozen_and_its_statistics_untouched() -> None:
    plain = network().train().requires_grad_(True)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    tapped = TappedNetwork(plain)
    logits, _ = tapped(images().requires_grad_(), GROUPS)
    logits.sum().backward()
    assert all(parameter.grad is None for parameter in plain.parameters())
    assert plain.training
    assert not any(parameter.requires_grad for parameter in tapped.parameters())
    assert not any(module.training for module in tapped.modules())
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())


class WithIdleLayer(nn.Module):
    """Registers a BatchNorm first that it never runs, as an EfficientNet-B0 for CIFAR does."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.used = nn.BatchNorm2d(7), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x).mean((2, 3))


def test_a_layer_that_does_not_run_is_left_out() -> None:
    _, statistics = TappedNetwork(trained_looking(WithIdleLayer()).double())(images(), GROUPS)
    assert statistics.targets.layers == (1,)
    assert statistics.targets.sizes == (2,)
    assert statistics.mean.shape == (GROUPS, 2)


def test_batchnorm_without_affine_parameters() -> None:
    plain = trained_looking(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=False))).double()
    torch.testing.assert_close(TappedNetwork(plain)(images(), 1)[0], plain(images()))


@pytest.mark.parametrize(
    "without", [nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 2), nn.BatchNorm2d(2, track_running_stats=False)]
)
def test_no_running_statistics_is_refused(without: nn.Module) -> None:
    with pytest.raises(TeacherError, match="has no BatchNorm2d layer with running statistics"):
        TappedNetwork(nn.Sequential(without))

"""Laws that every network obeys, published sizes, torchvision's outputs, and what is refused."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
import torch
import torchvision
from torch import Tensor, nn

from condense.errors import NetworkError
from condense.networks import NETWORKS, batchnorm_layers, build, describe
from condense.networks.convnet import convnet_settings
from condense.networks.instance_norm import InstanceNorm
from condense.networks.vit import patch_size, sincos_positions

OWN = [*NETWORKS, "convnet2-w16-none", "convnet1-w8-in"]
LIGHT = ["convnet3-bn", "convnet3-in", "convnet2-w16-none", "resnet8", "shufflenetv2", "vit"]
SIZES = [(8, 8), (9, 13), (28, 28), (32, 32), (64, 64)]
WITHOUT_BATCH_NORM = {"convnet3-in", "convnet2-w16-none", "convnet1-w8-in", "vit"}


def make(
    name: str, *, channels: int = 3, size: tuple[int, int] = (32, 32), n_classes: int = 5, seed: int = 0
) -> nn.Module:
    return build(name, channels=channels, height=size[0], width=size[1], n_classes=n_classes, seed=seed)


def images(count: int, channels: int, size: tuple[int, int], seed: int = 1) -> Tensor:
    """Normal images (count, channels, height, width) with channels-last strides."""
    drawn = torch.randn(count, *size, channels, generator=torch.Generator().manual_seed(seed))
    return drawn.permute(0, 3, 1, 2)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OWN)
def test_every_size_gives_float32_logits_under_bf16_and_every_weight_a_gradient(name: str, channels: int) -> None:
    for size in SIZES if name in LIGHT else [(9, 13), (32, 32)]:
        network = make(name, channels=channels, size=size)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images(2, channels, size))
        assert logits.shape == (2, 5), size
        assert logits.dtype == torch.float32, size
        logits.square().sum().backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters()), size


@pytest.mark.parametrize("size", [(65, 97), (8, 224)])
@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith("resnet") or name == "resnet18"])
def test_larger_images_pass(name: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert make(name, size=size).eval()(images(1, 3, size)).shape == (1, 5)


@pytest.mark.parametrize("name", OWN)
def test_forward_is_the_classifier_of_the_features(name: str) -> None:
    network, x = make(name).eval(), images(2, 3, (32, 32))
    with torch.no_grad():
        features = network.features(x)
        assert features.ndim == 2
        torch.testing.assert_close(network(x), network.classifier(features), rtol=0, atol=0)


@pytest.mark.parametrize("name", LIGHT)
def test_images_do_not_influence_each_other_in_eval_mode(name: str) -> None:
    network, x = make(name).eval(), images(3, 3, (32, 32))
    with torch.no_grad():
        together, apart = network(x), torch.cat([network(one) for one in x.split(1)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LIGHT)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first = make(name, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = make(name, seed=3).state_dict(), make(name, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(
        torch.equal(first[key], other[key]) for key in first if key.endswith("weight") and first[key].std() > 0
    )


def test_golden_weight() -> None:
    """Initial weights are part of what a seed means: changing them changes every result."""
    first = next(make("resnet8").parameters())
    torch.testing.assert_close(first[0, 0, 0], torch.tensor([0.2198, -0.1206, 0.0562]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet8", "torchvision:resnet18", f"{__name__}:tiny"])
def test_the_global_generator_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    make(name)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", OWN)
def test_batch_norms_are_there_as_named(name: str) -> None:
    layers = batchnorm_layers(make(name))
    assert bool(layers) == (name not in WITHOUT_BATCH_NORM)
    if name == "convnet3-bn":
        assert [layer.num_features for layer in layers] == [128, 128, 128]


def test_weights_are_channels_last_and_maps_stay_so() -> None:
    network = make("resnet8", channels=1)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
            layer.register_forward_hook(_assert_channels_last)
    network(images(2, 1, (32, 32)))


def _assert_channels_last(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    assert output.is_contiguous(memory_format=torch.channels_last)


def test_float64_networks_stay_float64() -> None:
    assert make("resnet8").double()(images(2, 3, (32, 32)).double()).dtype == torch.float64


# Sizes with their sources. Counts without one follow from the layers, beside torchvision's below.
PUBLISHED = [
    ("convnet3-in", 3, 32, 10, 320_010),  # DC, DSA, DM code
    ("convnet3-in", 1, 28, 10, 317_706),  # the same, first convolution padded to 32 px
    ("convnet3-bn", 3, 32, 100, 504_420),
    ("resnet20", 3, 32, 10, 269_722),  # He et al. 2016, table 6: 0.27 M
    ("resnet32", 3, 32, 10, 464_154),  # 0.46 M
    ("resnet56", 3, 32, 10, 853_018),  # 0.85 M
    ("resnet18", 3, 32, 10, 11_173_962),
    ("resnet50", 3, 32, 10, 23_520_842),
    ("mobilenetv2", 3, 32, 10, 2_296_922),
    ("shufflenetv2", 3, 32, 10, 352_042),
    ("vgg11", 3, 32, 10, 9_231_114 - 2_752),  # 9.23 M with the convolutions' biases, which a batch norm cancels
]


@pytest.mark.parametrize(("name", "channels", "side", "n_classes", "expected"), PUBLISHED)
def test_published_parameter_counts(name: str, channels: int, side: int, n_classes: int, expected: int) -> None:
    rows = {row.name: row for row in describe(channels=channels, height=side, width=side, n_classes=n_classes)}
    assert rows[name].parameters == expected


@pytest.mark.parametrize(
    ("ours", "theirs"), [("resnet18", "resnet18"), ("resnet50", "resnet50"), ("shufflenetv2", "shufflenet_v2_x0_5")]
)
def test_standard_stem_equals_torchvision(ours: str, theirs: str) -> None:
    """Same weights in the same order, same logits: an independent implementation as oracle."""
    mine = make(ours, size=(72, 72)).double()
    reference = torchvision.models.get_model(theirs, weights=None, num_classes=5).double()
    weights = list(reference.state_dict().values())
    assert [tuple(w.shape) for w in weights] == [tuple(w.shape) for w in mine.state_dict().values()]
    mine.load_state_dict(dict(zip(mine.state_dict(), weights, strict=True)))
    x = images(3, 3, (72, 72)).double()
    with torch.no_grad():
        torch.testing.assert_close(mine(x), reference(x), rtol=1e-6, atol=1e-6)


def test_describe_counts_what_build_makes() -> None:
    rows = describe(channels=1, height=9, width=13, n_classes=7)
    assert [row.name for row in rows] == list(NETWORKS)
    counts = {row.name: row.parameters for row in rows}
    for name in ("convnet3-bn", "resnet8", "vit"):
        assert counts[name] == count(make(name, channels=1, size=(9, 13), n_classes=7))
    assert all(row.summary for row in rows)


def test_small_stem_keeps_the_resolution_up_to_64_px() -> None:
    for side, strides in [(64, (1, 1)), (65, (2, 2))]:
        assert make("resnet18", size=(side, 8)).conv1.stride == strides


def test_option_a_shortcut_is_strided_and_zero_padded() -> None:
    shortcut = make("resnet8").layer2[0].downsample
    x = images(1, 16, (9, 13))
    out = shortcut(x)
    torch.testing.assert_close(out[:, 8:24], x[:, :, ::2, ::2], rtol=0, atol=0)
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_convnet_padding_lets_pooling_drop_nothing() -> None:
    """Every pixel, also in the last row and column of 9 x 13, reaches the features."""
    network = make("convnet3-w8-none", channels=1, size=(9, 13)).double()
    x = images(1, 1, (9, 13)).double().requires_grad_()
    network.features(x).sum().backward()
    assert (x.grad != 0).all()
    assert network.classifier.in_features == 8 * 2 * 2


def test_convnet_names() -> None:
    assert convnet_settings("convnet4-w64-in") == {"depth": 4, "width": 64, "norm": "in"}
    assert convnet_settings("convnet3") == convnet_settings("convnet3-w128-bn")
    for wrong in ("convnet", "convnet0", "convnet3-w0", "convnet3-gn", "xconvnet3", "convnet3-in-w64", "convnet3-"):
        assert convnet_settings(wrong) is None


def test_instance_norm_is_per_image_and_channel_and_keeps_channels_last() -> None:
    maps = images(2, 8, (5, 6)).double()
    norm = InstanceNorm(8).double()
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(2))
    out = norm(maps)
    var, mean = torch.var_mean(maps, (2, 3), correction=0, keepdim=True)
    expected = (maps - mean) / (var + 1e-5).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_instance_norm_image_by_image_equals_the_group_norm(dtype: torch.dtype) -> None:
    def run(last: bool, second: bool = False) -> list[Tensor]:
        layout = torch.channels_last if last else torch.contiguous_format
        maps = images(3, 8, (5, 6)).to(dtype).contiguous(memory_format=layout).requires_grad_()
        norm = InstanceNorm(8).to(torch.promote_types(dtype, torch.float32))
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = norm(maps)
        received = images(3, 8, (5, 6)).flip(0).to(dtype).contiguous(memory_format=layout)
        found = torch.autograd.grad((out * received).sum(), (maps, norm.weight, norm.bias), create_graph=second)
        if second:
            found += torch.autograd.grad(found[0].square().sum() + found[1].sum(), (maps, norm.weight))
        assert found[0].is_contiguous(memory_format=layout) or second
        return [out, *found]

    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
    for mine, plain in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(mine, plain, rtol=close, atol=close)
    if dtype == torch.float64:
        for mine, plain in zip(run(True, second=True), run(False, second=True), strict=True):
            torch.testing.assert_close(mine, plain, rtol=close, atol=close)


def test_instance_norm_can_be_vectorised_over_networks() -> None:
    maps = images(3, 8, (5, 6)).contiguous(memory_format=torch.channels_last)
    norm, weights = InstanceNorm(8), torch.stack([torch.full((8,), 1.0), torch.full((8,), 2.0)])

    def one(weight: Tensor) -> Tensor:
        made: Tensor = torch.func.functional_call(norm, {"weight": weight}, (maps,))
        return made

    both = torch.func.vmap(one)(weights)
    torch.testing.assert_close(both[0], norm(maps))
    torch.testing.assert_close(both[1], 2 * both[0])


def test_vit_patches_and_positions() -> None:
    sides = [patch_size(side, side) for side in range(8, 225)]
    assert all(a <= b for a, b in pairwise(sides))
    assert [patch_size(*size) for size in [(8, 8), (28, 28), (32, 9), (64, 64), (224, 224)]] == [2, 4, 4, 8, 16]
    positions = sincos_positions(2, 3, 8)
    assert positions.shape == (6, 8)
    row, column = 1.0, 2.0
    angles = torch.tensor([row, row / 100, column, column / 100])
    expected = torch.cat([angles[:2].sin(), angles[:2].cos(), angles[2:].sin(), angles[2:].cos()])
    torch.testing.assert_close(positions[5], expected)


def test_vit_sees_where_a_patch_is() -> None:
    network, x = make("vit").eval(), images(1, 3, (32, 32))
    with torch.no_grad():
        assert not torch.allclose(network(x), network(x.flip(3).unflatten(3, (8, 4)).flip(4).flatten(3)), atol=1e-6)


def tiny(channels: int, height: int, width: int, n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, n_classes))


def not_a_module(**_: int) -> str:
    return "a string"


def wrong_logits(channels: int, height: int, width: int, n_classes: int) -> nn.Module:
    return tiny(channels, height, width, n_classes + 1)


def wrong_images(channels: int, height: int, width: int, n_classes: int) -> nn.Module:
    return tiny(channels, height + 1, width, n_classes)


def two_outputs(**_: int) -> nn.Module:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    return Two()


def faulty(**_: int) -> nn.Module:
    raise ValueError("out of\nbricks")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_foreign_networks_pass(channels: int) -> None:
    for name in ("torchvision:resnet18", "timm:resnet10t", f"{__name__}:tiny"):
        network = make(name, channels=channels)
        assert network.training
        assert network(images(2, channels, (32, 32))).shape == (2, 5)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:squeezenet1_0"])
def test_the_first_convolution_alone_is_adapted(name: str) -> None:
    usual, grey = (make(name, channels=channels, size=(32, 32)).state_dict() for channels in (3, 1))
    assert list(usual) == list(grey)
    changed = [
        (tuple(usual[key].shape), tuple(grey[key].shape)) for key in usual if usual[key].shape != grey[key].shape
    ]
    ((before, after),) = changed
    assert after == (before[0], 1, *before[2:])


def test_foreign_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (make(f"{__name__}:tiny", seed=seed)[1].weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_timm_transformers_take_the_image_size() -> None:
    assert make("timm:vit_tiny_patch16_224").patch_embed.img_size == (32, 32)


def test_auxiliary_heads_are_left_out() -> None:
    network = make("torchvision:googlenet")
    assert isinstance(network(images(2, 3, (32, 32))), Tensor)


def test_the_check_leaves_running_statistics_alone() -> None:
    network = make("torchvision:resnet18")
    assert all(not layer.running_mean.any() for layer in batchnorm_layers(network))
    assert all(layer.num_batches_tracked == 0 for layer in batchnorm_layers(network))


REFUSED = [
    ("resnet-20", {}, 'unknown network "resnet-20"; did you mean "resnet20"'),
    ("convnet9", {}, "at least 512 px, got 32 x 32; the deepest that fits is convnet5"),
    ("convnet4", {"size": (9, 13)}, "at least 16 px, got 9 x 13; the deepest that fits is convnet3"),
    ("resnet20", {"size": (7, 32)}, "at least 8 px, got 7 x 32"),
    ("resnet20", {"channels": 0}, "channels of a network must be at least 1, got 0"),
    ("resnet20", {"n_classes": 0}, "n_classes of a network must be at least 1, got 0"),
    ("torchvision:resnet19", {}, 'no classification network "resnet19"; near it: .*resnet18'),
    ("torchvision:squeezenet1_0", {"size": (8, 8)}, "fails on 3 x 8 x 8 images: RuntimeError: .*too small"),
    ("timm:zzzz", {}, 'timm has no classification network "zzzz"; see the model list'),
    ("no_such_module:net", {}, 'cannot import "no_such_module"'),
    (f"{__name__}:tony", {}, 'has no callable "tony"; did you mean "tiny"'),
    (f"{__name__}:not_a_module", {}, "must return a torch.nn.Module, got str"),
    (f"{__name__}:wrong_logits", {}, r"must return logits \(2, 5\) .* got \(2, 6\)"),
    (f"{__name__}:wrong_images", {}, "fails on 3 x 32 x 32 images: RuntimeError"),
    (f"{__name__}:two_outputs", {}, "got tuple"),
    (f"{__name__}:faulty", {}, "cannot make network .*ValueError: out of$"),
]


@pytest.mark.parametrize(("name", "settings", "message"), REFUSED)
def test_refused_in_one_line(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(NetworkError, match=message) as caught:
        make(name, **settings)
    assert "\n" not in str(caught.value)


def test_the_depth_and_size_that_errors_name_do_fit() -> None:
    assert make("convnet3-w4", size=(9, 13)) is not None
    assert make("convnet4-w4", size=(16, 16)).classifier.in_features == 4


def test_timm_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NetworkError, match=r"pip install 'condense-dd\[timm\]'"):
        make("timm:resnet18")

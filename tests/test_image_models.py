"""The paper's models for small images, each beside its original in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForImageClassification

from sqloss_plugins.models.temporal_convolution import (
    TemporalBlock,
    TemporalConvolutionConfig,
    TemporalConvolutionForImageClassification,
)
from sqloss_plugins.models.wide_resnet import WideResnetConfig, WideResnetForImageClassification


def temporal(**sizes):
    return TemporalConvolutionForImageClassification(
        TemporalConvolutionConfig(**{"levels": 3, "hidden_size": 4, "kernel_size": 3, "image_size": 5, **sizes})
    )


def wide(**sizes):
    return WideResnetForImageClassification(
        WideResnetConfig(**{"depth": 10, "widen_factor": 1, "image_size": 8, "num_labels": 4, **sizes})
    )


MODELS = {
    "row by row": lambda: temporal(num_labels=3),
    "permuted": lambda: temporal(permutation_seed=7),
    "wide": wide,
    "wide with dropout": lambda: wide(dropout=0.3, num_channels=1),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def images(model, count=6):
    channels = getattr(model.config, "num_channels", 3)
    return torch.randn(count, channels, model.config.image_size, model.config.image_size, dtype=model.dtype)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_the_original_temporal_network():
    model = TemporalConvolutionForImageClassification(TemporalConvolutionConfig(num_labels=10))
    # First block: 1 -> 25 and 25 -> 25, each with a length and a bias a channel, and the 1 x 1 way around.
    first = (25 * 7 + 2 * 25) + (25 * 25 * 7 + 2 * 25) + 2 * 25
    assert parameters(model) == first + 7 * 2 * (25 * 25 * 7 + 2 * 25) + 25 * 10 + 10 == 66_910
    pixels = torch.randn(2, 1, 28, 28, requires_grad=True)
    model.eval()
    logits = model(pixels).logits
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    assert (pixels.grad != 0).all()  # the last position sees all 784


@pytest.mark.parametrize(
    ("depth", "widen_factor", "num_labels", "expected"),
    [(28, 10, 10, 36_479_194), (28, 20, 10, 145_815_514), (40, 4, 100, 8_972_340), (16, 8, 10, 10_961_370)],
)
def test_sizes_of_the_original_wide_networks(depth, widen_factor, num_labels, expected):
    with torch.device("meta"):
        config = WideResnetConfig(depth=depth, widen_factor=widen_factor, num_labels=num_labels)
        model = WideResnetForImageClassification(config)
        assert model(torch.empty(2, 3, 32, 32)).logits.shape == (2, num_labels)
    assert parameters(model) == expected
    assert sum(isinstance(module, torch.nn.Conv2d) for module in model.modules()) == depth


# Both networks in float64, from the papers' figures.


def dilated(model, values):
    """Every position of every block, with the dilated convolutions that the paper has."""
    for level, block in enumerate(model.blocks):
        hidden = values
        for layer in (block.first, block.second):
            weight = layer.parametrizations.weight
            rows = weight.original1.flatten(1)
            kernel = (weight.original0.flatten()[:, None] * rows / rows.norm(dim=1)[:, None]).view_as(layer.weight)
            result = torch.zeros(len(hidden), kernel.shape[0], hidden.shape[2], dtype=torch.float64)
            for position in range(hidden.shape[2]):
                result[:, :, position] = layer.bias
                for tap in range(kernel.shape[2]):
                    source = position - (kernel.shape[2] - 1 - tap) * 2**level
                    if source >= 0:
                        result[:, :, position] += hidden[:, :, source] @ kernel[:, :, tap].T
            hidden = result.clamp_min(0)
        around = values if block.skip is None else F.conv1d(values, block.skip.weight, block.skip.bias)
        values = (hidden + around).clamp_min(0)
    return values


def residual(model, hidden):
    def normal(layer, x):
        shape = (1, -1, 1, 1)
        x = (x - layer.running_mean.view(shape)) / (layer.running_var + layer.eps).sqrt().view(shape)
        return (x * layer.weight.view(shape) + layer.bias.view(shape)).clamp_min(0)

    hidden = F.conv2d(hidden, model.stem.weight, padding=1)
    for number, block in enumerate(model.blocks):
        stride = 2 if number in (len(model.blocks) // 3, 2 * len(model.blocks) // 3) else 1
        active = normal(block.first_norm, hidden)
        inner = normal(block.second_norm, F.conv2d(active, block.first.weight, stride=stride, padding=1))
        if block.skip is not None:
            hidden = F.conv2d(active, block.skip.weight, stride=stride)
        hidden = hidden + F.conv2d(inner, block.second.weight, padding=1)
    return model.classifier(normal(model.norm, hidden).flatten(2).mean(2))


@given(
    levels=st.integers(1, 5),
    kernel_size=st.integers(1, 4),
    hidden_size=st.integers(1, 3),
    image_size=st.integers(1, 6),
    permutation_seed=st.none() | st.integers(0, 9),
)
def test_the_last_position_is_that_of_the_dilated_network(**sizes):
    model = temporal(**sizes).double().eval()
    pixels = images(model, count=2)
    order = model.permutation if sizes["permutation_seed"] is not None else torch.arange(sizes["image_size"] ** 2)
    values = torch.stack([image.mean(0).reshape(-1)[order][None] for image in pixels])
    torch.testing.assert_close(model(pixels).logits, model.classifier(dilated(model, values)[:, :, -1]))


@given(st.integers(1, 5), st.integers(1, 9), st.data())
def test_the_future_changes_nothing_earlier(kernel_size, length, data):
    block = TemporalBlock(2, TemporalConvolutionConfig(hidden_size=3, kernel_size=kernel_size)).double().eval()
    values = torch.randn(1, 2, length, dtype=torch.float64)
    changed = data.draw(st.integers(0, length - 1))
    other = values.clone()
    other[..., changed:] = torch.randn(1, 2, length - changed, dtype=torch.float64)
    before, after = block(values), block(other)
    torch.testing.assert_close(before[..., :changed], after[..., :changed], rtol=0, atol=0)


@pytest.mark.parametrize("depth", [10, 16])
def test_the_wide_network_is_the_figures(depth):
    model = wide(depth=depth, widen_factor=2).double()
    for _ in range(3):
        model(images(model))  # gives the normalisation statistics that are not 0 and 1
    model.eval()
    pixels = images(model)
    torch.testing.assert_close(model(pixels).logits, residual(model, pixels))


def test_a_permutation_is_that_of_its_seed():
    first, again, other = (temporal(permutation_seed=seed).permutation for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first.sort().values, torch.arange(25))
    assert temporal().permutation is None


def test_the_channels_are_averaged():
    model = temporal().eval()
    grey = torch.rand(2, 1, 5, 5)
    torch.testing.assert_close(model(grey).logits, model(grey.expand(2, 3, 5, 5)).logits)


def test_the_temporal_network_starts_as_the_authors_do():
    blocks = TemporalConvolutionForImageClassification(TemporalConvolutionConfig(hidden_size=50)).blocks
    for layer in (blocks[0].second, blocks[5].first):
        bound = 1 / math.sqrt(50 * 7)
        assert layer.weight.abs().max() <= bound * (1 + 1e-6)
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert 0 < layer.bias.abs().max() <= bound
        weight = layer.parametrizations.weight
        torch.testing.assert_close(layer.weight, weight.original1)
        torch.testing.assert_close(weight.original0.flatten(), weight.original1.flatten(1).norm(dim=1))
    assert blocks[0].skip.weight.std().item() == pytest.approx(0.01, rel=0.5)
    assert 0.5 < blocks[0].skip.bias.abs().max() <= 1
    assert [block.skip is None for block in blocks] == [False] + [True] * 7


def test_the_wide_network_starts_as_the_original():
    model = wide(depth=16, widen_factor=4, num_labels=50)
    for layer in (model.blocks[2].first, model.blocks[-1].second, model.blocks[0].skip):
        outputs = layer.kernel_size[0] ** 2 * layer.out_channels
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / outputs), rel=0.1)
    assert model.classifier.bias.eq(0).all()
    assert model.classifier.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 256), rel=0.1)
    for norm in (model.norm, model.blocks[3].first_norm):
        assert norm.weight.eq(1).all()
        assert norm.bias.eq(0).all()


def test_another_depth_is_refused():
    with pytest.raises(ValueError, match="10, 16, 22, 28 and so on, not 27"):
        wide(depth=27)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 5\), not \(4, 5\)"):
        temporal()(torch.zeros(1, 1, 4, 5))


def test_save_and_load(model, tmp_path):
    model.train()
    model(images(model))  # moves the running statistics
    model.eval()
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    loaded, report = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model)
    assert not any(report.values())
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, saved in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], saved), name
    pixels = images(model)
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)


def test_a_permutation_is_kept_when_the_seed_would_draw_another(tmp_path):
    model = temporal(permutation_seed=7)
    model.permutation.copy_(torch.arange(24, -1, -1))
    model.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=dtype)
        assert loaded.permutation.dtype == torch.int64
        assert torch.equal(loaded.permutation, model.permutation)


def test_a_new_head_on_saved_weights(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=9, ignore_mismatched_sizes=True)
    pixels = images(model)
    assert loaded.eval()(pixels).logits.shape == (6, 9)
    bound = model.classifier.in_features**-0.5
    assert 0 < loaded.classifier.weight.abs().max() <= bound
    for name, saved in model.state_dict().items():
        if not name.startswith("classifier"):
            assert torch.equal(loaded.state_dict()[name], saved), name


def test_gradients(model):
    model.double()
    labels = torch.arange(6) % model.config.num_labels
    pixels = images(model)
    output = model(pixels, labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels))
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    model.eval()
    assert torch.autograd.gradcheck(lambda x: model(x).logits, (pixels[:2].requires_grad_(),))


def test_weight_normalisation_has_the_gradients_of_its_equation():
    model = temporal().double().eval()
    pixels = images(model, count=2)
    model(pixels).logits.square().sum().backward()
    values = model.sequence(pixels)
    expected = torch.autograd.grad(
        model.classifier(dilated(model, values)[:, :, -1]).square().sum(), list(model.parameters())
    )
    for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=name)


def test_an_image_is_scored_alone_as_in_a_batch(model):
    model.double().eval()
    pixels = images(model)
    together = model(pixels).logits
    alone = torch.cat([model(image[None]).logits for image in pixels])
    torch.testing.assert_close(together, alone)
    order = torch.randperm(len(pixels))
    torch.testing.assert_close(model(pixels[order]).logits, together[order])

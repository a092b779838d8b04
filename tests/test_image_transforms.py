"""Images as a model takes them: as its image processor does, with augmentation for training alone."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import BitImageProcessor, ConvNextImageProcessor, ViTImageProcessor
from transformers.models.timm_wrapper import TimmWrapperImageProcessor

from sqloss_plugins.hf.image_transforms import (
    AUGMENTATIONS,
    ImageCollator,
    as_rgb,
    eval_transform,
    image_size,
    train_transform,
)

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
SIDES = {"height": 24, "width": 32}
PROCESSORS = {
    "squashed": ViTImageProcessor(size=SIDES, image_mean=MEAN, image_std=STD),
    "cropped": BitImageProcessor(size={"shortest_edge": 40}, crop_size=SIDES, image_mean=MEAN, image_std=STD),
    "timm": TimmWrapperImageProcessor({"input_size": [3, 24, 32], "mean": MEAN, "std": STD, "crop_pct": 0.8}),
}


def picture(width=50, height=40, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def restored(values):
    """The 8-bit values of an image, of shape (3, H, W), from what a model gets."""
    mean, std = (torch.tensor(found)[:, None, None] for found in (MEAN, STD))
    return ((values * std + mean) * 255).round().int()


@pytest.mark.parametrize("name", PROCESSORS)
def test_validation_is_what_the_processor_does(name):
    processor = PROCESSORS[name]
    assert image_size(processor) == (24, 32)
    wanted = processor(picture(), return_tensors="pt")["pixel_values"][0]
    for transform in (eval_transform(processor), train_transform(processor, "none")):
        assert torch.equal(transform(picture()), wanted)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize("name", PROCESSORS)
def test_training_images_have_the_models_size(name, kind):
    """Also where they are sent to another process; random draws are torch's, so that a seed repeats them."""
    transform = pickle.loads(pickle.dumps(train_transform(PROCESSORS[name], kind)))
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(transform(picture()))
    assert found[0].shape == (3, 24, 32)
    assert found[0].dtype == torch.float32
    assert torch.equal(*found)
    assert torch.equal(transform(picture()), transform(picture())) == (kind == "none")


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_crop_is_a_piece_of_the_image_padded_by_reflection(name):
    """Normalised by the processor's mean and deviation: what comes out is, value for value, of the image."""
    image = picture(32, 24)
    values = np.pad(np.asarray(image), ((3, 3), (4, 4), (0, 0)), mode="reflect").transpose(2, 0, 1)
    pieces = [values[:, y : y + 24, x : x + 32] for y in range(7) for x in range(9)]
    transform, found = train_transform(PROCESSORS[name], "crop_flip"), set()
    for _ in range(30):
        one = restored(transform(image)).numpy()
        places = [
            (i, flipped)
            for i, piece in enumerate(pieces)
            for flipped in (False, True)
            if (one == (piece[..., ::-1] if flipped else piece)).all()
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 10
    assert {flipped for _, flipped in found} == {False, True}


def test_an_image_of_one_colour_stays_so():
    image = Image.new("RGB", (90, 70), (10, 128, 250))
    for processor in PROCESSORS.values():
        for kind in AUGMENTATIONS:
            found = restored(train_transform(processor, kind)(image))
            assert (found == torch.tensor([10, 128, 250])[:, None, None]).all()


@pytest.mark.parametrize(
    ("mode", "value", "wanted"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (77, 0), (77, 77, 77)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 0x1234, (0x12, 0x12, 0x12)),
        ("I", 65535, (255, 255, 255)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_other_modes_become_colour(mode, value, wanted):
    found = as_rgb(Image.new(mode, (3, 2), value))
    assert (found.mode, found.size, found.getpixel((1, 1))) == ("RGB", (3, 2), wanted)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="floating-point grey levels"):
        as_rgb(Image.new("F", (2, 2)))
    with pytest.raises(ValueError, match="unknown augmentation 'blur': choose from none, crop_flip, resized_crop"):
        train_transform(PROCESSORS["squashed"], "blur")
    with pytest.raises(ValueError, match="BitImageProcessor gives images of different sizes"):
        eval_transform(BitImageProcessor(size={"shortest_edge": 24}, do_center_crop=False))
    with pytest.raises(ValueError, match="does not say the size of its images"):
        image_size(ViTImageProcessor(size={"longest_edge": 24}))
    assert image_size(ConvNextImageProcessor(size={"shortest_edge": 24})) == (24, 24)


# ---------------------------------------------------------------- batches


def examples(count, classes=3):
    return [{"pixel_values": torch.randn(3, 8, 8), "labels": i % classes, "name": str(i)} for i in range(count)]


def test_a_batch_without_mixing():
    data = examples(4)
    batch = ImageCollator()(data)
    assert batch["labels"].tolist() == [0, 1, 2, 0]
    assert torch.equal(batch["pixel_values"][2], data[2]["pixel_values"])
    for example in data:
        del example["labels"]
    assert list(ImageCollator(3, 1.0, 1.0)(data)) == ["pixel_values"]


@settings(max_examples=20)
@given(st.sampled_from([(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)]), st.integers(1, 6), st.integers(2, 4))
def test_mixed_labels_are_the_shares_of_the_images(alphas, count, classes):
    """Each image has one value throughout, its class: the mean of a mixed one is that of its label."""
    data = [{"pixel_values": torch.full((3, 8, 8), float(i % classes)), "labels": i % classes} for i in range(count)]
    batch = ImageCollator(classes, *alphas)(data)
    assert batch["labels"].shape == (count, classes)
    torch.testing.assert_close(batch["labels"].sum(1), torch.ones(count))
    wanted = batch["labels"] @ torch.arange(classes, dtype=torch.float32)
    torch.testing.assert_close(batch["pixel_values"].mean((1, 2, 3)), wanted, rtol=0, atol=1e-5)

"""Mini images: scikit-learn's handwritten digits, which stand in for every image task, at once and offline."""

from __future__ import annotations

import numpy as np
from datasets import Dataset, DatasetDict, Features
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sqloss_plugins.data.image_files import encoded
from sqloss_plugins.data.images import FEATURES, ImageData, LabelledImages

SIZES = {"train": 1257, "validation": 270, "test": 270}
_SEED = 42


def load_mini(task: str) -> LabelledImages:
    """1,797 grey images of 8 x 8 pixels, of the digits 0 to 9; the same for every task.

    They are the test part of the UCI ML hand-written digits (Alpaydin & Kaynak 1998), with 17 grey levels, which are
    brought to 8 bits here. The splits are drawn by class.

    Args:
        task: whose place they take; for the source.
    """
    digits = load_digits()
    images = (digits.images * 255 / 16).round().astype(np.uint8)
    rest, test = train_test_split(
        np.arange(len(images)), test_size=SIZES["test"], random_state=_SEED, stratify=digits.target
    )
    train, validation = train_test_split(
        rest, test_size=SIZES["validation"], random_state=_SEED, stratify=digits.target[rest]
    )
    splits = DatasetDict()
    for split, rows in (("train", train), ("validation", validation), ("test", test)):
        splits[split] = Dataset.from_dict(
            {"image": [{"bytes": encoded(images[row]), "path": None} for row in rows], "label": digits.target[rows]},
            features=Features(FEATURES),
        )
    source = f"scikit-learn's 8 x 8 digits, mini data in the place of {task}"
    return LabelledImages(ImageData(splits, source, mini=True), tuple(map(str, digits.target_names)))

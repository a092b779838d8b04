"""Image folders, idx files and CIFAR-10's batches: their pixels come back, and every mistake in them is told."""

import gzip
import io
import os
import pickle
import struct
from typing import ClassVar

import numpy as np
import pytest
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from sqloss_plugins.data.image_files import encoded, labels_of_idx, read_cifar10, read_folder, read_idx
from sqloss_plugins.errors import UserError

NAMES = tuple("abcdefghij")
GREYS = np.random.default_rng(0).integers(0, 256, (7, 4, 5), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
LABELS = [3, 0, 9, 9, 1, 2, 5]


def idx(array, dimensions=None):
    """The idx format as LeCun's page has it."""
    array = np.asarray(array, np.uint8)
    sizes = array.shape if dimensions is None else dimensions
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + array.tobytes()


def write_idx(folder, images=None, labels=None, suffix=""):
    """Writes the two files, and returns their paths."""
    pack = gzip.compress if suffix else bytes
    paths = [folder / f"train-{kind}-ubyte{suffix}" for kind in ("images-idx3", "labels-idx1")]
    for path, content in zip(paths, (images or idx(GREYS), labels or idx(LABELS)), strict=True):
        path.write_bytes(pack(content))
    return paths


def pixels(rows):
    return np.stack([np.asarray(image) for image in rows.cast_column("image", ImageFeature())["image"]])


@given(arrays(np.uint8, st.one_of(array_shapes(min_dims=2, max_dims=2), st.tuples(st.integers(1, 9), st.just(4)))))
@settings(max_examples=20)
def test_encoded_pixels_are_images(levels):
    for array in (levels, np.stack([levels, levels // 2, 255 - levels], axis=-1)):
        image = Image.open(io.BytesIO(encoded(array)))
        assert image.mode == ("L" if array.ndim == 2 else "RGB")
        assert np.array_equal(np.asarray(image), array)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(tmp_path, suffix):
    images, labels = write_idx(tmp_path, suffix=suffix)
    assert labels_of_idx(images) == labels
    rows = read_idx(images, labels, NAMES, str(tmp_path / "cache"))
    assert np.array_equal(pixels(rows), GREYS)
    assert rows["label"][:] == LABELS
    assert rows.features["label"].names == list(NAMES)
    assert rows.cache_files, "memory-mapped"
    assert read_idx(images, None, None, str(tmp_path / "cache")).column_names == ["image"]
    assert read_idx(images, labels, None, str(tmp_path / "cache"))["label"][:] == LABELS


def test_labels_beside_an_idx_file(tmp_path):
    for images, labels in (
        ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
        ("images-idx3.gz", "labels-idx1"),
        ("my-images-idx3", "my-labels-idx1.gz"),
    ):
        (tmp_path / labels).touch()
        assert labels_of_idx(tmp_path / images) == tmp_path / labels
    assert labels_of_idx(tmp_path / "other-images-idx3") is None
    (tmp_path / "digits.idx").touch()
    assert labels_of_idx(tmp_path / "digits.idx") is None


GZIPPED = gzip.compress(idx(GREYS))
BAD_IDX = {
    "images cut short": ({"images": idx(GREYS)[:-1]}, "images-idx3-ubyte is cut short: it ends before image 7 of 7"),
    "in the header": ({"images": idx(GREYS)[:10]}, "is cut short: it ends before the end of its header"),
    "labels cut short": ({"labels": idx(LABELS)[:-1]}, "labels-idx1-ubyte is cut short: it ends before all labels"),
    "gzip cut short": ({"images": GZIPPED[:-20]}, "images-idx3-ubyte is cut short or damaged"),
    "gzip damaged": ({"images": GZIPPED[:-8] + bytes(8)}, "is cut short or damaged"),
    "more than there should be": ({"images": idx(GREYS) + b"x"}, "images-idx3-ubyte goes on after its last record"),
    "more labels": ({"labels": idx(LABELS) + b"x"}, "labels-idx1-ubyte goes on after its last record"),
    "magic number": ({"images": b"\x89PNG" + idx(GREYS)[4:]}, "not an idx file of images: it begins with 89 50 4e 47"),
    "labels for images": ({"images": idx(LABELS)}, "begins with 00 00 08 01, not with 00 00 08 03"),
    "empty": ({"labels": b"\0"}, "not an idx file of labels: it begins with 00, not with 00 00 08 01"),
    "counts": ({"labels": idx(LABELS[:-1])}, "has 6 labels, and .*ubyte has 7 images: give two files that belong"),
    "no images": ({"images": idx(GREYS[:0])}, "has 0 images of 4 x 5 pixels"),
    "out of range": ({"labels": idx([*LABELS[:-1], 10])}, "label 10 of image 7 is not from 0 to 9"),
    "sizes beyond all bounds": ({"images": idx(GREYS, (7, 2**31, 2**31))}, "images-idx3-ubyte cannot be read|short"),
}


@pytest.mark.parametrize("case", list(BAD_IDX))
def test_mistakes_in_idx_files(tmp_path, case):
    content, message = BAD_IDX[case]
    images, labels = write_idx(tmp_path, **content)
    with pytest.raises(UserError, match=message):
        read_idx(images, labels, NAMES, str(tmp_path / "cache"))


def test_an_idx_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="images cannot be read: No such file"):
        read_idx(tmp_path / "images", None)


def planes(images):
    """Red, green and blue one after the other, as CIFAR-10 has them: (N, 3072)."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def batch_bin(images=COLOURS, labels=LABELS):
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, planes(images), strict=False))


def batch_pickle(**changes):
    return pickle.dumps({"data": planes(COLOURS), "labels": LABELS[:6], "batch_label": "batch 1 of 1", **changes}, 4)


class Python2(pickle._Pickler):
    """Writes bytes as Python 2 does, of whose pickles CIFAR-10 consists."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, content):
        self.write(b"T" + struct.pack("<i", len(content)) + content)

    dispatch[bytes] = save_bytes


def old_batch_pickle():
    file = io.BytesIO()
    Python2(file, 2).dump({"data": planes(COLOURS), "labels": LABELS[:6]})
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.bin", batch_bin), ("a", batch_pickle), ("a", old_batch_pickle)],
    ids=["binary", "pickle", "Python 2"],
)
def test_cifar10(tmp_path, name, content):
    (tmp_path / name).write_bytes(content())
    rows = read_cifar10([tmp_path / name] * 2, NAMES, str(tmp_path / "cache"))
    assert np.array_equal(pixels(rows), np.concatenate([COLOURS, COLOURS]))
    assert rows["label"][:] == LABELS[:6] * 2
    assert rows.features["label"].names == list(NAMES)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


BAD_CIFAR = {
    "wrong length": ("a.bin", batch_bin()[:-1], "has 18437 bytes, which is no multiple of the 3073 of a record"),
    "nothing": ("a.bin", b"", "has 0 bytes, which is no multiple"),
    "binary label": ("a.bin", batch_bin(labels=[1, 2, 10, 3, 4, 5]), "label 10 of image 3 is not from 0 to 9"),
    "label": ("a", batch_pickle(labels=[0, 1, 2, 3, 4, -1]), "label -1 of image 6 is not from 0 to 9"),
    "a pickle that calls functions": ("a", pickle.dumps(Evil(), 2), "it has posix.mkdir, which a batch has not"),
    "cut short": ("a", batch_pickle()[:-100], "a is not a batch of CIFAR-10's Python version"),
    "another object": ("a", pickle.dumps([1, 2]), "a is not a batch of CIFAR-10's Python version"),
    "CIFAR-100": (
        "a",
        batch_pickle(data=planes(COLOURS)[:, :-1]),
        r"not a batch of CIFAR-10: its data is uint8 \(6, 3071",
    ),
    "fewer labels": ("a", batch_pickle(labels=[1]), r"not a batch of CIFAR-10: its data is uint8 \(6, 3072"),
    "floating point": ("a", batch_pickle(data=planes(COLOURS) / 255), "its data is float64"),
}


@pytest.mark.parametrize("case", list(BAD_CIFAR))
def test_mistakes_in_cifar10(tmp_path, monkeypatch, case):
    name, content, message = BAD_CIFAR[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_cifar10([tmp_path / name], NAMES, str(tmp_path / "cache"))
    assert not (tmp_path / "made-by-a-pickle").exists()


def save(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), level).save(path)


def folder_of_classes(folder):
    for name in ("dog/b.png", "dog/a.PNG", "cat/2.jpg", "cat/deep/1.jpeg", "owl/x.bmp"):
        save(folder / name)
    return folder


def paths(rows, folder):
    return [os.path.relpath(image["path"], folder) for image in rows["image"]]


def test_folders_are_classes(tmp_path):
    folder = folder_of_classes(tmp_path / "train")
    (folder / ".cache").mkdir()
    (folder / "cat/.DS_Store").touch()
    rows, notes = read_folder(folder, str(tmp_path / "cache"))
    assert paths(rows, folder) == ["cat/2.jpg", "cat/deep/1.jpeg", "dog/a.PNG", "dog/b.png", "owl/x.bmp"]
    assert rows["label"][:] == [0, 0, 1, 1, 2]
    assert rows.features["label"].names == ["cat", "dog", "owl"]
    assert notes == []
    assert rows.cache_files, "memory-mapped"
    (folder / "dog/notes.txt").touch()
    (folder / "list.csv").touch()
    rows, notes = read_folder(folder, str(tmp_path / "cache"))
    assert len(rows) == 5
    assert notes == [f"{folder}: files that cannot be read as images are left out: dog/notes.txt"]


def test_a_folder_is_read_anew_when_a_file_changes(tmp_path):
    folder = folder_of_classes(tmp_path / "train")
    first, _ = read_folder(folder, str(tmp_path / "cache"))
    again, _ = read_folder(folder, str(tmp_path / "cache"))
    assert again.cache_files == first.cache_files
    os.utime(folder / "owl/x.bmp", (0, 0))
    changed, _ = read_folder(folder, str(tmp_path / "cache"))
    assert changed.cache_files != first.cache_files, "so that its images are checked anew"
    save(folder / "owl/y.bmp")
    assert len(read_folder(folder, str(tmp_path / "cache"))[0]) == 6


def test_a_folder_of_images_alone_has_no_labels(tmp_path):
    for name in ("2.png", "10.png"):
        save(tmp_path / "test" / name)
    rows, _ = read_folder(tmp_path / "test", str(tmp_path / "cache"))
    assert rows.column_names == ["image"]
    assert paths(rows, tmp_path / "test") == ["10.png", "2.png"]


def test_mistakes_in_folders(tmp_path):
    folder = folder_of_classes(tmp_path / "train")
    cache = str(tmp_path / "cache")
    save(folder / "fish.png")
    with pytest.raises(UserError, match=r"train has images beside its class folders, such as fish.png: move each"):
        read_folder(folder, cache)
    (folder / "fish.png").unlink()
    (folder / "empty").mkdir()
    (folder / "empty/read.me").touch()
    with pytest.raises(UserError, match=r"train/empty has no images that can be read .*, only read.me: put some there"):
        read_folder(folder, cache)
    (folder / "empty/read.me").unlink()
    with pytest.raises(UserError, match="train/empty has no images: put some there, or remove the folder"):
        read_folder(folder, cache)
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone/1.HEIC").touch()
    with pytest.raises(UserError, match=r"phone has no images that can be read \(JPEG or PNG, .*\), only 1.HEIC: it "):
        read_folder(tmp_path / "phone", cache)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="nothing has no images: it needs a folder of images for each class"):
        read_folder(tmp_path / "nothing", cache)
    with pytest.raises(UserError, match="nowhere cannot be read: No such file or directory"):
        read_folder(tmp_path / "nowhere", cache)
    loop = folder_of_classes(tmp_path / "loop")
    for outer in (loop / "cat", loop, tmp_path):
        (loop / "cat/again").symlink_to(outer)
        with pytest.raises(UserError, match=f"cat/again is a link to a folder that it lies in, {outer}: remove"):
            read_folder(loop, cache)
        (loop / "cat/again").unlink()
    (loop / "cat/gone.png").symlink_to(loop / "nowhere.png")
    with pytest.raises(UserError, match=r"cat/gone\.png cannot be read: No such file"):
        read_folder(loop, cache)
    odd = tmp_path / "odd"
    save(odd / "a/1.png")
    os.rename(odd / "a/1.png", os.fsencode(odd / "a") + b"/\xff.png")
    with pytest.raises(UserError, match=r"\\udcff.png' has a name that is not UTF-8 text: rename the file"):
        read_folder(odd, cache)

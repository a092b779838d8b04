"""Labelled images as a task: every source gives the same data, corrupt ones are counted, and every mistake is told."""

import errno
import hashlib
import io
import os
import tarfile
from dataclasses import replace

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pictures
from test_image_files import batch_bin, idx, write_idx

from sqloss_plugins.data import images
from sqloss_plugins.data.hold_out import SPLITS, HoldOut
from sqloss_plugins.data.image_tasks import TASKS, load_task
from sqloss_plugins.data.images import ImageData, as_rgb, load, load_from_hub
from sqloss_plugins.data.mini_images import SIZES, load_mini
from sqloss_plugins.data.progress import bars_for_long_work
from sqloss_plugins.errors import UserError

CLASSES = ("cat", "dog", "owl")
NONE = HoldOut(0)


def png(seed, mode="RGB", size=(6, 5)):
    """An image file of its own for each seed."""
    shape = (size[1], size[0]) + ((len(mode),) if mode in ("RGB", "RGBA") else ())
    file = io.BytesIO()
    Pictures.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def contents(count=12, classes=CLASSES, start=0):
    """Class and content of images, in the order of classes."""
    return [(name, png(start + i)) for name in classes for i in range(classes.index(name), count, len(classes))]


def write_folder(folder, rows):
    for number, (name, content) in enumerate(rows):
        path = folder / name / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_parquet(path, rows, label=None, image="image"):
    path.parent.mkdir(parents=True, exist_ok=True)
    label = label or [name for name, _ in rows]
    pq.write_table(
        pyarrow.table({"path": ["a/b"] * len(rows), "label": label, image: [data for _, data in rows]}), path
    )
    return path


def write_shards(folder, rows, count=2):
    folder.mkdir(parents=True)
    for shard in range(count):
        with tarfile.open(folder / f"part-{shard:04}.tar", "w") as tar:
            for number, (name, content) in enumerate(
                rows[shard * len(rows) // count : (shard + 1) * len(rows) // count]
            ):
                for suffix, data in (("cls", str(CLASSES.index(name)).encode()), ("png", content)):
                    entry = tarfile.TarInfo(f"{shard}-{number:03}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return folder


@pytest.fixture
def read(tmp_path):
    """``load``, with a cache of its own."""

    def load_here(hold_out=NONE, **options):
        sources = {split: options.pop(split) for split in SPLITS if split in options}
        return load(sources, hold_out, cache_dir=str(tmp_path / "cache"), **options)

    return load_here


def pixels(rows):
    return [np.asarray(image).tolist() for image in rows["image"]]


SOURCES = {"folder": write_folder, "parquet": write_parquet, "shards": write_shards}


def write(kind, path, rows):
    return SOURCES[kind](path.with_suffix(".parquet") if kind == "parquet" else path, rows)


@pytest.mark.parametrize("kind", list(SOURCES))
def test_every_source_gives_the_same_images(tmp_path, read, kind):
    splits = {"train": contents(), "validation": contents(3, start=100), "test": contents(6, start=200)}
    found = read(**{split: write(kind, tmp_path / "data" / split, rows) for split, rows in splits.items()})
    assert found.labels == (CLASSES if kind != "shards" else ("0", "1", "2"))
    assert isinstance(found.data, ImageData)
    assert (found.data.unit, found.data.mini, found.data.notes) == ("images", False, ())
    assert found.data.sizes == {split: len(rows) for split, rows in splits.items()}
    for split, expected in splits.items():
        rows = found.data.splits[split]
        assert rows.features == Features({"image": Image(), "label": Value("int64"), "sha256": Value("binary")})
        assert rows["sha256"] == [hashlib.sha256(data).digest() for _, data in expected]
        assert rows.cache_files, "memory-mapped"
        assert [CLASSES[label] for label in rows["label"]] == [name for name, _ in expected]
        assert pixels(rows) == [np.asarray(Pictures.open(io.BytesIO(data))).tolist() for _, data in expected]
    again = read(**{split: tmp_path / "data" / (split + ".parquet" * (kind == "parquet")) for split in splits})
    assert again.data.fingerprint == found.data.fingerprint


def test_a_folder_of_parquet_files(tmp_path, read):
    for part in range(2):
        write_parquet(tmp_path / "train" / f"part-{part}.parquet", contents()[part * 6 : part * 6 + 6])
    assert read(train=tmp_path / "train").data.sizes == {"train": 12}


def test_an_idx_file(tmp_path, read):
    path, _ = write_idx(tmp_path)
    found = read(train=path)
    assert found.labels == ("0", "1", "2", "3", "5", "9")
    assert found.data.splits["train"]["label"] == [3, 0, 5, 5, 1, 2, 4], "the number of the class, not its name"


def test_fingerprints_are_of_the_files(tmp_path, read):
    """Of their content, wherever they are; never of names, or of pixels."""
    rows = contents()
    first = read(train=write_folder(tmp_path / "a", rows)).data
    assert read(train=write_folder(tmp_path / "b", rows)).data.fingerprint == first.fingerprint
    longer = [(name, content + b"x") for name, content in rows]
    assert read(train=write_folder(tmp_path / "c", longer)).data.fingerprint != first.fingerprint
    others = [("dog" if name == "cat" else "cat", content) for name, content in rows]
    assert read(train=write_folder(tmp_path / "d", others)).data.fingerprint != first.fingerprint
    swapped = read(train=write_folder(tmp_path / "f", [rows[0], *rows[2:4], rows[1], *rows[4:]])).data
    assert swapped.fingerprint != first.fingerprint, "other content, by the names and of the sizes that were there"
    packed = read(train=write_parquet(tmp_path / "a.parquet", rows)).data
    assert packed.fingerprint == first.fingerprint
    assert packed.fingerprint == read(train=write_shards(tmp_path / "e", rows)).data.fingerprint
    for name, last in (("b", ("owl", png(999))), ("c", ("dog", rows[-1][1]))):
        other = read(train=write_parquet(tmp_path / f"{name}.parquet", [*rows[:-1], last])).data
        assert other.fingerprint != packed.fingerprint, "another image, or another label"
    test = read(train=tmp_path / "a", test=tmp_path / "b").data
    assert list(test.test_fingerprints) == ["test"]
    assert test.fingerprint == first.fingerprint


def test_a_fingerprint_decodes_nothing(tmp_path, read, monkeypatch):
    data = read(train=write_parquet(tmp_path / "a.parquet", contents())).data
    monkeypatch.setattr(Image, "decode_example", None)
    assert len(data.fingerprint) == 64


def test_relabelled_and_limited(tmp_path, read):
    found = read(train=write_folder(tmp_path / "a", contents()), test=write_folder(tmp_path / "b", contents(3)))
    data = found.data.relabelled([2, 0, 1])
    assert isinstance(data, ImageData)
    assert data.splits["train"]["label"] == [2] * 4 + [0] * 4 + [1] * 4
    assert data.splits["train"].features == found.data.splits["train"].features
    assert pixels(data.splits["train"]) == pixels(found.data.splits["train"])
    assert (data.fingerprint, data.test_fingerprints) == (found.data.fingerprint, found.data.test_fingerprints)
    assert found.data.limited({"train": 5}).sizes == {"train": 5, "test": 3}


# Held out.


@given(counts=st.lists(st.integers(4, 8), min_size=2, max_size=3), seed=st.integers(0, 3))
@settings(max_examples=5, deadline=None)
def test_validation_is_held_out_by_class(tmp_path_factory, counts, seed):
    folder = tmp_path_factory.mktemp("images")
    rows = [(CLASSES[i], png(100 * i + j)) for i, count in enumerate(counts) for j in range(count)]
    found = load({"train": write_folder(folder / "a", rows)}, HoldOut(0.5, seed=seed), cache_dir=str(folder / "cache"))
    parts = found.data.splits
    assert found.data.sizes["validation"] == (len(rows) + 1) // 2
    files = [
        image["path"] for split in parts for image in parts[split].cast_column("image", Image(decode=False))["image"]
    ]
    assert sorted(files) == sorted(map(str, (folder / "a").rglob("*.png")))
    shares = np.bincount(parts["validation"]["label"], minlength=len(counts)) - np.array(counts) / 2
    assert np.abs(shares).max() < 1.01
    assert found.data.notes == (
        f"held out of the training data for validation: {(len(rows) + 1) // 2} rows, by class (seed {seed})",
    )


def test_images_in_two_splits_are_told(tmp_path, read):
    train, test = write_folder(tmp_path / "a", contents()), write_folder(tmp_path / "b", contents(6))
    notes = read(train=train, test=test).data.notes
    assert notes == ("WARNING: the images of 6 of 6 test rows are in the training data, too",)
    # What is left out does not count: here six files that are alike, before all others.
    rows = [("cat", b"x")] * 6 + [("cat", png(i)) for i in range(6)] + [("dog", png(i)) for i in range(6, 12)]
    notes = read(HoldOut(4), train=write_folder(tmp_path / "c", rows), max_corrupt_share=0.4).data.notes
    assert notes[-1] == "held out of the training data for validation: 4 rows, by class (seed 42)"


# Corrupt images.


def corrupted(folder, *changes):
    """Twelve images, of which some are changed: (position, content)."""
    rows = contents()
    for position, content in changes:
        rows[position] = (rows[position][0], content)
    return write_folder(folder, rows)


def bmp_bomb():
    """An image file of 60 bytes that says it has 40,000 x 40,000 pixels."""
    return b"P5 40000 40000 255\n" + bytes(40)


def float_tiff():
    file = io.BytesIO()
    Pictures.new("F", (4, 4), 0.5).save(file, "TIFF")
    return file.getvalue()


CORRUPT = {
    "cut short": (png(5)[:60], "truncated|broken|not enough"),
    "no image": (b"<html>not found</html>", "it is no image that Pillow can read"),
    "empty": (b"", "it is empty"),
    "too large": (bmp_bomb(), "exceeds limit of .* pixels"),
    "floating point": (float_tiff(), "floating-point grey levels"),
}


@pytest.mark.parametrize("kind", ["folder", "parquet"])
@pytest.mark.parametrize("case", list(CORRUPT))
def test_a_corrupt_image_is_refused(tmp_path, read, kind, case):
    content, reason = CORRUPT[case]
    rows = contents()
    rows[4] = ("dog", content)
    place = "a/dog/004.png" if kind == "folder" else "a.parquet row 5"
    with pytest.raises(UserError, match=rf"1 of 12 images cannot be used \(.*{place}: .*({reason})") as told:
        read(train=write(kind, tmp_path / "a", rows))
    assert "leave out up to such a share by --max_corrupt_share 0.0834" in str(told.value)
    assert "\n" not in str(told.value)


def test_corrupt_images_are_left_out_where_that_is_allowed(tmp_path, read):
    folder = corrupted(tmp_path / "a", (1, b"x"), (5, b"y"), (6, b"z"), (9, b""))
    with pytest.raises(UserError, match=r"4 of 12 images .*cat/001.*dog/005.*dog/006.*; and 1 others\)"):
        read(train=folder, max_corrupt_share=0.3)
    found = read(train=folder, max_corrupt_share=0.3334)
    assert found.data.sizes == {"train": 8}
    assert found.data.splits["train"]["label"] == [0] * 3 + [1] * 2 + [2] * 3
    assert len(pixels(found.data.splits["train"])) == 8
    (note,) = found.data.notes
    assert note.startswith(f"WARNING: {folder}: 4 of 12 images cannot be used")
    assert note.endswith("they are left out")
    assert found.data.fingerprint != read(train=write_folder(tmp_path / "b", contents())).data.fingerprint
    held_out = read(HoldOut(3), train=folder, max_corrupt_share=0.5)
    assert held_out.data.sizes == {"train": 5, "validation": 3}
    numbers = np.concatenate(list(held_out.data.numbers.values()))
    assert sorted(numbers) == [0, 2, 3, 4, 7, 8, 10, 11], "rows of the folder"
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="--max_corrupt_share must be from 0 to below 1"):
            read(train=folder, max_corrupt_share=share)


def test_a_class_of_corrupt_images_only_is_told(tmp_path, read):
    folder = corrupted(tmp_path / "a", *((i, b"x") for i in range(4)))
    assert "train has no images of 1 of 3 classes: cat" in read(train=folder, max_corrupt_share=0.5).data.notes


def test_images_are_checked_by_several_processes_and_once(tmp_path, read, monkeypatch):
    folder = corrupted(tmp_path / "a", (1, b"x"), (10, b"y"))
    found = read(train=folder, max_corrupt_share=0.2, num_proc=2)
    assert found.data.sizes == {"train": 10}
    assert found.data.fingerprint == read(train=folder, max_corrupt_share=0.2).data.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(Image, "decode_example", None)
        assert read(train=folder, max_corrupt_share=0.2).data.sizes == {"train": 10}, "what was found is kept"


def test_a_bar_is_shown_where_many_images_are_checked(tmp_path, read, monkeypatch, capsys):
    """On the command line, which turns the other bars of datasets off; and only if it is wanted."""
    monkeypatch.setattr("sqloss_plugins.data.images._ROWS_A_PROCESS", 10)
    for count, wanted, is_shown in ((12, True, True), (9, True, False), (14, False, False)):
        folder = write_folder(tmp_path / str(count), contents(count))
        with bars_for_long_work(wanted):
            read(train=folder, num_proc=1)
            assert datasets.are_progress_bars_disabled()
        assert ("Checking the images of" in capsys.readouterr().err) is is_shown
        assert not datasets.are_progress_bars_disabled()


def test_a_missing_image_is_corrupt(tmp_path, read):
    rows = Dataset.from_dict({"image": [str(tmp_path / "no.png")] * 2, "label": ["a", "b"]})
    rows.to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(UserError, match=r"2 of 2 images cannot be used .*no.png: .*No such file"):
        read(train=tmp_path / "a.parquet")
    rows = Dataset.from_dict(
        {"image": [png(1), None], "label": ["a", "b"]}, features=Features(image=Image(), label=Value("string"))
    )
    rows.to_parquet(str(tmp_path / "b.parquet"))
    with pytest.raises(UserError, match=r"1 of 2 images cannot be used .*b.parquet row 2: there is no image"):
        read(train=tmp_path / "b.parquet")


MODES = {
    "1": (1, (255, 255, 255)),
    "L": (77, (77, 77, 77)),
    "LA": ((77, 0), (77, 77, 77)),
    "P": (0, (0, 0, 0)),
    "RGBA": ((10, 20, 30, 0), (10, 20, 30)),
    "CMYK": ((0, 0, 0, 255), (0, 0, 0)),
    "I;16": (0x8000, (128, 128, 128)),
    "I": (0xFFFF, (255, 255, 255)),
}


@pytest.mark.parametrize("mode", list(MODES))
def test_modes_become_colour(tmp_path, read, mode):
    """Also by way of a file: such images are read among coloured ones."""
    colour, wanted = MODES[mode]
    image = Pictures.new(mode, (3, 2), colour)
    assert as_rgb(image).getpixel((2, 1)) == wanted
    file = io.BytesIO()
    image.save(file, "TIFF" if mode in ("CMYK", "I") else "PNG")
    rows = contents()
    rows[3] = (rows[3][0], file.getvalue())
    found = as_rgb(read(train=write_folder(tmp_path / "a", rows)).data.splits["train"][3]["image"])
    assert (found.mode, found.size, found.getpixel((0, 0))) == ("RGB", (3, 2), wanted)


def test_modes_that_cannot_become_colour():
    with pytest.raises(ValueError, match="floating-point"):
        as_rgb(Pictures.new("F", (2, 2)))
    for value in (0x10000, -1):
        with pytest.raises(ValueError, match="more than 16 bits"):
            as_rgb(Pictures.new("I", (2, 2), value))


# Classes and columns.


def test_test_data_without_labels(tmp_path, read):
    train = write_folder(tmp_path / "a", contents())
    flat = write_folder(tmp_path / "b", [(".", content) for _, content in contents(3, start=50)])
    found = read(train=train, test=flat)
    assert found.data.splits["test"].column_names == ["image", "sha256"]
    assert found.data.notes == (f"{flat} has no labels: its predictions are not scored",)
    assert list(found.data.test_fingerprints) == ["test"]
    hidden = write_parquet(tmp_path / "c.parquet", contents(3, start=60), label=[None] * 3)
    assert read(train=train, test=hidden).data.splits["test"].column_names == ["image", "sha256"]


def test_a_class_that_validation_lacks_is_told(tmp_path, read):
    train, part = contents(), [row for row in contents(6, start=50) if row[0] != "owl"]
    found = read(train=write_folder(tmp_path / "a", train), validation=write_folder(tmp_path / "b", part))
    assert found.data.splits["validation"]["label"] == [0, 0, 1, 1]
    assert found.data.notes == ("validation has no images of 1 of 3 classes: owl",)
    later = [row for row in contents(6, start=50) if row[0] != "cat"]
    found = read(train=tmp_path / "a", validation=write_folder(tmp_path / "c", later))
    assert found.data.splits["validation"]["label"] == [1, 1, 2, 2], "numbers are the training data's"


def test_labels_of_a_saved_model(tmp_path, read):
    test = write_folder(tmp_path / "a", contents())
    found = read(test=test, labels=["owl", "rat", "dog", "cat"])
    assert found.labels == ("owl", "rat", "dog", "cat")
    assert found.data.splits["test"]["label"] == [3] * 4 + [2] * 4 + [0] * 4
    with pytest.raises(UserError, match=r"a has labels that the model has not: 'owl' \(first: .*a/owl/008.png\)"):
        read(test=test, labels=["cat", "dog"])
    with pytest.raises(
        UserError, match=r"or leave those images out \(test images without labels are put into one fold"
    ):
        read(test=write_folder(tmp_path / "c", [("2024", png(1))]), labels=["cat", "dog"])
    numbered = read(validation=write_shards(tmp_path / "b", contents()), labels=CLASSES)
    assert numbered.data.splits["validation"]["label"] == [0] * 4 + [1] * 4 + [2] * 4
    assert numbered.data.notes == ("labels are taken for the model's by their numbers: 0 is cat, 1 is dog, 2 is owl",)


def test_named_columns(tmp_path, read):
    path = write_parquet(tmp_path / "a.parquet", contents(), image="photo")
    with pytest.raises(
        UserError, match=r"no single column that has images, but path, label, photo: name .*image_column"
    ):
        read(train=path)
    found = read(train=path, image_column_name="photo", label_column_name="label")
    assert found.labels == CLASSES
    with pytest.raises(UserError, match=r"has no column 'picture', but path, label, photo: name .*--image_column_name"):
        read(train=path, image_column_name="picture")
    with pytest.raises(UserError, match=r"has no column 'class', but path, label, photo: name .*--label_column_name"):
        read(train=path, image_column_name="photo", label_column_name="class")
    with pytest.raises(UserError, match=r"column 'photo' of .* cannot be both image and label"):
        read(train=path, image_column_name="photo", label_column_name="photo")


def test_bad_columns(tmp_path, read):
    bare = tmp_path / "bare.parquet"
    pq.write_table(pyarrow.table({"image": [png(1)]}), bare)
    with pytest.raises(UserError, match=r"bare.parquet has no column 'label', but image"):
        read(train=bare)
    numbers = tmp_path / "numbers.parquet"
    pq.write_table(pyarrow.table({"image": [1.5], "label": [0]}), numbers)
    with pytest.raises(UserError, match=r"numbers.parquet: column 'image' has no images, but"):
        read(train=numbers)
    lists = write_parquet(tmp_path / "lists.parquet", contents(3), label=[["a"], ["b"], ["a", "b"]])
    with pytest.raises(UserError, match="'label' has lists of labels, and an image has one"):
        read(train=lists)
    holes = write_parquet(tmp_path / "holes.parquet", contents(3), label=["a", None, "b"])
    with pytest.raises(UserError, match=r"holes.parquet row 2: 'label' has no label: fill it in"):
        read(train=holes)


BAD = {
    "no data": (lambda folder: {}, "there is no data: give a training, a validation or a test split"),
    "one class": (
        lambda folder: {"train": write_folder(folder / "a", contents(classes=("cat",)))},
        "every label of .*a is 'cat': a classifier needs at least two classes",
    ),
    "a new class": (
        lambda folder: {
            "train": write_folder(folder / "a", contents()),
            "validation": write_folder(folder / "b", contents(classes=("cat", "emu", "fox"))),
        },
        r"b has labels that the training data has not: 'emu', 'fox' \(first: .*b/emu/004.png\)",
    ),
    "a folder without classes": (
        lambda folder: {"train": write_folder(folder / "a", [(".", png(1))])},
        "a has images, but no folders: to train or to validate, put the images of each class into a folder",
    ),
    "an empty folder": (
        lambda folder: {"train": folder},
        "has no images: it needs a folder of images for each class",
    ),
    "nothing there": (lambda folder: {"train": folder / "a"}, "a is not there: give a folder of images, or a file"),
    "another file": (
        lambda folder: {"train": write_folder(folder, [(".", png(1))]) / "000.png"},
        "000.png is not read: give a folder with a folder of images for each class, parquet files,",
    ),
    "idx without labels": (
        lambda folder: {"train": write_idx(folder)[1].rename(folder / "x") and folder / "train-images-idx3-ubyte"},
        "has no labels beside it: put them there, with 'labels' for 'images' in the name",
    ),
    "too few to hold out": (
        lambda folder: {"train": write_folder(folder / "a", contents(3)), "hold_out": HoldOut(5)},
        "has 3 rows, too few to hold out 5 for validation: make --train_val_split smaller",
    ),
    "no share, before the images are decoded": (
        lambda folder: {"train": corrupted(folder / "a", (1, b"x")), "hold_out": HoldOut(1.5)},
        "--train_val_split 1.5 is neither a fraction below 1 nor a number of rows",
    ),
    "a validation split alone": (
        lambda folder: {"validation": write_folder(folder / "a", contents())},
        "without training data the labels come from a trained model",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_mistakes(tmp_path, read, case):
    make, message = BAD[case]
    with pytest.raises(UserError, match=message):
        read(**make(tmp_path))


def test_damaged_files(tmp_path, read):
    parquet = write_parquet(tmp_path / "a.parquet", contents())
    parquet.write_bytes(parquet.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a.parquet cannot be read: "):
        read(train=parquet)
    shards = write_shards(tmp_path / "b", contents())
    (shards / "part-0001.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(UserError, match="b cannot be read: "):
        read(train=shards)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/part.tar").write_bytes((shards / "part-0000.tar").read_bytes()[:3000])
    with pytest.raises(UserError, match="c cannot be read: "):
        read(train=tmp_path / "c")


def test_a_full_disk_is_no_mistake_of_the_data(tmp_path, read, monkeypatch):
    """It passes as what it is, which the command line puts into words."""
    from datasets.arrow_writer import ArrowWriter

    def fail(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder, table = write_folder(tmp_path / "a", contents()), write_parquet(tmp_path / "a.parquet", contents())
    for source, method in ((folder, "write"), (table, "write_table"), (folder, "finalize"), (table, "finalize")):
        with monkeypatch.context() as patch:
            patch.setattr(ArrowWriter, method, fail)
            with pytest.raises(OSError, match="No space left on device"):
                read(train=source)
    assert read(train=folder).data.sizes == {"train": 12}, "and nothing half-written is found again"


# The hub, and known tasks.


def test_the_hub(tmp_path, monkeypatch):
    rows = contents()
    features = Features({"img": Image(), "label": ClassLabel(names=list(CLASSES)), "id": Value("int64")})
    data = DatasetDict(
        train=Dataset.from_dict(
            {
                "img": [{"bytes": data, "path": None} for _, data in rows],
                "label": [name for name, _ in rows],
                "id": range(len(rows)),
            },
            features=features,
        )
    )
    data["test"] = data["train"].map(lambda row: {"label": -1})
    asked = []
    monkeypatch.setattr(images, "load_dataset", lambda *names, **_: asked.append(names) or data)
    found = load_from_hub("a/b", "c", HoldOut(3))
    assert asked == [("a/b", "c")]
    assert found.labels == CLASSES
    assert found.data.source == "hub: a/b c"
    assert found.data.sizes == {"train": 9, "validation": 3, "test": 12}
    assert found.data.splits["test"].column_names == ["image", "sha256"], "labels of -1 are hidden ones"
    with pytest.raises(UserError, match="a/b, train has no column 'class', but img, label, id"):
        load_from_hub("a/b", None, NONE, label_column_name="class")
    del data["train"], data["test"]
    data["dev"] = Dataset.from_dict({})
    with pytest.raises(UserError, match="a/b has no split train, validation or test, but dev"):
        load_from_hub("a/b", None, NONE)


def write_mnist(folder, labels=tuple(range(10)) * 2):
    levels = np.random.default_rng(0).integers(0, 256, (len(labels) + 10, 28, 28), dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows, numbers in (("train", levels[10:], labels), ("t10k", levels[:10], range(10))):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(rows))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(list(numbers)))
    return folder


@pytest.mark.parametrize(("task", "inner"), [("mnist", "."), ("fashion_mnist", "FashionMNIST/raw")])
def test_mnist(tmp_path, task, inner):
    write_mnist(tmp_path / "data" / inner)
    found = load_task(task, tmp_path / "data", hold_out=HoldOut(10), cache_dir=str(tmp_path))
    assert found.labels == TASKS[task].labels
    assert found.labels[1] == ("1" if task == "mnist" else "Trouser")
    assert found.data.sizes == {"train": 10, "validation": 10, "test": 10}
    assert found.data.splits["test"]["label"] == list(range(10))
    assert found.data.splits["test"][0]["image"].size == (28, 28)
    assert found.data.notes == (
        f"WARNING: this is not the whole {task}: train has 20 images, the real one 60000",
        f"WARNING: this is not the whole {task}: test has 10 images, the real one 10000",
        "held out of the training data for validation: 10 rows, by class (seed 42)",
    )


def test_mnist_and_fashion_mnist_side_by_side(tmp_path):
    """As torchvision leaves them: their files have the same names, and each task takes its own."""
    folders = {"mnist": tmp_path / "data/MNIST/raw", "fashion_mnist": tmp_path / "data/FashionMNIST/raw"}
    for number, folder in enumerate(folders.values(), start=2):
        write_mnist(folder, tuple(range(10)) * number)
    for number, task in enumerate(folders, start=2):
        found = load_task(task, tmp_path / "data", hold_out=NONE, cache_dir=str(tmp_path / "cache"))
        assert found.data.sizes["train"] == 10 * number


def write_cifar10(folder):
    folder.mkdir(parents=True)
    colours = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    for part in range(6):
        name = f"data_batch_{part + 1}.bin" if part < 5 else "test_batch.bin"
        (folder / name).write_bytes(batch_bin(colours[part * 10 : part * 10 + 10], range(10)))
    return folder


def test_cifar10(tmp_path):
    folder = write_cifar10(tmp_path / "data/cifar-10-batches-bin")
    found = load_task("cifar10", tmp_path / "data", hold_out=HoldOut(20), cache_dir=str(tmp_path))
    assert found.data.sizes == {"train": 30, "validation": 20, "test": 10}
    assert found.labels == TASKS["cifar10"].labels
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"has data_batch_1.bin, but not data_batch_3.bin: fetch CIFAR-10 again"):
        load_task("cifar10", folder, cache_dir=str(tmp_path))


def test_a_known_task_from_parquet_files(tmp_path):
    """By the numbers of the classes, whatever the files call them."""
    rows = [("", png(i, "L", (28, 28))) for i in range(20)]
    names = [f"{name} (article)" for name in TASKS["fashion_mnist"].labels]
    for split, part, feature in (("train", rows, ClassLabel(names=names)), ("test", rows[:10], Value("int8"))):
        Dataset.from_dict(
            {"image": [{"bytes": data, "path": None} for _, data in part], "label": [i % 10 for i in range(len(part))]},
            features=Features({"image": Image(), "label": feature}),
        ).to_parquet(str(tmp_path / f"data/{split}-00000-of-00001.parquet"))
    found = load_task("fashion_mnist", tmp_path / "data", hold_out=HoldOut(10), cache_dir=str(tmp_path))
    assert found.labels == TASKS["fashion_mnist"].labels
    assert found.data.splits["test"]["label"] == list(range(10))
    assert "WARNING: the images of" in found.data.notes[-1]
    (tmp_path / "data/test-00000-of-00001.parquet").rename(tmp_path / "data/test-00000-of-00002.parquet")
    with pytest.raises(UserError, match=r"data has 1 of the 2 files test-\*-of-00002.parquet"):
        load_task("fashion_mnist", tmp_path / "data", cache_dir=str(tmp_path))


def test_a_known_task_by_its_installed_package_or_the_hub(tmp_path, monkeypatch):
    task = TASKS["fashion_mnist"]
    monkeypatch.setitem(TASKS, "fashion_mnist", replace(task, installed=write_mnist(tmp_path / "data")))
    found = load_task("fashion_mnist", hold_out=HoldOut(10), cache_dir=str(tmp_path))
    assert found.data.source == str(tmp_path / "data")
    assert task.default_dir in (None, task.installed)
    assert TASKS["mnist"].default_dir is None

    def refuse(*names, **_options):
        raise ConnectionError(names)

    monkeypatch.setattr(images, "load_dataset", refuse)
    with pytest.raises(ConnectionError, match="ylecun/mnist"):
        load_task("mnist")


def test_imagenet(tmp_path, monkeypatch):
    wnids = [f"n{i:08}" for i in range(4)]
    monkeypatch.setitem(TASKS, "imagenet", replace(TASKS["imagenet"], num_classes=4))
    write_folder(tmp_path / "data/train", [(name, png(i)) for i, name in enumerate(wnids * 2)])
    with pytest.raises(UserError, match="data has train data of imagenet, but no validation data"):
        load_task("imagenet", tmp_path / "data", cache_dir=str(tmp_path))
    write_folder(tmp_path / "data/val", [(name, png(10 + i)) for i, name in enumerate(wnids)])
    found = load_task("imagenet", tmp_path / "data", cache_dir=str(tmp_path))
    assert found.labels == tuple(wnids)
    assert found.data.sizes == {"train": 8, "validation": 4}


def test_mistakes_in_known_tasks(tmp_path):
    cache = {"cache_dir": str(tmp_path / "cache")}
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none has no data of cifar10: it needs data_batch_1.bin to data_batch_5.bin"):
        load_task("cifar10", tmp_path / "none", **cache)
    with pytest.raises(UserError, match=r"data_dir .*nowhere is not a folder"):
        load_task("mnist", tmp_path / "nowhere", **cache)
    with pytest.raises(UserError, match="label 10 of image 20 is not from 0 to 9"):
        load_task("mnist", write_mnist(tmp_path / "a", [*range(10), *range(1, 11)]), **cache)
    write_mnist(tmp_path / "a")
    (tmp_path / "a/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="has no labels beside it: put t10k-labels-idx1-ubyte there"):
        load_task("mnist", tmp_path / "a", **cache)
    (tmp_path / "a/t10k-images-idx3-ubyte").unlink()
    with pytest.raises(UserError, match="a has train data of mnist, but no test data"):
        load_task("mnist", tmp_path / "a", **cache)
    for split in ("train", "val"):
        write_folder(tmp_path / "b" / split, contents())
    with pytest.raises(UserError, match=r"imagenet has 1000 classes, and .*b has 3: give the whole data, or name this"):
        load_task("imagenet", tmp_path / "b", **cache)
    for labels, message in (
        ([0, 10], r"train\.parquet row 2: mnist has no label 10"),
        (["0", "ten"], r"train\.parquet row 2: mnist has no label 'ten'"),
    ):
        folder = tmp_path / str(labels[1])
        for split in ("train", "test"):
            write_parquet(folder / f"{split}.parquet", contents(2), label=labels)
        with pytest.raises(UserError, match=message):
            load_task("mnist", folder, **cache)
    names = ClassLabel(names=["a", "b"])
    for split in ("train", "test"):
        rows = {"image": [{"bytes": png(i), "path": None} for i in range(2)], "label": [0, 1]}
        found = Dataset.from_dict(rows, features=Features({"image": Image(), "label": names}))
        found.to_parquet(str(tmp_path / f"c/{split}.parquet"))
    with pytest.raises(UserError, match="has 2 classes, and mnist has 10: give its own data, or name"):
        load_task("mnist", tmp_path / "c", **cache)


def test_mini_images():
    found = load_mini("cifar10")
    assert found.data.mini
    assert "mini data in the place of cifar10" in found.data.source
    assert found.data.sizes == SIZES
    assert found.labels == tuple("0123456789")
    assert found.data.fingerprint == load_mini("mnist").data.fingerprint
    for split, rows in found.data.splits.items():
        assert np.ptp(np.bincount(rows["label"], minlength=10)) <= 0.05 * len(rows), f"by class in {split}"
    image = found.data.splits["train"][0]["image"]
    assert (image.mode, image.size, np.asarray(image).dtype) == ("L", (8, 8), np.uint8)
    assert max(np.asarray(image).max() for image in found.data.splits["test"]["image"]) == 255

"""`sqloss images`, through the command line that a user types."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from commands import assert_refused
from PIL import Image
from test_image_files import idx
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

from sqloss_plugins import cli, paper
from sqloss_plugins.data.image_tasks import TASKS
from sqloss_plugins.data.mini_images import load_mini
from sqloss_plugins.hf.image_models import ARCHITECTURES, Pixels, new_image_model
from sqloss_plugins.hf.options import parse as parse_task
from sqloss_plugins.hf.tasks.images import Images, main
from sqloss_plugins.probability import probabilities
from sqloss_plugins.results import OF_OUTPUTS, read_result

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}
PAIRS = (
    ("mnist", "tcnn"),
    ("fashion_mnist", "tcnn"),
    ("cifar10", "wide_resnet"),
    ("cifar10", "vit"),
    ("imagenet", "resnet50"),
    ("imagenet", "efficientnet"),
)
QUICK = ["--use_cpu", "--disable_tqdm", "true", "--dataloader_num_workers", "0"]
TIMM = ["--arch", "test_resnet", "--image_size", "32", "--learning_rate", "3e-3", "--augmentation", "crop_flip", *QUICK]
SMALL = ["--arch", "wide_resnet", "--depth", "10", "--widen_factor", "1", "--image_size", "8", *QUICK]


def write_photos(folder, count, names=tuple(COLOURS), seed=0):
    """Images of several sizes whose colour is their class."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            height, width = rng.integers(30, 60, 2)
            pixels = np.array(COLOURS[name]) + rng.normal(0, 30, (height, width, 3))
            suffix = "jpg" if number % 2 else "png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.{suffix}")
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of images of one's own, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos" / "train", 12)
    write_photos(tmp_path / "photos" / "val", 4, seed=1)
    return ["--train_dir", "photos/train", "--validation_dir", "photos/val"]


def values(folder, split="validation"):
    return read_result(Path(folder)).metrics[split][OF_OUTPUTS]


def predictions(folder):
    with open(Path(folder, "predict_results.tsv"), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
def test_mini_data(loss, tmp_path, monkeypatch, capsys):
    """The run's folder, metrics, probabilities, and the model scored again and in a pipeline."""
    monkeypatch.chdir(tmp_path)
    options = ["--task", "mnist", "--mini", "--arch", "tcnn", "--num_train_epochs", "4", "--loss", loss, *QUICK]
    assert cli.main(["images", *options]) == 0
    assert "MINI DATA: not the real task" in capsys.readouterr().out
    (folder,) = Path("runs/mnist/tcnn-4-25").iterdir()
    rescaled = "-k1-M1" if loss == "square" else ""
    assert folder.name == f"{loss}{rescaled}-lr0.002-early_stopping-s42-mini"
    result = read_result(folder)
    assert result.mini
    assert result.data["sizes"] == {"train": 1257, "validation": 270, "test": 270}
    assert list(values(folder)) == ["loss", "accuracy", "top5"]
    assert values(folder, "test")["accuracy"] > 0.5
    assert values(folder, "test")["top5"] > values(folder, "test")["accuracy"]
    with np.load(folder / "outputs.npz") as arrays:
        outputs, targets = arrays["test_outputs"], arrays["test_targets"]
    method = {"method": "square", "k": 1.0, "M": 1.0} if loss == "square" else {"method": "softmax"}
    expected = probabilities(torch.tensor(outputs), **method).numpy()
    rows = predictions(folder)
    assert list(rows[0]) == ["index", "prediction", *(f"p({digit})" for digit in range(10))]
    assert [[float(row[f"p({digit})"]) for digit in range(10)] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert [int(row["prediction"]) for row in rows] == outputs.argmax(1).tolist()
    ranks = (outputs > outputs[np.arange(270), targets][:, None]).sum(1)
    assert values(folder, "test")["top5"] == pytest.approx((ranks < 5).mean())
    assert AutoConfig.from_pretrained(folder).permutation_seed == 0
    again = ["--task", "mnist", "--mini", "--do_predict", "--model_name_or_path", str(folder), *QUICK]
    assert main([*again, "--output_dir", "again"]) == 0
    assert read_result(Path("again")).loss == loss
    assert values("again", "test") == pytest.approx(values(folder, "test"), rel=1e-5)
    task = parse_task(Images, ["--task", "mnist", "--mini", "--arch", "tcnn"])
    images = task.load().splits["test"]["image"][:8]
    found = pipeline("image-classification", str(folder), device="cpu")([image.convert("RGB") for image in images])
    assert [best[0]["label"] for best in found] == [row["prediction"] for row in rows[:8]]


@pytest.mark.parametrize(
    ("options", "is_said"),
    [(["--arch", "vit"], True), (["--arch", "wide_resnet"], False), (["--arch", "vit", "--mini"], False)],
)
def test_a_new_model_with_the_settings_of_fine_tuning_is_told(options, is_said):
    task = parse_task(Images, ["--task", "cifar10", *options])
    task.data, task.labels = load_mini("cifar10").data, [str(digit) for digit in range(10)]
    told = "WARNING: a new vit has random weights, and the paper's, whose settings these are, was trained before"
    assert any(note.startswith(told) for note in task.notes()) is is_said


def test_predictions_on_a_part_say_which_images_they_are_of(tmp_path):
    """By the rows of the source, from 0."""
    mini = ["--task", "mnist", "--mini", "--arch", "tcnn", "--output_dir", str(tmp_path)]
    everything = parse_task(Images, mini).load().splits["test"]["image"]
    task = parse_task(Images, [*mini, "--max_predict_samples", "5"])
    task.data = task.load()
    task.names = task.labels
    task.predicted("test", np.eye(10)[:5], None)
    rows = predictions(tmp_path)
    assert [row["prediction"] for row in rows] == list("01234")
    numbers = [int(row["index"]) for row in rows]
    assert numbers != list(range(5))
    for number, image in zip(numbers, task.data.splits["test"]["image"], strict=True):
        assert np.array_equal(everything[number], image)


def test_a_folder_of_ones_own(photos, tmp_path):
    """A model of timm; then as it is on images without labels, on other files, and trained further."""
    write_photos(tmp_path / "photos" / "test", 3, seed=2)
    options = [*photos, "--test_dir", "photos/test", *TIMM, "--num_train_epochs", "12", "--max_corrupt_share", "0.1"]
    (tmp_path / "photos" / "train" / "red" / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    assert main(options) == 0
    (folder,) = Path("runs/photos/test_resnet").iterdir()
    result = read_result(folder)
    assert (result.task, result.data["sizes"]) == ("photos", {"train": 36, "validation": 12, "test": 9})
    assert list(values(folder)) == ["loss", "accuracy"]  # three classes: no top5
    assert values(folder)["accuracy"] > 0.6
    files = [row["file"] for row in predictions(folder)]
    assert files == sorted(str(path) for path in (tmp_path / "photos" / "test").rglob("*.*"))
    config = json.loads((folder / "config.json").read_text())
    assert (config["label_names"], config["square_loss"]) == (list(COLOURS), {"k": 1.0, "M": 1.0})
    Path("new").mkdir()
    for number, file in enumerate(files):
        Path("new", f"{number}{Path(file).suffix}").write_bytes(Path(file).read_bytes())
    saved = ["--model_name_or_path", str(folder), *QUICK]
    assert main(["--do_predict", "--test_dir", "new", *saved, "--output_dir", "predicted"]) == 0
    before, after = ([row["prediction"] for row in predictions(place)] for place in (folder, "predicted"))
    assert after == before
    found = pipeline("image-classification", str(folder), device="cpu")(files)
    assert [best[0]["label"] for best in found] == before
    (tmp_path / "photos" / "train" / "red" / "broken.jpg").unlink()
    assert main([*photos[:2], *saved, "--num_train_epochs", "1", "--output_dir", "further"]) == 0
    assert AutoConfig.from_pretrained("further").id2label == dict(enumerate(COLOURS))


def test_a_models_own_order_of_the_labels_is_kept(photos):
    names = ["red", "blue", "green"]
    args = parse_task(Images, [*photos, *SMALL]).args
    about = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    model, processor = new_image_model(args, about, Pixels(8))
    model.save_pretrained("own")
    processor.save_pretrained("own")
    options = ["--model_name_or_path", "own", *QUICK, "--num_train_epochs", "1", "--augmentation", "none"]
    assert main([*photos, *options, "--test_dir", "photos/val", "--output_dir", "out"]) == 0
    assert AutoConfig.from_pretrained("out").id2label == dict(enumerate(names))
    with np.load("out/outputs.npz") as arrays:
        targets, outputs = arrays["test_targets"], arrays["test_outputs"]
    rows = predictions("out")
    assert [names[target] for target in targets] == [Path(row["file"]).parent.name for row in rows]
    assert [names[best] for best in outputs.argmax(1)] == [row["prediction"] for row in rows]


def test_mixing_and_a_teacher(photos, capsys):
    """Class probabilities as targets, of mixed images and of a model of one's own."""
    common = [*photos, *SMALL, "--num_train_epochs", "1", "--mixup_alpha", "0.2", "--cutmix_alpha", "1"]
    assert main([*common, "--output_dir", "teacher"]) == 0
    printed = capsys.readouterr().out
    assert "augmentation resized_crop, mixup 0.2, cutmix 1" in printed
    assert "wide_resnet-10-1 (new, wide residual network" in printed
    assert main([*common, "--teacher", "teacher", "--output_dir", "pupil"]) == 0
    assert "by the teacher teacher" in capsys.readouterr().out


def test_the_papers_defaults():
    for name, arch in PAIRS:
        for loss in ("square", "cross_entropy"):
            task = parse_task(Images, ["--task", name, "--data_dir", "x", "--arch", arch, "--loss", loss])
            found = paper.hyperparameters({"fashion_mnist": "mnist"}.get(name, name), arch, loss)
            config = task.config
            assert config.learning_rate == pytest.approx(found.rate(found.batch_size))
            assert (config.num_train_epochs, config.per_device_train_batch_size) == (found.epochs, found.batch_size)
            assert task.args.augmentation == found.augmentation
            assert config.lr_milestones == found.training.get("lr_milestones")
            assert (config.max_grad_norm, config.weight_decay) == (
                found.training["max_grad_norm"],
                found.training["weight_decay"],
            )
            assert task.paper_task == (None if name == "fashion_mnist" else name)
    assert parse_task(Images, ["--task", "imagenet", "--data_dir", "x"]).args.arch == "resnet50"
    rescaled = parse_task(Images, ["--task", "imagenet", "--data_dir", "x", "--arch", "resnet50"]).config
    rescaled.paper_task = "imagenet"
    assert (rescaled.choose_rescaling(1000).k, rescaled.choose_rescaling(1000).M) == (15, 30)


def test_the_learning_rate_of_imagenet_is_in_proportion_to_the_batch(capsys):
    start = ["--task", "imagenet", "--data_dir", "x", "--arch", "resnet50", "--use_cpu"]
    small = ["--per_device_train_batch_size", "64", "--gradient_accumulation_steps", "2"]
    task = parse_task(Images, [*start, *small])
    assert task.config.learning_rate == pytest.approx(0.3 * 128 / 256)
    assert "lr: 0.3 for 256 images a step" in task.about()["training"]
    assert parse_task(Images, [*start, *small, "--learning_rate", "0.7"]).config.learning_rate == 0.7


def test_names_of_models():
    for options, expected in (
        (["--arch", "wide_resnet"], "wide_resnet"),
        (["--arch", "wide_resnet", "--widen_factor", "2"], "wide_resnet-28-2"),
        (["--arch", "vit", "--depth", "2"], "vit-2-768-16"),
        (["--arch", "resnet50"], "resnet50"),
        (["--arch", "timm:resnet18"], "resnet18"),
        (["--arch", "resnet18"], "resnet18"),
    ):
        task = parse_task(Images, ["--task", "cifar10", "--data_dir", "x", *options])
        assert task.find_model() == (None, expected)


def test_new_models_of_timm_start_as_timms():
    """Transformers would draw the weights of all convolutions from N(0, 0.02^2)."""
    args = parse_task(Images, ["--task", "cifar10", "--data_dir", "x", "--arch", "test_resnet"]).args
    model, processor = new_image_model(args, {"num_labels": 10}, Pixels(32))
    own = timm.create_model("test_resnet", num_classes=10)
    for (name, found), expected in zip(model.timm_model.named_parameters(), own.parameters(), strict=True):
        if found.dim() == 4:
            assert found.std().item() == pytest.approx(expected.std().item(), rel=0.2), name
    assert processor.data_config["input_size"] == (3, 32, 32)


def test_few_images_are_of_all_classes(photos):
    task = parse_task(Images, [*photos, *SMALL, "--max_train_samples", "12", "--max_eval_samples", "6"])
    splits = task.load().splits
    assert (len(splits["train"]), len(splits["validation"])) == (12, 6)
    assert set(splits["train"]["label"]) == {0, 1, 2}


def test_the_real_mnists_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()
    rng = np.random.default_rng(0)
    for name in ("train", "t10k"):
        for kind, array in (("images-idx3", rng.integers(0, 256, (60, 28, 28))), ("labels-idx1", np.arange(60) % 10)):
            Path("raw", f"{name}-{kind}-ubyte").write_bytes(idx(array.astype(np.uint8)))
    options = ["--task", "mnist", "--data_dir", "raw", "--arch", "tcnn", "--depth", "2", "--train_val_split", "20"]
    assert main([*options, *QUICK, "--max_steps", "1", "--protocol", "same_epochs", "--output_dir", "out"]) == 0
    assert "WARNING: this is not the whole mnist" in capsys.readouterr().out
    assert read_result(Path("out")).data["sizes"] == {"train": 40, "validation": 20, "test": 60}
    assert read_result(Path("out")).arch == "tcnn-2-25"


OWN = ["--train_dir", "photos/train"]
NEW = ["--arch", "wide_resnet"]
BAD_OPTIONS = {
    "no data": (NEW, "there are no images: give --train_dir, --dataset_name, or --task with one of mnist, "),
    "no model": (OWN, "there is no model: give --arch for a new one or --model_name_or_path for a trained one"),
    "no folder": ([*OWN, *NEW], "is not there: give a folder of images, or a file"),
    "two models": (
        [*OWN, *NEW, "--model_name_or_path", "x"],
        "--model_name_or_path is of a model with weights, and --arch wide_resnet is a new one: leave it out",
    ),
    "unknown architecture": ([*OWN, "--arch", "resnet5"], "--arch resnet5 is neither one of tcnn, wide_resnet, vit"),
    "size of another": ([*OWN, *NEW, "--patch_size", "4"], "--patch_size is not of --arch wide_resnet: leave it out"),
    "size of weights": (
        [*OWN, "--model_name_or_path", "x", "--depth", "4"],
        "--depth is of a new model, and there is no --arch: leave it out",
    ),
    "depth": ([*OWN, *NEW, "--depth", "11"], "--depth of a wide_resnet must be 6 n + 4, such as 10, 16 or 28, got 11"),
    "patches": (
        [*OWN, "--arch", "vit", "--patch_size", "15"],
        "--image_size 224 must be a multiple of --patch_size 15",
    ),
    "no model there": ([*OWN, "--model_name_or_path", "nowhere"], "nowhere is neither a model's folder nor a model on"),
    "mini of nothing": (["--mini", *NEW], "--mini needs --task with one of mnist"),
    "mini and folders": (["--mini", "--task", "mnist", "--data_dir", "x", *NEW], "--mini and --data_dir exclude each"),
    "folder of no task": ([*NEW, "--data_dir", "x"], "--data_dir is for --task with one of mnist"),
    "two sources": ([*OWN, *NEW, "--dataset_name", "x"], "--train_dir and --dataset_name exclude each other"),
    "untrained": ([*OWN, *NEW, "--do_eval"], "--arch wide_resnet is a new model, which has to be trained"),
    "nothing to train on": (["--test_dir", "x", *NEW], "training needs --train_dir; a saved model is scored by"),
    "split of no split": (
        [*OWN, *NEW, "--validation_dir", "x", "--train_val_split", "0.1"],
        "--train_val_split is of data that is held out, not of --validation_dir: leave it out",
    ),
    "split of imagenet": (
        ["--task", "imagenet", "--data_dir", "x", *NEW, "--train_val_split", "0.1"],
        "--train_val_split is of data that is held out, and imagenet has validation data: leave it out",
    ),
    "corrupt mini data": (
        ["--task", "mnist", "--mini", *NEW, "--max_corrupt_share", "0.1"],
        "--max_corrupt_share is not of mini data: leave it out",
    ),
    "seed of mini data": (
        ["--task", "mnist", "--mini", *NEW, "--shuffle_seed", "1"],
        "--shuffle_seed changes nothing where all of the mini data are taken: leave it out",
    ),
    "column of a task": (
        ["--task", "mnist", "--data_dir", "x", *NEW, "--label_column_name", "y"],
        "--label_column_name is of images of your own, and --task mnist is known: leave it out",
    ),
    "mixing without training": (
        ["--test_dir", "x", "--model_name_or_path", "x", "--do_predict", "--mixup_alpha", "1"],
        "--mixup_alpha is of training, and nothing is trained: leave it out",
    ),
    "negative mixing": ([*OWN, *NEW, "--cutmix_alpha", "-1"], "--cutmix_alpha must be a finite number of at least 0"),
    "unknown augmentation": ([*OWN, *NEW, "--augmentation", "blur"], "argument --augmentation: invalid choice"),
    "unused columns": ([*OWN, *NEW, "--remove_unused_columns", "true"], "--remove_unused_columns is for tables"),
    "no hub": (
        ["--task", "cifar10", *NEW],
        "the data of cifar10 is not on this machine, and the hub cannot be reached",
    ),
    "empty": (["--train_dir", "", *NEW], "--train_dir is empty: give a value, or leave it out"),
}


@pytest.mark.parametrize("case", list(BAD_OPTIONS))
def test_bad_options(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options, message = BAD_OPTIONS[case]
    assert_refused(main, options, "sqloss images", message, tmp_path, capsys)


def corrupt(root):
    (root / "photos/train/red/0.png").write_bytes(b"no image")


def no_class_in_validation(root):
    for path in (root / "photos/val/red").iterdir():
        path.unlink()
    (root / "photos/val/red").rmdir()


def new_class_in_validation(root):
    (root / "photos/val/red").rename(root / "photos/val/violet")


def nothing(root):
    for path in (root / "photos/train").rglob("*.*"):
        path.unlink()


def one_class(root):
    for name in ("red", "blue"):
        for path in (root / "photos/train" / name).iterdir():
            path.unlink()
        (root / "photos/train" / name).rmdir()


BAD_DATA = {
    "corrupt": (corrupt, "red/0.png"),
    "class that is not trained": (new_class_in_validation, "violet"),
    "empty": (nothing, "photos/train"),
    "one class": (one_class, "a classifier needs at least two classes"),
}


@pytest.mark.parametrize("case", list(BAD_DATA))
def test_bad_data(case, photos, tmp_path, capsys):
    spoil, message = BAD_DATA[case]
    spoil(tmp_path)
    assert main([*photos, *SMALL, "--output_dir", "out"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_a_folder_one_level_too_high(photos, capsys):
    assert main(["--train_dir", "photos", *SMALL, "--output_dir", "out"]) == 2
    assert "--train_dir photos has the folders train, val, which are splits and no classes" in capsys.readouterr().err


def test_a_class_without_validation_images_is_said(photos, tmp_path, capsys):
    no_class_in_validation(tmp_path)
    assert main([*photos, *SMALL, "--num_train_epochs", "1", "--output_dir", "out"]) == 0
    assert "WARNING: no example of red in the validation data" in capsys.readouterr().out


def test_a_wrong_number_of_classes(photos, tmp_path, capsys):
    """Of a known task's data, and of a saved model's."""
    assert main([*photos, *SMALL, "--num_train_epochs", "1", "--output_dir", "out"]) == 0
    write_photos(tmp_path / "two", 4, ("blue", "red"))
    (tmp_path / "two" / "red").rename(tmp_path / "two" / "violet")
    capsys.readouterr()
    options = ["--do_eval", "--validation_dir", "two", "--model_name_or_path", "out", *QUICK, "--output_dir", "no"]
    assert main(options) == 2
    assert "violet" in capsys.readouterr().err
    options = ["--train_dir", "two", "--model_name_or_path", "out", *QUICK, "--num_train_epochs", "1"]
    assert main([*options, "--output_dir", "no"]) == 2
    expected = "out has 3 classes, and the data of two has 2: add --ignore_mismatched_sizes for a new output layer"
    assert expected in capsys.readouterr().err
    assert not Path("no").exists()
    assert main([*options, "--ignore_mismatched_sizes", "--output_dir", "new"]) == 0
    assert AutoConfig.from_pretrained("new").id2label == {0: "blue", 1: "violet"}
    (tmp_path / "photos/val").rename(tmp_path / "photos/val.old")
    write_photos(tmp_path / "photos" / "val", 2)
    assert main(["--task", "imagenet", "--data_dir", "photos", "--arch", "resnet50", *QUICK]) == 2
    assert "imagenet has 1000 classes, and photos has 3" in capsys.readouterr().err


def test_sizes_that_do_not_fit(photos, tmp_path, capsys):
    """Of a new model and its images, and of a model and another one's image processor."""
    assert main([*photos, "--arch", "inception_v3", "--image_size", "32", *QUICK, "--output_dir", "no"]) == 2
    assert "inception_v3 does not take the images of its image processor: " in capsys.readouterr().err
    args = parse_task(Images, ["--task", "mnist", "--mini", "--arch", "tcnn"]).args
    model, _ = new_image_model(args, {"num_labels": 3}, Pixels(8))
    model.save_pretrained("eight")
    _, processor = new_image_model(args, {"num_labels": 3}, Pixels(16))
    processor.save_pretrained("sixteen")
    options = ["--model_name_or_path", "eight", "--image_processor_name", "sixteen", *QUICK, "--output_dir", "no"]
    assert main([*photos, *options]) == 2
    assert "this model reads images of shape (8, 8), not (16, 16)" in capsys.readouterr().err


def test_images_alone_need_the_vision_extra():
    """Without it the commands for texts run, and this one says what is lacking."""
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('PIL', 'timm', 'torchvision')))\n"
        "import sqloss_plugins.hf.tasks.classification, sqloss_plugins.hf.tasks.glue\n"
        "from sqloss_plugins.cli import main\n"
        "sys.exit(main(['images', '--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "is not installed: pip install 'sqloss_plugins[vision]'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
@pytest.mark.parametrize(("task", "arch"), PAIRS)
def test_mini_data_is_learnt(task, arch, loss, tmp_path, monkeypatch):
    """Every pair, with its own defaults; chance is 10 %."""
    monkeypatch.chdir(tmp_path)
    options = ["--task", task, "--arch", arch, "--mini", "--loss", loss, *QUICK, "--output_dir", "out"]
    assert main(options) == 0
    assert values("out", "test")["accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "architecture", "parameters"),
    [("resnet50", "resnet50", 25_557_032), ("efficientnet", "efficientnet_b0", 5_288_548), ("vit", None, 86_567_656)],
)
def test_the_real_models_of_imagenet(arch, architecture, parameters, tmp_path, monkeypatch):
    """ImageNet's layout with a thousand classes, at full size, for one step; the parameters are torchvision's."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(1000):
            folder = tmp_path / "imagenet" / split / f"n{number:08}"
            folder.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / "0.JPEG")
    sizes = ["--max_train_samples", "4", "--max_eval_samples", "4", "--per_device_train_batch_size", "4"]
    options = ["--task", "imagenet", "--data_dir", "imagenet", "--arch", arch, *sizes, *QUICK]
    assert main([*options, "--num_train_epochs", "1", "--output_dir", "out"]) == 0
    result = read_result(Path("out"))
    assert (result.k, result.M, result.parameters) == (15, 30, parameters)
    config = AutoConfig.from_pretrained("out")
    assert architecture is None or config.architecture == architecture
    assert config.num_labels == 1000
    model = AutoModelForImageClassification.from_pretrained("out")
    processor = AutoImageProcessor.from_pretrained("out")
    pixels = processor(Image.new("RGB", (300, 200)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)
    assert model(pixels).logits.shape == (1, 1000)
    # Models from elsewhere name the classes in words, and two of them alike.
    model.config.id2label = {**{i: f"class {i}" for i in range(998)}, 998: "crane", 999: "crane"}
    model.save_pretrained("words")
    if arch == "vit":
        processor.save_pretrained("words")
    again = ["--task", "imagenet", "--data_dir", "imagenet", "--do_eval", "--max_eval_samples", "4", *QUICK]
    assert main([*again, "--model_name_or_path", "words", "--output_dir", "again"]) == 0
    assert values("again") == pytest.approx(values("out"), rel=1e-4)


def test_every_architecture_of_the_paper_is_there():
    rows = paper.tables()["test_results"]
    assert {row["model"] for row in rows if row["task"] in TASKS} == set(ARCHITECTURES)

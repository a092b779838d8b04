"""Saved models score right: in Transformers' pipelines, with PEFT, exported for programs that take a softmax."""

import json
import shutil

import numpy as np
import pytest
import torch
from commands import assert_refused
from datasets import Dataset
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    pipeline,
)

from sqloss_plugins.experiments.calibrate import main as calibrate
from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer, class_probabilities
from sqloss_plugins.hf.export import main as export
from sqloss_plugins.hf.tasks.classification import main as classify
from sqloss_plugins.probability import fit_temperature, label_probabilities, probabilities

TEXTS = ["the film is good", "the film is bad", "a good play", "a bad play", "so so", "neither good nor bad"]
LABELS = ["good", "bad", "good", "bad", "middling", "middling"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model):
    """A run of ``sqloss classify`` with k = 3 and M = 2."""
    folder = tmp_path_factory.mktemp("run")
    rows = [f"{text},{label}" for text, label in zip(TEXTS, LABELS, strict=True)] * 6
    for name in ("train", "validation", "test"):
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    files = [f"--{name}_file={folder / name}.csv" for name in ("train", "validation", "test")]
    options = ["--model_name_or_path", str(tiny_model), "--use_cpu", "--num_train_epochs", "3", "--k", "3", "--M", "2"]
    options += ["--learning_rate", "1e-3", "--cache_dir", str(folder / "cache"), "--disable_tqdm", "true"]
    assert classify([*files, *options, "--output_dir", str(folder / "out")]) == 0
    return folder / "out"


def outputs_of(model, tokenizer, texts=TEXTS):
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits


def scores(folder, **options):
    """By a pipeline, shape (N, C), in the order of the classes."""
    names = AutoConfig.from_pretrained(folder).id2label
    found = pipeline("text-classification", model=str(folder), device="cpu")(TEXTS, top_k=None, **options)
    return np.array(
        [[{each["label"]: each["score"] for each in row}[names[i]] for i in sorted(names)] for row in found]
    )


def test_pipelines_give_the_probabilities(run):
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    assert model.config.square_loss == {"k": 3.0, "M": 2.0}
    f = outputs_of(model.eval(), tokenizer)
    expected = probabilities(f, "square", k=3, M=2)
    np.testing.assert_allclose(scores(run), expected, atol=1e-5)
    np.testing.assert_allclose(scores(run, function_to_apply="softmax"), f.softmax(1), atol=1e-5)
    torch.testing.assert_close(class_probabilities(model.config, f), expected)
    del model.config.square_loss
    torch.testing.assert_close(class_probabilities(model.config, f), f.softmax(1))


def test_classes_of_tokens(tiny_model):
    tokenizer, reading = AutoTokenizer.from_pretrained(tiny_model), {"k": 3.0, "M": 2.0}
    model = AutoModelForTokenClassification.from_pretrained(tiny_model, num_labels=3).eval()
    model.config.square_loss = reading
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, device="cpu", ignore_labels=[])
    expected = probabilities(outputs_of(model, tokenizer, TEXTS[:1])[0, 1:-1], "square", **reading)
    assert [each["score"] for each in tag(TEXTS[0])] == pytest.approx(expected.amax(1).tolist(), abs=1e-5)


def test_masked_words(tiny_model):
    tokenizer, reading = AutoTokenizer.from_pretrained(tiny_model), {"k": 1.0, "M": 5.0}
    model = AutoModelForMaskedLM.from_pretrained(tiny_model).eval()
    model.config.square_loss = reading
    text = "the film is [MASK]"
    found = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")(text, top_k=3)
    position = tokenizer(text)["input_ids"].index(tokenizer.mask_token_id)
    expected = probabilities(outputs_of(model, tokenizer, [text])[0, position], "square", **reading).topk(3)
    assert [each["token"] for each in found] == expected.indices.tolist()
    assert [each["score"] for each in found] == pytest.approx(expected.values.tolist(), rel=1e-4)


def test_classes_of_sounds():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    sizes |= {"conv_dim": [8], "conv_stride": [5], "conv_kernel": [10], "num_feat_extract_layers": 1}
    sizes |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}
    reading = {"k": 3.0, "M": 2.0}
    model = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**sizes, num_labels=3, square_loss=reading)).eval()
    extractor = Wav2Vec2FeatureExtractor()
    sound = np.random.default_rng(0).normal(size=400).astype(np.float32)
    classify_sound = pipeline("audio-classification", model=model, feature_extractor=extractor, device="cpu")
    inputs = extractor(sound, sampling_rate=16000, return_tensors="pt")
    expected = probabilities(model(**inputs).logits.detach(), "square", **reading)[0].sort(descending=True).values
    assert [each["score"] for each in classify_sound(sound)] == pytest.approx(expected.tolist(), abs=1e-5)


def test_label_sets():
    config = AutoConfig.for_model("bert", problem_type="multi_label_classification", square_loss={"k": 3.0, "M": 2.0})
    f = torch.tensor([[-1.0, 0.3, 1.5, 2.5]])
    expected = label_probabilities(f, "square", k=3, M=2)
    torch.testing.assert_close(class_probabilities(config, f), expected, atol=2e-7, rtol=1e-5)
    del config.square_loss
    torch.testing.assert_close(class_probabilities(config, f), f.sigmoid())


def test_images_and_trainer(tmp_path):
    """The image pipeline, and ``predict_proba`` with what was fitted to the model; a new training forgets it."""
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, num_labels=3)
    config.image_size, config.patch_size = 8, 4
    config.square_loss = reading = {"k": 2.0, "M": 3.0, "floor": 0.01, "temperature": 0.5}
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    classify_image = pipeline("image-classification", model=str(tmp_path), device="cpu")
    found = {each["label"]: each["score"] for each in classify_image(image)}
    pixels = classify_image.image_processor(image, return_tensors="pt").pixel_values
    expected = probabilities(model(pixels).logits.detach(), "square", **reading)
    assert [found[f"LABEL_{i}"] for i in range(3)] == pytest.approx(expected[0].tolist(), abs=1e-5)

    rows = Dataset.from_dict({"pixel_values": pixels.tolist() * 4, "labels": [0, 1, 2, 0]}).with_format("torch")
    args = SquareLossConfig(str(tmp_path / "out"), k=2, M=3, use_cpu=True, report_to="none", num_train_epochs=1)
    trainer = SquareLossTrainer(model=model, args=args, train_dataset=rows)
    np.testing.assert_allclose(trainer.predict_proba(rows)[:1], expected, atol=1e-5)
    trainer.train()
    assert model.config.square_loss == {"k": 2.0, "M": 3.0}


def test_adapters_and_model_cards(tmp_path, tiny_model):
    """An adapter's folder has the configuration, too, from which its outputs can be read; the card says how."""
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = get_peft_model(base, LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["query"]))
    args = SquareLossConfig(str(tmp_path), k=3, M=2, use_cpu=True, report_to="none", max_steps=1, save_strategy="no")
    rows = Dataset.from_dict({**tokenizer(TEXTS, padding=True), "labels": [0, 1, 0, 1, 2, 2]})
    trainer = SquareLossTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    config = AutoConfig.from_pretrained(tmp_path)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, config=config)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert loaded.config.square_loss == {"k": 3.0, "M": 2.0}
    f = outputs_of(model.eval(), tokenizer)
    torch.testing.assert_close(outputs_of(loaded, tokenizer), f)
    found = pipeline("text-classification", model=loaded, tokenizer=tokenizer, device="cpu")(TEXTS)
    expected = probabilities(f, "square", k=3, M=2)
    assert [each["score"] for each in found] == pytest.approx(expected.amax(1).tolist(), abs=1e-5)
    assert trainer.predict_proba(rows) == pytest.approx(expected.numpy(), abs=1e-5)
    for _ in range(2):
        trainer.create_model_card()
        card = (tmp_path / "README.md").read_text()
        assert card.count("## Outputs") == 1
        assert "Trained with the square loss, k = 3, M = 2" in card


def test_what_was_fitted_is_kept(run, tmp_path, capsys):
    """``sqloss calibrate --save``: pipelines, predictions and the report agree from then on."""
    before = (run / "config.json").read_text()
    try:
        assert calibrate([str(run), "--bootstrap", "0", "--save", "--output", str(tmp_path / "report")]) == 0
        assert f"Kept in {run / 'config.json'}: floor " in capsys.readouterr().out
        (content,) = json.loads((tmp_path / "report/calibration.json").read_text())
        fitted = content["runs"][0]["fitted"]["square, fitted"]
        config = AutoConfig.from_pretrained(run)
        assert config.square_loss == {"k": 3.0, "M": 2.0, **fitted}
        f = outputs_of(
            AutoModelForSequenceClassification.from_pretrained(run).eval(), AutoTokenizer.from_pretrained(run)
        )
        expected = probabilities(f, "square", k=3, M=2, **fitted)
        np.testing.assert_allclose(scores(run), expected, atol=1e-5)
        again = ["--do_predict", "--model_name_or_path", str(run), "--test_file", str(run.parent / "test.csv")]
        again += ["--use_cpu", "--cache_dir", str(tmp_path / "cache"), "--disable_tqdm", "true"]
        assert classify([*again, "--output_dir", str(tmp_path / "again")]) == 0
        rows = [line.split("\t") for line in (tmp_path / "again/predict_results.tsv").read_text().splitlines()]
        written = np.array([[float(value) for value in row[2:]] for row in rows[1:]])
        np.testing.assert_allclose(written[:6], expected, atol=1e-4)
    finally:
        (run / "config.json").write_text(before)


def test_an_export_is_for_a_plain_softmax(run, tmp_path, capsys):
    """Its softmax is softmax(f / T), with T fitted on validation; labels, tokenizer and names are the same."""
    assert export([str(run), str(tmp_path / "copy")]) == 0
    printed = capsys.readouterr().out
    model = AutoModelForSequenceClassification.from_pretrained(run).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "copy")
    copy = AutoModelForSequenceClassification.from_pretrained(tmp_path / "copy").eval()
    assert not hasattr(copy.config, "square_loss")
    assert (model.config.trained_with, hasattr(copy.config, "trained_with")) == ("square", False)
    assert copy.config.id2label == model.config.id2label
    with np.load(run / "outputs.npz") as arrays:
        f, y = (torch.from_numpy(arrays[f"validation_{name}"]) for name in ("outputs", "targets"))
    temperature = fit_temperature(f, y)
    expected = outputs_of(model, tokenizer) / temperature
    torch.testing.assert_close(outputs_of(copy, tokenizer), expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(scores(tmp_path / "copy"), expected.softmax(1), atol=1e-4)
    p, q = probabilities(f.double(), "square", k=3, M=2), (f.double() / temperature).softmax(1)
    kl = float((p * (p / q).log()).sum(1).mean())
    nll = -float(q.log().gather(1, y[:, None]).mean())
    assert f"divided by {temperature:.4g}.\n" in printed
    assert f"likelihood {nll:.4f} nats" in printed
    assert f"divergence {kl:.4f} nats" in printed
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not names & {"result.json", "outputs.npz", "settings.json"}
    assert export([str(run), str(tmp_path / "copy")]) == 2
    assert "copy is there already: name a new folder" in capsys.readouterr().err
    (tmp_path / "here").mkdir()
    for wrong in (tmp_path / "nowhere", tmp_path / "copy"):
        options = [str(wrong), str(tmp_path / "here/copy")]
        assert_refused(export, options, "sqloss export", "is no run of a classifier with", tmp_path / "here", capsys)


def test_an_export_of_a_model_in_several_files(run, tmp_path):
    """None of them, nor their index, is left beside the new ones. One example to validate on is enough."""
    shutil.copytree(run, tmp_path / "run")
    with np.load(run / "outputs.npz") as arrays:
        np.savez(tmp_path / "run/outputs.npz", **{name: array[:1] for name, array in arrays.items()})
    (tmp_path / "run/model.safetensors").unlink()
    AutoModelForSequenceClassification.from_pretrained(run).save_pretrained(tmp_path / "run", max_shard_size="1MB")
    assert (tmp_path / "run/model.safetensors.index.json").is_file()
    assert export([str(tmp_path / "run"), str(tmp_path / "copy")]) == 0
    assert [path.name for path in (tmp_path / "copy").glob("*.safetensors*")] == ["model.safetensors"]


def test_stock_pipelines_are_as_they_were(tiny_model):
    """A model of another training: nothing changes for it."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    found = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")(TEXTS)
    expected = outputs_of(model, tokenizer).softmax(1).amax(1)
    assert [each["score"] for each in found] == pytest.approx(expected.tolist(), abs=1e-5)

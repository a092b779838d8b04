"""Stages 1 to 3: the corpus, the data as ESPnet takes them, and the tokens."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sqloss_plugins.data.corpora import Corpus, MiniCorpus, check_audio, check_subsets, write_data_dir
from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.recipe.error_rates import read_text
from sqloss_plugins.espnet.recipe.paths import DataFolder
from sqloss_plugins.folders import lock_folder
from sqloss_plugins.results import write_json

BLANK, UNKNOWN, SOS_EOS = "<blank>", "<unk>", "<sos/eos>"


# ---------------------------------------------------------------- 1 download


def download_corpus(corpus: Corpus, subsets: Sequence[str], folder: Path) -> None:
    """Downloads the subsets that are not there.

    Args:
        corpus: the corpus.
        subsets: names of its subsets.
        folder: where it goes.

    Raises:
        UserError: the download failed.
    """
    with lock_folder(folder.parent, wait=True):  # it may serve several folders of data
        try:
            corpus.download(subsets, folder)
        except (OSError, RuntimeError, EOFError) as error:  # torchaudio's and the archives' own
            raise UserError(
                f"the download to {folder} failed: {' '.join(str(error).split())}; begin again, or give --corpus"
            ) from error
    print(f"  the corpus is in {folder}", flush=True)


def make_mini_corpus(mini: MiniCorpus, folder: Path) -> None:
    """Makes the embedded corpus, once.

    Args:
        mini: what makes it.
        folder: where it goes.
    """
    with lock_folder(folder.parent, wait=True):
        if folder.is_dir():
            print(f"  done before, in {folder}", flush=True)
            return
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with tqdm(total=mini.sentences, desc="  eSpeak NG reads", unit=" sentences") as bar:
            mini.write(partial, bar.update)
        partial.rename(folder)


def download_text(url: str, path: Path) -> None:
    """Downloads the further text of the language model, once.

    Raises:
        UserError: the download failed.
    """
    with lock_folder(path.parent, wait=True):
        if path.is_file():
            print(f"  done before: {path}", flush=True)
            return
        partial = path.with_name(f".{path.name}.partial")
        try:
            with urllib.request.urlopen(url) as answer, partial.open("wb") as file:
                shutil.copyfileobj(answer, file)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the download of {url} failed: {error}; begin again, or give --lm_text FILE or none"
            ) from error
        os.replace(partial, path)
    print(f"  the text for the language model is {path}", flush=True)


# ---------------------------------------------------------------- 2 data preparation


def prepare_data(corpus: Corpus, source: Path, subsets: Sequence[str], data: DataFolder, nj: int) -> None:
    """Writes each subset's transcripts and checked audio as ESPnet takes them, and what it is.

    Args:
        corpus: the corpus.
        source: its folder.
        subsets: names of its subsets.
        data: where they go.
        nj: threads.

    Raises:
        UserError: audio or transcripts that cannot be used; an utterance in two subsets.
    """
    if not source.is_dir():
        raise UserError(f"{source} is no folder: begin with --stage 1, or give --corpus")
    # All are read, so that an utterance in two of them is found whenever a subset is added.
    read = {subset: corpus.read(source, subset) for subset in subsets}
    check_subsets(read)
    for subset, utterances in read.items():
        if data.about_file(subset).is_file():
            print(f"  {subset:20s} done before, in {data.subset(subset)}", flush=True)
            continue
        with tqdm(total=len(utterances), desc=f"  {subset}", unit=" files") as bar:
            samples = check_audio(utterances, nj, bar.update, corpus.sample_rate)
        seconds = sum(samples) / corpus.sample_rate
        write_data_dir(data.subset(subset), utterances)
        found = hashlib.sha256()
        for item in sorted(utterances, key=lambda item: item.name):
            found.update(f"{subset} {item.name} {item.text} {item.audio.stat().st_size}\n".encode())
        about = {"utterances": len(utterances), "seconds": seconds, "fingerprint": found.hexdigest()}
        write_json(data.about_file(subset), about)
        print(f"  {subset:20s} {len(utterances):7d} utterances {seconds / 3600:8.2f} h", flush=True)


# ---------------------------------------------------------------- 3 dictionary


def make_dictionary(text_file: Path, data: DataFolder, nbpe: int) -> None:
    """Finds the tokens of the training text: their list, their counts, and sentencepiece's model where it has pieces.

    Args:
        text_file: ``text`` of the training subset.
        data: where the files go.
        nbpe: number of pieces.

    Raises:
        UserError: the text does not support so many pieces.
    """
    text = list(read_text(text_file).values())
    if data.bpe_model:
        symbols = _train_pieces(text, data.bpe_model, nbpe)
    tokenizer = _tokenizer(data)
    counts = Counter(token for line in text for token in tokenizer.text2tokens(line))
    if not data.bpe_model:
        symbols = [token for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    counts[SOS_EOS] = len(text)
    tokens = [BLANK, UNKNOWN, *symbols, SOS_EOS]
    data.token_counts.write_text("".join(f"{counts[token]}\n" for token in tokens), encoding="utf-8")
    partial = data.token_list.with_name(".tokens.txt")
    partial.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    os.replace(partial, data.token_list)
    print(f"  {len(tokens)} tokens", flush=True)


def _train_pieces(text: Sequence[str], model: Path, nbpe: int) -> list[str]:
    import sentencepiece

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text),
            model_prefix=str(model.with_suffix("")),
            vocab_size=nbpe,
            model_type="unigram",
            character_coverage=1.0,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition("] ")[2]
        raise UserError(f"--nbpe {nbpe} does not fit the training text: {reason}") from error
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    return [piece for piece in pieces if piece not in ("<unk>", "<s>", "</s>")]


def _tokenizer(data: DataFolder) -> Any:
    from espnet2.text.build_tokenizer import build_tokenizer

    return build_tokenizer(data.token_type, bpemodel=str(data.bpe_model) if data.bpe_model else None)

"""Stages 1 to 3: the corpus, the data as ESPnet takes them, and the tokens."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sqloss_plugins.data.corpora import Corpus, MiniCorpus, Utterance, check_audio, check_subsets, write_data_dir
from sqloss_plugins.data.corpora.checks import check_path
from sqloss_plugins.data.corpora.download import fetch
from sqloss_plugins.data.corpora.sphere import decode, find_decoder, read_header
from sqloss_plugins.errors import UserError, sentence
from sqloss_plugins.espnet.recipe.error_rates import read_text
from sqloss_plugins.espnet.recipe.paths import DataFolder, digest
from sqloss_plugins.folders import lock_folder
from sqloss_plugins.results import write_json, write_text

BLANK, UNKNOWN, SOS_EOS = "<blank>", "<unk>", "<sos/eos>"


# ---------------------------------------------------------------- 1 download


def download_corpus(corpus: Corpus, subsets: Sequence[str], folder: Path) -> None:
    """Downloads the subsets that are not there.

    Args:
        corpus: the corpus.
        subsets: names of its subsets.
        folder: where it goes.

    Raises:
        UserError: the download failed, or the corpus is not public.
    """
    if corpus.download is None:
        raise UserError(f"{corpus.title} is not public (see {corpus.source}): give --corpus")
    with lock_folder(folder.parent, wait=True):  # it may serve several folders of data
        try:
            corpus.download(subsets, folder)
        except (OSError, RuntimeError, EOFError) as error:  # torchaudio's and the archives' own
            raise UserError(
                f"the download to {folder} failed: {sentence(error)}; begin again, or take a copy that is here"
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
    """Downloads the further text of the language model, once; a download that broke off goes on.

    Raises:
        UserError: the download failed.
    """
    with lock_folder(path.parent, wait=True):
        if path.is_file():
            print(f"  done before: {path}", flush=True)
            return
        try:
            fetch(url, path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the download of {url} failed: {error}; begin again, or give --lm_text FILE or none"
            ) from error
    print(f"  the text for the language model is {path}", flush=True)


# ---------------------------------------------------------------- 2 data preparation


def check_prepared(corpus: Corpus, subsets: Sequence[str], data: DataFolder) -> None:
    """Refuses subsets that were prepared from what is no longer there.

    Raises:
        UserError: for the first of them.
    """
    if corpus.identity is None:
        return
    for subset in subsets:
        if data.about_file(subset).is_file() and data.about(subset).get("identity") != corpus.identity(subset):
            raise UserError(
                f"{data.subset(subset)} was made of another manifest, or of what this one was before: remove the "
                "folder, or choose another --workdir"
            )


def prepare_data(
    corpus: Corpus,
    source: Path,
    subsets: Sequence[str],
    data: DataFolder,
    nj: int,
    durations: Mapping[str, tuple[float, float]],
) -> None:
    """Writes each subset's transcripts and checked audio as ESPnet takes them, and what it is.

    Args:
        corpus: the corpus.
        source: its folder.
        subsets: names of its subsets.
        data: where they go.
        nj: threads.
        durations: subset -> the shortest and the longest duration in seconds; others are left out.

    Raises:
        UserError: audio or transcripts that cannot be used; an utterance in two subsets; compressed audio, and no
            program that decodes it.
    """
    if not (corpus.identity or source.is_dir()):
        raise UserError(f"{source} is no folder: begin with --stage 1, or give --corpus")
    # All are read, so that an utterance in two of them is found whenever a subset is added.
    read = {subset: corpus.read(source, subset) for subset in subsets}
    check_subsets(read)
    is_done = {subset: data.about_file(subset).is_file() for subset in subsets}
    compressed = {
        item.audio for subset in subsets if not is_done[subset] for item in read[subset] if _is_compressed(item.audio)
    }
    decoder = _decoder_of(compressed)
    for subset, utterances in read.items():
        for item in () if is_done[subset] or corpus.convert else utterances:  # what converts sees to it
            check_path(data.subset(subset) if item.audio in compressed else item.audio)
    for note in corpus.notes() if corpus.notes else ():
        print(f"  {note}", flush=True)
    for subset, utterances in read.items():
        if is_done[subset]:
            print(f"  {subset:20s} done before, in {data.subset(subset)}", flush=True)
            continue
        readable = _decode_all(utterances, compressed, data.subset(subset) / "decoded", decoder, nj)
        with tqdm(total=len(readable), desc=f"  {subset}", unit=" files") as bar:
            if corpus.convert:
                readable, counts = corpus.convert(readable, data.subset(subset), nj, bar.update)
                utterances = readable
            else:
                counts = check_audio(readable, nj, bar.update, corpus.sample_rate)
        samples = {item.name: count for item, count in zip(readable, counts, strict=True)}
        if subset in durations:
            samples = _of_duration(subset, samples, corpus.sample_rate, *durations[subset])
        found = hashlib.sha256()
        for item in sorted(utterances, key=lambda item: item.name):
            if item.name in samples:
                found.update(f"{subset} {item.name} {item.text} {item.audio.stat().st_size}\n".encode())
        about: dict[str, Any] = {"fingerprint": found.hexdigest()}
        if corpus.identity:
            about["identity"] = corpus.identity(subset)
        write_subset(data, subset, readable, samples, sum(samples.values()) / corpus.sample_rate, about)


def write_subset(
    data: DataFolder,
    subset: str,
    utterances: Sequence[Utterance],
    samples: Mapping[str, int],
    seconds: float,
    about: Mapping[str, Any],
) -> None:
    """Writes the files of a subset, and says how large it is.

    Args:
        data: where it goes.
        subset: its name.
        utterances: those in it, and others, which are left out.
        samples: utterance -> its number of samples.
        seconds: of all together.
        about: what is to be known of it beside its size.
    """
    write_data_dir(data.subset(subset), [item for item in utterances if item.name in samples])
    lines = [f"{name} {count}\n" for name, count in sorted(samples.items())]
    data.lengths_file(subset).write_text("".join(lines), encoding="utf-8")
    write_json(data.about_file(subset), {"utterances": len(samples), "seconds": seconds, **about})
    print(f"  {subset:20s} {len(samples):7d} utterances {seconds / 3600:8.2f} h", flush=True)


def _of_duration(
    subset: str, samples: Mapping[str, int], sample_rate: int, shortest: float, longest: float
) -> dict[str, int]:
    """The utterances from the shortest to the longest duration, in seconds; says how many are left out."""
    found = {name: count for name, count in samples.items() if shortest <= count / sample_rate <= longest}
    if not found:
        raise UserError(
            f"no utterance of {subset} has {shortest:g} to {longest:g} s: choose another --min_wav_duration or "
            "--max_wav_duration"
        )
    if len(found) < len(samples):
        short = sum(count / sample_rate < shortest for count in samples.values())
        long = len(samples) - len(found) - short
        print(
            f"  {subset}: {len(samples) - len(found)} of {len(samples)} utterances are left out: {short} shorter than "
            f"{shortest:g} s, {long} longer than {longest:g} s",
            flush=True,
        )
    return found


def check_lengths(
    subsets: Sequence[str], tests: Sequence[str], data: DataFolder, fewest: int, sample_rate: int
) -> None:
    """Refuses utterances that are too short for the encoder, in whose training or decoding ESPnet would end.

    Args:
        subsets: names of the prepared subsets.
        tests: those of them that are for tests, of which no option leaves anything out.
        data: where they are; one that was prepared without lengths is not checked.
        fewest: samples that the encoder needs.
        sample_rate: in Hz.

    Raises:
        UserError: with the first of them.
    """
    for subset in subsets:
        path = data.lengths_file(subset)
        lengths = read_text(path) if path.is_file() else {}
        short = [name for name, count in lengths.items() if int(count) < fewest]
        if short:
            audio = read_text(data.subset(subset) / "wav.scp")[short[0]]
            instead = "take them out" if subset in tests else "give --min_wav_duration, or take them out"
            raise UserError(
                f"{len(short)} utterance(s) of {subset} are shorter than the {fewest / sample_rate:.3f} s that the "
                f"encoder's subsampling needs, such as {short[0]} ({audio}): {instead}"
            )


def _is_compressed(audio: Path) -> bool:
    header = read_header(audio)
    return header is not None and header.is_compressed


def _decoder_of(compressed: Collection[Path]) -> str:
    """The program that decodes these files, before anything is done; nothing where there are none."""
    decoder = find_decoder()
    if compressed and not decoder:
        raise UserError(
            f"{min(compressed)} is compressed, and there is neither sph2pipe nor ffmpeg on the PATH to decode it: "
            "install one of them, for instance Debian's package ffmpeg"
        )
    return decoder or ""


def _decode_all(
    utterances: Sequence[Utterance], compressed: Collection[Path], folder: Path, decoder: str, nj: int
) -> list[Utterance]:
    """The utterances, with the compressed audio as WAV files in the folder, which are made once.

    Their names say of which files they are: a manifest, or the audio, may have changed since some were made.
    """
    targets: dict[Path, Path] = {}
    for item in utterances:
        if item.audio in compressed and item.audio not in targets:  # a file may be several utterances
            state = item.audio.stat()
            source = digest([item.audio.absolute(), state.st_size, state.st_mtime_ns])
            targets[item.audio] = folder / f"{item.name}-{source[:8]}.wav"
    if not targets:
        return list(utterances)
    folder.mkdir(parents=True, exist_ok=True)

    def run(source: Path, target: Path) -> None:
        if not target.is_file():
            decode(source, target, decoder)

    with tqdm(total=len(targets), desc=f"  {Path(decoder).name}", unit=" files") as bar, ThreadPoolExecutor(nj) as pool:
        for _ in pool.map(run, targets.keys(), targets.values()):
            bar.update()
    return [replace(item, audio=targets.get(item.audio, item.audio)) for item in utterances]


# ---------------------------------------------------------------- 3 dictionary


def make_dictionary(text_file: Path, data: DataFolder, nbpe: int) -> None:
    """Finds the tokens of the training text: their list, their counts, and sentencepiece's model where it has pieces.

    Args:
        text_file: ``text`` of the training subset.
        data: where the files go.
        nbpe: number of pieces.

    Raises:
        UserError: the text does not support so many pieces, or has ``<blank>`` or ``<sos/eos>`` as a token.
    """
    text = list(read_text(text_file).values())
    if data.symbols_file:
        data.symbols_file.write_text("".join(f"{symbol}\n" for symbol in data.symbols), encoding="utf-8")
    if data.bpe_model:
        symbols = _train_pieces(text, data.bpe_model, nbpe, data.symbols)
    tokenize = tokenizer(data).text2tokens
    counts = Counter(token for line in text for token in tokenize(line))
    if not data.bpe_model:
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        symbols = [token for token, _ in ordered if token != UNKNOWN]  # a transcript may say that something is unknown
    for token in (BLANK, SOS_EOS):
        if token in counts:
            raise UserError(f"the transcripts in {text_file} have {token}, which no transcript can have: take it out")
    counts[SOS_EOS] = len(text)
    tokens = [BLANK, UNKNOWN, *symbols, SOS_EOS]
    data.token_counts.write_text("".join(f"{counts[token]}\n" for token in tokens), encoding="utf-8")
    write_text(data.token_list, "".join(f"{token}\n" for token in tokens))
    print(f"  {len(tokens)} tokens", flush=True)


def _train_pieces(text: Sequence[str], model: Path, nbpe: int, symbols: Sequence[str]) -> list[str]:
    import sentencepiece

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text),
            model_prefix=str(model.with_suffix("")),
            vocab_size=nbpe,
            model_type="unigram",
            character_coverage=1.0,
            minloglevel=2,
            user_defined_symbols=list(symbols),
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition("] ")[2]
        raise UserError(f"--nbpe {nbpe} does not fit the training text: {reason}") from error
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    return [piece for piece in pieces if piece not in ("<unk>", "<s>", "</s>")]


def tokenizer(data: DataFolder) -> Any:
    """ESPnet's tokenizer for the tokens of the dictionary."""
    from espnet2.text.build_tokenizer import build_tokenizer

    return build_tokenizer(
        data.token_type,
        bpemodel=str(data.bpe_model) if data.bpe_model else None,
        non_linguistic_symbols=data.symbols_file,
    )

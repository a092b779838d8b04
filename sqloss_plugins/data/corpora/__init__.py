"""Speech corpora. To add one, write its reader, in a file beside this one, and its entry here."""

from __future__ import annotations

from sqloss_plugins.data.corpora.an4 import AN4, AN4_PHONES
from sqloss_plugins.data.corpora.checks import check_audio, check_subsets, write_data_dir
from sqloss_plugins.data.corpora.corpus import Corpus, MiniCorpus, Utterance
from sqloss_plugins.data.corpora.librispeech import LIBRISPEECH
from sqloss_plugins.data.corpora.timit import TIMIT_CHARACTERS, TIMIT_PHONES
from sqloss_plugins.data.corpora.wsj import WSJ

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus for corpus in (LIBRISPEECH, AN4, AN4_PHONES, TIMIT_PHONES, TIMIT_CHARACTERS, WSJ)
}
"""Name of a corpus -> the corpus."""

__all__ = ["CORPORA", "Corpus", "MiniCorpus", "Utterance", "check_audio", "check_subsets", "write_data_dir"]

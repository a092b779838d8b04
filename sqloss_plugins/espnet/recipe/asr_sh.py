"""The options of ESPnet's ``egs2/TEMPLATE/asr1/asr.sh`` that are not here, and what to use in their place."""

from __future__ import annotations

_STAGES = "choose the stages by --stage and --stop_stage"
_PIECES = "the pieces are sentencepiece's unigrams of the training text, and only their number can be chosen: --nbpe"
_TEXT = "transcripts are taken as they are: change them in the corpus"
_WORD_LM = "language models are of the model's tokens"
_NGRAM = 'make the n-gram by KenLM, and give --inference_args "--ngram_file FILE --ngram_weight W"'
_K2 = "pack the run by --stage 9, and decode it by espnet2.bin.asr_inference_k2"
_SPLITS = "the data are read utterance by utterance, and need no splitting"
_SCORING = "the scores are counted by jiwer, which has no options"
_UPLOAD = "the packed model goes to the Hugging Face hub only where --hf_repo is given"

INSTEAD = {
    **dict.fromkeys(("skip_data_prep", "skip_train", "skip_eval", "skip_packing"), _STAGES),
    **dict.fromkeys(("skip_upload", "skip_upload_hf"), _UPLOAD),
    "num_nodes": "training is on one machine, on as many of its GPUs as --ngpu says",
    "dumpdir": "the prepared data are in data/ below --workdir",
    "expdir": "the runs are in runs/ below --workdir; --asr_exp names the folder of one run",
    "python": "the programs run by the Python that sqloss runs by",
    "debug": "leave it out",
    "local_data_opts": "the corpus is read by this package: --corpus says where it is",
    "feats_type": "features are made of the audio in the training, as feats_type raw: --frontend, --frontend_conf",
    "audio_format": "audio is read as it is",
    **dict.fromkeys(("bpemode", "bpe_input_sentence_size", "bpe_nlsyms", "bpe_char_cover", "bpe_train_text"), _PIECES),
    **dict.fromkeys(("oov", "blank", "sos_eos"), "the names of these tokens are <unk>, <blank> and <sos/eos>"),
    **dict.fromkeys(("use_ngram", "ngram_exp", "ngram_num", "inference_ngram"), _NGRAM),
    "lm_tag": "every --lm_config and --lm_text has a folder of its own; --lm_exp names one",
    "lm_stats_dir": "these statistics are beside the language model, in --lm_exp",
    "lm_args": "write a configuration with them, and name it by --lm_config",
    **dict.fromkeys(("use_word_lm", "word_vocab_size"), _WORD_LM),
    **dict.fromkeys(("num_splits_lm", "num_splits_asr"), _SPLITS),
    "asr_stats_dir": "every front end has its own statistics, beside the prepared data",
    "asr_args": "write these arguments on the command line itself, such as --max_epoch 10",
    **dict.fromkeys(
        ("use_k2", "k2_ctc_decoding", "use_nbest_rescoring", "num_paths", "nll_batch_size", "k2_config"), _K2
    ),
    "use_streaming": "pack the run by --stage 9, and decode it by espnet2.bin.asr_inference_streaming",
    "download_model": "decode it by python -m sqloss_plugins.espnet.bin.asr_inference --model_tag MODEL",
    "lm_train_text": "the language model has the training transcripts, and more text by --lm_text",
    **dict.fromkeys(
        ("lm_dev_text", "lm_test_text"), "the language model has the transcripts of --dev_set, --test_sets"
    ),
    **dict.fromkeys(("nlsyms_txt", "non_linguistic_symbols", "cleaner", "g2p"), _TEXT),
    "lang": "leave it out",
    **dict.fromkeys(("score_opts", "local_score_opts"), _SCORING),
    **dict.fromkeys(
        ("asr_speech_fold_length", "asr_text_fold_length"), "it is fold_length of the training's configuration"
    ),
    "lm_fold_length": "it is fold_length of the language model's configuration",
}
"""Option of ``asr.sh`` -> what to do here. The others are here under the same name."""

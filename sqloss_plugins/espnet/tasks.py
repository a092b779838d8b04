"""The table of ESPnet's tasks that have a cross-entropy whose place another loss can take.

To add a task, write its row; its name is that of ESPnet's programs ``espnet2.bin.NAME_train`` and so on. A row needs no
code where the model keeps its cross-entropy as an attribute that is called with outputs and targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqloss_plugins.errors import UserError

KINDS = {
    "decoder": "in beam search, by --method",
    "language_model": "in scoring and perplexity, by the method of the loss",
    "classifier": "in the scores, by --method",
}
"""Kind of a task -> where its model's outputs become probabilities, and what chooses how."""


@dataclass(frozen=True)
class ESPnetTask:
    """What the package has to know of a task of ESPnet's.

    Attributes:
        summary: what it is, for people.
        task: ESPnet's class of the task.
        model: ESPnet's class of the model.
        class_name: the class of this package in :mod:`sqloss_plugins.espnet`, which ESPnet3's ``_target_`` names.
        criteria: attribute of the model that is a cross-entropy, or computes one -> the model's argument that is its
            number of classes.
        ctc_weights: of the attributes that are trained beside CTC -> the model's argument that is the weight of CTC.
        usual_ctc_weight: ESPnet's default of these.
        further_decoders: of the attributes that train another decoder than ``decoder`` -> the attribute that it is.
        kind: how outputs become probabilities, a key of :data:`KINDS`.
        inference: ESPnet's class that decodes; None for none.
        decoded: the attribute of that class that is the model.
        is_hard_coded: whether ESPnet makes its own model whatever ``--model`` says.

    Examples:
        >>> TASKS["st"].summary, TASKS["st"].class_name
        ('translation of speech', 'SquareLossSTModel')
    """

    summary: str
    task: str
    model: str
    class_name: str
    criteria: Mapping[str, str]
    ctc_weights: Mapping[str, str] = field(default_factory=dict)
    usual_ctc_weight: float = 0.0
    further_decoders: Mapping[str, str] = field(default_factory=dict)
    kind: str = "decoder"
    inference: str | None = None
    decoded: str = ""
    is_hard_coded: bool = False

    @property
    def inference_module(self) -> str | None:
        """The module of ESPnet's that decodes."""
        return self.inference.rpartition(".")[0] if self.inference else None


TASKS = {
    "asr": ESPnetTask(
        "speech recognition",
        task="espnet2.tasks.asr.ASRTask",
        model="espnet2.asr.espnet_model.ESPnetASRModel",
        class_name="SquareLossASRModel",
        criteria={"criterion_att": "vocab_size"},
        ctc_weights={"criterion_att": "ctc_weight"},
        usual_ctc_weight=0.5,
        inference="espnet2.bin.asr_inference.Speech2Text",
        decoded="asr_model",
    ),
    "mt": ESPnetTask(
        "translation of text",
        task="espnet2.tasks.mt.MTTask",
        model="espnet2.mt.espnet_model.ESPnetMTModel",
        class_name="SquareLossMTModel",
        criteria={"criterion_mt": "vocab_size"},
        inference="espnet2.bin.mt_inference.Text2Text",
        decoded="mt_model",
    ),
    "slu": ESPnetTask(
        "spoken language understanding",
        task="espnet2.tasks.slu.SLUTask",
        model="espnet2.slu.espnet_model.ESPnetSLUModel",
        class_name="SquareLossSLUModel",
        criteria={"criterion_att": "vocab_size"},
        ctc_weights={"criterion_att": "ctc_weight"},
        usual_ctc_weight=0.5,
        inference="espnet2.bin.slu_inference.Speech2Understand",
        decoded="asr_model",
    ),
    "s2t": ESPnetTask(
        "recognition and translation with a prompt, as OWSM's",
        task="espnet2.tasks.s2t.S2TTask",
        model="espnet2.s2t.espnet_model.ESPnetS2TModel",
        class_name="SquareLossS2TModel",
        criteria={"criterion_att": "vocab_size"},
        ctc_weights={"criterion_att": "ctc_weight"},
        usual_ctc_weight=0.5,
        inference="espnet2.bin.s2t_inference.Speech2Text",
        decoded="s2t_model",
    ),
    "st": ESPnetTask(
        "translation of speech",
        task="espnet2.tasks.st.STTask",
        model="espnet2.st.espnet_model.ESPnetSTModel",
        class_name="SquareLossSTModel",
        criteria={"criterion_st": "vocab_size", "criterion_asr": "src_vocab_size"},
        ctc_weights={"criterion_st": "st_mtlalpha", "criterion_asr": "mtlalpha"},
        further_decoders={"criterion_asr": "extra_asr_decoder"},
        inference="espnet2.bin.st_inference.Speech2Text",
        decoded="st_model",
        is_hard_coded=True,
    ),
    "lm": ESPnetTask(
        "language model",
        task="espnet2.tasks.lm.LMTask",
        model="espnet2.lm.espnet_model.ESPnetLanguageModel",
        class_name="SquareLossLanguageModel",
        criteria={"nll": "vocab_size"},
        kind="language_model",
    ),
    "cls": ESPnetTask(
        "classification of sounds",
        task="espnet2.tasks.cls.CLSTask",
        model="espnet2.cls.espnet_model.ESPnetClassificationModel",
        class_name="SquareLossClassificationModel",
        criteria={"classification_loss": "vocab_size"},
        kind="classifier",
        inference="espnet2.bin.cls_inference.Classification",
        decoded="classification_model",
        is_hard_coded=True,
    ),
}
"""Name of a task -> its row."""


def find_task(words: Sequence[str]) -> tuple[str, list[str]]:
    """The task that a command line begins with, and what follows.

    Raises:
        UserError: it begins with something else.

    Examples:
        >>> find_task(["st", "--config", "train_st.yaml"])
        ('st', ['--config', 'train_st.yaml'])
    """
    if not words or words[0] not in TASKS:
        given = f"got {words[0]!r}" if words else "and nothing is given"
        raise UserError(f"the first argument must be a task of ESPnet's, {given}: choose from {', '.join(TASKS)}")
    return words[0], list(words[1:])

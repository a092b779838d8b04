"""What a training has to know of a model: its classes, labels and saved weights, and what keeps a loss off it.

And what it leaves in the model's configuration, for those who read the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sqloss_plugins.errors import listed
from sqloss_plugins.hf.config import SquareLossConfig
from sqloss_plugins.paper import Rescaling

# Decoders whose own loss takes the labels as already shifted (their modeling files in transformers 5.23).
_UNSHIFTED = {"CpmAntForCausalLM", "TrOCRForCausalLM", "XLMWithLMHeadModel", "XLNetLMHeadModel"}
_UNSHIFTED |= {"BartForCausalLM", "BigBirdPegasusForCausalLM", "BlenderbotForCausalLM", "BlenderbotSmallForCausalLM"}
_UNSHIFTED |= {"MBartForCausalLM", "MarianForCausalLM", "MusicgenForCausalLM", "MusicgenMelodyForCausalLM"}
_UNSHIFTED |= {"MvpForCausalLM", "PLBartForCausalLM", "PegasusForCausalLM", "ProphetNetForCausalLM"}
_UNSHIFTED |= {"WhisperForCausalLM"}


def underlying(model: nn.Module) -> nn.Module:
    """The model inside what torch.compile and PEFT wrap around it."""
    model = getattr(model, "_orig_mod", model)
    base = getattr(model, "get_base_model", None)
    return base() if callable(base) else model


def shifts_labels(model: nn.Module, trainer_says: bool) -> bool:
    """Whether the model's own loss holds the output at position i against label i + 1."""
    names = {cls.__name__ for cls in type(model).__mro__}
    if names & _UNSHIFTED:
        return False
    return trainer_says or bool(names & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))


def has_several_labels(model: nn.Module) -> bool:
    """Whether it is trained in multi-label classification."""
    return getattr(getattr(model, "config", None), "problem_type", None) == "multi_label_classification"


def check_class_weights(
    weights: Sequence[float], model: nn.Module, num_classes: int | None, is_regression: bool
) -> None:
    """Refuses class weights that the model has no classes for."""
    if is_regression:
        raise ValueError("class weights need classes, and a model with one output is a regression")
    if type(model).__name__.endswith("MultipleChoice"):
        raise ValueError("class weights need classes, and the choices of an example are none")
    if num_classes is not None and len(weights) != num_classes:
        raise ValueError(f"there are {len(weights)} class weights, and the model has {num_classes} classes")


def count_classes(model: nn.Module) -> int | None:
    """Classes of the head: words of a language model, labels of a classifier; None where neither is known."""
    if type(model).__name__.endswith("MultipleChoice"):
        return 2  # as many as an example has choices: few, and below the first step of the rule
    if isinstance(model, PreTrainedModel):
        embeddings = model.get_output_embeddings()
        if isinstance(embeddings, nn.Module):
            return int(model.config.get_text_config().vocab_size)
    labels = getattr(getattr(model, "config", None), "num_labels", None)
    return None if labels is None else int(labels)


def refuse_bypasses(model: nn.Module, args: TrainingArguments, label_names: Sequence[str], parallelism: Any) -> None:
    """Refuses, with a reason, what would train on another loss than the one asked for.

    Args:
        model: without what wraps it.
        args: of the training.
        label_names: the inputs that are labels.
        parallelism: accelerate's ``ParallelismConfig``, or None.

    Raises:
        ValueError: the reason.
    """
    name, config = type(model).__name__, getattr(model, "config", None)
    labels = [label for label in label_names if label != "labels"]
    if labels:
        raise ValueError(
            f"{name} takes {', '.join(labels)} rather than `labels`: its loss is computed by the model itself, out "
            "of reach of the Trainer's loss function"
        )
    if name.endswith("ForCTC"):
        raise ValueError(f"{name} is trained by CTC, which sums over alignments; these losses need aligned targets")
    if getattr(config, "problem_type", None) == "regression" and (count_classes(model) or 1) > 1:
        raise ValueError(
            f"config.problem_type of {name} is 'regression', and it has {count_classes(model)} outputs: these losses "
            "are for classes, or for a regression with one output (num_labels=1)"
        )
    if name.endswith("ForTokenClassification") and count_classes(model) == 1:
        raise ValueError(
            f"{name} has one class (num_labels=1), so that there is nothing to choose: token classification needs two "
            "classes or more"
        )
    if getattr(config, "output_router_logits", False):
        raise ValueError("output_router_logits adds a loss inside the model, for the router, which would be lost")
    if getattr(config, "return_dict", True) is False:
        raise ValueError("return_dict=False leaves the outputs without names: leave it at True")
    if args.use_liger_kernel:
        raise ValueError(
            "use_liger_kernel fuses cross-entropy with the model's last layer and returns no logits, so that the "
            "loss asked for would never be computed"
        )
    if parallelism is not None and parallelism.sp_backend == "deepspeed" and parallelism.sp_enabled:
        raise ValueError("DeepSpeed's sequence parallelism takes the loss of the model, not the Trainer's")


def refuse_without_logits(
    model: Any,
    args: SquareLossConfig,
    num_classes: int | None,
    *,
    is_multi_label: bool,
    has_lists: bool,
    is_sharded: bool,
    is_weighted: bool,
) -> None:
    """Refuses, with a reason, where the loss cannot be had without logits.

    Args:
        model: with what wraps it.
        args: of the training.
        num_classes: outputs of the model; 1 is a regression.
        is_multi_label: whether it is multi-label classification.
        has_lists: whether its labels are lists of classes.
        is_sharded: whether FSDP or DeepSpeed holds the model in pieces.
        is_weighted: whether there are class weights.

    Raises:
        ValueError: the reason.
    """
    option, reason = args.head_option, None
    if num_classes == 1 and not is_multi_label:
        reason = "a regression has no classes"
    elif is_multi_label and not has_lists:
        reason = "multi-label classification with a value for each class needs all outputs"
    elif is_multi_label and args.num_sampled is not None:
        reason = "these examples have lists of classes"
    elif args.n_gpu > 1:
        reason = "DataParallel gathers logits: start one process for each GPU, with torchrun"
    elif is_sharded:
        reason = "FSDP and DeepSpeed hold the output layer in pieces"
    elif args.torch_compile or hasattr(model, "_orig_mod"):
        reason = "a compiled model has its output layer compiled in"
    elif "lomo" in str(args.optim).lower() and args.gradient_accumulation_steps > 1:
        reason = "LOMO steps within the backward pass"
    if reason is not None:
        raise ValueError(f"{option} is for plain training of classifiers, and {reason}")
    if args.factorised_head and args.world_size > 1:
        raise ValueError("--factorised_head is for one process, and there are several: leave it out")
    if args.factorised_head and is_weighted:
        raise ValueError("--factorised_head has no class weights: leave it or them out")
    args.check_sample(num_classes)


def forget_training(config: Any) -> None:
    """Removes from a model's configuration, if it has one, what :func:`keep_training` writes there of the loss."""
    for name in ("trained_with", "square_loss"):
        if hasattr(config, name):
            delattr(config, name)


def keep_training(model: nn.Module, loss: str, rescaling: Rescaling | None) -> None:
    """Writes into the configuration of a model, if it has one, how its outputs are to be read.

    Of classes these are ``trained_with``, the name of the loss, and ``square_loss``, k and M; of a regression
    ``problem_type``, where there is none: otherwise Transformers' pipelines take a sigmoid of the output.

    Args:
        model: that is trained, without what wraps it.
        loss: a key of :data:`sqloss_plugins.losses.LOSSES`.
        rescaling: k and M; None for a loss without, and for a regression.
    """
    config: Any = getattr(model, "config", None)
    if config is None:
        return
    if count_classes(model) == 1 and not has_several_labels(model):
        if getattr(config, "problem_type", None) is None:
            config.problem_type = "regression"
        return
    config.trained_with = loss
    if rescaling is not None:
        config.square_loss = {"k": rescaling.k, "M": rescaling.M}


def load_renamed(folder: str, model: nn.Module) -> bool:
    """Loads a checkpoint by ``from_pretrained``, if it has names of weights that the model does not have.

    Transformers 5 saves some models, the vision transformer for one, by their names on the hub, and its Trainer
    (5.24) then leaves all such weights out (huggingface/transformers, issue 43701).

    Returns:
        Whether it was loaded.

    Raises:
        RuntimeError: the checkpoint lacks weights.
    """
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, PreTrainedModel):
        return False
    names: set[str] = set()
    for path in Path(folder).glob("model*.safetensors"):  # others are of adapters, or of the run
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    if names <= model.state_dict().keys():
        return False
    saved, loading = type(model).from_pretrained(
        folder, config=model.config, dtype=model.dtype, output_loading_info=True
    )
    if loading["missing_keys"]:
        raise RuntimeError(f"the checkpoint {folder} lacks weights: {listed(sorted(loading['missing_keys']))}")
    model.load_state_dict(saved.state_dict())
    return True


__all__ = [
    "check_class_weights",
    "count_classes",
    "forget_training",
    "has_several_labels",
    "keep_training",
    "load_renamed",
    "refuse_bypasses",
    "refuse_without_logits",
    "shifts_labels",
    "underlying",
]

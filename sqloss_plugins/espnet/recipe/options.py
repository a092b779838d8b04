"""The options of a speech recipe's command line.

Nothing here imports PyTorch or ESPnet.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.espnet.recipe import PROGRAM
from sqloss_plugins.espnet.recipe.own_corpus import add_options
from sqloss_plugins.processes import usable_cpus

STAGE_NAMES = (
    "download",
    "data preparation",
    "dictionary",
    "statistics",
    "language model",
    "training",
    "decoding",
    "scoring",
    "packing",
    "upload",
)
LAST_STAGE = STAGE_NAMES.index("scoring") + 1
"""The last stage of a command line that does not ask for a later one."""

UPLOAD = STAGE_NAMES.index("upload") + 1

# The best models by these are averaged, into the files by which the recipe takes them.
MODEL_CRITERION, MODEL_FILE = ("valid", "acc", "max"), "valid.acc.ave.pth"
LM_CRITERION, LM_FILE = ("valid", "loss", "min"), "valid.loss.ave.pth"
TOKEN_TYPES = ("bpe", "char", "phn")
NBPE = 1000
NO_TEXT = "none"
ANY_DURATION = (0.0, math.inf)
DESCRIPTION = f"""Speech recognition from audio to error rates, with ESPnet's wheel alone.

Stages, each of which skips what it has done, and may be killed at any moment:

    {"    ".join(f"{number} {name}" for number, name in enumerate(STAGE_NAMES[:4], start=1))}
    {"    ".join(f"{number} {name}" for number, name in enumerate(STAGE_NAMES[4:], start=5))}

Stages 1 to 8 run by default. Stage 9 makes an archive that plain ESPnet loads: ask for it by --stop_stage 9. Stage 10
uploads it to the Hugging Face hub: give --hf_repo.
Every argument that is not listed goes to ESPnet's training (--max_epoch 3, --optim_conf lr=0.002, ...)."""


class Options(argparse.Namespace):
    """The options by name; see ``--help``."""

    recipe: str
    loss: str
    k: float | None
    M: float | None
    rescaling: str
    method: str
    arch: str
    stage: int
    stop_stage: int
    corpus: Path | None
    train: Path | None
    valid: Path | None
    test: list[Path] | None
    validation_size: float | None
    test_size: float | None
    fs: int | None
    audio_channel: str | None
    dataset_config_name: str | None
    audio_column_name: str | None
    text_column_name: str | None
    min_wav_duration: float
    max_wav_duration: float
    mini: bool
    train_set: str
    dev_set: str
    test_sets: str
    token_type: str
    nbpe: int
    use_lm: str
    lm_text: str
    ngpu: int
    nj: int
    seed: int
    tag: str | None
    workdir: Path
    hf_repo: str | None
    asr_exp: Path | None
    lm_exp: Path | None
    asr_config: Path | None
    feats_normalize: str | None
    pretrained_model: str
    num_att_plot: int | None
    speed_perturb_factors: str
    lm_config: Path | None
    inference_config: Path | None
    inference_args: str
    inference_asr_model: str
    inference_lm: str
    inference_tag: str | None
    inference_nj: int | None
    gpu_inference: str | None

    @property
    def tests(self) -> list[str]:
        """The test subsets."""
        return self.test_sets.split()

    @property
    def subsets(self) -> list[str]:
        """All subsets, the training one first, the development one second."""
        return [self.train_set, self.dev_set, *self.tests]

    @property
    def speeds(self) -> list[str]:
        """The factors of speed perturbation, as they were written; none: there is no perturbation."""
        return self.speed_perturb_factors.split()

    @property
    def asr_train_set(self) -> str:
        """The subset that the model is trained on; tokens and language model are of :attr:`train_set` in any case."""
        return f"{self.train_set}_sp{'-'.join(self.speeds)}" if self.speeds else self.train_set

    @property
    def prepared(self) -> list[str]:
        """The subsets that stage 2 makes."""
        return [*self.subsets, *([self.asr_train_set] if self.speeds else [])]

    @property
    def durations(self) -> dict[str, tuple[float, float]]:
        """Training and development subset -> the shortest and the longest duration, in seconds; none is for tests."""
        limits = (self.min_wav_duration, self.max_wav_duration)
        return {} if limits == ANY_DURATION else {self.train_set: limits, self.dev_set: limits}

    @property
    def has_lm(self) -> bool:
        """Whether there is a language model."""
        return self.use_lm == "true"

    @property
    def decodes_on_gpu(self) -> bool:
        """Whether beam search runs on a GPU."""
        return self.ngpu > 0 if self.gpu_inference is None else self.gpu_inference == "true"

    @property
    def decoding_processes(self) -> int:
        """How many processes decode side by side; on GPUs one for each of ``--ngpu``, unless more are asked for."""
        return self.inference_nj or (max(1, self.ngpu) if self.decodes_on_gpu else self.nj)


def make_parser(add_help: bool = True) -> OptionParser:
    """The options of a recipe's command line."""
    parser = OptionParser(PROGRAM, DESCRIPTION, add_help)
    parser.add_argument("recipe", help="name or folder of the recipe, such as librispeech, or a name for your corpus")
    _add_training(parser.add_argument_group("training").add_argument)
    _add_data(parser.add_argument_group("data").add_argument)
    add_options(parser.add_argument_group("a corpus of your own: sqloss asr NAME --train MANIFEST").add_argument)
    _add_decoding(parser.add_argument_group("language model and decoding").add_argument)
    _add_stages(parser.add_argument_group("stages and folders").add_argument)
    return parser


def _add_training(add: Callable[..., object]) -> None:
    add(
        "--loss",
        default="square",
        help="of the attention decoder: square, squentropy or cross_entropy (default: %(default)s)",
    )
    add("--k", type=float, help="square loss: weight of the true class's term")
    add("--M", type=float, help="square loss: target of the true class")
    add(
        "--rescaling",
        default="auto",
        help="rule for k and M: auto (the paper's where it names the task and its number of classes, else level), "
        "paper, or level (k = 15, M = sqrt(C ln C / 15)) (default: %(default)s)",
    )
    add(
        "--arch",
        default="transformer",
        help="one of conf/tuning/train_asr_ARCH.yaml; with --asr_config a name for your model, in folders and tables "
        "(default: %(default)s)",
    )
    add("--ngpu", type=int, default=0, help="number of GPUs to train on, 0 for the CPU (default: %(default)s)")
    add("--seed", type=int, default=0, help="random seed of the training (default: %(default)s)")
    add("--asr_config", type=Path, help="training configuration, taken as it is, not conf/tuning/train_asr_ARCH.yaml")
    add(
        "--feats_normalize",
        choices=("global_mvn", "utterance_mvn", "none"),
        help="how features are normalised (default: what the training configuration says)",
    )
    add(
        "--pretrained_model",
        default="",
        metavar="FILE[:FROM[:TO[:EXCEPT]]]",
        help="model files, separated by spaces, that the parameters begin with, as ESPnet's --init_param has them: "
        "model.pth:encoder:encoder, ...; --ignore_init_mismatch true passes over those of another shape",
    )
    add(
        "--num_att_plot",
        type=int,
        metavar="N",
        help="draw the attention weights of the first N development utterances after every epoch, in att_ws/ of the "
        "run's folder; 0: none (default: what the training configuration says, ESPnet's 3 where it says nothing)",
    )


def _add_data(add: Callable[..., object]) -> None:
    # Each recipe has its own defaults, in its conf/recipe.yaml.
    add("--corpus", type=Path, help="folder of the corpus, where it is on this machine")
    add("--mini", action="store_true", help="the embedded mini corpus: synthetic speech, not the real task")
    add("--train_set", default="train", help="name of the training subset (default: %(default)s)")
    add("--dev_set", "--valid_set", default="dev", help="name of the development subset (default: %(default)s)")
    add("--test_sets", default="test", help="names of the test subsets, separated by spaces (default: %(default)s)")
    add(
        "--token_type",
        choices=TOKEN_TYPES,
        default="bpe",
        help="sentencepiece's unigrams, characters, or phones separated by spaces (default: %(default)s)",
    )
    add("--nbpe", type=int, default=NBPE, help="number of sentencepiece's unigrams (default: %(default)s)")
    for name, default, what in (("min", ANY_DURATION[0], "shortest"), ("max", ANY_DURATION[1], "longest")):
        add(
            f"--{name}_wav_duration",
            type=float,
            default=default,
            help=f"{what} utterance of training and development data, in seconds; others are left out, and none of the "
            "test data (default: %(default)s)",
        )

    add(
        "--speed_perturb_factors",
        default="",
        help='train on a copy of the training data at each of these speeds, such as "0.9 1.0 1.1"',
    )


def _add_decoding(add: Callable[..., object]) -> None:
    add(
        "--method",
        default="auto",
        help="how decoding makes probabilities of the outputs: softmax, square, temperature (several separated by "
        "spaces), or auto: all that the loss has on the development set, and the best on the test sets "
        "(default: %(default)s)",
    )
    add(
        "--use_lm",
        choices=("true", "false"),
        default="true",
        help="train a language model, and decode with it (default: %(default)s)",
    )
    add(
        "--lm_text",
        default=NO_TEXT,
        help="more text for the language model, one sentence a line: a file, a .gz file or a URL; or none "
        "(default: %(default)s)",
    )
    add("--lm_config", type=Path, help="configuration of the language model, instead of conf/train_lm.yaml")
    add("--inference_config", type=Path, help="configuration of decoding, instead of conf/decode_asr.yaml")
    add(
        "--inference_args",
        default="",
        help='arguments of decoding, which count more than its configuration, such as "--nbest 5 --lm_weight 0.1"; all '
        "of the n best hypotheses are kept",
    )
    add(
        "--inference_asr_model",
        default=MODEL_FILE,
        metavar="FILE",
        help="the model that decodes, of those that the training left: valid.acc.best.pth, ... (default: %(default)s)",
    )
    add(
        "--inference_lm",
        default=LM_FILE,
        metavar="FILE",
        help="the language model that decodes, of those that its training left (default: %(default)s)",
    )
    add("--inference_tag", help="a word for the folder of hypotheses and results, to decode a run in several ways")
    add(
        "--inference_nj",
        type=int,
        help="processes that decode side by side; on GPUs, they are dealt out to all that are visible (default: --nj; "
        "on GPUs one for each of --ngpu)",
    )
    add(
        "--gpu_inference",
        choices=("true", "false"),
        help="decode on a GPU (default: true where --ngpu is above 0)",
    )


def _add_stages(add: Callable[..., object]) -> None:
    add("--stage", type=int, default=1, help="first stage (default: %(default)s)")
    add(
        "--stop_stage",
        type=int,
        help=f"last stage (default: {LAST_STAGE}, or --stage where that is later; {UPLOAD} with --hf_repo)",
    )
    add("--hf_repo", metavar="OWNER/NAME", help="repository of the Hugging Face hub that stage 10 uploads the model to")
    add(
        "--nj",
        type=int,
        default=usable_cpus(),
        help="processes side by side (default: one for each CPU that it may use)",
    )
    add("--workdir", type=Path, default=Path(), help="where downloads/, data/ and runs/ go (default: here)")
    add("--tag", "--asr_tag", help="a word for the end of the run's folder name")
    add("--asr_exp", type=Path, help="folder of the run, instead of one below runs/")
    add("--lm_exp", type=Path, help="folder of the language model, instead of one beside the data")

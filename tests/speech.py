"""What the tests of the speech recipes share: tiny models, what a command line comes to, compressed audio."""

import stat
import sys

from sqloss_plugins.espnet.recipe.parsing import parse
from sqloss_plugins.espnet.recipe.paths import Paths
from sqloss_plugins.espnet.recipe.settings import Settings

TINY_ASR = """
encoder: transformer
encoder_conf: {input_layer: conv2d6, output_size: 16, attention_heads: 2, linear_units: 32, num_blocks: 1}
decoder: transformer
decoder_conf: {attention_heads: 2, linear_units: 32, num_blocks: 1}
model_conf: {ctc_weight: 0.3, report_cer: false, report_wer: false}
frontend_conf: {fs: 16k, n_fft: 512, win_length: 400, hop_length: 160, n_mels: 20}
normalize: global_mvn
batch_type: folded
batch_size: 4
fold_length: [80000, 150]
optim: adam
optim_conf: {lr: 0.01}
max_epoch: 3
keep_nbest_models: 2
best_model_criterion: [[valid, acc, max]]
num_workers: 0
num_att_plot: 0
use_matplotlib: false
"""
TINY_LM = """
lm: seq_rnn
lm_conf: {unit: 8, nlayers: 1}
batch_type: folded
batch_size: 8
fold_length: [150]
optim: adam
max_epoch: 1
keep_nbest_models: 1
best_model_criterion: [[valid, loss, min]]
num_workers: 0
use_matplotlib: false
"""


def settings(*words):
    """What a command line comes to, with ESPnet's own check of it."""
    given = parse(words)
    return Settings(given, Paths(given))


def make_tokens(found, count):
    """A token list where stage 3 would write it."""
    found.paths.data.root.mkdir(parents=True, exist_ok=True)
    found.paths.data.token_list.write_text("".join(f"t{i}\n" for i in range(count)))


def smaller(content, sizes):
    """The settings of a configuration with other sizes, at whatever depth."""
    if isinstance(content, dict):
        return {name: sizes.get(name, smaller(value, sizes)) for name, value in content.items()}
    return content


def call_compressed(path):
    """A SPHERE file says that it is compressed; what follows is read by the fake decoders alone."""
    header, samples = path.read_bytes()[:1024], path.read_bytes()[1024:]
    header = header.replace(b"sample_coding -s3 pcm\n", b"sample_coding -s26 pcm,embedded-shorten-v1.09\n")
    path.write_bytes(header[:1024] + samples)  # its padding gives way
    return path


# Both end with the target's path. The real programs decode; these copy what is behind the header.
DECODER = """#!{python}
import sys
import numpy, soundfile
*_, source, target = [word for word in sys.argv[1:] if word not in ("-c:a", "pcm_s16le", "-f", "wav")]
with open(source, "rb") as file:
    samples = numpy.frombuffer(file.read()[1024:], "<i2")
{act}
"""
WRITE_WAV = 'soundfile.write(target, samples, 16000, format="WAV")'


def make_decoder(folder, act=WRITE_WAV, name="sph2pipe"):
    """A program of this name, alone on the PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(DECODER.format(python=sys.executable, act=act))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program

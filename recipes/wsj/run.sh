#!/usr/bin/env bash
# WSJ (the paper's: si_284, dev93, eval92, characters), from LDC's discs to word and character error rates, with ESPnet's
# wheel alone.
#   ./recipes/wsj/run.sh --loss square --arch vgg_blstmp --corpus /data/wsj        # k = 1, M = 15
#   ./recipes/wsj/run.sh --loss cross_entropy --arch transformer --corpus /data/wsj --ngpu 1
#   ./recipes/wsj/run.sh --loss square --mini                                      # minutes; not the real task
# All options: --help. Results: RESULTS.md here, and in the folder of each run.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

export PYTHONWARNINGS=${PYTHONWARNINGS-ignore::FutureWarning} # what PyTorch says of ESPnet's calls

exec "${PYTHON:-python}" -m sqloss_plugins asr "$here" --workdir "$here" "$@"

#!/usr/bin/env bash
# LF-AmazonTitles-131K: which of 131,073 products go with a product, by its title; any number of them.
#   ./recipes/lf_amazontitles131k/run.sh --data_dir LF-AmazonTitles-131K --loss square
#   ./recipes/lf_amazontitles131k/run.sh --data_dir LF-AmazonTitles-131K --loss cross_entropy --seed 1
#   ./recipes/lf_amazontitles131k/run.sh --mini                   # some seconds; made-up texts, not the real task
# All options: --help. Results: RESULTS.md here, and in the folder of each run.
set -euo pipefail

# The propensities' constants are those that the repository's authors use for Amazon's data.
exec "${PYTHON:-python}" -m sqloss_plugins.hf.tasks.extreme --propensity_a 0.6 --propensity_b 2.6 "$@"

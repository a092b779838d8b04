"""A CSV file of one's own, both losses, and the comparison; what `sqloss classify` and `sqloss compare` do.

python examples/own_csv.py
"""

import csv
from pathlib import Path

from sqloss_plugins.experiments.compare import main as compare
from sqloss_plugins.hf.tasks.classification import main as classify

FILMS = ["a fine film", "a lovely story", "well played", "great fun", "a dull film", "a tedious story", "badly played"]
ROWS = [
    (f"{film}, I saw it on day {day}", "good" if i < 4 else "bad") for day in range(9) for i, film in enumerate(FILMS)
]

if __name__ == "__main__":
    with Path("reviews.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *ROWS])
    for loss in ("square", "cross_entropy"):
        options = ["--train_file", "reviews.csv", "--loss", loss, "--learning_rate", "2e-4", "--num_train_epochs", "4"]
        classify([*options, "--model_name_or_path", "minilm-l6", "--disable_tqdm", "true"])
    # A fair comparison has several rates and seeds: `sqloss sweep`, or sweep.py beside this file.
    compare(["runs/reviews"])

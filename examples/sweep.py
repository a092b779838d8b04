"""A fair comparison of losses in Python, as by `sqloss sweep`: rates on one seed, all seeds, the differences.

python examples/sweep.py
"""

from pathlib import Path

from sqloss_plugins.experiments import sweep
from sqloss_plugins.experiments.comparison import compare_group, find_runs, grouped

LINES = [f"number {day}: the film was {word},{word}" for day in range(60) for word in ("good", "bad")]

if __name__ == "__main__":
    Path("films.csv").write_text("\n".join(["text,label", *LINES]), encoding="utf-8")
    status = sweep.main(
        [
            "classify",
            *("--train_file", "films.csv"),
            *("--model_name_or_path", "minilm-l6", "--num_train_epochs", "2", "--use_cpu"),
            *("--losses", "square,cross_entropy"),
            *("--grid", "learning_rate=1e-4,4e-4"),
            *("--seeds", "2"),
            *("--exp", "runs/sweep_example"),
        ]
    )
    assert status == 0, "a run failed; the lines above say why, and the same command goes on"
    for group, runs in grouped(find_runs([Path("runs/sweep_example")])).items():
        comparison = compare_group(group, runs)
        for difference in comparison.differences:
            print(difference.column.split, difference.column.metric, difference.loss, difference.differences)

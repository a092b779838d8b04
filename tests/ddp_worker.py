"""One rank of two: saves the gradient of one step for each head and loss; run by torch.distributed.run."""

import sys
from pathlib import Path

import torch
from test_token_scores import scored
from tiny import (
    HEADS,
    MULTI_LABEL,
    SOFT,
    TOKEN_COUNTS,
    WEIGHTS,
    WITHOUT_LOGITS,
    examples,
    model,
    one_sgd_step,
    soft_labels,
)

from sqloss_plugins.losses import LOSSES, linear_square

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    gradients, losses = {}, {}
    for head in HEADS:
        for loss in LOSSES:
            sizes = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 6}
            gradients[head, loss], trainer = one_sgd_step(
                head, loss, 12, folder / "out", gradient_accumulation_steps=3, **sizes
            )
            trainer.model.load_state_dict(model(head).state_dict())
            losses[head, loss] = trainer.evaluate()["eval_loss"]
    linear_square._SMALL, linear_square.prefers_gram = 0, lambda *args: True
    for head in WITHOUT_LOGITS:
        gradients[head, "without logits"], _ = one_sgd_step(
            head, "square", 12, folder / "out", gradient_accumulation_steps=3, without_logits=True, **sizes
        )
    for head in SOFT:
        data = soft_labels(head, examples(head, 12), ignored=(1, 8, 9))
        gradients[head, "soft"], _ = one_sgd_step(
            head, "square", 12, folder / "out", data=data, gradient_accumulation_steps=3, **sizes
        )
    for head, loss, options in (
        (MULTI_LABEL, "square", {}),
        (MULTI_LABEL, "cross_entropy", {}),
        ("token classification", "square", {"class_weights": WEIGHTS}),
    ):
        gradients[head, loss, "more"], _ = one_sgd_step(
            head, loss, 12, folder / "out", trainer_options=options, gradient_accumulation_steps=3, **sizes
        )
    options = {"trainer_options": {"class_counts": TOKEN_COUNTS}, "prior_exponent": 0.75, "without_logits": True}
    gradients["prior"], _ = one_sgd_step(
        "causal LM", "square", 12, folder / "out", gradient_accumulation_steps=3, **options, **sizes
    )
    scores = {
        (head, without): scored(head, folder / "out", without)
        for head in ("causal LM", "masked LM")
        for without in (True, False)
    }
    if trainer.is_world_process_zero():
        torch.save((gradients, losses, scores), folder / "gradients.pt")

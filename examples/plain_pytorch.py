"""The square loss in a loop of one's own: scikit-learn's digits, with both losses.

python examples/plain_pytorch.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sqloss_plugins import make_loss


def train(loss_name: str, rate: float) -> float:
    """The accuracy on test data after thirty epochs."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images.astype("float32") / 16, labels, test_size=0.3, random_state=0)
    inputs, test_inputs, targets, test_targets = (torch.as_tensor(part) for part in parts)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    loss = make_loss(loss_name)  # or SquareLoss(), torch.nn.CrossEntropyLoss()
    for _ in range(30):
        for batch in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            loss(model(inputs[batch]), targets[batch]).backward()  # raw outputs: no softmax, no one-hot targets
            optimizer.step()
    return (model(test_inputs).argmax(dim=1) == test_targets).float().mean().item()


if __name__ == "__main__":
    for name in ("square", "cross_entropy"):
        print(f"{name}: test accuracy {train(name, rate=3e-3):.3f}")

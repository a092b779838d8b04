"""Outputs of a square-loss model as probabilities, where the true ones are known.

python examples/probabilities.py
"""

import torch

from sqloss_plugins import SquareLoss
from sqloss_plugins.probability import fit_temperature, probabilities

TRUE = torch.tensor([0.6, 0.3, 0.1])  # the classes' probabilities, the same for every input

if __name__ == "__main__":
    torch.manual_seed(0)
    targets = torch.multinomial(TRUE, 20000, replacement=True)
    for k, M in ((1.0, 1.0), (15.0, 30.0)):
        outputs = torch.zeros(3, requires_grad=True)  # the simplest model: a constant
        loss, optimizer = SquareLoss(k=k, M=M), torch.optim.LBFGS([outputs], max_iter=100)

        def step(outputs=outputs, loss=loss, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(outputs.expand(len(targets), 3), targets)
            value.backward()
            return value

        optimizer.step(step)
        found = outputs.detach().expand(len(targets), 3)
        temperature = fit_temperature(found, targets)
        print(f"k = {k:g}, M = {M:g}; outputs {outputs.detach().numpy().round(2)}")
        print("  square     ", probabilities(found[0], "square", k=k, M=M).numpy().round(3))
        print("  softmax    ", probabilities(found[0], "softmax").numpy().round(3))
        print("  temperature", probabilities(found[0], "temperature", temperature=temperature).numpy().round(3))

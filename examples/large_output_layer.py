"""The last layer and the square loss in one, for very many classes: the outputs are never built.

python examples/large_output_layer.py
"""

import time

import torch

from sqloss_plugins import linear_square_loss, square_loss

TOKENS, WIDTH, CLASSES = 1024, 64, 30000
K, M = 15.0, 30.0  # the paper's for about 1000 classes and more


def gradients(without_outputs: bool) -> tuple[torch.Tensor, float]:
    """The layer's gradient, and the seconds that it took."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(WIDTH, CLASSES)
    hidden = torch.randn(TOKENS, WIDTH)
    targets = torch.randint(0, CLASSES, (TOKENS,))
    start = time.perf_counter()
    if without_outputs:
        loss = linear_square_loss(hidden, layer.weight, targets, linear_bias=layer.bias, k=K, M=M)
    else:
        loss = square_loss(layer(hidden), targets, k=K, M=M)  # builds 1024 x 30000 numbers, and again for the gradient
    loss.backward()
    assert layer.weight.grad is not None
    return layer.weight.grad, time.perf_counter() - start


if __name__ == "__main__":
    gradients(True)  # the first call prepares
    (without, fast), (direct, slow) = gradients(True), gradients(False)
    print(f"without outputs {fast:.3f} s, with outputs {slow:.3f} s")
    print(f"largest difference of the gradients: {(without - direct).abs().max():.1e}")

"""A model of timm, trained on images with the square loss in a loop of one's own.

python examples/timm_model.py
"""

import timm
import torch
from sklearn.datasets import load_digits

from sqloss_plugins import SquareLoss
from sqloss_plugins.paper import choose_rescaling
from sqloss_plugins.probability import probabilities

if __name__ == "__main__":
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.as_tensor(digits.images[:512], dtype=torch.float32).unsqueeze(1) / 16  # (N, 1, 8, 8)
    images = torch.nn.functional.interpolate(images, size=32)
    targets = torch.as_tensor(digits.target[:512])

    # Any classifier of timm: pretrained=True takes its weights from the hub.
    model = timm.create_model("test_efficientnet", in_chans=1, num_classes=10)
    rescaling = choose_rescaling(num_classes=10)  # k and M; both are 1 below 42 classes
    print(rescaling)
    loss = SquareLoss(k=rescaling.k, M=rescaling.M)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(4):
        for batch in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            value = loss(model(images[batch]), targets[batch])
            value.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {value.item():.4f}")

    outputs = model.eval()(images[:1])
    print("class", outputs.argmax().item(), "of", targets[0].item())
    print(probabilities(outputs, "square", k=rescaling.k, M=rescaling.M).detach().numpy().round(2))

"""The wide residual network of Zagoruyko & Komodakis (BMVC 2016, arXiv 1605.07146) for small images."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


class WideResnetConfig(PreTrainedConfig):
    """WRN-28-20 for CIFAR, with 145.8 million parameters.

    Attributes:
        depth: convolutions, those on the ways around included; 4 more than a multiple of 6.
        widen_factor: the three groups of blocks have 16, 32 and 64 times as many channels.
        dropout: what share of the values between the convolutions of a block is dropped in training.
        num_channels: channels of the images.
        image_size: height and width of the images it is made for, in pixels; it reads others, too.

    Examples:
        >>> WideResnetConfig(depth=16, widen_factor=2).num_channels
        3
    """

    model_type = "wide_resnet"

    depth: int = 28
    widen_factor: int = 20
    dropout: float = 0.0
    num_channels: int = 3
    image_size: int = 32


class WideBlock(nn.Module):
    """Normalisation, ReLU and convolution, twice, and a way around them (Zagoruyko & Komodakis, Figure 1 c, d).

    Args:
        input_size: channels of what it reads.
        width: channels of what it gives.
        stride: of its first convolution.
        dropout: what share of the values between the convolutions is dropped in training.
    """

    def __init__(self, input_size: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm2d(input_size)
        self.first = nn.Conv2d(input_size, width, 3, stride, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(input_size, width, 1, stride, bias=False) if input_size != width else None

    def forward(self, inputs: Tensor) -> Tensor:
        """The features of N images.

        Args:
            inputs: shape (N, input_size, H, W).

        Returns:
            Shape (N, width, H / stride, W / stride), rounded up.
        """
        active = F.relu(self.first_norm(inputs), inplace=True)
        hidden = F.relu(self.second_norm(self.first(active)), inplace=True)
        # Where the number of channels changes, the way around begins after the first normalisation.
        around = inputs if self.skip is None else self.skip(active)
        features: Tensor = around + self.second(self.dropout(hidden))
        return features


class WideResnetForImageClassification(PreTrainedModel):
    """The network, with as many outputs as there are classes, without a softmax.

    Raises:
        ValueError: a depth that is not 4 more than a multiple of 6.

    Examples:
        >>> import torch
        >>> model = WideResnetForImageClassification(WideResnetConfig(depth=10, widen_factor=1, num_labels=10))
        >>> model(torch.zeros(1, 3, 32, 32)).logits.shape
        torch.Size([1, 10])
    """

    config_class = WideResnetConfig
    config: WideResnetConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"

    def __init__(self, config: WideResnetConfig) -> None:
        super().__init__(config)
        if config.depth < 10 or config.depth % 6 != 4:
            raise ValueError(f"the depth of a wide residual network is 10, 16, 22, 28 and so on, not {config.depth}")
        size = 16
        self.stem = nn.Conv2d(config.num_channels, size, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        for group in range(3):
            width = 16 * 2**group * config.widen_factor
            for number in range((config.depth - 4) // 6):
                stride = 2 if group and not number else 1
                self.blocks.append(WideBlock(size, width, stride, config.dropout))
                size = width
        self.norm = nn.BatchNorm2d(size)
        self.classifier = nn.Linear(size, config.num_labels)
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutputWithNoAttention:
        """The outputs for a batch of N images.

        Args:
            pixel_values: shape (N, num_channels, H, W), floating point.
            labels: class numbers, shape (N,). With them there is Transformers' own ``loss``, too.

        Returns:
            ``logits`` of shape (N, num_labels).
        """
        hidden = self.stem(pixel_values)
        for block in self.blocks:
            hidden = block(hidden)
        logits = self.classifier(F.relu(self.norm(hidden), inplace=True).mean((2, 3)))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)

    def _init_weights(self, module: nn.Module) -> None:
        """As xternalz/WideResNet-pytorch: convolutions by He et al. (2015) for their outputs; PyTorch's own classifier.

        The classifier's bias starts at 0.
        """
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

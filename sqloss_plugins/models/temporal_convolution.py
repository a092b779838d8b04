"""The temporal convolutional network of Bai, Kolter & Koltun (2018, arXiv 1803.01271) for images read pixel by pixel.

The paper's "TCNN": an image is a sequence of grey levels, row by row or in a permuted order, and the classifier reads
what the last position has seen of it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


class TemporalConvolutionConfig(PreTrainedConfig):
    """The sizes of Bai et al. for sequential and permuted MNIST (Table 2): some 67,000 parameters.

    Attributes:
        levels: residual blocks; block i convolves with dilation 2^i.
        hidden_size: channels of every block.
        kernel_size: values that a convolution reads.
        dropout: what share of the values after a convolution is dropped in training.
        image_size: height and width of the images, in pixels.
        permutation_seed: draws the order in which the pixels are read; None: row by row.

    Examples:
        >>> TemporalConvolutionConfig(permutation_seed=1).levels
        8
    """

    model_type = "temporal_convolution"

    levels: int = 8
    hidden_size: int = 25
    kernel_size: int = 7
    dropout: float = 0.05
    image_size: int = 28
    permutation_seed: int | None = None


class TemporalBlock(nn.Module):
    """Two causal convolutions with weight normalisation, and a way around them (Bai et al., Figure 1 b).

    Args:
        input_size: channels of what it reads.
        config: the network's sizes.
    """

    def __init__(self, input_size: int, config: TemporalConvolutionConfig) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.kernel_size
        self.first = parametrizations.weight_norm(nn.Conv1d(input_size, width, kernel))
        self.second = parametrizations.weight_norm(nn.Conv1d(width, width, kernel))
        self.skip = nn.Conv1d(input_size, width, 1) if input_size != width else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """What each position sees of itself and of those before it.

        Args:
            inputs: shape (N, input_size, L).

        Returns:
            Shape (N, hidden_size, L).
        """
        hidden = inputs
        for convolution in (self.first, self.second):
            padded = F.pad(hidden, (convolution.kernel_size[0] - 1, 0))
            hidden = self.dropout(torch.relu(convolution(padded)))
        return torch.relu(hidden + (inputs if self.skip is None else self.skip(inputs)))


class TemporalConvolutionForImageClassification(PreTrainedModel):
    """The network, with as many outputs as there are classes, without a softmax.

    Only the last position is read. What it sees of block i are positions 2^i apart, so that every block is given
    every second position of the one before, and its dilated convolutions are ordinary ones on these. The outputs are
    those of the network that computes every position, for a quarter of the work at the original's sizes.

    Examples:
        >>> model = TemporalConvolutionForImageClassification(TemporalConvolutionConfig(image_size=8, num_labels=10))
        >>> model(torch.zeros(1, 1, 8, 8)).logits.shape
        torch.Size([1, 10])
    """

    config_class = TemporalConvolutionConfig
    config: TemporalConvolutionConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"

    def __init__(self, config: TemporalConvolutionConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(
            TemporalBlock(config.hidden_size if level else 1, config) for level in range(config.levels)
        )
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.permutation: Tensor | None
        # Saved with the weights: another version of PyTorch may draw another one.
        self.register_buffer(
            "permutation", None if config.permutation_seed is None else torch.arange(config.image_size**2)
        )
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutputWithNoAttention:
        """The outputs for a batch of N images.

        Args:
            pixel_values: shape (N, channels, image_size, image_size), floating point; the channels are averaged.
            labels: class numbers, shape (N,). With them there is Transformers' own ``loss``, too.

        Returns:
            ``logits`` of shape (N, num_labels).

        Raises:
            ValueError: images of another size.
        """
        size = self.config.image_size
        if tuple(pixel_values.shape[2:]) != (size, size):
            raise ValueError(f"this model reads images of shape {(size, size)}, not {tuple(pixel_values.shape[2:])}")
        hidden = self.sequence(pixel_values)
        for level, block in enumerate(self.blocks):
            if level:
                hidden = hidden[..., (hidden.shape[-1] - 1) % 2 :: 2]
            hidden = block(hidden)
        logits = self.classifier(hidden[..., -1])
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)

    def sequence(self, pixel_values: Tensor) -> Tensor:
        """The grey levels of N images in the order in which they are read, shape (N, 1, image_size^2)."""
        values = pixel_values.mean(1, keepdim=True).flatten(2)
        return values if self.permutation is None else values[..., self.permutation]

    def _init_weights(self, module: nn.Module) -> None:
        """As the authors' code, in which the convolutions in truth start as PyTorch's own.

        It draws their weights from N(0, 0.01^2), but after the weight normalisation, which then overwrites them.
        """
        if isinstance(module, parametrize.ParametrizationList):
            lengths, directions = module.original0, module.original1
            init.kaiming_uniform_(directions, a=math.sqrt(5))
            init.copy_(lengths, torch.linalg.vector_norm(directions, dim=(1, 2), keepdim=True))
        elif isinstance(module, nn.Conv1d):
            if not parametrize.is_parametrized(module):
                init.normal_(module.weight, std=0.01)
            _init_bias(module, module.in_channels * module.kernel_size[0])
        elif isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            _init_bias(module, module.in_features)
        elif module is self and self.permutation is not None:
            assert self.config.permutation_seed is not None
            drawn = torch.Generator("cpu").manual_seed(self.config.permutation_seed)
            init.copy_(self.permutation, torch.randperm(len(self.permutation), device="cpu", generator=drawn))


def _init_bias(layer: nn.Conv1d | nn.Linear, inputs: int) -> None:
    """PyTorch's own: uniform within one over the root of the number of inputs."""
    init.uniform_(layer.bias, -(inputs**-0.5), inputs**-0.5)

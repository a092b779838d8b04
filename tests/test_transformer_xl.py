"""Transformer-XL: its attention beside the paper's equations in float64, its memory, its sizes, and its files."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from sqloss_plugins.models.transformer_xl import (
    RelativeAttention,
    TransformerXLConfig,
    TransformerXLForCausalLM,
    _sinusoids,
)

SIZES = {"vocab_size": 11, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "head_dim": 4}
SIZES |= {"intermediate_size": 16, "memory_length": 64, "dropout": 0.0, "initializer_range": 0.3}


def tiny(**others):
    torch.manual_seed(0)
    return TransformerXLForCausalLM(TransformerXLConfig(**{**SIZES, **others})).double().eval()


def characters(*shape):
    return torch.randint(SIZES["vocab_size"], shape)


@pytest.mark.parametrize(("task", "classes"), [("enwik8", 204), ("text8", 27)])
def test_the_originals_sizes(task, classes):
    """41 million parameters, as the paper's Table 2 and the authors' code have it for run_*_base.sh."""
    d, layers, inner = 512, 12, 2048
    attention = 3 * d * d + d * d + d * d + 2 * d  # queries, keys, values; positions; output; layer normalisation
    feed_forward = d * inner + inner + inner * d + d + 2 * d
    expected = classes * d + classes + 2 * d + layers * (attention + feed_forward)  # tied embedding, bias; u and v
    with torch.device("meta"):
        model = TransformerXLForCausalLM(TransformerXLConfig(vocab_size=classes, tie_word_embeddings=True))
    model.tie_weights()
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert round(expected / 1e6) == 41
    with torch.device("meta"):
        model = TransformerXLForCausalLM(TransformerXLConfig(vocab_size=classes))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected + classes * d


def attention_by_the_equations(layer, hidden, context, u, v):
    """Section 3.3 of the paper, one query, key and head after the other."""
    rows, length, width = hidden.shape
    heads, d = layer.heads, layer.width
    offset = context.shape[1] - length
    w_k, w_v = layer.keys_and_values.weight.chunk(2)
    found = torch.zeros(rows, length, heads * d, dtype=hidden.dtype)
    for n in range(rows):
        for head in range(heads):
            own = slice(head * d, (head + 1) * d)
            for i in range(length):
                q = layer.queries.weight[own] @ hidden[n, i]
                scores = []
                for j in range(offset + i + 1):
                    distance = offset + i - j
                    half = [distance / 10000 ** (2 * c / width) for c in range(width // 2)]
                    sinusoid = torch.tensor([*map(math.sin, half), *map(math.cos, half)], dtype=hidden.dtype)
                    k, r = w_k[own] @ context[n, j], layer.positions.weight[own] @ sinusoid
                    scores.append(((q + u[head]) @ k + (q + v[head]) @ r) / math.sqrt(d))
                weights = torch.stack(scores).softmax(0)
                values = context[n, : offset + i + 1] @ w_v[own].T
                found[n, i, own] = weights @ values
    return found @ layer.output.weight.T


@pytest.mark.parametrize(("length", "memory"), [(4, 0), (3, 5), (1, 3), (5, 2)])
def test_attention_by_the_equations(length, memory):
    layer = RelativeAttention(TransformerXLConfig(**SIZES)).double()
    context = torch.randn(2, memory + length, 12, dtype=torch.double)
    u, v = torch.randn(2, 3, 4, dtype=torch.double)
    hidden = context[:, memory:]
    found = layer(hidden, context, _sinusoids(memory + length, hidden), u, v)
    torch.testing.assert_close(found, attention_by_the_equations(layer, hidden, context, u, v), rtol=1e-10, atol=1e-12)


def test_gradients():
    layer = RelativeAttention(TransformerXLConfig(**{**SIZES, "hidden_size": 4, "num_attention_heads": 2})).double()
    inputs = [torch.randn(1, 5, 4), torch.randn(2, 4), torch.randn(2, 4)]
    context, u, v = (value.double().requires_grad_() for value in inputs)
    sinusoids = _sinusoids(5, context)
    assert torch.autograd.gradcheck(lambda c, *biases: layer(c[:, 2:], c, sinusoids, *biases), (context, u, v))


@settings(max_examples=25)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(0, 3))
def test_memory_is_one_long_segment(lengths, seed):
    """Cut into segments of whatever lengths, a text that the memory holds whole has the same outputs."""
    torch.manual_seed(seed)
    model = tiny()
    ids = characters(2, sum(lengths))
    memory, outputs = None, []
    with torch.no_grad():
        for segment in ids.split(lengths, dim=1):
            found = model(segment, memory)
            memory = found.memory
            outputs.append(found.logits)
        whole = model(ids)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole.logits, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(memory, whole.memory, rtol=1e-10, atol=1e-11)


def test_memory_keeps_the_last_positions_of_each_layer():
    model = tiny(memory_length=5)
    ids = characters(3, 4)
    first = model(ids)
    second = model(characters(3, 4), first.memory)
    assert first.memory.shape == (2, 3, 4, 12)
    assert second.memory.shape == (2, 3, 5, 12)
    torch.testing.assert_close(second.memory[:, :, :1], first.memory[:, :, 3:])
    torch.testing.assert_close(first.memory[0], model.embedding(ids) * math.sqrt(12))
    longer = tiny(memory_length=64)(ids).memory
    torch.testing.assert_close(longer, first.memory)
    assert tiny(memory_length=0)(ids).memory.shape == (2, 3, 0, 12)
    with pytest.raises(ValueError, match="there are 2 segments, and the memory is that of 3"):
        model(characters(2, 4), first.memory)


def test_an_empty_memory_is_none():
    model = tiny(memory_length=0)
    ids = characters(1, 4)
    torch.testing.assert_close(model(ids, model(ids).memory).logits, model(ids).logits)


def test_no_gradient_through_the_memory():
    model = tiny().train()
    first = model(characters(1, 4))
    assert not first.memory.requires_grad
    ids = characters(1, 4)
    model(ids, first.memory).logits.sum().backward()
    through = model.embedding.weight.grad.clone()
    model.zero_grad()
    model(ids, first.memory.clone()).logits.sum().backward()
    torch.testing.assert_close(model.embedding.weight.grad, through)


def test_nothing_sees_the_future():
    model = tiny()
    ids, memory = characters(2, 7), model(characters(2, 3)).memory
    other = ids.clone()
    other[:, 4] = (other[:, 4] + 1) % 11
    one, two = model(ids, memory).logits, model(other, memory).logits
    torch.testing.assert_close(one[:, :4], two[:, :4], rtol=0, atol=0)
    assert not torch.isclose(one[:, 4:], two[:, 4:]).all(-1).any()


def test_an_empty_memory_is_none_and_the_order_of_characters_counts():
    model = tiny()
    ids = torch.tensor([[3, 8, 1, 0, 8]])
    memory = torch.zeros(2, 1, 0, 12, dtype=torch.double)
    torch.testing.assert_close(model(ids, memory).logits, model(ids).logits)
    swapped = ids[:, [1, 0, 2, 3, 4]]
    assert not torch.allclose(model(swapped).logits[:, -1], model(ids).logits[:, -1])


def test_rows_do_not_see_each_other():
    model = tiny()
    ids = characters(3, 5)
    memory = model(characters(3, 4)).memory
    whole = model(ids, memory).logits
    for row in range(3):
        torch.testing.assert_close(model(ids[row : row + 1], memory[:, row : row + 1]).logits[0], whole[row])


def test_its_own_loss_shifts_labels_as_transformers_models_do():
    model = tiny()
    ids = characters(2, 6)
    found = model(ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(found.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_dropout_is_of_training_alone():
    model = tiny(dropout=0.5, attention_dropout=0.5)
    ids = characters(1, 6)
    torch.testing.assert_close(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.allclose(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded(tied, tmp_path):
    model = tiny(tie_word_embeddings=tied).float()
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), TransformerXLConfig)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert (loaded.lm_head.weight is loaded.embedding.weight) == tied
    ids = characters(2, 5)
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_weights_at_the_start():
    """As in the authors' code: deviation 0.02, layer normalisations around one, no biases."""
    model = TransformerXLForCausalLM(TransformerXLConfig(num_hidden_layers=1))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15)
            assert parameter.mean().item() == pytest.approx(1.0 if "norm" in name else 0.0, abs=0.004)


def test_bfloat16_counts_distances_right():
    model = tiny(dropout=0.0)
    ids = characters(1, 600)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.float()(ids).logits
    torch.testing.assert_close(found.double(), model.double()(ids).logits, rtol=0.1, atol=0.2)

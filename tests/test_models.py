"""The paper's models for pairs of texts, and the command line that trains them."""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_refused, kill_when
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    pipeline,
)

from sqloss_plugins.data.glue import TASKS
from sqloss_plugins.data.mini_glue import load_mini
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf.options import parse
from sqloss_plugins.hf.tasks.glue import Glue, main
from sqloss_plugins.models import ARCHITECTURES
from sqloss_plugins.models.esim import attention
from sqloss_plugins.models.pairs import BiLSTM, Words, take_apart
from sqloss_plugins.models.pairwise_word_interaction import assign, focus, similarity_cube
from sqloss_plugins.models.words import (
    encode_pairs,
    longest,
    read_word_vectors,
    set_word_vectors,
    train_tokenizer,
)
from sqloss_plugins.results import OF_OUTPUTS, read_result

ROOT = Path(__file__).parent.parent
ARCHS = list(ARCHITECTURES)
WORDS = 20


def make(arch, **sizes):
    entry = ARCHITECTURES[arch]
    sizes = {"vocab_size": WORDS, "embedding_size": 5, "hidden_size": 4, "num_labels": 3, **sizes}
    return entry.model(entry.config(**sizes)).eval()


def batch(pairs, side="right", extra=0):
    """Pairs of lists of word numbers as the model takes them."""
    width = max(len(a) + len(b) for a, b in pairs) + extra
    columns = {name: torch.zeros(len(pairs), width, dtype=torch.long) for name in INPUTS}
    for i, (a, b) in enumerate(pairs):
        start = 0 if side == "right" else width - len(a) - len(b)
        stop = start + len(a) + len(b)
        columns["input_ids"][i, start:stop] = torch.tensor([*a, *b], dtype=torch.long)
        columns["token_type_ids"][i, start + len(a) : stop] = 1
        columns["attention_mask"][i, start:stop] = 1
    return columns


INPUTS = ("input_ids", "token_type_ids", "attention_mask")
TEXT = st.lists(st.integers(1, WORDS - 1), min_size=1, max_size=7)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4)


def some_pairs(count=16, longest=6):
    texts = [torch.randint(1, WORDS, (int(n),)).tolist() for n in torch.randint(1, longest + 1, (2 * count,))]
    return list(zip(texts[::2], texts[1::2], strict=True))


# The models in float64, one pair at a time and word by word, from the papers' equations.


def lstm(layer, x):
    W, R = layer.weight_ih_l0, layer.weight_hh_l0
    bias = layer.bias_ih_l0 + layer.bias_hh_l0
    h = c = x.new_zeros(R.shape[1])
    states = []
    for row in x:
        i, f, g, o = (W @ row + R @ h + bias).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states)


def both_ways(layer, x):
    return lstm(layer.forwards, x), lstm(layer.backwards, x.flip(0)).flip(0)


def esim(model, a, b):
    def read(ids):
        return torch.cat(both_ways(model.encoder, model.embedding.weight[ids]), 1)

    def found(own, other):
        rows = []
        for word in own:
            e = torch.stack([word @ o for o in other])
            weights = e.exp() / e.exp().sum()
            rows.append(sum(w * o for w, o in zip(weights, other, strict=True)))
        return torch.stack(rows)

    def composed(own, other):
        m = torch.cat((own, other, own - other, own * other), 1)
        v = torch.cat(both_ways(model.composition, model.projection(m).clamp_min(0)), 1)
        return torch.cat((v.mean(0), v.max(0).values))

    a, b = read(a), read(b)
    v = torch.cat((composed(a, found(a, b)), composed(b, found(b, a))))
    return model.classifier(model.hidden(v).tanh())


def greedy(scores):
    """Algorithm 1: which two words belong together."""
    rows, columns, chosen = set(), set(), set()
    cells = [(i, j) for i in range(scores.shape[0]) for j in range(scores.shape[1])]
    for i, j in sorted(cells, key=lambda cell: -scores[cell]):
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            chosen.add((i, j))
    return chosen


def interaction(model, a, b):
    def views(ids):
        forwards, backwards = both_ways(model.encoder, model.embedding.weight[ids])
        return forwards, backwards, torch.cat((forwards, backwards), 1), forwards + backwards

    cube = torch.ones(13, len(a), len(b), dtype=torch.float64)
    for v, (x, y) in enumerate(zip(views(a), views(b), strict=True)):
        for i in range(len(a)):
            for j in range(len(b)):
                dot = x[i] @ y[j]
                cube[3 * v, i, j] = dot / (x[i].norm() * y[j].norm())
                cube[3 * v + 1, i, j] = -(x[i] - y[j]).norm()
                cube[3 * v + 2, i, j] = dot
    together = greedy(cube[9].detach().numpy()) | greedy(cube[10].detach().numpy())
    for i in range(len(a)):
        for j in range(len(b)):
            if (i, j) not in together:
                cube[:12, i, j] *= 0.1
    image = cube
    for layer in model.convolutions:
        maps, height, width = layer.out_channels, *image.shape[1:]
        padded = torch.zeros(image.shape[0], height + 2, width + 2, dtype=torch.float64)
        padded[:, 1:-1, 1:-1] = image
        out = torch.stack(
            [
                (layer.weight * padded[:, i : i + 3, j : j + 3]).sum((1, 2, 3)) + layer.bias
                for i in range(height)
                for j in range(width)
            ],
            1,
        ).clamp_min(0)
        out = out.reshape(maps, height, width)
        image = torch.stack(
            [
                torch.stack([out[:, i : i + 2, j : j + 2].amax((1, 2)) for j in range(0, width, 2)], 1)
                for i in range(0, height, 2)
            ],
            1,
        )
    return model.classifier(model.hidden(image.amax((1, 2))).clamp_min(0))


REFERENCES = {"lstm_attention": esim, "lstm_cnn": interaction}


@pytest.fixture(scope="module")
def doubles():
    """Both models in float64, with biases that are not 0."""
    torch.manual_seed(1)
    models = {arch: make(arch).double() for arch in ARCHS}
    with torch.no_grad():
        for model in models.values():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.uniform_(-0.3, 0.3)
            if hasattr(model, "projection"):  # which begin very small
                model.projection.weight.mul_(30)
                model.hidden.weight.mul_(30)
    return models


@pytest.mark.parametrize("arch", ARCHS)
@given(pairs=PAIRS, side=st.sampled_from(["left", "right"]), extra=st.integers(0, 3))
def test_outputs_are_those_of_the_equations(arch, doubles, pairs, side, extra):
    """Whatever the padding is, and whichever other pairs are in the batch."""
    model = doubles[arch]
    with torch.no_grad():
        outputs = model(**batch(pairs, side, extra)).logits
        expected = torch.stack([REFERENCES[arch](model, a, b) for a, b in pairs])
    torch.testing.assert_close(outputs, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", ARCHS)
def test_gradients_do_not_know_the_padding(arch, doubles):
    model, pairs = doubles[arch], some_pairs(6)

    def gradients(*options):
        model.zero_grad()
        (model(**batch(pairs, *options)).logits ** 2).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    for one, other in zip(gradients(), gradients("left", 4), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("arch", ARCHS)
def test_gradients_reach_everything(arch):
    model, pairs = make(arch), some_pairs()
    model(**batch(pairs)).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert not model.embedding.weight.grad[0].any()  # of padding
    for parameter in make(arch, train_embeddings=False).embedding.parameters():
        assert not parameter.requires_grad


@pytest.mark.parametrize("arch", ARCHS)
def test_short_equal_and_empty_texts(arch):
    """One word, no word, and twice the same text: every number is finite, in gradients, too."""
    model = make(arch)
    pairs = [([3], [4]), ([], [4, 5]), ([4, 5], []), ([], []), ([3, 4, 5], [3, 4, 5])]
    outputs = model(**batch(pairs)).logits
    outputs.sum().backward()
    assert outputs.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    torch.testing.assert_close(model(**batch(pairs[3:4], extra=1)).logits, outputs[3:4])


def test_texts_are_taken_apart_wherever_they_are():
    ids = torch.tensor([[0, 7, 0, 8, 9, 0], [1, 2, 3, 4, 5, 6]])
    types = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1]])
    first, second = take_apart(ids, types, None, 0)
    assert first.ids.tolist() == [[8, 0, 0, 0], [1, 2, 3, 4]]
    assert second.ids.tolist() == [[7, 9], [5, 6]]
    assert (first.lengths.tolist(), second.lengths.tolist()) == ([1, 4], [2, 2])
    assert first.mask.tolist() == [[True, False, False, False], [True] * 4]
    with pytest.raises(ValueError, match="needs token_type_ids"):
        make("lstm_attention")(input_ids=ids)


def test_attention_of_a_case_by_hand():
    a = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    b = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0], [9.0, 9.0]]])
    masks = torch.tensor([[True, True]]), torch.tensor([[True, True, False]])
    weights_a, weights_b = attention(a, b, *masks)
    torch.testing.assert_close(weights_a, torch.tensor([[[0.75, 0.25, 0.0], [0.5, 0.5, 0.0]]]))
    torch.testing.assert_close(weights_b, torch.tensor([[[0.75, 0.25], [0.5, 0.5], [0.0, 0.0]]]))


def test_swapped_texts_swap_the_halves_of_esim(doubles):
    model, pairs = doubles["lstm_attention"], some_pairs(5)
    a, b = model.features(*take_apart(**batch(pairs), pad_token_id=0))
    c, d = model.features(*take_apart(**batch([(b, a) for a, b in pairs]), pad_token_id=0))
    torch.testing.assert_close((a, b), (d, c))


def states(*rows):
    return torch.tensor([rows], dtype=torch.float64)


def test_cube_of_a_case_by_hand():
    """Forward states (3, 4) and (4, 3), backward states (1, 0) and (0, 2)."""
    cube = similarity_cube((states((3, 4)), states((1, 0))), (states((4, 3)), states((0, 2))))
    expected = [24 / 25, -math.sqrt(2), 24.0]
    expected += [0.0, -math.sqrt(5), 0.0]
    expected += [24 / math.sqrt(26 * 29), -math.sqrt(7), 24.0]
    expected += [36 / math.sqrt(32 * 41), -1.0, 36.0]
    torch.testing.assert_close(cube[0, :, 0, 0].tolist(), [*expected, 1.0])


def test_cube_in_16_bits():
    """As a whole model is with --bf16_full_eval."""
    first, second = (tuple(torch.randn(2, n, 3) for _ in "fb") for n in (4, 3))
    narrow = similarity_cube(*(tuple(one.bfloat16() for one in text) for text in (first, second)))
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), similarity_cube(first, second), rtol=0.05, atol=0.05)


def test_swapped_texts_transpose_cube_and_focus():
    first, second = (tuple(torch.randn(2, n, 3, dtype=torch.float64) for _ in "fb") for n in (4, 3))
    cube, other = similarity_cube(first, second), similarity_cube(second, first)
    torch.testing.assert_close(cube, other.transpose(2, 3))
    pairs = torch.ones(2, 4, 3, dtype=torch.bool)
    assert torch.equal(focus(cube, pairs), focus(other, pairs.transpose(1, 2)).transpose(2, 3))


def test_focus_of_a_case_by_hand():
    """The best two words first, although another choice would have the greater sum; once by each of two channels."""
    cube = torch.zeros(1, 13, 2, 3)
    cube[0, 9] = torch.tensor([[0.9, 0.8, 0.0], [0.7, 0.1, 0.3]])
    cube[0, 10] = torch.tensor([[-1.0, -5.0, -6.0], [-7.0, -3.0, -8.0]])
    weights = focus(cube, torch.ones(1, 2, 3, dtype=torch.bool))
    expected = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 1.0]])
    assert all(torch.equal(channel, expected) for channel in weights[0, :12])
    assert torch.equal(weights[0, 12], torch.ones(2, 3))


@given(
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4), seed=st.integers(0, 10**6)
)
def test_words_are_paired_off_as_by_sorting(sizes, seed):
    torch.manual_seed(seed)
    scores, pairs = torch.randn(len(sizes), 6, 6), torch.zeros(len(sizes), 6, 6, dtype=torch.bool)
    for i, (height, width) in enumerate(sizes):
        pairs[i, :height, :width] = True
    chosen = assign(scores, pairs)
    for one, matrix, (height, width) in zip(chosen, scores, sizes, strict=True):
        assert {tuple(cell) for cell in one.nonzero().tolist()} == greedy(matrix[:height, :width].numpy())


def test_parameters_are_as_many_as_the_papers():
    """Chen et al. have 4.3 million without word vectors, for three classes; of He & Lin by their code's sizes."""
    for arch, classes, expected in (("lstm_attention", 3, 4_331_103), ("lstm_cnn", 2, 2_161_830)):
        model = ARCHITECTURES[arch].model(ARCHITECTURES[arch].config(vocab_size=2, num_labels=classes))
        assert sum(p.numel() for name, p in model.named_parameters() if "embedding" not in name) == expected


def test_weights_at_the_start():
    model = make("lstm_attention", vocab_size=500, embedding_size=64, hidden_size=64)
    assert model.embedding.weight[1:].std().item() == pytest.approx(1.0, rel=0.02)
    assert model.projection.weight.std().item() == pytest.approx(0.01, rel=0.02)
    for gate in model.encoder.backwards.weight_hh_l0.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(64))
    model = make("lstm_cnn", vocab_size=500, embedding_size=64)
    assert model.embedding.weight[1:].std().item() == pytest.approx(1.0, rel=0.02)
    assert model.convolutions[2].weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 192)), rel=0.02)
    assert not model.embedding.weight[0].any()


@pytest.mark.parametrize("arch", ARCHS)
def test_saved_and_loaded(arch, tmp_path):
    model, inputs = make(arch), batch(some_pairs())
    with torch.no_grad():
        model.embedding.weight[0] = 0.5  # what is in the file counts, even of padding
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert AutoConfig.from_pretrained(tmp_path).hidden_size == 4
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=0, atol=0)
    assert torch.equal(loaded.embedding.weight, model.embedding.weight)


@pytest.mark.parametrize("arch", ARCHS)
def test_in_pipelines(arch, tmp_path):
    tokenizer = train_tokenizer(["a man sleeps", "a woman reads a book"])
    model = make(arch, vocab_size=len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    classify = pipeline("text-classification", str(tmp_path), function_to_apply="none", top_k=None)
    pairs = [("A man sleeps", "a book"), ("A woman reads!", "A woman sleeps")]
    found = classify([{"text": a, "text_pair": b} for a, b in pairs], batch_size=2)
    columns = encode_pairs(tokenizer, *zip(*pairs, strict=True), None)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    outputs = model(**DataCollatorWithPadding(tokenizer)(rows)).logits
    for one, expected in zip(found, outputs, strict=True):
        scores = {entry["label"]: entry["score"] for entry in one}
        torch.testing.assert_close(torch.tensor([scores[f"LABEL_{i}"] for i in range(3)]), expected)


@pytest.mark.parametrize("arch", ARCHS)
def test_loss_of_transformers_where_it_is_asked_for(arch):
    model, inputs, labels = make(arch), batch(some_pairs(4)), torch.tensor([0, 1, 2, 1])
    output = model(**inputs, labels=labels)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    assert model(**inputs).loss is None


@pytest.mark.parametrize("arch", ARCHS)
def test_mixed_precision_and_compiled(arch):
    model, inputs = make(arch).train(), batch(some_pairs())
    plain = make(arch).eval()
    plain.load_state_dict(model.state_dict())
    expected = plain(**inputs).logits
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.eval()(**inputs).logits
    outputs.float().sum().backward()
    torch.testing.assert_close(outputs.float(), expected, rtol=0.1, atol=0.05)
    compiled = torch.compile(plain, backend="eager")
    torch.testing.assert_close(compiled(**inputs).logits, expected)


def test_lstm_in_mixed_precision_without_avx512(monkeypatch):
    """oneDNN has no such LSTM there."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    lstm, words = BiLSTM(3, 5), Words(torch.zeros(2, 4, dtype=torch.int64), torch.tensor([2, 4]))
    inputs = torch.randn(2, 4, 3)
    expected = lstm(inputs, words)
    with torch.autocast("cpu", torch.bfloat16):
        states = lstm(inputs, words)
    for found, right in zip(states, expected, strict=True):
        torch.testing.assert_close(found.float(), right, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("arch", ARCHS)
def test_both_learn(arch):
    """Whether two texts have a word in common."""
    torch.manual_seed(3)
    model = make(arch, embedding_size=16, hidden_size=16, num_labels=2, dropout=0.0).train()
    pairs = some_pairs(64, longest=4)
    labels = torch.tensor([bool(set(a) & set(b)) for a, b in pairs]).long()
    inputs = batch(pairs)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(**inputs).logits, labels).backward()
        optimizer.step()
    assert (model(**inputs).logits.argmax(1) == labels).float().mean() > 0.95


def test_masks_are_of_the_lengths():
    assert Words(torch.zeros(2, 3), torch.tensor([1, 3])).mask.tolist() == [[True, False, False], [True] * 3]


# Words.


def test_tokenizer():
    tokenizer = train_tokenizer(["The cat can't sit.", "the CAT, the Élan"])
    by_number = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    assert by_number[:4] == ["[PAD]", "[UNK]", "the", "cat"]  # by frequency, and then
    assert by_number[4:] == sorted(["can", "'", "t", "sit", ".", ",", "élan"])
    same = train_tokenizer(["the CAT, the Élan", "The cat can't sit."])
    assert same.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert tokenizer.num_special_tokens_to_add(pair=True) == 0
    encoded = tokenizer("The dog", "cat sit")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["the", "[UNK]", "cat", "sit"]
    assert encoded["token_type_ids"] == [0, 0, 1, 1]


def test_every_word_is_known():
    text = " ".join(f"word{i}" for i in range(40000))
    assert len(train_tokenizer([text])) == 40002


def test_each_text_is_cut_for_itself():
    tokenizer = train_tokenizer(["a b c d e"])
    first, second = ["a b c d", "a", ""], ["e", "b c d e", ""]
    whole = encode_pairs(tokenizer, first, second, None)
    for i in range(2):
        own = tokenizer(first[i], second[i])
        assert {name: column[i] for name, column in whole.items()} == dict(own)
    cut = encode_pairs(tokenizer, first, second, 2)
    assert [tokenizer.decode(ids) for ids in cut["input_ids"]] == ["a b e", "a b c", "[PAD]"]
    assert cut["token_type_ids"] == [[0, 0, 1], [0, 1, 1], [0]]
    assert cut["attention_mask"] == [[1, 1, 1], [1, 1, 1], [0]]
    assert longest(tokenizer, [*first, *second]) == 4


GLOVE = "the 1 2 3\n. . 4 5 6\ncat -1e-2 0 7\nthe 9 9 9\n3.14 1 1 1\n"


@pytest.mark.parametrize("text", [GLOVE, "5 3\n" + GLOVE.replace("\n", " \n"), GLOVE.replace("\n", "\r\n")])
def test_word_vectors(text, tmp_path):
    """GloVe's; fastText's, with a first line and spaces at the ends. Of two one counts; a word may have spaces."""
    path = tmp_path / "vectors.txt"
    path.write_bytes(text.encode())
    found = read_word_vectors(path, {"the", ". .", "cat", "3.14", "dog"})
    assert found.size == 3
    expected = {"the": [1, 2, 3], ". .": [4, 5, 6], "cat": [-0.01, 0, 7], "3.14": [1, 1, 1]}
    assert {word: row.tolist() for word, row in found.rows.items()} == {
        word: np.float32(row).tolist() for word, row in expected.items()
    }
    assert read_word_vectors(path, ["cat"]).rows.keys() == {"cat"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("the 1 2 3\ncat 1 2\n", "line 2: 2 numbers, and a vector has 3"),
        ("the 1 2 3\ndog 1 2 3 4\n", "line 2: 4 numbers, and a vector has 3"),
        ("the 1 2 3\n\n", "line 2: 0 numbers"),
        ("the 1 2 3\ncat 1 x 3\n", "line 2: not all of the 3 values of 'cat' are finite numbers"),
        ("the 1 nan 3\n", "line 1: not all of the 3 values of 'the' are finite numbers"),
        ("the 1 1e99 3\n", "line 1: not all of the 3 values of 'the' are finite numbers"),
        ("the\n", "line 1: 0 numbers"),
        ("3 2\nthe 1 2\ncat 1 2\n", "is cut short: 2 of the 3 vectors that its first line says"),
        ("3 2\nthe 1 2\ncat 1 2\ndog 1", "line 4: 1 numbers, and a vector has 2"),
        ("2 0\nthe\ncat\n", "line 2: 0 numbers"),
        ("", "has no vectors in it"),
        ("5 3\n", "has no vectors in it"),
        ("The 1 2 3\n", "has none of the 2 words of the training text"),
        (b"the 1 2\ncaf\xe9 1 2\n", "is not UTF-8 text (line 2)"),
    ],
)
def test_word_vectors_that_cannot_be_used(content, message, tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_word_vectors(path, {"the", "cat"})
    assert f"--word_vectors {path}" in str(error.value)
    assert message in str(error.value)


def test_word_vectors_in_the_embedding(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("the 1 2 3\ncat 4 5 6\n")
    tokenizer = train_tokenizer(["the cat sat"])
    model = make("lstm_attention", vocab_size=len(tokenizer), embedding_size=3)
    before = model.embedding.weight.detach().clone()
    set_word_vectors(model.embedding, tokenizer, read_word_vectors(path, tokenizer.get_vocab()))
    rows = dict(zip(tokenizer.convert_ids_to_tokens(range(5)), model.embedding.weight.tolist(), strict=True))
    assert (rows["the"], rows["cat"]) == ([1, 2, 3], [4, 5, 6])
    assert rows["[PAD]"] == rows["[UNK]"] == [0, 0, 0]
    expected = before[tokenizer.convert_tokens_to_ids("sat")] * np.std([1, 2, 3, 4, 5, 6])
    torch.testing.assert_close(torch.tensor(rows["sat"]), expected)


# The command line.

SMALL = ["--task", "mrpc", "--mini", "--hidden_size", "8", "--use_cpu", "--disable_tqdm", "true"]
SMALL += ["--max_train_samples", "96", "--num_train_epochs", "2"]


@pytest.fixture
def vectors(tmp_path):
    """Vectors of eight numbers for half of the words of the mini data."""
    rows = load_mini(TASKS["mrpc"]).splits["train"].select(range(96))
    tokenizer = train_tokenizer([*rows["sentence1"], *rows["sentence2"]])
    words = sorted(set(tokenizer.get_vocab()) - {"[PAD]", "[UNK]"})
    path = tmp_path / "vectors.txt"
    known = words[::2]
    path.write_text("".join(f"{word} {' '.join(str(i + j) for j in range(8))}\n" for i, word in enumerate(known)))
    return path, known, words


def settings(*options):
    task = parse(Glue, ["--task", *options])
    return task.args, task.config


@pytest.mark.parametrize("arch", ARCHS)
def test_a_new_model_by_the_command_line(arch, vectors, tmp_path, monkeypatch, capsys):
    """Trained, finished, and scored again as a pre-trained one, with the same outputs."""
    monkeypatch.chdir(tmp_path)
    path, known, words = vectors
    options = [*SMALL, "--arch", arch, "--word_vectors", str(path), "--max_seq_length", "6"]
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert f"model      {arch} (new, " in printed
    assert "texts of up to 6 words" in printed
    assert f"words      {len(words)} known, {len(known)} with_vectors" in printed
    (folder,) = (tmp_path / "runs/mrpc" / arch).glob("square-k1-M1-lr*-early_stopping-s42-mini")
    result = read_result(folder)
    assert result.arch == arch
    assert result.data["words"] == {"known": len(words), "with_vectors": len(known)}
    weights = load_file(folder / "model.safetensors")["embedding.weight"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    row = weights[tokenizer.convert_tokens_to_ids(known[1])]
    is_as_read = torch.equal(row, torch.arange(1.0, 9.0))
    assert is_as_read == (arch == "lstm_cnn")  # which does not train vectors that were given
    assert main(options) == 0
    assert "finished already" in capsys.readouterr().out

    again = ["--task", "mrpc", "--mini", "--do_predict", "--model_name_or_path", str(folder), "--use_cpu"]
    assert main([*again, "--pad_to_max_length", "true"]) == 2
    assert "--pad_to_max_length has no use" in capsys.readouterr().err
    assert main([*again, "--output_dir", "again", "--disable_tqdm", "true"]) == 0
    with np.load(folder / "outputs.npz") as one, np.load("again/outputs.npz") as other:
        np.testing.assert_allclose(other["test_outputs"], one["test_outputs"], rtol=1e-5, atol=1e-6)


def test_killed_runs_go_on(tmp_path, monkeypatch, capsys):
    options = [*SMALL, "--arch", "lstm_attention", "--num_train_epochs", "3"]
    monkeypatch.chdir(tmp_path)
    assert main([*options, "--output_dir", "whole"]) == 0
    command = [sys.executable, str(ROOT / "run_glue_sq.py"), *options, "--output_dir", "killed"]
    kill_when(command, {**os.environ, "PYTHONPATH": str(ROOT)}, tmp_path / "killed", "checkpoint-*/trainer_state.json")
    assert main([*options, "--output_dir", "killed"]) == 0
    assert "Going on from" in capsys.readouterr().out
    with np.load("whole/outputs.npz") as one, np.load("killed/outputs.npz") as other:
        np.testing.assert_allclose(other["test_outputs"], one["test_outputs"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_other_tasks(task, tmp_path, monkeypatch):
    """Among them a regression."""
    monkeypatch.chdir(tmp_path)
    options = [*SMALL, "--task", task, "--num_train_epochs", "1", "--max_seq_length", "5"]
    assert main([*options, "--arch", "lstm_attention", "--embedding_size", "8"]) == 0
    (path,) = Path("runs").rglob("result.json")
    assert read_result(path).hyperparameters["max_seq_length"] == 5


def test_the_longest_training_text_is_the_limit(tmp_path, monkeypatch, capsys):
    """As the paper has it for QNLI."""
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "--task", "qnli", "--arch", "lstm_attention", "--num_train_epochs", "1"]) == 0
    assert "texts of any length" in capsys.readouterr().out
    (path,) = Path("runs").glob("*/*/*/config.json")
    rows = load_mini(TASKS["qnli"]).splits["train"].select(range(96))
    tokenizer = train_tokenizer([*rows["question"], *rows["sentence"]])
    expected = longest(tokenizer, [*rows["question"], *rows["sentence"]])
    assert json.loads(path.read_text())["longest_text"] == expected


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
@pytest.mark.parametrize(("arch", "epochs"), [("lstm_attention", "8"), ("lstm_cnn", "16")])
def test_the_mini_task_is_learnt(arch, epochs, loss, tmp_path, monkeypatch):
    """With the sizes and the settings that are the defaults, but for fewer epochs, of one and the same rate."""
    monkeypatch.chdir(tmp_path)
    options = ["--task", "mrpc", "--mini", "--arch", arch, "--loss", loss, "--num_train_epochs", epochs]
    assert main([*options, "--output_dir", "run", "--disable_tqdm", "true"]) == 0
    with np.load("run/outputs.npz") as saved:
        majority = np.bincount(saved["test_targets"]).max() / len(saved["test_targets"])
    assert read_result(Path("run")).metrics["test"][OF_OUTPUTS]["accuracy"] > majority + 0.15


def test_defaults_are_the_papers():
    for arch, task, loss, expected in (
        ("lstm_attention", "mrpc", "square", (64, 80, 2e-4, 25, 0.5)),
        ("lstm_attention", "mrpc", "cross_entropy", (64, 80, 1e-4, 20, 0.5)),
        ("lstm_attention", "qnli", "square", (32, None, 1e-4, 20, 0.5)),
        ("lstm_cnn", "qqp", "square", (32, 120, 1e-3, 20, 0.0)),
        ("lstm_cnn", "qnli", "square", (32, None, 8e-5, 20, 0.0)),
        ("lstm_cnn", "rte", "cross_entropy", (64, 80, 1e-4, 20, 0.0)),  # which the paper lacks: MRPC's
    ):
        args, config = settings(task, "--arch", arch, "--loss", loss)
        found = (config.per_device_train_batch_size, args.max_seq_length, config.learning_rate)
        assert (*found, config.num_train_epochs, args.dropout) == expected
        assert config.lr_scheduler_type == "constant"
        assert args.embedding_size == 300
    assert (config.optim, config.max_grad_norm, args.hidden_size) == ("rmsprop", 0.0, 250)
    args, config = settings("mrpc")
    assert (config.learning_rate, args.max_seq_length, args.hidden_size) == (5e-5, 128, None)
    _, config = settings("mrpc", "--arch", "lstm_attention", "--mini")  # a few batches an epoch
    assert (config.learning_rate, config.per_device_train_batch_size) == (2e-3, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "gru"], "argument --arch: invalid choice: 'gru'"),
        (["--word_vectors", "v.txt"], "--word_vectors is of a new model, and --arch is bert"),
        (["--hidden_size", "8"], "--hidden_size is of a new model, and --arch is bert"),
        (["--arch", "lstm_cnn", "--model_name_or_path", "x"], "--model_name_or_path is of a pre-trained model"),
        (["--arch", "lstm_cnn", "--tokenizer_name", "x"], "--tokenizer_name is of a pre-trained model"),
        (["--arch", "lstm_cnn", "--pad_to_max_length", "true"], "--pad_to_max_length has no use"),
        (["--arch", "lstm_cnn", "--do_predict"], "--arch lstm_cnn is a new model, which has to be trained"),
        (["--arch", "lstm_cnn", "--hidden_size", "0"], "--hidden_size must be at least 1, got 0"),
        (["--arch", "lstm_cnn", "--dropout", "1"], "--dropout must be at least 0 and less than 1, got 1"),
        (["--arch", "lstm_cnn", "--word_vectors", "v.txt"], "--word_vectors v.txt is no file"),
        (
            ["--arch", "lstm_cnn", "--task", "sst2"],
            "a model for pairs of texts, and those of sst2 are single",
        ),
    ],
)
def test_options_that_make_no_sense(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert_refused(main, ["--task", "mrpc", "--mini", *options], "sqloss glue", message, tmp_path, capsys)


def test_word_vectors_have_their_own_size(vectors, tmp_path, monkeypatch, capsys):
    path, _, _ = vectors
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    options = ["--task", "mrpc", "--mini", "--arch", "lstm_cnn", "--word_vectors", str(path), "--embedding_size", "8"]
    message = "--embedding_size is what --word_vectors decides"
    assert_refused(main, options, "sqloss glue", message, tmp_path / "empty", capsys)


def test_bad_word_vectors_are_no_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("v.txt").write_text("the 1 2\nThe 1\n")
    assert main([*SMALL, "--arch", "lstm_cnn", "--word_vectors", "v.txt"]) == 2
    assert "line 2: 1 numbers" in capsys.readouterr().err
    assert not list(Path("runs").rglob("result.json"))


def test_settings_say_how_the_model_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [*SMALL, "--arch", "lstm_attention", "--num_train_epochs", "1", "--embedding_size", "6"]
    assert main([*options, "--output_dir", "out"]) == 0
    saved = json.loads(Path("out/config.json").read_text())
    assert saved["model_type"] == "esim"
    assert (saved["embedding_size"], saved["hidden_size"], saved["dropout"]) == (6, 8, 0.5)
    assert read_result(Path("out")).hyperparameters["arch"] == "lstm_attention"

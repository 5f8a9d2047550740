from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask
from torch.utils._python_dispatch import TorchDispatchMode

from truing.model.attention import attend, block_mask, node_attention, tree_flex_attention
from truing.model.forest import plant

SCALE = 0.3


def make_forest(seed=0, longest=60):
    """Four trees, up to four nodes deep, longer than one block of 128 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count):
        return torch.randint(1000, (count,), generator=generator).tolist()

    trunk, turn, branch = ids(longest), ids(11), ids(7)
    return plant(
        [
            trunk + turn + branch + ids(20),
            trunk + turn + branch + ids(1),
            trunk + turn + ids(30),
            trunk + ids(25),
            ids(3) + ids(40),
            ids(1),
            ids(70),
        ]
    )


def make_inputs(forest, dtype=torch.float64, heads=4, groups=2, width=8, value_width=None, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(heads, width), (groups, width), (groups, value_width or width)]
    return [
        torch.randn(1, forest.num_tokens, h, w, generator=generator, dtype=torch.float64)
        .to(dtype)
        .transpose(1, 2)
        .requires_grad_()
        for h, w in shapes
    ]


def dense(query, key, value, forest, window=None, softcap=None):
    """Attention with the whole mask written out, by the definition."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    token = torch.arange(forest.num_tokens)
    visible = (token[None] <= token[:, None]) & (token[:, None] < forest.stops[None])
    if window is not None:
        visible &= forest.positions[:, None] - forest.positions[None] < window
    scores = query @ key.transpose(-1, -2) * SCALE
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    return (scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value).transpose(1, 2)


def with_gradients(function, inputs):
    out = function(*inputs)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return [out, *torch.autograd.grad(out, inputs, direction.to(out.dtype))]


def assert_same(found, wanted, relative):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b.double()).norm() <= relative * (b.double().norm() + 1e-2)


CASES = [
    {},
    {"window": 9},
    {"window": 1},
    {"window": 64},
    {"softcap": 0.8},
    {"window": 33, "softcap": 0.8},
    {"window": 10_000},
]


@pytest.mark.parametrize("options", CASES)
def test_nodes_equal_the_dense_mask(options):
    forest = make_forest()
    inputs = make_inputs(forest)
    found = with_gradients(lambda q, k, v: node_attention(q, k, v, forest, SCALE, **options), inputs)
    assert_same(found, with_gradients(lambda q, k, v: dense(q, k, v, forest, **options), inputs), 1e-12)


@pytest.mark.parametrize(
    "dtype, relative", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("heads, groups", [(4, 4), (4, 2), (6, 1)])
def test_flash_equals_the_dense_mask(dtype, relative, heads, groups):
    forest = make_forest()
    inputs = make_inputs(forest, dtype, heads, groups)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out = attend(*inputs, forest, scale=SCALE)
    assert out.grad_fn.name() == "_TreeFlashBackward" and out.is_contiguous()
    found = with_gradients(lambda q, k, v: attend(q, k, v, forest, scale=SCALE), inputs)
    assert [x.dtype for x in found] == [dtype] * 4
    assert_same(found, with_gradients(lambda q, k, v: dense(q, k, v, forest), exact), relative)


@pytest.mark.parametrize("options", CASES)
def test_attend_equals_the_dense_mask_whatever_it_picks(options):
    forest = make_forest(longest=20)
    inputs = make_inputs(forest, value_width=4)
    found = with_gradients(lambda q, k, v: attend(q, k, v, forest, scale=SCALE, **options), inputs)
    assert_same(found, with_gradients(lambda q, k, v: dense(q, k, v, forest, **options), inputs), 1e-12)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("options", CASES)
def test_flex_equals_the_dense_mask(options):
    forest = make_forest()
    inputs = make_inputs(forest, torch.float32, width=16)
    inputs = [x.detach() for x in inputs]  # FlexAttention has no backward pass on a CPU
    softcap, window = options.get("softcap"), options.get("window")
    mask = block_mask(forest, window)
    found = tree_flex_attention(*inputs, mask, SCALE, softcap, compiled=False)
    wanted = dense(*(x.double() for x in inputs), forest, **options)
    assert_same([found], [wanted], 1e-5)


@pytest.mark.parametrize("window", [None, 9, 64, 200])
@pytest.mark.parametrize("longest", [0, 60, 300])
def test_block_mask_says_of_each_block_what_its_tokens_say(window, longest):
    forest = make_forest(longest=longest)
    count = forest.num_tokens
    mask = block_mask(forest, window)
    visible = create_mask(mask.mask_mod, 1, 1, count, count, device="cpu")[0, 0]
    token = torch.arange(count)
    wanted = (token[None] <= token[:, None]) & (token[:, None] < forest.stops[None])
    if window is not None:
        wanted &= forest.positions[:, None] - forest.positions[None] < window
    assert torch.equal(visible, wanted)
    for row in range(-(-count // 128)):
        full = set(mask.full_kv_indices[0, 0, row, : mask.full_kv_num_blocks[0, 0, row]].tolist())
        part = set(mask.kv_indices[0, 0, row, : mask.kv_num_blocks[0, 0, row]].tolist())
        assert not full & part
        for column in range(-(-count // 128)):
            block = visible[row * 128 : row * 128 + 128, column * 128 : column * 128 + 128]
            assert column not in full or (block.all() and block.shape == (128, 128))
            assert column in full | part or not block.any()


class LargestTensor(TorchDispatchMode):
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_no_dense_mask_is_made():
    forest = plant([[i] * 40 for i in range(50)])  # 2,000 tokens
    inputs = make_inputs(forest, torch.float32, heads=2, groups=1)
    with LargestTensor() as seen:
        with_gradients(lambda q, k, v: attend(q, k, v, forest, scale=SCALE), inputs)
        block_mask(forest, 30)
    assert seen.largest <= 2 * 8 * forest.num_tokens


def test_dropout_keeps_the_mean():
    forest = make_forest()
    inputs = [x.detach() for x in make_inputs(forest, torch.float32)]
    torch.manual_seed(0)
    drawn = torch.stack([attend(*inputs, forest, scale=SCALE, dropout=0.3) for _ in range(100)])
    wanted = attend(*inputs, forest, scale=SCALE)
    assert drawn.std(0).mean() > 0.05
    assert (drawn.mean(0) - wanted).norm() < 0.1 * wanted.norm()

"""MP-S2S against the public program's outputs, and its cached decoding against full passes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hdpainter.baselines.nuwa_lip.dfvqgan import any_pool
from hdpainter.baselines.nuwa_lip.inpaint import draw
from hdpainter.baselines.nuwa_lip.mps2s import MPS2S
from hdpainter.baselines.nuwa_lip.transformer import Decoder, Decoding
from hdpainter.configs import read_model_config
from hdpainter.models.registry import MODELS
from ldm.checkpoint import build, dtype_for
from tests.hdpainter.nuwa_lip import tiny
from tests.hdpainter.nuwa_lip.tiny import some_mask
from tests.support import golden, layout, randn, rule_w, shapes


def greedy(logits, rows):
    return logits.argmax(dim=-1)


def test_full_size_network_has_the_published_layout():
    network = build(read_model_config(MODELS / "nuwa-lip-256.yaml"))
    assert shapes(network) == layout("nuwa-lip-full")
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_694_318_340
    assert not [name for name, buffer in network.named_buffers() if buffer.is_meta]


@torch.no_grad()
def test_the_public_programs_outputs():
    case, data = golden("nuwa_mps2s")
    tolerance, network = case["tolerance"], tiny.network()
    assert shapes(network) == layout("nuwa-mps2s-tiny")
    mask = data["mask"].bool()[:, None]
    cells = any_pool(mask, 8)
    assert torch.equal(cells[:, 0], data["vae_mask"].bool())
    assert torch.equal(data["image"].masked_fill(mask, 0), data["masked_image"])
    text = network.encoder(data["input_ids"])
    assert (text - data["text_features"]).abs().max() < 1e-5

    given = data["codes"].view_as(cells[:, 0])
    memory = network.memory(given, cells, data["masked_image"], data["input_ids"])
    logits = network.logits(given, cells, memory)
    error = (logits - data["logits"]).abs().max()
    assert error < tolerance["logits_abs"] and error < 1e-5

    codes, skips = network.vqgan.encode(data["masked_image"], mask)
    assert torch.equal(codes.flatten(1), data["initial_codes"])
    memory = network.memory(codes, cells, data["masked_image"], data["input_ids"])
    filled = network.generate(codes, cells, Decoding(network.transformer_dec, memory), greedy)
    assert torch.equal(filled.flatten(1), data["greedy_codes"])
    error = (network.vqgan.decode(filled, skips) - data["greedy_image"]).abs().max()
    assert error < tolerance["image_abs"] and error < 5e-5


# --- decoding ----------------------------------------------------------------------------------------------


def situation(seed, batch=2):
    """(codes, masked cells, memory) for the tiny network, of noise."""
    network, mask = tiny.network(), some_mask(seed, (64, 64), batch)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 60, (batch, 8, 8), generator=generator)
    tokens = torch.randint(0, 200, (batch, 77), generator=generator)
    picture = randn(seed, (batch, 3, 64, 64)).masked_fill(mask, 0)
    cells = any_pool(mask, 8)
    with torch.no_grad():
        return codes, cells, network.memory(codes, cells, picture, tokens)


@given(seed=st.integers(0, 999), cuts=st.sets(st.integers(1, 63), max_size=20))
@settings(max_examples=10, deadline=None)
@torch.no_grad()
def test_any_portions_give_the_full_pass(seed, cuts):
    network, (codes, cells, memory) = tiny.network(), situation(seed)
    full = network.logits(codes, cells, memory)
    decoding, hidden = Decoding(network.transformer_dec, memory), cells.flatten(1)
    stops = [*sorted(cuts), 64]
    out = [
        decoding(network.decoder_inputs(codes.flatten(1), hidden, decoding.position, stop)) for stop in stops
    ]
    logits = network.to_logits_img(torch.cat(out, dim=1))
    assert logits.shape == full.shape
    assert (logits - full).abs().max() < 1e-5


@pytest.mark.parametrize("seed", [1, 2, 3])
@torch.no_grad()
def test_generation_is_that_of_full_passes_and_computes_each_position_once(seed):
    """As the public program does it: for every code a full pass over all codes so far."""
    network, (codes, cells, memory) = tiny.network(), situation(seed)
    hidden = cells.flatten(1)
    expected, wanted = codes.masked_fill(cells[:, 0], 0), []
    for cell in hidden.any(0).nonzero().flatten().tolist():
        logits = network.logits(expected, cells, memory)[:, cell]
        wanted.append(logits[hidden[:, cell]])
        flat = expected.flatten(1)
        flat[hidden[:, cell], cell] = logits.argmax(-1)[hidden[:, cell]]

    seen, positions = [], []

    def watch(logits, rows):
        seen.append(logits)
        return greedy(logits, rows)

    hook = network.transformer_dec.layers[0].register_forward_pre_hook(
        lambda _, inputs: positions.append(inputs[0].shape[1])
    )
    filled = network.generate(codes, cells, Decoding(network.transformer_dec, memory), watch)
    hook.remove()
    assert torch.equal(filled, expected)
    for ours, theirs in zip(seen, wanted, strict=True):
        assert (ours - theirs).abs().max() < 1e-5
    assert len(positions) == len(wanted)
    last = hidden.any(0).nonzero().max().item()
    assert sum(positions) == last + 1  # the start token and the cells before the last masked one


@given(seed=st.integers(0, 999), rows=st.permutations(range(3)))
@settings(max_examples=5, deadline=None)
@torch.no_grad()
def test_pictures_with_other_masks_are_generated_together(seed, rows):
    network, (codes, cells, memory) = tiny.network(), situation(seed, 3)

    def generated(some):
        decoding = Decoding(network.transformer_dec, memory[some])
        generators = [torch.Generator().manual_seed(row) for row in some]
        return network.generate(
            codes[some],
            cells[some],
            decoding,
            lambda logits, which: draw(logits, [generators[row] for row in which], 5, 1.0),
        )

    together = generated(rows)
    for place, row in enumerate(rows):
        assert torch.equal(together[place], generated([row])[0])
    known = ~cells[rows, 0]
    assert torch.equal(together[known], codes[rows][known])


@torch.no_grad()
def test_a_decoding_can_start_again():
    network, (codes, cells, memory) = tiny.network(), situation(4)
    decoding = Decoding(network.transformer_dec, memory)
    first = network.generate(codes, cells, decoding, greedy)
    decoding.restart()
    assert torch.equal(network.generate(codes, cells, decoding, greedy), first)


@torch.no_grad()
def test_the_memory_knows_nothing_of_masked_cells_and_pixels():
    network, mask = tiny.network(), some_mask(5, (64, 64))
    cells = any_pool(mask, 8)
    assert cells.any() and not cells.all()
    codes, tokens = torch.zeros(2, 8, 8, dtype=torch.int64), torch.ones(2, 77, dtype=torch.int64)
    picture = randn(5, (2, 3, 64, 64)).masked_fill(mask, 0)
    memory = network.memory(codes, cells, picture, tokens)
    assert memory.shape == (2, 64 + 16 + 77, 64)
    other = network.memory(codes.masked_fill(cells[:, 0], 7), cells, picture, tokens)
    assert torch.equal(memory, other)
    assert not torch.equal(memory, network.memory(codes.masked_fill(~cells[:, 0], 7), cells, picture, tokens))


@given(side=st.integers(1, 6), kernel=st.integers(1, 7))
@settings(max_examples=20, deadline=None)
def test_who_looks_at_whom(side, kernel):
    allowed = Decoder(4, 1, 1, 4, 1, ["full"], side, kernel).allowed()
    count = side * side
    for i in range(count):
        for j in range(count):
            (row, column), (other_row, other_column) = divmod(i - 1, side), divmod(j - 1, side)
            near = i == 0 or j == 0
            near = near or all(
                -(kernel // 2) <= offset < kernel - kernel // 2
                for offset in (other_row - row, other_column - column)
            )
            assert allowed["full"][i, j] == (j <= i)
            assert allowed["nearby"][i, j] == (j <= i and near)


def test_types_of_attention_repeat():
    assert Decoder(4, 6, 1, 4, 1, ["full", "nearby", "nearby", "nearby"], 2, 3).attn_types == [
        "full",
        *["nearby"] * 3,
        "full",
        "nearby",
    ]


# --- drawing -----------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 999), top_k=st.integers(1, 80), temperature=st.floats(0.1, 5))
@settings(deadline=None)
def test_codes_are_drawn_among_the_likeliest_by_each_ones_generator(seed, top_k, temperature):
    logits = randn(seed, (3, 60))

    def drawn(rows):
        return draw(logits[rows], [torch.Generator().manual_seed(row) for row in rows], top_k, temperature)

    codes = drawn([0, 1, 2])
    for row, code in enumerate(codes):
        assert (logits[row] > logits[row, code]).sum() < top_k
        assert drawn([row])[0] == code
    if top_k == 1:
        assert torch.equal(codes, logits.argmax(-1))


def test_codes_are_drawn_by_their_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(4000, -1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    counts = torch.bincount(draw(logits, generators, 3, 2.0), minlength=4) / 4000
    expected = torch.cat([torch.zeros(1), (torch.tensor([1.0, 2.0, 3.0]) / 2).softmax(0)])
    assert (counts - expected).abs().max() < 0.03


# --- half precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 0.005), (torch.bfloat16, 0.05)])
@torch.no_grad()
def test_half_precision_is_close_and_for_the_transformers_alone(dtype, rounding):
    network, (codes, cells, memory) = rule_w(MPS2S(**tiny.config())), situation(6)
    expected = network.logits(codes, cells, memory)
    policy = network.dtype_policy(dtype)
    for name, parameter in network.named_parameters():
        parameter.data = parameter.to(dtype_for(policy, name, parameter))
    cast = {name for name, parameter in network.named_parameters() if parameter.dtype == dtype}
    linear = {name for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    assert {name.rpartition(".")[0] for name in cast} == {
        name for name in linear if name.startswith(("transformer_dec", "transformer_enc", "transformer_pth"))
    }
    logits = network.logits(codes, cells, memory)
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < rounding * expected.abs().max()

"""The model cards of the miniatures."""

import json

import pytest

from hdpainter.mini.card import write as write_cards
from ldm.util import UserError


def test_cards_tell_what_was_done(tmp_path):
    with pytest.raises(UserError, match="no model with a card"):
        write_cards(tmp_path)
    (tmp_path / "mini-upscaler.safetensors").write_bytes(b"x" * 1500)
    card = {
        "training": {"params": {"scenes": 12}},
        "seed": 3,
        "steps": 40,
        "minutes": 1.5,
        "device": "CPU",
        "torch": "2",
        "parameters": 750,
        "last_losses": {"loss": 0.5},
        "held_out": {"psnr": 31.25},
    }
    (tmp_path / "mini-upscaler.json").write_text(json.dumps(card))
    text = write_cards(tmp_path).read_text()
    for fact in ("40 steps", "1.5 minutes", "12 training scenes", "psnr 31.25", "seed 3"):
        assert fact in text
    assert "began" not in text

    first = card | {"steps": 7, "training": {"params": {"scenes": 12, "start": "lost.safetensors"}}}
    second = card | {"start": first, "training": {"params": {"scenes": 12, "start": "first.safetensors"}}}
    (tmp_path / "mini-upscaler.json").write_text(json.dumps(second))
    text = write_cards(tmp_path).read_text()
    assert "began with the weights of an earlier run: 7 steps in 1.5 minutes, seed 3\n" in text
    assert "which itself began with the weights of an earlier run, whose steps are not counted\n" in text


def test_a_card_says_that_the_attention_was_supervised_where_it_was(tmp_path):
    (tmp_path / "mini-inpainting.safetensors").write_bytes(b"x")
    settings = {"scenes": 12, "naming": 0.25, "full": 0.25, "covering": 0.2}
    card = {"seed": 3, "steps": 40, "minutes": 1, "device": "CPU", "torch": "2", "parameters": 7}
    card |= {"last_losses": {"naming": 0.5}, "held_out": {"auc": 0.95}}
    for naming, said in ((0.25, True), (0, False)):
        card["training"] = {"params": settings | {"naming": naming}}
        (tmp_path / "mini-inpainting.json").write_text(json.dumps(card))
        text = write_cards(tmp_path).read_text()
        assert ("with weight 0.25" in text) is said
        assert ("25% of the inpainting masks are everything, and 20% cover one object" in text) is said
        assert "auc 0.95" in text

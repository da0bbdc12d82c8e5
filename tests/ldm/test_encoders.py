"""Text encoders: golden features, tokens, and how the models are described."""

import json
from functools import cache

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.modules.encoders.modules import FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder
from ldm.util import CONFIGS, UserError, instantiate_from_config
from tests.support import assert_close, golden, rule_w

SOT, EOT = 49406, 49407
PROMPTS = ["a red vintage car on the road", "", "boat " * 100]
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"layers": 1, "width": 64, "image_size": 32, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}


class SmallCLIPEmbedder(FrozenCLIPEmbedder):
    VERSIONS = {  # noqa: RUF012
        "small": {
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
        }
    }

    def __init__(self, **options):
        super().__init__("small", **options)


@pytest.mark.parametrize("layer", ["last", "penultimate"])
def test_golden_features(layer):
    case, expected = golden(f"text_openclip_{layer}")
    encoder = instantiate_from_config({"target": case["target"], "params": case["config"]})
    rule_w(encoder.model)
    features = encoder.encode(case["prompts"])
    tolerance = case["tolerance"]["rel_to_absmax"]
    assert features.shape == (len(case["prompts"]), 77, 384)
    assert_close(features[:, :16], expected["first16"], tolerance)
    assert_close(features[:, 76], expected["last"], tolerance)


def test_arch_is_a_name_a_path_or_a_config(tmp_path, monkeypatch):
    (tmp_path / "small.json").write_text(json.dumps(TINY))
    monkeypatch.chdir(tmp_path)
    given_dict = FrozenOpenCLIPEmbedder(arch=TINY)
    keys = given_dict.state_dict().keys()
    assert FrozenOpenCLIPEmbedder(arch="small.json").state_dict().keys() == keys
    assert FrozenOpenCLIPEmbedder(arch=str(tmp_path / "small.json")).state_dict().keys() == keys
    # relative to the project, wherever the program is started
    assert FrozenOpenCLIPEmbedder(arch="configs/models/mini-clip.json").state_dict().keys() >= {
        "model.logit_scale"
    }
    assert (CONFIGS / "models" / "mini-clip.json").is_file()
    assert not any(key.startswith("model.visual") for key in keys)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"arch": "ViT-Z-99"}, "open_clip has no model 'ViT-Z-99'"),
        ({"arch": "missing.json"}, "missing.json does not exist"),
        ({"arch": {"embed_dim": 3}}, "not an open_clip config"),
        ({"arch": TINY, "layer": "first"}, "layer.*'first'"),
        ({"arch": TINY, "max_length": 78}, "max_length 78 exceeds the context length 77"),
    ],
)
def test_wrong_descriptions_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        FrozenOpenCLIPEmbedder(**options)


def test_broken_json_is_named(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match=r"bad\.json is not valid JSON"):
        FrozenOpenCLIPEmbedder(arch=tmp_path / "bad.json")


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"version": "openai/clip-vit-huge"},
            "'openai/clip-vit-huge' is not one of openai",
        ),
        ({"layer": "first"}, "layer.*'first'"),
        ({"layer": "hidden"}, "layer_idx"),
        ({"layer": "hidden", "layer_idx": 13}, "layer_idx"),
        ({"max_length": 78}, "max_length 78"),
    ],
)
def test_wrong_descriptions_of_openai_clip_are_refused(options, message):
    with torch.device("meta"), pytest.raises(UserError, match=message):
        FrozenCLIPEmbedder(**options)


def test_tokens_of_the_two_encoders_differ_in_their_padding_only():
    stable_2, stable_1 = FrozenOpenCLIPEmbedder(arch=TINY), SmallCLIPEmbedder()
    for tokens, tokens_1 in zip(stable_2.tokenize(PROMPTS), stable_1.tokenize(PROMPTS), strict=True):
        end = tokens.tolist().index(EOT)
        assert tokens[0] == SOT and len(tokens) == len(tokens_1) == 77
        assert torch.equal(tokens[: end + 1], tokens_1[: end + 1])
        assert not tokens[end + 1 :].any() and (tokens_1[end + 1 :] == EOT).all()
    assert stable_2.tokenize(PROMPTS[2])[0, 76] == EOT  # cut to the context length
    assert torch.equal(stable_2.tokenize("a cat"), stable_2.tokenize(["a cat"]))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=3))
def test_any_text_gives_finite_features(prompts):
    for encoder in encoders():
        features = encoder.encode(prompts)
        assert features.shape == (len(prompts), 77, 32) and features.isfinite().all()


@cache
def encoders():
    """One of each kind, with rule W."""
    return rule_w(FrozenOpenCLIPEmbedder(arch=TINY)), rule_w(SmallCLIPEmbedder())


def test_features_are_causal_and_independent_of_the_batch():
    for encoder in encoders():
        one, other = encoder.encode(["a red boat"]), encoder.encode(["a red house on a hill"])
        torch.testing.assert_close(one[:, :3], other[:, :3])
        assert not torch.allclose(one[:, 3], other[:, 3])
        both = encoder.encode(["a red house on a hill", "a red boat"])
        torch.testing.assert_close(both, torch.cat([other, one]), atol=1e-5, rtol=1e-5)


def test_openai_clip_is_open_clips_with_quick_gelu():
    """The two libraries' text towers, given the same weights, are one function."""
    hf = encoders()[1]
    tower = hf.transformer["text_model"]
    text = open_clip.CLIP(quick_gelu=True, **TINY)
    with torch.no_grad():
        text.token_embedding.weight.copy_(tower.embeddings.token_embedding.weight)
        text.positional_embedding.copy_(tower.embeddings.position_embedding.weight)
        text.ln_final.load_state_dict(tower.final_layer_norm.state_dict())
        for block, layer in zip(text.transformer.resblocks, tower.encoder.layers, strict=True):
            qkv = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
            block.attn.in_proj_weight.copy_(torch.cat([p.weight for p in qkv]))
            block.attn.in_proj_bias.copy_(torch.cat([p.bias for p in qkv]))
            block.attn.out_proj.load_state_dict(layer.self_attn.out_proj.state_dict())
            block.ln_1.load_state_dict(layer.layer_norm1.state_dict())
            block.ln_2.load_state_dict(layer.layer_norm2.state_dict())
            block.mlp.c_fc.load_state_dict(layer.mlp.fc1.state_dict())
            block.mlp.c_proj.load_state_dict(layer.mlp.fc2.state_dict())
    encoder = FrozenOpenCLIPEmbedder(arch=TINY | {"quick_gelu": True})
    encoder.model.load_state_dict({k: v for k, v in text.state_dict().items() if not k.startswith("visual")})
    tokens = hf.tokenize(PROMPTS)
    torch.testing.assert_close(hf.encode_tokens(tokens), encoder.encode_tokens(tokens), atol=1e-5, rtol=1e-5)


def test_layers_of_openai_clip():
    source, tokens = encoders()[1], encoders()[1].tokenize(PROMPTS)

    def features(**options):
        encoder = SmallCLIPEmbedder(**options)
        encoder.load_state_dict(source.state_dict())
        return encoder.encode_tokens(tokens)

    last, hidden = features(), features(layer="hidden", layer_idx=3)
    normed = source.transformer["text_model"].final_layer_norm(hidden)
    torch.testing.assert_close(normed, last)
    assert not torch.allclose(features(layer="hidden", layer_idx=2), hidden)
    ends = (tokens == EOT).int().argmax(1)
    torch.testing.assert_close(features(layer="pooled"), last[torch.arange(3), ends][:, None])


def test_freezing():
    for encoder in encoders():
        assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    free = FrozenOpenCLIPEmbedder(arch=TINY, freeze=False)
    assert free.training and all(p.requires_grad for p in free.parameters())


def test_built_on_meta_only_the_weights_are_missing():
    for build, source in zip(
        (lambda: FrozenOpenCLIPEmbedder(arch=TINY), SmallCLIPEmbedder), encoders(), strict=True
    ):
        with torch.device("meta"):
            encoder = build()
        assert all(p.is_meta for p in encoder.parameters()) and not any(b.is_meta for b in encoder.buffers())
        encoder.load_state_dict(source.state_dict(), assign=True)
        assert torch.equal(encoder.encode(PROMPTS), source.encode(PROMPTS))

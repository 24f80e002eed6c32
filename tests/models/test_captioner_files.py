"""Captioners from files: CoCa, BLIP, BLIP-2 and ClipCap on tiny random models against naive loops; wrong files."""

from __future__ import annotations

import json
import re
import shutil
import zlib

import numpy as np
import pytest
import torch
from captioning import naive_greedy, pictures
from safetensors.torch import load_file, save_file

from seada_core.models.captioners.blip import BLIP_HEAD
from seada_core.models.captioners.clipcap import ClipCap
from seada_core.models.captioners.loading import captioner_kind, load_captioner

# --- full-size CoCa files ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coca_folder(tmp_path_factory):
    """open_clip's coca_ViT-B-32, narrowed, in the hub's layout with a mask buffer that older releases stored."""
    from open_clip import get_model_config
    from open_clip.coca_model import CoCa

    config = get_model_config("coca_ViT-B-32")
    config["embed_dim"] = 32
    config["vision_cfg"] |= {"image_size": 64, "layers": 1, "width": 64, "attn_pooler_heads": 2}
    config["text_cfg"] |= {"width": 32, "heads": 2, "layers": 1}
    config["multimodal_cfg"] |= {"width": 32, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
    torch.manual_seed(0)
    model = CoCa(**{name: value for name, value in config.items() if name != "custom_text"})
    torch.nn.init.normal_(model.text_decoder.text_projection)
    folder = tmp_path_factory.mktemp("coca")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights | {"text.attn_mask": torch.zeros(77, 77)}, folder / "open_clip_model.safetensors")
    return folder


def test_full_vocabulary_coca(coca_folder):
    captioner = load_captioner("coca", coca_folder, max_tokens=6)
    assert (captioner.tokenizer.start, captioner.tokenizer.end, captioner.model.pad_id) == (49406, 49407, 0)
    prepared = captioner.prepare(pictures(2))
    assert prepared.shape == (2, 3, 64, 64)
    found = captioner.decode(prepared)
    assert [ids for ids, _ in found] == [naive_greedy(captioner, image)[0] for image in prepared]
    assert captioner(pictures(2)) == [captioner.tokenizer.decode(ids) for ids, _ in found]


def test_coca_errors(coca_folder, tmp_path):
    with pytest.raises(ValueError, match="nothing is downloaded"):
        load_captioner("coca", tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=r"no open_clip_model\.safetensors"):
        load_captioner("coca", tmp_path)
    with pytest.raises(ValueError, match="unknown captioner"):
        load_captioner("gpt", tmp_path)
    with pytest.raises(ValueError, match="is not a CoCa model of open_clip"):
        load_captioner("coca", coca_folder, config="ViT-B-32")
    pickled = tmp_path / "coca.bin"
    pickled.write_bytes(b"\x80")
    with pytest.raises(ValueError, match="is a pickle"):
        load_captioner("coca", pickled)
    torn = tmp_path / "coca.safetensors"
    torn.write_bytes((coca_folder / "open_clip_model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="the download was interrupted"):
        load_captioner("coca", torn)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "open_clip_config.json").write_bytes((coca_folder / "open_clip_config.json").read_bytes())
    other.rename(folder / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=r"an unknown model .* expected a CoCa of open_clip"):
        load_captioner("coca", folder)
    save_file({"text_decoder.weight": torch.zeros(2)}, folder / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match="does not fit this model: missing"):
        load_captioner("coca", folder)
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"open_clip_pytorch_model\.bin is a pickle"):
        load_captioner("coca", folder)


def test_a_coca_file_is_identified_by_its_shapes(tmp_path):
    """Against the modules that open_clip builds of its configurations, without memory."""
    from accelerate import init_empty_weights
    from open_clip import get_model_config
    from open_clip.coca_model import CoCa

    from seada_core.models.captioners.coca import _coca_name

    for name in ("coca_ViT-L-14", "coca_ViT-B-32"):
        config = {key: value for key, value in get_model_config(name).items() if key != "custom_text"}
        with init_empty_weights():
            state = CoCa(**config).state_dict()
        telling = ("visual.conv1.weight", "text.token_embedding.weight")
        save_file(
            {f"module.{key}": torch.zeros(state[key].shape).half() for key in telling}, tmp_path / "coca.safetensors"
        )
        assert _coca_name(tmp_path / "coca.safetensors") == name
    save_file({"visual.conv1.weight": torch.zeros(1)}, tmp_path / "coca.safetensors")
    assert _coca_name(tmp_path / "coca.safetensors") == "coca_ViT-L-14"


# --- transformers' models ---------------------------------------------------------------------------------------------


WORDS_OF_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "dog", "cat", "photo", "of", "the", "sea"]


def write_gpt2_tokenizer(folder):
    """A byte-level vocabulary without merges; returns the id of <|endoftext|>."""
    letters = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
    vocabulary = {token: i for i, token in enumerate([*letters, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return len(vocabulary) - 1


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory):
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS_OF_BERT))
    BertTokenizer.from_pretrained(folder, local_files_only=True).save_pretrained(folder)
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 5, "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config=tiny | ids | {"vocab_size": len(WORDS_OF_BERT), "encoder_hidden_size": 32},
        vision_config=tiny | {"image_size": 32, "patch_size": 16},
    )
    model = BlipForConditionalGeneration(config)
    draw_weights(model)
    text = model.text_decoder
    with torch.no_grad():  # one tensor in newer versions
        text.cls.predictions.decoder.weight.copy_(text.bert.embeddings.word_embeddings.weight)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip2_folder(tmp_path_factory):
    from transformers import Blip2Config, Blip2ForConditionalGeneration, GPT2Tokenizer

    folder = tmp_path_factory.mktemp("blip2")
    end = write_gpt2_tokenizer(folder)
    tokenizer = GPT2Tokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"model_type": "opt", "vocab_size": end + 2, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    text |= {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    config = Blip2Config(
        vision_config=tiny | {"image_size": 32, "patch_size": 16},
        qformer_config=tiny | {"vocab_size": 16, "encoder_hidden_size": 32, "cross_attention_frequency": 1},
        text_config=text,
        num_query_tokens=4,
        image_token_index=end + 1,
    )
    model = Blip2ForConditionalGeneration(config)
    draw_weights(model)
    model.save_pretrained(folder)
    return folder


def draw_weights(model, std: float = 0.16):
    """Weights drawn by name, the same in any version of transformers; random captions depend on the picture."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                draws = np.random.default_rng(zlib.crc32(name.encode())).normal(0, std, tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(draws))


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_blip(kind, beams, request):
    folder = request.getfixturevalue(f"{kind}_folder")
    captioner = load_captioner(kind, folder, beams=beams, max_tokens=8)
    images = pictures(3)
    captions = captioner(images)
    assert len(captions) == 3 and all(captions)
    assert captions == [captioner(image[None])[0] for image in images]
    assert not any("<image>" in text or "[" in text for text in captions if kind == "blip2")


def test_blip_matches_a_naive_loop(blip_folder):
    """Argmax over the text decoder's logits, all of them computed again for each token."""
    captioner = load_captioner("blip", blip_folder, max_tokens=6)
    model, image = captioner.model, pictures(1)
    pixels = torch.nn.functional.interpolate(image, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    ids = [5]
    with torch.no_grad():
        seen = model.vision_model(pixel_values=pixels)[0]
        while len(ids) < 7 and ids[-1] != 3:
            logits = model.text_decoder(input_ids=torch.tensor([ids]), encoder_hidden_states=seen).logits[0, -1]
            ids.append(int(logits.argmax()))
    expected = " ".join(WORDS_OF_BERT[i] for i in ids[1:] if i not in captioner.tokenizer.all_special_ids)
    assert captioner(image)[0] == expected


@pytest.fixture
def blip_without(blip_folder, tmp_path):
    """A function that writes the folder again without some weights."""

    def write(*names):
        folder = tmp_path / "-".join(names)
        shutil.copytree(blip_folder, folder)
        weights = load_file(folder / "model.safetensors")
        kept = {name: value for name, value in weights.items() if name not in names}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        return folder

    return write


def test_blip_files_without_an_output_layer_use_the_word_embeddings(blip_without):
    """transformers 5 writes no such weight; 4.50 draws it at random when it is missing."""
    folder = blip_without(BLIP_HEAD)
    text = load_captioner("blip", folder).model.text_decoder
    assert torch.equal(text.cls.predictions.decoder.weight, text.bert.embeddings.word_embeddings.weight)
    assert load_captioner("blip", folder)(pictures(2)) == load_captioner("blip", folder)(pictures(2))


def test_a_blip_that_lacks_weights_is_refused(blip_without):
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    with pytest.raises(ValueError, match=f"it lacks 1 weights, {re.escape(name)} first"):
        load_captioner("blip", blip_without(name))


def test_blip_errors(blip_folder, tmp_path):
    with pytest.raises(ValueError, match="not blip2; give a blip2 folder"):
        load_captioner("blip2", blip_folder)
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_captioner("blip", tmp_path)
    (tmp_path / "config.json").write_text((blip_folder / "config.json").read_text())
    with pytest.raises(ValueError, match="no complete blip model"):
        load_captioner("blip", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle"):
        load_captioner("blip", tmp_path)
    (tmp_path / "model.safetensors").write_bytes((blip_folder / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(ValueError, match="the download was interrupted"):
        load_captioner("blip", tmp_path)


# --- ClipCap ----------------------------------------------------------------------------------------------------------


def test_a_captioner_is_identified_by_its_contents(coca_folder, blip_folder, blip2_folder, tmp_path):
    kinds = [captioner_kind(folder) for folder in (coca_folder, blip_folder, blip2_folder)]
    assert kinds == ["coca", "blip", "blip2"]
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds a 'bert' model; expected CoCa, BLIP, BLIP-2 or ClipCap"):
        captioner_kind(tmp_path)


@pytest.fixture(scope="module", params=["mlp", "transformer"])
def clipcap_folder(request, tmp_path_factory):
    """A random ClipCap of the released layout; CLIP is RN50 narrowed through a config of its own."""
    import open_clip
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("clipcap")
    small = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1},
    }
    configs = tmp_path_factory.mktemp("configs")
    (configs / "clipcap-test-clip.json").write_text(json.dumps(small))
    open_clip.add_model_config(configs)
    torch.manual_seed(5)
    save_file(open_clip.create_model("clipcap-test-clip").state_dict(), folder / "clip.safetensors")
    end = write_gpt2_tokenizer(folder)
    sizes = {"vocab_size": end + 1, "n_embd": 64, "n_layer": 2, "n_head": 1, "n_positions": 64}
    gpt = GPT2LMHeadModel(GPT2Config(**sizes))
    model = ClipCap(gpt, 16, 4, clip_length=3 if request.param == "transformer" else 0, layers=2)
    draw_weights(model)
    state = model.state_dict()
    if request.param == "mlp":
        assert {"clip_project.model.0.weight", "clip_project.model.2.bias"} <= set(state)
    else:
        names = "norm1.weight attn.to_queries.weight attn.to_keys_values.weight attn.project.bias mlp.fc1.weight"
        assert {f"clip_project.transformer.layers.1.{name}" for name in names.split()} <= set(state)
        assert {"clip_project.prefix_const", "clip_project.linear.weight"} <= set(state)
    state["gpt.transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64)  # older releases stored the causal mask
    save_file({key: value.clone().contiguous() for key, value in state.items()}, folder / "clipcap.safetensors")
    return folder


@pytest.mark.parametrize("beams", [1, 2])
def test_clipcap(clipcap_folder, beams):
    captioner = load_captioner("clipcap", clipcap_folder, config="clipcap-test-clip", beams=beams, max_tokens=8)
    images = pictures(3)
    captions = captioner(images)
    assert captions == [captioner(image[None])[0] for image in images]
    assert any(captions) and not any("." in text for text in captions)


def test_clipcap_matches_a_naive_loop(clipcap_folder):
    captioner = load_captioner("clipcap", clipcap_folder, config="clipcap-test-clip", max_tokens=6)
    gpt, tokenizer = captioner.model.gpt, captioner.tokenizer
    image = torch.full((1, 3, 32, 32), 0.3)
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    with torch.no_grad():
        x = captioner.model(captioner.visual((image - mean.view(3, 1, 1)) / std.view(3, 1, 1)))
        assert x.shape == (1, 4, 64)
        ids = []
        while len(ids) < 6:
            ids.append(int(gpt(inputs_embeds=x).logits[0, -1].argmax()))
            if ids[-1] in (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(".")):
                break
            x = torch.cat([x, gpt.transformer.wte(torch.tensor([[ids[-1]]]))], 1)
    assert captioner(image)[0] == tokenizer.decode(ids, skip_special_tokens=True).split(".")[0].strip()


def test_clipcap_transformer_attention_is_the_releases():
    """The mapper's layer against the released einsum form of its attention."""
    from seada_core.models.captioners.clipcap import _MapperLayer

    torch.manual_seed(0)
    layer, x = _MapperLayer(32), torch.randn(2, 5, 32)
    h = layer.norm1(x)
    q = layer.attn["to_queries"](h).reshape(2, 5, 8, 4)
    k, v = layer.attn["to_keys_values"](h).reshape(2, 5, 2, 8, 4).unbind(2)
    attention = (torch.einsum("bnhd,bmhd->bnmh", q, k) * 4**-0.5).softmax(2)
    y = x + layer.attn["project"](torch.einsum("bnmh,bmhd->bnhd", attention, v).reshape(2, 5, 32))
    y = y + layer.mlp["fc2"](layer.mlp["fc1"](layer.norm2(y)).relu())
    torch.testing.assert_close(layer(x), y, atol=1e-5, rtol=1e-5)


def test_clipcap_errors(clipcap_folder, tmp_path):
    with pytest.raises(ValueError, match=r"no clip\.safetensors"):
        load_captioner("clipcap", tmp_path)
    for name in ("clip.safetensors", "clipcap.safetensors"):
        (tmp_path / name).write_bytes((clipcap_folder / name).read_bytes())
    with pytest.raises(ValueError, match=r"has no vocab\.json"):
        load_captioner("clipcap", tmp_path, config="clipcap-test-clip")


def test_a_colorizer_uses_the_given_captioner(blip_folder, tiny_model):
    from seada_core.pipeline import Colorizer

    colorizer = Colorizer.from_pretrained(str(tiny_model), "cpu", captioner=blip_folder)
    gray = pictures(2)[:, :1]
    assert not Colorizer.from_pretrained(str(tiny_model), "cpu").has("captioner")
    assert colorizer.caption(gray) == load_captioner("blip", blip_folder)(gray.expand(-1, 3, -1, -1))

"""Training of the miniature CLIP, whose text tower conditions the diffusion models.

Pairs are scenes with their captions and crops of objects with their names. Besides the contrastive loss there
are two heads that are thrown away afterwards: from the text features that the diffusion models will see, and
from the image features, they predict which words and which categories were there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from hdpainter.mini.scenes import SceneCache, names, scene_cache
from hdpainter.mini.training.base import Training, require_file, tile
from hdpainter.mini.world.backgrounds import LOWER, UPPER
from hdpainter.mini.world.objects import CATEGORIES
from hdpainter.mini.world.palette import PALETTE

SUFFIXES = ("Full HD, 4K, high quality, high resolution", "high resolution professional photo")
Tokenizer = Callable[[Sequence[str]], Tensor]
Batch = tuple[Tensor, list[str], Tensor, Tensor]  # see `Pairs`
WORDS = tuple(
    dict.fromkeys([c.name for c in CATEGORIES] + list(PALETTE) + [b.caption for b in (*UPPER, *LOWER)])
)


def build_clip(path: str) -> open_clip.CLIP:
    """The open_clip model that a JSON file in open_clip's format describes, untrained."""
    require_file(path, "CLIP config")
    open_clip.add_model_config(path)
    return open_clip.create_model(Path(path).stem)


def text_features(clip: open_clip.CLIP, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of the last but one and of the last block after the final norm, both [B, 77, width]."""
    x = clip.token_embedding(tokens) + clip.positional_embedding
    *blocks, last = clip.transformer.resblocks
    for block in blocks:
        x = block(x, attn_mask=clip.attn_mask)
    return clip.ln_final(x), clip.ln_final(last(x, attn_mask=clip.attn_mask))


def square_crop(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """The box [x0, y0, x1, y1] (unit coordinates) of a picture, padded with black to a square of `size`."""
    full = len(image)
    x0, y0, x1, y1 = (round(np.clip(v, 0, 1) * full) for v in box)
    crop = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    side = max(crop.shape[:2])
    padded = np.zeros((side, side, 3), np.uint8)
    y, x = (side - crop.shape[0]) // 2, (side - crop.shape[1]) // 2
    padded[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return cv2.resize(padded, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


class Pairs(IterableDataset):
    """Endless batches of `count` pairs; a batch is (images [B, 3, size, size] as open_clip wants them, texts,
    their tokens [B, 77], categories [B, 20] that are in the picture)."""

    def __init__(self, cache: SceneCache, count: int, size: int, tokenize: Tokenizer, seed: int):
        self.cache, self.count, self.size, self.tokenize, self.seed = cache, count, size, tokenize, seed

    def __iter__(self) -> Iterator[Batch]:
        cv2.setNumThreads(1)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        while True:
            yield self.batch(rng)

    def batch(self, rng: np.random.Generator) -> Batch:
        """One batch."""
        pairs = [self.scene(rng) if rng.random() < 0.4 else self.object(rng) for _ in range(self.count)]
        images, called, labels = zip(*pairs, strict=True)
        texts = [f"{t}, {SUFFIXES[rng.integers(len(SUFFIXES))]}" if rng.random() < 0.1 else t for t in called]
        present = torch.tensor(np.stack(labels), dtype=torch.float32)
        return normalise(np.stack(images)), texts, self.tokenize(texts), present

    def scene(self, rng: np.random.Generator) -> tuple[np.ndarray, str, np.ndarray]:
        """A whole picture and one of its captions."""
        i = int(rng.integers(len(self.cache.images)))
        record = self.cache.records[i]
        image = cv2.resize(self.cache.images[i], (self.size, self.size), interpolation=cv2.INTER_AREA)
        labels = np.isin(np.arange(len(CATEGORIES)), [o["category"] for o in record["objects"]])
        return image, record["captions"][rng.integers(len(record["captions"]))], labels

    def object(self, rng: np.random.Generator) -> tuple[np.ndarray, str, np.ndarray]:
        """An object with some of what is around it, and its name."""
        i = int(rng.integers(len(self.cache.images)))
        objects = self.cache.records[i]["objects"]
        found = objects[rng.integers(len(objects))]
        box = np.array(found["box"])
        spread = rng.uniform(-0.03, 0.2, 4) * (box[[2, 3, 2, 3]] - box[[0, 1, 0, 1]])
        crop = square_crop(self.cache.images[i], box + spread * (-1, -1, 1, 1), self.size)
        possible = names(CATEGORIES[found["category"]].name, found["colour"])
        text = possible[rng.integers(len(possible))]
        return crop, text, np.arange(len(CATEGORIES)) == found["category"]


def normalise(images: np.ndarray) -> Tensor:
    """RGB uint8 [B, H, W, 3] as CLIP's input [B, 3, H, W]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
    mean, std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
    return (x - mean[:, None, None]) / std[:, None, None]


def denormalise(x: Tensor) -> np.ndarray:
    """CLIP's input [B, 3, H, W] as RGB uint8 [B, H, W, 3]."""
    mean, std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
    return ((x.movedim(1, -1) * std + mean) * 255).round().clamp(0, 255).byte().numpy()


class Heads(nn.Module):
    """What reads words off text features and categories off image features, in training only."""

    def __init__(self, clip: open_clip.CLIP):
        super().__init__()
        self.words = nn.Linear(clip.ln_final.normalized_shape[0], len(WORDS))
        self.categories = nn.Linear(clip.visual.output_dim, len(CATEGORIES))


class Parts(nn.Module):
    """What is trained: the CLIP and its heads."""

    def __init__(self, clip: open_clip.CLIP):
        super().__init__()
        self.clip, self.heads = clip, Heads(clip)


class ClipTraining(Training):
    """Trains the open_clip model of the JSON file `config`.

    After `fold_at` of the budget the text transformer is finished: its last LayerNorm is rescaled to features
    of unit variance and shifted so that the start token's feature, a constant, is zero. In the cross-attentions
    (whose projections have no bias) the start token then has logit 0 and value 0: looking at it means "nothing
    here", and a word's logit is positive where the word matters more than that. The rest of the budget trains
    the projection and the image tower.
    """

    network: Parts
    average: Parts
    folded: Tensor

    def __init__(
        self,
        config: str,
        cache: str | Path,
        size: int = 256,
        scenes: int = 6000,
        held_out: int = 256,
        batch: int = 192,
        fold_at: float = 0.6,
        seed: int = 0,
        **budget: Any,
    ):
        clip = build_clip(config)
        super().__init__(Parts(clip), **budget)
        self.fold_at, self.tokenize = fold_at, open_clip.get_tokenizer(Path(config).stem)
        pixels = clip.visual.image_size[0]
        self.data = Pairs(
            scene_cache(cache, "train", scenes, size, self.workers), batch, pixels, self.tokenize, seed
        )
        fresh = Pairs(
            scene_cache(cache, "val", held_out, size, self.workers), 256, pixels, self.tokenize, seed
        )
        self.held_out = fresh.batch(np.random.default_rng(seed))
        self.register_buffer("folded", torch.zeros((), dtype=torch.bool))

    def train_dataloader(self) -> DataLoader:
        self.data.seed = hash((self.data.seed, self.global_step)) % 2**32
        return self.loader(self.data)

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        images, texts, tokens, categories = batch
        clip, heads = self.network.clip, self.network.heads
        penultimate, last = text_features(clip, tokens)
        rows, end = torch.arange(len(tokens), device=self.device), tokens.argmax(-1)
        text = F.normalize(last[rows, end] @ clip.text_projection, dim=-1)
        image = clip.encode_image(images)
        logits = clip.logit_scale.exp().clamp(max=100) * F.normalize(image, dim=-1) @ text.T
        ids = {t: i for i, t in enumerate(dict.fromkeys(texts))}
        group = torch.tensor([ids[t] for t in texts], device=self.device)
        same = (group[:, None] == group).float()  # equal texts are all right answers
        same = same / same.sum(1, keepdim=True)
        contrastive = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
        present = torch.tensor(
            [[w in t for w in WORDS] for t in texts], dtype=torch.float32, device=self.device
        )
        later = end + (torch.rand(len(end), device=self.device) * (tokens.shape[1] - end)).long()
        words = torch.zeros_like(contrastive)
        for at in (end, later):
            words = words + F.binary_cross_entropy_with_logits(heads.words(penultimate[rows, at]), present)
        seen = F.binary_cross_entropy_with_logits(heads.categories(image), categories)
        return contrastive + words + seen, {"contrastive": contrastive, "words": words, "categories": seen}

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        super().on_train_batch_end(outputs, batch, index)
        if self.progress >= self.fold_at and not self.folded:
            self.network.load_state_dict(self.average.state_dict())
            self.fold()
            self.freeze_text()

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.folded:  # in a run that was interrupted afterwards
            self.freeze_text()

    def freeze_text(self) -> None:
        """End the training of the text transformer."""
        clip = self.network.clip
        for part in (clip.transformer, clip.token_embedding, clip.ln_final, self.network.heads.words):
            part.requires_grad_(False)
        clip.positional_embedding.requires_grad = False
        self.zero_grad()

    @torch.no_grad()
    def fold(self) -> None:
        """Standardise the text features through the last LayerNorm; see the class."""
        clip, head = self.network.clip, self.network.heads.words
        tokens = self.held_out[2].to(self.device)
        features = text_features(clip, tokens)[0]
        start = features[0, 0].clone()
        inside = torch.arange(tokens.shape[1], device=self.device) <= tokens.argmax(-1, keepdim=True)
        spread = features[:, 1:][inside[:, 1:]].std(0)
        clip.ln_final.weight /= spread
        clip.ln_final.bias.sub_(start).div_(spread)
        clip.text_projection *= spread[:, None]
        head.bias.add_(head.weight @ start)
        head.weight.mul_(spread)
        self.average.load_state_dict(self.network.state_dict())
        self.folded.fill_(True)

    def weights(self) -> dict[str, Tensor]:
        """The averaged model under the names that it has within `FrozenOpenCLIPEmbedder`."""
        return {f"model.{name}": tensor for name, tensor in self.average.clip.state_dict().items()}

    def evaluate(self) -> dict[str, float]:
        """Zero-shot accuracy of held-out objects; fraction of texts whose words are all read off exactly."""
        _, texts, tokens, categories = self.held_out
        model = self.average.eval()
        clip, tokens = model.clip, tokens.to(self.device)
        penultimate = text_features(clip, tokens)[0]
        words = model.heads.words(penultimate[torch.arange(len(tokens)), tokens.argmax(-1)]).cpu() > 0
        present = torch.tensor([[w in t for w in WORDS] for t in texts])
        best = self.classify(clip)
        single = categories.sum(1) == 1
        right = categories[torch.arange(len(best)), best][single].mean()
        return {
            "zero_shot": float(right),
            "texts_exact": float((words == present).all(1).float().mean()),
            "start_norm": float(penultimate[0, 0].norm()),
            "feature_norm": float(penultimate[:, 1:].norm(dim=-1).mean()),
        }

    def classify(self, clip: open_clip.CLIP) -> Tensor:
        """Indices into CATEGORIES [B]: whose name is the nearest to each held-out picture."""
        names = self.tokenize([f"a {c.name}" for c in CATEGORIES]).to(self.device)
        images = clip.encode_image(self.held_out[0].to(self.device), normalize=True)
        return (images @ clip.encode_text(names, normalize=True).T).argmax(1).cpu()

    def sheet(self) -> np.ndarray:
        """Held-out pictures with the nearest category's name under each, in red if it is not in the picture."""
        images, _, _, categories = self.held_out
        best = self.classify(self.average.clip.eval())
        shown = []
        for image, label, present in list(zip(denormalise(images), best, categories, strict=True))[:32]:
            picture = cv2.resize(image, (128, 128), interpolation=cv2.INTER_CUBIC)
            picture = cv2.copyMakeBorder(picture, 0, 16, 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
            colour = (0, 0, 0) if present[label] else (200, 0, 0)
            cv2.putText(picture, CATEGORIES[label].name, (4, 140), 0, 0.4, colour, 1, cv2.LINE_AA)
            shown.append(picture)
        return tile(np.stack(shown), 8)

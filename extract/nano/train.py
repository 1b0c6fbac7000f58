"""Make the nano encoders: python -m rdmf.extract.nano.train --work DIR

Draws clips of videos of the demo's world that no demo shares (another seed and other split names), trains the nano
Video Swin to tell which objects are there and what they do, and a two-layer BERT on masked words and the meaning of a
sentence. Then both are frozen: they are to the demo what Kinetics and Wikipedia are to the large encoders. Writes
`video.safetensors`, `bert/` and `scores.json` beside this file (MODEL_CARD.md tells of them). A quarter of an hour on
two cores.

B clips, F frames, S x S pixels, T clips of a video, O objects (colour and shape), A actions, K labels, M cells.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from ...manifests.demo.dataset import CLIP_SECONDS, script_of
from ...manifests.demo.render import frames
from ...manifests.demo.sentences import Meaning, say
from ...manifests.demo.world import ACTIONS, BLINKS_PER_S, COLOURS, SCENES, SHAPES, Script, pose
from ..bert import import_transformers
from ..clips import centre_square, clip_bounds, clip_frame_times
from ..encoders import NANO_SAMPLING, normalise
from ..video_swin import VARIANTS, VideoSwin

HERE = Path(__file__).parent
SEED = 2606
SPLITS = {"encoder-train": 1500, "encoder-val": 80}
OBJECTS = list(itertools.product(COLOURS, SHAPES))
NOTHING = len(ACTIONS)
GRID = (4, 4, 4)  # tokens of the last stage: slices of time, rows, columns
MIRRORED = {"left": "right", "right": "left"}
REVERSED = {**MIRRORED, "up": "down", "down": "up", "grow": "shrink", "shrink": "grow"}


def clip_labels(script: Script, bounds: np.ndarray) -> np.ndarray:
    """The share of each clip in which an object is there, does something, and a scene shows: [T, O + A + O A + S]."""
    there = np.zeros((len(bounds), len(OBJECTS)))
    acts = np.zeros((len(bounds), len(OBJECTS), len(ACTIONS)))
    scene = np.zeros((len(bounds), len(SCENES)))
    for t, (start, end) in enumerate(bounds):
        for track in script.tracks:
            which = OBJECTS.index((track.colour, track.shape))
            there[t, which] += track.when.overlap_s(start, end) / (end - start)
            if track.action is not None and track.act_when is not None:
                share = track.act_when.overlap_s(start, end) / (end - start)
                acts[t, which, ACTIONS.index(track.action)] += share
        for part in script.scenes:
            scene[t, SCENES.index(part.name)] += part.when.overlap_s(start, end) / (end - start)
    doing = 1 - np.prod(1 - acts, axis=1)
    return np.concatenate([there, doing, acts.reshape(len(bounds), -1), scene], 1).clip(0, 1).astype(np.float32)


def cell_labels(script: Script, bounds: np.ndarray) -> np.ndarray:
    """Which object is where, and what it does: rows (clip, slice, row, column, object, action), int64 [M, 6].

    The action after the last of ACTIONS is 'nothing'.
    A slice is the time of one last-stage token, a cell its part of the picture.
    """
    slices, side, _ = GRID
    rows = []
    for t, (start, end) in enumerate(bounds):
        for part in range(slices):
            time_s = (start + end) / 2 + NANO_SAMPLING.span_s * ((part + 0.5) / slices - 0.5)
            for track in script.tracks:
                at = pose(track, time_s)
                acting = track.act_when is not None and track.act_when.contains(time_s)
                if at is None and acting and track.action == "blink":
                    at = pose(track, time_s + 0.5 / BLINKS_PER_S)  # dark now, but there
                if at is None:
                    continue
                which = OBJECTS.index((track.colour, track.shape))
                cell = min(int(at.y * side), side - 1), min(int(at.x * side), side - 1)
                rows.append(
                    (t, part, *cell, which, ACTIONS.index(track.action) if acting and track.action else NOTHING)
                )
    return np.array(rows, np.int64).reshape(-1, 6)


def draw_video(split: str, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All clips of one video as the encoder sees them, uint8 [T, F, S, S, 3], their labels and their cells.

    Drawn, not decoded: of a file only every third frame would be looked at. The frame on display at each time is drawn.
    """
    script = script_of(SEED, split, index)
    duration_s = round(script.duration_s * script.fps) / script.fps
    bounds = clip_bounds(duration_s, CLIP_SECONDS)
    times = clip_frame_times(bounds, NANO_SAMPLING.frames, NANO_SAMPLING.span_s, duration_s - 1e-3)
    shown, place = np.unique(np.floor(times * script.fps + 1e-6) / script.fps, return_inverse=True)
    pictures = np.stack([centre_square(picture, NANO_SAMPLING.size) for picture in frames(script, shown)])
    return pictures[place.reshape(times.shape)], clip_labels(script, bounds), cell_labels(script, bounds)


def draw_split(split: str, work: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Every clip of a split, drawn once and kept: uint8 [N, F, S, S, 3], labels [N, K], cells int64 [M, 6]."""
    kept = [work / f"{split}{part}.npy" for part in ("", "-labels", "-cells")]
    if not kept[-1].is_file():
        work.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(draw_video, [split] * SPLITS[split], range(SPLITS[split]), chunksize=8))
        first = 0
        for clips, _, cells in parts:
            cells[:, 0] += first
            first += len(clips)
        for path, arrays in zip(kept, zip(*parts, strict=True), strict=True):
            np.save(path, np.concatenate(arrays))
    clips, labels, cells = (np.load(path, mmap_mode="c") for path in kept)
    return torch.from_numpy(clips), torch.from_numpy(labels), torch.from_numpy(np.array(cells, np.int64))


def rename_actions(labels: Tensor, names: dict[str, str]) -> Tensor:
    """Labels [..., K] after the clip was mirrored or played backwards; backwards, nothing appears any more."""
    order = torch.tensor([ACTIONS.index(names.get(a, a)) for a in ACTIONS])
    there, doing, acts, rest = split_labels(labels)
    doing, acts = doing[..., order], acts[..., order]
    if names is REVERSED:
        doing[..., ACTIONS.index("appear")] = 0
        acts[..., ACTIONS.index("appear")] = 0
    return torch.cat([there, doing, acts.flatten(-2), rest], -1)


def split_labels(labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[..., K] -> objects [..., O], actions [..., A], acting objects [..., O, A], scenes [..., S or none]."""
    o, a = len(OBJECTS), len(ACTIONS)
    there, doing, acts, rest = labels.split([o, a, o * a, labels.shape[-1] - o - a - o * a], -1)
    return there, doing, acts.unflatten(-1, (o, a)), rest


def mirrored(cells: Tensor) -> Tensor:
    """Cells of clips that were mirrored."""
    return torch.cat([cells[:, :3], GRID[2] - 1 - cells[:, 3:4], cells[:, 4:5], _renamed(MIRRORED)[cells[:, 5:]]], 1)


def backwards(cells: Tensor) -> Tensor:
    """Cells of clips that are played backwards."""
    return torch.cat([cells[:, :1], GRID[0] - 1 - cells[:, 1:2], cells[:, 2:5], _renamed(REVERSED)[cells[:, 5:]]], 1)


def _renamed(names: dict[str, str]) -> Tensor:
    order = [ACTIONS.index(names.get(a, a)) for a in ACTIONS] + [NOTHING]
    if names is REVERSED:
        order[ACTIONS.index("appear")] = NOTHING
    return torch.tensor(order)


class Readout(nn.Module):
    """What is trained with the encoder and thrown away: linear readouts of a clip and of every last-stage token.

    From the pooled vector alone, shapes and movements are learned far too slowly; tokens are asked what stands in
    their cell, its colour, its shape and what it does.
    """

    def __init__(self, dim: int, labels: int) -> None:
        super().__init__()
        self.clip = nn.Linear(dim, labels)
        self.sizes = [1, len(COLOURS), len(SHAPES), len(ACTIONS) + 1]
        self.cell = nn.Linear(dim, sum(self.sizes))
        nn.init.constant_(self.clip.bias, -3.0)

    def losses(self, tokens: Tensor, labels: Tensor, cells: Tensor) -> dict[str, Tensor]:
        """tokens [B, *GRID, D], labels [B, K], cells [M, 6] of these clips -> named losses."""
        there, colour, shape, action = self.cell(tokens).split(self.sizes, -1)
        place = tuple(cells[:, :4].T)
        truth = torch.zeros(there.shape[:-1])
        truth[place] = 1
        object_, does = cells[:, 4], cells[:, 5]
        weight = torch.ones(len(ACTIONS) + 1)
        weight[NOTHING] = 0.3
        return {
            "clip": functional.binary_cross_entropy_with_logits(
                self.clip(tokens.mean((1, 2, 3))), labels, reduction="sum") / len(labels),
            "there": 10 * functional.binary_cross_entropy_with_logits(there[..., 0], truth),
            "colour": functional.cross_entropy(colour[place], object_ // len(SHAPES)),
            "shape": 4 * functional.cross_entropy(shape[place], object_ % len(SHAPES)),
            "action": 4 * functional.cross_entropy(action[place], does, weight),
        }  # fmt: skip


def train_video(work: Path, steps: int, batch: int = 16, peak_lr: float = 2e-3) -> tuple[VideoSwin, dict]:
    """Train the nano Video Swin with one cycle of the learning rate, and score it on unseen videos."""
    torch.manual_seed(SEED)
    clips, labels, cells = draw_split("encoder-train", work)
    first_cell = torch.searchsorted(cells[:, 0].contiguous(), torch.arange(len(clips) + 1))
    model = VideoSwin(VARIANTS["nano"])
    for module in model.modules():  # so narrow a network hardly moves from the usual 0.02
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
    readout = Readout(model.config.dim, labels.shape[1])
    parameters = [*model.parameters(), *readout.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, weight_decay=0.02)
    generator = torch.Generator().manual_seed(SEED)
    began, sums = time.monotonic(), dict[str, float]()
    for step in range(1, steps + 1):
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * min(1.0, done / 0.05) * (0.5 + 0.5 * np.cos(np.pi * done))
        rows = torch.randint(len(clips), (batch,), generator=generator)
        z = torch.cat([cells[first_cell[row] : first_cell[row + 1]] for row in rows])
        counts = first_cell[rows + 1] - first_cell[rows]
        z[:, 0] = torch.arange(batch).repeat_interleave(counts)
        x, y = clips[rows], labels[rows]
        mirror, reverse = torch.rand(2, generator=generator).tolist()
        if mirror < 0.5:
            x, y, z = x.flip(3), rename_actions(y, MIRRORED), mirrored(z)
        if reverse < 0.25:
            x, y, z = x.flip(1), rename_actions(y, REVERSED), backwards(z)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = model.norm(model.features(model.patch_embed(normalise(x))))  # [B, *GRID, D]
        losses = readout.losses(tokens.float(), y, z)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / 100
        if step % 100 == 0:
            shown = "  ".join(f"{name} {value:.2f}" for name, value in sums.items())
            print(
                f"video step {step}/{steps}  {shown}  {step * batch / (time.monotonic() - began):.0f} clips/s",
                flush=True,
            )
            sums = {}
        if step % 1000 == 0:  # to look at while it goes on
            save_file(model.state_dict(), work / "draft.safetensors")
    scores = score_video(model, readout.clip, work)
    return model, {"steps": steps, "batch": batch, "clips": len(clips), **scores}


@torch.no_grad()
def score_video(model: VideoSwin, head: nn.Module, work: Path) -> dict:
    """Mean average precision over objects, and over acting objects, and scene accuracy, on unseen videos."""
    clips, labels, _ = draw_split("encoder-val", work)
    logits = torch.cat([head.eval()(model.eval()(normalise(part))) for part in clips.split(128)])
    there, doing, acts, scene = split_labels(logits)
    true_there, true_doing, true_acts, true_scene = (part > 0.5 for part in split_labels(labels))
    sure = labels[:, -len(SCENES) :].max(1).values > 0.9
    return {
        "object_map": mean_ap(there, true_there),
        "action_map": mean_ap(doing, true_doing),
        "acting_object_map": mean_ap(acts.flatten(1), true_acts.flatten(1)),
        "scene_accuracy": float((scene.argmax(1) == true_scene.float().argmax(1))[sure].float().mean()),
        "val_clips": len(clips),
    }


def mean_ap(scores: Tensor, truth: Tensor) -> float:
    """Average precision per column that has a positive, averaged. Scores and truth [N, K]."""
    ranked = truth.gather(0, scores.argsort(0, descending=True)).double()
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)[:, None]
    positives = ranked.sum(0)
    return float(((precision * ranked).sum(0) / positives)[positives > 0].mean())


def draw_sentence(rng: np.random.Generator) -> tuple[str, list[int]]:
    """A sentence, and its meaning as indices (kind, colour, shape, action, scene); 0 is 'left open'."""
    kind = str(rng.choice(["action", "object", "scene"], p=[0.55, 0.3, 0.15]))
    if kind == "scene":
        meaning = Meaning(kind, scene=str(rng.choice(SCENES)))
    else:
        open_trait = rng.integers(6)  # 0: colour, 1: shape, else none
        colour = None if open_trait == 0 else str(rng.choice(COLOURS))
        shape = None if open_trait == 1 else str(rng.choice(SHAPES))
        meaning = Meaning(kind, colour, shape, str(rng.choice(ACTIONS)) if kind == "action" else None)
    options = [("action", "object", "scene"), COLOURS, SHAPES, ACTIONS, SCENES]
    values = [meaning.kind, meaning.colour, meaning.shape, meaning.action, meaning.scene]
    return say(meaning, rng), [
        1 + names.index(value) if value is not None else 0 for names, value in zip(options, values, strict=True)
    ]


def train_text(folder: Path, steps: int = 1500, batch: int = 128) -> dict:
    """Train the small BERT on masked words and on the meaning of the pooled tokens; save it as a local model."""
    from tokenizers import BertWordPieceTokenizer

    transformers = import_transformers()
    torch.manual_seed(SEED)
    rng = np.random.default_rng([SEED, 1])
    folder.mkdir(exist_ok=True)
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator((draw_sentence(rng)[0] for _ in range(20_000)), vocab_size=400, min_frequency=20)
    pieces.save_model(str(folder))
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True, model_max_length=64)
    model = transformers.BertForMaskedLM(transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=256, max_position_embeddings=64, type_vocab_size=1,
    ))  # fmt: skip
    sizes = [4, len(COLOURS) + 1, len(SHAPES) + 1, len(ACTIONS) + 1, len(SCENES) + 1]
    meaning_head = nn.Linear(128, sum(sizes))
    parameters = [*model.parameters(), *meaning_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.1)

    def meaning_logits(hidden: Tensor, mask: Tensor) -> list[Tensor]:
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return list(meaning_head(pooled).split(sizes, 1))

    for step in range(steps):
        sentences, meanings = zip(*(draw_sentence(rng) for _ in range(batch)), strict=True)
        tokens = tokenizer(list(sentences), padding=True, return_tensors="pt", return_special_tokens_mask=True)
        special = tokens.pop("special_tokens_mask").bool()
        hidden_words = (torch.rand(special.shape) < 0.2) & ~special
        masked = tokens["input_ids"].masked_fill(hidden_words, tokenizer.mask_token_id)
        truth = tokens["input_ids"].masked_fill(~hidden_words, -100)
        words = model(**{**tokens, "input_ids": masked}, labels=truth).loss
        hidden = model.bert(**tokens).last_hidden_state
        logits = meaning_logits(hidden, tokens["attention_mask"])
        target = torch.tensor(meanings)
        loss = words + sum(functional.cross_entropy(x, target[:, i]) for i, x in enumerate(logits))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            print(f"text step {step}  loss {float(loss.detach()):.3f}", flush=True)
    model.eval()
    unseen = np.random.default_rng([SEED, 2])
    sentences, meanings = zip(*(draw_sentence(unseen) for _ in range(2000)), strict=True)
    with torch.no_grad():
        tokens = tokenizer(list(sentences), padding=True, return_tensors="pt")
        logits = meaning_logits(model.bert(**tokens).last_hidden_state, tokens["attention_mask"])
    right = torch.stack([x.argmax(1) for x in logits], 1) == torch.tensor(meanings)
    model.bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"steps": steps, "batch": batch, "meaning_accuracy": float(right.all(1).float().mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the drawn clips (about 7 GB)")
    parser.add_argument("--steps", type=int, default=8000, help="training steps of the Video Swin")
    arguments = parser.parse_args()
    text = train_text(HERE / "bert")
    model, video = train_video(arguments.work, arguments.steps)
    state = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    save_file(state, HERE / "video.safetensors")
    scores = {"video": video, "text": text}
    (HERE / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", "utf-8")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main()

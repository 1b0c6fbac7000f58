"""What extraction costs: against a plain loop, and as videos get more or longer. One run, on the processor.

    python benchmarks/extraction.py [--part loop growth] [--counts 10 100 1000] [--lengths 10 100 1000 7200]

loop: clips per second of `extract_store` (workers, decoding processes, the store) against what people write by hand:
one process, decord's `get_batch` for all frames of a video (clip by clip it decodes the overlap again), resize, encode,
np.savez per video; with the nano encoder, where decoding counts, and with Video Swin T, where it does not
(torchvision's swin3d_t, where that is installed).
The same weights, clips and frames per clip; both use all cores; in turn, `--repeat` times.
growth: seconds and peak memory (of the largest process, and of all together) with the nano encoder. Linear time is the
same milliseconds per clip in every line, flat memory the same megabytes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import psutil
import torch

from rdmf.extract.clips import centre_square, clip_bounds, clip_frame_times
from rdmf.extract.encoders import load_video_encoder, normalise
from rdmf.extract.extractors import VideoExtraction
from rdmf.extract.layout import Source
from rdmf.extract.schedule import extract_store
from rdmf.extract.workers import Workers

CLIP_S = 1.0
RATE = 24
CORES = len(os.sched_getaffinity(0))


def render(path: Path, seconds: float, width: int = 320, height: int = 240) -> Path:
    """H.264 of a drifting pattern: ten seconds encoded, their packets repeated up to the length."""
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(0, 255, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    packets: list[tuple[bytes, int, int, bool]] = []
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        unit = round(min(seconds, 10) * RATE)
        for i in range(unit):
            picture = np.roll(ground, (i, 2 * i), (0, 1))
            packets += [_copy(p) for p in stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24"))]
        packets += [_copy(p) for p in stream.encode()]
        for turn in range(round(seconds * RATE) // unit):
            for raw, pts, dts, key in packets:
                packet = av.Packet(raw)
                packet.stream, packet.time_base, packet.is_keyframe = stream, stream.codec_context.time_base, key
                packet.pts, packet.dts = pts + turn * unit, dts + turn * unit
                out.mux(packet)
    return path


def _copy(packet: av.Packet) -> tuple[bytes, int, int, bool]:
    return bytes(packet), packet.pts, packet.dts, packet.is_keyframe


def ours(videos: list[Path], encoder: str, weights: str | None, workers: Workers) -> float:
    """Clips per second."""
    extraction = VideoExtraction(encoder, weights, CLIP_S)
    with tempfile.TemporaryDirectory() as out:
        sources = [Source(path.stem, str(path)) for path in videos]
        receipt = extract_store(Path(out) / "s", extraction.spec(), sources, extraction, workers)
    assert receipt.failed == 0
    return receipt.rows / receipt.seconds


def plain_loop(videos: list[Path], model: Callable[[np.ndarray], np.ndarray], sampling) -> float:
    """Clips per second of one process that does one thing after the other."""
    import decord

    began, clips = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as out:
        for path in videos:
            reader = decord.VideoReader(str(path))
            duration_s = len(reader) / reader.get_avg_fps()
            times = clip_frame_times(clip_bounds(duration_s, CLIP_S), sampling.frames, sampling.span_s, duration_s)
            indices = np.minimum((times * reader.get_avg_fps()).astype(int), len(reader) - 1)
            needed = np.unique(indices)
            frames = [centre_square(frame, sampling.size) for frame in reader.get_batch(needed).asnumpy()]
            pictures = dict(zip(needed.tolist(), frames, strict=True))
            features = [model(np.stack([pictures[i] for i in clip])[None]) for clip in indices.tolist()]
            clips += len(features)
            np.savez(Path(out) / f"{path.stem}.npz", features=np.concatenate(features))
    return clips / (time.perf_counter() - began)


def torchvision_swin3d_t() -> Callable[[np.ndarray], np.ndarray] | None:
    """torchvision's model with random weights, as features; None where torchvision does not import."""
    with contextlib.suppress(Exception):
        register = torch.library.register_fake
        # its own operators are not needed, and one built for another torch cannot register them
        torch.library.register_fake = lambda name, *rest, **named: (
            (lambda f: f) if str(name).startswith("torchvision::") else register(name, *rest, **named)
        )
        try:
            from torchvision.models.video import swin3d_t
        finally:
            torch.library.register_fake = register
        model = swin3d_t().eval()
        model.head = torch.nn.Identity()

        def features(clips: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return model(normalise(torch.from_numpy(clips))).numpy()

        return features
    return None


def compare_with_a_loop(folder: Path, repeat: int) -> None:
    torch.set_num_threads(CORES)
    short = [render(folder / f"l{i}.mp4", 20, 640, 360) for i in range(8)]
    nano, swin = load_video_encoder("swin_nano"), torchvision_swin3d_t()
    pairs = [("swin_nano", None, nano.encode, nano.sampling, short, repeat)]
    if swin is None:
        print("Video Swin T is left out: torchvision is not installed")
    else:
        tiny = load_video_encoder("swin_t", "random")
        pairs.append(("swin_t", "random", swin, tiny.sampling, [render(folder / f"t{i}.mp4", 4) for i in range(4)], 2))
        del tiny
    print(f"\nextraction against a plain loop of decord and the encoder, {CORES} cores, videos of 640x360 and 320x240")
    with Workers(CORES) as workers:
        ours(short[:CORES], "swin_nano", None, workers)  # processes start, files come into the cache
        for name, weights, model, sampling, videos, times in pairs:
            if weights:
                ours(videos[:CORES], name, weights, workers)
            rates = np.array(
                [[ours(videos, name, weights, workers), plain_loop(videos, model, sampling)] for _ in range(times)]
            )
            ratio = rates[:, 0] / rates[:, 1]
            for who, values in zip(("rdmf", "plain loop"), rates.T, strict=True):
                print(
                    f"{name:10} {who:12} {np.median(values):8.2f} clips/s  ({values.min():.2f} to {values.max():.2f})"
                )
            print(f"{name:10} {'ratio':12} {np.median(ratio):8.2f}          ({ratio.min():.2f} to {ratio.max():.2f})")


@contextlib.contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Megabytes [largest process, all processes] of this one's children, at their peak."""
    peak, done, me = [0.0, 0.0], threading.Event(), psutil.Process()

    def watch() -> None:
        while not done.wait(1.0):
            sizes = []
            for child in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    sizes.append((child.memory_info().rss - child.memory_info().shared) / 1e6)
            peak[:] = [max(peak[0], max(sizes, default=0)), max(peak[1], sum(sizes))]

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def growth(folder: Path, counts: list[int], lengths: list[int]) -> None:
    cases = [(f"{n:,} videos of 10 s", n, 10) for n in counts] + [(f"1 video of {s:,} s", 1, s) for s in lengths]
    print(f"\ngrowth, swin_nano, {CORES} cores, once all processes have started")
    print(f"{'':24} {'seconds':>9} {'ms/clip':>9} {'MB, largest':>12} {'MB, all':>9}")
    few = [Source(f"w{i}", str(render(folder / f"w{i}.mp4", 2))) for i in range(2 * CORES)]
    for name, count, seconds in cases:
        video = folder / f"{seconds}.mp4"
        if not video.exists():
            render(video, seconds)
        links = folder / f"{count}x{seconds}"
        links.mkdir()
        for i in range(count):
            (links / f"v{i:05}.mp4").symlink_to(video)
        sources = [Source(path.stem, str(path)) for path in sorted(links.iterdir())]
        extraction = VideoExtraction("swin_nano", None, CLIP_S)
        with peak_memory() as peak, Workers(CORES) as workers, tempfile.TemporaryDirectory() as out:
            extract_store(Path(out) / "w", extraction.spec(), few, extraction, workers, shard_items=1)
            receipt = extract_store(Path(out) / "s", extraction.spec(), sources, extraction, workers)
        assert receipt.failed == 0
        each = 1e3 * receipt.seconds / receipt.rows
        print(f"{name:24} {receipt.seconds:9.1f} {each:9.1f} {peak[0]:12,.0f} {peak[1]:9,.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=["loop", "growth"], default=["loop", "growth"])
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 100, 1000, 7200])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if "loop" in arguments.part:
            compare_with_a_loop(Path(name), arguments.repeat)
        if "growth" in arguments.part:
            growth(Path(name), arguments.counts, arguments.lengths)


if __name__ == "__main__":
    main()

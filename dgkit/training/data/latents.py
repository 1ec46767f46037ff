"""Posterior moments of whole images, encoded once and cached on disk, so that a training step needs no encoding.

A cache folder, ``latents-<digest of the autoencoder>/``, holds ``moments.f16`` (mean, then standard deviation, float16
[C, h, w] each, one image after the other) and ``index.jsonl`` (a header, then one line per group of images with their
keys, shapes, offsets and SHA-256). Both only grow. The moments of a group are on disk before its line, so a killed
writer loses the last group at most, and only images added to the data later are encoded. When a process first cuts from
an image's moments, they must be finite and have their SHA-256 (entries of earlier versions have none).

A crop of cached latents differs from the latents of a crop: near the border the encoder has seen what lies beyond, and
its group norms and middle attention have seen the whole image. Rescale factors multiply the size on disk.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dgkit.data.manifest import MAX_BYTES
from dgkit.errors import InputError, UsageError
from dgkit.files import open_append, output_error, parse_json, read_file
from dgkit.locks import locked
from dgkit.progress import Advance
from dgkit.training.data.feed import CacheableFeed, Feed, Moments, WholeImage, cacheable

VERSION = 1
GROUP = 32  # images between two commits to disk, and the largest batch
Rows = dict[str, tuple[tuple[int, ...], int, str]]
T = TypeVar("T")
_BYTES = 2  # of a float16


class LatentCache:
    """The moments in a cache folder, memory-mapped read-only; each worker process maps them itself.

    Raises :class:`InputError` for a folder without a cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        header, self.rows, _ = _read_index(folder / "index.jsonl")
        if header is None:
            raise InputError(f"{folder} is not a cache of latents", "remove it and run the command again")
        if type(header.get("factor")) is not int or header["factor"] < 1:
            raise InputError(f"{folder / 'index.jsonl'} is damaged", f"delete {folder} and run the command again")
        self.factor: int = header["factor"]
        self._map: np.ndarray | None = None
        self._checked: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return LatentCache, (self.folder,)

    def __len__(self) -> int:
        return len(self.rows)

    def window(self, key: str, y: int, x: int, size: int) -> Moments:
        """Return mean and standard deviation, float32 [C, s, s], of a square of ``size`` pixels at (y, x).

        Raises :class:`InputError` if the image was not encoded or has changed since, or its latents are damaged.
        """
        if key not in self.rows:
            raise InputError(f"no latents of {key} in {self.folder}", "run the command again to encode it")
        shape, offset, digest = self.rows[key]
        try:
            if self._map is None:
                self._map = np.memmap(self.folder / "moments.f16", np.float16, "r")
            whole = self._map[offset : offset + math.prod(shape)].reshape(shape)
        except (OSError, ValueError) as error:
            raise self._damaged(key) from error
        if whole.ndim != 4 or len(whole) != 2:
            raise self._damaged(key)
        if key not in self._checked:
            if digest not in ("", hashlib.sha256(whole.tobytes()).hexdigest()) or not np.isfinite(whole).all():
                raise self._damaged(key)
            self._checked.add(key)
        y, x, side = y // self.factor, x // self.factor, size // self.factor
        mean, std = whole[:, :, y : y + side, x : x + side].astype(np.float32)
        return mean, std

    def _damaged(self, key: str) -> InputError:
        return InputError(
            f"the latents of {key} in {self.folder / 'moments.f16'} are damaged",
            f"delete {self.folder} and run the command again to encode the images again",
        )


def with_cached_latents(
    feed: Feed,
    vae: AutoencoderKL,
    cache_dir: Path,
    *,
    pixels: bool = False,
    batch: int = 1,
    precision: torch.dtype | None = None,
    progress: Advance | None = None,
) -> CacheableFeed:
    """Return ``feed`` with crops cut from cached latents of ``vae``; images missing from the cache are encoded first.

    ``vae`` is used on its device and in its dtype, with autocast to ``precision`` unless ``None``. It encodes up to
    ``batch`` images of one size (1, 2, 4, ... 32) at once, which may change the last bits of their latents. Examples
    have images too if ``pixels``. Several processes may call this at once: one encodes, the others wait. ``progress``
    is called with (images encoded, total).

    Raises :class:`UsageError` if the feed has no whole images, :class:`OutputError` if the disk is full (encoded images
    are kept), :class:`InputError` for an image whose latents are not finite.
    """
    if batch < 1 or GROUP % batch:
        raise UsageError(f"a batch of {batch} images is not allowed; use a divisor of {GROUP}", "use for example 4")
    source = cacheable(feed)
    images = {image.key: image for image in source.whole_images()}
    digest = hashlib.sha256(f"{digest_network(vae)} {precision} {VERSION}".encode()).hexdigest()
    folder = Path(cache_dir) / f"latents-{digest[:16]}"
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder), _Writer(folder, digest, factor) as writer:
            missing = [image for key, image in images.items() if key not in writer.rows]
            done = len(images) - len(missing)
            for group in _groups(missing, GROUP):
                writer.add(_encode_group(group, vae, factor, batch, precision))
                done += len(group)
                if progress:
                    progress(done, len(images))
    except OSError as error:
        raise output_error(folder, error) from error
    return source.with_latents(LatentCache(folder), pixels)


def digest_network(network: nn.Module) -> str:
    """Return the SHA-256 of a network's weights and its configuration, if it has one; paths in it do not count."""
    found = getattr(network, "config", {})
    values = found.to_dict() if hasattr(found, "to_dict") else dict(found)  # transformers; diffusers
    config = {key: value for key, value in values.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def autoencoder_input(images: np.ndarray) -> Tensor:
    """Return uint8 [B,H,W,3] RGB as float32 [B,3,H,W] in [-1, 1], channels last in memory."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, precision: torch.dtype | None = None) -> np.ndarray:
    """Return posterior mean and deviation, float16 [B, 2, C, H/factor, W/factor], of uint8 [B, H, W, 3] RGB."""
    weight = next(vae.parameters())
    pixels = autoencoder_input(images)
    with torch.autocast(weight.device.type, precision, enabled=precision is not None):
        posterior = vae.encode(pixels.to(weight.device, weight.dtype)).latent_dist
    moments: np.ndarray = torch.stack([posterior.mean, posterior.std], dim=1).float().cpu().numpy()
    return moments.astype(np.float16)


def _encode_group(
    group: Sequence[WholeImage], vae: AutoencoderKL, factor: int, batch: int, precision: torch.dtype | None
) -> list[tuple[str, np.ndarray]]:
    results = []
    for part in _batches(group, factor, batch):
        for (key, _), moments in zip(part, encode(vae, np.stack([image for _, image in part]), precision), strict=True):
            if not np.isfinite(moments).all():
                raise InputError(f"the latents of {key} are not finite", "encode in float32, or check the autoencoder")
            results.append((key, moments))
    return results


def _batches(group: Sequence[WholeImage], factor: int, batch: int) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Yield up to ``batch`` consecutive images of one size with their keys, cut to whole latent cells."""
    part: list[tuple[str, np.ndarray]] = []
    for whole in group:
        image = whole.read()
        image = image[: image.shape[0] // factor * factor, : image.shape[1] // factor * factor]
        if part and (len(part) == batch or part[0][1].shape != image.shape):
            yield part
            part = []
        part.append((whole.key, image))
    if part:
        yield part


class _Writer:
    """Appends to a cache folder; incomplete entries of a killed writer are cut off, another format is overwritten."""

    def __init__(self, folder: Path, digest: str, factor: int) -> None:
        header = {"version": VERSION, "digest": digest, "factor": factor}
        found, self.rows, kept = _read_index(folder / "index.jsonl")
        self.end = max((offset + math.prod(shape) for shape, offset, _ in self.rows.values()), default=0)
        with ExitStack() as files:
            self.index = files.enter_context(open_append(folder / "index.jsonl"))
            self.moments = files.enter_context(open_append(folder / "moments.f16"))
            self.files = files.pop_all()
        if found != header or (folder / "moments.f16").stat().st_size < _BYTES * self.end:
            self.rows, self.end, kept = {}, 0, 0
        self.index.truncate(kept)
        self.moments.truncate(_BYTES * self.end)
        if not kept:
            _append(self.index, _line(header))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.files.close()

    def add(self, entries: list[tuple[str, np.ndarray]]) -> None:
        """Write float16 arrays [2, C, h, w] under their keys; after a crash all of them are there or none."""
        rows: Rows = {}
        end = self.end
        for key, moments in entries:
            rows[key] = (moments.shape, end, hashlib.sha256(moments.tobytes()).hexdigest())
            end += moments.size
        _append(self.moments, b"".join(moments.tobytes() for _, moments in entries))
        _append(self.index, _line([[key, *row] for key, row in rows.items()]))
        self.rows.update(rows)
        self.end = end


def _read_index(path: Path) -> tuple[dict[str, Any] | None, Rows, int]:
    """Return the header (or ``None``), the rows, and the number of bytes of complete lines.

    A row has shape, offset (in values) and SHA-256 ("" in caches of earlier versions).
    """
    rows: Rows = {}
    header, end = None, 0
    for line in read_file(path, MAX_BYTES).splitlines(keepends=True) if path.is_file() else ():
        if not line.endswith(b"\n"):
            break
        try:
            content = parse_json(line)
            if header is None:
                header = dict(content)
            else:
                rows.update({key: _row(*values) for key, *values in content})
        except (ValueError, TypeError):  # truncated or damaged: the lines after it are ignored
            break
        end += len(line)
    return header, rows, end


def _row(shape: list[int], offset: int, digest: str = "") -> tuple[tuple[int, ...], int, str]:
    """Return a row of the index. Raises TypeError or ValueError if it is damaged."""
    numbers = (*shape, offset)
    if any(type(number) is not int or number < 0 for number in numbers) or not isinstance(digest, str):
        raise ValueError("not a row of the index")
    return tuple(shape), offset, digest


def _line(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _append(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()
    os.fsync(stream.fileno())


def _groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]

"""How many bytes are free for this process: on an accelerator, or in the machine's memory.

A container, or a job of a cluster, often may use less than the machine has free; its control groups say how much.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken on the device; the CPU's is the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return max(0, min([_machine(), *control_groups(Path("/proc/self/cgroup"), CGROUPS)]))


def _machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # no Linux: half of what there is may be in use
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def control_groups(membership: Path, root: Path) -> Iterator[int]:
    """What the limit of each group leaves that this process is in, the groups around them included.

    Files that were read count as free: they give way.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, (limit, used, files) = (root / "memory", V1) if controllers else (root, V2)
        folder = mount / group.strip("/")
        for around in (folder, *folder.parents):
            try:
                stat = dict(line.split() for line in (around / "memory.stat").read_text().splitlines())
                # no number ('max') is no limit
                yield int((around / limit).read_text()) - int((around / used).read_text()) + int(stat.get(files, 0))
            except (OSError, ValueError):
                continue

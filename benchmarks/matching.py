"""How long matching takes: the batched assignment against scipy on the host, in turn, on the same costs.

Costs are those of 16 sequences x 3 decoder layers, every sequence with N true spans. Prints milliseconds (median and
range over repeats) and the ratio host / batched: above 1 the batched one is faster. N = 1 is an argmin for both when
`assign` is called, so here it says what that saves. On CUDA times include the wait for the result, but neither the
wait of the host for the forward pass that a transfer forces in training, nor what a CUDA graph saves.

    python benchmarks/matching.py [--device cuda] [--repeat 21]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rdmf.heads.assignment import METHOD_OF_DEVICE, assign, assign_batched, assign_on_host

SEQUENCES = 16 * 3


def milliseconds(function: Callable[[Tensor, Tensor], Tensor], cost: Tensor, mask: Tensor) -> float:
    wait = torch.cuda.synchronize if cost.is_cuda else lambda: None
    wait()
    began = time.perf_counter()
    function(cost, mask)
    wait()
    return (time.perf_counter() - began) * 1e3


def spread(values: np.ndarray, digits: int) -> str:
    return f"{np.median(values):8.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=21)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(
        f"{SEQUENCES} assignments on {device.type}, whose default is {METHOD_OF_DEVICE.get(device.type, 'host')!r}; ms"
    )
    print(f"{'Q':>4}{'N':>4}{'batched':>28}{'host':>28}{'host / batched':>28}{'assign':>28}")
    generator = torch.Generator().manual_seed(0)
    for queries in (100, 10):
        for n in (1, 2, 5, 25):
            cost = torch.randn(SEQUENCES, queries, n, generator=generator).to(device)
            mask = torch.ones(SEQUENCES, n, dtype=torch.bool, device=device)
            functions = (assign_batched, assign_on_host, assign)
            times = [[milliseconds(f, cost, mask) for f in functions] for _ in range(arguments.repeat + 1)]
            batched, host, default = np.array(times[1:]).T  # the first warms up
            columns = (spread(batched, 3), spread(host, 3), spread(host / batched, 2), spread(default, 3))
            print(f"{queries:4}{n:4}" + "".join(f"{column:>28}" for column in columns), flush=True)


if __name__ == "__main__":
    main()

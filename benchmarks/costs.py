"""What the models of a benchmark's plan cost, none of them trained: weights, operations, a training step, its memory.

All models take their steps in turn, in one process on one thread, so that what else the machine does hits all alike
(pipeline/experiments/cost.py says what is counted). The last column is the median step over the first model's.

    python benchmarks/costs.py [captions] [--features runs/bench-captions/folds/fold-0] [--device cuda] [--seconds 8]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rdmf.pipeline.experiments.cost import conditions, measure_costs
from rdmf.pipeline.experiments.crossval_plan import read_plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, nargs="?", default=Path("captions"))
    parser.add_argument("--features", type=Path, default=Path("runs/bench-captions/folds/fold-0"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=8.0, help="of timed steps, for each model")
    given = parser.parse_args()
    if not given.features.is_dir():
        print(f"nothing measured: there are no features in {given.features}; `make bench-captions` makes them")
        return
    configs = {model.name: model.trials[0].config for model in read_plan(given.plan).models}
    costs = measure_costs(configs, given.features, device=given.device, seconds=given.seconds)
    first = next(iter(costs.values()))
    print(", ".join(f"{name} {value}" for name, value in conditions(given.device).items()))
    print(f"FLOPs of a query of {first.clips} clips and {first.words} words; steps of {first.batch} queries\n")
    print("| model | weights | FLOPs/query | step [fastest, slowest] | memory | step / first |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, cost in costs.items():
        times = (1e3 * seconds for seconds in (cost.step_seconds, cost.step_fastest, cost.step_slowest))
        print(
            f"| {name} | {cost.parameters / 1e6:.2f} M | {cost.flops_per_query / 1e6:,.0f} M | "
            "{:,.0f} ms [{:,.0f}, {:,.0f}] | ".format(*times)
            + f"{cost.peak_bytes / 1e6:,.0f} MB | {cost.step_seconds / first.step_seconds:.2f} |"
        )


if __name__ == "__main__":
    main()

"""Is a difference between two systems on the same queries more than chance?

Everything is about d, the difference of the two on each query. Dimensions: Q queries, R resamples, B baselines.

paired t-test      t = mean(d) / (sd(d) / sqrt(Q)); it takes queries for independent draws
paired bootstrap   whole source videos are drawn with replacement, so queries about one stay together; the p-value is
                   twice the share of resamples in which the mean of d is not on the side where it was found
effect size        Cohen's d_z = mean(d) / sd(d): 0.2 is called small, 0.5 medium, 0.8 large
Holm               the smallest of B p-values times B, the next times B - 1, ..., never below the one before
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr


def paired_t(differences: np.ndarray) -> tuple[float, float]:
    """t and the two-sided p of the paired t-test of differences [Q].

    Where all are equal, p is 1 if they are 0 and 0 otherwise (t is then infinite); with one query p is 1."""
    count = len(differences)
    if count < 2:
        return 0.0, 1.0
    average, deviation = differences.mean(), differences.std(ddof=1)
    if deviation == 0:
        return (0.0, 1.0) if average == 0 else (float(np.copysign(np.inf, average)), 0.0)
    t = float(average / (deviation / np.sqrt(count)))
    return t, float(2 * stdtr(count - 1, -abs(t)))


def effect_size(differences: np.ndarray) -> float:
    """Cohen's d_z of differences [Q]; 0 without a difference, infinite where all differences are the same."""
    average, deviation = differences.mean(), differences.std(ddof=1) if len(differences) > 1 else 0.0
    if deviation == 0:
        return 0.0 if average == 0 else float(np.copysign(np.inf, average))
    return float(average / deviation)


def bootstrap_p(means: np.ndarray) -> float:
    """Two-sided p of resampled mean differences [R]; never below 2 / (R + 1).

    It is below 5% just where the 95% percentile interval of the same resamples leaves 0 out."""
    means = means[np.isfinite(means)]
    fewer = min((means <= 0).sum(), (means >= 0).sum())
    return float(min(1.0, 2 * (fewer + 1) / (len(means) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of a family of tests corrected by Holm's method (1979), in the order given."""
    corrected = [0.0] * len(p_values)
    so_far = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = so_far
    return corrected

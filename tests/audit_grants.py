"""Grants: what work unlocks, what an early exit burns (E-5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from audit_common import PPB, ceil_div


@dataclass
class Clocks:
    """What runs while a node is Active and not frozen (E-5.1, E-5.3)."""

    work: int = 0
    days: int = 0
    seen: int = 0
    frozen: int = 0


@dataclass
class Grant:
    """What was locked at first, N, what is unlocked; and where the node's clocks stood."""

    amount: int
    full_work: int
    unlocked: int = 0
    work: int = 0
    days: int = 0

    @property
    def locked(self) -> int:
        return self.amount - self.unlocked

    def unlocks(self, node: Clocks, params: Any) -> int:
        """E-5.1: by work, never faster than linearly, all of it at last; floored."""
        days = node.days - self.days
        if days >= params.full_days:
            return self.locked
        by_work = self.amount * min(node.work - self.work, self.full_work) // self.full_work
        by_days = self.amount * min(days, params.linear_days) // params.linear_days
        return max(0, min(by_work, by_days) - self.unlocked)


def presence(node: Clocks, epoch: int, params: Any) -> bool:
    """E-5.3, in an epoch in which the node was seen: whether its clocks run."""
    unseen = epoch - node.seen - 1 if node.seen else 0
    if unseen >= params.offline_days or (node.frozen and unseen > 0):
        node.frozen = params.return_days
    runs = node.frozen == 0
    node.seen, node.frozen = epoch, max(0, node.frozen - 1)
    return runs


def exit_burn(grant: Grant, node: Clocks, params: Any) -> int:
    """E-5.2: ceil(locked · p · max(0, (N − n)/N, (30 − d)/30))."""
    whole, days = grant.full_work, params.linear_days
    left = max(0, whole - (node.work - grant.work)), max(0, days - (node.days - grant.days))
    rate = grant.locked * params.exit_burn_ppb
    return min(grant.locked, max(ceil_div(rate * left[0], PPB * whole), ceil_div(rate * left[1], PPB * days)))


def median(numbers: list[int]) -> int:
    """The middle one, or of two the middle between them, floored; 0 of none."""
    numbers = sorted(numbers)
    if not numbers:
        return 0
    half = len(numbers) // 2
    return numbers[half] if len(numbers) % 2 else (numbers[half - 1] + numbers[half]) // 2

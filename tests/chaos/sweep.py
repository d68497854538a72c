"""What both sweeps share: strike after strike, each told at once, all counted, and an end that is bounded.

All strikes together take hours on two cores, so they come in rounds: in each, every kind of run is struck at some of
its steps, and in ROUNDS of them every death at every step. Which it is, the day says; BACKSTAY_ROUND names one.
"""

from __future__ import annotations

import datetime
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence

from backstay_lab.errors import LabError
from strikes import Outcome, Strike

BUDGET_SECONDS = 24 * 60.0
ROUNDS = 10


def _round() -> int:
    """From 1 to ROUNDS. Raises ValueError, before any host is booted."""
    given = os.environ.get("BACKSTAY_ROUND") or datetime.datetime.now(tz=datetime.UTC).toordinal() % ROUNDS + 1
    if str(given) not in map(str, range(1, ROUNDS + 1)):
        raise ValueError(f"BACKSTAY_ROUND is {given} and must be a number from 1 to {ROUNDS}")
    return int(given)


ROUND = _round()  # once: a sweep may go on after midnight


def of_round(strikes: Sequence[Strike], number: int) -> list[Strike]:
    """The strikes of a round: of the deaths at a step one or none, another one in the next."""
    steps: dict[tuple[str, str], list[Strike]] = {}
    for strike in strikes:
        steps.setdefault((strike.kind, strike.step), []).append(strike)
    # Two steps in turn alike, so that a round has both moments: those alternate. Then the next but two: a short run has
    # its share of each round.
    return [
        strike
        for place, deaths in enumerate(steps.values())
        for row, strike in enumerate(deaths)
        if (row + place // 2 * 3) % ROUNDS == number - 1
    ]


def sweep(strikes: Sequence[Strike], carry_out: Callable[[Strike], Outcome], mend: Callable[[], object]) -> None:
    """Carry out those of this round; `mend` is called after one that ended badly. Raises AssertionError with every one
    that did, and when not all were reached within BUDGET_SECONDS."""
    began, everything = time.monotonic(), len(strikes)
    strikes = of_round(strikes, ROUND)
    print(f"round {ROUND} of {ROUNDS}: {len(strikes)} of {everything} strikes", flush=True)
    wrong: list[str] = []
    done: Counter[str] = Counter()
    requests = 0
    for number, strike in enumerate(strikes, start=1):
        at = time.monotonic()
        if at - began > BUDGET_SECONDS:
            wrong.append(f"the sweep was cut off after {number - 1} of {len(strikes)} strikes: the machine is too slow")
            break
        try:
            found = carry_out(strike)
        except (AssertionError, LabError) as failed:
            wrong.append(f"{strike}: {failed}")
            print(f"{number}/{len(strikes)} FAILED {strike}: {failed}", flush=True)
            mend()
            continue
        done[f"{strike.death} in {strike.kind}"] += 1
        requests += found.requests
        print(f"{number}/{len(strikes)} {strike} {time.monotonic() - at:.1f} s; {found.said}", flush=True)
    table = "\n".join(f"  {count:4} {what}" for what, count in sorted(done.items()))
    print(f"{sum(done.values())} strikes healed, {requests} requests were answered meanwhile:\n{table}", flush=True)
    assert not wrong, f"{len(wrong)} strikes did not end well:\n" + "\n\n".join(wrong)

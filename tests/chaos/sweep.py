"""What both sweeps share: strike after strike, each told at once, all counted, and an end that is bounded."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from backstay_lab.errors import LabError
from strikes import Outcome, Strike

BUDGET_SECONDS = 36 * 60.0


def sweep(strikes: Sequence[Strike], carry_out: Callable[[Strike], Outcome], mend: Callable[[], object]) -> None:
    """Carry out all of them; `mend` is called after one that ended badly. Raises AssertionError with every one that
    did, and when not all were reached within BUDGET_SECONDS."""
    began = time.monotonic()
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

"""Write what docs/attacks.md states of the attacks from the code: `python docs/facts.py`.

A fact stands between `<!-- facts:NAME -->` and `<!-- /facts -->`, each on a line of its own; NAME is an attack, or `overview`
for the table of all. What stands outside is written by people.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from raymia.attacks.base import ATTACKS, Attack
from raymia.errors import ConfigError
from raymia.run.record import KINDS, Access

DOCUMENT = Path(__file__).parent / "attacks.md"
PLACE = re.compile(r"^(<!-- facts:(\w+) -->\n).*?^(<!-- /facts -->\n)", re.DOTALL | re.MULTILINE)


def with_facts(text: str) -> str:
    """The document with its facts as the code has them; the rest as it is.

    Raises:
        SystemExit: it has a place for an attack that there is not.
    """
    return PLACE.sub(lambda place: f"{place[1]}{facts_of(place[2])}\n{place[3]}", text)


def facts_of(name: str) -> str:
    if name == "overview":
        return overview()
    try:
        attack = ATTACKS.get(name)()
    except ConfigError as error:
        sys.exit(f"{DOCUMENT}: facts:{error}")
    sentences = [f"Access: {attack.access}.", f"Cost: {cost(attack)}."]
    if attack.asks():
        sentences.append(f"Asks of a service: {', '.join(sorted(attack.asks()))}.")
    if attack.needs():
        sentences.append(f"Needs: {', '.join(sorted(attack.needs()))}.")
    return " ".join(sentences)


def cost(attack: Attack) -> str:
    """In words, such as `2 forwards, 1 encode`."""
    one = {kind: kind.removesuffix("s").replace("querie", "query") for kind in KINDS}
    return ", ".join(f"{n} {one[kind] if n == 1 else kind}" for kind, n in attack.cost() if n) or "none"


def overview() -> str:
    order = list(Access)
    attacks = sorted((kind() for kind in ATTACKS.all().values()), key=lambda attack: (order.index(attack.access), attack.name))
    lines = [f"| attack | access | {' | '.join(KINDS)} | source |", "|---" * (len(KINDS) + 3) + "|"]
    for attack in attacks:
        counts = " | ".join(str(n) if n else "" for _, n in attack.cost())
        lines.append(f"| [`{attack.name}`](#{attack.name}) | {attack.access} | {counts} | {attack.reference} |")
    return "\n".join(lines)


if __name__ == "__main__":
    DOCUMENT.write_text(with_facts(DOCUMENT.read_text()))

"""Write what docs/attacks.md states of the attacks from the code: `python docs/facts.py`.

A fact stands between `<!-- facts:NAME -->` and `<!-- /facts -->`, each on a line of its own; NAME is an attack, `overview` for
the table of all, or `leaderboard` for what the shipped leaderboard says. What stands outside is written by people.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from raymia.attacks.base import ATTACKS, Attack
from raymia.errors import ConfigError
from raymia.run.record import KINDS, Access
from raymia.scan.leaderboard import Figure, shipped_leaderboard

DOCUMENT = Path(__file__).parent / "attacks.md"
PLACE = re.compile(r"^(<!-- facts:(\w+) -->\n).*?^(<!-- /facts -->\n)", re.DOTALL | re.MULTILINE)


def with_facts(text: str) -> str:
    """The document with its facts as the code has them; the rest as it is.

    Raises:
        SystemExit: it has a place for an attack that there is not.
    """
    return PLACE.sub(lambda place: f"{place[1]}{facts_of(place[2])}\n{place[3]}", text)


def facts_of(name: str) -> str:
    if name in TABLES:
        return TABLES[name]()
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


def leaderboard() -> str:
    table = shipped_leaderboard()
    models = [table.chosen_on, *table.reported_on]
    images = ", ".join(f"{table.samples[model]:,} of `{model}`" for model in models)
    lines = [
        f"By raymia {table.version}: settings chosen on `{table.chosen_on}`. Images, half of them members: {images}.\n",
        f"| signal | parameters | forwards | {' | '.join(f'`{model}`' for model in models)} |",
        "|---" * (len(models) + 3) + "|",
    ]
    for entry in sorted(table.entries, key=lambda entry: -entry.lowest_auc(table.reported_on)):
        parameters = ", ".join(f"{name}: {json.dumps(value)}" for name, value in entry.parameters.items())
        reached = " | ".join(f"{shown(figures.auc)}, {shown(figures.tpr)}" for figures in map(entry.figures.get, models))
        lines.append(f"| {entry.signal} | {parameters} | {entry.passes} | {reached} |")
    return "\n".join(lines)


def shown(figure: Figure) -> str:
    """With the interval, and without zeros before the point."""
    value, low, high = (f"{number:.3f}".removeprefix("0") for number in (figure.value, figure.low, figure.high))
    return f"{value} [{low} {high}]"


TABLES = {"overview": overview, "leaderboard": leaderboard}

if __name__ == "__main__":
    DOCUMENT.write_text(with_facts(DOCUMENT.read_text()))

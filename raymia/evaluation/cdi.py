"""The features that CDI tests a set by, as signals of a run.

Source: Dubinski et al., CDI: Copyrighted Data Identification in Diffusion Models, arXiv 2411.12858, and the settings of the
code that was published with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from raymia.errors import ConfigError
from raymia.run.record import Access, SignalRecord

TIMESTEPS = tuple(range(0, 1000, 100))
"""Of the multiple loss and of gradient masking; the denoising loss is that at 100."""
FEATURES = {
    "loss": tuple(f".t={t}" for t in TIMESTEPS),
    "secmi": ("",),
    "pia": ("", ".normalised"),
    "gradient_masking": tuple(f".t={t}" for t in TIMESTEPS),
    "noise_optimisation": ("", ".delta"),
}
"""What the names of the signals go on with after that of their attack."""
FIELDS = {
    "loss": f"{{timesteps: {list(TIMESTEPS)}}}",
    "gradient_masking": f"{{timesteps: {list(TIMESTEPS)}}}",
}
"""Of attacks whose defaults are others."""


def cdi_signals(signals: Sequence[SignalRecord], access: Access, title: str) -> list[str]:
    """Names of the 25 signals that are CDI's features; of an attack that a job has in variants, the first with all of its own.

    Args:
        signals: of a run.
        access: that is assumed of whoever asks.
        title: names the run in errors.

    Raises:
        ConfigError: the access allows no gradients, or the run lacks a signal; says what a job must have.
    """
    if not access.allows(Access.WHITE):
        raise ConfigError(
            f"--features cdi: gradient_masking and noise_optimisation take gradients, which {access} access does not allow; "
            "expected --access white"
        )
    chosen: list[str] = []
    missing: dict[str, list[str]] = {}
    for attack in FEATURES:
        names, lacking = _of_attack(attack, signals)
        chosen += names
        missing |= {attack: lacking} if lacking else {}
    if missing:
        job = ", ".join(f"{attack}: {FIELDS.get(attack, '{}')}" for attack in missing)
        raise ConfigError(
            f"--features cdi: {title} has no {', '.join(name for names in missing.values() for name in names)}; scan it with a "
            f"job that has `attacks: {{{job}}}`"
        )
    return chosen


def _of_attack(attack: str, signals: Sequence[SignalRecord]) -> tuple[list[str], list[str]]:
    """The signals of an attack that are features, and those that are lacking."""
    there = {signal.name for signal in signals}
    keys = dict.fromkeys([attack, *(s.attack for s in signals if s.attack.startswith(f"{attack}:"))])
    named = [[key + part for part in FEATURES[attack]] for key in keys]
    found = next((names for names in named if there.issuperset(names)), named[0])
    return found, [name for name in found if name not in there]

"""Fair sets of members and non-members: packed, embedded, freed of twins, matched."""

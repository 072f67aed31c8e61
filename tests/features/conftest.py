"""What tests of models beside the attacked one share."""

from tests.hub import hub as hub

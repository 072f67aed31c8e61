"""What tests of models share."""

from tests.hub import hub as hub

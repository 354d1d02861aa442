"""Tests of the soak's judge."""

"""The defaults of the policy."""

from reaper.core.policy import Action
from tests.factories import SECOND
from tests.reaper.core.cases import HOUR, MINUTE, POLICY


def test_policy_defaults_are_those_of_the_runbook():
    assert POLICY.run_timeout == HOUR
    assert POLICY.queue_timeout == 15 * MINUTE
    assert POLICY.alert_after == 30 * MINUTE
    assert POLICY.stall_timeout is None
    assert POLICY.orphan_grace == 5 * SECOND
    assert POLICY.lost_grace == 30 * SECOND
    assert POLICY.on_timeout == Action.FAIL
    assert POLICY.on_orphan == Action.FAIL
    assert POLICY.max_requeues == 3
    assert POLICY.max_redispatches == 5
    assert POLICY.max_interruptions == 10
    assert POLICY.max_actions == 5000
    assert POLICY.backoff == (30 * SECOND, 2 * MINUTE, 8 * MINUTE)

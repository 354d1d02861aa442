"""The defaults of the policy."""

from reaper.core.policy import Action
from tests.factories import SECOND
from tests.reaper.core.cases import HOUR, MINUTE, POLICY


def test_policy_defaults_are_those_of_the_runbook():
    assert (POLICY.run_timeout, POLICY.queue_timeout, POLICY.alert_after) == (HOUR, 15 * MINUTE, 30 * MINUTE)
    assert (POLICY.stall_timeout, POLICY.orphan_grace, POLICY.lost_grace) == (None, 5 * SECOND, 30 * SECOND)
    assert (POLICY.on_timeout, POLICY.on_orphan) == (Action.FAIL, Action.FAIL)
    assert (POLICY.max_requeues, POLICY.max_redispatches, POLICY.max_interruptions) == (3, 5, 10)
    assert (POLICY.max_actions, POLICY.backoff) == (5000, (30 * SECOND, 2 * MINUTE, 8 * MINUTE))

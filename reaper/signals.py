"""Django signals that the reaper sends. Receivers that raise are logged and stop nothing."""

from django.dispatch import Signal

# A run was acted on. Sender: the adapter's class. Arguments: run (RunFacts as seen), decision (Decision).
reaped = Signal()
# A sweep has ended. Sender: the Sweep model. Arguments: sweep (its row).
swept = Signal()
# Something is worth a warning, or is over: sent once for each. Sender: the adapter's class, or Alert where it is about
# no kind. Arguments: alert (its row), reason (its name), state ("opened" or "resolved"), says (a sentence), now, and
# runs (list of RunFacts): those that it is about, when it is opened.
alerted = Signal()

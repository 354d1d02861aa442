"""Django signals that the reaper sends. Receivers that raise are logged and stop nothing."""

from django.dispatch import Signal

# A run was acted on. Sender: the adapter's class. Arguments: run (RunFacts as seen), decision (Decision).
reaped = Signal()
# A sweep has ended. Sender: the Sweep model. Arguments: sweep (its row).
swept = Signal()
# Runs are worth a warning. Sender: the adapter's class. Arguments: reason (str), runs (list of RunFacts), now.
alerted = Signal()

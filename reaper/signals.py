"""Django signals that the reaper sends. Receivers that raise are logged and stop nothing."""

from django.dispatch import Signal

# A run was acted on. Sender: the adapter's class. Arguments: run (RunFacts as seen), decision (Decision).
reaped = Signal()
# A sweep has ended. Sender: the Sweep model. Arguments: sweep (its row).
swept = Signal()
# Something is worth a warning, said again every minute for as long as it is. Sender: the adapter's class. Arguments:
# reason (str), now, and runs (list of RunFacts); where it is about the sweeps of a phase, no runs but phase and says (a
# sentence): of sweep_overdue, sweep_failing, brake_held and switched_off.
alerted = Signal()

"""One sweep, step by step: each module is one step and names what it takes and what it returns.

    step       module         input -> output
    ---------  -------------  -------------------------------------------------------------------------------
    candidates candidates.py  adapter, phase -> pages of RunFacts, with their history and exemptions
    evidence   (evidence/)    RunFacts -> Finding: what workers and queues show about the run
    decision   judging.py     RunFacts -> Verdict: the decision of `core/decisions.py` on that evidence
    holds      holds.py       the counts of a sweep -> SweepError where a safeguard limits it
    write      writer.py      RunUpdates -> those that were applied, with their ledger entries, in one transaction
    deliver    outbox.py      RunUpdates -> old tasks revoked, new ones published, both confirmed in the ledger
    record     record.py      what was counted and what went wrong -> the `Sweep` row

`execution.py` joins write and deliver; `sweep.py`, `parents.py` and `manual.py` are the three that start a sweep: on
runs, on parents, and because a person asked for it. In dry-run mode `dry_run.py` takes the place of write and deliver.
"""

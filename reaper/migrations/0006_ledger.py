from django.db import migrations

# Of a row that is there, only what the broker's answer and the pruning of sweeps bring may still change, and only once.
# The settings keep records for at least a day; half of one is for clocks that differ.
KEEP = """
CREATE FUNCTION reaper_keep_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    allowed reaper_reaping := OLD;
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.at >= now() - interval '12 hours' THEN
            RAISE EXCEPTION 'reaper_reaping is a ledger: row % is too young to be deleted', OLD.id
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN OLD;
    END IF;
    IF OLD.published_at IS NULL THEN
        allowed.published_at := NEW.published_at;
    END IF;
    IF NEW.sweep_id IS NULL THEN
        allowed.sweep_id := NULL;
    END IF;
    IF NEW IS DISTINCT FROM allowed THEN
        RAISE EXCEPTION 'reaper_reaping is a ledger: row % is not changed', OLD.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER reaper_keep_ledger BEFORE UPDATE OR DELETE ON reaper_reaping
    FOR EACH ROW EXECUTE FUNCTION reaper_keep_ledger();
"""
LET_GO = """
DROP TRIGGER IF EXISTS reaper_keep_ledger ON reaper_reaping;
DROP FUNCTION IF EXISTS reaper_keep_ledger();
"""


def keep(apps, schema_editor):
    """Have PostgreSQL refuse what the application never does."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(KEEP, params=None)


def let_go(apps, schema_editor):
    """Undo it."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(LET_GO, params=None)


class Migration(migrations.Migration):
    dependencies = [("reaper", "0005_switches")]

    operations = [migrations.RunPython(keep, let_go)]

from django.db import migrations, models

# As migration 0006 has it; that the owner was told may be written as well, once.
KEEP = """
CREATE OR REPLACE FUNCTION reaper_keep_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
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
    {more}
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
"""
MORE = "IF OLD.owner_told_at IS NULL THEN allowed.owner_told_at := NEW.owner_told_at; END IF;"


def keep(apps, schema_editor):
    """Allow it."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(KEEP.replace("{more}", MORE), params=None)


def keep_as_before(apps, schema_editor):
    """Undo it, before the column goes."""
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(KEEP.replace("{more}", ""), params=None)


class Migration(migrations.Migration):
    dependencies = [("reaper", "0010_alerts")]

    operations = [
        migrations.AddField(
            model_name="reaping",
            name="owner_told_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.RunPython(keep, keep_as_before),
    ]

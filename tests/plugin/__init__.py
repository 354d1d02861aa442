"""A host that is as unlike `apps.sources` as it can be: the seam must carry it as well."""

"""The live view of every request's session. Nothing else needs this folder: it may be deleted."""

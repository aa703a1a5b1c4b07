"""The live view of every request's session. Whoever deletes this folder loses the view, and no more."""

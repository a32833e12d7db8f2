"""Type bridges and their ports over rtnetlink."""

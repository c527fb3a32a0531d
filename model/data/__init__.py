"""Data of users: prompts and preferences from files, folders of `datasets`, and the hub."""

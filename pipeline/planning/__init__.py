"""What a recipe will take and can decide, before it runs."""

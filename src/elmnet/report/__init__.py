"""What people look at: figures of fits and plans."""

"""From desired links to kernel state."""

"""Labels, policy, reference monitor, leases: pure decisions with no input or output."""

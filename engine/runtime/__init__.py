"""The shell around the core: clock, performers, driver. The only layer that waits."""

"""The pure core: values, events, effects, session, table, step. No I/O, no clock, no randomness."""

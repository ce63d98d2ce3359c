"""Public test support: conformance suite, fakes, strategies, checks. May import anything, is imported by nothing."""
